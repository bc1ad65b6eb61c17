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
	steadyRate = 4_000                  // exchanges per second that every server carries
	lastWait   = 100 * time.Millisecond // for the last answers: longer, and a server would be credited for its backlog
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

// measured is what a server did under one load.
type measured struct {
	load
	rate float64 // exchanges finished per second
	cpu  float64 // microseconds of the server per exchange
}

// exchange measures a server with clients that have no lease yet, at a rate or, with 0, with as many as can be asked for.
func (b *bench) exchange(ctx context.Context, server string, clients, rate int) (m measured, err error) {
	err = b.fresh(ctx, server, clients, func(p *process) error {
		before, err := usedCPU(p.pid())
		if err != nil {
			return err
		}
		if m.load, err = b.perfdhcp(ctx, b.world(server), clients, rate); err != nil {
			return err
		}
		after, err := usedCPU(p.pid())
		if err != nil {
			return err
		}
		if m.finished == 0 {
			return fmt.Errorf("nobody got an address (%d asked, %d were offered one): %s", m.asked, m.offered, p.logged())
		}
		m.rate = float64(m.finished) / b.span.Seconds()
		m.cpu = (after - before).Seconds() * 1e6 / float64(m.finished)
		return nil
	})
	return m, err
}

// steady measures a server at the rate that every one carries.
func (b *bench) steady(ctx context.Context, server string) error {
	m, err := b.exchange(ctx, server, fewClients, steadyRate)
	if err != nil {
		return err
	}
	b.results.add("steady", server, rateKey, m.rate)
	b.results.add("steady", server, cpuKey, m.cpu)
	return nil
}

// climb is by how much more is asked for from one step to the next.
const climb = 1.25

// best looks for the load under which a server finishes the most exchanges. Asked for as many as can be, perfdhcp spends its
// core on asking and its socket loses the answers that it does not come to read, so that it is often not the most that
// comes of it: it is asked for more and more, until two steps in a row bring no more.
func (b *bench) best(ctx context.Context, server string, clients int) (measured, error) {
	most, err := b.exchange(ctx, server, clients, 0)
	for rate, missed := most.rate, 0; err == nil && missed < 2; rate *= climb {
		var m measured
		if m, err = b.exchange(ctx, server, clients, int(rate)); m.rate > most.rate {
			most, missed = m, 0
		} else {
			missed++
		}
	}
	return most, err
}

// most measures the best of a server.
func (b *bench) most(ctx context.Context, workload, server string, clients int) error {
	m, err := b.best(ctx, server, clients)
	if err != nil {
		return err
	}
	b.results.add(workload, server, rateKey, m.rate)
	b.results.add(workload, server, cpuKey, m.cpu)
	return nil
}

// overload measures how much is left of the best rate when twice as much is asked for.
func (b *bench) overload(ctx context.Context, server string) error {
	best, err := b.best(ctx, server, fewClients)
	if err != nil {
		return err
	}
	m, err := b.exchange(ctx, server, fewClients, int(2*best.rate))
	if err != nil {
		return err
	}
	b.results.add("overload", server, bestKey, best.rate)
	b.results.add("overload", server, rateKey, m.rate)
	b.results.add("overload", server, offeredKey, float64(m.asked)/b.span.Seconds())
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
