package firewall

import (
	"maps"
	"slices"
	"strings"

	"gatehouse/vpc"
)

// Kernel is what the kernel carries of ours in one family: by table and chain the hashes of the rules, in order.
type Kernel map[string]map[string][]string

// TableDiff is what makes one table of one family match a ruleset.
type TableDiff struct {
	Table  string
	Write  []Chain  // to be written as a whole, whether they exist or not
	Delete []string // names of chains that nothing shall lead to; hooks that lead there must be gone before
}

// Diff returns what to do to the kernel so that it carries the tables: the tables that need something, in the order in
// which a packet meets them. Chains that are equal rule by rule are not touched. Hooks and sets have their own drivers.
func Diff(have Kernel, want Tables) []TableDiff {
	var out []TableDiff
	for _, name := range tableOrder {
		d := TableDiff{Table: name}
		left := maps.Clone(have[name])
		for _, t := range want.Tables {
			if t.Name != name {
				continue
			}
			for _, c := range t.Chains {
				hashes, exists := have[name][c.Name]
				delete(left, c.Name)
				if !exists || !c.HasHashes(want.Family, hashes) {
					d.Write = append(d.Write, c)
				}
			}
		}
		d.Delete = slices.Sorted(maps.Keys(left))
		if len(d.Write)+len(d.Delete) > 0 {
			out = append(out, d)
		}
	}
	return out
}

// Restore returns the input for iptables-restore --noflush that carries out the diff in one transaction.
func (d TableDiff) Restore(f vpc.Family) string {
	var b strings.Builder
	put := func(parts ...string) {
		for _, p := range parts {
			b.WriteString(p)
		}
	}
	put("*", d.Table, "\n")
	for _, c := range d.Write {
		put(":", c.Name, " - [0:0]\n")
	}
	for _, name := range d.Delete {
		put(":", name, " - [0:0]\n") // emptied first: they may lead to each other
	}
	for _, c := range d.Write {
		for _, l := range c.Lines(f) {
			put(l, "\n")
		}
	}
	for _, name := range d.Delete {
		put("-X ", name, "\n")
	}
	put("COMMIT\n")
	return b.String()
}

// Text returns the whole ruleset for reading and comparing: the sets in the syntax of ipset restore, then for each family
// its hooks as comments and its tables in the syntax of iptables-restore. Equal rulesets have equal texts.
func (rs *Ruleset) Text() string {
	var b strings.Builder
	for _, s := range rs.Sets {
		s.writeTo(&b)
	}
	for _, family := range rs.Families {
		b.WriteString("# " + family.Family.String() + "\n")
		for _, t := range family.Tables {
			for _, h := range t.Hooks {
				b.WriteString("# -I " + h.Chain + " 1 -j " + h.Target + "\n")
			}
			b.WriteString(TableDiff{Table: t.Name, Write: t.Chains}.Restore(family.Family))
		}
	}
	return b.String()
}

func (s Set) writeTo(b *strings.Builder) {
	b.WriteString("create " + s.Name + " " + s.Type)
	if strings.HasPrefix(s.Type, "hash:") {
		if s.Family == vpc.IPv6 {
			b.WriteString(" family inet6")
		} else {
			b.WriteString(" family inet")
		}
	}
	for _, o := range s.Options {
		b.WriteString(" " + o)
	}
	b.WriteString("\n")
	for _, m := range s.Members {
		b.WriteString("add " + s.Name + " " + m + "\n")
	}
}
