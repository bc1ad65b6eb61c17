package vpc

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// NewSnapshot resolves a complete, valid Spec (see Validate). The Spec must not be changed afterwards.
// References that do not resolve, which Validate refuses, are left nil.
func NewSnapshot(spec *Spec, host Host, revision uint64) *Snapshot {
	return new(Snapshot).Next(spec, host, revision)
}

// Next resolves the Spec of another revision. It returns what NewSnapshot does, at the cost of what differs from s and a
// few words for everything else; s, which may be any snapshot, stays as it is.
func (s *Snapshot) Next(spec *Spec, host Host, revision uint64) *Snapshot {
	r := &resolution{
		from:  s,
		to:    &Snapshot{Revision: revision, Spec: spec, Host: host, slots: slices.Clone(s.slots), byMAC: s.byMAC},
		moved: make(map[*VPC]moved, 1),
	}
	r.vpcs()
	r.index()
	r.lists()
	return r.to
}

// resolution is the way from one snapshot to another.
type resolution struct {
	from, to *Snapshot

	moved     map[*VPC]moved   // what became of VPCs that were made anew or are gone
	groups    []*SecurityGroup // that were not there
	instances []*Instance      // that were not there
	come      []*Interface     // that were not there: they have no slot yet
	gone      []*Interface     // that are not there any more
	other     [][2]*Interface  // that were there with another Spec
}

// moved is what became of a VPC's objects, by their place in the VPC; nil: gone.
type moved struct {
	groups    []*SecurityGroup
	instances []*Instance
}

// vpcs resolves the VPCs that are not as they were.
func (r *resolution) vpcs() {
	before := make(map[string]*VPC, len(r.from.VPCs))
	for _, v := range r.from.VPCs {
		before[v.Name] = v
	}
	for _, spec := range r.to.Spec.VPCs {
		v := &VPC{VPCSpec: spec, Domain: strings.TrimSuffix(spec.Domain, "."), Zones: slices.Clone(spec.PrivateZones)}
		if v.Domain == "" {
			v.Domain = r.to.Host.Region + ".ecs.internal"
		}
		for _, z := range r.to.Spec.PrivateZones {
			if slices.Contains(z.VPCs, spec.Name) {
				v.Zones = append(v.Zones, z)
			}
		}
		old := before[spec.Name]
		delete(before, spec.Name)
		if old != nil && old.VPCSpec == spec && old.Domain == v.Domain && slices.Equal(old.Zones, v.Zones) {
			v = old
		} else {
			r.resolve(v, old)
		}
		r.to.VPCs = append(r.to.VPCs, v)
	}
	for _, old := range before {
		r.leave(old)
	}
	slices.SortFunc(r.to.VPCs, func(a, b *VPC) int { return strings.Compare(a.Name, b.Name) })
}

// leave gives up everything of a VPC.
func (r *resolution) leave(old *VPC) {
	r.moved[old] = moved{make([]*SecurityGroup, len(old.Groups)), make([]*Instance, len(old.Instances))}
	for _, i := range old.Instances {
		r.gone = append(r.gone, i.Interfaces...)
	}
}

// resolve fills in a VPC. old is the same VPC in the snapshot before, nil if it is new: what refers to the same things as
// there is not looked up again.
func (r *resolution) resolve(v, old *VPC) {
	if old != nil && !old.covers(v.VPCSpec) {
		r.leave(old)
		old = nil
	}
	if old == nil {
		old = &VPC{VPCSpec: &VPCSpec{}}
	}
	v.prefixes = append([]netip.Prefix{v.CIDRBlock}, v.SecondaryCIDRBlocks...)
	if v.IPv6CIDRBlock.IsValid() {
		v.prefixes = append(v.prefixes, v.IPv6CIDRBlock)
	}
	n := &names{vpc: v}
	n.resolveLists()
	n.resolveACLs()
	n.resolveGroups(old)
	n.resolveVSwitches()
	r.follow(n, old)
	r.resolveInstances(n, old)
}

// covers reports whether everything in the VPC that instances and rules refer to by name is still there.
func (v *VPC) covers(next *VPCSpec) bool {
	return allThere(v.SecurityGroups, next.SecurityGroups, func(g *GroupSpec) (string, string) { return g.Name, g.ID }) &&
		allThere(v.VPCSpec.VSwitches, next.VSwitches, func(w *VSwitchSpec) (string, string) { return w.Name, w.ID })
}

// allThere reports whether the new list has every object of the old one, by the same name and ID.
func allThere[T any](old, new []*T, identity func(*T) (name, id string)) bool {
	name := func(x *T) string { n, _ := identity(x); return n }
	at := align(old, new, func(a, b *T) bool { return a == b }, name, name)
	there := true
	for j, i := range at {
		if i >= 0 && old[i] != new[j] {
			_, was := identity(old[i])
			_, is := identity(new[j])
			there = there && was == is
		}
	}
	leftOut(old, at, func(*T) { there = false })
	return there
}

// names are the objects of a VPC that others refer to, by name and by what they were before.
type names struct {
	vpc      *VPC
	lists    map[string]*PrefixList
	acls     map[string]*NetworkACL
	groups   map[string]*SecurityGroup
	switches map[string]*VSwitch

	oldGroups   []*SecurityGroup // by their place in the VPC before
	oldSwitches []*VSwitch
}

func (n *names) resolveLists() {
	v := n.vpc
	n.lists = make(map[string]*PrefixList, len(v.PrefixLists))
	for _, p := range v.PrefixLists {
		l := &PrefixList{PrefixListSpec: p, VPC: v}
		n.lists[p.Name] = l
		v.Lists = append(v.Lists, l)
	}
}

func (n *names) resolveACLs() {
	v := n.vpc
	list := func(p Peer) *PrefixListSpec {
		if l := n.lists[p.Name]; p.Kind == PeerList && l != nil {
			return l.PrefixListSpec
		}
		return nil
	}
	n.acls = make(map[string]*NetworkACL, len(v.NetworkACLs))
	for _, a := range v.NetworkACLs {
		acl := &NetworkACL{ACLSpec: a, VPC: v}
		for i, e := range a.Ingress {
			acl.Ingress = append(acl.Ingress, &Entry{EntrySpec: e, ACL: acl, Index: i + 1, Peer: e.Source, List: list(e.Source)})
		}
		for i, e := range a.Egress {
			acl.Egress = append(acl.Egress, &Entry{EntrySpec: e, ACL: acl, Index: i + 1, Peer: e.Destination, List: list(e.Destination)})
		}
		n.acls[a.Name] = acl
		v.ACLs = append(v.ACLs, acl)
	}
}

func (n *names) resolveGroups(old *VPC) {
	v := n.vpc
	groups := make([]SecurityGroup, len(v.SecurityGroups))
	n.groups = make(map[string]*SecurityGroup, len(groups))
	v.Groups = make([]*SecurityGroup, len(groups))
	count := 0
	for i, g := range v.SecurityGroups {
		groups[i] = SecurityGroup{GroupSpec: g, VPC: v, pos: int32(i)}
		v.Groups[i] = &groups[i]
		n.groups[g.Name] = &groups[i]
		count += len(g.Rules)
	}
	if slices.Equal(old.SecurityGroups, v.SecurityGroups) && slices.Equal(old.PrefixLists, v.PrefixLists) {
		for i, g := range old.Groups {
			groups[i].Rules = g.Rules
		}
		return
	}
	rules, pointers := make([]Rule, count), make([]*Rule, count)
	for _, g := range v.Groups {
		k := len(g.GroupSpec.Rules)
		own := rules[:k:k]
		g.Rules = pointers[:k:k]
		rules, pointers = rules[k:], pointers[k:]
		for i, r := range g.GroupSpec.Rules {
			own[i] = Rule{RuleSpec: r, Group: g.GroupSpec}
			g.Rules[i] = &own[i]
			switch p := r.Peer(); p.Kind {
			case PeerGroup:
				if peer := n.groups[p.Name]; peer != nil {
					own[i].PeerGroup = peer.GroupSpec
				}
			case PeerList:
				if list := n.lists[p.Name]; list != nil {
					own[i].PeerList = list.PrefixListSpec
				}
			}
		}
	}
}

func (n *names) resolveVSwitches() {
	v := n.vpc
	n.switches = make(map[string]*VSwitch, len(v.VPCSpec.VSwitches))
	for i, w := range v.VPCSpec.VSwitches {
		sw := &VSwitch{VSwitchSpec: w, VPC: v, ACL: n.acls[w.NetworkACL], EnrollmentGroups: n.pick(w.EnrollmentGroups), pos: int32(i)}
		n.switches[w.Name] = sw
		v.VSwitches = append(v.VSwitches, sw)
	}
}

// pick returns the named groups by ID, each once.
func (n *names) pick(list []string) []*SecurityGroup {
	out := make([]*SecurityGroup, 0, len(list))
	for _, name := range list {
		if g := n.groups[name]; g != nil && !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b *SecurityGroup) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// follow says what became of the groups and vSwitches of old.
func (r *resolution) follow(n *names, old *VPC) {
	there := make([]bool, len(n.vpc.Groups))
	n.oldGroups = make([]*SecurityGroup, len(old.Groups))
	for i, g := range old.Groups {
		n.oldGroups[i] = n.groups[g.Name]
		there[n.oldGroups[i].pos] = true
	}
	for i, g := range n.vpc.Groups {
		if !there[i] {
			r.groups = append(r.groups, g)
		}
	}
	n.oldSwitches = make([]*VSwitch, len(old.VSwitches))
	for i, w := range old.VSwitches {
		n.oldSwitches[i] = n.switches[w.Name]
	}
}

func (r *resolution) resolveInstances(n *names, old *VPC) {
	v := n.vpc
	at := align(old.Instances, v.VPCSpec.Instances, func(o *Instance, i *InstanceSpec) bool { return o.InstanceSpec == i },
		func(o *Instance) string { return o.Name }, func(i *InstanceSpec) string { return i.Name })
	count := 0
	for _, i := range v.VPCSpec.Instances {
		count += len(i.Interfaces)
	}
	instances, interfaces, pointers := make([]Instance, len(at)), make([]Interface, 0, count), make([]*Interface, count)
	v.Instances = make([]*Instance, len(at))
	if len(old.Instances) == 0 {
		r.come, r.instances = slices.Grow(r.come, count), slices.Grow(r.instances, len(at))
	}
	now := make([]*Instance, len(old.Instances))
	r.moved[old] = moved{n.oldGroups, now}

	// Interfaces with the same groups share the list of them, and go on sharing it.
	sets := make([]int32, len(old.sets)) // where a set of old is in v.sets; 0: not there yet
	v.sets = make([][]*SecurityGroup, 1, len(old.sets)+1)
	sameSet := func(o *Interface) int32 {
		if sets[o.set] == 0 {
			set := make([]*SecurityGroup, len(o.Groups))
			for i, g := range o.Groups {
				set[i] = n.oldGroups[g.pos]
			}
			sets[o.set] = int32(len(v.sets))
			v.sets = append(v.sets, set)
		}
		return sets[o.set]
	}
	byNames := map[string]int32{} // the sets of interfaces that are new or changed
	newSet := func(list []string) int32 {
		key := strings.Join(list, "\x00")
		if byNames[key] == 0 {
			byNames[key] = int32(len(v.sets))
			v.sets = append(v.sets, n.pick(list))
		}
		return byNames[key]
	}

	for pos, spec := range v.VPCSpec.Instances {
		inst := &instances[pos]
		*inst = Instance{InstanceSpec: spec, VPC: v, pos: int32(pos), Interfaces: pointers[:0:len(spec.Interfaces)]}
		pointers = pointers[len(spec.Interfaces):]
		v.Instances[pos] = inst
		add := func(i Interface) *Interface {
			interfaces = append(interfaces, i)
			nic := &interfaces[len(interfaces)-1]
			inst.Interfaces = append(inst.Interfaces, nic)
			return nic
		}
		var left []*Interface // of those that the instance had
		if at[pos] >= 0 {
			was := old.Instances[at[pos]]
			if was.ID == spec.ID {
				now[was.pos] = inst
			}
			if was.InstanceSpec == spec && len(was.Interfaces) == len(spec.Interfaces) {
				for _, o := range was.Interfaces {
					set := sameSet(o)
					r.to.slots[o.slot] = add(Interface{o.InterfaceSpec, inst, n.oldSwitches[o.VSwitch.pos], v.sets[set], set, o.slot})
				}
				continue
			}
			left = slices.Clone(was.Interfaces)
		}
		if at[pos] < 0 || old.Instances[at[pos]].ID != spec.ID {
			r.instances = append(r.instances, inst)
		}
		for _, x := range spec.Interfaces {
			sw := n.switches[x.VSwitch]
			if sw == nil {
				continue
			}
			set := newSet(x.SecurityGroups)
			nic := add(Interface{x, inst, sw, v.sets[set], set, 0})
			k := slices.IndexFunc(left, func(o *Interface) bool { return o.ID == x.ID })
			if k < 0 {
				r.come = append(r.come, nic)
				continue
			}
			nic.slot = left[k].slot
			r.to.slots[nic.slot] = nic
			r.other = append(r.other, [2]*Interface{left[k], nic})
			left = slices.Delete(left, k, k+1)
		}
		r.gone = append(r.gone, left...)
	}
	leftOut(old.Instances, at, func(i *Instance) { r.gone = append(r.gone, i.Interfaces...) })
	v.makeRoom(interfaces)
}

// makeRoom makes room for the interfaces in the lists of vSwitches and groups, which are filled in the order of IDs.
func (v *VPC) makeRoom(interfaces []Interface) {
	members, all := make([]int32, len(v.Groups)), 0
	guests := make([]int32, len(v.VSwitches))
	for i := range interfaces {
		guests[interfaces[i].VSwitch.pos]++
		for _, g := range interfaces[i].Groups {
			members[g.pos]++
			all++
		}
	}
	list := make([]*Interface, all+len(interfaces))
	room := func(n int32) []*Interface {
		r := list[:0:n]
		list = list[n:]
		return r
	}
	for i, g := range v.Groups {
		if members[i] > 0 {
			g.Members = room(members[i])
		}
	}
	for i, w := range v.VSwitches {
		if guests[i] > 0 {
			w.Interfaces = room(guests[i])
		}
	}
}

// index brings the tables up to date by which interfaces and gateways are found.
func (r *resolution) index() {
	s := r.to
	free := []int32{}
	for i, n := range r.from.slots { // a place that is left now is taken in the next snapshot at the earliest
		if n == nil {
			free = append(free, int32(i))
		}
	}
	for _, n := range r.gone {
		if s.slots[n.slot] == n {
			s.slots[n.slot] = nil
		}
	}
	s.slots = slices.Grow(s.slots, max(0, len(r.come)-len(free)))
	for _, n := range r.come {
		if len(free) > 0 {
			n.slot, free = free[0], free[1:]
			s.slots[n.slot] = n
			continue
		}
		n.slot = int32(len(s.slots))
		s.slots = append(s.slots, n)
	}
	leave, enter := r.gone, r.come
	for _, o := range r.other {
		if !o[0].SameBindings(o[1]) {
			leave, enter = append(leave, o[0]), append(enter, o[1])
		}
	}
	switch first := len(r.from.slots) == 0; {
	case first:
		s.byMAC = make(map[macKey]int32, len(enter)) // byAddr waits until it is asked for
	case len(leave)+len(enter) > 0:
		s.byMAC, s.byAddr = maps.Clone(s.byMAC), maps.Clone(r.from.slotsByAddr())
		s.byPrefix = maps.Clone(r.from.byPrefix)
	default:
		s.byAddr = r.from.slotsByAddr()
		s.byPrefix = r.from.byPrefix
	}
	for _, n := range leave {
		delete(s.byMAC, keyOf(n.MAC))
		for a := range n.Addrs {
			delete(s.byAddr, a)
		}
		for _, p := range n.IPv6Prefixes {
			delete(s.byPrefix, p)
		}
	}
	for _, n := range enter {
		s.byMAC[keyOf(n.MAC)] = n.slot
		if s.byAddr == nil {
			continue
		}
		for a := range n.Addrs {
			s.byAddr[a] = n.slot
		}
		for _, p := range n.IPv6Prefixes {
			if s.byPrefix == nil {
				s.byPrefix = map[netip.Prefix]int32{}
			}
			s.byPrefix[p] = n.slot
		}
	}
	s.gateways = map[netip.Addr]*VSwitch{}
	for _, v := range s.VPCs {
		for _, w := range v.VSwitches {
			for _, f := range Families() {
				if g := w.GatewayAddr(f); g.IsValid() {
					s.gateways[g] = w
				}
			}
		}
	}
}

// lists makes the lists by ID. Those that may be long keep the order that they had.
func (r *resolution) lists() {
	s := r.to
	for _, v := range s.VPCs {
		s.VSwitches = append(s.VSwitches, v.VSwitches...)
		s.PrefixLists = append(s.PrefixLists, v.Lists...)
		s.NetworkACLs = append(s.NetworkACLs, v.ACLs...)
	}
	slices.SortFunc(s.VSwitches, func(a, b *VSwitch) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(s.PrefixLists, func(a, b *PrefixList) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(s.NetworkACLs, func(a, b *NetworkACL) int { return strings.Compare(a.ID, b.ID) })
	s.Groups = inOrder(r.from.Groups, func(g *SecurityGroup) *SecurityGroup {
		if m, ok := r.moved[g.VPC]; ok {
			return m.groups[g.pos]
		}
		return g
	}, r.groups, func(g *SecurityGroup) string { return g.ID })
	s.Instances = inOrder(r.from.Instances, func(i *Instance) *Instance {
		if m, ok := r.moved[i.VPC]; ok {
			return m.instances[i.pos]
		}
		return i
	}, r.instances, func(i *Instance) string { return i.ID })
	left := make(map[*Interface]bool, len(r.gone))
	for _, n := range r.gone {
		left[n] = true
	}
	s.Interfaces = inOrder(r.from.Interfaces, func(n *Interface) *Interface {
		if len(left) > 0 && left[n] {
			return nil
		}
		return s.slots[n.slot]
	}, r.come, func(n *Interface) string { return n.ID })

	anew := make(map[*VPC]bool, len(s.VPCs))
	for _, v := range s.VPCs {
		anew[v] = true
	}
	for _, v := range r.from.VPCs {
		delete(anew, v)
	}
	for _, n := range s.Interfaces {
		if v := n.Instance.VPC; anew[v] {
			n.VSwitch.Interfaces = append(n.VSwitch.Interfaces, n)
			for _, g := range n.Groups {
				g.Members = append(g.Members, n)
			}
		}
	}
}

// inOrder lists by ID what has become of objects that stand by ID, and the new ones among them.
func inOrder[T any](before []*T, now func(*T) *T, fresh []*T, id func(*T) string) []*T {
	sortByID(fresh, id)
	kept := make([]*T, 0, len(before)+len(fresh))
	for _, x := range before {
		if y := now(x); y != nil {
			kept = append(kept, y)
		}
	}
	if len(fresh) == 0 || len(kept) == 0 {
		return append(kept, fresh...)
	}
	out := make([]*T, 0, len(kept)+len(fresh))
	for _, x := range fresh {
		i, _ := slices.BinarySearchFunc(kept, id(x), func(y *T, want string) int { return strings.Compare(id(y), want) })
		out = append(append(out, kept[:i]...), x)
		kept = kept[i:]
	}
	return append(out, kept...)
}

// sortByID sorts objects by their IDs. Tens of thousands of random IDs are sorted when a gateway starts: where IDs begin
// to differ, eight bytes decide nearly always, and numbers need not be compared to be sorted.
func sortByID[T any](list []*T, id func(*T) string) {
	if len(list) < 2 {
		return
	}
	same := len(id(list[0])) // of the first bytes of all IDs
	for _, x := range list[1:] {
		same = commonPrefix(id(list[0])[:same], id(x))
	}
	places := make([]place[T], len(list))
	for i, x := range list {
		var key [8]byte
		copy(key[:], id(x)[same:])
		places[i] = place[T]{binary.BigEndian.Uint64(key[:]), x}
	}
	places = sortByKey(places)
	for i, p := range places {
		list[i] = p.at
	}
	for from := 0; from < len(list); {
		to := from + 1
		for to < len(list) && places[to].key == places[from].key {
			to++
		}
		if to-from > 1 {
			slices.SortFunc(list[from:to], func(a, b *T) int { return strings.Compare(id(a), id(b)) })
		}
		from = to
	}
}

// place is an object with the key that it is sorted by.
type place[T any] struct {
	key uint64
	at  *T
}

// sortByKey sorts by the bytes of the keys, the last first, which leaves in order what has been sorted by later ones.
func sortByKey[T any](places []place[T]) []place[T] {
	other := make([]place[T], len(places))
	for shift := 0; shift < 64; shift += 8 {
		var next [256]int // how many have a byte, then where the next of them goes
		for _, p := range places {
			next[byte(p.key>>shift)]++
		}
		if slices.Contains(next[:], len(places)) {
			continue // all have the same byte
		}
		at := 0
		for b, n := range next {
			next[b] = at
			at += n
		}
		for _, p := range places {
			b := byte(p.key >> shift)
			other[next[b]] = p
			next[b]++
		}
		places, other = other, places
	}
	return places
}

// commonPrefix returns how many bytes two strings begin with in common.
func commonPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
