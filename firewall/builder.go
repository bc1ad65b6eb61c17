package firewall

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"gatehouse/vpc"
)

// builder puts a part of one family's chains together.
type builder struct {
	c     *Compiler
	s     *vpc.Snapshot
	f     vpc.Family
	feat  Features
	marks markBits
	st    *familyState // what is there already
	flat  int          // how often the fan-out of range trees is doubled, so that chains are not too deep

	switches  []*vpc.VSwitch // those with a link here, by the link's name
	ranged    []*vpc.VSwitch // those of them that have a range in the family
	linkNames []string
	byLink    map[string]*vpc.VSwitch

	tables map[string]map[string]Chain
	hooks  map[string][]Hook
	wanted map[string]bool // IDs of groups and prefix lists whose sets some rule asks
	err    error
}

func familyIndex(f vpc.Family) int {
	if f == vpc.IPv6 {
		return 1
	}
	return 0
}

// links collects the vSwitches that have a link here.
func (b *builder) links() {
	b.byLink = map[string]*vpc.VSwitch{}
	for _, w := range b.s.VSwitches {
		name := w.LinkName()
		if name == "" {
			continue
		}
		if other := b.byLink[name]; other != nil {
			b.fail(fmt.Errorf("vswitches %s and %s are on the same link %s", other.ID, w.ID, name))
			continue
		}
		b.byLink[name] = w
		b.linkNames = append(b.linkNames, name)
	}
	slices.Sort(b.linkNames)
	for _, n := range b.linkNames {
		w := b.byLink[n]
		b.switches = append(b.switches, w)
		if w.Prefix(b.f).IsValid() {
			b.ranged = append(b.ranged, w)
		}
	}
	for _, n := range slices.Concat(b.linkNames, b.s.Host.Uplinks) {
		if strings.HasSuffix(n, "+") {
			b.fail(fmt.Errorf("link %s: iptables cannot name a link that ends in a plus sign", n))
		}
	}
}

func (b *builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// chain adds a chain of ours to a table.
func (b *builder) chain(table, name string, rules ...Rule) {
	b.feat.bare(rules)
	b.add(table, Chain{Name: name, Rules: rules, text: &chainText{}})
}

func (b *builder) add(table string, c Chain) {
	t := b.tables[table]
	if t == nil {
		if b.tables == nil {
			b.tables = map[string]map[string]Chain{}
		}
		t = map[string]Chain{}
		b.tables[table] = t
	}
	if _, twice := t[c.Name]; twice {
		b.fail(fmt.Errorf("table %s would have two chains named %s", table, c.Name))
	}
	if len(c.Name) > maxChainName {
		b.fail(fmt.Errorf("chain %s: its name has more than %d characters", c.Name, maxChainName))
	}
	t[c.Name] = c
}

// hook makes a kernel chain lead into one of ours.
func (b *builder) hook(table, chain, target string) {
	if b.hooks == nil {
		b.hooks = map[string][]Hook{}
	}
	b.hooks[table] = append(b.hooks[table], Hook{Chain: chain, Target: target})
}

// needSet makes sure that the set of a group or prefix list exists. A set exists exactly when some rule asks it, and a
// change of members never changes rules.
func (b *builder) needSet(id string) {
	if b.wanted == nil {
		b.wanted = map[string]bool{}
	}
	b.wanted[id] = true
}

// part is some of one family's chains.
type part struct {
	chains  map[string][]Chain             // by table, each list by name
	hooks   map[string][]Hook              // by table
	reasons map[string]map[vpc.Reason]bool // by table: for what its rules refuse
	wanted  map[string]bool                // IDs of groups and prefix lists whose sets its rules ask
}

// build makes a part anew. Chains that come out as they were stay the same.
func (b *builder) build(into **part, add func(*builder)) {
	b.tables, b.hooks, b.wanted = nil, nil, nil
	add(b)
	before := *into
	p := &part{chains: map[string][]Chain{}, hooks: b.hooks, reasons: map[string]map[vpc.Reason]bool{}, wanted: b.wanted}
	for table, byName := range b.tables {
		list := slices.SortedFunc(maps.Values(byName), func(x, y Chain) int { return strings.Compare(x.Name, y.Name) })
		if before != nil {
			shareChains(list, before.chains[table])
		}
		p.chains[table] = list
		p.reasons[table] = map[vpc.Reason]bool{}
		for i := range list {
			for _, r := range reasonsOf(list[i].Rules) {
				p.reasons[table][r] = true
			}
		}
	}
	*into = p
}

// reasonsOf returns for what the rules refuse by the chain of a reason.
func reasonsOf(rules []Rule) []vpc.Reason {
	var out []vpc.Reason
	for i := range rules {
		if r := &rules[i]; r.Target.Kind == Goto && r.Reason != "" {
			out = append(out, r.Reason)
		}
	}
	return out
}

// shareChains puts the chains of before in the place of equal ones. Both lists are by name.
func shareChains(list, before []Chain) {
	for i := range list {
		for len(before) > 0 && before[0].Name < list[i].Name {
			before = before[1:]
		}
		if len(before) > 0 && before[0].equal(&list[i]) {
			list[i] = before[0]
		}
	}
}

// perLink gives the same rule to every vSwitch link.
func perLink(rules ...Rule) func(string) []Rule {
	return func(string) []Rule { return rules }
}
