package acceptance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/netlab"
	"gatehouse/vpc"
)

// TestAPoolThatRunsFullIsSeen has more machines ask than a pool has addresses.
func TestAPoolThatRunsFullIsSeen(t *testing.T) {
	t.Parallel()
	const pool, machines = 20, 23
	g := newGateway(t)
	relay := g.relaySpace()
	g.start()
	g.apply(`vpcs:
- name: far
  cidrBlock: 10.99.0.0/16
  vswitches:
  - {name: main, cidrBlock: 10.99.0.0/24, pool: 10.99.0.10-10.99.0.29, attach: {relay: [192.0.2.2]}}
`)
	var conn *net.UDPConn
	if err := relay.Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 67})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// offered asks for a machine until it is offered an address, or for a while.
	offered := func(mac vpc.MAC, patience time.Duration) bool {
		ctx, cancel := context.WithTimeout(g.ctx, patience)
		defer cancel()
		b := make([]byte, 2048)
		return netlab.Eventually(ctx, func() error {
			if _, err := conn.WriteToUDP(relayMessage(mac, dhcpDiscover), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 67}); err != nil {
				return err
			}
			for {
				if err := conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
					return err
				}
				n, err := conn.Read(b)
				if err != nil {
					return err
				}
				if n > 242 && vpc.MAC(b[28:34]) == mac && b[242] == dhcpOffer {
					return nil
				}
			}
		}) == nil
	}
	for n := range pool {
		if !offered(relayMAC(n), patience) {
			t.Fatalf("machine %d got no offer", n)
		}
		warned := strings.Contains(g.log(), "addresses are running out")
		if want := n+1 >= pool*9/10; warned != want {
			t.Fatalf("with %d of %d addresses used: warned %t", n+1, pool, warned)
		}
	}
	for n := pool; n < machines; n++ {
		if offered(relayMAC(n), time.Second) {
			t.Errorf("machine %d was offered an address of a pool that has none left", n)
		}
	}
	g.eventually("the log says why", func() error {
		if !strings.Contains(g.log(), "no free address") {
			return errors.New(g.log())
		}
		return nil
	})
	labels := `{family="ipv4",state=%q,vpc="far",vswitch="main"}`
	for state, want := range map[string]float64{"total": pool, "used": pool, "quarantined": 0} {
		if got := g.metric("gatehouse_pool_addresses" + fmt.Sprintf(labels, state)); got != want {
			t.Errorf("%s addresses: %v, want %v", state, got, want)
		}
	}
	table := g.ok("get", "vswitches")
	if !strings.Contains(table, "POOL") || !strings.Contains(table, "20/20") {
		t.Errorf("get vswitches does not say that the pool is full:\n%s", table)
	}
	t.Log(table)
	for line := range strings.Lines(g.log()) {
		if strings.Contains(line, "running out") || strings.Contains(line, "no free address") {
			t.Log(line)
		}
	}
}
