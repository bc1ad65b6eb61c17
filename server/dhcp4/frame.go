package dhcp4

import (
	"encoding/binary"
	"net/netip"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

// The size of an IPv4 header without options, in bytes, and the ports of DHCP.
const (
	ipSize     = 20
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
func parseFrame(b []byte) (datagram, bool) { return parseUDP(b, serverPort) }

func parseUDP(b []byte, to uint16) (datagram, bool) {
	if len(b) < port.EtherSize+ipSize+port.UDPSize || binary.BigEndian.Uint16(b[12:]) != port.EtherIPv4 {
		return datagram{}, false
	}
	d := datagram{srcMAC: vpc.MAC(b[6:12])}
	ip := b[port.EtherSize:]
	header, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if ip[0]>>4 != 4 || header < ipSize || total < header+port.UDPSize || total > len(ip) {
		return datagram{}, false
	}
	const fragment = 0x3fff // more fragments, or an offset
	if ip[9] != byte(vpc.ProtocolUDP) || binary.BigEndian.Uint16(ip[6:])&fragment != 0 {
		return datagram{}, false
	}
	d.src, d.dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	udp := ip[header:total]
	size := int(binary.BigEndian.Uint16(udp[4:]))
	if binary.BigEndian.Uint16(udp[2:]) != to || size < port.UDPSize || size > len(udp) {
		return datagram{}, false
	}
	d.payload = udp[port.UDPSize:size]
	return d, true
}

// buildFrame makes an Ethernet frame with a datagram from port 67 of src to port 68 of dst, with both checksums: there is
// nobody behind a packet socket who would fill them in.
func buildFrame(srcMAC, dstMAC vpc.MAC, src, dst netip.Addr, payload []byte) []byte {
	return buildUDP(srcMAC, dstMAC, src, dst, serverPort, clientPort, payload)
}

func buildUDP(srcMAC, dstMAC vpc.MAC, src, dst netip.Addr, srcPort, dstPort uint16, payload []byte) []byte {
	b := make([]byte, port.EtherSize+ipSize+port.UDPSize, port.EtherSize+ipSize+port.UDPSize+len(payload))
	copy(b[0:6], dstMAC[:])
	copy(b[6:12], srcMAC[:])
	binary.BigEndian.PutUint16(b[12:], port.EtherIPv4)
	ip := b[port.EtherSize:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(ipSize+port.UDPSize+len(payload)))
	binary.BigEndian.PutUint16(ip[6:], 0x4000) // don't fragment: then there is no identification to choose
	ip[8], ip[9] = 64, byte(vpc.ProtocolUDP)
	from, to := src.As4(), dst.As4()
	copy(ip[12:16], from[:])
	copy(ip[16:20], to[:])
	binary.BigEndian.PutUint16(ip[10:], ^port.Fold(port.Sum(0, ip[:ipSize])))
	udp := ip[ipSize:]
	binary.BigEndian.PutUint16(udp[0:], srcPort)
	binary.BigEndian.PutUint16(udp[2:], dstPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(port.UDPSize+len(payload)))
	b = append(b, payload...)
	udp = b[port.EtherSize+ipSize:]
	pseudo := port.Sum(uint32(vpc.ProtocolUDP)+uint32(len(udp)), b[port.EtherSize+12:port.EtherSize+ipSize])
	check := ^port.Fold(port.Sum(pseudo, udp))
	if check == 0 {
		check = 0xffff // zero would mean that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(udp[6:], check)
	return b
}
