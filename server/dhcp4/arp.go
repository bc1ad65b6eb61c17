package dhcp4

import (
	"encoding/binary"
	"net/netip"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

// ARP for IPv4 over Ethernet (RFC 826): the size of a message in bytes, and its operations.
const (
	arpSize       = 28
	arpRequest    = 1
	arpReply      = 2
	arpTypes      = 0x0001_0800 // Ethernet, IPv4
	arpTypeSizes  = 0x0604
	arpOperation  = 6 // offsets of the fields
	arpSender     = 8
	arpSenderAddr = 14
	arpTargetAddr = 24
)

// arpProbe asks everybody on a link who has an address. It names no sender address, so that nobody learns one from it
// (RFC 5227 section 1.1).
func arpProbe(from vpc.MAC, addr netip.Addr) []byte {
	b := make([]byte, port.EtherSize+arpSize)
	copy(b[0:6], broadcastMAC[:])
	copy(b[6:12], from[:])
	binary.BigEndian.PutUint16(b[12:], port.EtherARP)
	m := b[port.EtherSize:]
	binary.BigEndian.PutUint32(m, arpTypes)
	binary.BigEndian.PutUint16(m[4:], arpTypeSizes)
	binary.BigEndian.PutUint16(m[arpOperation:], arpRequest)
	copy(m[arpSender:], from[:])
	target := addr.As4()
	copy(m[arpTargetAddr:], target[:])
	return b
}

// arpClaim reads a reply: who says that it has which address.
func arpClaim(frame []byte) (addr netip.Addr, by vpc.MAC, ok bool) {
	if len(frame) < port.EtherSize+arpSize || binary.BigEndian.Uint16(frame[12:]) != port.EtherARP {
		return netip.Addr{}, vpc.MAC{}, false
	}
	m := frame[port.EtherSize:]
	if binary.BigEndian.Uint32(m) != arpTypes || binary.BigEndian.Uint16(m[4:]) != arpTypeSizes || binary.BigEndian.Uint16(m[arpOperation:]) != arpReply {
		return netip.Addr{}, vpc.MAC{}, false
	}
	return netip.AddrFrom4([4]byte(m[arpSenderAddr:])), vpc.MAC(m[arpSender:]), true
}
