package lease

import (
	"sync"
	"time"
)

// A line that says the same about the same client is logged once in noteInterval; noteMax bounds what is remembered, so
// that a flood of forged MACs costs neither memory nor disk.
const (
	noteInterval = time.Minute
	noteMax      = 1024
)

// limiter decides whether a line is worth logging. The zero value is ready.
type limiter struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (l *limiter) allow(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t, ok := l.last[key]; ok && now.Sub(t) < noteInterval && !now.Before(t) {
		return false
	}
	if len(l.last) >= noteMax {
		for k, t := range l.last {
			if now.Sub(t) >= noteInterval || now.Before(t) {
				delete(l.last, k)
			}
		}
		if len(l.last) >= noteMax {
			return false
		}
	}
	if l.last == nil {
		l.last = map[string]time.Time{}
	}
	l.last[key] = now
	return true
}
