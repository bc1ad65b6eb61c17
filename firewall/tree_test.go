package firewall

import (
	"fmt"
	"testing"

	"gatehouse/vpc"
)

// named gives the vSwitches of a network link names that are beginnings of each other.
func named(n int) *vpc.Spec {
	spec := crowded(n, 2)
	for i, w := range spec.VPCs[0].VSwitches {
		w.Attach.Bridge = fmt.Sprintf("vs%d", i)
		if i%7 == 0 {
			w.Attach.Bridge = fmt.Sprintf("eth%d", i+10) // eth1 is an uplink
		}
	}
	return spec
}

func TestEveryLinkIsFoundInTheTreeAndNoOther(t *testing.T) {
	for _, n := range []int{1, linearLinks, linearLinks + 1, 250} {
		for _, f := range []Features{everything(), bare()} {
			s := snapshot(named(n))
			rs, err := Compile(s, f)
			if err != nil {
				t.Fatal(err)
			}
			tracer := NewTracer(rs)
			for _, family := range vpc.Families() {
				for i, w := range s.VSwitches {
					from, to := w.Interfaces[0].Primary(family), s.VSwitches[(i+1)%n].Interfaces[1]
					p := vpc.Packet{Src: from, Dst: to.Primary(family), Protocol: vpc.ProtocolTCP, DstPort: 80}
					right := Path{In: w.LinkName(), Out: to.VSwitch.LinkName()}
					if v := tracer.Trace(p, right); len(v.Stages) < 5 || v.Stages[0].Reason != vpc.ReasonSpoofOK || v.Stages[1].Reason != vpc.ReasonVPCSame {
						t.Errorf("%d links, %s by %+v: %s", n, family, right, stages(v))
					}
					for _, other := range []string{w.LinkName() + "x", "vs", "eth1", "eth", "lo1", "gh-"} {
						if v := tracer.Trace(p, Path{In: other, Out: right.Out}); v.Stages[0].Reason != vpc.ReasonSpoofOutside {
							t.Errorf("%d links, %s by link %s: %s", n, family, other, stages(v))
						}
					}
					p.Src = addr("198.51.100.9")
					if family == vpc.IPv6 {
						p.Src = addr("2001:db8::9")
					}
					for in, want := range map[string]vpc.Reason{"eth0": vpc.ReasonVPCUplink, "eth1": vpc.ReasonVPCUplink, "eth": vpc.ReasonLinkForeign, "vs": vpc.ReasonLinkForeign} {
						if v := tracer.Trace(p, Path{In: in, Out: right.Out}); v.Stages[1].Reason != want {
							t.Errorf("%d links, %s from outside by %s: %s", n, family, in, stages(v))
						}
					}
				}
			}
		}
	}
}

// Fifty times as many vSwitches are another level or two of the trees, not fifty times as many rules.
func TestDispatchHardlyGrowsWithTheNetwork(t *testing.T) {
	for _, f := range []Features{everything(), bare()} {
		for _, family := range []int{0, 1} {
			small, large := deepest(t, 20, f, family), deepest(t, 1000, f, family)
			if large > 2*small {
				t.Errorf("mapmark=%t, family %d: the longest way asks %d rules for 20 vSwitches and %d for 1000", f.MapMark, family, small, large)
			}
		}
	}
}

// deepest returns how many rules the longest way through the raw and mangle tables of a network asks, the one-by-one list of
// directed broadcasts apart, which only refused packets see.
func deepest(t *testing.T, vswitches int, f Features, family int) int {
	t.Helper()
	rs := compile(t, crowded(vswitches, 1), f)
	longest := 0
	for _, table := range rs.Families[family].Tables[:2] {
		chains := map[string]Chain{}
		for _, c := range table.Chains {
			chains[c.Name] = c
		}
		var cost func(name string) int
		cost = func(name string) int {
			n := 0 // asked so far in this chain
			most := 0
			for _, r := range chains[name].Rules {
				if r.Target.Kind == Goto && r.Target.Chain == "GH-HM" {
					continue
				}
				n++
				switch r.Target.Kind {
				case Goto:
					most = max(most, n+cost(r.Target.Chain))
				case Jump:
					n += cost(r.Target.Chain)
				}
			}
			return max(most, n)
		}
		for _, h := range table.Hooks {
			longest = max(longest, cost(h.Target))
		}
	}
	return longest
}

// The nft backend's kernel refuses chains that lead into each other more than sixteen deep (NFT_JUMP_STACK_SIZE), by jump or goto.
func TestChainsAreNotTooDeepForTheKernel(t *testing.T) {
	const limit = 15 // below the kernel's own chain
	for name, spec := range map[string]*vpc.Spec{"crowded": crowded(1000, 3), "many links with like names": named(1000), "many profiles": combinations(1900)} {
		for _, f := range []Features{everything(), bare()} {
			rs := compile(t, spec, f)
			for _, family := range rs.Families {
				for _, table := range family.Tables {
					deep := map[string]int{}
					var depth func(string) int
					depth = func(name string) int {
						if n, ok := deep[name]; ok {
							return n
						}
						most := 0
						for _, r := range chainNamed(table.Chains, name).Rules {
							if r.Target.Kind == Jump || r.Target.Kind == Goto {
								most = max(most, depth(r.Target.Chain))
							}
						}
						deep[name] = most + 1
						return most + 1
					}
					for _, h := range table.Hooks {
						if n := depth(h.Target); n > limit {
							t.Errorf("%s, mapmark=%t: %s %s: chains are %d deep, the kernel takes %d", name, f.MapMark, family.Family, table.Name, n, limit)
						}
					}
				}
			}
		}
	}
}
