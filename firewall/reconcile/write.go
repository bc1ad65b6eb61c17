package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"gatehouse/firewall"
	"gatehouse/firewall/ipset"
	"gatehouse/firewall/iptables"
	"gatehouse/vpc"
)

// writer makes the kernel equal to a ruleset. It remembers what the kernel has, so that a small change costs no full reading;
// after any failure it forgets.
type writer struct {
	iptables IPTables
	ipset    IPSet
	known    *kernel // nil: unknown
}

// read returns what the kernel has, from memory if that is certain.
func (w *writer) read(ctx context.Context) (*kernel, error) {
	if w.known != nil {
		return w.known, nil
	}
	k := &kernel{tables: map[vpc.Family]iptables.State{}}
	var err error
	if k.sets, err = w.ipset.Read(ctx); err != nil {
		return nil, err
	}
	for _, f := range vpc.Families() {
		if k.tables[f], err = w.iptables.Read(ctx, f); err != nil {
			return nil, err
		}
	}
	w.known = k
	return k, nil
}

// forget makes the next read ask the kernel.
func (w *writer) forget() { w.known = nil }

// write makes the kernel equal to rs; before is what was in force, nil if that is unknown. When it fails, anything may have been
// written but the kernel is consistent table by table.
func (w *writer) write(ctx context.Context, rs, before *firewall.Ruleset) (err error) {
	defer func() {
		if err != nil {
			w.forget()
		}
	}()
	k, err := w.read(ctx)
	if err != nil {
		return err
	}
	if k.sets, err = w.ipset.Write(ctx, k.sets, rs.Sets); err != nil {
		return err
	}
	var plans [len(rs.Families)]*familyPlan
	for i, want := range rs.Families {
		var was firewall.Tables
		if before != nil {
			was = before.Families[i]
		}
		plans[i] = planFamily(k.tables[want.Family], want, was)
	}
	if err := each(plans[:], func(p *familyPlan) error { return w.writeFamily(ctx, p) }); err != nil {
		return err
	}
	return w.readBack(ctx, k, rs, plans[:])
}

// each does something for every family at the same time.
func each(plans []*familyPlan, do func(*familyPlan) error) error {
	errs := make([]error, len(plans))
	var wg sync.WaitGroup
	for i, p := range plans {
		wg.Go(func() { errs[i] = do(p) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (w *writer) writeFamily(ctx context.Context, p *familyPlan) error {
	for _, t := range p.tables {
		if t.name == accepting && len(t.unhook) > 0 {
			if err := w.iptables.Unhook(ctx, p.family, t.name, t.unhook); err != nil {
				return err
			}
		}
	}
	for _, text := range []string{p.narrow, p.write} {
		if text == "" {
			continue
		}
		if err := w.iptables.Restore(ctx, p.family, text); err != nil {
			return err
		}
	}
	for _, t := range p.tables {
		if !t.hooked() {
			if err := w.iptables.Hook(ctx, p.family, t.name, t.hooks, t.have); err != nil {
				return err
			}
		}
	}
	for _, t := range p.tables {
		if t.name != accepting && len(t.unhook) > 0 {
			if err := w.iptables.Unhook(ctx, p.family, t.name, t.unhook); err != nil {
				return err
			}
		}
	}
	return nil
}

// readBack reads what was written and compares. Where hooks changed, their places are only known from reading the
// whole family.
func (w *writer) readBack(ctx context.Context, k *kernel, rs *firewall.Ruleset, plans []*familyPlan) error {
	for i, p := range plans {
		want := rs.Families[i]
		if slices.ContainsFunc(p.tables, func(t tablePlan) bool { return !t.hooked() || len(t.unhook) > 0 }) {
			st, err := w.iptables.Read(ctx, p.family)
			if err != nil {
				return fmt.Errorf("read back: %w", err)
			}
			k.tables[p.family] = st
			continue
		}
		for _, t := range want.Tables {
			if err := w.readBackChains(ctx, k, p, t.Name); err != nil {
				return fmt.Errorf("read back: %w", err)
			}
		}
	}
	for _, want := range rs.Families {
		p := planFamily(k.tables[want.Family], want, firewall.Tables{})
		for _, t := range p.tables {
			if len(p.wrote[t.name]) > 0 {
				return &ChangedError{fmt.Sprintf("%s %s chain %s", p.family, t.name, p.wrote[t.name][0].Name)}
			}
			if !t.hooked() || len(t.unhook) > 0 {
				return &ChangedError{fmt.Sprintf("%s %s hooks", p.family, t.name)}
			}
		}
	}
	return nil
}

func (w *writer) readBackChains(ctx context.Context, k *kernel, p *familyPlan, table string) error {
	written := p.wrote[table]
	if len(written) == 0 {
		return nil
	}
	names := make([]string, len(written))
	for i, c := range written {
		names[i] = c.Name
	}
	found, err := w.iptables.ReadChains(ctx, p.family, table, names)
	if err != nil {
		return err
	}
	st := k.tables[p.family]
	if st[table] == nil {
		st[table] = &iptables.Table{Chains: map[string][]string{}}
	}
	for _, name := range names {
		delete(st[table].Chains, name)
		if hashes, ok := found[name]; ok {
			st[table].Chains[name] = hashes
		}
	}
	return nil
}

// clean removes chains and sets that the ruleset does not have. Nothing uses them any more, so a failure harms nobody: what is
// left is found again by the next verification.
func (w *writer) clean(ctx context.Context, rs *firewall.Ruleset) (err error) {
	defer func() {
		if err != nil {
			w.forget()
		}
	}()
	k, err := w.read(ctx)
	if err != nil {
		return err
	}
	for _, want := range rs.Families {
		for _, t := range planFamily(k.tables[want.Family], want, firewall.Tables{}).tables {
			if len(t.stale) == 0 {
				continue
			}
			if err := w.iptables.DeleteChains(ctx, want.Family, t.name, t.stale); err != nil {
				return err
			}
			for _, c := range t.stale {
				delete(k.tables[want.Family][t.name].Chains, c)
			}
		}
	}
	stale := ipset.Stale(k.sets, rs.Sets)
	if len(stale) == 0 {
		return nil
	}
	inUse, err := w.ipset.Delete(ctx, stale)
	if err != nil {
		return err
	}
	for _, name := range stale {
		if !slices.Contains(inUse, name) {
			delete(k.sets, name)
		}
	}
	if len(inUse) > 0 {
		return fmt.Errorf("sets %v: %w", inUse, ipset.ErrInUse)
	}
	return nil
}

// ChangedError means that what was written was no longer there when it was read back: somebody else writes too.
type ChangedError struct{ What string }

func (e *ChangedError) Error() string {
	return e.What + " was changed by another program while it was written"
}

// Remedy says what an operator can do.
func (e *ChangedError) Remedy() string {
	return "find the program that flushes or rewrites iptables (a firewall service, a script) and make it leave chains named GH-… alone"
}
