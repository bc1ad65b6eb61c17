package dhcp

import (
	"net/netip"
	"runtime"
	"sync"

	"gatehouse/server/port"
)

// burst is how many replies to relays may wait before they are sent at once by whoever adds one. Fewer wait for the
// sender's turn, which comes when nothing else is to be done at the moment; many at once would overrun a relay whose
// receive buffer has the usual size.
const burst = 16

// outbox is where replies to relays wait to be sent. Those that become ready at the same time, as the acknowledgements of
// all leases of one write do, leave together.
type outbox struct {
	filled chan struct{} // one slot: something waits
	send   func([]port.Datagram)

	sending sync.Mutex // held while send runs
	mu      sync.Mutex
	waiting []port.Datagram
	spare   []port.Datagram // belongs to the holder of sending
}

func newOutbox(send func([]port.Datagram)) *outbox {
	return &outbox{filled: make(chan struct{}, 1), send: send}
}

func (o *outbox) put(to netip.Addr, payload []byte) {
	o.mu.Lock()
	o.waiting = append(o.waiting, port.Datagram{Relay: to, Payload: payload})
	n := len(o.waiting)
	o.mu.Unlock()
	if n >= burst {
		o.flush()
		runtime.Gosched() // whoever has many goes on when the others have had their turn
		return
	}
	select {
	case o.filled <- struct{}{}:
	default:
	}
}

// flush sends what waits, in the order of put.
func (o *outbox) flush() {
	o.sending.Lock()
	defer o.sending.Unlock()
	o.mu.Lock()
	now := o.waiting
	o.waiting = o.spare[:0]
	o.mu.Unlock()
	if len(now) > 0 {
		o.send(now)
	}
	clear(now)
	o.spare = now
}
