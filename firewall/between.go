package firewall

import (
	"cmp"
	"slices"
	"strings"

	"gatehouse/vpc"
)

// Rules and sets are not replaced at the same moment. For most changes that does no harm: an address is judged by the old
// policy a little longer. But the profile of an address is found in two steps, by the mark that a set gives it and by the
// chains that know the mark; while only one of them is new, an address whose profile is new would have no policy and be
// refused, and where a mark has changed hands it would have somebody else's.

// maxDetour is the number of new profiles for which the roots of the dispatch get a rule each. Where more come at once, those
// who get them are refused for the moment.
const maxDetour = 256

// Between returns a ruleset to be put in force before after is, when before is. It is before with one addition: the marks that
// are new in after find their chains too, and those that will mean something else find nobody, so that whatever has them is
// refused for the moment. Then the sets may change, and after them the rules. It returns nil where no mark is new.
func Between(before, after *Ruleset) *Ruleset {
	mid := &Ruleset{Revision: before.Revision, Families: before.Families}
	needed := false
	for i := range mid.Families {
		if t := detour(&before.Families[i], &after.Families[i]); t != nil {
			mid.Families[i].Tables, needed = t, true
		}
	}
	if !needed {
		return nil
	}
	byName := func(x, y Set) int { return strings.Compare(x.Name, y.Name) }
	mid.Sets = slices.Clone(before.Sets)
	for _, s := range after.Sets {
		if _, there := slices.BinarySearchFunc(before.Sets, s, byName); !there {
			mid.Sets = append(mid.Sets, s)
		}
	}
	slices.SortFunc(mid.Sets, byName)
	return mid
}

// detour returns the tables of before with the new marks of after, or nil where it has none.
func detour(before, after *Tables) []Table {
	was, now := mangle(before), mangle(after)
	if was == nil || now == nil || slices.EqualFunc(dispatch(was), dispatch(now), func(x, y Chain) bool { return x.Same(&y) }) {
		return nil
	}
	old, new := profileMarks(was), profileMarks(now)
	if len(old) == 0 {
		return nil // nobody had a policy that could be missed
	}
	var fresh, handed []Mark
	for m, name := range new {
		switch old[m] {
		case name:
		case "":
			fresh = append(fresh, m)
		default:
			handed = append(handed, m)
		}
	}
	if len(fresh)+len(handed) == 0 {
		return nil
	}
	if len(fresh) > maxDetour {
		fresh = nil
	}
	if len(handed) == 0 && onlyMore(before, after) {
		return after.Tables // who has a mark already is judged as before
	}
	marks := append(fresh, handed...)
	slices.SortFunc(marks, func(a, b Mark) int { return cmp.Compare(a.Value, b.Value) })

	var more []Chain
	for _, c := range now {
		if chainNamed(was, c.Name) == nil {
			more = append(more, c)
		}
	}
	tables := slices.Clone(before.Tables)
	t := &tables[slices.IndexFunc(tables, func(t Table) bool { return t.Name == "mangle" })]
	t.Chains = merged([][]Chain{slices.Clone(was), more})
	for _, stage := range []struct{ root, profile string }{{chainEgress, chainProfileEg}, {chainIngress, chainProfileIn}} {
		var head []Rule
		for _, m := range marks {
			r := Rule{Match: Match{Mark: &m}, Target: Target{Kind: Goto, Chain: stage.profile + new[m]}}
			if old[m] != "" {
				r = refuse(r.Match, vpc.ReasonUnknownAddress)
			}
			head = append(head, r)
		}
		root := chainNamed(t.Chains, stage.root)
		*root = Chain{Name: root.Name, Rules: append(head, root.Rules...), text: &chainText{}}
	}
	return tables
}

// onlyMore reports whether the tables of after are those of before with chains added, and with nothing changed but how profiles
// are found.
func onlyMore(before, after *Tables) bool {
	if len(before.Tables) != len(after.Tables) {
		return false
	}
	for i := range before.Tables {
		was, now := &before.Tables[i], &after.Tables[i]
		if was.Name != now.Name || !slices.Equal(was.Hooks, now.Hooks) {
			return false
		}
		left := now.Chains
		for j := range was.Chains {
			c := &was.Chains[j]
			for len(left) > 0 && left[0].Name < c.Name {
				left = left[1:]
			}
			if len(left) == 0 || left[0].Name != c.Name || !left[0].Same(c) && !inTree(c.Name, chainEgress) && !inTree(c.Name, chainIngress) {
				return false
			}
		}
	}
	return true
}

// inTree reports whether a chain is the root of a tree or a node of it.
func inTree(chain, root string) bool {
	return chain == root || strings.HasPrefix(chain, root+"-")
}

func mangle(t *Tables) []Chain {
	for i := range t.Tables {
		if t.Tables[i].Name == "mangle" {
			return t.Tables[i].Chains
		}
	}
	return nil
}

// chainNamed finds a chain in a list by name.
func chainNamed(list []Chain, name string) *Chain {
	if i, ok := slices.BinarySearchFunc(list, name, func(c Chain, name string) int { return strings.Compare(c.Name, name) }); ok {
		return &list[i]
	}
	return nil
}

// dispatch returns the chains that find the profile of a source.
func dispatch(chains []Chain) []Chain {
	first, _ := slices.BinarySearchFunc(chains, chainEgress, func(c Chain, name string) int { return strings.Compare(c.Name, name) })
	n := slices.IndexFunc(chains[first:], func(c Chain) bool { return !strings.HasPrefix(c.Name, chainEgress) })
	if n < 0 {
		return chains[first:]
	}
	return chains[first : first+n]
}

// profileMarks reads from the dispatch which profile a mark leads to, by the name in its chains.
func profileMarks(chains []Chain) map[Mark]string {
	marks := map[Mark]string{}
	for _, c := range dispatch(chains) {
		for i := range c.Rules {
			r := &c.Rules[i]
			if name, ok := strings.CutPrefix(r.Target.Chain, chainProfileEg); ok && r.Match.Mark != nil {
				marks[*r.Match.Mark] = name
			}
		}
	}
	return marks
}
