package server

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestThePartsFeedTheWatchdogWhileTheyMove(t *testing.T) {
	for _, tt := range []struct {
		name string
		ask  func(context.Context) error
		dies string // what is said in the end; "": it lives
	}{
		{"a part that answers", func(context.Context) error { return nil }, ""},
		{"a part that is slow", func(context.Context) error { time.Sleep(stuckAfter / 2); return nil }, ""},
		{"a part that hangs", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, "it has not answered for 2m0s"},
		{"a part that fails", func(context.Context) error { return errors.New("input/output error") }, "it has failed for 2m0s: input/output error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer func() {
					cancel()
					time.Sleep(stuckAfter) // until the last question is answered
				}()
				parts := pulses{{name: "it", ask: tt.ask}, {name: "another", ask: func(context.Context) error { return nil }}}
				began := time.Now()
				var err error
				for err == nil && time.Since(began) < 4*stuckAfter {
					err = parts.beat(ctx, time.Now())
					if err == nil {
						time.Sleep(10 * time.Second)
					}
				}
				switch {
				case tt.dies == "" && err != nil:
					t.Errorf("after %s: %v", time.Since(began), err)
				case tt.dies != "" && (err == nil || !strings.Contains(err.Error(), tt.dies)):
					t.Errorf("after %s: %v, want %q", time.Since(began), err, tt.dies)
				}
			})
		})
	}
}

func TestAPartThatFailedOnceIsForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failing atomic.Bool
		failing.Store(true)
		parts := pulses{{name: "it", ask: func(context.Context) error {
			if failing.Load() {
				return errors.New("not now")
			}
			return nil
		}}}
		for range 3 {
			if err := parts.beat(t.Context(), time.Now()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(stuckAfter / 4)
		}
		failing.Store(false)
		for range 20 {
			if err := parts.beat(t.Context(), time.Now()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(stuckAfter / 4)
		}
	})
}
