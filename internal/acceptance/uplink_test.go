package acceptance

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/internal/netlab"
)

const uplinkLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  natGateway: true
  vswitches:
  - {name: main, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: gh-main}}
  securityGroups:
  - name: web
    rules:
    - {direction: ingress, protocol: tcp, ports: 443, source: 0.0.0.0/0}
    - {direction: ingress, protocol: tcp, ports: 443, source: "::/0"}
  instances:
  - {name: web, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: main, privateIp: 10.20.1.10, ipv6Addresses: ["fd00:20:0:1::10"], securityGroups: [web]}]}
`

// provider adds a link of the gateway that leads outside, with somebody behind who answers on two addresses: his own, and one
// further away.
func (g *gateway) provider(link string, n int) *netlab.Space {
	g.Helper()
	s, err := g.lab.Space("provider" + link)
	if err == nil {
		err = g.lab.Veth(g.ctx, g.space, link, s, "eth0")
	}
	if err != nil {
		g.Fatal(err)
	}
	g.script(g.space, fmt.Sprintf("ip addr add 192.0.2.%d/28 dev %s\nip addr add 2001:db8:%d::1/64 dev %s nodad\n", 16*n+1, link, n, link))
	g.script(s, fmt.Sprintf("ip addr add 192.0.2.%d/28 dev eth0\nip addr add 2001:db8:%d::2/64 dev eth0 nodad\nip addr add 198.51.100.%d/32 dev lo\nip route add fd00:20::/56 via 2001:db8:%d::1\n",
		16*n+2, n, n, n))
	return s
}

// sources answers over UDP, at an address of a host, with the address that the question came from.
func (g *gateway) sources(s *netlab.Space, at string) {
	g.Helper()
	var u *net.UDPConn
	err := s.Do(func() (err error) {
		u, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(at), Port: 5000})
		return err
	})
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() { u.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := u.ReadFromUDPAddrPort(buf)
			if err != nil {
				return // closed
			}
			u.WriteToUDPAddrPort([]byte(from.Addr().Unmap().String()), from) // one that is lost is asked for again
		}
	}()
}

// talk keeps one flow open and asks who the other end takes it for.
func (g *gateway) talk(s *netlab.Space, to string) (ask func() string) {
	g.Helper()
	var c net.Conn
	err := s.Do(func() (err error) {
		c, err = net.Dial("udp", net.JoinHostPort(to, "5000"))
		return err
	})
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() { c.Close() })
	return func() string {
		buf := make([]byte, 64)
		c.SetDeadline(time.Now().Add(time.Second))
		if _, err := c.Write([]byte("who")); err != nil {
			return err.Error()
		}
		n, err := c.Read(buf)
		if err != nil {
			return err.Error()
		}
		return string(buf[:n])
	}
}

func TestSeveralUplinksWhoseAddressesChange(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "uplinks: [up1, up2]")
	one, two := g.provider("up1", 1), g.provider("up2", 2)
	g.script(g.space, "ip route add default via 192.0.2.18 dev up1\nip route add 198.51.100.2/32 via 192.0.2.34 dev up2\n")
	g.start()
	g.apply(uplinkLab)
	web := g.static("web", "gh-main", "00:16:3e:00:01:01", "10.20.1.10", "10.20.1.253", "fd00:20:0:1::10")
	g.sources(one, "198.51.100.1")
	g.sources(two, "198.51.100.2")
	askOne, askTwo := g.talk(web, "198.51.100.1"), g.talk(web, "198.51.100.2")
	is := func(what string, ask func() string, want string) {
		t.Helper()
		g.eventually(what, func() error {
			if got := ask(); got != want {
				return fmt.Errorf("it is taken for %s, want %s", got, want)
			}
			return nil
		})
	}
	is("by the first uplink with its address", askOne, "192.0.2.17")
	is("by the second with that one's", askTwo, "192.0.2.33")

	// A lease of the uplink's that ends: the old address goes, another comes.
	g.script(g.space, "ip addr add 192.0.2.20/28 dev up1\nip addr del 192.0.2.17/28 dev up1\nip addr show dev up1 | grep -q 192.0.2.20 || ip addr add 192.0.2.20/28 dev up1\nip route replace default via 192.0.2.18 dev up1\n")
	is("the same flow with the new address", askOne, "192.0.2.20")
	is("the other uplink's as before", askTwo, "192.0.2.33")

	// The default route moves to the other uplink: new flows leave there, with its address.
	g.script(g.space, "ip route replace default via 192.0.2.34 dev up2\nip route add 198.51.100.1/32 via 192.0.2.34 dev up2\n")
	g.script(two, "ip addr add 198.51.100.1/32 dev lo\n")
	g.sources(two, "198.51.100.1")
	is("a new flow leaves by the other one", g.talk(web, "198.51.100.1"), "192.0.2.33")

	// IPv6 is routed: nobody's address is changed, on either uplink.
	for n, provider := range map[int]*netlab.Space{1: one, 2: two} {
		g.script(provider, "ip6tables -A INPUT -p udp --dport 5001 -s fd00:20:0:1::10 -j ACCEPT\nip6tables -A INPUT -p udp --dport 5001 -j DROP\n")
		svc, err := provider.Echo(5001)
		if err != nil {
			t.Fatal(err)
		}
		defer svc.Close()
		to := netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::2", n)), 5001)
		g.eventually("IPv6 leaves with the guest's own address", func() error {
			if ok, err := web.Reach(g.ctx, "udp", to, time.Second); !ok || err != nil {
				return fmt.Errorf("%s: %v, %w", to, ok, err)
			}
			return nil
		})
	}
}

// mss is how many bytes of data fit a segment of a connection, as both of its ends have found.
func (g *gateway) mss(from, to *netlab.Space, addr string) (opener, listener int) {
	g.Helper()
	read := func(c net.Conn) (n int) {
		g.Helper()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err == nil {
			var opt error
			err = raw.Control(func(fd uintptr) { n, opt = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
			if err == nil {
				err = opt
			}
		}
		if err != nil {
			g.Fatal(err)
		}
		return n
	}
	var l net.Listener
	err := to.Do(func() (err error) {
		l, err = net.Listen("tcp", ":443")
		return err
	})
	if err != nil {
		g.Fatal(err)
	}
	defer l.Close()
	var c net.Conn
	err = from.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", net.JoinHostPort(addr, "443"), patience)
		return err
	})
	if err != nil {
		g.Fatal(err)
	}
	defer c.Close()
	other, err := l.Accept()
	if err != nil {
		g.Fatal(err)
	}
	defer other.Close()
	return read(c), read(other)
}

func TestSegmentsFitAnUplinkWithASmallerMTU(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nft", "legacy"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, "uplinks: [up0]", "firewall: {backend: "+backend+"}")
			outside := g.outside("10.20.0.0/16", "fd00:20::/56")
			g.script(g.space, "ip link set up0 mtu 1492\n") // PPPoE (RFC 2516); who is behind knows nothing of it
			g.start()
			g.apply(strings.Replace(uplinkLab, "natGateway: true", "natGateway: false", 1))
			web := g.static("web", "gh-main", "00:16:3e:00:01:01", "10.20.1.10", "10.20.1.253", "fd00:20:0:1::10")
			const timestamps = 12
			for _, tt := range []struct {
				name     string
				from, to *netlab.Space
				addr     string
				want     int
			}{
				{"IPv4 out", web, outside, outside4, 1492 - 20 - 20 - timestamps},
				{"IPv4 in", outside, web, "10.20.1.10", 1492 - 20 - 20 - timestamps},
				{"IPv6 out", web, outside, outside6, 1492 - 40 - 20 - timestamps},
				{"IPv6 in", outside, web, "fd00:20:0:1::10", 1492 - 40 - 20 - timestamps},
			} {
				if opener, listener := g.mss(tt.from, tt.to, tt.addr); opener != tt.want || listener != tt.want {
					t.Errorf("%s: segments have %d and %d bytes, want %d", tt.name, opener, listener, tt.want)
				}
			}
			// Inside the VPC nothing is made smaller.
			if out := g.ok("firewall", "render"); !strings.Contains(out, "-j TCPMSS --clamp-mss-to-pmtu") {
				t.Error("no rule clamps")
			}
			g.ok("firewall", "verify")
		})
	}
}
