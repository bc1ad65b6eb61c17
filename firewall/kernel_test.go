package firewall

import (
	"context"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/netlab"
	"gatehouse/vpc"
)

// Both backends of iptables and the kernel take every ruleset as it is.
func TestKernelTakesTheText(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	lab, err := netlab.New("render")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	for name, c := range cases() {
		if c.f.IPMAC6 {
			c.f.IPMAC6 = false // hash:ip,mac is a module that many kernels lack
		}
		rs := compile(t, c.spec, c.f)
		for _, backend := range []string{"nft", "legacy"} {
			t.Run(name+" "+backend, func(t *testing.T) {
				space, err := lab.Space(name + backend)
				if err != nil {
					t.Fatal(err)
				}
				sets, _, _ := strings.Cut(rs.Text(), "# ipv4\n")
				if _, err := space.RunInput(ctx, strings.NewReader(sets), "ipset", "restore"); err != nil {
					t.Fatal(err)
				}
				for _, family := range rs.Families {
					program := "iptables-" + backend
					if family.Family == vpc.IPv6 {
						program = "ip6tables-" + backend
					}
					for _, d := range Diff(nil, family) {
						if _, err := space.RunInput(ctx, strings.NewReader(d.Restore(family.Family)), program+"-restore", "--noflush"); err != nil {
							t.Fatalf("%s: %v", d.Table, err)
						}
					}
					checkReadBack(ctx, t, space, program, family)
				}
			})
		}
	}
}

// checkReadBack compares the rules that the kernel gives back with the hashes, and deletes everything again.
func checkReadBack(ctx context.Context, t *testing.T, space *netlab.Space, program string, want Tables) {
	t.Helper()
	saved, err := space.Run(ctx, program+"-save")
	if err != nil {
		t.Fatal(err)
	}
	have, table := Kernel{}, ""
	for _, l := range strings.Split(saved, "\n") {
		switch {
		case strings.HasPrefix(l, "*"):
			table = l[1:]
			have[table] = map[string][]string{}
		case strings.HasPrefix(l, ":GH-"):
			chain, _, _ := strings.Cut(l[1:], " ")
			have[table][chain] = []string{}
		case strings.HasPrefix(l, "-A GH-"):
			chain, rest, _ := strings.Cut(l[3:], " ")
			by := known(chain, rest)
			if _, comment, ok := strings.Cut(rest, CommentPrefix); ok {
				by = comment[:16]
			}
			have[table][chain] = append(have[table][chain], by)
		}
	}
	for _, d := range Diff(have, want) {
		for _, c := range d.Write {
			t.Errorf("%s %s: the kernel has %q, not %q", d.Table, c.Name, have[d.Table][c.Name], c.Hashes(want.Family))
		}
		for _, name := range d.Delete {
			t.Errorf("%s %s is in the kernel but not wanted", d.Table, name)
		}
	}
	for _, d := range Diff(have, Tables{Family: want.Family}) {
		if _, err := space.RunInput(ctx, strings.NewReader(d.Restore(want.Family)), program+"-restore", "--noflush"); err != nil {
			t.Errorf("delete all of %s: %v", d.Table, err)
		}
	}
	if left, err := space.Run(ctx, program+"-save"); err != nil || strings.Contains(left, "GH-") {
		t.Errorf("something of ours is left after deleting all: %v\n%s", err, left)
	}
}
