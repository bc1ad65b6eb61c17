package main

import (
	"fmt"
	"slices"
	"text/tabwriter"
)

// figure is one number of ours beside a peer's, and what their ratio must and should be. Without a minimum or a maximum
// it is shown only.
type figure struct {
	workload string
	what     string
	of       func(sample) float64
	peer     string
	must     float64
	aim      float64
	atLeast  bool // more is better
}

func rate(s sample) float64    { return s.rate }
func cpu(s sample) float64     { return s.cpu }
func latency(s sample) float64 { return s.latency }

var figures = []figure{
	{"udp", "CPU us/query", cpu, "nsd", 1.05, 0.90, false},
	{"udp", "CPU us/query", cpu, "knot", 1.10, 0.95, false},
	{"udp", "CPU us/query", cpu, "coredns", 0.50, 0.40, false},
	{"udp", "CPU us/query", cpu, "dnsmasq", 0.35, 0.28, false},
	{"udp", "queries/s", rate, "nsd", 0.90, 1.05, true},
	{"edns", "CPU us/query", cpu, "nsd", 1.05, 0.90, false},
	{"edns", "CPU us/query", cpu, "knot", 1.10, 0.95, false},
	{"slow", "CPU us/query", cpu, "nsd", 1.25, 1.05, false},
	{"slow", "latency us", latency, "nsd", 1.10, 1.00, false},
	{"tcp", "CPU us/query", cpu, "nsd", 0.40, 0.25, false},
	{"tcp", "queries/s", rate, "nsd", 2.5, 4, true},
	{"cached", "CPU us/query", cpu, "unbound", 1.3, 1.0, false},
}

const (
	mustMemory = 0.7
	aimMemory  = 0.4
)

// spread is a figure's values over the rounds.
type spread struct{ median, min, max float64 }

func spreadOf[S any](samples []S, of func(S) float64) spread {
	v := make([]float64, len(samples))
	for i, s := range samples {
		v[i] = of(s)
	}
	slices.Sort(v)
	n := len(v)
	return spread{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]}
}

func (s spread) String() string { return fmt.Sprintf("%.4g [%.4g..%.4g]", s.median, s.min, s.max) }

// verdict judges a ratio: it fails when the medians miss what must be and the ranges, the peer's scaled by it, do not
// overlap.
func verdict(f figure, ours, theirs spread) string {
	ratio, sign := ours.median/theirs.median, 1.0
	apart := ours.min > f.must*theirs.max
	if f.atLeast {
		sign, apart = -1, ours.max < f.must*theirs.min
	}
	switch {
	case sign*ratio <= sign*f.aim:
		return "PASS, aim reached"
	case sign*ratio <= sign*f.must:
		return "PASS"
	case !apart:
		return "missed, ranges overlap"
	}
	return "FAIL"
}

// report prints the table and reports whether nothing failed.
func (b *bench) report() bool {
	ok := true
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nworkload\tfigure\tgatehouse\tpeer\t\tratio\tmust\taim\t")
	for _, f := range figures {
		ours, theirs := b.runs[f.workload]["gatehouse"], b.runs[f.workload][f.peer]
		if len(ours) == 0 || len(theirs) == 0 {
			continue
		}
		o, p := spreadOf(ours, f.of), spreadOf(theirs, f.of)
		ok = b.row(t, f, o, p) && ok
	}
	if len(b.busy) > 0 {
		b.reportChanges(t, &ok)
	}
	if nsd := b.running["nsd"]; nsd != nil && b.running[aloneServer] != nil {
		f := figure{workload: "memory", what: "PSS MB, DNS alone", peer: "nsd", must: mustMemory, aim: aimMemory}
		o, p := b.megabytes(aloneServer), b.megabytes("nsd")
		ok = b.row(t, f, spread{o, o, o}, spread{p, p, p}) && ok
		fmt.Fprintf(t, "memory\tPSS MB, whole daemon\t%.1f\tnsd\t%.1f\t%.2f\t\t\tshown only\n", b.megabytes("gatehouse"), p, b.megabytes("gatehouse")/p)
	}
	t.Flush()
	return ok
}

// reportChanges compares asking while a revision changes names with asking at rest.
func (b *bench) reportChanges(t writer, ok *bool) {
	of := func(changes []change, what func(change) float64) spread {
		samples := make([]float64, len(changes))
		for i, c := range changes {
			samples[i] = what(c)
		}
		return spreadOf(samples, func(v float64) float64 { return v })
	}
	cpu := func(c change) float64 { return c.cpu }
	f := figure{workload: changeWorkload, what: fmt.Sprintf("CPU us/query, %d names change once in %s", changed, changeSpan), peer: "at rest", must: 1.3, aim: 1.15}
	*ok = b.row(t, f, of(b.busy, cpu), of(b.rest, cpu)) && *ok
	for _, shown := range []struct {
		what string
		of   func(change) float64
	}{
		{"p50 us", func(c change) float64 { return c.P50 }},
		{"p99 us", func(c change) float64 { return c.P99 }},
		{"lost", func(c change) float64 { return float64(c.Lost) }},
	} {
		busy, rest := of(b.busy, shown.of), of(b.rest, shown.of)
		ratio := "-"
		if rest.median > 0 {
			ratio = fmt.Sprintf("%.2f", busy.median/rest.median)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\tat rest\t%s\t%s\t\t\tshown only\n", changeWorkload, shown.what, busy, rest, ratio)
	}
	fmt.Fprintf(t, "%s\tseconds until in force\t%s\t\t\t\t\t\tshown only\n", changeWorkload, of(b.busy, func(c change) float64 { return c.force.Seconds() }))
	answers := 0
	for _, c := range slices.Concat(b.busy, b.rest) {
		answers += c.Answers
	}
	fmt.Fprintf(t, "%s\twrong, mixed or old answers\t0 of %d\t\t\t\tnone\t\tPASS\n", changeWorkload, answers)
}

func (b *bench) row(t writer, f figure, ours, theirs spread) bool {
	op := "<="
	if f.atLeast {
		op = ">="
	}
	v := verdict(f, ours, theirs)
	fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%.2f\t%s %.2f\t%s %.2f\t%s\n", f.workload, f.what, ours, f.peer, theirs, ours.median/theirs.median, op, f.must, op, f.aim, v)
	return v != "FAIL"
}

func (b *bench) megabytes(server string) float64 {
	return float64(memory(b.running[server].cmd.Process.Pid)) / (1 << 20)
}
