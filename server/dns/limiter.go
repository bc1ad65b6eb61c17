package dns

import (
	"hash/maphash"
	"sync/atomic"
	"time"
)

// limiter bounds the answers per second that a client is given over UDP. One that wants more is told to come over TCP,
// where it has to show that it is there: so a forged source is sent nothing that is longer than the question.
//
// Clients whose hashes fall together share what one may have. Nobody can choose with whom: the hash has a secret.
type limiter struct {
	interval atomic.Int64 // nanoseconds between answers; 0: no limit
	seed     maphash.Seed
	due      [4096]atomic.Int64 // when the next answer would be due if they were evenly spaced
}

// burst is what a client may have at once, in time.
const burst = time.Second

func newLimiter() *limiter { return &limiter{seed: maphash.MakeSeed()} }

// set changes how many answers a second a client is given; 0: as many as it wants.
func (l *limiter) set(rate int) {
	interval := int64(0)
	if rate > 0 {
		interval = int64(time.Second) / int64(rate)
	}
	l.interval.Store(interval)
}

func (l *limiter) limits() bool { return l.interval.Load() > 0 }

// admit counts one answer and reports whether it may be given.
func (l *limiter) admit(c client, now time.Time) bool {
	due := &l.due[maphash.Comparable(l.seed, c)%uint64(len(l.due))]
	for {
		was, at := due.Load(), now.UnixNano()
		next := max(was, at) + l.interval.Load()
		if next-at > int64(burst) {
			return false
		}
		if due.CompareAndSwap(was, next) {
			return true
		}
	}
}
