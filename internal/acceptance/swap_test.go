package acceptance

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/netlab"
)

// Changes are atomic: what is allowed before and after one is allowed during it, and what is denied stays denied. Streams
// of both kinds run in both families while chains, profiles and sets are replaced.

const swapLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  vswitches:
  - {name: left, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: gh-left}, networkAcl: plain}
  - {name: right, cidrBlock: 10.20.2.0/24, ipv6CidrBlock: "fd00:20:0:2::/64", attach: {bridge: gh-right}, networkAcl: plain}
  networkAcls:
  - name: plain
    ingress: [{policy: accept, protocol: all, source: 0.0.0.0/0}, {policy: accept, protocol: all, source: "::/0"}]
    egress: [{policy: accept, protocol: all, destination: 0.0.0.0/0}, {policy: accept, protocol: all, destination: "::/0"}]
  securityGroups:
  - {name: client}
  - {name: more}
  - {name: other}
  - name: server
    rules: [{direction: ingress, protocol: udp, ports: 7001, source: "sg:client"}%s]
  instances:
  - {name: client, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: left, privateIp: 10.20.1.10, ipv6Addresses: ["fd00:20:0:1::10"], securityGroups: [client%s]}]}
  - {name: server, interfaces: [{mac: 00:16:3e:00:02:01, vswitch: right, privateIp: 10.20.2.10, ipv6Addresses: ["fd00:20:0:2::10"], securityGroups: [server%s]}]}
  - {name: extra, interfaces: [{mac: 00:16:3e:00:01:02, vswitch: left, privateIp: 10.20.1.11, ipv6Addresses: ["fd00:20:0:1::11"], securityGroups: [%s]}]}
`

// swaps are the states that the lab goes round: each step replaces chains of a profile, makes or ends profiles in use, or
// changes sets.
var swaps = []string{
	fmt.Sprintf(swapLab, "", "", "", "other"),
	fmt.Sprintf(swapLab, `, {direction: ingress, protocol: tcp, ports: 80, source: 0.0.0.0/0}`, "", "", "other"),
	fmt.Sprintf(swapLab, "", ", more", "", "client"),
	fmt.Sprintf(swapLab, `, {direction: ingress, protocol: tcp, ports: 81, source: "sg:more"}`, ", more", ", other", "client, more"),
	fmt.Sprintf(swapLab, "", ", more, other", "", "other"),
}

func TestNothingLeaksAndNothingIsLostWhileRulesAreReplaced(t *testing.T) {
	for _, backend := range []string{"nft", "legacy"} {
		t.Run(backend, func(t *testing.T) {
			g := newGateway(t, "firewall: {backend: "+backend+"}")
			g.start()
			g.apply(swaps[0])
			client := g.static("client", "gh-left", "00:16:3e:00:01:01", "10.20.1.10", "10.20.1.253", "fd00:20:0:1::10")
			server := g.static("server", "gh-right", "00:16:3e:00:02:01", "10.20.2.10", "10.20.2.253", "fd00:20:0:2::10")
			r := replacing{g, client, server}
			r.warm()

			rate := r.steadyRate()
			for attempt := 1; ; attempt++ {
				lost, sent := r.stream(rate, func() {
					for n := range 50 {
						g.apply(swaps[(n+1)%len(swaps)])
					}
				})
				if sent < 1000 {
					t.Fatalf("only %d packets were sent while rules were replaced", sent)
				}
				if lost == 0 {
					break
				}
				// Once may be the machine's fault; a change that loses packets does so every time.
				if attempt == 2 {
					t.Fatalf("%d of %d packets were lost at %d a second, which is carried without changes", lost, sent, rate)
				}
				t.Logf("%d of %d packets were lost", lost, sent)
			}
		})
	}
}

// replacing is a gateway between two guests whose rules change.
type replacing struct {
	*gateway
	client, server *netlab.Space
}

// The ports of what is allowed and of what is denied.
const openPort, shutPort = 7001, 7000

var swapTargets = []netip.Addr{netip.MustParseAddr("10.20.2.10"), netip.MustParseAddr("fd00:20:0:2::10")}

// warm waits until both guests are in service.
func (r replacing) warm() {
	r.Helper()
	echo, err := r.server.Echo(openPort)
	if err != nil {
		r.Fatal(err)
	}
	for _, a := range swapTargets {
		r.eventually("the guests are in service", func() error {
			if ok, err := r.client.Reach(r.ctx, "udp", netip.AddrPortFrom(a, openPort), time.Second); err != nil || !ok {
				return fmt.Errorf("%s: reached %v: %w", a, ok, err)
			}
			return nil
		})
	}
	if err := echo.Close(); err != nil {
		r.Fatal(err)
	}
}

// steadyRate finds the rate that the machine carries without a loss while nothing changes.
func (r replacing) steadyRate() int {
	r.Helper()
	for rate := 1000; rate >= 50; rate /= 2 {
		lost, _ := r.stream(rate, func() { <-time.After(time.Second) })
		if lost == 0 {
			return rate
		}
		r.Logf("%d packets of %d a second were lost without any change", lost, rate)
	}
	r.Fatal("no rate is carried without loss")
	return 0
}

// stream sends what is allowed and what is denied, in both families, while f runs, and returns how much of the former was
// lost. Any of the latter that arrives is fatal.
func (r replacing) stream(rate int, f func()) (lost, sent int64) {
	r.Helper()
	sinks := map[uint16]*netlab.Sink{}
	for _, port := range []uint16{openPort, shutPort} {
		sink, err := r.server.Sink(port)
		if err != nil {
			r.Fatal(err)
		}
		defer sink.Close()
		sinks[port] = sink
	}
	ctx, stop := context.WithCancel(r.ctx)
	defer stop()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	denied := int64(0)
	for port := range sinks {
		for _, a := range swapTargets {
			wg.Go(func() {
				n, err := r.client.Pace(ctx, netip.AddrPortFrom(a, port), rate)
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
				if port == openPort {
					sent += n
				} else {
					denied += n
				}
			})
		}
	}
	f()
	stop()
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		r.Fatal(err)
	}
	last, cancel := context.WithTimeout(r.ctx, 2*time.Second)
	defer cancel()
	_ = netlab.Eventually(last, func() error { // what is not there by then is lost
		if sinks[openPort].Count() < sent {
			return errors.New("still under way")
		}
		return nil
	})
	if leaked := sinks[shutPort].Count(); leaked > 0 || denied == 0 {
		r.Fatalf("%d of %d packets that no rule allows have leaked", leaked, denied)
	}
	return sent - sinks[openPort].Count(), sent
}
