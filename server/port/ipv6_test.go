package port

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"gatehouse/vpc"
)

var header = IPv6{
	SrcMAC: vpc.MAC{2, 0, 0, 0, 0, 1}, DstMAC: vpc.MAC{2, 0, 0, 0, 0, 2},
	Src: netip.MustParseAddr("fe80::1"), Dst: netip.MustParseAddr("fe80::2"), HopLimit: 64,
}

// datagram is a UDP datagram to port 547, without its checksum.
func datagram(payload []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{2, 34, 2, 35}, uint16(UDPSize+len(payload)))
	return append(append(b, 0, 0), payload...)
}

func TestIPv6FramesAreReadAsTheyWereMade(t *testing.T) {
	for _, payload := range [][]byte{{}, {1}, {1, 2, 3}, bytes.Repeat([]byte{0xff}, 1232)} {
		b := header.Frame(vpc.ProtocolUDP, datagram(payload), 6)
		h, udp, ok := ParseIPv6(append(b, 0, 0, 0), vpc.ProtocolUDP) // with padding
		if !ok || h != header || !bytes.Equal(udp[UDPSize:], payload) || !h.Intact(vpc.ProtocolUDP, udp) {
			t.Errorf("%d bytes: %+v, %x, %t", len(payload), h, udp, ok)
		}
		udp[0]++
		if h.Intact(vpc.ProtocolUDP, udp) {
			t.Errorf("%d bytes: damage is not seen", len(payload))
		}
	}
}

func TestAChecksumOfZeroIsSentAsOnes(t *testing.T) {
	for v := range 1 << 16 {
		b := header.Frame(vpc.ProtocolUDP, datagram([]byte{byte(v >> 8), byte(v)}), 6)
		if binary.BigEndian.Uint16(b[EtherSize+IPv6Size+6:]) == 0 {
			t.Fatalf("payload %04x is sent without a checksum", v)
		}
	}
}

func TestParseIPv6Refuses(t *testing.T) {
	good := header.Frame(vpc.ProtocolUDP, datagram([]byte("a message")), 6)
	patch := func(offset int, v ...byte) []byte { b := slices.Clone(good); copy(b[offset:], v); return b }
	for name, b := range map[string][]byte{
		"nothing": {}, "half a header": good[:40], "IPv4": patch(12, 8, 0), "an IP version of four": patch(14, 0x45),
		"TCP": patch(20, 6), "a fragment": patch(20, 44), "a payload that is cut off": good[:len(good)-1],
	} {
		if h, _, ok := ParseIPv6(b, vpc.ProtocolUDP); ok {
			t.Errorf("%s is read: %+v", name, h)
		}
	}
}
