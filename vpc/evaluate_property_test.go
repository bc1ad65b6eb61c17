package vpc_test

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"gatehouse/internal/polgen"
	"gatehouse/vpc"
)

// forNetworks calls f with random networks and packets for them.
func forNetworks(t *testing.T, n int, f func(t *testing.T, r *rand.Rand, spec *vpc.Spec, s *vpc.Snapshot, packets []vpc.Packet)) {
	for seed := range uint64(n) {
		r := rand.New(rand.NewPCG(seed, 11))
		spec := polgen.Spec(r, polgen.Small())
		s := vpc.NewSnapshot(spec, polgen.Host(), 1)
		f(t, r, spec, s, polgen.Packets(r, s, 100))
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

// copyOf returns a deep copy.
func copyOf(t *testing.T, spec *vpc.Spec) *vpc.Spec {
	t.Helper()
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	c := &vpc.Spec{}
	if err := json.Unmarshal(b, c); err != nil {
		t.Fatal(err)
	}
	return c
}

// in moves a packet from the snapshot that it was made for into another one with the same vSwitches.
func in(s *vpc.Snapshot, p vpc.Packet) vpc.Packet {
	if p.In.VSwitch != nil {
		i := slices.IndexFunc(s.VSwitches, func(w *vpc.VSwitch) bool { return w.ID == p.In.VSwitch.ID })
		p.In.VSwitch = s.VSwitches[i]
	}
	return p
}

func TestTheOrderOfDeclarationDecidesNothing(t *testing.T) {
	forNetworks(t, 100, func(t *testing.T, r *rand.Rand, spec *vpc.Spec, s *vpc.Snapshot, packets []vpc.Packet) {
		c := copyOf(t, spec)
		shuffle(r, c.VPCs)
		for _, v := range c.VPCs {
			shuffle(r, v.VSwitches)
			shuffle(r, v.Instances)
			shuffle(r, v.SecurityGroups)
			for _, g := range v.SecurityGroups {
				shuffle(r, g.Rules)
			}
			for _, i := range v.Instances {
				for _, nic := range i.Interfaces {
					shuffle(r, nic.SecurityGroups)
				}
			}
		}
		other := vpc.NewSnapshot(c, polgen.Host(), 1)
		for _, p := range packets {
			a, b := vpc.Evaluate(s, p), vpc.Evaluate(other, in(other, p))
			if a.Allowed != b.Allowed || !slices.Equal(a.Stages, b.Stages) {
				t.Errorf("%v, but in another order %v\n%s", a, b, polgen.Describe(spec, p))
			}
		}
	})
}

func shuffle[T any](r *rand.Rand, list []T) {
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}

func TestLeavingOutARuleMovesTheVerdictOneWayOnly(t *testing.T) {
	forNetworks(t, 100, func(t *testing.T, r *rand.Rand, spec *vpc.Spec, s *vpc.Snapshot, packets []vpc.Packet) {
		c := copyOf(t, spec)
		left := leaveOutRule(r, c)
		if left == nil {
			return
		}
		other := vpc.NewSnapshot(c, polgen.Host(), 1)
		for _, p := range packets {
			before, after := vpc.Evaluate(s, p).Allowed, vpc.Evaluate(other, in(other, p)).Allowed
			if left.Policy == vpc.Accept && !before && after || left.Policy == vpc.Drop && before && !after {
				t.Errorf("without %s, which says %s, allowed goes from %t to %t\n%s", left.ID, left.Policy, before, after, polgen.Describe(spec, p))
			}
		}
	})
}

// leaveOutRule removes one rule of one group and returns it; nil when there is none.
func leaveOutRule(r *rand.Rand, spec *vpc.Spec) *vpc.RuleSpec {
	var groups []*vpc.GroupSpec
	for _, v := range spec.VPCs {
		for _, g := range v.SecurityGroups {
			if len(g.Rules) > 0 {
				groups = append(groups, g)
			}
		}
	}
	if len(groups) == 0 {
		return nil
	}
	g := groups[r.IntN(len(groups))]
	i := r.IntN(len(g.Rules))
	rule := g.Rules[i]
	g.Rules = slices.Delete(g.Rules, i, i+1)
	return rule
}

func TestNearestNamesAnAcceptThatDidNotDecide(t *testing.T) {
	hints := 0
	forNetworks(t, 100, func(t *testing.T, _ *rand.Rand, spec *vpc.Spec, s *vpc.Snapshot, packets []vpc.Packet) {
		policies := map[string]vpc.Policy{}
		for _, v := range spec.VPCs {
			for _, g := range v.SecurityGroups {
				for _, rule := range g.Rules {
					policies[rule.ID] = rule.Policy
				}
			}
			for _, a := range v.NetworkACLs {
				for _, e := range slices.Concat(a.Ingress, a.Egress) {
					policies[e.ID] = e.Policy
				}
			}
		}
		for _, p := range packets {
			for _, r := range vpc.Evaluate(s, p).Stages {
				hint, ok := vpc.Nearest(s, p, r.Stage)
				if !ok {
					continue
				}
				hints++
				if r.Verdict != vpc.StageDrop || hint.Rule == r.Rule || policies[hint.Rule] != vpc.Accept || hint.Detail == "" {
					t.Errorf("%s says %s by %q, and the nearest is %+v\n%s", r.Stage, r.Verdict, r.Rule, hint, polgen.Describe(spec, p))
				}
			}
		}
	})
	if hints < 100 {
		t.Errorf("only %d hints in all: the networks have nothing to say", hints)
	}
}
