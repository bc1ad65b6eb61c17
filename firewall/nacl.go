package firewall

import (
	"slices"

	"gatehouse/vpc"
)

// filtered reports whether a vSwitch of the VPC has an ACL.
func (b *builder) filtered(v *vpc.VPC) bool {
	return slices.ContainsFunc(b.ranged, func(w *vpc.VSwitch) bool { return w.VPC == v && w.ACL != nil })
}

// acls adds the network ACLs: they see every packet that leaves or enters a vSwitch that has one, also those of
// established flows, and none that stays inside one vSwitch. vSwitches with the same ACL share its chains.
func (b *builder) acls() {
	used := map[*vpc.NetworkACL]bool{}
	for v, own := range b.byVPC() {
		if !b.filtered(v) {
			continue
		}
		root := chainToACL + key(v.ID)
		keys := make([]rangeKey, len(own))
		for i, w := range own {
			keys[i] = rangeKey{w.Prefix(b.f), Rule{}} // no ACL
			if w.ACL == nil {
				continue
			}
			keys[i].rule = goTo(aclChain(chainACLIn, w.ACL))
			if !used[w.ACL] {
				used[w.ACL] = true
				b.chain("mangle", aclChain(chainACLOut, w.ACL), b.aclRules(w.ACL, vpc.Egress)...)
				b.chain("mangle", aclChain(chainACLIn, w.ACL), b.aclRules(w.ACL, vpc.Ingress)...)
			}
		}
		b.chain("mangle", root, b.newRangeTree("mangle", root, "dst").rules(keys)...)
	}
}

func aclChain(stage string, a *vpc.NetworkACL) string { return stage + key(a.ID) }

// aclRules are the rules of one direction: the system's entry, then the entries in order, then nothing.
func (b *builder) aclRules(a *vpc.NetworkACL, dir vpc.Direction) []Rule {
	rules := []Rule{{Match: tooBig(b.f), Reason: vpc.ReasonNACLSystem}}
	entries := a.Egress
	if dir == vpc.Ingress {
		entries = a.Ingress
	}
	for _, e := range entries {
		end := endpoint{peer: e.Peer, list: e.List, fromPeer: dir == vpc.Ingress}
		for _, m := range end.matches(b.f, e.Protocol, nil, e.Ports) {
			rules = b.feat.appendPolicy(rules, m, e.Policy, vpc.ReasonNACLEntry, e.ID)
			if id := end.setID(); id != "" {
				b.needSet(id)
			}
		}
	}
	return append(rules, refuse(Match{}, vpc.ReasonNACLDefault))
}
