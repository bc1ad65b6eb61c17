package link

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netns"

	"gatehouse/vpc"
)

// Options are what a Manager needs from outside. Only Journal must be given.
type Options struct {
	Logger  *slog.Logger
	Now     func() time.Time
	Journal Journal
	// OnPort hears of every port that guests can be plugged into: once when it is up, once when it no longer is. It is
	// called by Run only, in the namespace of the links, one call at a time and with no lock held, and should return
	// quickly. A port that it does not take is offered again after the next comparison. A bridge's ports need somebody
	// to read them for the Manager, which is a port.Server.
	OnPort func(p Port, up bool) error
	// OnUnknown hears of the sender of a frame whose MAC is not registered, one call at a time.
	OnUnknown func(p Port, mac vpc.MAC)
	// Interval is how often everything is compared when nothing was heard; default 30 s.
	Interval time.Duration
	// Namespace is where the links are; nil is the process's own. It must stay open as long as the Manager.
	Namespace *netns.NsHandle
}

// Manager keeps the links of a gateway. Its methods may be called from any goroutine.
type Manager struct {
	opt Options
	k   *kernel

	changed  chan struct{} // somebody changed something: compare
	newPorts chan struct{} // the ports may be others: tell OnPort
	pings    chan struct{} // somebody asks whether Run still runs
	interest atomic.Pointer[interest]
	watch    *watch

	mu        sync.Mutex     // held while the kernel is compared and changed
	plan      *plan          // nil before the first Apply: nothing is touched
	settled   map[string]int // indexes of the links that are up, by name, when the last comparison left nothing to do; else nil
	undo      *undo
	saved     []byte // the undo as the journal has it
	holds     *holds
	findings  []Finding
	complaint error               // of the last comparison in the background
	repair    error               // the same, unless it is among the findings
	claims    map[vpc.MAC]claimed // the last refused claim on each MAC
}

const (
	// maxPasses bounds the passes of one comparison: make a bridge, set it up, see that all is there; and one to spare.
	maxPasses = 5
	// claimInterval is how often refused claims on one MAC are logged, and for how long after the last one they are a finding.
	claimInterval = time.Minute
	// maxClaims bounds how many MACs a guest can fill the log and the findings with.
	maxClaims = 64
)

// New reads the journal and opens netlink. It changes nothing. It must be called before the firewall's rules are written:
// what it finds there it leaves there.
func New(ctx context.Context, opt Options) (*Manager, error) {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	opt.Interval = cmp.Or(opt.Interval, 30*time.Second)
	ns := netns.None()
	if opt.Namespace != nil {
		ns = *opt.Namespace
	}
	boot, err := bootID()
	if err != nil {
		return nil, fmt.Errorf("read the boot ID: %w", err)
	}
	data, err := opt.Journal.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what was there before gatehouse: %w", err)
	}
	u, err := parseUndo(data, boot)
	if err != nil {
		return nil, err
	}
	k, err := openKernel(ns)
	if err != nil {
		return nil, err
	}
	m := &Manager{
		opt: opt, k: k, undo: u, saved: data,
		changed: make(chan struct{}, 1), newPorts: make(chan struct{}, 1), pings: make(chan struct{}), watch: newWatch(),
		holds:  &holds{at: map[vpc.MAC]held{}, ports: map[string]Port{}},
		claims: map[vpc.MAC]claimed{},
	}
	err = k.in(func() error {
		if _, ok := k.sysctl(bridgeNetfilter + "iptables"); !ok {
			u.NetfilterAbsent = true
		}
		return nil
	})
	if err == nil && u.NetfilterAbsent {
		err = m.remember(ctx, u)
	}
	if err != nil {
		k.close()
		return nil, err
	}
	return m, nil
}

// Close releases the sockets. The links stay as they are.
func (m *Manager) Close() { m.k.close() }

// Apply makes the links what the snapshot wants. A vSwitch whose link or range is somebody else's is refused and left
// alone, the others are served; all problems are in the error, which is a *PartialError when there are no others. A plain interface that is not
// there yet is a finding, and is taken when it comes.
func (m *Manager) Apply(ctx context.Context, s *vpc.Snapshot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.plan != nil && m.settled != nil {
		if f := m.plan.follow(s); f != nil && f.mayFollow(m.holds) {
			m.plan = f.to
			if err := m.k.in(func() error { return m.follow(f) }); err == nil {
				return nil
			}
			m.opt.Logger.Debug("neighbours alone cannot be changed: everything is compared", "revision", s.Revision)
		}
	}
	m.plan = newPlan(s)
	return m.sync(ctx)
}

// Check says what Apply would refuse and what it would find worth telling, and changes nothing.
func (m *Manager) Check(ctx context.Context, s *vpc.Snapshot) (found []Finding, err error) {
	p := newPlan(s)
	m.mu.Lock()
	defer m.mu.Unlock()
	err = m.k.in(func() error {
		_, out, err := m.compare(p)
		if err != nil {
			return err
		}
		found = out.findings
		return errors.Join(out.refused...)
	})
	return found, err
}

// Teardown gives everything back: bridges that were created are deleted, others get their addresses, flags and settings
// as they were, host-wide settings too unless somebody has changed them since. Until the next Apply nothing is touched.
func (m *Manager) Teardown(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plan = newPlan(nil)
	return m.sync(ctx)
}

// Run keeps the links as the last Apply wanted them, whoever changes them, and gives MACs to the ports where their guests
// show up. It returns when the context ends, or with an error when nothing can be heard any more.
func (m *Manager) Run(ctx context.Context) error {
	s, err := subscribe(m.k.ns)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel(nil)
	tasks.Go(func() {
		if err := listen(ctx, s, m.interest.Load, func() { wake(m.changed) }); err != nil {
			cancel(err)
		}
	})
	tasks.Go(func() { m.watch.run(ctx, m.seen) })
	tick := time.NewTicker(m.opt.Interval)
	defer tick.Stop()
	told := map[int]Port{}
	defer m.tellNone(told)
	wake(m.changed) // what happened before we could hear
	for {
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
				return cause
			}
			return nil
		case m.pings <- struct{}{}:
			continue
		case <-m.newPorts:
		case <-m.changed:
			m.keep(ctx)
		case <-tick.C:
			m.keep(ctx)
		}
		m.tellPorts(told)
	}
}

// Ping returns when Run has time for it and nobody holds up the comparison of links: nil, or why ctx ended first.
func (m *Manager) Ping(ctx context.Context) error {
	select {
	case <-m.pings:
	case <-ctx.Done():
		return ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return nil
}

// keep compares in the background. After it there is a pause as long as it took, so that a storm of messages costs half a
// processor at most.
func (m *Manager) keep(ctx context.Context) {
	start := time.Now()
	m.mu.Lock()
	err := m.sync(ctx)
	if ctx.Err() == nil {
		if err != nil && (m.complaint == nil || m.complaint.Error() != err.Error()) {
			m.opt.Logger.Error("links are not as they should be", "error", err)
		}
		m.complaint = err
		m.repair = err
		if _, partial := errors.AsType[*PartialError](err); partial {
			m.repair = nil // each refusal is a finding
		}
	}
	m.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(min(time.Since(start), time.Second)):
	}
}

// tellPorts tells OnPort what has changed since it was told.
func (m *Manager) tellPorts(told map[int]Port) {
	up := map[int]Port{}
	for _, p := range m.Ports() {
		up[p.Index] = p
	}
	var errs []error
	for _, i := range sortedKeys(told) {
		if p := told[i]; up[i] != p {
			errs = append(errs, m.tell(p, false))
			delete(told, i)
		}
	}
	for _, i := range sortedKeys(up) {
		if _, ok := told[i]; ok {
			continue
		}
		err := m.tell(up[i], true)
		if err == nil {
			told[i] = up[i]
		}
		errs = append(errs, err)
	}
	m.complain(errs)
}

// tellNone tells OnPort that no port is up any more.
func (m *Manager) tellNone(told map[int]Port) {
	var errs []error
	for _, i := range sortedKeys(told) {
		errs = append(errs, m.tell(told[i], false))
	}
	m.complain(errs)
}

func (m *Manager) tell(p Port, up bool) error {
	if m.opt.OnPort == nil {
		return nil
	}
	return m.k.in(func() error { return m.opt.OnPort(p, up) })
}

// complain logs what OnPort said of ports: in one line, since what one lacks all lack.
func (m *Manager) complain(errs []error) {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) > 0 {
		m.opt.Logger.Warn("ports are not served", "ports", len(errs), "error", errs[0])
	}
}

// seen hears of a frame's sender: the first one of a registered MAC makes the port its holder, and a claim on a MAC that is
// held elsewhere is logged, whether the MAC is registered or only asked for.
func (m *Manager) seen(name string, index int, mac vpc.MAC) {
	m.mu.Lock()
	p, up := m.holds.ports[name]
	if m.plan == nil || !up || p.Index != index {
		m.mu.Unlock()
		return
	}
	registered := m.plan.registered(mac) != nil
	at, taken := m.holds.at[mac]
	var err error
	switch {
	case registered:
		err = m.hold(p, mac)
	case taken && at.port.Index != p.Index:
		err = &HeldError{mac, p.Name, at.port.Name}
	}
	log := err != nil && !errors.Is(err, ErrNoPort) && m.note(p, mac, err)
	m.mu.Unlock()
	if log {
		m.opt.Logger.Warn("MAC is refused to a port", "port", p.Name, "mac", mac, "error", err)
	}
	if !registered && m.opt.OnUnknown != nil {
		m.opt.OnUnknown(p, mac)
	}
}

// claimed is a claim that was refused.
type claimed struct {
	port   Port
	err    error
	last   time.Time // when it was made last
	logged time.Time
}

// note remembers a refused claim and says whether it is to be logged: a guest can make them at will.
func (m *Manager) note(p Port, mac vpc.MAC, err error) (log bool) {
	now := m.opt.Now()
	c, known := m.claims[mac]
	if !known && len(m.claims) >= maxClaims {
		maps.DeleteFunc(m.claims, func(_ vpc.MAC, c claimed) bool { return now.Sub(c.last) >= claimInterval })
		if len(m.claims) >= maxClaims {
			return false
		}
	}
	log = !known || now.Sub(c.logged) >= claimInterval
	if log {
		c.logged = now
	}
	m.claims[mac] = claimed{p, err, now, c.logged}
	return log
}

// Hold gives a MAC to a port, by name, unless another port that is up holds it or another guest is behind this one: frames
// from the MAC pass there and nowhere else, and frames for it go there. A MAC that is not registered is kept for five
// minutes. On a plain interface there is nothing to hold. The error is a *HeldError, an *OccupiedError, a *PinnedError,
// wraps one of the package's, or tells what the kernel said.
func (m *Manager) Hold(port string, mac vpc.MAC) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.holds.ports[port]
	if !ok || m.plan == nil {
		return fmt.Errorf("%s on %s: %w", mac, port, ErrNoPort)
	}
	return m.hold(p, mac)
}

// hold needs the lock.
func (m *Manager) hold(p Port, mac vpc.MAC) error {
	if p.Name == p.Link {
		return m.plan.mayHold(p, mac)
	}
	if m.holds.ports[p.Name] != p {
		return fmt.Errorf("%s on %s: %w", mac, p.Name, ErrNoPort)
	}
	now := m.opt.Now()
	fresh, err := m.holds.claim(m.plan, p, mac, now)
	var taken *HeldError
	if errors.As(err, &taken) && !m.k.running(m.holds.ports[taken.Holder].Index) { // down, and not heard yet
		delete(m.holds.ports, taken.Holder)
		wake(m.changed)
		fresh, err = m.holds.claim(m.plan, p, mac, now)
	}
	if err != nil || !fresh {
		return err
	}
	if err := m.k.replaceFDB(p.Index, mac); err != nil {
		return fmt.Errorf("%s on %s: %w", mac, p.Name, err)
	}
	if from := m.holds.at[mac].port.Name; from != "" && from != p.Name {
		m.opt.Logger.Info("MAC has moved", "mac", mac, "from", from, "to", p.Name)
	}
	m.holds.grant(p, mac, now)
	if m.claims[mac].port == p {
		delete(m.claims, mac)
	}
	return nil
}

// Ports returns the ports that are up, by name.
func (m *Manager) Ports() []Port {
	m.mu.Lock()
	defer m.mu.Unlock()
	ports := make([]Port, 0, len(m.holds.ports))
	for _, name := range sortedKeys(m.holds.ports) {
		ports = append(ports, m.holds.ports[name])
	}
	return ports
}

// Findings returns what the last comparison found worth telling.
func (m *Manager) Findings() []Finding {
	m.mu.Lock()
	defer m.mu.Unlock()
	fs := slices.Clone(m.findings)
	for _, mac := range sortedMACs(m.claims) {
		c, i := m.claims[mac], m.plan.registered(mac)
		if i != nil && m.opt.Now().Sub(c.last) < claimInterval {
			fs = append(fs, claimFinding(i, c.port, c.err))
		}
	}
	if m.repair != nil {
		fs = append(fs, Finding{Code: FindingRepair, Message: m.repair.Error()})
	}
	return fs
}

// sync compares and acts until nothing is left to do. It needs the lock.
func (m *Manager) sync(ctx context.Context) error {
	if m.plan == nil {
		return nil
	}
	m.settled = nil
	return m.k.in(func() error {
		var problems []error
		for range maxPasses {
			st, out, err := m.compare(m.plan)
			if err != nil {
				return err
			}
			problems = out.refused
			if err := m.remember(ctx, out.undo); err != nil {
				return errors.Join(append(problems, err)...)
			}
			i := newInterest(m.plan, out.undo, st)
			old := m.interest.Swap(i)
			m.holds, m.findings = out.holds, out.findings
			wake(m.newPorts)
			// A port that came to a link which we did not listen to yet is in the next reading only.
			if len(out.steps) == 0 && old != nil && maps.Equal(old.links, i.links) {
				if len(problems) == 0 {
					m.settled = settled(m.plan, out.undo, st)
				}
				return refusals(problems)
			}
			if err := m.act(ctx, out.steps); err != nil {
				problems = append(problems, err)
			} else if len(out.steps) > 0 {
				problems = append(problems, fmt.Errorf("%s: the kernel took it but does not show it", out.steps[0].what))
			}
			if ctx.Err() != nil {
				break
			}
		}
		return errors.Join(problems...)
	})
}

// compare takes a reading and compares it with a plan. It must run inside the namespace.
func (m *Manager) compare(p *plan) (*state, *outcome, error) {
	ranges := make([]netip.Prefix, len(p.ranges))
	for i, r := range p.ranges {
		ranges[i] = r.prefix
	}
	st, err := m.k.read(func(name string) bool { return p.link(name) != nil || m.undo.Links[name] != nil }, ranges)
	if err != nil {
		return nil, nil, err
	}
	return st, diff(p, st, m.undo, m.holds.at, m.opt.Now()), nil
}

// remember makes the journal durable before anything is changed that it has to put back.
func (m *Manager) remember(ctx context.Context, u *undo) error {
	data, err := u.encode()
	if err != nil {
		return fmt.Errorf("note what was there before: %w", err)
	}
	if !bytes.Equal(data, m.saved) {
		if err := m.opt.Journal.Save(ctx, data); err != nil {
			return fmt.Errorf("note what was there before: %w", err)
		}
		m.saved = data
	}
	m.undo = u
	return nil
}

// act takes the steps; one that fails does not keep the others from being taken.
func (m *Manager) act(ctx context.Context, steps []step) error {
	var errs []error
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := s.do(m.k); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.what, err))
			continue
		}
		m.opt.Logger.Debug("link step", "step", s.what)
	}
	if len(steps) > 0 {
		m.opt.Logger.Info("links changed", "steps", len(steps), "failed", len(errs))
	}
	return errors.Join(errs...)
}

// wake asks once; "asked already" is enough.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
