package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	steadyRate = 4_000 // exchanges per second that every server carries
	lastWait   = 700 * time.Millisecond
)

// load is what perfdhcp measured.
type load struct {
	asked    int // DISCOVERs
	offered  int // OFFERs that it received
	finished int // ACKs that it received in time
}

// perfdhcp runs exchanges for the span, at a rate or, with 0, as many as can be, and waits for the last answers.
func (b *bench) perfdhcp(ctx context.Context, w *world, clients, rate int) (load, error) {
	args := []string{"-c", clientCore, "perfdhcp", "-4", "-l", relayAddr.String(), "-g", "single",
		"-R", strconv.Itoa(clients), "-b", "mac=" + baseMAC, "-o", "82," + hex.EncodeToString(relayInfo()),
		"-p", strconv.Itoa(int(b.span.Seconds())), "-W", strconv.Itoa(int(lastWait.Microseconds()))}
	if rate > 0 {
		args = append(args, "-r", strconv.Itoa(rate))
	}
	cmd := w.clients.Command(ctx, "taskset", append(args, serverAddr.String())...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	const someLost = 3 // its exit code when not every exchange was completed
	if errors.As(err, &exit) && exit.ExitCode() == someLost {
		err = nil
	}
	if err != nil {
		return load{}, fmt.Errorf("perfdhcp: %w: %s", err, out)
	}
	return parseLoad(string(out))
}

var sectionLine = regexp.MustCompile(`(?m)^\*\*\*Statistics for: (.+)\*\*\*$`)

// parseLoad reads perfdhcp's report.
func parseLoad(text string) (load, error) {
	first, err := counts(text, "DISCOVER-OFFER")
	if err != nil {
		return load{}, err
	}
	second, err := counts(text, "REQUEST-ACK")
	return load{asked: first["sent packets"], offered: first["received packets"], finished: second["received packets"]}, err
}

// counts reads the numbers of one section of perfdhcp's report.
func counts(text, section string) (map[string]int, error) {
	for _, at := range sectionLine.FindAllStringSubmatchIndex(text, -1) {
		if text[at[2]:at[3]] != section {
			continue
		}
		out := map[string]int{}
		for line := range strings.Lines(text[at[1]:]) {
			if strings.HasPrefix(line, "***") {
				break
			}
			name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
			if n, err := strconv.Atoi(value); ok && err == nil {
				out[name] = n
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("perfdhcp's report has no section %s: %s", section, text)
}

// exchanges measures a server with clients that have no lease yet.
func (b *bench) exchanges(ctx context.Context, workload, server string, clients, rate int) error {
	return b.fresh(ctx, server, clients, func(p *process) error {
		before, err := usedCPU(p.pid())
		if err != nil {
			return err
		}
		l, err := b.perfdhcp(ctx, b.world(server), clients, rate)
		if err != nil {
			return err
		}
		after, err := usedCPU(p.pid())
		if err != nil {
			return err
		}
		if l.finished == 0 {
			return fmt.Errorf("nobody got an address (%d asked, %d were offered one): %s", l.asked, l.offered, p.logged())
		}
		b.results.add(workload, server, rateKey, float64(l.finished)/b.span.Seconds())
		b.results.add(workload, server, cpuKey, (after-before).Seconds()*1e6/float64(l.finished))
		return nil
	})
}

// overload measures how much is left of the best rate when twice as much is asked for.
func (b *bench) overload(ctx context.Context, server string) error {
	for _, twice := range []bool{false, true} {
		err := b.fresh(ctx, server, fewClients, func(p *process) error {
			rate, key := 0, bestKey
			if twice {
				rate, key = int(2*b.results.last("overload", server, bestKey)), rateKey
			}
			l, err := b.perfdhcp(ctx, b.world(server), fewClients, rate)
			if err != nil {
				return err
			}
			b.results.add("overload", server, key, float64(l.finished)/b.span.Seconds())
			if twice {
				b.results.add("overload", server, offeredKey, float64(l.asked)/b.span.Seconds())
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// fresh runs a server that has no leases yet while f measures it.
func (b *bench) fresh(ctx context.Context, server string, clients int, f func(*process) error) (err error) {
	if err := b.empty(server, clients); err != nil {
		return err
	}
	p, err := b.start(ctx, server, b.dir(server), false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := b.ready(ctx, server, b.dir(server), p); err != nil {
		return err
	}
	return f(p)
}
