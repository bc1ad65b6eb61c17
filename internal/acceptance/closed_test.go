package acceptance

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/internal/netlab"
	"gatehouse/vpc"
)

// What nobody has allowed does not pass: whoever has plugged in what, whenever, and whether or not the daemon is alive.

// closedLab has two vSwitches of one VPC, one of another, and groups that admit everything, so that only what must be
// closed under every policy is.
const closedLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  vswitches:
  - {name: left, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: gh-left}, enrollment: closed}
  - {name: right, cidrBlock: 10.20.2.0/24, ipv6CidrBlock: "fd00:20:0:2::/64", attach: {bridge: gh-right}, enrollment: closed}
  securityGroups:
  - name: open
    rules:
    - {direction: ingress, protocol: all, source: 0.0.0.0/0}
    - {direction: ingress, protocol: all, source: "::/0"}
  - {name: shut, innerAccess: drop}
  instances:
  - {name: a-1, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: left, privateIp: 10.20.1.10, ipv6Addresses: ["fd00:20:0:1::10"], securityGroups: [open]}]}
  - {name: b-1, interfaces: [{mac: 00:16:3e:00:01:02, vswitch: left, privateIp: 10.20.1.11, ipv6Addresses: ["fd00:20:0:1::11"], securityGroups: [open]}]}
  - {name: c-1, interfaces: [{mac: 00:16:3e:00:02:01, vswitch: right, privateIp: 10.20.2.10, ipv6Addresses: ["fd00:20:0:2::10"], securityGroups: [open]}]}
  - {name: shut, interfaces: [{mac: 00:16:3e:00:02:02, vswitch: right, privateIp: 10.20.2.11, ipv6Addresses: ["fd00:20:0:2::11"], securityGroups: [shut]}]}
- name: other
  cidrBlock: 10.30.0.0/16
  ipv6CidrBlock: fd00:30::/56
  vswitches:
  - {name: far, cidrBlock: 10.30.1.0/24, ipv6CidrBlock: "fd00:30:0:1::/64", attach: {bridge: gh-far}}
  securityGroups:
  - name: open
    rules:
    - {direction: ingress, protocol: all, source: 0.0.0.0/0}
    - {direction: ingress, protocol: all, source: "::/0"}
  instances:
  - {name: d-1, interfaces: [{mac: 00:16:3e:00:04:01, vswitch: far, privateIp: 10.30.1.10, ipv6Addresses: ["fd00:30:0:1::10"], securityGroups: [open]}]}
`

// closedGateway raises the lab with its declared guests and an outside; every guest answers on port 7 over TCP and UDP.
type closedGateway struct {
	*gateway
	a, b, c, shut, d, outside *netlab.Space
}

func newClosedGateway(t *testing.T) *closedGateway {
	t.Helper()
	g := &closedGateway{gateway: newGateway(t, "uplinks: [up0]")}
	g.outside = g.gateway.outside("10.20.0.0/16", "10.30.0.0/16", "fd00:20::/56", "fd00:30::/56")
	g.start()
	g.apply(closedLab)
	g.a = g.static("a", "gh-left", "00:16:3e:00:01:01", "10.20.1.10", "10.20.1.253", "fd00:20:0:1::10")
	g.b = g.static("b", "gh-left", "00:16:3e:00:01:02", "10.20.1.11", "10.20.1.253", "fd00:20:0:1::11")
	g.c = g.static("c", "gh-right", "00:16:3e:00:02:01", "10.20.2.10", "10.20.2.253", "fd00:20:0:2::10")
	g.shut = g.static("shut", "gh-right", "00:16:3e:00:02:02", "10.20.2.11", "10.20.2.253", "fd00:20:0:2::11")
	g.d = g.static("d", "gh-far", "00:16:3e:00:04:01", "10.30.1.10", "10.30.1.253", "fd00:30:0:1::10")
	for _, s := range []*netlab.Space{g.a, g.b, g.c, g.shut, g.d, g.outside} {
		g.echo(s)
	}
	return g
}

const echoPort = 7

func (g *gateway) echo(s *netlab.Space) {
	g.Helper()
	svc, err := s.Echo(echoPort)
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() { svc.Close() })
}

// reaches tries TCP, UDP and ping to an address, all at once, and names what has come back.
func (g *gateway) reaches(from *netlab.Space, to string, wait time.Duration) string {
	g.Helper()
	addr := netip.MustParseAddr(to)
	got := make([]string, 3)
	done := make(chan error, len(got))
	for i, network := range []string{"tcp", "udp"} {
		go func() {
			ok, err := from.Reach(g.ctx, network, netip.AddrPortFrom(addr, echoPort), wait)
			if ok {
				got[i] = network
			}
			done <- err
		}()
	}
	go func() {
		// The first packet of a guest with a static address may be lost while its port learns whom it holds.
		for deadline := time.Now().Add(wait); got[2] == "" && time.Now().Before(deadline); {
			if from.Ping(g.ctx, to) {
				got[2] = "ping"
			}
		}
		done <- nil
	}()
	for range got {
		if err := <-done; err != nil {
			g.Errorf("%s -> %s: %v", from.Label, to, err)
		}
	}
	return strings.Join(strings.Fields(strings.Join(got, " ")), " ")
}

// open checks that everything gets through.
func (g *gateway) open(from *netlab.Space, to ...string) {
	g.Helper()
	var all sync.WaitGroup
	for _, addr := range to {
		all.Go(func() {
			if got := g.reaches(from, addr, 10*time.Second); got != "tcp udp ping" {
				g.Errorf("%s -> %s: only %q gets through", from.Label, addr, got)
			}
		})
	}
	all.Wait()
}

// leaks names what gets through although nothing should.
func (g *gateway) leaks(from *netlab.Space, to ...string) []string {
	g.Helper()
	found := make([]string, len(to))
	var all sync.WaitGroup
	for i, addr := range to {
		all.Go(func() {
			if got := g.reaches(from, addr, 600*time.Millisecond); got != "" {
				found[i] = fmt.Sprintf("%s -> %s: %s gets through", from.Label, addr, got)
			}
		})
	}
	all.Wait()
	return slices.DeleteFunc(found, func(s string) bool { return s == "" })
}

func (g *closedGateway) controls() {
	g.Helper()
	g.open(g.a, "10.20.1.11", "fd00:20:0:1::11", "10.20.2.10", "fd00:20:0:2::10", outside4, outside6)
	g.open(g.outside, "10.20.1.10", "fd00:20:0:1::10")
}

func TestWhatNobodyAllowedIsRefused(t *testing.T) {
	t.Parallel()
	g := newClosedGateway(t)
	g.controls()
	foreign, err := g.lab.Space("foreign")
	if err == nil {
		err = g.lab.Veth(g.ctx, g.space, "eth9", foreign, "eth0")
	}
	if err != nil {
		t.Fatal(err)
	}
	g.script(g.space, "ip addr add 198.51.100.1/24 dev eth9\nip addr add 2001:db8:9::1/64 dev eth9 nodad\n")
	g.script(foreign, "ip addr add 198.51.100.2/24 dev eth0\nip addr add 2001:db8:9::2/64 dev eth0 nodad\nip route add default via 198.51.100.1\nip route add default via 2001:db8:9::1\n")
	g.echo(foreign)

	check := func(when string) {
		t.Helper()
		t.Run(when, func(t *testing.T) {
			g := &closedGateway{g.in(t), g.a, g.b, g.c, g.shut, g.d, g.outside}
			g.controls()
			var all sync.WaitGroup
			for _, c := range []struct {
				name string
				from *netlab.Space
				to   []string
			}{
				{"a group that admits nobody", g.a, []string{"10.20.2.11", "fd00:20:0:2::11"}},
				{"another VPC", g.a, []string{"10.30.1.10", "fd00:30:0:1::10"}},
				{"another VPC's gateway", g.a, []string{"10.30.1.253", "fd00:30:0:1:ffff:ffff:ffff:fff7"}},
				{"a link that is not an uplink", g.a, []string{"198.51.100.2", "2001:db8:9::2"}},
				{"from a link that is not an uplink", foreign, []string{"10.20.1.10", "fd00:20:0:1::10"}},
				{"the gateway's addresses from there", foreign, []string{"10.20.1.253", "fd00:20:0:1:ffff:ffff:ffff:fff7"}},
				{"the gateway's addresses from the uplink", g.outside, []string{"10.20.1.253", "fd00:20:0:1:ffff:ffff:ffff:fff7"}},
				{"the gateway's own address at the uplink", g.a, []string{uplink4, uplink6}},
			} {
				all.Go(func() {
					for _, found := range g.leaks(c.from, c.to...) {
						g.Errorf("%s: %s", c.name, found)
					}
				})
			}
			all.Wait()
			t.Run("forged addresses", func(t *testing.T) {
				forger := g.in(t)
				forger.forge(g.a, g.c, "00:16:3e:00:01:01", "gh-left", []forgery{
					{"a neighbour's", "10.20.1.11", "fd00:20:0:1::11"},
					{"a free one of the vSwitch", "10.20.1.99", "fd00:20:0:1::99"},
					{"one of another vSwitch", "10.20.2.11", "fd00:20:0:2::11"},
					{"one of another VPC", "10.30.1.10", "fd00:30:0:1::10"},
					{"the gateway's", "10.20.1.253", "fd00:20:0:1:ffff:ffff:ffff:fff7"},
					{"one from outside", outside4, outside6},
				})
				forger.forge(g.outside, g.c, "", "up0", []forgery{{"an instance's, from outside", "10.20.1.10", "fd00:20:0:1::10"}})
			})
		})
	}
	check("with the daemon")
	g.kill()
	check("after its death")
	g.start()
	check("after its restart")
	g.stop()
	check("after its end")
}

// forgery is a pair of source addresses that the sender does not have.
type forgery struct{ name, v4, v6 string }

// forge sends UDP packets from one host to another with each source address, and then from the right one as a control:
// only that may arrive. A host with no MAC given has its own.
func (g *gateway) forge(from, to *netlab.Space, mac, gatewayLink string, list []forgery) {
	g.Helper()
	hear, err := sniff(to)
	if err != nil {
		g.Fatal(err)
	}
	defer unix.Close(hear)
	var src, router net.HardwareAddr
	link := func(s *netlab.Space, name string) (hw net.HardwareAddr, index int) {
		g.Helper()
		err := s.Do(func() error {
			ifi, err := net.InterfaceByName(name)
			if err == nil {
				hw, index = ifi.HardwareAddr, ifi.Index
			}
			return err
		})
		if err != nil {
			g.Fatal(err)
		}
		return hw, index
	}
	src, index := link(from, "eth0")
	router, _ = link(g.space, gatewayLink)
	if mac != "" && src.String() != mac {
		g.Fatalf("%s has the MAC %s", from.Label, src)
	}
	right := forgery{"the right one", g.own(from, "-4"), g.own(from, "-6")}
	target := [2]string{g.own(to, "-4"), g.own(to, "-6")}
	all := append(append([]forgery{}, list...), right)
	sent := map[uint32]string{}
	for n, f := range all {
		for i, addr := range []string{f.v4, f.v6} {
			id := uint32(n*2 + i + 1)
			sent[id] = f.name + ": " + addr
			seg := segment{
				srcMAC: vpc.MAC(src), dstMAC: vpc.MAC(router), src: netip.MustParseAddr(addr), dst: netip.MustParseAddr(target[i]),
				protocol: vpc.ProtocolUDP, srcPort: uint16(40000 + id), dstPort: echoPort, id: id,
			}
			err := from.Do(func() error {
				fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return unix.Sendto(fd, seg.bytes(), 0, &unix.SockaddrLinklayer{Ifindex: index})
			})
			if err != nil {
				g.Fatal(err)
			}
		}
	}
	// Packets of one host stay in order, so the controls come last.
	last := uint32(len(all) * 2)
	heard := map[uint32]bool{}
	g.eventually("the controls arrive", func() error {
		for _, id := range drain(hear) {
			heard[id] = true
		}
		if !heard[last] || !heard[last-1] {
			return fmt.Errorf("heard %v", heard)
		}
		return nil
	})
	for id := range heard {
		if id < last-1 {
			g.Errorf("%s reaches %s with an address that is not its own: %s", from.Label, to.Label, sent[id])
		}
	}
}

// own gives the global address of a host's eth0 in a family.
func (g *gateway) own(s *netlab.Space, family string) string {
	g.Helper()
	f := strings.Fields(g.script(s, "ip "+family+" -o addr show dev eth0 scope global"))
	if len(f) < 4 {
		g.Fatalf("%s has no address (%s)", s.Label, family)
	}
	addr, _, _ := strings.Cut(f[3], "/")
	return addr
}

// sniff opens a socket that hears all that a host gets.
func sniff(s *netlab.Space) (fd int, err error) {
	err = s.Do(func() error {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
		return err
	})
	return fd, err
}

// drain gives the numbers of the probes that a socket has heard come in.
func drain(fd int) []uint32 {
	var ids []uint32
	buf := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return ids
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); !ok || ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if seg, ok := parseFrame(buf[:n]); ok && seg.id != 0 {
			ids = append(ids, seg.id)
		}
	}
}

func TestAPortPluggedInReachesNobodyUnlessItsMACIsKnown(t *testing.T) {
	t.Parallel()
	g := newClosedGateway(t)
	const macX, macY = "00:16:3e:00:09:01", "00:16:3e:00:09:02"
	for n, when := range []string{"while the daemon runs", "while it is dead", "after its restart"} {
		dead := when == "while it is dead"
		switch when {
		case "while it is dead":
			g.kill()
		case "after its restart":
			g.start()
		}
		t.Run(when, func(t *testing.T) {
			g := &closedGateway{g.in(t), g.a, g.b, g.c, g.shut, g.d, g.outside}
			// Two strangers on one vSwitch, with free addresses of it, one of them on link.
			x := g.static(fmt.Sprintf("x%d", n), "gh-left", macX, "10.20.1.101", "10.20.1.253", "fd00:20:0:1::101")
			y := g.static(fmt.Sprintf("y%d", n), "gh-left", macY, "10.20.1.102", "10.20.1.253", "fd00:20:0:1::102")
			for s, addr := range map[*netlab.Space]string{x: "fd00:20:0:1::201", y: "fd00:20:0:1::202"} {
				g.echo(s)
				g.script(s, "ip -6 addr add "+addr+"/64 dev eth0 nodad\n")
			}
			hear, err := sniff(y)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(hear)
			var all sync.WaitGroup
			for _, try := range []struct {
				from *netlab.Space
				to   []string
			}{
				{x, []string{"10.20.1.102", "fd00:20:0:1::102", "fd00:20:0:1::202", "10.20.1.10", "fd00:20:0:1::10"}},
				{x, []string{"10.20.2.10", "fd00:20:0:2::10", outside4, outside6}},
				{g.a, []string{"10.20.1.101", "fd00:20:0:1::101"}},
				{g.outside, []string{"10.20.1.101", "fd00:20:0:1::101"}},
			} {
				all.Go(func() {
					for _, found := range g.leaks(try.from, try.to...) {
						g.Error(found)
					}
				})
			}
			all.Wait()
			if resolved := g.script(x, "ip neigh show dev eth0"); strings.Contains(resolved, macY) {
				t.Errorf("one stranger has learned the other's MAC:\n%s", resolved)
			}
			// Without the daemon a port is not isolated when it comes, and iptables sees only IP, neighbour discovery included.
			if frames := framesFrom(hear, macX, dead); frames > 0 {
				t.Errorf("%d frames of one stranger came out at the other", frames)
			}
			g.open(g.a, "10.20.1.11", "fd00:20:0:1::11", "10.20.2.10", "fd00:20:0:2::10")
			g.script(g.space, "ip link del "+portOf(x.Label)+"\nip link del "+portOf(y.Label)+"\n")
		})
	}
}

// framesFrom counts what a socket has heard from a MAC, either all frames or only IP.
func framesFrom(fd int, mac string, onlyIP bool) int {
	n := 0
	buf := make([]byte, 4096)
	for {
		size, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return n
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_OUTGOING || size < 14 || net.HardwareAddr(buf[6:12]).String() != mac {
			continue
		}
		if ip := ll.Protocol == htons(unix.ETH_P_IP) || ll.Protocol == htons(unix.ETH_P_IPV6); ip || !onlyIP {
			n++
		}
	}
}
