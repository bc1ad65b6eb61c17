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
