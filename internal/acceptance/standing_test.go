package acceptance

import (
	"errors"
	"os"
	"strings"
	"testing"

	"gatehouse/internal/netlab"
)

const standingLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  domain: lab.internal
  vswitches:
  - {name: front, cidrBlock: 10.20.1.0/24, attach: {bridge: gh-front}}
  instances:
  - {name: early, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: front, privateIp: 10.20.1.10}]}
  - {name: later, interfaces: [{mac: 00:16:3e:00:01:02, vswitch: front, privateIp: 10.20.1.11}]}
`

// patient is a client that goes on asking in the background.
const patient = "udhcpc -b -t 1 -T 1 -A 1 -i eth0 >/run/udhcpc.log 2>&1"

// slowSets makes every ipset that the daemon starts wait until a file is there, and say that it waits.
const slowSets = `#!/bin/sh
touch %/waiting
until [ -e %/open ]; do sleep 0.02; done
PATH=${PATH#*:}
exec ipset "$@"
`

// TestARestartGivesAddressesBeforeTheRulesAreReadBack restarts a daemon that cannot read or write a single set, and so
// does not come to know what the kernel carries. Where nobody has touched the rules it gives addresses to whom the last
// daemon had put in force, and to nobody else; where somebody has, to nobody.
func TestARestartGivesAddressesBeforeTheRulesAreReadBack(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "log: {level: debug}", "firewall: {backend: nft}")
	if err := os.Mkdir(g.path("slow"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.path("slow/ipset"), []byte(strings.ReplaceAll(slowSets, "%", g.lab.Dir)), 0o755); err != nil {
		t.Fatal(err)
	}
	g.start()
	g.apply(standingLab)
	resumed := func() int { return strings.Count(g.log(), "addresses are given while the rules are read back") }
	// restart runs a daemon, and returns when it waits for its first set.
	restart := func() {
		t.Helper()
		g.env = []string{"PATH=" + g.path("slow") + ":" + os.Getenv("PATH")}
		g.launch()
		g.eventually("the daemon waits for a set", func() error {
			_, err := os.Stat(g.path("waiting"))
			return err
		})
	}
	open := func() {
		t.Helper()
		g.write("open", "")
		g.ready()
		if err := errors.Join(os.Remove(g.path("open")), os.Remove(g.path("waiting"))); err != nil {
			t.Fatal(err)
		}
	}
	addressOf := func(s *netlab.Space) string {
		t.Helper()
		return g.script(s, "ip -4 -o addr show dev eth0 | awk '{print $4}'")
	}
	has := func(s *netlab.Space, what, prefix string) {
		t.Helper()
		g.eventually(what, func() error {
			if a := addressOf(s); !strings.HasPrefix(a, prefix) {
				return errors.New("it has " + a)
			}
			return nil
		})
	}

	g.kill()
	restart()
	unknown := g.guest("unknown", "gh-front", "00:16:3e:00:09:09")
	g.script(unknown, patient)
	early := g.guest("early", "gh-front", "00:16:3e:00:01:01")
	g.script(early, patient)
	has(early, "a known guest has its address", "10.20.1.10/24")
	if a := addressOf(unknown); a != "" {
		t.Errorf("a guest that nobody knows was given %s while the rules were not read", a)
	}
	if n := resumed(); n != 1 {
		t.Errorf("the log says %d times that guests are served early", n)
	}
	open()
	has(unknown, "the guest that nobody knew has an address", "10.20.1.")

	g.kill()
	g.script(g.space, "iptables-nft -t mangle -F\n")
	restart()
	later := g.guest("later", "gh-front", "00:16:3e:00:01:02")
	g.script(later, patient)
	if a := addressOf(later); a != "" || resumed() != 1 {
		t.Errorf("without its rules a guest was given %q, and the log says %d times that guests are served early", a, resumed())
	}
	open()
	has(later, "the guest has its address when its rules are back", "10.20.1.11/24")
}
