// Command dns measures gatehouse's DNS beside NSD, Knot, Unbound, dnsmasq and CoreDNS: the same 30,000 records, the same
// questions, one network namespace, one core for the server and another for the generator (dnsperf).
//
// gatehouse is the daemon itself, with 10,000 instances in force, asked at its gateway address. Rates differ by a factor
// of two and three from run to run on a shared machine; only ratios within one run mean something, and those of CPU per
// question most. So the servers take turns, forwards and backwards, and a figure fails only when its median misses
// and the ranges do not overlap either. At the end gatehouse is measured beside itself: while a revision changes 10,000
// names, and at rest; every answer is checked.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"gatehouse/internal/netlab"
)

// options are the command line.
type options struct {
	gatehouse string        // the daemon's binary
	coredns   string        // CoreDNS's binary; empty: built if its module can be downloaded
	lock      string        // a file to lock while measuring; empty: none
	only      string        // workloads, separated by commas; empty: all
	rounds    int           // of each workload
	span      time.Duration // of one measurement
}

func main() {
	if len(os.Args) > 1 {
		var f func() error
		switch os.Args[1] {
		case aloneVerb:
			f = func() error { return serveAlone(context.Background()) }
		case askVerb:
			f = func() error { return askAndCheck(os.Args[2:], os.Stdout) }
		}
		if f != nil {
			if err := f(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	var o options
	quick := flag.Bool("quick", false, "3 rounds of 1 s: a first impression")
	flag.StringVar(&o.gatehouse, "gatehouse", "bin/gatehouse", "the daemon's binary")
	flag.StringVar(&o.coredns, "coredns", "", "a CoreDNS binary; it is built otherwise")
	flag.StringVar(&o.lock, "lock", "", "a file to lock while measuring, shared with other benchmarks of the machine")
	flag.StringVar(&o.only, "only", "", "workloads to run: udp,edns,slow,tcp,cached,change")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of each workload")
	flag.DurationVar(&o.span, "span", 3*time.Second, "length of one measurement, in whole seconds")
	flag.Parse()
	if *quick {
		o.rounds, o.span = 3, time.Second
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, os.Stdout, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench dns:", err)
	}
	if err != nil || !ok {
		stop()
		os.Exit(1)
	}
}

// run measures everything and reports whether no figure failed.
func run(ctx context.Context, w io.Writer, o options) (ok bool, err error) {
	lab, err := netlab.New("benchdns")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	space, err := lab.Space("dns")
	if err != nil {
		return false, err
	}
	b := &bench{space: space, dir: lab.Dir, options: o, out: w, running: map[string]*process{}, runs: map[string]map[string][]sample{}}
	defer b.stopAll()
	if err := writeData(lab.Dir); err != nil {
		return false, err
	}
	if err := b.startServers(ctx); err != nil {
		return false, err
	}
	for _, wl := range workloads {
		if !b.wants(wl.name) {
			continue
		}
		if err := b.measure(ctx, wl); err != nil {
			return false, err
		}
	}
	if b.wants(changeWorkload) {
		if err := b.measureChanges(ctx); err != nil {
			return false, err
		}
	}
	return b.report(), nil
}

// wants reports whether a workload is to be run.
func (o options) wants(workload string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), workload)
}

// measure runs one workload against its servers in turns.
func (b *bench) measure(ctx context.Context, wl workload) error {
	present := slices.DeleteFunc(slices.Clone(wl.servers), func(s string) bool { return b.running[s] == nil })
	b.runs[wl.name] = map[string][]sample{}
	for _, s := range present { // once for caches, buffers and branch predictors
		if _, err := b.load(ctx, wl, s, 2*time.Second); err != nil {
			return err
		}
	}
	for round := range b.rounds {
		if err := b.locked(func() error {
			for _, s := range present {
				r, err := b.load(ctx, wl, s, b.span)
				if err != nil {
					return err
				}
				b.runs[wl.name][s] = append(b.runs[wl.name][s], r)
			}
			return nil
		}); err != nil {
			return err
		}
		slices.Reverse(present)
		fmt.Fprintf(b.out, "%s: round %d of %d\n", wl.name, round+1, b.rounds)
	}
	return nil
}

// locked calls f while nobody else who uses the lock measures.
func (b *bench) locked(f func() error) error {
	if b.lock == "" {
		return f()
	}
	file, err := os.OpenFile(b.lock, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer file.Close() // and unlock
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", b.lock, err)
	}
	return f()
}
