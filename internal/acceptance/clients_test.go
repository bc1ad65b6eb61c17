package acceptance

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/netlab"
)

// clientLab has a vSwitch on a bridge of gatehouse's, one on a link to somebody else's switch, and one that admits
// only whom it knows. Leases are as short as they may be, so that clients renew while the test looks.
const clientLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  domain: lab.internal
  natGateway: true
  dhcpOptions: {leaseTime: 30s}
  vswitches:
  - {name: bridged, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: gh-bridged}}
  - {name: plain, cidrBlock: 10.20.2.0/24, ipv6CidrBlock: "fd00:20:0:2::/64", attach: {interface: lan0}}
  - {name: closed, cidrBlock: 10.20.3.0/24, attach: {bridge: gh-closed}, enrollment: closed}
  securityGroups:
  - name: open
    rules:
    - {direction: ingress, protocol: all, source: 0.0.0.0/0}
    - {direction: ingress, protocol: all, source: "::/0"}
  privateZones:
  - name: corp.example
    records:
    - {name: git, type: CNAME, value: peer.lab.internal.}
    - {name: motd, type: TXT, value: '"hello"'}
  instances:
  - {name: peer, interfaces: [{mac: 00:16:3e:00:00:01, vswitch: bridged, privateIp: 10.20.1.10, ipv6Addresses: ["fd00:20:0:1::10"], securityGroups: [open]}]}
  - {name: dhclient-bridged, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: bridged, securityGroups: [open]}]}
  - {name: udhcpc-bridged, interfaces: [{mac: 00:16:3e:00:01:02, vswitch: bridged, securityGroups: [open]}]}
  - {name: dhclient-plain, interfaces: [{mac: 00:16:3e:00:02:01, vswitch: plain, securityGroups: [open]}]}
  - {name: udhcpc-plain, interfaces: [{mac: 00:16:3e:00:02:02, vswitch: plain, securityGroups: [open]}]}
  - {name: known, interfaces: [{mac: 00:16:3e:00:03:01, vswitch: closed, securityGroups: [open]}]}
- name: other
  cidrBlock: 10.30.0.0/16
  ipv6CidrBlock: fd00:30::/56
  domain: other.internal
  vswitches:
  - {name: far, cidrBlock: 10.30.1.0/24, ipv6CidrBlock: "fd00:30:0:1::/64", attach: {bridge: gh-far}}
  instances:
  - {name: stranger, interfaces: [{mac: 00:16:3e:00:04:01, vswitch: far, privateIp: 10.30.1.10, ipv6Addresses: ["fd00:30:0:1::10"]}]}
`

// clientGateway raises the lab: the gateway with its daemon, a switch of somebody else behind lan0, and the peer.
func clientGateway(t *testing.T) (g *gateway, lan, peer *netlab.Space) {
	t.Helper()
	g = newGateway(t, "region: lab-1", "uplinks: [up0]")
	lan, err := g.lab.Space("switch")
	if err == nil {
		err = g.lab.Veth(g.ctx, g.space, "lan0", lan, "trunk")
	}
	if err != nil {
		t.Fatal(err)
	}
	g.script(lan, "ip link add br0 type bridge\nip link set br0 up\nip link set trunk master br0\n")
	g.start()
	g.apply(clientLab)
	peer = g.static("peer", "gh-bridged", "00:16:3e:00:00:01", "10.20.1.10", "10.20.1.253", "fd00:20:0:1::10")
	return g, lan, peer
}

// client is a DHCP client as people run it.
type client struct {
	name    string
	start   string // asks for an address, fails without one, and stays in the background
	renew   string // asks for a renewal now; empty: it does so only by itself
	release string
	crash   string // ends it as pulling the plug does
	forget  string // drops what it remembers of its lease
}

const (
	leaseFile = "/var/lib/dhcp/dhclient.leases"
	isc       = "dhclient -4 -1 -pf /run/dhclient.pid -lf " + leaseFile + " eth0"
	// It writes the number of the process that stays behind only after the one that was started has ended.
	busybox = "udhcpc -n -i eth0 -t 5 -T 1 -x hostname:$(hostname) -p /run/udhcpc.pid >/run/udhcpc.log 2>&1\n" +
		"until grep -q udhcpc /proc/$(cat /run/udhcpc.pid)/comm 2>/dev/null; do sleep 0.02; done"
)

func clients() []client {
	return []client{{
		name: "dhclient", start: isc,
		release: strings.Replace(isc, "-1", "-r", 1),
		crash:   "kill -9 $(cat /run/dhclient.pid)", forget: "rm " + leaseFile,
	}, {
		name: "udhcpc", start: busybox,
		renew:   "kill -USR1 $(cat /run/udhcpc.pid)",
		release: "kill -USR2 $(cat /run/udhcpc.pid)",
		crash:   "kill -9 $(cat /run/udhcpc.pid)", forget: "true", // it remembers nothing
	}}
}

// lease gives the lease of an address, or nil.
func (g *gateway) lease(address string) map[string]any {
	g.Helper()
	for _, l := range g.get("leases") {
		if l["address"] == address {
			return l
		}
	}
	return nil
}

// address gives the IPv4 address that an instance was given when it was created.
func (g *gateway) address(instance string) string {
	g.Helper()
	var o struct {
		Interfaces []struct {
			PrivateIP string `json:"privateIp"`
		} `json:"interfaces"`
	}
	g.decode(g.ok("get", "instance", instance, "-o", "json"), &o)
	return o.Interfaces[0].PrivateIP
}

// has checks that a host got what belongs to a lease.
func (g *gateway) has(s *netlab.Space, address string, bits int, router string) {
	g.Helper()
	if got := g.script(s, "ip -4 -o addr show dev eth0"); !strings.Contains(got, fmt.Sprintf(" %s/%d ", address, bits)) {
		g.Errorf("%s: %q lacks %s/%d", s.Label, got, address, bits)
	}
	if got := g.script(s, "ip -4 route show default"); !strings.Contains(got, "via "+router+" dev eth0") {
		g.Errorf("%s: the default route is %q, not via %s", s.Label, got, router)
	}
	conf := g.script(s, "cat /etc/resolv.conf")
	if !strings.Contains(conf, "nameserver "+router+"\n") || !strings.Contains(conf, "lab.internal") {
		g.Errorf("%s: resolv.conf lacks the gateway or the domain:\n%s", s.Label, conf)
	}
}

// expiry gives when the lease of an address ends.
func (g *gateway) expiry(address string) time.Time {
	g.Helper()
	l := g.lease(address)
	text, _ := l["expires"].(string)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		g.Fatalf("lease of %s: %v: %v", address, l, err)
	}
	return at
}

func TestRealClientsLiveThroughTheirLeases(t *testing.T) {
	t.Parallel()
	g, lan, _ := clientGateway(t)
	for _, on := range []struct {
		vswitch, router string
		bits            int
		mac             string
		plug            func(g *gateway, label, mac string) *netlab.Space
	}{
		{"bridged", "10.20.1.253", 24, "00:16:3e:00:01:", func(g *gateway, label, mac string) *netlab.Space {
			return g.guest(label, "gh-bridged", mac)
		}},
		{"plain", "10.20.2.253", 32, "00:16:3e:00:02:", func(g *gateway, label, mac string) *netlab.Space {
			s, err := g.lab.Guest(g.ctx, label, lan, portOf(label), "br0", mac)
			if err != nil {
				g.Fatal(err)
			}
			return s
		}},
	} {
		for n, c := range clients() {
			t.Run(c.name+" on the vSwitch "+on.vswitch, func(t *testing.T) {
				t.Parallel()
				g := g.in(t)
				name := c.name + "-" + on.vswitch
				address := g.address(name)
				s := on.plug(g, name, fmt.Sprintf("%s%02x", on.mac, n+1))

				g.script(s, c.start)
				g.has(s, address, on.bits, on.router)
				g.eventually("the peer answers to its name", func() error {
					if !s.Ping(g.ctx, "peer") {
						return errors.New("no answer")
					}
					return nil
				})
				l := g.lease(address)
				if l["state"] != "bound" || l["instance"] != name || l["hostname"] != name || l["vswitch"] != on.vswitch || l["vpc"] != "lab" {
					t.Errorf("lease: %v", l)
				}

				// With leases of 30 s a client renews after 15 by itself.
				until := g.expiry(address)
				if c.renew != "" {
					g.script(s, c.renew)
				}
				g.eventually("the lease is renewed", func() error {
					if is := g.expiry(address); !is.After(until) {
						return fmt.Errorf("it ends at %s still", is)
					}
					return nil
				})

				// A reboot with and without a memory of the lease.
				for _, forget := range []string{"true", c.forget} {
					g.script(s, c.crash+"\nip addr flush dev eth0\n"+forget+"\n"+c.start)
					g.has(s, address, on.bits, on.router)
				}

				g.script(s, c.release)
				g.eventually("the lease is released", func() error {
					if l := g.lease(address); l["state"] != "released" {
						return fmt.Errorf("it is %v", l)
					}
					return nil
				})
				if is := g.address(name); is != address {
					t.Errorf("the instance had %s and has %s after the release", address, is)
				}
				g.script(s, c.crash+" || true\n"+c.start)
				g.has(s, address, on.bits, on.router)
			})
		}
	}
}

// refused runs a client that must get nothing.
func (g *gateway) refused(s *netlab.Space) {
	g.Helper()
	if out, err := s.Script(g.ctx, "udhcpc -n -q -f -i eth0 -t 3 -T 1 2>&1"); err == nil {
		g.Errorf("%s got a lease:\n%s", s.Label, out)
	}
	if got := g.script(s, "ip -4 -o addr show dev eth0"); got != "" {
		g.Errorf("%s got an address: %s", s.Label, got)
	}
}

func TestAnUnknownMACEnrolsOrGetsNothing(t *testing.T) {
	t.Parallel()
	g, _, peer := clientGateway(t)

	newcomer := g.guest("newcomer", "gh-bridged", "00:16:3e:00:09:01")
	g.script(newcomer, isc)
	var o map[string]any
	g.decode(g.ok("get", "instance", "newcomer", "-o", "json"), &o)
	if o["enrolled"] != true {
		t.Errorf("the newcomer is not marked as enrolled: %v", o)
	}
	address := g.address("newcomer")
	g.has(newcomer, address, 24, "10.20.1.253")
	// The peer has its address by hand: until it has said something its port does not know whom it holds.
	g.eventually("the newcomer reaches the peer", func() error {
		if !newcomer.Ping(g.ctx, "peer") {
			return errors.New("no answer")
		}
		return nil
	})
	if got := g.dig(peer, "@10.20.1.253", "newcomer.lab.internal", "A"); got.answer != address {
		t.Errorf("the newcomer's name: %+v, want %s", got, address)
	}
	if got := g.ok("export"); !strings.Contains(got, "newcomer") || !strings.Contains(got, "enrolled: true") {
		t.Errorf("export lacks the newcomer:\n%s", got)
	}
	// A declared state that does not know it leaves it alone.
	g.apply(clientLab, "--prune")
	if is := g.address("newcomer"); is != address {
		t.Errorf("after a prune the newcomer has %s instead of %s", is, address)
	}

	before, _ := g.revisions()
	g.refused(g.guest("unknown", "gh-closed", "00:16:3e:00:09:02"))
	if after, _ := g.revisions(); after != before {
		t.Errorf("an unknown MAC on a closed vSwitch made revision %d of %d", after, before)
	}
	if l := g.get("leases"); len(l) != 1 {
		t.Errorf("leases: %v", l)
	}
}

func TestAMACBelongsToThePortThatHoldsIt(t *testing.T) {
	t.Parallel()
	g, _, _ := clientGateway(t)
	const mac = "00:16:3e:00:03:01"
	known := g.guest("known", "gh-closed", mac)
	g.script(known, isc)
	address := g.address("known")
	g.has(known, address, 24, "10.20.3.253")

	thief := g.guest("thief", "gh-closed", mac)
	g.refused(thief)
	g.script(thief, fmt.Sprintf("ip addr add %s/24 dev eth0\nip route add default via 10.20.3.253\n", address))
	g.eventually("the rightful port still reaches the peer", func() error {
		if !known.Ping(g.ctx, "10.20.1.10") {
			return errors.New("no answer")
		}
		return nil
	})
	if thief.Ping(g.ctx, "10.20.1.10") {
		t.Error("a second port reaches the peer with a MAC that another port holds")
	}
	g.eventually("the claim is logged", func() error {
		for line := range strings.Lines(g.log()) {
			if strings.Contains(line, mac) && strings.Contains(line, "p-thief") {
				return nil
			}
		}
		return errors.New("nothing in the log")
	})

	// The guest moves: its port goes down, and the MAC shows up on the other one.
	g.script(g.space, "ip link set p-known down")
	g.script(thief, "ip addr flush dev eth0")
	g.eventually("the guest is followed to its new port", func() error {
		_, err := thief.Script(g.ctx, "dhclient -4 -r eth0 2>/dev/null; "+isc)
		return err
	})
	g.has(thief, address, 24, "10.20.3.253")
	if !thief.Ping(g.ctx, "10.20.1.10") {
		t.Error("the guest does not reach the peer from its new port")
	}
}

// answer is what dig got: the status (NOERROR, NXDOMAIN, REFUSED, or "" for none at all), the flags and the records' data.
type answer struct {
	status, flags, answer string
}

// dig asks a question on a host.
func (g *gateway) dig(s *netlab.Space, args ...string) answer {
	g.Helper()
	out, _ := s.Run(g.ctx, "dig", append([]string{"+tries=2", "+time=1", "+nocookie"}, args...)...) // without an answer it fails
	var a answer
	var data []string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, ";; ->>HEADER<<-"):
			_, rest, _ := strings.Cut(line, "status: ")
			a.status, _, _ = strings.Cut(rest, ",")
		case strings.HasPrefix(line, ";; flags: "):
			a.flags, _, _ = strings.Cut(strings.TrimPrefix(line, ";; flags: "), ";")
		case line != "" && line[0] != ';':
			f := strings.Fields(line)
			if len(f) > 4 && f[3] != "SOA" && f[3] != "NS" {
				data = append(data, strings.Join(f[4:], " "))
			}
		}
	}
	a.answer = strings.Join(data, " ")
	return a
}

func TestNamesAreSeenFromInsideTheVPCOnly(t *testing.T) {
	t.Parallel()
	g, _, peer := clientGateway(t)
	outside := g.outside("10.20.0.0/16", "fd00:20::/56", "10.30.0.0/16", "fd00:30::/56")
	stranger := g.static("stranger", "gh-far", "00:16:3e:00:04:01", "10.30.1.10", "10.30.1.253", "fd00:30:0:1::10")
	// The daemon has no upstreams: what it does not know itself it cannot ask anybody for, and says SERVFAIL.
	type question struct {
		name string
		from *netlab.Space
		args string
		want answer
	}
	aa := "qr aa rd ra"
	for _, q := range []question{
		{"a name's A record", peer, "@10.20.1.253 udhcpc-plain.lab.internal A", answer{"NOERROR", aa, g.address("udhcpc-plain")}},
		{"a name's AAAA record", peer, "@10.20.1.253 peer.lab.internal AAAA", answer{"NOERROR", aa, "fd00:20:0:1::10"}},
		{"over IPv6", peer, "@fd00:20:0:1:ffff:ffff:ffff:fff7 peer.lab.internal A", answer{"NOERROR", aa, "10.20.1.10"}},
		{"over TCP", peer, "+tcp @10.20.1.253 peer.lab.internal A", answer{"NOERROR", aa, "10.20.1.10"}},
		{"over TCP and IPv6", peer, "+tcp @fd00:20:0:1:ffff:ffff:ffff:fff7 peer.lab.internal A", answer{"NOERROR", aa, "10.20.1.10"}},
		{"with EDNS", peer, "+edns=0 +bufsize=1232 +dnssec @10.20.1.253 peer.lab.internal A", answer{"NOERROR", aa, "10.20.1.10"}},
		{"without EDNS", peer, "+noedns @10.20.1.253 peer.lab.internal A", answer{"NOERROR", aa, "10.20.1.10"}},
		{"in capitals", peer, "@10.20.1.253 PEER.LAB.INTERNAL A", answer{"NOERROR", aa, "10.20.1.10"}},
		{"an address's name", peer, "@10.20.1.253 -x 10.20.1.10", answer{"NOERROR", aa, "ip-10-20-1-10.lab.internal."}},
		{"an IPv6 address's name", peer, "@10.20.1.253 -x fd00:20:0:1::10", answer{"NOERROR", aa, "peer.lab.internal."}},
		{"the name that follows from the address", peer, "@10.20.1.253 ip-10-20-1-10.lab.internal", answer{"NOERROR", aa, "10.20.1.10"}},
		{"an alias in a private zone", peer, "@10.20.1.253 git.corp.example A", answer{"NOERROR", aa, "peer.lab.internal. 10.20.1.10"}},
		{"a text in a private zone", peer, "@10.20.1.253 motd.corp.example TXT", answer{"NOERROR", aa, `"hello"`}},
		{"a name that is not there", peer, "@10.20.1.253 nobody.lab.internal A", answer{"NXDOMAIN", aa, ""}},
		{"a name in a private zone that is not there", peer, "@10.20.1.253 nobody.corp.example A", answer{"NXDOMAIN", aa, ""}},
		{"a type that the name does not have", peer, "@10.20.1.253 peer.lab.internal MX", answer{"NOERROR", aa, ""}},
		{"another VPC's name", peer, "@10.20.1.253 stranger.other.internal A", answer{"SERVFAIL", "", ""}},
		{"another VPC's address", peer, "@10.20.1.253 -x 10.30.1.10", answer{"NXDOMAIN", aa, ""}},
		{"the name in its own VPC", stranger, "@10.30.1.253 stranger.other.internal A", answer{"NOERROR", aa, "10.30.1.10"}},
		{"a zone of another VPC", stranger, "@10.30.1.253 motd.corp.example TXT", answer{"SERVFAIL", "", ""}},
		{"another VPC's gateway", stranger, "@10.20.1.253 peer.lab.internal A", answer{}},
		{"from outside", outside, "@10.20.1.253 peer.lab.internal A", answer{}},
		{"from outside over TCP", outside, "+tcp @10.20.1.253 peer.lab.internal A", answer{}},
		{"from outside over IPv6", outside, "@fd00:20:0:1:ffff:ffff:ffff:fff7 peer.lab.internal A", answer{}},
		{"from outside at the uplink", outside, "@" + uplink4 + " peer.lab.internal A", answer{}},
	} {
		t.Run(q.name, func(t *testing.T) {
			t.Parallel()
			got := g.in(t).dig(q.from, strings.Fields(q.args)...)
			if q.want.flags == "" {
				got.flags = ""
			}
			if got != q.want {
				t.Errorf("dig %s\ngot  %+v\nwant %+v", q.args, got, q.want)
			}
		})
	}
}

// sourceSeen connects from one host to another and returns the address that the other sees.
func (g *gateway) sourceSeen(from, to *netlab.Space, addr string) string {
	g.Helper()
	var l net.Listener
	err := to.Do(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(addr, "0"))
		return err
	})
	if err != nil {
		g.Fatal(err)
	}
	defer l.Close()
	seen := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			seen <- err.Error()
			return
		}
		defer c.Close()
		seen <- netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().String()
	}()
	err = from.Do(func() error {
		c, err := net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		return err.Error()
	}
	return <-seen
}

func TestMasqueradingHidesGuestsOnlyWhereItIsAskedFor(t *testing.T) {
	t.Parallel()
	g, _, peer := clientGateway(t)
	outside := g.outside("10.30.0.0/16", "fd00:20::/56", "fd00:30::/56") // no way back to 10.20.0.0/16: it is not seen
	stranger := g.static("stranger", "gh-far", "00:16:3e:00:04:01", "10.30.1.10", "10.30.1.253", "fd00:30:0:1::10")
	for _, c := range []struct {
		name     string
		from     *netlab.Space
		to, want string
	}{
		{"IPv4 of a VPC with a NAT gateway", peer, outside4, uplink4},
		{"IPv6 of a VPC with a NAT gateway", peer, outside6, "fd00:20:0:1::10"},
		{"IPv4 of a VPC without", stranger, outside4, "10.30.1.10"},
		{"IPv6 of a VPC without", stranger, outside6, "fd00:30:0:1::10"},
	} {
		if got := g.sourceSeen(c.from, outside, c.to); got != c.want {
			t.Errorf("%s: the outside sees %q, want %q", c.name, got, c.want)
		}
	}
	// Inside the VPC nobody is hidden.
	known := g.static("known", "gh-closed", "00:16:3e:00:03:01", g.address("known"), "10.20.3.253", "")
	if got, want := g.sourceSeen(known, peer, "10.20.1.10"), g.address("known"); got != want {
		t.Errorf("the peer sees %q, want %q", got, want)
	}
}
