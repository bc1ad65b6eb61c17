package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/firewall"
	"gatehouse/firewall/conntrack"
	"gatehouse/firewall/iptables"
	"gatehouse/vpc"
)

// IPTables is what the loop needs of the driver of rules; see package iptables.
type IPTables interface {
	Read(ctx context.Context, f vpc.Family, tables ...string) (iptables.State, error)
	ReadChains(ctx context.Context, f vpc.Family, table string, chains []string) (map[string][]string, error)
	Restore(ctx context.Context, f vpc.Family, text string) error
	Hook(ctx context.Context, f vpc.Family, table string, want []firewall.Hook, have []iptables.Hook) error
	Unhook(ctx context.Context, f vpc.Family, table string, hooks []iptables.Hook) error
	DeleteChains(ctx context.Context, f vpc.Family, table string, chains []string) error
	Counters(ctx context.Context, f vpc.Family) ([]iptables.Counter, error)
	Generation(ctx context.Context) (n uint32, exact bool, err error)
	Teardown(ctx context.Context) error
}

// IPSet is what the loop needs of the driver of sets; see package ipset.
type IPSet interface {
	Read(ctx context.Context) (map[string]firewall.Set, error)
	Write(ctx context.Context, have map[string]firewall.Set, want []firewall.Set) (map[string]firewall.Set, error)
	Delete(ctx context.Context, names []string) (inUse []string, err error)
}

// Conntrack is what the loop needs of the driver of flows; see package conntrack.
type Conntrack interface {
	List(ctx context.Context, f vpc.Family, want func(netip.Addr) bool) ([]conntrack.Flow, error)
	Delete(ctx context.Context, flows []conntrack.Flow) (int, error)
}

// The loop's pace. Only what an operator may want to change is an option.
const (
	// midStreamGrace is how long TCP connections that are older than our chains may become known to connection tracking.
	midStreamGrace = 120 * time.Second

	firstRetry   = time.Second // after a failure; doubles
	slowestRetry = time.Minute

	// verifyShare is how many times longer than a verification the pause after it is at least: 2 % of one CPU.
	verifyShare = 50

	// hearPause is how long others must have changed nothing before their changes are looked at, and hearMost how long they are
	// waited for at most. A program that loads its rules anew runs iptables several times in a row, and with iptables
	// 1.8.9 the one that flushes fails when anybody else writes at the same moment.
	hearPause = 40 * time.Millisecond
	hearMost  = 200 * time.Millisecond
	// hearShare is how many times longer than verifications what lies between them is, where changes of others ask for them: 10 %
	// of one CPU.
	hearShare = 10
	// hearBurst is how long verifications may take before there is any such pause. A program that loads its rules anew changes
	// some of them many times, and any of these changes may be the one that removes ours.
	hearBurst = 3 * time.Second

	repairBurst    = 10          // repairs in a row
	repairInterval = time.Minute // then one in this time: without one, what others have removed is not refused

	undoTimeout = time.Minute // for going back after a failure, also while the daemon stops
)

// ErrStopped means that the loop has ended before the revision was in force.
var ErrStopped = errors.New("the firewall loop has stopped")

// Options are what a Loop works with.
type Options struct {
	IPTables  IPTables
	IPSet     IPSet
	Conntrack Conntrack

	Features       firewall.Features // as probed; RefuseMidStream is the loop's to decide
	VerifyInterval time.Duration     // 30s when zero
	Changes        <-chan struct{}   // somebody, perhaps the Loop, has changed rules; nil: nobody tells
	Now            func() time.Time  // time.Now when nil
	Logger         *slog.Logger      // discards when nil

	// OnStanding, if not nil, is called whenever the kernel is known to carry all of a snapshot's rules and the flows that
	// they end are cut, with the generation that the kernel's rules have: as long as that is so, nobody has changed them. It
	// is not called where a change may leave the generation as it was. It must not call the Loop.
	OnStanding func(s *vpc.Snapshot, generation uint32)
}

// Loop keeps the kernel's firewall equal to the newest snapshot. All its methods may be called from any goroutine; those that
// take a context need Run to be running and return ErrStopped when it ends.
type Loop struct {
	opt     Options
	log     *slog.Logger
	now     func() time.Time
	wake    chan struct{}
	jobs    chan job
	stopped chan struct{}
	share   time.Duration // verifyShare, but in tests
	force   atomic.Pointer[Force]

	mu      sync.Mutex
	wanted  *vpc.Snapshot
	waiters []chan error
	status  Status

	// What follows belongs to the goroutine of Run.
	compiler   *firewall.Compiler
	writer     writer
	judged     *vpc.Snapshot // flows have been judged by this one; nil: by none
	fresh      bool          // the kernel had no chains of ours when we came, or closed ones
	known      bool          // whether fresh is known
	refuseFrom time.Time     // when RefuseMidStream begins; zero until rules are in force
	failing    *failure
	verifyAt   time.Time
	planned    time.Time // when it would be if nobody had changed anything
	heard      time.Time // since when others change something that was not looked at; zero: they do not
	looked     effort    // what verifications have taken
	repairs    bucket
}

// Force is what is in force: one revision, what it compiled to, and how to ask it about packets.
type Force struct {
	Snapshot *vpc.Snapshot
	Ruleset  *firewall.Ruleset
	Tracer   *firewall.Tracer
	refused  bool // compiled with RefuseMidStream
}

// Trace walks a packet through the ruleset in force, on the way that the snapshot's routes take.
func (f *Force) Trace(p vpc.Packet) vpc.Verdict {
	return f.Tracer.Trace(p, firewall.PathOf(f.Snapshot, p))
}

// failure is an attempt that failed and will be repeated.
type failure struct {
	err   error
	pause time.Duration
	at    time.Time // of the next attempt
}

type job struct {
	do   func(context.Context) error
	done chan error
}

// New returns a loop that has not touched anything yet.
func New(opt Options) *Loop {
	if opt.VerifyInterval == 0 {
		opt.VerifyInterval = 30 * time.Second
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	return &Loop{
		opt: opt, log: opt.Logger, now: opt.Now,
		wake: make(chan struct{}, 1), jobs: make(chan job), stopped: make(chan struct{}), share: verifyShare,
		compiler: firewall.NewCompiler(opt.Features),
		writer:   writer{iptables: opt.IPTables, ipset: opt.IPSet},
		repairs:  bucket{size: repairBurst, every: repairInterval, tokens: repairBurst},
	}
}

// Apply asks for a snapshot and returns when it, or a newer one, is in force and the flows that it does not allow are cut.
// An error is the kernel's refusal: then the rules of the last good revision are in force, and the loop goes on trying.
// When ctx ends first, the loop goes on all the same.
func (l *Loop) Apply(ctx context.Context, s *vpc.Snapshot) error {
	done := make(chan error, 1)
	l.mu.Lock()
	if l.wanted == nil || s.Revision >= l.wanted.Revision {
		l.wanted = s
		l.status.Wanted = s.Revision
	}
	l.waiters = append(l.waiters, done)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default: // asked already
	}
	return l.wait(ctx, done)
}

func (l *Loop) wait(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-l.stopped:
		select {
		case err := <-done:
			return err
		default:
			return ErrStopped
		}
	}
}

// Run applies what is asked for until ctx ends. It must be called once. What is in the kernel stays there.
func (l *Loop) Run(ctx context.Context) error {
	defer close(l.stopped)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(l.next().Sub(l.now()))
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
			l.attempt(ctx)
		case j := <-l.jobs:
			j.done <- j.do(ctx)
		case <-l.opt.Changes:
			l.hear(ctx)
		case <-timer.C:
			l.tick(ctx)
		}
	}
}

// next returns when there is something to do that nobody asks for.
func (l *Loop) next() time.Time {
	at := l.now().Add(time.Hour)
	consider := func(t time.Time) {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	if l.failing != nil {
		consider(l.failing.at)
	}
	if f := l.force.Load(); f != nil {
		consider(l.verifyAt)
		if l.failing == nil && !f.refused {
			consider(l.refuseFrom)
		}
	}
	return at
}

// tick does what is due.
func (l *Loop) tick(ctx context.Context) {
	now := l.now()
	due := func(t time.Time) bool { return !t.IsZero() && !t.After(now) }
	f := l.force.Load()
	switch {
	case l.failing != nil && due(l.failing.at):
		l.attempt(ctx)
	case f != nil && l.failing == nil && due(l.refuseFrom) && !f.refused:
		l.attempt(ctx)
	case f != nil && due(l.verifyAt):
		l.verifyAndRepair(ctx)
	}
}

// hear brings the next verification forward when somebody else has changed rules, to when he is done.
func (l *Loop) hear(ctx context.Context) {
	if l.force.Load() == nil || l.writer.carries != nil && l.writer.certain(ctx) {
		return
	}
	now := l.now()
	if l.heard.IsZero() {
		l.heard, l.planned = now, l.verifyAt
	}
	l.verifyAt = l.planned
	l.verifyBy(now.Add(max(min(hearPause, l.heard.Add(hearMost).Sub(now)), l.looked.pause(now))))
}

// verifyBy brings the next verification forward.
func (l *Loop) verifyBy(at time.Time) {
	if at.Before(l.verifyAt) {
		l.verifyAt = at
	}
}

// attempt puts the newest snapshot in force and tells all who wait for it.
func (l *Loop) attempt(ctx context.Context) {
	l.mu.Lock()
	s, waiters := l.wanted, l.waiters
	l.waiters = nil
	l.mu.Unlock()
	if s == nil {
		return
	}
	start := l.now()
	err := l.put(ctx, s)
	if err != nil && ctx.Err() != nil {
		err = ErrStopped
	}
	l.finished(s, start, err, len(waiters) > 0)
	for _, w := range waiters {
		w <- err
	}
}

// finished keeps account of an attempt.
func (l *Loop) finished(s *vpc.Snapshot, start time.Time, err error, told bool) {
	now := l.now()
	if err == nil {
		if l.failing != nil {
			l.log.Info("firewall is in force again", "revision", s.Revision)
		}
		l.failing = nil
	} else {
		pause := firstRetry
		if l.failing != nil {
			pause = min(2*l.failing.pause, slowestRetry)
		}
		if !told { // else those who asked report it
			l.log.Error("revision is not in force", "revision", s.Revision, "retry", pause, "err", err)
		}
		l.failing = &failure{err, pause, now.Add(pause)}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Applies++
	l.status.LastApply, l.status.LastApplyTook = now, now.Sub(start)
	if err != nil {
		l.status.Failures++
		l.status.refused = problemOf(CodeRefused, fmt.Errorf("revision %d is not in force: %w", s.Revision, err))
	} else {
		l.status.refused = nil
	}
}

// put makes one snapshot's ruleset the kernel's, or leaves the one that was in force.
func (l *Loop) put(ctx context.Context, s *vpc.Snapshot) error {
	if !l.known {
		k, err := l.writer.read(ctx)
		if err != nil {
			return err
		}
		l.known, l.fresh = true, k.bare()
	}
	if l.writer.carries != nil && !l.writer.unchanged(ctx) {
		// To answer "in force" over what somebody has removed would be a lie.
		differing, err := l.verify(ctx)
		if err != nil {
			return err
		}
		if len(differing) > 0 {
			l.log.Warn("the firewall was changed by another program; it is put right with this revision", "differing", some(differing))
		}
	}
	features := l.opt.Features
	features.RefuseMidStream = !l.fresh || !l.refuseFrom.IsZero() && !l.now().Before(l.refuseFrom)
	l.compiler.SetFeatures(features)
	rs, err := l.compiler.Compile(s)
	if err != nil {
		return fmt.Errorf("compile: %w", err)
	}

	before := l.force.Load()
	if err := l.writeOnce(ctx, rs, before); err != nil {
		return l.undo(ctx, before, rs, err)
	}
	if l.refuseFrom.IsZero() && l.fresh {
		l.refuseFrom = l.now().Add(midStreamGrace)
	}
	f := &Force{Snapshot: s, Ruleset: rs, Tracer: firewall.NewTracer(rs), refused: features.RefuseMidStream}
	l.force.Store(f)
	l.count(func(st *Status) { st.InForce, st.drift = s.Revision, nil })
	l.verifySoon()

	if err := l.writer.clean(ctx); err != nil {
		l.log.Warn("leftovers stay until the next verification", "err", err)
	}
	l.writer.settle(ctx)
	cut, err := revoke(ctx, l.opt.Conntrack, affectedBy(l.judged, s), f)
	l.count(func(st *Status) { st.FlowsCut += uint64(cut) })
	if err != nil {
		return fmt.Errorf("its rules are in force, but not all flows that it ends are cut: %w", err)
	}
	l.judged = s
	l.stands()
	return nil
}

// stands tells OnStanding that what is in force stands in the kernel.
func (l *Loop) stands() {
	if l.opt.OnStanding != nil && l.writer.settled.counted && l.writer.settled.exact {
		l.opt.OnStanding(l.force.Load().Snapshot, l.writer.settled.generation)
	}
}

// writeOnce writes a ruleset, by way of what leads there without a gap, and a second time when another program came
// between.
func (l *Loop) writeOnce(ctx context.Context, rs *firewall.Ruleset, before *Force) error {
	var was *firewall.Ruleset
	if before != nil {
		was = before.Ruleset
		if mid := firewall.Between(was, rs); mid != nil {
			if err := l.writer.write(ctx, mid, was); err != nil {
				return err
			}
			was = mid
		}
	}
	err := l.writer.write(ctx, rs, was)
	var changed *ChangedError
	if errors.As(err, &changed) {
		return l.writer.write(ctx, rs, was)
	}
	return err
}

// undo goes back to what was in force after a failure.
func (l *Loop) undo(ctx context.Context, before *Force, failed *firewall.Ruleset, cause error) error {
	if before == nil {
		return cause // nothing to go back to: what is written so far only refuses more
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err := l.writer.write(ctx, before.Ruleset, failed)
	if err == nil {
		err = l.writer.clean(ctx)
	}
	l.writer.settle(ctx)
	l.judged = nil // the next success judges also what came into being under the half that was written
	if err != nil {
		return errors.Join(cause, fmt.Errorf("go back to revision %d: %w", before.Snapshot.Revision, err))
	}
	return cause
}

// do runs something on the goroutine of Run and waits for it.
func (l *Loop) do(ctx context.Context, f func(context.Context) error) error {
	j := job{do: f, done: make(chan error, 1)}
	select {
	case l.jobs <- j:
		return l.wait(ctx, j.done)
	case <-ctx.Done():
		return ctx.Err()
	case <-l.stopped:
		return ErrStopped
	}
}

// Ping returns when the loop has time for it: nil, or why it has not.
func (l *Loop) Ping(ctx context.Context) error {
	return l.do(ctx, func(context.Context) error { return nil })
}

// Current returns what is in force, nil before the first revision and after Teardown.
func (l *Loop) Current() *Force { return l.force.Load() }
