package ipset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"gatehouse/firewall"
)

// Errors that a caller can tell apart with errors.Is.
var (
	ErrInUse       = errors.New("set is in use by a rule")
	ErrFull        = errors.New("set is full")
	ErrUnsupported = errors.New("set type is not supported by this kernel")
	ErrPermission  = errors.New("not permitted: ipset needs CAP_NET_ADMIN")
	ErrNotFound    = errors.New("no such set")
)

// swapAbove is the number of members from which on it is cheaper to fill a spare than to change a set in place, provided
// that at least a third of the set changes.
const swapAbove = 1000

// Driver writes sets in the network namespace of the calling thread. It keeps no state.
type Driver struct {
	path string
}

// New finds the ipset program.
func New() (*Driver, error) {
	path, err := exec.LookPath("ipset")
	if err != nil {
		return nil, fmt.Errorf("ipset is not installed (Debian: apt install ipset): %w", err)
	}
	return &Driver{path: path}, nil
}

// Read returns our sets as the kernel has them, in canonical form, by name. Spares that an interrupted Write left are among
// them.
func (d *Driver) Read(ctx context.Context) (map[string]firewall.Set, error) {
	out, err := d.run(ctx, "", "save")
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	sets, err := parseSave(bytes.NewReader(out))
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	for name, s := range sets {
		if !lacksMAC(s) {
			continue
		}
		// ipset 7.17 loses the MAC of a member that crosses the end of its output buffer, but not in this format.
		out, err := d.run(ctx, "", "list", name)
		if errors.Is(err, ErrNotFound) {
			continue // gone since
		}
		if err != nil {
			return nil, fmt.Errorf("list set %s: %w", name, err)
		}
		s.Members = parseMembers(string(out))
		sets[name] = s
	}
	return sets, nil
}

// Write makes the sets in want exist as they are described, their members canonical as Compile writes them, and returns what
// the kernel has then; have is what it has now of them, as Read said or as they were written. Sets that want does not name stay. When it fails before a set in use was touched, nothing has
// changed; when it fails later, some sets have their new members and some the old ones. Either way the caller must Read
// before it writes again.
func (d *Driver) Write(ctx context.Context, have map[string]firewall.Set, want []firewall.Set) (map[string]firewall.Set, error) {
	p := newPlan(have, want)
	if err := d.restore(ctx, p.prepare); err != nil {
		// The context may be what ended it: what was prepared is removed all the same.
		return nil, errors.Join(fmt.Errorf("prepare sets: %w", err), d.discard(context.WithoutCancel(ctx), p.prepared))
	}
	err := d.change(ctx, p.changes)
	if err == nil {
		err = d.restore(ctx, p.swaps)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("change sets: %w", err), d.discard(context.WithoutCancel(ctx), p.spares))
	}
	if err := d.restore(ctx, p.cleanup); err != nil {
		return nil, fmt.Errorf("remove spare sets: %w", err)
	}
	now := maps.Clone(have)
	if now == nil {
		now = map[string]firewall.Set{}
	}
	for _, w := range want {
		now[w.Name] = canonicalHeader(w)
		if slices.Contains(p.spares, w.Name+spareSuffix) {
			delete(now, w.Name+spareSuffix)
		}
	}
	return now, nil
}

// Diff returns the names of the sets in want, their members canonical, that the kernel does not have as described, sorted;
// have is what Read said.
func Diff(have map[string]firewall.Set, want []firewall.Set) []string {
	var names []string
	for _, w := range want {
		h, ok := have[w.Name]
		if !ok || !sameHeader(canonicalHeader(h), canonicalHeader(w)) || !slices.Equal(h.Members, w.Members) {
			names = append(names, w.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Stale returns the names of our sets that want does not have, sorted.
func Stale(have map[string]firewall.Set, want []firewall.Set) []string {
	left := maps.Clone(have)
	for _, w := range want {
		delete(left, w.Name)
	}
	return slices.Sorted(maps.Keys(left))
}

// Delete destroys the named sets. Those that a rule still uses are returned: the caller tries again later. Only our sets
// may be named; sets that are gone already are no error.
func (d *Driver) Delete(ctx context.Context, names []string) (inUse []string, err error) {
	for _, name := range names {
		if !ours(name) {
			return inUse, fmt.Errorf("destroy set %s: it is not ours", name)
		}
		switch err := d.restore(ctx, []string{"destroy " + name}); {
		case errors.Is(err, ErrInUse):
			inUse = append(inUse, name)
		case errors.Is(err, ErrNotFound):
		case err != nil:
			return inUse, fmt.Errorf("destroy set %s: %w", name, err)
		}
	}
	return inUse, nil
}

// discard destroys what Write prepared in vain.
func (d *Driver) discard(ctx context.Context, names []string) error {
	_, err := d.Delete(ctx, names)
	return err
}

// plan is what Write will do, in three steps.
type plan struct {
	prepare  []string // create and fill new sets and spares; nothing in use changes
	prepared []string // their names
	changes  []change // change what is in use member by member
	swaps    []string // change it at once
	cleanup  []string // destroy the spares
	spares   []string // their names
}

func newPlan(have map[string]firewall.Set, want []firewall.Set) *plan {
	p := &plan{}
	for _, w := range want {
		h, exists := have[w.Name]
		if exists && h.Same(&w) {
			continue
		}
		h, w = canonicalHeader(h), canonicalHeader(w)
		spare := w.Name + spareSuffix
		if exists && sameHeader(h, w) && slices.Equal(h.Members, w.Members) {
			continue
		}
		del, add := memberChanges(h.Members, w.Members)
		switch changed := len(del) + len(add); {
		case !exists:
			p.fill(w.Name, w)
		case h.Type != w.Type || h.Family != w.Family:
			// The kernel swaps only sets of one type. While a rule uses the old one, this is refused with ErrInUse.
			p.prepare = append(p.prepare, "destroy "+w.Name)
			p.fill(w.Name, w)
		case !sameHeader(h, w) || changed > swapAbove && changed*3 > len(w.Members):
			if _, left := have[spare]; left {
				p.prepare = append(p.prepare, "destroy "+spare)
			}
			p.fill(spare, w)
			p.swaps = append(p.swaps, "swap "+spare+" "+w.Name)
			p.cleanup = append(p.cleanup, "destroy "+spare)
			p.spares = append(p.spares, spare)
		default:
			for _, m := range del {
				p.changes = append(p.changes, change{set: w.Name, typ: w.Type, member: m})
			}
			for _, m := range add {
				p.changes = append(p.changes, change{set: w.Name, typ: w.Type, member: m, add: true})
			}
		}
	}
	return p
}

func (p *plan) fill(name string, s firewall.Set) {
	p.prepared = append(p.prepared, name)
	p.prepare = append(p.prepare, createLine(name, s))
	for _, m := range s.Members {
		p.prepare = append(p.prepare, "add "+name+" "+m)
	}
}

// fewChanges is up to how many changes it is cheaper to make them without the ipset program.
const fewChanges = 1000

// change changes members of sets in use. What the kernel refuses is asked for again by way of ipset, which can say why.
func (d *Driver) change(ctx context.Context, changes []change) error {
	if len(changes) == 0 {
		return nil
	}
	if len(changes) <= fewChanges && ctx.Err() == nil && send(changes) == nil {
		return nil
	}
	lines := make([]string, len(changes))
	for i, c := range changes {
		lines[i] = c.line()
	}
	return d.restore(ctx, lines)
}

// restore feeds lines to `ipset restore`. Adding what is there and removing what is not are no errors, so that a Write
// that was interrupted can be repeated.
func (d *Driver) restore(ctx context.Context, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	_, err := d.run(ctx, strings.Join(lines, "\n")+"\n", "-exist", "restore")
	var e *Error
	if errors.As(err, &e) && e.Line > 0 && e.Line <= len(lines) {
		e.Text = lines[e.Line-1]
	}
	return err
}

func (d *Driver) run(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, d.path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	switch {
	case err == nil:
		return out.Bytes(), nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errs.Len() > 0:
		return nil, newError(errs.String())
	}
	return nil, err
}

// Error is a refusal by ipset or the kernel.
type Error struct {
	Line   int    // of the input, from 1; 0 when ipset named none
	Text   string // that line
	Reason string // in ipset's words
	kind   error
}

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Reason
	}
	return fmt.Sprintf("%q: %s", e.Text, e.Reason)
}

// Unwrap makes errors.Is find the kind: ErrInUse, ErrFull …
func (e *Error) Unwrap() error { return e.kind }

var errorLine = regexp.MustCompile(`^(?:ipset v[0-9.]+: )?(?:Error in line ([0-9]+): )?(?:Kernel error received: )?`)

// reasons maps what ipset says to what callers can ask for.
var reasons = []struct {
	text string
	kind error
}{
	{"in use by a kernel component", ErrInUse},
	{"is full", ErrFull},
	{"set type not supported", ErrUnsupported},
	{"is unknown", ErrUnsupported},
	{"peration not permitted", ErrPermission},
	{"name does not exist", ErrNotFound},
}

func newError(stderr string) *Error {
	text, _, _ := strings.Cut(strings.TrimSpace(stderr), "\n")
	e := &Error{}
	if m := errorLine.FindStringSubmatch(text); m != nil {
		e.Reason = text[len(m[0]):]
		for _, c := range m[1] {
			e.Line = e.Line*10 + int(c-'0')
		}
	}
	for _, r := range reasons {
		if strings.Contains(text, r.text) {
			e.kind = r.kind
			break
		}
	}
	return e
}
