package vpc_test

import (
	"testing"

	"gatehouse/internal/scale"
	"gatehouse/vpc"
)

// full is the size that the figures are about.
const full = 10_000

func BenchmarkSnapshotCold(b *testing.B) {
	spec := scale.Spec(full)
	b.ReportAllocs()
	for b.Loop() {
		vpc.NewSnapshot(spec, scale.Host(), 1)
	}
}

func BenchmarkValidateCold(b *testing.B) {
	spec := scale.Spec(full)
	b.ReportAllocs()
	for b.Loop() {
		if p := vpc.Validate(spec, scale.Host()); p != nil {
			b.Fatal(p)
		}
	}
}

// membership is a manifest that puts one instance into other groups, and nothing else.
func membership(spec *vpc.Spec, groups ...string) *vpc.Spec {
	v := *spec.VPCs[0]
	v.VSwitches, v.SecurityGroups, v.Instances = nil, nil, nil
	inst := *spec.VPCs[0].Instances[4242]
	n := *inst.Interfaces[0]
	n.SecurityGroups = groups
	inst.Interfaces = []*vpc.InterfaceSpec{&n}
	v.Instances = []*vpc.InstanceSpec{&inst}
	return &vpc.Spec{VPCs: []*vpc.VPCSpec{&v}}
}

func BenchmarkApplyMembership(b *testing.B) {
	spec := scale.Spec(full)
	want := membership(spec, "g1", "g2")
	b.ReportAllocs()
	for b.Loop() {
		if _, p := vpc.Apply(spec, want, scale.Host(), vpc.ApplyOptions{Valid: spec}); p != nil {
			b.Fatal(p)
		}
	}
}

func BenchmarkApplyEverythingAgain(b *testing.B) {
	spec, want := scale.Spec(full), scale.Manifest(full)
	b.ReportAllocs()
	for b.Loop() {
		if next, p := vpc.Apply(spec, want, scale.Host(), vpc.ApplyOptions{}); p != nil || next != spec {
			b.Fatal(p)
		}
	}
}

func BenchmarkDiffMembership(b *testing.B) {
	spec := scale.Spec(full)
	next := scale.Join(spec, 4242, "g1", "g2")
	b.ReportAllocs()
	for b.Loop() {
		if len(vpc.Diff(spec, next)) != 1 {
			b.Fatal("not one change")
		}
	}
}

// benchmarkNext resolves two Specs in turn, each from the snapshot of the other.
func benchmarkNext(b *testing.B, specs ...*vpc.Spec) {
	s := vpc.NewSnapshot(specs[0], scale.Host(), 1)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		s = s.Next(specs[i%2], scale.Host(), uint64(i))
	}
}

func BenchmarkSnapshotNextMembership(b *testing.B) {
	spec := scale.Spec(full)
	benchmarkNext(b, spec, scale.Join(spec, 4242, "g1"))
}

func BenchmarkSnapshotNextOneRule(b *testing.B) {
	spec := scale.Spec(full)
	benchmarkNext(b, spec, scale.AddRule(spec, 3, 8080))
}

func BenchmarkCompareMembership(b *testing.B) {
	spec := scale.Spec(full)
	s := vpc.NewSnapshot(spec, scale.Host(), 1)
	next := s.Next(scale.Join(spec, 4242, "g1"), scale.Host(), 2)
	b.ReportAllocs()
	for b.Loop() {
		if d := vpc.Compare(s, next); len(d.Interfaces) != 1 {
			b.Fatal("not one interface")
		}
	}
}
