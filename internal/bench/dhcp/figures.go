package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
)

// What is measured of a server under a workload.
const (
	rateKey    = "finished per second"
	bestKey    = "finished per second when not overloaded"
	offeredKey = "asked for per second"
	cpuKey     = "CPU us per exchange"
	secondsKey = "seconds"
)

// series are measurements of one thing, one a round.
type series []float64

func (s series) median() float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

func (s series) String() string {
	if len(s) == 0 {
		return "-"
	}
	return fmt.Sprintf("%s [%s..%s]", number(s.median()), number(slices.Min(s)), number(slices.Max(s)))
}

func number(x float64) string {
	if x >= 100 {
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return strconv.FormatFloat(x, 'g', 3, 64)
}

// results are all measurements by workload, server and key.
type results map[[3]string]series

func (r results) add(workload, server, key string, value float64) {
	k := [3]string{workload, server, key}
	r[k] = append(r[k], value)
}

func (r results) of(workload, server, key string) series { return r[[3]string{workload, server, key}] }

// figure is one thing that gatehouse promises: a ratio to a peer, or with no peer an amount.
type figure struct {
	name          string
	workload, key string
	peer, peerKey string
	more          bool    // more is better
	must, aim     float64 // of ours divided by the peer's; zero: it is only shown
}

var figures = []figure{
	{"durable exchanges/s, 4,000 clients, vs Kea (not durable)", "most", rateKey, kea, rateKey, true, 1.2, 1.5},
	{"the same, CPU per exchange", "most", cpuKey, kea, cpuKey, false, 0.7, 0.5},
	{"as perfdhcp asks, whose core is busy first", "perfdhcp", rateKey, kea, rateKey, true, 0, 0},
	{"durable exchanges/s, 60,000 new clients, vs Kea", "new", rateKey, kea, rateKey, true, 0.8, 1.0},
	{"the same, CPU per exchange of a new client", "new", cpuKey, kea, cpuKey, false, 0, 0},
	{"as perfdhcp asks", "perfdhcp-new", rateKey, kea, rateKey, true, 0, 0},
	{"CPU per exchange at 4,000/s, vs Kea", "steady", cpuKey, kea, cpuKey, false, 1.15, 0.9},
	{"CPU per DHCPv6 exchange at 4,000/s, vs Kea", "steady6", cpuKey, kea, cpuKey, false, 1.2, 1.0},
	{"exchanges/s, 4,000 clients, vs ISC dhcpd (durable)", "most", rateKey, isc, rateKey, true, 3, 4},
	{"as perfdhcp asks", "perfdhcp", rateKey, isc, rateKey, true, 0, 0},
	{"exchanges/s, 60,000 new clients, vs dnsmasq (durable)", "new", rateKey, dnsmasq, rateKey, true, 8, 12},
	{"as perfdhcp asks", "perfdhcp-new", rateKey, dnsmasq, rateKey, true, 0, 0},
	{"exchanges/s at twice the load it can carry, vs its best", "overload", rateKey, gatehouse, bestKey, true, 0.7, 0.9},
	{"unknown guests enrolled per second", "enrol", rateKey, "", "", true, 200, 1000},
	{"restart with 65,000 leases to the first right OFFER, vs Kea", "restart", secondsKey, kea, secondsKey, false, 0.3, 0.15},
}

// The verdicts on a figure.
const (
	verdictAim     = "aim"
	verdictPass    = "pass"
	verdictUnclear = "unclear" // the median misses, but the ranges overlap
	verdictFail    = "FAIL"
	verdictShown   = "shown only"
)

// ratio is ours to the peer's, of medians.
func ratio(ours, peer series) float64 {
	if len(peer) == 0 {
		return ours.median()
	}
	return ours.median() / peer.median()
}

// verdict compares two series with what was promised.
func (f figure) verdict(ours, peer series) string {
	r := ratio(ours, peer)
	reaches := func(r, goal float64) bool { return f.more && r >= goal || !f.more && r <= goal }
	switch {
	case f.must == 0:
		return verdictShown
	case reaches(r, f.aim):
		return verdictAim
	case reaches(r, f.must):
		return verdictPass
	case len(peer) == 0:
		return verdictFail
	}
	best := slices.Max(ours) / slices.Min(peer)
	if !f.more {
		best = slices.Min(ours) / slices.Max(peer)
	}
	if reaches(best, f.must) {
		return verdictUnclear
	}
	return verdictFail
}

// report prints every figure that was measured and reports whether none failed.
func report(w io.Writer, r results) bool {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	ok := true
	fmt.Fprintln(t, "\nfigure\tgatehouse\tpeer\tratio\tmust\taim\t")
	for _, f := range figures {
		ours, peer := r.of(f.workload, gatehouse, f.key), r.of(f.workload, f.peer, f.peerKey)
		if len(ours) == 0 {
			continue
		}
		sign := "<="
		if f.more {
			sign = ">="
		}
		verdict := f.verdict(ours, peer)
		ok = ok && verdict != verdictFail
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s %s\t%s\t%s\n", f.name, ours, peer, number(ratio(ours, peer)), sign, number(f.must), number(f.aim), verdict)
	}
	if asked := r.of("overload", gatehouse, offeredKey); len(asked) > 0 {
		fmt.Fprintf(t, "(asked for when overloaded, per second)\t%s\n", asked)
	}
	t.Flush()
	return ok
}
