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

// writer makes the kernel equal to a ruleset. It remembers what it left there, so that a change costs no reading and only
// what is other than before is looked at; after any failure it forgets.
type writer struct {
	iptables IPTables
	ipset    IPSet

	known   *kernel           // as it was read; nil: not, or no longer of use
	carries *firewall.Ruleset // the kernel has exactly this, and left; nil: unknown
	left    leftovers

	settled moment // when that was certain
}

// leftovers are chains and sets that nothing leads to any more.
type leftovers struct {
	chains [2][]staleChains
	sets   []string
}

// staleChains are those of one table.
type staleChains struct {
	table string
	names []string
}

func (l leftovers) none() bool { return len(l.chains[0])+len(l.chains[1])+len(l.sets) == 0 }

// read returns what the kernel has.
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

// forget makes the next write ask the kernel.
func (w *writer) forget() { w.known, w.carries, w.left, w.settled = nil, nil, leftovers{}, moment{} }

// settle notes that what is remembered is what the kernel has now.
func (w *writer) settle(ctx context.Context) { w.settleAt(w.now(ctx)) }

// moment is the generation of the kernel's rules at some time.
type moment struct {
	generation uint32
	counted    bool // it is known
	exact      bool // no change leaves it as it is
}

func (w *writer) now(ctx context.Context) moment {
	n, exact, err := w.iptables.Generation(ctx)
	return moment{n, err == nil, exact}
}

// settleAt notes that what is remembered was read after that moment: if nobody has changed anything since, the kernel has it.
func (w *writer) settleAt(m moment) { w.settled = m }

// unchanged reports whether the kernel's rules seem to be as they were at settle: good enough to write what differs, for what
// is written is found again by name.
func (w *writer) unchanged(ctx context.Context) bool {
	return w.settled.counted && w.now(ctx) == w.settled
}

// certain reports whether nobody has changed the kernel's rules since settle. With legacy tables that is never certain.
func (w *writer) certain(ctx context.Context) bool {
	return w.settled.exact && w.unchanged(ctx)
}

// found takes over that the kernel was read and has exactly the ruleset.
func (w *writer) found(rs *firewall.Ruleset) {
	w.forget()
	w.carries = rs
}

// write makes the kernel equal to rs but for what it has besides, which clean removes; before is what was in force, nil if that
// is unknown. When it fails, anything may have been written but the kernel is consistent table by table.
func (w *writer) write(ctx context.Context, rs, before *firewall.Ruleset) (err error) {
	defer func() {
		if err != nil {
			w.forget()
		}
	}()
	var plans [len(rs.Families)]*familyPlan
	var left leftovers
	if w.carries != nil && w.left.none() {
		certain := w.certain(ctx)
		have, want, stale := differentSets(w.carries.Sets, rs.Sets)
		if len(want) > 0 {
			if _, err := w.ipset.Write(ctx, have, want); err != nil {
				return err
			}
		}
		left.sets = stale
		for i := range plans {
			was, now := w.carries.Families[i], rs.Families[i]
			var st iptables.State
			if names := otherHooks(was, now); len(names) > 0 { // their places have to be known
				if st, err = w.iptables.Read(ctx, now.Family, names...); err != nil {
					return err
				}
			}
			plans[i] = followFamily(was, now, st, certain)
		}
	} else {
		k, err := w.read(ctx)
		if err != nil {
			return err
		}
		if k.sets, err = w.ipset.Write(ctx, k.sets, rs.Sets); err != nil {
			return err
		}
		left.sets = ipset.Stale(k.sets, rs.Sets)
		for i, want := range rs.Families {
			var was firewall.Tables
			if before != nil {
				was = before.Families[i]
			}
			plans[i] = planFamily(k.tables[want.Family], want, was)
		}
	}
	err = each(plans[:], func(p *familyPlan) error {
		if err := w.writeFamily(ctx, p); err != nil {
			return err
		}
		p.narrow, p.write = "", ""
		return w.readBack(ctx, p, rs)
	})
	if err != nil {
		return err
	}
	for i, p := range plans {
		for _, t := range p.tables {
			if len(t.stale) > 0 {
				left.chains[i] = append(left.chains[i], staleChains{t.name, t.stale})
			}
		}
	}
	w.known, w.carries, w.left = nil, rs, left
	return nil
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

// readBack reads what was written and compares. Where hooks changed, their places are only known from reading the whole of the
// tables; and where there is much, to read everything at once is quicker than chain by chain, or table by table.
func (w *writer) readBack(ctx context.Context, p *familyPlan, rs *firewall.Ruleset) error {
	var whole []string
	for _, t := range p.tables {
		if t.rehooked() || len(t.changed) > listAtMost {
			whole = append(whole, t.name)
		}
	}
	if len(whole) > 0 {
		only := whole
		if len(whole) > 1 {
			only = nil
		}
		st, err := w.iptables.Read(ctx, p.family, only...)
		if err != nil {
			return fmt.Errorf("read back: %w", err)
		}
		for _, want := range rs.Families {
			if want.Family != p.family {
				continue
			}
			want.Tables = slices.DeleteFunc(slices.Clone(want.Tables), func(t firewall.Table) bool { return !slices.Contains(whole, t.Name) })
			for _, t := range planTables(st, want) {
				if len(t.changed) > 0 {
					return changedChain(p, t.name, t.changed[0])
				}
				if slices.Contains(whole, t.name) && t.rehooked() {
					return &ChangedError{fmt.Sprintf("%s %s hooks", p.family, t.name)}
				}
			}
		}
	}
	for _, t := range p.tables {
		if len(t.changed) == 0 || slices.Contains(whole, t.name) {
			continue
		}
		names := make([]string, len(t.changed))
		for i, c := range t.changed {
			names[i] = c.Name
		}
		found, err := w.iptables.ReadChains(ctx, p.family, t.name, names)
		if err != nil {
			return fmt.Errorf("read back: %w", err)
		}
		for _, c := range t.changed {
			if hashes, ok := found[c.Name]; !ok || !c.HasHashes(p.family, hashes) {
				return changedChain(p, t.name, c)
			}
		}
	}
	return nil
}

// listAtMost is the number of chains up to which listing them is cheaper than reading the whole of the table.
const listAtMost = 256

func changedChain(p *familyPlan, table string, c firewall.Chain) error {
	return &ChangedError{fmt.Sprintf("%s %s chain %s", p.family, table, c.Name)}
}

// clean removes what the last write has left. Nothing uses it any more, so a failure harms nobody: what stays is found again by
// the next verification.
func (w *writer) clean(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			w.forget()
		}
	}()
	for i, f := range vpc.Families() {
		for _, t := range w.left.chains[i] {
			if err := w.iptables.DeleteChains(ctx, f, t.table, t.names); err != nil {
				return err
			}
		}
	}
	if len(w.left.sets) > 0 {
		inUse, err := w.ipset.Delete(ctx, w.left.sets)
		if err != nil {
			return err
		}
		if len(inUse) > 0 {
			return fmt.Errorf("sets %v: %w", inUse, ipset.ErrInUse)
		}
	}
	w.left = leftovers{}
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
