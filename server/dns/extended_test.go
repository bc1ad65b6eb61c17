package dns

import (
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

// extendedIn returns the code and text of a reply's extended error, -1 if it has none.
func extendedIn(m *miekg.Msg) (int, string) {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*miekg.EDNS0_EDE); ok {
				return int(e.InfoCode), e.ExtraText
			}
		}
	}
	return -1, ""
}

func TestRepliesSayWhy(t *testing.T) {
	clk := newClock()
	up := newFake(t, "127.0.0.1", silent)
	s := asking(t, clk, lab(), up)
	bogus := func(text string) func(q *miekg.Msg, tcp bool) []*miekg.Msg {
		return func(q *miekg.Msg, tcp bool) []*miekg.Msg {
			m := fails(miekg.RcodeServerFailure)(q, tcp)
			m[0].SetEdns0(1232, false)
			m[0].IsEdns0().Option = []miekg.EDNS0{&miekg.EDNS0_EDE{InfoCode: miekg.ExtendedErrorCodeDNSBogus, ExtraText: text}}
			return m
		}
	}
	nxdomain := func(q *miekg.Msg, tcp bool) []*miekg.Msg {
		m := fails(miekg.RcodeNameError)(q, tcp)
		m[0].Ns = []miekg.RR{newRR(t, "example.org. 60 IN SOA ns.example.org. host.example.org. 1 2 3 4 60")}
		return m
	}
	for _, tt := range []struct {
		what, name, typ string
		edit            func(*miekg.Msg)
		before          func() // changes what the upstream does
		rcode, code     int
		text            string
	}{
		{"a local answer", "web-1.research.internal.", "A", nil, nil, miekg.RcodeSuccess, -1, ""},
		{"a type that is no type of data", "web-1.research.internal.", "MAILB", nil, nil, miekg.RcodeNotImplemented, int(miekg.ExtendedErrorCodeNotSupported), ""},
		{"a name outside, without recursion", "www.example.org.", "A", func(m *miekg.Msg) { m.RecursionDesired = false }, nil, miekg.RcodeRefused, int(miekg.ExtendedErrorCodeNotAuthoritative), ""},
		{"an answer that points inside", "evil.example.org.", "A", nil, func() { up.set(says(t, "@ 60 IN A 10.20.1.10")) }, miekg.RcodeRefused, int(miekg.ExtendedErrorCodeBlocked), errBlocked.text},
		{"an upstream that says why", "bogus.example.org.", "A", nil, func() { up.set(bogus("signature expired")) }, miekg.RcodeServerFailure, int(miekg.ExtendedErrorCodeDNSBogus), "signature expired"},
		{"an upstream that says a lot", "long.example.org.", "A", nil, func() { up.set(bogus(strings.Repeat("x", 500))) }, miekg.RcodeServerFailure, int(miekg.ExtendedErrorCodeDNSBogus), strings.Repeat("x", maxExtendedText)},
		{"a good answer", "www.example.org.", "A", nil, func() { up.set(says(t, "@ 60 IN A 192.0.2.1")) }, miekg.RcodeSuccess, -1, ""},
		{"a good denial", "gone.example.org.", "A", nil, func() { up.set(nxdomain) }, miekg.RcodeNameError, -1, ""},
		{"a stale answer", "www.example.org.", "A", nil, func() { clk.advance(2 * time.Minute); up.set(fails(miekg.RcodeServerFailure)) }, miekg.RcodeSuccess, int(miekg.ExtendedErrorCodeStaleAnswer), ""},
		{"a stale denial", "gone.example.org.", "A", nil, nil, miekg.RcodeNameError, int(miekg.ExtendedErrorCodeStaleNXDOMAINAnswer), ""},
		{"a chain of ours that ends in a stale answer", "out.corp.example.", "A", nil, nil, miekg.RcodeSuccess, int(miekg.ExtendedErrorCodeStaleAnswer), ""},
	} {
		t.Run(tt.what, func(t *testing.T) {
			if tt.before != nil {
				tt.before()
			}
			m := question(tt.name, tt.typ)
			if tt.edit != nil {
				tt.edit(m)
			}
			if code, _ := extendedIn(askServer(t, s, "vpc-a", m)); code != -1 {
				t.Error("a client without EDNS was told")
			}
			m.SetEdns0(1232, false)
			r := askServer(t, s, "vpc-a", m)
			if code, text := extendedIn(r); r.Rcode != tt.rcode || code != tt.code || text != tt.text {
				t.Errorf("%s, extended error %d %q; want %s, %d %q", miekg.RcodeToString[r.Rcode], code, text, miekg.RcodeToString[tt.rcode], tt.code, tt.text)
			}
		})
	}
}

func TestAStrangerIsToldThatHeMayNotAsk(t *testing.T) {
	s := newTestServer(t)
	m := question("web-1.research.internal.", "A")
	m.SetEdns0(1232, false)
	wire, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply, _ := s.handle(t.Context(), nil, wire, new(Query), s.View("vpc-b"), client4, false)
	if code, _ := extendedIn(unpack(t, reply)); code != int(miekg.ExtendedErrorCodeProhibited) {
		t.Errorf("extended error %d", code)
	}
}

// The reason gives way to the limit, the answer does not.
func TestAReasonNeedsRoom(t *testing.T) {
	q := parseQuery(t, func() *miekg.Msg { m := question("x.example.", "A"); m.SetEdns0(512, false); return m }())
	q.extended = extendedError{true, 0, strings.Repeat("x", maxExtendedText)}
	for limit, want := range map[int]bool{200: true, 100: false} {
		m := newMessage(nil, q, limit)
		out := m.finish(miekg.RcodeServerFailure, 0)
		if code, _ := extendedIn(unpack(t, out)); (code >= 0) != want || len(out) > limit {
			t.Errorf("limit %d: %d octets, code %d", limit, len(out), code)
		}
	}
}
