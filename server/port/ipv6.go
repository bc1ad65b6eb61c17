package port

import (
	"encoding/binary"
	"net/netip"

	"gatehouse/vpc"
)

// Sizes of headers in a frame, in bytes, and the types of what follows Ethernet's.
const (
	EtherSize = 14
	IPv6Size  = 40
	UDPSize   = 8
	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherIPv6 = 0x86dd
)

// IPv6 is a frame's Ethernet and IPv6 header.
type IPv6 struct {
	SrcMAC, DstMAC vpc.MAC
	Src, Dst       netip.Addr
	HopLimit       uint8
}

// ParseIPv6 reads a frame whose IPv6 header is followed by the protocol itself: there is no extension header, so it is
// no fragment either. The payload is part of b.
func ParseIPv6(b []byte, protocol vpc.Protocol) (h IPv6, payload []byte, ok bool) {
	if len(b) < EtherSize+IPv6Size || binary.BigEndian.Uint16(b[12:]) != EtherIPv6 {
		return IPv6{}, nil, false
	}
	ip := b[EtherSize:]
	size := int(binary.BigEndian.Uint16(ip[4:]))
	if ip[0]>>4 != 6 || ip[6] != byte(protocol) || size > len(ip)-IPv6Size {
		return IPv6{}, nil, false
	}
	h = IPv6{
		DstMAC: vpc.MAC(b[0:6]), SrcMAC: vpc.MAC(b[6:12]), HopLimit: ip[7],
		Src: netip.AddrFrom16([16]byte(ip[8:24])), Dst: netip.AddrFrom16([16]byte(ip[24:40])),
	}
	return h, ip[IPv6Size : IPv6Size+size], true
}

// Frame makes the frame of a payload, with the payload's checksum, which covers the addresses too, at the given offset:
// there is nobody behind a packet socket who would fill it in.
func (h IPv6) Frame(protocol vpc.Protocol, payload []byte, checksumAt int) []byte {
	b := make([]byte, EtherSize+IPv6Size, EtherSize+IPv6Size+len(payload))
	copy(b[0:6], h.DstMAC[:])
	copy(b[6:12], h.SrcMAC[:])
	binary.BigEndian.PutUint16(b[12:], EtherIPv6)
	ip := b[EtherSize:]
	ip[0] = 0x60
	binary.BigEndian.PutUint16(ip[4:], uint16(len(payload)))
	ip[6], ip[7] = byte(protocol), h.HopLimit
	src, dst := h.Src.As16(), h.Dst.As16()
	copy(ip[8:], src[:])
	copy(ip[24:], dst[:])
	b = append(b, payload...)
	check := b[EtherSize+IPv6Size+checksumAt:]
	binary.BigEndian.PutUint16(check, 0)
	c := ^h.sum(protocol, b[EtherSize+IPv6Size:])
	if c == 0 && protocol == vpc.ProtocolUDP {
		c = 0xffff // zero would mean that there is none (RFC 8200 section 8.1)
	}
	binary.BigEndian.PutUint16(check, c)
	return b
}

// Intact reports whether the checksum within a payload is right.
func (h IPv6) Intact(protocol vpc.Protocol, payload []byte) bool {
	return h.sum(protocol, payload) == 0xffff
}

// sum adds up a payload with its pseudo-header (RFC 8200 section 8.1).
func (h IPv6) sum(protocol vpc.Protocol, payload []byte) uint16 {
	src, dst := h.Src.As16(), h.Dst.As16()
	acc := uint32(protocol) + uint32(len(payload))
	return Fold(Sum(Sum(Sum(acc, src[:]), dst[:]), payload))
}

// Sum adds 16-bit words as the Internet checksum does (RFC 1071); Fold brings the carries back.
func Sum(acc uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		acc += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		acc += uint32(b[0]) << 8
	}
	return acc
}

// Fold brings the carries of Sum back.
func Fold(acc uint32) uint16 {
	for acc > 0xffff {
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc)
}
