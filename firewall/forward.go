package firewall

import (
	"net/netip"

	"gatehouse/vpc"
)

// forward adds mangle FORWARD: what is none of ours is left alone, then come the stages vpc, nacl, conntrack and the groups.
//
// A stage is a chain that is entered by jump and walked by goto, so that RETURN anywhere in it goes on with the next stage.
func (b *builder) forward() {
	none := b.marks.none()
	clear := Rule{Target: Target{Kind: SetMark, Mark: none}}
	jump := func(chain string) Rule { return Rule{Target: Target{Kind: Jump, Chain: chain}} }

	rules := []Rule{
		clear,
		jump(chainToLink),
		jump(chainVPC),
		{Match: Match{Mark: &none}}, // none of ours
		clear,
	}
	if b.hasACL() {
		rules = append(rules, jump(chainACL))
	}
	rules = append(rules, Rule{Match: Match{States: established}, Reason: vpc.ReasonConnEstablished})
	for _, m := range relatedErrors(b.f) {
		rules = append(rules, Rule{Match: m, Reason: vpc.ReasonConnRelated})
	}
	rules = append(rules, refuse(Match{States: invalid}, vpc.ReasonConnInvalid))
	if b.feat.RefuseMidStream {
		rules = append(rules, refuse(Match{Protocol: vpc.ProtocolTCP, SYN: -1, States: unseen}, vpc.ReasonConnNotSYN))
	}
	if b.feat.MapMark {
		// An address that the set does not have leaves the mark as it is: it must be clear before each mapping.
		mapTo := func(dir string) Rule {
			return Rule{Target: Target{Kind: MapMark, Set: setName(b.f, setProfiles), Dir: dir}}
		}
		rules = append(rules, mapTo("src"), jump(chainEgress), clear, mapTo("dst"), jump(chainIngress), clear)
	} else {
		rules = append(rules, jump(chainEgress), jump(chainIngress))
	}
	b.chain("mangle", chainForward, rules...)
	b.hook("mangle", "FORWARD", chainForward)

	to := b.marks.toVSwitch()
	b.chain("mangle", chainToLink, b.linkTree("mangle", chainToLink, true, b.linkNames,
		perLink(Rule{Target: Target{Kind: SetMark, Mark: to}}))...)

	outside := Rule{Target: Target{Kind: Goto, Chain: "GH-VX"}}
	b.chain("mangle", chainVPC, append(b.linkTree("mangle", chainVPC, false, b.linkNames, func(name string) []Rule {
		return []Rule{{Target: Target{Kind: Goto, Chain: chainFromVPC + key(b.byLink[name].VPC.ID)}}}
	}, outside), outside)...)
	done := map[*vpc.VPC]bool{}
	for _, w := range b.switches {
		if !done[w.VPC] {
			done[w.VPC] = true
			b.chain("mangle", chainFromVPC+key(w.VPC.ID), b.fromVPC(w.VPC)...)
		}
	}
	if len(b.switches) > 0 {
		var up []Rule
		for _, u := range b.s.Host.Uplinks {
			up = append(up, Rule{Match: Match{Out: u}, Reason: vpc.ReasonVPCUplink})
		}
		b.chain("mangle", "GH-UO", append(up, refuse(Match{}, vpc.ReasonLinkForeign))...)
	}
	b.fromOutside()
}

// fromVPC says where a packet may go that entered by a link of one of the VPC's vSwitches.
func (b *builder) fromVPC(v *vpc.VPC) []Rule {
	from, to := b.marks.fromVSwitch(), b.marks.toVSwitch()
	rules := []Rule{{Target: Target{Kind: SetMark, Mark: from}}}
	if b.feat.Physdev {
		rules = append(rules, refuse(Match{Mark: &to, PhysdevIsBridged: true}, vpc.ReasonLinkBridged))
	}
	own := b.ranges(v)
	for _, p := range own {
		rules = append(rules, Rule{Match: Match{Mark: &to, Dst: p}, Reason: vpc.ReasonVPCSame})
	}
	for _, p := range own {
		rules = append(rules, refuse(Match{Dst: p}, vpc.ReasonNoRoute)) // in no vSwitch that has a link here
	}
	return append(rules,
		refuse(inSet(setName(b.f, setVPCs), "dst"), vpc.ReasonVPCIsolated),
		refuse(Match{Mark: &to}, vpc.ReasonUnknownAddress),
		Rule{Target: Target{Kind: Goto, Chain: "GH-UO"}})
}

// fromOutside adds what a packet meets that did not enter by a vSwitch link.
func (b *builder) fromOutside() {
	none, to := b.marks.none(), b.marks.toVSwitch()
	others := notInSet(setName(b.f, setVPCs), "dst")
	leftAlone := others
	leftAlone.Mark = &none
	rules := []Rule{
		{Match: leftAlone, Reason: vpc.ReasonNotOurs},
		{Match: Match{Mark: &to}, Target: Target{Kind: Jump, Chain: chainSource}},
	}
	for _, u := range b.s.Host.Uplinks {
		rules = append(rules, Rule{Match: Match{In: u}, Target: Target{Kind: Goto, Chain: "GH-VU"}})
	}
	b.chain("mangle", "GH-VX", append(rules, refuse(Match{}, vpc.ReasonLinkForeign))...)
	if len(b.s.Host.Uplinks) > 0 {
		b.chain("mangle", "GH-VU",
			refuse(others, vpc.ReasonUnknownAddress),
			Rule{Match: Match{Mark: &to}, Reason: vpc.ReasonVPCUplink},
			refuse(Match{}, vpc.ReasonNoRoute))
	}

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
