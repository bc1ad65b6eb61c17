package firewall

import (
	"fmt"
	"slices"
	"strings"

	"gatehouse/vpc"
)

// Compile returns the ruleset of a snapshot. It depends on nothing else: the same snapshot, however it came about, gives the
// same bytes. The error says why the snapshot cannot be carried out on a host with these features.
func Compile(s *vpc.Snapshot, f Features) (*Ruleset, error) {
	return NewCompiler(f).Compile(s)
}

// Base returns a ruleset that closes the links: nothing that enters by them goes anywhere, and nothing is forwarded to them. It
// is for a gateway that does not know its snapshot yet.
func Base(f Features, links ...string) *Ruleset {
	links = slices.Clone(links)
	slices.Sort(links)
	rs := &Ruleset{}
	for i, family := range vpc.Families() {
		var in, out []Rule
		for _, l := range links {
			in = f.appendDrop(in, Match{In: l}, vpc.ReasonUnknownAddress, "")
			out = f.appendDrop(out, Match{Out: l}, vpc.ReasonUnknownAddress, "")
		}
		rs.Families[i] = Tables{Family: family, Tables: []Table{
			{Name: "raw", Chains: []Chain{{Name: chainRaw, Rules: in}}, Hooks: []Hook{{"PREROUTING", chainRaw}}},
			{Name: "mangle", Chains: []Chain{{Name: chainForward, Rules: out}}, Hooks: []Hook{{"FORWARD", chainForward}}},
		}}
	}
	return rs
}

// IsBase reports whether a chain is one that Base fills. Compile fills them too, and others.
func IsBase(table, chain string) bool {
	return table == "raw" && chain == chainRaw || table == "mangle" && chain == chainForward
}

// Compiler compiles one snapshot after the other and keeps what does not change: the rules of a group whose specification
// is the same object, and the chains of a profile whose groups are. Its results equal those of Compile byte for byte.
// It must not be used by several goroutines at a time; the rulesets it returns may.
type Compiler struct {
	features Features

	groups, lastGroups     map[string]*groupRules    // by group ID
	profiles, lastProfiles map[string]*profileChains // by profile name
}

// NewCompiler returns a compiler without memory.
func NewCompiler(f Features) *Compiler {
	return &Compiler{features: f}
}

// SetFeatures changes what the compiler compiles for.
func (c *Compiler) SetFeatures(f Features) {
	if f.NFLog != c.features.NFLog {
		c.profiles = nil // all that depends on features in what is kept
	}
	c.features = f
}

// Compile returns the ruleset of a snapshot, as the function of the same name does.
func (c *Compiler) Compile(s *vpc.Snapshot) (*Ruleset, error) {
	c.lastGroups, c.groups = c.groups, map[string]*groupRules{}
	c.lastProfiles, c.profiles = c.profiles, map[string]*profileChains{}

	marks, err := newMarkBits(c.features.MarkMask)
	if err != nil {
		return nil, err
	}
	width := marks.width
	if !c.features.MapMark {
		width = 32 // profiles are found by address
	}
	all, err := profiles(s, width)
	if err != nil {
		return nil, err
	}
	rs := &Ruleset{Revision: s.Revision}
	for i, f := range vpc.Families() {
		b := &builder{c: c, s: s, f: f, feat: c.features, marks: marks,
			tables: map[string]map[string]Chain{}, wanted: map[string]bool{}}
		b.profiles = slices.DeleteFunc(slices.Clone(all), func(p *profile) bool { return !p.has(f) })
		b.links()
		b.spoof()
		b.forward()
		b.acls()
		b.groupStages()
		b.input()
		b.filter()
		b.nat()
		b.reasons()
		if b.err != nil {
			return nil, b.err
		}
		rs.Families[i] = Tables{Family: f, Tables: b.finish()}
		sets, err := b.sets()
		if err != nil {
			return nil, err
		}
		rs.Sets = append(rs.Sets, sets...)
	}
	slices.SortFunc(rs.Sets, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	return rs, nil
}

// builder puts one family's tables together.
type builder struct {
	c        *Compiler
	s        *vpc.Snapshot
	f        vpc.Family
	feat     Features
	marks    markBits
	profiles []*profile // those of which somebody has an address of the family, by name

	switches  []*vpc.VSwitch // those with a link here, by the link's name
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
		b.switches = append(b.switches, b.byLink[n])
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
	b.add(table, Chain{Name: name, Rules: rules, text: &chainText{}})
}

func (b *builder) add(table string, c Chain) {
	t := b.tables[table]
	if t == nil {
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

// reasons adds the chains that refuse for a reason, where some rule leads to one.
func (b *builder) reasons() {
	for table, chains := range b.tables {
		needed := map[vpc.Reason]bool{}
		for _, c := range chains {
			for i := range c.Rules {
				if r := &c.Rules[i]; r.Target.Kind == Goto && r.Reason != "" {
					needed[r.Reason] = true
				}
			}
		}
		for r := range needed {
			b.chain(table, reasonChain(r), b.feat.reasonRules(r)...)
		}
	}
}

// tableOrder is the order in which a packet meets the tables.
var tableOrder = []string{"raw", "mangle", "filter", "nat"}

// finish returns the tables with their chains by name.
func (b *builder) finish() []Table {
	var out []Table
	for _, name := range tableOrder {
		chains := b.tables[name]
		if len(chains) == 0 {
			continue
		}
		t := Table{Name: name, Hooks: b.hooks[name], Chains: make([]Chain, 0, len(chains))}
		for _, c := range chains {
			t.Chains = append(t.Chains, c)
		}
		slices.SortFunc(t.Chains, func(a, b Chain) int { return strings.Compare(a.Name, b.Name) })
		out = append(out, t)
	}
	return out
}

// needSet makes sure that the set of a group or prefix list exists. A set exists exactly when some rule asks it, and a
// change of members never changes rules.
func (b *builder) needSet(id string) { b.wanted[id] = true }

// perLink gives the same rule to every vSwitch link.
func perLink(rules ...Rule) func(string) []Rule {
	return func(string) []Rule { return rules }
}
