package vpc

import (
	"fmt"
	"net/netip"
	"slices"
)

// What the policy needs to know of the protocols that it admits by itself.
const (
	dnsPort = 53

	icmp4Unreachable  = 3
	icmp4NeedFrag     = 4 // code
	icmp4EchoRequest  = 8
	icmp4TimeExceeded = 11
	icmp4ParamProblem = 12

	icmp6Unreachable   = 1
	icmp6TooBig        = 2
	icmp6TimeExceeded  = 3
	icmp6ParamProblem  = 4
	icmp6EchoRequest   = 128
	icmp6Report        = 131 // MLDv1
	icmp6Done          = 132
	icmp6RouterSolicit = 133
	icmp6RouterAdvert  = 134
	icmp6NeighSolicit  = 135
	icmp6NeighAdvert   = 136
	icmp6ReportV2      = 143 // MLDv2
)

// icmp6Neighbourhood is what an IPv6 guest must be able to tell its router (RFC 4861, RFC 2710, RFC 3810).
var icmp6Neighbourhood = []uint8{icmp6Report, icmp6Done, icmp6RouterSolicit, icmp6NeighSolicit, icmp6NeighAdvert, icmp6ReportV2}

// The errors of RFC 792 and RFC 4443.
var (
	icmp4Errors = []uint8{icmp4Unreachable, icmp4TimeExceeded, icmp4ParamProblem}
	icmp6Errors = []uint8{icmp6Unreachable, icmp6TooBig, icmp6TimeExceeded, icmp6ParamProblem}
)

// LimitedBroadcast is where an IPv4 guest without an address sends.
var LimitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func (p Packet) family() Family { return FamilyOf(p.Dst) }

// ends returns the packet's address at an interface that judges it in the given direction, and the other one.
func (p Packet) ends(dir Direction) (own, peer netip.Addr) {
	if dir == Egress {
		return p.Src, p.Dst
	}
	return p.Dst, p.Src
}

// is reports whether the packet is of the protocol that a rule names. ICMP exists only in IPv4 and ICMPv6 only in IPv6,
// also when they are written as numbers; IPv6 has extension headers where IPv4 has the protocols 43, 44, 51 and 60.
func (p Packet) is(proto Protocol) bool {
	switch proto {
	case ProtocolAll:
		return true
	case ProtocolICMP:
		return p.Protocol == proto && p.family() == IPv4
	case ProtocolICMPv6:
		return p.Protocol == proto && p.family() == IPv6
	case 43, 44, 51, 60:
		return p.Protocol == proto && p.family() == IPv4
	}
	return p.Protocol == proto
}

// portIn reports whether one of the packet's ports is among those that a rule names; nil names every port and also
// packets without ports.
func (p Packet) portIn(ports Ports, port uint16) bool {
	return ports == nil || p.Protocol.HasPorts() && ports.Contains(port)
}

// isRelatedError reports whether the packet is an ICMP error about a flow that connection tracking knows.
func (p Packet) isRelatedError() bool {
	return p.State == StateRelated &&
		(p.is(ProtocolICMP) && slices.Contains(icmp4Errors, p.ICMPType) || p.is(ProtocolICMPv6) && slices.Contains(icmp6Errors, p.ICMPType))
}

// isTooBig reports whether the packet is what path-MTU discovery lives on (RFC 1191, RFC 8201).
func (p Packet) isTooBig() bool {
	return p.is(ProtocolICMP) && p.ICMPType == icmp4Unreachable && p.ICMPCode == icmp4NeedFrag ||
		p.is(ProtocolICMPv6) && p.ICMPType == icmp6TooBig
}

func (p Packet) isEchoRequest() bool {
	return p.is(ProtocolICMP) && p.ICMPType == icmp4EchoRequest || p.is(ProtocolICMPv6) && p.ICMPType == icmp6EchoRequest
}

// isBootstrap reports whether the packet is one that a guest sends before it has an address: a DHCP request, or router
// solicitation, duplicate address detection or a multicast report (RFC 4861, RFC 4862, RFC 3590).
func (p Packet) isBootstrap() bool {
	if p.family() == IPv4 {
		return p.Protocol == ProtocolUDP && p.SrcPort == 68 && p.DstPort == 67
	}
	return p.Dst.IsLinkLocalMulticast() && p.is(ProtocolICMPv6) &&
		slices.Contains([]uint8{icmp6RouterSolicit, icmp6NeighSolicit, icmp6ReportV2}, p.ICMPType)
}

// unroutable says why a source address is never forwarded; "" when it may be.
func unroutable(a netip.Addr) Reason {
	switch {
	case a.IsUnspecified():
		return ReasonSpoofUnspecified
	case isLinkLocal(a):
		return ReasonSpoofLinkLocal
	case a.IsMulticast() || a.IsLoopback() || a == LimitedBroadcast:
		return ReasonSpoofSource
	}
	return ""
}

// isLinkLocal reports whether the address is in fe80::/10; IPv4 link-local addresses are nothing special to a gateway.
func isLinkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

func dhcpServerPort(f Family) uint16 {
	if f == IPv4 {
		return 67
	}
	return 547
}

// service names what the packet asks for: tcp/443, icmp, gre.
func (p Packet) service() string {
	if p.Protocol.HasPorts() {
		return fmt.Sprintf("%s/%d", p.Protocol, p.DstPort)
	}
	return p.Protocol.String()
}

// service names what a rule is about: tcp/443, udp/5000-5010,6000, icmp, all.
func service(proto Protocol, ports Ports) string {
	if ports == nil {
		return proto.String()
	}
	return fmt.Sprintf("%s/%s", proto, ports)
}

// phrase says what the rule does: "accepts tcp/5432 from sg:app", "drops all to 10.0.0.0/8 at 10.1.0.5".
func (r *RuleSpec) phrase() string {
	verb, way, end := verbOf(r.Policy), "from", "to"
	if r.Direction == Egress {
		way, end = "to", "from"
	}
	text := fmt.Sprintf("%s %s %s %s", verb, service(r.Protocol, r.Ports), way, r.Peer().short())
	if r.SourcePorts != nil {
		text += fmt.Sprintf(" source ports %s", r.SourcePorts)
	}
	if !r.OtherEnd().IsZero() {
		text += fmt.Sprintf(" %s %s", end, r.OtherEnd().short())
	}
	return text
}

// phrase says what the entry does: "accepts tcp/443 from 0.0.0.0/0".
func (e *Entry) phrase(dir Direction) string {
	way := "from"
	if dir == Egress {
		way = "to"
	}
	return fmt.Sprintf("%s %s %s %s", verbOf(e.Policy), service(e.Protocol, e.Ports), way, e.Peer.short())
}

// short is the peer as people write it: a single address without its length.
func (p Peer) short() string {
	if p.Kind == PeerPrefix && p.Prefix.IsSingleIP() {
		return p.Prefix.Addr().String()
	}
	return p.String()
}

func verbOf(p Policy) string {
	if p == Drop {
		return "drops"
	}
	return "accepts"
}
