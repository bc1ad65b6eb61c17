package ipset

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/firewall"
	"gatehouse/vpc"
)

func TestParseSaveReadsOnlyOurSetsInCanonicalForm(t *testing.T) {
	const saved = `create docker hash:ip family inet hashsize 1024 maxelem 65536
add docker 192.0.2.1
create gh4-mark hash:net family inet hashsize 1024 maxelem 131072 skbinfo bucketsize 12 initval 0x61da228c
add gh4-mark 10.0.0.2 skbmark 0x10000/0xffff0000
add gh4-mark 10.0.0.1 skbmark 0x20000/0xffff0000
create gh4-bind bitmap:ip,mac range 10.0.1.0-10.0.1.255
add gh4-bind 10.0.1.5,0A:00:00:00:BC:01
create gh6-pl hash:net family inet6 hashsize 1024 maxelem 100 bucketsize 12 initval 0x67992e37
add gh6-pl fd00::/64
add gh6-pl fd00::1
create gh6-sg~ hash:ip family inet6 hashsize 64 maxelem 65536 bucketsize 12 initval 0x1
`
	got, err := parseSave(strings.NewReader(saved))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]firewall.Set{
		"gh4-mark": {Name: "gh4-mark", Type: "hash:net", Family: vpc.IPv4, Options: []string{"skbinfo", "maxelem", "131072"},
			Members: []string{"10.0.0.1 skbmark 0x20000/0xffff0000", "10.0.0.2 skbmark 0x10000/0xffff0000"}},
		"gh4-bind": {Name: "gh4-bind", Type: "bitmap:ip,mac", Family: vpc.IPv4, Options: []string{"range", "10.0.1.0-10.0.1.255"},
			Members: []string{"10.0.1.5,0a:00:00:00:bc:01"}},
		"gh6-pl":  {Name: "gh6-pl", Type: "hash:net", Family: vpc.IPv6, Options: []string{"maxelem", "100"}, Members: []string{"fd00::/64", "fd00::1"}},
		"gh6-sg~": {Name: "gh6-sg~", Type: "hash:ip", Family: vpc.IPv6, Options: []string{"maxelem", "65536"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("sets (-want +got):\n%s", d)
	}
}

func TestParseSaveRefusesMembersOfNoSet(t *testing.T) {
	if _, err := parseSave(strings.NewReader("add gh4-a 10.0.0.1\n")); err == nil {
		t.Error("no error")
	}
}

func TestASetIsCanonicalHoweverItIsWritten(t *testing.T) {
	for _, tt := range []struct {
		name string
		a, b firewall.Set
	}{
		{"a default size, spelled out or not",
			firewall.Set{Type: "hash:ip"}, firewall.Set{Type: "hash:ip", Options: []string{"maxelem", "65536"}}},
		{"the order of options",
			firewall.Set{Type: "hash:ip", Options: []string{"maxelem", "5", "skbinfo"}}, firewall.Set{Type: "hash:ip", Options: []string{"skbinfo", "maxelem", "5"}}},
		{"a range as prefix or as its ends",
			firewall.Set{Type: "bitmap:ip,mac", Options: []string{"range", "10.0.0.0/24"}}, firewall.Set{Type: "bitmap:ip,mac", Options: []string{"range", "10.0.0.0-10.0.0.255"}}},
		{"the family as option or field",
			firewall.Set{Type: "hash:ip", Family: vpc.IPv6}, firewall.Set{Type: "hash:ip", Options: []string{"family", "inet6"}}},
		{"single addresses with and without their length",
			firewall.Set{Type: "hash:net", Members: []string{"10.0.0.1/32", "fd00::1/128"}}, firewall.Set{Type: "hash:net", Members: []string{"fd00:0::1", "10.0.0.1"}}},
		{"memory options",
			firewall.Set{Type: "hash:ip", Options: []string{"hashsize", "64", "bucketsize", "12"}}, firewall.Set{Type: "hash:ip"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(Canonical(tt.a), Canonical(tt.b)); d != "" {
				t.Errorf("they differ:\n%s", d)
			}
		})
	}
}

func many(n int, from int) []string {
	var ms []string
	for i := range n {
		ms = append(ms, "10."+strconv.Itoa(from)+"."+strconv.Itoa(i/256)+"."+strconv.Itoa(i%256))
	}
	slices.Sort(ms)
	return ms
}

func TestPlanChangesAsLittleAsItCan(t *testing.T) {
	set := func(typ string, members []string, options ...string) firewall.Set {
		return Canonical(firewall.Set{Name: "gh4-x", Type: typ, Family: vpc.IPv4, Options: options, Members: members})
	}
	for _, tt := range []struct {
		name            string
		have            map[string]firewall.Set
		want            firewall.Set
		prepare, commit []string
	}{
		{"a new set is created and filled", nil, set("hash:ip", []string{"10.0.0.1"}),
			[]string{"create gh4-x hash:ip family inet hashsize 64 maxelem 65536", "add gh4-x 10.0.0.1"}, nil},
		{"the same set is left alone", map[string]firewall.Set{"gh4-x": set("hash:ip", []string{"10.0.0.1"})}, set("hash:ip", []string{"10.0.0.1"}), nil, nil},
		{"a few members change in place, removals first",
			map[string]firewall.Set{"gh4-x": set("hash:ip", []string{"10.0.0.1", "10.0.0.2"})}, set("hash:ip", []string{"10.0.0.2", "10.0.0.3"}),
			nil, []string{"del gh4-x 10.0.0.1", "add gh4-x 10.0.0.3"}},
		{"a mark changes without a moment in which the address has none",
			map[string]firewall.Set{"gh4-x": set("hash:ip", []string{"10.0.0.1 skbmark 0x1/0xf"}, "skbinfo")}, set("hash:ip", []string{"10.0.0.1 skbmark 0x2/0xf"}, "skbinfo"),
			nil, []string{"add gh4-x 10.0.0.1 skbmark 0x2/0xf"}},
		{"another size needs a spare",
			map[string]firewall.Set{"gh4-x": set("hash:ip", []string{"10.0.0.1"})}, set("hash:ip", []string{"10.0.0.1"}, "maxelem", "9"),
			[]string{"create gh4-x~ hash:ip family inet hashsize 64 maxelem 9", "add gh4-x~ 10.0.0.1"}, []string{"swap gh4-x~ gh4-x"}},
		{"a spare that an interrupted write left is made anew",
			map[string]firewall.Set{"gh4-x": set("hash:ip", nil), "gh4-x~": set("hash:ip", many(3, 9))}, set("hash:ip", nil, "maxelem", "9"),
			[]string{"destroy gh4-x~", "create gh4-x~ hash:ip family inet hashsize 64 maxelem 9"}, []string{"swap gh4-x~ gh4-x"}},
		{"another type cannot be swapped in",
			map[string]firewall.Set{"gh4-x": set("hash:ip", nil)}, set("hash:net", nil),
			[]string{"destroy gh4-x", "create gh4-x hash:net family inet hashsize 64 maxelem 65536"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlan(tt.have, []firewall.Set{tt.want})
			if d := cmp.Diff(tt.prepare, p.prepare); d != "" {
				t.Errorf("prepare (-want +got):\n%s", d)
			}
			var commit []string
			for _, c := range p.changes {
				commit = append(commit, c.line())
			}
			if d := cmp.Diff(tt.commit, append(commit, p.swaps...)); d != "" {
				t.Errorf("commit (-want +got):\n%s", d)
			}
		})
	}
}

func TestPlanSwapsWhenMostOfALargeSetChanges(t *testing.T) {
	have := Canonical(firewall.Set{Name: "gh4-x", Type: "hash:ip", Family: vpc.IPv4, Members: many(2000, 1)})
	want := Canonical(firewall.Set{Name: "gh4-x", Type: "hash:ip", Family: vpc.IPv4, Members: many(2000, 2)})
	p := newPlan(map[string]firewall.Set{"gh4-x": have}, []firewall.Set{want})
	if len(p.changes) > 0 || len(p.swaps) != 1 || p.swaps[0] != "swap gh4-x~ gh4-x" {
		t.Errorf("%d members are changed, and %q; want one swap", len(p.changes), p.swaps)
	}
}

func TestErrorsNameTheLineAndTheirKind(t *testing.T) {
	for _, tt := range []struct {
		stderr string
		line   int
		reason string
		kind   error
	}{
		{"ipset v7.17: Error in line 3: Hash is full, cannot add more elements\n", 3, "Hash is full, cannot add more elements", ErrFull},
		{"ipset v7.17: Error in line 1: Set cannot be destroyed: it is in use by a kernel component", 1, "Set cannot be destroyed: it is in use by a kernel component", ErrInUse},
		{"ipset v7.17: Kernel error received: set type not supported", 0, "set type not supported", ErrUnsupported},
		{"ipset v7.17: Error in line 2: Syntax error: typename 'hash:foo' is unknown", 2, "Syntax error: typename 'hash:foo' is unknown", ErrUnsupported},
		{"ipset v7.17: The set with the given name does not exist", 0, "The set with the given name does not exist", ErrNotFound},
		{"ipset v7.17: Kernel error received: Operation not permitted", 0, "Operation not permitted", ErrPermission},
		{"something else", 0, "something else", nil},
	} {
		e := newError(tt.stderr)
		if e.Line != tt.line || e.Reason != tt.reason || tt.kind != nil && !errors.Is(e, tt.kind) || tt.kind == nil && e.kind != nil {
			t.Errorf("newError(%q) = %+v; want line %d, %q, kind %v", tt.stderr, e, tt.line, tt.reason, tt.kind)
		}
	}
}

func FuzzParseSave(f *testing.F) {
	f.Add("create gh4-a hash:ip family inet maxelem 5\nadd gh4-a 10.0.0.1 skbmark 0x1/0x2\n")
	f.Add("create gh6-b bitmap:ip,mac range fd00::/64\nadd gh6-b ,\n")
	f.Add("create gh4-c hash:net range 0.0.0.0/0 maxelem")
	f.Fuzz(func(t *testing.T, text string) {
		sets, err := parseSave(strings.NewReader(text))
		if err != nil {
			return
		}
		for name, s := range sets {
			if !ours(name) {
				t.Errorf("%q is not ours", name)
			}
			// A set that was read needs no change to become itself.
			if p := newPlan(sets, []firewall.Set{s}); len(p.prepare)+len(p.changes)+len(p.swaps) != 0 {
				t.Errorf("%+v is planned to become itself by %q, %v and %q", s, p.prepare, p.changes, p.swaps)
			}
		}
	})
}
