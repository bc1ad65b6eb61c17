package reconcile

import (
	"slices"

	"gatehouse/vpc"
)

// What follows tells changes after which less may be allowed than before from those after which nothing is refused that was
// allowed. The flows of a large network are many, and most changes only add to what may pass: an instance comes, a rule
// accepts something more.
//
// Rules are asked in order and the first one decides, drop before accept among equals. So one more rule that accepts, or
// one less that drops, refuses nothing that was allowed; anything else may. A group that members join or leave is named
// by the rules of others too: there the same holds when none of them drops.

// tightensByComing reports whether an interface that was not there may take something away from others. It had no flows itself: what
// nobody owns is refused.
func tightensByComing(n *vpc.Interface, d droppedPeers) bool {
	return slices.ContainsFunc(n.Groups, d.has)
}

// tightensInterface reports whether less may be allowed to an interface or, because of its memberships, to others.
func tightensInterface(old, new *vpc.Interface, d droppedPeers) bool {
	if old.VSwitch.ID != new.VSwitch.ID || !old.SameBindings(new) || old.Type() != new.Type() {
		return true
	}
	has := func(list []*vpc.SecurityGroup, g *vpc.SecurityGroup) bool {
		return slices.ContainsFunc(list, func(x *vpc.SecurityGroup) bool { return x.ID == g.ID })
	}
	for _, g := range old.Groups {
		if !has(new.Groups, g) {
			return true
		}
	}
	for _, g := range new.Groups {
		if !has(old.Groups, g) && (slices.ContainsFunc(g.Rules, drops) || d.has(g)) {
			return true
		}
	}
	return false
}

// tightensGroup reports whether a group may allow its members less than before.
func tightensGroup(old, new *vpc.SecurityGroup) bool {
	if old.Type != new.Type || old.InnerAccess != new.InnerAccess && new.InnerAccess == vpc.Drop {
		return true
	}
	left := slices.Clone(old.Rules)
	for _, r := range new.Rules {
		i := slices.IndexFunc(left, func(o *vpc.Rule) bool { return sameRule(o, r) })
		switch {
		case i >= 0:
			left = slices.Delete(left, i, i+1)
		case drops(r):
			return true
		}
	}
	return slices.ContainsFunc(left, func(r *vpc.Rule) bool { return !drops(r) })
}

// sameRule reports whether two rules decide the same about the same packets, at the same place in the order.
func sameRule(a, b *vpc.Rule) bool {
	if (a.PeerGroup == nil) != (b.PeerGroup == nil) || a.PeerGroup != nil && a.PeerGroup.ID != b.PeerGroup.ID {
		return false
	}
	if (a.PeerList == nil) != (b.PeerList == nil) || a.PeerList != nil && !slices.Equal(a.PeerList.Entries, b.PeerList.Entries) {
		return false
	}
	return a.RuleSpec == b.RuleSpec ||
		a.ID == b.ID && a.Direction == b.Direction && a.Policy == b.Policy && a.Protocol == b.Protocol && a.Priority == b.Priority &&
			slices.Equal(a.Ports, b.Ports) && slices.Equal(a.SourcePorts, b.SourcePorts) && a.Source == b.Source && a.Destination == b.Destination
}

func drops(r *vpc.Rule) bool { return r.Policy != vpc.Accept }

// droppedPeers are the groups that rules which drop name as their peers, by VPC. They are looked for when a VPC's are asked for
// the first time.
type droppedPeers map[*vpc.VPC]map[*vpc.GroupSpec]bool

// has reports whether a rule that drops names the group as its peer.
func (d droppedPeers) has(g *vpc.SecurityGroup) bool {
	dropped, known := d[g.VPC]
	if !known {
		dropped = map[*vpc.GroupSpec]bool{}
		for _, other := range g.VPC.Groups {
			for _, r := range other.Rules {
				if r.PeerGroup != nil && drops(r) {
					dropped[r.PeerGroup] = true
				}
			}
		}
		d[g.VPC] = dropped
	}
	return dropped[g.GroupSpec]
}
