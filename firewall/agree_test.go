package firewall_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gatehouse/firewall"
	"gatehouse/internal/polgen"
	"gatehouse/vpc"
)

// The policy is written twice: plainly in vpc.Evaluate, and as rules by firewall.Compile. A walk through the rules must say what
// the plain text says, stage by stage up to the first drop: verdict, reason and rule.

// features are all combinations of what a kernel may have or lack, with a mark mask for each.
func features() []firewall.Features {
	var all []firewall.Features
	for n := range 1 << 6 {
		f := firewall.Features{
			MarkMask: 0xffff0000, MapMark: n&1 == 0, IPMAC4: n&2 == 0, IPMAC6: n&4 == 0, NFLog: n&8 == 0, Physdev: n&16 == 0,
			RefuseMidStream: n&32 == 0, Netmap: true,
		}
		if n&3 == 0 {
			f.MarkMask = 0x0003fff0
		}
		all = append(all, f)
	}
	return all
}

func TestRulesSayWhatThePolicySays(t *testing.T) {
	for name, scale := range map[string]struct {
		size              polgen.Size
		networks, packets int
	}{"small": {polgen.Small(), 40, 100}, "large": {polgen.Large(), 4, 400}} {
		for i, f := range features() {
			t.Run(fmt.Sprintf("%s networks with %+v", name, f), func(t *testing.T) {
				t.Parallel()
				for n := range scale.networks {
					compareNetwork(t, uint64(i*1000+n), scale.size, f, scale.packets)
				}
			})
		}
	}
}

// FuzzRulesSayWhatThePolicySays looks for a network in which they do not.
func FuzzRulesSayWhatThePolicySays(f *testing.F) {
	f.Add(uint64(1), uint8(0))
	f.Fuzz(func(t *testing.T, seed uint64, variant uint8) {
		all := features()
		compareNetwork(t, seed, polgen.Small(), all[int(variant)%len(all)], 100)
	})
}

// compareNetwork compares the answers to random packets in one random network, and reports the first difference in the
// smallest network that has it.
func compareNetwork(t *testing.T, seed uint64, size polgen.Size, f firewall.Features, packets int) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 2))
	spec, host := polgen.Spec(r, size), polgen.Host()
	if r.IntN(2) == 0 {
		spec = polgen.Translate(r, spec)
	}
	if r.IntN(5) == 0 {
		host.Uplinks = nil // a lab of its own
	}
	s := vpc.NewSnapshot(spec, host, 1)
	rs, err := firewall.Compile(s, f)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	tracer := firewall.NewTracer(rs)
	for _, p := range polgen.Packets(r, s, packets) {
		if differ(s, f, tracer, p) == "" {
			continue
		}
		small := polgen.Shrink(spec, func(c *vpc.Spec) bool {
			s := vpc.NewSnapshot(c, host, 1)
			q, ok := inSnapshot(s, p)
			if !ok {
				return false
			}
			rs, err := firewall.Compile(s, f)
			return err == nil && differ(s, f, firewall.NewTracer(rs), q) != ""
		})
		s := vpc.NewSnapshot(small, host, 1)
		p, _ := inSnapshot(s, p)
		rs, err := firewall.Compile(s, f)
		if err != nil {
			t.Fatal(err)
		}
		t.Fatalf("seed %d: %s\n%s", seed, differ(s, f, firewall.NewTracer(rs), p), polgen.Describe(small, p))
	}
}

// inSnapshot moves a packet into a snapshot that may lack its vSwitch.
func inSnapshot(s *vpc.Snapshot, p vpc.Packet) (vpc.Packet, bool) {
	if p.In.VSwitch == nil {
		return p, true
	}
	i := slices.IndexFunc(s.VSwitches, func(w *vpc.VSwitch) bool { return w.ID == p.In.VSwitch.ID })
	if i < 0 {
		return p, false
	}
	p.In.VSwitch = s.VSwitches[i]
	return p, true
}

// differ returns what the policy and the rules say of a packet where they differ, else "".
func differ(s *vpc.Snapshot, f firewall.Features, tracer *firewall.Tracer, p vpc.Packet) string {
	p.NoSYN = p.NoSYN && f.RefuseMidStream // until then such a packet opens a flow like any other
	policy, rules := upToDrop(vpc.Evaluate(s, p)), upToDrop(tracer.Trace(p, firewall.PathOf(s, p)))
	if policy == rules {
		return ""
	}
	return fmt.Sprintf("the policy says\n%sbut the rules say\n%s", policy, rules)
}

// upToDrop writes the stages up to the first drop, one a line.
func upToDrop(v vpc.Verdict) string {
	var b strings.Builder
	for _, s := range v.Stages {
		fmt.Fprintf(&b, "  %s %s %s %s\n", s.Stage, s.Verdict, s.Reason, s.Rule)
		if s.Verdict == vpc.StageDrop {
			break
		}
	}
	fmt.Fprintf(&b, "  allowed %t\n", v.Allowed)
	return b.String()
}
