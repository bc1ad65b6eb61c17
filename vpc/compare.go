package vpc

import (
	"reflect"
	"slices"
)

// Pair is one object in two snapshots. Old is nil for one that is new, New for one that is gone.
type Pair[T any] struct{ Old, New *T }

// Delta is what differs between two snapshots. Objects are the same when they have the same ID; they differ when their Specs
// do, or when what a Spec names is another object. What only points to something that differs is not listed: members of
// a group and guests of a vSwitch are found from it.
type Delta struct {
	Host        bool
	VPCs        []Pair[VPC] // in their own fields, apart from zones and forwarders
	VSwitches   []Pair[VSwitch]
	PrefixLists []Pair[PrefixList]
	NetworkACLs []Pair[NetworkACL]
	Groups      []Pair[SecurityGroup]
	Instances   []Pair[Instance]
	Interfaces  []Pair[Interface] // an interface in another group or vSwitch differs; one whose instance has another name does not
}

// Compare returns what differs from one snapshot to another. The more they share, the less it costs.
func Compare(old, new *Snapshot) *Delta {
	d := &Delta{}
	if old == new {
		return d
	}
	d.Host = !reflect.DeepEqual(old.Host, new.Host)
	vpcs := pairUp(old.VPCs, new.VPCs, func(v *VPC) *VPCSpec { return v.VPCSpec }, func(v *VPC) (string, string) { return v.Name, v.ID })
	for _, p := range vpcs {
		if p.Old == nil || p.New == nil || p.Old.Domain != p.New.Domain || p.Old.VPCSpec != p.New.VPCSpec && !reflect.DeepEqual(p.Old.bare(), p.New.bare()) {
			d.VPCs = append(d.VPCs, p)
		}
		if p.Old != p.New {
			d.vpc(orZero(p.Old), orZero(p.New))
		}
	}
	return d
}

// bare is the VPC's Spec without what is in it.
func (v *VPC) bare() VPCSpec {
	c := *v.VPCSpec
	c.VSwitches, c.SecurityGroups, c.PrefixLists, c.NetworkACLs = nil, nil, nil, nil
	c.Instances, c.PrivateZones, c.Forwarders = nil, nil, nil
	return c
}

// vpc compares what is in a VPC. Where names have come to mean something else, unchanged Specs say something else.
func (d *Delta) vpc(old, new *VPC) {
	lists := pairUp(old.Lists, new.Lists, func(l *PrefixList) *PrefixListSpec { return l.PrefixListSpec }, func(l *PrefixList) (string, string) { return l.Name, l.ID })
	acls := pairUp(old.ACLs, new.ACLs, func(a *NetworkACL) *ACLSpec { return a.ACLSpec }, func(a *NetworkACL) (string, string) { return a.Name, a.ID })
	groups := pairUp(old.Groups, new.Groups, func(g *SecurityGroup) *GroupSpec { return g.GroupSpec }, func(g *SecurityGroup) (string, string) { return g.Name, g.ID })
	switches := pairUp(old.VSwitches, new.VSwitches, func(w *VSwitch) *VSwitchSpec { return w.VSwitchSpec }, func(w *VSwitch) (string, string) { return w.Name, w.ID })
	otherACLs, otherGroups, otherSwitches := exchanged(acls), exchanged(groups), exchanged(switches)

	lists = differing(lists, func(a, b *PrefixList) bool { return sameSpec(a.PrefixListSpec, b.PrefixListSpec) })
	otherLists := len(lists) > 0
	d.PrefixLists = append(d.PrefixLists, lists...)
	d.NetworkACLs = append(d.NetworkACLs, differing(acls, func(a, b *NetworkACL) bool {
		return sameSpec(a.ACLSpec, b.ACLSpec) && (!otherLists || sameEntries(a.Ingress, b.Ingress) && sameEntries(a.Egress, b.Egress))
	})...)
	d.Groups = append(d.Groups, differing(groups, func(a, b *SecurityGroup) bool {
		return sameSpec(a.GroupSpec, b.GroupSpec) && (!otherLists && !otherGroups || sameRules(a.Rules, b.Rules))
	})...)
	d.VSwitches = append(d.VSwitches, differing(switches, func(a, b *VSwitch) bool {
		return sameSpec(a.VSwitchSpec, b.VSwitchSpec) &&
			(!otherACLs || sameACL(a.ACL, b.ACL)) && (!otherGroups || sameGroups(a.EnrollmentGroups, b.EnrollmentGroups))
	})...)
	d.instances(old, new, otherGroups || otherSwitches)
}

// instances compares instances and their interfaces; renamed says that interfaces with the same Spec may be elsewhere.
func (d *Delta) instances(old, new *VPC, renamed bool) {
	at := align(old.Instances, new.Instances, func(a, b *Instance) bool { return a.InstanceSpec == b.InstanceSpec },
		func(i *Instance) string { return i.Name }, func(i *Instance) string { return i.Name })
	gone := func(i *Instance) {
		d.Instances = append(d.Instances, Pair[Instance]{Old: i})
		for _, n := range i.Interfaces {
			d.Interfaces = append(d.Interfaces, Pair[Interface]{Old: n})
		}
	}
	for j, i := range new.Instances {
		var was *Instance
		if at[j] >= 0 {
			was = old.Instances[at[j]]
			if was.InstanceSpec == i.InstanceSpec && !renamed {
				continue
			}
			if was.ID != i.ID {
				gone(was)
				was = nil
			}
		}
		if was == nil || !sameSpec(was.InstanceSpec, i.InstanceSpec) {
			d.Instances = append(d.Instances, Pair[Instance]{was, i})
		}
		left := slices.Clone(orZero(was).Interfaces)
		for _, n := range i.Interfaces {
			k := slices.IndexFunc(left, func(o *Interface) bool { return o.ID == n.ID })
			if k < 0 {
				d.Interfaces = append(d.Interfaces, Pair[Interface]{New: n})
				continue
			}
			if o := left[k]; !sameSpec(o.InterfaceSpec, n.InterfaceSpec) || o.VSwitch.ID != n.VSwitch.ID || !sameGroups(o.Groups, n.Groups) {
				d.Interfaces = append(d.Interfaces, Pair[Interface]{o, n})
			}
			left = slices.Delete(left, k, k+1)
		}
		for _, o := range left {
			d.Interfaces = append(d.Interfaces, Pair[Interface]{Old: o})
		}
	}
	leftOut(old.Instances, at, gone)
}

// sameSpec reports whether two Specs say the same. Those of stored objects are mostly one and the same.
func sameSpec[T any](a, b *T) bool { return a == b || reflect.DeepEqual(a, b) }

// sameGroups reports whether two lists by ID are of the same groups.
func sameGroups(a, b []*SecurityGroup) bool {
	return slices.EqualFunc(a, b, func(a, b *SecurityGroup) bool { return a.ID == b.ID })
}

func sameACL(a, b *NetworkACL) bool { return (a == nil) == (b == nil) && (a == nil || a.ID == b.ID) }

// sameRules reports whether the rules of a group name the same groups, and lists that say the same.
func sameRules(a, b []*Rule) bool {
	return slices.EqualFunc(a, b, func(a, b *Rule) bool {
		return (a.PeerGroup == nil) == (b.PeerGroup == nil) && (a.PeerGroup == nil || a.PeerGroup.ID == b.PeerGroup.ID) && sameList(a.PeerList, b.PeerList)
	})
}

func sameEntries(a, b []*Entry) bool {
	return slices.EqualFunc(a, b, func(a, b *Entry) bool { return sameList(a.List, b.List) })
}

func sameList(a, b *PrefixListSpec) bool {
	return (a == nil) == (b == nil) && (a == nil || a.ID == b.ID && sameSpec(a, b))
}

// pairUp returns every object of two lists, those of the same name and ID together.
func pairUp[T, S any](old, new []*T, spec func(*T) *S, identity func(*T) (name, id string)) []Pair[T] {
	name := func(x *T) string { n, _ := identity(x); return n }
	at := align(old, new, func(a, b *T) bool { return spec(a) == spec(b) }, name, name)
	out := make([]Pair[T], 0, len(new))
	for j, x := range new {
		p := Pair[T]{New: x}
		if at[j] >= 0 {
			was := old[at[j]]
			_, before := identity(was)
			if _, now := identity(x); before == now {
				p.Old = was
			} else {
				out = append(out, Pair[T]{Old: was})
			}
		}
		out = append(out, p)
	}
	leftOut(old, at, func(x *T) { out = append(out, Pair[T]{Old: x}) })
	return out
}

// differing leaves out the pairs that are the same.
func differing[T any](pairs []Pair[T], same func(a, b *T) bool) []Pair[T] {
	return slices.DeleteFunc(pairs, func(p Pair[T]) bool { return p.Old != nil && p.New != nil && same(p.Old, p.New) })
}

// exchanged reports whether an object came or went, so that its name may mean another one or none.
func exchanged[T any](pairs []Pair[T]) bool {
	return slices.ContainsFunc(pairs, func(p Pair[T]) bool { return p.Old == nil || p.New == nil })
}
