package dns

import (
	"net/netip"
	"sync"
)

const (
	maxWaiting       = 8192 // questions that wait for others, of all clients
	maxWaitingClient = 512  // of one client
	reservedWaiting  = 256  // of a VPC, whatever the others ask
)

// quota bounds how many of something there are: altogether, and of each client. When all are taken a VPC still has its
// reserve, so that no VPC can keep another from being served.
type quota struct {
	all, each, reserve int // each: 0 for no bound

	mu      sync.Mutex
	total   int
	vpcs    map[string]int // by ID
	clients map[client]int
}

// client is what a source counts as when clients are bounded.
type client struct {
	vpc  string // ID
	addr netip.Addr
}

func newQuota(all, each, reserve int) *quota {
	return &quota{all: all, each: each, reserve: reserve, vpcs: map[string]int{}, clients: map[client]int{}}
}

// clientOf is whose a source is. A guest may use any link-local address: all of a link are one client.
func clientOf(vpc string, src netip.Addr) client {
	if src.IsLinkLocalUnicast() {
		src = netip.IPv6LinkLocalAllNodes().WithZone(src.Zone())
	}
	return client{vpc, src}
}

// enter takes one for a client of a VPC, and reports whether there was one left.
func (q *quota) enter(vpc string, src netip.Addr) bool {
	c := clientOf(vpc, src)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.each > 0 && q.clients[c] >= q.each || q.total >= q.all && q.vpcs[vpc] >= q.reserve {
		return false
	}
	q.total++
	q.vpcs[vpc]++
	if q.each > 0 {
		q.clients[c]++
	}
	return true
}

// leave gives one back.
func (q *quota) leave(vpc string, src netip.Addr) {
	c := clientOf(vpc, src)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.total--
	decrement(q.vpcs, vpc)
	if q.each > 0 {
		decrement(q.clients, c)
	}
}

func decrement[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] == 0 {
		delete(m, k)
	}
}

func (q *quota) size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total
}
