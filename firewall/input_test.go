package firewall

import (
	"slices"
	"strings"
	"testing"

	"gatehouse/vpc"
)

// What comes from outside does not reach the gateway by the addresses that all stations of a vSwitch share: the kernel takes
// them for its own.
func TestOutsidersReachNoSharedAddressOfAVSwitch(t *testing.T) {
	for _, f := range []Features{everything(), bare()} {
		tracer := NewTracer(compile(t, lab(), f))
		for _, tc := range []struct{ src, dst string }{
			{"198.51.100.9", "10.20.1.255"}, {"198.51.100.9", "10.20.1.0"}, {"198.51.100.9", "10.20.1.253"},
			{"2001:db8::9", "fd00:20:0:1::"},
		} {
			for _, in := range []string{"eth0", "other0"} {
				p := vpc.Packet{Src: addr(tc.src), Dst: addr(tc.dst), Protocol: vpc.ProtocolUDP, DstPort: 161}
				if v := tracer.Trace(p, Path{In: in, Local: true}); v.Allowed || v.Stages[len(v.Stages)-1].Reason != vpc.ReasonHostOutside {
					t.Errorf("%s to %s by %s: %s", tc.src, tc.dst, in, stages(v))
				}
			}
		}
		p := vpc.Packet{Src: addr("198.51.100.9"), Dst: addr("198.51.100.1"), Protocol: vpc.ProtocolTCP, DstPort: 22}
		if v := tracer.Trace(p, Path{In: "eth0", Local: true}); !v.Allowed {
			t.Errorf("the gateway's own address: %s", stages(v))
		}
	}
}

// Whoever empties sets by hand opens nothing: without a profile an address of ours is refused, by rules that ask no set.
func TestEmptiedSetsAdmitNothingNew(t *testing.T) {
	for _, f := range []Features{everything(), bare()} {
		s := snapshot(lab())
		rs, err := Compile(s, f)
		if err != nil {
			t.Fatal(err)
		}
		for name, emptied := range map[string]func(string) bool{
			"all":                func(string) bool { return true },
			"marks and ranges":   func(set string) bool { return strings.HasSuffix(set, "-mark") || strings.HasSuffix(set, "-vpcs") },
			"marks":              func(set string) bool { return strings.HasSuffix(set, "-mark") },
			"ranges and gateway": func(set string) bool { return !strings.HasSuffix(set, "-mark") },
		} {
			c := *rs
			c.Sets = slices.Clone(rs.Sets)
			for i := range c.Sets {
				if emptied(c.Sets[i].Name) {
					c.Sets[i].Members = nil
				}
			}
			tracer := NewTracer(&c)
			for _, w := range []way{
				{in: "uplink", packet: "198.51.100.9 10.20.2.10 tcp/22"}, {in: "uplink", packet: "2001:db8::9 fd00:20:0:2::10 tcp/22"},
				{in: "web", packet: "10.20.1.10 10.20.2.10 tcp/22"}, {in: "web", packet: "fd00:20:0:1::10 fd00:20:0:2::10 tcp/22"},
				{in: "web", packet: "10.20.1.10 172.16.1.10 tcp/80"}, {in: "uplink", packet: "198.51.100.9 10.20.1.99 tcp/443"},
			} {
				p := w.resolve(t, s)
				if vpc.Evaluate(s, p).Allowed {
					t.Fatalf("%s is allowed anyhow", w.packet)
				}
				if v := tracer.Trace(p, PathOf(s, p)); v.Allowed {
					t.Errorf("mapmark=%t, without %s: %s: %s", f.MapMark, name, w.packet, stages(v))
				}
			}
		}
	}
}
