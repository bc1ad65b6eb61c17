package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// stuckAfter is how long a part may leave a question unanswered. The longest honest work is a first apply of a large
// policy, or waiting for another program's hold on iptables.
const stuckAfter = 2 * time.Minute

// pulse asks one part whether it still moves, one question at a time.
type pulse struct {
	name string
	ask  func(context.Context) error

	mu    sync.Mutex
	open  bool      // a question is unanswered
	since time.Time // since when; zero: the last one was answered well
	err   error     // the last answer
}

// pulses are the parts without which a daemon is better restarted.
type pulses []*pulse

func (g *Gateway) pulses() pulses {
	return pulses{
		{name: "the store", ask: func(context.Context) error { _, err := g.store.Meta(metaLinks); return err }},
		{name: "putting revisions in force", ask: g.force.Ping},
		{name: "the firewall loop", ask: g.firewall.Ping},
		{name: "the link manager", ask: g.links.Ping},
	}
}

// beat asks every part that has answered the last question, and returns which have not for too long.
func (ps pulses) beat(ctx context.Context, now time.Time) error {
	var errs []error
	for _, p := range ps {
		errs = append(errs, p.beat(ctx, now))
	}
	return errors.Join(errs...)
}

func (p *pulse) beat(ctx context.Context, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since.IsZero() {
		p.since = now
	}
	if !p.open {
		p.open = true
		go p.question(ctx)
	}
	stuck := now.Sub(p.since)
	switch {
	case stuck < stuckAfter:
		return nil
	case p.err != nil:
		return fmt.Errorf("%s has failed for %s: %w", p.name, stuck.Round(time.Second), p.err)
	default:
		return fmt.Errorf("%s has not answered for %s", p.name, stuck.Round(time.Second))
	}
}

func (p *pulse) question(ctx context.Context) {
	err := p.ask(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open, p.err = false, err
	if err == nil {
		p.since = time.Time{}
	}
}
