package server

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOtherServersAreKnownWhileTheyAnswer(t *testing.T) {
	ctx := context.Background()
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var answering []netip.Addr
	var broken error
	r := newRivals(func() time.Time { return now })
	r.ask = func(context.Context, string, time.Duration) ([]netip.Addr, error) { return answering, broken }
	links := []string{"eth1", "eth2"}
	expect := func(step string, told bool, want ...string) {
		t.Helper()
		var got []string
		for _, p := range r.problems() {
			words := strings.Fields(p.Message)
			got = append(got, words[0]+" "+strings.TrimSuffix(words[4], ":"))
			if p.Remedy == "" {
				t.Errorf("%s: no remedy", step)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: known are %q, want %q", step, got, want)
		}
		if len(r.news) > 0 != told {
			t.Errorf("%s: told %t", step, !told)
		}
		if len(r.news) > 0 {
			<-r.news
		}
	}
	due := func(step string, want ...string) {
		t.Helper()
		if got := r.due(links); !slices.Equal(got, want) {
			t.Errorf("%s: %q are asked, want %q", step, got, want)
		}
	}
	due("at the start", links...)
	broken = errors.New("no such link")
	if errs := r.look(ctx, links[:1]); len(errs) != 1 {
		t.Errorf("errors %v", errs)
	}
	due("what could not be asked", links...)
	broken = nil
	r.look(ctx, links)
	expect("nobody answers", false)
	due("just asked")

	r.heard(rival{"eth1", one})
	expect("one is heard", true, "192.0.2.1 eth1")
	r.heard(rival{"eth1", one})
	expect("and again", false, "192.0.2.1 eth1")
	r.look(ctx, links)
	expect("it does not answer us", false, "192.0.2.1 eth1")
	due("just asked again")
	now = now.Add(askAgain)
	due("a link where one is known, a little later", "eth1")

	answering = []netip.Addr{two}
	r.look(ctx, links[1:])
	expect("another one answers", true, "192.0.2.1 eth1", "192.0.2.2 eth2")
	answering = nil
	r.look(ctx, links[1:])
	expect("it has gone", true, "192.0.2.1 eth1")

	ended, end := context.WithCancel(ctx)
	end()
	r.answered("eth2", []netip.Addr{two})
	<-r.news
	r.look(ended, links)
	expect("who has had no time to answer is still there", false, "192.0.2.1 eth1", "192.0.2.2 eth2")

	now = now.Add(heardLately + 1)
	due("much later", links...)
	expect("what was heard long ago is forgotten", true)
	r.answered("eth1", []netip.Addr{one})
	<-r.news
	links = links[1:]
	due("a link that is not ours any more", "eth2")
	expect("its servers are forgotten", true)
}
