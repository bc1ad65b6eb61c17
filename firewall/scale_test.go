package firewall

import (
	"testing"

	"gatehouse/internal/scale"
	"gatehouse/vpc"
)

// all is what most kernels can do: bindings of IPv6 are rules.
var all = Features{MarkMask: 0xffff0000, MapMark: true, IPMAC4: true, NFLog: true, Physdev: true, ClampMSS: true, Bare: true}

const full = 10_000

func BenchmarkCompileCold(b *testing.B) {
	s := vpc.NewSnapshot(scale.Spec(full), scale.Host(), 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(s, all); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompileAndRenderCold(b *testing.B) {
	s := vpc.NewSnapshot(scale.Spec(full), scale.Host(), 1)
	b.ReportAllocs()
	for b.Loop() {
		rs, err := Compile(s, all)
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range rs.Families {
			for _, t := range f.Tables {
				for _, c := range t.Chains {
					c.AppendLines(nil, f.Family)
				}
			}
		}
	}
}

// benchmarkSteps compiles the snapshots in turn with one compiler.
func benchmarkSteps(b *testing.B, snapshots ...*vpc.Snapshot) {
	c := NewCompiler(all)
	for _, s := range snapshots {
		if _, err := c.Compile(s); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := c.Compile(snapshots[i%len(snapshots)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkCompileMembership(b *testing.B) {
	spec := scale.Spec(full)
	benchmarkSteps(b, vpc.NewSnapshot(spec, scale.Host(), 1), vpc.NewSnapshot(scale.Join(spec, 4242, "g1"), scale.Host(), 2))
}

func BenchmarkCompileOneRule(b *testing.B) {
	spec := scale.Spec(full)
	benchmarkSteps(b, vpc.NewSnapshot(spec, scale.Host(), 1), vpc.NewSnapshot(scale.AddRule(spec, 3, 8080), scale.Host(), 2))
}

func BenchmarkCompileNewCombination(b *testing.B) {
	spec := scale.Spec(full)
	benchmarkSteps(b, vpc.NewSnapshot(spec, scale.Host(), 1), vpc.NewSnapshot(scale.Join(spec, 4242, "g1", "g99", "g500"), scale.Host(), 2))
}

func BenchmarkCompileInstanceLess(b *testing.B) {
	spec := scale.Spec(full)
	less := *spec
	v := *spec.VPCs[0]
	v.Instances = append(append([]*vpc.InstanceSpec{}, v.Instances[:4242]...), v.Instances[4243:]...)
	less.VPCs = []*vpc.VPCSpec{&v}
	benchmarkSteps(b, vpc.NewSnapshot(spec, scale.Host(), 1), vpc.NewSnapshot(&less, scale.Host(), 2))
}
