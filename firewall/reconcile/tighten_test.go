package reconcile

import (
	"math/rand/v2"
	"testing"

	"gatehouse/firewall/conntrack"
	"gatehouse/internal/polgen"
	"gatehouse/vpc"
)

// flowOf is the flow that a packet would open, as connection tracking knows it when nothing translates it.
func flowOf(p vpc.Packet) conntrack.Flow {
	t := conntrack.Tuple{Protocol: p.Protocol, Src: p.Src, Dst: p.Dst, SrcPort: p.SrcPort, DstPort: p.DstPort, ICMPType: p.ICMPType, ICMPCode: p.ICMPCode}
	back := t
	back.Src, back.Dst, back.SrcPort, back.DstPort = t.Dst, t.Src, t.DstPort, t.SrcPort
	return conntrack.Flow{Original: t, Reply: back}
}

// Every flow that was allowed before a change, and is not allowed after it, has an end that is looked at. And not all changes
// make us look.
func TestNoFlowThatEndsIsOverlooked(t *testing.T) {
	ended, quiet := 0, 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 5))
		size := polgen.Small()
		spec := polgen.Spec(r, size)
		old := vpc.NewSnapshot(spec, polgen.Host(), 0)
		for n := range uint64(30) {
			for range 1 + r.IntN(2) {
				spec = polgen.Edit(r, spec, size)
			}
			s := old.Next(spec, polgen.Host(), n)
			a := affectedBy(old, s)
			if a.none() && spec != old.Spec {
				quiet++
			}
			wants := a.wants(s)
			for _, p := range append(polgen.FirstPackets(r, old, 40), polgen.FirstPackets(r, s, 10)...) {
				flow := flowOf(p)
				if !vpc.Evaluate(old, flow.Packet(old)).Allowed || vpc.Evaluate(s, flow.Packet(s)).Allowed {
					continue
				}
				ended++
				if !wants(p.Src) && !wants(p.Dst) {
					t.Fatalf("seed %d, step %d: the flow of %+v ends, and nobody looks\nchanges: %v", seed, n, p, vpc.Diff(old.Spec, spec))
				}
			}
			old = s
		}
	}
	if ended < 100 || quiet < 100 {
		t.Errorf("%d flows ended, %d changes affected nobody: too few to say anything", ended, quiet)
	}
}
