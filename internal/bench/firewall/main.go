// Command firewall measures what gatehouse's rules cost: packets through a gateway of 10,000 instances against the same
// gateway without rules, against the usual design of one chain per instance, and against a small network; and how long
// changes take from the request until packets obey them.
//
//	sudo go run ./internal/bench/firewall             the figures (about ten minutes)
//	sudo go run ./internal/bench/firewall -quick      fewer and shorter rounds (about three)
//	sudo go run ./internal/bench/firewall -control    only how long changes take, and the memory (about two)
//	sudo go run ./internal/bench/firewall -swaps 500  changes under traffic: nothing leaks, nothing is lost
//
// Rows that are compared are measured in turn, round by round, with the order reversed in every other round, so that
// whatever else the machine does meets all of them alike. Only ratios are to be trusted.
//
// It needs root, iptables, ipset, iproute2 and conntrack, and two processors. Everything happens in namespaces that it
// makes and removes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"gatehouse/internal/netlab"
)

// options are the command line.
type options struct {
	bin       string
	backend   string
	instances int
	quick     bool
	unloaded  bool
	swaps     int
	verbose   bool
}

func main() {
	var o options
	flag.StringVar(&o.bin, "gatehouse", "bin/gatehouse", "the `program` under test")
	flag.StringVar(&o.backend, "backend", "nft", "iptables backend: nft or legacy")
	flag.IntVar(&o.instances, "instances", 10_000, "size of the large network")
	flag.BoolVar(&o.quick, "quick", false, "fewer and shorter rounds")
	flag.BoolVar(&o.unloaded, "control", false, "leave the packets out: only how long changes take, and the daemon's memory")
	flag.IntVar(&o.swaps, "swaps", 0, "make so many `changes` under traffic in each backend, instead of the figures")
	flag.BoolVar(&o.verbose, "v", false, "print every sample")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (ok bool, err error) {
	if runtime.NumCPU() < 2 {
		return false, errors.New("two processors are needed: one sends, one receives")
	}
	// Threads that wait in the kernel must not wait for a turn in the runtime as well.
	runtime.GOMAXPROCS(8)
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return false, err
	}
	if _, err := os.Stat(o.bin); err != nil {
		return false, err
	}
	lab, err := netlab.New("bench")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	b := &bench{options: o, lab: lab, rounds: 9, slice: 1500 * time.Millisecond, started: time.Now()}
	if o.quick {
		b.rounds, b.slice = 5, 600*time.Millisecond
	}
	if o.swaps > 0 {
		return b.swapAll(ctx)
	}
	figures, err := b.figures(ctx)
	if err != nil {
		return false, err
	}
	fmt.Printf("\nbackend %s, %d instances, %d rounds, %.0f s\n\n", o.backend, o.instances, b.rounds, time.Since(b.started).Seconds())
	return report(os.Stdout, figures), nil
}

// bench is one run.
type bench struct {
	options
	lab     *netlab.Lab
	rounds  int
	slice   time.Duration // how long one row is measured at a time
	started time.Time
}

func (b *bench) say(format string, args ...any) {
	fmt.Printf("%6.1fs  "+format+"\n", append([]any{time.Since(b.started).Seconds()}, args...)...)
}

// figures measures everything.
func (b *bench) figures(ctx context.Context) ([]figure, error) {
	if b.unloaded {
		full, err := b.ruledSite(ctx, "full", newPopulation(b.instances))
		if err != nil {
			return nil, err
		}
		control, err := b.control(ctx, full)
		if err != nil {
			return nil, err
		}
		return control, full.stop()
	}
	bare, err := b.bareSite(ctx, "bare", newPopulation(b.instances))
	if err != nil {
		return nil, err
	}
	jumps, err := b.bareSite(ctx, "jumps", newPopulation(b.instances))
	if err != nil {
		return nil, err
	}
	if err := b.jump(ctx, jumps); err != nil {
		return nil, err
	}
	small, err := b.ruledSite(ctx, "small", newPopulation(100))
	if err != nil {
		return nil, err
	}
	full, err := b.ruledSite(ctx, "full", newPopulation(b.instances))
	if err != nil {
		return nil, err
	}

	figures, err := b.traffic(ctx, bare, full, small, jumps)
	if err != nil {
		return nil, err
	}
	control, err := b.control(ctx, full)
	if err != nil {
		return nil, err
	}
	return append(figures, control...), errors.Join(full.stop(), small.stop())
}

// bareSite raises a gateway that forwards everything.
func (b *bench) bareSite(ctx context.Context, name string, pop population) (*site, error) {
	s, err := newSite(b.lab, name, pop)
	if err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{s.links, s.plug, s.bind, s.settle} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	b.say("%s: %d guests", name, len(s.guests()))
	return s, nil
}

// jump loads the usual design into a site.
func (b *bench) jump(ctx context.Context, s *site) error {
	sets, rules := s.pop.jumps()
	if _, err := s.gateway.RunInput(ctx, strings.NewReader(sets), "ipset", "restore"); err != nil {
		return err
	}
	start := time.Now()
	if _, err := s.gateway.RunInput(ctx, strings.NewReader(rules), "iptables-"+b.backend+"-restore", "--noflush"); err != nil {
		return err
	}
	b.say("%s: %d rules loaded in %.1f s", s.name, strings.Count(rules, "\n-A "), time.Since(start).Seconds())
	return s.settle(ctx)
}

// ruledSite raises a gateway that gatehouse runs.
func (b *bench) ruledSite(ctx context.Context, name string, pop population) (*site, error) {
	s, err := newSite(b.lab, name, pop)
	if err != nil {
		return nil, err
	}
	if err := s.start(ctx, b.bin, b.backend); err != nil {
		return nil, err
	}
	manifest, err := pop.manifest()
	if err != nil {
		return nil, err
	}
	if err := s.apply(ctx, manifest); err != nil {
		return nil, err
	}
	b.say("%s: applied", name)
	if err := s.plug(ctx); err != nil {
		return nil, err
	}
	b.say("%s: plugged", name)
	if err := s.settle(ctx); err != nil {
		return nil, err
	}
	st, err := s.client.Status(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range st.Problems {
		b.say("%s: problem: %s: %s", name, p.Code, p.Message)
	}
	b.say("%s: %d instances, %d chains, %d rules, %d sets", name, st.Instances, st.Firewall.Chains, st.Firewall.Rules, st.Firewall.Sets)
	return s, nil
}

// row is something that is measured on one site.
type row struct {
	site    *site
	what    string
	measure func() (rate, error)
	samples []float64 // by processor time
}

func (b *bench) traffic(ctx context.Context, bare, full, small, jumps *site) ([]figure, error) {
	rows := map[string]*row{}
	order := []*row{}
	add := func(s *site, what string, measure func(*site) (rate, error)) {
		r := &row{site: s, what: what, measure: func() (rate, error) { return measure(s) }}
		rows[s.name+" "+what] = r
		order = append(order, r)
	}
	connects := func(family int) func(*site) (rate, error) {
		return func(s *site) (rate, error) {
			n, err := s.connects(family, b.slice)
			return n, errors.Join(err, s.forget(ctx))
		}
	}
	flood := func(family int) func(*site) (rate, error) {
		return func(s *site) (rate, error) { return s.flood(family, b.slice) }
	}
	for f, name := range []string{"tcp4", "tcp6"} {
		add(bare, name, connects(f))
		add(full, name, connects(f))
	}
	add(bare, "udp6", flood(1))
	add(full, "udp6", flood(1))
	for _, s := range []*site{bare, full, small, jumps} {
		add(s, "udp4", flood(0))
	}
	for n := range b.rounds {
		for i := range order {
			r := order[i]
			if n%2 == 1 {
				r = order[len(order)-1-i]
			}
			v, err := r.measure()
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", r.site.name, r.what, err)
			}
			r.samples = append(r.samples, v.perCPU)
			if b.verbose {
				b.say("round %d: %-6s %s: %.0f by the second of processor time, %.0f by the clock", n+1, r.site.name, r.what, v.perCPU, v.perSecond)
			}
		}
		b.say("round %d of %d", n+1, b.rounds)
	}
	of := func(name string) []float64 { return rows[name].samples }
	const noRules = "no firewall"
	return []figure{
		{name: "new TCP connections, IPv4", unit: "/cpu-s", samples: of("full tcp4"), reference: of("bare tcp4"), against: noRules, must: 0.75, aim: 0.85, atLeast: true},
		{name: "new TCP connections, IPv6", unit: "/cpu-s", samples: of("full tcp6"), reference: of("bare tcp6"), against: noRules, must: 0.75, aim: 0.85, atLeast: true},
		{name: "new UDP packets, IPv4", unit: "/cpu-s", samples: of("full udp4"), reference: of("bare udp4"), against: noRules, must: 0.65, aim: 0.80, atLeast: true},
		{name: "new UDP packets, IPv6", unit: "/cpu-s", samples: of("full udp6"), reference: of("bare udp6"), against: noRules, must: 0.65, aim: 0.80, atLeast: true},
		{name: "new UDP packets, of per-instance chains", unit: "/cpu-s", samples: of("full udp4"), reference: of("jumps udp4"), against: "jump chains", must: 5, aim: 7, atLeast: true},
		{name: "new UDP packets, of 100 instances", unit: "/cpu-s", samples: of("full udp4"), reference: of("small udp4"), against: "100 instances", must: 0.85, aim: 0.95, atLeast: true},
	}, nil
}

// forget empties the site's connection tracking table: what a round leaves must not weigh on the next.
func (s *site) forget(ctx context.Context) error {
	_, err := s.gateway.Run(ctx, "conntrack", "-F")
	return err
}

func (b *bench) control(ctx context.Context, full *site) ([]figure, error) {
	if err := full.forget(ctx); err != nil {
		return nil, err
	}
	members, err := full.memberships(ctx, 5*b.rounds)
	if err != nil {
		return nil, fmt.Errorf("membership: %w", err)
	}
	b.say("membership: %s ms", spread(members))
	rules, err := full.ruleChanges(ctx, b.rounds)
	if err != nil {
		return nil, fmt.Errorf("rule: %w", err)
	}
	b.say("rule: %s ms", spread(rules))
	memory, err := full.memory()
	if err != nil {
		return nil, err
	}
	compile, err := compiles(full.pop, max(b.rounds, 7))
	if err != nil {
		return nil, err
	}
	b.say("compile: %s ms", spread(compile))
	var cold []float64
	resident := []float64{memory}
	for range 5 {
		seconds, mb, err := coldApply(ctx, b.bin, b.backend, full.pop)
		if err != nil {
			return nil, fmt.Errorf("cold apply: %w", err)
		}
		cold, resident = append(cold, seconds), append(resident, mb)
		b.say("cold apply: %.2f s, %.0f MB", seconds, mb)
	}
	return []figure{
		{name: "membership of an instance, call to enforced", unit: "ms", samples: members, must: 10, aim: 3},
		{name: "one rule of one group, call to enforced", unit: "ms", samples: rules, must: 80, aim: 40},
		{name: "compile, cold", unit: "ms", samples: compile, must: 300, aim: 100},
		{name: "apply, cold, both families", unit: "s", samples: cold, must: 9, aim: 6.5},
		{name: "resident memory of the daemon", unit: "MB", samples: resident, must: 250, aim: 120},
	}, nil
}
