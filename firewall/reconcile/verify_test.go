package reconcile

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse/firewall"
	"gatehouse/vpc"
)

// spoils are things that other programs do to us.
func spoils() map[string]func(*fakeKernel) {
	table := func(k *fakeKernel, f vpc.Family) *fakeTable { return k.tables[f]["mangle"] }
	return map[string]func(*fakeKernel){
		"ipv4 mangle chain GH-FWD":           func(k *fakeKernel) { table(k, vpc.IPv4).chains["GH-FWD"] = nil },
		"ipv6 mangle hook FORWARD -> GH-FWD": func(k *fakeKernel) { table(k, vpc.IPv6).hooks = nil },
		"ipv6 mangle hook INPUT -> GH-INPUT": func(k *fakeKernel) { table(k, vpc.IPv6).hooks[0].Position, table(k, vpc.IPv6).hooks[1].Position = 2, 2 },
		"set gh4-mark":                       func(k *fakeKernel) { delete(k.sets, "gh4-mark") },
		"set gh6-gw": func(k *fakeKernel) {
			k.sets["gh6-gw"] = firewall.Set{Name: "gh6-gw", Type: "hash:ip", Family: vpc.IPv6}
		},
		"stray set gh4-left":                  func(k *fakeKernel) { k.sets["gh4-left"] = firewall.Set{Name: "gh4-left"} },
		"ipv4 mangle stray chain GH-PROBE-77": func(k *fakeKernel) { table(k, vpc.IPv4).chains["GH-PROBE-77"] = nil },
		"ipv4 nat stray chain GH-OLD":         func(k *fakeKernel) { k.tables[vpc.IPv4]["nat"].chains["GH-OLD"] = nil },
	}
}

func TestWhatOthersChangeIsFoundAndRepaired(t *testing.T) {
	for what, spoil := range spoils() {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newFakeKernel()
				l := running(t, k)
				w := newWorld()
				apply(t, l, w)
				pass(midStreamGrace + time.Second)
				if err := l.InForce(t.Context()); err != nil {
					t.Fatalf("before: %v", err)
				}

				k.lock(func() { spoil(k) })
				differing, err := l.Verify(t.Context())
				if err != nil || !slices.Contains(differing, what) {
					t.Errorf("verify found %v, %v", differing, err)
				}
				var drift *DriftError
				if err := l.InForce(t.Context()); !errors.As(err, &drift) || !strings.Contains(err.Error(), what) {
					t.Errorf("in force: %v", err)
				}
				if again, err := l.Verify(t.Context()); err != nil || !slices.Equal(again, differing) {
					t.Errorf("verifying repaired something: %v, %v", again, err)
				}

				pass(2 * l.opt.VerifyInterval)
				checkCarries(t, k, w, true)
				s := l.Status()
				if s.Repairs != 1 || s.LastDrift.IsZero() || !slices.Contains(s.LastDriftIn, what) || !s.Healthy() {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

func TestResyncRepairsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		if err := l.Resync(t.Context()); !errors.Is(err, ErrNothing) {
			t.Errorf("before anything is in force: %v", err)
		}
		w := newWorld()
		apply(t, l, w)
		for _, spoil := range spoils() {
			k.lock(func() { spoil(k) })
			if err := l.Resync(t.Context()); err != nil {
				t.Fatal(err)
			}
			checkCarries(t, k, w, false)
		}
	})
}

func TestTwoProgramsThatUndoEachOthersWorkDoNotSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		apply(t, l, newWorld())
		k.lock(func() {
			k.before = func(op string) {
				if op == "read ipv4" { // whenever we look, somebody has been there
					k.mu.Lock()
					k.tables[vpc.IPv4]["mangle"].chains["GH-FWD"] = nil
					k.mu.Unlock()
				}
			}
		})
		pass(time.Hour)
		s := l.Status()
		most := uint64(repairBurst + time.Hour/repairInterval)
		if s.Repairs < repairBurst || s.Repairs > most {
			t.Errorf("%d repairs in an hour, want %d to %d", s.Repairs, repairBurst, most)
		}
		if s.Drifts < 100 {
			t.Errorf("only %d drifts were counted", s.Drifts)
		}
		if s.Healthy() || s.Problems[0].Code != CodeContested || s.Problems[0].Remedy == "" {
			t.Errorf("problems %v", s.Problems)
		}

		k.lock(func() { k.before = nil })
		pass(2 * repairInterval)
		if s := l.Status(); !s.Healthy() {
			t.Errorf("still unhealthy when the other has gone: %v", s.Problems)
		}
	})
}

// hearing runs a loop that is told of changes, and verifies by itself once an hour only.
func hearing(t *testing.T, k *fakeKernel) (l *Loop, changes chan<- struct{}) {
	c := make(chan struct{}, 1)
	opt := k.drivers()
	opt.Changes, opt.VerifyInterval = c, time.Hour
	l = New(opt)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l, c
}

func TestWhatOthersRemoveIsRepairedAsSoonAsItIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l, changes := hearing(t, k)
		w := newWorld()
		changes <- struct{}{} // before anything is in force
		apply(t, l, w)
		pass(time.Minute)
		changes <- struct{}{} // our own change
		pass(time.Minute)
		if n := l.Status().Verifies; n > 1 {
			t.Errorf("%d verifications though nobody else has changed anything", n)
		}
		for _, pause := range []time.Duration{0, hearPause, time.Second} { // as a program that loads its rules in several steps
			k.lock(func() { k.tables[vpc.IPv4]["mangle"].chains["GH-FWD"] = nil })
			changes <- struct{}{}
			pass(2 * hearPause)
			checkCarries(t, k, w, true)
			pass(pause)
		}
		if n := l.Status().Repairs; n != 3 {
			t.Errorf("%d repairs, want 3", n)
		}
	})
}

func TestWhoeverIsChangingRulesIsWaitedForButNotForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l, changes := hearing(t, k)
		w := newWorld()
		apply(t, l, w)
		pass(midStreamGrace)
		k.lock(func() { k.tables[vpc.IPv4]["mangle"].chains["GH-FWD"] = nil })
		before := l.Status().Repairs
		for passed := time.Duration(0); passed < hearMost; passed += hearPause / 2 {
			if n := l.Status().Repairs; n != before {
				t.Fatalf("it was repaired after %s, while the other was at work", passed)
			}
			k.lock(func() { k.others++ })
			changes <- struct{}{}
			pass(hearPause / 2)
		}
		pass(2 * time.Millisecond)
		checkCarries(t, k, w, true)
	})
}

func TestWhoAsksWhetherTheKernelDiffersDoesNotPutOffItsRepair(t *testing.T) {
	for name, ask := range map[string]func(*Loop, context.Context) error{
		"what differs": func(l *Loop, ctx context.Context) error {
			differing, err := l.Verify(ctx)
			return errors.Join(err, &DriftError{differing})
		},
		"whether it is in force": (*Loop).InForce,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newFakeKernel()
				l, changes := hearing(t, k)
				w := newWorld()
				apply(t, l, w)
				pass(midStreamGrace)
				k.lock(func() { k.tables[vpc.IPv4]["mangle"].chains["GH-FWD"] = nil })
				changes <- struct{}{}
				synctest.Wait()
				var drift *DriftError
				if err := ask(l, t.Context()); !errors.As(err, &drift) || len(drift.What) == 0 {
					t.Errorf("it differs, and %v is said", err)
				}
				pass(2 * hearPause)
				checkCarries(t, k, w, true)
			})
		})
	}
}

// Whoever changes rules all the time, without touching ours, costs a tenth of a CPU; whoever does it for a moment is looked
// at after every change.
func TestLookingAtWhatOthersChangeTakesATenthOfACPU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const took = 50 * time.Millisecond
		k := newFakeKernel()
		l, changes := hearing(t, k)
		apply(t, l, newWorld())
		pass(time.Minute)
		k.lock(func() {
			k.before = func(op string) {
				if op == "read ipv6" {
					<-time.After(took)
				}
			}
		})
		change := func() {
			k.lock(func() { k.others++ })
			select {
			case changes <- struct{}{}:
			default: // told already
			}
		}
		before := l.Status().Verifies
		const moment = 10
		for range moment {
			change()
			pass(took + 2*hearPause)
		}
		if n := l.Status().Verifies - before; n != moment {
			t.Errorf("%d changes in a moment were looked at %d times", moment, n)
		}
		for range int(time.Hour / took) {
			change()
			pass(took)
		}
		most := uint64((time.Hour/hearShare + hearBurst) / took)
		if n := l.Status().Verifies - before; n > most+moment || n < most/2 {
			t.Errorf("%d verifications in an hour, want at most %d", n, most)
		}
	})
}

func TestVerifyingTakesLittleOfACPU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const took = 3 * time.Second // to read a large ruleset
		k := newFakeKernel()
		k.lock(func() {
			k.before = func(op string) {
				if op == "read ipv6" {
					<-time.After(took)
				}
			}
		})
		l := running(t, k)
		apply(t, l, newWorld())
		pass(time.Hour)
		if n := l.Status().Verifies; n < 15 || n > uint64(time.Hour/(verifyShare*took)) {
			t.Errorf("%d verifications in an hour", n)
		}
	})
}

func TestAFailingVerificationTurnsHealthRed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		apply(t, l, newWorld())
		k.lock(func() {
			k.fail = func(op string) error {
				if op == "read ipv6" {
					return errInjected
				}
				return nil
			}
		})
		pass(2 * l.opt.VerifyInterval)
		if s := l.Status(); s.Healthy() || s.Problems[0].Code != CodeUnread {
			t.Errorf("problems %v", s.Problems)
		}
		k.lock(func() { k.fail = nil })
		pass(2 * l.opt.VerifyInterval)
		if s := l.Status(); !s.Healthy() {
			t.Errorf("problems %v", s.Problems)
		}
	})
}

func TestTeardownLeavesNothingUntilTheNextApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		w := newWorld()
		apply(t, l, w)
		if err := l.Teardown(t.Context()); err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		if left := k.state(); !left.empty() || len(left.sets) > 0 {
			t.Errorf("left %v", left)
		}
		if l.Current() != nil || l.Status().InForce != 0 {
			t.Errorf("in force: %v", l.Status())
		}
		apply(t, l, w)
		checkCarries(t, k, w, false) // a new beginning, with its grace
	})
}

func TestAChangeIsNotAnsweredOverWhatOthersHaveRemoved(t *testing.T) {
	for what, spoil := range spoils() {
		if strings.HasPrefix(what, "set ") || strings.HasPrefix(what, "stray set") {
			continue // sets have no generation; one that is emptied or gone lets nothing through
		}
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newFakeKernel()
				l := running(t, k)
				w := newWorld()
				apply(t, l, w)
				pass(midStreamGrace + time.Second)
				refused := flow(addr4(1), addr4(2), 22)
				k.lock(func() { spoil(k); k.flows = append(k.flows, refused) })

				w.revision++
				w.instances["c"] = 3
				apply(t, l, w) // nothing waits for the next verification
				checkCarries(t, k, w, true)
				if left := k.left(); len(left) != 0 {
					t.Errorf("a flow that began while rules were missing is left: %v", left)
				}
			})
		})
	}
}

func TestARepairEndsTheFlowsThatBeganMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel()
		l := running(t, k)
		apply(t, l, newWorld())
		pass(midStreamGrace + time.Second)
		allowed := flow(addr4(1), addr4(2), 80)
		k.lock(func() {
			k.tables[vpc.IPv4]["mangle"].chains["GH-FWD"] = nil
			k.flows = append(k.flows, flow(addr4(1), addr4(2), 22), allowed)
		})
		if err := l.Resync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := k.left(); len(left) != 1 || left[0].Original != allowed.Original {
			t.Errorf("left %v, want only the allowed flow", left)
		}
	})
}
