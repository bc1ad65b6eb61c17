package link

import (
	"errors"
	"fmt"
	"time"

	"gatehouse/vpc"
)

// Port is where guests are plugged in: an up port of a vSwitch's bridge, or the plain interface of a vSwitch that has one.
type Port struct {
	Index   int    // of the port's own link
	Name    string //
	VSwitch string // ID
	Link    string // name of the vSwitch's link: the bridge, or the interface itself
	// LinkIndex and LinkMAC are those of the vSwitch's link: what the gateway sends comes from that MAC.
	LinkIndex int
	LinkMAC   vpc.MAC
}

// Why a MAC is not given to a port, besides HeldError, OccupiedError and PinnedError.
var (
	ErrNoPort       = errors.New("no such port is up")
	ErrOtherVSwitch = errors.New("the MAC is registered in another vSwitch")
	ErrHostMAC      = errors.New("the MAC is the gateway's own")
)

// HeldError says that another port that is up holds the MAC.
type HeldError struct {
	MAC    vpc.MAC
	Port   string // who asked
	Holder string // who has it
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s on %s: held by port %s, which is up", e.MAC, e.Port, e.Holder)
}

// OccupiedError says that another guest is behind the port, so that this MAC is not its.
type OccupiedError struct {
	MAC   vpc.MAC
	Port  string // who asked
	Guest string // who is behind it: VPC/instance, or a MAC that is nobody's
}

func (e *OccupiedError) Error() string {
	return fmt.Sprintf("%s on %s: the port is that of %s", e.MAC, e.Port, e.Guest)
}

// PinnedError says that the MAC's interface is pinned to another port.
type PinnedError struct {
	MAC    vpc.MAC
	Port   string // who asked
	Pinned string // where it belongs
}

func (e *PinnedError) Error() string {
	return fmt.Sprintf("%s on %s: pinned to port %s", e.MAC, e.Port, e.Pinned)
}

const (
	// unregisteredTTL is how long a port keeps a MAC that asked for an address and has not become an interface.
	unregisteredTTL = 5 * time.Minute
	// comeback is how long a port that is away may come back for a MAC that another one has taken since: longer than a
	// machine takes to start again.
	comeback = 10 * time.Minute
)

// held says where a MAC is: at a port, by a static sticky entry of the bridge's forwarding table. The entry of a registered
// MAC stays while the port is down, which a guest can bring about by itself. When it is gone with its port, deleted or taken
// out of the bridge, the port's name is remembered, with index 0.
type held struct {
	port  Port
	since time.Time // first seen at that port
	home  string    // the port that it was taken from; see comeback
}

// awaited reports whether a port may come back for the MAC.
func (at held) awaited(port string, now time.Time) bool {
	return at.home == port && now.Sub(at.since) <= comeback
}

// holds is the table of all held MACs, as the last reading found it and claims have changed it since.
type holds struct {
	at    map[vpc.MAC]held
	ports map[string]Port  // those that are up, by name
	host  map[vpc.MAC]bool // MACs of the gateway's own links
}

// claim decides whether a port may have a MAC; fresh is false when it has it already. It changes nothing.
//
// Behind a port is one guest: one instance, or one MAC that is not registered yet. Otherwise it would need nothing but
// patience to become its neighbour, whose MAC is free whenever its machine starts again. Several guests behind one port
// are possible where their interfaces are pinned to it.
func (h *holds) claim(p *plan, port Port, mac vpc.MAC, now time.Time) (fresh bool, err error) {
	if err := p.mayHold(port, mac); err != nil {
		return false, err
	}
	if h.host[mac] {
		return false, fmt.Errorf("%s on %s: %w", mac, port.Name, ErrHostMAC)
	}
	at, known := h.at[mac]
	if known && at.port.Index == port.Index {
		return false, nil
	}
	guest := h.guest(p, port, mac)
	switch {
	case known && h.up(at.port) && (guest != "" || !at.awaited(port.Name, now)):
		return false, &HeldError{mac, port.Name, at.port.Name}
	case guest != "":
		return false, &OccupiedError{mac, port.Name, guest}
	}
	return true, nil
}

// up reports whether a port is up and still the same link.
func (h *holds) up(port Port) bool {
	now, ok := h.ports[port.Name]
	return ok && now.Index == port.Index
}

// guest says who is behind a port and keeps a MAC from it; "" if nobody does.
func (h *holds) guest(p *plan, port Port, mac vpc.MAC) string {
	reg := p.registered(mac)
	if reg != nil && reg.Port == port.Name {
		return ""
	}
	guest := ""
	for other, at := range h.at {
		if at.port.Index != port.Index || other == mac {
			continue
		}
		name := other.String()
		switch o := p.registered(other); {
		case o == nil && reg != nil: // what is nobody's keeps nobody out who is declared
			continue
		case o != nil && reg != nil && o.Instance == reg.Instance:
			continue
		case o != nil:
			name = nameOf(o.Instance)
		}
		if guest == "" || name < guest {
			guest = name
		}
	}
	return guest
}

// grant notes that a port has a MAC from now on, and which one may come back for it.
func (h *holds) grant(port Port, mac vpc.MAC, now time.Time) {
	to := held{port: port, since: now}
	switch from, known := h.at[mac]; {
	case !known || from.port.Name == port.Name || from.home == port.Name:
	case from.home != "" && from.awaited(from.home, now):
		to.home = from.home
	default:
		to.home = from.port.Name
	}
	h.at[mac] = to
}

// mayHold checks a claim against what is registered.
func (p *plan) mayHold(port Port, mac vpc.MAC) error {
	reg := p.registered(mac)
	switch {
	case reg == nil:
		return nil
	case reg.VSwitch.ID != port.VSwitch:
		return fmt.Errorf("%s on %s: %w", mac, port.Name, ErrOtherVSwitch)
	case reg.Port != "" && reg.Port != port.Name:
		return &PinnedError{mac, port.Name, reg.Port}
	}
	return nil
}
