package dhcp4

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/net/bpf"

	"gatehouse/vpc"
)

// Sizes of headers in a frame, and the ports of DHCP.
const (
	etherSize  = 14
	ipSize     = 20
	udpSize    = 8
	etherIPv4  = 0x0800
	serverPort = 67
	clientPort = 68
)

// datagram is a UDP datagram to the server's port as a frame carries it.
type datagram struct {
	srcMAC   vpc.MAC
	src, dst netip.Addr
	payload  []byte
}

// parseFrame reads an Ethernet frame with an unfragmented IPv4 UDP datagram to port 67. Checksums are not checked: what
// a guest sends over a virtual link may have been left to hardware that is not there, and the link loses no bits.
func parseFrame(b []byte) (datagram, bool) {
	if len(b) < etherSize+ipSize+udpSize || binary.BigEndian.Uint16(b[12:]) != etherIPv4 {
		return datagram{}, false
	}
	d := datagram{srcMAC: vpc.MAC(b[6:12])}
	ip := b[etherSize:]
	header, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if ip[0]>>4 != 4 || header < ipSize || total < header+udpSize || total > len(ip) {
		return datagram{}, false
	}
	const fragment = 0x3fff // more fragments, or an offset
	if ip[9] != byte(vpc.ProtocolUDP) || binary.BigEndian.Uint16(ip[6:])&fragment != 0 {
		return datagram{}, false
	}
	d.src, d.dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	udp := ip[header:total]
	size := int(binary.BigEndian.Uint16(udp[4:]))
	if binary.BigEndian.Uint16(udp[2:]) != serverPort || size < udpSize || size > len(udp) {
		return datagram{}, false
	}
	d.payload = udp[udpSize:size]
	return d, true
}

// buildFrame makes an Ethernet frame with a datagram from port 67 of src to port 68 of dst, with both checksums: there is
// nobody behind a packet socket who would fill them in.
func buildFrame(srcMAC, dstMAC vpc.MAC, src, dst netip.Addr, payload []byte) []byte {
	b := make([]byte, etherSize+ipSize+udpSize, etherSize+ipSize+udpSize+len(payload))
	copy(b[0:6], dstMAC[:])
	copy(b[6:12], srcMAC[:])
	binary.BigEndian.PutUint16(b[12:], etherIPv4)
	ip := b[etherSize:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(ipSize+udpSize+len(payload)))
	binary.BigEndian.PutUint16(ip[6:], 0x4000) // don't fragment: then there is no identification to choose
	ip[8], ip[9] = 64, byte(vpc.ProtocolUDP)
	from, to := src.As4(), dst.As4()
	copy(ip[12:16], from[:])
	copy(ip[16:20], to[:])
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(0, ip[:ipSize])))
	udp := ip[ipSize:]
	binary.BigEndian.PutUint16(udp[0:], serverPort)
	binary.BigEndian.PutUint16(udp[2:], clientPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(udpSize+len(payload)))
	b = append(b, payload...)
	udp = b[etherSize+ipSize:]
	pseudo := sum(uint32(vpc.ProtocolUDP)+uint32(len(udp)), b[etherSize+12:etherSize+ipSize])
	check := ^fold(sum(pseudo, udp))
	if check == 0 {
		check = 0xffff // zero would mean that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(udp[6:], check)
	return b
}

// sum adds 16-bit words as the Internet checksum does (RFC 1071); fold brings the carries back.
func sum(acc uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		acc += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		acc += uint32(b[0]) << 8
	}
	return acc
}

func fold(acc uint32) uint16 {
	for acc > 0xffff {
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc)
}

// frameFilter lets through what parseFrame reads: untagged unfragmented IPv4 UDP to port 67 that comes in. It runs in the
// kernel, so that a port's other traffic costs us nothing.
func frameFilter() ([]bpf.RawInstruction, error) {
	const outgoing = 4 // PACKET_OUTGOING: what we and the kernel send
	return bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: outgoing, SkipTrue: 12},
		bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 10},
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: etherIPv4, SkipTrue: 8},
		bpf.LoadAbsolute{Off: 23, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(vpc.ProtocolUDP), SkipTrue: 6},
		bpf.LoadAbsolute{Off: 20, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 4},
		bpf.LoadMemShift{Off: etherSize},
		bpf.LoadIndirect{Off: etherSize + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: serverPort, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	})
}

// dropFilter lets nothing through.
func dropFilter() ([]bpf.RawInstruction, error) {
	return bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: 0}})
}
