package port

import (
	"encoding/binary"
	"strings"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"gatehouse/vpc"
)

// Kinds is a set of the kinds of frames that are read on ports: what guests say before they can be spoken to in any other
// way. One kind is a set of its own.
type Kinds uint8

// The kinds. None of them has a VLAN tag, is a fragment, or has an IPv6 extension header.
const (
	DHCPv4                Kinds = 1 << iota // UDP to port 67 over IPv4
	DHCPv6                                  // UDP to port 547 over IPv6
	ARPReply                                //
	ARPRequest                              // all ARP that is no reply
	RouterSolicitation                      // RFC 4861 section 4.1
	NeighborSolicitation                    // section 4.3
	NeighborAdvertisement                   // section 4.4
	DHCPv4Answer                            // UDP to port 68 over IPv4: what a server says

	AllKinds = Kinds(1<<kindCount - 1)
	anyDHCP4 = DHCPv4 | DHCPv4Answer
	anyARP   = ARPReply | ARPRequest
	anyIPv6  = DHCPv6 | RouterSolicitation | NeighborSolicitation | NeighborAdvertisement
)

const kindCount = 8

var kindNames = [kindCount]string{
	"DHCPv4", "DHCPv6", "ARP reply", "ARP request", "router solicitation", "neighbor solicitation", "neighbor advertisement",
	"DHCPv4 answer",
}

// String lists the kinds.
func (k Kinds) String() string {
	var names []string
	for i, name := range kindNames {
		if k&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// What the kinds are told by, and where it stands in a frame.
const (
	arpOperation  = EtherSize + 6
	arpReply      = 2
	ipv4Fragment  = EtherSize + 6
	ipv4Protocol  = EtherSize + 9
	ipv4Size      = 20   // of a header without options
	ipv4Plain     = 0x45 // how such a header begins
	fragmentMask  = 0x3fff
	ipv6Next      = EtherSize + 6
	ipv6Payload   = EtherSize + IPv6Size
	udpTo         = 2 // from the beginning of UDP's header
	dhcpv4Server  = 67
	dhcpv4Client  = 68
	dhcpv6Server  = 547
	icmpRouter    = 133 // solicitation
	icmpNeighbor  = 135 // solicitation
	icmpAdvertise = 136 // of a neighbour
)

// kindOf returns the kind of a frame; zero when it is of none. It says the same as the filter.
func kindOf(b []byte) Kinds {
	if len(b) < ipv4Fragment+2 {
		return 0
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case EtherIPv4:
		at := EtherSize + int(b[EtherSize]&0xf)*4 + udpTo
		if len(b) >= at+2 && len(b) > ipv4Protocol && b[ipv4Protocol] == byte(vpc.ProtocolUDP) &&
			binary.BigEndian.Uint16(b[ipv4Fragment:])&fragmentMask == 0 {
			switch binary.BigEndian.Uint16(b[at:]) {
			case dhcpv4Server:
				return DHCPv4
			case dhcpv4Client:
				return DHCPv4Answer
			}
		}
	case EtherIPv6:
		switch {
		case b[ipv6Next] == byte(vpc.ProtocolUDP):
			if at := ipv6Payload + udpTo; len(b) >= at+2 && binary.BigEndian.Uint16(b[at:]) == dhcpv6Server {
				return DHCPv6
			}
		case b[ipv6Next] == byte(vpc.ProtocolICMPv6) && len(b) > ipv6Payload:
			switch b[ipv6Payload] {
			case icmpRouter:
				return RouterSolicitation
			case icmpNeighbor:
				return NeighborSolicitation
			case icmpAdvertise:
				return NeighborAdvertisement
			}
		}
	case EtherARP:
		if binary.BigEndian.Uint16(b[arpOperation:]) == arpReply {
			return ARPReply
		}
		return ARPRequest
	}
	return 0
}

// filter lets the kinds through to a packet socket. Every packet that comes in by a port runs through it, so what is
// forwarded leaves it after a few instructions; what the kernel has to be asked for comes last: whether we sent the frame
// ourselves, and whether it had a tag.
func (k Kinds) filter() []bpf.Instruction {
	const ipv4, options, answer, whole, ipv6, udp6, arp, accept, drop = 4, 10, 13, 14, 16, 23, 25, 27, 32 // positions below
	to := func(at, target int) uint8 { return uint8(target - at - 1) }
	ask := func(at, target int, about Kinds) uint8 { // what nobody wants is not looked into
		if k&about == 0 {
			return to(at, drop)
		}
		return to(at, target)
	}
	return []bpf.Instruction{
		/*  0 */ bpf.LoadAbsolute{Off: 12, Size: 2},
		/*  1 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: EtherIPv4, SkipTrue: ask(1, ipv4, anyDHCP4)},
		/*  2 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: EtherIPv6, SkipTrue: ask(2, ipv6, anyIPv6)},
		/*  3 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: EtherARP, SkipTrue: ask(3, arp, anyARP), SkipFalse: to(3, drop)},
		// IPv4: where there are no options, the port is where it always is, which is quicker than to look for it.
		/*  4 */ bpf.LoadAbsolute{Off: ipv4Protocol, Size: 1},
		/*  5 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(vpc.ProtocolUDP), SkipFalse: to(5, drop)},
		/*  6 */ bpf.LoadAbsolute{Off: EtherSize, Size: 1},
		/*  7 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: ipv4Plain, SkipFalse: to(7, options)},
		/*  8 */ bpf.LoadAbsolute{Off: EtherSize + ipv4Size + udpTo, Size: 2},
		/*  9 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: dhcpv4Server, SkipTrue: ask(9, whole, DHCPv4), SkipFalse: ask(9, answer, DHCPv4Answer)},
		/* 10 */ bpf.LoadMemShift{Off: EtherSize},
		/* 11 */ bpf.LoadIndirect{Off: EtherSize + udpTo, Size: 2},
		/* 12 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: dhcpv4Server, SkipTrue: ask(12, whole, DHCPv4), SkipFalse: ask(12, answer, DHCPv4Answer)},
		/* 13 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: dhcpv4Client, SkipFalse: to(13, drop)},
		/* 14 */ bpf.LoadAbsolute{Off: ipv4Fragment, Size: 2},
		/* 15 */ bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: fragmentMask, SkipTrue: to(15, drop), SkipFalse: to(15, accept)},
		// IPv6
		/* 16 */ bpf.LoadAbsolute{Off: ipv6Next, Size: 1},
		/* 17 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(vpc.ProtocolUDP), SkipTrue: ask(17, udp6, DHCPv6)},
		/* 18 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(vpc.ProtocolICMPv6), SkipFalse: to(18, drop)},
		/* 19 */ bpf.LoadAbsolute{Off: ipv6Payload, Size: 1},
		/* 20 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: icmpNeighbor, SkipTrue: ask(20, accept, NeighborSolicitation)},
		/* 21 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: icmpAdvertise, SkipTrue: ask(21, accept, NeighborAdvertisement)},
		/* 22 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: icmpRouter, SkipTrue: ask(22, accept, RouterSolicitation), SkipFalse: to(22, drop)},
		/* 23 */ bpf.LoadAbsolute{Off: ipv6Payload + udpTo, Size: 2},
		/* 24 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: dhcpv6Server, SkipTrue: to(24, accept), SkipFalse: to(24, drop)},
		// ARP
		/* 25 */ bpf.LoadAbsolute{Off: arpOperation, Size: 2},
		/* 26 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: arpReply, SkipTrue: ask(26, accept, ARPReply), SkipFalse: ask(26, accept, ARPRequest)},
		// What is wanted, if a guest sent it, and untagged.
		/* 27 */ bpf.LoadExtension{Num: bpf.ExtType},
		/* 28 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: to(28, drop)},
		/* 29 */ bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		/* 30 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipFalse: to(30, drop)},
		/* 31 */ bpf.RetConstant{Val: frameSize},
		/* 32 */ bpf.RetConstant{Val: 0},
	}
}
