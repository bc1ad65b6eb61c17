package server

import (
	"context"
	"time"

	"gatehouse/vpc"
)

// expiryInterval is how often enrolled instances are looked at, and how long one may be without any lease: whoever made it
// asked for an address and never took it.
const expiryInterval = 10 * time.Minute

// runExpiry removes enrolled instances that have not been seen for enrollmentExpiry.
func (g *Gateway) runExpiry(ctx context.Context) error {
	leaseless := map[string]bool{} // IDs of enrolled instances that had no lease the last time
	tick := time.NewTicker(expiryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			leaseless = g.expire(ctx, leaseless)
		}
	}
}

// expired lists the enrolled instances whose last lease ended before the given time, and those that never had one and were
// leaseless before. It also gives those that have none now.
func expired(s *vpc.Snapshot, leases []vpc.Lease, before time.Time, leaseless map[string]bool) (gone []*vpc.Instance, without map[string]bool) {
	seen := map[string]time.Time{}
	for _, l := range leases {
		if l.Expires.After(seen[l.Interface]) { // of one that was released: when it was
			seen[l.Interface] = l.Expires
		}
	}
	without = map[string]bool{}
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
		switch {
		case last.IsZero() && !leaseless[i.ID]:
			without[i.ID] = true
		case last.IsZero() || last.Before(before):
			gone = append(gone, i)
		}
	}
	return gone, without
}

func (g *Gateway) expire(ctx context.Context, leaseless map[string]bool) map[string]bool {
	g.change.Lock()
	defer g.change.Unlock()
	current, revision := g.store.State()
	gone, without := expired(g.stored.Load(), g.leases.Leases(), g.now().Add(-time.Duration(g.config.Load().EnrollmentExpiry)), leaseless)
	if len(gone) == 0 {
		return without
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
		return without
	}
	if _, err := g.storeSpec(ctx, revision, candidate, changes, audit{"gatehouse", "expire", ""}); err != nil {
		g.log.Error("remove expired instances", "error", err)
		return without
	}
	g.reload()
	return without
}
