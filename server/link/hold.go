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

// Why a MAC is not given to a port, besides HeldError and PinnedError.
var (
	ErrNoPort       = errors.New("no such port is up")
	ErrOtherVSwitch = errors.New("the MAC is registered in another vSwitch")
	ErrHostMAC      = errors.New("the MAC is the gateway's own")
	ErrTooMany      = errors.New("the port holds too many MACs that are not registered")
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
	// maxUnregistered bounds what one guest can put into the forwarding table.
	maxUnregistered = 64
)

// held is a MAC at a port, by a static sticky entry of the bridge's forwarding table.
type held struct {
	port  Port
	since time.Time // first seen at that port
}

// holds is the table of all held MACs, as the last reading found it and claims have changed it since.
type holds struct {
	at    map[vpc.MAC]held
	ports map[string]Port  // those that are up, by name
	host  map[vpc.MAC]bool // MACs of the gateway's own links
}

// claim decides whether a port may have a MAC; fresh is false when it has it already. It changes nothing.
func (h *holds) claim(p *plan, port Port, mac vpc.MAC) (fresh bool, err error) {
	if err := p.mayHold(port, mac); err != nil {
		return false, err
	}
	if h.host[mac] {
		return false, fmt.Errorf("%s on %s: %w", mac, port.Name, ErrHostMAC)
	}
	at, ok := h.at[mac]
	if ok && at.port.Index == port.Index {
		return false, nil
	}
	if _, up := h.ports[at.port.Name]; ok && up {
		return false, &HeldError{mac, port.Name, at.port.Name}
	}
	if p.macs[mac] == nil && h.unregistered(p, port.Index) >= maxUnregistered {
		return false, fmt.Errorf("%s on %s: %w", mac, port.Name, ErrTooMany)
	}
	return true, nil
}

// unregistered counts the MACs at a port that are nobody's.
func (h *holds) unregistered(p *plan, port int) int {
	n := 0
	for mac, at := range h.at {
		if at.port.Index == port && p.macs[mac] == nil {
			n++
		}
	}
	return n
}

// mayHold checks a claim against what is registered.
func (p *plan) mayHold(port Port, mac vpc.MAC) error {
	reg := p.macs[mac]
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
