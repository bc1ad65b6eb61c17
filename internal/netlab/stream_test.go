package netlab

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestAStreamArrivesWholeAndKeepsItsRate(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	lab, err := New("streamtest")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	}()
	space, err := lab.Space("host")
	if err != nil {
		t.Fatal(err)
	}
	for i, addr := range []string{"127.0.0.1", "::1"} {
		port := uint16(7000 + i)
		sink, err := space.Sink(port)
		if err != nil {
			t.Fatal(err)
		}
		run, stop := context.WithTimeout(ctx, 300*time.Millisecond)
		sent, err := space.Pace(run, netip.AddrPortFrom(netip.MustParseAddr(addr), port), 1000)
		stop()
		if err != nil {
			t.Fatal(err)
		}
		if sent == 0 || sent > 300 {
			t.Errorf("%s: %d datagrams in 0.3 s at 1000 a second", addr, sent)
		}
		if err := Eventually(ctx, func() error {
			if got := sink.Count(); got != sent {
				return fmt.Errorf("%d of %d arrived", got, sent)
			}
			return nil
		}); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		if err := sink.Close(); err != nil {
			t.Error(err)
		}
	}
}
