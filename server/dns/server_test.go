package dns

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"gatehouse/internal/netlab"
	"gatehouse/vpc"
)

const serverEnv = "GATEHOUSE_DNS_TEST_SERVER"

// TestMain turns the test's own binary into a server when a test starts it in a namespace.
func TestMain(m *testing.M) {
	if os.Getenv(serverEnv) != "" {
		if err := serveCommands(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// netSpec is the lab with its vSwitches on the links of the test's gateway; web-1 has the address.
func netSpec(web1 string) *vpc.Spec {
	spec := lab()
	spec.VPCs[0].VSwitches[0].Attach.Interface = "port-a"
	db := newVSwitch("db", "vsw-0000000000000009", "10.20.3.0/24", "fd00:20:0:3::/64")
	db.Attach.Interface = "port-c"
	spec.VPCs[0].VSwitches = append(spec.VPCs[0].VSwitches, db)
	spec.VPCs[1].VSwitches[0].Attach.Interface = "port-b"
	spec.VPCs[0].Instances[0].Interfaces[0].PrivateIP = netip.MustParseAddr(web1)
	z := newZone("big.example", vpc.MissingNXDOMAIN, "t TXT "+strings.Repeat("x", 3000))
	spec.VPCs[0].PrivateZones = append(spec.VPCs[0].PrivateZones, z)
	spec.VPCs = spec.VPCs[:2]
	return spec
}

// serveCommands serves until its input ends. Each line is a command: "address IP" moves web-1, "listeners" prints what is
// open and what is not.
func serveCommands(in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := New(Config{
		Upstreams: []string{"system"}, ResolvConf: os.Getenv(serverEnv), CacheSize: 100, Version: "gatehouse test",
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	s.SetSnapshot(snapshotOf(netSpec("10.20.1.10")))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for sc := bufio.NewScanner(in); sc.Scan(); {
		switch f := strings.Fields(sc.Text()); f[0] {
		case "address":
			s.SetSnapshot(snapshotOf(netSpec(f[1])))
			fmt.Fprintln(out, "{}")
		case "listeners":
			status := map[string]string{}
			for _, l := range s.Listeners() {
				var pe *PortError
				switch {
				case l.Err == nil:
					status[l.Addr.Addr().String()] = ""
				case errors.As(l.Err, &pe) && pe.Addr == l.Addr:
					status[l.Addr.Addr().String()] = l.Err.Error()
				default:
					status[l.Addr.Addr().String()] = fmt.Sprintf("not a PortError: %v", l.Err)
				}
			}
			if err := json.NewEncoder(out).Encode(status); err != nil {
				return err
			}
		}
	}
	cancel()
	return <-ended
}

// remote is a server in a namespace.
type remote struct {
	t   *testing.T
	in  io.Writer
	out *json.Decoder
}

func (r *remote) command(s string) map[string]string {
	r.t.Helper()
	fmt.Fprintln(r.in, s)
	answer := map[string]string{}
	if err := r.out.Decode(&answer); err != nil {
		r.t.Fatalf("%s: %v", s, err)
	}
	return answer
}

func startServer(ctx context.Context, t *testing.T, space *netlab.Space, resolvConf string) *remote {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := space.Command(ctx, self)
	cmd.Env = append(os.Environ(), serverEnv+"="+resolvConf)
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server: %v", err)
		}
	})
	return &remote{t: t, in: in, out: json.NewDecoder(out)}
}

func TestRealClientsAsk(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	t.Cleanup(cancel)
	nets, err := netlab.New("dns")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nets.Close(); err != nil {
			t.Error(err)
		}
	})
	gateway, err := nets.Space("gw")
	if err != nil {
		t.Fatal(err)
	}
	// The server comes before links and addresses, and somebody else has one of its ports.
	if _, err := gateway.Script(ctx, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\nip addr add 10.30.1.253/24 dev lo\n"); err != nil {
		t.Fatal(err)
	}
	var thief net.PacketConn
	if err := gateway.Do(func() (err error) {
		thief, err = net.ListenPacket("udp4", "10.30.1.253:53")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	resolvConf := nets.Dir + "/upstreams"
	if err := os.WriteFile(resolvConf, []byte("nameserver 10.20.1.253\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	server := startServer(ctx, t, gateway, resolvConf)
	listeners := func(check func(map[string]string) bool) {
		t.Helper()
		var last map[string]string
		if err := netlab.Eventually(ctx, func() error {
			if last = server.command("listeners"); !check(last) {
				return errors.New("not yet")
			}
			return nil
		}); err != nil {
			t.Fatalf("%v: %v", err, last)
		}
	}
	listeners(func(m map[string]string) bool {
		return len(m) == 9 && m["10.20.1.253"] == "" && m["fd00:20:0:1:ffff:ffff:ffff:fff7"] == "" &&
			m["10.30.1.253"] == fmt.Sprintf("udp port 53 of 10.30.1.253 is taken by dns.test (process %d)", os.Getpid()) &&
			m["fe80::1%port-a"] == "listen on udp [fe80::1%port-a]:53: there is no link port-a"
	})

	guests := map[string]*netlab.Space{}
	for _, g := range []struct{ name, v4, v6, gw4, gw6 string }{
		{"a", "10.20.1.10/24", "fd00:20:0:1::10/64", "10.20.1.253", "fd00:20:0:1:ffff:ffff:ffff:fff7"},
		{"b", "10.30.1.10/24", "fd00:30::10/64", "10.30.1.253", "fd00:30::ffff:ffff:ffff:fff7"},
		{"c", "10.20.3.10/24", "fd00:20:0:3::10/64", "10.20.3.253", "fd00:20:0:3:ffff:ffff:ffff:fff7"},
	} {
		guest, err := nets.Guest(ctx, g.name, gateway, "port-"+g.name, "", "02:00:00:00:01:0"+g.name)
		if err != nil {
			t.Fatal(err)
		}
		guests[g.name] = guest
		if _, err := guest.Script(ctx, fmt.Sprintf("ip addr add %s dev eth0\nip addr add %s dev eth0 nodad\nip route add default via %s\nip -6 route add default via %s\n", g.v4, g.v6, g.gw4, g.gw6)); err != nil {
			t.Fatal(err)
		}
		if _, err := gateway.Script(ctx, fmt.Sprintf("ip addr flush dev lo scope global\nip addr add %s/24 dev port-%s\nip addr add %s/64 dev port-%s nodad\nip addr add fe80::1/64 dev port-%s nodad\n", g.gw4, g.name, g.gw6, g.name, g.name)); err != nil {
			t.Fatal(err)
		}
	}
	thief.Close()
	allOpen := func(m map[string]string) bool {
		for _, why := range m {
			if why != "" {
				return false
			}
		}
		return true
	}
	listeners(allOpen)

	outside, err := gateway.Resolver(netip.MustParseAddr("127.0.0.1"), map[string]netip.Addr{"www.example.org": netip.MustParseAddr("192.0.2.80")})
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	if err := os.WriteFile(resolvConf, []byte("nameserver 10.20.1.253\nnameserver 127.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dig := func(guest string, args ...string) []string {
		t.Helper()
		lines, err := guests[guest].Dig(ctx, args...)
		if err != nil {
			t.Fatalf("dig %v: %v", args, err)
		}
		return lines
	}
	if err := netlab.Eventually(ctx, func() error { // the new upstream is found out
		if got := dig("a", "@10.20.1.253", "www.example.org", "A"); !slices.Equal(got, []string{"192.0.2.80"}) {
			return fmt.Errorf("%q", got)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	tests := []struct {
		what  string
		guest string
		args  string
		want  string
	}{
		{"over UDP", "a", "@10.20.1.253 web-1.research.internal A", "10.20.1.10"},
		{"over UDP and IPv6", "a", "@fd00:20:0:1:ffff:ffff:ffff:fff7 web-1.research.internal AAAA", "fd00:20:0:1::10"},
		{"over UDP from the link-local router", "a", "@fe80::1%eth0 web-1.research.internal A", "10.20.1.10"},
		{"over TCP", "a", "+tcp @10.20.1.253 web-1.research.internal A", "10.20.1.10"},
		{"over TCP and IPv6", "a", "+tcp @fd00:20:0:1:ffff:ffff:ffff:fff7 web-1.research.internal AAAA", "fd00:20:0:1::10"},
		{"over TCP from the link-local router", "a", "+tcp @fe80::1%eth0 web-1.research.internal A", "10.20.1.10"},
		{"without EDNS", "a", "+noedns @10.20.1.253 web-1.research.internal A", "10.20.1.10"},
		{"with EDNS of tomorrow", "a", "+edns=1 @10.20.1.253 web-1.research.internal A", "10.20.1.10"},
		{"with a cookie and a client subnet", "a", "+cookie +subnet=192.0.2.0/24 @10.20.1.253 web-1.research.internal A", "10.20.1.10"},
		{"backwards", "a", "@10.20.1.253 -x 10.20.1.10", "ip-10-20-1-10.research.internal."},
		{"backwards in IPv6", "a", "@10.20.1.253 -x fd00:20:0:1::10", "web-1.research.internal."},
		{"a chain", "a", "@10.20.1.253 www.corp.example A", "git.corp.example. web-1.research.internal. 10.20.1.10"},
		{"an outside name", "a", "@10.20.1.253 www.example.org A", "192.0.2.80"},
		{"an outside name over IPv6", "a", "@fd00:20:0:1:ffff:ffff:ffff:fff7 www.example.org A", "192.0.2.80"},
		{"an outside name from the link-local router", "a", "@fe80::1%eth0 www.example.org A", "192.0.2.80"},
		{"an outside name over TCP", "a", "+tcp @10.20.1.253 www.example.org A", "192.0.2.80"},
		{"a chain to the outside", "a", "@10.20.1.253 out.corp.example A", "www.example.org. 192.0.2.80"},
		{"the version", "a", "@10.20.1.253 CH version.bind TXT", `"gatehouse test"`},
		{"at the gateway of another vSwitch", "c", "@10.20.1.253 web-1.research.internal A", "10.20.1.10"},
		{"at the IPv6 gateway of another vSwitch", "c", "@fd00:20:0:1:ffff:ffff:ffff:fff7 web-1.research.internal A", "10.20.1.10"},
		{"from another VPC", "b", "@10.30.1.253 web-1.research.internal A", "10.30.1.10"},
		{"from another VPC over IPv6", "b", "@fd00:30::ffff:ffff:ffff:fff7 web-1.research.internal AAAA", "fd00:30::10"},
		{"another VPC's gateway", "b", "@10.20.1.253 web-1.research.internal A", ""},
		{"another VPC's IPv6 gateway", "b", "@fd00:20:0:1:ffff:ffff:ffff:fff7 web-1.research.internal A", ""},
	}
	for _, tt := range tests {
		if got := strings.Join(dig(tt.guest, strings.Fields(tt.args)...), " "); got != tt.want {
			t.Errorf("%s: dig %s: %q, want %q", tt.what, tt.args, got, tt.want)
		}
	}
	for _, args := range []string{"@10.20.1.253", "@fd00:20:0:1:ffff:ffff:ffff:fff7"} {
		got := strings.Join(dig("a", args, "t.big.example", "TXT"), "") // truncated, and asked again over TCP
		if strings.Count(got, "x") != 3000 {
			t.Errorf("a long answer: %q", got)
		}
		out, err := guests["a"].Run(ctx, "dig", args, "+ignore", "t.big.example", "TXT")
		if err != nil || !strings.Contains(out, "flags: qr aa tc rd ra") {
			t.Errorf("not truncated: %s %v", out, err)
		}
		out, err = guests["b"].Run(ctx, "dig", args, "web-1.research.internal", "A")
		if err != nil || !strings.Contains(out, "status: REFUSED") {
			t.Errorf("not refused: %s %v", out, err)
		}
	}
	// A link-local address may be on any link: what counts is on which it is.
	for guest, want := range map[string]string{"a": "10.20.1.10", "c": "10.20.1.10", "b": ""} {
		for _, network := range []string{"udp6", "tcp6"} {
			if got := askFromLink(ctx, t, guests[guest], network, "[fd00:20:0:1:ffff:ffff:ffff:fff7]:53", "web-1.research.internal."); got != want {
				t.Errorf("guest %s from its link-local address over %s: %q, want %q", guest, network, got, want)
			}
		}
	}
	out, err := guests["a"].Run(ctx, "dig", "+tcp", "+keepopen", "@10.20.1.253", "web-1.research.internal", "A", "db.prod.research.internal", "A", "www.example.org", "A")
	if err != nil || strings.Count(out, "status: NOERROR") != 3 {
		t.Errorf("three questions on one connection: %s %v", out, err)
	}

	server.command("address 10.20.1.99")
	if got := dig("a", "@10.20.1.253", "web-1.research.internal", "A"); !slices.Equal(got, []string{"10.20.1.99"}) {
		t.Errorf("after the address has changed: %q", got)
	}

	// A link that goes and comes back is served again.
	if _, err := gateway.Run(ctx, "ip", "link", "del", "port-a"); err != nil {
		t.Fatal(err)
	}
	listeners(func(m map[string]string) bool { return m["fe80::1%port-a"] != "" && m["10.20.1.253"] == "" })
	if err := nets.Veth(ctx, gateway, "port-a", guests["a"], "eth0"); err != nil {
		t.Fatal(err)
	}
	if _, err := gateway.Script(ctx, "ip addr add 10.20.1.253/24 dev port-a\nip addr add fe80::1/64 dev port-a nodad\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := guests["a"].Script(ctx, "ip addr add 10.20.1.10/24 dev eth0\n"); err != nil {
		t.Fatal(err)
	}
	listeners(allOpen)
	for _, at := range []string{"@10.20.1.253", "@fe80::1%eth0"} {
		if err := netlab.Eventually(ctx, func() error { // the guest's own link-local address is tentative for a moment
			lines, err := guests["a"].Dig(ctx, at, "web-1.research.internal", "A")
			if err == nil && !slices.Equal(lines, []string{"10.20.1.99"}) {
				err = fmt.Errorf("%q", lines)
			}
			return err
		}); err != nil {
			t.Errorf("after the link has come back: %s: %v", at, err)
		}
	}
}

// askFromLink asks for an address with a link-local source and returns it; nothing when the question is refused or the
// connection closed.
func askFromLink(ctx context.Context, t *testing.T, guest *netlab.Space, network, server, name string) (answer string) {
	t.Helper()
	index, err := guest.Run(ctx, "cat", "/sys/class/net/eth0/ifindex")
	if err != nil {
		t.Fatal(err)
	}
	out, err := guest.Run(ctx, "ip", "-o", "-6", "addr", "show", "dev", "eth0", "scope", "link")
	if err != nil || len(strings.Fields(out)) < 4 {
		t.Fatalf("%q, %v", out, err)
	}
	source := netip.MustParsePrefix(strings.Fields(out)[3]).Addr().WithZone(strings.TrimSpace(index))
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0))}
	if network == "tcp6" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	var conn net.Conn
	if err := netlab.Eventually(ctx, func() error { // the address is tentative for a moment
		return guest.Do(func() (err error) {
			conn, err = d.DialContext(ctx, network, server)
			return err
		})
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &miekg.Conn{Conn: conn}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if err := c.WriteMsg(question(name, "A")); err != nil {
		t.Fatal(err)
	}
	m, err := c.ReadMsg()
	switch {
	case err != nil && network == "udp6":
		t.Fatal(err)
	case err != nil || len(m.Answer) != 1:
		return ""
	}
	return m.Answer[0].(*miekg.A).A.String()
}

func TestNoAnswerMixesRevisions(t *testing.T) {
	s := newTestServer(t)
	// Revision n gives web-1 an address that ends in n, and has the serial n.
	snapshots := make([]*vpc.Snapshot, 50)
	for n := range snapshots {
		snapshots[n] = vpc.NewSnapshot(netSpec(fmt.Sprintf("10.20.1.%d", 100+n)), vpc.Host{Region: "lab-1"}, uint64(100+n))
	}
	s.SetSnapshot(snapshots[0])
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for range 4 {
			for _, snapshot := range snapshots {
				s.SetSnapshot(snapshot)
			}
		}
	}()
	wire, err := question("www.corp.example.", "A").Pack()
	if err != nil {
		t.Fatal(err)
	}
	var q Query
	for {
		view := s.View("vpc-a")
		reply, _ := s.handle(t.Context(), nil, wire, &q, view, client4, false)
		m := unpack(t, reply)
		want := fmt.Sprintf("10.20.1.%d", view.Revision)
		if len(m.Answer) != 3 || !strings.HasSuffix(m.Answer[2].String(), want) {
			t.Fatalf("revision %d: %v", view.Revision, m.Answer)
		}
		select {
		case <-stop:
			return
		default:
		}
	}
}

func TestAViewThatNothingTouchedIsKept(t *testing.T) {
	s := newTestServer(t)
	spec := lab()
	s.SetSnapshot(vpc.NewSnapshot(spec, vpc.Host{Region: "lab-1"}, 50))
	before := map[string]*View{"vpc-a": s.View("vpc-a"), "vpc-b": s.View("vpc-b"), "vpc-c": s.View("vpc-c")}
	changed := *spec
	other := *spec.VPCs[1]
	other.Instances = nil
	changed.VPCs = []*vpc.VPCSpec{spec.VPCs[0], &other, spec.VPCs[2]}
	s.SetSnapshot(vpc.NewSnapshot(&changed, vpc.Host{Region: "lab-2"}, 51))
	for _, tt := range []struct {
		vpc  string
		kept bool
		why  string
	}{
		{"vpc-a", false, "which servers are our own depends on every VPC"},
		{"vpc-b", false, "an instance has gone"},
		{"vpc-c", false, "its domain comes from the region"},
	} {
		if kept := s.View(tt.vpc).Revision == before[tt.vpc].Revision; kept != tt.kept {
			t.Errorf("%s is kept: %v (%s)", tt.vpc, kept, tt.why)
		}
	}
	again := changed
	silent := *spec.VPCs[2]
	silent.DNSHostnames = true
	again.VPCs = []*vpc.VPCSpec{spec.VPCs[0], &other, &silent}
	s.SetSnapshot(vpc.NewSnapshot(&again, vpc.Host{Region: "lab-2"}, 52))
	if s.View("vpc-b").Revision != 51 {
		t.Error("a view was built again for nothing")
	}
	if s.View("vpc-c").Revision != 52 {
		t.Error("a view was kept though its VPC has changed")
	}
}

func TestQueryExplains(t *testing.T) {
	up := newFake(t, "127.0.0.1", says(t, "@ 100 IN A 192.0.2.1"))
	s := asking(t, nil, lab(), up)
	for _, tt := range []struct{ name, rcode, source, answer string }{
		{"web-1.research.internal", "NOERROR", "instance web-1", "10.20.1.10"},
		{"git.corp.example.", "NOERROR", "zone corp.example", "10.20.1.10"},
		{"nobody.research.internal", "NXDOMAIN", "gateway", ""},
		{"x.local", "NXDOMAIN", "reserved name", ""},
		{"www.example.org", "NOERROR", "upstream " + up.addr.String(), "192.0.2.1"},
	} {
		e, err := s.Query(t.Context(), "vpc-a", tt.name, 1)
		if err != nil {
			t.Fatal(err)
		}
		if e.Rcode != tt.rcode || e.Source != tt.source || e.Type != "A" || e.VPC != "research" || e.Revision != 42 ||
			tt.answer != "" && (len(e.Answer) == 0 || !strings.HasSuffix(e.Answer[len(e.Answer)-1], tt.answer)) {
			t.Errorf("%+v", e)
		}
	}
	if _, err := s.Query(t.Context(), "vpc-x", "a.example", 1); err == nil {
		t.Error("a VPC that is not there answers")
	}
	if _, err := s.Query(t.Context(), "vpc-a", "a..example", 1); err == nil {
		t.Error("a name that is none is answered")
	}
}
