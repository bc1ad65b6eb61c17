package reconcile

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"gatehouse/firewall"
	"gatehouse/firewall/ipset"
)

// DriftError means that the kernel does not carry the ruleset that should be in force.
type DriftError struct{ What []string }

func (e *DriftError) Error() string { return "the kernel does not carry the ruleset: " + some(e.What) }

// some names the first few of what differs, and says how much more there is: a flushed table holds thousands of chains.
func some(what []string) string {
	const shown = 5
	if len(what) > shown {
		return fmt.Sprintf("%s and %d more", strings.Join(what[:shown], ", "), len(what)-shown)
	}
	return strings.Join(what, ", ")
}

// ErrNothing means that nothing is in force yet, or not any more.
var ErrNothing = errors.New("no revision is in force")

// Verify reads everything back and returns what is missing, changed or too much; it repairs nothing.
func (l *Loop) Verify(ctx context.Context) (differing []string, err error) {
	err = l.do(ctx, func(ctx context.Context) (err error) {
		differing, err = l.inspect(ctx)
		return err
	})
	return differing, err
}

// InForce returns nil when the kernel carries exactly the ruleset that Current returns, at this moment. It reads the sets back,
// and the rules only if somebody may have changed some since they were last known.
func (l *Loop) InForce(ctx context.Context) error {
	var differing []string
	err := l.do(ctx, func(ctx context.Context) (err error) {
		if l.force.Load() != nil && l.writer.carries != nil && l.writer.certain(ctx) {
			sets, err := l.opt.IPSet.Read(ctx)
			if err != nil {
				return err
			}
			for _, name := range ipset.Diff(sets, l.writer.carries.Sets) {
				differing = append(differing, "set "+name)
			}
			return nil
		}
		differing, err = l.inspect(ctx)
		return err
	})
	if err == nil && len(differing) > 0 {
		err = &DriftError{differing}
	}
	return err
}

// Resync reads everything back and repairs it, however often it was asked for.
func (l *Loop) Resync(ctx context.Context) error {
	return l.do(ctx, func(ctx context.Context) error {
		l.repairs.tokens = l.repairs.size
		differing, err := l.verify(ctx)
		if err != nil || len(differing) == 0 {
			return err
		}
		return l.repair(ctx, differing)
	})
}

// Teardown removes everything of ours from the kernel. The loop does nothing more until the next Apply.
func (l *Loop) Teardown(ctx context.Context) error {
	return l.do(ctx, func(ctx context.Context) error {
		l.force.Store(nil)
		l.writer.forget()
		l.judged, l.failing, l.known, l.refuseFrom = nil, nil, false, time.Time{}
		l.mu.Lock()
		l.wanted = nil
		l.status.Wanted, l.status.InForce = 0, 0
		l.status.refused, l.status.drift = nil, nil
		l.mu.Unlock()
		return Remove(ctx, l.opt.IPTables, l.opt.IPSet)
	})
}

// Remove removes everything of ours from the kernel, rules before sets. It needs no Loop, but no Loop may be running.
func Remove(ctx context.Context, rules IPTables, sets IPSet) error {
	if err := rules.Teardown(ctx); err != nil {
		return err
	}
	have, err := sets.Read(ctx)
	if err != nil {
		return err
	}
	inUse, err := sets.Delete(ctx, ipset.Stale(have, nil))
	if err == nil && len(inUse) > 0 {
		err = fmt.Errorf("sets %s: %w", strings.Join(inUse, ", "), ipset.ErrInUse)
	}
	return err
}

// Close closes links, if the kernel carries nothing of ours yet, and reports whether it did: after a boot nothing passes by
// them until a Loop puts a snapshot in force. It needs no Loop, but no Loop may be running.
func Close(ctx context.Context, rules IPTables, sets IPSet, links ...string) (bool, error) {
	w := &writer{iptables: rules, ipset: sets}
	k, err := w.read(ctx)
	if err != nil {
		return false, err
	}
	if !k.empty() || len(links) == 0 {
		return false, nil
	}
	return true, w.write(ctx, firewall.Base(firewall.Features{}, links...), nil)
}

// inspect is verify for somebody who repairs nothing: what he finds is repaired when it would have been without him, however
// often he asks.
func (l *Loop) inspect(ctx context.Context) ([]string, error) {
	planned := l.verifyAt
	differing, err := l.verify(ctx)
	if len(differing) > 0 {
		l.verifyBy(planned)
	}
	return differing, err
}

// verify reads everything and compares it with what is in force.
func (l *Loop) verify(ctx context.Context) ([]string, error) {
	f := l.force.Load()
	if f == nil {
		return nil, ErrNothing
	}
	start := l.now()
	l.heard = time.Time{}
	l.writer.forget()
	before := l.writer.now(ctx)
	k, err := l.writer.read(ctx)
	if err != nil {
		return nil, err
	}
	differing := differences(k, f.Ruleset)
	if len(differing) == 0 {
		l.writer.found(f.Ruleset)
	} else {
		l.judged = nil // flows that came into being meanwhile were judged by nobody
	}
	l.writer.settleAt(before)
	if len(differing) == 0 && l.judged == f.Snapshot {
		l.stands()
	}
	now := l.now()
	l.looked.add(now, now.Sub(start))
	l.verifyAt = now.Add(max(l.opt.VerifyInterval, l.share*now.Sub(start)))
	l.count(func(s *Status) {
		s.Verifies++
		s.LastVerify, s.LastVerifyTook = now, now.Sub(start)
		if len(differing) > 0 {
			s.Drifts++
			s.LastDrift, s.LastDriftIn = now, differing
		} else {
			s.drift = nil
		}
	})
	return differing, nil
}

// verifySoon plans the next verification after a write.
func (l *Loop) verifySoon() {
	if l.verifyAt.IsZero() {
		l.verifyAt = l.now().Add(l.opt.VerifyInterval)
	}
}

// verifyAndRepair is what happens at intervals.
func (l *Loop) verifyAndRepair(ctx context.Context) {
	heard := l.heard
	differing, err := l.verify(ctx)
	if err != nil {
		l.verifyAt = l.now().Add(l.opt.VerifyInterval)
		if ctx.Err() == nil {
			l.log.Error("the firewall cannot be verified", "err", err)
			l.count(func(s *Status) { s.drift = problemOf(CodeUnread, err) })
		}
		return
	}
	if len(differing) == 0 {
		return
	}
	if now := l.now(); !heard.IsZero() && now.Before(heard.Add(hearMost)) && !l.writer.unchanged(ctx) {
		// He is not done, and soon is or has taken too long.
		l.heard, l.planned = heard, l.verifyAt
		l.verifyBy(now.Add(hearPause))
		return
	}
	l.log.Warn("the firewall was changed by another program", "differing", some(differing))
	if !l.repairs.take(l.now()) {
		l.log.Error("the firewall is changed again and again; the next repair waits", "wait", repairInterval)
		l.count(func(s *Status) {
			s.drift = problemOf(CodeContested, &ChangedError{"what is in force"})
		})
		return
	}
	if err := l.repair(ctx, differing); err != nil && ctx.Err() == nil {
		l.log.Error("the firewall is not repaired", "err", err)
	}
	if l.opt.Changes != nil {
		// Who has changed something may not be done yet, and what he did while we wrote looks like our own.
		now := l.now()
		l.verifyBy(now.Add(max(hearPause, l.looked.pause(now))))
	}
}

// repair writes what is in force again.
func (l *Loop) repair(ctx context.Context, differing []string) error {
	f := l.force.Load()
	err := l.writeOnce(ctx, f.Ruleset, f)
	if err == nil {
		err = l.writer.clean(ctx)
	}
	l.writer.settle(ctx)
	if err == nil {
		var cut int
		cut, err = revoke(ctx, l.opt.Conntrack, affectedBy(l.judged, f.Snapshot), f)
		l.count(func(s *Status) { s.FlowsCut += uint64(cut) })
	}
	if err == nil {
		l.judged = f.Snapshot
		l.stands()
	}
	l.count(func(s *Status) {
		s.drift = nil
		if err != nil {
			s.drift = problemOf(CodeDrift, errors.Join(&DriftError{differing}, err))
			return
		}
		s.Repairs++
	})
	return err
}

// effort is the time that something has taken of late: it is forgotten hearShare times more slowly than it passes.
type effort struct {
	sum time.Duration
	at  time.Time // when it was sum
}

// add counts what has just been done.
func (e *effort) add(now time.Time, took time.Duration) {
	e.sum, e.at = e.left(now.Add(-took))+took, now
}

func (e *effort) left(now time.Time) time.Duration {
	return max(0, e.sum-now.Sub(e.at)/hearShare)
}

// pause returns how long to wait until it may be done again.
func (e *effort) pause(now time.Time) time.Duration {
	return max(0, e.left(now)-hearBurst) * hearShare
}

// bucket limits how often something happens: size times at once, then once every so often.
type bucket struct {
	size, tokens int
	every        time.Duration
	filled       time.Time
}

func (b *bucket) take(now time.Time) bool {
	if b.filled.IsZero() || b.tokens == b.size {
		b.filled = now
	}
	if n := int(now.Sub(b.filled) / b.every); n > 0 {
		b.tokens = min(b.size, b.tokens+n)
		b.filled = b.filled.Add(time.Duration(n) * b.every)
	}
	if b.tokens == 0 {
		return false
	}
	b.tokens--
	return true
}
