package acceptance

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"gatehouse/internal/netlab"
)

// message makes a question.
func message(t *testing.T, name string, typ dnsmessage.Type) []byte {
	t.Helper()
	n, err := dnsmessage.NewName(name)
	if err != nil {
		t.Fatal(err)
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 1, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: typ, Class: dnsmessage.ClassINET}},
	}
	wire, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// dialFrom opens a UDP socket on a host.
func dialFrom(t *testing.T, s *netlab.Space, to string) net.Conn {
	t.Helper()
	var conn net.Conn
	if err := s.Do(func() (err error) {
		conn, err = net.Dial("udp", to)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// watcher asks for an address all the time and notes when the answer changes.
type watcher struct {
	conn    net.Conn
	ask     []byte
	mu      sync.Mutex
	answers []string    // one after the other, each once
	since   []time.Time // when each was seen first
	err     error
	stop    chan struct{}
	done    sync.WaitGroup
}

func watch(t *testing.T, s *netlab.Space, server, name string, typ dnsmessage.Type) *watcher {
	t.Helper()
	w := &watcher{conn: dialFrom(t, s, net.JoinHostPort(server, "53")), ask: message(t, name, typ), stop: make(chan struct{})}
	w.done.Go(func() {
		for {
			select {
			case <-w.stop:
				return
			default:
			}
			answer, err := w.once()
			w.mu.Lock()
			if err != nil {
				w.err = err
			} else if n := len(w.answers); n == 0 || w.answers[n-1] != answer {
				w.answers, w.since = append(w.answers, answer), append(w.since, time.Now())
			}
			w.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	return w
}

// once asks once.
func (w *watcher) once() (string, error) {
	if _, err := w.conn.Write(w.ask); err != nil {
		return "", err
	}
	buf := make([]byte, 1500)
	w.conn.SetReadDeadline(time.Now().Add(patience))
	n, err := w.conn.Read(buf)
	if err != nil {
		return "", err
	}
	var m dnsmessage.Message
	if err := m.Unpack(buf[:n]); err != nil {
		return "", err
	}
	if m.RCode != dnsmessage.RCodeSuccess {
		return m.RCode.String(), nil
	}
	for _, rr := range m.Answers {
		switch b := rr.Body.(type) {
		case *dnsmessage.AResource:
			return netip.AddrFrom4(b.A).String(), nil
		case *dnsmessage.AAAAResource:
			return netip.AddrFrom16(b.AAAA).String(), nil
		}
	}
	return "nothing", nil
}

// seen ends the watch and returns what was answered, in order.
func (w *watcher) seen(t *testing.T) ([]string, []time.Time) {
	t.Helper()
	close(w.stop)
	w.done.Wait()
	if w.err != nil {
		t.Error(w.err)
	}
	return w.answers, w.since
}

func TestNamesFollowAnAddressInTheSameRevision(t *testing.T) {
	t.Parallel()
	const manifest = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  domain: lab.internal
  vswitches:
  - {name: web, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: gh-web}}
  privateZones:
  - {name: corp.example, records: [{name: www, type: CNAME, value: mover.lab.internal.}]}
  instances:
  - {name: asker, interfaces: [{mac: 00:16:3e:00:00:01, vswitch: web, privateIp: 10.20.1.10, ipv6Addresses: ["fd00:20:0:1::10"]}]}
  - {name: mover, interfaces: [{mac: 00:16:3e:00:00:02, vswitch: web, privateIp: 10.20.1.%d, ipv6Addresses: ["fd00:20:0:1::%d"]}]}
`
	g := newGateway(t)
	g.start()
	g.apply(fmt.Sprintf(manifest, 30, 30))
	asker := g.static("asker", "gh-web", "00:16:3e:00:00:01", "10.20.1.10", "10.20.1.253", "fd00:20:0:1::10")
	g.eventually("the asker reaches its gateway", func() error {
		if got := g.dig(asker, "@10.20.1.253", "mover.lab.internal", "A"); got.answer != "10.20.1.30" {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	const server4, server6 = "10.20.1.253", "fd00:20:0:1:ffff:ffff:ffff:fff7"
	watched := map[string]*watcher{
		"its address":             watch(t, asker, server4, "mover.lab.internal.", dnsmessage.TypeA),
		"its IPv6 address":        watch(t, asker, server6, "mover.lab.internal.", dnsmessage.TypeAAAA),
		"its alias":               watch(t, asker, server4, "www.corp.example.", dnsmessage.TypeA),
		"what its address was":    watch(t, asker, server4, "ip-10-20-1-30.lab.internal.", dnsmessage.TypeA),
		"what its address became": watch(t, asker, server6, "ip-10-20-1-40.lab.internal.", dnsmessage.TypeA),
	}
	g.write("moved.yaml", fmt.Sprintf(manifest, 40, 40))
	began := time.Now()
	g.ok("apply", "-f", "moved.yaml")
	inForce := time.Since(began)

	for what, want := range map[string]string{
		"its address": "10.20.1.30 10.20.1.40", "its IPv6 address": "fd00:20:0:1::30 fd00:20:0:1::40", "its alias": "10.20.1.30 10.20.1.40",
		"what its address was": "10.20.1.30 RCodeNameError", "what its address became": "RCodeNameError 10.20.1.40",
	} {
		answers, since := watched[what].seen(t)
		if got := strings.Join(answers, " "); got != want {
			t.Errorf("%s: answered %q, want %q", what, got, want)
			continue
		}
		t.Logf("%s: the new answer %s after the command was given", what, since[1].Sub(began).Round(100*time.Microsecond))
	}
	t.Logf("the command returned after %s", inForce.Round(100*time.Microsecond))

	// As soon as the command has returned, and without a moment's patience.
	revision, _ := g.revisions()
	for _, tt := range []struct{ args, status, want string }{
		{"mover.lab.internal A", "NOERROR", "10.20.1.40"},
		{"mover.lab.internal AAAA", "NOERROR", "fd00:20:0:1::40"},
		{"www.corp.example A", "NOERROR", "mover.lab.internal. 10.20.1.40"},
		{"ip-10-20-1-40.lab.internal A", "NOERROR", "10.20.1.40"},
		{"ip-10-20-1-30.lab.internal A", "NXDOMAIN", ""},
		{"-x 10.20.1.40", "NOERROR", "ip-10-20-1-40.lab.internal."},
		{"-x 10.20.1.30", "NXDOMAIN", ""},
		{"-x fd00:20:0:1::40", "NOERROR", "mover.lab.internal."},
		{"-x fd00:20:0:1::30", "NXDOMAIN", ""},
	} {
		for _, server := range []string{server4, server6} {
			if got := g.dig(asker, append([]string{"@" + server}, strings.Fields(tt.args)...)...); got.status != tt.status || got.answer != tt.want {
				t.Errorf("dig %s at %s: %+v, want %s %q", tt.args, server, got, tt.status, tt.want)
			}
		}
	}
	soa, err := asker.Dig(g.ctx, "@"+server4, "lab.internal", "SOA")
	if err != nil || len(soa) < 3 || soa[2] != strconv.FormatUint(revision, 10) {
		t.Errorf("the zone's serial: %q, %v; want %d", soa, err, revision)
	}
}

func TestWhatUpstreamsSaidIsForgottenOnDemand(t *testing.T) {
	t.Parallel()
	g, asker := resolveGateway(t)
	names := map[string]string{"www.example.org": "203.0.113.80", "outside.mixed.example": "203.0.113.81"}
	ask := func() {
		t.Helper()
		for name, want := range names {
			if got := g.dig(asker, "@10.20.1.253", name, "A"); got.answer != want {
				t.Errorf("%s: %+v, want %s", name, got, want)
			}
		}
	}
	metric := func(name string) float64 {
		t.Helper()
		var text []byte
		if err := g.client.Do(g.ctx, "GET", "/metrics", nil, nil, &text); err != nil {
			t.Fatal(err)
		}
		_, rest, ok := strings.Cut("\n"+string(text), "\n"+name+" ")
		value, _, _ := strings.Cut(rest, "\n")
		v, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil {
			t.Errorf("there is no %s among the metrics, %v", name, err)
		}
		return v
	}
	for _, tt := range []struct {
		flush, want string
		left        float64
	}{
		{"www.example.org", "1 answers forgotten\n", 1},
		{"example.org", "1 answers forgotten\n", 1},
		{"MIXED.example.", "1 answers forgotten\n", 1},
		{"example.com", "0 answers forgotten\n", 2},
		{"", "2 answers forgotten\n", 0},
	} {
		ask()
		if n := metric("gatehouse_dns_cache_entries"); n != 2 {
			t.Errorf("the metrics say that there are %v answers, want 2", n)
		}
		if got := g.ok(append([]string{"dns", "flush"}, strings.Fields(tt.flush)...)...); got != tt.want {
			t.Errorf("flush %s: %q, want %q", tt.flush, got, tt.want)
		}
		if n := metric("gatehouse_dns_cache_entries"); n != tt.left {
			t.Errorf("flush %s: the metrics say that %v answers are left, want %v", tt.flush, n, tt.left)
		}
	}
	ask()
	ask()
	// A client that has lost patience may have asked more often.
	for name, least := range map[string]float64{
		`gatehouse_dns_queries_total{rcode="NOERROR"}`:                                    14,
		`gatehouse_dns_cache_total{result="miss"}`:                                        7,
		`gatehouse_dns_cache_total{result="hit"}`:                                         7,
		`gatehouse_dns_wait_seconds_count`:                                                7,
		`gatehouse_dns_upstream_queries_total{result="answered",upstream="192.0.2.2:53"}`: 7,
		`gatehouse_dns_upstream_healthy{upstream="192.0.2.2:53"}`:                         1,
	} {
		if n := metric(name); n < least || n > 3*least {
			t.Errorf("%s is %v, want about %v", name, n, least)
		}
	}
	if n := metric("gatehouse_dns_listeners_down"); n != 0 {
		t.Errorf("%v listeners are down", n)
	}
	g.fails(1, "gatehouse: dns flush: \"a..b\" is not a domain name\n", "dns", "flush", "a..b")
}

// A secondary hears of every change of its zones, over IPv4 and IPv6, from the address that it asks.
func TestSecondariesHearOfChanges(t *testing.T) {
	t.Parallel()
	g, peer := namesGateway(t)
	heard := map[string]chan string{}
	for addr, from := range map[string]string{"10.20.1.10": "10.20.1.253", "fd00:20:0:1::10": "fd00:20:0:1:ffff:ffff:ffff:fff7"} {
		var pc net.PacketConn
		if err := peer.Do(func() (err error) {
			pc, err = net.ListenPacket("udp", net.JoinHostPort(addr, "53"))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pc.Close() })
		said := make(chan string, 100)
		heard[addr] = said
		go func() {
			buf := make([]byte, 1500)
			for {
				n, source, err := pc.ReadFrom(buf)
				if err != nil {
					close(said)
					return
				}
				var m dnsmessage.Message
				if m.Unpack(buf[:n]) != nil || m.OpCode != 4 || len(m.Questions) != 1 || len(m.Answers) != 1 {
					said <- fmt.Sprintf("%x, which is no notice", buf[:n])
					continue
				}
				soa, _ := m.Answers[0].Body.(*dnsmessage.SOAResource)
				if a := source.(*net.UDPAddr).AddrPort().Addr().Unmap().String(); soa == nil || a != from {
					said <- fmt.Sprintf("a notice without a serial, or from %s", a)
					continue
				}
				said <- m.Questions[0].Name.String() + " " + strconv.Itoa(int(soa.Serial))
				buf[2] |= 0x80 // it is the reply to itself
				pc.WriteTo(buf[:n], source)
			}
		}()
	}
	for n := range 3 {
		g.apply(strings.Replace(namesLab, `'"hello"'`, fmt.Sprintf(`'"hello %d"'`, n), 1))
		revision, _ := g.revisions()
		for addr, said := range heard {
			want := fmt.Sprintf("corp.example. %d", revision)
			deadline := time.After(patience)
			for got := ""; got != want; {
				select {
				case got = <-said:
					if older := strings.HasPrefix(got, "corp.example. ") && len(got) <= len(want) && got <= want; !older {
						t.Fatalf("%s heard %s, want %s", addr, got, want)
					}
				case <-deadline:
					t.Fatalf("%s has not heard of revision %d", addr, revision)
				}
			}
			if got := g.dig(peer, "@10.20.1.253", "corp.example", "AXFR"); !strings.Contains(got.answer, fmt.Sprintf(`"hello %d"`, n)) {
				t.Errorf("it transfers what is over: %+v", got)
			}
		}
	}
}

// Whoever is outside gets no answer, and the daemon not even his question: neither with his own address nor with that of an
// instance, of the gateway or of the gateway's host.
func TestNobodyOutsideIsAnswered(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "uplinks: [up0]", "dns: {upstreams: ["+outside4+"]}")
	stranger := g.outside("10.20.0.0/16", "fd00:20::/56")
	g.start()
	g.apply(resolveLab)
	g.script(stranger, `ip addr add 10.20.1.10/32 dev lo
ip addr add 10.20.1.20/32 dev lo
ip -6 addr add fd00:20:0:1::10/128 dev lo
ip -6 addr add fd00:20:0:1::20/128 dev lo
`)
	asked := 0
	var asking sync.WaitGroup
	for _, tt := range []struct {
		servers []string
		sources []string
	}{
		{[]string{"10.20.1.253", uplink4}, []string{outside4, "10.20.1.10", "10.20.1.20"}},
		{[]string{"fd00:20:0:1:ffff:ffff:ffff:fff7", uplink6}, []string{outside6, "fd00:20:0:1::10", "fd00:20:0:1::20"}},
	} {
		for _, server := range tt.servers {
			for _, source := range tt.sources {
				for _, name := range []string{"web-1.lab.internal", "www.example.org"} {
					for _, tcp := range []string{"+notcp", "+tcp"} {
						asked++
						asking.Go(func() {
							out, _ := stranger.Run(g.ctx, "dig", tcp, "+tries=1", "+time=1", "-b", source, "@"+server, name, "A") // it fails
							if strings.Contains(out, "status:") || !strings.Contains(out, ";; ") {
								t.Errorf("%s is answered by %s (%s), or cannot ask:\n%s", source, server, tcp, out)
							}
						})
					}
				}
			}
		}
	}
	asking.Wait()
	var text []byte
	if err := g.client.Do(g.ctx, "GET", "/metrics", nil, nil, &text); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "gatehouse_dns_queries_total") || strings.HasPrefix(line, `gatehouse_dns_unusual_total{what="ignored"}`) && !strings.HasSuffix(line, " 0\n") {
			t.Errorf("of %d questions from outside some have reached the daemon: %s", asked, line)
		}
	}
}
