package link

import (
	"bytes"
	"encoding/binary"
	"testing"

	"gatehouse/vpc"
)

// frame builds an Ethernet frame of a type with its payload.
func frame(ethertype uint16, payload ...byte) []byte {
	f := append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 1)
	return append(binary.BigEndian.AppendUint16(f, ethertype), payload...)
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
