package acceptance

import (
	"fmt"
	"strings"
	"testing"

	"gatehouse/internal/netlab"
)

// relayLab has a vSwitch behind a relay on the gateway's link up0, and one behind a second relay that forwards to the first.
// The relays are their guests' routers, and the servers that their guests renew with.
const relayLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  domain: lab.internal
  dhcpOptions: {leaseTime: 30s, ipv6LeaseTime: 30s}
  vswitches:
  - name: near
    cidrBlock: 10.20.1.0/24
    gateway: 10.20.1.1
    ipv6CidrBlock: fd00:20:0:1::/64
    attach: {relay: [192.0.2.2, "%s"]}
  - name: far
    cidrBlock: 10.20.2.0/24
    gateway: 10.20.2.1
    ipv6CidrBlock: fd00:20:0:2::/64
    enrollment: closed
    attach: {relay: [192.0.2.2, 192.0.2.6, "%[1]s", "2001:db8:1::6"]}
  instances:
  - {name: near-1, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: near, privateIp: 10.20.1.10, ipv6Addresses: ["fd00:20:0:1::10"]}]}
  - {name: far-1, interfaces: [{mac: 00:16:3e:00:02:01, vswitch: far, privateIp: 10.20.2.10, ipv6Addresses: ["fd00:20:0:2::10"]}]}
`

// relayWorld is a gateway and, one behind the other, two routers with dhcrelay: relay1 on the gateway's link, relay2 behind
// relay1. Each has a link with guests.
type relayWorld struct {
	*gateway
	relay1, relay2 *netlab.Space
}

// newRelayWorld raises it; toGateway is what relay1 calls the gateway in DHCPv6, and from what the gateway calls relay1.
func newRelayWorld(t *testing.T, toGateway, from string) *relayWorld {
	t.Helper()
	w := &relayWorld{gateway: newGateway(t)}
	var err error
	check := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w.relay1, err = w.lab.Space("relay1")
	check()
	w.relay2, err = w.lab.Space("relay2")
	check()
	err = w.lab.Veth(w.ctx, w.space, "up0", w.relay1, "eth0")
	check()
	err = w.lab.Veth(w.ctx, w.relay1, "eth1", w.relay2, "eth0")
	check()
	w.script(w.space, "ip addr add 192.0.2.1/30 dev up0\nip addr add 2001:db8::1/64 dev up0 nodad\nip addr add fe80::9/64 dev up0 nodad\n"+
		"ip route add 192.0.2.4/30 via 192.0.2.2\nip route add 2001:db8:1::/64 via 2001:db8::2\n")
	w.script(w.relay1, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n"+
		"ip -6 addr flush dev eth0 scope link\nip addr add 192.0.2.2/30 dev eth0\nip addr add 2001:db8::2/64 dev eth0 nodad\nip addr add fe80::2/64 dev eth0 nodad\n"+
		"ip addr add 192.0.2.5/30 dev eth1\nip addr add 2001:db8:1::5/64 dev eth1 nodad\n"+
		"ip link add guests type bridge\nip link set guests up\nip addr add 10.20.1.1/24 dev guests\nip addr add fd00:20:0:1::1/64 dev guests nodad\n"+
		"ip route add 10.20.2.0/24 via 192.0.2.6\n")
	w.script(w.relay2, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n"+
		"ip addr add 192.0.2.6/30 dev eth0\nip addr add 2001:db8:1::6/64 dev eth0 nodad\nip route add default via 192.0.2.5\nip route add default via 2001:db8:1::5\n"+
		"ip link add guests type bridge\nip link set guests up\nip addr add 10.20.2.1/24 dev guests\nip addr add fd00:20:0:2::1/64 dev guests nodad\n")
	w.start()
	w.apply(fmt.Sprintf(relayLab, from))
	// The relays' own addresses on the way to the gateway are giaddr, and the guests' link is in option 82: the gateway has no
	// route to the guests. A relay that has another before it leaves that one's option 82 alone.
	w.script(w.relay1, "setsid dhcrelay -4 -q --no-pid -a -m forward -id guests -id eth1 -iu eth0 -U eth0 192.0.2.1 >/run/relay4.log 2>&1\n"+
		"setsid dhcrelay -6 -q --no-pid -l guests -l eth1 -u "+toGateway+"%eth0 >/run/relay6.log 2>&1\n")
	w.script(w.relay2, "setsid dhcrelay -4 -q --no-pid -a -id guests -iu eth0 -U eth0 192.0.2.5 >/run/relay4.log 2>&1\n"+
		"setsid dhcrelay -6 -q --no-pid -l guests -u 2001:db8:1::5%eth0 >/run/relay6.log 2>&1\n")
	return w
}

func TestRealRelaysBringTheirGuestsLeases(t *testing.T) {
	t.Parallel()
	for _, by := range []struct{ name, gateway, relay string }{
		{"global addresses", "2001:db8::1", "2001:db8::2"},
		{"link-local addresses", "fe80::9", "fe80::2%up0"},
	} {
		t.Run(by.name, func(t *testing.T) {
			t.Parallel()
			w := newRelayWorld(t, by.gateway, by.relay)
			for _, guest := range []struct {
				relay                      *netlab.Space
				name, vswitch, mac, router string
				address, address6          string
			}{
				{w.relay1, "near-1", "near", "00:16:3e:00:01:01", "10.20.1.1", "10.20.1.10", "fd00:20:0:1::10"},
				{w.relay2, "far-1", "far", "00:16:3e:00:02:01", "10.20.2.1", "10.20.2.10", "fd00:20:0:2::10"},
			} {
				t.Run("to a guest that is "+guest.vswitch, func(t *testing.T) {
					t.Parallel()
					g := w.in(t)
					s, err := g.lab.Guest(g.ctx, guest.name, guest.relay, portOf(guest.name), "guests", guest.mac)
					if err != nil {
						t.Fatal(err)
					}
					g.script(s, isc+"\n"+clients6()[0].start)
					if got := g.script(s, "ip -o addr show dev eth0 scope global"); !strings.Contains(got, " "+guest.address+"/24 ") || !strings.Contains(got, " "+guest.address6+"/128 ") {
						t.Errorf("it has %s", got)
					}
					if got := g.script(s, "ip -4 route show default"); !strings.Contains(got, "via "+guest.router+" dev eth0") {
						t.Errorf("its default route is %s", got)
					}
					for _, a := range []string{guest.address, guest.address6} {
						if l := g.lease(a); l["state"] != "bound" || l["instance"] != guest.name || l["vswitch"] != guest.vswitch || l["mac"] != guest.mac {
							t.Errorf("lease: %v", l)
						}
					}
					// With leases of 30 s a client renews after 15 by itself.
					until, until6 := g.expiry(guest.address), g.expiry(guest.address6)
					g.eventually("both leases are renewed", func() error {
						if is, is6 := g.expiry(guest.address), g.expiry(guest.address6); !is.After(until) || !is6.After(until6) {
							return fmt.Errorf("they end at %s and %s still", is, is6)
						}
						return nil
					})
					g.script(s, strings.Replace(isc, "-1", "-r", 1)+"\n"+clients6()[0].release)
					g.eventually("both leases are released", func() error {
						if l, l6 := g.lease(guest.address), g.lease(guest.address6); l["state"] != "released" || l6["state"] != "released" {
							return fmt.Errorf("they are %v and %v", l, l6)
						}
						return nil
					})
				})
			}
		})
	}
}
