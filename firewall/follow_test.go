package firewall

import (
	"math/rand/v2"
	"slices"
	"testing"

	"gatehouse/internal/polgen"
	"gatehouse/vpc"
)

// Whatever has been compiled before, and in whatever order: the result is that of a start from nothing, and what is equal to
// what it was is the same.
func TestACompilerFollowsEveryChange(t *testing.T) {
	all := []Features{
		{MarkMask: 0xffff0000, MapMark: true, IPMAC4: true, IPMAC6: true, NFLog: true, Physdev: true, ClampMSS: true, Netmap: true, Bare: true},
		{MarkMask: 0xff, MapMark: true, IPMAC4: true, NFLog: true, Netmap: true}, // so narrow that profiles get in each other's way
		{MarkMask: 0xffff0000, Netmap: true},
	}
	kept, written := 0, 0
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 4))
		size := polgen.Small()
		spec := polgen.Spec(r, size)
		f := all[seed%uint64(len(all))]
		c := NewCompiler(f)
		s := vpc.NewSnapshot(spec, polgen.Host(), 0)
		var history []*vpc.Snapshot
		var before *Ruleset
		for n := range uint64(60) {
			for range r.IntN(4) {
				spec = polgen.Edit(r, spec, size)
			}
			if r.IntN(6) == 0 {
				spec = withoutIPv6(r, spec)
			}
			s = s.Next(spec, polgen.Host(), n)
			history = append(history, s)
			switch r.IntN(12) {
			case 0: // back to an older one, as after a failure
				s = history[r.IntN(len(history))]
				spec = s.Spec
			case 1:
				f.RefuseMidStream = !f.RefuseMidStream
				c.SetFeatures(f)
			case 2:
				host := polgen.Host()
				host.Uplinks = host.Uplinks[:r.IntN(len(host.Uplinks)+1)]
				s = s.Next(spec, host, n)
			}
			warm, err := c.Compile(s)
			if err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, n, err)
			}
			cold, err := Compile(s, f)
			if err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, n, err)
			}
			if got, want := warm.Text(), cold.Text(); got != want {
				t.Fatalf("seed %d, step %d: %s", seed, n, firstDifference(got, want))
			}
			if before != nil {
				k, w := shared(t, before, warm)
				kept, written = kept+k, written+w
			}
			before = warm
		}
	}
	if kept < 10*written || written == 0 {
		t.Errorf("%d chains were kept and %d not: the changes are not those of a network in use", kept, written)
	}
}

// withoutIPv6 takes the IPv6 addresses of one interface away.
func withoutIPv6(r *rand.Rand, spec *vpc.Spec) *vpc.Spec {
	v := spec.VPCs[r.IntN(len(spec.VPCs))]
	inst := *v.Instances[r.IntN(len(v.Instances))]
	n := *inst.Interfaces[0]
	n.IPv6Addresses, n.IPv6AddressCount = nil, new(int)
	inst.Interfaces = slices.Clone(inst.Interfaces)
	inst.Interfaces[0] = &n
	if next, problems := vpc.Set(spec, polgen.Host(), v.Name, &inst, vpc.ApplyOptions{}); problems == nil {
		return next
	}
	return spec
}

// shared counts the chains that both rulesets share and those that they do not, and fails if two equal ones are not shared.
func shared(t *testing.T, before, now *Ruleset) (kept, written int) {
	t.Helper()
	for i, ts := range now.Families {
		for _, table := range ts.Tables {
			for _, old := range before.Families[i].Tables {
				if old.Name != table.Name {
					continue
				}
				for _, c := range table.Chains {
					for _, o := range old.Chains {
						switch {
						case o.Name != c.Name:
						case o.Same(&c):
							kept++
						case o.Equal(&c, ts.Family):
							t.Fatalf("chain %s is as it was, and not the same", c.Name)
						default:
							written++
						}
					}
				}
			}
		}
	}
	for _, s := range now.Sets {
		for _, o := range before.Sets {
			if o.Name == s.Name && !o.Same(&s) && slices.Equal(o.Members, s.Members) && slices.Equal(o.Options, s.Options) {
				t.Fatalf("set %s is as it was, and not the same", s.Name)
			}
		}
	}
	return kept, written
}
