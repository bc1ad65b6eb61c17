package ra

import (
	"encoding/binary"
	"net/netip"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

// solicitation is a router or neighbour solicitation that has passed the checks of RFC 4861 (sections 6.1.1 and 7.1.1).
type solicitation struct {
	kind   byte
	mac    vpc.MAC    // the frame's source
	src    netip.Addr // unspecified: it has none yet
	target netip.Addr // of a neighbour solicitation
}

// parseSolicitation reads a frame.
func parseSolicitation(frame []byte) (solicitation, bool) {
	h, m, ok := port.ParseIPv6(frame, vpc.ProtocolICMPv6)
	if !ok || len(m) < 8 || h.HopLimit != 255 || m[1] != 0 || !h.Intact(vpc.ProtocolICMPv6, m) {
		return solicitation{}, false
	}
	if h.SrcMAC.IsZero() || h.SrcMAC[0]&1 != 0 || h.Src.IsMulticast() {
		return solicitation{}, false
	}
	s := solicitation{kind: m[0], mac: h.SrcMAC, src: h.Src}
	rest := m[8:]
	switch s.kind {
	case typeRouterSolicitation:
	case typeNeighborSolicitation:
		if len(m) < 24 {
			return solicitation{}, false
		}
		s.target, rest = netip.AddrFrom16([16]byte(m[8:24])), m[24:]
		if s.target.IsMulticast() {
			return solicitation{}, false
		}
		if s.src.IsUnspecified() && h.Dst != solicitedNode(s.target) {
			return solicitation{}, false
		}
	default:
		return solicitation{}, false
	}
	for len(rest) > 0 {
		if len(rest) < 8 || rest[1] == 0 || int(rest[1])*8 > len(rest) {
			return solicitation{}, false
		}
		if rest[0] == optionSourceLinkLayer && s.src.IsUnspecified() {
			return solicitation{}, false
		}
		rest = rest[int(rest[1])*8:]
	}
	return s, true
}

// solicitedNode is the multicast address at which a neighbour is looked for (RFC 4291 section 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b := netip.MustParseAddr("ff02::1:ff00:0").As16()
	t := a.As16()
	copy(b[13:], t[13:])
	return netip.AddrFrom16(b)
}

// answers reports whether the gateway answers a neighbour solicitation on a vSwitch, in the name of the neighbour that
// the guest cannot hear: when the address is the gateway's, or that of another interface of the vSwitch. It never does
// for the asker's own addresses, so that a guest finds itself alone with them; whoever tries out (RFC 4862) what
// somebody else has is told so, as on a link that all share. A MAC that is not an interface of the vSwitch learns nothing.
func answers(snap *vpc.Snapshot, w *vpc.VSwitch, s solicitation) bool {
	asker := snap.InterfaceByMAC(s.mac)
	if asker == nil || asker.VSwitch != w || !w.IPv6CIDRBlock.IsValid() {
		return false
	}
	if s.target == w.GatewayAddr(vpc.IPv6) {
		return true
	}
	if s.src.IsUnspecified() && snap.Holder(s.target) == nil {
		return false // somebody behind a guest has it, who is on another link: there is nobody here to defend it
	}
	owner := snap.InterfaceByAddr(s.target)
	return owner != nil && owner != asker && owner.VSwitch == w
}

// neighborAdvertisement is the frame that answers a neighbour solicitation with the gateway's MAC. It does not override
// what the guest knows (RFC 4861 section 7.2.8): where the true neighbour can be heard, its answer wins.
func neighborAdvertisement(s solicitation, gateway vpc.MAC) []byte {
	const router, solicited = 0x80, 0x40
	b := make([]byte, 24, 32)
	b[0] = typeNeighborAdvertisement
	target := s.target.As16()
	copy(b[8:], target[:])
	b = appendLinkLayer(b, optionTargetLinkLayer, gateway)
	h := port.IPv6{SrcMAC: gateway, DstMAC: s.mac, Src: vpc.RouterLinkLocal, Dst: s.src, HopLimit: 255}
	b[4] = router | solicited
	if s.src.IsUnspecified() {
		h.Dst, h.DstMAC, b[4] = allNodes, multicastMAC(allNodes), router // section 7.2.4
	}
	return h.Frame(vpc.ProtocolICMPv6, b, checksumAt)
}

// checksumAt is where the checksum stands in an ICMPv6 message.
const checksumAt = 2

// multicastMAC is where Ethernet sends a multicast address (RFC 2464 section 7).
func multicastMAC(a netip.Addr) vpc.MAC {
	b := a.As16()
	m := vpc.MAC{0x33, 0x33}
	binary.BigEndian.PutUint32(m[2:], binary.BigEndian.Uint32(b[12:]))
	return m
}
