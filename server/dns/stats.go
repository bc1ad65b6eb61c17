package dns

import (
	"sync/atomic"
	"time"

	miekg "github.com/miekg/dns"
)

// Stats are counters since the start, and gauges, for metrics.
type Stats struct {
	Queries       map[string]uint64 // replies by response code
	Truncated     uint64            // replies that did not fit
	Ignored       uint64            // packets that deserved no reply
	Limited       uint64            // clients that were sent to TCP because they asked too much
	Overload      uint64            // questions refused because too many were waiting
	Waiting       int               // questions that wait for an answer from elsewhere
	CacheHits     uint64
	CacheMisses   uint64
	CacheStale    uint64 // answers that had ended and stood in for silent upstreams
	CacheEntries  int
	CacheBytes    int
	Rebinding     uint64 // answers from outside that pointed into a VPC
	Connections   int    // over TCP
	Evicted       uint64 // connections that were closed to make room for others
	Upstreams     []UpstreamStats
	ListenersDown int

	Waited    [len(WaitBounds) + 1]uint64 // replies that had to wait for others, by how long
	WaitedSum float64                     // seconds, of all of them
}

// WaitBounds are the upper bounds of Stats.Waited's buckets, in seconds; the last bucket has none. All other replies leave in
// microseconds.
var WaitBounds = [...]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5}

type counters struct {
	rcodes    [24]atomic.Uint64 // the last for all that are not known
	truncated atomic.Uint64
	ignored   atomic.Uint64
	limited   atomic.Uint64
	overload  atomic.Uint64
	waited    [len(WaitBounds) + 1]atomic.Uint64
	waitedSum atomic.Int64 // nanoseconds
}

// wait counts a reply that has waited for others.
func (c *counters) wait(took time.Duration) {
	i := 0
	for i < len(WaitBounds) && took.Seconds() > WaitBounds[i] {
		i++
	}
	c.waited[i].Add(1)
	c.waitedSum.Add(int64(took))
}

func (c *counters) count(rcode int) {
	c.rcodes[min(max(rcode, 0), len(c.rcodes)-1)].Add(1)
}

func (c *counters) answered(out Outcome) {
	c.count(out.Rcode)
	if out.Truncated {
		c.truncated.Add(1)
	}
}

// Stats returns the present numbers.
func (s *Server) Stats() Stats {
	st := Stats{
		Queries:     map[string]uint64{},
		Truncated:   s.counters.truncated.Load(),
		Ignored:     s.counters.ignored.Load(),
		Limited:     s.counters.limited.Load(),
		Overload:    s.counters.overload.Load(),
		Waiting:     s.waiting.size(),
		CacheHits:   s.resolver.hits.Load(),
		CacheMisses: s.resolver.misses.Load(),
		CacheStale:  s.resolver.staleHits.Load(),
		Rebinding:   s.resolver.refused.Load(),
		Upstreams:   s.resolver.stats(),
	}
	for i := range st.Waited {
		st.Waited[i] = s.counters.waited[i].Load()
	}
	st.WaitedSum = time.Duration(s.counters.waitedSum.Load()).Seconds()
	st.Connections, st.Evicted = s.conns.size()
	for rcode := range s.counters.rcodes {
		if n := s.counters.rcodes[rcode].Load(); n > 0 {
			label, ok := miekg.RcodeToString[rcode]
			if !ok {
				label = "other"
			}
			st.Queries[label] += n
		}
	}
	st.CacheEntries, st.CacheBytes = s.resolver.cache.size()
	for _, l := range s.Listeners() {
		if l.Err != nil {
			st.ListenersDown++
		}
	}
	return st
}
