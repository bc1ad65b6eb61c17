package dns

import (
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

func TestWhatIsCounted(t *testing.T) {
	clk := newClock()
	up := newFake(t, "127.0.0.1", func(q *miekg.Msg, tcp bool) []*miekg.Msg {
		clk.advance(30 * time.Millisecond)
		return says(t, "@ 100 IN A 192.0.2.1")(q, tcp)
	})
	s := asking(t, clk, lab(), up)
	for _, name := range []string{"web-1.research.internal.", "nobody.research.internal.", "www.example.org.", "www.example.org.", "mail.example.org."} {
		askServer(t, s, "vpc-a", question(name, "A"))
	}
	s.handle(t.Context(), nil, []byte{1}, new(Query), s.View("vpc-a"), client4, false)
	st := s.Stats()
	if st.Queries["NOERROR"] != 4 || st.Queries["NXDOMAIN"] != 1 || st.Ignored != 1 {
		t.Errorf("queries %v, %d ignored", st.Queries, st.Ignored)
	}
	if st.CacheHits != 1 || st.CacheMisses != 2 || st.CacheEntries != 2 || st.CacheBytes == 0 {
		t.Errorf("cache: %d hits, %d misses, %d entries, %d octets", st.CacheHits, st.CacheMisses, st.CacheEntries, st.CacheBytes)
	}
	if len(st.Upstreams) != 1 || st.Upstreams[0] != (UpstreamStats{Address: up.addr.String(), Healthy: true, Latency: 30 * time.Millisecond, Queries: 2}) {
		t.Errorf("upstreams: %+v", st.Upstreams)
	}
	for i, n := range st.Waited {
		if want := map[bool]uint64{true: 2}[i < len(WaitBounds) && WaitBounds[i] == 0.05]; n != want {
			t.Errorf("%d waited as long as bucket %d says, want %d", n, i, want)
		}
	}
	if st.WaitedSum < 0.059 || st.WaitedSum > 0.061 {
		t.Errorf("%v s altogether", st.WaitedSum)
	}
}
