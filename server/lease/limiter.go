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

// Limiter decides whether a line is worth logging: not when the same was logged a moment ago. The zero value is ready, and
// it may be used from any goroutine.
type Limiter struct {
	mu   sync.Mutex
	last map[string]time.Time
	full time.Time // when there was last no room for another key
}

// Allow reports whether what the key stands for may be logged now.
func (l *Limiter) Allow(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t, ok := l.last[key]; ok && now.Sub(t) < noteInterval && !now.Before(t) {
		return false
	}
	if len(l.last) >= noteMax {
		if d := now.Sub(l.full); d >= 0 && d < time.Second {
			return false // looking for room each time would be work for nothing
		}
		for k, t := range l.last {
			if now.Sub(t) >= noteInterval || now.Before(t) {
				delete(l.last, k)
			}
		}
		if len(l.last) >= noteMax {
			l.full = now
			return false
		}
	}
	if l.last == nil {
		l.last = map[string]time.Time{}
	}
	l.last[key] = now
	return true
}
