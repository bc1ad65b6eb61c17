package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// workload is one way of asking.
type workload struct {
	name    string
	servers []string
	queries string   // file of questions
	args    []string // of dnsperf
}

var workloads = []workload{
	{"udp", []string{"gatehouse", "nsd", "knot", "coredns", "dnsmasq"}, "queries.txt", []string{"-c", "8", "-q", "100"}},
	{"edns", []string{"gatehouse", "nsd", "knot"}, "queries.txt", []string{"-c", "8", "-q", "100", "-e"}},
	{"slow", []string{"gatehouse", "nsd"}, "queries.txt", []string{"-c", "4", "-q", "100", "-Q", "5000"}},
	{"tcp", []string{"gatehouse", "nsd"}, "queries.txt", []string{"-c", "8", "-q", "100", "-m", "tcp"}},
	{"cached", []string{"gatehouse", "unbound"}, "outside.txt", []string{"-c", "8", "-q", "100"}},
}

// sample is one measurement.
type sample struct {
	rate    float64 // answers per second
	cpu     float64 // microseconds of the server's processes per answer
	latency float64 // microseconds, average
	lost    float64 // part of the questions
	wrong   float64 // part of the answers that are neither NOERROR nor NXDOMAIN
}

var (
	completedRE = regexp.MustCompile(`Queries completed:\s+(\d+)`)
	sentRE      = regexp.MustCompile(`Queries sent:\s+(\d+)`)
	rateRE      = regexp.MustCompile(`Queries per second:\s+([\d.]+)`)
	latencyRE   = regexp.MustCompile(`Average Latency \(s\):\s+([\d.]+)`)
	rcodesRE    = regexp.MustCompile(`(NOERROR|NXDOMAIN) (\d+)`)
)

// load measures one server under one workload.
func (b *bench) load(ctx context.Context, wl workload, server string, span time.Duration) (sample, error) {
	p := b.running[server]
	args := append([]string{"-c", loadCore, "dnsperf", "-s", p.addr.Addr().String(), "-p", strconv.Itoa(int(p.addr.Port())),
		"-d", filepath.Join(b.dir, wl.queries), "-l", strconv.Itoa(int(span.Seconds())), "-T", "1", "-t", "1"}, wl.args...)
	before, err := cpuTime(p.cmd.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	out, err := b.space.Run(ctx, "taskset", args...)
	if err != nil {
		return sample{}, err
	}
	after, err := cpuTime(p.cmd.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	number := func(re *regexp.Regexp) float64 {
		m := re.FindStringSubmatch(out)
		if m == nil {
			return 0
		}
		n, _ := strconv.ParseFloat(m[1], 64) // the pattern is a number
		return n
	}
	done, sent := number(completedRE), number(sentRE)
	if done == 0 {
		return sample{}, fmt.Errorf("%s answered nothing:\n%s", server, out)
	}
	good := 0.0
	for _, m := range rcodesRE.FindAllStringSubmatch(out, -1) {
		n, _ := strconv.ParseFloat(m[2], 64) // the pattern is a number
		good += n
	}
	s := sample{
		rate: number(rateRE), cpu: float64((after - before).Microseconds()) / done, latency: number(latencyRE) * 1e6,
		lost: max(0, sent-done) / sent, wrong: (done - good) / done,
	}
	// CoreDNS's hosts plugin has no zone and so no NXDOMAIN to give: those 5 % are SERVFAIL.
	if s.wrong > 0.001 && server != "coredns" || s.lost > 0.01 {
		return sample{}, fmt.Errorf("%s, %s: %.1f %% lost, %.1f %% wrong:\n%s", server, wl.name, 100*s.lost, 100*s.wrong, out)
	}
	return s, nil
}

// clockTick is the unit of CPU times in /proc: USER_HZ, 100 on every architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// cpuTime returns the CPU time of a process and its descendants.
func cpuTime(pid int) (time.Duration, error) {
	ticks := 0
	for _, p := range tree(pid) {
		f, err := stat(p)
		if err != nil {
			continue // it has ended
		}
		ticks += f.user + f.system
	}
	if ticks == 0 {
		return 0, fmt.Errorf("process %d has no CPU time: is it there?", pid)
	}
	return time.Duration(ticks) * clockTick, nil
}

// memory returns the proportional set size of a process and its descendants in octets.
func memory(pid int) int {
	total := 0
	for _, p := range tree(pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
				n, _ := strconv.Atoi(f[1]) // the kernel writes numbers
				total += n << 10
			}
		}
	}
	return total
}

type procStat struct{ parent, user, system int }

// stat reads the fields of /proc/PID/stat that matter here; see proc_pid_stat(5).
func stat(pid int) (procStat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	_, rest, ok := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 13 {
		return procStat{}, fmt.Errorf("process %d: unexpected stat", pid)
	}
	var s procStat
	for field, at := range map[*int]int{&s.parent: 1, &s.user: 11, &s.system: 12} {
		if *field, err = strconv.Atoi(f[at]); err != nil {
			return procStat{}, err
		}
	}
	return s, nil
}

// tree returns a process and its descendants.
func tree(pid int) []int {
	children := map[int][]int{}
	entries, _ := os.ReadDir("/proc") // without it there is no process either
	for _, e := range entries {
		if p, err := strconv.Atoi(e.Name()); err == nil {
			if s, err := stat(p); err == nil {
				children[s.parent] = append(children[s.parent], p)
			}
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}
