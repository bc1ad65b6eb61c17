package acceptance

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// sessionLab takes over a bridge over which somebody is logged in on the gateway, and offers its ssh only to another vSwitch.
const sessionLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  vswitches:
  - {name: staff, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: br-staff}}
  - {name: admin, cidrBlock: 10.20.2.0/24, attach: {bridge: gh-admin}}
  instances:
  - {name: desk, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: staff, privateIp: 10.20.1.10, ipv6Addresses: ["fd00:20:0:1::10"]}]}
  - {name: root, interfaces: [{mac: 00:16:3e:00:02:01, vswitch: admin, privateIp: 10.20.2.10}]}
`

func TestWhoIsLoggedInOnTheGatewayStaysWhenItsFirstRulesCome(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nft", "legacy"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, "firewall: {backend: "+backend+"}", "hostAccess: [22/tcp@lab/admin]")
			g.script(g.space, "ip link add br-staff type bridge\nip link set br-staff up\nip addr add 10.20.1.253/24 dev br-staff\n"+
				"ip addr add fd00:20:0:1:ffff:ffff:ffff:fff7/64 dev br-staff nodad\n")
			desk := g.guest("desk", "br-staff", "00:16:3e:00:01:01")
			g.script(desk, "ip addr add 10.20.1.10/24 dev eth0\nip addr add fd00:20:0:1::10/64 dev eth0 nodad\n")
			sshd, err := g.space.Echo(22)
			if err != nil {
				t.Fatal(err)
			}
			defer sshd.Close()
			at := []string{"10.20.1.253", "fd00:20:0:1:ffff:ffff:ffff:fff7"}
			var sessions []net.Conn
			for _, a := range at {
				var c net.Conn
				g.eventually("somebody logs in", func() error {
					return desk.Do(func() (err error) {
						c, err = net.DialTimeout("tcp", net.JoinHostPort(a, "22"), time.Second)
						return err
					})
				})
				defer c.Close()
				sessions = append(sessions, c)
			}
			works := func(when string) {
				t.Helper()
				for i, c := range sessions {
					c.SetDeadline(time.Now().Add(patience))
					_, err := fmt.Fprint(c, "uptime")
					if err == nil {
						_, err = io.ReadFull(c, make([]byte, 6))
					}
					if err != nil {
						t.Errorf("%s: the session at %s: %v", when, at[i], err)
					}
				}
			}
			works("before")
			g.start()
			stranger := strings.Replace(sessionLab, "00:16:3e:00:01:01, vswitch: staff, privateIp: 10.20.1.10", "00:16:3e:00:01:09, vswitch: staff, privateIp: 10.20.1.9", 1)
			g.write("stranger.yaml", stranger)
			g.fails(1, "gatehouse: apply stranger.yaml: vpcs[lab].vswitches[staff]: 10.20.1.10 is connected to port 22 of this host over br-staff, and no instance has that address: it would be cut off: declare it, or end that connection\n",
				"apply", "-f", "stranger.yaml")
			works("after a refusal")
			g.apply(sessionLab)
			works("with the first rules")
			root := g.static("root", "gh-admin", "00:16:3e:00:02:01", "10.20.2.10", "10.20.2.253", "")
			g.eventually("the vSwitch that hostAccess names may log in", func() error {
				if ok, err := root.Reach(g.ctx, "tcp", netip.MustParseAddrPort("10.20.2.253:22"), time.Second); !ok || err != nil {
					return fmt.Errorf("%v, %w", ok, err)
				}
				return nil
			})
			for _, a := range at {
				if ok, err := desk.Reach(g.ctx, "tcp", netip.AddrPortFrom(netip.MustParseAddr(a), 22), time.Second); ok || err != nil {
					t.Errorf("somebody else logs in at %s: %v, %v", a, ok, err)
				}
			}
			// A restart finds rules in force: what was known stays known.
			g.stop()
			g.start()
			works("after a restart")
		})
	}
}
