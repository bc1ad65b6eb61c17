package vpc

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// ApplyOptions say how Apply works.
type ApplyOptions struct {
	// Prune deletes what the wanted Spec no longer names, inside the VPCs that it names.
	Prune bool
	// NewID makes an ID from a prefix that ends in a hyphen; nil: RandomID.
	NewID func(prefix string) string
	// InUse reports addresses that may not be chosen for anybody: quarantined, or leased to somebody else. Nil: none.
	InUse func(netip.Addr) bool
	// Valid is a Spec that is known to be valid for the same Host, as a result of Apply is: what the new one shares with it
	// is not judged again. Nil: everything is judged. The verdict is the same.
	Valid *Spec
}

func (o ApplyOptions) newID(prefix string) string {
	if o.NewID == nil {
		return RandomID(prefix)
	}
	return o.NewID(prefix)
}

func (o ApplyOptions) inUse(a netip.Addr) bool { return o.InUse != nil && o.InUse(a) }

// Apply merges the wanted Spec into the current one and returns the complete candidate: IDs and addresses are chosen,
// defaults filled in. Neither argument is changed; the result shares with current every object that stays as it is, and is
// current itself when nothing changes. When something is wrong the result is nil, with all problems.
//
// Objects are the same when they have the same name in the same parent, interfaces when they have the same MAC in the
// same instance; they keep their IDs, and IDs in want are ignored. Rules and entries keep theirs by value: see keepIDs.
// Lists of values are replaced as written. What want does not name stays, unless Prune is set: then it goes, in those
// VPCs that want names, and with it shared zones all of whose VPCs want names, and tests when want has
// any list of them. A VPC that want does not name, and an instance that enrolled itself, are never pruned; the group
// "default" loses its rules instead.
//
// An address that want leaves open is what the MAC had before in that vSwitch, else one is chosen for it. The range of a
// vSwitch, and an IPv6 range once it is there, cannot be changed into another, as in the cloud.
//
// The result is in canonical order: objects by name; rules, entries, records and interfaces as they were written.
func Apply(current, want *Spec, h Host, opt ApplyOptions) (*Spec, Problems) {
	if current == nil {
		current = &Spec{}
	}
	m := &merger{opt: opt, links: map[string]bool{}}
	next := m.spec(current, normalize(want))
	if len(m.problems) == 0 && opt.Valid != nil && validChange(opt.Valid, next, h) {
		return next, nil
	}
	problems := compact(append(m.problems, validate(current, next, h)...))
	if len(problems) > 0 {
		return nil, problems
	}
	return next, nil
}

// compact removes problems that say the same.
func compact(ps Problems) Problems {
	seen := make(map[Problem]bool, len(ps))
	return slices.DeleteFunc(ps, func(p Problem) bool {
		again := seen[p]
		seen[p] = true
		return again
	})
}

type merger struct {
	opt      ApplyOptions
	links    map[string]bool // names of vSwitch links, so that a new ID does not generate one of them
	problems Problems
}

func (m *merger) spec(current, want *Spec) *Spec {
	for _, s := range []*Spec{current, want} {
		for o := range s.Objects(KindVSwitch) {
			m.links[o.Value.(*VSwitchSpec).LinkName()] = true
		}
	}
	next := &Spec{Tests: current.Tests}
	next.VPCs = mergeNamed(current.VPCs, want.VPCs, func(v *VPCSpec) string { return v.Name }, m.vpc, always)
	next.PrivateZones = mergeNamed(current.PrivateZones, want.PrivateZones, zoneKey, m.zone, func(z *PrivateZoneSpec) bool {
		return !m.opt.Prune || !allNamed(want, z.VPCs)
	})
	if tests := m.tests(current.Tests, want.Tests); !reflect.DeepEqual(tests, current.Tests) {
		next.Tests = tests
	}
	if same(next.VPCs, current.VPCs) && same(next.PrivateZones, current.PrivateZones) && same(next.Tests, current.Tests) {
		return current
	}
	return next
}

// tests puts the wanted tests, in their order, before those that stay. A test is the same when it is about the same
// connection.
func (m *merger) tests(current, want []*TestSpec) []*TestSpec {
	if want == nil {
		return current
	}
	tests := slices.Clone(want)
	if m.opt.Prune {
		return noneAsNil(tests)
	}
	for _, c := range current {
		if !slices.ContainsFunc(want, func(w *TestSpec) bool {
			return w.From == c.From && w.To == c.To && w.Protocol == c.Protocol && w.Port == c.Port
		}) {
			tests = append(tests, c)
		}
	}
	if sameElements(values(tests), values(current)) { // their order means nothing
		return current
	}
	return noneAsNil(tests)
}

func values(tests []*TestSpec) []TestSpec {
	out := make([]TestSpec, len(tests))
	for i, t := range tests {
		out[i] = *t
	}
	return out
}

func allNamed(s *Spec, vpcs []string) bool {
	for _, name := range vpcs {
		if !slices.ContainsFunc(s.VPCs, func(v *VPCSpec) bool { return v.Name == name }) {
			return false
		}
	}
	return true
}

func always[T any](*T) bool { return true }

func zoneKey(z *PrivateZoneSpec) string { return domainKey(z.Name) }

// mergeNamed merges lists of objects that are identified by a name. merge gets nil for an object that is new, and
// returns cur itself when it stays as it is; keep says which objects stay that want does not name.
func mergeNamed[T any](current, want []*T, name func(*T) string, merge func(cur, want *T) *T, keep func(*T) bool) []*T {
	if out, ok := mergeFew(current, want, name, merge, keep); ok {
		return out
	}
	old := make(map[string]*T, len(current))
	for _, c := range current {
		old[name(c)] = c
	}
	out := make([]*T, 0, max(len(current), len(want)))
	for _, w := range want {
		// A second one of the same name is new: Validate finds it beside the first.
		out = append(out, merge(old[name(w)], w))
		delete(old, name(w))
	}
	for _, c := range current {
		if old[name(c)] == c && keep(c) {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b *T) int { return strings.Compare(name(a), name(b)) })
	switch {
	case slices.Equal(out, current):
		return current
	case len(out) == 0:
		return nil
	}
	return out
}

// few is the number of objects up to which each is looked for by itself.
const few = 4

// mergeFew is mergeNamed for a few wanted objects that are all in a list in canonical order, of which nothing goes; ok is false
// for anything else.
func mergeFew[T any](current, want []*T, name func(*T) string, merge func(cur, want *T) *T, keep func(*T) bool) (out []*T, ok bool) {
	if len(want) > few || len(current) <= few {
		return nil, false
	}
	at := make([]int, len(want))
	for i, w := range want {
		n := name(w)
		k, found := slices.BinarySearchFunc(current, n, func(c *T, n string) int { return strings.Compare(name(c), n) })
		if !found || slices.Contains(at[:i], k) {
			return nil, false
		}
		at[i] = k
	}
	for _, c := range current {
		if !keep(c) {
			return nil, false
		}
	}
	out = current
	for i, w := range want {
		c := current[at[i]]
		next := merge(c, w)
		if next == c {
			continue
		}
		if same(out, current) {
			out = slices.Clone(current)
		}
		out[at[i]] = next
	}
	return out, true
}

// share returns cur when next is equal to it, else next.
func share[T any](cur, next *T) *T {
	if cur != nil && reflect.DeepEqual(cur, next) {
		return cur
	}
	return next
}

func (m *merger) keepNamed(enrolled bool) bool { return !m.opt.Prune || enrolled }

func (m *merger) vpc(cur, want *VPCSpec) *VPCSpec {
	if cur == nil {
		cur = &VPCSpec{ID: m.opt.newID(prefixVPC)}
	}
	p := path{nil, "vpcs", want.Name}
	next := *want
	next.ID = cur.ID
	if is, was := next.IPv6CIDRBlock, cur.IPv6CIDRBlock; is.IsValid() && was.IsValid() && is != was {
		m.immutable(&p, "ipv6CidrBlock", was, is, "remove it from the VPC and its vswitches first")
	}
	next.VSwitches = mergeNamed(cur.VSwitches, want.VSwitches, func(w *VSwitchSpec) string { return w.Name },
		func(cur, want *VSwitchSpec) *VSwitchSpec { return m.vswitch(&p, cur, want) },
		func(*VSwitchSpec) bool { return m.keepNamed(false) })
	next.SecurityGroups = m.groups(cur, want)
	next.PrefixLists = mergeNamed(cur.PrefixLists, want.PrefixLists, func(l *PrefixListSpec) string { return l.Name }, m.prefixList,
		func(*PrefixListSpec) bool { return m.keepNamed(false) })
	next.NetworkACLs = mergeNamed(cur.NetworkACLs, want.NetworkACLs, func(a *ACLSpec) string { return a.Name }, m.acl,
		func(*ACLSpec) bool { return m.keepNamed(false) })
	next.PrivateZones = mergeNamed(cur.PrivateZones, want.PrivateZones, zoneKey, m.zone,
		func(*PrivateZoneSpec) bool { return m.keepNamed(false) })
	next.Forwarders = mergeNamed(cur.Forwarders, want.Forwarders, func(f *ForwarderSpec) string { return domainKey(f.Zone) }, share,
		func(*ForwarderSpec) bool { return m.keepNamed(false) })

	a := newAddressing(&p, &next, cur)
	next.Instances = mergeNamed(cur.Instances, want.Instances, func(i *InstanceSpec) string { return i.Name },
		func(cur, want *InstanceSpec) *InstanceSpec { return m.instance(a, cur, want) },
		func(i *InstanceSpec) bool { return m.keepNamed(i.Enrolled) })
	m.addresses(a, &next, cur)
	if slices.Equal(next.Instances, cur.Instances) {
		next.Instances = cur.Instances
	}
	if !same(next.VSwitches, cur.VSwitches) || !same(next.SecurityGroups, cur.SecurityGroups) || !same(next.Instances, cur.Instances) {
		return &next // and need not be compared
	}
	return share(cur, &next)
}

func (m *merger) immutable(p *path, field string, was, is netip.Prefix, remedy string) {
	m.problems.Add(p.String()+"."+field, "cannot be changed from %s to %s: %s", was, is, remedy)
}

func (m *merger) vswitch(parent *path, cur, want *VSwitchSpec) *VSwitchSpec {
	next := *want
	if cur == nil {
		// Two random IDs that begin alike would generate the same link; a few more draws end that.
		for range 16 {
			next.ID = m.opt.newID(prefixVSwitch)
			if link := next.LinkName(); next.Attach.Bridge != "" || next.Attach.Interface != "" || !next.HasLink() || !m.links[link] {
				break
			}
		}
		m.links[next.LinkName()] = true
		return &next
	}
	next.ID = cur.ID
	p := path{parent, "vswitches", want.Name}
	const remedy = "the range of a vswitch is fixed; make another vswitch and move its instances there"
	if next.CIDRBlock.IsValid() && next.CIDRBlock != cur.CIDRBlock {
		m.immutable(&p, "cidrBlock", cur.CIDRBlock, next.CIDRBlock, remedy)
	}
	if is, was := next.IPv6CIDRBlock, cur.IPv6CIDRBlock; is.IsValid() && was.IsValid() && is != was {
		m.immutable(&p, "ipv6CidrBlock", was, is, remedy)
	}
	return share(cur, &next)
}

// groups merges the security groups; the group "default" is always there.
func (m *merger) groups(cur, want *VPCSpec) []*GroupSpec {
	list := want.SecurityGroups
	isDefault := func(g *GroupSpec) bool { return g.Name == DefaultGroup }
	if !slices.ContainsFunc(list, isDefault) && (m.opt.Prune || !slices.ContainsFunc(cur.SecurityGroups, isDefault)) {
		empty := &GroupSpec{Name: DefaultGroup, Type: GroupBasic, InnerAccess: Accept}
		list = append(slices.Clip(list), empty)
	}
	return mergeNamed(cur.SecurityGroups, list, func(g *GroupSpec) string { return g.Name }, m.group,
		func(*GroupSpec) bool { return m.keepNamed(false) })
}

func (m *merger) group(cur, want *GroupSpec) *GroupSpec {
	next := *want
	if cur == nil {
		cur = &GroupSpec{ID: m.opt.newID(prefixSecurityGroup)}
	}
	next.ID = cur.ID
	next.Rules = keepIDs(cur.Rules, want.Rules, (*RuleSpec).id, ruleValues, func() string { return m.opt.newID(prefixRule) })
	if sameElements(next.Rules, cur.Rules) {
		next.Rules = cur.Rules // the order of rules says nothing
	}
	return share(cur, &next)
}

func (m *merger) prefixList(cur, want *PrefixListSpec) *PrefixListSpec {
	next := *want
	if cur == nil {
		next.ID = m.opt.newID(prefixPrefixList)
		return &next
	}
	next.ID = cur.ID
	return share(cur, &next)
}

func (m *merger) acl(cur, want *ACLSpec) *ACLSpec {
	next := *want
	if cur == nil {
		cur = &ACLSpec{ID: m.opt.newID(prefixNetworkACL)}
	}
	next.ID = cur.ID
	newID := func() string { return m.opt.newID(prefixEntry) }
	next.Ingress = keepIDs(cur.Ingress, want.Ingress, (*EntrySpec).id, entryValues, newID)
	next.Egress = keepIDs(cur.Egress, want.Egress, (*EntrySpec).id, entryValues, newID)
	return share(cur, &next)
}

func (m *merger) zone(cur, want *PrivateZoneSpec) *PrivateZoneSpec {
	next := *want
	if cur == nil {
		next.ID = m.opt.newID(prefixZone)
		return &next
	}
	next.ID = cur.ID
	if sameValues(next.Records, cur.Records) {
		next.Records = cur.Records // the order of records says nothing
	}
	return share(cur, &next)
}

func (m *merger) instance(a *addressing, cur, want *InstanceSpec) *InstanceSpec {
	next := *want
	if cur == nil {
		cur = &InstanceSpec{ID: m.opt.newID(prefixInstance)}
	}
	next.ID = cur.ID
	next.Interfaces = make([]*InterfaceSpec, len(want.Interfaces))
	for i, w := range want.Interfaces {
		n := *w
		n.ID = ""
		if len(n.IPv6Addresses) > 0 && n.IPv6AddressCount != nil {
			p := path{&path{a.path, "instances", want.Name}, "interfaces", n.MAC.String()}
			m.problems.Add(p.String()+".ipv6AddressCount", bothIPv6)
			n.IPv6AddressCount = nil
		}
		var before *InterfaceSpec
		if j := slices.IndexFunc(cur.Interfaces, func(c *InterfaceSpec) bool { return c.MAC == n.MAC }); j >= 0 {
			before = cur.Interfaces[j]
			n.ID = before.ID
		}
		if n.ID == "" || slices.ContainsFunc(next.Interfaces[:i], func(e *InterfaceSpec) bool { return e.ID == n.ID }) {
			n.ID = m.opt.newID(prefixInterface)
		}
		a.keep(&n)
		next.Interfaces[i] = share(before, &n)
	}
	if len(next.Interfaces) == 0 {
		next.Interfaces = nil
	}
	if slices.Equal(next.Interfaces, cur.Interfaces) {
		next.Interfaces = cur.Interfaces
	}
	return share(cur, &next)
}

// keepIDs gives the wanted values the IDs of the current ones: of the one with the same ID if there is one (an edit of
// that rule), else of one with the same value in the first sense of values, else in the next; among equal values in
// order. What is left is new. A value that has not changed is the current object itself.
func keepIDs[T any](current, want []*T, id func(*T) *string, values []func(*T) string, newID func() string) []*T {
	if len(want) == 0 {
		return nil
	}
	matched := make([]*T, len(want)) // with what of current
	free := map[*T]bool{}
	byID := map[string]*T{}
	for _, c := range current {
		free[c] = true
		byID[*id(c)] = c
	}
	for i, w := range want {
		if c := byID[*id(w)]; c != nil && free[c] {
			matched[i] = c
			delete(free, c)
		}
	}
	for _, value := range values {
		if len(free) == 0 {
			break
		}
		queue := map[string][]*T{}
		for _, c := range current {
			if free[c] {
				k := value(c)
				queue[k] = append(queue[k], c)
			}
		}
		for i, w := range want {
			if matched[i] != nil {
				continue
			}
			k := value(w)
			if q := queue[k]; len(q) > 0 {
				matched[i], queue[k] = q[0], q[1:]
				delete(free, q[0])
			}
		}
	}
	out := make([]*T, len(want))
	for i, w := range want {
		c := matched[i]
		if c != nil && values[0](c) == values[0](w) {
			out[i] = c
			continue
		}
		n := *w
		if c != nil {
			*id(&n) = *id(c)
		} else {
			*id(&n) = newID()
		}
		out[i] = &n
	}
	if slices.Equal(out, current) {
		return current
	}
	return out
}

func (r *RuleSpec) id() *string  { return &r.ID }
func (e *EntrySpec) id() *string { return &e.ID }

// ruleValues are the senses in which rules have the same value: all of it; what it matches and does.
var ruleValues = []func(*RuleSpec) string{
	func(r *RuleSpec) string { return r.String() },
	func(r *RuleSpec) string {
		c := *r
		c.Priority, c.Description = 0, ""
		return c.String()
	},
}

var entryValues = []func(*EntrySpec) string{
	func(e *EntrySpec) string { return e.String() },
	func(e *EntrySpec) string {
		c := *e
		c.Description = ""
		return c.String()
	},
}

// sameElements reports whether a and b have the same elements in any order.
func sameElements[T comparable](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	count := make(map[T]int, len(a))
	for _, x := range a {
		count[x]++
	}
	for _, x := range b {
		count[x]--
		if count[x] < 0 {
			return false
		}
	}
	return true
}

// sameValues reports whether a and b point to the same values in any order.
func sameValues[T comparable](a, b []*T) bool {
	values := func(list []*T) []T {
		out := make([]T, len(list))
		for i, e := range list {
			out[i] = *e
		}
		return out
	}
	return len(a) == len(b) && sameElements(values(a), values(b))
}
