package firewall

import (
	"slices"

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

// Compiler compiles one snapshot after the other, each from what it knows of the one before: what vpc.Compare finds to differ
// is compiled anew, and all else is taken over. Chains and sets that have not changed are the same ones in both rulesets, also
// where they were compiled anew and came out equal. Its results equal those of Compile byte for byte.
// It must not be used by several goroutines at a time; the rulesets it returns may.
type Compiler struct {
	features Features
	refit    bool // RefuseMidStream is not what it was

	last     *vpc.Snapshot // what all below was compiled from; nil: nothing
	profiles profileTable
	families [2]familyState
}

// NewCompiler returns a compiler without memory.
func NewCompiler(f Features) *Compiler {
	return &Compiler{features: f}
}

// SetFeatures changes what the compiler compiles for.
func (c *Compiler) SetFeatures(f Features) {
	if f == c.features {
		return
	}
	before := c.features
	before.RefuseMidStream = f.RefuseMidStream
	if f != before {
		c.last = nil
	}
	c.features, c.refit = f, true
}

// Compile returns the ruleset of a snapshot, as the function of the same name does.
func (c *Compiler) Compile(s *vpc.Snapshot) (*Ruleset, error) {
	if c.last == nil {
		*c = Compiler{features: c.features, last: vpc.NewSnapshot(&vpc.Spec{}, vpc.Host{}, 0)}
	}
	rs, err := c.follow(s, vpc.Compare(c.last, s))
	c.last, c.refit = s, false
	if err != nil {
		c.last = nil // part of it may be of this snapshot
		return nil, err
	}
	return rs, nil
}

// follow compiles what differs.
func (c *Compiler) follow(s *vpc.Snapshot, d *vpc.Delta) (*Ruleset, error) {
	marks, err := newMarkBits(c.features.MarkMask)
	if err != nil {
		return nil, err
	}
	width := marks.width
	if !c.features.MapMark {
		width = 32 // profiles are found by address
	}
	moved, err := c.profiles.update(d, width)
	if err != nil {
		return nil, err
	}
	c.recompileGroups(s, d)
	rs := &Ruleset{Revision: s.Revision}
	for i, f := range vpc.Families() {
		st := &c.families[i]
		b := &builder{c: c, s: s, f: f, feat: c.features, marks: marks, st: st}
		if err := st.update(b, d, moved); err != nil {
			return nil, err
		}
		rs.Families[i] = st.tables
		rs.Sets = append(rs.Sets, st.sets...) // gh4-… comes before gh6-…
	}
	return rs, nil
}
