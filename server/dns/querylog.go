package dns

import (
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	miekg "github.com/miekg/dns"
)

// queryLogRate is how many questions of a VPC are logged a second at most.
const queryLogRate = 100

// queryLog writes down who asked what, for the VPCs that it is switched on for.
type queryLog struct {
	log  *slog.Logger
	vpcs atomic.Pointer[map[string]*queryCount] // by name; nil: none
}

// queryCount counts the lines of one VPC.
type queryCount struct {
	mu     sync.Mutex
	second int64 // the one that is being counted
	lines  int   // in it
	left   int   // out, since the last line
}

// set switches the log on for VPCs by name and off for all others.
func (l *queryLog) set(vpcs []string) {
	if len(vpcs) == 0 {
		l.vpcs.Store(nil)
		return
	}
	counts := make(map[string]*queryCount, len(vpcs))
	for _, name := range vpcs {
		counts[name] = &queryCount{}
	}
	l.vpcs.Store(&counts)
}

// of returns the count of the view's VPC, nil if its questions are not logged.
func (l *queryLog) of(v *View) *queryCount {
	if counts := l.vpcs.Load(); counts != nil && v != nil {
		return (*counts)[v.vpc.Name]
	}
	return nil
}

// admit counts a line and reports whether it may be written, and how many were left out before it.
func (c *queryCount) admit(now time.Time) (left int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := now.Unix(); s != c.second {
		c.second, c.lines = s, 0
	}
	if c.lines >= queryLogRate {
		c.left++
		return 0, false
	}
	c.lines++
	left, c.left = c.left, 0
	return left, true
}

// write logs one question and its answer if that is wanted.
func (l *queryLog) write(v *View, q *Query, client netip.Addr, rcode int, source string, now time.Time) {
	count := l.of(v)
	if count == nil {
		return
	}
	left, ok := count.admit(now)
	if left > 0 {
		l.log.Info("DNS queries that were too many to log", "vpc", v.vpc.Name, "count", left)
	}
	if ok {
		l.log.Info("DNS query", "vpc", v.vpc.Name, "client", client, "name", q.Name(), "type", miekg.Type(q.Type).String(),
			"rcode", miekg.RcodeToString[rcode], "source", source)
	}
}
