package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"gatehouse/firewall"
	"gatehouse/firewall/conntrack"
	"gatehouse/firewall/ipset"
	"gatehouse/firewall/iptables"
	"gatehouse/vpc"
)

// fakeKernel stands for the kernel and all three drivers. It knows no policy, only what the kernel refuses: rules that ask
// sets or chains that do not exist, and the deletion of what is in use.
type fakeKernel struct {
	mu     sync.Mutex
	tables map[vpc.Family]map[string]*fakeTable
	sets   map[string]firewall.Set
	flows  []conntrack.Flow
	ops    []string // what was done, in order
	writes []string // the text of every transaction
	others int      // what others have changed

	// fail is asked before every operation, after before was called. Both may be nil.
	fail   func(op string) error
	before func(op string)
}

// fakeTable holds the rules of our chains and the hooks of the kernel's.
type fakeTable struct {
	chains map[string][]string
	hooks  []iptables.Hook
}

func newFakeKernel() *fakeKernel {
	k := &fakeKernel{tables: map[vpc.Family]map[string]*fakeTable{}, sets: map[string]firewall.Set{}}
	for _, f := range vpc.Families() {
		k.tables[f] = map[string]*fakeTable{}
		for _, t := range iptables.Tables() {
			k.tables[f][t] = &fakeTable{chains: map[string][]string{}}
		}
	}
	return k
}

// lock runs something that changes the kernel, or how it behaves, from a test.
func (k *fakeKernel) lock(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
}

// left returns the flows that the kernel still has.
func (k *fakeKernel) left() []conntrack.Flow {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.flows)
}

// op notes an operation and says whether it is to fail.
func (k *fakeKernel) op(ctx context.Context, format string, args ...any) error {
	op := fmt.Sprintf(format, args...)
	k.mu.Lock()
	k.ops = append(k.ops, op)
	fail, before := k.fail, k.before
	k.mu.Unlock()
	if before != nil {
		before(op)
	}
	if fail != nil {
		if err := fail(op); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// takeOps returns what was done since the last call.
func (k *fakeKernel) takeOps() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	ops := k.ops
	k.ops, k.writes = nil, nil
	return ops
}

func (k *fakeKernel) drivers() Options {
	return Options{IPTables: (*fakeIPTables)(k), IPSet: (*fakeIPSet)(k), Conntrack: (*fakeConntrack)(k),
		Features: firewall.Features{MarkMask: 0xffff0000, MapMark: true, IPMAC4: true, NFLog: true, Physdev: true, ClampMSS: true, Bare: true}}
}

// state is everything of ours, as read.
func (k *fakeKernel) state() *kernel {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := &kernel{sets: maps.Clone(k.sets), tables: map[vpc.Family]iptables.State{}}
	for _, f := range vpc.Families() {
		out.tables[f] = k.read(f)
	}
	return out
}

func (k *fakeKernel) read(f vpc.Family) iptables.State {
	st := iptables.State{}
	for name, t := range k.tables[f] {
		if len(t.chains) == 0 && len(t.hooks) == 0 {
			continue
		}
		st[name] = &iptables.Table{Chains: map[string][]string{}, Hooks: slices.Clone(t.hooks)}
		for c, rules := range t.chains {
			st[name].Chains[c] = hashesOf(c, rules)
		}
	}
	return st
}

func hashesOf(chain string, rules []string) []string {
	hashes := []string{}
	for _, r := range rules {
		_, rest, commented := strings.Cut(r, firewall.CommentPrefix)
		if !commented {
			hashes = append(hashes, chain+" "+r)
			continue
		}
		hash, _, _ := strings.Cut(strings.Trim(rest, `"`), " ")
		hashes = append(hashes, strings.Trim(hash, `"`))
	}
	return hashes
}

type fakeIPTables fakeKernel

func (d *fakeIPTables) k() *fakeKernel { return (*fakeKernel)(d) }

func (d *fakeIPTables) Read(ctx context.Context, f vpc.Family, tables ...string) (iptables.State, error) {
	if err := d.k().op(ctx, "%s", strings.Join(append([]string{"read " + f.String()}, tables...), " ")); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	st := d.k().read(f)
	maps.DeleteFunc(st, func(name string, _ *iptables.Table) bool {
		return len(tables) > 0 && !slices.Contains(tables, name)
	})
	return st, nil
}

// Generation is another number for every other content.
func (d *fakeIPTables) Generation(context.Context) (uint32, bool, error) {
	h := fnv.New32a()
	d.k().lock(func() { fmt.Fprint(h, d.k().others) })
	for _, f := range vpc.Families() {
		text, err := json.Marshal(d.k().state().tables[f])
		if err != nil {
			return 0, false, err
		}
		h.Write(text)
	}
	return h.Sum32(), true, nil
}

func (d *fakeIPTables) ReadChains(ctx context.Context, f vpc.Family, table string, chains []string) (map[string][]string, error) {
	if err := d.k().op(ctx, "read back %s %s", f, table); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	found := map[string][]string{}
	for _, c := range chains {
		if rules, ok := d.tables[f][table].chains[c]; ok {
			found[c] = hashesOf(c, rules)
		}
	}
	return found, nil
}

func (d *fakeIPTables) Restore(ctx context.Context, f vpc.Family, text string) error {
	return d.restore(ctx, "restore", f, text)
}

// restore commits table by table, as iptables-restore does.
func (d *fakeIPTables) restore(ctx context.Context, verb string, f vpc.Family, text string) error {
	for _, part := range strings.SplitAfter(text, "COMMIT\n") {
		if part == "" {
			continue
		}
		name, body, _ := strings.Cut(strings.TrimPrefix(part, "*"), "\n")
		if err := d.k().op(ctx, "%s %s %s", verb, f, name); err != nil {
			return err
		}
		d.mu.Lock()
		t, err := d.k().transaction(d.tables[f][name], body)
		if err == nil {
			d.tables[f][name] = t
			d.writes = append(d.writes, fmt.Sprintf("%s %s\n%s", f, name, body))
		}
		d.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// transaction returns the table as it is after the lines, or why the kernel refuses them.
func (k *fakeKernel) transaction(old *fakeTable, body string) (*fakeTable, error) {
	t := &fakeTable{chains: maps.Clone(old.chains), hooks: slices.Clone(old.hooks)}
	for _, l := range strings.Split(body, "\n") {
		verb, rest, _ := strings.Cut(l, " ")
		chain, rule, _ := strings.Cut(rest, " ")
		switch {
		case strings.HasPrefix(l, ":"):
			t.chains[strings.TrimPrefix(verb, ":")] = nil
		case verb == "-F":
			t.chains[chain] = nil
		case verb == "-X":
			delete(t.chains, chain)
		case verb == "-A":
			if _, ok := t.chains[chain]; !ok {
				return nil, fmt.Errorf("%s: no such chain", l)
			}
			t.chains[chain] = append(slices.Clone(t.chains[chain]), rule)
		case verb == "-I", verb == "-D":
			place, rule, _ := strings.Cut(rule, " ")
			n, err := strconv.Atoi(place)
			if err != nil || n < 1 || n > len(t.chains[chain]) {
				return nil, fmt.Errorf("%s: no such rule", l)
			}
			if verb == "-I" {
				t.chains[chain] = slices.Insert(slices.Clone(t.chains[chain]), n-1, rule)
			} else {
				t.chains[chain] = slices.Delete(slices.Clone(t.chains[chain]), n-1, n)
			}
		}
	}
	for chain, rules := range t.chains {
		for _, r := range rules {
			words := strings.Fields(r)
			for i, w := range words[:len(words)-1] {
				arg := words[i+1]
				if _, ok := t.chains[arg]; (w == "-j" || w == "-g") && strings.HasPrefix(arg, iptables.ChainPrefix) && !ok {
					return nil, fmt.Errorf("%s: %s: no chain %s", chain, r, arg)
				}
				if _, ok := k.sets[arg]; (w == "--match-set" || w == "--map-set") && !ok {
					return nil, fmt.Errorf("%s: %s: no set %s", chain, r, arg)
				}
			}
		}
	}
	for _, h := range t.hooks {
		if _, ok := t.chains[h.Target]; !ok {
			return nil, fmt.Errorf("%s: %s is in use", h.Target, h.Chain)
		}
	}
	return t, nil
}

func (d *fakeIPTables) Hook(ctx context.Context, f vpc.Family, table string, want []firewall.Hook, _ []iptables.Hook) error {
	if err := d.k().op(ctx, "hook %s %s", f, table); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.tables[f][table]
	for _, w := range want {
		if _, ok := t.chains[w.Target]; !ok {
			return fmt.Errorf("hook: no chain %s", w.Target)
		}
		t.hooks = slices.DeleteFunc(t.hooks, func(h iptables.Hook) bool { return h.Chain == w.Chain && h.Target == w.Target })
		t.hooks = append(t.hooks, iptables.Hook{Chain: w.Chain, Target: w.Target, Position: 1, Plain: true})
	}
	return nil
}

func (d *fakeIPTables) Unhook(ctx context.Context, f vpc.Family, table string, hooks []iptables.Hook) error {
	if err := d.k().op(ctx, "unhook %s %s", f, table); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.tables[f][table]
	t.hooks = slices.DeleteFunc(t.hooks, func(h iptables.Hook) bool { return slices.Contains(hooks, h) })
	return nil
}

func (d *fakeIPTables) DeleteChains(ctx context.Context, f vpc.Family, table string, chains []string) error {
	var b strings.Builder
	for _, verb := range []string{"-F ", "-X "} {
		for _, c := range chains {
			b.WriteString(verb + c + "\n")
		}
	}
	return d.restore(ctx, "delete chains", f, "*"+table+"\n"+b.String()+"COMMIT\n")
}

func (d *fakeIPTables) Counters(ctx context.Context, f vpc.Family) ([]iptables.Counter, error) {
	if err := d.k().op(ctx, "count %s", f); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var counters []iptables.Counter
	for table, t := range d.k().read(f) {
		for chain, hashes := range t.Chains {
			for _, h := range hashes {
				counters = append(counters, iptables.Counter{Table: table, Chain: chain, Hash: h, Packets: 1, Bytes: 10})
			}
		}
	}
	return counters, nil
}

func (d *fakeIPTables) Teardown(ctx context.Context) error {
	if err := d.k().op(ctx, "teardown"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tables = newFakeKernel().tables
	return nil
}

type fakeIPSet fakeKernel

func (d *fakeIPSet) k() *fakeKernel { return (*fakeKernel)(d) }

func (d *fakeIPSet) Read(ctx context.Context) (map[string]firewall.Set, error) {
	if err := d.k().op(ctx, "read sets"); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.sets), nil
}

// Write stops in the middle when it is to fail: half of the sets have changed then.
func (d *fakeIPSet) Write(ctx context.Context, have map[string]firewall.Set, want []firewall.Set) (map[string]firewall.Set, error) {
	changed := ipset.Diff(have, want)
	if len(changed) == 0 {
		return maps.Clone(have), nil
	}
	err := d.k().op(ctx, "write sets")
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, w := range want {
		if err != nil && i >= len(want)/2 {
			return nil, err
		}
		d.sets[w.Name] = ipset.Canonical(w)
	}
	return maps.Clone(d.sets), nil
}

func (d *fakeIPSet) Delete(ctx context.Context, names []string) (inUse []string, err error) {
	if err := d.k().op(ctx, "delete sets"); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range names {
		if d.k().used(name) {
			inUse = append(inUse, name)
			continue
		}
		delete(d.sets, name)
	}
	return inUse, nil
}

func (k *fakeKernel) used(set string) bool {
	for _, tables := range k.tables {
		for _, t := range tables {
			for _, rules := range t.chains {
				if slices.ContainsFunc(rules, func(r string) bool { return slices.Contains(strings.Fields(r), set) }) {
					return true
				}
			}
		}
	}
	return false
}

type fakeConntrack fakeKernel

func (d *fakeConntrack) k() *fakeKernel { return (*fakeKernel)(d) }

func (d *fakeConntrack) List(ctx context.Context, f vpc.Family, want func(netip.Addr) bool) ([]conntrack.Flow, error) {
	if err := d.k().op(ctx, "list flows %s", f); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var found []conntrack.Flow
	for _, flow := range d.flows {
		for a := range flow.Addrs {
			if flow.Family() == f && want(a) {
				found = append(found, flow)
				break
			}
		}
	}
	return found, nil
}

func (d *fakeConntrack) Delete(ctx context.Context, flows []conntrack.Flow) (int, error) {
	if len(flows) == 0 {
		return 0, nil
	}
	if err := d.k().op(ctx, "cut flows %s", flows[0].Family()); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	before := len(d.flows)
	d.flows = slices.DeleteFunc(d.flows, func(f conntrack.Flow) bool {
		return slices.ContainsFunc(flows, func(g conntrack.Flow) bool { return f.Original == g.Original })
	})
	return before - len(d.flows), nil
}

var errInjected = errors.New("injected")
