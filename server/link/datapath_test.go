package link

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"gatehouse/vpc"
)

// forwarded counts packets in FORWARD of both families.
func (g *gateway) forwarded(f vpc.Family) int {
	g.t.Helper()
	tool := map[vpc.Family]string{vpc.IPv4: "iptables", vpc.IPv6: "ip6tables"}[f]
	fields := strings.Fields(g.sh("%s -t mangle -nvxL FORWARD | tail -1", tool))
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		g.t.Fatal(err)
	}
	return n
}

func TestGuestsOfOneVSwitchReachEachOtherOnlyThroughForward(t *testing.T) {
	g := newGateway(t)
	// Other bridges of the host are left to themselves, as on a host without br_netfilter's switches.
	g.sh("sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0")
	// IPv6 has no switch against redirects: the firewall's rule is part of the datapath.
	g.sh("ip6tables -A OUTPUT -p icmpv6 --icmpv6-type redirect -j DROP")
	g.start()
	g.apply(network(2, nil))
	one := g.guest("web-1", "tap1", "gh-web", nic(1))
	two := g.guest("web-2", "tap2", "gh-web", nic(2))
	for _, f := range vpc.Families() {
		g.pings(one, nic(2).Primary(f))
		g.pings(two, nic(1).Primary(f))
	}
	g.sh("iptables -t mangle -A FORWARD\nip6tables -t mangle -A FORWARD")
	for _, f := range vpc.Families() {
		t.Run(f.String(), func(t *testing.T) {
			before := g.forwarded(f)
			run(t, g.ctx, one, "ip neigh flush all\nping -n -c5 -i0.2 -W1 %s", nic(2).Primary(f))
			if n := g.forwarded(f) - before; n != 10 {
				t.Errorf("5 echo requests and 5 replies: %d packets in FORWARD, want 10", n)
			}
			out := run(t, g.ctx, one, "ip neigh flush all\nping -n -c1 -W1 %s", nic(2).Primary(f))
			_, rest, _ := strings.Cut(out, "time=")
			ms, err := strconv.ParseFloat(strings.TrimSpace(strings.SplitN(rest, "ms", 2)[0]), 64)
			if err != nil || ms > 100 { // at the kernel's default delay of proxies it takes 400 on average
				t.Errorf("the first packet to a peer took %v ms (%v): %s", ms, err, out)
			}
		})
	}
}

func TestWhatOthersChangeIsRepaired(t *testing.T) {
	g := newGateway(t)
	g.start()
	g.apply(network(2, nil))
	one := g.guest("web-1", "tap1", "gh-web", nic(1))
	g.guest("web-2", "tap2", "gh-web", nic(2))
	g.pings(one, nic(2).PrivateIP)
	g.apply(network(2, func(v *vpc.VPCSpec) {
		v.Instances[1].Interfaces[0].IPv6Prefixes = []netip.Prefix{netip.MustParsePrefix("fd00:20:0:1:5::/80")}
	}))

	for _, c := range []struct {
		name, script string
		check        func() error
	}{
		{"a port that is no longer isolated", "bridge link set dev tap1 isolated off", func() error { return expect(g.portFlag("tap1", "isolated"), "true") }},
		{"a port that is unlocked and learns", "bridge link set dev tap1 locked off learning on flood on", func() error {
			return expect(g.portFlag("tap1", "locked")+g.portFlag("tap1", "learning")+g.portFlag("tap1", "flood"), "truefalsefalse")
		}},
		{"the gateway's IPv4 address", "ip addr del 10.20.1.253/24 dev gh-web", func() error { return g.shows("ip addr show dev gh-web", "10.20.1.253/24") }},
		{"the gateway's IPv6 address", "ip addr del fd00:20:0:1:ffff:ffff:ffff:fff7/64 dev gh-web", func() error { return g.shows("ip addr show dev gh-web", "fd00:20:0:1:ffff:ffff:ffff:fff7/64") }},
		{"the router's link-local address", "ip addr del fe80::1/64 dev gh-web", func() error { return g.shows("ip addr show dev gh-web", "fe80::1/64") }},
		{"a bridge that is down", "ip link set gh-web down", func() error { return g.shows("ip addr show dev gh-web", "state UP", "fe80::1/64", "fd00:20:0:1:ffff") }},
		{"a neighbour of IPv4", "ip neigh del 10.20.1.2 dev gh-web", func() error {
			return g.shows("ip neigh show dev gh-web", "10.20.1.2 lladdr 00:16:3e:00:00:02 PERMANENT")
		}},
		{"a neighbour of IPv6", "ip neigh del fd00:20:0:1::2 dev gh-web", func() error {
			return g.shows("ip -6 neigh show dev gh-web", "fd00:20:0:1::2 lladdr 00:16:3e:00:00:02 PERMANENT")
		}},
		{"a neighbour who is another", "ip neigh replace 10.20.1.2 lladdr 02:00:00:00:00:99 dev gh-web nud permanent", func() error {
			return g.shows("ip neigh show dev gh-web", "10.20.1.2 lladdr 00:16:3e:00:00:02 PERMANENT")
		}},
		{"the bridge's filter switch", "ip link set gh-web type bridge nf_call_iptables 0", func() error { return g.shows("ip -d link show dev gh-web", "nf_call_iptables 1") }},
		{"the bridge's address", "ip link set gh-web address 02:99:99:99:99:99", func() error { return g.shows("ip link show dev gh-web", bridgeMAC("vsw-00000000000000b1").String()) }},
		{"a range that leads nowhere", "ip route del unreachable 10.20.0.0/16", func() error { return g.shows("ip route", "unreachable 10.20.0.0/16") }},
		{"an IPv6 range that leads nowhere", "ip -6 route del unreachable fd00:20::/56", func() error { return g.shows("ip -6 route", "unreachable fd00:20::/56") }},
		{"the route to a prefix", "ip -6 route del fd00:20:0:1:5::/80", func() error {
			return g.shows("ip -6 route", "fd00:20:0:1:5::/80 via fd00:20:0:1::2 dev gh-web proto 103")
		}},
		{"a route to a prefix that leads to somebody else", "ip -6 route replace fd00:20:0:1:5::/80 via fd00:20:0:1::1 dev gh-web proto 103; ip -6 neigh del fd00:20:0:1::2 dev gh-web", func() error {
			return g.shows("ip -6 route", "fd00:20:0:1:5::/80 via fd00:20:0:1::2 dev gh-web proto 103")
		}},
		{"a MAC that a port holds", "bridge fdb del 00:16:3e:00:00:01 dev tap1 master", func() error { return expect(g.holder(nic(1).MAC), "tap1") }},
		{"the bridge itself", "ip link del gh-web", func() error { return g.shows("ip addr show dev gh-web", "10.20.1.253/24", "fe80::1/64", "state DOWN") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.sh("%s", c.script)
			g.eventually(c.check)
		})
	}
}

// shows waits for text in a command's output; a command that fails is not there yet.
func (g *gateway) shows(command string, want ...string) error {
	out, err := g.Script(g.ctx, command)
	if err != nil {
		return err
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			return fmt.Errorf("%s does not show %q: %s", command, w, out)
		}
	}
	return nil
}

func expect(got, want string) error {
	if got != want {
		return fmt.Errorf("got %s, want %s", got, want)
	}
	return nil
}

func TestAddressesNobodyHasDoNotLeaveByTheUplink(t *testing.T) {
	g := newGateway(t)
	g.sh(`ip link add up0 type veth peer name up1
ip link set up1 up
ip link set up0 up
ip addr add 192.0.2.1/24 dev up0
ip addr add 2001:db8::1/64 dev up0 nodad
ip route add default via 192.0.2.254
ip -6 route add default via 2001:db8::ff`)
	g.open()
	g.apply(network(1, func(v *vpc.VPCSpec) {
		v.VSwitches = append(v.VSwitches,
			&vpc.VSwitchSpec{ID: "vsw-00000000000000b2", Name: "relayed", CIDRBlock: netip.MustParsePrefix("10.20.2.0/24"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20:0:2::/64"),
				Attach: vpc.AttachSpec{Relay: []netip.Addr{netip.MustParseAddr("192.0.2.9")}}},
			&vpc.VSwitchSpec{ID: "vsw-00000000000000b3", Name: "absent", CIDRBlock: netip.MustParsePrefix("10.20.3.0/24"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20:0:3::/64"),
				Attach: vpc.AttachSpec{Interface: "eth7"}})
	}))
	for _, a := range []string{"10.20.9.1", "10.20.2.7", "10.20.3.7", "fd00:20:0:9::1", "fd00:20:0:2::7", "fd00:20:0:3::7"} {
		if out, err := g.Script(g.ctx, "ip route get "+a); err == nil && !strings.Contains(out, "unreachable") {
			t.Errorf("%s: %s", a, out)
		}
	}
	for _, a := range []string{"10.20.1.77", "fd00:20:0:1::77"} {
		if out := g.sh("ip route get %s", a); !strings.Contains(out, "dev gh-web") {
			t.Errorf("%s: %s", a, out)
		}
	}
	if !found(g.Findings(), FindingMissing, "eth7") {
		t.Errorf("the missing interface is no finding: %v", g.Findings())
	}
	for _, f := range g.Findings() {
		if want := "there is no link eth7, which vSwitch absent is attached to (there is up0, up1)"; f.Code == FindingMissing && f.Message != want {
			t.Errorf("it says %q, want %q", f.Message, want)
		}
	}
}

func TestWhatHelpsAgainstAMissingLink(t *testing.T) {
	for name, want := range map[string]string{
		"eth9":       "or plug it in:",
		"eth1.20":    "create it (ip link add link eth1 name eth1.20 type vlan id 20):",
		"eth1.0":     "or plug it in:",
		"eth1.4095":  "or plug it in:",
		"eth1.guest": "or plug it in:",
		".20":        "or plug it in:",
	} {
		if got := missingRemedy(name); !strings.Contains(got, want) {
			t.Errorf("%s: %q has no %q", name, got, want)
		}
	}
}

func found(fs []Finding, code, link string) bool {
	for _, f := range fs {
		if f.Code == code && f.Link == link {
			return true
		}
	}
	return false
}

func TestAPlainInterfaceReachesItsGuestsAndIsTakenWhenItComes(t *testing.T) {
	g := newGateway(t)
	before := g.picture()
	g.start()
	g.apply(network(1, func(v *vpc.VPCSpec) { v.VSwitches[0].Attach = vpc.AttachSpec{Interface: "eth1"} }))
	guest, err := g.lab.Space("web-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.lab.Veth(g.ctx, g.Space, "eth1", guest, "eth0"); err != nil {
		t.Fatal(err)
	}
	i := nic(1)
	run(t, g.ctx, guest, "ip link set eth0 address %s\nip addr add %s/32 dev eth0\nip route add 10.20.1.253 dev eth0\nip route add default via 10.20.1.253", i.MAC, i.PrivateIP)
	if err := guest.StaticIPv6(g.ctx, i.IPv6Addresses[0].String()); err != nil {
		t.Fatal(err)
	}
	g.eventually(g.told("eth1", true))
	for _, f := range vpc.Families() {
		g.pings(g.Space, i.Primary(f))
		g.pings(guest, g.plan.links[0].sw.GatewayAddr(f))
	}
	if err := g.shows("ip addr show dev eth1", "10.20.1.253/32", "fe80::1/64", ":fff7/128"); err != nil {
		t.Error(err)
	}
	if err := g.shows("ip neigh show dev eth1", "10.20.1.1 lladdr 00:16:3e:00:00:01 PERMANENT"); err != nil {
		t.Error(err)
	}
	if !found(g.Findings(), FindingPlain, "eth1") {
		t.Errorf("no finding that guests can go round the gateway: %v", g.Findings())
	}
	if err := g.Hold("eth1", i.MAC); err != nil {
		t.Errorf("hold on a plain interface: %v", err)
	}
	if err := g.Teardown(g.ctx); err != nil {
		t.Fatal(err)
	}
	g.sh("ip link del eth1")
	same(t, before, g.picture())
}

func TestAPortPluggedInWhileNobodyRanIsSecuredAtStart(t *testing.T) {
	g := newGateway(t)
	g.start()
	g.apply(network(2, nil))
	g.stop()

	one := g.guest("web-1", "tap1", "gh-web", nic(1))
	two := g.guest("web-2", "tap2", "gh-web", nic(2))
	g.pings(one, nic(2).PrivateIP) // bridged: both ports learn
	if g.portFlag("tap1", "isolated") != "false" {
		t.Fatal("the port is isolated though nobody ran")
	}
	g.start()
	g.apply(network(2, nil))
	for _, p := range []string{"tap1", "tap2"} {
		if got := g.portFlag(p, "isolated") + g.portFlag(p, "locked") + g.portFlag(p, "learning"); got != "truetruefalse" {
			t.Errorf("%s: isolated, locked, learning: %s", p, got)
		}
	}
	// What the ports have learned becomes what they hold: a guest does not lose its connection.
	for n, p := range map[int]string{1: "tap1", 2: "tap2"} {
		if h := g.holder(nic(n).MAC); h != p {
			t.Errorf("web-%d is held by %q, want %s", n, h, p)
		}
	}
	run(t, g.ctx, two, "ip neigh flush all")
	run(t, g.ctx, one, "ip neigh flush all\nping -n -c1 -W1 %s", nic(2).PrivateIP)
	g.stop()

	g.start() // and what was held is still held
	g.apply(network(2, nil))
	if h := g.holder(nic(1).MAC); h != "tap1" {
		t.Errorf("after a restart web-1 is held by %q", h)
	}
}

func TestAGuestMovesWhenItsOldPortIsDownAndNotBefore(t *testing.T) {
	g := newGateway(t)
	g.start()
	g.apply(network(2, nil))
	old := g.guest("web-1", "tap1", "gh-web", nic(1))
	g.pings(old, g.plan.links[0].sw.GatewayAddr(vpc.IPv4))
	if h := g.holder(nic(1).MAC); h != "tap1" {
		t.Fatalf("held by %q, want tap1", h)
	}
	claimant, err := g.lab.Guest(g.ctx, "claimant", g.Space, "tap9", "gh-web", nic(1).MAC.String())
	if err != nil {
		t.Fatal(err)
	}
	g.configure(claimant, nic(1))
	g.eventually(g.told("tap9", true))
	g.eventually(func() error { // its own frames are a claim
		claimant.Ping(g.ctx, "10.20.1.253")
		if !strings.Contains(g.log.String(), "MAC is refused to a port") {
			return errors.New("the claim is not logged")
		}
		return nil
	})
	var heldBy *HeldError
	if err := g.Hold("tap9", nic(1).MAC); !errors.As(err, &heldBy) || heldBy.Holder != "tap1" {
		t.Fatalf("second claimant: %v, want a HeldError that names tap1", err)
	}
	if n := strings.Count(g.log.String(), "MAC is refused to a port"); n != 1 {
		t.Errorf("the refused claims are logged %d times, want once a minute", n)
	}
	if claimant.Ping(g.ctx, "10.20.1.253") || g.holder(nic(1).MAC) != "tap1" {
		t.Fatal("the second claimant has the MAC")
	}
	run(t, g.ctx, old, "ip link set eth0 down")
	for _, f := range vpc.Families() {
		g.pings(claimant, g.plan.links[0].sw.GatewayAddr(f))
	}
	if h := g.holder(nic(1).MAC); h != "tap9" {
		t.Errorf("after the move held by %q, want tap9", h)
	}
	g.sh("ip link set tap9 nomaster")
	g.eventually(g.told("tap9", false))
	if err := g.Hold("tap9", nic(1).MAC); !errors.Is(err, ErrNoPort) {
		t.Errorf("hold on a port that has left: %v, want ErrNoPort", err)
	}
}

func TestHoldGivesAMACThatIsNotRegisteredAndFreesItWithThePort(t *testing.T) {
	g := newGateway(t)
	g.start()
	g.apply(network(1, nil))
	s, err := g.lab.Guest(g.ctx, "new", g.Space, "tap5", "gh-web", "02:00:00:00:05:05")
	if err != nil {
		t.Fatal(err)
	}
	g.eventually(g.told("tap5", true))
	mac := vpc.MAC{2, 0, 0, 0, 5, 5}
	if h := g.holder(mac); h != "" {
		t.Fatalf("held by %s before anybody asked", h)
	}
	if err := g.Hold("tap5", mac); err != nil {
		t.Fatal(err)
	}
	if h := g.holder(mac); h != "tap5" {
		t.Fatalf("held by %q, want tap5", h)
	}
	if err := g.Hold("tap5", bridgeMAC("vsw-00000000000000b1")); !errors.Is(err, ErrHostMAC) {
		t.Errorf("the gateway's own MAC: %v, want ErrHostMAC", err)
	}
	var occupied *OccupiedError
	if err := g.Hold("tap5", vpc.MAC{2, 0, 0, 0, 5, 6}); !errors.As(err, &occupied) || occupied.Guest != mac.String() {
		t.Errorf("a second MAC: %v, want an OccupiedError that names the first", err)
	}
	run(t, g.ctx, s, "ip link set eth0 down")
	g.eventually(func() error { return expect(g.holder(mac), "") })
}

func TestAPinnedInterfaceIsHeldByItsPortOnly(t *testing.T) {
	g := newGateway(t)
	g.start()
	g.apply(network(1, func(v *vpc.VPCSpec) { v.Instances[0].Interfaces[0].Port = "tap1" }))
	g.eventually(func() error {
		if !found(g.Findings(), FindingPinned, "gh-web") {
			return errors.New("no finding for the missing port")
		}
		return nil
	})
	s, err := g.lab.Guest(g.ctx, "other", g.Space, "tap2", "gh-web", nic(1).MAC.String())
	if err != nil {
		t.Fatal(err)
	}
	g.eventually(g.told("tap2", true))
	g.configure(s, nic(1))
	var pinned *PinnedError
	if err := g.Hold("tap2", nic(1).MAC); !errors.As(err, &pinned) || pinned.Pinned != "tap1" {
		t.Errorf("hold on another port: %v, want a PinnedError that names tap1", err)
	}
	if _, err := g.lab.Guest(g.ctx, "web-1", g.Space, "tap1", "gh-web", nic(1).MAC.String()); err != nil {
		t.Fatal(err)
	}
	g.eventually(func() error { return expect(g.holder(nic(1).MAC), "tap1") })
}
