package link

import (
	"errors"
	"fmt"

	"gatehouse/vpc"
)

// Finding is something about this host's links that an operator should know and that no error is returned for.
type Finding struct {
	Code    string `json:"code"`
	VSwitch string `json:"vswitch,omitempty"` // ID
	Link    string `json:"link,omitempty"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
}

// The codes of findings.
const (
	FindingPlain       = "link.plain"           // guests of a plain interface can go round the gateway
	FindingMissing     = "link.missing"         // the interface is not there yet
	FindingRefused     = "link.refused"         // the link or the range is somebody else's
	FindingOverlap     = "link.overlap"         // a route of the host has come into a range in force
	FindingForeignAddr = "link.foreign-address" // somebody put an address on a link in force
	FindingUplinkPort  = "port.uplink"          // somebody put an uplink into a bridge in force
	FindingUnlocked    = "port.unlocked"        // the kernel cannot lock ports
	FindingNotIsolated = "port.not-isolated"    // the kernel cannot isolate ports
	FindingPinned      = "port.pinned"          // an interface's port is not there
	FindingClaimed     = "port.claimed"         // a port sends from an interface's MAC that is not its
	FindingNoBackstop  = "bridge.netfilter"     // br_netfilter is absent
	FindingRepair      = "link.repair"          // the last repair in the background met an error
)

// claimFinding tells of a claim on an interface's MAC that was refused to a port, and why.
func claimFinding(i *vpc.Interface, port Port, err error) Finding {
	f := Finding{Code: FindingClaimed, VSwitch: port.VSwitch, Link: port.Link}
	who := fmt.Sprintf("port %s sends from %s, the MAC of instance %s", port.Name, i.MAC, nameOf(i.Instance))
	var (
		held     *HeldError
		occupied *OccupiedError
		pinned   *PinnedError
	)
	switch {
	case errors.As(err, &held):
		f.Message = fmt.Sprintf("%s, which is behind port %s", who, held.Holder)
		f.Remedy = fmt.Sprintf("see what is behind %s and %s: one of them is not that instance; to settle it pin the interface (port:) to the right one", port.Name, held.Holder)
	case errors.As(err, &occupied):
		f.Message = fmt.Sprintf("%s, but is the port of %s", who, occupied.Guest)
		f.Remedy = fmt.Sprintf("if several instances shall be behind %[1]s, pin the interfaces of all of them to it (port: %[1]s); if another one is there now, take the port out of %[2]s and put it back", port.Name, port.Link)
	case errors.As(err, &pinned):
		f.Message = fmt.Sprintf("%s, which is pinned to port %s", who, pinned.Pinned)
		f.Remedy = "plug it in there, or correct the interface's port"
	default:
		f.Message = fmt.Sprintf("%s: %s", who, err)
	}
	return f
}
