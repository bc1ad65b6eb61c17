package dns

import (
	"context"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
)

// maxReplays is how many signed messages are remembered.
const maxReplays = 4096

// replays remembers the signed messages of the last minutes and what was replied to them, so that one that comes again,
// because the reply was lost or because somebody has recorded it, changes nothing and is replied to as before (RFC 8945
// section 5.2.3 leaves a window as wide as clocks may differ). The zero value is ready for use.
type replays struct {
	mu    sync.Mutex
	seen  map[string]*replay // by key and MAC
	order []*replay          // as they came
	floor uint64             // what was signed before is not remembered any more: seconds since 1970
}

// replay is one message and its reply.
type replay struct {
	id     string
	signed uint64 // seconds since 1970
	came   time.Time
	done   chan struct{}
	reply  []byte // set before done is closed, as out
	out    Outcome
}

// begin takes note of an authentic message. The result is nil when it is too old to know whether it has come before; known
// is set when it has, and otherwise the caller must end it.
func (r *replays) begin(tsig *miekg.TSIG, now time.Time) (m *replay, known bool) {
	id := miekg.CanonicalName(tsig.Hdr.Name) + tsig.MAC
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.order) > 0 && now.Sub(r.order[0].came) > 2*tsigFudge*time.Second { // clocks differ by less: its time is over
		r.drop()
	}
	if m := r.seen[id]; m != nil {
		return m, true
	}
	if tsig.TimeSigned < r.floor {
		return nil, false
	}
	if len(r.order) == maxReplays {
		r.floor = max(r.floor, r.order[0].signed+1)
		r.drop()
	}
	if r.seen == nil {
		r.seen = map[string]*replay{}
	}
	m = &replay{id: id, signed: tsig.TimeSigned, came: now, done: make(chan struct{})}
	r.seen[id] = m
	r.order = append(r.order, m)
	return m, false
}

// drop forgets the oldest message.
func (r *replays) drop() {
	delete(r.seen, r.order[0].id)
	r.order = r.order[1:]
}

// end sets what was replied.
func (m *replay) end(reply []byte, out Outcome) {
	m.reply, m.out = reply, out
	close(m.done)
}

// wait returns what was replied as soon as that is known; false when ctx ended first.
func (m *replay) wait(ctx context.Context) ([]byte, Outcome, bool) {
	select {
	case <-m.done:
		return m.reply, m.out, true
	case <-ctx.Done():
		return nil, Outcome{}, false
	}
}
