package firewall

import (
	"fmt"
	"maps"
	"slices"

	"gatehouse/vpc"
)

// familyState is what a Compiler keeps of one family, in parts that different changes make stale.
type familyState struct {
	frame    *part                                // what depends neither on groups nor on interfaces
	bindings map[string]*part                     // who may send what, by vSwitch ID
	dispatch *part                                // finds the profile of an address
	trees    map[vpc.Direction]subtrees[*profile] // the nodes of dispatch
	profiles []*profile                           // those of which somebody has an address of the family, by name
	policies *part                                // the chains of profiles
	refusals map[vpc.Reason][]Chain               // the one chain of a reason
	flat     int                                  // how flat the range trees have to be, see flatten

	tables Tables
	sets   []Set // by name
}

// update brings one family up to date. moved says that profiles have other ids than before.
func (st *familyState) update(b *builder, d *vpc.Delta, moved bool) error {
	b.links()
	frame := st.frame == nil || st.flat > 0 || b.c.refit || d.Host || len(d.VPCs)+len(d.VSwitches)+len(d.PrefixLists)+len(d.NetworkACLs) > 0
	if frame {
		b.build(&st.frame, (*builder).addFrame)
	}
	bindings := st.updateBindings(b, d, frame)
	var profiles []*profile
	if len(b.ranged) > 0 { // else nothing leads to them
		profiles = b.c.profiles.of(b.f)
	}
	others := !slices.Equal(profiles, st.profiles)
	st.profiles = profiles
	dispatch := frame || others || moved || !b.feat.MapMark && len(d.Interfaces) > 0
	if dispatch {
		if st.trees == nil || moved { // another id is another place
			st.trees = map[vpc.Direction]subtrees[*profile]{}
		}
		b.build(&st.dispatch, (*builder).groupStages)
	}
	if b.err != nil {
		return b.err
	}
	sets := frame
	policies := st.policies == nil || others || slices.ContainsFunc(profiles, func(p *profile) bool { return p.fresh })
	if policies {
		before := st.policies
		st.policies = policiesOf(profiles, familyIndex(b.f))
		sets = sets || before == nil || !maps.Equal(before.wanted, st.policies.wanted)
	}
	if frame || bindings || dispatch || policies {
		tables, err := st.assemble(b)
		if err != nil {
			return err
		}
		if frame || bindings || dispatch { // the chains of profiles lead to no others
			if tables, err = st.flatten(b, d, tables); err != nil {
				return err
			}
		}
		st.tables = Tables{Family: b.f, Tables: tables}
	}
	return st.updateSets(b, d, sets, moved)
}

// maxDepth is how deep chains may lead into each other below the kernel's own, by jump or goto: nf_tables allows sixteen with
// it (NFT_JUMP_STACK_SIZE).
const maxDepth = 15

// flatten returns the tables that were put together, or where their chains are too deep for the kernel others with flatter trees
// of ranges. How flat they are depends on nothing but the snapshot.
func (st *familyState) flatten(b *builder, d *vpc.Delta, tables []Table) ([]Table, error) {
	const flattest = 12 // 32,768 ranges in one chain
	for st.flat = 0; ; st.flat++ {
		table, depth := depthOf(tables)
		switch {
		case depth <= maxDepth:
			return tables, nil
		case st.flat == flattest:
			return nil, fmt.Errorf("table %s: chains would lead into each other %d deep, and the kernel allows %d: use fewer, or more regular, ranges and link names",
				table, depth, maxDepth)
		}
		b.flat = st.flat + 1
		b.build(&st.frame, (*builder).addFrame)
		st.updateBindings(b, d, true)
		b.build(&st.dispatch, (*builder).groupStages)
		if b.err != nil {
			return nil, b.err
		}
		var err error
		if tables, err = st.assemble(b); err != nil {
			return nil, err
		}
	}
}

// depthOf returns the table whose chains lead deepest into each other, and how deep that is.
func depthOf(tables []Table) (table string, depth int) {
	for _, t := range tables {
		known := make(map[string]int, len(t.Chains))
		var below func(name string) int
		below = func(name string) int {
			n, ok := known[name]
			if ok {
				return n
			}
			if c := chainNamed(t.Chains, name); c != nil {
				for i := range c.Rules {
					if to := c.Rules[i].Target.Chain; to != "" {
						n = max(n, below(to))
					}
				}
			}
			known[name] = n + 1
			return n + 1
		}
		for _, h := range t.Hooks {
			if n := below(h.Target); n > depth {
				table, depth = t.Name, n
			}
		}
	}
	return table, depth
}

// updateBindings makes the chains of those vSwitches anew whose bindings are rules and differ, or all of them, and reports
// whether there were any.
func (st *familyState) updateBindings(b *builder, d *vpc.Delta, all bool) bool {
	stale := map[string]bool{}
	for _, p := range d.Interfaces {
		if p.Old != nil && p.New != nil && p.Old.VSwitch.ID == p.New.VSwitch.ID && p.Old.SameBindings(p.New) {
			continue
		}
		for _, n := range []*vpc.Interface{p.Old, p.New} {
			if n != nil && (!b.bindBySet(n.VSwitch) || b.f == vpc.IPv6 && len(n.IPv6Prefixes) > 0) {
				stale[n.VSwitch.ID] = true
			}
		}
	}
	if !all && len(stale) == 0 {
		return false
	}
	next := make(map[string]*part, len(b.switches))
	for _, w := range b.switches {
		next[w.ID] = st.bindings[w.ID]
		if all || stale[w.ID] || next[w.ID] == nil {
			p := next[w.ID]
			b.build(&p, func(b *builder) { b.spoofSwitch(w) })
			next[w.ID] = p
		}
	}
	st.bindings = next
	return true
}

// addFrame adds all that is not about groups or bindings.
func (b *builder) addFrame() {
	b.spoof()
	b.forward()
	b.acls()
	b.input()
	b.filter()
	b.nat()
	b.clamp()
}

// policiesOf lists the chains of profiles.
func policiesOf(profiles []*profile, fi int) *part {
	list := make([]Chain, 0, 2*len(profiles))
	p := &part{reasons: map[string]map[vpc.Reason]bool{"mangle": {}}, wanted: map[string]bool{}}
	for _, dir := range []vpc.Direction{vpc.Ingress, vpc.Egress} { // GH-I-… comes before GH-O-…
		for _, pr := range profiles {
			list = append(list, pr.chains.chains[fi][slices.Index(directions[:], dir)])
		}
	}
	for _, pr := range profiles {
		for _, r := range pr.chains.reasons[fi] {
			p.reasons["mangle"][r] = true
		}
		for _, id := range pr.chains.sets[fi] {
			p.wanted[id] = true
		}
	}
	p.chains = map[string][]Chain{"mangle": list}
	return p
}

// tableOrder is the order in which a packet meets the tables.
var tableOrder = []string{"raw", "mangle", "filter", "nat"}

// assemble puts the tables together from the parts. A table that comes out as it was stays the same.
func (st *familyState) assemble(b *builder) ([]Table, error) {
	var out []Table
	for _, name := range tableOrder {
		var lists [][]Chain
		needed := map[vpc.Reason]bool{}
		parts := append(slices.Collect(maps.Values(st.bindings)), st.frame, st.dispatch, st.policies)
		for _, p := range parts {
			lists = append(lists, p.chains[name])
			for r := range p.reasons[name] {
				needed[r] = true
			}
		}
		for r := range needed {
			lists = append(lists, st.refusal(b, r))
		}
		t := Table{Name: name, Hooks: st.frame.hooks[name], Chains: merged(lists)}
		if len(t.Chains) == 0 {
			continue
		}
		for i := 1; i < len(t.Chains); i++ {
			if t.Chains[i].Name == t.Chains[i-1].Name {
				return nil, fmt.Errorf("table %s would have two chains named %s", name, t.Chains[i].Name)
			}
		}
		for _, before := range st.tables.Tables {
			if before.Name == name && slices.EqualFunc(before.Chains, t.Chains, func(x, y Chain) bool { return x.Same(&y) }) {
				t.Chains = before.Chains
			}
		}
		out = append(out, t)
	}
	return out, nil
}

// refusal returns the chain of a reason.
func (st *familyState) refusal(b *builder, r vpc.Reason) []Chain {
	if st.refusals == nil {
		st.refusals = map[vpc.Reason][]Chain{}
	}
	if st.refusals[r] == nil {
		st.refusals[r] = []Chain{{Name: reasonChain(r), Rules: b.feat.reasonRules(r), text: &chainText{}}}
	}
	return st.refusals[r]
}

// merged merges lists by name into one.
func merged(lists [][]Chain) []Chain {
	for len(lists) > 1 { // the shorter ones first: most have a single chain
		slices.SortStableFunc(lists, func(a, b []Chain) int { return len(a) - len(b) })
		a, b := lists[0], lists[1]
		out := make([]Chain, 0, len(a)+len(b))
		for len(a) > 0 && len(b) > 0 {
			if a[0].Name <= b[0].Name {
				out, a = append(out, a[0]), a[1:]
			} else {
				out, b = append(out, b[0]), b[1:]
			}
		}
		lists[1] = append(append(out, a...), b...)
		lists = lists[1:]
	}
	return lists[0]
}
