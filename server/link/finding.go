package link

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
	FindingNoBackstop  = "bridge.netfilter"     // br_netfilter is absent
	FindingRepair      = "link.repair"          // the last repair in the background met an error
)
