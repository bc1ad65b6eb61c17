package reconcile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"gatehouse/firewall"
	"gatehouse/firewall/ipset"
	"gatehouse/firewall/iptables"
	"gatehouse/vpc"
)

// accepting is the table whose rules admit what others might drop. It loses rules before the other tables change, and gains
// them afterwards.
const accepting = "filter"

// kernel is what the kernel carries of ours, as it was read or as we left it.
type kernel struct {
	sets   map[string]firewall.Set
	tables map[vpc.Family]iptables.State
}

// empty reports whether no chain of ours is in the kernel.
func (k *kernel) empty() bool {
	for _, st := range k.tables {
		for _, t := range st {
			if len(t.Chains) > 0 {
				return false
			}
		}
	}
	return true
}

// bare reports whether no chain of ours is in the kernel but those that Close fills.
func (k *kernel) bare() bool {
	for _, st := range k.tables {
		for name, t := range st {
			for chain := range t.Chains {
				if !firewall.IsBase(name, chain) {
					return false
				}
			}
		}
	}
	return true
}

// familyPlan is what has to be written in one family.
type familyPlan struct {
	family vpc.Family
	narrow string // for iptables-restore: accepts that end; before everything else
	write  string // for iptables-restore: all chains that differ
	tables []tablePlan
}

// tablePlan is what has to be done to one table.
type tablePlan struct {
	name    string
	changed []firewall.Chain          // that differ, or are not there
	was     map[string]firewall.Chain // by name, those of them that the kernel certainly has just like that
	stale   []string                  // chains that it shall not have
	hooks   []firewall.Hook           // all that it shall have
	have    []iptables.Hook           // all that it has
	unhook  []iptables.Hook           // those that it shall not have
}

// hooked reports whether every hook is as it should be.
func (t tablePlan) hooked() bool {
	for _, h := range t.hooks {
		if !(&iptables.Table{Hooks: t.have}).Hooked(h.Chain, h.Target) {
			return false
		}
	}
	return true
}

// rehooked reports whether hooks are to be changed.
func (t tablePlan) rehooked() bool { return !t.hooked() || len(t.unhook) > 0 }

// planFamily compares what the kernel has with what it shall have. before is what was in force, as far as that is known.
func planFamily(have iptables.State, want, before firewall.Tables) *familyPlan {
	return newFamilyPlan(want.Family, planTables(have, want), before)
}

// planTables compares the tables of a family with what the kernel has.
func planTables(have iptables.State, want firewall.Tables) []tablePlan {
	var plans []tablePlan
	for _, t := range want.Tables {
		there := tableOf(have, t.Name)
		p := planTable(there, t)
		for _, c := range t.Chains {
			if hashes, ok := there.Chains[c.Name]; !ok || !c.HasHashes(want.Family, hashes) {
				p.changed = append(p.changed, c)
			}
		}
		plans = append(plans, p)
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if !slices.ContainsFunc(want.Tables, func(t firewall.Table) bool { return t.Name == name }) {
			plans = append(plans, planTable(have[name], firewall.Table{Name: name}))
		}
	}
	return plans
}

// followFamily compares the tables that the kernel is known to have with what it shall have. Those whose hooks are others, see
// otherHooks, were read. Only where what it has is certain can single rules be written, by their places.
func followFamily(have, want firewall.Tables, read iptables.State, certain bool) *familyPlan {
	others := otherHooks(have, want)
	var differ firewall.Tables
	differ.Family = want.Family
	var plans []tablePlan
	for _, t := range want.Tables {
		if slices.Contains(others, t.Name) {
			differ.Tables = append(differ.Tables, t)
			continue
		}
		p := tablePlan{name: t.Name, was: map[string]firewall.Chain{}}
		old, new := chainsOf(have, t.Name), t.Chains
		for len(old)+len(new) > 0 {
			switch {
			case len(new) == 0 || len(old) > 0 && old[0].Name < new[0].Name:
				p.stale = append(p.stale, old[0].Name)
				old = old[1:]
				continue
			case len(old) == 0 || old[0].Name > new[0].Name:
				p.changed = append(p.changed, new[0])
			default:
				if !old[0].Equal(&new[0], want.Family) {
					p.changed = append(p.changed, new[0])
					if certain && t.Name != accepting { // which may be narrowed first
						p.was[old[0].Name] = old[0]
					}
				}
				old = old[1:]
			}
			new = new[1:]
		}
		plans = append(plans, p)
	}
	plans = append(plans, planTables(read, differ)...)
	slices.SortStableFunc(plans, func(a, b tablePlan) int { return cmp.Compare(order(a.name), order(b.name)) })
	return newFamilyPlan(want.Family, plans, have)
}

// order is the place of a table among those of a family.
func order(table string) int { return slices.Index(iptables.Tables(), table) }

// otherHooks names the tables that have other hooks in one of two rulesets than in the other.
func otherHooks(a, b firewall.Tables) []string {
	var names []string
	for _, name := range iptables.Tables() {
		if !slices.Equal(hooksOf(a, name), hooksOf(b, name)) {
			names = append(names, name)
		}
	}
	return names
}

func hooksOf(ts firewall.Tables, table string) []firewall.Hook {
	for _, t := range ts.Tables {
		if t.Name == table {
			return t.Hooks
		}
	}
	return nil
}

// differentSets compares two lists of sets, both by name: the sets to write with what is there of them, and the names of
// those that are not wanted any more.
func differentSets(old, new []firewall.Set) (have map[string]firewall.Set, want []firewall.Set, stale []string) {
	have = map[string]firewall.Set{}
	for len(old)+len(new) > 0 {
		switch {
		case len(new) == 0 || len(old) > 0 && old[0].Name < new[0].Name:
			stale = append(stale, old[0].Name)
			old = old[1:]
			continue
		case len(old) == 0 || old[0].Name > new[0].Name:
			want = append(want, new[0])
		default:
			if !old[0].Same(&new[0]) {
				have[old[0].Name] = old[0]
				want = append(want, new[0])
			}
			old = old[1:]
		}
		new = new[1:]
	}
	return have, want, stale
}

// newFamilyPlan puts what tables need into words for iptables-restore.
func newFamilyPlan(f vpc.Family, tables []tablePlan, before firewall.Tables) *familyPlan {
	p := &familyPlan{family: f, tables: tables}
	var narrow, write strings.Builder
	for _, t := range tables {
		restoreText(&write, f, t.name, t.changed, t.was)
		if t.name == accepting {
			restoreText(&narrow, f, t.name, narrowed(t.changed, chainsOf(before, t.name), f), nil)
		}
	}
	p.narrow, p.write = narrow.String(), write.String()
	return p
}

func tableOf(st iptables.State, name string) *iptables.Table {
	if t := st[name]; t != nil {
		return t
	}
	return &iptables.Table{}
}

func planTable(have *iptables.Table, want firewall.Table) tablePlan {
	p := tablePlan{name: want.Name, hooks: want.Hooks, have: have.Hooks}
	for _, h := range have.Hooks {
		if !slices.Contains(want.Hooks, firewall.Hook{Chain: h.Chain, Target: h.Target}) {
			p.unhook = append(p.unhook, h)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have.Chains)) {
		if _, wanted := slices.BinarySearchFunc(want.Chains, name, byName); !wanted {
			p.stale = append(p.stale, name)
		}
	}
	return p
}

func chainsOf(ts firewall.Tables, table string) []firewall.Chain {
	for _, t := range ts.Tables {
		if t.Name == table {
			return t.Chains
		}
	}
	return nil
}

// byName finds chains, which stand in their table by name.
func byName(c firewall.Chain, name string) int { return strings.Compare(c.Name, name) }

// narrowed returns the changed chains that lose an accept, without the accepts that they gain and without the ways to chains
// that are still to come. The table refuses nothing, so it can only accept less.
func narrowed(changed, before []firewall.Chain, f vpc.Family) []firewall.Chain {
	var out []firewall.Chain
	for _, c := range changed {
		i, existed := slices.BinarySearchFunc(before, c.Name, byName)
		if !existed {
			continue
		}
		had := accepts(before[i], f)
		loses := len(had)
		kept := firewall.Chain{Name: c.Name}
		for _, r := range c.Rules {
			if r.Target.Kind == firewall.Accept {
				if !had[r.Spec(f)] {
					continue
				}
				loses--
			}
			if to := r.Target.Chain; to != "" {
				if _, there := slices.BinarySearchFunc(before, to, byName); !there {
					continue
				}
			}
			kept.Rules = append(kept.Rules, r)
		}
		if loses > 0 {
			out = append(out, kept)
		}
	}
	return out
}

// accepts is the set of rules of a chain that accept.
func accepts(c firewall.Chain, f vpc.Family) map[string]bool {
	specs := map[string]bool{}
	for _, r := range c.Rules {
		if r.Target.Kind == firewall.Accept {
			specs[r.Spec(f)] = true
		}
	}
	return specs
}

// restoreText appends one table's transaction: every chain is emptied, or made, and filled anew; but of one that was there with
// much the same rules only those are written that differ.
func restoreText(b *strings.Builder, f vpc.Family, table string, chains []firewall.Chain, was map[string]firewall.Chain) {
	if len(chains) == 0 {
		return
	}
	b.WriteString("*" + table + "\n")
	var lines []byte
	var anew []string
	for _, c := range chains {
		if old, ok := was[c.Name]; ok {
			if lines, ok = c.AppendEdits(lines, old, f); ok {
				continue
			}
		}
		anew = append(anew, c.Name)
		lines = c.AppendLines(lines, f)
	}
	// iptables-nft keeps chains in a list by name and looks for the place of each from the beginning: the last come first.
	for _, name := range slices.Backward(anew) {
		b.WriteString(":" + name + " - [0:0]\n")
	}
	b.Write(lines)
	b.WriteString("COMMIT\n")
}

// differences names everything in which the kernel is not as the ruleset wants it, in the words of status and logs.
func differences(k *kernel, rs *firewall.Ruleset) []string {
	var names []string
	for _, name := range ipset.Diff(k.sets, rs.Sets) {
		names = append(names, "set "+name)
	}
	for _, name := range ipset.Stale(k.sets, rs.Sets) {
		names = append(names, "stray set "+name)
	}
	for _, want := range rs.Families {
		for _, t := range planTables(k.tables[want.Family], want) {
			at := fmt.Sprintf("%s %s ", want.Family, t.name)
			for _, c := range t.changed {
				names = append(names, at+"chain "+c.Name)
			}
			for _, h := range t.hooks {
				if !(&iptables.Table{Hooks: t.have}).Hooked(h.Chain, h.Target) {
					names = append(names, at+"hook "+h.Chain+" -> "+h.Target)
				}
			}
			for _, h := range t.unhook {
				names = append(names, at+"stray hook "+h.Chain+" -> "+h.Target)
			}
			for _, c := range t.stale {
				names = append(names, at+"stray chain "+c)
			}
		}
	}
	return names
}
