package link

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"

	"gatehouse/vpc"
)

// step is one thing to do to the kernel.
type step struct {
	what string // for logs and errors: "gh-web: add address 10.20.1.253/24"
	do   func(driver) error
}

// driver carries steps out. Replace and add succeed when it is so already, delete when it is gone.
type driver interface {
	createBridge(name string, mac vpc.MAC) error
	setAlias(index int, alias string) error
	setMAC(index int, mac vpc.MAC) error
	setBridge(index int, attrs map[uint16]uint32) error
	setPort(index int, flags map[uint16]uint8) error
	flushPort(index int) error
	deleteLink(index int) error
	setUp(index int, up bool) error
	addAddr(index int, a netip.Prefix) error
	deleteAddr(index int, a netip.Prefix) error
	replaceRoute(dst netip.Prefix, dev int, via, src netip.Addr) error // dev 0: unreachable; via and src may be invalid
	deleteRoute(dst netip.Prefix, dev int) error
	replaceNeigh(index int, a netip.Addr, mac vpc.MAC) error
	deleteNeigh(index int, a netip.Addr) error
	replaceFDB(port int, mac vpc.MAC) error
	deleteFDB(port int, mac vpc.MAC, vlan uint16) error
	setSysctl(path, value string) error
}

// outcome is what a comparison says.
type outcome struct {
	undo     *undo // to be saved before the steps are taken
	steps    []step
	refused  []error
	findings []Finding
	holds    *holds
}

const (
	vlanFiltering = uint16(nl.IFLA_BR_VLAN_FILTERING)

	ipForward       = "net/ipv4/ip_forward"
	ip6Forward      = "net/ipv6/conf/all/forwarding"
	bridgeNetfilter = "net/bridge/bridge-nf-call-"
)

// differ compares a plan with a state.
type differ struct {
	p    *plan
	st   *state
	held map[vpc.MAC]held // as known before
	now  time.Time
	out  *outcome
	ours map[int]bool // indexes of the links in force

	names   []string          // of all links, in order
	byIndex map[int]*link     // all links
	lost    map[int][]vpc.MAC // registered MACs that a port held and whose entry is gone, by the port's index
}

// maxCandidates is how many links are named to somebody who has named one that is not there.
const maxCandidates = 8

// candidates names the links that a vSwitch could be attached to instead.
func (d *differ) candidates() string {
	var free []string
	for _, name := range d.names {
		if l := d.st.links[name]; l.kind != "bridge" && l.master == 0 && name != "lo" && d.out.undo.Links[name] == nil {
			free = append(free, name)
		}
	}
	switch more := len(free) - maxCandidates; {
	case len(free) == 0:
		return ""
	case more > 0:
		return fmt.Sprintf(" (there are %s and %d more)", strings.Join(free[:maxCandidates], ", "), more)
	}
	return " (there is " + strings.Join(free, ", ") + ")"
}

// diff computes what to do, pure but for reading settings through st. The undo that it is given is not changed.
func diff(p *plan, st *state, u *undo, known map[vpc.MAC]held, now time.Time) *outcome {
	d := &differ{p: p, st: st, held: known, now: now, ours: map[int]bool{}, out: &outcome{
		undo:    u.clone(),
		refused: slices.Clone(p.refused),
		holds:   &holds{at: remembered(p, known), ports: map[string]Port{}, host: map[vpc.MAC]bool{}},
	}}
	d.names, d.byIndex = sortedKeys(st.links), make(map[int]*link, len(st.links))
	for _, l := range st.links {
		d.byIndex[l.index] = l
		if !l.mac.IsZero() {
			d.out.holds.host[l.mac] = true
		}
	}
	d.lost = lostHolds(p, st, known)
	d.release()
	accepted := d.accept()
	d.host()
	d.ranges(accepted)
	for _, a := range accepted {
		d.link(a.want, a.link)
	}
	return d.out
}

func (d *differ) step(do func(driver) error, format string, args ...any) {
	d.out.steps = append(d.out.steps, step{fmt.Sprintf(format, args...), do})
}

func (d *differ) find(code string, w *wantLink, remedy, format string, args ...any) {
	d.out.findings = append(d.out.findings, Finding{code, w.sw.ID, w.name, fmt.Sprintf(format, args...), remedy})
}

// release gives back the links that no vSwitch wants any more, or wants otherwise. A link that needs no step is forgotten.
func (d *differ) release() {
	for _, name := range sortedKeys(d.out.undo.Links) {
		u, l := d.out.undo.Links[name], d.st.links[name]
		w := d.p.link(name)
		if w != nil && w.sw.ID == u.VSwitch && (w.bridge || !u.Created) {
			continue
		}
		before := len(d.out.steps)
		switch {
		case l == nil || u.Index != 0 && u.Index != l.index: // gone, or somebody made a new one
		case u.Created:
			if l.kind == "bridge" {
				d.step(func(k driver) error { return k.deleteLink(l.index) }, "%s: delete bridge", name)
			}
		default:
			d.giveBack(l, u)
		}
		if len(d.out.steps) == before {
			delete(d.out.undo.Links, name)
		}
	}
	for _, name := range d.names { // left by a gatehouse whose journal is lost
		l := d.st.links[name]
		if w := d.p.link(name); l.created() && d.out.undo.Links[name] == nil && (w == nil || aliasOf(w.sw.ID) != l.alias) {
			d.step(func(k driver) error { return k.deleteLink(l.index) }, "%s: delete bridge", name)
		}
	}
}

// giveBack undoes what was done to a link that existed before.
func (d *differ) giveBack(l *link, u *linkUndo) {
	for _, p := range l.ports {
		for _, e := range p.fdb {
			if e.kind == fdbStatic && e.sticky {
				d.step(func(k driver) error { return k.deleteFDB(p.index, e.mac, e.vlan) }, "%s: free %s", p.name, e.mac)
			}
		}
		if d.p.uplinks[p.name] {
			continue
		}
		flags := map[uint16]uint8{}
		for _, f := range portFlags() {
			was, ok := u.Ports[p.name][f.attr]
			if !ok {
				was = f.initial
			}
			if u.Ports[p.name] == nil {
				break // it came in this moment: nobody has changed it
			}
			if have, known := p.port[f.attr]; known && have != was {
				flags[f.attr] = was
			}
		}
		if len(flags) > 0 {
			d.step(func(k driver) error { return k.setPort(p.index, flags) }, "%s: %s, as before", p.name, describePort(flags))
		}
	}
	for _, a := range sortedAddrs(l.neighs) {
		if l.neighs[a].ours {
			d.step(func(k driver) error { return k.deleteNeigh(l.index, a) }, "%s: delete neighbour %s", l.name, a)
		}
	}
	for _, a := range u.Addrs {
		if l.has(a) {
			d.step(func(k driver) error { return k.deleteAddr(l.index, a) }, "%s: delete address %s", l.name, a)
		}
	}
	attrs := map[uint16]uint32{}
	for attr, was := range u.Bridge {
		if l.bridge[attr] != was {
			attrs[attr] = was
		}
	}
	if len(attrs) > 0 {
		d.step(func(k driver) error { return k.setBridge(l.index, attrs) }, "%s: %s, as before", l.name, describeBridge(attrs))
	}
	for _, path := range sortedKeys(u.Sysctls) {
		d.restore(path, u.Sysctls[path])
	}
	if u.Down && l.up {
		d.step(func(k driver) error { return k.setUp(l.index, false) }, "%s: down, as before", l.name)
	}
}

// restore puts a setting back unless somebody has changed it since.
func (d *differ) restore(path string, s saved) {
	if have, ok := d.st.sysctl(path); ok && have == s.Set && have != s.Was {
		d.step(func(k driver) error { return k.setSysctl(path, s.Was) }, "%s = %s, as before", path, s.Was)
	}
	for _, also := range sortedKeys(s.Also) {
		was := s.Also[also]
		have, ok := d.st.sysctl(also)
		// Before the setting itself is put back, the others are as it made them, and may look right.
		if now, _ := d.st.sysctl(path); ok && (have != was || now != s.Was) {
			d.step(func(k driver) error { return k.setSysctl(also, was) }, "%s = %s, as before", also, was)
		}
	}
}

// accepted is a wanted link that may be worked on; link is nil while a bridge is yet to be made.
type accepted struct {
	want *wantLink
	link *link
}

// accept decides link by link whether what is there is ours to use.
func (d *differ) accept() []accepted {
	var all []accepted
	for _, w := range d.p.links {
		l, u := d.st.links[w.name], d.out.undo.Links[w.name]
		if u != nil && u.VSwitch != w.sw.ID {
			continue // being given back in this pass
		}
		if u != nil && l != nil && u.Index != l.index {
			if u.Index == 0 && l.mac == w.mac && w.bridge {
				u.Index = l.index // the one that we just made
			} else {
				delete(d.out.undo.Links, w.name) // made anew by somebody
				u = nil
			}
		}
		if err := d.refusal(w, l, u != nil); err != nil {
			d.out.refused = append(d.out.refused, err)
			d.find(FindingRefused, w, (&PartialError{}).Remedy(), "%s", err.Error())
			continue
		}
		switch {
		case l == nil && !w.bridge:
			d.find(FindingMissing, w, missingRemedy(w.name),
				"there is no link %s, which vSwitch %s is attached to%s", w.name, w.sw.Name, d.candidates())
			continue
		case l == nil:
			d.out.undo.Links[w.name] = &linkUndo{VSwitch: w.sw.ID, Created: true}
		case u == nil:
			d.out.undo.Links[w.name] = &linkUndo{VSwitch: w.sw.ID, Index: l.index, Created: w.bridge && l.mac == w.mac, Down: !l.up}
		}
		if l != nil {
			d.ours[l.index] = true
		}
		all = append(all, accepted{w, l})
	}
	return all
}

// missingRemedy says what helps against a link that is not there. A VLAN's name says how it is made.
func missingRemedy(name string) string {
	how := "plug it in"
	if parent, id, ok := strings.Cut(name, "."); ok && parent != "" {
		if n, err := strconv.Atoi(id); err == nil && n > 0 && n < 4095 {
			how = fmt.Sprintf("create it (ip link add link %s name %s type vlan id %d)", parent, name, n)
		}
	}
	return "correct attach.interface of the vSwitch, or " + how + ": it is used as soon as it is there"
}

// refusal says why a vSwitch cannot have its link. What comes up on a link that is in force is a finding: to let go of it
// would cut its guests off.
func (d *differ) refusal(w *wantLink, l *link, inForce bool) error {
	for _, r := range w.ranges() {
		if clash := d.clash(r, l); clash != "" {
			if !inForce || !carries(l, r) {
				return refuse(w.sw, "%s %s", r, clash)
			}
			d.find(FindingOverlap, w, "remove the other one: a guest or the host loses traffic", "vSwitch %s: %s %s", w.sw.Name, r, clash)
		}
	}
	switch {
	case d.p.uplinks[w.name]:
		return refuse(w.sw, "%s is an uplink", w.name)
	case l == nil:
		return nil
	case w.bridge && l.kind != "bridge":
		return refuse(w.sw, "%s exists and is not a bridge but %s", w.name, kindName(l.kind))
	case l.master != 0:
		return refuse(w.sw, "%s belongs to %s", w.name, d.linkName(l.master))
	}
	u := d.out.undo.Links[w.name]
	for _, a := range l.addrs {
		if !a.Addr().IsLinkLocalUnicast() && !slices.Contains(w.addrs, a) && (u == nil || !slices.Contains(u.Addrs, a)) {
			if !inForce {
				return refuse(w.sw, "%s carries somebody else's address %s", w.name, a)
			}
			d.find(FindingForeignAddr, w, "take the address off the link", "%s carries %s, which gatehouse did not put there", w.name, a)
		}
	}
	if inForce {
		return nil
	}
	for _, p := range l.ports {
		if d.p.uplinks[p.name] {
			return refuse(w.sw, "bridge %s carries the uplink %s", w.name, p.name)
		}
	}
	for _, r := range d.st.routes {
		if r.isDefault() && !r.ours && (slices.Contains(r.devs, l.index) || slices.ContainsFunc(l.ports, func(p *link) bool { return slices.Contains(r.devs, p.index) })) {
			return refuse(w.sw, "%s carries a default route of the host", w.name)
		}
	}
	if w.bridge && l.bridge[vlanFiltering] != 0 {
		return refuse(w.sw, "bridge %s filters VLANs: a vSwitch needs a bridge of its own", w.name)
	}
	return nil
}

// ranges lists the vSwitch's ranges.
func (w *wantLink) ranges() []netip.Prefix {
	var rs []netip.Prefix
	for _, f := range vpc.Families() {
		if r := w.sw.Prefix(f); r.IsValid() {
			rs = append(rs, r)
		}
	}
	return rs
}

// carries reports whether a link has an address in the range.
func carries(l *link, r netip.Prefix) bool {
	return l != nil && slices.ContainsFunc(l.addrs, func(a netip.Prefix) bool { return r.Contains(a.Addr()) })
}

// clash says what of the host's lies in a range; l, which may be nil, is the link that the range is meant for.
func (d *differ) clash(r netip.Prefix, l *link) string {
	for _, rt := range d.st.routes {
		if rt.isDefault() || rt.ours || !rt.dst.Overlaps(r) || d.onlyOurs(rt, l) {
			continue
		}
		if !rt.unicast && rt.dst.Bits() < r.Bits() {
			continue // somebody's "private ranges lead nowhere": ours is the more specific one
		}
		return "overlaps the host's route " + d.describeRoute(rt)
	}
	for _, name := range d.names {
		if other := d.st.links[name]; other != l && d.out.undo.Links[name] == nil {
			for _, a := range other.addrs {
				if r.Contains(a.Addr()) && !other.created() {
					return fmt.Sprintf("contains the host's own address %s on %s", a.Addr(), name)
				}
			}
		}
	}
	return ""
}

// onlyOurs reports whether a route leads to links of vSwitches only, or to the one given.
func (d *differ) onlyOurs(r route, l *link) bool {
	if len(r.devs) == 0 {
		return false
	}
	for _, dev := range r.devs {
		if l != nil && l.index == dev && r.kernel {
			continue
		}
		o := d.byIndex[dev]
		if o == nil || d.out.undo.Links[o.name] == nil && !o.created() {
			return false
		}
	}
	return true
}

func (d *differ) linkName(index int) string {
	if l := d.byIndex[index]; l != nil {
		return l.name
	}
	return "link " + strconv.Itoa(index)
}

func (d *differ) describeRoute(r route) string {
	s := r.dst.String()
	for _, dev := range r.devs {
		s += " dev " + d.linkName(dev)
	}
	return s
}

// link brings one vSwitch's link to what it shall be.
func (d *differ) link(w *wantLink, l *link) {
	u := d.out.undo.Links[w.name]
	if l == nil {
		d.step(func(k driver) error { return k.createBridge(w.name, w.mac) }, "%s: create bridge %s", w.name, w.mac)
		return
	}
	if w.bridge {
		d.bridge(w, l, u)
	} else {
		d.find(FindingPlain, w, "isolate the ports of the switch behind it (private VLAN, port protection), or attach a bridge",
			"guests of vSwitch %s can reach each other round the gateway, because the switch behind %s is not gatehouse's", w.sw.Name, w.name)
		if l.running() {
			d.out.holds.ports[l.name] = Port{l.index, l.name, w.sw.ID, w.name, l.index, l.mac}
		}
	}
	d.sysctls(w, l, u)
	d.addrs(w, l, u)
	if !l.up {
		d.step(func(k driver) error { return k.setUp(l.index, true) }, "%s: up", w.name)
	}
	for _, r := range w.routes {
		if !l.up || slices.ContainsFunc(d.st.routes, func(have route) bool { return have.is(r, l.index) }) {
			continue
		}
		d.step(func(k driver) error {
			return k.replaceRoute(r.dst, l.index, r.via, w.sw.GatewayAddr(vpc.FamilyOf(r.dst.Addr())))
		}, "%s: add route %s", w.name, r)
	}
	d.neighs(w, l, u)
}

func (d *differ) bridge(w *wantLink, l *link, u *linkUndo) {
	if u.Created && l.alias != aliasOf(w.sw.ID) {
		d.step(func(k driver) error { return k.setAlias(l.index, aliasOf(w.sw.ID)) }, "%s: alias %q", w.name, aliasOf(w.sw.ID))
	}
	if u.Created && l.mac != w.mac {
		d.step(func(k driver) error { return k.setMAC(l.index, w.mac) }, "%s: address %s", w.name, w.mac)
	}
	attrs := map[uint16]uint32{}
	for _, a := range bridgeAttrs() {
		have, known := l.bridge[a.attr]
		if !known || have == a.want || a.created && !u.Created {
			continue
		}
		attrs[a.attr] = a.want
		if _, ok := u.Bridge[a.attr]; !ok && !u.Created {
			if u.Bridge == nil {
				u.Bridge = map[uint16]uint32{}
			}
			u.Bridge[a.attr] = have
		}
	}
	if len(attrs) > 0 {
		d.step(func(k driver) error { return k.setBridge(l.index, attrs) }, "%s: %s", w.name, describeBridge(attrs))
	}
	if _, ok := d.st.sysctl(bridgeNetfilter + "iptables"); !ok {
		d.find(FindingNoBackstop, w, "load br_netfilter", "br_netfilter is absent: a port that is plugged into %s while gatehouse is not running is not filtered until it runs", w.name)
	}
	d.ports(w, l, u)
}

// sysctls sets the link's own settings.
func (d *differ) sysctls(w *wantLink, l *link, u *linkUndo) {
	want := w.sysctls
	if u.Created {
		if v6 := "net/ipv6/conf/" + w.name + "/"; w.sw.IPv6CIDRBlock.IsValid() {
			want = append(slices.Clone(want), sysctl{v6 + "addr_gen_mode", "1", false}) // fe80::1 is its only link-local address
		} else {
			want = append(slices.Clone(want), sysctl{v6 + "disable_ipv6", "1", false})
		}
	}
	for _, s := range want {
		have, ok := d.st.sysctl(s.path)
		if !ok {
			if s.need {
				d.out.refused = append(d.out.refused, refuse(w.sw, "this kernel has no %s", s.path))
			}
			continue
		}
		if have == s.value {
			continue
		}
		if _, ok := u.Sysctls[s.path]; !ok && !u.Created {
			if u.Sysctls == nil {
				u.Sysctls = map[string]saved{}
			}
			u.Sysctls[s.path] = saved{Was: have, Set: s.value}
		}
		d.step(func(k driver) error { return k.setSysctl(s.path, s.value) }, "%s = %s", s.path, s.value)
	}
}

// addrs puts the gateway's addresses on the link and takes off those that we put there before.
func (d *differ) addrs(w *wantLink, l *link, u *linkUndo) {
	for _, a := range slices.Clone(u.Addrs) {
		if slices.Contains(w.addrs, a) {
			continue
		}
		if l.has(a) {
			d.step(func(k driver) error { return k.deleteAddr(l.index, a) }, "%s: delete address %s", w.name, a)
		} else {
			u.Addrs = slices.DeleteFunc(u.Addrs, func(b netip.Prefix) bool { return a == b })
		}
	}
	for _, a := range w.addrs {
		if l.has(a) {
			continue
		}
		if !slices.Contains(u.Addrs, a) {
			u.Addrs = append(u.Addrs, a)
		}
		d.step(func(k driver) error { return k.addAddr(l.index, a) }, "%s: add address %s", w.name, a)
	}
}

// neighs makes the guests' addresses permanent neighbours, so that nobody can claim another's.
func (d *differ) neighs(w *wantLink, l *link, u *linkUndo) {
	for _, a := range sortedAddrs(l.neighs) {
		if n := l.neighs[a]; w.neighs[a].IsZero() && (n.ours || u.Created) {
			d.step(func(k driver) error { return k.deleteNeigh(l.index, a) }, "%s: delete neighbour %s", w.name, a)
		}
	}
	if !l.up {
		return // a link that is down keeps none
	}
	for _, a := range sortedAddrs(w.neighs) {
		if mac := w.neighs[a]; l.neighs[a].mac != mac {
			d.step(func(k driver) error { return k.replaceNeigh(l.index, a, mac) }, "%s: neighbour %s is %s", w.name, a, mac)
		}
	}
}

func sortedAddrs[V any](m map[netip.Addr]V) []netip.Addr {
	return slices.SortedFunc(maps.Keys(m), netip.Addr.Compare)
}

func describeBridge(attrs map[uint16]uint32) string {
	var parts []string
	for _, a := range bridgeAttrs() {
		if v, ok := attrs[a.attr]; ok {
			parts = append(parts, fmt.Sprintf("%s %d", a.name, v))
		}
	}
	return strings.Join(parts, ", ")
}

func kindName(kind string) string { return cmp.Or(kind, "an interface of hardware") }
