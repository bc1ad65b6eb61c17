package main

import (
	"strings"
	"testing"
)

func TestAFigureFailsOnlyWhenMedianAndRangesMiss(t *testing.T) {
	more := figure{more: true, must: 1.2, aim: 1.5}
	less := figure{must: 1.15, aim: 0.9}
	amount := figure{more: true, must: 200, aim: 1000}
	for _, tt := range []struct {
		name       string
		figure     figure
		ours, peer series
		want       string
	}{
		{"a rate that reaches the aim", more, series{140, 150, 170}, series{100, 100, 90}, verdictAim},
		{"a rate that reaches what it must", more, series{120, 130, 170}, series{100, 100, 90}, verdictPass},
		{"a rate that misses, with ranges that overlap", more, series{90, 100, 119}, series{95, 100, 120}, verdictUnclear},
		{"a rate that misses", more, series{90, 100, 110}, series{95, 100, 120}, verdictFail},
		{"a cost that reaches the aim", less, series{80, 90, 300}, series{100, 100, 100}, verdictAim},
		{"a cost that reaches what it must", less, series{80, 115, 300}, series{100, 100, 100}, verdictPass},
		{"a cost that misses, with ranges that overlap", less, series{114, 116, 118}, series{100, 100, 100}, verdictUnclear},
		{"a cost that misses", less, series{116, 117, 118}, series{100, 100, 100}, verdictFail},
		{"an amount that reaches the aim", amount, series{1000}, nil, verdictAim},
		{"an amount that reaches what it must", amount, series{100, 200, 1000}, nil, verdictPass},
		{"what is only shown", figure{more: true}, series{1}, series{100}, verdictShown},
		{"an amount that misses", amount, series{100, 199, 1000}, nil, verdictFail},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.figure.verdict(tt.ours, tt.peer); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

func TestTheTableShowsWhatWasMeasuredAndFailsWithIt(t *testing.T) {
	r := results{}
	r.add("steady", gatehouse, cpuKey, 80)
	r.add("steady", kea, cpuKey, 100)
	var b strings.Builder
	if !report(&b, r) {
		t.Errorf("a figure that reaches its aim fails:\n%s", &b)
	}
	if got := b.String(); strings.Count(got, "\n") != 3 || !strings.Contains(got, "0.8 ") || !strings.Contains(got, "aim") {
		t.Errorf("the table is\n%s", got)
	}
	r.add("enrol", gatehouse, rateKey, 10)
	if report(&b, r) {
		t.Error("a figure that misses does not fail")
	}
}

func TestParseLoadReadsPerfdhcpsReport(t *testing.T) {
	const text = `***Rate statistics***
Rate: 5178 4-way exchanges/second
***Statistics for: DISCOVER-OFFER***
sent packets: 34991
received packets: 25006
drops: 9985
drops ratio: 28.536 %

avg delay: 11.275 ms
***Statistics for: REQUEST-ACK***
sent packets: 25006
received packets: 15534
`
	got, err := parseLoad(text)
	if want := (load{asked: 34991, offered: 25006, finished: 15534}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if _, err := parseLoad(text[:strings.Index(text, "***Statistics for: REQUEST")]); err == nil {
		t.Error("half a report is taken for a whole one")
	}
}
