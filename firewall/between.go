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

// maxDetour is the number of profiles that end for which the roots of the dispatch get a rule each. Where more end at once,
// those who leave them are refused for the moment.
const maxDetour = 256

// Between returns a ruleset to be put in force before after does, when before is: in it every address still has the mark of
// before, and both rulesets' marks find their chains. Marks that mean something else in after find nobody, and what has them
// is refused for the moment. It returns nil where no address can be caught between the two: no mark is new.
func Between(before, after *Ruleset) *Ruleset {
	mid := &Ruleset{Revision: after.Revision, Families: after.Families, Sets: after.Sets}
	needed := false
	for i := range mid.Families {
		if t := detour(&before.Families[i], &after.Families[i]); t != nil {
			mid.Families[i].Tables, needed = t, true
		}
	}
	if !needed {
		return nil
	}
	mid.Sets = slices.Clone(after.Sets)
	for i := range mid.Sets {
		s := &mid.Sets[i]
		if s.Name != setName(s.Family, setProfiles) {
			continue
		}
		if j, ok := slices.BinarySearchFunc(before.Sets, s.Name, func(x Set, name string) int { return strings.Compare(x.Name, name) }); ok {
			*s = before.Sets[j]
		}
	}
	return mid
}

// detour returns the tables of after with the marks of before, or nil where after knows no mark that before does not.
func detour(before, after *Tables) []Table {
	was, now := mangle(before), mangle(after)
	if was == nil || now == nil {
		return nil
	}
	old, new := profileMarks(was), profileMarks(now)
	fresh := false
	for m, chain := range new {
		fresh = fresh || old[m] != chain
	}
	if !fresh {
		return nil
	}
	var ended, handed []Mark
	for m, chain := range old {
		switch new[m] {
		case chain:
		case "":
			ended = append(ended, m)
		default:
			handed = append(handed, m)
		}
	}
	if len(ended) > maxDetour {
		ended = nil
	}
	ended = append(ended, handed...)
	slices.SortFunc(ended, func(a, b Mark) int { return cmp.Compare(a.Value, b.Value) })

	tables := slices.Clone(after.Tables)
	t := &tables[slices.IndexFunc(tables, func(t Table) bool { return t.Name == "mangle" })]
	lists := [][]Chain{slices.Clone(t.Chains)}
	for _, stage := range []struct{ root, profile string }{{chainEgress, chainProfileEg}, {chainIngress, chainProfileIn}} {
		var head []Rule
		for _, m := range ended {
			mark, name := m, stage.profile+old[m]
			r := Rule{Match: Match{Mark: &mark}, Target: Target{Kind: Goto, Chain: name}}
			if new[m] != "" { // it changes hands
				r = refuse(r.Match, vpc.ReasonUnknownAddress)
			}
			head = append(head, r)
			if c := chainNamed(was, name); c != nil && chainNamed(now, name) == nil {
				lists = append(lists, []Chain{*c})
			}
		}
		root := chainNamed(lists[0], stage.root)
		*root = Chain{Name: root.Name, Rules: append(head, root.Rules...), text: &chainText{}}
	}
	t.Chains = merged(lists)
	return tables
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

// profileMarks reads from the dispatch which profile a mark leads to, by the name in its chains.
func profileMarks(chains []Chain) map[Mark]string {
	marks := map[Mark]string{}
	first, _ := slices.BinarySearchFunc(chains, chainEgress, func(c Chain, name string) int { return strings.Compare(c.Name, name) })
	for _, c := range chains[first:] {
		if !strings.HasPrefix(c.Name, chainEgress) {
			break
		}
		for i := range c.Rules {
			r := &c.Rules[i]
			if name, ok := strings.CutPrefix(r.Target.Chain, chainProfileEg); ok && r.Match.Mark != nil {
				marks[*r.Match.Mark] = name
			}
		}
	}
	return marks
}
