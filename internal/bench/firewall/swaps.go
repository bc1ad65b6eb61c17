package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"gatehouse/internal/netlab"
	"gatehouse/vpc"
)

// What is allowed must arrive, and what is denied must not, whatever is being written meanwhile: streams of both kinds run
// in both families, every packet the first of its connection, while rules, profiles and sets are replaced.

// stream is one of them.
type stream struct {
	to      netip.AddrPort
	allowed bool
	sink    *netlab.Sink
	sent    int64
}

// outcome adds up what became of the streams.
type outcome struct{ sent, lost, denied, leaked int64 }

// swapAll makes the changes in each backend.
func (b *bench) swapAll(ctx context.Context) (ok bool, err error) {
	ok = true
	for _, backend := range []string{"nft", "legacy"} {
		b.backend = backend
		s, err := b.ruledSite(ctx, "swap-"+backend, newPopulation(200))
		if err != nil {
			return false, err
		}
		rate, err := b.steadyRate(ctx, s)
		if err != nil {
			return false, err
		}
		changes := 0
		start := time.Now()
		out, err := s.underTraffic(ctx, rate, func() error {
			for ; changes < b.swaps; changes++ {
				if err := s.swap(ctx, changes); err != nil {
					return fmt.Errorf("change %d: %w", changes, err)
				}
			}
			return nil
		})
		if err != nil {
			return false, errors.Join(err, s.stop())
		}
		b.say("%s: %d changes in %.1f s at %d packets/s a stream: denied %d sent, %d LEAKED; allowed %d sent, %d LOST",
			backend, changes, time.Since(start).Seconds(), rate, out.denied, out.leaked, out.sent, out.lost)
		ok = ok && out.leaked == 0 && out.lost == 0 && out.denied > 0 && out.sent > 0
		if err := s.stop(); err != nil {
			return false, err
		}
	}
	return ok, nil
}

// steadyRate finds the rate that this machine carries without a loss while nothing changes.
func (b *bench) steadyRate(ctx context.Context, s *site) (perSecond int, err error) {
	for perSecond = 4000; perSecond >= 125; perSecond /= 2 {
		out, err := s.underTraffic(ctx, perSecond, func() error {
			select {
			case <-ctx.Done():
			case <-time.After(3 * time.Second):
			}
			return ctx.Err()
		})
		if err != nil {
			return 0, err
		}
		b.say("%s: control at %d packets/s a stream: denied %d sent, %d leaked; allowed %d sent, %d lost", s.name, perSecond, out.denied, out.leaked, out.sent, out.lost)
		if out.leaked > 0 {
			return 0, errors.New("packets leak without any change")
		}
		if out.lost == 0 {
			return perSecond, nil
		}
	}
	return 0, errors.New("no rate is carried without loss: the machine is too busy")
}

// underTraffic runs the streams while f runs.
func (s *site) underTraffic(ctx context.Context, perSecond int, f func() error) (out outcome, err error) {
	var streams []*stream
	for i, port := range []uint16{floodPort, shutPort} {
		sink, err := s.server.Sink(port)
		if err != nil {
			return out, err
		}
		defer sink.Close()
		for _, addr := range s.pop.addrs(s.pop.target()) {
			streams = append(streams, &stream{to: netip.AddrPortFrom(addr, port), allowed: i == 0, sink: sink})
		}
	}
	sending, stop := context.WithCancel(ctx)
	errs := make([]error, len(streams))
	var wg sync.WaitGroup
	for i, st := range streams {
		wg.Go(func() { st.sent, errs[i] = s.clients.Pace(sending, st.to, perSecond) })
	}
	err = f()
	stop()
	wg.Wait()
	if err := errors.Join(append(errs, err)...); err != nil {
		return out, err
	}
	var good, bad *netlab.Sink
	for _, st := range streams {
		if st.allowed {
			out.sent, good = out.sent+st.sent, st.sink
		} else {
			out.denied, bad = out.denied+st.sent, st.sink
		}
	}
	last, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = netlab.Eventually(last, func() error { // what is not there by then is lost
		if good.Count() < out.sent {
			return errors.New("still under way")
		}
		return nil
	})
	out.lost, out.leaked = out.sent-good.Count(), bad.Count()
	return out, ctx.Err()
}

// swap makes the n-th change, each of which replaces something that the streams' packets go through: the chains of the
// target's profile, those of the source's and the trees that lead there, sets, and now and then everything.
func (s *site) swap(ctx context.Context, n int) error {
	t, own := s.pop.groupsOf(s.pop.target())[0], s.pop.groupsOf(s.sources[0])[0]
	switch n % 6 {
	case 0, 3: // a rule more, a rule less
		rules := []any{}
		for _, r := range s.pop.rules(t) {
			rules = append(rules, r.fields())
		}
		if n%6 == 0 {
			rules = append(rules, map[string]any{"direction": "ingress", "protocol": "tcp", "ports": fmt.Sprint(rulePort + n), "source": "10.0.0.0/8"})
		}
		_, err := s.change(ctx, vpc.KindSecurityGroup, fmt.Sprintf("g%d", t), map[string]any{"rules": rules})
		return err
	case 1: // a profile that nobody has yet
		_, err := s.join(ctx, 0, own, (own+3+n/6%5)%s.pop.groups)
		return err
	case 4: // and back
		_, err := s.join(ctx, 0, own)
		return err
	case 2: // others join and leave the groups that the rules ask for
		_, err := s.join(ctx, 1+n%(len(s.sources)-1), (t+1)%s.pop.groups)
		return err
	}
	return s.client.FirewallResync(ctx)
}
