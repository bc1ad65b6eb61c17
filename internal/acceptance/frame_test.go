package acceptance

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"gatehouse/vpc"
)

// marker begins the payload of every probe, so that it is found in whatever carries it: the packet itself, or an error that
// quotes it.
var marker = []byte("ghprobe!")

// TCP flags.
const (
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// segment is what a probe's frame is made of.
type segment struct {
	srcMAC, dstMAC   vpc.MAC
	src, dst         netip.Addr
	protocol         vpc.Protocol
	srcPort, dstPort uint16 // of ICMP echoes: the identifier is srcPort
	flags            byte   // TCP
	icmpType         byte
	id               uint32 // which probe
}

// bytes writes the frame with right checksums: connection tracking calls anything else invalid.
func (s segment) bytes() []byte {
	payload := binary.BigEndian.AppendUint32(bytes.Clone(marker), s.id)
	var l4 []byte
	sumAt := -1
	switch s.protocol {
	case vpc.ProtocolTCP:
		l4 = binary.BigEndian.AppendUint16(l4, s.srcPort)
		l4 = binary.BigEndian.AppendUint16(l4, s.dstPort)
		seq, ack := uint32(1000), uint32(0)
		if s.flags&flagACK != 0 {
			seq, ack = 5000, 1001+uint32(len(payload))
		}
		l4 = binary.BigEndian.AppendUint32(l4, seq)
		l4 = binary.BigEndian.AppendUint32(l4, ack)
		l4 = append(l4, 5<<4, s.flags, 0xff, 0xff, 0, 0, 0, 0)
		sumAt = 16
	case vpc.ProtocolUDP:
		l4 = binary.BigEndian.AppendUint16(l4, s.srcPort)
		l4 = binary.BigEndian.AppendUint16(l4, s.dstPort)
		l4 = binary.BigEndian.AppendUint16(l4, uint16(8+len(payload)))
		l4 = append(l4, 0, 0)
		sumAt = 6
	case vpc.ProtocolICMP, vpc.ProtocolICMPv6:
		l4 = append(l4, s.icmpType, 0, 0, 0)
		l4 = binary.BigEndian.AppendUint16(l4, s.srcPort)
		l4 = append(l4, 0, 1)
		sumAt = 2
	case vpc.ProtocolGRE:
		l4 = append(l4, 0, 0, 0x08, 0x00)
	}
	l4 = append(l4, payload...)
	if sumAt >= 0 {
		var pseudo []byte
		if s.protocol != vpc.ProtocolICMP {
			pseudo = append(append(pseudo, s.src.AsSlice()...), s.dst.AsSlice()...)
			pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(l4)))
			pseudo = append(pseudo, 0, 0, 0, byte(s.protocol))
		}
		binary.BigEndian.PutUint16(l4[sumAt:], checksum(append(pseudo, l4...)))
	}
	frame := append(append([]byte{}, s.dstMAC[:]...), s.srcMAC[:]...)
	if s.src.Is4() {
		frame = append(frame, 0x08, 0x00)
		head := []byte{0x45, 0, 0, 0, byte(s.id >> 8), byte(s.id), 0x40, 0, 64, byte(s.protocol), 0, 0}
		binary.BigEndian.PutUint16(head[2:], uint16(20+len(l4)))
		head = append(append(head, s.src.AsSlice()...), s.dst.AsSlice()...)
		binary.BigEndian.PutUint16(head[10:], checksum(head))
		return append(append(frame, head...), l4...)
	}
	frame = append(frame, 0x86, 0xdd)
	head := []byte{0x60, 0, 0, 0, 0, 0, byte(s.protocol), 64}
	binary.BigEndian.PutUint16(head[4:], uint16(len(l4)))
	head = append(append(head, s.src.AsSlice()...), s.dst.AsSlice()...)
	return append(append(frame, head...), l4...)
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		return 0xffff // RFC 768: zero means "none"
	}
	return ^uint16(sum)
}

// arpRequest asks for an address from a station that may or may not have one yet.
func arpRequest(mac vpc.MAC, sender, target netip.Addr) []byte {
	frame := append(bytes.Repeat([]byte{0xff}, 6), mac[:]...)
	frame = append(frame, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
	frame = append(append(frame, mac[:]...), sender.AsSlice()...)
	return append(append(frame, make([]byte, 6)...), target.AsSlice()...)
}

// parseFrame reads the outer headers of a frame; ok is false for what is not IP.
func parseFrame(b []byte) (s segment, ok bool) {
	if len(b) < 34 {
		return s, false
	}
	copy(s.dstMAC[:], b)
	copy(s.srcMAC[:], b[6:])
	var l4 []byte
	switch binary.BigEndian.Uint16(b[12:]) {
	case 0x0800:
		n := int(b[14]&0xf) * 4
		if len(b) < 14+n {
			return s, false
		}
		s.src, s.dst = netip.AddrFrom4([4]byte(b[26:])), netip.AddrFrom4([4]byte(b[30:]))
		s.protocol, l4 = vpc.Protocol(b[23]), b[14+n:]
	case 0x86dd:
		if len(b) < 54 {
			return s, false
		}
		s.src, s.dst = netip.AddrFrom16([16]byte(b[22:])), netip.AddrFrom16([16]byte(b[38:]))
		s.protocol, l4 = vpc.Protocol(b[20]), b[54:]
	default:
		return s, false
	}
	switch {
	case s.protocol.HasPorts() && len(l4) >= 4:
		s.srcPort, s.dstPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
		if s.protocol == vpc.ProtocolTCP && len(l4) >= 14 {
			s.flags = l4[13]
		}
	case (s.protocol == vpc.ProtocolICMP || s.protocol == vpc.ProtocolICMPv6) && len(l4) >= 6:
		s.icmpType, s.srcPort = l4[0], binary.BigEndian.Uint16(l4[4:])
	}
	if at := bytes.Index(l4, marker); at >= 0 && len(l4) >= at+len(marker)+4 {
		s.id = binary.BigEndian.Uint32(l4[at+len(marker):])
	}
	return s, true
}
