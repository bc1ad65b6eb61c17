package dhcp6

import (
	"net/netip"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

// Neighbour discovery (RFC 4861 sections 4.3 and 4.4).
const (
	typeNeighborSolicitation  = 135
	typeNeighborAdvertisement = 136
	optionSourceLinkLayer     = 1
	optionTargetLinkLayer     = 2
	neighborSize              = 24 // of a message without options, in bytes
	neighborTarget            = 8  // offset of the address
	icmpChecksum              = 2
)

// neighborProbe asks who has an address, as a router that looks for a neighbour does. Were it asked as a host that tries an
// address out (from ::, RFC 4862), a guest that is trying out its own at the moment would take that for a conflict.
func neighborProbe(from vpc.MAC, addr netip.Addr) []byte {
	target := addr.As16()
	m := make([]byte, neighborSize, neighborSize+8)
	m[0] = typeNeighborSolicitation
	copy(m[neighborTarget:], target[:])
	m = append(append(m, optionSourceLinkLayer, 1), from[:]...)
	// The solicited-node address (RFC 4291 section 2.7.1), and where Ethernet sends it (RFC 2464 section 7).
	to := netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: target[13], 14: target[14], 15: target[15]})
	h := port.IPv6{
		SrcMAC: from, DstMAC: vpc.MAC{0x33, 0x33, 0xff, target[13], target[14], target[15]},
		Src: vpc.RouterLinkLocal, Dst: to, HopLimit: 255,
	}
	return h.Frame(vpc.ProtocolICMPv6, m, icmpChecksum)
}

// neighborClaim reads an advertisement: who says that it has which address.
func neighborClaim(frame []byte) (addr netip.Addr, by vpc.MAC, ok bool) {
	h, m, ok := port.ParseIPv6(frame, vpc.ProtocolICMPv6)
	if !ok || len(m) < neighborSize || m[0] != typeNeighborAdvertisement || m[1] != 0 || h.HopLimit != 255 || !h.Intact(vpc.ProtocolICMPv6, m) {
		return netip.Addr{}, vpc.MAC{}, false
	}
	by = h.SrcMAC
	for rest := m[neighborSize:]; len(rest) > 0; rest = rest[8*int(rest[1]):] {
		if len(rest) < 8 || rest[1] == 0 || 8*int(rest[1]) > len(rest) {
			return netip.Addr{}, vpc.MAC{}, false
		}
		if rest[0] == optionTargetLinkLayer {
			by = vpc.MAC(rest[2:8])
		}
	}
	return netip.AddrFrom16([16]byte(m[neighborTarget:])), by, true
}
