package dhcp

import "sync"

// queue is a bounded first-in, first-out queue that gives up its oldest packet for a new one, and holds no message twice.
type queue struct {
	mu     sync.Mutex
	filled sync.Cond
	ring   []*Packet
	head   int // of the oldest
	n      int
	held   map[Key]struct{}
	closed bool
}

func newQueue(size int) *queue {
	q := &queue{ring: make([]*Packet, size), held: make(map[Key]struct{}, size)}
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
	if q.n == len(q.ring) {
		q.take()
		d = DropOverload
	}
	q.ring[(q.head+q.n)%len(q.ring)] = p
	q.n++
	q.held[p.Key] = struct{}{}
	q.filled.Signal()
	return d
}

// pop waits for the oldest packet; nil when the queue is closed.
func (q *queue) pop() *Packet {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.n == 0 && !q.closed {
		q.filled.Wait()
	}
	if q.closed {
		return nil
	}
	return q.take()
}

// take removes the oldest packet; q.mu is held and there is one.
func (q *queue) take() *Packet {
	p := q.ring[q.head]
	q.ring[q.head] = nil
	q.head = (q.head + 1) % len(q.ring)
	q.n--
	delete(q.held, p.Key)
	return p
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
