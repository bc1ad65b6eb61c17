package acceptance

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/internal/netlab"
)

// translatedLab is known by one prefix beyond each of two uplinks.
const translatedLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
%s  vswitches:
  - {name: main, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: gh-main}}
  securityGroups:
  - name: web
    rules:
    - {direction: ingress, protocol: tcp, ports: 443, source: "::/0"}
  instances:
  - {name: web, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: main, privateIp: 10.20.1.10, ipv6Addresses: ["fd00:20:0:1::10"], securityGroups: [web]}]}
  - {name: peer, interfaces: [{mac: 00:16:3e:00:01:02, vswitch: main, privateIp: 10.20.1.11, ipv6Addresses: ["fd00:20:0:1::11"], securityGroups: [web]}]}
`

const translations = `  ipv6PrefixTranslations:
  - {uplink: up1, externalPrefix: "2001:db8:4201::/56"}
  - {uplink: up2, externalPrefix: "2001:db8:4202::/56"}
`

// routesExternal makes the provider behind the nth uplink route an external prefix to the gateway, and know nothing of what is behind.
func (g *gateway) routesExternal(provider *netlab.Space, n int) {
	g.Helper()
	g.script(provider, fmt.Sprintf("sysctl -qw net.ipv6.conf.all.forwarding=1\nip -6 route del fd00:20::/56\nip -6 route add 2001:db8:420%d::/56 via 2001:db8:%d::1\n", n, n))
}

// connects checks whether a TCP connection comes about.
func (g *gateway) connects(from *netlab.Space, to string, want bool) {
	g.Helper()
	timeout := patience
	if !want {
		timeout = 500 * time.Millisecond
	}
	if got, err := from.Reach(g.ctx, "tcp", netip.MustParseAddrPort(to), timeout); err != nil || got != want {
		g.Errorf("%s is reached: %v (%v), want %v", to, got, err, want)
	}
}

// senseless sends TCP segments without any flag, which connection tracking makes nothing of.
func senseless(s *netlab.Space, to string, n int) error {
	return s.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		const checksum = 16 // its offset: the kernel fills it in
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, checksum); err != nil {
			return err
		}
		segment := make([]byte, 20)
		segment[1], segment[2], segment[3], segment[12] = 99, 443>>8, 443&0xff, 5<<4
		for range n {
			if err := unix.Sendto(fd, segment, 0, &unix.SockaddrInet6{Addr: netip.MustParseAddr(to).As16()}); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestPrefixesOfTwoProvidersAreTranslated(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nft", "legacy"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, "uplinks: [up1, up2]", "firewall: {backend: "+backend+"}")
			one, two := g.provider("up1", 1), g.provider("up2", 2)
			g.routesExternal(one, 1)
			g.routesExternal(two, 2)
			g.script(g.space, "ip -6 route add default via 2001:db8:1::2 dev up1\n")
			g.start()
			g.apply(fmt.Sprintf(translatedLab, translations))
			web := g.static("web", "gh-main", "00:16:3e:00:01:01", "10.20.1.10", "10.20.1.253", "fd00:20:0:1::10")
			peer := g.static("peer", "gh-main", "00:16:3e:00:01:02", "10.20.1.11", "10.20.1.253", "fd00:20:0:1::11")
			for _, port := range []uint16{22, 443} {
				svc, err := web.Echo(port)
				if err != nil {
					t.Fatal(err)
				}
				defer svc.Close()
			}
			g.sources(one, "2001:db8:1::2")
			g.sources(two, "2001:db8:2::2")

			// Out: every provider sees a prefix of its own, and the host part as it is.
			askOne, askTwo := g.talk(web, "2001:db8:1::2"), g.talk(web, "2001:db8:2::2")
			is := func(what string, ask func() string, want string) {
				t.Helper()
				g.eventually(what, func() error {
					if got := ask(); got != want {
						return fmt.Errorf("it is taken for %s, want %s", got, want)
					}
					return nil
				})
			}
			is("by the first uplink", askOne, "2001:db8:4201:1::10")
			is("by the second", askTwo, "2001:db8:4202:1::10")
			g.script(web, "ping -6 -c 1 -W 5 2001:db8:1::2\nping -6 -c 1 -W 5 2001:db8:2::2\n")

			// In: the rules of the instance's groups say what is reached.
			g.connects(one, "[2001:db8:4201:1::10]:443", true)
			g.connects(two, "[2001:db8:4202:1::10]:443", true)
			g.connects(one, "[2001:db8:4201:1::10]:22", false)
			g.connects(two, "[2001:db8:4202:1::10]:22", false)
			// A neighbour who asks for it goes round by the provider, and is somebody outside.
			g.connects(peer, "[2001:db8:4201:1::10]:443", true)
			g.connects(peer, "[2001:db8:4201:1::10]:22", false)
			g.connects(peer, "[fd00:20:0:1::10]:22", true)

			// Nothing comes back to the provider that is for the prefix: not what nobody has, nor what cannot be translated.
			g.script(one, "ip6tables -t raw -A PREROUTING -d 2001:db8:4201::/56 -s 2001:db8:1::2\n")
			if err := senseless(one, "2001:db8:4201:1::10", 3); err != nil {
				t.Fatal(err)
			}
			g.script(one, "ping -6 -c 2 -i 0.2 -W 1 2001:db8:4201:77::1 || true\n")
			g.connects(one, "[2001:db8:4201:1::10]:443", true) // what came before has been dealt with
			if n := strings.Fields(g.script(one, "ip6tables -t raw -nvxL PREROUTING | tail -1")); n[0] != "0" {
				t.Errorf("%s packets for the prefix went back where they came from", n[0])
			}

			for _, q := range []struct{ from, to, service, want string }{
				{"2001:db8:1::2", "2001:db8:4201:1::10", "tcp/443", "2001:db8:4201:1::10 is translated to fd00:20:0:1::10: instance web"},
				{"internet", "2001:db8:4202:1::11", "tcp/443", "2001:db8:4202:1::11 is translated to fd00:20:0:1::11: instance peer"},
				{"internet", "2001:db8:4201:1::99", "tcp/443", "2001:db8:4201:1::99 is translated to fd00:20:0:1::99: no instance has it"},
				{"web", "2001:db8:2::2", "udp/5000", "fd00:20:0:1::10 is translated to 2001:db8:4202:1::10 where it leaves by up2"},
			} {
				// Where the answer is no it exits with another code.
				if r := g.run("explain", q.from, q.to, q.service); !strings.Contains(r.stdout, q.want) || strings.Contains(r.stdout, "ALLOWED") == strings.Contains(q.want, "no instance") {
					t.Errorf("explain %s %s %s, want %q:\n%s%s", q.from, q.to, q.service, q.want, r.stdout, r.stderr)
				}
			}
			g.ok("firewall", "verify")

			// Without the field flows that live on it end, and nobody is reached by it.
			g.apply(fmt.Sprintf(translatedLab, "  ipv6PrefixTranslations: []\n"))
			g.eventually("the flow ends", func() error { // an answer from before may still wait to be read
				if got := askOne(); !strings.Contains(got, "timeout") && !strings.Contains(got, "unreachable") {
					return fmt.Errorf("it is taken for %s", got)
				}
				return nil
			})
			g.connects(one, "[2001:db8:4201:1::10]:443", false)
			if out := g.script(g.space, "ip6tables-"+backend+"-save -t nat"); strings.Contains(out, "GH-") {
				t.Errorf("left in the table nat:\n%s", out)
			}

			// With it back, what has been tried meanwhile is translated as well.
			g.apply(fmt.Sprintf(translatedLab, translations))
			is("the same flow by the first uplink", askOne, "2001:db8:4201:1::10")
		})
	}
}

// What cannot be put in force is refused, where it is written.
func TestBadTranslationsAreRefused(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "uplinks: [up1, up2]")
	g.start()
	g.write("bad.yaml", fmt.Sprintf(translatedLab, `  ipv6PrefixTranslations:
  - {uplink: up3, externalPrefix: "2001:db8:4201::/60"}
  - {uplink: up2, externalPrefix: "fd00:20::/56"}
`))
	r := g.run("apply", "-f", "bad.yaml")
	var missing []error
	for _, want := range []string{
		`vpcs[lab].ipv6PrefixTranslations[0].uplink: "up3" is no uplink of this gateway (it has up1 and up2)`,
		`vpcs[lab].ipv6PrefixTranslations[0].externalPrefix: 2001:db8:4201::/60: it has to be a /56, as the VPC's range fd00:20::/56`,
		`vpcs[lab].ipv6PrefixTranslations[1].externalPrefix: fd00:20::/56 overlaps the IPv6 range fd00:20::/56 of VPC "lab"`,
	} {
		if !strings.Contains(r.stderr, want) {
			missing = append(missing, errors.New(want))
		}
	}
	if err := errors.Join(missing...); err != nil || r.code == 0 {
		t.Errorf("exit %d, said\n%swithout\n%v", r.code, r.stderr, err)
	}
}

// withoutNETMAP makes ip6tables-restore refuse what it does where the kernel lacks the target.
const withoutNETMAP = `#!/bin/sh
[ "$1" = -V ] && exec %[1]s -V
text=$(cat)
case $text in *"-j NETMAP"*) echo "Couldn't load target NETMAP: No such file or directory" >&2; exit 2;; esac
echo "$text" | exec %[1]s "$@"
`

func TestAKernelWithoutNETMAPIsToldSo(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "uplinks: [up1, up2]", "firewall: {backend: nft}")
	if err := os.Mkdir(g.path("old"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ip6tables-restore", "ip6tables-nft-restore"} {
		real, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(g.path("old/"+name), fmt.Appendf(nil, withoutNETMAP, real), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	old := []string{"PATH=" + g.path("old") + ":" + os.Getenv("PATH")}
	const why = "no NETMAP in the IPv6 table nat"

	g.env = old
	g.start()
	g.write("translated.yaml", fmt.Sprintf(translatedLab, translations))
	r := g.run("apply", "-f", "translated.yaml")
	if want := "vpcs[lab].ipv6PrefixTranslations: this kernel has " + why; r.code == 0 || !strings.Contains(r.stderr, want) {
		t.Errorf("exit %d, said %q, want %q", r.code, r.stderr, want)
	}
	if out := g.run("doctor").stdout; !strings.Contains(out, why+": ipv6PrefixTranslations are refused") {
		t.Errorf("doctor:\n%s", out)
	}
	g.stop()

	// What was stored on another kernel is not put in force by half, and what is in force stays.
	g.env = nil
	g.start()
	g.ok("apply", "-f", "translated.yaml")
	rules := g.script(g.space, "ip6tables-save -t nat | grep GH-")
	g.stop()
	g.env = old
	g.launch()
	g.eventually("status says why", func() error {
		if r := g.run("status"); r.code == 0 || !strings.Contains(r.stdout, "VPC lab: ipv6PrefixTranslations cannot be carried out") {
			return errors.New(r.stdout + r.stderr)
		}
		return nil
	})
	if now := g.script(g.space, "ip6tables-save -t nat | grep GH-"); now != rules {
		t.Errorf("the rules were\n%sand are\n%s", rules, now)
	}
}
