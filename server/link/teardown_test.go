package link

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"gatehouse/vpc"
)

func TestTeardownLeavesTheHostAsItWas(t *testing.T) {
	for _, c := range []struct {
		name, before string // a script that makes the host
	}{
		{"an empty host", ""},
		{"a host with an uplink that takes its routes from router advertisements", `
ip link add up0 type veth peer name up1
ip link set up0 up
ip link set up1 up
ip addr add 192.0.2.1/24 dev up0
ip route add default via 192.0.2.254
sysctl -qw net.ipv6.conf.up0.accept_ra=1 net.ipv4.conf.up0.forwarding=1 net.ipv4.conf.all.accept_redirects=0`},
		{"a host that forwards already", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.send_redirects=0"},
		{"a host with bridges and neighbours of its own", `
ip link add br9 type bridge
ip link add p9 type veth peer name p9x
ip link set p9 master br9
ip link set br9 up
ip link set p9 up
ip addr add 198.51.100.1/24 dev br9
ip neigh add 198.51.100.7 lladdr 02:00:00:00:00:07 dev br9 nud permanent
bridge fdb add 02:00:00:00:00:08 dev p9 master static
ip route add blackhole 10.0.0.0/8`},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGateway(t)
			g.sh("%s", c.before)
			g.settled()
			before := g.picture()
			g.start()
			g.apply(network(2, nil))
			if err := g.shows("ip addr show dev gh-web", "10.20.1.253/24", "fe80::1/64", "fd00:20:0:1:ffff:ffff:ffff:fff7/64"); err != nil {
				t.Fatal(err)
			}
			if got := g.sh("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv4.conf.gh-web.proxy_arp_pvlan net.ipv4.neigh.gh-web.proxy_delay"); got != "1\n1\n1\n0\n" {
				t.Errorf("forwarding, forwarding, proxy_arp_pvlan, proxy_delay: %q", got)
			}
			g.apply(network(2, nil)) // a second one notes nothing else to put back
			g.stop()
			g.open() // nor does a restart
			if err := g.Teardown(g.ctx); err != nil {
				t.Fatal(err)
			}
			same(t, before, g.picture())
			if err := g.Teardown(g.ctx); err != nil {
				t.Errorf("again: %v", err)
			}
			g.apply(network(2, nil))
			if err := g.Teardown(g.ctx); err != nil {
				t.Fatal(err)
			}
			same(t, before, g.picture())
		})
	}
}

func TestTheUplinkKeepsItsRouterAdvertisements(t *testing.T) {
	g := newGateway(t)
	g.sh("ip link add up0 type veth peer name up1\nip link add lan0 type veth peer name lan1\nsysctl -qw net.ipv6.conf.lan0.accept_ra=0")
	g.open()
	g.apply(network(0, nil))
	if got := g.sh("sysctl -n net.ipv6.conf.up0.accept_ra net.ipv6.conf.lan0.accept_ra"); got != "2\n0\n" {
		t.Errorf("accept_ra of a link that accepts and one that does not: %q, want 2 and 0", got)
	}
}

func TestASettingThatSomebodyChangedSinceIsNotPutBack(t *testing.T) {
	g := newGateway(t)
	g.open()
	g.apply(network(0, nil))
	g.sh("sysctl -qw net.ipv4.conf.all.send_redirects=1")
	if err := g.Teardown(g.ctx); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(g.sh("sysctl -n net.ipv4.conf.all.send_redirects")); got != "1" {
		t.Errorf("send_redirects is %s, want what somebody set", got)
	}
}

// adopted is a host with a bridge that is somebody's, with ports set up in their own way.
const adopted = `
ip link add br0 type bridge mcast_snooping 1
ip link add tap1 type veth peer name x1
ip link add tap2 type veth peer name x2
ip link set tap1 master br0
ip link set tap2 master br0
ip link set tap1 up
ip link set x1 up
bridge link set dev tap2 learning off hairpin on
bridge fdb add 02:00:00:00:00:77 dev tap2 master static
sysctl -qw net.ipv4.conf.br0.rp_filter=2`

func TestAnAdoptedBridgeIsGivenBack(t *testing.T) {
	for _, c := range []struct {
		name, extra string
		rename      bool
	}{
		{"one that is down", "", false},
		{"one that is up", "ip link set br0 up", false},
		{"one that is left for another", "ip link set br0 up", true},
		{"one that has the gateway's addresses already", "ip addr add 10.20.1.253/24 dev br0\nip addr add fd00:20:0:1:ffff:ffff:ffff:fff7/64 dev br0 nodad\nip link set br0 up", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGateway(t)
			g.sh("%s\n%s", adopted, c.extra)
			g.settled()
			before := g.picture()
			g.start()
			g.apply(network(2, func(v *vpc.VPCSpec) { v.VSwitches[0].Attach.Bridge = "br0" }))
			if got := g.portFlag("tap2", "isolated") + g.portFlag("tap2", "hairpin"); got != "truefalse" {
				t.Errorf("isolated and hairpin of an adopted port: %s", got)
			}
			if err := g.Hold("tap1", nic(1).MAC); err != nil {
				t.Error(err)
			}
			if c.rename { // the vSwitch gets a bridge of its own, the old one is let go
				g.apply(network(2, nil))
				if err := g.shows("ip addr show dev gh-web", "10.20.1.253/24"); err != nil {
					t.Error(err)
				}
			}
			if err := g.Teardown(g.ctx); err != nil {
				t.Fatal(err)
			}
			same(t, before, g.picture())
		})
	}
}

func TestWhatIsSomebodyElsesIsRefusedAndUntouched(t *testing.T) {
	for _, c := range []struct {
		name, host string
		attach     vpc.AttachSpec
		want       string
	}{
		{"a link of the name that is not a bridge", "ip link add gh-web type veth peer name x", vpc.AttachSpec{Bridge: "gh-web"},
			"vSwitch web: gh-web exists and is not a bridge but veth"},
		{"a bridge that carries the uplink", "ip link add gh-web type bridge\nip link add up0 type veth peer name x\nip link set up0 master gh-web", vpc.AttachSpec{Bridge: "gh-web"},
			"vSwitch web: bridge gh-web carries the uplink up0"},
		{"the uplink itself", "ip link add up0 type veth peer name x", vpc.AttachSpec{Interface: "up0"},
			"vSwitch web: up0 is an uplink"},
		{"a bridge with a default route", "ip link add gh-web type bridge\nip link set gh-web up\nip route add default dev gh-web", vpc.AttachSpec{Bridge: "gh-web"},
			"vSwitch web: gh-web carries a default route of the host"},
		{"a bridge with somebody's address", "ip link add gh-web type bridge\nip addr add 198.51.100.1/24 dev gh-web", vpc.AttachSpec{Bridge: "gh-web"},
			"vSwitch web: gh-web carries somebody else's address 198.51.100.1/24"},
		{"a bridge with somebody's IPv6 address", "ip link add gh-web type bridge\nip addr add 2001:db8::1/64 dev gh-web", vpc.AttachSpec{Bridge: "gh-web"},
			"vSwitch web: gh-web carries somebody else's address 2001:db8::1/64"},
		{"an interface that is a port of a bridge", "ip link add br9 type bridge\nip link add eth1 type veth peer name x\nip link set eth1 master br9", vpc.AttachSpec{Interface: "eth1"},
			"vSwitch web: eth1 belongs to br9"},
		{"a range inside a route of the host", "ip link add eth0 type veth peer name x\nip link set eth0 up\nip link set x up\nip addr add 10.20.5.1/16 dev eth0", vpc.AttachSpec{},
			"vSwitch web: 10.20.1.0/24 overlaps the host's route 10.20.0.0/16 dev eth0"},
		{"a range around a route of the host", "ip link add eth0 type veth peer name x\nip link set eth0 up\nip link set x up\nip route add 10.20.1.128/25 dev eth0", vpc.AttachSpec{},
			"vSwitch web: 10.20.1.0/24 overlaps the host's route 10.20.1.128/25 dev eth0"},
		{"an IPv6 range inside a route of the host", "ip link add eth0 type veth peer name x\nip link set eth0 up\nip link set x up\nip route add fd00:20::/48 dev eth0", vpc.AttachSpec{},
			"vSwitch web: fd00:20:0:1::/64 overlaps the host's route fd00:20::/48 dev eth0"},
		{"a range with an address of the host", "ip addr add 10.20.1.9/32 dev lo", vpc.AttachSpec{},
			"vSwitch web: 10.20.1.0/24 contains the host's own address 10.20.1.9 on lo"},
		{"a route of the host elsewhere in the VPC", "ip link add eth0 type veth peer name x\nip link set eth0 up\nip link set x up\nip route add 10.20.9.0/24 dev eth0", vpc.AttachSpec{Relay: []netip.Addr{netip.MustParseAddr("192.0.2.9")}},
			"VPC research: 10.20.0.0/16 overlaps the host's route 10.20.9.0/24 dev eth0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGateway(t)
			g.sh("%s", c.host)
			g.settled()
			before := g.objects()
			snap := network(1, func(v *vpc.VPCSpec) {
				v.VSwitches[0].Attach = c.attach
				v.VSwitches = append(v.VSwitches, &vpc.VSwitchSpec{ID: "vsw-00000000000000b9", Name: "other", CIDRBlock: netip.MustParsePrefix("10.20.77.0/24"), Attach: vpc.AttachSpec{Bridge: "gh-other"}})
			})
			g.open()
			if _, err := g.Check(g.ctx, snap); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("check: %v\nwant %s", err, c.want)
			}
			err := g.Apply(g.ctx, snap)
			var refused *RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("apply: %v\nwant %s", err, c.want)
			}
			if err := g.Teardown(g.ctx); err != nil { // the other vSwitch
				t.Fatal(err)
			}
			same(t, before, g.objects())
		})
	}
}

func TestARefusedVSwitchDoesNotKeepTheOthersBack(t *testing.T) {
	g := newGateway(t)
	g.sh("ip link add gh-web type veth peer name x")
	g.open()
	err := g.Apply(g.ctx, network(0, func(v *vpc.VPCSpec) {
		v.VSwitches = append(v.VSwitches, &vpc.VSwitchSpec{ID: "vsw-00000000000000b2", Name: "db", CIDRBlock: netip.MustParsePrefix("10.20.2.0/24")})
	}))
	if err == nil || !strings.Contains(err.Error(), "vSwitch web: gh-web exists") || strings.Contains(err.Error(), "db") {
		t.Errorf("apply: %v", err)
	}
	if err := g.shows("ip addr show dev gh-00000000", "10.20.2.253/24"); err != nil {
		t.Error(err)
	}
	if !found(g.Findings(), FindingRefused, "gh-web") {
		t.Errorf("the refusal is no finding: %v", g.Findings())
	}
}
