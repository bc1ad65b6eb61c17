package acceptance

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gatehouse/internal/netlab"
)

// advertise sends a router advertisement by eth0 to all nodes (RFC 4861 section 4.2), as a provider's router does.
func advertise(s *netlab.Space) error {
	return s.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6) // its checksum is the kernel's to write
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		const hopLimit, minutes = 64, 30 * 60
		m := make([]byte, 16)
		m[0], m[4], m[6], m[7] = 134, hopLimit, minutes>>8, minutes&0xff
		return unix.Sendto(fd, m, 0, &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(link.Index)})
	})
}

// heard waits until the gateway has a default route from an advertisement.
func (g *gateway) heard(provider *netlab.Space) {
	g.Helper()
	g.eventually("an advertisement is heeded", func() error {
		if err := advertise(provider); err != nil {
			return err
		}
		if out := g.defaultRoute(); !strings.Contains(out, "proto ra") {
			return fmt.Errorf("the default routes are %q", out)
		}
		return nil
	})
}

func (g *gateway) defaultRoute() string {
	g.Helper()
	return g.script(g.space, "ip -6 route show default dev up0")
}

func (g *gateway) sysctl(name string) string {
	g.Helper()
	return strings.TrimSpace(g.script(g.space, "sysctl -n "+name))
}

const acceptRA = "net.ipv6.conf.up0.accept_ra"

// A kernel that begins to forward IPv6 forgets the routers it has heard of, and hears of no other, unless it is told to.
func TestAnUplinkGoesOnHearingItsRouters(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "uplinks: [up0]")
	provider := g.outside()
	g.script(g.space, "sysctl -qw "+acceptRA+"=1\n")
	g.heard(provider)
	g.start()
	g.apply(uplinkLab)
	if r, v := g.defaultRoute(), g.sysctl(acceptRA); !strings.Contains(r, "proto ra") || v != "2" || g.sysctl("net.ipv6.conf.all.forwarding") != "1" {
		t.Errorf("while guests are served the default route is %q, accept_ra %s", r, v)
	}
	g.script(g.space, "ip -6 route del default dev up0\n")
	g.heard(provider)
	if out := g.run("doctor").stdout; strings.Contains(out, "host.routers") {
		t.Errorf("doctor:\n%s", out)
	}
	g.ok("teardown")
	if v, f := g.sysctl(acceptRA), g.sysctl("net.ipv6.conf.all.forwarding"); v != "1" || f != "0" {
		t.Errorf("after a teardown accept_ra is %s and forwarding %s, want 1 and 0", v, f)
	}
}

// What was so before gatehouse came is the administrator's to change: doctor says how.
func TestAnUplinkThatNeverHeardItsRoutersIsNamed(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "uplinks: [up0]")
	provider := g.outside()
	g.script(g.space, "sysctl -qw "+acceptRA+"=1 net.ipv6.conf.all.forwarding=1\n")
	g.start()
	g.apply(uplinkLab)
	if v := g.sysctl(acceptRA); v != "1" {
		t.Errorf("accept_ra is %s: it was not asked to be changed", v)
	}
	if err := advertise(provider); err != nil {
		t.Fatal(err)
	}
	const remedy = "sysctl " + acceptRA + "=2"
	if out := g.run("doctor").stdout; !strings.Contains(out, "router advertisements on uplink up0 are ignored") || !strings.Contains(out, remedy) {
		t.Errorf("doctor does not say it:\n%s", out)
	}
	if r := g.defaultRoute(); r != "" {
		t.Errorf("there is a default route: %s", r)
	}
	g.script(g.space, remedy+"\n")
	g.heard(provider)
	if out := g.run("doctor").stdout; strings.Contains(out, "host.routers") {
		t.Errorf("doctor still says it:\n%s", out)
	}
}

// delegatedLab shares a prefix that the provider has delegated: half of it is the range of a VPC, and half what another one is known
// by, whose own range is nobody else's to change.
const delegatedLab = `
vpcs:
- name: routed
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: 2001:db8:7700::/57
  vswitches: [{name: main, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "2001:db8:7700:1::/64", attach: {bridge: gh-routed}}]
  securityGroups: [{name: open, rules: [{direction: ingress, protocol: tcp, ports: 443, source: "::/0"}]}]
  instances: [{name: one, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: main, privateIp: 10.20.1.10, ipv6Addresses: ["2001:db8:7700:1::10"], securityGroups: [open]}]}]
- name: translated
  cidrBlock: 10.30.0.0/16
  ipv6CidrBlock: fd00:30::/57
  ipv6PrefixTranslations: [{uplink: up0, externalPrefix: "2001:db8:7700:80::/57"}]
  vswitches: [{name: main, cidrBlock: 10.30.1.0/24, ipv6CidrBlock: "fd00:30:0:1::/64", attach: {bridge: gh-translated}}]
  securityGroups: [{name: open, rules: [{direction: ingress, protocol: tcp, ports: 443, source: "::/0"}]}]
  instances: [{name: two, interfaces: [{mac: 00:16:3e:00:01:02, vswitch: main, privateIp: 10.30.1.10, ipv6Addresses: ["fd00:30:0:1::10"], securityGroups: [open]}]}]
`

func TestADelegatedPrefixReachesGuestsBothWays(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "uplinks: [up0]")
	provider := g.outside("2001:db8:7700::/56") // what it does when it delegates a prefix
	// What systemd-networkd does with a prefix that it is given, so that no part of it leads back to the provider (RFC 7084 WPD-5).
	g.script(g.space, "sysctl -qw "+acceptRA+"=1\nip -6 route add unreachable 2001:db8:7700::/56 dev lo proto dhcp metric 1024\n")
	g.heard(provider)
	g.start()
	g.apply(delegatedLab)
	g.sources(provider, outside6)
	for _, c := range []struct{ name, bridge, mac, v4, router, v6, seen string }{
		{"one", "gh-routed", "00:16:3e:00:01:01", "10.20.1.10", "10.20.1.253", "2001:db8:7700:1::10", "2001:db8:7700:1::10"},
		{"two", "gh-translated", "00:16:3e:00:01:02", "10.30.1.10", "10.30.1.253", "fd00:30:0:1::10", "2001:db8:7700:81::10"},
	} {
		guest := g.static(c.name, c.bridge, c.mac, c.v4, c.router, c.v6)
		for _, port := range []uint16{22, 443} {
			svc, err := guest.Echo(port)
			if err != nil {
				t.Fatal(err)
			}
			defer svc.Close()
		}
		ask := g.talk(guest, outside6)
		g.eventually(c.name+" reaches the outside", func() error {
			if got := ask(); got != c.seen {
				return fmt.Errorf("it is taken for %s, want %s", got, c.seen)
			}
			return nil
		})
		g.connects(provider, "["+c.seen+"]:443", true)
		g.connects(provider, "["+c.seen+"]:22", false)
	}
}
