package firewall

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatehouse/vpc"
)

// maxElements is the size that every hash may grow to; it costs nothing until it is used.
const maxElements = "262144"

// updateSets brings the family's sets up to date. others says that rules may ask other sets than before; else only members
// come and go.
func (st *familyState) updateSets(b *builder, d *vpc.Delta, others, moved bool) error {
	next := map[string]*Set{} // that differ; nil: goes
	if others || moved {
		wanted, err := b.wantedSets(d, moved)
		if err != nil {
			return err
		}
		for _, s := range st.sets {
			if wanted[s.Name] == nil {
				next[s.Name] = nil
			}
		}
		for name, w := range wanted {
			if before := st.set(name); before == nil || w.stale {
				s := w.build()
				if before == nil || !before.equal(&s) {
					next[name] = &s
				}
			}
		}
	}
	if len(st.sets) > 0 {
		for name, e := range b.memberEdits(d) {
			before := st.set(name)
			if _, done := next[name]; done || before == nil {
				continue // made from all members, or not asked by any rule
			}
			if members := e.apply(before.Members); !sameMembers(members, before.Members) {
				s := *before
				s.Members = members
				next[name] = &s
			}
		}
	}
	if len(next) == 0 {
		return nil
	}
	sets := slices.Clone(st.sets)
	exchanged := false // not just other members
	for name, s := range next {
		if i, ok := st.find(name); ok && s != nil {
			sets[i] = *s
			continue
		}
		exchanged = true
		if s != nil {
			sets = append(sets, *s)
		}
	}
	if exchanged {
		sets = slices.DeleteFunc(sets, func(s Set) bool { now, differs := next[s.Name]; return differs && now == nil })
		slices.SortFunc(sets, func(x, y Set) int { return strings.Compare(x.Name, y.Name) })
	}
	st.sets = sets
	return nil
}

func (st *familyState) find(name string) (int, bool) {
	return slices.BinarySearchFunc(st.sets, name, func(s Set, name string) int { return strings.Compare(s.Name, name) })
}

// set returns the set of that name, nil if there is none.
func (st *familyState) set(name string) *Set {
	if i, ok := st.find(name); ok {
		return &st.sets[i]
	}
	return nil
}

// wantedSet is a set that rules ask.
type wantedSet struct {
	stale bool // it may be other than before for more than members that come or go
	build func() Set
}

// wantedSets returns the sets that the family's rules ask, by name.
func (b *builder) wantedSets(d *vpc.Delta, moved bool) (map[string]*wantedSet, error) {
	wanted := make(map[string]*wantedSet, len(b.st.sets))
	var err error
	want := func(name string, stale bool, build func() Set) {
		if wanted[name] != nil {
			err = fmt.Errorf("two sets would be named %s", name)
		}
		wanted[name] = &wantedSet{stale, build}
	}
	hash := func(id, typ string, stale bool, members func() []string) {
		want(setName(b.f, id), stale, func() Set { return b.hash(setName(b.f, id), typ, members()) })
	}
	differs := map[string]bool{}
	for _, p := range d.VSwitches {
		if p.New != nil {
			differs[p.New.ID] = true
		}
	}
	for _, p := range d.PrefixLists {
		if p.New != nil {
			differs[p.New.ID] = true
		}
	}
	hash(setVPCs, "hash:net", true, b.vpcRanges)
	hash(setGateways, "hash:ip", true, func() []string { return b.gateways(nil) })
	hash(setLocal, "hash:ip", true, func() []string { return append(b.gateways(nil), b.manyCast()...) })
	done := map[*vpc.VPC]bool{}
	for _, w := range b.switches {
		if !done[w.VPC] {
			done[w.VPC] = true
			hash(setGateways+"-"+key(w.VPC.ID), "hash:ip", true, func() []string { return b.gateways(w.VPC) })
		}
		if w.Prefix(b.f).IsValid() && b.bindBySet(w) {
			want(bindSet(b.f, w), differs[w.ID], func() Set { return b.bindSet(w) })
		}
	}
	if b.feat.MapMark && len(b.ranged) > 0 {
		want(setName(b.f, setProfiles), moved, b.profileSet)
	}
	if b.f == vpc.IPv4 && len(b.st.frame.chains["nat"]) > 0 {
		hash(setNAT, "hash:net", true, b.natRanges)
	}
	lists := make(map[string]*vpc.PrefixList, len(b.s.PrefixLists))
	for _, l := range b.s.PrefixLists {
		lists[l.ID] = l
	}
	ids := maps.Clone(b.st.policies.wanted)
	maps.Copy(ids, b.st.frame.wanted)
	for id := range ids {
		switch g, l := b.s.GroupByID(id), lists[id]; {
		case g != nil:
			want(groupSet(b.f, id), false, func() Set { return b.hash(groupSet(b.f, id), groupType(b.f), b.members(g)) })
		case l != nil:
			hash(id, "hash:net", differs[id], func() []string { return netMembers(l.Entries) })
		default:
			return nil, fmt.Errorf("a rule asks for %s, which is neither a group nor a prefix list", id)
		}
	}
	return wanted, err
}

// setEdits are members that come and go in one set: the new member by its element, "" for one that goes.
type setEdits map[string]string

// memberEdits returns what interfaces that differ change in sets, by the sets' names.
func (b *builder) memberEdits(d *vpc.Delta) map[string]setEdits {
	all := map[string]setEdits{}
	put := func(set, element, member string) {
		if all[set] == nil {
			all[set] = setEdits{}
		}
		all[set][element] = member
	}
	for _, p := range d.Interfaces {
		if p.Old != nil {
			b.memberships(p.Old, func(set, element, _ string) { put(set, element, "") })
		}
	}
	for _, p := range d.Interfaces {
		if p.New != nil {
			b.memberships(p.New, put)
		}
	}
	return all
}

// memberships calls f for every set that an interface is in: with what identifies its member, and the whole member.
func (b *builder) memberships(n *vpc.Interface, f func(set, element, member string)) {
	bind := ""
	if n.VSwitch.HasLink() && b.bindBySet(n.VSwitch) {
		bind = bindSet(b.f, n.VSwitch)
	}
	groups := make([]string, len(n.Groups))
	for i, g := range n.Groups {
		groups[i] = groupSet(b.f, g.ID)
	}
	prof, mark := setName(b.f, setProfiles), ""
	if p := b.c.profiles.byName[profileName(n.Groups)]; p != nil {
		mark = markMember(b.marks.profile(p.id))
	}
	for p := range n.Ranges {
		if vpc.FamilyOf(p.Addr()) != b.f {
			continue
		}
		text := rangeMember(p)
		if bind != "" && p.IsSingleIP() { // rules bind prefixes
			member := text + "," + n.MAC.String()
			f(bind, member, member)
		}
		for _, g := range groups {
			f(g, text, text)
		}
		if b.feat.MapMark {
			f(prof, text, text+mark)
		}
	}
}

// manyEdits is the number of edits from which on it is quicker to sort the members anew.
const manyEdits = 64

// apply returns the members with the edits; the list itself when they change nothing.
func (e setEdits) apply(members []string) []string {
	element := func(m string) string { x, _, _ := strings.Cut(m, " "); return x }
	if len(e) > manyEdits {
		out := make([]string, 0, len(members)+len(e))
		for _, m := range members {
			if _, edited := e[element(m)]; !edited {
				out = append(out, m)
			}
		}
		for _, m := range e {
			if m != "" {
				out = append(out, m)
			}
		}
		slices.Sort(out)
		if slices.Equal(out, members) {
			return members
		}
		return out
	}
	out, own := members, false
	for x, m := range e {
		i, _ := slices.BinarySearch(out, x)
		there := i < len(out) && element(out[i]) == x
		if there && out[i] == m || !there && m == "" {
			continue
		}
		if !own {
			out, own = slices.Clone(out), true
		}
		switch {
		case there && m == "":
			out = slices.Delete(out, i, i+1)
		case there:
			out[i] = m
		default:
			out = slices.Insert(out, i, m)
		}
	}
	return out
}

// hash returns a set of addresses or networks, its members sorted and each once.
func (b *builder) hash(name, typ string, members []string) Set {
	slices.Sort(members)
	return Set{Name: name, Type: typ, Family: b.f, Options: []string{"maxelem", maxElements}, Members: slices.Compact(members)}
}

func (b *builder) vpcRanges() []string {
	var out []string
	for _, v := range b.s.VPCs {
		out = append(out, netMembers(b.ranges(v))...)
	}
	return out
}

// gateways are the gateway addresses that are on a link here, of one VPC or of all.
func (b *builder) gateways(v *vpc.VPC) []string {
	var out []string
	for _, w := range b.switches {
		if g := w.GatewayAddr(b.f); g.IsValid() && (v == nil || v == w.VPC) {
			out = append(out, g.String())
		}
	}
	return out
}

// manyCast are the addresses for many that the kernel takes for its own because of the links' gateway addresses: the first and
// the last of an IPv4 range (RFC 1122 section 3.2.1.3), the first of an IPv6 range (RFC 4291 section 2.6.1).
func (b *builder) manyCast() []string {
	var out []string
	for _, w := range b.ranged {
		p := w.Prefix(b.f)
		out = append(out, p.Masked().Addr().String())
		if b.f == vpc.IPv4 {
			out = append(out, vpc.LastAddr(p).String())
		}
	}
	return out
}

// members are the addresses of a group's members, and the prefixes delegated to them.
func (b *builder) members(g *vpc.SecurityGroup) []string {
	var out []string
	for _, n := range g.Members {
		for p := range n.Ranges {
			if vpc.FamilyOf(p.Addr()) == b.f {
				out = append(out, rangeMember(p))
			}
		}
	}
	return out
}

// rangeMember writes what belongs to an interface as a member of a set: an address, or a prefix.
func rangeMember(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// bindSet holds the addresses of a vSwitch with their MACs.
func (b *builder) bindSet(w *vpc.VSwitch) Set {
	s := Set{Name: bindSet(b.f, w), Type: "hash:ip,mac", Family: b.f, Options: []string{"maxelem", maxElements}}
	if b.f == vpc.IPv4 {
		s.Type = "bitmap:ip,mac"
		s.Options = []string{"range", w.CIDRBlock.Masked().Addr().String() + "-" + vpc.LastAddr(w.CIDRBlock).String()}
	}
	for _, x := range bindings(w, b.f) {
		if x.of.IsSingleIP() {
			s.Members = append(s.Members, x.of.Addr().String()+","+x.mac.String())
		}
	}
	slices.Sort(s.Members)
	return s
}

// profileSet maps every address to the mark of its profile, and all that is nobody's to no mark.
func (b *builder) profileSet() Set {
	s := b.hash(setName(b.f, setProfiles), "hash:net", nil)
	s.Options = append(slices.Clone(s.Options), "skbinfo")
	for _, half := range netMembers([]netip.Prefix{netip.PrefixFrom(unspecified(b.f), 0)}) {
		s.Members = append(s.Members, half+markMember(b.marks.none()))
	}
	marks := map[string]string{} // by profile
	for _, p := range b.st.profiles {
		marks[p.name] = markMember(b.marks.profile(p.id))
	}
	names := map[**vpc.SecurityGroup]string{} // of the profile
	for _, n := range b.s.Interfaces {
		list := groupList(n)
		if names[list] == "" {
			names[list] = profileName(n.Groups)
		}
		for p := range n.Ranges {
			if vpc.FamilyOf(p.Addr()) == b.f {
				s.Members = append(s.Members, rangeMember(p)+marks[names[list]])
			}
		}
	}
	slices.Sort(s.Members)
	return s
}

// markMember is what follows the address in a member of the profile set.
func markMember(m Mark) string {
	mark := " skbmark 0x" + strconv.FormatUint(uint64(m.Value), 16)
	if m.Mask != 0xffffffff { // ipset leaves out a full mask
		mark += "/0x" + strconv.FormatUint(uint64(m.Mask), 16)
	}
	return mark
}

// netMembers writes prefixes as members of hash:net, which has no /0: it takes two halves.
func netMembers(prefixes []netip.Prefix) []string {
	var out []string
	for _, p := range prefixes {
		switch {
		case p.Bits() == 0:
			low := netip.PrefixFrom(p.Addr(), 1).Masked()
			b := low.Addr().AsSlice()
			b[0] |= 0x80
			high, _ := netip.AddrFromSlice(b)
			out = append(out, low.String(), netip.PrefixFrom(high, 1).String())
		case p.IsSingleIP():
			out = append(out, p.Addr().String())
		default:
			out = append(out, p.Masked().String())
		}
	}
	return out
}
