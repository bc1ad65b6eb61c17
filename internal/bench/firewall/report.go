package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// figure is one row of the result: samples, mostly against a reference row of the same run.
type figure struct {
	name      string
	unit      string
	samples   []float64
	reference []float64 // sample by sample, taken right before or after; nil: the bounds are absolute
	against   string    // what the reference is
	must, aim float64   // of the ratio, or of the sample itself
	atLeast   bool      // whether more is better
	note      string
}

// ratios pairs each sample with the reference of its round.
func (f figure) ratios() []float64 {
	out := make([]float64, len(f.samples))
	for i := range out {
		out[i] = f.samples[i] / f.reference[i]
	}
	return out
}

// judged are the values that the bounds are about.
func (f figure) judged() []float64 {
	if f.reference == nil {
		return f.samples
	}
	return f.ratios()
}

// passed: a figure fails only if its median misses the bound and the two ranges are apart as well, that is, if no reference
// in the run would have let any sample pass.
func (f figure) passed() bool {
	if f.meets(median(f.judged()), f.must) {
		return true
	}
	if f.reference == nil {
		return false
	}
	if f.atLeast {
		return slices.Max(f.samples) >= f.must*slices.Min(f.reference)
	}
	return slices.Min(f.samples) <= f.must*slices.Max(f.reference)
}

func (f figure) meets(v, bound float64) bool {
	if f.atLeast {
		return v >= bound
	}
	return v <= bound
}

func (f figure) verdict() string {
	switch m := median(f.judged()); {
	case !f.passed():
		return "FAIL"
	case !f.meets(m, f.must):
		return "pass (misses, ranges overlap)"
	case f.meets(m, f.aim):
		return "pass, aim met"
	}
	return "pass"
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// spread writes median [min..max].
func spread(v []float64) string {
	if len(v) == 0 {
		return "-"
	}
	return fmt.Sprintf("%s [%s..%s]", short(median(v)), short(slices.Min(v)), short(slices.Max(v)))
}

// short writes a number with about three digits.
func short(v float64) string {
	switch {
	case v >= 10_000:
		return fmt.Sprintf("%.1fk", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// report prints the figures and says whether all have passed.
func report(w io.Writer, figures []figure) (ok bool) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FIGURE\tMEASURED\tREFERENCE\tRATIO\tMUST\tAIM\tVERDICT")
	ok = true
	for _, f := range figures {
		ratio, reference, sign := "-", "-", "<="
		if f.reference != nil {
			ratio, reference = spread(f.ratios()), spread(f.reference)+" "+f.against
		}
		if f.atLeast {
			sign = ">="
		}
		fmt.Fprintf(t, "%s\t%s %s\t%s\t%s\t%s %s\t%s\t%s\n", f.name, spread(f.samples), f.unit, reference, ratio, sign, short(f.must), short(f.aim), f.verdict())
		ok = ok && f.passed()
	}
	t.Flush()
	for _, f := range figures {
		if f.note != "" {
			fmt.Fprintf(w, "%s: %s\n", f.name, f.note)
		}
	}
	return ok
}
