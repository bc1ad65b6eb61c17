package reconcile

import (
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
	narrow string                      // for iptables-restore: accepts that end; before everything else
	write  string                      // for iptables-restore: all chains that differ
	wrote  map[string][]firewall.Chain // by table: those chains
	tables []tablePlan
}

// tablePlan is what has to be done to one table besides its chains' contents.
type tablePlan struct {
	name   string
	hooks  []firewall.Hook // all that it shall have
	have   []iptables.Hook // all that it has
	unhook []iptables.Hook // those that it shall not have
	stale  []string        // chains that it shall not have
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

// planFamily compares what the kernel has with what it shall have. before is what was in force, as far as that is known.
func planFamily(have iptables.State, want, before firewall.Tables) *familyPlan {
	p := &familyPlan{family: want.Family, wrote: map[string][]firewall.Chain{}}
	var narrow, write strings.Builder
	for _, t := range want.Tables {
		there := tableOf(have, t.Name)
		var changed []firewall.Chain
		for _, c := range t.Chains {
			if hashes, ok := there.Chains[c.Name]; !ok || !slices.Equal(hashes, c.Hashes(want.Family)) {
				changed = append(changed, c)
			}
		}
		if len(changed) > 0 {
			p.wrote[t.Name] = changed
			restoreText(&write, want.Family, t.Name, changed)
		}
		if t.Name == accepting {
			restoreText(&narrow, want.Family, t.Name, narrowed(changed, chainsOf(before, t.Name), want.Family))
		}
		p.tables = append(p.tables, planTable(there, t))
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if !slices.ContainsFunc(want.Tables, func(t firewall.Table) bool { return t.Name == name }) {
			p.tables = append(p.tables, planTable(have[name], firewall.Table{Name: name}))
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

// narrowed returns the changed chains that lose an accept, without the accepts that they gain.
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

// restoreText appends one table's transaction: every chain is emptied, or made, and filled anew.
func restoreText(b *strings.Builder, f vpc.Family, table string, chains []firewall.Chain) {
	if len(chains) == 0 {
		return
	}
	b.WriteString("*" + table + "\n")
	for _, c := range chains {
		b.WriteString(":" + c.Name + " - [0:0]\n")
	}
	for _, c := range chains {
		for _, l := range c.Lines(f) {
			b.WriteString(l + "\n")
		}
	}
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
		p := planFamily(k.tables[want.Family], want, firewall.Tables{})
		for _, t := range p.tables {
			at := fmt.Sprintf("%s %s ", want.Family, t.name)
			for _, c := range p.wrote[t.name] {
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
