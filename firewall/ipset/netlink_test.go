package ipset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/firewall"
	"gatehouse/firewall/internal/ownnet"
	"gatehouse/vpc"
)

func TestTheKernelUnderstandsEveryChangeAsIpsetDoes(t *testing.T) {
	if !ownnet.Enter(t) {
		return
	}
	mark := func(s string, id int) string { return fmt.Sprintf("%s skbmark %#x/0xffff0000", s, id<<16) }
	for _, tc := range []struct {
		name    string
		typ     string
		options string
		family  vpc.Family
		members []string // the first is there before
	}{
		{"addresses", "hash:ip", "", vpc.IPv4, []string{"10.0.0.1", "10.0.0.2"}},
		{"IPv6 addresses", "hash:ip", "family inet6", vpc.IPv6, []string{"fd00::1", "fd00::2"}},
		{"prefixes", "hash:net", "", vpc.IPv4, []string{"10.0.0.0/8", "0.0.0.0/1", "10.1.0.1"}},
		{"IPv6 prefixes", "hash:net", "family inet6", vpc.IPv6, []string{"fd00::/64", "8000::/1", "fd00::1"}},
		{"marked prefixes", "hash:net", "skbinfo", vpc.IPv4, []string{mark("10.0.0.1", 1), mark("128.0.0.0/1", 0), mark("10.0.0.2", 0xffff)}},
		{"marked IPv6 prefixes", "hash:net", "skbinfo family inet6", vpc.IPv6, []string{mark("fd00::1", 1), mark("::/1", 0), mark("fd00::2", 0xffff)}},
		{"marked addresses", "hash:ip", "skbinfo", vpc.IPv4, []string{mark("10.0.0.1", 1), mark("10.0.0.2", 2)}},
		{"addresses with MACs", "bitmap:ip,mac", "range 10.0.0.0/24", vpc.IPv4, []string{"10.0.0.1,02:00:00:00:00:01", "10.0.0.2,02:00:00:00:00:02"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			state := func(restore func(first, rest []change) error) string {
				sh(t, "ipset create gh4-t "+tc.typ+" "+tc.options)
				defer sh(t, "ipset destroy gh4-t")
				var changes []change
				for _, m := range tc.members {
					changes = append(changes, change{set: "gh4-t", typ: tc.typ, member: m, add: true})
				}
				again := changes[1]
				element, _, _ := strings.Cut(tc.members[0], " ")
				gone := change{set: "gh4-t", typ: tc.typ, member: element}
				if err := restore(changes[:1], append(slices.Clone(changes[1:]), again, gone, gone)); err != nil {
					t.Fatal(err)
				}
				_, members, _ := strings.Cut(sh(t, "ipset list gh4-t -s"), "Members:\n")
				return members
			}
			byIpset := state(func(first, rest []change) error {
				var lines []string
				for _, c := range append(first, rest...) {
					lines = append(lines, c.line())
				}
				return newDriver(t).restore(t.Context(), lines)
			})
			byKernel := state(func(first, rest []change) error { return errors.Join(send(first), send(rest)) })
			if diff := cmp.Diff(byIpset, byKernel); diff != "" || strings.Count(byKernel, "\n") != len(tc.members)-1 {
				t.Errorf("(-ipset +kernel)\n%s\n%s", diff, byKernel)
			}
		})
	}
	t.Run("another mark", func(t *testing.T) {
		sh(t, "ipset create gh4-t hash:net skbinfo")
		defer sh(t, "ipset destroy gh4-t")
		for id := range 3 {
			if err := send([]change{{set: "gh4-t", typ: "hash:net", member: mark("10.0.0.1", id+1), add: true}}); err != nil {
				t.Fatal(err)
			}
			if _, m, _ := strings.Cut(sh(t, "ipset list gh4-t"), "Members:\n"); canonicalMember(m) != mark("10.0.0.1", id+1) {
				t.Errorf("its member is %q", m)
			}
		}
	})
}

func TestManyChangesAreMadeAndWhatIsRefusedIsExplained(t *testing.T) {
	if !ownnet.Enter(t) {
		return
	}
	ctx, d := context.Background(), newDriver(t)
	sets := func(v4, v6 []string) []firewall.Set { return both("sg", "hash:ip", v4, v6, "maxelem", "950") }
	all := many(900, 1)
	have, err := d.Write(ctx, nil, sets(all[:1], []string{"fd00::1"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]firewall.Set{sets(all, []string{"fd00::2"}), sets(all[400:], nil)} {
		if have, err = d.Write(ctx, have, want); err != nil {
			t.Fatal(err)
		}
		read, err := d.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if names := Diff(read, want); len(names) > 0 {
			t.Fatalf("%v differ", names)
		}
	}
	if _, err = d.Write(ctx, have, sets(append(many(500, 5), all[400:]...), nil)); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "add gh4-sg ") {
		t.Errorf("more than there is room for: %v", err)
	}
}

func FuzzElement(f *testing.F) {
	for _, m := range []string{"10.0.0.1", "10.0.0.0/8", "fd00::/64", "10.0.0.1,02:00:00:00:00:01", "10.0.0.1 skbmark 0x10000/0xffff0000", "fe80::1%eth0", ",", "10.0.0.1 skbmark /", ""} {
		for _, typ := range []string{"hash:ip", "hash:net", "bitmap:ip,mac", "hash:ip,mac", "hash:mac"} {
			f.Add(typ, m)
		}
	}
	f.Fuzz(func(t *testing.T, typ, member string) {
		e, err := parseElement(typ, member)
		if err != nil {
			return
		}
		if !e.addr.IsValid() || e.bits > e.addr.BitLen() {
			t.Errorf("%s %q: %+v", typ, member, e)
		}
		if _, err := (change{set: "gh4-a", typ: typ, member: member}).message(); err != nil {
			t.Errorf("%s %q: %v", typ, member, err)
		}
	})
}
