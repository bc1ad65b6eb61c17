package firewall

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gatehouse/vpc"
)

var update = flag.Bool("update", false, "write the golden files")

func compile(t testing.TB, spec *vpc.Spec, f Features) *Ruleset {
	t.Helper()
	rs, err := Compile(snapshot(spec), f)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// cases are the rulesets that the structural tests and the real iptables look at.
func cases() map[string]struct {
	spec *vpc.Spec
	f    Features
} {
	type c = struct {
		spec *vpc.Spec
		f    Features
	}
	noIPMAC6 := everything()
	noIPMAC6.IPMAC6, noIPMAC6.RefuseMidStream = false, false
	return map[string]c{
		"empty":          {&vpc.Spec{}, everything()},
		"lab":            {lab(), everything()},
		"lab-noipmac6":   {lab(), noIPMAC6},
		"lab-bare":       {lab(), bare()},
		"lab-translated": {translated(), everything()},
		"crowd":          {crowded(40, 5), everything()},
		"crowd-bare":     {crowded(40, 5), bare()},
		"crowd-noipmac6": {crowded(40, 5), noIPMAC6},
	}
}

func TestGolden(t *testing.T) {
	for _, name := range []string{"empty", "lab", "lab-noipmac6", "lab-bare", "lab-translated"} {
		t.Run(name, func(t *testing.T) {
			c := cases()[name]
			got := compile(t, c.spec, c.f).Text()
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("the compiled text differs from %s (see it with -update)\n%s", file, firstDifference(got, string(want)))
			}
		})
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return "got  " + g[i] + "\nwant " + w[i]
		}
	}
	return "one is the beginning of the other"
}

// Every jump leads somewhere, every chain is reached, every set that a rule asks exists, and every set is asked.
func TestRulesetsAreClosed(t *testing.T) {
	for name, c := range cases() {
		t.Run(name, func(t *testing.T) {
			rs := compile(t, c.spec, c.f)
			sets := map[string]bool{}
			for _, s := range rs.Sets {
				sets[s.Name] = false
				if len(s.Name) > 29 {
					t.Errorf("set %s: its name has %d characters", s.Name, len(s.Name))
				}
				if !slices.IsSorted(s.Members) || len(slices.Compact(slices.Clone(s.Members))) != len(s.Members) {
					t.Errorf("set %s: its members are not sorted, or not each once", s.Name)
				}
			}
			for _, family := range rs.Families {
				for _, table := range family.Tables {
					checkTable(t, table, sets)
				}
			}
			for s, asked := range sets {
				if !asked && s != "gh4-vpcs" && s != "gh6-vpcs" && s != "gh4-gw" && s != "gh6-gw" {
					t.Errorf("no rule asks set %s", s)
				}
			}
		})
	}
}

func checkTable(t *testing.T, table Table, sets map[string]bool) {
	t.Helper()
	chains := map[string]Chain{}
	for _, c := range table.Chains {
		if _, twice := chains[c.Name]; twice || len(c.Name) > 28 || !strings.HasPrefix(c.Name, "GH-") {
			t.Errorf("%s: chain %q is there twice, or badly named", table.Name, c.Name)
		}
		chains[c.Name] = c
	}
	if !slices.IsSortedFunc(table.Chains, func(a, b Chain) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("%s: the chains are not sorted", table.Name)
	}
	reached := map[string]bool{}
	var visit func(name string, above []string)
	visit = func(name string, above []string) {
		c, ok := chains[name]
		if !ok {
			t.Errorf("%s: %v leads to %s, which does not exist", table.Name, above, name)
			return
		}
		if slices.Contains(above, name) {
			t.Errorf("%s: %v is a loop", table.Name, append(above, name))
			return
		}
		if reached[name] {
			return
		}
		reached[name] = true
		for _, r := range c.Rules {
			for _, s := range r.Match.Sets {
				if _, ok := sets[s.Set]; !ok {
					t.Errorf("%s %s: set %s does not exist", table.Name, name, s.Set)
				}
				sets[s.Set] = true
			}
			switch r.Target.Kind {
			case MapMark:
				sets[r.Target.Set] = true
			case Jump, Goto:
				visit(r.Target.Chain, append(slices.Clone(above), name))
			}
		}
	}
	for _, h := range table.Hooks {
		visit(h.Target, nil)
	}
	for name := range chains {
		if !reached[name] {
			t.Errorf("%s: nothing leads to chain %s", table.Name, name)
		}
	}
}
