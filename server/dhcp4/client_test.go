package dhcp4

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"gatehouse/internal/netlab"
	"gatehouse/server/dhcp"
	"gatehouse/server/lease"
	"gatehouse/server/port"
	"gatehouse/vpc"
)

// gateway is a server in a namespace of its own, with real links and real clients.
type gateway struct {
	*dhcp.Server
	ports  *port.Set
	t      *testing.T
	ctx    context.Context
	lab    *netlab.Lab
	space  *netlab.Space
	leases *lease.Engine
	store  *memoryStore
	holds  *bridgeHolder
}

// bridgeHolder pins MACs to ports as the link manager does: the bridge then takes frames from them.
type bridgeHolder struct {
	ctx   context.Context
	space *netlab.Space
	mu    sync.Mutex
	port  map[vpc.MAC]string
}

func (h *bridgeHolder) Hold(port string, mac vpc.MAC) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch h.port[mac] {
	case port:
		return nil
	case "":
		if _, err := h.space.Run(h.ctx, "bridge", "fdb", "replace", mac.String(), "dev", port, "master", "static", "sticky"); err != nil {
			return err
		}
		h.port[mac] = port
		return nil
	}
	return fmt.Errorf("%s is held by %s", mac, h.port[mac])
}

// testEnroller makes the instance by putting another snapshot in force.
type testEnroller struct{ snap *vpc.Snapshot }

func (e testEnroller) Enrol(context.Context, string, vpc.MAC, string) (*vpc.Snapshot, error) {
	return e.snap, nil
}

// shortLease makes leases short enough to see them renewed.
func shortLease(v *vpc.VPCSpec) { v.DHCPOptions.LeaseTime = vpc.Duration(6 * time.Second) }

// newGateway raises a gateway with the bridge of vSwitch web; change may alter the lease engine's settings.
func newGateway(t *testing.T, enroller lease.Enroller, change ...func(*lease.Config)) *gateway {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	lab, err := netlab.New("dhcp4")
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, ctx: ctx, lab: lab, store: &memoryStore{leases: map[netip.Addr]vpc.Lease{}}}
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	if g.space, err = lab.Space("gw"); err != nil {
		t.Fatal(err)
	}
	g.script("ip link add " + webName + " type bridge\nip addr add 10.20.1.253/24 dev " + webName + "\nip link set " + webName + " up\n")
	g.holds = &bridgeHolder{ctx: ctx, space: g.space, port: map[vpc.MAC]string{}}
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	cfg := lease.Config{Store: g.store, Enroller: enroller, Logger: logger}
	for _, c := range change {
		c(&cfg)
	}
	g.leases = lease.New(cfg, nil)
	g.Server = New(dhcp.Config{Leases: g.leases, Holder: g.holds, Logger: logger})
	g.ports = port.NewSet(logger, g.Server)
	t.Cleanup(func() {
		if err := g.ports.Close(); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() { _ = g.leases.Run(ctx) }) // ends with the context's error
	// Run opens sockets again when links change, so it needs the gateway's namespace too.
	running.Go(func() { _ = g.space.Do(func() error { return g.Run(ctx) }) })
	return g
}

func (g *gateway) script(s string) {
	g.t.Helper()
	if _, err := g.space.Script(g.ctx, s); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) in(f func() error) {
	g.t.Helper()
	if err := g.space.Do(f); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) set(snap *vpc.Snapshot) {
	g.leases.SetSnapshot(snap)
	g.in(func() error { g.SetSnapshot(snap); return nil })
}

// plug serves a port.
func (g *gateway) plug(name, vswitch string) {
	g.t.Helper()
	g.in(func() error {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		return g.ports.Add(port.Port{Index: ifi.Index, Name: name, VSwitch: vswitch})
	})
}

// guest plugs a guest into a locked and isolated port of vSwitch web, as the link manager makes them.
func (g *gateway) guest(label string, mac vpc.MAC) *netlab.Space {
	g.t.Helper()
	s, err := g.lab.Guest(g.ctx, label, g.space, "p-"+label, webName, mac.String())
	if err != nil {
		g.t.Fatal(err)
	}
	g.script("bridge link set dev p-" + label + " isolated on locked on learning off flood off mcast_flood off\n")
	g.plug("p-"+label, webID)
	return s
}

func (g *gateway) eventually(what string, f func() error) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.ctx, 30*time.Second)
	defer cancel()
	if err := netlab.Eventually(ctx, f); err != nil {
		g.t.Fatalf("%s: %v\nstats: %+v", what, err, g.Stats())
	}
}

// hasAddress waits until a guest's eth0 has exactly this address.
func (g *gateway) hasAddress(s *netlab.Space, prefix string) {
	g.t.Helper()
	g.eventually("the guest's address", func() error {
		out, err := s.Run(g.ctx, "ip", "-4", "-o", "addr", "show", "dev", "eth0")
		if err == nil && (!strings.Contains(out, " "+prefix+" ") || strings.Count(out, "inet ") != 1) {
			err = fmt.Errorf("eth0 has %q, want %s", out, prefix)
		}
		return err
	})
}

func (g *gateway) hasState(a string, want vpc.LeaseState) {
	g.t.Helper()
	g.eventually("the stored lease", func() error {
		if l := g.store.get(addr(a)); l.State != want {
			return fmt.Errorf("%s is %q, want %q", a, l.State, want)
		}
		return nil
	})
}

func (g *gateway) contains(s *netlab.Space, want string, command ...string) {
	g.t.Helper()
	out, err := s.Run(g.ctx, command[0], command[1:]...)
	if err != nil || !strings.Contains(out, want) {
		g.t.Errorf("%v in the guest: %q, %v; want %q", command, out, err, want)
	}
}

func TestDHClientRenewsAndFollowsItsReservation(t *testing.T) {
	g := newGateway(t, nil)
	g.set(spec(shortLease))
	s := g.guest("a", webMAC)
	if errs := g.Health(); len(errs) != 2 { // the links of the two other vSwitches are not there
		t.Errorf("health: %v", errs)
	}

	if err := s.DHClient(g.ctx); err != nil {
		t.Fatal(err)
	}
	g.hasAddress(s, "10.20.1.10/24")
	g.hasState("10.20.1.10", vpc.LeaseBound)
	g.contains(s, "default via 10.20.1.253", "ip", "route")
	g.contains(s, "nameserver 10.20.1.253", "cat", "/etc/resolv.conf")
	g.contains(s, "research.internal", "cat", "/etc/resolv.conf")
	if !s.Ping(g.ctx, "10.20.1.253") {
		t.Errorf("the gateway does not answer: its MAC is not held on the port")
	}

	first := g.store.get(addr("10.20.1.10"))
	discovers := g.Stats().Received["DISCOVER"]
	g.eventually("a renewal", func() error {
		if l := g.store.get(addr("10.20.1.10")); !l.Expires.After(first.Expires) {
			return fmt.Errorf("the lease still ends at %s", l.Expires)
		}
		return nil
	})
	if got := g.Stats().Received["DISCOVER"]; got != discovers {
		t.Errorf("the client started anew instead of renewing: %d DISCOVERs, then %d", discovers, got)
	}

	moved := spec(func(v *vpc.VPCSpec) {
		shortLease(v)
		v.Instances[0].Interfaces[0].PrivateIP = addr("10.20.1.40")
	})
	g.set(moved)
	g.eventually("the new address after a NAK", func() error {
		if g.store.get(addr("10.20.1.40")).State != vpc.LeaseBound {
			return errors.New("not bound")
		}
		return nil
	})
	g.hasAddress(s, "10.20.1.40/24")
	if g.Stats().Sent["NAK"] == 0 {
		t.Errorf("moved without a NAK")
	}
}

func TestDHClientRebootsAndGivesItsLeaseBack(t *testing.T) {
	g := newGateway(t, nil)
	g.set(spec(nil))
	s := g.guest("a", webMAC)
	if err := s.DHClient(g.ctx); err != nil {
		t.Fatal(err)
	}
	g.hasState("10.20.1.10", vpc.LeaseBound)
	if _, err := s.Run(g.ctx, "dhclient", "-4", "-x", "-pf", "/run/dhclient.pid", "-lf", "/var/lib/dhcp/dhclient.leases", "eth0"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Script(g.ctx, "ip addr flush dev eth0\n"); err != nil {
		t.Fatal(err)
	}
	discovers := g.Stats().Received["DISCOVER"]
	if err := s.DHClient(g.ctx); err != nil {
		t.Fatal(err)
	}
	g.hasAddress(s, "10.20.1.10/24")
	if got := g.Stats().Received["DISCOVER"]; got != discovers {
		t.Errorf("a rebooted client with a lease asked for a new one: %d DISCOVERs, then %d", discovers, got)
	}

	if err := s.DHClientRelease(g.ctx); err != nil {
		t.Fatal(err)
	}
	g.hasState("10.20.1.10", vpc.LeaseReleased)
}

// udhcpc runs busybox's client once; its script writes what it was told to /run/told and sets address and routes.
func (g *gateway) udhcpc(s *netlab.Space, args ...string) error {
	g.t.Helper()
	const script = `#!/bin/sh
env > /run/told
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr replace $ip/$mask dev $interface
set -- $staticroutes
while [ $# -ge 2 ]; do
	if [ $2 = 0.0.0.0 ]; then ip route replace $1 dev $interface; else ip route replace $1 via $2 dev $interface; fi
	shift 2
done
`
	if _, err := s.RunInput(g.ctx, strings.NewReader(script), "sh", "-c", "cat > /run/script && chmod +x /run/script"); err != nil {
		g.t.Fatal(err)
	}
	_, err := s.Run(g.ctx, "udhcpc", append([]string{"-i", "eth0", "-q", "-n", "-f", "-t", "3", "-T", "1", "-s", "/run/script"}, args...)...)
	return err
}

func TestUdhcpcOnAForeignLinkSeesOnlyTheGateway(t *testing.T) {
	g := newGateway(t, nil)
	s, err := g.lab.Guest(g.ctx, "b", g.space, "eth1", "", physMAC.String())
	if err != nil {
		t.Fatal(err)
	}
	g.script("ip addr add 10.20.2.253/32 dev eth1\nip route add 10.20.2.0/24 dev eth1\n")
	g.set(spec(nil))
	g.plug("eth1", physID)
	if err := g.udhcpc(s, "-O", "121", "-O", "search"); err != nil {
		t.Fatal(err)
	}
	g.hasAddress(s, "10.20.2.10/32")
	g.contains(s, "subnet=255.255.255.255", "cat", "/run/told")
	g.contains(s, "staticroutes=10.20.2.253/32 0.0.0.0 0.0.0.0/0 10.20.2.253", "cat", "/run/told")
	g.contains(s, "serverid=10.20.2.253", "cat", "/run/told")
	if !s.Ping(g.ctx, "10.20.2.253") {
		t.Errorf("the gateway does not answer")
	}
}

func TestAnUnknownMACIsEnrolledAndServed(t *testing.T) {
	after := spec(func(v *vpc.VPCSpec) {
		i := &vpc.InstanceSpec{ID: "i-new", Name: "new", Enrolled: true, Interfaces: []*vpc.InterfaceSpec{{ID: "eni-new", MAC: stranger, VSwitch: "web", PrivateIP: addr("10.20.1.77")}}}
		i.SetDefaults()
		v.Instances = append(v.Instances, i)
	})
	after.Revision = 2
	g := newGateway(t, testEnroller{after})
	g.set(spec(nil))
	s := g.guest("c", stranger)
	if err := g.udhcpc(s); err != nil {
		t.Fatalf("%v\nstats: %+v", err, g.Stats())
	}
	g.hasAddress(s, "10.20.1.77/24")
	g.hasState("10.20.1.77", vpc.LeaseBound)

	// Another guest that speaks in its name from its own port gets nowhere.
	thief := g.guest("d", stranger)
	if err := g.udhcpc(thief); err == nil {
		t.Errorf("a MAC that another port holds was served")
	}
	if g.Stats().Dropped[dhcp.DropPort.String()] == 0 {
		t.Errorf("nothing counted: %+v", g.Stats())
	}
}

func TestADeclinedAddressIsQuarantined(t *testing.T) {
	g := newGateway(t, nil)
	g.set(spec(nil))
	s, err := g.lab.Guest(g.ctx, "e", g.space, "eth1", "", physMAC.String())
	if err != nil {
		t.Fatal(err)
	}
	g.plug("eth1", physID)
	// Somebody on the guest's link has the address already: its ARP probe meets an answer.
	g.script("ip addr add 10.20.2.10/24 dev eth1\n")
	if err := g.udhcpc(s, "-a", "-A", "1"); err == nil {
		t.Fatal("udhcpc took an address that is in use")
	}
	g.hasState("10.20.2.10", vpc.LeaseDeclined)
	if g.Stats().Dropped[dhcp.DropQuarantined.String()] == 0 {
		t.Errorf("the client was not refused afterwards: %+v", g.Stats())
	}
}

// foreignSwitch makes eth1 a cable to a switch that is not the gateway's, and returns its space with the bridge br0.
func (g *gateway) foreignSwitch() *netlab.Space {
	g.t.Helper()
	lan, err := g.lab.Space("switch")
	if err == nil {
		err = g.lab.Veth(g.ctx, g.space, "eth1", lan, "trunk")
	}
	if err == nil {
		_, err = lan.Script(g.ctx, "ip link add br0 type bridge\nip link set br0 up\nip link set trunk master br0\n")
	}
	if err != nil {
		g.t.Fatal(err)
	}
	return lan
}

func TestAnAddressThatSomebodyUsesIsNotOffered(t *testing.T) {
	g := newGateway(t, nil, func(c *lease.Config) { c.Quarantine = 4 * time.Second })
	g.set(spec(nil))
	lan := g.foreignSwitch()
	squatter, err := g.lab.Guest(g.ctx, "squatter", lan, "s-1", "br0", stranger.String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := g.lab.Guest(g.ctx, "k", lan, "s-2", "br0", physMAC.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := squatter.Script(g.ctx, "ip addr add 10.20.2.10/24 dev eth0\n"); err != nil {
		t.Fatal(err)
	}
	g.plug("eth1", physID)
	g.speak(s, physMAC, message(dhcpv4.MessageTypeDiscover, physMAC))
	g.hasState("10.20.2.10", vpc.LeaseDeclined)
	st := g.Stats()
	if st.Sent["OFFER"] != 0 || st.Received["DISCOVER"] != 1 || st.Dropped[dhcp.DropConflict.String()] != 1 || g.leases.Stats().Conflicts != 1 {
		t.Errorf("stats %+v, %+v", st, g.leases.Stats())
	}

	if _, err := squatter.Script(g.ctx, "ip addr flush dev eth0\n"); err != nil {
		t.Fatal(err)
	}
	g.eventually("a lease when the quarantine is over", func() error { return g.udhcpc(s) })
	g.hasAddress(s, "10.20.2.10/32")
}

func TestWhoIsNotOnTheClientsLinkKeepsNobodyFromItsAddress(t *testing.T) {
	g := newGateway(t, nil)
	g.set(spec(nil))
	s, other := g.guest("l", webMAC), g.guest("m", webMAC2)
	if _, err := other.Script(g.ctx, "ip addr add 10.20.1.10/24 dev eth0\n"); err != nil {
		t.Fatal(err)
	}
	if err := g.udhcpc(s); err != nil {
		t.Fatalf("%v\nstats: %+v", err, g.Stats())
	}
	g.hasAddress(s, "10.20.1.10/24")
}

func TestAProbedMessageIsReceivedOnce(t *testing.T) {
	g := newGateway(t, nil)
	g.set(spec(nil))
	s := g.guest("o", webMAC)
	g.speak(s, webMAC, message(dhcpv4.MessageTypeDiscover, webMAC))
	g.eventually("an offer", func() error {
		if g.Stats().Sent["OFFER"] == 0 {
			return errors.New("none was sent")
		}
		return nil
	})
	if st := g.Stats(); st.Received["DISCOVER"] != 1 || st.Sent["OFFER"] != 1 {
		t.Errorf("stats: %+v", st)
	}
}

func TestAClientThatStillHasItsAddressIsNoConflict(t *testing.T) {
	g := newGateway(t, nil)
	g.set(spec(nil))
	s := g.guest("n", webMAC)
	if _, err := s.Script(g.ctx, "ip addr add 10.20.1.10/24 dev eth0\n"); err != nil {
		t.Fatal(err)
	}
	if err := g.udhcpc(s); err != nil {
		t.Fatalf("%v\nstats: %+v", err, g.Stats())
	}
	g.hasState("10.20.1.10", vpc.LeaseBound)
}

func TestSilenceWhileTheStoreRefuses(t *testing.T) {
	g := newGateway(t, nil)
	g.set(spec(nil))
	s := g.guest("f", webMAC)
	g.store.refuse(errDisk)
	if err := g.udhcpc(s); err == nil {
		t.Fatal("an address was given that is not on the disk")
	}
	st := g.Stats()
	if st.Sent["ACK"] != 0 || st.Sent["OFFER"] == 0 || st.Dropped[dhcp.DropStore.String()] == 0 {
		t.Errorf("stats: %+v", st)
	}
	if err := g.leases.Health(); !errors.Is(err, errDisk) {
		t.Errorf("health: %v", err)
	}
	g.store.refuse(nil)
	if err := g.udhcpc(s); err != nil {
		t.Errorf("after the store recovered: %v", err)
	}
}

func TestAPortThatGoesDownAndUpIsServedAgain(t *testing.T) {
	g := newGateway(t, nil)
	g.set(spec(nil))
	s := g.guest("g", webMAC)
	g.script("ip link set p-g down\nip link set p-g up\n")
	if err := g.udhcpc(s); err != nil {
		t.Fatalf("%v\nstats: %+v", err, g.Stats())
	}
	g.in(func() error {
		ifi, err := net.InterfaceByName("p-g")
		if err == nil {
			err = g.ports.Remove(ifi.Index)
		}
		return err
	})
	if got := g.ports.Stats().Ports; got != 0 {
		t.Errorf("%d ports after the only one was removed", got)
	}
	if err := g.udhcpc(s); err == nil {
		t.Errorf("a removed port is served")
	}
}

// speak sends a frame with a message from a guest's eth0.
func (g *gateway) speak(s *netlab.Space, src vpc.MAC, m *dhcpv4.DHCPv4) {
	g.t.Helper()
	err := s.Do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		p, err := port.Open(port.Port{Index: ifi.Index, Name: "eth0"}, []bpf.Instruction{bpf.RetConstant{Val: 0}})
		if err != nil {
			return err
		}
		frame := buildFrame(src, broadcastMAC, addr("0.0.0.0"), addr("255.255.255.255"), m.ToBytes())
		frame[port.EtherSize+ipSize+3] = serverPort
		return errors.Join(p.Send(frame), p.Close())
	})
	if err != nil {
		g.t.Fatal(err)
	}
}

func TestWhatAGuestMayNotSay(t *testing.T) {
	g := newGateway(t, nil)
	g.set(spec(nil))
	s := g.guest("h", webMAC)
	for _, tt := range []struct {
		name string
		src  vpc.MAC
		msg  *dhcpv4.DHCPv4
		drop dhcp.Drop
	}{
		{"a message in the name of another MAC", webMAC, message(dhcpv4.MessageTypeRelease, webMAC2, ciaddr("10.20.1.11")), dhcp.DropSpoofed},
		{"a relay's message", webMAC, message(dhcpv4.MessageTypeDiscover, webMAC, giaddr("10.20.1.10")), dhcp.DropRelay},
		{"a server's message", webMAC, func() *dhcpv4.DHCPv4 {
			m := message(dhcpv4.MessageTypeOffer, webMAC)
			m.OpCode = dhcpv4.OpcodeBootReply
			return m
		}(), dhcp.DropNotClient},
	} {
		g.speak(s, tt.src, tt.msg)
		g.eventually(tt.name, func() error {
			if g.Stats().Dropped[tt.drop.String()] == 0 {
				return fmt.Errorf("%q is not counted", tt.drop)
			}
			return nil
		})
	}
	if sent := g.Stats().Sent; len(sent) != 0 {
		t.Errorf("answered: %v", sent)
	}
}

func TestRelayedClientsAreServedThroughTheirRelay(t *testing.T) {
	g := newGateway(t, nil)
	outside, err := g.lab.Space("relay")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.lab.Veth(g.ctx, g.space, "wan", outside, "eth0"); err != nil {
		t.Fatal(err)
	}
	g.script("ip addr add 10.9.0.1/24 dev wan\nip route add 10.20.3.0/24 via 10.9.0.2\n")
	if _, err := outside.Script(g.ctx, "ip addr add 10.9.0.2/24 dev eth0\nip addr add 10.9.0.3/24 dev eth0\nip addr add 10.20.3.1/32 dev lo\n"); err != nil {
		t.Fatal(err)
	}
	g.set(spec(nil))

	open := func(a string) *net.UDPConn {
		var c *net.UDPConn
		if err := outside.Do(func() (err error) {
			c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr(a), serverPort)))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	to := netip.AddrPortFrom(addr("10.9.0.1"), serverPort)
	send := func(c *net.UDPConn, m *dhcpv4.DHCPv4) {
		if _, err := c.WriteToUDPAddrPort(m.ToBytes(), to); err != nil {
			t.Fatal(err)
		}
	}
	relaySide, guestSide, impostor := open("10.9.0.2"), open("10.20.3.1"), open("10.9.0.3")
	info := option(dhcpv4.OptionRelayAgentInformation, 1, 2, 'p', '7')

	send(impostor, message(dhcpv4.MessageTypeDiscover, farMAC, giaddr("10.20.3.1")))
	send(relaySide, message(dhcpv4.MessageTypeDiscover, webMAC, giaddr("10.20.1.253"))) // a vSwitch that does not name it
	g.eventually("what is not that relay's to ask", func() error {
		if got := g.Stats().Dropped[dhcp.DropRelay.String()]; got != 2 {
			return fmt.Errorf("%d dropped, want 2", got)
		}
		return nil
	})

	receive := func() *dhcpv4.DHCPv4 {
		buf := make([]byte, 2048)
		if err := guestSide.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, _, err := guestSide.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatalf("no reply at giaddr: %v; stats %+v", err, g.Stats())
		}
		return decoded(t, buf[:n])
	}
	send(relaySide, message(dhcpv4.MessageTypeDiscover, farMAC, giaddr("10.20.3.1"), info))
	offer := receive()
	if offer.MessageType() != dhcpv4.MessageTypeOffer || unlessZero(offer.YourIPAddr) != addr("10.20.3.10") || string(offer.Options[82]) != "\x01\x02p7" {
		t.Fatalf("offer:\n%s", offer.Summary())
	}
	send(relaySide, message(dhcpv4.MessageTypeRequest, farMAC, giaddr("10.20.3.1"), info, requested("10.20.3.10"), server("10.20.3.253")))
	if ack := receive(); ack.MessageType() != dhcpv4.MessageTypeAck {
		t.Fatalf("ack:\n%s", ack.Summary())
	}
	g.hasState("10.20.3.10", vpc.LeaseBound)

	// Without relays the port is left to others on links that are not ours.
	g.set(spec(func(v *vpc.VPCSpec) { v.VSwitches[2].Attach = vpc.AttachSpec{Bridge: "gh-far"} }))
	g.eventually("the port on a link that is not ours", func() error {
		return g.space.Do(func() error {
			l, err := port.Reserve("udp4", "wan", serverPort, false)
			if err != nil {
				return err
			}
			return l.Close()
		})
	})
}

func TestAnotherServerOnThePortIsNamed(t *testing.T) {
	g := newGateway(t, nil)
	only := spec(func(v *vpc.VPCSpec) { v.VSwitches, v.Instances = v.VSwitches[:1], v.Instances[:2] })
	var other *net.UDPConn
	g.in(func() (err error) {
		other, err = net.ListenUDP("udp4", &net.UDPAddr{Port: serverPort})
		return err
	})
	g.set(only)
	errs := g.Health()
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "udp port 67 on "+webName+" is taken: another DHCP server") {
		t.Fatalf("health: %v", errs)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	// A process that is being started may hold the socket for a moment longer.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := netlab.Eventually(ctx, func() error {
		g.set(only)
		return errors.Join(g.Health()...)
	}); err != nil {
		t.Errorf("after the other server ended: %v", err)
	}
	g.in(func() error {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: serverPort})
		if err == nil {
			err = errors.Join(errors.New("the port can be taken a second time"), c.Close())
		} else {
			err = nil
		}
		return err
	})
}

func TestTheKernelDoesNotRefuseWhatThePortsRead(t *testing.T) {
	g := newGateway(t, nil)
	g.set(spec(nil))
	s := g.guest("i", webMAC)
	if err := g.udhcpc(s); err != nil {
		t.Fatal(err)
	}
	g.hasAddress(s, "10.20.1.10/24")
	dial := func(port uint16) (c *net.UDPConn) {
		if err := s.Do(func() (err error) {
			c, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr("10.20.1.253"), port)))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		return c
	}
	served, closed := dial(serverPort), dial(serverPort+2)
	read := func(c *net.UDPConn, deadline time.Time) error {
		if err := c.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		_, err := c.Read(make([]byte, 1))
		return err
	}
	// The refusal of the later datagram has come: one of the earlier datagram would be here too.
	if err := read(closed, time.Now().Add(20*time.Second)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("a closed port: %v", err)
	}
	if err := read(served, time.Now().Add(time.Millisecond)); errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("port 67 is refused by the kernel: %v", err)
	}
}
