package dns

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gatehouse/internal/polgen"
	"gatehouse/vpc"
)

// said is everything that a view tells, but for serials, which rise when something changes.
func said(v *View) string {
	var b strings.Builder
	for _, r := range Records(v) {
		if r.Type != "SOA" {
			fmt.Fprintln(&b, r.Name, r.Type, r.TTL, r.Value, r.Source)
		}
	}
	for n, x := range v.names {
		if len(x.sets) == 0 {
			fmt.Fprintln(&b, "empty", n, x.apex)
		}
	}
	for n, f := range v.forwarders {
		fmt.Fprintln(&b, "forwarder", n, f.servers, f.scope)
	}
	fmt.Fprintln(&b, v.findings)
	lines := strings.SplitAfter(b.String(), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// dnsEdit is a change of something that names are made of.
func dnsEdit(r *rand.Rand, spec *vpc.Spec) *vpc.Spec {
	v := *spec.VPCs[r.IntN(len(spec.VPCs))]
	switch r.IntN(6) {
	case 0:
		v.Domain = fmt.Sprintf("d%d.internal", r.IntN(2))
	case 1:
		v.DNSHostnames = r.IntN(4) > 0
	case 2:
		v.PrivateZones = []*vpc.PrivateZoneSpec{newZone(fmt.Sprintf("z%d.example", r.IntN(2)), vpc.MissingNXDOMAIN, fmt.Sprintf("a A 192.0.2.%d", r.IntN(3)))}
	case 3:
		v.Forwarders = []*vpc.ForwarderSpec{{Zone: "partner.example", Servers: []string{fmt.Sprintf("10.20.4.%d", 250+r.IntN(6))}}}
	default:
		i := r.IntN(len(v.Instances))
		inst := *v.Instances[i]
		inst.PrivateDNS.IDARecord, inst.PrivateDNS.IPPtrRecord = r.IntN(2) == 0, r.IntN(2) == 0
		inst.Enrolled = r.IntN(2) == 0
		v.Instances = slices.Clone(v.Instances)
		v.Instances[i] = &inst
	}
	next := *spec
	next.VPCs = slices.Clone(spec.VPCs)
	next.VPCs[slices.IndexFunc(next.VPCs, func(x *vpc.VPCSpec) bool { return x.Name == v.Name })] = &v
	return &next
}

// Whatever changes, a server's views are those that a start from nothing makes; and most changes make none anew.
func TestViewsFollowEveryChange(t *testing.T) {
	kept, made := 0, 0
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 6))
		s, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		size := polgen.Small()
		spec := polgen.Spec(r, size)
		snapshot := vpc.NewSnapshot(spec, polgen.Host(), 0)
		views := map[string]*View{}
		for n := range uint64(40) {
			for range r.IntN(3) {
				spec = polgen.Edit(r, spec, size)
			}
			if r.IntN(3) == 0 {
				spec = dnsEdit(r, spec)
			}
			snapshot = snapshot.Next(spec, polgen.Host(), n)
			s.SetSnapshot(snapshot)
			for _, v := range snapshot.VPCs {
				got, want := s.View(v.ID), BuildView(snapshot, v)
				if said(got) != said(want) {
					t.Fatalf("seed %d, step %d: VPC %s: got\n%s\nwant\n%s", seed, n, v.Name, said(got), said(want))
				}
				if got.VPC() != v {
					t.Fatalf("seed %d, step %d: the view of VPC %s is of another revision", seed, n, v.Name)
				}
				if old := views[v.ID]; old != nil && old.Revision == got.Revision {
					kept++
				} else {
					made++
				}
				views[v.ID] = got
			}
		}
	}
	if kept < made {
		t.Errorf("%d views were made and only %d kept", made, kept)
	}
}
