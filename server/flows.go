package server

import (
	"context"
	"sync"
	"time"

	"gatehouse/firewall/nflog"
	"gatehouse/server/api"
	"gatehouse/server/port"
	"gatehouse/vpc"
)

const (
	flowsKept    = 1000 // refusals that are remembered for who asks later
	flowsWaiting = 256  // refusals that a slow follower may lag behind; then it misses some

	flowRetry = 30 * time.Second // when somebody else listens to our log group
)

// flowLog remembers the newest refusals and tells followers of each.
type flowLog struct {
	mu        sync.Mutex
	seen      uint64
	ring      [flowsKept]api.Flow
	followers map[chan api.Flow]struct{}
	err       error // why nothing is heard
}

// add remembers a refusal.
func (l *flowLog) add(f api.Flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring[l.seen%flowsKept] = f
	l.seen++
	for ch := range l.followers {
		select {
		case ch <- f:
		default: // it lags behind
		}
	}
}

// recent gives what is remembered, oldest first.
func (l *flowLog) recent() []api.Flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := []api.Flow{}
	for n := l.seen - min(l.seen, flowsKept); n < l.seen; n++ {
		out = append(out, l.ring[n%flowsKept])
	}
	return out
}

// follow gives a channel of refusals from now on, and a function that ends it.
func (l *flowLog) follow() (<-chan api.Flow, func()) {
	ch := make(chan api.Flow, flowsWaiting)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.followers == nil {
		l.followers = map[chan api.Flow]struct{}{}
	}
	l.followers[ch] = struct{}{}
	return ch, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.followers, ch)
	}
}

func (l *flowLog) setError(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// problem says why nothing is heard; nil when all is well.
func (l *flowLog) problem() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// runFlows listens for refusals. Somebody else at our log group is no reason to end: the rules hold without a log.
func (g *Gateway) runFlows(ctx context.Context) error {
	if !g.features.NFLog {
		return nil
	}
	for {
		err := nflog.Listen(ctx, g.now, func(r nflog.Refusal) { g.flows.add(g.flowOf(r)) })
		if ctx.Err() != nil {
			return nil
		}
		g.flows.setError(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(flowRetry):
			g.flows.setError(nil)
		}
	}
}

// flowOf names what a refusal is about.
func (g *Gateway) flowOf(r nflog.Refusal) api.Flow {
	f := api.Flow{
		Time: r.Time, Verdict: vpc.Drop, Reason: r.Reason, Rule: r.Rule, Protocol: r.Protocol,
		From: r.Src.String(), FromAddr: r.Src, FromPort: r.SrcPort, To: r.Dst.String(), ToAddr: r.Dst, Port: r.DstPort,
		In: port.Name(r.In), Out: port.Name(r.Out),
	}
	s := g.stored.Load()
	if n := s.InterfaceByAddr(r.Src); n != nil {
		f.From = n.Instance.Name
	}
	if n := s.InterfaceByAddr(r.Dst); n != nil {
		f.To = n.Instance.Name
	}
	return f
}

// Flows gives the newest refused flows, oldest first.
func (g *Gateway) Flows(context.Context) ([]api.Flow, error) { return g.flows.recent(), nil }

// FollowFlows gives refused flows as they happen; the function that it returns ends it.
func (g *Gateway) FollowFlows() (<-chan api.Flow, func()) { return g.flows.follow() }
