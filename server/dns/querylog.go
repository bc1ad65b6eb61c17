package dns

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	miekg "github.com/miekg/dns"
)

// queryLogRate is how many questions a second are logged at most, of all VPCs together.
const queryLogRate = 100

// queryLog writes down who asked what, for the VPCs that it is switched on for.
type queryLog struct {
	log  *slog.Logger
	vpcs atomic.Pointer[[]string] // names; nil: none

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
	l.vpcs.Store(new(slices.Clone(vpcs)))
}

// wants reports whether the questions of the view's VPC are logged.
func (l *queryLog) wants(v *View) bool {
	vpcs := l.vpcs.Load()
	return vpcs != nil && v != nil && slices.Contains(*vpcs, v.vpc.Name)
}

// write logs one question and its answer.
func (l *queryLog) write(v *View, q *Query, client netip.Addr, rcode int, source string, now time.Time) {
	l.mu.Lock()
	if s := now.Unix(); s != l.second {
		l.second, l.lines = s, 0
	}
	if l.lines >= queryLogRate {
		l.left++
		l.mu.Unlock()
		return
	}
	l.lines++
	left := l.left
	l.left = 0
	l.mu.Unlock()
	if left > 0 {
		l.log.Info("DNS queries that were too many to log", "count", left)
	}
	l.log.Info("DNS query", "vpc", v.vpc.Name, "client", client, "name", q.Name(), "type", miekg.Type(q.Type).String(),
		"rcode", miekg.RcodeToString[rcode], "source", source)
}
