package firewall

import (
	"fmt"
	"net/netip"
	"slices"

	"gatehouse/vpc"
)

// nat adds what changes addresses between a VPC and an uplink: masquerading in IPv4, prefix translation in IPv6.
func (b *builder) nat() {
	if b.f == vpc.IPv4 {
		b.masquerade()
	} else {
		b.translate()
	}
}

// masquerade adds what VPCs with a NAT gateway need: IPv4 that leaves every VPC by an uplink has the uplink's address.
func (b *builder) masquerade() {
	if len(b.natRanges()) == 0 {
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

// translate adds the prefix translations of VPCs, in both directions.
//
// The kernel's SNPT and DNPT, which carry out RFC 6296 to the letter, are of no use here. They change addresses behind connection
// tracking's back: no reply is part of a flow that it knows, and the groups would have to admit it. And they change the host part of
// addresses too, which keeps the checksums of what is inside as they are.
//
// What a guest sends to an external prefix goes to the provider, who sends it back, and is then from outside like anything else. To
// turn it round here (RFC 6296 section 4.1 calls it hairpinning) the destination would have to change where it enters, and bridge
// netfilter bridges such a packet to its new destination past the gateway.
func (b *builder) translate() {
	var out, in []Rule
	for _, t := range b.translations() {
		if !b.feat.Netmap {
			b.fail(fmt.Errorf("VPC %s: ipv6PrefixTranslations cannot be carried out: this kernel has no IPv6 target NETMAP (CONFIG_NETFILTER_XT_TARGET_NETMAP, CONFIG_IP6_NF_NAT)", t.VPC.Name))
			return
		}
		out = append(out, Rule{Match: Match{Out: t.Uplink, Src: t.Internal}, Target: Target{Kind: Netmap, To: t.External}})
		in = append(in, Rule{Match: Match{In: t.Uplink, Dst: t.External}, Target: Target{Kind: Netmap, To: t.Internal}})
	}
	if len(out) == 0 {
		return
	}
	b.chain("nat", chainNAT, out...)
	b.hook("nat", "POSTROUTING", chainNAT)
	b.chain("nat", chainMapped, in...)
	b.hook("nat", "PREROUTING", chainMapped)
}

// untranslated refuses what comes by an uplink for an external prefix and has not been translated: connection tracking could make
// nothing of it, or it came by another uplink. It would leave by an uplink, and come again (RFC 7084 WPD-5).
func (b *builder) untranslated() []Rule {
	var rules []Rule
	for _, p := range b.externals() {
		for _, u := range b.s.Host.Uplinks {
			rules = append(rules, refuse(Match{In: u, Dst: p}, vpc.ReasonNoRoute))
		}
	}
	return rules
}

// externals are the prefixes that VPCs are known by, each once.
func (b *builder) externals() []netip.Prefix {
	var out []netip.Prefix
	for _, t := range b.translations() {
		if !slices.Contains(out, t.External) {
			out = append(out, t.External)
		}
	}
	return out
}

// translations are the prefix translations of all VPCs.
func (b *builder) translations() []vpc.PrefixTranslation {
	var out []vpc.PrefixTranslation
	if b.f == vpc.IPv6 {
		for _, v := range b.s.VPCs {
			out = append(out, b.s.Translations(v)...)
		}
	}
	return out
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
