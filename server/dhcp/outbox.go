package dhcp

import (
	"net/netip"
	"sync"

	"gatehouse/server/port"
)

// outbox is where replies to relays wait for their sender. Those that come while it sends, as the acknowledgements of all
// leases of one write do, leave together next.
type outbox struct {
	filled chan struct{} // one slot: something waits

	mu      sync.Mutex
	waiting []port.Datagram
}

func newOutbox() outbox { return outbox{filled: make(chan struct{}, 1)} }

func (o *outbox) put(to netip.Addr, payload []byte) {
	o.mu.Lock()
	o.waiting = append(o.waiting, port.Datagram{Relay: to, Payload: payload})
	o.mu.Unlock()
	select {
	case o.filled <- struct{}{}:
	default:
	}
}

// take returns what waits, in the order of put.
func (o *outbox) take() []port.Datagram {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := o.waiting
	o.waiting = nil
	return all
}
