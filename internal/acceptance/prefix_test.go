package acceptance

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"gatehouse/internal/netlab"
)

// prefixLab has guests with a prefix each that ask for it, and a peer that admits only the group of the one of them.
const prefixLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  domain: lab.internal
  vswitches:
  - {name: bridged, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: gh-bridged}}
  securityGroups:
  - {name: router, innerAccess: drop, rules: [{direction: ingress, protocol: icmpv6, source: "::/0"}]}
  - {name: other, innerAccess: drop, rules: [{direction: ingress, protocol: icmpv6, source: "::/0"}]}
  - {name: served, rules: [{direction: ingress, protocol: icmpv6, source: "sg:router"}]}
  instances:
  - {name: peer, interfaces: [{mac: 00:16:3e:00:00:01, vswitch: bridged, privateIp: 10.20.1.10, ipv6Addresses: ["fd00:20:0:1::10"], securityGroups: [served]}]}
  - {name: dhclient, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: bridged, privateIp: 10.20.1.11, ipv6Addresses: ["fd00:20:0:1::101"], ipv6Prefixes: ["fd00:20:0:1:a::/80"], securityGroups: [%s]}]}
  - {name: dhcpcd, interfaces: [{mac: 00:16:3e:00:01:02, vswitch: bridged, privateIp: 10.20.1.12, ipv6Addresses: ["fd00:20:0:1::102"], ipv6Prefixes: ["fd00:20:0:1:b::/80"], securityGroups: [%s]}]}
`

// What is behind a guest that has been given a prefix is reached, and judged, as the guest is; and nothing else gets by.
func TestAHostBehindAGuestWithAPrefix(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "region: lab-1", "uplinks: [up0]")
	internet := g.outside("fd00:20::/56")
	g.start()
	g.apply(fmt.Sprintf(prefixLab, "router", "router"))
	g.static("peer", "gh-bridged", "00:16:3e:00:00:01", "10.20.1.10", "10.20.1.253", peer6)

	for _, c := range []struct{ name, mac, prefix, start, told string }{
		{"dhclient", "00:16:3e:00:01:01", "fd00:20:0:1:a::", `for _ in $(seq 100); do ip -6 addr show dev eth0 scope link -tentative | grep -q fe80 && break; sleep 0.1; done
dhclient -6 -N -P -1 -pf /run/dhclient6.pid -lf /var/lib/dhcp/dhclient6.leases eth0`, "/var/lib/dhcp/dhclient6.leases"},
		{"dhcpcd", "00:16:3e:00:01:02", "fd00:20:0:1:b::", `printf 'duid\npersistent\ninterface eth0\nipv6rs\nia_na 1\nia_pd 2 -\n' >/run/dhcpcd.conf
setsid dhcpcd -6 -t 120 -f /run/dhcpcd.conf eth0 >/run/dhcpcd.log 2>&1`, "/run/dhcpcd.log"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := g.in(t)
			s := g.guest(c.name, "gh-bridged", c.mac)
			g.script(s, c.start)
			g.eventually("the prefix", func() error {
				out, err := s.Script(g.ctx, "cat "+c.told)
				if err == nil && !strings.Contains(out, c.prefix) {
					err = errors.New("the client has not been told of it: " + out)
				}
				return err
			})
			behind, err := g.lab.Space("behind-" + c.name)
			if err == nil {
				err = g.lab.Veth(g.ctx, s, "inside", behind, "eth0")
			}
			if err != nil {
				g.Fatal(err)
			}
			g.script(s, fmt.Sprintf("echo 2 >/proc/sys/net/ipv6/conf/eth0/accept_ra\necho 1 >/proc/sys/net/ipv6/conf/all/forwarding\nip addr add %s1/80 dev inside nodad\n", c.prefix))
			g.script(behind, fmt.Sprintf("ip addr add %s9/80 dev eth0 nodad\nip -6 route add default via %s1\n", c.prefix, c.prefix))
			ping := func(from *netlab.Space, to string) error {
				_, err := from.Script(g.ctx, "ping -6 -c 1 -W 2 "+to)
				return err
			}
			for _, way := range []struct {
				name string
				from *netlab.Space
				to   string
			}{{"the outside from behind", behind, outside6}, {"behind from the outside", internet, c.prefix + "9"}, {"the peer, which admits the group, from behind", behind, peer6}} {
				g.eventually(way.name, func() error { return ping(way.from, way.to) })
			}

			// Packets of one guest stay in order: when what it may send has come, what it may not would have come before.
			const forged = "fd00:20:0:1:c::9"
			g.script(internet, fmt.Sprintf("ip6tables -t raw -A PREROUTING -s %s\nip6tables -t raw -A PREROUTING -s %s9\n", forged, c.prefix))
			g.script(s, fmt.Sprintf("ip addr add %s/128 dev lo\nping -6 -c 2 -i 0.2 -W 1 -I %s %s || true\n", forged, forged, outside6))
			if err := ping(behind, outside6); err != nil {
				g.Error(err)
			}
			counted := strings.Fields(g.script(internet, "ip6tables -t raw -nvxL PREROUTING | awk 'NR>2 {print $1}'"))
			if len(counted) < 2 || counted[len(counted)-2] != "0" || counted[len(counted)-1] == "0" {
				g.Errorf("the outside has heard forged and true packets: %s", counted)
			}
			if out := g.ok("explain", c.prefix+"9", "peer", "icmpv6"); !strings.Contains(out, "ALLOWED") {
				g.Errorf("explain: %s", out)
			}
			// A lease shows what has been delegated with it; dhclient, asked for a prefix too, asks for an address as well.
			for _, l := range g.get("leases") {
				if behind := fmt.Sprint(l["ipv6Prefixes"]); l["instance"] == c.name && l["family"] == "ipv6" && behind != "["+c.prefix+"/80]" {
					t.Errorf("lease %v: it does not show the prefix", l)
				} else if (l["instance"] != c.name || l["family"] != "ipv6") && strings.Contains(behind, c.prefix) {
					t.Errorf("lease %v shows somebody's prefix", l)
				}
			}
			if out := g.ok("get", "leases", "-o", "wide"); !strings.Contains(out, c.prefix+"/80") {
				t.Errorf("leases:\n%s", out)
			}
			if i := g.get("instances"); !strings.Contains(fmt.Sprint(i), c.prefix+"/80") {
				g.Errorf("the prefix is not shown: %v", i)
			}
			g.apply(fmt.Sprintf(prefixLab, "other", "other"))
			if err := ping(behind, peer6); err == nil {
				g.Error("the peer is reached from behind a guest that is not in the group any more")
			}
			g.apply(fmt.Sprintf(prefixLab, "router", "router"))
			g.eventually("the peer is reached again", func() error { return ping(behind, peer6) })
		})
	}
}
