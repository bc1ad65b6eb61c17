package vpc

import "net/netip"

// PlaceKind says what kind of link a packet enters or leaves by.
type PlaceKind uint8

// The kinds of place.
const (
	PlaceNowhere PlaceKind = iota // no route: a packet for it goes no further
	PlaceVSwitch                  // the link of a vSwitch
	PlaceUplink                   // a configured uplink
	PlaceGateway                  // the gateway itself
	PlaceForeign                  // a link of the host that is neither vSwitch nor uplink
)

// Place is where a packet enters or leaves.
type Place struct {
	Kind    PlaceKind
	VSwitch *VSwitch // PlaceVSwitch only
}

// ConnState is what connection tracking says of a packet.
type ConnState uint8

// The states that the policy distinguishes.
const (
	StateNew         ConnState = iota // the first packet of a flow, or one that belongs to none
	StateEstablished                  // belongs to a flow whose first packet was admitted
	StateRelated                      // an ICMP error about such a flow
	StateInvalid                      // makes no sense to connection tracking
)

// Packet is one packet as the gateway sees it.
type Packet struct {
	In       Place // where it enters; PlaceVSwitch or PlaceUplink or PlaceForeign
	SrcMAC   MAC   // on a vSwitch link; zero: the MAC that owns Src there
	Group    bool  // the frame is addressed to a group of stations: a broadcast or multicast MAC
	Src, Dst netip.Addr
	Protocol Protocol // never ProtocolAll
	SrcPort  uint16   // TCP and UDP
	DstPort  uint16
	ICMPType uint8 // ICMP and ICMPv6
	ICMPCode uint8
	NoSYN    bool // TCP: the SYN flag is not set, or ACK, RST or FIN is
	State    ConnState
}

// Stage names a step of a packet's way, in the kernel's order.
type Stage string

// The stages. A packet to the gateway itself sees anti-spoof, vpc and host-access; a forwarded one all the others.
const (
	StageAntiSpoof   Stage = "anti-spoof"
	StageVPC         Stage = "vpc"
	StageHostAccess  Stage = "host-access"
	StageNACLEgress  Stage = "nacl-egress"
	StageNACLIngress Stage = "nacl-ingress"
	StageConntrack   Stage = "conntrack"
	StageSGEgress    Stage = "sg-egress"
	StageSGIngress   Stage = "sg-ingress"
)

// StageVerdict is what one stage says.
type StageVerdict string

// Pass means that the stage has nothing against the packet or does not apply.
const (
	StagePass   StageVerdict = "pass"
	StageAccept StageVerdict = "accept"
	StageDrop   StageVerdict = "drop"
)

// Reason is a published code that says why a stage decided as it did. Logs, counters, explain and the documentation
// use the same list.
type Reason string

// Every reason there is.
const (
	// anti-spoof
	ReasonSpoofOK          Reason = "spoof.ok"          // address and MAC belong together on this vSwitch, or the packet comes from outside
	ReasonSpoofAddress     Reason = "spoof.address"     // source address and MAC do not belong together on this vSwitch
	ReasonSpoofOutside     Reason = "spoof.outside"     // a source inside a VPC enters by a link that is not a vSwitch
	ReasonSpoofLinkLocal   Reason = "spoof.link-local"  // link-local source to anything but link-local, multicast or this link's gateway
	ReasonSpoofUnspecified Reason = "spoof.unspecified" // unspecified source that is neither DHCP nor neighbour discovery
	ReasonRogueRA          Reason = "spoof.rogue-ra"    // a router advertisement from an instance
	ReasonRogueDHCP        Reason = "spoof.rogue-dhcp"  // a DHCP server's answer from an instance
	ReasonSpoofSource      Reason = "spoof.source"      // a multicast, loopback or broadcast source
	ReasonSpoofFrame       Reason = "spoof.frame"       // a packet for one station in a frame for many (RFC 1122 section 3.3.6)
	// vpc
	ReasonVPCSame        Reason = "vpc.same"        // both ends in one VPC
	ReasonVPCUplink      Reason = "vpc.uplink"      // between a VPC and an uplink
	ReasonVPCIsolated    Reason = "vpc.isolated"    // another VPC
	ReasonVPCHost        Reason = "vpc.host"        // to a gateway address of the own VPC
	ReasonLinkForeign    Reason = "link.foreign"    // a link that is neither vSwitch nor uplink
	ReasonLinkBridged    Reason = "link.bridged"    // bridged past the gateway by a port that nobody isolated
	ReasonNoRoute        Reason = "vpc.no-route"    // nowhere to go: no uplink
	ReasonUnknownAddress Reason = "unknown.address" // an address of a VPC that no interface has
	ReasonNotOurs        Reason = "vpc.not-ours"    // neither end is ours: left alone
	// host-access
	ReasonHostService Reason = "host.service" // DHCP, DNS, echo, neighbour discovery
	ReasonHostAccess  Reason = "host.access"  // admitted by hostAccess
	ReasonHostReply   Reason = "host.reply"   // part of an admitted flow
	ReasonHostClosed  Reason = "host.closed"  // nothing admits it
	ReasonHostOutside Reason = "host.outside" // from outside to a gateway address
	ReasonHostForeign Reason = "host.foreign" // a gateway address of another VPC, or another address of the host
	// network ACLs
	ReasonNACLNone    Reason = "nacl.none"    // the vSwitch has no ACL
	ReasonNACLSame    Reason = "nacl.same"    // both ends in the same vSwitch
	ReasonNACLOutside Reason = "nacl.outside" // that end is not in a vSwitch
	ReasonNACLSystem  Reason = "nacl.system"  // a path-MTU error of an admitted flow
	ReasonNACLEntry   Reason = "nacl.entry"   // an entry matched
	ReasonNACLDefault Reason = "nacl.default" // no entry matched: dropped
	// connection tracking
	ReasonConnNew         Reason = "conntrack.new"
	ReasonConnEstablished Reason = "conntrack.established"
	ReasonConnRelated     Reason = "conntrack.related"
	ReasonConnInvalid     Reason = "conntrack.invalid"
	ReasonConnNotSYN      Reason = "conntrack.not-syn" // a TCP packet of no known flow that does not open one
	// security groups
	ReasonSGOutside                Reason = "sg.outside"                  // that end is not an interface of ours
	ReasonSGInner                  Reason = "sg.inner"                    // both are members of a basic group with inner access accept
	ReasonSGRule                   Reason = "sg.rule"                     // a rule matched
	ReasonSGDefaultBasicEgress     Reason = "sg.default.basic.egress"     // basic: accepted
	ReasonSGDefaultBasicIngress    Reason = "sg.default.basic.ingress"    // basic: dropped
	ReasonSGDefaultAdvancedEgress  Reason = "sg.default.advanced.egress"  // advanced: dropped
	ReasonSGDefaultAdvancedIngress Reason = "sg.default.advanced.ingress" // advanced: dropped
)

// StageResult is one stage's verdict with what decided it.
type StageResult struct {
	Stage   Stage        `json:"stage"`
	Verdict StageVerdict `json:"verdict"`
	Rule    string       `json:"rule,omitempty"` // ID of the deciding rule or entry
	Reason  Reason       `json:"reason"`
	Detail  string       `json:"detail,omitempty"`
}

// Verdict is the answer for one packet: every stage in order, the later ones too when an earlier one drops.
type Verdict struct {
	Allowed bool
	Stages  []StageResult
}

// Deciding returns the first stage that drops, and false when the packet passes.
func (v Verdict) Deciding() (StageResult, bool) {
	for _, s := range v.Stages {
		if s.Verdict == StageDrop {
			return s, true
		}
	}
	return StageResult{}, false
}
