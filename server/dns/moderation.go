package dns

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// moderation decides when a socket is worth a moment's wait before it is read again, as network cards do with their
// interrupts. To be woken costs the kernel about as much as to answer: when questions come closer together than
// denseGap, a few are left to gather. A socket that is asked less often is read at once.
type moderation struct {
	last time.Time     // when the batch before was answered
	gap  time.Duration // between two questions, smoothed; 0 before the first batch
}

const (
	denseGap = 20 * time.Microsecond // between two questions: 50,000 a second
	lull     = 30 * time.Microsecond // the kernel may add its timer slack, 50 us unless set otherwise
	sparse   = time.Millisecond      // a longer gap says no more than this one
)

// wait returns how long to wait, after n questions (at least one) were answered at a time, before the next are read.
func (m *moderation) wait(n int, now time.Time) time.Duration {
	gap := min(now.Sub(m.last)/time.Duration(n), sparse)
	m.last = now
	if m.gap == 0 {
		m.gap = sparse
	}
	m.gap += (gap - m.gap) / 8
	if m.gap >= denseGap || n >= batchSize/2 {
		return 0
	}
	return lull
}

// pause stops this thread. The runtime's timers are too coarse for it: where nothing else runs they wait a whole
// millisecond.
func pause(d time.Duration) {
	if d <= 0 {
		return
	}
	span := unix.NsecToTimespec(d.Nanoseconds())
	// Woken by a signal it returns early, which does no harm.
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&span)), 0, 0)
}
