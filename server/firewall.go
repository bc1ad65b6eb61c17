package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gatehouse/server/api"
	"gatehouse/server/link"
	"gatehouse/vpc"
)

// FirewallRender gives what is in force as text: the sets as `ipset save` has them, then each family's tables as
// iptables-restore reads them.
func (g *Gateway) FirewallRender(context.Context) (string, error) {
	force := g.firewall.Current()
	if force == nil {
		return "", api.Errorf(api.CodeUnavailable, "nothing is in force yet: see 'gatehouse status'")
	}
	var b strings.Builder
	for _, s := range force.Ruleset.Sets {
		fmt.Fprintf(&b, "create %s %s family %s", s.Name, s.Type, map[vpc.Family]string{vpc.IPv4: "inet", vpc.IPv6: "inet6"}[s.Family])
		for _, o := range s.Options {
			b.WriteString(" " + o)
		}
		b.WriteByte('\n')
		for _, m := range s.Members {
			fmt.Fprintf(&b, "add %s %s\n", s.Name, m)
		}
	}
	for _, f := range force.Ruleset.Families {
		for _, t := range f.Tables {
			fmt.Fprintf(&b, "\n# %s\n*%s\n", f.Family, t.Name)
			for _, c := range t.Chains {
				fmt.Fprintf(&b, ":%s - [0:0]\n", c.Name)
			}
			for _, h := range t.Hooks {
				fmt.Fprintf(&b, "-I %s 1 -j %s\n", h.Chain, h.Target)
			}
			for _, c := range t.Chains {
				for _, l := range c.Lines(f.Family) {
					b.WriteString(l + "\n")
				}
			}
			b.WriteString("COMMIT\n")
		}
	}
	return b.String(), nil
}

// FirewallVerify lists what the kernel has otherwise than it should.
func (g *Gateway) FirewallVerify(ctx context.Context) ([]string, error) {
	differ, err := g.firewall.Verify(ctx)
	if err != nil {
		return nil, err
	}
	if differ == nil {
		differ = []string{}
	}
	return differ, nil
}

// FirewallResync reads the kernel back and repairs it now.
func (g *Gateway) FirewallResync(ctx context.Context) error { return g.firewall.Resync(ctx) }

// FirewallCounters gives how often each rule, entry and named default has decided; both families and all chains that a
// rule is compiled into are added up.
func (g *Gateway) FirewallCounters(ctx context.Context) ([]api.RuleCounter, error) {
	counters, err := g.firewall.Counters(ctx)
	if err != nil {
		return nil, err
	}
	type key struct{ rule, reason string }
	sum := map[key]*api.RuleCounter{}
	for _, c := range counters {
		if c.Rule == "" && c.Reason == "" {
			continue
		}
		k := key{c.Rule, string(c.Reason)}
		if sum[k] == nil {
			sum[k] = &api.RuleCounter{Rule: c.Rule, Reason: string(c.Reason)}
		}
		sum[k].Packets += c.Packets
		sum[k].Bytes += c.Bytes
	}
	out := make([]api.RuleCounter, 0, len(sum))
	for _, c := range sum {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b api.RuleCounter) int {
		if c := strings.Compare(a.Rule, b.Rule); c != 0 {
			return c
		}
		return strings.Compare(a.Reason, b.Reason)
	})
	return out, nil
}

// informs reports whether a finding about links is only good to know: a guest that is switched off has no port, and the
// admin of a plain link knows what it is.
func informs(code string) bool {
	switch code {
	case link.FindingPlain, link.FindingPinned, link.FindingClaimed:
		return true
	}
	return false
}

// partProblems asks every part what is wrong with it. What a part only wants to be known (guests of a plain link can go
// round the gateway) is no problem of health; doctor and explain tell it.
func (g *Gateway) partProblems() []api.Problem {
	var out []api.Problem
	for _, p := range g.firewall.Status().Problems {
		out = append(out, api.Problem{Code: p.Code, Message: p.Message, Remedy: p.Remedy})
	}
	if err := g.flows.problem(); err != nil {
		out = append(out, api.Problem{Code: "flows", Message: err.Error(), Remedy: "another program listens to that NFLOG group: stop it; the rules hold, but refused flows are not shown"})
	}
	absent := map[string]bool{} // vSwitches without a link: what cannot listen there says no more
	for _, f := range g.links.Findings() {
		if f.Code == link.FindingMissing {
			absent[f.VSwitch] = true
		}
		if !informs(f.Code) {
			out = append(out, api.Problem{Code: f.Code, Message: f.Message, Remedy: f.Remedy})
		}
	}
	out = append(out, g.rivals.problems()...)
	out = append(out, diskProblems(g.config.Load().StateDir)...)
	if err := g.leases.Health(); err != nil {
		out = append(out, api.Problem{Code: "leases", Message: err.Error(), Remedy: remedyOf(err)})
	}
	for _, err := range append(g.dhcp4.Health(), g.dhcp6.Health()...) {
		if errors.Is(err, unix.ENODEV) {
			continue // that a link is not there is among the links' findings
		}
		out = append(out, api.Problem{Code: "dhcp", Message: err.Error(), Remedy: "free the port (`ss -ulnp` shows who has it), or wait until the link is there: it is tried again"})
	}
	for _, l := range g.dns.Listeners() {
		if l.Err != nil && !absent[l.VSwitch] {
			out = append(out, api.Problem{Code: "dns", Message: l.Err.Error(), Remedy: "free the address, or wait until its link is there: it is tried again"})
		}
	}
	return out
}
