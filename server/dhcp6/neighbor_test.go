package dhcp6

import (
	"testing"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

// advertisement is the frame in which a machine says that it has an address.
func advertisement(options ...byte) []byte {
	m := make([]byte, neighborSize)
	m[0] = typeNeighborAdvertisement
	target := addr("fd00:20:0:1::10").As16()
	copy(m[neighborTarget:], target[:])
	h := port.IPv6{SrcMAC: stranger, DstMAC: webMAC2, Src: addr("fe80::9"), Dst: vpc.RouterLinkLocal, HopLimit: 255}
	return h.Frame(vpc.ProtocolICMPv6, append(m, options...), icmpChecksum)
}

func TestNeighborProbe(t *testing.T) {
	h, m, ok := port.ParseIPv6(neighborProbe(webMAC, addr("fd00:20:0:1::12:3456")), vpc.ProtocolICMPv6)
	if !ok || !h.Intact(vpc.ProtocolICMPv6, m) || h.HopLimit != 255 {
		t.Fatalf("no sound message: %+v, %x", h, m)
	}
	if h.Dst != addr("ff02::1:ff12:3456") || h.DstMAC != (vpc.MAC{0x33, 0x33, 0xff, 0x12, 0x34, 0x56}) || h.Src != addr("fe80::1") || h.SrcMAC != webMAC {
		t.Errorf("from %s (%s) to %s (%s)", h.Src, h.SrcMAC, h.Dst, h.DstMAC)
	}
	if m[0] != typeNeighborSolicitation || len(m) != 32 {
		t.Errorf("message %x", m)
	}
}

func TestNeighborClaim(t *testing.T) {
	for _, tt := range []struct {
		name  string
		frame []byte
		by    vpc.MAC // zero: it is none
	}{
		{"by the frame's source", advertisement(), stranger},
		{"by the link-layer address that it names", advertisement(2, 1, 2, 0, 0, 0, 0, 7), vpc.MAC{2, 0, 0, 0, 0, 7}},
		{"a broken option", advertisement(2, 0, 2, 0, 0, 0, 0, 7), vpc.MAC{}},
		{"a question", neighborProbe(webMAC, addr("fd00:20:0:1::10")), vpc.MAC{}},
		{"half a message", advertisement()[:60], vpc.MAC{}},
		{"a wrong checksum", func() []byte { b := advertisement(); b[56] ^= 1; return b }(), vpc.MAC{}},
		{"from beyond the link", func() []byte { b := advertisement(); b[21] = 254; return b }(), vpc.MAC{}},
	} {
		a, by, ok := neighborClaim(tt.frame)
		if ok != !tt.by.IsZero() || by != tt.by || ok && a != addr("fd00:20:0:1::10") {
			t.Errorf("%s: %s by %s, %t", tt.name, a, by, ok)
		}
	}
}

func FuzzNeighborClaim(f *testing.F) {
	f.Add(advertisement())
	f.Add(advertisement(2, 1, 2, 0, 0, 0, 0, 7))
	f.Add(advertisement(2, 255))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, _, ok := neighborClaim(b); ok && !a.Is6() {
			t.Errorf("claims %s", a)
		}
	})
}
