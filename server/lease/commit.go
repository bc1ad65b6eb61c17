package lease

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gatehouse/vpc"
)

// sweepInterval is how often leases of addresses that nobody has any more are looked for.
const sweepInterval = time.Minute

// Run writes queued leases until ctx ends, and now and then forgets the leases of interfaces that are gone. What is still
// queued at the end is refused with ctx's error.
func (e *Engine) Run(ctx context.Context) error {
	// Two writers take turns: while one calls back, which sends the batch's replies, the other's transaction is on its way.
	var writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-e.wake:
					e.flush(ctx)
				}
			}
		})
	}
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			e.sweep(ctx)
		}
	}
	writers.Wait()
	e.flush(ctx) // a cancelled context writes nothing: everybody is told
	return ctx.Err()
}

// While more than one lease comes in gatherTime, writes begin that far apart, unless there is enough for one already. A
// write costs the processor and the disk much the same however many leases are in it; a lone lease is written at once.
const (
	gatherTime = 4 * time.Millisecond
	enough     = 32
)

// flush writes everything that is queued in one transaction and calls back.
func (e *Engine) flush(ctx context.Context) {
	e.turn <- struct{}{}
	if e.busy {
		select {
		case <-e.many:
		case <-time.After(gatherTime - time.Since(e.began)):
		}
	}
	e.began = time.Now()
	e.mu.Lock()
	batch := e.queue
	e.queue = nil
	e.mu.Unlock()
	e.busy = len(batch) > 1
	if len(batch) == 0 {
		<-e.turn
		return
	}

	s := e.snapshot.Load()
	latest := make(map[netip.Addr]vpc.Lease, len(batch))
	for _, c := range batch {
		// The address may have become somebody else's since the decision; then there is no binding to write.
		if c.lease.State != vpc.LeaseBound || owns(s, c.lease) {
			latest[c.lease.Address] = c.lease
		}
	}
	leases := make([]vpc.Lease, 0, len(latest))
	for _, l := range latest {
		leases = append(leases, l)
	}
	// In the order of the store's keys, which touches the fewest pages.
	slices.SortFunc(leases, func(a, b vpc.Lease) int { return a.Address.Compare(b.Address) })
	var err error
	if len(leases) > 0 {
		if err = ctx.Err(); err == nil {
			err = e.cfg.Store.PutLeases(ctx, leases...)
			e.storeErr.Store(&err)
		}
	}
	if err == nil {
		e.commits.Add(1)
		e.written.Add(uint64(len(leases)))
	} else {
		e.failures.Add(1)
	}
	e.settle(batch, leases, err)
	<-e.turn

	now := e.snapshot.Load()
	for _, c := range batch {
		if c.done == nil {
			continue
		}
		l, written := latest[c.lease.Address]
		switch {
		case err != nil:
			c.done(err)
		case !written || l.State != vpc.LeaseBound || l.MAC != c.lease.MAC || l.Expires.Before(c.lease.Expires):
			c.done(ErrSuperseded) // what is durable is not what this client was going to be told
		case now != s && !owns(now, l):
			c.done(ErrSuperseded) // the address was taken from it while this was written
		default:
			c.done(nil)
		}
	}
}

// settle takes a written batch over into the table; it is the caller's turn.
func (e *Engine) settle(batch []change, leases []vpc.Lease, err error) {
	now := e.cfg.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range batch {
		if p, ok := e.pending[c.lease.Address]; ok && p.seq == c.seq {
			delete(e.pending, c.lease.Address)
		}
	}
	for _, l := range leases {
		// A quarantine holds even when it could not be written: better lost at a restart than now.
		if err != nil && l.State != vpc.LeaseDeclined {
			continue
		}
		e.note(l, now)
		e.table[l.Address] = &l
		delete(e.offers, l.Address)
	}
}

// note logs what a person wants to know of a lease that has been written; e.mu is held.
func (e *Engine) note(l vpc.Lease, now time.Time) {
	old, ok := e.stored(l.Address)
	switch renewed := ok && stateAt(old, now) == vpc.LeaseBound && old.MAC == l.MAC; {
	case l.State == vpc.LeaseDeclined: // whoever found it in use has said so
	case l.State == vpc.LeaseReleased:
		e.say(slog.LevelInfo, "lease released", l)
	case renewed:
		e.say(slog.LevelDebug, "lease renewed", l)
	default:
		e.say(slog.LevelInfo, "lease bound", l)
	}
	k := identityOf(l)
	if k == (identity{}) {
		return
	}
	if l.State != vpc.LeaseBound {
		delete(e.clients, k)
		return
	}
	if other, ok := e.clients[k]; ok && other != l.Address {
		if o, _ := e.stored(other); o.MAC != l.MAC && stateAt(o, now) == vpc.LeaseBound && e.notes.Allow("clone"+k.vswitch+k.id, now) {
			e.say(slog.LevelWarn, "two MACs use one client identifier: a machine cloned with its identity", l, slog.Any("other", o.MAC))
		}
	}
	e.clients[k] = l.Address
}

// say logs a line about a lease. It is on the path of every acknowledgement, so it costs nothing where nobody listens.
func (e *Engine) say(level slog.Level, what string, l vpc.Lease, more ...slog.Attr) {
	ctx := context.Background()
	if !e.log.Enabled(ctx, level) {
		return
	}
	e.log.LogAttrs(ctx, level, what, append([]slog.Attr{
		slog.Any("ip", l.Address), slog.Any("mac", l.MAC), slog.String("interface", l.Interface), slog.String("vswitch", l.VSwitch),
		slog.Time("expires", l.Expires),
	}, more...)...)
}

// sweep forgets leases whose address no longer belongs to their interface, once they have run out, and offers that
// nobody took.
func (e *Engine) sweep(ctx context.Context) {
	now, s := e.cfg.Now(), e.snapshot.Load()
	if s == nil {
		return
	}
	e.turn <- struct{}{} // nothing is written meanwhile, so nothing new can be forgotten
	defer func() { <-e.turn }()
	var gone []netip.Addr
	e.mu.Lock()
	for a, o := range e.offers {
		if !offered(o, now) {
			delete(e.offers, a)
		}
	}
	for a, until := range e.vacant {
		if !now.Before(until) {
			delete(e.vacant, a)
		}
	}
	for a, l := range e.table {
		if st := stateAt(*l, now); !owns(s, *l) && st != vpc.LeaseBound && st != vpc.LeaseDeclined {
			gone = append(gone, a)
		}
	}
	e.mu.Unlock()
	if len(gone) == 0 {
		return
	}
	slices.SortFunc(gone, netip.Addr.Compare)
	if err := e.cfg.Store.DeleteLeases(ctx, gone...); err != nil {
		e.storeErr.Store(&err)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range gone {
		if k := identityOf(*e.table[a]); e.clients[k] == a {
			delete(e.clients, k)
		}
		delete(e.table, a)
	}
}
