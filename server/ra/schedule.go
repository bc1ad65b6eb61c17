package ra

import (
	"net/netip"
	"time"

	"gatehouse/vpc"
)

// When advertisements are sent (RFC 4861 section 10).
const (
	maxInitialInterval = 16 * time.Second
	maxInitial         = 3
	minDelay           = 3 * time.Second        // between two to everybody
	maxDelay           = 500 * time.Millisecond // before one that was solicited
)

// recipient is to whom an advertisement goes; the zero value is everybody on the port.
type recipient struct {
	mac  vpc.MAC
	addr netip.Addr
}

// schedule says when the next advertisements of a port are due (RFC 4861 sections 6.2.4 and 6.2.6).
type schedule struct {
	jitter   func(time.Duration) time.Duration // at random, from 0 up to what is given
	periodic time.Time
	initial  int       // that are still sent at short intervals
	last     time.Time // to everybody

	solicited time.Time // zero: nobody waits
	to        recipient
}

// restart makes the port tell what is new: at once, and twice more before long.
func (s *schedule) restart(now time.Time) {
	s.initial = maxInitial
	s.periodic = s.notBefore(now.Add(s.jitter(maxDelay)))
}

// notBefore puts off an advertisement to everybody that would follow another too soon.
func (s *schedule) notBefore(t time.Time) time.Time {
	if first := s.last.Add(minDelay); !s.last.IsZero() && t.Before(first) {
		return first
	}
	return t
}

// solicit takes note of a router solicitation. Whoever has an address is answered alone, unless others wait too: one
// answer to everybody is then less than many.
func (s *schedule) solicit(now time.Time, from recipient) {
	if !from.addr.IsValid() || from.addr.IsUnspecified() {
		from = recipient{}
	}
	switch {
	case s.solicited.IsZero():
		s.solicited, s.to = now.Add(s.jitter(maxDelay)), from
	case s.to != from:
		s.to = recipient{}
	}
	if s.to == (recipient{}) {
		s.solicited = s.notBefore(s.solicited)
	}
}

// due is when take is to be called next.
func (s *schedule) due() time.Time {
	if !s.solicited.IsZero() && s.solicited.Before(s.periodic) {
		return s.solicited
	}
	return s.periodic
}

// take returns whom to send an advertisement now, if it is time, and plans the next.
func (s *schedule) take(now time.Time) (to recipient, ok bool) {
	if now.Before(s.due()) {
		return recipient{}, false
	}
	alone := s.to
	everybody := !now.Before(s.periodic) || alone == (recipient{})
	s.solicited, s.to = time.Time{}, recipient{}
	if !everybody {
		return alone, true
	}
	s.last = now
	interval := minInterval + s.jitter(maxInterval-minInterval)
	if s.initial > 0 {
		s.initial--
	}
	if s.initial > 0 {
		interval = min(interval, maxInitialInterval)
	}
	s.periodic = now.Add(interval)
	return recipient{}, true
}
