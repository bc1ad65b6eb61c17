package firewall

import (
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
