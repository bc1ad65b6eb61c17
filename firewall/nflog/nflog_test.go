package nflog

import (
	"net/netip"
	"testing"
	"time"

	"github.com/florianl/go-nflog/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gatehouse/vpc"
)

func v4(protocol byte, rest ...byte) []byte {
	b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	return append(b, rest...)
}

func v6(next byte, rest ...byte) []byte {
	b := append([]byte{0x60, 0, 0, 0, 0, 0, next, 64}, netip.MustParseAddr("fd00::1").AsSlice()...)
	return append(append(b, netip.MustParseAddr("fd00::2").AsSlice()...), rest...)
}

var ports = []byte{0x30, 0x39, 0x15, 0x38} // 12345 -> 5432

func TestParse(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	four := Refusal{Time: at, Reason: "sg.rule", Rule: "sgr-1", In: 3, Protocol: 6, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), SrcPort: 12345, DstPort: 5432}
	six := four
	six.Src, six.Dst = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	with := func(r Refusal, f func(*Refusal)) *Refusal { f(&r); return &r }
	for _, c := range []struct {
		name, prefix string
		payload      []byte
		want         *Refusal // nil: not a record of ours
	}{
		{"a TCP packet of IPv4", "sg.rule:sgr-1", v4(6, ports...), &four},
		{"a TCP packet of IPv6", "sg.rule:sgr-1", v6(6, ports...), &six},
		{"the kernel ends a prefix with a zero", "sg.rule:sgr-1\x00", v4(6, ports...), &four},
		{"a named default has no rule", "sg.default.basic.ingress:", v4(17, ports...), with(four, func(r *Refusal) { r.Reason, r.Rule, r.Protocol = vpc.ReasonSGDefaultBasicIngress, "", 17 })},
		{"a protocol without ports", "sg.rule:sgr-1", v4(47, ports...), with(four, func(r *Refusal) { r.Protocol, r.SrcPort, r.DstPort = 47, 0, 0 })},
		{"a later fragment has no ports", "sg.rule:sgr-1", func() []byte { b := v4(17, ports...); b[7] = 1; return b }(), with(four, func(r *Refusal) { r.Protocol, r.SrcPort, r.DstPort = 17, 0, 0 })},
		{"ports behind an extension header", "sg.rule:sgr-1", v6(60, append([]byte{6, 0, 1, 4, 0, 0, 0, 0}, ports...)...), &six},
		{"the first fragment of IPv6", "sg.rule:sgr-1", v6(44, append([]byte{17, 0, 0, 1, 0, 0, 0, 7}, ports...)...), with(six, func(r *Refusal) { r.Protocol = 17 })},
		{"an extension header that is cut", "sg.rule:sgr-1", v6(60, 6, 9), with(six, func(r *Refusal) { r.Protocol, r.SrcPort, r.DstPort = 60, 0, 0 })},
		{"a record of somebody else", "DROP ", v4(6, ports...), nil},
		{"a packet that is cut", "sg.rule:sgr-1", v4(6)[:12], nil},
		{"a header longer than the packet", "sg.rule:sgr-1", append([]byte{0x4f}, v4(6)[1:]...), nil},
		{"neither IPv4 nor IPv6", "sg.rule:sgr-1", make([]byte, 60), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := uint32(3)
			got, ok := parse(nflog.Attribute{Prefix: &c.prefix, Payload: &c.payload, InDev: &in}, at)
			if ok != (c.want != nil) {
				t.Fatalf("ok %v", ok)
			}
			if ok {
				if diff := cmp.Diff(*c.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("sg.rule:sgr-1", v4(6, ports...))
	f.Add("nacl.default:", v6(60, append([]byte{44, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0}, ports...)...))
	f.Fuzz(func(t *testing.T, prefix string, payload []byte) {
		r, ok := parse(nflog.Attribute{Prefix: &prefix, Payload: &payload}, time.Time{})
		if ok && vpc.FamilyOf(r.Src) != vpc.FamilyOf(r.Dst) {
			t.Errorf("addresses of two families: %+v", r)
		}
	})
}
