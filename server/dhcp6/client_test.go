package dhcp6

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

	"github.com/insomniacslk/dhcp/dhcpv6"

	"gatehouse/internal/netlab"
	"gatehouse/server/dhcp"
	"gatehouse/server/lease"
	"gatehouse/server/port"
	"gatehouse/vpc"
)

// gateway is a server in a namespace of its own, with real links.
type gateway struct {
	*dhcp.Server
	ports  *port.Set
	t      *testing.T
	ctx    context.Context
	lab    *netlab.Lab
	space  *netlab.Space
	leases *lease.Engine
	store  *memoryStore
}

// newGateway raises a gateway with the bridge of vSwitch web; change may alter the lease engine's settings.
func newGateway(t *testing.T, change ...func(*lease.Config)) *gateway {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	lab, err := netlab.New("dhcp6")
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
	g.script("ip link add " + webName + " type bridge\nip link set " + webName + " up\n")
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	cfg := lease.Config{Store: g.store, Logger: logger}
	for _, c := range change {
		c(&cfg)
	}
	g.leases = lease.New(cfg, nil)
	g.Server = New(Config{DUID: serverDUID, Config: dhcp.Config{Leases: g.leases, Logger: logger}})
	g.ports = port.NewSet(logger, g.Server)
	t.Cleanup(func() {
		if err := g.ports.Close(); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() { _ = g.leases.Run(ctx) }) // ends with the context's error
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

func (g *gateway) eventually(what string, f func() error) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.ctx, 30*time.Second)
	defer cancel()
	if err := netlab.Eventually(ctx, f); err != nil {
		g.t.Fatalf("%s: %v\nstats: %+v", what, err, g.Stats())
	}
}

// plug serves a port of vSwitch web.
func (g *gateway) plug(name string) {
	g.t.Helper()
	g.in(func() error {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		return g.ports.Add(port.Port{Index: ifi.Index, Name: name, VSwitch: webID})
	})
}

// linkLocal waits until a guest's eth0 has an address to send from.
func (g *gateway) linkLocal(s *netlab.Space) {
	g.t.Helper()
	g.eventually("the guest's link-local address", func() error {
		out, err := s.Run(g.ctx, "ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link")
		if err == nil && (out == "" || strings.Contains(out, "tentative")) {
			err = fmt.Errorf("not yet: %q", out)
		}
		return err
	})
}

// dhclient asks until it has an address, or for at most some seconds.
func dhclient(ctx context.Context, s *netlab.Space, seconds int) error {
	_, err := s.Script(ctx, fmt.Sprintf("timeout %d dhclient -6 -1 -pf /run/dhclient6.pid -lf /var/lib/dhcp/dhclient6.leases eth0\n", seconds))
	return err
}

func TestSilenceWhileTheStoreRefuses(t *testing.T) {
	g := newGateway(t)
	g.set(spec(nil))
	s, err := g.lab.Guest(g.ctx, "a", g.space, "p-a", webName, webMAC.String())
	if err != nil {
		t.Fatal(err)
	}
	// As the link manager makes a port: the bridge takes nothing from a MAC that it does not hold.
	g.script("bridge link set dev p-a isolated on locked on learning off flood off mcast_flood off\n")
	g.plug("p-a")
	g.linkLocal(s)
	g.store.refuse(errDisk)
	if err := dhclient(g.ctx, s, 6); err == nil {
		t.Fatal("an address was given that is not on the disk")
	}
	st := g.Stats()
	if st.Sent["REPLY"] != 0 || st.Sent["ADVERTISE"] == 0 || st.Dropped[dhcp.DropStore.String()] == 0 {
		t.Errorf("stats: %+v", st)
	}
	if err := g.leases.Health(); !errors.Is(err, errDisk) {
		t.Errorf("health: %v", err)
	}
	g.store.refuse(nil)
	if err := dhclient(g.ctx, s, 30); err != nil {
		t.Fatalf("after the store recovered: %v", err)
	}
	if l := g.store.get(addr("fd00:20:0:1::10")); l.State != vpc.LeaseBound || l.MAC != webMAC || l.DUID == "" {
		t.Errorf("lease %+v", l)
	}
	if out, err := s.Run(g.ctx, "ip", "-6", "-o", "addr", "show", "dev", "eth0"); err != nil || !strings.Contains(out, "fd00:20:0:1::10/128 ") {
		t.Errorf("the guest has %q, %v", out, err)
	}
}

func TestAnAddressThatSomebodyUsesIsNotOffered(t *testing.T) {
	g := newGateway(t, func(c *lease.Config) { c.Quarantine = 4 * time.Second })
	g.set(spec(nil))
	// Behind one port of the bridge there is a switch with the client and with somebody who has its address.
	lan, err := g.lab.Space("switch")
	if err == nil {
		err = g.lab.Veth(g.ctx, g.space, "p-lan", lan, "trunk")
	}
	if err == nil {
		_, err = lan.Script(g.ctx, "ip link add br0 type bridge\nip link set br0 up\nip link set trunk master br0\n")
	}
	if err != nil {
		t.Fatal(err)
	}
	g.script("ip link set p-lan master " + webName + "\nbridge link set dev p-lan isolated on locked on learning off flood off mcast_flood off\n")
	g.plug("p-lan")
	squatter, err := g.lab.Guest(g.ctx, "squatter", lan, "s-1", "br0", stranger.String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := g.lab.Guest(g.ctx, "b", lan, "s-2", "br0", webMAC.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := squatter.Script(g.ctx, "ip addr add fd00:20:0:1::10/64 dev eth0 nodad\n"); err != nil {
		t.Fatal(err)
	}
	g.linkLocal(squatter)
	g.linkLocal(s)
	if err := dhclient(g.ctx, s, 3); err == nil {
		t.Error("an address was given that somebody uses")
	}
	st := g.Stats()
	if l := g.store.get(addr("fd00:20:0:1::10")); l.State != vpc.LeaseDeclined || st.Sent["ADVERTISE"] != 0 || st.Dropped[dhcp.DropConflict.String()] != 1 {
		t.Errorf("lease %+v, stats %+v", l, st)
	}

	if _, err := squatter.Script(g.ctx, "ip addr del fd00:20:0:1::10/64 dev eth0\n"); err != nil {
		t.Fatal(err)
	}
	if err := dhclient(g.ctx, s, 40); err != nil {
		t.Fatalf("after the quarantine: %v; stats %+v", err, g.Stats())
	}
}

func TestAnotherServerOnThePortIsNamed(t *testing.T) {
	g := newGateway(t)
	only := spec(func(v *vpc.VPCSpec) {
		v.VSwitches = v.VSwitches[:1]
		v.Instances = v.Instances[:2]
	})
	var other *net.UDPConn
	g.in(func() (err error) {
		other, err = net.ListenUDP("udp6", &net.UDPAddr{Port: serverPort})
		return err
	})
	g.set(only)
	errs := g.Health()
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "udp port 547 on "+webName+" is taken: another DHCP server") {
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
}

func TestRelayedClientsAreServedThroughTheirRelay(t *testing.T) {
	g := newGateway(t)
	outside, err := g.lab.Space("relay")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.lab.Veth(g.ctx, g.space, "wan", outside, "eth0"); err != nil {
		t.Fatal(err)
	}
	g.script("ip addr add fd00:9::1/64 dev wan nodad\n")
	if _, err := outside.Script(g.ctx, "ip addr add fd00:9::2/64 dev eth0 nodad\nip addr add fd00:9::66/64 dev eth0 nodad\n"); err != nil {
		t.Fatal(err)
	}
	const prefix = "fd00:20:0:3:5::/80"
	g.set(spec(func(v *vpc.VPCSpec) {
		for _, i := range v.Instances {
			if n := i.Interfaces[0]; n.MAC == farMAC {
				n.IPv6Prefixes = []netip.Prefix{netip.MustParsePrefix(prefix)}
			}
		}
	}))
	open := func(a string) *net.UDPConn {
		var c *net.UDPConn
		if err := outside.Do(func() (err error) {
			c, err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr(a), serverPort)))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	side, impostor := open("fd00:9::2"), open("fd00:9::66")
	send := func(c *net.UDPConn, m *dhcpv6.Message) {
		b := relayed(0, addr("fd00:20:0:3::1"), addr("fe80::5"), m.ToBytes(), Option{dhcpv6.OptionClientLinkLayerAddr, append([]byte{0, 1}, farMAC[:]...)})
		if _, err := c.WriteToUDPAddrPort(b, netip.AddrPortFrom(addr("fd00:9::1"), serverPort)); err != nil {
			t.Fatal(err)
		}
	}
	send(impostor, message(dhcpv6.MessageTypeSolicit, ia(1)))
	g.eventually("what is not that relay's to ask", func() error {
		if got := g.Stats().Dropped[dhcp.DropRelay.String()]; got != 1 {
			return fmt.Errorf("%d dropped, want 1", got)
		}
		return nil
	})
	receive := func() *dhcpv6.Message {
		buf := make([]byte, 2048)
		if err := side.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, _, err := side.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatalf("no reply: %v; stats %+v", err, g.Stats())
		}
		r, err := dhcpv6.RelayMessageFromBytes(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		m, err := r.GetInnerMessage()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	send(side, message(dhcpv6.MessageTypeSolicit, ia(1)))
	if m := receive(); m.MessageType != dhcpv6.MessageTypeAdvertise || summary(m) != "na1 fd00:20:0:3::10/86400" {
		t.Fatalf("offer: %s", m.Summary())
	}
	send(side, message(dhcpv6.MessageTypeRequest, ours, ia(1, "fd00:20:0:3::10")))
	if m := receive(); m.MessageType != dhcpv6.MessageTypeReply || summary(m) != "na1 fd00:20:0:3::10/86400" {
		t.Fatalf("reply: %s", m.Summary())
	}
	if l := g.store.get(addr("fd00:20:0:3::10")); l.State != vpc.LeaseBound || l.MAC != farMAC {
		t.Errorf("lease %+v", l)
	}

	// Prefixes are delegated through a relay as on a link, alone and beside an address.
	for _, tt := range []struct {
		ask  *dhcpv6.Message
		kind dhcpv6.MessageType
		says string
	}{
		{message(dhcpv6.MessageTypeSolicit, pd(1)), dhcpv6.MessageTypeAdvertise, "pd1 " + prefix + "/86400"},
		{message(dhcpv6.MessageTypeRequest, ours, pd(1, prefix)), dhcpv6.MessageTypeReply, "pd1 " + prefix + "/86400"},
		{message(dhcpv6.MessageTypeRenew, ours, ia(1, "fd00:20:0:3::10"), pd(2, prefix)), dhcpv6.MessageTypeReply, "na1 fd00:20:0:3::10/86400; pd2 " + prefix + "/86400"},
		{message(dhcpv6.MessageTypeRebind, pd(1, "fd00:20:0:3:6::/80")), dhcpv6.MessageTypeReply, "pd1 " + prefix + "/86400 fd00:20:0:3:6::/80/0"},
		{message(dhcpv6.MessageTypeRelease, ours, pd(1, prefix)), dhcpv6.MessageTypeReply, "Success"},
	} {
		send(side, tt.ask)
		if m := receive(); m.MessageType != tt.kind || summary(m) != tt.says || m.TransactionID != tt.ask.TransactionID {
			t.Errorf("%s is answered by %s %q, want %s %q", tt.ask.MessageType, m.MessageType, summary(m), tt.kind, tt.says)
		}
	}
}
