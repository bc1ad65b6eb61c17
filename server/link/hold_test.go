package link

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/vpc"
)

func TestWhoMayHoldAMAC(t *testing.T) {
	p := newPlan(network(5, func(v *vpc.VPCSpec) {
		v.Instances[1].Interfaces[0].Port = "tap2"
		v.VSwitches = append(v.VSwitches, &vpc.VSwitchSpec{ID: "vsw-b2", Name: "db", CIDRBlock: v.CIDRBlock})
		v.Instances[2].Interfaces[0].VSwitch = "db"
		v.Instances[4].Interfaces = append(v.Instances[4].Interfaces, nic(6))
	}))
	const web = "vsw-00000000000000b1"
	port := func(n int) Port { return Port{Index: n, Name: fmt.Sprintf("tap%d", n), VSwitch: web} }
	gone := func(n int) Port { return Port{Name: port(n).Name} }
	one, pinned, elsewhere, four, five, six := nic(1).MAC, nic(2).MAC, nic(3).MAC, nic(4).MAC, nic(5).MAC, nic(6).MAC
	unknown, stranger, own := vpc.MAC{2, 0, 0, 0, 0, 1}, vpc.MAC{2, 0, 0, 0, 0, 2}, vpc.MAC{2, 0, 0, 0, 0, 3}
	now := time.Unix(100_000, 0)
	heldBy := func(holder string) func(error) bool {
		return func(err error) bool { var e *HeldError; return errors.As(err, &e) && e.Holder == holder }
	}
	portOf := func(guest string) func(error) bool {
		return func(err error) bool { var e *OccupiedError; return errors.As(err, &e) && e.Guest == guest }
	}
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	for _, c := range []struct {
		name string
		at   map[vpc.MAC]held
		down []int // ports; the others, 1 to 4, are up
		mac  vpc.MAC
		port int
		err  func(error) bool // nil: it may
		has  bool             // already
	}{
		{name: "a registered MAC nobody holds", mac: one, port: 1},
		{name: "a registered MAC that the port has already", at: map[vpc.MAC]held{one: {port: port(1)}}, mac: one, port: 1, has: true},
		{name: "a MAC of another vSwitch", mac: elsewhere, port: 1, err: is(ErrOtherVSwitch)},
		{name: "a MAC of the gateway", mac: own, port: 1, err: is(ErrHostMAC)},

		{name: "a MAC that a port which is up holds", at: map[vpc.MAC]held{one: {port: port(3)}}, mac: one, port: 1, err: heldBy("tap3")},
		{name: "a guest that moves away from a port which is down", at: map[vpc.MAC]held{one: {port: port(3)}}, down: []int{3}, mac: one, port: 1},
		{name: "a guest whose port was deleted", at: map[vpc.MAC]held{one: {port: gone(3)}}, mac: one, port: 1},
		{name: "a guest whose port was deleted and whose port's name another one has", at: map[vpc.MAC]held{one: {port: Port{Index: 77, Name: "tap3"}}}, mac: one, port: 1},

		{name: "a neighbour's MAC while its port is down", at: map[vpc.MAC]held{one: {port: port(3)}, four: {port: port(1)}}, down: []int{3}, mac: one, port: 1, err: portOf("research/web-4")},
		{name: "a neighbour's MAC while its port is up", at: map[vpc.MAC]held{one: {port: port(3)}, four: {port: port(1)}}, mac: one, port: 1, err: heldBy("tap3")},
		{name: "a neighbour's MAC that was never seen", at: map[vpc.MAC]held{four: {port: port(1)}}, mac: one, port: 1, err: portOf("research/web-4")},
		{name: "a neighbour's MAC on the port of a guest that is elsewhere now", at: map[vpc.MAC]held{four: {port: port(2)}}, mac: one, port: 1},
		{name: "a neighbour's MAC on a port whose guest had a link that was deleted", at: map[vpc.MAC]held{four: {port: gone(1)}}, mac: one, port: 1},
		{name: "the second interface of one instance", at: map[vpc.MAC]held{five: {port: port(1)}}, mac: six, port: 1},

		{name: "a pinned MAC on its port", mac: pinned, port: 2},
		{name: "a pinned MAC on its port, behind which others are", at: map[vpc.MAC]held{four: {port: port(2)}}, mac: pinned, port: 2},
		{name: "a pinned MAC on another port", mac: pinned, port: 1, err: func(err error) bool { var e *PinnedError; return errors.As(err, &e) && e.Pinned == "tap2" }},
		{name: "a neighbour's MAC on a port to which others are pinned", at: map[vpc.MAC]held{pinned: {port: port(2)}}, mac: one, port: 2, err: portOf("research/web-2")},

		{name: "a port that comes back within its time", at: map[vpc.MAC]held{one: {port(3), now.Add(-comeback), "tap1"}}, mac: one, port: 1},
		{name: "a port that comes back too late", at: map[vpc.MAC]held{one: {port(3), now.Add(-comeback - 1), "tap1"}}, mac: one, port: 1, err: heldBy("tap3")},
		{name: "a port that never was the MAC's", at: map[vpc.MAC]held{one: {port(3), now, "tap1"}}, mac: one, port: 4, err: heldBy("tap3")},
		{name: "a port that comes back with another guest", at: map[vpc.MAC]held{one: {port(3), now, "tap1"}, four: {port: port(1)}}, mac: one, port: 1, err: heldBy("tap3")},

		{name: "a MAC that nobody registered", mac: unknown, port: 1},
		{name: "a second MAC that nobody registered", at: map[vpc.MAC]held{stranger: {port: port(1)}}, mac: unknown, port: 1, err: portOf(stranger.String())},
		{name: "a MAC that nobody registered on an instance's port", at: map[vpc.MAC]held{one: {port: port(1)}}, mac: unknown, port: 1, err: portOf("research/web-1")},
		{name: "a registered MAC on a port that holds what nobody registered", at: map[vpc.MAC]held{stranger: {port: port(1)}}, mac: one, port: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &holds{at: map[vpc.MAC]held{}, ports: map[string]Port{}, host: map[vpc.MAC]bool{own: true}}
			maps.Copy(h.at, c.at)
			for n := 1; n <= 4; n++ {
				if !slices.Contains(c.down, n) {
					h.ports[port(n).Name] = port(n)
				}
			}
			fresh, err := h.claim(p, port(c.port), c.mac, now)
			if (err != nil) != (c.err != nil) || err != nil && !c.err(err) {
				t.Fatalf("error %v", err)
			}
			if want := err == nil && !c.has; fresh != want {
				t.Errorf("fresh %v, want %v", fresh, want)
			}
		})
	}
}

func TestWhoMayComeBackForAMACThatIsTaken(t *testing.T) {
	mac, start := nic(1).MAC, time.Unix(100_000, 0)
	h := &holds{at: map[vpc.MAC]held{}}
	for _, c := range []struct {
		to    string
		after time.Duration
		home  string
	}{
		{"tap1", 0, ""},
		{"tap2", time.Hour, "tap1"},
		{"tap3", time.Hour + comeback, "tap1"},     // still away
		{"tap1", time.Hour + 2*comeback, ""},       // has it back
		{"tap2", 2 * time.Hour, "tap1"},            //
		{"tap3", 2*time.Hour + comeback*2, "tap2"}, // tap1 did not come back: tap2 has become what it was
		{"tap3", 3 * time.Hour, ""},                // the same port made anew
	} {
		h.grant(Port{Index: 1, Name: c.to}, mac, start.Add(c.after))
		if got := h.at[mac]; got.home != c.home || got.port.Name != c.to {
			t.Errorf("after %s: at %s, %q may come back; want %s, %q", c.after, got.port.Name, got.home, c.to, c.home)
		}
	}
}

func TestARefusedClaimIsAFindingUntilItStops(t *testing.T) {
	now := time.Unix(100_000, 0)
	m := &Manager{
		opt: Options{Now: func() time.Time { return now }}, plan: newPlan(network(3, nil)),
		holds: &holds{}, claims: map[vpc.MAC]claimed{},
	}
	port := Port{Index: 9, Name: "tap9", VSwitch: "vsw-00000000000000b1", Link: "gh-web"}
	var logged []bool
	for range 3 {
		logged = append(logged, m.note(port, nic(1).MAC, &HeldError{nic(1).MAC, "tap9", "tap1"}))
		now = now.Add(claimInterval / 2)
	}
	if !slices.Equal(logged, []bool{true, false, true}) {
		t.Errorf("claims every half interval are logged %v", logged)
	}
	m.note(port, nic(2).MAC, &OccupiedError{nic(2).MAC, "tap9", "research/web-1"})
	m.note(port, nic(3).MAC, &PinnedError{nic(3).MAC, "tap9", "tap3"})
	m.note(port, vpc.MAC{2, 0, 0, 0, 0, 9}, &HeldError{vpc.MAC{2, 0, 0, 0, 0, 9}, "tap9", "tap1"}) // nobody's: only logged
	var got []string
	for _, f := range m.Findings() {
		if f.Code != FindingClaimed || f.VSwitch != port.VSwitch || f.Link != "gh-web" || f.Remedy == "" {
			t.Errorf("%+v", f)
		}
		got = append(got, f.Message)
	}
	want := []string{
		"port tap9 sends from 00:16:3e:00:00:01, the MAC of instance research/web-1, which is behind port tap1",
		"port tap9 sends from 00:16:3e:00:00:02, the MAC of instance research/web-2, but is the port of research/web-1",
		"port tap9 sends from 00:16:3e:00:00:03, the MAC of instance research/web-3, which is pinned to port tap3",
	}
	if !slices.Equal(got, want) {
		t.Errorf("findings:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	now = now.Add(claimInterval)
	if fs := m.Findings(); len(fs) != 0 {
		t.Errorf("after a quiet while there is still %v", fs)
	}
	for n := range 2 * maxClaims {
		m.note(port, nic(100+n).MAC, &HeldError{})
	}
	if len(m.claims) != maxClaims {
		t.Errorf("%d claims are remembered, want %d", len(m.claims), maxClaims)
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

func TestWhereAMACWasIsRememberedAsLongAsItIsRegistered(t *testing.T) {
	for _, c := range []struct {
		name    string
		happens func(*model, *link)
		entry   bool // the forwarding table still has it
	}{
		{"no carrier", func(_ *model, p *link) { p.carrier = false }, true},
		{"set down", func(_ *model, p *link) { p.up, p.carrier = false, false }, true},
		{"taken out of the bridge", func(m *model, p *link) {
			p.master, p.port, p.fdb = 0, nil, nil
			m.st.links["gh-web"].ports = nil
		}, false},
		{"deleted", func(m *model, p *link) {
			delete(m.st.links, p.name)
			m.st.links["gh-web"].ports = nil
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, u, p := newModel(), emptyUndo(), newPlan(network(1, nil))
			m.converge(t, p, &u, noLimit)
			tap := m.plug("tap1", m.st.links["gh-web"])
			m.converge(t, p, &u, noLimit)
			mac, stranger := nic(1).MAC, vpc.MAC{2, 0, 0, 0, 0, 9}
			tap.fdb = []fdbEntry{{mac: mac, kind: fdbStatic, sticky: true}, {mac: stranger, kind: fdbStatic, sticky: true}}
			known := diff(p, m.st, u, nil, time.Unix(0, 0)).holds.at
			c.happens(m, tap)
			out := diff(p, m.st, u, known, time.Unix(0, 0))
			for _, s := range out.steps {
				if err := s.do(m); err != nil {
					t.Fatal(err)
				}
			}
			out = diff(p, m.st, u, out.holds.at, time.Unix(0, 0))
			if len(out.steps) != 0 {
				t.Errorf("still to do: %s", out.steps[0].what)
			}
			at, ok := out.holds.at[mac]
			if !ok || at.port.Name != "tap1" || (at.port.Index == tap.index) != c.entry || out.holds.up(at.port) {
				t.Errorf("remembered: %v, %+v", ok, at)
			}
			if got := m.st.links["tap1"] != nil && slices.ContainsFunc(tap.fdb, func(e fdbEntry) bool { return e.mac == mac }); got != c.entry {
				t.Errorf("the forwarding table has it: %v, want %v", got, c.entry)
			}
			if _, ok := out.holds.at[stranger]; ok {
				t.Error("a MAC that nobody registered outlives its port")
			}
			u2 := emptyUndo()
			none := newPlan(network(0, nil))
			if _, ok := diff(none, m.st, u2, out.holds.at, time.Unix(0, 0)).holds.at[mac]; ok {
				t.Error("a MAC that is no longer registered is remembered")
			}
		})
	}
}
