package firewall

import (
	"net/netip"

	"gatehouse/vpc"
)

// endpoint is the address side of a rule or an ACL entry.
type endpoint struct {
	peer     vpc.Peer
	other    vpc.Peer            // the own end of a five-tuple rule: a prefix, or nothing
	group    string              // ID of the group that peer names
	list     *vpc.PrefixListSpec // that peer names
	fromPeer bool                // the peer is the source
}

// setID returns the ID of what needs a set for the endpoint to be matched.
func (e endpoint) setID() string {
	if e.list != nil {
		return e.list.ID
	}
	return e.group
}

// matches returns the matches that together ask what a rule asks in a family; none when it cannot apply there.
func (e endpoint) matches(f vpc.Family, proto vpc.Protocol, srcPorts, dstPorts vpc.Ports) []Match {
	if !protocolFits(proto, f) || !proto.HasPorts() && (srcPorts != nil || dstPorts != nil) {
		return nil
	}
	m := Match{Protocol: proto}
	own, peer, dir := &m.Dst, &m.Src, "src"
	if !e.fromPeer {
		own, peer, dir = peer, own, "dst"
	}
	switch {
	case e.peer.Kind == vpc.PeerPrefix:
		if vpc.FamilyOf(e.peer.Prefix.Addr()) != f {
			return nil
		}
		*peer = e.peer.Prefix
	case e.list != nil:
		if e.list.Family != f.String() {
			return nil
		}
		m.Sets = []SetMatch{{Set: setName(f, e.list.ID), Dir: dir}}
	case e.group != "":
		m.Sets = []SetMatch{{Set: groupSet(f, e.group), Dir: dir}}
	default:
		return nil // what does not resolve matches nothing
	}
	if e.other.Kind == vpc.PeerPrefix {
		if vpc.FamilyOf(e.other.Prefix.Addr()) != f {
			return nil
		}
		*own = e.other.Prefix
	}
	var out []Match
	for _, src := range splitPorts(srcPorts) {
		for _, dst := range splitPorts(dstPorts) {
			m.SrcPorts, m.DstPorts = src, dst
			out = append(out, m)
		}
	}
	return out
}

// protocolFits reports whether a rule about the protocol can match in a family. IPv6 extension headers are not protocols to
// the kernel: a rule about them would never match.
func protocolFits(p vpc.Protocol, f vpc.Family) bool {
	switch p {
	case vpc.ProtocolICMP:
		return f == vpc.IPv4
	case vpc.ProtocolICMPv6:
		return f == vpc.IPv6
	case 43, 44, 51, 60:
		return f == vpc.IPv4
	}
	return true
}

// multiportSlots is how many ports one multiport match takes; a range takes two.
const multiportSlots = 15

// splitPorts cuts a list of ports into pieces that one rule can ask for. Only matches that are not negated may be split:
// several rules are an "or".
func splitPorts(ports vpc.Ports) []vpc.Ports {
	if len(ports) == 0 {
		return []vpc.Ports{nil}
	}
	var out []vpc.Ports
	start, slots := 0, 0
	for i, r := range ports {
		n := 1
		if r.From != r.To {
			n = 2
		}
		if slots+n > multiportSlots {
			out = append(out, ports[start:i:i])
			start, slots = i, 0
		}
		slots += n
	}
	return append(out, ports[start:])
}

// inSet and notInSet ask whether one of the packet's addresses is in a set.
func inSet(set, dir string) Match    { return Match{Sets: []SetMatch{{Set: set, Dir: dir}}} }
func notInSet(set, dir string) Match { return Match{Sets: []SetMatch{{Set: set, Dir: dir, Not: true}}} }

// The states that rules ask for.
var (
	established = []vpc.ConnState{vpc.StateEstablished}
	related     = []vpc.ConnState{vpc.StateRelated}
	invalid     = []vpc.ConnState{vpc.StateInvalid}
	unseen      = []vpc.ConnState{vpc.StateNew}
)

// Ranges that mean something to the datapath.
var (
	linkLocal6  = netip.MustParsePrefix("fe80::/10")
	multicast4  = netip.MustParsePrefix("224.0.0.0/4")
	multicast6  = netip.MustParsePrefix("ff00::/8")
	linkScope6  = netip.MustParsePrefix("ff02::/16")
	loopback4   = netip.MustParsePrefix("127.0.0.0/8")
	loopback6   = netip.MustParsePrefix("::1/128")
	broadcast4  = netip.MustParsePrefix("255.255.255.255/32")
	unspecific4 = netip.MustParsePrefix("0.0.0.0/32")
	unspecific6 = netip.MustParsePrefix("::/128")
)

// ICMP types, by their numbers in RFC 792, RFC 4443, RFC 4861, RFC 2710 and RFC 3810.
const (
	icmp4Unreachable = 3
	icmp4NeedFrag    = 4 // code of unreachable
	icmp4Redirect    = 5
	icmp4Echo        = 8
	icmp6TooBig      = 2
	icmp6Echo        = 128
	icmp6RouterSol   = 133
	icmp6RouterAdv   = 134
	icmp6NeighSol    = 135
	icmp6ReportV2    = 143
	icmp6Redirect    = 137
)

// icmpProtocol is the family's own ICMP.
func icmpProtocol(f vpc.Family) vpc.Protocol {
	if f == vpc.IPv6 {
		return vpc.ProtocolICMPv6
	}
	return vpc.ProtocolICMP
}

// icmpType matches one type of the family's ICMP.
func icmpType(f vpc.Family, typ int) Match {
	return Match{Protocol: icmpProtocol(f), ICMPType: typ + 1}
}

// relatedErrors match the errors that are part of a flow which connection tracking knows. Redirects are not among them.
func relatedErrors(f vpc.Family) []Match {
	types := []int{icmp4Unreachable, 11, 12}
	if f == vpc.IPv6 {
		types = []int{1, icmp6TooBig, 3, 4}
	}
	out := make([]Match, len(types))
	for i, t := range types {
		out[i] = icmpType(f, t)
		out[i].States = related
	}
	return out
}

// tooBig matches what path-MTU discovery lives on (RFC 1191, RFC 8201), for a known flow.
func tooBig(f vpc.Family) Match {
	m := icmpType(f, icmp6TooBig)
	if f == vpc.IPv4 {
		m = icmpType(f, icmp4Unreachable)
		m.ICMPCode = icmp4NeedFrag + 1
	}
	m.States = related
	return m
}

// hostPrefix is the prefix of a single address.
func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// unspecified is the address of zeros.
func unspecified(f vpc.Family) netip.Addr {
	if f == vpc.IPv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}
