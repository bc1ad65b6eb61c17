package link

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

// frame builds an Ethernet frame of a type with its payload.
func frame(ethertype uint16, payload ...byte) []byte {
	f := append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 1)
	return append(binary.BigEndian.AppendUint16(f, ethertype), payload...)
}

func TestSendersAreHeardOnceAnIntervalAndPortsTakeTurns(t *testing.T) {
	w := newWatch()
	mac := func(n int) vpc.MAC { return vpc.MAC{2, 0, 0, 0, byte(n >> 8), byte(n)} }
	at := func(index int) *watcher {
		return &watcher{port: port.Port{Index: index, Name: fmt.Sprintf("tap%d", index)}}
	}
	told := func() (all []string) {
		for p, mac, ok := w.next(); ok; p, mac, ok = w.next() {
			all = append(all, fmt.Sprintf("%s %d", p.Name, mac[5]))
		}
		return all
	}
	flood, quiet, now := at(1), at(2), time.Unix(100_000, 0)
	for n := range 1000 {
		w.hear(flood, mac(n), now)
	}
	for range 3 {
		w.hear(quiet, mac(7), now)
	}
	if got := told(); len(got) != watchBurst+1 || got[0] != "tap1 0" || got[1] != "tap2 7" || got[2] != "tap1 1" {
		t.Errorf("told of %d senders: %v", len(got), got)
	}
	w.hear(flood, mac(5), now.Add(watchInterval-1))
	w.hear(quiet, mac(7), now.Add(watchInterval-1))
	w.hear(quiet, mac(8), now.Add(watchInterval-1))
	if got := told(); !slices.Equal(got, []string{"tap2 8"}) {
		t.Errorf("within the interval: %v", got)
	}
	now = now.Add(watchInterval)
	w.hear(flood, mac(5), now)
	w.hear(quiet, mac(7), now)
	now = now.Add(time.Hour) // nobody has had the time to look
	w.hear(flood, mac(5), now)
	w.hear(quiet, mac(7), now)
	if got := told(); !slices.Equal(got, []string{"tap1 5", "tap2 7"}) {
		t.Errorf("after the interval: %v", got)
	}
}

func TestOnlyABridgesPortIsHeard(t *testing.T) {
	m := &Manager{watch: newWatch()}
	if kinds, _ := m.AddPort(&port.Socket{Port: port.Port{Index: 1, Name: "eth1"}}); kinds != 0 {
		t.Errorf("a plain interface: %s", kinds)
	}
	kinds, receive := m.AddPort(&port.Socket{Port: port.Port{Index: 2, Name: "tap2", Bridged: true}})
	if kinds != port.AllKinds&^port.DHCPv4Answer {
		t.Errorf("a bridge's port: %s", kinds)
	}
	group := frame(0x0806)
	group[6] = 3
	for _, f := range [][]byte{frame(0x0806), group, {}} {
		receive(port.ARPRequest, f)
	}
	if p, mac, ok := m.watch.next(); !ok || p.Name != "tap2" || mac != (vpc.MAC{2, 0, 0, 0, 0, 1}) {
		t.Errorf("%s on %q, %t", mac, p.Name, ok)
	}
	if _, mac, ok := m.watch.next(); ok {
		t.Errorf("%s is heard too", mac)
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
