package dhcp

import (
	"net/netip"
	"sync"
)

// opening is the type of the message that begins an exchange: DISCOVER in DHCPv4, SOLICIT in DHCPv6.
const opening = 1

// queue is where packets wait for a worker. It is bounded and holds no message twice.
//
// The sources (ports, relays) take turns, and when the queue is full it is the source with most packets that loses one: a
// port that floods loses its own. Of one source those who have been answered before go first, and are dropped last:
// under overload, exchanges that have begun are finished rather than more of them begun. Among equals the oldest goes
// first, and is dropped first, since its client will have given up soonest.
type queue struct {
	mu     sync.Mutex
	filled sync.Cond
	size   int
	n      int
	lines  map[source]*line // of the sources that packets wait of
	turns  fifo[*line]      // the same lines, in the order of their turns
	held   map[Key]struct{}
	closed bool
}

// source is where packets come from: a port by its index, or a relay.
type source struct {
	port  int
	relay netip.Addr
}

func (p *Packet) source() source {
	if p.Port != nil {
		return source{port: p.Port.Index}
	}
	return source{relay: p.Relay}
}

// line is what waits of one source.
type line struct {
	source source
	turn   bool          // it is among the turns; it may have lost all packets since
	again  fifo[*Packet] // everything but …
	first  fifo[*Packet] // … messages that begin an exchange
}

func (l *line) len() int { return l.again.len() + l.first.len() }

func newQueue(size int) *queue {
	q := &queue{size: size, lines: map[source]*line{}, held: make(map[Key]struct{}, size)}
	q.filled.L = &q.mu
	return q
}

// push adds a packet and says why a packet, this one or another, was dropped instead; DropNone when none was.
func (q *queue) push(p *Packet) Drop {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return DropOverload
	}
	if _, ok := q.held[p.Key]; ok {
		return DropDuplicate
	}
	d := DropNone
	if q.n == q.size {
		q.drop(p.source())
		d = DropOverload
	}
	l := q.lines[p.source()]
	if l == nil {
		l = &line{source: p.source()}
		q.lines[l.source] = l
	}
	if !l.turn {
		l.turn = true
		q.turns.push(l)
	}
	if p.Key.Kind == opening {
		l.first.push(p)
	} else {
		l.again.push(p)
	}
	q.n++
	q.held[p.Key] = struct{}{}
	q.filled.Signal()
	return d
}

// drop makes room: the source that asks for it loses a packet if it has its share, else the one with most.
func (q *queue) drop(asking source) {
	fattest := q.lines[asking]
	if fattest == nil || fattest.len() == 0 || fattest.len()*len(q.lines) < q.size {
		for _, l := range q.lines {
			if fattest == nil || l.len() > fattest.len() {
				fattest = l
			}
		}
	}
	p, ok := fattest.first.pop()
	if !ok {
		p, _ = fattest.again.pop()
	}
	q.forget(p)
}

// pop waits for a packet; nil when the queue is closed.
func (q *queue) pop() *Packet {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		for q.n == 0 && !q.closed {
			q.filled.Wait()
		}
		if q.closed {
			return nil
		}
		l, _ := q.turns.pop()
		p, ok := l.again.pop()
		if !ok {
			p, ok = l.first.pop()
		}
		if l.len() > 0 {
			q.turns.push(l)
		} else {
			delete(q.lines, l.source)
		}
		if ok { // else all that it had was dropped
			q.forget(p)
			return p
		}
	}
}

func (q *queue) forget(p *Packet) {
	q.n--
	delete(q.held, p.Key)
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.filled.Broadcast()
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n
}

// fifo is a first-in, first-out queue without a bound of its own.
type fifo[T any] struct {
	items []T
	head  int
}

func (f *fifo[T]) len() int { return len(f.items) - f.head }

func (f *fifo[T]) push(v T) { f.items = append(f.items, v) }

func (f *fifo[T]) pop() (v T, ok bool) {
	if f.len() == 0 {
		return v, false
	}
	v = f.items[f.head]
	var none T
	f.items[f.head] = none
	f.head++
	if 2*f.head >= len(f.items) { // moved at most once for every pop, taken together
		f.items = append(f.items[:0], f.items[f.head:]...)
		f.head = 0
	}
	return v, true
}
