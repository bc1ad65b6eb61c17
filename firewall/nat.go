package firewall

import "gatehouse/vpc"

// nat adds masquerading for VPCs with a NAT gateway: IPv4 that leaves every VPC by an uplink.
func (b *builder) nat() {
	if b.f != vpc.IPv4 || len(b.natRanges()) == 0 {
		return
	}
	var rules []Rule
	for _, u := range b.s.Host.Uplinks {
		m := inSet(setName(b.f, setNAT), "src")
		m.Out = u
		m.Sets = append(m.Sets, notInSet(setName(b.f, setVPCs), "dst").Sets...)
		rules = append(rules, Rule{Match: m, Target: Target{Kind: Masquerade}})
	}
	if len(rules) == 0 {
		return
	}
	b.chain("nat", chainNAT, rules...)
	b.hook("nat", "POSTROUTING", chainNAT)
}

// clamp makes TCP connections between a VPC and the outside begin with segments that fit the way in both directions. The MTU of
// an uplink may be smaller than that of the vSwitches, as with PPPoE, and path-MTU discovery fails wherever somebody
// drops the errors that it lives on.
func (b *builder) clamp() {
	if !b.feat.ClampMSS || len(b.s.Host.Uplinks) == 0 || len(b.switches) == 0 {
		return
	}
	between := func(from, to SetMatch) Rule {
		return Rule{
			Match:  Match{Protocol: vpc.ProtocolTCP, SYN: EitherSYN, Sets: []SetMatch{from, to}},
			Target: Target{Kind: ClampMSS},
		}
	}
	vpcs := setName(b.f, setVPCs)
	b.chain("mangle", chainMSS,
		between(SetMatch{Set: vpcs, Dir: "src"}, SetMatch{Set: vpcs, Dir: "dst", Not: true}),
		between(SetMatch{Set: vpcs, Dir: "src", Not: true}, SetMatch{Set: vpcs, Dir: "dst"}))
	b.hook("mangle", "POSTROUTING", chainMSS)
}

// natRanges are the ranges of the VPCs with a NAT gateway, as members of a set.
func (b *builder) natRanges() []string {
	var out []string
	for _, v := range b.s.VPCs {
		if v.NATGateway {
			out = append(out, netMembers(b.ranges(v))...)
		}
	}
	return out
}
