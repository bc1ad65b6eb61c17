// Command dhcp measures gatehouse's DHCP beside Kea, ISC dhcpd and dnsmasq: the same clients (perfdhcp, which speaks as a
// relay, or a crowd of our own where perfdhcp would be slower than the server; of DHCPv6 our own), one core for the server and
// another for the clients, two network namespaces.
//
// gatehouse is the daemon itself, with every client a registered interface, and every ACK durable. ISC dhcpd and dnsmasq
// sync their lease files too; Kea's memfile does not: what it has acknowledged may be lost with the power.
//
// Rates differ by a factor of two and three from run to run on a shared machine; only ratios within one run mean
// something. So the servers take turns, forwards and backwards, and a figure fails only when its median misses and
// the ranges do not overlap either.
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
	lock      string        // a file to lock while measuring; empty: none
	only      string        // workloads, separated by commas; empty: all
	rounds    int           // of each workload
	span      time.Duration // of one measurement
}

func main() {
	var o options
	quick := flag.Bool("quick", false, "2 rounds of 1 s: a first impression")
	flag.StringVar(&o.gatehouse, "gatehouse", "bin/gatehouse", "the daemon's binary")
	flag.StringVar(&o.lock, "lock", "", "a file to lock while measuring, shared with other benchmarks of the machine")
	flag.StringVar(&o.only, "only", "", "workloads to run: "+strings.Join(workloadNames(), ","))
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of each workload")
	flag.DurationVar(&o.span, "span", 3*time.Second, "length of one measurement, in whole seconds")
	flag.Parse()
	if *quick {
		o.rounds, o.span = 2, time.Second
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ok, err := run(ctx, os.Stdout, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench dhcp:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// run measures everything and reports whether no figure failed.
func run(ctx context.Context, w io.Writer, o options) (ok bool, err error) {
	lab, err := netlab.New("benchdhcp")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	b := &bench{options: o, out: w, lab: lab, results: results{}}
	if err := b.prepare(ctx); err != nil {
		return false, err
	}
	sync, err := syncTime(lab.Dir)
	if err != nil {
		return false, err
	}
	fmt.Fprintf(w, "fdatasync of 4 KiB takes %s (median); a durable lease waits for two\n", sync)
	for _, wl := range workloads {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), wl.name) {
			continue
		}
		if err := b.measure(ctx, wl); err != nil {
			return false, fmt.Errorf("%s: %w", wl.name, err)
		}
	}
	return report(w, b.results), nil
}

// bench is one run of the program.
type bench struct {
	options
	out     io.Writer
	lab     *netlab.Lab
	ours    *world // gatehouse's, whose rules stay in the kernel when it ends
	theirs  *world
	results results
}

// workload is what servers are measured with, one after the other.
type workload struct {
	name    string
	servers []string
	measure func(b *bench, ctx context.Context, server string) error
}

var workloads = []workload{
	{"most", []string{gatehouse, kea, isc}, func(b *bench, ctx context.Context, server string) error {
		return b.mostByCrowd(ctx, "most", server, fewClients, false)
	}},
	{"new", []string{gatehouse, kea, dnsmasq}, func(b *bench, ctx context.Context, server string) error {
		return b.mostByCrowd(ctx, "new", server, manyClients, true)
	}},
	{"perfdhcp", []string{gatehouse, kea, isc}, func(b *bench, ctx context.Context, server string) error {
		return b.most(ctx, "perfdhcp", server, fewClients)
	}},
	{"perfdhcp-new", []string{gatehouse, kea, dnsmasq}, func(b *bench, ctx context.Context, server string) error {
		return b.most(ctx, "perfdhcp-new", server, manyClients)
	}},
	{"steady", []string{gatehouse, kea}, (*bench).steady},
	{"overload", []string{gatehouse}, (*bench).overload},
	{"enrol", []string{gatehouse}, (*bench).enrolments},
	{"restart", []string{gatehouse, kea}, (*bench).restart},
	{"steady6", []string{gatehouse, kea}, func(b *bench, ctx context.Context, server string) error {
		return b.exchanges6(ctx, "steady6", server)
	}},
}

func workloadNames() []string {
	names := make([]string, len(workloads))
	for i, wl := range workloads {
		names[i] = wl.name
	}
	return names
}

// measure runs one workload against its servers in turns.
func (b *bench) measure(ctx context.Context, wl workload) error {
	servers := slices.Clone(wl.servers)
	for round := range b.rounds {
		if err := b.locked(func() error {
			for _, s := range servers {
				if err := wl.measure(b, ctx, s); err != nil {
					return fmt.Errorf("%s: %w", s, err)
				}
			}
			return nil
		}); err != nil {
			return err
		}
		slices.Reverse(servers)
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
