package link

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"gatehouse/vpc"
)

// ports secures the ports of a bridge and says which MACs they hold.
func (d *differ) ports(w *wantLink, l *link, u *linkUndo) {
	unlocked := false
	var usable []*link
	for _, p := range l.ports {
		if d.p.uplinks[p.name] {
			d.find(FindingUplinkPort, w, "take the uplink out of the bridge", "the uplink %s is a port of %s", p.name, w.name)
			continue
		}
		usable = append(usable, p)
		if !u.Created {
			u.rememberPort(p)
		}
		flags := map[uint16]uint8{}
		for _, f := range portFlags() {
			have, known := p.port[f.attr]
			switch {
			case !known && f.need:
				d.find(FindingNotIsolated, w, "use a kernel from 4.18 on", "this kernel cannot isolate port %s", p.name)
			case !known && f.name == "locked":
				unlocked = true
			case known && have != f.want:
				flags[f.attr] = f.want
			}
		}
		if len(flags) > 0 {
			d.step(func(k driver) error { return k.setPort(p.index, flags) }, "%s: %s", p.name, describePort(flags))
		}
		if p.running() {
			d.out.holds.ports[p.name] = Port{p.index, p.name, w.sw.ID, w.name, l.index, l.mac}
		}
	}
	u.forgetPorts(usable)
	if unlocked {
		d.find(FindingUnlocked, w, "use a kernel from 5.17 on", "this kernel cannot lock ports of %s: a guest can send from MACs that it does not hold", w.name)
	}
	d.fdb(w, usable, u)
}

// fdb keeps, frees and gives MACs: first what is held already, then pinned interfaces and what a port has learned
// before it was locked. What a port holds that goes down it has again as soon as it is up: the forwarding table remembers it
// while the port is in the bridge, also when gatehouse is started anew.
func (d *differ) fdb(w *wantLink, ports []*link, u *linkUndo) {
	h := d.out.holds
	for _, p := range ports {
		port := Port{p.index, p.name, w.sw.ID, w.name, d.st.links[w.name].index, d.st.links[w.name].mac}
		for _, e := range p.fdb {
			if e.kind != fdbStatic || !e.sticky && !u.Created {
				continue
			}
			at := held{port: port, since: d.now}
			if known, ok := d.held[e.mac]; ok && known.port.Index == p.index {
				at.since, at.home = known.since, known.home
			}
			stale := d.p.registered(e.mac) == nil && (!p.running() || d.now.Sub(at.since) > unregisteredTTL)
			if stale || d.p.mayHold(port, e.mac) != nil {
				d.step(func(k driver) error { return k.deleteFDB(p.index, e.mac, e.vlan) }, "%s: free %s", p.name, e.mac)
				continue
			}
			h.at[e.mac] = at
		}
	}
	give := func(p *link, mac vpc.MAC) {
		port, up := h.ports[p.name]
		if !up {
			return
		}
		if fresh, err := h.claim(d.p, port, mac, d.now); err == nil && fresh {
			h.grant(port, mac, d.now)
			d.step(func(k driver) error { return k.replaceFDB(p.index, mac) }, "%s: holds %s", p.name, mac)
		}
	}
	byName := map[string]*link{}
	for _, p := range ports {
		byName[p.name] = p
	}
	for _, i := range w.sw.Interfaces {
		if i.Port == "" {
			continue
		}
		if p := byName[i.Port]; p != nil {
			give(p, i.MAC)
		} else {
			d.find(FindingPinned, w, "plug the port in, or correct the interface's port", "%s is pinned to port %s, which is not in %s", i.MAC, i.Port, w.name)
		}
	}
	for _, p := range ports { // what somebody took away is given back
		for _, mac := range d.lost[p.index] {
			give(p, mac)
		}
	}
	for _, p := range ports {
		learned := false
		for _, e := range p.fdb {
			if e.kind == fdbLearned {
				learned = true
				if d.p.registered(e.mac) != nil {
					give(p, e.mac)
				}
			}
		}
		if learned { // a locked port admits what it has learned before
			d.step(func(k driver) error { return k.flushPort(p.index) }, "%s: forget learned MACs", p.name)
		}
	}
}

// remembered is where registered MACs were last, by the names of the ports.
func remembered(p *plan, known map[vpc.MAC]held) map[vpc.MAC]held {
	at := map[vpc.MAC]held{}
	for mac, was := range known {
		if p.registered(mac) != nil {
			at[mac] = held{Port{Name: was.port.Name}, was.since, was.home}
		}
	}
	return at
}

// lostHolds finds the entries that are no longer in the forwarding tables.
func lostHolds(p *plan, st *state, known map[vpc.MAC]held) map[int][]vpc.MAC {
	there := map[vpc.MAC]bool{}
	for _, l := range st.links {
		for _, e := range l.fdb {
			if e.kind == fdbStatic {
				there[e.mac] = true
			}
		}
	}
	lost := map[int][]vpc.MAC{}
	for _, mac := range sortedMACs(known) {
		if !there[mac] && p.registered(mac) != nil {
			lost[known[mac].port.Index] = append(lost[known[mac].port.Index], mac)
		}
	}
	return lost
}

func sortedMACs[V any](m map[vpc.MAC]V) []vpc.MAC {
	return slices.SortedFunc(maps.Keys(m), func(a, b vpc.MAC) int { return bytes.Compare(a[:], b[:]) })
}

func describePort(flags map[uint16]uint8) string {
	var parts []string
	for _, f := range portFlags() {
		if v, ok := flags[f.attr]; ok {
			parts = append(parts, f.name+" "+[]string{"off", "on"}[min(v, 1)])
		}
	}
	return strings.Join(parts, ", ")
}
