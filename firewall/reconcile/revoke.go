package reconcile

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"

	"gatehouse/firewall/conntrack"
	"gatehouse/vpc"
)

// affected says whose flows a change may have ended.
type affected struct {
	all      bool                // every address of every VPC
	changed  map[netip.Addr]bool // their policy changed: flows that it no longer allows end
	departed map[netip.Addr]bool // they left their interface: all flows end
}

// affectedBy compares two snapshots; a nil old one means that nothing is known of what was allowed before.
func affectedBy(old, new *vpc.Snapshot) affected {
	a := affected{changed: map[netip.Addr]bool{}, departed: map[netip.Addr]bool{}}
	if old == nil {
		a.all = true
		return a
	}
	if old == new {
		return a
	}
	for _, i := range old.Interfaces {
		for addr := range i.Addrs {
			if now := new.InterfaceByAddr(addr); now == nil || now.ID != i.ID {
				a.departed[addr] = true
			}
		}
	}
	if !reflect.DeepEqual(old.Host, new.Host) {
		a.all = true
		return a
	}
	d := differ{old: index(old), new: index(new), same: map[[2]any]bool{}}
	for _, i := range new.Interfaces {
		was := d.old.interfaces[i.ID]
		if was != nil && d.sameInterface(was, i) {
			continue
		}
		for addr := range i.Addrs {
			if was != nil || !unused(old, addr) {
				a.changed[addr] = true
			}
		}
		if was != nil {
			for addr := range was.Addrs {
				a.changed[addr] = true
			}
		}
	}
	return a
}

// unused reports whether an address could have no flows because nobody had it: an unknown address of a vSwitch is dropped.
// So looking through all flows is spared when guests enrol.
func unused(s *vpc.Snapshot, addr netip.Addr) bool {
	w := s.VSwitchOf(addr)
	return w != nil && s.InterfaceByAddr(addr) == nil
}

func (a affected) none() bool { return !a.all && len(a.changed)+len(a.departed) == 0 }

// wants returns which addresses' flows have to be looked at.
func (a affected) wants(s *vpc.Snapshot) func(netip.Addr) bool {
	if a.all {
		return func(addr netip.Addr) bool { return a.departed[addr] || s.VPCOf(addr) != nil }
	}
	return func(addr netip.Addr) bool { return a.changed[addr] || a.departed[addr] }
}

// snapshotIndex finds interfaces by ID.
type snapshotIndex struct{ interfaces map[string]*vpc.Interface }

func index(s *vpc.Snapshot) snapshotIndex {
	x := snapshotIndex{make(map[string]*vpc.Interface, len(s.Interfaces))}
	for _, i := range s.Interfaces {
		x.interfaces[i.ID] = i
	}
	return x
}

// differ compares objects of two snapshots, each pair once.
type differ struct {
	old, new snapshotIndex
	same     map[[2]any]bool
}

// sameInterface reports whether everything that the policy of an interface is made of is the same. Members of the groups that
// its rules name are not among it: whoever joined or left such a group has changed himself.
func (d *differ) sameInterface(a, b *vpc.Interface) bool {
	if !reflect.DeepEqual(a.InterfaceSpec, b.InterfaceSpec) || !d.sameVSwitch(a.VSwitch, b.VSwitch) || len(a.Groups) != len(b.Groups) {
		return false
	}
	for i := range a.Groups {
		if !d.sameGroup(a.Groups[i], b.Groups[i]) {
			return false
		}
	}
	return true
}

func (d *differ) sameVSwitch(a, b *vpc.VSwitch) bool {
	return d.once(a, b, func() bool {
		return reflect.DeepEqual(a.VSwitchSpec, b.VSwitchSpec) && reflect.DeepEqual(a.VPC.Prefixes(), b.VPC.Prefixes()) && d.sameACL(a.ACL, b.ACL)
	})
}

func (d *differ) sameACL(a, b *vpc.NetworkACL) bool {
	if a == nil || b == nil {
		return a == b
	}
	return d.once(a, b, func() bool {
		return reflect.DeepEqual(a.ACLSpec, b.ACLSpec) && d.sameLists(entryLists(a), entryLists(b))
	})
}

func entryLists(a *vpc.NetworkACL) []*vpc.PrefixList {
	var lists []*vpc.PrefixList
	for _, e := range a.Ingress {
		lists = append(lists, e.List)
	}
	for _, e := range a.Egress {
		lists = append(lists, e.List)
	}
	return lists
}

func (d *differ) sameGroup(a, b *vpc.SecurityGroup) bool {
	return d.once(a, b, func() bool {
		return reflect.DeepEqual(a.GroupSpec, b.GroupSpec) && d.sameLists(ruleLists(a), ruleLists(b))
	})
}

func ruleLists(g *vpc.SecurityGroup) []*vpc.PrefixList {
	var lists []*vpc.PrefixList
	for _, r := range g.Rules {
		lists = append(lists, r.PeerList)
	}
	return lists
}

// sameLists compares lists that stand at the same places of two objects that are equal but for them.
func (d *differ) sameLists(a, b []*vpc.PrefixList) bool {
	for i := range a {
		if a[i] == nil || b[i] == nil {
			if a[i] != b[i] {
				return false
			}
			continue
		}
		if !d.once(a[i], b[i], func() bool { return reflect.DeepEqual(a[i].PrefixListSpec, b[i].PrefixListSpec) }) {
			return false
		}
	}
	return true
}

// once remembers the result for a pair.
func (d *differ) once(a, b any, compare func() bool) bool {
	same, known := d.same[[2]any{a, b}]
	if !known {
		same = compare()
		d.same[[2]any{a, b}] = same
	}
	return same
}

// revoke deletes the flows that what is in force no longer allows, and returns how many.
func revoke(ctx context.Context, ct Conntrack, a affected, now *Force) (int, error) {
	if a.none() {
		return 0, nil
	}
	total := 0
	for _, f := range vpc.Families() {
		flows, err := ct.List(ctx, f, a.wants(now.Snapshot))
		if err != nil {
			return total, err
		}
		var ended []conntrack.Flow
		for _, flow := range flows {
			if a.ends(flow, now) {
				ended = append(ended, flow)
			}
		}
		n, err := ct.Delete(ctx, ended)
		total += n
		if err != nil {
			return total, fmt.Errorf("cut %s flows: %w", f, err)
		}
	}
	return total, nil
}

// ends decides about one flow. What the gateway opens itself is not filtered, and lives on unless the other end's address is
// somebody else's now.
func (a affected) ends(flow conntrack.Flow, now *Force) bool {
	for addr := range flow.Addrs {
		if a.departed[addr] {
			return true
		}
	}
	return !flow.Local && !now.Trace(flow.Packet(now.Snapshot)).Allowed
}
