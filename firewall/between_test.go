package firewall

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"gatehouse/vpc"
)

// regrouped is a network of six interfaces with random groups; what passes depends on nothing but their profiles.
func regrouped(rnd *rand.Rand) *vpc.Snapshot {
	v := &vpc.VPCSpec{ID: "vpc-0000000000000001", Name: "lab", CIDRBlock: prefix("10.20.0.0/16"), IPv6CIDRBlock: prefix("fd00:20::/56"),
		VSwitches: []*vpc.VSwitchSpec{{ID: "vsw-0000000000000001", Name: "s", CIDRBlock: prefix("10.20.1.0/24"), IPv6CIDRBlock: prefix("fd00:20:0:1::/64"), Gateway: addr("10.20.1.253")}}}
	for g := range 4 {
		name := fmt.Sprintf("g%d", g)
		v.SecurityGroups = append(v.SecurityGroups, &vpc.GroupSpec{ID: fmt.Sprintf("sg-%016x", g+1), Name: name, Type: vpc.GroupBasic, InnerAccess: vpc.Drop,
			Rules: []*vpc.RuleSpec{
				ingress("sgr-4"+name, "10.20.0.0/16", vpc.ProtocolTCP, fmt.Sprint(1000+g), vpc.Accept, 1),
				ingress("sgr-6"+name, "fd00:20::/56", vpc.ProtocolTCP, fmt.Sprint(1000+g), vpc.Accept, 1),
				egress("sgr-5"+name, "10.20.0.0/16", vpc.ProtocolTCP, fmt.Sprint(1010-g), vpc.Drop, 1),
			}})
	}
	for i := range 4 {
		var groups []string
		for g := range 4 {
			if rnd.IntN(3) == 0 {
				groups = append(groups, fmt.Sprintf("g%d", g))
			}
		}
		if groups == nil {
			groups = []string{"g0"}
		}
		v.Instances = append(v.Instances, instance(i+1, "s", fmt.Sprintf("10.20.1.%d", 10+i), fmt.Sprintf("fd00:20:0:1::%x", 0x10+i), groups...))
	}
	return vpc.NewSnapshot(&vpc.Spec{VPCs: []*vpc.VPCSpec{v}}, vpc.Host{}, 1)
}

// crossings are the packets whose fate is asked for.
func crossings(s *vpc.Snapshot) []vpc.Packet {
	var out []vpc.Packet
	for _, from := range s.Interfaces {
		for _, to := range s.Interfaces {
			for i, dst := range slices.Collect(to.Addrs) {
				for port := range uint16(12) {
					if from != to {
						out = append(out, vpc.Packet{In: vpc.Place{Kind: vpc.PlaceVSwitch, VSwitch: from.VSwitch}, SrcMAC: from.MAC,
							Src: slices.Collect(from.Addrs)[i], Dst: dst, Protocol: vpc.ProtocolTCP, SrcPort: 40000, DstPort: 1000 + port, State: vpc.StateNew})
					}
				}
			}
		}
	}
	return out
}

// The kernel is at every moment at rules of one ruleset and sets of the same or the next one. What both the old and the new
// policy admit is admitted all the way, and what both refuse is refused, except that a mark that changes hands refuses.
func TestTheWayFromOneRulesetToTheNextHasNoGapAndNoLeak(t *testing.T) {
	for _, c := range []struct {
		name string
		mask uint32
	}{{"marks to spare", 0xffff0000}, {"marks that change hands", 0x000f0000}} {
		t.Run(c.name, func(t *testing.T) {
			features := everything()
			features.MarkMask = c.mask
			needed, closed, exposed := 0, 0, 0
			for seed := range uint64(200) {
				rnd := rand.New(rand.NewPCG(seed, 3))
				old, new := regrouped(rnd), regrouped(rnd)
				before, err := Compile(old, features)
				if err != nil {
					t.Fatal(err)
				}
				after, err := Compile(new, features)
				if err != nil {
					t.Fatal(err)
				}
				steps := []*Ruleset{before}
				mid := Between(before, after)
				if mid != nil {
					needed++
					steps = append(steps, mid)
				}
				steps = append(steps, after)
				var states []*Ruleset
				for i := 1; i < len(steps); i++ {
					states = append(states, &Ruleset{Families: steps[i-1].Families, Sets: steps[i].Sets}, steps[i])
				}
				handed := false
				was := profileMarks(mangle(&before.Families[0]))
				for m, name := range profileMarks(mangle(&after.Families[0])) {
					handed = handed || was[m] != "" && was[m] != name
				}
				direct := NewTracer(&Ruleset{Families: before.Families, Sets: after.Sets})
				for _, p := range crossings(old) {
					q := movedTo(new, p)
					first, last := NewTracer(before).Trace(p, PathOf(old, p)).Allowed, NewTracer(after).Trace(q, PathOf(new, q)).Allowed
					if first != last {
						continue
					}
					if direct.Trace(p, PathOf(old, p)).Allowed != first {
						exposed++
					}
					for n, state := range states {
						got := NewTracer(state).Trace(p, PathOf(old, p)).Allowed
						if got == first {
							continue
						}
						if got || !handed {
							t.Fatalf("seed %d, state %d: %s -> %s port %d: allowed %t, but %t before and after", seed, n, p.Src, p.Dst, p.DstPort, got, first)
						}
						closed++
					}
				}
			}
			if needed == 0 || exposed == 0 {
				t.Errorf("of 200 changes %d took a detour, and %d packets would have met a gap without: the test shows nothing", needed, exposed)
			}
			if c.mask == 0xffff0000 && closed > 0 {
				t.Errorf("%d packets met a closed mark", closed)
			}
		})
	}
}

// movedTo gives the packet in a snapshot with the same vSwitch.
func movedTo(s *vpc.Snapshot, p vpc.Packet) vpc.Packet {
	p.In.VSwitch = s.VSwitches[0]
	return p
}

func TestNothingLeadsBetweenRulesetsWhoseMarksAreTheSame(t *testing.T) {
	s := vpc.NewSnapshot(lab(), host(), 1)
	for _, f := range []Features{everything(), bare()} {
		rs, err := Compile(s, f)
		if err != nil {
			t.Fatal(err)
		}
		if Between(rs, rs) != nil {
			t.Errorf("%+v: a detour to where one is", f)
		}
		if empty := (&Ruleset{}); Between(empty, rs) != nil {
			t.Errorf("%+v: a detour from nowhere: no packet has a mark yet", f)
		}
	}
}
