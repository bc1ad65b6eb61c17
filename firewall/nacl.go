package firewall

import (
	"slices"

	"gatehouse/vpc"
)

func (b *builder) hasACL() bool {
	return slices.ContainsFunc(b.switches, func(w *vpc.VSwitch) bool { return w.ACL != nil })
}

// acls adds the network ACLs: they see every packet that leaves or enters a vSwitch that has one, also those of
// established flows, and none that stays inside one vSwitch. vSwitches with the same ACL share its chains.
func (b *builder) acls() {
	if !b.hasACL() {
		return
	}
	b.chain("mangle", chainACL,
		Rule{Target: Target{Kind: Jump, Chain: chainACLOut}},
		Rule{Target: Target{Kind: Jump, Chain: chainACLIn}})
	var names []string
	used := map[*vpc.NetworkACL]bool{}
	for _, w := range b.switches {
		if w.ACL == nil {
			continue
		}
		names = append(names, w.LinkName())
		if !used[w.ACL] {
			used[w.ACL] = true
			b.chain("mangle", aclChain(chainACLOut, w.ACL), b.aclRules(w.ACL, vpc.Egress)...)
			b.chain("mangle", aclChain(chainACLIn, w.ACL), b.aclRules(w.ACL, vpc.Ingress)...)
		}
	}
	b.chain("mangle", chainACLOut, b.linkTree("mangle", chainACLOut, false, names, func(name string) []Rule {
		return []Rule{{Match: Match{Out: name, NotOut: true}, Target: Target{Kind: Goto, Chain: aclChain(chainACLOut, b.byLink[name].ACL)}}}
	})...)
	b.chain("mangle", chainACLIn, b.linkTree("mangle", chainACLIn, true, names, func(name string) []Rule {
		return []Rule{{Match: Match{In: name, NotIn: true}, Target: Target{Kind: Goto, Chain: aclChain(chainACLIn, b.byLink[name].ACL)}}}
	})...)
}

func aclChain(stage string, a *vpc.NetworkACL) string { return stage + "-" + key(a.ID) }

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
