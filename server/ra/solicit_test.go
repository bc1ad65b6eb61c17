package ra

import (
	"net/netip"
	"slices"
	"testing"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

func TestAnswersForNeighbours(t *testing.T) {
	snap := spec(nil)
	nowhere := netip.IPv6Unspecified()
	for _, tt := range []struct {
		name   string
		mac    vpc.MAC
		src    netip.Addr
		target string
		want   bool
	}{
		{"for another interface of the vSwitch", web1MAC, addr("fd00:20:0:1::10"), "fd00:20:0:1::11", true},
		{"for the gateway", web1MAC, addr("fe80::16"), "fd00:20:0:1:ffff:ffff:ffff:fff7", true},
		{"for a secondary address", web2MAC, addr("fd00:20:0:1::11"), "fd00:20:0:1::20", true},
		{"for what is behind another interface", web1MAC, addr("fd00:20:0:1::10"), "fd00:20:0:1:5::9", true},
		{"who tries out what is behind a neighbour is alone with it", web1MAC, nowhere, "fd00:20:0:1:5::9", false},
		{"not for an address that nobody has", web1MAC, addr("fd00:20:0:1::10"), "fd00:20:0:1::99", false},
		{"not for the asker's own address", web1MAC, addr("fd00:20:0:1::10"), "fd00:20:0:1::10", false},
		{"not for the asker's own second address", web1MAC, addr("fd00:20:0:1::10"), "fd00:20:0:1::20", false},
		{"not for an interface of another vSwitch", web1MAC, addr("fd00:20:0:1::10"), "fd00:20:0:2::10", false},
		{"not for a link-local address", web1MAC, addr("fe80::16"), "fe80::17", false},
		{"not to a MAC that nobody has", stranger, addr("fd00:20:0:1::10"), "fd00:20:0:1::11", false},
		{"not to a MAC of another vSwitch", back1MAC, addr("fd00:20:0:2::10"), "fd00:20:0:1::11", false},
		{"who tries out its own address is alone with it", web1MAC, nowhere, "fd00:20:0:1::10", false},
		{"who tries out a free address is alone with it", web1MAC, nowhere, "fd00:20:0:1::99", false},
		{"who tries out a neighbour's address finds it taken", web1MAC, nowhere, "fd00:20:0:1::11", true},
		{"who tries out the gateway's address finds it taken", web1MAC, nowhere, "fd00:20:0:1:ffff:ffff:ffff:fff7", true},
	} {
		s, ok := parseSolicitation(neighborSolicitation(tt.mac, tt.src, addr(tt.target)))
		if !ok {
			t.Errorf("%s: the frame is refused", tt.name)
			continue
		}
		if got := answers(snap, snap.VSwitchByID(webID), s); got != tt.want {
			t.Errorf("%s: %t", tt.name, got)
		}
	}
}

func TestNeighborAdvertisement(t *testing.T) {
	target := addr("fd00:20:0:1::11")
	for _, tt := range []struct {
		name   string
		src    netip.Addr
		dst    netip.Addr
		dstMAC vpc.MAC
		flags  byte
	}{
		{"to the asker", addr("fd00:20:0:1::10"), addr("fd00:20:0:1::10"), web1MAC, 0xc0},
		{"to everybody when the asker has no address yet", netip.IPv6Unspecified(), addr("ff02::1"), vpc.MAC{0x33, 0x33, 0, 0, 0, 1}, 0x80},
	} {
		s, _ := parseSolicitation(neighborSolicitation(web1MAC, tt.src, target))
		h, m, ok := port.ParseIPv6(neighborAdvertisement(s, linkMAC), vpc.ProtocolICMPv6)
		if !ok || !h.Intact(vpc.ProtocolICMPv6, m) || h.HopLimit != 255 || h.Dst != tt.dst || h.DstMAC != tt.dstMAC || h.SrcMAC != linkMAC {
			t.Errorf("%s: header %+v", tt.name, h)
			continue
		}
		want := slices.Concat([]byte{typeNeighborAdvertisement, 0, m[2], m[3], tt.flags, 0, 0, 0}, target.AsSlice(), []byte{optionTargetLinkLayer, 1}, linkMAC[:])
		if !slices.Equal(m, want) {
			t.Errorf("%s: %x, want %x", tt.name, m, want)
		}
	}
}

func TestParseSolicitationRefuses(t *testing.T) {
	ns := func(change func(h *port.IPv6, m []byte) []byte) []byte {
		h, m, _ := port.ParseIPv6(neighborSolicitation(web1MAC, addr("fe80::16"), addr("fd00:20:0:1::11")), vpc.ProtocolICMPv6)
		return h.Frame(vpc.ProtocolICMPv6, change(&h, slices.Clone(m)), checksumAt)
	}
	damaged := neighborSolicitation(web1MAC, addr("fe80::16"), addr("fd00:20:0:1::11"))
	damaged[len(damaged)-1]++
	fromFar := neighborSolicitation(web1MAC, addr("fe80::16"), addr("fd00:20:0:1::11"))
	fromFar[21] = 254 // the hop limit, which the checksum does not cover
	linkLayer := appendLinkLayer(nil, optionSourceLinkLayer, web1MAC)
	for name, frame := range map[string][]byte{
		"that came over a router":             fromFar,
		"with a wrong checksum":               damaged,
		"with a code":                         ns(func(_ *port.IPv6, m []byte) []byte { m[1] = 1; return m }),
		"without a target":                    ns(func(_ *port.IPv6, m []byte) []byte { return m[:16] }),
		"for a group":                         ns(func(_ *port.IPv6, m []byte) []byte { m[8] = 0xff; return m }),
		"with an option of no length":         ns(func(_ *port.IPv6, m []byte) []byte { m[25] = 0; return m }),
		"with an option that runs over":       ns(func(_ *port.IPv6, m []byte) []byte { m[25] = 2; return m }),
		"with half an option":                 ns(func(_ *port.IPv6, m []byte) []byte { return m[:28] }),
		"that is an advertisement":            ns(func(_ *port.IPv6, m []byte) []byte { m[0] = typeRouterAdvertisement; return m }),
		"nobody's to somebody":                port.IPv6{SrcMAC: web1MAC, Src: netip.IPv6Unspecified(), Dst: addr("fe80::17"), HopLimit: 255}.Frame(vpc.ProtocolICMPv6, append(make([]byte, 8), addr("fd00::1").AsSlice()...), checksumAt),
		"of a router by nobody, with its MAC": port.IPv6{SrcMAC: web1MAC, Src: netip.IPv6Unspecified(), Dst: addr("ff02::2"), HopLimit: 255}.Frame(vpc.ProtocolICMPv6, append([]byte{typeRouterSolicitation, 0, 0, 0, 0, 0, 0, 0}, linkLayer...), checksumAt),
		"nothing":                             {},
	} {
		if s, ok := parseSolicitation(frame); ok {
			t.Errorf("a solicitation %s is read: %+v", name, s)
		}
	}
	if s, ok := parseSolicitation(ns(func(_ *port.IPv6, m []byte) []byte { return m })); !ok || s.target != addr("fd00:20:0:1::11") || s.mac != web1MAC {
		t.Errorf("a good one is not: %+v", s)
	}
}

func FuzzParseSolicitation(f *testing.F) {
	f.Add(routerSolicitation(web1MAC, addr("fe80::16")))
	f.Add(routerSolicitation(web1MAC, netip.IPv6Unspecified()))
	f.Add(neighborSolicitation(web1MAC, addr("fd00:20:0:1::10"), addr("fd00:20:0:1::11")))
	f.Add(neighborSolicitation(web1MAC, netip.IPv6Unspecified(), addr("fd00:20:0:1::11")))
	snap := spec(nil)
	f.Fuzz(func(t *testing.T, frame []byte) {
		if h, m, ok := port.ParseIPv6(frame, vpc.ProtocolICMPv6); ok && len(m) >= checksumAt+2 {
			frame = h.Frame(vpc.ProtocolICMPv6, m, checksumAt) // or chance would have to find the checksum
		}
		s, ok := parseSolicitation(frame)
		if !ok || s.kind != typeNeighborSolicitation || !answers(snap, snap.VSwitchByID(webID), s) {
			return
		}
		h, m, ok := port.ParseIPv6(neighborAdvertisement(s, linkMAC), vpc.ProtocolICMPv6)
		if !ok || !h.Intact(vpc.ProtocolICMPv6, m) {
			t.Errorf("the answer is no frame: %+v", h)
		}
	})
}
