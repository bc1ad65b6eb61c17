package reconcile

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"gatehouse/firewall/conntrack"
	"gatehouse/vpc"
)

// affected says whose flows a change may have ended.
type affected struct {
	all      bool    // every address of every VPC
	changed  holding // their policy changed: flows that it no longer allows end
	departed holding // they left their interface: all flows end

	retranslated retranslated
}

// holding is what belongs to interfaces, addresses and prefixes.
type holding map[netip.Prefix]bool

// has reports whether an address is there, or in a prefix that is.
func (h holding) has(a netip.Addr) bool {
	if len(h) == 0 {
		return false
	}
	if h[netip.PrefixFrom(a, a.BitLen())] {
		return true
	}
	p, err := a.Prefix(vpc.DelegatedBits) // an error: it is IPv4
	return err == nil && h[p]
}

// affectedBy compares two snapshots; a nil old one means that nothing is known of what was allowed before. What can only
// have been allowed more affects nobody: see tighten.go.
func affectedBy(old, new *vpc.Snapshot) affected {
	a := affected{changed: holding{}, departed: holding{}}
	if old == nil {
		a.all = true
		return a
	}
	d := vpc.Compare(old, new)
	if d.Host || len(d.VPCs) > 0 {
		a.retranslated = retranslatedBy(old, new)
	}
	for _, p := range d.Interfaces {
		if p.Old == nil {
			continue
		}
		for of := range p.Old.Ranges {
			if now := new.InterfaceByAddr(of.Addr()); now == nil || now.ID != p.Old.ID {
				a.departed[of] = true
			}
		}
	}
	if d.Host {
		a.all = true
		return a
	}
	dropped := droppedPeers{}
	for _, p := range d.Interfaces {
		switch {
		case p.New == nil, p.Old == nil && !tightensByComing(p.New, dropped):
		case p.Old == nil || tightensInterface(p.Old, p.New, dropped):
			a.change(p.Old, p.New)
		}
	}
	for _, p := range d.Groups {
		if p.New != nil && (p.Old == nil || tightensGroup(p.Old, p.New)) {
			a.change(p.New.Members...)
		}
	}
	acls := map[*vpc.NetworkACL]bool{}
	for _, p := range d.NetworkACLs {
		acls[p.New] = true
	}
	ranges := map[*vpc.VPC]bool{}
	for _, p := range d.VPCs {
		ranges[p.New] = p.New != nil && (p.Old == nil || !slices.Equal(p.Old.Prefixes(), p.New.Prefixes()))
	}
	switches := map[*vpc.VSwitch]bool{}
	for _, p := range d.VSwitches {
		switches[p.New] = true
	}
	for _, w := range new.VSwitches {
		if switches[w] || w.ACL != nil && acls[w.ACL] || ranges[w.VPC] {
			a.change(w.Interfaces...)
		}
	}
	return a
}

// change adds the addresses and prefixes of interfaces to those whose policy changed; a nil interface has none.
func (a *affected) change(interfaces ...*vpc.Interface) {
	for _, n := range interfaces {
		if n != nil {
			for of := range n.Ranges {
				a.changed[of] = true
			}
		}
	}
}

func (a affected) none() bool {
	return !a.all && len(a.changed)+len(a.departed) == 0 && a.retranslated.none()
}

// wants returns which addresses' flows have to be looked at.
func (a affected) wants(s *vpc.Snapshot) func(netip.Addr) bool {
	if a.all {
		return func(addr netip.Addr) bool {
			return a.departed.has(addr) || a.retranslated.has(addr) || s.VPCOf(addr) != nil
		}
	}
	return func(addr netip.Addr) bool {
		return a.changed.has(addr) || a.departed.has(addr) || a.retranslated.has(addr)
	}
}

// revoke deletes the flows that what is in force no longer allows, and returns how many.
func revoke(ctx context.Context, ct Conntrack, a affected, now *Force) (int, error) {
	if a.none() {
		return 0, nil
	}
	var cut [2]int
	var errs [2]error
	var wg sync.WaitGroup
	for i, f := range vpc.Families() {
		wg.Go(func() { cut[i], errs[i] = a.revoke(ctx, ct, f, now) })
	}
	wg.Wait()
	return cut[0] + cut[1], errors.Join(errs[:]...)
}

// revoke does it for one family.
func (a affected) revoke(ctx context.Context, ct Conntrack, f vpc.Family, now *Force) (int, error) {
	flows, err := ct.List(ctx, f, a.wants(now.Snapshot))
	if err != nil {
		return 0, err
	}
	var ended []conntrack.Flow
	for _, flow := range flows {
		if a.ends(flow, now) {
			ended = append(ended, flow)
		}
	}
	n, err := ct.Delete(ctx, ended)
	if err != nil {
		return n, fmt.Errorf("cut %s flows: %w", f, err)
	}
	return n, nil
}

// ends decides about one flow. What the gateway opens itself is not filtered, and lives on unless the other end's address is
// somebody else's now.
func (a affected) ends(flow conntrack.Flow, now *Force) bool {
	for addr := range flow.Addrs {
		if a.departed.has(addr) {
			return true
		}
	}
	return a.retranslated.ends(flow) || !flow.Local && !now.Trace(flow.Packet(now.Snapshot)).Allowed
}
