package server

import (
	"cmp"
	"context"
	"errors"
	"io"

	"gatehouse/server/api"
	"gatehouse/server/link"
	"gatehouse/vpc"
)

// Status gives the daemon's health: every problem that keeps the gateway from working, with its remedy.
func (g *Gateway) Status(context.Context) (*api.Status, error) {
	s := g.stored.Load()
	applied, err := g.force.State()
	st := &api.Status{
		Version: g.version, Revision: s.Revision, Applied: applied, Started: g.started, Problems: []api.Problem{},
		VPCs: len(s.VPCs), VSwitches: len(s.VSwitches), Instances: len(s.Instances),
	}
	for _, l := range g.leases.Leases() {
		if l.State == vpc.LeaseBound {
			st.Leases++
		}
	}
	switch {
	case errors.Is(err, errTornDown):
		st.Problems = append(st.Problems, api.Problem{Code: "torn-down", Message: err.Error(), Remedy: "restart the daemon: systemctl restart gatehouse"})
	case isPartial(err):
		// Which vSwitches they are, and why, is among the links' findings.
		st.Problems = append(st.Problems, rangeProblems(err)...)
	case err != nil:
		st.Problems = append(st.Problems, api.Problem{Code: "not-in-force", Message: (&notInForce{s.Revision, err}).Error(), Remedy: remedyOf(err)})
	}
	if p := g.confirm.waiting(); p != nil {
		st.Pending = &api.Pending{Base: p.Base, Deadline: p.Deadline, User: p.User}
	}
	if err := g.confirm.problem(); err != nil {
		st.Problems = append(st.Problems, api.Problem{Code: "unconfirmed", Message: "a change that nobody confirmed could not be undone: " + err.Error(), Remedy: "it is tried again; 'gatehouse confirm' keeps the change, 'gatehouse rollback' undoes it by hand"})
	}
	fw := g.firewall.Status()
	st.Firewall = api.FirewallStatus{Backend: string(g.backend.Mode), Repairs: fw.Repairs}
	if f := g.firewall.Current(); f != nil {
		rs := f.Ruleset
		st.Firewall.Sets = len(rs.Sets)
		for _, f := range rs.Families {
			for _, t := range f.Tables {
				st.Firewall.Chains += len(t.Chains)
				for _, c := range t.Chains {
					st.Firewall.Rules += len(c.Rules)
				}
			}
		}
	}
	st.Problems = append(st.Problems, uplinkProblems(s.Host.Uplinks)...)
	st.Problems = append(st.Problems, g.partProblems()...)
	st.Healthy = len(st.Problems) == 0
	return st, nil
}

// rangeProblems are the refusals of whole VPCs.
func rangeProblems(err error) []api.Problem {
	var out []api.Problem
	partial, _ := errors.AsType[*link.PartialError](err)
	for _, r := range partial.Refused {
		if r.VSwitch == "" {
			out = append(out, api.Problem{Code: link.FindingRefused, Message: r.Error(), Remedy: partial.Remedy()})
		}
	}
	return out
}

// remedyOf asks an error for its remedy. What a disk refuses is the same wherever it comes up.
func remedyOf(err error) string {
	for e := err; e != nil; {
		if r, ok := e.(interface{ Remedy() string }); ok {
			return r.Remedy()
		}
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			break
		}
		e = u.Unwrap()
	}
	return cmp.Or(diskRemedy(err), "it is tried again by itself; the message says what refuses")
}

// Ready reports whether the first snapshot has been put in force and every socket is open.
func (g *Gateway) Ready() bool { return g.ready.Load() }

// Backup writes a consistent copy of the state.
func (g *Gateway) Backup(_ context.Context, w io.Writer) error { return g.store.Backup(w) }
