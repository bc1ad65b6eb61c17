package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
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

// scattered is a network whose IPv6 ranges lie as far from each other as can be: VPCs and vSwitches at powers of two.
func scattered() *vpc.Spec {
	at := func(high uint64) netip.Prefix {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], high)
		return netip.PrefixFrom(netip.AddrFrom16(b), 64)
	}
	spec := &vpc.Spec{}
	for i := range 41 {
		base := uint64(0xfd) << 56
		if i > 0 {
			base |= 1 << (15 + i)
		}
		net4 := func(k, bits int) netip.Prefix { return netip.PrefixFrom(addrOf(uint32(10<<24|i<<16|k<<8)), bits) }
		v := &vpc.VPCSpec{ID: fmt.Sprintf("vpc-%016x", i+1), Name: fmt.Sprintf("v%d", i), CIDRBlock: net4(0, 16), IPv6CIDRBlock: netip.PrefixFrom(at(base).Addr(), 48),
			SecurityGroups: []*vpc.GroupSpec{{ID: fmt.Sprintf("sg-%016x", i+1), Name: "g", Type: vpc.GroupBasic, InnerAccess: vpc.Accept}}}
		for k := range 17 {
			p6 := at(base)
			if k > 0 {
				p6 = at(base | 1<<(k-1))
			}
			w := &vpc.VSwitchSpec{ID: fmt.Sprintf("vsw-%08x%08x", k+1, i+1), Name: fmt.Sprintf("w%d", k), CIDRBlock: net4(k, 24), IPv6CIDRBlock: p6,
				Attach: vpc.AttachSpec{Bridge: fmt.Sprintf("b%d-%d", i, k)}}
			v.VSwitches = append(v.VSwitches, w)
			v.Instances = append(v.Instances, instance(i*1000+k+1, w.Name, fmt.Sprintf("10.%d.%d.9", i, k), p6.Addr().Next().Next().String(), "g"))
		}
		spec.VPCs = append(spec.VPCs, v)
	}
	return spec
}

// The nft backend's kernel refuses chains that lead into each other too deep.
func TestChainsAreNotTooDeepForTheKernel(t *testing.T) {
	for name, spec := range map[string]*vpc.Spec{
		"crowded": crowded(1000, 3), "many links with like names": named(1000), "many profiles": combinations(1900), "scattered": scattered(),
	} {
		for _, f := range []Features{everything(), bare()} {
			for _, family := range compile(t, spec, f).Families {
				if table, n := depthOf(family.Tables); n > maxDepth {
					t.Errorf("%s, mapmark=%t: %s %s: chains are %d deep, the kernel takes %d", name, f.MapMark, family.Family, table, n, maxDepth)
				}
			}
		}
	}
}
