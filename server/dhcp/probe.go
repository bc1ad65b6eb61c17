package dhcp

import (
	"net/netip"
	"sync"
	"time"

	"gatehouse/server/lease"
	"gatehouse/server/port"
	"gatehouse/vpc"
)

// Before a client is offered an address that it never had, its link is asked who has it. The question leaves by the port
// where the client is, and by no other: whoever uses the address elsewhere is neither heard by the client nor let through
// by the gateway, and could otherwise keep others from their addresses by answering for them. A relay's link cannot be
// asked; there the client's own check and its DECLINE do the same.
const (
	probeGap  = 50 * time.Millisecond  // from the first question to the second
	probeTime = 150 * time.Millisecond // from the first question to the offer, during which others are served
	maxProbes = 4096                   // at a time
)

// probes are the addresses that links are being asked for.
type probes struct {
	mu   sync.Mutex
	open map[probeKey]*probe
}

type probeKey struct {
	port int // the link's index
	addr netip.Addr
}

// probe is a packet that waits until it is known whether its client's address is free.
type probe struct {
	packet *Packet
	client lease.Client
	timer  *time.Timer
}

// probe asks who has a client's address, and has the packet served again when nobody has.
func (s *Server) probe(p *Packet, c lease.Client, addr netip.Addr) {
	key := probeKey{p.Port.Index, addr}
	s.probes.mu.Lock()
	defer s.probes.mu.Unlock()
	switch {
	case s.probes.open[key] != nil:
		s.count.drop(DropDuplicate)
		return
	case len(s.probes.open) >= maxProbes:
		s.count.drop(DropOverload)
		return
	}
	ask := func() bool {
		err := p.Port.Send(s.proto.Probe(p.Port.LinkMAC, addr))
		if err != nil && !port.Gone(err) {
			s.log.Debug("probe not sent", "ip", addr, "port", p.Port.Name, "error", err)
		}
		return err == nil
	}
	if !ask() {
		s.count.drop(DropSend)
		return
	}
	w := &probe{packet: p, client: c}
	s.probes.open[key] = w
	w.timer = time.AfterFunc(probeGap, func() {
		ask() // the first may have been lost; nothing follows from one that is not sent
		s.probes.mu.Lock()
		defer s.probes.mu.Unlock()
		if s.probes.open[key] == w {
			w.timer = time.AfterFunc(probeTime-probeGap, func() { s.unclaimed(key, w) })
		}
	})
}

// unclaimed ends a probe that nobody has answered.
func (s *Server) unclaimed(key probeKey, w *probe) {
	s.probes.mu.Lock()
	current := s.probes.open[key] == w
	if current {
		delete(s.probes.open, key)
	}
	s.probes.mu.Unlock()
	if current {
		s.cfg.Leases.Vacant(key.addr)
		s.submit(w.packet)
	}
}

// claimed takes the answer of a machine on a port that it has an address. It counts when that is being asked, and the
// machine is not the client itself, which may have kept the address over a reboot, and may answer by any of its interfaces.
func (s *Server) claimed(sock *port.Socket, addr netip.Addr, by vpc.MAC) {
	key := probeKey{sock.Index, addr}
	s.probes.mu.Lock()
	w := s.probes.open[key]
	if w == nil || by == sock.LinkMAC || s.cfg.Leases.OneMachine(by, w.client.MAC) {
		s.probes.mu.Unlock()
		return
	}
	delete(s.probes.open, key)
	w.timer.Stop()
	s.probes.mu.Unlock()
	if err := s.cfg.Leases.Conflict(w.client, addr, by); err != nil {
		s.count.drop(DropOf(err))
		return
	}
	s.count.drop(DropConflict)
}
