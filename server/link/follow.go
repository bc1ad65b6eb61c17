package link

import (
	"errors"

	"gatehouse/vpc"
)

// Most changes are none of the links' at all, or concern a few guests: then nothing has to be read, and the neighbours
// that come and go are all that is to be done. Everything else goes the way of Manager.sync, and so does what fails here; the
// periodic comparison looks at everything anyway.

// following is the way from one plan to the next where only guests differ.
type following struct {
	from, to *plan
	guests   []vpc.Pair[vpc.Interface] // whose addresses, MAC, vSwitch or port differ
	links    []string                  // that they are or were on
}

// follow returns the way to the plan for another snapshot; nil if more than guests differ.
func (p *plan) follow(s *vpc.Snapshot) *following {
	d := vpc.Compare(p.snapshot, s)
	if d.Host || len(d.VPCs)+len(d.VSwitches) > 0 {
		return nil
	}
	next := &plan{snapshot: s, ranges: p.ranges, uplinks: p.uplinks, refused: p.refused, neighs: map[vpc.Family]int{}}
	f := &following{from: p, to: next}
	touched := map[string]bool{} // IDs of vSwitches
	for _, g := range d.Interfaces {
		if g.Old != nil && g.New != nil && g.Old.VSwitch.ID == g.New.VSwitch.ID && g.Old.Port == g.New.Port && g.Old.SameBindings(g.New) {
			continue
		}
		f.guests = append(f.guests, g)
		for _, i := range []*vpc.Interface{g.Old, g.New} {
			if i != nil {
				touched[i.VSwitch.ID] = true
			}
		}
	}
	for family, n := range p.neighs {
		next.neighs[family] = n
	}
	for _, w := range p.links {
		now := *w
		now.sw = s.VSwitchByID(w.sw.ID)
		if touched[w.sw.ID] {
			now = *newWantLink(now.sw)
			f.links = append(f.links, w.name)
			for a := range w.neighs {
				next.neighs[vpc.FamilyOf(a)]--
			}
			for a := range now.neighs {
				next.neighs[vpc.FamilyOf(a)]++
			}
		}
		next.links = append(next.links, &now)
	}
	return f
}

// mayFollow reports whether the guests that differ have nothing to do with who holds which MAC, and the kernel's tables have
// room for them.
func (f *following) mayFollow(h *holds) bool {
	for family, n := range f.to.neighs {
		if neighbourLimits(n) != neighbourLimits(f.from.neighs[family]) {
			return false
		}
	}
	for _, g := range f.guests {
		for _, i := range []*vpc.Interface{g.Old, g.New} {
			if i == nil {
				continue
			}
			if i.Port != "" || len(i.IPv6Prefixes) > 0 {
				return false // pinned, or there are routes to it
			}
			at, held := h.at[i.MAC]
			if held && (i == g.Old && (g.New == nil || g.New.MAC != i.MAC) || i == g.New && at.port.VSwitch != i.VSwitch.ID) {
				return false
			}
		}
	}
	return true
}

// settled returns the indexes of the links that are a plan's and up.
func settled(p *plan, u *undo, st *state) map[string]int {
	up := map[string]int{}
	for _, w := range p.links {
		if l := st.links[w.name]; l != nil && l.up && u.Links[w.name] != nil {
			up[w.name] = l.index
		}
	}
	return up
}

// follow brings neighbours in line with the new plan. It needs the lock, and must run inside the namespace.
func (m *Manager) follow(f *following) error {
	if old := m.interest.Load(); old != nil {
		i := *old
		i.plan = f.to
		m.interest.Store(&i)
	}
	var errs []error
	for _, name := range f.links {
		index, ok := m.settled[name]
		if !ok {
			continue // it is not there, or down: it gets all its neighbours when it comes
		}
		was, now := f.from.link(name).neighs, f.to.link(name).neighs
		for _, a := range sortedAddrs(was) {
			if now[a].IsZero() {
				errs = append(errs, m.k.deleteNeigh(index, a))
			}
		}
		for _, a := range sortedAddrs(now) {
			if now[a] != was[a] {
				errs = append(errs, m.k.replaceNeigh(index, a, now[a]))
			}
		}
	}
	return errors.Join(errs...)
}
