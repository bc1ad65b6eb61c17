package dhcp4

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

func TestFramesHaveRightChecksums(t *testing.T) {
	for _, payload := range [][]byte{{}, {1}, {1, 2, 3}, bytes.Repeat([]byte{0xff}, 301), bytes.Repeat([]byte{7}, maxMessage)} {
		b := buildFrame(webMAC2, webMAC, addr("10.20.1.253"), addr("10.20.1.10"), payload)
		ip := b[port.EtherSize : port.EtherSize+ipSize]
		if got := port.Fold(port.Sum(0, ip)); got != 0xffff {
			t.Errorf("%d bytes: the IP header sums up to %#x", len(payload), got)
		}
		udp := b[port.EtherSize+ipSize:]
		pseudo := port.Sum(uint32(vpc.ProtocolUDP)+uint32(len(udp)), ip[12:20])
		if got := port.Fold(port.Sum(pseudo, udp)); got != 0xffff {
			t.Errorf("%d bytes: the datagram sums up to %#x", len(payload), got)
		}
		if src, dst := binary.BigEndian.Uint16(udp), binary.BigEndian.Uint16(udp[2:]); src != 67 || dst != 68 {
			t.Errorf("from port %d to %d", src, dst)
		}
	}
}

// TestAChecksumOfZeroIsSentAsOnes searches a payload whose checksum is zero, which UDP reads as "none".
func TestAChecksumOfZeroIsSentAsOnes(t *testing.T) {
	for v := range 1 << 16 {
		payload := []byte{byte(v >> 8), byte(v)}
		b := buildFrame(webMAC2, webMAC, addr("10.20.1.253"), addr("10.20.1.10"), payload)
		if check := binary.BigEndian.Uint16(b[port.EtherSize+ipSize+6:]); check == 0 {
			t.Fatalf("payload %x is sent without a checksum", payload)
		}
	}
}

func TestParseFrame(t *testing.T) {
	good := func() []byte {
		b := buildFrame(webMAC, broadcastMAC, addr("0.0.0.0"), addr("255.255.255.255"), []byte("a message"))
		binary.BigEndian.PutUint16(b[port.EtherSize+ipSize+2:], serverPort)
		return b
	}
	d, ok := parseFrame(good())
	if !ok || d.srcMAC != webMAC || d.src != addr("0.0.0.0") || d.dst != addr("255.255.255.255") || string(d.payload) != "a message" {
		t.Fatalf("a good frame: %+v, %t", d, ok)
	}
	if d, ok := parseFrame(append(good(), make([]byte, 40)...)); !ok || string(d.payload) != "a message" {
		t.Errorf("a frame with padding: %+v, %t", d, ok)
	}
	patch := func(offset int, v ...byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[offset:], v); return b }
	}
	for _, tt := range []struct {
		name   string
		change func([]byte) []byte
	}{
		{"nothing", func([]byte) []byte { return nil }},
		{"half a header", func(b []byte) []byte { return b[:30] }},
		{"IPv6", patch(12, 0x86, 0xdd)},
		{"an IP version of six in an IPv4 frame", patch(14, 0x65)},
		{"an IP header that is too short", patch(14, 0x44)},
		{"an IP header longer than the packet", patch(14, 0x4f)},
		{"a total length beyond the frame", patch(16, 0xff, 0xff)},
		{"a total length of nothing", patch(16, 0, 0)},
		{"TCP", patch(23, 6)},
		{"a first fragment", patch(20, 0x20, 0)},
		{"a later fragment", patch(20, 0, 5)},
		{"another port", patch(36, 0, 53)},
		{"a datagram longer than its packet", patch(38, 0xff, 0xff)},
		{"a datagram shorter than its header", patch(38, 0, 7)},
	} {
		if d, ok := parseFrame(tt.change(good())); ok {
			t.Errorf("%s was read: %+v", tt.name, d)
		}
	}
}

func TestKeysTellMessagesApart(t *testing.T) {
	discover, again := message(dhcpv4.MessageTypeDiscover, webMAC), message(dhcpv4.MessageTypeDiscover, webMAC)
	again.NumSeconds = 4
	if keyOf(discover.ToBytes()) != keyOf(again.ToBytes()) {
		t.Error("a retransmission has another key")
	}
	other := message(dhcpv4.MessageTypeDiscover, webMAC)
	other.TransactionID = dhcpv4.TransactionID{9}
	for name, m := range map[string]*dhcpv4.DHCPv4{
		"another client":      message(dhcpv4.MessageTypeDiscover, webMAC2),
		"another message":     message(dhcpv4.MessageTypeRequest, webMAC),
		"another transaction": other,
	} {
		if keyOf(m.ToBytes()) == keyOf(discover.ToBytes()) {
			t.Errorf("%s has the same key", name)
		}
	}
}
