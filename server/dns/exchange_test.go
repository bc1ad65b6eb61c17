package dns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

const mixable = "a-long-name-with-many-letters.example.org."

func TestLettersOfAQuestionHaveARandomCase(t *testing.T) {
	seen := map[string]bool{}
	for range 50 {
		s := mixCase(mixable)
		if !strings.EqualFold(s, mixable) {
			t.Fatalf("%s is another name", s)
		}
		seen[s] = true
	}
	if len(seen) < 49 {
		t.Errorf("%d ways to write 36 letters in 50 draws", len(seen))
	}
	for _, same := range []string{".", "1-2.3.", `\000\255.`} {
		if got := mixCase(same); got != same {
			t.Errorf("%q became %q", same, got)
		}
	}
}

// folding answers in lower case, whatever the question's letters are.
func folding(answer func(q *miekg.Msg, tcp bool) []*miekg.Msg) func(q *miekg.Msg, tcp bool) []*miekg.Msg {
	return func(q *miekg.Msg, tcp bool) []*miekg.Msg {
		q.Question[0].Name = strings.ToLower(q.Question[0].Name)
		return answer(q, tcp)
	}
}

func TestAForgerMustGuessTheCaseToo(t *testing.T) {
	for _, loopback := range []string{"127.0.0.1", "::1"} {
		t.Run(loopback, func(t *testing.T) {
			good, bad := says(t, "@ 100 IN A 192.0.2.1"), folding(says(t, "@ 100 IN A 192.0.2.66"))
			// Somebody between us and the server has the right ID and port, and is faster.
			up := newFake(t, loopback, func(q *miekg.Msg, tcp bool) []*miekg.Msg {
				if tcp {
					return good(q, tcp)
				}
				return append(bad(q.Copy(), tcp), good(q, tcp)...)
			})
			u := &upstream{endpoint: endpoint{addr: up.addr}, now: time.Now}
			reply, err := u.exchange(t.Context(), question(mixable, "A"))
			if err != nil {
				t.Fatal(err)
			}
			if got := reply.Answer[0].(*miekg.A).A.String(); got != "192.0.2.1" || up.tcp.Load() != 1 {
				t.Errorf("believed %s after %d questions over TCP", got, up.tcp.Load())
			}
			if u.foldsCase() {
				t.Error("the server repeats the case, and is not asked with it any more")
			}
		})
	}
}

func TestAForgedTruncationIsNoReasonForTCP(t *testing.T) {
	for _, tt := range []struct {
		what  string
		forge func(m *miekg.Msg)
	}{
		{"another ID", func(m *miekg.Msg) { m.Id++ }},
		{"another question", func(m *miekg.Msg) { m.Question[0].Name = "www.example.net." }},
		{"another type", func(m *miekg.Msg) { m.Question[0].Qtype = miekg.TypeAAAA }},
		{"a question", func(m *miekg.Msg) { m.Response = false }},
	} {
		t.Run(tt.what, func(t *testing.T) {
			up := newFake(t, "127.0.0.1", func(q *miekg.Msg, tcp bool) []*miekg.Msg {
				forged := new(miekg.Msg).SetReply(q)
				forged.Truncated = true
				tt.forge(forged)
				return append([]*miekg.Msg{forged}, says(t, "@ 100 IN A 192.0.2.1")(q, tcp)...)
			})
			s := asking(t, nil, lab(), up)
			if m := askServer(t, s, "vpc-a", question("www.example.org.", "A")); len(m.Answer) != 1 || m.Truncated || up.tcp.Load() != 0 {
				t.Errorf("%v, asked %d times over TCP", m, up.tcp.Load())
			}
		})
	}
}

// Whoever forges a reply has to guess the ID and the port of every question anew.
func TestIDsAndPortsAreNewForEveryQuestion(t *testing.T) {
	for _, loopback := range loopbacks() {
		pc, err := net.ListenPacket("udp", net.JoinHostPort(loopback, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		var mu sync.Mutex
		ids, ports, low := map[uint16]bool{}, map[int]bool{}, 0
		go func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				var q miekg.Msg
				if q.Unpack(buf[:n]) != nil {
					continue
				}
				mu.Lock()
				ids[q.Id], ports[from.(*net.UDPAddr).Port] = true, true
				if q.Id < 1<<15 {
					low++
				}
				mu.Unlock()
				if wire, err := says(t, "@ 100 IN A 192.0.2.1")(&q, false)[0].Pack(); err == nil {
					pc.WriteTo(wire, from)
				}
			}
		}()
		s, err := New(Config{Upstreams: []string{pc.LocalAddr().String()}, CacheSize: 10})
		if err != nil {
			t.Fatal(err)
		}
		s.SetSnapshot(snapshotOf(lab()))
		const questions = 400
		for i := range questions {
			askServer(t, s, "vpc-a", question(fmt.Sprintf("n%d.example.org.", i), "A"))
		}
		mu.Lock()
		// By chance some come twice: of IDs one or two, of ports, which are half as many, a few more.
		if len(ids) < questions*95/100 || len(ports) < questions*95/100 || low < questions*35/100 || low > questions*65/100 {
			t.Errorf("%d questions had %d IDs, %d of them below the middle, and %d ports", questions, len(ids), low, len(ports))
		}
		mu.Unlock()
	}
}

func TestAServerThatFoldsCaseIsFoundOutOnce(t *testing.T) {
	for _, overTCP := range []bool{true, false} {
		t.Run(map[bool]string{true: "over TCP", false: "without TCP"}[overTCP], func(t *testing.T) {
			answer := folding(says(t, "@ 100 IN A 192.0.2.1"))
			up := newFake(t, "127.0.0.1", answer)
			addr := up.addr
			if !overTCP {
				pc, err := net.ListenPacket("udp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer pc.Close()
				addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
				go func() {
					buf := make([]byte, 4096)
					for n, from, err := pc.ReadFrom(buf); err == nil; n, from, err = pc.ReadFrom(buf) {
						for _, b := range up.handle(buf[:n], false) {
							pc.WriteTo(b, from)
						}
					}
				}()
			}
			u := &upstream{endpoint: endpoint{addr: addr}, now: time.Now}
			for range 3 {
				if _, err := u.exchange(t.Context(), question(mixable, "A")); err != nil {
					t.Fatal(err)
				}
			}
			wantTCP := int32(0)
			if overTCP {
				wantTCP = 1
			}
			if got := up.tcp.Load(); got != wantTCP || !u.foldsCase() {
				t.Errorf("%d questions over TCP, want %d; known to fold: %v", got, wantTCP, u.foldsCase())
			}
		})
	}
}

func TestRandomLettersDoNotReachClients(t *testing.T) {
	up := newFake(t, "127.0.0.1", func(q *miekg.Msg, _ bool) []*miekg.Msg {
		m := new(miekg.Msg)
		m.SetReply(q)
		name := q.Question[0].Name
		m.Answer = []miekg.RR{newRR(t, name+" 100 IN CNAME web."+name), newRR(t, "web."+name+" 100 IN A 192.0.2.1")}
		return []*miekg.Msg{m}
	})
	s, err := New(Config{Upstreams: []string{up.addr.String()}, CacheSize: 10})
	if err != nil {
		t.Fatal(err)
	}
	s.SetSnapshot(snapshotOf(lab()))
	e, err := s.Query(t.Context(), "vpc-a", mixable, miekg.TypeA)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{mixable + " 100 IN CNAME web." + mixable, "web." + mixable + " 100 IN A 192.0.2.1"}; !slices.Equal(strings.Split(strings.ReplaceAll(strings.Join(e.Answer, "|"), "\t", " "), "|"), want) {
		t.Errorf("answer %q, want %q", e.Answer, want)
	}
}

// keepOpen answers every question of a connection and counts connections.
func keepOpen(f *fakeUpstream, conns *atomic.Int32, questions int) func(net.Conn) {
	return func(conn net.Conn) {
		conns.Add(1)
		for range questions {
			var size [2]byte
			if _, err := io.ReadFull(conn, size[:]); err != nil {
				return
			}
			buf := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(conn, buf); err != nil {
				return
			}
			for _, b := range f.handle(buf, true) {
				conn.Write(rdata(b))
			}
		}
	}
}

func truncating(t *testing.T) func(q *miekg.Msg, tcp bool) []*miekg.Msg {
	answer := says(t, "@ 100 IN A 192.0.2.1")
	return func(q *miekg.Msg, tcp bool) []*miekg.Msg {
		m := answer(q, tcp)
		if !tcp {
			m[0].Truncated, m[0].Answer = true, nil
		}
		return m
	}
}

func TestAConnectionServesManyQuestions(t *testing.T) {
	for _, tt := range []struct {
		what              string
		each, asked, want int32 // questions that the server answers on a connection, that are asked; connections
	}{
		{"a server that leaves it open", 100, 5, 1},
		{"a server that closes it after each", 1, 5, 5},
		{"a server that closes it after two", 2, 5, 3},
	} {
		t.Run(tt.what, func(t *testing.T) {
			up := newFake(t, "127.0.0.1", truncating(t))
			var conns atomic.Int32
			up.mu.Lock()
			up.streams = keepOpen(up, &conns, int(tt.each))
			up.mu.Unlock()
			u := &upstream{endpoint: endpoint{addr: up.addr}, now: time.Now}
			for range tt.asked {
				reply, err := u.exchange(t.Context(), question("www.example.org.", "A"))
				if err != nil || len(reply.Answer) != 1 {
					t.Fatalf("%v, %v", reply, err)
				}
			}
			if got := conns.Load(); got != tt.want {
				t.Errorf("%d connections, want %d", got, tt.want)
			}
			u.closeIdle()
			if len(u.idle) != 0 || u.stats().Failed != 0 {
				t.Errorf("%d connections wait, %d failures", len(u.idle), u.stats().Failed)
			}
		})
	}
}

// newTLS returns a resolver over TLS whose certificate has a name, and who has signed it.
func newTLS(t *testing.T, loopback, name string, up *fakeUpstream, conns *atomic.Int32) (netip.AddrPort, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", net.JoinHostPort(loopback, "0"), &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				keepOpen(up, conns, 100)(conn)
			}()
		}
	}()
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return ln.Addr().(*net.TCPAddr).AddrPort(), pool
}

func TestOverTLSOnlyTheNamedServerIsAsked(t *testing.T) {
	for _, loopback := range []string{"127.0.0.1", "::1"} {
		t.Run(loopback, func(t *testing.T) {
			up := newFake(t, loopback, says(t, "@ 100 IN A 192.0.2.1"))
			var conns atomic.Int32
			addr, roots := newTLS(t, loopback, "dns.example", up, &conns)
			ask := func(name string, roots *x509.CertPool) (Explanation, *Server) {
				s, err := New(Config{Upstreams: []string{"tls://" + name + "@" + addr.String()}, Roots: roots, CacheSize: 10})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(s.resolver.closeIdle)
				s.SetSnapshot(snapshotOf(lab()))
				e, err := s.Query(t.Context(), "vpc-a", "www.example.org.", miekg.TypeA)
				if err != nil {
					t.Fatal(err)
				}
				return e, s
			}
			e, s := ask("dns.example", roots)
			if e.Rcode != "NOERROR" || len(e.Answer) != 1 || e.Source != "upstream tls://dns.example@"+addr.String() {
				t.Errorf("%+v", e)
			}
			if _, err := s.Query(t.Context(), "vpc-a", "mail.example.org.", miekg.TypeA); err != nil || conns.Load() != 1 {
				t.Errorf("%v, %d connections for two questions", err, conns.Load())
			}
			if up.udp.Load() != 0 {
				t.Error("a question went out in the clear")
			}
			lengths := map[int]bool{}
			for _, q := range up.questions() {
				lengths[q.Len()%paddingBlock] = true
			}
			if !lengths[0] || len(lengths) != 1 {
				t.Errorf("questions are not padded: %v octets over a block", lengths)
			}
			if e, _ := ask("other.example", roots); e.Rcode != "SERVFAIL" {
				t.Errorf("a server with another name was believed: %+v", e)
			}
			if e, _ := ask("dns.example", nil); e.Rcode != "SERVFAIL" {
				t.Errorf("a certificate that nobody trusts was believed: %+v", e)
			}
		})
	}
}

func TestAForwarderIsAskedOverTLS(t *testing.T) {
	for _, loopback := range loopbacks() {
		t.Run(loopback, func(t *testing.T) {
			up := newFake(t, loopback, says(t, "@ 100 IN A 192.0.2.1"))
			world := newFake(t, loopback, says(t, "@ 100 IN A 192.0.2.2"))
			var conns atomic.Int32
			addr, roots := newTLS(t, loopback, "dns.example", up, &conns)
			for _, tt := range []struct {
				what, server string
				roots        *x509.CertPool
				rcode        int
			}{
				{"the right server", "tls://dns.example@" + addr.String(), roots, miekg.RcodeSuccess},
				{"a server with another name", "tls://other.example@" + addr.String(), roots, miekg.RcodeServerFailure},
				{"a certificate that nobody trusts", "tls://dns.example@" + addr.String(), nil, miekg.RcodeServerFailure},
			} {
				t.Run(tt.what, func(t *testing.T) {
					spec := lab()
					spec.VPCs[0].Forwarders = []*vpc.ForwarderSpec{{Zone: "partner.example", Servers: []string{tt.server}}}
					s, err := New(Config{Upstreams: []string{world.addr.String()}, Roots: tt.roots, CacheSize: 10})
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(s.resolver.closeIdle)
					s.SetSnapshot(snapshotOf(spec))
					if f := s.Findings(); len(f) > 0 && strings.Contains(f[0].Message, "forwarder") {
						t.Fatal(f)
					}
					if m := askServer(t, s, "vpc-a", question("www.partner.example.", "A")); m.Rcode != tt.rcode || len(m.Answer) > 0 && !strings.HasSuffix(m.Answer[0].String(), "192.0.2.1") {
						t.Errorf("%v", m)
					}
					if world.udp.Load() > 0 || up.udp.Load() > 0 {
						t.Error("the question went out in the clear")
					}
					// Another VPC asks its own way.
					if m := askServer(t, s, "vpc-b", question("www.partner.example.", "A")); len(m.Answer) != 1 || !strings.HasSuffix(m.Answer[0].String(), "192.0.2.2") {
						t.Errorf("another VPC: %v", m)
					}
					world.udp.Store(0)
				})
			}
			if conns.Load() == 0 {
				t.Error("nobody was asked over TLS")
			}
		})
	}
}

func TestParseEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1":                           "192.0.2.1:53",
		"tls://dns.example@192.0.2.1":         "tls://dns.example@192.0.2.1",
		"tls://dns.example@192.0.2.1:8853":    "tls://dns.example@192.0.2.1:8853",
		"tls://dns.example.@2001:db8::1":      "tls://dns.example@2001:db8::1",
		"tls://dns.example@[2001:db8::1]:853": "tls://dns.example@2001:db8::1",
		"tls://192.0.2.1":                     "",
		"tls://@192.0.2.1":                    "",
		"tls://dns.example@":                  "",
		"tls://dns.example@0.0.0.0":           "",
		"tls://a..b@192.0.2.1":                "",
		"https://dns.example@192.0.2.1":       "",
	} {
		e, err := parseEndpoint(in)
		switch {
		case want == "" && err == nil:
			t.Errorf("%s was read as %s", in, e)
		case want != "" && (err != nil || e.String() != want):
			t.Errorf("%s was read as %s, %v; want %s", in, e, err, want)
		}
	}
}
