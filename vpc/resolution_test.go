package vpc

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// shown is everything that a snapshot says, as text. It fails the test when an object is reached that is not the one that
// the snapshot lists under its ID: one of another revision.
func shown(t *testing.T, s *Snapshot) string {
	t.Helper()
	listed := map[any]bool{}
	for _, v := range s.VPCs {
		listed[v] = true
	}
	for _, w := range s.VSwitches {
		listed[w] = true
	}
	for _, g := range s.Groups {
		listed[g] = true
	}
	for _, l := range s.PrefixLists {
		listed[l] = true
	}
	for _, a := range s.NetworkACLs {
		listed[a] = true
	}
	for _, i := range s.Instances {
		listed[i] = true
	}
	for _, n := range s.Interfaces {
		listed[n] = true
	}
	id := func(x any) string {
		v := reflect.ValueOf(x)
		if v.IsNil() {
			return "nil"
		}
		if !listed[x] {
			t.Fatalf("%T %s is of another snapshot", x, v.Elem().FieldByName("ID"))
		}
		return v.Elem().FieldByName("ID").String()
	}
	var b strings.Builder
	line := func(kind string, x, spec any, refs ...any) {
		fmt.Fprintf(&b, "%s %s %p", kind, id(x), spec)
		for _, r := range refs {
			if v := reflect.ValueOf(r); v.Kind() == reflect.Slice {
				b.WriteString(" [")
				for i := range v.Len() {
					b.WriteString(" " + id(v.Index(i).Interface()))
				}
				b.WriteString(" ]")
				continue
			}
			b.WriteString(" " + id(r))
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "revision %d, spec %p, host %v\n", s.Revision, s.Spec, s.Host)
	for _, v := range s.VPCs {
		line("vpc", v, v.VPCSpec, v.VSwitches, v.Groups, v.Lists, v.ACLs, v.Instances)
		fmt.Fprintln(&b, v.Domain, v.Prefixes())
		for _, z := range v.Zones {
			fmt.Fprintf(&b, "zone %p\n", z)
		}
	}
	for _, w := range s.VSwitches {
		line("vswitch", w, w.VSwitchSpec, w.VPC, w.ACL, w.EnrollmentGroups, w.Interfaces)
		for _, f := range Families() {
			if g := w.GatewayAddr(f); g.IsValid() && s.GatewayOf(g) != w {
				t.Fatalf("%s is not the gateway of %s", g, w.ID)
			}
		}
	}
	for _, g := range s.Groups {
		line("group", g, g.GroupSpec, g.VPC, g.Members)
		for _, r := range g.Rules {
			fmt.Fprintf(&b, "rule %p %p %p %p\n", r.RuleSpec, r.Group, r.PeerGroup, r.PeerList)
		}
	}
	for _, l := range s.PrefixLists {
		line("list", l, l.PrefixListSpec, l.VPC)
	}
	for _, a := range s.NetworkACLs {
		line("acl", a, a.ACLSpec, a.VPC)
		for _, list := range [][]*Entry{a.Ingress, a.Egress} {
			for _, e := range list {
				fmt.Fprintf(&b, "entry %p %s %d %s %p\n", e.EntrySpec, id(e.ACL), e.Index, e.Peer, e.List)
			}
		}
	}
	for _, i := range s.Instances {
		line("instance", i, i.InstanceSpec, i.VPC, i.Interfaces)
	}
	addresses, prefixes := 0, 0
	for _, n := range s.Interfaces {
		line("interface", n, n.InterfaceSpec, n.Instance, n.VSwitch, n.Groups)
		if s.InterfaceByMAC(n.MAC) != n {
			t.Fatalf("%s is not found by its MAC", n.ID)
		}
		for a := range n.Addrs {
			addresses++
			if s.InterfaceByAddr(a) != n {
				t.Fatalf("%s is not found by %s", n.ID, a)
			}
		}
		for _, p := range n.IPv6Prefixes {
			prefixes++
			if s.InterfaceByAddr(LastAddr(p)) != n || s.Holder(LastAddr(p)) != nil {
				t.Fatalf("%s is not found by what is in %s, or is taken for its holder", n.ID, p)
			}
		}
	}
	if len(s.byPrefix) != prefixes {
		t.Fatalf("%d prefixes can be found, %d are there", len(s.byPrefix), prefixes)
	}
	if len(s.slotsByAddr()) != addresses || len(s.byMAC) != len(s.Interfaces) {
		t.Fatalf("%d addresses and %d MACs can be found, %d and %d are there", len(s.slotsByAddr()), len(s.byMAC), addresses, len(s.Interfaces))
	}
	return b.String()
}

// Whatever happens between two revisions, and however many others were in between: Next gives what NewSnapshot gives.
func TestNextEqualsAStartFromNothing(t *testing.T) {
	for seed := range uint64(15) {
		r := rand.New(rand.NewPCG(seed, 2))
		spec := &Spec{}
		s := NewSnapshot(spec, Host{}, 0)
		history := []*Snapshot{s}
		for n := range uint64(80) {
			for range 1 + r.IntN(3) {
				spec = step(r, spec)
			}
			host := Host{Region: []string{"", "lab-1"}[r.IntN(8)/7]}
			before := shown(t, s)
			s = history[r.IntN(len(history))]
			if r.IntN(4) > 0 {
				s = history[len(history)-1]
			}
			was := shown(t, s)
			next := s.Next(spec, host, n)
			if got, want := shown(t, next), shown(t, NewSnapshot(spec, host, n)); got != want {
				t.Fatalf("seed %d, step %d: got\n%s\nwant\n%s", seed, n, got, want)
			}
			if shown(t, s) != was || before == "" {
				t.Fatalf("seed %d, step %d: Next changed what it began with", seed, n)
			}
			s = next
			history = append(history, s)
		}
	}
}

func TestWhatHasNotChangedIsShared(t *testing.T) {
	w := newWorld(t, IPv4, "group web basic accept\nweb-1 in web")
	s := w.snap
	if next := s.Next(s.Spec, s.Host, 2); next.VPCs[0] != s.VPCs[0] || next.VPCs[1] != s.VPCs[1] {
		t.Error("an unchanged Spec is resolved again")
	}
	v := *s.Spec.VPCs[0]
	v.Description = "another"
	spec := &Spec{VPCs: []*VPCSpec{&v, s.Spec.VPCs[1]}}
	next := s.Next(spec, s.Host, 2)
	if next.VPCs[1] != s.VPCs[1] {
		t.Error("a VPC that is as it was is resolved again")
	}
	a := netip.MustParseAddr("10.20.1.10")
	if next.InterfaceByAddr(a) == s.InterfaceByAddr(a) || next.InterfaceByAddr(a).InterfaceSpec != s.InterfaceByAddr(a).InterfaceSpec {
		t.Error("an interface of a VPC that has changed is a new object with the same Spec")
	}
}
