package port

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/internal/netlab"
)

// number is a port that nobody needs root for; in a namespace nobody else has it.
const number = 40067

// relays opens a Relay and two peers of it, one for each address, in a namespace of its own.
func relays(t *testing.T, network, server string, peers ...string) (*Relay, map[netip.Addr]*net.UDPConn) {
	t.Helper()
	lab, err := netlab.New("relay")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	space, err := lab.Space("host")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range append(peers, server) {
		if network == "udp4" {
			break // all of 127.0.0.0/8 is there
		}
		if _, err := space.Run(t.Context(), "ip", "addr", "add", a, "dev", "lo", "nodad"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := netlab.Eventually(ctx, func() error { // the kernel makes it an address of the host a little later
			if out, err := space.Run(ctx, "ip", "-6", "route", "get", a); err != nil || !strings.HasPrefix(out, "local") {
				return fmt.Errorf("%q, %w", out, err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	var r *Relay
	conns := map[netip.Addr]*net.UDPConn{}
	if err := space.Do(func() error {
		var err error
		if r, err = OpenRelay(network, number); err != nil {
			return err
		}
		for _, p := range peers {
			a := netip.MustParseAddr(p)
			lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return onFD(c, shareAddress) }}
			c, err := lc.ListenPacket(t.Context(), network, netip.AddrPortFrom(a, number).String())
			if err != nil {
				return err
			}
			conns[a] = c.(*net.UDPConn)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range conns {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return r, conns
}

func TestRelayReceivesAndSendsManyAtOnce(t *testing.T) {
	for network, addrs := range map[string][]string{
		"udp4": {"127.0.0.1", "127.0.0.2", "127.0.0.3"},
		"udp6": {"fd00::1", "fd00::2", "fd00::3"},
	} {
		t.Run(network, func(t *testing.T) {
			r, peers := relays(t, network, addrs[0], addrs[1:]...)
			const each = 150 // more than two batches
			received := make(chan Datagram, 2*each)
			done := make(chan error, 1)
			go func() {
				done <- r.Receive(func(d Datagram) { received <- Datagram{d.Relay, bytes.Clone(d.Payload)} })
			}()
			for a, c := range peers {
				for n := range each {
					to := netip.AddrPortFrom(netip.MustParseAddr(addrs[0]), number)
					if _, err := c.WriteToUDPAddrPort(payload(a, n), to); err != nil {
						t.Fatal(err)
					}
				}
			}
			got := map[netip.Addr][]string{}
			for range 2 * each {
				select {
				case d := <-received:
					got[d.Relay] = append(got[d.Relay], string(d.Payload))
				case err := <-done:
					t.Fatalf("received only %v: %v", got, err)
				case <-time.After(10 * time.Second):
					t.Fatalf("received %d from %s and %d from %s", len(got[netip.MustParseAddr(addrs[1])]), addrs[1], len(got[netip.MustParseAddr(addrs[2])]), addrs[2])
				}
			}
			same(t, got, peers, each)

			var out []Datagram
			for n := range each {
				for a := range peers {
					out = append(out, Datagram{a, payload(a, n)})
				}
			}
			if refused, err := r.Send(out); refused != 0 || err != nil {
				t.Errorf("%d refused, %v", refused, err)
			}
			got = map[netip.Addr][]string{}
			for a, c := range peers {
				if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 4096)
				for range each {
					n, err := c.Read(b)
					if err != nil {
						t.Fatal(err)
					}
					got[a] = append(got[a], string(b[:n]))
				}
			}
			same(t, got, peers, each)

			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; !Gone(err) {
				t.Errorf("after Close: %v", err)
			}
		})
	}
}

// payload is the n-th message from or to a relay; lengths differ and recur.
func payload(a netip.Addr, n int) []byte {
	return append(fmt.Appendf(nil, "%s %d ", a, n), make([]byte, 100+100*(n%3))...)
}

// same checks that every relay's messages are all there. Those of one length stay in their order.
func same[T any](t *testing.T, got map[netip.Addr][]string, relays map[netip.Addr]T, each int) {
	t.Helper()
	for a := range relays {
		byLength := func(all []string) map[int][]string {
			m := map[int][]string{}
			for _, s := range all {
				m[len(s)] = append(m[len(s)], s)
			}
			return m
		}
		var want []string
		for n := range each {
			want = append(want, string(payload(a, n)))
		}
		if !maps.EqualFunc(byLength(got[a]), byLength(want), slices.Equal) {
			t.Errorf("%s: %d messages are not the %d that were sent, in order", a, len(got[a]), each)
		}
	}
}

func TestADatagramThatIsTooLongIsNoDHCP(t *testing.T) {
	r, peers := relays(t, "udp4", "127.0.0.1", "127.0.0.2")
	received := make(chan int, 2)
	go func() { _ = r.Receive(func(d Datagram) { received <- len(d.Payload) }) }()
	for _, c := range peers {
		for _, size := range []int{datagramSize + 1, 300} {
			if _, err := c.WriteToUDPAddrPort(make([]byte, size), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), number)); err != nil {
				t.Fatal(err)
			}
		}
	}
	select {
	case n := <-received:
		if n != 300 {
			t.Errorf("received %d octets", n)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was received")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestALinkLocalRelayComesWithItsLink(t *testing.T) {
	lab, err := netlab.New("relaylink")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	host, err := lab.Space("host")
	if err != nil {
		t.Fatal(err)
	}
	var r *Relay
	if err := host.Do(func() (err error) { r, err = OpenRelay("udp6", number); return err }); err != nil {
		t.Fatal(err)
	}
	received, done := make(chan Datagram, 2), make(chan error, 1)
	go func() {
		done <- r.Receive(func(d Datagram) { received <- Datagram{d.Relay, bytes.Clone(d.Payload)} })
	}()
	// Two relays have one address, each on a link of its own.
	for _, link := range []string{"up0", "up1"} {
		peer, err := lab.Space(link)
		if err == nil {
			err = lab.Veth(t.Context(), host, link, peer, "eth0")
		}
		if err == nil {
			_, err = host.Script(t.Context(), "ip addr add fe80::9/64 dev "+link+" nodad\n")
		}
		if err == nil {
			_, err = peer.Script(t.Context(), "ip addr add fe80::2/64 dev eth0 nodad\n")
		}
		if err != nil {
			t.Fatal(err)
		}
		var c *net.UDPConn
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := netlab.Eventually(ctx, func() error {
			return peer.Do(func() error {
				index, err := Index("eth0")
				if err != nil {
					return err
				}
				zone := strconv.Itoa(index) // names are remembered by package net, whatever the namespace
				c, err = net.ListenUDP("udp6", &net.UDPAddr{IP: net.ParseIP("fe80::2"), Port: number, Zone: zone})
				if err != nil {
					return err
				}
				_, err = c.WriteToUDP([]byte(link), &net.UDPAddr{IP: net.ParseIP("fe80::9"), Port: number, Zone: zone})
				return err
			})
		}); err != nil {
			t.Fatal(err)
		}
		var d Datagram
		select {
		case d = <-received:
		case <-ctx.Done():
			t.Fatal("nothing is received")
		}
		if d.Relay != netip.MustParseAddr("fe80::2%"+link) || string(d.Payload) != link {
			t.Errorf("%q from %s", d.Payload, d.Relay)
		}
		if refused, err := r.Send([]Datagram{{d.Relay, []byte("to " + link)}}); refused != 0 || err != nil {
			t.Errorf("%d refused, %v", refused, err)
		}
		b := make([]byte, 100)
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, _, err := c.ReadFromUDPAddrPort(b); err != nil || string(b[:n]) != "to "+link {
			t.Errorf("the relay reads %q, %v", b[:n], err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if refused, _ := r.Send([]Datagram{{netip.MustParseAddr("fe80::2%gone"), []byte("x")}}); refused != 1 {
		t.Errorf("%d refused of what is for a link that is not there", refused)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !Gone(err) {
		t.Errorf("receiving ended with %v", err)
	}
}
