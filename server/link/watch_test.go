package link

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"

	"gatehouse/vpc"
)

// frame builds an Ethernet frame of a type with its payload.
func frame(ethertype uint16, payload ...byte) []byte {
	f := append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 1)
	return append(binary.BigEndian.AppendUint16(f, ethertype), payload...)
}

// udp4 is an IPv4 header with options octets of options, and the ports of UDP.
func udp4(options int, fragment, dst uint16) []byte {
	h := make([]byte, 20+options)
	h[0] = 0x40 | byte(5+options/4)
	binary.BigEndian.PutUint16(h[6:], fragment)
	h[9] = 17
	h = append(h, 0, 68)
	return append(binary.BigEndian.AppendUint16(h, dst), 0, 0, 0, 0)
}

func ip6(next byte, payload ...byte) []byte {
	h := make([]byte, 40)
	h[0], h[6] = 0x60, next
	return append(h, payload...)
}

func TestOnlyFirstFramesLeaveTheKernel(t *testing.T) {
	vm, err := bpf.NewVM(firstFrames())
	if err != nil {
		t.Fatal(err)
	}
	tcp := udp4(0, 0, 67)
	tcp[9] = 6
	for _, c := range []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"an ARP request", frame(0x0806, make([]byte, 28)...), true},
		{"a DHCPv4 request", frame(0x0800, udp4(0, 0, 67)...), true},
		{"a DHCPv4 request behind IP options", frame(0x0800, udp4(8, 0, 67)...), true},
		{"a first fragment to port 67", frame(0x0800, udp4(0, 0x2000, 67)...), true},
		{"a later fragment", frame(0x0800, udp4(0, 3, 67)...), false},
		{"a DNS query over IPv4", frame(0x0800, udp4(0, 0, 53)...), false},
		{"TCP to port 67", frame(0x0800, tcp...), false},
		{"a router solicitation", frame(0x86dd, ip6(58, 133, 0, 0, 0)...), true},
		{"a router advertisement", frame(0x86dd, ip6(58, 134, 0, 0, 0)...), false},
		{"a neighbour solicitation", frame(0x86dd, ip6(58, 135, 0, 0, 0)...), true},
		{"a neighbour advertisement", frame(0x86dd, ip6(58, 136, 0, 0, 0)...), true},
		{"an echo request over IPv6", frame(0x86dd, ip6(58, 128, 0, 0, 0)...), false},
		{"a DHCPv6 solicit", frame(0x86dd, ip6(17, 2, 34, 2, 35)...), true},
		{"a DNS query over IPv6", frame(0x86dd, ip6(17, 2, 34, 0, 53)...), false},
		{"TCP over IPv6", frame(0x86dd, ip6(6, 2, 34, 2, 35)...), false},
		{"LLDP", frame(0x88cc, 0), false},
		{"a truncated frame", frame(0x0800, 0x45), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := vm.Run(c.frame)
			if got := err == nil && n > 0; got != c.want {
				t.Errorf("seen: %v, want %v (%v)", got, c.want, err)
			}
		})
	}
	if _, err := bpf.Assemble(append(incoming(), firstFrames()...)); err != nil {
		t.Error(err)
	}
}

func FuzzSender(f *testing.F) {
	f.Add(frame(0x0806))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if mac, ok := sender(b); ok && (mac.IsZero() || mac[0]&1 != 0 || !bytes.Equal(mac[:], b[6:12])) {
			t.Errorf("%v of %x", mac, b)
		}
	})
}

func FuzzParseUndo(f *testing.F) {
	u := emptyUndo()
	u.Links["br0"] = &linkUndo{VSwitch: "vsw-1", Ports: map[string]map[uint16]uint8{"tap1": {8: 0}}}
	data, err := u.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"boot":"boot","links":{"br0":null}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := parseUndo(b, "boot")
		if err != nil {
			return
		}
		again, err := u.clone().encode()
		if err != nil {
			t.Fatal(err)
		}
		if v, err := parseUndo(again, "boot"); err != nil || v.Boot != "boot" {
			t.Fatalf("%s does not come back: %v", again, err)
		}
		m := newModel()
		m.converge(t, newPlan(nil), &u, noLimit) // whatever it says, it can be put back
	})
}

func FuzzParseNetlink(f *testing.F) {
	f.Add(make([]byte, 16))
	f.Add([]byte{7, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 10, 0, 2, 0, 2, 0, 0, 0, 0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := parseNeigh(b); err == nil && n.mac != (vpc.MAC{}) && len(b) < sizeofNdmsg+10 {
			t.Errorf("a MAC out of nothing: %v", n)
		}
		if l, err := parseLink(b); err == nil && l == nil {
			t.Error("neither a link nor an error")
		}
	})
}
