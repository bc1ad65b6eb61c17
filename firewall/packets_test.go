package firewall

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/netlab"
	"gatehouse/vpc"
)

// end is a host of the lab with real links: an instance, the world beyond the uplink, or a stranger's host.
type end struct {
	space  *netlab.Space
	place  vpc.Place
	v4, v6 netip.Addr
}

func (e end) addr(f vpc.Family) netip.Addr {
	if f == vpc.IPv6 {
		return e.v6
	}
	return e.v4
}

// Real packets between namespaces fare as a walk through the rules says, in both families, on both backends, with and
// without the optional parts of the kernel.
func TestPacketsFareAsTheWalkSays(t *testing.T) {
	for _, backend := range []string{"nft", "legacy"} {
		for name, f := range map[string]Features{"full": everything(), "bare": bare()} {
			f.IPMAC6 = false // a module that many kernels lack
			t.Run(backend+" "+name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				s := snapshot(lab())
				rs, err := Compile(s, f)
				if err != nil {
					t.Fatal(err)
				}
				gateway, ends := raiseLab(ctx, t, s)
				install(ctx, t, gateway, backend, rs)
				compareReach(ctx, t, s, NewTracer(rs), ends)
			})
		}
	}
}

// raiseLab raises the gateway of the lab with its instances, the world and a stranger, each with an echo service.
func raiseLab(ctx context.Context, t *testing.T, s *vpc.Snapshot) (*netlab.Space, map[string]end) {
	t.Helper()
	l, err := netlab.New("packets")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	gateway, err := l.Space("gw")
	must(err)
	_, err = gateway.Script(ctx, `
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0 net.ipv6.conf.default.accept_dad=0
sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0 2>/dev/null || true`)
	must(err)
	ends := map[string]end{}
	for _, w := range s.VSwitches {
		if !w.HasLink() {
			continue
		}
		name := w.LinkName()
		plain := w.Attach.Interface != ""
		if !plain {
			_, err := gateway.Script(ctx, fmt.Sprintf("ip link add %s type bridge stp_state 0 forward_delay 0\nip link set %s up\n", name, name))
			must(err)
		}
		for n, nic := range w.Interfaces {
			if plain && n > 0 {
				continue // the cable has two ends
			}
			port, bridge := fmt.Sprintf("p%s", nic.ID[len(nic.ID)-2:]), name
			if plain {
				port, bridge = name, ""
			}
			guest, err := l.Guest(ctx, nic.Instance.Name, gateway, port, bridge, nic.MAC.String())
			must(err)
			if !plain {
				_, err = gateway.Run(ctx, "bridge", "link", "set", "dev", port, "isolated", "on")
				must(err)
			}
			e := end{space: guest, place: vpc.Place{Kind: vpc.PlaceVSwitch, VSwitch: w}, v4: nic.PrivateIP, v6: nic.Primary(vpc.IPv6)}
			script := fmt.Sprintf("ip addr add %s/32 dev eth0\nip route add %s dev eth0\nip route add default via %s\n", e.v4, w.GatewayAddr(vpc.IPv4), w.GatewayAddr(vpc.IPv4))
			if e.v6.IsValid() {
				script += fmt.Sprintf("ip addr add %s/128 dev eth0 nodad\nip -6 route add default via fe80::1 dev eth0\n", e.v6)
			}
			_, err = guest.Script(ctx, script)
			must(err)
			ends[nic.Instance.Name] = e
		}
		script := fmt.Sprintf("ip addr add %s/%d dev %s\nip addr add fe80::1/64 dev %s nodad\n", w.GatewayAddr(vpc.IPv4), w.CIDRBlock.Bits(), name, name)
		if g := w.GatewayAddr(vpc.IPv6); g.IsValid() {
			script += fmt.Sprintf("ip addr add %s/64 dev %s nodad\n", g, name)
		}
		_, err = gateway.Script(ctx, script)
		must(err)
	}
	for _, o := range []struct {
		name, link, net4, net6 string
		kind                   vpc.PlaceKind
	}{{"world", "eth0", "198.51.100", "2001:db8:1", vpc.PlaceUplink}, {"stranger", "other0", "192.168.7", "2001:db8:7", vpc.PlaceForeign}} {
		space, err := l.Space(o.name)
		must(err)
		must(l.Veth(ctx, gateway, o.link, space, "eth0"))
		_, err = gateway.Script(ctx, fmt.Sprintf("ip addr add %s.1/24 dev %s\nip addr add %s::1/64 dev %s nodad\n", o.net4, o.link, o.net6, o.link))
		must(err)
		_, err = space.Script(ctx, fmt.Sprintf("ip addr add %s.9/24 dev eth0\nip addr add %s::9/64 dev eth0 nodad\nip route add default via %s.1\nip -6 route add default via %s::1\n",
			o.net4, o.net6, o.net4, o.net6))
		must(err)
		ends[o.name] = end{space: space, place: vpc.Place{Kind: o.kind}, v4: addr(o.net4 + ".9"), v6: addr(o.net6 + "::9")}
	}
	for _, e := range ends {
		for _, port := range probePorts {
			echo, err := e.space.Echo(port)
			must(err)
			t.Cleanup(func() { _ = echo.Close() }) // the namespace goes away with it
		}
	}
	return gateway, ends
}

var probePorts = []uint16{22, 443, 5432}

// install puts a ruleset in force on a host whose own filter forwards nothing, and takes nothing but by its own links.
func install(ctx context.Context, t *testing.T, gateway *netlab.Space, backend string, rs *Ruleset) {
	t.Helper()
	sets, _, _ := strings.Cut(rs.Text(), "# ipv4\n")
	if _, err := gateway.RunInput(ctx, strings.NewReader(sets), "ipset", "restore"); err != nil {
		t.Fatal(err)
	}
	for _, family := range rs.Families {
		program := "iptables-" + backend
		if family.Family == vpc.IPv6 {
			program = "ip6tables-" + backend
		}
		own := fmt.Sprintf("%[1]s -P FORWARD DROP\n%[1]s -P INPUT DROP\n%[1]s -A INPUT -i eth0 -j ACCEPT\n%[1]s -A INPUT -i other0 -j ACCEPT\n", program)
		if _, err := gateway.Script(ctx, own); err != nil {
			t.Fatal(err)
		}
		for _, d := range Diff(nil, family) {
			if _, err := gateway.RunInput(ctx, strings.NewReader(d.Restore(family.Family)), program+"-restore", "--noflush"); err != nil {
				t.Fatal(err)
			}
		}
		for _, table := range family.Tables {
			for _, h := range table.Hooks {
				if _, err := gateway.Run(ctx, program, "-t", table.Name, "-I", h.Chain, "1", "-j", h.Target); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// compareReach connects everybody with everybody and compares with the walks there and back.
func compareReach(ctx context.Context, t *testing.T, s *vpc.Snapshot, tracer *Tracer, ends map[string]end) {
	t.Helper()
	var wg sync.WaitGroup
	gate := make(chan struct{}, 32)
	for fromName, from := range ends {
		for toName, to := range ends {
			for _, f := range vpc.Families() {
				for _, port := range probePorts {
					src, dst := from.addr(f), to.addr(f)
					if fromName == toName || !src.IsValid() || !dst.IsValid() || from.place.Kind != vpc.PlaceVSwitch && to.place.Kind != vpc.PlaceVSwitch {
						continue
					}
					want, why := reaches(s, tracer, from, to, src, dst, port)
					wg.Go(func() {
						gate <- struct{}{}
						defer func() { <-gate }()
						timeout := 400 * time.Millisecond
						if want {
							timeout = 10 * time.Second // nothing but the machine may keep it
						}
						got, err := from.space.Reach(ctx, "tcp", netip.AddrPortFrom(dst, port), timeout)
						if err != nil || got != want {
							t.Errorf("%s %s -> %s %s tcp/%d: reached is %t (%v); the walks say %s", fromName, src, toName, dst, port, got, err, why)
						}
					})
				}
			}
		}
	}
	wg.Wait()
}

// reaches says whether a connection comes about: its first packet is admitted, and so are the replies.
func reaches(s *vpc.Snapshot, tracer *Tracer, from, to end, src, dst netip.Addr, port uint16) (bool, string) {
	there := vpc.Packet{In: from.place, Src: src, Dst: dst, Protocol: vpc.ProtocolTCP, SrcPort: 40000, DstPort: port}
	back := vpc.Packet{In: to.place, Src: dst, Dst: src, Protocol: vpc.ProtocolTCP, SrcPort: port, DstPort: 40000, NoSYN: true, State: vpc.StateEstablished}
	path, reply := realPath(s, there, to), realPath(s, back, from)
	a, b := tracer.Trace(there, path), tracer.Trace(back, reply)
	return a.Allowed && b.Allowed, stages(a) + "; back " + stages(b)
}

// realPath is PathOf with the stranger's link, which no snapshot names.
func realPath(s *vpc.Snapshot, p vpc.Packet, to end) Path {
	path := PathOf(s, p)
	if p.In.Kind == vpc.PlaceForeign {
		path.In = "other0"
	}
	if to.place.Kind == vpc.PlaceForeign {
		path.Out = "other0"
	}
	return path
}
