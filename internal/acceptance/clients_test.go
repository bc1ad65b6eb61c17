package acceptance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
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
  dhcpOptions: {leaseTime: 30s, ipv6LeaseTime: 30s}
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
  - {name: dhcpcd-bridged, interfaces: [{mac: 00:16:3e:00:01:03, vswitch: bridged, securityGroups: [open]}]}
  - {name: networkd-bridged, interfaces: [{mac: 00:16:3e:00:01:04, vswitch: bridged, securityGroups: [open]}]}
  - {name: dhclient-plain, interfaces: [{mac: 00:16:3e:00:02:01, vswitch: plain, securityGroups: [open]}]}
  - {name: udhcpc-plain, interfaces: [{mac: 00:16:3e:00:02:02, vswitch: plain, securityGroups: [open]}]}
  - {name: dhcpcd-plain, interfaces: [{mac: 00:16:3e:00:02:03, vswitch: plain, securityGroups: [open]}]}
  - {name: networkd-plain, interfaces: [{mac: 00:16:3e:00:02:04, vswitch: plain, securityGroups: [open]}]}
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

	told string // where it writes what it was told; empty: resolv.conf
}

const (
	leaseFile = "/var/lib/dhcp/dhclient.leases"
	isc       = "dhclient -4 -1 -pf /run/dhclient.pid -lf " + leaseFile + " eth0"
	// It writes the number of the process that stays behind only after the one that was started has ended.
	busybox = "udhcpc -n -i eth0 -t 5 -T 1 -x hostname:$(hostname) -p /run/udhcpc.pid >/run/udhcpc.log 2>&1\n" +
		"until grep -q udhcpc /proc/$(cat /run/udhcpc.pid)/comm 2>/dev/null; do sleep 0.02; done"
)

// dhcpcd gives the command that starts it with options and waits for its addresses: longer than the 30 s after which it
// gives up by itself. Where it fails it says why.
func dhcpcd(options string) string {
	return "dhcpcd -q -w -t 120 " + options + " eth0 >>/run/dhcpcd.log 2>&1 || { cat /run/dhcpcd.log >&2; exit 1; }"
}

// One that dies still holds its lock and its socket, and another one is told that it runs already.
const dhcpcdCrash = `pkill -9 --ns $$ --nslist net -x dhcpcd
while pgrep --ns $$ --nslist net -x dhcpcd >/dev/null; do sleep 0.02; done`

// networkd is systemd-networkd, which is ready long before it has an address.
const networkd = `mount -o remount,bind,ro /sys
rm -rf /etc/systemd/network
mkdir -p /etc/systemd/network
printf '[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\n' > /etc/systemd/network/10.network
setsid /lib/systemd/systemd-networkd >>/run/networkd.log 2>&1 &
echo $! >/run/networkd.pid
until ip -4 addr show dev eth0 | grep -q inet; do sleep 0.1; done`

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
	}, {
		// It is several processes. Before it takes an address it asks who has it.
		name: "dhcpcd", start: dhcpcd("-4 -h $(hostname)"),
		renew:   "dhcpcd -4 -N eth0 >>/run/dhcpcd.log 2>&1",
		release: "dhcpcd -4 -k eth0 >>/run/dhcpcd.log 2>&1",
		crash:   dhcpcdCrash, forget: "rm /var/lib/dhcpcd/eth0.lease",
	}, {
		name: "networkd", start: networkd,
		release: "kill $(cat /run/networkd.pid)",
		crash:   "kill -9 $(cat /run/networkd.pid)", forget: "rm -r /run/systemd/netif",
		told: "/run/systemd/netif/leases/*",
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
	if err := errors.Join(g.configured(s, address, bits, router), g.resolves(s, router)); err != nil {
		g.Error(err)
	}
}

// configured says why a host does not have an address and a default route; nil when it has.
func (g *gateway) configured(s *netlab.Space, address string, bits int, router string) error {
	addrs, err := s.Script(g.ctx, "ip -4 -o addr show dev eth0")
	if err != nil || !strings.Contains(addrs, fmt.Sprintf(" %s/%d ", address, bits)) {
		return fmt.Errorf("%s: %q lacks %s/%d (%v)", s.Label, addrs, address, bits, err)
	}
	routes, err := s.Script(g.ctx, "ip -4 route show default")
	if err != nil || !strings.Contains(routes, "via "+router+" dev eth0") {
		return fmt.Errorf("%s: the default route is %q, not via %s (%v)", s.Label, routes, router, err)
	}
	return nil
}

// resolves says what a host's resolv.conf lacks.
func (g *gateway) resolves(s *netlab.Space, router string) error {
	conf, err := s.Script(g.ctx, "cat /etc/resolv.conf")
	if err != nil || !strings.Contains(conf, "nameserver "+router+"\n") || !strings.Contains(conf, "lab.internal") {
		return fmt.Errorf("%s: resolv.conf lacks the gateway or the domain (%v):\n%s", s.Label, err, conf)
	}
	return nil
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

// attachment is a vSwitch of the lab as its guests see it.
type attachment struct {
	vswitch, router string
	bits            int    // of an address's prefix
	mac             string // of its guests, without the last octet
	at              *netlab.Space
	bridge          string // there, that guests are plugged into
}

func attachments(g *gateway, lan *netlab.Space) []attachment {
	return []attachment{
		{"bridged", "10.20.1.253", 24, "00:16:3e:00:01:", g.space, "gh-bridged"},
		{"plain", "10.20.2.253", 32, "00:16:3e:00:02:", lan, "br0"},
	}
}

// living is a guest with a client.
type living struct {
	client
	attachment
	*netlab.Space
	address string
}

func (l *living) run(g *gateway, script string) error {
	_, err := l.Script(g.ctx, script)
	return err
}

// has says what the guest lacks of what its client should have set up.
func (l *living) has(g *gateway) error {
	if err := g.configured(l.Space, l.address, l.bits, l.router); err != nil || l.told == "" {
		return errors.Join(err, g.resolves(l.Space, l.router))
	}
	text, err := l.Script(g.ctx, "cat "+l.told)
	if err != nil || !strings.Contains(text, "DNS="+l.router+"\n") || !strings.Contains(text, "DOMAINNAME=lab.internal\n") {
		return fmt.Errorf("%s was told (%v):\n%s", l.Label, err, text)
	}
	return nil
}

// plugClients adds a guest for each client and each attachment.
func plugClients(g *gateway, on ...attachment) []*living {
	g.Helper()
	var all []*living
	for _, a := range on {
		for n, c := range clients() {
			name := c.name + "-" + a.vswitch
			s, err := g.lab.Guest(g.ctx, name, a.at, portOf(name), a.bridge, fmt.Sprintf("%s%02x", a.mac, n+1))
			if err != nil {
				g.Fatal(err)
			}
			all = append(all, &living{c, a, s, g.address(name)})
		}
	}
	return all
}

// together does something with all guests at the same time, and ends the test if it goes wrong with one.
func together(g *gateway, what string, all []*living, f func(*living) error) {
	g.Helper()
	errs := make([]error, len(all))
	var running sync.WaitGroup
	for i, l := range all {
		running.Go(func() { errs[i] = f(l) })
	}
	running.Wait()
	for i, err := range errs {
		if err != nil {
			g.Errorf("%s: %s: %v", what, all[i].Label, err)
		}
	}
	if g.Failed() {
		g.FailNow()
	}
}

// within is eventually for what runs beside other things.
func within(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return netlab.Eventually(ctx, f)
}

// leaseIs says in what the lease of a guest differs from what is wanted.
func (l *living) leaseIs(g *gateway, state string) error {
	is := g.lease(l.address)
	if is["state"] != state || is["instance"] != l.Label || is["hostname"] != l.Label || is["vswitch"] != l.vswitch || is["vpc"] != "lab" {
		return fmt.Errorf("the lease is %v, not %s", is, state)
	}
	return nil
}

func TestRealClientsLiveThroughTheirLeases(t *testing.T) {
	t.Parallel()
	g, lan, _ := clientGateway(t)
	all := plugClients(g, attachments(g, lan)...)

	together(g, "the first lease", all, func(l *living) error {
		if err := errors.Join(l.run(g, l.start), l.has(g)); err != nil {
			return err
		}
		// The peer has its address by hand: until it has said something its port does not know whom it holds.
		peer := "peer"
		if l.told != "" {
			peer = "10.20.1.10" // it leaves resolv.conf to others
		}
		return within(g.ctx, func() error {
			if !l.Ping(g.ctx, peer) {
				return errors.New("the peer does not answer")
			}
			return nil
		})
	})
	until := map[*living]time.Time{}
	for _, l := range all {
		if err := l.leaseIs(g, "bound"); err != nil {
			t.Error(err)
		}
		until[l] = g.expiry(l.address)
	}

	// With leases of 30 s a client renews after 15 by itself.
	together(g, "a renewal", all, func(l *living) error {
		if l.renew == "" {
			return nil
		}
		return l.run(g, l.renew)
	})
	g.eventually("all leases are renewed", func() error {
		var late []string
		for _, l := range all {
			if is := g.expiry(l.address); !is.After(until[l]) {
				late = append(late, fmt.Sprintf("%s until %s", l.Label, is))
			}
		}
		if late != nil {
			return errors.New(strings.Join(late, ", "))
		}
		return nil
	})

	together(g, "a reboot with and without a memory of the lease", all, func(l *living) error {
		for _, forget := range []string{"true", l.forget} {
			if err := errors.Join(l.run(g, l.crash+"\nip addr flush dev eth0\n"+forget+"\n"+l.start), l.has(g)); err != nil {
				return err
			}
		}
		return nil
	})

	together(g, "a release", all, func(l *living) error { return l.run(g, l.release) })
	g.eventually("all leases are released", func() error {
		for _, l := range all {
			if err := l.leaseIs(g, "released"); err != nil {
				return err
			}
		}
		return nil
	})
	for _, l := range all {
		if is := g.address(l.Label); is != l.address {
			t.Errorf("%s had %s and has %s after the release", l.Label, l.address, is)
		}
	}
	together(g, "a new start", all, func(l *living) error {
		return errors.Join(l.run(g, "("+l.crash+") 2>/dev/null || true\n"+l.start), l.has(g))
	})
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
