package link

import (
	"math/rand/v2"
	"testing"

	"gatehouse/internal/polgen"
	"gatehouse/vpc"
)

// Guests that come, go and change are followed without reading anything, and what they leave is what everything compared
// would have made: it finds nothing to do.
func TestGuestsAreFollowed(t *testing.T) {
	followed := 0
	for seed := range uint64(3) {
		g := newGateway(t)
		g.open()
		r := rand.New(rand.NewPCG(seed, 7))
		size := polgen.Small()
		spec := polgen.Spec(r, size)
		for _, v := range spec.VPCs {
			for _, w := range v.VSwitches {
				if w.Attach.Interface != "" {
					g.sh("ip link add %s type veth peer name x%s\nip link set %s up\nip link set x%s up", w.Attach.Interface, w.ID[4:16], w.Attach.Interface, w.ID[4:16])
				}
			}
		}
		host := polgen.Host()
		host.Uplinks = nil
		s := vpc.NewSnapshot(spec, host, 0)
		g.apply(s)
		for n := range uint64(80) {
			for range 1 + r.IntN(3) {
				spec = polgen.Edit(r, spec, size)
			}
			s = s.Next(spec, host, n)
			before := g.plan
			if f := before.follow(s); f != nil {
				want := newPlan(s)
				for i, w := range want.links {
					if got := f.to.links[i]; got.sw != w.sw || got.name != w.name || len(got.neighs) != len(w.neighs) {
						t.Fatalf("seed %d, step %d: the plan of %s differs from one made from nothing", seed, n, w.name)
					}
				}
				for f, n := range want.neighs {
					if g.plan.follow(s).to.neighs[f] != n {
						t.Fatalf("seed %d, step %d: another number of %s neighbours", seed, n, f)
					}
				}
				if f.mayFollow(g.holds) {
					followed++
				}
			}
			g.apply(s)
			err := g.k.in(func() error {
				_, out, err := g.compare(g.plan)
				if err == nil && len(out.steps) > 0 {
					t.Fatalf("seed %d, step %d: left to do: %s", seed, n, out.steps[0].what)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if followed < 100 {
		t.Errorf("only %d changes of 240 were followed", followed)
	}
}
