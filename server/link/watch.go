package link

import (
	"context"
	"slices"
	"sync"
	"time"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

// guestKinds are what guests say first; none of them begins with a DHCP server's answer.
const guestKinds = port.AllKinds &^ port.DHCPv4Answer

// A guest that floods its port with first frames is heard no more than burst MACs an interval: behind a port is one guest.
const (
	watchBurst    = 32
	watchInterval = 100 * time.Millisecond
)

// watch hears who sends what a guest sends before anything else can work: ARP, neighbour discovery and router solicitations
// (duplicate address detection among them), and the questions of DHCP clients. Who reads the ports does not wait for what
// follows from it, which the kernel may have to be told of: the ports take turns.
type watch struct {
	mu     sync.Mutex
	turns  []*watcher    // of whom MACs wait
	filled chan struct{} // one slot: there are turns
}

// watcher is what was heard on one port. Its fields are held by watch.mu.
type watcher struct {
	port  port.Port
	since time.Time
	macs  []vpc.MAC // heard since then, and while the last of them wait
	told  int       // how many of them wait no longer
}

func newWatch() *watch { return &watch{filled: make(chan struct{}, 1)} }

// hear takes note of a frame's sender, once an interval.
func (w *watch) hear(at *watcher, mac vpc.MAC, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	waiting := at.told < len(at.macs)
	if !waiting && now.Sub(at.since) >= watchInterval {
		at.since, at.macs, at.told = now, at.macs[:0], 0
	}
	if len(at.macs) >= watchBurst || slices.Contains(at.macs, mac) {
		return
	}
	at.macs = append(at.macs, mac)
	if !waiting {
		w.turns = append(w.turns, at)
		wake(w.filled)
	}
}

// run tells f of each MAC and its port, until the context ends.
func (w *watch) run(ctx context.Context, f func(name string, index int, mac vpc.MAC)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.filled:
		}
		for at, mac, ok := w.next(); ok && ctx.Err() == nil; at, mac, ok = w.next() {
			f(at.Name, at.Index, mac)
		}
	}
}

// next takes one MAC of the port whose turn it is.
func (w *watch) next() (port.Port, vpc.MAC, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.turns) == 0 {
		return port.Port{}, vpc.MAC{}, false
	}
	at := w.turns[0]
	w.turns = w.turns[1:]
	mac := at.macs[at.told]
	if at.told++; at.told < len(at.macs) {
		w.turns = append(w.turns, at)
	}
	return at.port, mac, true
}

// AddPort makes the Manager hear who sends on a bridge's port; a plain interface holds no MACs. With RemovePort it makes
// a port.Server of the Manager.
func (m *Manager) AddPort(s *port.Socket) (port.Kinds, port.Receiver) {
	if !s.Bridged {
		return 0, nil
	}
	at := &watcher{port: s.Port}
	return guestKinds, func(_ port.Kinds, frame []byte) {
		if mac, ok := sender(frame); ok {
			m.watch.hear(at, mac, time.Now())
		}
	}
}

// RemovePort does nothing: what was heard on a port that is not up any more is of no consequence.
func (m *Manager) RemovePort(*port.Socket) {}

// sender returns the source MAC of a frame.
func sender(frame []byte) (vpc.MAC, bool) {
	if len(frame) < port.EtherSize {
		return vpc.MAC{}, false
	}
	mac := vpc.MAC(frame[6:12])
	return mac, !mac.IsZero() && mac[0]&1 == 0
}
