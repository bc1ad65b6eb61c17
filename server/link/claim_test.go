package link

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"gatehouse/internal/netlab"
	"gatehouse/vpc"
)

// question is the frame by which an interface asks for its gateway's MAC: ARP, or a neighbour solicitation.
func question(i *vpc.InterfaceSpec, f vpc.Family) []byte {
	b := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, i.MAC[:]...)
	if f == vpc.IPv4 {
		b = append(b, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1)
		b = append(append(b, i.MAC[:]...), i.PrivateIP.AsSlice()...)
		return append(b, 0, 0, 0, 0, 0, 0, 10, 20, 1, 253)
	}
	copy(b, []byte{0x33, 0x33, 0xff, 0, 0, 1})
	b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255)
	src, group := i.IPv6Addresses[0].AsSlice(), netip.MustParseAddr("ff02::1:ff00:1").AsSlice()
	b = append(append(b, src...), group...)
	body := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, vpc.RouterLinkLocal.AsSlice()...)
	body = append(append(body, 1, 1), i.MAC[:]...)
	sum := uint32(len(body)) + 58
	for _, part := range [][]byte{src, group, body} {
		for k := 0; k < len(part); k += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[k:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(body[2:], ^uint16(sum))
	return append(b, body...)
}

// asks sends an interface's question from a guest, whoever that is.
func (g *gateway) asks(s *netlab.Space, i *vpc.InterfaceSpec, f vpc.Family) {
	g.t.Helper()
	err := s.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		c, err := packet.Listen(eth0, packet.Raw, unix.ETH_P_LOOPBACK, nil)
		if err != nil {
			return err
		}
		defer c.Close()
		frame := question(i, f)
		_, err = c.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
		return err
	})
	if err != nil {
		g.t.Fatal(err)
	}
}

// refused waits until a guest's claim has been refused for a reason, repeating it; the MAC's holder must stay.
func (g *gateway) refused(s *netlab.Space, i *vpc.InterfaceSpec, f vpc.Family, holder, why string) {
	g.t.Helper()
	g.eventually(func() error {
		g.asks(s, i, f)
		for _, finding := range g.Findings() {
			if finding.Code == FindingClaimed && strings.HasSuffix(finding.Message, why) && strings.Contains(finding.Message, i.MAC.String()) {
				return nil
			}
		}
		return fmt.Errorf("no finding says %q: %v", why, g.Findings())
	})
	if h := g.holder(i.MAC); h != holder {
		g.t.Fatalf("%s is held by %q, want %q", i.MAC, h, holder)
	}
}

// held waits until a port that is up holds an interface's MAC.
func (g *gateway) held(i *vpc.InterfaceSpec, port string) {
	g.t.Helper()
	g.eventually(func() error { return expect(g.holder(i.MAC), port) })
}

// carrier switches a guest's side of its cable on or off, as the guest itself can, and waits until the gateway has heard.
func (g *gateway) carrier(s *netlab.Space, port string, on bool) {
	g.t.Helper()
	state := map[bool]string{true: "up", false: "down"}[on]
	run(g.t, g.ctx, s, "ip link set eth0 %s", state)
	g.eventually(g.told(port, on))
}

// replug gives a guest another port: the old one is deleted, as a hypervisor does when a machine is switched off.
func (g *gateway) replug(s *netlab.Space, old, port string, i *vpc.InterfaceSpec) {
	g.t.Helper()
	g.unplug(old)
	g.plug(s, port, i)
}

func (g *gateway) unplug(port string) {
	g.t.Helper()
	g.sh("ip link del %s", port)
	g.eventually(g.told(port, false))
}

func (g *gateway) plug(s *netlab.Space, port string, i *vpc.InterfaceSpec) {
	g.t.Helper()
	g.sh("ip link add %s type veth peer name eth0 address %s netns %d\nip link set %[1]s master gh-web up", port, i.MAC, s.PID())
	run(g.t, g.ctx, s, "ip link set eth0 up")
	g.eventually(g.told(port, true))
	g.configure(s, i)
}

// bothPing waits until a guest gets answers from the gateway in both families.
func (g *gateway) bothPing(s *netlab.Space) {
	g.t.Helper()
	for _, f := range vpc.Families() {
		g.pings(s, g.plan.links[0].sw.GatewayAddr(f))
	}
}

func TestAGuestDoesNotBecomeItsNeighbourWhichIsAway(t *testing.T) {
	const why = "but is the port of research/web-1"
	for _, f := range vpc.Families() {
		t.Run(f.String(), func(t *testing.T) {
			g := newGateway(t)
			g.start()
			g.apply(network(3, nil)) // web-3 has never been seen
			attacker := g.guest("web-1", "tap1", "gh-web", nic(1))
			victim := g.guest("web-2", "tap2", "gh-web", nic(2))
			g.bothPing(attacker)
			g.bothPing(victim)

			g.refused(attacker, nic(2), f, "tap2", "which is behind port tap2")
			g.refused(attacker, nic(3), f, "", why)

			g.carrier(victim, "tap2", false)
			g.refused(attacker, nic(2), f, "tap2", why)
			g.carrier(attacker, "tap1", false) // it cannot shake off who it is
			g.carrier(attacker, "tap1", true)
			g.refused(attacker, nic(2), f, "tap2", why)

			g.stop() // and a restart is no window
			g.start()
			g.apply(network(3, nil))
			g.eventually(g.told("tap1", true))
			g.refused(attacker, nic(2), f, "tap2", why)
			g.stop()
			run(t, g.ctx, attacker, "ip link set eth0 down")
			g.start()
			g.apply(network(3, nil))
			g.carrier(attacker, "tap1", true)
			g.refused(attacker, nic(2), f, "tap2", why)

			g.carrier(victim, "tap2", true)
			g.held(nic(2), "tap2")
			g.configure(victim, nic(2)) // its addresses went with the carrier
			g.bothPing(victim)
			g.sh("ip link set tap2 down")
			g.eventually(g.told("tap2", false))
			g.refused(attacker, nic(2), f, "tap2", why)
			g.sh("ip link set tap2 up")
			g.bothPing(victim)
			g.unplug("tap2")
			g.refused(attacker, nic(2), f, "", why)
			g.plug(victim, "tap2", nic(2))
			g.bothPing(victim)
			g.configure(attacker, nic(1))
			g.bothPing(attacker)
		})
	}
}

func TestAPortHasItsMACsBackWithoutAWord(t *testing.T) {
	g := newGateway(t)
	g.start()
	g.apply(network(1, nil))
	one := g.guest("web-1", "tap1", "gh-web", nic(1))
	g.bothPing(one)
	g.carrier(one, "tap1", false)
	run(t, g.ctx, one, "ip link set eth0 arp off") // nothing asks
	g.carrier(one, "tap1", true)
	g.held(nic(1), "tap1")
}

func TestAPortThatIsPluggedInAnewIsAnyGuests(t *testing.T) {
	g := newGateway(t)
	g.start()
	g.apply(network(2, nil))
	s := g.guest("web-1", "eth5", "gh-web", nic(1))
	g.bothPing(s)
	g.carrier(s, "eth5", false) // another machine on the same cable
	run(t, g.ctx, s, "ip link set eth0 address %s\nip addr flush dev eth0", nic(2).MAC)
	g.carrier(s, "eth5", true)
	g.configure(s, nic(2))
	for _, f := range vpc.Families() {
		g.refused(s, nic(2), f, "", "but is the port of research/web-1")
	}
	g.sh("ip link set eth5 nomaster")
	g.eventually(g.told("eth5", false))
	g.sh("ip link set eth5 master gh-web")
	g.bothPing(s)
	g.held(nic(2), "eth5")
}

func TestAMachineThatStartsAgainIsFollowedToItsNewPort(t *testing.T) {
	g := newGateway(t)
	g.start()
	g.apply(network(2, nil))
	one := g.guest("web-1", "vnet0", "gh-web", nic(1))
	g.bothPing(one)
	g.replug(one, "vnet0", "vnet5", nic(1))
	g.bothPing(one)
	g.held(nic(1), "vnet5")
	two := g.guest("web-2", "vnet0", "gh-web", nic(2)) // the name is given again
	g.bothPing(two)
	g.refused(two, nic(1), vpc.IPv4, "vnet5", "which is behind port vnet5")
	g.bothPing(one)
}

func TestAPortThatComesBackHasItsMACBackFromWhoeverTookIt(t *testing.T) {
	for _, c := range []struct {
		name       string
		away, back func(*gateway, *netlab.Space)
	}{
		{"without a carrier",
			func(g *gateway, s *netlab.Space) { g.carrier(s, "tap1", false) },
			func(g *gateway, s *netlab.Space) {
				g.carrier(s, "tap1", true)
				g.configure(s, nic(1)) // its addresses went with the carrier
			}},
		{"set down",
			func(g *gateway, _ *netlab.Space) { g.sh("ip link set tap1 down"); g.eventually(g.told("tap1", false)) },
			func(g *gateway, _ *netlab.Space) { g.sh("ip link set tap1 up"); g.eventually(g.told("tap1", true)) }},
		{"deleted and made anew",
			func(g *gateway, _ *netlab.Space) { g.unplug("tap1") },
			func(g *gateway, s *netlab.Space) { g.plug(s, "tap1", nic(1)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGateway(t)
			g.start()
			g.apply(network(1, nil))
			one := g.guest("web-1", "tap1", "gh-web", nic(1))
			g.eventually(g.told("tap1", true)) // it may be reached before, by what the bridge learned before the port was locked
			g.bothPing(one)
			c.away(g, one)
			other := g.guest("other", "tap9", "gh-web", nic(1)) // a port that nobody is behind yet
			g.bothPing(other)
			c.back(g, one)
			g.bothPing(one)
			g.held(nic(1), "tap1")
			for _, f := range vpc.Families() {
				g.refused(other, nic(1), f, "tap1", "which is behind port tap1")
			}
		})
	}
}

func TestSeveralInstancesAreBehindOnePortWhenTheyArePinnedToIt(t *testing.T) {
	g := newGateway(t)
	g.start()
	g.apply(network(3, func(v *vpc.VPCSpec) {
		for _, i := range v.Instances[:2] {
			i.Interfaces[0].Port = "trunk"
		}
	}))
	one := g.guest("web-1", "trunk", "gh-web", nic(1))
	g.held(nic(1), "trunk")
	g.held(nic(2), "trunk")
	run(t, g.ctx, one, "ip link add link eth0 name nested address %s type macvlan mode bridge\nip link set nested up\nip addr add %s/32 dev nested", nic(2).MAC, nic(2).PrivateIP)
	run(t, g.ctx, one, "ip addr add %s/128 dev nested nodad", nic(2).IPv6Addresses[0])
	g.bothPing(one)
	for _, a := range []netip.Addr{nic(2).PrivateIP, nic(2).IPv6Addresses[0]} {
		g.eventually(func() error {
			_, err := g.Script(g.ctx, "ping -n -c1 -W1 "+a.String())
			return err
		})
	}
	for _, f := range vpc.Families() {
		g.refused(one, nic(3), f, "", "but is the port of research/web-1")
	}
}
