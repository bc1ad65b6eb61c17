package server

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatehouse/server/api"
	"gatehouse/vpc"
)

// Rollback makes an earlier revision's state the newest one; 0 means the one before the last change. While a change waits
// for its confirmation only that one can be undone, and 0 does it.
func (g *Gateway) Rollback(ctx context.Context, to uint64, user string) (*api.ApplyResult, error) {
	if p := g.confirm.waiting(); p != nil && (to == 0 || to == p.Base) {
		return g.undo(ctx, p, audit{user, "rollback", "to revision " + strconv.FormatUint(p.Base, 10)})
	}
	return g.edit(ctx, audit{user: user, verb: "rollback"}, editOptions{}, func(current *vpc.Spec, revision uint64) (*vpc.Spec, string, error) {
		if to == 0 && revision > 0 {
			to = revision - 1
		}
		spec, err := g.earlier(current, to)
		return spec, "to revision " + strconv.FormatUint(to, 10), err
	})
}

// undo goes back to what was before a change that waits for its confirmation. The change is forgotten only when that has
// been stored: whatever happens before, it is still to be undone.
func (g *Gateway) undo(ctx context.Context, p *pendingChange, a audit) (*api.ApplyResult, error) {
	result, err := g.edit(ctx, a, editOptions{undo: true}, func(current *vpc.Spec, _ uint64) (*vpc.Spec, string, error) {
		spec, err := g.earlier(current, p.Base)
		return spec, a.summary, err
	})
	if err != nil && !isNotInForce(err) {
		return nil, err
	}
	if ferr := g.confirm.forget(ctx, g); ferr != nil {
		return nil, ferr
	}
	return result, err
}

// earlier gives an old revision's state with the instances that have enrolled since: they are nobody's change.
func (g *Gateway) earlier(current *vpc.Spec, revision uint64) (*vpc.Spec, error) {
	old, err := g.store.Revision(revision)
	if err != nil {
		return nil, api.Errorf(api.CodeNotFound, "revision %d: %v", revision, err)
	}
	spec := keepEnrolled(old, current)
	if problems := vpc.Validate(spec, g.host()); len(problems) > 0 {
		return nil, refusedProblems(problems)
	}
	return spec, nil
}

// keepEnrolled adds current's enrolled instances to an earlier state, as far as there is a place for them: their vSwitch
// and groups exist, and nobody has their name, MACs, addresses and prefixes.
func keepEnrolled(old, current *vpc.Spec) *vpc.Spec {
	taken := map[netip.Addr]bool{}
	var prefixes []netip.Prefix
	macs := map[vpc.MAC]bool{}
	for _, v := range old.VPCs {
		for _, i := range v.Instances {
			for _, n := range i.Interfaces {
				macs[n.MAC] = true
				for a := range n.Addrs {
					taken[a] = true
				}
				prefixes = append(prefixes, n.IPv6Prefixes...)
			}
		}
	}
	overlaps := func(p netip.Prefix) bool {
		if slices.ContainsFunc(prefixes, p.Overlaps) || p.IsSingleIP() && taken[p.Addr()] {
			return true
		}
		if !p.IsSingleIP() {
			for a := range taken {
				if p.Contains(a) {
					return true
				}
			}
		}
		return false
	}
	fits := func(v *vpc.VPCSpec, i *vpc.InstanceSpec) bool {
		if slices.ContainsFunc(v.Instances, func(o *vpc.InstanceSpec) bool { return o.Name == i.Name }) {
			return false
		}
		for _, n := range i.Interfaces {
			if macs[n.MAC] || !slices.ContainsFunc(v.VSwitches, func(w *vpc.VSwitchSpec) bool { return w.Name == n.VSwitch }) {
				return false
			}
			for _, name := range n.SecurityGroups {
				if !slices.ContainsFunc(v.SecurityGroups, func(g *vpc.GroupSpec) bool { return g.Name == name }) {
					return false
				}
			}
			for p := range n.Ranges {
				if overlaps(p) {
					return false
				}
			}
		}
		return true
	}
	spec := *old
	spec.VPCs = slices.Clone(old.VPCs)
	for at, v := range spec.VPCs {
		was := slices.IndexFunc(current.VPCs, func(c *vpc.VPCSpec) bool { return c.ID == v.ID })
		if was < 0 {
			continue
		}
		var kept []*vpc.InstanceSpec
		for _, i := range current.VPCs[was].Instances {
			if i.Enrolled && fits(v, i) {
				kept = append(kept, i)
			}
		}
		if len(kept) > 0 {
			grown := *v
			grown.Instances = append(slices.Clone(v.Instances), kept...)
			slices.SortFunc(grown.Instances, func(a, b *vpc.InstanceSpec) int { return strings.Compare(a.Name, b.Name) })
			spec.VPCs[at] = &grown
		}
	}
	return &spec
}
