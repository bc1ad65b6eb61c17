package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
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

// fakeUpstream is a resolver on loopback that does what a test tells it to.
type fakeUpstream struct {
	addr netip.AddrPort
	udp  atomic.Int32 // questions
	tcp  atomic.Int32

	mu      sync.Mutex
	answer  func(q *miekg.Msg, tcp bool) []*miekg.Msg // what to send, in order; nil: nothing
	asked   []*miekg.Msg
	streams func(net.Conn) // instead of answer, for TCP
}

func newFake(t testing.TB, loopback string, answer func(q *miekg.Msg, tcp bool) []*miekg.Msg) *fakeUpstream {
	t.Helper()
	f := &fakeUpstream{answer: answer}
	pc, ln := listenBoth(t, loopback)
	f.addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, b := range f.handle(buf[:n], false) {
				pc.WriteTo(b, from)
			}
		}
	})
	done.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			streams := f.streams
			f.mu.Unlock()
			if streams != nil {
				streams(conn)
				conn.Close()
				continue
			}
			var size [2]byte
			if _, err := io.ReadFull(conn, size[:]); err == nil {
				buf := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(conn, buf); err == nil {
					for _, b := range f.handle(buf, true) {
						conn.Write(rdata(b))
					}
				}
			}
			conn.Close()
		}
	})
	t.Cleanup(func() {
		pc.Close()
		ln.Close()
		done.Wait()
	})
	return f
}

// listenBoth opens a port that is free for UDP and for TCP.
func listenBoth(t testing.TB, loopback string) (net.PacketConn, net.Listener) {
	t.Helper()
	for tries := 0; ; tries++ {
		pc, err := net.ListenPacket("udp", net.JoinHostPort(loopback, "0"))
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", pc.LocalAddr().String())
		if err == nil {
			return pc, ln
		}
		pc.Close()
		if tries == 20 {
			t.Fatal(err)
		}
	}
}

func (f *fakeUpstream) handle(wire []byte, tcp bool) [][]byte {
	q := new(miekg.Msg)
	if q.Unpack(wire) != nil {
		return nil
	}
	if tcp {
		f.tcp.Add(1)
	} else {
		f.udp.Add(1)
	}
	f.mu.Lock()
	f.asked = append(f.asked, q)
	answer := f.answer
	f.mu.Unlock()
	var out [][]byte
	for _, m := range answer(q, tcp) {
		if b, err := m.Pack(); err == nil {
			out = append(out, b)
		}
	}
	return out
}

func (f *fakeUpstream) set(answer func(q *miekg.Msg, tcp bool) []*miekg.Msg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func (f *fakeUpstream) questions() []*miekg.Msg {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// says replies with records; a name in them that is only @ is the question's.
func says(t testing.TB, records ...string) func(q *miekg.Msg, tcp bool) []*miekg.Msg {
	return func(q *miekg.Msg, _ bool) []*miekg.Msg {
		m := new(miekg.Msg)
		m.SetReply(q)
		for _, r := range records {
			rr := newRR(t, strings.Replace(r, "@", q.Question[0].Name, 1))
			m.Answer = append(m.Answer, rr)
		}
		return []*miekg.Msg{m}
	}
}

// newGated returns an upstream that answers with a record, but not before it is released.
func newGated(t testing.TB, loopback, record string) (up *fakeUpstream, release func()) {
	gate := make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	up = newFake(t, loopback, func(q *miekg.Msg, tcp bool) []*miekg.Msg {
		<-gate
		return says(t, record)(q, tcp)
	})
	t.Cleanup(release)
	return up, release
}

func silent(*miekg.Msg, bool) []*miekg.Msg { return nil }

func fails(rcode int) func(q *miekg.Msg, tcp bool) []*miekg.Msg {
	return func(q *miekg.Msg, _ bool) []*miekg.Msg {
		return []*miekg.Msg{new(miekg.Msg).SetRcode(q, rcode)}
	}
}

// asking returns a server of the lab that asks those upstreams.
func asking(t testing.TB, clk *clock, spec *vpc.Spec, upstreams ...*fakeUpstream) *Server {
	t.Helper()
	c := Config{CacheSize: 100}
	if clk != nil {
		c.Now = clk.now
	}
	for _, u := range upstreams {
		c.Upstreams = append(c.Upstreams, u.addr.String())
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.SetSnapshot(snapshotOf(spec))
	return s
}

// ask puts a question as a client of a VPC and returns the reply.
func askServer(t testing.TB, s *Server, vpcID string, m *miekg.Msg) *miekg.Msg {
	t.Helper()
	return askServerFrom(t, s, vpcID, m, s.View(vpcID).vpc.CIDRBlock.Addr())
}

// askServerFrom is askServer for a client of an address.
func askServerFrom(t testing.TB, s *Server, vpcID string, m *miekg.Msg, client netip.Addr) *miekg.Msg {
	t.Helper()
	wire, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var q Query
	reply, later := s.handle(t.Context(), nil, wire, &q, s.View(vpcID), client, false)
	if later != nil {
		replies := make(chan []byte, 1)
		s.finish(t.Context(), later, client, func(b []byte) { replies <- b })
		reply = <-replies
	}
	return unpack(t, reply)
}

func loopbacks() []string { return []string{"127.0.0.1", "::1"} }

func TestWhatUpstreamsMayDo(t *testing.T) {
	good := "@ 100 IN A 192.0.2.1"
	wrongID := func(q *miekg.Msg, tcp bool) []*miekg.Msg {
		m := says(t, "@ 100 IN A 192.0.2.66")(q, tcp)[0]
		m.Id++
		return []*miekg.Msg{m}
	}
	tests := []struct {
		what   string
		first  func(q *miekg.Msg, tcp bool) []*miekg.Msg
		second func(q *miekg.Msg, tcp bool) []*miekg.Msg // nil: there is only one
		rcode  int
		answer string
	}{
		{"answer", says(t, good), nil, 0, "192.0.2.1"},
		{"be silent", silent, says(t, good), 0, "192.0.2.1"},
		{"fail", fails(miekg.RcodeServerFailure), says(t, good), 0, "192.0.2.1"},
		{"refuse", fails(miekg.RcodeRefused), says(t, good), 0, "192.0.2.1"},
		{"all fail", fails(miekg.RcodeServerFailure), fails(miekg.RcodeServerFailure), miekg.RcodeServerFailure, ""},
		{"say that there is no such name", fails(miekg.RcodeNameError), says(t, good), miekg.RcodeNameError, ""},
		{"send a reply with another ID first", func(q *miekg.Msg, tcp bool) []*miekg.Msg {
			return append(wrongID(q, tcp), says(t, good)(q, tcp)...)
		}, nil, 0, "192.0.2.1"},
		{"send only a reply with another ID", wrongID, says(t, good), 0, "192.0.2.1"},
		{"send the reply to another question first", func(q *miekg.Msg, tcp bool) []*miekg.Msg {
			lie := says(t, "@ 100 IN A 192.0.2.66")(q, tcp)[0]
			lie.Question[0].Name = "other.example.org."
			return append([]*miekg.Msg{lie}, says(t, good)(q, tcp)...)
		}, nil, 0, "192.0.2.1"},
		{"send the question back", func(q *miekg.Msg, tcp bool) []*miekg.Msg { return []*miekg.Msg{q} }, says(t, good), 0, "192.0.2.1"},
		{"answer over TCP what is too long for UDP", func(q *miekg.Msg, tcp bool) []*miekg.Msg {
			m := says(t, good)(q, tcp)
			if !tcp {
				m[0].Truncated, m[0].Answer = true, nil
			}
			return m
		}, nil, 0, "192.0.2.1"},
		{"not know EDNS", func(q *miekg.Msg, tcp bool) []*miekg.Msg {
			if q.IsEdns0() != nil {
				m := new(miekg.Msg).SetRcode(q, miekg.RcodeFormatError)
				m.Question = nil
				return []*miekg.Msg{m}
			}
			return says(t, good)(q, tcp)
		}, nil, 0, "192.0.2.1"},
		{"be truncated over TCP as well", func(q *miekg.Msg, tcp bool) []*miekg.Msg {
			if !tcp {
				m := says(t)(q, tcp)
				m[0].Truncated = true
				return m
			}
			return nil
		}, says(t, good), 0, "192.0.2.1"},
	}
	for _, loopback := range loopbacks() {
		for _, tt := range tests {
			t.Run(tt.what+" on "+loopback, func(t *testing.T) {
				fakes := []*fakeUpstream{newFake(t, loopback, tt.first)}
				if tt.second != nil {
					fakes = append(fakes, newFake(t, loopback, tt.second))
				}
				s := asking(t, nil, lab(), fakes...)
				m := askServer(t, s, "vpc-a", question("www.example.org.", "A"))
				if m.Rcode != tt.rcode || (tt.answer != "") != (len(m.Answer) == 1) || tt.answer != "" && !strings.HasSuffix(m.Answer[0].String(), tt.answer) {
					t.Errorf("%v", m)
				}
				if m.Authoritative || !m.RecursionAvailable {
					t.Errorf("header %+v", m.MsgHdr)
				}
			})
		}
	}
}

func TestWithoutUpstreamsOutsideNamesFail(t *testing.T) {
	s := asking(t, nil, lab())
	if m := askServer(t, s, "vpc-a", question("www.example.org.", "A")); m.Rcode != miekg.RcodeServerFailure {
		t.Errorf("%v", m)
	}
	if m := askServer(t, s, "vpc-a", question("web-1.research.internal.", "A")); len(m.Answer) != 1 {
		t.Errorf("an inside name depends on upstreams: %v", m)
	}
}

func TestAnswersAreCachedUntilTheyEnd(t *testing.T) {
	clk := newClock()
	up := newFake(t, "127.0.0.1", says(t, "@ 100 IN A 192.0.2.1"))
	s := asking(t, clk, lab(), up)
	for range 3 {
		askServer(t, s, "vpc-a", question("WWW.example.org.", "A"))
		askServer(t, s, "vpc-b", question("www.EXAMPLE.org.", "A"))
	}
	if n := up.udp.Load(); n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
	clk.advance(50 * time.Second)
	m := askServer(t, s, "vpc-a", question("www.example.org.", "A"))
	if m.Answer[0].Header().Ttl != 50 {
		t.Errorf("ttl %d, want 50", m.Answer[0].Header().Ttl)
	}
	clk.advance(50 * time.Second)
	up.set(says(t, "@ 100 IN A 192.0.2.2"))
	m = askServer(t, s, "vpc-a", question("www.example.org.", "A"))
	if !strings.HasSuffix(m.Answer[0].String(), "192.0.2.2") {
		t.Errorf("%v", m)
	}
	if st := s.Stats(); st.CacheHits != 6 || st.CacheMisses != 2 || st.CacheEntries != 1 || st.Queries["NOERROR"] != 8 {
		t.Errorf("%+v", st)
	}
}

func TestWhatWasAskedBeforeAChangeIsNotKept(t *testing.T) {
	other := newFake(t, "127.0.0.1", says(t, "@ 100 IN A 192.0.2.2"))
	for _, tt := range []struct {
		what   string
		change func(s *Server) error
	}{
		{"other upstreams", func(s *Server) error { return s.SetUpstreams([]string{other.addr.String()}) }},
		{"a flush", func(s *Server) error {
			if err := s.SetUpstreams([]string{other.addr.String()}); err != nil {
				return err
			}
			_, err := s.Flush("EXAMPLE.org")
			return err
		}},
		{"a VPC that the answer points into", func(s *Server) error {
			spec := lab()
			spec.VPCs = append(spec.VPCs, newVPC("new", "vpc-e", "192.0.2.0/24", ""))
			s.SetSnapshot(snapshotOf(spec))
			return nil
		}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			up, release := newGated(t, "127.0.0.1", "@ 100 IN A 192.0.2.1")
			s := asking(t, nil, lab(), up)
			first := make(chan *miekg.Msg, 1)
			go func() { first <- askServer(t, s, "vpc-a", question("www.example.org.", "A")) }()
			waitFor(t, "the question to be asked", func() bool { return up.udp.Load() > 0 })
			if err := tt.change(s); err != nil {
				t.Fatal(err)
			}
			release()
			if m := <-first; len(m.Answer) != 1 {
				t.Errorf("who had asked before: %v", m)
			}
			if e, _ := s.resolver.cache.size(); e != 0 {
				t.Errorf("%d answers were kept", e)
			}
			waitFor(t, "room", func() bool { return s.resolver.room.size() == 0 })
		})
	}
}

func TestFlushForgetsANameAndWhatIsBelow(t *testing.T) {
	up := newFake(t, "127.0.0.1", says(t, "@ 100 IN A 192.0.2.1"))
	s := asking(t, nil, lab(), up)
	for _, tt := range []struct {
		flush string
		want  int
		kept  int
	}{
		{"www.example.org", 1, 3}, {"Example.ORG.", 2, 2}, {"ample.org", 0, 4}, {"org", 3, 1}, {"", 4, 0}, {".", 4, 0},
	} {
		for _, name := range []string{"www.example.org.", "example.org.", "www.other.org.", "www.example.com."} {
			askServer(t, s, "vpc-a", question(name, "A"))
		}
		waitFor(t, "all to be kept", func() bool { return s.Stats().CacheEntries == 4 })
		n, err := s.Flush(tt.flush)
		if err != nil || n != tt.want || s.Stats().CacheEntries != tt.kept {
			t.Errorf("flush %q: %d forgotten, %d kept, %v; want %d and %d", tt.flush, n, s.Stats().CacheEntries, err, tt.want, tt.kept)
		}
	}
	if _, err := s.Flush("a..b"); err == nil {
		t.Error("what is no name is flushed")
	}
}

func TestNobodyIsKeptFromAskingByAnotherVPC(t *testing.T) {
	up, release := newGated(t, "127.0.0.1", "@ 100 IN A 192.0.2.1")
	s := asking(t, nil, lab(), up)
	a, b := s.View("vpc-a"), s.View("vpc-b")
	key := func(n int) cacheKey { return keyOf(t, "", fmt.Sprintf("n%d.example.org.", n), "A") }
	for n := range maxFlights {
		if fl, _ := s.resolver.fly(t.Context(), a, nil, key(n)); fl == nil {
			t.Fatalf("no room for question %d", n)
		}
	}
	if fl, _ := s.resolver.fly(t.Context(), a, nil, key(maxFlights)); fl != nil {
		t.Error("there is room for more than there may be")
	}
	if fl, joined := s.resolver.fly(t.Context(), a, nil, key(7)); fl == nil || !joined {
		t.Error("who only joins needs no room")
	}
	for n := range reservedFlights {
		if fl, _ := s.resolver.fly(t.Context(), b, nil, key(2*maxFlights+n)); fl == nil {
			t.Fatalf("no room for question %d of the other VPC", n)
		}
	}
	release()
	waitFor(t, "all to be answered", func() bool { return s.resolver.idle() && s.resolver.room.size() == 0 })
}

func TestAResolverThatAsksUsWhatWeAskItIsALoop(t *testing.T) {
	for _, loopback := range loopbacks() {
		t.Run(loopback, func(t *testing.T) {
			spec := lab()
			if netip.MustParseAddr(loopback).Is4() {
				spec.VPCs[0].CIDRBlock = netip.MustParsePrefix("127.0.0.0/8")
			} else {
				spec.VPCs[0].IPv6CIDRBlock = netip.MustParsePrefix("::/120")
			}
			up := newFake(t, loopback, silent)
			s := asking(t, nil, spec, up)
			up.set(func(q *miekg.Msg, _ bool) []*miekg.Msg {
				again := q.Copy()
				again.Extra = nil
				return []*miekg.Msg{askServerFrom(t, s, "vpc-a", again, netip.MustParseAddr(loopback))}
			})
			m := askServer(t, s, "vpc-a", question("www.example.org.", "A"))
			if m.Rcode != miekg.RcodeServerFailure {
				t.Errorf("%v", m)
			}
			if n := up.udp.Load() + up.tcp.Load(); n > rounds {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

func TestAnAnswerThatEndedStandsInForSlowUpstreams(t *testing.T) {
	clk := newClock()
	up := newFake(t, "127.0.0.1", says(t, "@ 100 IN A 192.0.2.1"))
	s := asking(t, clk, lab(), up)
	askServer(t, s, "vpc-a", question("www.example.org.", "A"))
	clk.advance(10 * time.Minute)
	up.set(silent)
	// It does not take as long as upstreams are given, which is as long as clients wait.
	m := askServer(t, s, "vpc-a", question("www.example.org.", "A"))
	if len(m.Answer) != 1 || m.Answer[0].Header().Ttl != staleTTL || s.resolver.idle() {
		t.Errorf("%v; asked still: %v", m, !s.resolver.idle())
	}
	waitFor(t, "the question to be given up", s.resolver.idle)
	asked := up.udp.Load()
	if m := askServer(t, s, "vpc-a", question("www.example.org.", "A")); len(m.Answer) != 1 || up.udp.Load() != asked {
		t.Errorf("asked again at once, %d times: %v", up.udp.Load()-asked, m)
	}
	if n := s.Stats().CacheStale; n != 2 {
		t.Errorf("%d answers that had ended, want 2", n)
	}
	clk.advance(staleRecheck)
	up.set(says(t, "@ 100 IN A 192.0.2.2"))
	if m := askServer(t, s, "vpc-a", question("www.example.org.", "A")); len(m.Answer) != 1 || !strings.HasSuffix(m.Answer[0].String(), "192.0.2.2") {
		t.Errorf("after a while: %v", m)
	}
}

func TestOnlyWhatWasAskedIsBelieved(t *testing.T) {
	for _, tt := range []struct {
		what    string
		records []string
		want    []string
	}{
		{"somebody else's address", []string{"@ 100 IN A 192.0.2.1", "www.bank.example. 100 IN A 192.0.2.66"}, []string{"www.example.org. 100 IN A 192.0.2.1"}},
		{"only somebody else's address", []string{"www.bank.example. 100 IN A 192.0.2.66"}, []string{}},
		{"a chain in the wrong order", []string{"b.example.org. 100 IN A 192.0.2.1", "a.example.org. 100 IN CNAME b.example.org.", "@ 100 IN CNAME a.example.org."},
			[]string{"b.example.org. 100 IN A 192.0.2.1", "a.example.org. 100 IN CNAME b.example.org.", "www.example.org. 100 IN CNAME a.example.org."}},
		{"a chain of somebody else", []string{"@ 100 IN A 192.0.2.1", "x.example. 100 IN CNAME y.example.", "y.example. 100 IN A 192.0.2.66"}, []string{"www.example.org. 100 IN A 192.0.2.1"}},
		{"a whole tree that has moved", []string{"example.org. 100 IN DNAME example.net.", "@ 100 IN CNAME www.example.net.", "www.example.net. 100 IN A 192.0.2.1"},
			[]string{"example.org. 100 IN DNAME example.net.", "www.example.org. 100 IN CNAME www.example.net.", "www.example.net. 100 IN A 192.0.2.1"}},
		{"somebody else's tree", []string{"@ 100 IN A 192.0.2.1", "bank.example. 100 IN DNAME evil.example."}, []string{"www.example.org. 100 IN A 192.0.2.1"}},
		{"another class", []string{"@ 100 IN A 192.0.2.1", "@ 100 CH TXT x"}, []string{"www.example.org. 100 IN A 192.0.2.1"}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			s := asking(t, nil, lab(), newFake(t, "127.0.0.1", says(t, tt.records...)))
			for range 2 { // from outside, and from the cache
				if got := section(askServer(t, s, "vpc-a", question("www.example.org.", "A")).Answer); !slices.Equal(got, tt.want) {
					t.Errorf("%q, want %q", got, tt.want)
				}
			}
		})
	}
	// Whose zone does not hold the name cannot say for how long it does not exist.
	e, err := newEntry(keyOf(t, "", "www.example.org.", "A"), replyOf(t, "www.example.org.", "A", miekg.RcodeNameError,
		"-bank.example. 900 IN SOA ns.bank.example. host.bank.example. 1 2 3 4 300"), "", time.Unix(1e9, 0))
	if err != nil || e.ttl != 0 {
		t.Errorf("kept for %s, %v", e.ttl, err)
	}
}

func TestAnAnswerThatEndedStandsInForSilentUpstreams(t *testing.T) {
	clk := newClock()
	up := newFake(t, "127.0.0.1", says(t, "@ 100 IN A 192.0.2.1"))
	s := asking(t, clk, lab(), up)
	askServer(t, s, "vpc-a", question("www.example.org.", "A"))
	clk.advance(10 * time.Minute)
	up.set(fails(miekg.RcodeServerFailure))
	m := askServer(t, s, "vpc-a", question("www.example.org.", "A"))
	if len(m.Answer) != 1 || m.Answer[0].Header().Ttl != staleTTL {
		t.Errorf("%v", m)
	}
	clk.advance(maxStale)
	if m := askServer(t, s, "vpc-a", question("www.example.org.", "A")); m.Rcode != miekg.RcodeServerFailure {
		t.Errorf("a day later: %v", m)
	}
}

func TestAnAnswerThatIsAboutToEndIsFetchedAgain(t *testing.T) {
	clk := newClock()
	up := newFake(t, "127.0.0.1", says(t, "@ 100 IN A 192.0.2.1"))
	s := asking(t, clk, lab(), up)
	askServer(t, s, "vpc-a", question("www.example.org.", "A"))
	clk.advance(95 * time.Second)
	askServer(t, s, "vpc-a", question("www.example.org.", "A"))
	askServer(t, s, "vpc-a", question("www.example.org.", "A"))
	waitFor(t, "a second question", func() bool { return up.udp.Load() == 2 && s.resolver.idle() })
	if m := askServer(t, s, "vpc-a", question("www.example.org.", "A")); m.Answer[0].Header().Ttl != 100 {
		t.Errorf("ttl %d, want 100", m.Answer[0].Header().Ttl)
	}
	if n := up.udp.Load(); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
}

func (r *resolver) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.flights) == 0
}

func TestTheSameQuestionIsAskedOnce(t *testing.T) {
	up, release := newGated(t, "127.0.0.1", "@ 100 IN A 192.0.2.1")
	s := asking(t, nil, lab(), up)
	var done sync.WaitGroup
	for range 50 {
		done.Go(func() {
			if m := askServer(t, s, "vpc-a", question("www.example.org.", "A")); len(m.Answer) != 1 {
				t.Errorf("%v", m)
			}
		})
	}
	waitFor(t, "50 clients to wait", func() bool { return s.Stats().Waiting == 50 })
	release()
	done.Wait()
	if n := up.udp.Load(); n > rounds {
		t.Errorf("asked %d times", n)
	}
	waitFor(t, "nobody to wait any more", func() bool { return s.Stats().Waiting == 0 })
}

func TestAClientCannotTakeAllTheRoom(t *testing.T) {
	up, release := newGated(t, "127.0.0.1", "@ 100 IN A 192.0.2.1")
	s := asking(t, nil, lab(), up)
	v := s.View("vpc-a")
	replies := make(chan int, 2*maxWaitingClient)
	put := func(client netip.Addr) {
		wire, err := question("www.example.org.", "A").Pack()
		if err != nil {
			t.Fatal(err)
		}
		var q Query
		_, later := s.handle(t.Context(), nil, wire, &q, v, client, false)
		s.finish(t.Context(), later, client, func(b []byte) { replies <- int(b[3] & 15) })
	}
	for range maxWaitingClient {
		put(client4)
	}
	put(client4)
	if rcode := <-replies; rcode != miekg.RcodeServerFailure {
		t.Errorf("one too many: rcode %d", rcode)
	}
	put(client6)
	release()
	for range maxWaitingClient + 1 {
		if rcode := <-replies; rcode != miekg.RcodeSuccess {
			t.Fatalf("rcode %d", rcode)
		}
	}
	if s.Stats().Overload != 1 {
		t.Errorf("%+v", s.Stats())
	}
}

func TestFlagsAreHandedOn(t *testing.T) {
	up := newFake(t, "127.0.0.1", says(t, "@ 100 IN A 192.0.2.1"))
	s := asking(t, nil, lab(), up)
	for i, tt := range []struct{ do, cd bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
		m := question("www.example.org.", "A")
		m.SetEdns0(4096, tt.do)
		m.CheckingDisabled = tt.cd
		reply := askServer(t, s, "vpc-a", m)
		asked := up.questions()
		if len(asked) != i+1 {
			t.Fatalf("asked %d times", len(asked))
		}
		q := asked[i]
		if o := q.IsEdns0(); o == nil || o.Do() != tt.do || o.UDPSize() != ednsSize || q.CheckingDisabled != tt.cd || !q.RecursionDesired || len(o.Option) != 0 {
			t.Errorf("asked %v", q)
		}
		if reply.CheckingDisabled != tt.cd || reply.IsEdns0().Do() != tt.do {
			t.Errorf("replied %v", reply)
		}
	}
}

func TestOutsideNamesMayNotPointInside(t *testing.T) {
	tests := []struct {
		what    string
		record  string
		refused bool
	}{
		{"an address of the VPC", "@ 100 IN A 10.20.1.10", true},
		{"an address of another VPC", "@ 100 IN A 10.30.1.10", true},
		{"an IPv6 address of the VPC", "@ 100 IN AAAA fd00:20:0:1::10", true},
		{"an IPv4 address in an IPv6 one", "@ 100 IN AAAA ::ffff:10.20.1.10", true},
		{"an address behind NAT64", "@ 100 IN AAAA 64:ff9b::10.20.1.10", true},
		{"a hint of a service", "@ 100 IN HTTPS 1 . ipv4hint=10.20.1.10", true},
		{"an IPv6 hint of a service", "@ 100 IN HTTPS 1 . ipv6hint=fd00:20:0:1::10", true},
		{"an address behind 6to4", "@ 100 IN AAAA 2002:a14:10a::1", true},
		{"an IPv4-compatible address", "@ 100 IN AAAA ::10.20.1.10", true},
		{"the reader's own host", "@ 100 IN A 127.0.0.1", true},
		{"all of the reader's own host", "@ 100 IN A 127.8.7.6", true},
		{"this host", "@ 100 IN A 0.0.0.0", true},
		{"this network", "@ 100 IN A 0.1.2.3", true},
		{"the metadata service", "@ 100 IN A 169.254.169.254", true},
		{"the reader's own host in IPv6", "@ 100 IN AAAA ::1", true},
		{"this host in IPv6", "@ 100 IN AAAA ::", true},
		{"a link-local address", "@ 100 IN AAAA fe80::1", true},
		{"the reader's own host in an IPv6 address", "@ 100 IN AAAA ::ffff:127.0.0.1", true},
		{"the metadata service in an IPv6 address", "@ 100 IN AAAA ::ffff:169.254.169.254", true},
		{"the reader's own host behind NAT64", "@ 100 IN AAAA 64:ff9b::127.0.0.1", true},
		{"an address beside the links", "@ 100 IN A 169.255.0.1", false},
		{"a private address that is not ours", "@ 100 IN A 10.99.1.10", false},
		{"the same behind 6to4", "@ 100 IN AAAA 2002:a63:10a::1", false},
		{"an IPv6 address that is not ours", "@ 100 IN AAAA fd00:99::1", false},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			up := newFake(t, "127.0.0.1", says(t, tt.record))
			spec := lab()
			spec.VPCs[0].Forwarders = []*vpc.ForwarderSpec{{Zone: "partner.example", Servers: []string{up.addr.String()}}}
			s := asking(t, nil, spec, up)
			typ := strings.Fields(tt.record)[3]
			m := askServer(t, s, "vpc-a", question("www.example.org.", typ))
			if refused := m.Rcode == miekg.RcodeRefused && len(m.Answer) == 0; refused != tt.refused {
				t.Errorf("%v", m)
			}
			if m := askServer(t, s, "vpc-a", question("www.partner.example.", typ)); len(m.Answer) != 1 {
				t.Errorf("a forwarder that the VPC trusts: %v", m)
			}
		})
	}
}

func TestForwardersOfAVPC(t *testing.T) {
	partner := newFake(t, "127.0.0.1", func(q *miekg.Msg, tcp bool) []*miekg.Msg {
		if strings.EqualFold(q.Question[0].Name, "back.partner.example.") {
			return says(t, "@ 100 IN CNAME git.corp.example.")(q, tcp)
		}
		return says(t, "@ 100 IN A 192.0.2.1")(q, tcp)
	})
	world := newFake(t, "::1", says(t, "@ 100 IN A 192.0.2.2"))
	spec := lab()
	spec.VPCs[0].Forwarders = []*vpc.ForwarderSpec{{Zone: "partner.example", Servers: []string{partner.addr.String()}}}
	spec.VPCs[0].PrivateZones = append(spec.VPCs[0].PrivateZones, newZone("way.example", vpc.MissingNXDOMAIN, "there CNAME www.partner.example.", "and-back CNAME back.partner.example."))
	s := asking(t, nil, spec, world)
	tests := []struct {
		what, vpc, name string
		answer          []string
	}{
		{"a name of the zone", "vpc-a", "www.partner.example.", []string{"www.partner.example. 100 IN A 192.0.2.1"}},
		{"the same name from another VPC", "vpc-b", "www.partner.example.", []string{"www.partner.example. 100 IN A 192.0.2.2"}},
		{"a name beside the zone", "vpc-a", "www.other.example.", []string{"www.other.example. 100 IN A 192.0.2.2"}},
		{"a CNAME into the zone", "vpc-a", "there.way.example.", []string{"there.way.example. 60 IN CNAME www.partner.example.", "www.partner.example. 100 IN A 192.0.2.1"}},
		{"a CNAME to the world", "vpc-a", "out.corp.example.", []string{"out.corp.example. 60 IN CNAME www.example.org.", "www.example.org. 100 IN A 192.0.2.2"}},
		{"a CNAME of the forwarder back to us", "vpc-a", "back.partner.example.",
			[]string{"back.partner.example. 100 IN CNAME git.corp.example.", "git.corp.example. 60 IN CNAME web-1.research.internal.", "web-1.research.internal. 60 IN A 10.20.1.10"}},
		{"there and back", "vpc-a", "and-back.way.example.",
			[]string{"and-back.way.example. 60 IN CNAME back.partner.example.", "back.partner.example. 100 IN CNAME git.corp.example.", "git.corp.example. 60 IN CNAME web-1.research.internal.", "web-1.research.internal. 60 IN A 10.20.1.10"}},
		{"there and back from the cache", "vpc-a", "and-back.way.example.",
			[]string{"and-back.way.example. 60 IN CNAME back.partner.example.", "back.partner.example. 100 IN CNAME git.corp.example.", "git.corp.example. 60 IN CNAME web-1.research.internal.", "web-1.research.internal. 60 IN A 10.20.1.10"}},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			m := askServer(t, s, tt.vpc, question(tt.name, "A"))
			if got := section(m.Answer); !slices.Equal(got, tt.answer) || m.Rcode != 0 || m.Authoritative {
				t.Errorf("%q, want %q", got, tt.answer)
			}
		})
	}
}

func TestNothingIsLeftOfAForwarderThatHasGone(t *testing.T) {
	clk := newClock()
	first := newFake(t, "127.0.0.1", says(t, "@ 100 IN A 192.0.2.1"))
	second := newFake(t, "127.0.0.1", says(t, "@ 100 IN A 192.0.2.2"))
	world := newFake(t, "127.0.0.1", says(t, "@ 100 IN A 192.0.2.3"))
	to := func(up *fakeUpstream) *vpc.Spec {
		spec := lab()
		spec.VPCs[0].Forwarders = nil
		if up != nil {
			spec.VPCs[0].Forwarders = []*vpc.ForwarderSpec{{Zone: "partner.example", Servers: []string{up.addr.String()}}}
		}
		return spec
	}
	s := asking(t, clk, to(first), world)
	expect := func(what, want string) {
		t.Helper()
		m := askServer(t, s, "vpc-a", question("www.partner.example.", "A"))
		got := miekg.RcodeToString[m.Rcode]
		if len(m.Answer) == 1 {
			got = m.Answer[0].(*miekg.A).A.String()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	expect("the first forwarder", "192.0.2.1")
	clk.advance(95 * time.Second) // it is about to end, and would be fetched again
	s.SetSnapshot(snapshotOf(to(second)))
	expect("the second", "192.0.2.2")
	s.SetSnapshot(snapshotOf(to(nil)))
	expect("none", "192.0.2.3")
	clk.advance(10 * time.Minute) // all have ended, and could stand in
	for _, up := range []*fakeUpstream{first, second, world} {
		up.set(fails(miekg.RcodeServerFailure))
	}
	expect("none, and silence", "192.0.2.3")
	third := newFake(t, "127.0.0.1", fails(miekg.RcodeServerFailure))
	s.SetSnapshot(snapshotOf(to(third)))
	expect("a third that fails", "SERVFAIL")
	if first.udp.Load() != 1 {
		t.Errorf("the first forwarder was asked %d times", first.udp.Load())
	}
}

func TestWeAreNeverOurOwnUpstream(t *testing.T) {
	up := newFake(t, "127.0.0.1", says(t, "@ 100 IN A 192.0.2.1"))
	s, err := New(Config{Upstreams: []string{"10.20.1.253", "fd00:20:0:1:ffff:ffff:ffff:fff7", "fe80::1%eth0", up.addr.String()}})
	if err != nil {
		t.Fatal(err)
	}
	s.SetSnapshot(snapshotOf(lab()))
	if got := *s.resolver.upstreams.Load(); !slices.Equal(got, []endpoint{{addr: up.addr}}) {
		t.Errorf("upstreams %v", got)
	}
}

func TestAServerThatIsSilentIsAskedLast(t *testing.T) {
	clk := newClock()
	bad := newFake(t, "127.0.0.1", fails(miekg.RcodeServerFailure))
	a := &upstream{endpoint: endpoint{addr: bad.addr}, now: clk.now}
	b := &upstream{endpoint: endpoint{addr: netip.MustParseAddrPort("192.0.2.1:53")}, now: clk.now}
	for range failuresToDown {
		a.note(0, io.ErrUnexpectedEOF)
	}
	if got, _ := preference([]*upstream{a, b}); got[0] != b || a.stats().Healthy {
		t.Error("asked first")
	}
	clk.advance(time.Second)
	if got, _ := preference([]*upstream{a, b}); got[0] != a {
		t.Error("not tried again")
	}
	a.note(0, io.ErrUnexpectedEOF)
	clk.advance(time.Second)
	if got, _ := preference([]*upstream{a, b}); got[0] != b {
		t.Error("tried again too soon")
	}
	a.note(time.Millisecond, nil)
	if got, _ := preference([]*upstream{a, b}); got[0] != a || !a.stats().Healthy {
		t.Error("not forgiven")
	}
	a.note(0, context.Canceled)
	if got := a.stats(); got.Failed != failuresToDown+1 || got.Queries != failuresToDown+2 {
		t.Errorf("%+v", got)
	}
}

func TestServersAreAskedInOrderOrAllAtOnce(t *testing.T) {
	for _, loopback := range loopbacks() {
		for _, parallel := range []bool{false, true} {
			t.Run(fmt.Sprintf("on %s, in parallel: %v", loopback, parallel), func(t *testing.T) {
				slow, release := newGated(t, loopback, "@ 100 IN A 192.0.2.1")
				quick := newFake(t, loopback, func(q *miekg.Msg, tcp bool) []*miekg.Msg {
					for deadline := time.Now().Add(time.Second); slow.udp.Load() == 0 && time.Now().Before(deadline); {
						<-time.After(time.Millisecond) // both have been asked before one replies
					}
					return says(t, "@ 100 IN A 192.0.2.2")(q, tcp)
				})
				down := newFake(t, loopback, says(t, "@ 100 IN A 192.0.2.3"))
				s := asking(t, nil, lab(), slow, quick, down)
				s.SetParallel(parallel)
				for _, u := range func() []*upstream {
					s.resolver.mu.Lock()
					defer s.resolver.mu.Unlock()
					return s.resolver.serversFor(nil)
				}() {
					if u.addr == down.addr {
						for range failuresToDown {
							u.note(0, io.ErrUnexpectedEOF)
						}
					}
				}
				if !parallel {
					quick.set(silent)
					release()
				}
				m := askServer(t, s, "vpc-a", question("www.example.org.", "A"))
				want := map[bool]string{false: "192.0.2.1", true: "192.0.2.2"}[parallel]
				if len(m.Answer) != 1 || m.Answer[0].(*miekg.A).A.String() != want {
					t.Errorf("%v, want %s", m, want)
				}
				if parallel && (slow.udp.Load() != 1 || quick.udp.Load() != 1) {
					t.Errorf("asked %d and %d times", slow.udp.Load(), quick.udp.Load())
				}
				if n := down.udp.Load(); n != 0 {
					t.Errorf("a server that is down was asked %d times", n)
				}
			})
		}
	}
}

func TestParseResolvConf(t *testing.T) {
	got, err := ParseResolvConf(strings.NewReader("# comment\nsearch example.org\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 # two\nnameserver fe80::2%eth0\nnameserver nonsense\nnameserver 192.0.2.1\nnameserver 0.0.0.0\n;nameserver 192.0.2.9\n"))
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, ap := range got {
		s = append(s, ap.String())
	}
	if want := []string{"192.0.2.1:53", "[2001:db8::1]:53", "[fe80::2%eth0]:53"}; !slices.Equal(s, want) {
		t.Errorf("%q, want %q", s, want)
	}
}

func TestParseServer(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"192.0.2.1", "192.0.2.1:53"}, {"192.0.2.1:5353", "192.0.2.1:5353"}, {"2001:db8::1", "[2001:db8::1]:53"},
		{"[2001:db8::1]:5353", "[2001:db8::1]:5353"}, {"::ffff:192.0.2.1", "192.0.2.1:53"},
		{"", ""}, {"dns.example.org", ""}, {"192.0.2.1:0", ""}, {"0.0.0.0", ""}, {"::", ""}, {"ff02::1", ""}, {"224.0.0.251", ""}, {"192.0.2.1:99999", ""},
	} {
		got, err := ParseServer(tt.in)
		if tt.want == "" && err == nil || tt.want != "" && (err != nil || got.String() != tt.want) {
			t.Errorf("%q: %v, %v", tt.in, got, err)
		}
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 192.0.2.1\nnameserver ::1\n")
	f.Fuzz(func(t *testing.T, s string) {
		servers, _ := ParseResolvConf(strings.NewReader(s))
		for _, ap := range servers {
			if !ap.IsValid() || ap.Port() != 53 && !strings.Contains(s, ":") {
				t.Errorf("%q: %v", s, ap)
			}
		}
	})
}

// FuzzReply feeds what an upstream may send: no panic, and what is kept can be sent on.
func FuzzReply(f *testing.F) {
	q := question("www.example.org.", "A")
	for _, m := range []*miekg.Msg{
		replyOf(f, "www.example.org.", "A", 0, "www.example.org. 100 IN A 192.0.2.1"),
		replyOf(f, "www.example.org.", "A", 0, "www.example.org. 100 IN CNAME x.example.org.", "x.example.org. 5 IN A 192.0.2.1"),
		replyOf(f, "www.example.org.", "A", 3, "-example.org. 900 IN SOA ns.example.org. host.example.org. 1 2 3 4 300"),
	} {
		m.Id = q.Id
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	s := newTestServer(f)
	v := s.View("vpc-a")
	f.Fuzz(func(t *testing.T, wire []byte) {
		reply := readReply(wire, q.Id, q)
		if reply == nil {
			return
		}
		pointsInto(reply, *s.resolver.guarded.Load())
		v.cutAtOwn(reply.Answer)
		now := time.Unix(1e9, 0)
		e, err := newEntry(keyOf(t, "", "www.example.org.", "A"), reply, "", now)
		if err != nil {
			return
		}
		for _, limit := range []int{plainSize, ednsSize, 1<<16 - 1} {
			out, truncated := e.append(nil, parseQuery(t, q), limit, now.Add(time.Minute))
			m := new(miekg.Msg)
			if err := m.Unpack(out); err != nil {
				t.Fatalf("%x: %v", out, err)
			}
			if len(out) > limit || m.Truncated != truncated {
				t.Fatalf("%d octets of %d, truncated %v", len(out), limit, truncated)
			}
			for _, rr := range append(m.Answer, m.Ns...) {
				if rr.Header().Ttl > uint32(maxTTL/time.Second) {
					t.Fatalf("ttl of %v", rr)
				}
			}
		}
	})
}

// waitFor waits until a condition holds.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-time.After(time.Millisecond)
	}
}
