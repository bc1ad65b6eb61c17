package firewall

import (
	"net/netip"
	"slices"

	"gatehouse/vpc"
)

// spoof adds raw PREROUTING: on a vSwitch link the source address, the MAC and the vSwitch belong together; nobody
// sends one of our addresses from anywhere else.
func (b *builder) spoof() {
	other := goTo(chainRawLinks)
	b.chain("raw", chainRaw, append(b.switchTree("raw", chainRaw, "src", b.ranged, spoofChain, other), other)...)
	b.hook("raw", "PREROUTING", chainRaw)

	frame := inSet(setName(b.f, setVPCs), "dst")
	frame.GroupFrame = true
	outside := []Rule{refuse(frame, vpc.ReasonSpoofFrame)}
	for _, p := range b.externals() {
		outside = append(outside, refuse(Match{Dst: p, GroupFrame: true}, vpc.ReasonSpoofFrame))
	}
	outside = append(outside, refuse(inSet(setName(b.f, setVPCs), "src"), vpc.ReasonSpoofOutside))
	rules := []Rule{{Match: Match{In: "lo"}}} // the gateway talking to itself
	rules = append(rules, b.linkTree("raw", chainRawLinks, false, b.linkNames, func(name string) []Rule {
		return []Rule{goTo(strangeChain(b.byLink[name]))}
	}, outside...)...)
	b.chain("raw", chainRawLinks, append(rules, outside...)...)
	for _, w := range b.switches {
		b.chain("raw", strangeChain(w), b.strangeSource(w)...)
		b.chain("raw", frameChain(w), b.groupFrame(w)...)
	}
	if len(b.switches) > 0 {
		b.chain("raw", chainNoSource, b.unspecifiedSource()...)
	}
}

func spoofChain(w *vpc.VSwitch) string   { return "GH-SP-" + key(w.ID) }
func strangeChain(w *vpc.VSwitch) string { return "GH-SS-" + key(w.ID) }
func frameChain(w *vpc.VSwitch) string   { return "GH-SB-" + key(w.ID) }

// spoofSwitch adds the chain of packets whose source is in the vSwitch's range.
func (b *builder) spoofSwitch(w *vpc.VSwitch) {
	if !w.Prefix(b.f).IsValid() {
		return
	}
	rules := append([]Rule{{Match: Match{In: w.LinkName(), NotIn: true}, Target: Target{Kind: Goto, Chain: chainRawLinks}}}, b.anySource(w)...)
	miss := refuse(Match{}, vpc.ReasonSpoofAddress)
	bySet := b.bindBySet(w)
	if bySet {
		rules = append(rules, Rule{Match: inSet(bindSet(b.f, w), "src,src"), Reason: vpc.ReasonSpoofOK})
	}
	var keys []rangeKey // what no set can bind: there is none of networks and MACs
	for _, x := range bindings(w, b.f) {
		if !bySet || !x.of.IsSingleIP() {
			keys = append(keys, rangeKey{x.of, Rule{Match: Match{SrcMAC: x.mac}, Reason: vpc.ReasonSpoofOK}})
		}
	}
	if len(keys) > 0 {
		rules = append(rules, b.newRangeTree("raw", chainBindings, "src", miss).rules(keys)...)
	}
	b.chain("raw", spoofChain(w), append(rules, miss)...)
}

// strangeSource says what may enter by the vSwitch's link from a source that is not in its range.
func (b *builder) strangeSource(w *vpc.VSwitch) []Rule {
	rules := b.anySource(w)
	unspecific, never := unspecific4, []netip.Prefix{loopback4, multicast4, broadcast4}
	if b.f == vpc.IPv6 {
		unspecific, never = unspecific6, []netip.Prefix{loopback6, multicast6}
	}
	rules = append(rules, Rule{Match: Match{Src: unspecific}, Target: Target{Kind: Goto, Chain: chainNoSource}})
	if b.f == vpc.IPv6 {
		chain := "GH-SL-" + key(w.ID)
		b.chain("raw", chain, linkLocalSource(w)...)
		rules = append(rules, Rule{Match: Match{Src: linkLocal6}, Target: Target{Kind: Goto, Chain: chain}})
	}
	for _, p := range never {
		rules = append(rules, refuse(Match{Src: p}, vpc.ReasonSpoofSource))
	}
	return append(rules, refuse(Match{}, vpc.ReasonSpoofAddress))
}

// anySource is what a vSwitch's link never carries, whatever the source: what only the gateway sends, and packets in frames
// for many that are for one.
func (b *builder) anySource(w *vpc.VSwitch) []Rule {
	rules := []Rule{{Match: Match{GroupFrame: true}, Target: Target{Kind: Jump, Chain: frameChain(w)}}}
	if b.f == vpc.IPv6 {
		rules = append(rules, refuse(icmpType(b.f, icmp6RouterAdv), vpc.ReasonRogueRA))
	}
	server := vpc.Ports{{From: dhcpServerPort(b.f), To: dhcpServerPort(b.f)}}
	return append(rules, refuse(Match{Protocol: vpc.ProtocolUDP, SrcPorts: server}, vpc.ReasonRogueDHCP))
}

// groupFrame says what may be in a frame for many stations: only packets for many (RFC 1122 section 3.3.6). Any other
// would be tracked as a flow when bridge netfilter delivers the frame, and thrown away before the policy has seen it; the
// answer to it would then be part of a known flow.
func (b *builder) groupFrame(w *vpc.VSwitch) []Rule {
	to := []netip.Prefix{broadcast4, multicast4}
	if b.f == vpc.IPv6 {
		to = []netip.Prefix{multicast6}
	} else if w.CIDRBlock.IsValid() {
		to = append(to, hostPrefix(vpc.LastAddr(w.CIDRBlock)))
	}
	var rules []Rule
	for _, p := range to {
		rules = append(rules, Rule{Match: Match{Dst: p}})
	}
	return append(rules, refuse(Match{}, vpc.ReasonSpoofFrame))
}

// linkLocalSource says where a link-local source may send: nowhere beyond its link.
func linkLocalSource(w *vpc.VSwitch) []Rule {
	to := []netip.Prefix{linkLocal6, linkScope6}
	if gw := w.GatewayAddr(vpc.IPv6); gw.IsValid() {
		to = append(to, hostPrefix(gw))
	}
	var rules []Rule
	for _, p := range to {
		rules = append(rules, Rule{Match: Match{Dst: p}, Reason: vpc.ReasonSpoofOK})
	}
	return append(rules, refuse(Match{}, vpc.ReasonSpoofLinkLocal))
}

// unspecifiedSource says what a guest may send before it has an address: a DHCP request, router solicitation, duplicate
// address detection and multicast reports (RFC 4861, RFC 4862, RFC 3590).
func (b *builder) unspecifiedSource() []Rule {
	var rules []Rule
	if b.f == vpc.IPv4 {
		dhcp := Match{Protocol: vpc.ProtocolUDP, SrcPorts: vpc.Ports{{From: 68, To: 68}}, DstPorts: vpc.Ports{{From: 67, To: 67}}}
		for _, p := range []netip.Prefix{broadcast4, multicast4} {
			dhcp.Dst = p
			rules = append(rules, Rule{Match: dhcp, Reason: vpc.ReasonSpoofOK})
		}
		dhcp.Dst = netip.Prefix{}
		dhcp.Sets = inSet(setName(b.f, setGateways), "dst").Sets
		rules = append(rules, Rule{Match: dhcp, Reason: vpc.ReasonSpoofOK})
	} else {
		for _, t := range []int{icmp6RouterSol, icmp6NeighSol, icmp6ReportV2} {
			m := icmpType(b.f, t)
			m.Dst = linkScope6
			rules = append(rules, Rule{Match: m, Reason: vpc.ReasonSpoofOK})
		}
	}
	return append(rules, refuse(Match{}, vpc.ReasonSpoofUnspecified))
}

// binding is an address, or a prefix, that belongs to a MAC.
type binding struct {
	of  netip.Prefix
	mac vpc.MAC
}

// bindings returns the bindings of a vSwitch in a family, by address, each once.
func bindings(w *vpc.VSwitch, f vpc.Family) []binding {
	var out []binding
	for _, n := range w.Interfaces {
		for p := range n.Ranges {
			if vpc.FamilyOf(p.Addr()) == f {
				out = append(out, binding{p, n.MAC})
			}
		}
	}
	slices.SortFunc(out, func(x, y binding) int { return x.of.Addr().Compare(y.of.Addr()) })
	return slices.CompactFunc(out, func(x, y binding) bool { return x.of == y.of })
}

// bindBySet reports whether the vSwitch's addresses with their MACs fit a set that the kernel has; else they are a tree of
// rules, as prefixes always are.
func (b *builder) bindBySet(w *vpc.VSwitch) bool {
	if b.f == vpc.IPv6 {
		return b.feat.IPMAC6
	}
	return b.feat.IPMAC4 && w.CIDRBlock.IsValid() && w.CIDRBlock.Bits() >= 16 // a bitmap holds 65,536 addresses
}

func bindSet(f vpc.Family, w *vpc.VSwitch) string { return setName(f, "bind-"+key(w.ID)) }

// dhcpServerPort is the port that a DHCP server of the family listens on and answers from.
func dhcpServerPort(f vpc.Family) uint16 {
	if f == vpc.IPv6 {
		return 547
	}
	return 67
}
