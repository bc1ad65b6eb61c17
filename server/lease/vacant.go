package lease

import (
	"log/slog"
	"net/netip"
	"time"

	"gatehouse/vpc"
)

// untried reports whether an address is new to an interface: it never had it, or somebody else was found to have it, and
// nobody has looked since whether it is free. e.mu is held.
func (e *Engine) untried(addr netip.Addr, nic *vpc.Interface, now time.Time) bool {
	if l, ok := e.current(addr); ok && l.MAC == nic.MAC && l.State != vpc.LeaseDeclined {
		return false
	}
	return !now.Before(e.vacant[addr])
}

// Vacant notes that an address that Offer called untried is free: nobody on the client's link has answered for it. That
// holds until the offer is taken, or as long as an offer lasts.
func (e *Engine) Vacant(addr netip.Addr) {
	now := e.cfg.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.vacant[addr] = now.Add(e.cfg.OfferTime)
}

// Conflict quarantines an untried address of a client as Decline does: a machine that is not the client uses it on the
// client's link. The errors are those of Lookup, ErrNotYours when the address is no longer the client's, and ErrBusy.
func (e *Engine) Conflict(c Client, addr netip.Addr, by vpc.MAC) error {
	nic, own, err := e.Lookup(c)
	if err != nil {
		return err
	}
	if addr != own {
		return ErrNotYours
	}
	now := e.cfg.Now()
	l := newLease(c, nic, addr, now)
	l.State, l.Expires = vpc.LeaseDeclined, wholeSecond(now.Add(e.cfg.Quarantine))
	e.say(slog.LevelWarn, "address conflict: another machine on the client's link uses it, so it is not offered for a while", l, slog.Any("by", by))
	e.conflicts.Add(1)
	return e.enqueue(l, nil)
}

// OneMachine reports whether two MACs are interfaces of one instance.
func (e *Engine) OneMachine(a, b vpc.MAC) bool {
	if a == b {
		return true
	}
	s := e.snapshot.Load()
	if s == nil {
		return false
	}
	x, y := s.InterfaceByMAC(a), s.InterfaceByMAC(b)
	return x != nil && y != nil && x.Instance == y.Instance
}
