package vpc

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
)

// said is what the objects of a snapshot say, by kind and ID.
func said(t *testing.T, s *Snapshot) map[string]string {
	t.Helper()
	out := map[string]string{}
	put := func(kind, id string, spec any, refs ...string) {
		b, err := json.Marshal(append([]any{spec}, refs))
		if err != nil {
			t.Fatal(err)
		}
		out[kind+" "+id] = string(b)
	}
	for _, v := range s.VPCs {
		put("vpc", v.ID, v.bare(), v.Domain)
	}
	list := func(l *PrefixListSpec) string {
		if l == nil {
			return ""
		}
		b, _ := json.Marshal(l)
		return string(b)
	}
	for _, l := range s.PrefixLists {
		put("list", l.ID, l.PrefixListSpec)
	}
	for _, a := range s.NetworkACLs {
		var refs []string
		for _, e := range slices.Concat(a.Ingress, a.Egress) {
			refs = append(refs, list(e.List))
		}
		put("acl", a.ID, a.ACLSpec, refs...)
	}
	ids := func(groups []*SecurityGroup) (out []string) {
		for _, g := range groups {
			out = append(out, g.ID)
		}
		return out
	}
	for _, g := range s.Groups {
		var refs []string
		for _, r := range g.Rules {
			if r.PeerGroup != nil {
				refs = append(refs, r.PeerGroup.ID)
			}
			refs = append(refs, list(r.PeerList))
		}
		put("group", g.ID, g.GroupSpec, refs...)
	}
	for _, w := range s.VSwitches {
		acl := ""
		if w.ACL != nil {
			acl = w.ACL.ID
		}
		put("vswitch", w.ID, w.VSwitchSpec, append(ids(w.EnrollmentGroups), acl)...)
	}
	for _, i := range s.Instances {
		put("instance", i.ID, i.InstanceSpec)
	}
	for _, n := range s.Interfaces {
		put("interface", n.ID, n.InterfaceSpec, append(ids(n.Groups), n.VSwitch.ID)...)
	}
	return out
}

// keys lists what a Delta names, by kind and ID, with + for what is new and - for what is gone.
func (d *Delta) keys() []string {
	var out []string
	add := func(kind string, old, new string) {
		switch {
		case old == "":
			out = append(out, "+"+kind+" "+new)
		case new == "":
			out = append(out, "-"+kind+" "+old)
		default:
			out = append(out, "~"+kind+" "+new)
		}
	}
	for _, p := range d.VPCs {
		add("vpc", idOrNone(p.Old, func(v *VPC) string { return v.ID }), idOrNone(p.New, func(v *VPC) string { return v.ID }))
	}
	for _, p := range d.PrefixLists {
		add("list", idOrNone(p.Old, func(l *PrefixList) string { return l.ID }), idOrNone(p.New, func(l *PrefixList) string { return l.ID }))
	}
	for _, p := range d.NetworkACLs {
		add("acl", idOrNone(p.Old, func(a *NetworkACL) string { return a.ID }), idOrNone(p.New, func(a *NetworkACL) string { return a.ID }))
	}
	for _, p := range d.Groups {
		add("group", idOrNone(p.Old, func(g *SecurityGroup) string { return g.ID }), idOrNone(p.New, func(g *SecurityGroup) string { return g.ID }))
	}
	for _, p := range d.VSwitches {
		add("vswitch", idOrNone(p.Old, func(w *VSwitch) string { return w.ID }), idOrNone(p.New, func(w *VSwitch) string { return w.ID }))
	}
	for _, p := range d.Instances {
		add("instance", idOrNone(p.Old, func(i *Instance) string { return i.ID }), idOrNone(p.New, func(i *Instance) string { return i.ID }))
	}
	for _, p := range d.Interfaces {
		add("interface", idOrNone(p.Old, func(n *Interface) string { return n.ID }), idOrNone(p.New, func(n *Interface) string { return n.ID }))
	}
	slices.Sort(out)
	return out
}

func idOrNone[T any](x *T, id func(*T) string) string {
	if x == nil {
		return ""
	}
	return id(x)
}

// Between any two snapshots, of one line or of none, Compare names exactly what says something else.
func TestCompareNamesWhatDiffers(t *testing.T) {
	for seed := range uint64(15) {
		r := rand.New(rand.NewPCG(seed, 3))
		spec := &Spec{}
		s := NewSnapshot(spec, Host{}, 0)
		history := []*Snapshot{s}
		for n := range uint64(60) {
			for range 1 + r.IntN(4) {
				spec = step(r, spec)
			}
			copied := spec
			if r.IntN(4) == 0 {
				copied = clone(t, spec) // the same, in other objects
			}
			s = s.Next(copied, Host{}, n)
			history = append(history, s)
			old := history[r.IntN(len(history))]
			was, is := said(t, old), said(t, s)
			var want []string
			for k, text := range was {
				if now, ok := is[k]; !ok {
					want = append(want, "-"+k)
				} else if now != text {
					want = append(want, "~"+k)
				}
			}
			for k := range is {
				if _, ok := was[k]; !ok {
					want = append(want, "+"+k)
				}
			}
			slices.Sort(want)
			if got := Compare(old, s).keys(); !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d: got %q\nwant %q", seed, n, got, want)
			}
		}
	}
}
