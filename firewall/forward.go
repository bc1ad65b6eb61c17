package firewall

import (
	"net/netip"

	"gatehouse/vpc"
)

// forward adds mangle FORWARD: what comes from a vSwitch's range goes its way through the stages vpc and nacl, what does not
// goes another; then connection tracking and the groups judge whatever is ours. What is none of ours is left alone.
//
// Addresses are asked first and links afterwards: to compare an IPv4 address costs the kernel next to nothing, and once it is
// known in which vSwitch's range it lies, there is one link to compare and not all of them. The kernel of nft lets
// chains lead into each other sixteen deep, so every stage is entered near the top.
func (b *builder) forward() {
	if len(b.ranged) == 0 {
		b.chain("mangle", chainForward, jump(chainOthers))
	} else {
		none, other := b.marks.none(), b.marks.other()
		b.chain("mangle", chainForward,
			// An address that the set of profiles has lost leaves the mark as it is.
			Rule{Match: Match{Mark: &none, NotMark: true}, Target: Target{Kind: SetMark, Mark: none}},
			jump(chainSwitches),
			Rule{Match: Match{Mark: &other}, Target: Target{Kind: Jump, Chain: chainOthers}},
			Rule{Match: Match{Mark: &other}, Target: Target{Kind: Goto, Chain: chainLeft}},
			// One way leads on, not two: at every change the kernel of nft walks through all that is behind each.
			goTo(chainState))
		b.chain("mangle", chainLeft, Rule{Target: Target{Kind: SetMark, Mark: none}})
		isOther := Rule{Target: Target{Kind: SetMark, Mark: other}}
		b.chain("mangle", chainSwitches, append(b.switchTree("mangle", chainSwitches, "src", b.ranged, fromChain, isOther), isOther)...)
		b.chain("mangle", chainState, b.state()...)
		b.leaving()
		b.entering()
	}
	b.hook("mangle", "FORWARD", chainForward)

	for v, own := range b.byVPC() {
		root, elsewhere := chainVPC+key(v.ID), goTo(chainElsewhere+key(v.ID))
		b.chain("mangle", root, append(b.switchTree("mangle", root, "dst", own, insideChain, elsewhere), elsewhere)...)
		b.chain("mangle", elsewhere.Target.Chain, b.elsewhere(v)...)
	}
	for _, w := range b.ranged {
		b.chain("mangle", fromChain(w), b.fromSwitch(w)...)
		b.chain("mangle", insideChain(w), Rule{Match: Match{Out: w.LinkName()}, Reason: vpc.ReasonVPCSame}, refuse(Match{}, vpc.ReasonNoRoute))
		b.chain("mangle", toChain(w), b.toSwitch(w)...)
	}
	b.others()
}

func goTo(chain string) Rule { return Rule{Target: Target{Kind: Goto, Chain: chain}} }
func jump(chain string) Rule { return Rule{Target: Target{Kind: Jump, Chain: chain}} }

func fromChain(w *vpc.VSwitch) string   { return chainFrom + key(w.ID) }
func insideChain(w *vpc.VSwitch) string { return chainInside + key(w.ID) }
func toChain(w *vpc.VSwitch) string     { return chainTo + key(w.ID) }

// fromSwitch judges what comes from the vSwitch's range. That it comes by another link raw PREROUTING has refused before.
func (b *builder) fromSwitch(w *vpc.VSwitch) []Rule {
	filtered := b.filtered(w.VPC)
	rules := []Rule{refuse(Match{In: w.LinkName(), NotIn: true}, vpc.ReasonLinkForeign), jump(chainVPC + key(w.VPC.ID))}
	stays := Match{Out: w.LinkName()} // inside the vSwitch, where no ACL applies
	switch {
	case b.feat.Physdev:
		rules = append(rules, Rule{Match: stays, Target: Target{Kind: Goto, Chain: chainStays}})
	case filtered:
		rules = append(rules, Rule{Match: stays})
	}
	if w.ACL != nil {
		rules = append(rules, jump(aclChain(chainACLOut, w.ACL)))
	}
	if filtered {
		rules = append(rules, jump(chainToACL+key(w.VPC.ID)))
	}
	return rules
}

// elsewhere says where a packet from the VPC may go that is for none of its vSwitches with a link here.
func (b *builder) elsewhere(v *vpc.VPC) []Rule {
	var rules []Rule
	for _, p := range b.ranges(v) {
		rules = append(rules, refuse(Match{Dst: p}, vpc.ReasonNoRoute))
	}
	return append(rules, goTo(chainLeaving))
}

// leaving adds what a packet meets that leaves its VPC: it goes to no other VPC, and by an uplink only.
func (b *builder) leaving() {
	isolated, out := refuse(Match{}, vpc.ReasonVPCIsolated), goTo(chainUplinks)
	b.chain("mangle", chainLeaving, append(b.vpcTree("mangle", chainLeaving, "dst", b.s.VPCs, isolated, out), out)...)

	var rules []Rule
	for _, u := range b.s.Host.Uplinks {
		rules = append(rules, Rule{Match: Match{Out: u}, Reason: vpc.ReasonVPCUplink})
	}
	b.chain("mangle", chainUplinks, append(rules, refuse(Match{}, vpc.ReasonLinkForeign))...)

	if b.feat.Physdev { // what is bridged and not routed has gone round the isolation of the ports
		b.chain("mangle", chainStays, refuse(Match{PhysdevIsBridged: true}, vpc.ReasonLinkBridged))
	}
}

// toSwitch judges what goes to the vSwitch's range and does not come from one.
func (b *builder) toSwitch(w *vpc.VSwitch) []Rule {
	rules := []Rule{
		{Match: Match{Out: w.LinkName(), NotOut: true}, Target: Target{Kind: Goto, Chain: chainAstray}},
		jump(chainEntering),
	}
	if w.ACL != nil {
		rules = append(rules, jump(aclChain(chainACLIn, w.ACL)))
	}
	return append(rules, Rule{Target: Target{Kind: SetMark, Mark: b.marks.none()}}) // it is ours
}

// entering adds what a packet meets that enters a VPC: by an uplink only.
func (b *builder) entering() {
	rules := []Rule{jump(chainSource)}
	for _, u := range b.s.Host.Uplinks {
		rules = append(rules, Rule{Match: Match{In: u}, Reason: vpc.ReasonVPCUplink})
	}
	b.chain("mangle", chainEntering, append(rules, refuse(Match{}, vpc.ReasonLinkForeign))...)

	// The kernel refuses most of these itself, but not all of them and not on every link.
	never := map[vpc.Reason][]netip.Prefix{
		vpc.ReasonSpoofUnspecified: {unspecific4},
		vpc.ReasonSpoofSource:      {loopback4, multicast4, broadcast4},
	}
	if b.f == vpc.IPv6 {
		never = map[vpc.Reason][]netip.Prefix{
			vpc.ReasonSpoofUnspecified: {unspecific6},
			vpc.ReasonSpoofLinkLocal:   {linkLocal6},
			vpc.ReasonSpoofSource:      {loopback6, multicast6},
		}
	}
	var sources []Rule
	for _, r := range []vpc.Reason{vpc.ReasonSpoofUnspecified, vpc.ReasonSpoofLinkLocal, vpc.ReasonSpoofSource} {
		for _, p := range never[r] {
			sources = append(sources, refuse(Match{Src: p}, r))
		}
	}
	b.chain("mangle", chainSource, sources...)
}

// others adds what happens to packets that do not come from a vSwitch's range: they go to one, or they are none of ours.
func (b *builder) others() {
	neither := goTo(chainNeither)
	b.chain("mangle", chainOthers, append(b.switchTree("mangle", chainOthers, "dst", b.ranged, toChain, neither), neither)...)

	// A vSwitch's link carries nothing but what is from its range or to it. The former raw PREROUTING has refused before.
	var rules []Rule
	if len(b.linkNames) > 0 {
		forged, nobodys := refuse(Match{}, vpc.ReasonSpoofAddress), refuse(Match{}, vpc.ReasonUnknownAddress)
		b.chain("mangle", chainForged, b.linkTree("mangle", chainForged, false, b.linkNames, perLink(forged))...)
		b.chain("mangle", chainNobodys, b.linkTree("mangle", chainNobodys, true, b.linkNames, perLink(nobodys))...)
		rules = append(rules, jump(chainForged), jump(chainNobodys))
	}
	rules = append(rules, b.untranslated()...)
	b.chain("mangle", chainNeither, append(rules,
		Rule{Match: notInSet(setName(b.f, setVPCs), "dst"), Reason: vpc.ReasonNotOurs},
		goTo(chainAstray))...)

	var astray []Rule // into a VPC, but by no vSwitch's link
	for _, u := range b.s.Host.Uplinks {
		astray = append(astray, refuse(Match{In: u}, vpc.ReasonNoRoute))
	}
	b.chain("mangle", chainAstray, append(astray, refuse(Match{}, vpc.ReasonLinkForeign))...)
}

// state says what connection tracking knows of a packet's flow; the first packet of one is the groups' to judge.
func (b *builder) state() []Rule {
	rules := []Rule{{Match: Match{States: established}, Reason: vpc.ReasonConnEstablished}}
	for _, m := range relatedErrors(b.f) {
		rules = append(rules, Rule{Match: m, Reason: vpc.ReasonConnRelated})
	}
	rules = append(rules, refuse(Match{States: invalid}, vpc.ReasonConnInvalid))
	if b.feat.RefuseMidStream {
		rules = append(rules, refuse(Match{Protocol: vpc.ProtocolTCP, SYN: -1, States: unseen}, vpc.ReasonConnNotSYN))
	}
	if !b.feat.MapMark {
		return append(rules, jump(chainEgress), jump(chainIngress))
	}
	// The set has a mark for every address there is, so that each mapping undoes the one before.
	mapTo := func(dir string) Rule {
		return Rule{Target: Target{Kind: MapMark, Set: setName(b.f, setProfiles), Dir: dir}}
	}
	clear := Rule{Target: Target{Kind: SetMark, Mark: b.marks.none()}}
	return append(rules, mapTo("src"), jump(chainEgress), mapTo("dst"), jump(chainIngress), clear)
}

// byVPC returns the vSwitches that have a range and a link here.
func (b *builder) byVPC() map[*vpc.VPC][]*vpc.VSwitch {
	out := map[*vpc.VPC][]*vpc.VSwitch{}
	for _, w := range b.ranged {
		out[w.VPC] = append(out[w.VPC], w)
	}
	return out
}

// ranges returns a VPC's ranges of the builder's family.
func (b *builder) ranges(v *vpc.VPC) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range v.Prefixes() {
		if vpc.FamilyOf(p.Addr()) == b.f {
			out = append(out, p)
		}
	}
	return out
}
