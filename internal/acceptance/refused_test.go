package acceptance

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const partlyRefusedLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  domain: lab.internal
  vswitches:
  - {name: good, cidrBlock: 10.20.1.0/24, attach: {bridge: gh-good}}
  - {name: bad, cidrBlock: 10.20.2.0/24, attach: {bridge: gh-bad}}
  securityGroups:
  - {name: open, rules: [{direction: ingress, protocol: all, source: 0.0.0.0/0}]}
  instances:
  - {name: one, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: good, securityGroups: [open]}]}
  - {name: two, interfaces: [{mac: 00:16:3e:00:01:02, vswitch: good, securityGroups: [open]}]}
  - {name: three, interfaces: [{mac: 00:16:3e:00:02:01, vswitch: bad, securityGroups: [open], privateIp: 10.20.2.10}]}
`

// TestAVSwitchWhoseLinkIsRefusedDoesNotKeepTheOthersFromBeingServed starts a gateway on a host where, since yesterday, somebody has
// given the name of one vSwitch's bridge to something else.
func TestAVSwitchWhoseLinkIsRefusedDoesNotKeepTheOthersFromBeingServed(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.start()
	g.apply(partlyRefusedLab)
	g.stop()
	g.ok("teardown", "--offline", "--config", g.path("gatehouse.yaml"))
	stranger, err := g.lab.Space("stranger")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.lab.Veth(g.ctx, g.space, "gh-bad", stranger, "eth0"); err != nil {
		t.Fatal(err)
	}
	g.script(g.space, "ip addr add 198.18.0.1/24 dev gh-bad\n")
	g.script(stranger, "ip addr add 10.20.2.10/24 dev eth0\nip route add default via 10.20.2.253\n")
	g.start() // it becomes ready

	one, two := g.guest("one", "gh-good", "00:16:3e:00:01:01"), g.guest("two", "gh-good", "00:16:3e:00:01:02")
	if err := errors.Join(one.DHClient(g.ctx), two.DHClient(g.ctx)); err != nil {
		t.Fatal(err)
	}
	g.echo(two)
	to := netip.AddrPortFrom(netip.MustParseAddr(g.address("two")), echoPort)
	g.eventually("what is good is served", func() error {
		if ok, err := one.Reach(g.ctx, "tcp", to, time.Second); !ok || err != nil {
			return fmt.Errorf("reached %v, %w", ok, err)
		}
		return nil
	})
	if names, err := one.Dig(g.ctx, "@10.20.1.253", "two.lab.internal"); err != nil || strings.Join(names, " ") != to.Addr().String() {
		t.Errorf("two has %q, %v", names, err)
	}

	// The refused one is closed, not served, and named with the remedy.
	if ok, err := stranger.Reach(g.ctx, "tcp", to, time.Second); ok || err != nil {
		t.Errorf("who is behind the refused link passes: %v, %v", ok, err)
	}
	for _, verb := range []string{"status", "doctor"} {
		r := g.run(verb)
		if want := "vSwitch bad: gh-bad exists and is not a bridge but veth"; r.code != 1 || !strings.Contains(r.stdout, want) || !strings.Contains(r.stdout, "free what is named, or correct the vSwitch's attach or range and apply it") {
			t.Errorf("%s: exit %d, it does not say %q with the remedy:\n%s", verb, r.code, want, r.stdout)
		}
	}
	if !strings.Contains(g.log(), "vSwitch bad: gh-bad exists and is not a bridge but veth") {
		t.Error("the log does not name it")
	}
	// Somebody who changes something else is not told that it failed.
	g.ok("set", "instance", "two", "--security-groups", "default")
	g.ok("set", "instance", "two", "--security-groups", "open")

	// What is free again is served without anybody's asking.
	g.script(g.space, "ip link del gh-bad\n")
	g.eventually("everything is served", func() error {
		if r := g.run("status"); r.code != 0 {
			return errors.New(r.stdout)
		}
		return nil
	})
	three := g.guest("three", "gh-bad", "00:16:3e:00:02:01")
	if err := three.DHClient(g.ctx); err != nil {
		t.Error(err)
	}
}
