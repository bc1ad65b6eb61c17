package reconcile

import (
	"math/rand/v2"
	"net/netip"
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

// Whoever joins a group that others refuse has flows to lose, though nothing of his own policy refuses any.
func TestWhoJoinsAGroupThatOthersRefuseIsLookedAt(t *testing.T) {
	spec := func(groups map[string][]string) *vpc.Snapshot {
		any4 := vpc.Peer{Kind: vpc.PeerPrefix, Prefix: netip.MustParsePrefix("0.0.0.0/0")}
		rule := func(id string, policy vpc.Policy, from vpc.Peer) *vpc.RuleSpec {
			return &vpc.RuleSpec{ID: id, Direction: vpc.Ingress, Policy: policy, Source: from, Priority: 1}
		}
		v := &vpc.VPCSpec{ID: "vpc-1", Name: "lab", CIDRBlock: netip.MustParsePrefix("10.0.0.0/16"),
			VSwitches: []*vpc.VSwitchSpec{{ID: "vsw-1", Name: "sw", CIDRBlock: netip.MustParsePrefix("10.0.1.0/24")}},
			SecurityGroups: []*vpc.GroupSpec{
				{ID: "sg-1", Name: "bad", Type: vpc.GroupBasic, InnerAccess: vpc.Drop},
				{ID: "sg-2", Name: "good", Type: vpc.GroupBasic, InnerAccess: vpc.Accept},
				{ID: "sg-3", Name: "web", Type: vpc.GroupBasic, InnerAccess: vpc.Drop,
					Rules: []*vpc.RuleSpec{rule("sgr-1", vpc.Accept, any4), rule("sgr-2", vpc.Drop, vpc.Peer{Kind: vpc.PeerGroup, Name: "bad"})}},
			}}
		for i, name := range []string{"a", "b", "c"} {
			if groups[name] != nil {
				v.Instances = append(v.Instances, &vpc.InstanceSpec{ID: "i-" + name, Name: name, Interfaces: []*vpc.InterfaceSpec{{
					ID: "eni-" + name, MAC: vpc.MAC{2, 0, 0, 0, 0, byte(i + 1)}, VSwitch: "sw", PrivateIP: addr4(i + 1), SecurityGroups: groups[name]}}})
			}
		}
		return vpc.NewSnapshot(&vpc.Spec{VPCs: []*vpc.VPCSpec{v}}, vpc.Host{}, 0)
	}
	for _, tt := range []struct {
		name          string
		before, after map[string][]string
		looked        bool
	}{
		{"joins a group that others refuse", map[string][]string{"a": {"web"}, "b": {"good"}}, map[string][]string{"a": {"web"}, "b": {"bad", "good"}}, true},
		{"comes in a group that others refuse", map[string][]string{"a": {"web"}}, map[string][]string{"a": {"web"}, "b": {"bad"}}, true},
		{"joins a group that only admits", map[string][]string{"a": {"web"}, "b": {"bad"}}, map[string][]string{"a": {"web"}, "b": {"bad", "good"}}, false},
		{"joins a group that refuses somebody", map[string][]string{"a": {"web"}, "b": {"good"}}, map[string][]string{"a": {"web"}, "b": {"good", "web"}}, true},
		{"leaves a group", map[string][]string{"a": {"web"}, "b": {"bad", "good"}}, map[string][]string{"a": {"web"}, "b": {"bad"}}, true},
		{"comes in a group that only admits", map[string][]string{"a": {"web"}}, map[string][]string{"a": {"web"}, "b": {"good"}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old, new := spec(tt.before), spec(tt.after)
			if got := affectedBy(old, new).wants(new)(addr4(2)); got != tt.looked {
				t.Errorf("looked at: %v, want %v", got, tt.looked)
			}
		})
	}
}
