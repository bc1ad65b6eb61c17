package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"gatehouse/server/link"
	"gatehouse/vpc"
)

// step is one part of the world that is made to match a snapshot. Its apply must be idempotent and leave what was in
// force standing when it fails.
type step struct {
	name  string
	apply func(context.Context, *vpc.Snapshot) error
}

// retryAfter are the pauses between attempts to put a refused revision in force; the last one repeats.
var retryAfter = [...]time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second}

// largeChange is how long a change takes of which much memory is left over.
const largeChange = time.Second

// force puts snapshots in force, one at a time and the newest first: what was asked for while one was being applied is
// coalesced. A revision that a step refuses stays the goal and is tried again; the steps behind the refusing one are not
// taken, so nothing is served that the rules do not cover. Links that are refused to some vSwitches do not keep the others from
// being served.
type force struct {
	log    *slog.Logger
	goal   func() *vpc.Snapshot // the newest stored snapshot
	steps  []step
	wake   chan struct{} // one slot: "asked already" is enough
	onDone func(*vpc.Snapshot)
	pings  chan struct{} // somebody asks whether Run still runs

	applying sync.Mutex // held during an attempt

	mu        sync.Mutex
	halted    error  // why nothing is put in force any more
	applied   uint64 // newest revision in force; 0: none
	attempted uint64 // newest revision that was tried
	err       error  // why attempted is not in force
	changed   chan struct{}
}

func newForce(log *slog.Logger, goal func() *vpc.Snapshot, onDone func(*vpc.Snapshot), steps ...step) *force {
	return &force{log: log, goal: goal, steps: steps, onDone: onDone, wake: make(chan struct{}, 1), pings: make(chan struct{}), changed: make(chan struct{})}
}

// Wake asks for the newest snapshot to be put in force; it never blocks.
func (f *force) Wake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Run applies until ctx ends.
func (f *force) Run(ctx context.Context) error {
	failures := 0
	retry := time.NewTimer(0) // the first attempt is at once
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case f.pings <- struct{}{}:
			continue
		case <-f.wake:
		case <-retry.C:
		}
		s, start := f.goal(), time.Now()
		err := f.attempt(ctx, s)
		if ctx.Err() != nil {
			return nil
		}
		if f.isHalted() != nil {
			continue
		}
		f.finish(s.Revision, err)
		if time.Since(start) > largeChange {
			go debug.FreeOSMemory() // what it has taken meanwhile is not needed until the next one
		}
		if err == nil {
			failures = 0
			retry.Stop()
			continue
		}
		if !isPartial(err) { // the links have said it
			f.log.Error("put in force", "revision", s.Revision, "error", err)
		}
		retry.Reset(retryAfter[min(failures, len(retryAfter)-1)])
		failures++
	}
}

// Ping returns when Run has time for it: nil, or why ctx ended first.
func (f *force) Ping(ctx context.Context) error {
	select {
	case <-f.pings:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *force) attempt(ctx context.Context, s *vpc.Snapshot) error {
	f.applying.Lock()
	defer f.applying.Unlock()
	if err := f.isHalted(); err != nil {
		return err
	}
	for _, st := range f.steps {
		if err := st.apply(ctx, s); err != nil {
			err = fmt.Errorf("%s: %w", st.name, err)
			// What a host has come to refuse is a problem of health; who changes something else is told that it is in force.
			if partial, ok := errors.AsType[*link.PartialError](err); ok {
				f.onDone(without(s, partial.Refused))
			}
			return err
		}
	}
	f.onDone(s)
	return nil
}

// finish records an attempt and wakes whoever waits.
func (f *force) finish(revision uint64, err error) {
	f.mu.Lock()
	f.attempted, f.err = revision, err
	if err == nil || isPartial(err) {
		f.applied = revision
	}
	close(f.changed)
	f.changed = make(chan struct{})
	f.mu.Unlock()
}

// Halt waits for the attempt that is under way and lets no other follow: nothing is in force any more, and whoever waits
// is told why.
func (f *force) Halt(why error) {
	f.applying.Lock()
	defer f.applying.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.halted, f.err, f.applied = why, why, 0
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *force) isHalted() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.halted
}

// notInForce is the answer for a revision that is stored but that a step refused, or that took too long.
type notInForce struct {
	revision uint64
	err      error
}

func (e *notInForce) Error() string {
	return fmt.Sprintf("revision %d is stored but not in force: %v", e.revision, e.err)
}

func (e *notInForce) Unwrap() error { return e.err }

// Wait returns when the revision, or a newer one, is in force; with a *notInForce when it was refused or ctx ended first.
func (f *force) Wait(ctx context.Context, revision uint64) error {
	for {
		f.mu.Lock()
		applied, attempted, err, changed, halted := f.applied, f.attempted, f.err, f.changed, f.halted
		f.mu.Unlock()
		if halted != nil {
			return &notInForce{revision, halted}
		}
		if applied >= revision {
			return nil
		}
		if attempted >= revision && err != nil {
			return &notInForce{revision, err}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			why := ctx.Err()
			if errors.Is(why, context.DeadlineExceeded) {
				why = errors.New("it takes longer than the timeout; it is still being applied: see 'gatehouse status'")
			}
			return &notInForce{revision, why}
		}
	}
}

func isPartial(err error) bool {
	_, ok := errors.AsType[*link.PartialError](err)
	return ok
}

// State gives the newest revision in force, and why the newest attempt failed, or is in force but for some vSwitches.
func (f *force) State() (applied uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied, f.err
}

// without returns the snapshot for those who serve links, with nothing for them to serve where a vSwitch was refused its link. Such
// a vSwitch is one whose guests are behind a relay that nobody is.
func without(s *vpc.Snapshot, refused []*link.RefusedError) *vpc.Snapshot {
	spec := *s.Spec
	spec.VPCs = slices.Clone(spec.VPCs)
	for i, v := range spec.VPCs {
		for _, r := range refused {
			k := slices.IndexFunc(v.VSwitches, func(w *vpc.VSwitchSpec) bool { return r.VPC == v.Name && r.VSwitch == w.Name })
			if k < 0 {
				continue
			}
			closed, other := *spec.VPCs[i], *v.VSwitches[k]
			other.Attach = vpc.AttachSpec{Relay: []netip.Addr{netip.IPv6Unspecified()}}
			closed.VSwitches = slices.Clone(closed.VSwitches)
			closed.VSwitches[k] = &other
			spec.VPCs[i] = &closed
		}
	}
	return vpc.NewSnapshot(&spec, s.Host, s.Revision)
}
