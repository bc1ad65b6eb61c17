package dns

import (
	"testing"
	"time"
)

func TestModeration(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		name  string
		every time.Duration // between two batches
		n     int           // questions in each
		want  time.Duration // after many of them
	}{
		{"a socket that is rarely asked is read at once", time.Second, 1, 0},
		{"5,000 questions a second are read as they come", 200 * time.Microsecond, 1, 0},
		{"100,000 questions a second are left to gather", 10 * time.Microsecond, 1, lull},
		{"gathered ones go on gathering", 60 * time.Microsecond, 6, lull},
		{"bursts with long pauses are read at once", 10 * time.Millisecond, 20, 0},
		{"batches that fill by themselves need no wait", 100 * time.Microsecond, batchSize / 2, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m moderation
			now, got := start, time.Duration(-1)
			for range 1000 {
				now = now.Add(c.every)
				got = m.wait(c.n, now)
			}
			if got != c.want {
				t.Errorf("wait = %v, want %v", got, c.want)
			}
			// After a silence nobody waits for what does not come.
			for range 40 {
				now = now.Add(time.Second)
				got = m.wait(1, now)
			}
			if got != 0 {
				t.Errorf("wait = %v after a silence, want none", got)
			}
		})
	}
}

func TestTheFirstBatchIsNotWaitedFor(t *testing.T) {
	var m moderation
	if got := m.wait(1, time.Now()); got != 0 {
		t.Errorf("wait = %v, want none", got)
	}
}
