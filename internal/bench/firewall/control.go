package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/configs"
	"gatehouse/firewall"
	"gatehouse/internal/netlab"
	"gatehouse/server/api"
	"gatehouse/vpc"
)

// Changes are measured as a user sees them: from the request on the socket to the answer, which comes when the change is
// in force. Then real packets say whether it is.

const (
	groupPort = 2000                  // the first rule of group g admits it from group g+1
	rulePort  = 6500                  // admitted by the rule that is added
	lost      = 40 * time.Millisecond // what has not been answered by then was dropped
)

// reaches reports whether a new TCP connection from a source gets to a port of the target: nobody listens, so a refusal is
// what comes back.
func (s *site) reaches(source, family, port int) (bool, error) {
	var result error
	err := s.clients.Do(func() error {
		result = connectOnce(s.indexes[source], s.targetAddr(family, port), lost)
		return nil
	})
	switch {
	case err != nil:
		return false, err
	case result == nil, errors.Is(result, unix.ECONNREFUSED):
		return true, nil
	case errors.Is(result, unix.EINPROGRESS), errors.Is(result, unix.EAGAIN), errors.Is(result, unix.ETIMEDOUT):
		return false, nil
	}
	return false, result
}

// expect checks both families with packets.
func (s *site) expect(source, port int, want bool) error {
	for f := range 2 {
		got, err := s.reaches(source, f, port)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("the change was answered, but IPv%d to port %d: reached %v, want %v", 4+2*f, port, got, want)
		}
	}
	return nil
}

// change patches one object and returns how many milliseconds it took until it was in force.
func (s *site) change(ctx context.Context, kind vpc.Kind, name string, fields map[string]any) (float64, error) {
	body, err := json.Marshal(fields)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	r, err := s.client.Put(ctx, api.PutRequest{Kind: kind, Name: name, Body: body, Patch: true, User: "bench", Timeout: time.Minute})
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	if r.Applied < r.Revision {
		return 0, fmt.Errorf("%s %s: revision %d is stored, but %d in force", kind, name, r.Revision, r.Applied)
	}
	return float64(took.Microseconds()) / 1000, nil
}

// join gives a source its groups.
func (s *site) join(ctx context.Context, source int, groups ...int) (float64, error) {
	i := s.sources[source]
	names := make([]string, len(groups))
	for n, g := range groups {
		names[n] = fmt.Sprintf("g%d", g)
	}
	a := s.pop.addrs(i)
	return s.change(ctx, vpc.KindInstance, fmt.Sprintf("i%d", i), map[string]any{"interfaces": []any{map[string]any{
		"mac": s.pop.mac(i), "vswitch": fmt.Sprintf("s%d", s.pop.switchOf(i)), "privateIp": a[0], "ipv6Addresses": a[1:], "securityGroups": names,
	}}})
}

// memberships lets an instance join a group and leave it again: the group's set and the map of profiles change in both
// families, and no rule does.
func (s *site) memberships(ctx context.Context, rounds int) (ms []float64, err error) {
	const source = 0
	t := s.pop.groupsOf(s.pop.target())[0]
	from, to := []int{t + 2}, []int{t + 1, t + 2}
	if _, err := s.join(ctx, source, from...); err != nil {
		return nil, err
	}
	if err := s.expect(source, groupPort, false); err != nil {
		return nil, err
	}
	for range rounds {
		for _, groups := range [][]int{to, from} {
			took, err := s.join(ctx, source, groups...)
			if err != nil {
				return nil, err
			}
			if err := s.expect(source, groupPort, len(groups) > 1); err != nil {
				return nil, err
			}
			ms = append(ms, took)
		}
	}
	return ms, nil
}

// ruleChanges adds a rule to the target's group and removes it again.
func (s *site) ruleChanges(ctx context.Context, rounds int) (ms []float64, err error) {
	const source = 0 // in group t+2 since memberships
	t := s.pop.groupsOf(s.pop.target())[0]
	name := fmt.Sprintf("g%d", t)
	objects, err := s.client.Objects(ctx, vpc.KindSecurityGroup, "", []string{name})
	if err != nil {
		return nil, err
	}
	rules, _ := objects[0]["rules"].([]any)
	more := append(rules[:len(rules):len(rules)], map[string]any{
		"direction": "ingress", "policy": "accept", "protocol": "tcp", "ports": strconv.Itoa(rulePort), "source": fmt.Sprintf("sg:g%d", t+2),
	})
	for range rounds {
		for _, r := range [][]any{more, rules} {
			took, err := s.change(ctx, vpc.KindSecurityGroup, name, map[string]any{"rules": r})
			if err != nil {
				return nil, err
			}
			if err := s.expect(source, rulePort, len(r) > len(rules)); err != nil {
				return nil, err
			}
			ms = append(ms, took)
		}
	}
	return ms, nil
}

// memory is the daemon's resident memory in MB.
func (s *site) memory() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.daemon.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(v)[0], 64)
			return kb / 1024, err
		}
	}
	return 0, errors.New("the daemon's memory is unknown")
}

// compiles compiles the population's ruleset again and again with an empty memory.
func compiles(pop population, rounds int) (ms []float64, err error) {
	text, err := pop.manifest()
	if err != nil {
		return nil, err
	}
	m, err := configs.ParseManifest("bench.yaml", text)
	if err != nil {
		return nil, err
	}
	spec, problems := vpc.Apply(nil, m.Spec, vpc.Host{Region: "bench"}, vpc.ApplyOptions{})
	if len(problems) > 0 {
		return nil, problems
	}
	snapshot := vpc.NewSnapshot(spec, vpc.Host{Region: "bench"}, 1)
	features := firewall.Features{MarkMask: 0xffff0000, MapMark: true, IPMAC4: true, NFLog: true, Physdev: true, ClampMSS: true, Bare: true}
	for range rounds {
		start := time.Now()
		if _, err := firewall.Compile(snapshot, features); err != nil {
			return nil, err
		}
		ms = append(ms, float64(time.Since(start).Microseconds())/1000)
	}
	return ms, nil
}

// coldApply applies the whole population to a new daemon on a host of its own, lets the daemon read everything back, and
// returns the seconds that the request took and the daemon's memory afterwards in MB.
func coldApply(ctx context.Context, bin, backend string, pop population) (seconds, megabytes float64, err error) {
	lab, err := netlab.New("bench")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	s, err := newSite(lab, "cold", pop)
	if err != nil {
		return 0, 0, err
	}
	if err := s.start(ctx, bin, backend); err != nil {
		return 0, 0, err
	}
	manifest, err := pop.manifest()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if err := s.apply(ctx, manifest); err != nil {
		return 0, 0, err
	}
	seconds = time.Since(start).Seconds()
	if differs, err := s.client.FirewallVerify(ctx); err != nil || len(differs) > 0 {
		return 0, 0, fmt.Errorf("read back: %v: %w", differs, err)
	}
	if megabytes, err = s.memory(); err != nil {
		return 0, 0, err
	}
	return seconds, megabytes, s.stop()
}
