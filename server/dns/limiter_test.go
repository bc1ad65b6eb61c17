package dns

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	miekg "github.com/miekg/dns"
)

func TestAClientIsGivenSoManyAnswersASecond(t *testing.T) {
	for _, client := range []string{"10.20.1.10", "fd00:20:0:1::10"} {
		t.Run(client, func(t *testing.T) {
			a := netip.MustParseAddr(client)
			l := newLimiter()
			now := time.Unix(1e9, 0)
			count := func(n int) (admitted int) {
				for range n {
					if l.admit(clientOf("vpc-a", a), now) {
						admitted++
					}
				}
				return admitted
			}
			if l.limits() {
				t.Error("there is a limit that nobody set")
			}
			l.set(100)
			for _, step := range []struct {
				after       time.Duration
				asked, want int
			}{
				{0, 150, 100},
				{100 * time.Millisecond, 50, 10},
				{time.Hour, 150, 100},
				{10 * time.Millisecond, 1, 1},
				{0, 1, 0},
			} {
				now = now.Add(step.after)
				if got := count(step.asked); got != step.want {
					t.Errorf("%d of %d answers, want %d", got, step.asked, step.want)
				}
			}
		})
	}
}

func TestAClientThatWantsMoreIsSentToTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		s.SetRateLimit(10)
		ask := func(src netip.Addr, tcp bool, option ...miekg.EDNS0) *miekg.Msg {
			t.Helper()
			m := question("web-1.research.internal.", "A")
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = option
			wire, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			reply, _ := s.handle(t.Context(), nil, wire, new(Query), s.View("vpc-a"), src, tcp)
			return unpack(t, reply)
		}
		first := ask(client4, false, &miekg.EDNS0_COOKIE{Code: miekg.EDNS0COOKIE, Cookie: "0102030405060708"})
		for range 9 {
			if r := ask(client4, false); r.Truncated || len(r.Answer) != 1 {
				t.Fatalf("limited too early: %v", r)
			}
		}
		if r := ask(client4, false); !r.Truncated || len(r.Answer) != 0 || r.Rcode != miekg.RcodeSuccess {
			t.Errorf("not limited: %v", r)
		}
		if r := ask(client4, true); r.Truncated || len(r.Answer) != 1 {
			t.Errorf("limited over TCP: %v", r)
		}
		if r := ask(client6, false); r.Truncated || len(r.Answer) != 1 {
			t.Errorf("another client is limited: %v", r)
		}
		if r := ask(client4, false, first.IsEdns0().Option...); r.Truncated || len(r.Answer) != 1 {
			t.Errorf("a client that showed its cookie is limited: %v", r)
		}
		if got := s.Stats().Limited; got != 1 {
			t.Errorf("%d limited answers are counted, want 1", got)
		}
		s.SetRateLimit(0)
		if r := ask(client4, false); r.Truncated {
			t.Error("limited without a limit")
		}
	})
}

func TestAllLinkLocalSourcesOfALinkAreOneClient(t *testing.T) {
	at := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	l := newLimiter()
	l.set(10)
	for n := range 10 {
		if !l.admit(clientOf("vpc-a", at(fmt.Sprintf("fe80::1:%d", n))), time.Unix(1e9, 0)) {
			t.Fatal("refused below the limit")
		}
	}
	if l.admit(clientOf("vpc-a", at("fe80::2:2")), time.Unix(1e9, 0)) {
		t.Error("another link-local address is given more answers")
	}
	if !l.admit(clientOf("vpc-b", at("fe80::2:2")), time.Unix(1e9, 0)) {
		t.Error("who is in another VPC is given none")
	}
	w := newQuota(100, 10, 0)
	for range 10 {
		if !w.enter("vpc-a", at("fe80::1:1%gh-web")) {
			t.Fatal("refused below the limit")
		}
	}
	if w.enter("vpc-a", at("fe80::2:2%gh-web")) {
		t.Error("another link-local address of the same link is another client")
	}
	if !w.enter("vpc-a", at("fe80::1:1%gh-db")) || !w.enter("vpc-a", at("fd00::1")) || !w.enter("vpc-b", at("fe80::1:1%gh-web")) {
		t.Error("who is on another link, of another VPC, or has an address of its own, is kept out")
	}
	w.leave("vpc-a", at("fe80::3:3%gh-web"))
	if !w.enter("vpc-a", at("fe80::2:2%gh-web")) {
		t.Error("nobody gets the place that became free")
	}
}
