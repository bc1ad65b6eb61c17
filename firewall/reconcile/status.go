package reconcile

import (
	"context"
	"errors"
	"time"

	"gatehouse/firewall"
	"gatehouse/vpc"
)

// Problem is something that keeps the firewall from being as it should be.
type Problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

// The codes of problems.
const (
	CodeRefused   = "firewall-refused"   // the newest revision could not be put in force
	CodeUnread    = "firewall-unread"    // what is in the kernel could not be read
	CodeDrift     = "firewall-drift"     // what was in force is not, and could not be repaired
	CodeContested = "firewall-contested" // somebody else keeps removing it
)

// Status is what the loop has done and how it stands. Healthy means that the newest revision is in force and was there when it
// was last looked at.
type Status struct {
	Wanted  uint64 // the newest revision that was asked for
	InForce uint64 // the revision that is in force; 0: none

	Applies       uint64
	Failures      uint64
	LastApply     time.Time
	LastApplyTook time.Duration

	Verifies       uint64
	LastVerify     time.Time
	LastVerifyTook time.Duration
	Drifts         uint64    // how often something was missing, changed or too much
	LastDrift      time.Time //
	LastDriftIn    []string  // what it was
	Repairs        uint64

	FlowsCut uint64

	Problems []Problem

	refused, drift *Problem
}

// Healthy reports whether everything is as it should be.
func (s Status) Healthy() bool { return len(s.Problems) == 0 && s.InForce == s.Wanted }

// Status returns how the loop stands. It never waits for the kernel.
func (l *Loop) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.status
	for _, p := range []*Problem{s.refused, s.drift} {
		if p != nil {
			s.Problems = append(s.Problems, *p)
		}
	}
	return s
}

func (l *Loop) count(f func(*Status)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.status)
}

// problemOf makes a problem of an error; errors that know a remedy have a method that names it.
func problemOf(code string, err error) *Problem {
	p := &Problem{Code: code, Message: err.Error(), Remedy: "gatehouse tries again by itself; `gatehouse doctor` looks for what is in the way"}
	var r interface{ Remedy() string }
	if errors.As(err, &r) {
		p.Remedy = r.Remedy()
	}
	return p
}

// Counter is what the rules of one ID and reason have counted in one chain.
type Counter struct {
	Family  vpc.Family
	Table   string
	Chain   string
	Rule    string     // ID; "" for rules that no operator wrote
	Reason  vpc.Reason // why the rule decides; "" where it does not
	Packets uint64
	Bytes   uint64
}

// Counters returns what the rules in force have counted since they were written. With iptables-nft a rule keeps its count when
// others come to its chain or go, with the legacy backend as long as its chain does not change.
func (l *Loop) Counters(ctx context.Context) ([]Counter, error) {
	f := l.force.Load()
	if f == nil {
		return nil, nil
	}
	type key struct {
		table, chain, rule string
		reason             vpc.Reason
	}
	var all []Counter
	for _, ts := range f.Ruleset.Families {
		counted, err := l.opt.IPTables.Counters(ctx, ts.Family)
		if err != nil {
			return nil, err
		}
		rules := rulesByHash(ts)
		sums := map[key]int{}
		for _, c := range counted {
			r := rules[c.Hash]
			if r == nil {
				continue // not in force: about to be cleaned up, or not ours
			}
			if k := r.Target.Kind; k == firewall.Goto || k == firewall.Jump || k == firewall.NFLog {
				continue // on the way: the packet is counted where it is decided
			}
			k := key{c.Table, c.Chain, r.ID, r.Reason}
			i, ok := sums[k]
			if !ok {
				i = len(all)
				sums[k] = i
				all = append(all, Counter{Family: ts.Family, Table: c.Table, Chain: c.Chain, Rule: r.ID, Reason: r.Reason})
			}
			all[i].Packets += c.Packets
			all[i].Bytes += c.Bytes
		}
	}
	return all, nil
}

func rulesByHash(ts firewall.Tables) map[string]*firewall.Rule {
	rules := map[string]*firewall.Rule{}
	for _, t := range ts.Tables {
		for _, c := range t.Chains {
			for i, h := range c.Hashes(ts.Family) {
				rules[h] = &c.Rules[i]
			}
		}
	}
	return rules
}
