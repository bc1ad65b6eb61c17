package dhcp4

import (
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/vpc"
)

// inbound is a message that waits to be served.
type inbound struct {
	payload  []byte
	port     *portSocket // nil: by a relay
	relay    netip.Addr  // who sent it, if by a relay
	at       time.Time
	key      packetKey
	enrolled bool // an enrolment has been tried for it
}

// packetKey tells a message from its retransmissions, which are equal in it.
type packetKey struct {
	mac  vpc.MAC
	xid  dhcpv4.TransactionID
	kind byte
}

// keyOf reads the key from a payload, which must be at least as long as a header with its cookie. The message type is
// taken from where nearly every client puts it; elsewhere it counts as zero, which makes the key no less correct: such a
// client's DISCOVER and REQUEST of one exchange are never queued at the same time.
func keyOf(b []byte) packetKey {
	k := packetKey{mac: vpc.MAC(b[28:34]), xid: dhcpv4.TransactionID(b[4:8])}
	if o := b[headerSize+cookieSize:]; len(o) >= 3 && o[0] == dhcpv4.OptionDHCPMessageType.Code() && o[1] == 1 {
		k.kind = o[2]
	}
	return k
}

// queue is a bounded first-in, first-out queue that gives up its oldest packet for a new one, and holds no message twice.
type queue struct {
	mu     sync.Mutex
	filled sync.Cond
	ring   []*inbound
	head   int // of the oldest
	n      int
	held   map[packetKey]struct{}
	closed bool
}

func newQueue(size int) *queue {
	q := &queue{ring: make([]*inbound, size), held: make(map[packetKey]struct{}, size)}
	q.filled.L = &q.mu
	return q
}

// push adds a packet and says why a packet, this one or another, was dropped instead; DropNone when none was.
func (q *queue) push(p *inbound) Drop {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return DropOverload
	}
	if _, ok := q.held[p.key]; ok {
		return DropDuplicate
	}
	d := DropNone
	if q.n == len(q.ring) {
		q.take()
		d = DropOverload
	}
	q.ring[(q.head+q.n)%len(q.ring)] = p
	q.n++
	q.held[p.key] = struct{}{}
	q.filled.Signal()
	return d
}

// pop waits for the oldest packet; nil when the queue is closed.
func (q *queue) pop() *inbound {
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
func (q *queue) take() *inbound {
	p := q.ring[q.head]
	q.ring[q.head] = nil
	q.head = (q.head + 1) % len(q.ring)
	q.n--
	delete(q.held, p.key)
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
