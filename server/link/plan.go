package link

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"gatehouse/vpc"
)

// plan is what the kernel shall have for a snapshot.
type plan struct {
	snapshot *vpc.Snapshot
	links    []*wantLink        // by name
	ranges   []wantRange        // of every VPC, by prefix
	uplinks  map[string]bool    // names
	neighs   map[vpc.Family]int // permanent neighbours, for the size of the kernel's tables
	refused  []error            // what contradicts itself
}

// wantLink is the link of one vSwitch.
type wantLink struct {
	sw      *vpc.VSwitch
	name    string
	bridge  bool                   // else a plain interface that exists by itself
	mac     vpc.MAC                // of a bridge that we create
	addrs   []netip.Prefix         // the gateway's
	routes  []wantRoute            // by the link; those of a bridge's own ranges follow from its addresses
	neighs  map[netip.Addr]vpc.MAC //
	sysctls []sysctl
}

// wantRoute is a route by the link of a vSwitch: to its range, or to a prefix that is delegated to a guest.
type wantRoute struct {
	dst netip.Prefix
	via netip.Addr // the guest's own address; invalid: whoever it is for is on the link
}

func (r wantRoute) String() string {
	if r.via.IsValid() {
		return r.dst.String() + " via " + r.via.String()
	}
	return r.dst.String()
}

// wantRange is a range of a VPC: what is not reached by a vSwitch's link is reached nowhere, rather than by an uplink.
type wantRange struct {
	vpc    string // name
	prefix netip.Prefix
}

// sysctl is one kernel setting by its path below /proc/sys.
type sysctl struct {
	path, value string
	need        bool // the datapath does not work without it
}

// newPlan computes what a snapshot wants; nil wants nothing.
func newPlan(s *vpc.Snapshot) *plan {
	p := &plan{snapshot: s, uplinks: map[string]bool{}, neighs: map[vpc.Family]int{}}
	if s == nil {
		p.snapshot = new(vpc.Snapshot)
		return p
	}
	for _, u := range s.Host.Uplinks {
		p.uplinks[u] = true
	}
	for _, v := range s.VPCs {
		for _, r := range v.Prefixes() {
			p.ranges = append(p.ranges, wantRange{v.Name, r})
		}
	}
	slices.SortFunc(p.ranges, func(a, b wantRange) int { return a.prefix.Compare(b.prefix) })
	owner := map[string]*vpc.VSwitch{}
	for _, sw := range s.VSwitches {
		if !sw.HasLink() {
			continue
		}
		w := newWantLink(sw)
		if other := owner[w.name]; other != nil {
			p.refused = append(p.refused, refuse(sw, "%s is already the link of vSwitch %s/%s", w.name, other.VPC.Name, other.Name))
			continue
		}
		if !validName(w.name) {
			p.refused = append(p.refused, refuse(sw, "%q cannot be the name of a link", w.name))
			continue
		}
		owner[w.name] = sw
		p.links = append(p.links, w)
		for a := range w.neighs {
			p.neighs[vpc.FamilyOf(a)]++
		}
	}
	slices.SortFunc(p.links, func(a, b *wantLink) int { return cmp.Compare(a.name, b.name) })
	return p
}

// registered returns the interface that has the MAC on one of the links; nil if there is none.
func (p *plan) registered(mac vpc.MAC) *vpc.Interface {
	return p.onLink(p.snapshot.InterfaceByMAC(mac))
}

// neighbour returns the MAC of who has the address on one of the links; zero if nobody has.
func (p *plan) neighbour(a netip.Addr) vpc.MAC {
	if i := p.onLink(p.snapshot.Holder(a)); i != nil {
		return i.MAC
	}
	return vpc.MAC{}
}

func (p *plan) onLink(i *vpc.Interface) *vpc.Interface {
	if i == nil {
		return nil
	}
	if w := p.link(i.VSwitch.LinkName()); w == nil || w.sw.ID != i.VSwitch.ID {
		return nil
	}
	return i
}

func newWantLink(sw *vpc.VSwitch) *wantLink {
	w := &wantLink{sw: sw, name: sw.LinkName(), bridge: sw.OwnsBridge(), mac: bridgeMAC(sw.ID), neighs: map[netip.Addr]vpc.MAC{}}
	for _, f := range vpc.Families() {
		gw, r := sw.GatewayAddr(f), sw.Prefix(f)
		switch {
		case !gw.IsValid():
		case w.bridge:
			w.addrs = append(w.addrs, netip.PrefixFrom(gw, r.Bits()))
		default:
			w.addrs = append(w.addrs, netip.PrefixFrom(gw, gw.BitLen()))
			w.routes = append(w.routes, wantRoute{dst: r})
		}
	}
	if sw.IPv6CIDRBlock.IsValid() {
		w.addrs = append(w.addrs, netip.PrefixFrom(vpc.RouterLinkLocal, 64))
	}
	for _, i := range sw.Interfaces {
		for a := range i.Addrs {
			w.neighs[a] = i.MAC
		}
		for _, p := range i.IPv6Prefixes {
			w.routes = append(w.routes, wantRoute{p, i.Primary(vpc.IPv6)})
		}
	}
	w.sysctls = linkSysctls(w)
	return w
}

// linkSysctls lists the settings of a vSwitch's link.
func linkSysctls(w *wantLink) []sysctl {
	v4, v6 := "net/ipv4/conf/"+w.name+"/", "net/ipv6/conf/"+w.name+"/"
	has6 := w.sw.IPv6CIDRBlock.IsValid()
	s := []sysctl{
		{v4 + "forwarding", "1", true},
		{v4 + "send_redirects", "0", true}, // a redirect would show a guest the way round the gateway
		{v4 + "accept_redirects", "0", false},
		{v4 + "rp_filter", "1", false},
	}
	if w.bridge {
		s = append(s,
			sysctl{v4 + "proxy_arp_pvlan", "1", true}, // guests that take their peers for on-link are answered by the gateway
			// At the default of 0.8 s the first packet to a peer waits, and answers get lost under load.
			sysctl{"net/ipv4/neigh/" + w.name + "/proxy_delay", "0", false},
		)
	}
	if has6 {
		s = append(s,
			sysctl{v6 + "disable_ipv6", "0", true},
			sysctl{v6 + "accept_ra", "0", false},
			sysctl{v6 + "autoconf", "0", false},
			sysctl{v6 + "accept_redirects", "0", false},
			sysctl{v6 + "accept_dad", "0", false}, // every link has fe80::1
			sysctl{v6 + "forwarding", "1", true},
		)
	}
	return s
}

// hostSysctls lists the host-wide settings while there is any link, without those that depend on what is there.
func hostSysctls() []sysctl {
	return []sysctl{
		{ipForward, "1", true},
		{ip6Forward, "1", false},
		{"net/ipv4/conf/all/send_redirects", "0", true}, // either this one or the link's suffices to send them
	}
}

// neighbourLimits are the sizes of the kernel's neighbour tables that n permanent entries need, garbage collection never
// to touch the guests': gc_thresh1 to gc_thresh3. They grow in large steps.
func neighbourLimits(n int) [3]int {
	base := 4096
	for base < 2*n {
		base *= 2
	}
	return [3]int{base / 2, base, 2 * base}
}

// bridgeMAC is the MAC of the bridge that we create for a vSwitch: locally administered, always the same for the same ID,
// so that guests keep their gateway's neighbour entry over restarts and whichever port comes first.
func bridgeMAC(id string) vpc.MAC {
	h := sha256.Sum256([]byte("gatehouse bridge " + id))
	m := vpc.MAC(h[:6])
	m[0] = 0x02
	return m
}

// validName reports whether the kernel takes the name for a link and /proc/sys for a directory.
func validName(s string) bool {
	return s != "" && len(s) < 16 && s != "." && s != ".." && s != "all" && s != "default" && !strings.ContainsAny(s, "/: \t\n")
}

// link returns the wanted link of that name, nil if there is none.
func (p *plan) link(name string) *wantLink {
	i, ok := slices.BinarySearchFunc(p.links, name, func(w *wantLink, n string) int { return cmp.Compare(w.name, n) })
	if !ok {
		return nil
	}
	return p.links[i]
}

// sortedKeys returns a map's keys in order, so that steps never depend on a map's.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// RefusedError says why a vSwitch gets no link: what it would touch belongs to somebody else.
type RefusedError struct {
	VPC, VSwitch string // names; VSwitch is empty when the VPC's range is meant
	Reason       string
}

func (e *RefusedError) Error() string {
	if e.VSwitch == "" {
		return fmt.Sprintf("VPC %s: %s", e.VPC, e.Reason)
	}
	return fmt.Sprintf("vSwitch %s: %s", e.VSwitch, e.Reason)
}

// PartialError says that some vSwitches got no link, and all else is as it should be. What is refused is closed: rules come
// before links.
type PartialError struct{ Refused []*RefusedError }

func (e *PartialError) Error() string { return errors.Join(e.Unwrap()...).Error() }

// Unwrap gives the refusals.
func (e *PartialError) Unwrap() []error {
	errs := make([]error, len(e.Refused))
	for i, r := range e.Refused {
		errs[i] = r
	}
	return errs
}

// Remedy says what an operator can do.
func (e *PartialError) Remedy() string {
	return "free what is named, or correct the vSwitch's attach or range and apply it; all other vSwitches are served"
}

// refusals makes an error of what was refused when all else is done.
func refusals(refused []error) error {
	var out []*RefusedError
	for _, err := range refused {
		r, ok := err.(*RefusedError)
		if !ok {
			return errors.Join(refused...) // the datapath as a whole does not work
		}
		out = append(out, r)
	}
	if len(out) == 0 {
		return nil
	}
	return &PartialError{out}
}

func refuse(sw *vpc.VSwitch, format string, args ...any) *RefusedError {
	return &RefusedError{sw.VPC.Name, sw.Name, fmt.Sprintf(format, args...)}
}

// nameOf says which instance is meant, as VPC/instance.
func nameOf(i *vpc.Instance) string { return i.VPC.Name + "/" + i.Name }
