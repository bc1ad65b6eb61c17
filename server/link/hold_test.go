package link

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"gatehouse/vpc"
)

func TestWhoMayHoldAMAC(t *testing.T) {
	p := newPlan(network(3, func(v *vpc.VPCSpec) {
		v.Instances[1].Interfaces[0].Port = "tap2"
		v.VSwitches = append(v.VSwitches, &vpc.VSwitchSpec{ID: "vsw-b2", Name: "db", CIDRBlock: v.CIDRBlock})
		v.Instances[2].Interfaces[0].VSwitch = "db"
	}))
	const web = "vsw-00000000000000b1"
	port := func(n int) Port { return Port{Index: n, Name: fmt.Sprintf("tap%d", n), VSwitch: web} }
	unknown, full, own := vpc.MAC{2, 0, 0, 0, 0, 1}, vpc.MAC{2, 0, 0, 0, 0, 2}, vpc.MAC{2, 0, 0, 0, 0, 3}
	newHolds := func() *holds {
		h := &holds{at: map[vpc.MAC]held{}, ports: map[string]Port{}, host: map[vpc.MAC]bool{own: true}}
		for n := 1; n <= 4; n++ {
			h.ports[port(n).Name] = port(n)
		}
		for i := range maxUnregistered {
			h.at[vpc.MAC{4, 0, 0, 0, 0, byte(i)}] = held{port: port(4)}
		}
		return h
	}
	for _, c := range []struct {
		name   string
		mac    vpc.MAC
		port   int
		holder int  // 0: nobody
		down   bool // the holder
		fresh  bool
		err    func(error) bool
	}{
		{name: "a registered MAC nobody holds", mac: nic(1).MAC, port: 1, fresh: true},
		{name: "a registered MAC that the port has already", mac: nic(1).MAC, port: 1, holder: 1},
		{name: "a MAC that a port which is up holds", mac: nic(1).MAC, port: 1, holder: 3, err: func(err error) bool {
			var e *HeldError
			return errors.As(err, &e) && e.Holder == "tap3" && e.Port == "tap1"
		}},
		{name: "a MAC that a port which is down held", mac: nic(1).MAC, port: 1, holder: 3, down: true, fresh: true},
		{name: "a pinned MAC on its port", mac: nic(2).MAC, port: 2, fresh: true},
		{name: "a pinned MAC on another port", mac: nic(2).MAC, port: 1, err: func(err error) bool {
			var e *PinnedError
			return errors.As(err, &e) && e.Pinned == "tap2"
		}},
		{name: "a MAC of another vSwitch", mac: nic(3).MAC, port: 1, err: func(err error) bool { return errors.Is(err, ErrOtherVSwitch) }},
		{name: "a MAC that nobody registered", mac: unknown, port: 1, fresh: true},
		{name: "a MAC that nobody registered, on a port that holds too many", mac: full, port: 4, err: func(err error) bool { return errors.Is(err, ErrTooMany) }},
		{name: "a registered MAC on a port that holds too many others", mac: nic(1).MAC, port: 4, fresh: true},
		{name: "a MAC of the gateway", mac: own, port: 1, err: func(err error) bool { return errors.Is(err, ErrHostMAC) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHolds()
			if c.holder != 0 {
				h.at[c.mac] = held{port: port(c.holder)}
				if c.down {
					delete(h.ports, port(c.holder).Name)
				}
			}
			fresh, err := h.claim(p, port(c.port), c.mac)
			if fresh != c.fresh || (err != nil) != (c.err != nil) || err != nil && !c.err(err) {
				t.Errorf("fresh %v, error %v", fresh, err)
			}
		})
	}
}

func TestAMACThatDidNotBecomeAnInterfaceIsFreedAfterItsTime(t *testing.T) {
	m, u := newModel(), emptyUndo()
	p := newPlan(network(1, nil))
	m.converge(t, p, &u, noLimit)
	tap := m.plug("tap1", m.st.links["gh-web"])
	m.converge(t, p, &u, noLimit)
	known, stranger := nic(1).MAC, vpc.MAC{2, 0, 0, 0, 0, 9}
	for _, mac := range []vpc.MAC{known, stranger} {
		if err := m.replaceFDB(tap.index, mac); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Unix(1000, 0)
	held := diff(p, m.st, u, nil, start).holds.at
	for _, c := range []struct {
		after time.Duration
		steps int
	}{{0, 0}, {unregisteredTTL, 0}, {unregisteredTTL + time.Second, 1}} {
		out := diff(p, m.st, u, held, start.Add(c.after))
		if len(out.steps) != c.steps {
			t.Errorf("after %s: %d steps, want %d", c.after, len(out.steps), c.steps)
		}
		if _, ok := out.holds.at[stranger]; ok != (c.steps == 0) {
			t.Errorf("after %s the stranger is held: %v", c.after, ok)
		}
		if _, ok := out.holds.at[known]; !ok {
			t.Errorf("after %s the registered MAC is not held", c.after)
		}
	}
}
