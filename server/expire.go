package server

import (
	"context"
	"time"

	"gatehouse/vpc"
)

// expiryInterval is how often enrolled instances are looked at.
const expiryInterval = time.Hour

// runExpiry removes enrolled instances that have not been seen for enrollmentExpiry.
func (g *Gateway) runExpiry(ctx context.Context) error {
	tick := time.NewTicker(expiryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			g.expire(ctx)
		}
	}
}

// expired lists the enrolled instances whose last lease ended before the given time. One that has no lease at all is
// younger than its first answer, and stays.
func expired(s *vpc.Snapshot, leases []vpc.Lease, before time.Time) []*vpc.Instance {
	seen := map[string]time.Time{}
	for _, l := range leases {
		at := l.Start
		if l.Expires.After(at) && l.State == vpc.LeaseBound {
			at = l.Expires
		}
		if at.After(seen[l.Interface]) {
			seen[l.Interface] = at
		}
	}
	var out []*vpc.Instance
	for _, i := range s.Instances {
		if !i.Enrolled {
			continue
		}
		last := time.Time{}
		for _, n := range i.Interfaces {
			if at := seen[n.ID]; at.After(last) {
				last = at
			}
		}
		if !last.IsZero() && last.Before(before) {
			out = append(out, i)
		}
	}
	return out
}

func (g *Gateway) expire(ctx context.Context) {
	g.change.Lock()
	defer g.change.Unlock()
	current, revision := g.store.State()
	gone := expired(g.stored.Load(), g.leases.Leases(), g.now().Add(-time.Duration(g.config.Load().EnrollmentExpiry)))
	if len(gone) == 0 {
		return
	}
	candidate := current
	for _, i := range gone {
		next, problems := vpc.Delete(candidate, g.host(), vpc.KindInstance, i.VPC.Name, i.Name)
		if len(problems) > 0 {
			g.log.Warn("an expired instance stays: it is still used", "instance", i.Name, "problem", problems.Error())
			continue
		}
		candidate = next
	}
	changes := vpc.Diff(current, candidate)
	if len(changes) == 0 {
		return
	}
	if _, err := g.storeSpec(ctx, revision, candidate, changes, audit{"gatehouse", "expire", ""}); err != nil {
		g.log.Error("remove expired instances", "error", err)
		return
	}
	g.reload()
}
