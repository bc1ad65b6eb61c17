package dns

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

// clock is the tests' time.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newRR(t testing.TB, s string) miekg.RR {
	t.Helper()
	rr, err := miekg.NewRR(s)
	if err != nil {
		t.Fatal(err)
	}
	return rr
}

// replyOf makes an upstream's reply; records that begin with a minus sign go to the authority section.
func replyOf(t testing.TB, name, typ string, rcode int, records ...string) *miekg.Msg {
	t.Helper()
	m := question(name, typ)
	m.Response, m.RecursionAvailable, m.Rcode = true, true, rcode
	for _, r := range records {
		if r[0] == '-' {
			m.Ns = append(m.Ns, newRR(t, r[1:]))
		} else {
			m.Answer = append(m.Answer, newRR(t, r))
		}
	}
	return m
}

func keyOf(t testing.TB, scope, s, typ string) cacheKey {
	t.Helper()
	n, err := parseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return cacheKey{scope: scope, name: n, typ: miekg.StringToType[typ]}
}

func TestHowLongAReplyIsKept(t *testing.T) {
	const soa = "-example.org. 900 IN SOA ns.example.org. host.example.org. 1 2 3 4 300"
	tests := []struct {
		what  string
		reply *miekg.Msg
		want  time.Duration
	}{
		{"as long as its TTL", replyOf(t, "a.example.org.", "A", 0, "a.example.org. 100 IN A 192.0.2.1"), 100 * time.Second},
		{"as long as the smallest TTL", replyOf(t, "a.example.org.", "A", 0, "a.example.org. 100 IN CNAME b.example.org.", "b.example.org. 7 IN A 192.0.2.1"), 7 * time.Second},
		{"an IPv6 address too", replyOf(t, "a.example.org.", "AAAA", 0, "a.example.org. 100 IN AAAA 2001:db8::1"), 100 * time.Second},
		{"never longer than a day", replyOf(t, "a.example.org.", "A", 0, "a.example.org. 999999 IN A 192.0.2.1"), 24 * time.Hour},
		{"not at all with TTL 0", replyOf(t, "a.example.org.", "A", 0, "a.example.org. 0 IN A 192.0.2.1"), 0},
		{"no name: as long as the SOA says", replyOf(t, "a.example.org.", "A", miekg.RcodeNameError, soa), 300 * time.Second},
		{"no data: as long as the SOA says", replyOf(t, "a.example.org.", "A", 0, soa), 300 * time.Second},
		{"no data behind a CNAME", replyOf(t, "a.example.org.", "A", 0, "a.example.org. 50 IN CNAME b.example.org.", soa), 50 * time.Second},
		{"no name: the SOA's own TTL if that is less", replyOf(t, "a.example.org.", "A", miekg.RcodeNameError, "-example.org. 9 IN SOA ns.example.org. host.example.org. 1 2 3 4 300"), 9 * time.Second},
		{"no name: an hour at most", replyOf(t, "a.example.org.", "A", miekg.RcodeNameError, "-example.org. 99999 IN SOA ns.example.org. host.example.org. 1 2 3 4 99999"), time.Hour},
		{"no name and no SOA: not at all", replyOf(t, "a.example.org.", "A", miekg.RcodeNameError), 0},
		{"no data and no SOA: not at all", replyOf(t, "a.example.org.", "A", 0), 0},
		{"a failure: for seconds", replyOf(t, "a.example.org.", "A", miekg.RcodeServerFailure), failureTTL},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			c, clk := newCache(10), newClock()
			key := keyOf(t, "", "a.example.org.", miekg.TypeToString[tt.reply.Question[0].Qtype])
			e, err := newEntry(key, tt.reply, "upstream", clk.now())
			if err != nil {
				t.Fatal(err)
			}
			if e.ttl != tt.want {
				t.Fatalf("ttl %s, want %s", e.ttl, tt.want)
			}
			c.put(e)
			clk.advance(tt.want - time.Second)
			if _, state := c.get("", []byte(key.name), key.typ, false, false, clk.now()); (state >= ending) != (tt.want > 0) {
				t.Errorf("a second before its end: %d", state)
			}
			clk.advance(time.Second)
			if _, state := c.get("", []byte(key.name), key.typ, false, false, clk.now()); state >= ending {
				t.Errorf("at its end: %d", state)
			}
		})
	}
}

func TestWhatACachedReplyLooksLike(t *testing.T) {
	clk := newClock()
	key := keyOf(t, "", "a.example.org.", "A")
	reply := replyOf(t, "a.example.org.", "A", 0, "a.example.org. 100 IN CNAME b.example.org.", "b.example.org. 60 IN A 192.0.2.1", "-example.org. 999999 IN NS ns.example.org.")
	reply.AuthenticatedData = true
	reply.Extra = []miekg.RR{newRR(t, "ns.example.org. 60 IN A 192.0.2.53")}
	e, err := newEntry(key, reply, "upstream", clk.now())
	if err != nil {
		t.Fatal(err)
	}
	// The names that end as the question does take its case over, by compression.
	tests := []struct {
		what   string
		after  time.Duration
		change func(*miekg.Msg)
		answer []string
		ad     bool
	}{
		{"at once", 0, func(*miekg.Msg) {}, []string{"A.exaMple.ORG. 100 IN CNAME b.exaMple.ORG.", "b.exaMple.ORG. 60 IN A 192.0.2.1"}, false},
		{"later", 10500 * time.Millisecond, func(*miekg.Msg) {}, []string{"A.exaMple.ORG. 90 IN CNAME b.exaMple.ORG.", "b.exaMple.ORG. 50 IN A 192.0.2.1"}, false},
		{"after its end", time.Hour, func(*miekg.Msg) {}, []string{"A.exaMple.ORG. 30 IN CNAME b.exaMple.ORG.", "b.exaMple.ORG. 30 IN A 192.0.2.1"}, false},
		{"before it came", -time.Hour, func(*miekg.Msg) {}, []string{"A.exaMple.ORG. 100 IN CNAME b.exaMple.ORG.", "b.exaMple.ORG. 60 IN A 192.0.2.1"}, false},
		{"to one who asks for authentic data", 0, func(m *miekg.Msg) { m.AuthenticatedData = true }, []string{"A.exaMple.ORG. 100 IN CNAME b.exaMple.ORG.", "b.exaMple.ORG. 60 IN A 192.0.2.1"}, true},
		{"to one who asks for signatures", 0, func(m *miekg.Msg) { m.SetEdns0(1232, true) }, []string{"A.exaMple.ORG. 100 IN CNAME b.exaMple.ORG.", "b.exaMple.ORG. 60 IN A 192.0.2.1"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			msg := question("A.exaMple.ORG.", "A")
			tt.change(msg)
			wire, truncated := e.append(nil, parseQuery(t, msg), 512, clk.now().Add(tt.after))
			m := unpack(t, wire)
			if got := section(m.Answer); !slices.Equal(got, tt.answer) || truncated {
				t.Errorf("%q, want %q", got, tt.answer)
			}
			if m.AuthenticatedData != tt.ad || m.Authoritative || len(section(m.Ns)) != 0 || len(section(m.Extra)) != 0 || m.Id != msg.Id {
				t.Errorf("%v", m)
			}
		})
	}
}

func TestTheCacheStaysInItsBounds(t *testing.T) {
	clk := newClock()
	c := newCache(8)
	fill := func(i int, text string) cacheKey {
		s := fmt.Sprintf("n%d.example.org.", i)
		key := keyOf(t, "", s, "TXT")
		e, err := newEntry(key, replyOf(t, s, "TXT", 0, s+` 100 IN TXT "`+text+`"`), "", clk.now())
		if err != nil {
			t.Fatal(err)
		}
		c.put(e)
		return key
	}
	has := func(key cacheKey) bool {
		_, state := c.get("", []byte(key.name), key.typ, false, false, clk.now())
		return state != missing
	}
	first := fill(0, "x")
	for i := 1; i < 8; i++ {
		fill(i, "x")
	}
	if !has(first) { // and now it is the most recently used
		t.Fatal("the first is gone before there was need")
	}
	second := keyOf(t, "", "n1.example.org.", "TXT")
	fill(8, "x")
	if !has(first) || has(second) {
		t.Error("not the least recently used one has left")
	}
	long := fmt.Sprintf("%0250d", 0)
	for i := range 100 {
		fill(100+i, long+`" "`+long+`" "`+long+`" "`+long)
		if n, b := c.size(); n > c.maxEntries || b > c.maxBytes {
			t.Fatalf("%d entries, %d bytes", n, b)
		}
	}
	c.resize(2)
	if n, b := c.size(); n > 2 || b > c.maxBytes {
		t.Errorf("%d entries, %d bytes", n, b)
	}
	c.flushWithin(root)
	if n, b := c.size(); n != 0 || b != 0 {
		t.Errorf("%d entries, %d bytes after a flush", n, b)
	}
}

func TestScopesAndFlagsAreKeptApart(t *testing.T) {
	clk := newClock()
	c := newCache(8)
	key := keyOf(t, "vpc-a", "a.example.org.", "A")
	key.do = true
	e, err := newEntry(key, replyOf(t, "a.example.org.", "A", 0, "a.example.org. 100 IN A 192.0.2.1"), "", clk.now())
	if err != nil {
		t.Fatal(err)
	}
	c.put(e)
	for _, tt := range []struct {
		scope  string
		typ    uint16
		do, cd bool
		want   freshness
	}{
		{"vpc-a", miekg.TypeA, true, false, fresh},
		{"vpc-b", miekg.TypeA, true, false, missing},
		{"", miekg.TypeA, true, false, missing},
		{"vpc-a", miekg.TypeAAAA, true, false, missing},
		{"vpc-a", miekg.TypeA, false, false, missing},
		{"vpc-a", miekg.TypeA, true, true, missing},
	} {
		if _, got := c.get(tt.scope, []byte(key.name), tt.typ, tt.do, tt.cd, clk.now()); got != tt.want {
			t.Errorf("%+v: %d", tt, got)
		}
	}
}
