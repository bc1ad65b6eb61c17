package firewall

import (
	"net/netip"
	"strings"

	"gatehouse/vpc"
)

// A rule of ours is known by the hash in its comment. To the kernel a comment is a match like any other, which it asks of
// every packet that the rule's other matches let through: on its way through the chains that only find the right policy, a
// packet would spend a third of its time on comments. So the rules of those chains have none, and are known by their text.
// That needs iptables to print them exactly as they were written: only a few forms qualify, and the driver tries them all
// (BareForms).

// bare marks the rules that need no comment.
func (f Features) bare(rules []Rule) {
	for i := range rules {
		rules[i].Bare = f.Bare && rules[i].hasBareForm()
	}
}

// hasBareForm reports whether iptables prints the rule as Spec writes it.
func (r *Rule) hasBareForm() bool {
	m := &r.Match
	links, prefixes := m.In != "" || m.Out != "", m.Src.IsValid() || m.Dst.IsValid()
	switch {
	case r.ID != "": // the comment holds it
		return false
	case r.Target.Kind == NFLog || r.Target.Kind == Masquerade || r.Target.Kind == Netmap:
		return false
	case links && prefixes: // they are printed in another order
		return false
	case m.Protocol != vpc.ProtocolAll || m.ICMPType != 0 || m.SYN != 0 || m.PhysdevIsBridged || m.GroupFrame || !m.SrcMAC.IsZero():
		return false
	case len(m.States) > 1: // in another order, too
		return false
	case m.Mark != nil && m.Mark.Mask == 0xffffffff: // a full mask is left out
		return false
	}
	return plainName(m.In) && plainName(m.Out) && plainPrefix(m.Src) && plainPrefix(m.Dst)
}

func plainName(link string) bool { return strings.IndexFunc(link, needsQuotes) < 0 }

// plainPrefix reports whether there is only one way to print the prefix: not so for IPv6 addresses that may end in an IPv4
// address.
func plainPrefix(p netip.Prefix) bool {
	return !p.IsValid() || p.Addr().Is4() || p.Addr().As16()[0] != 0
}

// known is what a bare rule is known by, given its text without "-A CHAIN".
func known(chain, spec string) string { return chain + " " + spec }

// BareForms returns a chain with a rule of every form that may go without a comment, which asks the set, with skbinfo. If it
// reads back as it was written, the host has the feature Bare.
func BareForms(f vpc.Family, chain, set string) Chain {
	src, dst := netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.0.2.1/32")
	if f == vpc.IPv6 {
		src, dst = netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2001:db8::1/128")
	}
	mark := Mark{0x10000, 0x30000}
	rules := []Rule{
		{},
		{Match: Match{In: "gh-probe"}},
		{Match: Match{In: "gh+", Out: "gh-probe", NotOut: true}},
		{Match: Match{In: "gh-probe", NotIn: true, Out: "gh.1_2@3:+"}},
		{Match: Match{Src: src, NotDst: true, Dst: dst}},
		{Match: Match{Src: dst, NotSrc: true, Dst: src}},
		{Match: Match{In: "gh-probe", Mark: &mark}},
		{Match: Match{Mark: &mark, Dst: src, Sets: []SetMatch{{Set: set, Dir: "dst", Not: true}}}},
		{Match: Match{Mark: &Mark{0, 0xffff0000}}},
		{Match: Match{Mark: &Mark{0, 0xffff0000}, NotMark: true}},
		{Match: Match{States: []vpc.ConnState{vpc.StateEstablished}}},
		{Match: Match{States: []vpc.ConnState{vpc.StateInvalid}}},
		{Match: Match{Sets: []SetMatch{{Set: set, Dir: "src"}}}},
		{Target: Target{Kind: SetMark, Mark: mark}},
		{Target: Target{Kind: SetMark, Mark: Mark{0, 0xffff0000}}},
		{Target: Target{Kind: MapMark, Set: set, Dir: "dst"}},
		{Target: Target{Kind: Accept}},
		{Target: Target{Kind: Drop}},
	}
	Features{Bare: true}.bare(rules)
	return Chain{Name: chain, Rules: rules}
}
