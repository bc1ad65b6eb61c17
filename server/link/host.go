package link

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatehouse/vpc"
)

// host sets what holds for the whole host while there is any link, and puts it back when there is none.
func (d *differ) host() {
	u := d.out.undo
	if len(u.Links) == 0 {
		for _, path := range []string{ipForward, ip6Forward} { // first: they change others along
			if s, ok := u.Host[path]; ok {
				d.restore(path, s)
			}
		}
		for _, path := range sortedKeys(u.Host) {
			if path != ipForward && path != ip6Forward {
				d.restore(path, u.Host[path])
			}
		}
		if len(d.out.steps) == 0 {
			u.Host = map[string]saved{}
		}
		return
	}
	if len(d.p.links) == 0 {
		return // the last ones are being given back
	}
	d.acceptRA()
	for _, s := range hostSysctls() {
		d.hostSysctl(s)
	}
	for _, f := range vpc.Families() {
		for i, n := range neighbourLimits(d.p.neighs[f]) {
			path := fmt.Sprintf("net/%s/neigh/default/gc_thresh%d", f, i+1)
			have, ok := d.st.sysctl(path)
			if v, err := strconv.Atoi(have); ok && err == nil && v < n {
				d.hostSysctl(sysctl{path, strconv.Itoa(n), false})
			}
		}
	}
	if u.NetfilterAbsent {
		if _, ok := d.st.sysctl(bridgeNetfilter + "iptables"); ok {
			before := len(d.out.steps)
			for _, t := range []string{"iptables", "ip6tables", "arptables"} {
				if v, ok := d.st.sysctl(bridgeNetfilter + t); ok && v != "0" {
					d.step(func(k driver) error { return k.setSysctl(bridgeNetfilter+t, "0") }, "%s%s = 0", bridgeNetfilter, t)
				}
			}
			if len(d.out.steps) == before {
				u.NetfilterAbsent = false
			}
		}
	}
}

// acceptRA keeps the host's own router advertisements working: a kernel that forwards ignores them at accept_ra=1. Only
// while it is us who forward.
func (d *differ) acceptRA() {
	have, ok := d.st.sysctl(ip6Forward)
	if _, changed := d.out.undo.Host[ip6Forward]; !ok || have != "0" && !changed {
		return
	}
	for _, name := range d.names {
		l := d.st.links[name]
		if l.master != 0 || name == "lo" || l.created() || d.out.undo.Links[name] != nil || d.p.link(name) != nil {
			continue
		}
		path := "net/ipv6/conf/" + name + "/accept_ra"
		if v, ok := d.st.sysctl(path); ok && v == "1" {
			d.hostSysctl(sysctl{path, "2", false})
		}
	}
}

// hostSysctl changes one setting of the host and remembers what it was.
func (d *differ) hostSysctl(s sysctl) {
	have, ok := d.st.sysctl(s.path)
	if !ok {
		if s.need {
			d.out.refused = append(d.out.refused, fmt.Errorf("this kernel has no %s", s.path))
		}
		return
	}
	if have == s.value {
		return
	}
	if old, ok := d.out.undo.Host[s.path]; ok {
		old.Set = s.value
		d.out.undo.Host[s.path] = old
	} else {
		d.out.undo.Host[s.path] = saved{Was: have, Set: s.value, Also: d.along(s.path)}
	}
	d.step(func(k driver) error { return k.setSysctl(s.path, s.value) }, "%s = %s", s.path, s.value)
}

// along lists the settings that the kernel changes when forwarding is switched for the host, with their values.
func (d *differ) along(path string) map[string]string {
	var paths []string
	switch path {
	case ipForward:
		paths = []string{"net/ipv4/conf/all/accept_redirects", "net/ipv4/conf/default/forwarding"}
	case ip6Forward:
		paths = []string{"net/ipv6/conf/default/forwarding"}
	default:
		return nil
	}
	family := strings.Split(path, "/")[1]
	for name := range d.st.links {
		paths = append(paths, "net/"+family+"/conf/"+name+"/forwarding")
	}
	also := map[string]string{}
	for _, p := range paths {
		v, ok := d.st.sysctl(p)
		if ok && (v != "0" || strings.HasSuffix(p, "accept_redirects")) { // switching off makes them 0 by itself
			also[p] = v
		}
	}
	return also
}

// ranges makes every address of a VPC that no link reaches unreachable, so that it never leaves by an uplink.
func (d *differ) ranges(links []accepted) {
	want := map[netip.Prefix]bool{}
	for _, r := range d.p.ranges {
		// A wider route of the host would lose what is ours, a narrower one is not touched by ours.
		want[r.prefix] = !slices.ContainsFunc(d.st.routes, func(h route) bool {
			return h.unicast && !h.ours && !h.isDefault() && h.dst.Bits() <= r.prefix.Bits() && h.dst.Overlaps(r.prefix) && !d.onlyOurs(h, nil)
		})
		if clash := d.clash(r.prefix, nil); clash != "" && !d.said(r.vpc, clash) {
			d.out.refused = append(d.out.refused, &RefusedError{VPC: r.vpc, Reason: fmt.Sprintf("%s %s", r.prefix, clash)})
		}
	}
	type linkRoute struct {
		wantRoute
		dev int
	}
	linked := map[linkRoute]bool{}
	for _, a := range links {
		if a.link != nil {
			for _, r := range a.want.routes {
				linked[linkRoute{r, a.link.index}] = true
			}
		}
	}
	have := map[netip.Prefix]bool{}
	for _, r := range d.st.routes {
		switch {
		case !r.ours:
		case r.unicast && len(r.devs) == 1:
			name := d.linkName(r.devs[0])
			kept := d.out.undo.Links[name] != nil && d.p.link(name) != nil && !d.ours[r.devs[0]] // refused while in force
			if !linked[linkRoute{wantRoute{r.dst, r.via}, r.devs[0]}] && !kept {
				d.step(func(k driver) error { return k.deleteRoute(r.dst, r.devs[0]) }, "delete route %s", d.describeRoute(r))
			}
		default:
			have[r.dst] = true
			if !want[r.dst] {
				d.step(func(k driver) error { return k.deleteRoute(r.dst, 0) }, "delete unreachable route %s", r.dst)
			}
		}
	}
	for _, r := range d.p.ranges {
		if want[r.prefix] && !have[r.prefix] {
			d.step(func(k driver) error { return k.replaceRoute(r.prefix, 0, netip.Addr{}, netip.Addr{}) }, "add unreachable route %s", r.prefix)
		}
	}
}

// said reports whether one of the VPC's vSwitches has been refused for the same reason.
func (d *differ) said(vpcName, clash string) bool {
	return slices.ContainsFunc(d.out.refused, func(err error) bool {
		e, ok := err.(*RefusedError)
		return ok && e.VPC == vpcName && strings.HasSuffix(e.Reason, clash)
	})
}
