package dhcp

import (
	"errors"
	"sync/atomic"
	"time"

	"gatehouse/server/lease"
)

// Drop says why a message got no answer, as counters show it.
type Drop uint8

// Why messages are dropped.
const (
	DropNone        Drop = iota
	DropMalformed        // it breaks the RFC
	DropNotClient        // a server's message, or of a type that servers do not take
	DropSpoofed          // the frame's source is not the client it speaks of
	DropRelay            // by a relay that the vSwitch does not name, or for a link that is not the vSwitch's
	DropOtherServer      // the client speaks to another server
	DropNotYours         // about an address that is not the client's
	DropUnknown          // an unknown MAC where enrolment is closed, or an enrolment that was refused
	DropElsewhere        // the MAC belongs to another vSwitch
	DropPort             // the MAC is pinned to another port, or another port holds it
	DropQuarantined      // the address is quarantined
	DropConflict         // another machine on the client's link was found to use the address
	DropVSwitch          // no such vSwitch, or none of this family
	DropOverload         // the queue was full, or the request had waited for too long
	DropDuplicate        // the same message waits already
	DropStore            // the lease could not be written
	DropSend             // the answer could not be sent
	drops
)

var dropNames = [drops]string{
	"", "malformed", "not-client", "spoofed", "relay", "other-server", "not-yours", "unknown-mac", "elsewhere", "port",
	"quarantined", "conflict", "vswitch", "overload", "duplicate", "store", "send",
}

func (d Drop) String() string {
	if d < drops {
		return dropNames[d]
	}
	return "unknown"
}

// Why a message is not answered at all, whatever the network is.
var (
	ErrMalformed = errors.New("malformed")
	ErrNotClient = errors.New("not a client's message")
)

// DropOf is the reason that an error of this package or of the lease engine stands for.
func DropOf(err error) Drop {
	for _, c := range []struct {
		err  error
		drop Drop
	}{
		{ErrMalformed, DropMalformed},
		{ErrNotClient, DropNotClient},
		{lease.ErrNoVSwitch, DropVSwitch},
		{lease.ErrUnknown, DropUnknown},
		{lease.ErrClosed, DropUnknown},
		{lease.ErrElsewhere, DropElsewhere},
		{lease.ErrNoAddress, DropNotYours},
		{lease.ErrNotYours, DropNotYours},
		{lease.ErrQuarantined, DropQuarantined},
		{lease.ErrBusy, DropOverload},
		{lease.ErrSuperseded, DropNotYours},
	} {
		if errors.Is(err, c.err) {
			return c.drop
		}
	}
	return DropStore
}

// LatencyBounds are the upper bounds of Stats.Latency's buckets, in seconds; the last bucket has none.
var LatencyBounds = [...]float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5}

// Stats are counters since the server was made.
type Stats struct {
	Received   map[string]uint64 // by message type
	Sent       map[string]uint64
	Dropped    map[string]uint64 // by Drop
	Latency    [len(LatencyBounds) + 1]uint64
	LatencySum float64 // seconds from receiving to answering, over all answers
	Queued     int     // requests that wait now
}

// maxKinds is more than the message types of either version.
const maxKinds = 16

// counters is Stats as the packet path counts: every field by itself, so that nobody waits.
type counters struct {
	received   [maxKinds]atomic.Uint64
	sent       [maxKinds]atomic.Uint64
	dropped    [drops]atomic.Uint64
	latency    [len(LatencyBounds) + 1]atomic.Uint64
	latencySum atomic.Int64 // nanoseconds
}

func (c *counters) drop(d Drop) { c.dropped[d].Add(1) }

func (c *counters) answered(kind byte, after time.Duration) {
	c.sent[kind].Add(1)
	c.latencySum.Add(int64(after))
	secs := after.Seconds()
	for i, bound := range LatencyBounds {
		if secs <= bound {
			c.latency[i].Add(1)
			return
		}
	}
	c.latency[len(LatencyBounds)].Add(1)
}

func (c *counters) snapshot(kinds []string) Stats {
	s := Stats{Received: map[string]uint64{}, Sent: map[string]uint64{}, Dropped: map[string]uint64{}}
	for t, name := range kinds {
		if n := c.received[t].Load(); n > 0 {
			s.Received[name] = n
		}
		if n := c.sent[t].Load(); n > 0 {
			s.Sent[name] = n
		}
	}
	for d := DropNone + 1; d < drops; d++ {
		if n := c.dropped[d].Load(); n > 0 {
			s.Dropped[d.String()] = n
		}
	}
	for i := range c.latency {
		s.Latency[i] = c.latency[i].Load()
	}
	s.LatencySum = time.Duration(c.latencySum.Load()).Seconds()
	return s
}
