package reconcile

import (
	"net/netip"
	"testing"

	"gatehouse/firewall/conntrack"
	"gatehouse/vpc"
)

// A flow keeps the addresses that it began with, so what it began with has to be there still.
func TestFlowsEndWithTheirPrefixTranslation(t *testing.T) {
	with := func(translations ...vpc.PrefixTranslationSpec) *vpc.Snapshot {
		w := newWorld()
		w.uplinks = []string{"eth0", "eth1"}
		s := w.snapshot()
		v := *s.Spec.VPCs[0]
		v.IPv6PrefixTranslations = translations
		return vpc.NewSnapshot(&vpc.Spec{VPCs: []*vpc.VPCSpec{&v}}, s.Host, 2)
	}
	by := func(uplink, prefix string) vpc.PrefixTranslationSpec {
		return vpc.PrefixTranslationSpec{Uplink: uplink, ExternalPrefix: netip.MustParsePrefix(prefix)}
	}
	first, second := by("eth0", "2001:db8:42::/56"), by("eth1", "2001:db8:43::/56")
	flow := func(proto vpc.Protocol, src, dst, backSrc, backDst string) conntrack.Flow {
		a := netip.MustParseAddr
		return conntrack.Flow{
			Original: conntrack.Tuple{Protocol: proto, Src: a(src), Dst: a(dst), SrcPort: 4000, DstPort: 443},
			Reply:    conntrack.Tuple{Protocol: proto, Src: a(backSrc), Dst: a(backDst), SrcPort: 443, DstPort: 4000},
		}
	}
	const in, ext, ext2, out = "fd00::1", "2001:db8:42::1", "2001:db8:43::1", "2001:db8::1"
	for _, tt := range []struct {
		name     string
		old, new *vpc.Snapshot
		flow     conntrack.Flow
		want     bool
	}{
		{"out by what is gone", with(first), with(), flow(vpc.ProtocolTCP, in, out, out, ext), true},
		{"in by what is gone", with(first), with(), flow(vpc.ProtocolTCP, out, ext, in, out), true},
		{"out by another prefix than that which is gone", with(first, second), with(second), flow(vpc.ProtocolTCP, in, out, out, ext2), false},
		{"by a prefix that is exchanged", with(first), with(by("eth0", "2001:db8:43::/56")), flow(vpc.ProtocolTCP, out, ext, in, out), true},
		{"by a prefix that moves to another uplink", with(first), with(by("eth1", "2001:db8:42::/56")), flow(vpc.ProtocolTCP, in, out, out, ext), false},
		{"by a prefix that stays", with(first), with(first, second), flow(vpc.ProtocolUDP, in, out, out, ext), false},
		{"without one, inside", with(first), with(), flow(vpc.ProtocolTCP, in, "fd00::2", "fd00::2", in), false},
		{"out without the one that comes", with(), with(first), flow(vpc.ProtocolUDP, in, out, out, in), true},
		{"a TCP connection without the one that comes", with(), with(first), flow(vpc.ProtocolTCP, in, out, out, in), false},
		{"inside, when one comes", with(), with(first), flow(vpc.ProtocolUDP, in, "fd00::2", "fd00::2", in), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := affectedBy(tt.old, tt.new)
			if got := a.retranslated.ends(tt.flow); got != tt.want {
				t.Errorf("it ends: %v, want %v", got, tt.want)
			}
			if wants := a.wants(tt.new); tt.want && !wants(netip.MustParseAddr(in)) || wants(netip.MustParseAddr(out)) {
				t.Error("nobody looks at the flow, or at everybody's")
			}
		})
	}
	if a := affectedBy(with(first), with(first)); !a.none() {
		t.Error("nothing changes, and somebody looks")
	}
}
