package server

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse/server/link"
	"gatehouse/vpc"
)

// world is a fake of everything that is made to match: it records what it was given and refuses on demand.
type world struct {
	goal    atomic.Pointer[vpc.Snapshot]
	refuse  atomic.Pointer[error]
	applied []uint64
	done    []uint64
}

func (w *world) set(revision uint64) {
	w.goal.Store(vpc.NewSnapshot(&vpc.Spec{}, vpc.Host{}, revision))
}

func (w *world) force() *force {
	return newForce(slog.New(slog.DiscardHandler), w.goal.Load, func(s *vpc.Snapshot) { w.done = append(w.done, s.Revision) },
		step{"rules", func(_ context.Context, s *vpc.Snapshot) error {
			if err := w.refuse.Load(); err != nil {
				return *err
			}
			w.applied = append(w.applied, s.Revision)
			return nil
		}})
}

func TestForce(t *testing.T) {
	t.Run("a stored revision is put in force at once and whoever waits is told", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{}
			w.set(7)
			f := w.force()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go f.Run(ctx)
			if err := f.Wait(ctx, 7); err != nil {
				t.Fatal(err)
			}
			if len(w.done) != 1 || w.done[0] != 7 {
				t.Errorf("done %v, want [7]", w.done)
			}
		})
	})
	t.Run("a refused revision is reported, stays the goal and is tried again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{}
			w.set(3)
			refusal := errors.New("the kernel says no")
			w.refuse.Store(&refusal)
			f := w.force()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go f.Run(ctx)
			err := f.Wait(ctx, 3)
			var not *notInForce
			if !errors.As(err, &not) || err.Error() != "revision 3 is stored but not in force: rules: the kernel says no" {
				t.Fatalf("wait: %v", err)
			}
			if len(w.done) != 0 {
				t.Fatalf("the steps behind the refusing one were taken: %v", w.done)
			}
			w.refuse.Store(nil)
			time.Sleep(retryAfter[0] + retryAfter[1]) // the bubble's clock
			synctest.Wait()
			if applied, err := f.State(); applied != 3 || err != nil {
				t.Errorf("after the kernel gives in: applied %d, error %v", applied, err)
			}
		})
	})
	t.Run("what a link refuses to some does not keep the others from being served", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			spec := &vpc.Spec{VPCs: []*vpc.VPCSpec{{Name: "lab", VSwitches: []*vpc.VSwitchSpec{
				{ID: "vsw-1", Name: "good", CIDRBlock: netip.MustParsePrefix("10.0.1.0/24")},
				{ID: "vsw-2", Name: "bad", CIDRBlock: netip.MustParsePrefix("10.0.2.0/24"), Attach: vpc.AttachSpec{Bridge: "eth9"}},
			}}}}
			goal := vpc.NewSnapshot(spec, vpc.Host{}, 5)
			var last atomic.Pointer[vpc.Snapshot]
			var refusal atomic.Pointer[error]
			partial := error(&link.PartialError{Refused: []*link.RefusedError{{VPC: "lab", VSwitch: "bad", Reason: "eth9 is no bridge"}}})
			refusal.Store(&partial)
			f := newForce(slog.New(slog.DiscardHandler), func() *vpc.Snapshot { return goal }, last.Store,
				step{"links", func(context.Context, *vpc.Snapshot) error { return *refusal.Load() }})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go f.Run(ctx)
			if err := f.Wait(ctx, 5); err != nil {
				t.Errorf("wait: %v", err)
			}
			applied, err := f.State()
			if applied != 5 || err == nil || err.Error() != "links: vSwitch bad: eth9 is no bridge" {
				t.Errorf("applied %d, error %v", applied, err)
			}
			served := last.Load()
			for _, w := range served.VSwitches {
				if w.HasLink() != (w.Name == "good") {
					t.Errorf("vSwitch %s is served on its link: %v", w.Name, w.HasLink())
				}
			}
			if !goal.VSwitchByID("vsw-2").HasLink() || served.Revision != 5 {
				t.Error("the goal itself has been changed, or its revision")
			}
			freed := error(nil)
			refusal.Store(&freed)
			time.Sleep(retryAfter[0] + retryAfter[1])
			synctest.Wait()
			if _, err := f.State(); err != nil || !last.Load().VSwitchByID("vsw-2").HasLink() {
				t.Errorf("after it is freed: %v", err)
			}
		})
	})
	t.Run("requests behind a running attempt are coalesced into the newest", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{}
			w.set(1)
			slow := make(chan struct{})
			var seen []uint64
			f := newForce(slog.New(slog.DiscardHandler), w.goal.Load, func(*vpc.Snapshot) {},
				step{"rules", func(_ context.Context, s *vpc.Snapshot) error {
					seen = append(seen, s.Revision)
					<-slow
					return nil
				}})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go f.Run(ctx)
			synctest.Wait()
			for r := uint64(2); r <= 50; r++ {
				w.set(r)
				f.Wake()
			}
			close(slow)
			if err := f.Wait(ctx, 50); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if len(seen) != 2 || seen[1] != 50 {
				t.Errorf("applied %v, want [1 50]", seen)
			}
		})
	})
	t.Run("after a halt nothing is applied, and whoever waits is told why", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{}
			w.set(1)
			f := w.force()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go f.Run(ctx)
			if err := f.Wait(ctx, 1); err != nil {
				t.Fatal(err)
			}
			f.Halt(errTornDown)
			w.set(2)
			f.Wake()
			synctest.Wait()
			if err := f.Wait(ctx, 2); !errors.Is(err, errTornDown) {
				t.Errorf("wait: %v", err)
			}
			if applied, err := f.State(); applied != 0 || !errors.Is(err, errTornDown) {
				t.Errorf("state: %d, %v", applied, err)
			}
			if len(w.applied) != 1 {
				t.Errorf("applied %v after the halt", w.applied)
			}
		})
	})
	t.Run("waiting ends with the caller's patience", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{}
			w.set(1)
			f := w.force() // nobody runs it
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var not *notInForce
			if err := f.Wait(ctx, 1); !errors.As(err, &not) {
				t.Errorf("wait: %v, want that it is not in force", err)
			}
		})
	})
}
