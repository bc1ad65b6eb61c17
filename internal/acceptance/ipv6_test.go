package acceptance

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"gatehouse/internal/netlab"
)

// ipv6Lab has a vSwitch on a bridge of gatehouse's, one on a link to somebody else's switch, and a peer that is open to
// all.
const ipv6Lab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  domain: lab.internal
  dhcpOptions: {ipv6LeaseTime: 30s, searchDomains: [corp.example]}
  vswitches:
  - {name: bridged, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: gh-bridged}}
  - {name: plain, cidrBlock: 10.20.2.0/24, ipv6CidrBlock: "fd00:20:0:2::/64", attach: {interface: lan0}}
  securityGroups:
  - name: open
    rules:
    - {direction: ingress, protocol: all, source: "::/0"}
  instances:
  - {name: peer, interfaces: [{mac: 00:16:3e:00:00:01, vswitch: bridged, privateIp: 10.20.1.10, ipv6Addresses: ["fd00:20:0:1::10"], securityGroups: [open]}]}
  - {name: flat, interfaces: [{mac: 00:16:3e:00:00:02, vswitch: bridged, privateIp: 10.20.1.11, ipv6Addresses: ["fd00:20:0:1::11"], securityGroups: [open]}]}
  - {name: dhclient-bridged, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: bridged, ipv6Addresses: ["fd00:20:0:1::101"]}]}
  - {name: dhcpcd-bridged, interfaces: [{mac: 00:16:3e:00:01:02, vswitch: bridged, ipv6Addresses: ["fd00:20:0:1::102"]}]}
  - {name: networkd-bridged, interfaces: [{mac: 00:16:3e:00:01:03, vswitch: bridged, ipv6Addresses: ["fd00:20:0:1::103"]}]}
  - {name: dhclient-plain, interfaces: [{mac: 00:16:3e:00:02:01, vswitch: plain, ipv6Addresses: ["fd00:20:0:2::101"]}]}
  - {name: dhcpcd-plain, interfaces: [{mac: 00:16:3e:00:02:02, vswitch: plain, ipv6Addresses: ["fd00:20:0:2::102"]}]}
  - {name: networkd-plain, interfaces: [{mac: 00:16:3e:00:02:03, vswitch: plain, ipv6Addresses: ["fd00:20:0:2::103"]}]}
`

const (
	peer6    = "fd00:20:0:1::10"
	gateway6 = "fd00:20:0:1:ffff:ffff:ffff:fff7"
)

// client6 is a DHCPv6 client as people run it, in the background.
type client6 struct {
	name     string
	start    string
	release  string // empty: it does not
	resolver bool   // it writes resolv.conf
}

const isc6 = "dhclient -6 -1 -pf /run/dhclient6.pid -lf /var/lib/dhcp/dhclient6.leases eth0"

func clients6() []client6 {
	return []client6{
		// dhclient does not wait for the link-local address that it asks from.
		{"dhclient", `for _ in $(seq 100); do ip -6 addr show dev eth0 scope link -tentative | grep -q fe80 && break; sleep 0.1; done
` + isc6, strings.Replace(isc6, "-1", "-r", 1), true},
		// dhcpcd gives up after 30 s otherwise, and a busy machine may take longer.
		{"dhcpcd", "setsid dhcpcd -6 -q -t 120 eth0 >/run/dhcpcd.log 2>&1", "dhcpcd -6 -k eth0 >>/run/dhcpcd.log 2>&1", true},
		{"networkd", `mount -o remount,bind,ro /sys
rm -rf /etc/systemd/network
mkdir -p /etc/systemd/network
printf '[Match]\nName=eth0\n[Network]\nDHCP=ipv6\nIPv6AcceptRA=yes\n' > /etc/systemd/network/10.network
setsid /lib/systemd/systemd-networkd >/run/networkd.log 2>&1 &`, "", false},
	}
}

// ipv6Gateway raises the lab: the gateway with its daemon, and a switch of somebody else behind lan0.
func ipv6Gateway(t *testing.T) (g *gateway, lan *netlab.Space) {
	t.Helper()
	g = newGateway(t, "region: lab-1")
	lan, err := g.lab.Space("switch")
	if err == nil {
		err = g.lab.Veth(g.ctx, g.space, "lan0", lan, "trunk")
	}
	if err != nil {
		t.Fatal(err)
	}
	g.script(lan, "ip link add br0 type bridge\nip link set br0 up\nip link set trunk master br0\n")
	g.start()
	g.apply(ipv6Lab)
	return g, lan
}

// has6 waits until a host has this address to itself, and a default route by the router that it was told of.
func (g *gateway) has6(s *netlab.Space, address string) {
	g.Helper()
	g.eventually("the address and the route", func() error {
		addrs, err := s.Script(g.ctx, "ip -6 -o addr show dev eth0 scope global")
		if err != nil {
			return err
		}
		routes, err := s.Script(g.ctx, "ip -6 route show default")
		if err != nil {
			return err
		}
		if !strings.Contains(addrs, " "+address+"/128 ") || strings.Contains(addrs, "tentative") || strings.Count(addrs, "inet6") != 1 {
			return fmt.Errorf("%s: the addresses are %q, not %s/128", s.Label, addrs, address)
		}
		if !strings.Contains(routes, "via fe80::1 dev eth0") {
			return fmt.Errorf("%s: the default route is %q", s.Label, routes)
		}
		return nil
	})
}

func TestRealClientsGetIPv6(t *testing.T) {
	t.Parallel()
	g, lan := ipv6Gateway(t)
	g.static("peer", "gh-bridged", "00:16:3e:00:00:01", "10.20.1.10", "10.20.1.253", peer6)
	for vnum, on := range []struct {
		vswitch, bridge string
		at              *netlab.Space
	}{{"bridged", "gh-bridged", g.space}, {"plain", "br0", lan}} {
		for n, c := range clients6() {
			t.Run(c.name+" on the vSwitch "+on.vswitch, func(t *testing.T) {
				t.Parallel()
				g := g.in(t)
				name := c.name + "-" + on.vswitch
				address := fmt.Sprintf("fd00:20:0:%d::10%d", vnum+1, n+1)
				s, err := g.lab.Guest(g.ctx, name, on.at, portOf(name), on.bridge, fmt.Sprintf("00:16:3e:00:%02x:%02x", vnum+1, n+1))
				if err != nil {
					t.Fatal(err)
				}
				g.script(s, c.start)
				g.has6(s, address)
				if c.resolver {
					resolver := strings.Replace(gateway6, ":1:ffff", fmt.Sprintf(":%d:ffff", vnum+1), 1)
					g.eventually("resolv.conf", func() error {
						conf, err := s.Script(g.ctx, "cat /etc/resolv.conf")
						if err == nil && (!strings.Contains(conf, "nameserver "+resolver+"\n") || !strings.Contains(conf, "lab.internal") || !strings.Contains(conf, "corp.example")) {
							err = fmt.Errorf("resolv.conf lacks the gateway or a domain:\n%s", conf)
						}
						return err
					})
				}
				for _, to := range []string{gateway6, peer6} {
					if !s.Ping(g.ctx, to) {
						t.Errorf("%s does not answer", to)
					}
				}
				l := g.lease(address)
				if l["state"] != "bound" || l["family"] != "ipv6" || l["instance"] != name || l["duid"] == nil || l["vswitch"] != on.vswitch {
					t.Errorf("lease: %v", l)
				}
				// With leases of 30 s a client renews after 15 by itself.
				until := g.expiry(address)
				g.eventually("the lease is renewed", func() error {
					if is := g.expiry(address); !is.After(until) {
						return fmt.Errorf("it ends at %s still", is)
					}
					return nil
				})
				g.has6(s, address)
				if c.release == "" {
					return
				}
				g.script(s, c.release)
				g.eventually("the lease is released", func() error {
					if l := g.lease(address); l["state"] != "released" {
						return fmt.Errorf("it is %v", l)
					}
					return nil
				})
			})
		}
	}
}

func TestAnUnknownMACEnrolsByDHCPv6(t *testing.T) {
	t.Parallel()
	g, _ := ipv6Gateway(t)
	s := g.guest("newcomer", "gh-bridged", "00:16:3e:00:09:01")
	if err := s.DHClient6(g.ctx); err != nil {
		t.Fatal(err)
	}
	enrolled := ""
	for _, i := range g.get("instances") {
		if i["enrolled"] == true {
			enrolled = i["name"].(string)
		}
	}
	if enrolled == "" {
		t.Fatal("nobody is enrolled")
	}
	var o struct {
		Interfaces []struct {
			IPv6Addresses []string `json:"ipv6Addresses"`
		} `json:"interfaces"`
	}
	g.decode(g.ok("get", "instance", enrolled, "-o", "json"), &o)
	g.has6(s, o.Interfaces[0].IPv6Addresses[0])
	if !s.Ping(g.ctx, gateway6) {
		t.Error("the gateway does not answer")
	}
	if err := s.DHClient(g.ctx); err != nil {
		t.Errorf("then by DHCPv4: %v", err)
	}
	g.has(s, g.address(enrolled), 24, "10.20.1.253")
}

func TestAGuestThatTakesThePrefixToBeOnItsLink(t *testing.T) {
	t.Parallel()
	g, _ := ipv6Gateway(t)
	peer := g.static("peer", "gh-bridged", "00:16:3e:00:00:01", "10.20.1.10", "10.20.1.253", peer6)
	s := g.guest("flat", "gh-bridged", "00:16:3e:00:00:02")
	g.script(s, "ip addr add fd00:20:0:1::11/64 dev eth0\n")
	g.eventually("its own address is its own", func() error {
		out, err := s.Script(g.ctx, "ip -6 -o addr show dev eth0 to fd00:20:0:1::11")
		if err == nil && (strings.Contains(out, "dadfailed") || strings.Contains(out, "tentative")) {
			err = errors.New(out)
		}
		return err
	})
	if !s.Ping(g.ctx, peer6) {
		t.Error("the neighbour is not found")
	}
	if !peer.Ping(g.ctx, "fd00:20:0:1::11") {
		t.Error("nor from there")
	}
	for _, taken := range []string{peer6, gateway6} {
		g.script(s, "ip addr add "+taken+"/64 dev eth0\n")
		g.eventually("an address that somebody has", func() error {
			out, err := s.Script(g.ctx, "ip -6 -o addr show dev eth0 to "+taken)
			if err == nil && !strings.Contains(out, "dadfailed") {
				err = fmt.Errorf("%s is not found to be taken: %s", taken, out)
			}
			return err
		})
	}
}

func TestARestartIsNoGoodByeAndTeardownIs(t *testing.T) {
	t.Parallel()
	g, _ := ipv6Gateway(t)
	s := g.guest("dhclient-bridged", "gh-bridged", "00:16:3e:00:01:01")
	if err := s.DHClient6(g.ctx); err != nil {
		t.Fatal(err)
	}
	const own = "fd00:20:0:1::101"
	g.has6(s, own)
	duid := g.serverDUID(s)
	g.stop()
	if got := g.script(s, "ip -6 route show default"); !strings.Contains(got, "via fe80::1") {
		t.Errorf("the route after the daemon ended: %q", got)
	}
	g.start()
	until := g.expiry(own)
	g.eventually("the lease is renewed with the server that it was got from", func() error {
		if is := g.expiry(own); !is.After(until) {
			return fmt.Errorf("it ends at %s still", is)
		}
		return nil
	})
	if is := g.serverDUID(s); is != duid {
		t.Errorf("the server is %s after a restart, was %s", is, duid)
	}
	g.ok("teardown")
	g.eventually("the route is gone", func() error {
		if got, err := s.Script(g.ctx, "ip -6 route show default"); err != nil || got != "" {
			return errors.Join(fmt.Errorf("it is %q", got), err)
		}
		return nil
	})
}

// serverDUID is the server that a host's dhclient has its lease from.
func (g *gateway) serverDUID(s *netlab.Space) string {
	g.Helper()
	return g.script(s, "grep -o 'dhcp6.server-id .*;' /var/lib/dhcp/dhclient6.leases | tail -1")
}

func TestAVSwitchThatGoesSaysGoodBye(t *testing.T) {
	t.Parallel()
	g, _ := ipv6Gateway(t)
	s := g.static("peer", "gh-bridged", "00:16:3e:00:00:01", "10.20.1.10", "10.20.1.253", "")
	g.eventually("a route by the advertisement", func() error {
		got, err := s.Script(g.ctx, "ip -6 route show default")
		if err == nil && !strings.Contains(got, "via fe80::1") {
			err = fmt.Errorf("the default route is %q", got)
		}
		return err
	})
	empty, _, _ := strings.Cut(ipv6Lab, "  vswitches:")
	g.apply(empty, "--prune")
	g.eventually("the route is gone", func() error {
		if got, err := s.Script(g.ctx, "ip -6 route show default"); err != nil || got != "" {
			return errors.Join(fmt.Errorf("it is %q", got), err)
		}
		return nil
	})
}
