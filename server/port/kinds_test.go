package port

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"gatehouse/vpc"
)

// ether is an Ethernet frame from a guest.
func ether(ethertype uint16, payload ...byte) []byte {
	b := append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 1)
	return append(binary.BigEndian.AppendUint16(b, ethertype), payload...)
}

// ipv4 is a packet with so many bytes of IP options, up to the ports of UDP or TCP.
func ipv4(options int, fragment uint16, protocol byte, to uint16) []byte {
	h := make([]byte, ipv4Size+options)
	h[0] = 0x40 | byte(len(h)/4)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+UDPSize))
	binary.BigEndian.PutUint16(h[6:], fragment)
	h[9] = protocol
	h = append(h, 0, 68)
	return ether(EtherIPv4, append(binary.BigEndian.AppendUint16(h, to), 0, UDPSize, 0, 0)...)
}

func ipv6(next byte, payload ...byte) []byte {
	h := make([]byte, IPv6Size)
	h[0], h[5], h[6], h[7] = 0x60, byte(len(payload)), next, 255
	return ether(EtherIPv6, append(h, payload...)...)
}

func icmp(kind byte) []byte { return ipv6(58, kind, 0, 0, 0, 0, 0, 0, 0) }

func arp(operation byte) []byte {
	return ether(EtherARP, append([]byte{0, 1, 8, 0, 6, 4, 0, operation}, make([]byte, 20)...)...)
}

// frames are what guests send.
var frames = []struct {
	name  string
	frame []byte
	kind  Kinds // zero: it is forwarded, and none of our business
}{
	{"a DHCPv4 message", ipv4(0, 0, 17, 67), DHCPv4},
	{"a DHCPv4 message that must not be fragmented", ipv4(0, 0x4000, 17, 67), DHCPv4},
	{"a DHCPv4 message behind IP options", ipv4(8, 0, 17, 67), DHCPv4},
	{"a first fragment to port 67", ipv4(0, 0x2000, 17, 67), 0},
	{"a later fragment that looks like port 67", ipv4(0, 3, 17, 67), 0},
	{"a first fragment to port 67 behind IP options", ipv4(8, 0x2000, 17, 67), 0},
	{"a server's answer over IPv4", ipv4(0, 0, 17, 68), DHCPv4Answer},
	{"a server's answer behind IP options", ipv4(4, 0, 17, 68), DHCPv4Answer},
	{"a first fragment to port 68", ipv4(0, 0x2000, 17, 68), 0},
	{"TCP to port 68", ipv4(0, 0, 6, 68), 0},
	{"a DNS question over IPv4", ipv4(0, 0, 17, 53), 0},
	{"a DNS question over IPv4 behind IP options", ipv4(8, 0, 17, 53), 0},
	{"options that look like port 67", func() []byte { b := ipv4(4, 0, 17, 53); copy(b[34:], []byte{0, 0, 0, 67}); return b }(), 0},
	{"TCP to port 67", ipv4(0, 0, 6, 67), 0},
	{"an IPv4 header that is cut off", ipv4(0, 0, 17, 67)[:30], 0},
	{"an IPv4 header of no length", func() []byte { b := ipv4(0, 0, 17, 67); b[14] = 0x40; return b }(), 0},

	{"a DHCPv6 message", ipv6(17, 2, 34, 2, 35, 0, 8, 0, 0), DHCPv6},
	{"a DNS question over IPv6", ipv6(17, 2, 34, 0, 53, 0, 8, 0, 0), 0},
	{"TCP over IPv6 to port 547", ipv6(6, 2, 34, 2, 35), 0},
	{"a fragment of IPv6", ipv6(44, 17, 0, 0, 1, 2, 34, 2, 35), 0},
	{"an IPv6 header that is cut off", ipv6(17, 2, 34, 2, 35)[:56], 0},
	{"a router solicitation", icmp(133), RouterSolicitation},
	{"a router advertisement", icmp(134), 0},
	{"a neighbour solicitation", icmp(135), NeighborSolicitation},
	{"a neighbour advertisement", icmp(136), NeighborAdvertisement},
	{"a redirect", icmp(137), 0},
	{"an echo request over IPv6", icmp(128), 0},
	{"an ICMPv6 message that is cut off", icmp(135)[:54], 0},

	{"an ARP request", arp(1), ARPRequest},
	{"an ARP reply", arp(2), ARPReply},
	{"another operation of ARP", arp(9), ARPRequest},
	{"ARP that is cut off", arp(1)[:21], 0},

	{"a frame with a tag", ether(0x8100, append([]byte{0, 7}, arp(1)[12:]...)...), 0},
	{"LLDP", ether(0x88cc, 2, 7, 4, 0, 0, 0, 0, 0, 0, 0), 0},
	{"nothing", nil, 0},
}

// vm runs a filter on frames for which the kernel says the same: a simulation has no kernel to ask.
func vm(t testing.TB, k Kinds, kind, tagged uint32) *bpf.VM {
	t.Helper()
	filter := k.filter()
	if _, err := bpf.Assemble(filter); err != nil {
		t.Fatal(err)
	}
	answers := map[bpf.Extension]uint32{bpf.ExtType: kind, bpf.ExtVLANTagPresent: tagged}
	for i, ins := range filter {
		if ext, ok := ins.(bpf.LoadExtension); ok {
			filter[i] = bpf.LoadConstant{Dst: bpf.RegA, Val: answers[ext.Num]}
		}
	}
	m, err := bpf.NewVM(filter)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTheFilterAndTheReaderTellKindsApart(t *testing.T) {
	for i := range kindCount {
		kind := Kinds(1) << i
		only, rest := vm(t, kind, unix.PACKET_HOST, 0), vm(t, AllKinds&^kind, unix.PACKET_HOST, 0)
		for _, tt := range frames {
			if n, err := only.Run(tt.frame); err != nil || (n > 0) != (tt.kind == kind) {
				t.Errorf("%s, when only %s is wanted: %d bytes, %v", tt.name, kind, n, err)
			}
			if n, err := rest.Run(tt.frame); err != nil || (n > 0) != (tt.kind != 0 && tt.kind != kind) {
				t.Errorf("%s, when all but %s is wanted: %d bytes, %v", tt.name, kind, n, err)
			}
		}
	}
	seen := Kinds(0)
	for _, tt := range frames {
		if got := kindOf(tt.frame); got != tt.kind {
			t.Errorf("%s is %q, want %q", tt.name, got, tt.kind)
		}
		seen |= tt.kind
	}
	if seen != AllKinds {
		t.Errorf("nothing of %s was tried", AllKinds&^seen)
	}
}

func TestTheFilterRefusesWhatIsNotAGuests(t *testing.T) {
	for name, m := range map[string]*bpf.VM{
		"sent by the gateway": vm(t, AllKinds, unix.PACKET_OUTGOING, 0),
		"tagged":              vm(t, AllKinds, unix.PACKET_HOST, 1),
		"wanted by nobody":    vm(t, 0, unix.PACKET_HOST, 0),
	} {
		for _, tt := range frames {
			if n, err := m.Run(tt.frame); n > 0 || err != nil {
				t.Errorf("%s, %s: %d bytes, %v", tt.name, name, n, err)
			}
		}
	}
	for _, kind := range []uint32{unix.PACKET_BROADCAST, unix.PACKET_MULTICAST, unix.PACKET_OTHERHOST} {
		if n, err := vm(t, AllKinds, kind, 0).Run(arp(1)); n == 0 || err != nil {
			t.Errorf("packet type %d: %d bytes, %v", kind, n, err)
		}
	}
}

// What is forwarded pays for the filter with every packet.
func TestTheFilterRefusesWhatIsForwardedWithinFewInstructions(t *testing.T) {
	for _, tt := range []struct {
		name  string
		wants Kinds
		frame []byte
		most  int
	}{
		{"TCP over IPv4", AllKinds, ipv4(0, 0, 6, 443), 5},
		{"UDP over IPv4", AllKinds &^ DHCPv4Answer, ipv4(0, 0, 17, 443), 9},
		{"UDP over IPv4, where servers are listened to", AllKinds, ipv4(0, 0, 17, 443), 10},
		{"TCP over IPv6", AllKinds, ipv6(6, 1, 187, 1, 187), 7},
		{"UDP over IPv6", AllKinds, ipv6(17, 1, 187, 1, 187), 8},
	} {
		if n := steps(t, tt.wants.filter(), tt.frame); n > tt.most {
			t.Errorf("%s: %d instructions, want at most %d", tt.name, n, tt.most)
		}
	}
}

// steps counts the instructions that a frame goes through until it is refused. It finds each one by returning there: the
// frame is let through only if it comes by.
func steps(t *testing.T, filter []bpf.Instruction, frame []byte) (n int) {
	t.Helper()
	for i := range filter {
		probe := slices.Clone(filter)
		for j, ins := range probe {
			if _, ok := ins.(bpf.LoadExtension); ok {
				probe[j] = bpf.LoadConstant{Dst: bpf.RegA}
			}
		}
		probe[i] = bpf.RetConstant{Val: 1}
		m, err := bpf.NewVM(probe)
		if err != nil {
			t.Fatal(err)
		}
		got, err := m.Run(frame)
		if err != nil {
			t.Fatal(err)
		}
		n += got
	}
	return n
}

func FuzzKindOf(f *testing.F) {
	for _, tt := range frames {
		f.Add(tt.frame)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		kind := kindOf(b)
		if n, err := vm(t, AllKinds, unix.PACKET_HOST, 0).Run(b); err != nil || (n > 0) != (kind != 0) {
			t.Errorf("%x: %q, but the filter says %d, %v", b, kind, n, err)
		}
		if kind != 0 && len(b) < EtherSize+len(vpc.MAC{}) {
			t.Errorf("%x: %q", b, kind)
		}
	})
}
