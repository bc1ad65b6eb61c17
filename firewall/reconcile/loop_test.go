package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse/firewall"
	"gatehouse/firewall/conntrack"
	"gatehouse/vpc"
)

// running starts a loop on a kernel inside a bubble of fake time; it ends with the test.
func running(t *testing.T, k *fakeKernel) *Loop {
	t.Helper()
	return runningWith(t, k.drivers())
}

func runningWith(t *testing.T, opt Options) *Loop {
	t.Helper()
	l := New(opt)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return l
}

// pass lets fake time go by and the loop do what is due.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func apply(t *testing.T, l *Loop, w world) {
	t.Helper()
	if err := l.Apply(t.Context(), w.snapshot()); err != nil {
		t.Fatalf("apply revision %d: %v", w.revision, err)
	}
}

// compiled is what the kernel shall carry for a world.
func compiled(t *testing.T, k *fakeKernel, w world, refuseMidStream bool) *firewall.Ruleset {
	t.Helper()
	f := k.drivers().Features
	f.RefuseMidStream = refuseMidStream
	rs, err := firewall.Compile(w.snapshot(), f)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// checkCarries fails the test unless the kernel carries exactly the world's ruleset.
func checkCarries(t *testing.T, k *fakeKernel, w world, refuseMidStream bool) {
	t.Helper()
	if d := differences(k.state(), compiled(t, k, w, refuseMidStream)); len(d) > 0 {
		t.Errorf("kernel differs from revision %d: %s", w.revision, strings.Join(d, ", "))
	}
}

// before and after are two revisions that differ in rules, sets, chains and addresses.
func beforeAndAfter() (before, after world) {
	before = newWorld()
	before.instances["gone"] = 9
	before.instances["ops"] = 7 // the only one of its profile
	after = newWorld()
	after.revision = 2
	after.ports = []string{"443"}
	after.instances["new"] = 3
	after.switches = []string{"db"}
	return before, after
}

func TestApplyPutsRevisionsInForceInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		before, after := beforeAndAfter()
		apply(t, l, before)
		checkCarries(t, k, before, false)
		k.takeOps()
		apply(t, l, after)
		checkCarries(t, k, after, false)
		ops := k.takeOps()
		at := func(op string) int {
			i := slices.Index(ops, op)
			if i < 0 {
				t.Fatalf("no %q among %q", op, ops)
			}
			return i
		}
		for _, f := range vpc.Families() {
			order := []string{"write sets", fmt.Sprintf("restore %s raw", f), fmt.Sprintf("restore %s mangle", f), fmt.Sprintf("restore %s filter", f),
				fmt.Sprintf("read back %s mangle", f), fmt.Sprintf("delete chains %s mangle", f), "delete sets", fmt.Sprintf("list flows %s", f)}
			for i := 1; i < len(order); i++ {
				if at(order[i-1]) > at(order[i]) {
					t.Errorf("%q comes before %q", order[i], order[i-1])
				}
			}
		}
		if slices.Contains(ops, "read ipv4") || slices.Contains(ops, "read sets") {
			t.Errorf("a small change reads everything: %q", ops)
		}
		s := l.Status()
		if !s.Healthy() || s.InForce != 2 || s.Wanted != 2 || s.Applies != 2 {
			t.Errorf("status %+v", s)
		}
		if f := l.Current(); f.Snapshot.Revision != 2 || f.Ruleset.Revision != 2 {
			t.Errorf("in force: %d, %d", f.Snapshot.Revision, f.Ruleset.Revision)
		}
	})
}

func TestAnUnchangedRevisionWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		w := newWorld()
		apply(t, l, w)
		k.takeOps()
		w.revision = 2
		apply(t, l, w)
		if ops := k.takeOps(); len(ops) > 0 {
			t.Errorf("did %q", ops)
		}
	})
}

func TestASmallChangeWritesOnlyTheRulesConcerned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		w := newWorld()
		w.instances["ops"] = 7
		apply(t, l, w)
		k.takeOps()
		w.revision, w.ports = 2, []string{"443"}
		apply(t, l, w)
		k.mu.Lock()
		writes := slices.Clone(k.writes)
		k.mu.Unlock()
		if len(writes) != 2 {
			t.Fatalf("%d transactions, want one for each family:\n%s", len(writes), strings.Join(writes, "\n"))
		}
		for _, text := range writes {
			if _, edits, _ := strings.Cut(text, "\n"); !strings.HasPrefix(edits, "-D GH-I-") || strings.Count(edits, "\n") != 2 {
				t.Errorf("wrote more than that one rule is gone:\n%s", text)
			}
		}
	})
}

func TestAMembershipChangeWritesNoRule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		opt := k.drivers()
		opt.Features.IPMAC6 = true // else every address has a rule of its own in raw
		l := New(opt)
		go l.Run(t.Context())
		w := newWorld()
		apply(t, l, w)
		k.takeOps()
		w.revision = 2
		w.instances["c"] = 3
		apply(t, l, w)
		for _, op := range k.takeOps() {
			if strings.HasPrefix(op, "restore") {
				t.Errorf("did %q", op)
			}
		}
	})
}

// TestAFailureAtAnyStepChangesNothingAndIsRetried lets every single operation of an apply fail once.
func TestAFailureAtAnyStepChangesNothingAndIsRetried(t *testing.T) {
	steps := map[string]bool{}
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		before, after := beforeAndAfter()
		apply(t, l, before)
		k.lock(func() { k.flows = someFlows() })
		k.takeOps()
		apply(t, l, after)
		for _, op := range k.takeOps() {
			steps[op] = true
		}
	})
	if len(steps) < 14 {
		t.Fatalf("only %d steps: %v", len(steps), slices.Sorted(maps.Keys(steps)))
	}
	for _, step := range slices.Sorted(maps.Keys(steps)) {
		t.Run(step, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newFakeKernel()
				l := running(t, k)
				before, after := beforeAndAfter()
				apply(t, l, before)
				k.lock(func() { k.flows, k.fail = someFlows(), once(step) })
				err := l.Apply(t.Context(), after.snapshot())

				leftovers := strings.HasPrefix(step, "delete")
				flows := strings.Contains(step, "flows")
				switch s := l.Status(); {
				case leftovers: // harms nobody, so nobody is told; the next verification cleans up
					if err != nil || !s.Healthy() {
						t.Errorf("error %v, problems %v", err, s.Problems)
					}
				case flows: // the rules are in force, and must not be taken back
					checkCarries(t, k, after, false)
					fallthrough
				default:
					if !errors.Is(err, errInjected) {
						t.Errorf("error %v", err)
					}
					if s.Healthy() || len(s.Problems) != 1 || s.Problems[0].Code != CodeRefused || s.Problems[0].Remedy == "" {
						t.Errorf("health hides it: %+v", s)
					}
					if !flows {
						checkCarries(t, k, before, false)
						if s.InForce != 1 || l.Current().Snapshot.Revision != 1 {
							t.Errorf("revision %d counts as in force", s.InForce)
						}
						if len(k.left()) != len(someFlows()) {
							t.Errorf("flows were cut")
						}
					}
				}

				pass(time.Minute)
				checkCarries(t, k, after, false)
				if s := l.Status(); !s.Healthy() || s.InForce != 2 {
					t.Errorf("not healthy after the retry: %+v", s)
				}
				checkFlows(t, k)
			})
		})
	}
}

// once makes one operation fail a single time.
func once(step string) func(string) error {
	var failed atomic.Bool // the families are written side by side
	return func(op string) error {
		if op == step && failed.CompareAndSwap(false, true) {
			return fmt.Errorf("%s: %w", op, errInjected)
		}
		return nil
	}
}

// someFlows are connections of both families in the world before, all of them allowed there.
func someFlows() []conntrack.Flow {
	var flows []conntrack.Flow
	for _, f := range vpc.Families() {
		a, b, gone := addrOf(f, 1), addrOf(f, 2), addrOf(f, 9)
		local := flow(addrOf(f, 253), b, 80)
		local.Local = true
		flows = append(flows,
			flow(a, b, 443), flow(outside(f), a, 443), local, // stay
			flow(a, b, 80), flow(outside(f), b, 80), flow(gone, a, 443), flow(b, gone, 443)) // end
	}
	return flows
}

func checkFlows(t *testing.T, k *fakeKernel) {
	t.Helper()
	var want []conntrack.Tuple
	for i, f := range someFlows() {
		if i%7 < 3 {
			want = append(want, f.Original)
		}
	}
	var got []conntrack.Tuple
	for _, f := range k.left() {
		got = append(got, f.Original)
	}
	if !slices.Equal(want, got) {
		t.Errorf("flows left:\n%v\nwant:\n%v", got, want)
	}
}

func TestFlowsThatARevisionNoLongerAllowsAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		before, after := beforeAndAfter()
		apply(t, l, before)
		k.lock(func() { k.flows = someFlows() })
		apply(t, l, after)
		checkFlows(t, k)
		if n := l.Status().FlowsCut; n != 8 {
			t.Errorf("%d flows counted, want 8", n)
		}
	})
}

func TestAfterARestartAllFlowsAreJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		_, after := beforeAndAfter()
		l := New(k.drivers())
		ctx, cancel := context.WithCancel(t.Context())
		go l.Run(ctx)
		apply(t, l, after)
		cancel()
		synctest.Wait()
		k.lock(func() { k.flows = someFlows()[:5] }) // among them what a daemon that was killed did not come to cut
		apply(t, running(t, k), after)
		if left := k.left(); len(left) != 3 {
			t.Errorf("left %v", left)
		}
	})
}

func TestWhoAsksWhileAnotherApplyRunsSharesTheNextOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		w := newWorld()
		apply(t, l, w)
		k.takeOps()

		hold := make(chan struct{})
		k.lock(func() {
			k.before = func(op string) {
				if op == "restore ipv4 mangle" {
					<-hold
				}
			}
		})
		const n = 50
		done := make(chan error, n)
		for i := range n {
			w := newWorld()
			w.revision, w.ports = uint64(2+i), []string{fmt.Sprint(1000 + i)}
			s := w.snapshot()
			go func() { done <- l.Apply(t.Context(), s) }()
			synctest.Wait()
		}
		close(hold)
		for range n {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		restores := 0
		for _, op := range k.takeOps() {
			if op == "restore ipv4 mangle" {
				restores++
			}
		}
		if restores != 2 {
			t.Errorf("%d transactions for %d revisions, want 2", restores, n)
		}
		w.revision, w.ports = n+1, []string{fmt.Sprint(1000 + n - 1)}
		checkCarries(t, k, w, false)
	})
}

func TestAnOlderRevisionNeverReplacesANewerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		before, after := beforeAndAfter()
		apply(t, l, after)
		apply(t, l, before)
		checkCarries(t, k, after, false)
	})
}

func TestApplyEndsWithItsContextAndWithTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := New(k.drivers())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.Apply(ctx, newWorld().snapshot()); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		run, stop := context.WithCancel(t.Context())
		k.lock(func() { k.fail = func(string) error { return run.Err() } })
		k.lock(func() {
			k.before = func(op string) {
				if op == "write sets" {
					<-run.Done()
				}
			}
		})
		go l.Run(run)
		done := make(chan error, 1)
		go func() { done <- l.Apply(t.Context(), newWorld().snapshot()) }()
		synctest.Wait()
		stop()
		if err := <-done; !errors.Is(err, ErrStopped) {
			t.Errorf("error %v", err)
		}
		if err := l.Resync(t.Context()); !errors.Is(err, ErrStopped) {
			t.Errorf("resync: %v", err)
		}
	})
}

func TestARefusalIsRetriedWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		k.lock(func() {
			k.fail = func(op string) error {
				if op == "restore ipv6 mangle" {
					return errInjected
				}
				return nil
			}
		})
		if err := l.Apply(t.Context(), newWorld().snapshot()); !errors.Is(err, errInjected) {
			t.Fatalf("error %v", err)
		}
		pass(10 * time.Minute)
		if n := l.Status().Failures; n < 10 || n > 18 {
			t.Errorf("%d attempts in ten minutes", n)
		}
		k.lock(func() { k.fail = nil })
		pass(slowestRetry)
		if s := l.Status(); !s.Healthy() || s.InForce != 1 {
			t.Errorf("status %+v", s)
		}
		checkCarries(t, k, newWorld(), false)
	})
}

func TestMidStreamPacketsAreRefusedAfterAGraceOrAtOnceAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		w := newWorld()
		l := New(k.drivers())
		ctx, stop := context.WithCancel(t.Context())
		go l.Run(ctx)
		apply(t, l, w)
		pass(midStreamGrace - time.Second)
		checkCarries(t, k, w, false)
		pass(2 * time.Second)
		checkCarries(t, k, w, true)
		if d := differences(k.state(), compiled(t, k, w, false)); len(d) == 0 {
			t.Fatal("the feature makes no difference")
		}
		stop()
		synctest.Wait()

		apply(t, running(t, k), w)
		checkCarries(t, k, w, true)
	})
}

func TestARestartOnAnIntactKernelWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		w := newWorld()
		l := New(k.drivers())
		ctx, stop := context.WithCancel(t.Context())
		go l.Run(ctx)
		apply(t, l, w)
		pass(midStreamGrace + time.Second)
		stop()
		synctest.Wait()
		k.takeOps()
		apply(t, running(t, k), w)
		for _, op := range k.takeOps() {
			if !strings.HasPrefix(op, "read") && !strings.HasPrefix(op, "list flows") {
				t.Errorf("did %q", op)
			}
		}
	})
}

func TestAcceptsThatEndAreGoneBeforeOtherRulesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		w := newWorld()
		w.switches = []string{"db"}
		apply(t, l, w)
		k.takeOps()
		w.revision, w.switches = 2, []string{"dmz"}
		apply(t, l, w)
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, f := range vpc.Families() {
			var own []string
			for _, text := range k.writes {
				if strings.HasPrefix(text, f.String()+" ") {
					own = append(own, text)
				}
			}
			if len(own) < 3 || !strings.HasPrefix(own[0], f.String()+" filter") {
				t.Fatalf("%s is written in the order\n%s", f, strings.Join(own, "\n"))
			}
			if strings.Contains(own[0], "vs-db") || strings.Contains(own[0], "vs-dmz") || !strings.Contains(own[0], "vs-web") {
				t.Errorf("%s first accepts:\n%s", f, own[0])
			}
		}
	})
}

func TestCountersAreKeyedByRuleAndReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		if c, err := l.Counters(t.Context()); c != nil || err != nil {
			t.Errorf("nothing in force counts %v, %v", c, err)
		}
		apply(t, l, newWorld())
		counters, err := l.Counters(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range vpc.Families() {
			rule := map[vpc.Family]string{vpc.IPv4: id("sgr", "0.0.0.0/0443"), vpc.IPv6: id("sgr", "::/0443")}[f]
			if !slices.ContainsFunc(counters, func(c Counter) bool {
				return c.Family == f && c.Rule == rule && c.Table == "mangle" && c.Packets > 0 && c.Bytes > 0
			}) {
				t.Errorf("%s: no counter of %s", f, rule)
			}
			if !slices.ContainsFunc(counters, func(c Counter) bool { return c.Family == f && c.Reason == vpc.ReasonUnknownAddress }) {
				t.Errorf("%s: no counter of %s", f, vpc.ReasonUnknownAddress)
			}
		}
	})
}

func TestWhoeverWantsToKnowIsToldWhatStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		opt := k.drivers()
		var told []uint64
		var generation uint32
		opt.OnStanding = func(s *vpc.Snapshot, n uint32) { told, generation = append(told, s.Revision), n }
		l := runningWith(t, opt)
		checkTold := func(when string, want ...uint64) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(told, want) {
				t.Errorf("%s: told of %v, want %v", when, told, want)
			}
			told = nil
		}
		checkGeneration := func(when string) {
			t.Helper()
			if n, _, err := opt.IPTables.Generation(t.Context()); err != nil || n != generation {
				t.Errorf("%s: the kernel is at %d, told was %d (%v)", when, n, generation, err)
			}
		}
		w := newWorld()
		apply(t, l, w)
		checkTold("put in force", w.revision)
		checkGeneration("put in force")

		k.lock(func() { k.fail = func(op string) error { return errors.New("no") } })
		next := w
		next.revision, next.ports = w.revision+1, []string{"8443"}
		if err := l.Apply(t.Context(), next.snapshot()); err == nil {
			t.Fatal("it was not refused")
		}
		checkTold("refused")
		k.lock(func() { k.fail = nil })
		apply(t, l, next)
		checkTold("put in force at last", next.revision)

		k.lock(func() { delete(k.tables[vpc.IPv4]["mangle"].chains, "GH-FWD") })
		if differing, err := l.Verify(t.Context()); err != nil || len(differing) == 0 {
			t.Fatalf("differing %v, %v", differing, err)
		}
		checkTold("changed by another program")
		if err := l.Resync(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkTold("repaired", next.revision)
		checkGeneration("repaired")
		if err := l.Resync(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkTold("verified", next.revision)
	})
}
