package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/vpc"
)

// Why a client gets nothing. A protocol engine compares with errors.Is and decides between silence and a refusal.
var (
	ErrNoVSwitch   = errors.New("no such vSwitch")
	ErrUnknown     = errors.New("unknown MAC")                              // and the vSwitch lets it enrol
	ErrClosed      = errors.New("unknown MAC, and enrolment is closed")     //
	ErrElsewhere   = errors.New("the MAC belongs to another vSwitch")       //
	ErrNoAddress   = errors.New("the interface has no address of the kind") // or the vSwitch has no such family
	ErrNotYours    = errors.New("the address is not the client's")          //
	ErrQuarantined = errors.New("the address is quarantined: somebody else was found to use it")
	ErrUntried     = errors.New("the client never had the address: see first that nobody else has it")
	ErrBusy        = errors.New("too many leases wait to be written")
	ErrSuperseded  = errors.New("overtaken by a later change of the same address")
)

// How long things last when Config does not say otherwise.
const (
	DefaultOfferTime  = 30 * time.Second
	DefaultQuarantine = 10 * time.Minute
)

// maxQueued bounds the leases that wait to be written: about a second of a busy disk's work. Whoever comes later is
// refused at once instead of being served when it has given up.
const maxQueued = 8192

// Store keeps leases across restarts.
type Store interface {
	// PutLeases returns when the leases are durable: all of them, or none and an error.
	PutLeases(ctx context.Context, leases ...vpc.Lease) error
	// DeleteLeases forgets the leases of these addresses.
	DeleteLeases(ctx context.Context, addrs ...netip.Addr) error
}

// Enroller makes an instance of an unknown MAC.
type Enroller interface {
	// Enrol returns when the new instance's rules are in force, with the snapshot that holds it (of that revision or a
	// later one). A MAC that has been enrolled meanwhile is not an error.
	Enrol(ctx context.Context, vswitchID string, mac vpc.MAC, hostname string) (*vpc.Snapshot, error)
}

// Config is what an Engine needs.
type Config struct {
	Store      Store
	Enroller   Enroller         // nil: nobody enrols
	Logger     *slog.Logger     // nil: nothing is logged
	Now        func() time.Time // nil: time.Now
	OfferTime  time.Duration    // 0: DefaultOfferTime
	Quarantine time.Duration    // 0: DefaultQuarantine
}

// Client is who asks, and where.
type Client struct {
	VSwitch  string // ID
	MAC      vpc.MAC
	Family   vpc.Family
	OnLink   bool   // it was heard on a link of ours, where one can ask who has an address; by a relay one cannot
	ClientID string // hexadecimal; DHCPv4, for display
	DUID     string // hexadecimal; DHCPv6, for display
	Hostname string // as the client sent it
}

// Engine holds all leases of a gateway. Its methods may be called from any goroutine; none waits for the store except
// Run, and none for the enrolment of an instance except Enrol.
type Engine struct {
	cfg      Config
	log      *slog.Logger
	snapshot atomic.Pointer[vpc.Snapshot]
	notes    Limiter

	turn chan struct{} // one slot: full while a batch is written and taken over into table
	wake chan struct{} // one slot: something is queued
	many chan struct{} // one slot: enough is, or was a moment ago

	// Whoever has the turn:
	began time.Time // when the last write began
	busy  bool      // it was more than one lease

	mu      sync.Mutex
	table   map[netip.Addr]*vpc.Lease // what the store has; a lease is replaced, never changed
	pending map[netip.Addr]change     // the latest change of an address that waits to be written
	offers  map[netip.Addr]vpc.Lease
	vacant  map[netip.Addr]time.Time // until when an address counts as free; see Vacant
	clients map[identity]netip.Addr  // who had it last, to name clones: machines cloned with their identity
	queue   []change
	seq     uint64
	full    map[string]bool // vSwitches whose pool was reported as nearly used up

	commits   atomic.Uint64
	written   atomic.Uint64
	failures  atomic.Uint64
	conflicts atomic.Uint64
	storeErr  atomic.Pointer[error]

	enrolMu   sync.Mutex
	enrolling map[vpc.MAC]*enrolment
}

// change is one lease on its way to the store.
type change struct {
	lease vpc.Lease
	seq   uint64
	done  func(error) // may be nil
}

// New returns an Engine that knows the leases that the store has, and keeps them. It serves nobody before SetSnapshot.
func New(cfg Config, leases []vpc.Lease) *Engine {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.OfferTime == 0 {
		cfg.OfferTime = DefaultOfferTime
	}
	if cfg.Quarantine == 0 {
		cfg.Quarantine = DefaultQuarantine
	}
	e := &Engine{
		cfg: cfg, log: cfg.Logger,
		turn:      make(chan struct{}, 1),
		wake:      make(chan struct{}, 1),
		many:      make(chan struct{}, 1),
		table:     make(map[netip.Addr]*vpc.Lease, len(leases)),
		pending:   map[netip.Addr]change{},
		offers:    map[netip.Addr]vpc.Lease{},
		vacant:    map[netip.Addr]time.Time{},
		clients:   map[identity]netip.Addr{},
		full:      map[string]bool{},
		enrolling: map[vpc.MAC]*enrolment{},
	}
	for i, l := range leases {
		e.table[l.Address] = &leases[i]
		if k := identityOf(l); k != (identity{}) && l.State == vpc.LeaseBound {
			e.clients[k] = l.Address
		}
	}
	return e
}

// SetSnapshot replaces what the engine knows about the network. A lease whose address now belongs to somebody else is
// refused at its next renewal.
func (e *Engine) SetSnapshot(s *vpc.Snapshot) {
	old := e.snapshot.Swap(s)
	if old == nil || otherAddresses(vpc.Compare(old, s)) {
		e.warnFullPools(s)
	}
}

// otherAddresses reports whether a vSwitch may have more or fewer addresses, or more or fewer of them in use.
func otherAddresses(d *vpc.Delta) bool {
	return len(d.VSwitches) > 0 || slices.ContainsFunc(d.Interfaces, func(p vpc.Pair[vpc.Interface]) bool {
		return p.Old == nil || p.New == nil || !p.Old.SameBindings(p.New)
	})
}

// Snapshot returns the network as the engine sees it; nil before the first SetSnapshot.
func (e *Engine) Snapshot() *vpc.Snapshot { return e.snapshot.Load() }

// adopt takes a snapshot that an enrolment made unless a later one is known already.
func (e *Engine) adopt(s *vpc.Snapshot) {
	for {
		old := e.snapshot.Load()
		if old != nil && old.Revision >= s.Revision {
			return
		}
		if e.snapshot.CompareAndSwap(old, s) {
			return
		}
	}
}

// Lookup returns the interface that the client is and the address that it may have. The error is one of ErrNoVSwitch,
// ErrUnknown, ErrClosed, ErrElsewhere, ErrNoAddress; with ErrElsewhere and ErrNoAddress the interface is returned too.
func (e *Engine) Lookup(c Client) (*vpc.Interface, netip.Addr, error) {
	return e.lookup(e.snapshot.Load(), c)
}

func (e *Engine) lookup(s *vpc.Snapshot, c Client) (*vpc.Interface, netip.Addr, error) {
	w := vswitch(s, c.VSwitch)
	if w == nil {
		return nil, netip.Addr{}, ErrNoVSwitch
	}
	nic := s.InterfaceByMAC(c.MAC)
	switch {
	case nic == nil && w.Enrollment == vpc.EnrollmentClosed:
		return nil, netip.Addr{}, ErrClosed
	case nic == nil:
		return nil, netip.Addr{}, ErrUnknown
	case nic.VSwitch != w:
		if e.notes.Allow("elsewhere"+c.MAC.String(), e.cfg.Now()) {
			e.log.Warn("MAC asks for an address on another vSwitch than its own: refused", "mac", c.MAC,
				"vswitch", w.ID, "own", nic.VSwitch.ID, "instance", nic.Instance.ID)
		}
		return nic, netip.Addr{}, ErrElsewhere
	}
	a := nic.Primary(c.Family)
	if !a.IsValid() {
		return nic, netip.Addr{}, ErrNoAddress
	}
	return nic, a, nil
}

// VSwitch returns the vSwitch with that ID as the engine knows it, nil if there is none.
func (e *Engine) VSwitch(id string) *vpc.VSwitch { return vswitch(e.snapshot.Load(), id) }

// vswitch finds a vSwitch by ID; the list of a snapshot is sorted by ID.
func vswitch(s *vpc.Snapshot, id string) *vpc.VSwitch {
	if s == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(s.VSwitches, id, func(w *vpc.VSwitch, id string) int { return strings.Compare(w.ID, id) })
	if !ok {
		return nil
	}
	return s.VSwitches[i]
}

// Offer holds the client's address for it in memory for a short time and returns the lease that a Bind would make.
// The errors are those of Lookup, ErrQuarantined, and for a client on a link ErrUntried, with the lease: whoever has found
// out says Vacant or Conflict, and asks again.
func (e *Engine) Offer(c Client) (vpc.Lease, *vpc.Interface, error) {
	nic, addr, err := e.Lookup(c)
	if err != nil {
		return vpc.Lease{}, nic, err
	}
	now := e.cfg.Now()
	l := newLease(c, nic, addr, now)
	e.mu.Lock()
	defer e.mu.Unlock()
	if cur, ok := e.current(addr); ok && quarantined(cur, now) {
		return vpc.Lease{}, nic, ErrQuarantined
	}
	if c.OnLink && e.untried(addr, nic, now) {
		return l, nic, ErrUntried
	}
	held := l
	held.State, held.Expires = vpc.LeaseOffered, wholeSecond(now.Add(e.cfg.OfferTime))
	e.offers[addr] = held
	return l, nic, nil
}

// Withdraw ends the client's offer: it has chosen another server.
func (e *Engine) Withdraw(c Client) {
	_, addr, err := e.Lookup(c)
	if err != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.offers, addr)
}

// Bind returns the lease that the client gets for the address it asks for; nothing has been written yet: see Commit.
// The errors are those of Lookup, ErrNotYours when it is not the client's address, and ErrQuarantined.
func (e *Engine) Bind(c Client, want netip.Addr) (vpc.Lease, *vpc.Interface, error) {
	nic, addr, err := e.Lookup(c)
	if err != nil {
		return vpc.Lease{}, nic, err
	}
	if want != addr {
		return vpc.Lease{}, nic, ErrNotYours
	}
	now := e.cfg.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if cur, ok := e.current(addr); ok && quarantined(cur, now) {
		return vpc.Lease{}, nic, ErrQuarantined
	}
	return newLease(c, nic, addr, now), nic, nil
}

// Commit queues a lease from Bind to be written. done is called exactly once, from Run: with nil when the lease is
// durable and still the client's, and only then may the client be told. It must not block.
// ErrBusy means that the queue is full and done will not be called.
func (e *Engine) Commit(l vpc.Lease, done func(error)) error { return e.enqueue(l, done) }

// Release ends the client's lease on its own wish (RFC 2131 section 4.4.6, RFC 8415 section 18.3.7). The address stays
// the interface's. A client that has no such lease is told ErrNotYours.
func (e *Engine) Release(c Client, addr netip.Addr) (vpc.Lease, error) {
	return e.end(c, addr, func(l *vpc.Lease, now time.Time) {
		l.State, l.Expires = vpc.LeaseReleased, wholeSecond(now)
	})
}

// Decline quarantines an address that the client has found in use by somebody else: nobody is offered it for a while,
// and the lease shows it. A client that has no such lease is told ErrNotYours.
func (e *Engine) Decline(c Client, addr netip.Addr) (vpc.Lease, error) {
	l, err := e.end(c, addr, func(l *vpc.Lease, now time.Time) {
		l.State, l.Expires = vpc.LeaseDeclined, wholeSecond(now.Add(e.cfg.Quarantine))
	})
	if err == nil {
		e.say(slog.LevelWarn, "lease declined: the client found its address in use", l)
	}
	return l, err
}

func (e *Engine) end(c Client, addr netip.Addr, change func(*vpc.Lease, time.Time)) (vpc.Lease, error) {
	nic, own, err := e.Lookup(c)
	if err != nil {
		return vpc.Lease{}, err
	}
	now := e.cfg.Now()
	e.mu.Lock()
	l, ok := e.current(addr)
	e.mu.Unlock()
	if addr != own || !ok || l.MAC != nic.MAC || l.Interface != nic.ID || stateAt(l, now) != vpc.LeaseBound {
		return vpc.Lease{}, ErrNotYours
	}
	change(&l, now)
	return l, e.enqueue(l, nil)
}

// Held reports whether the address was last leased to this MAC, whoever owns it now.
func (e *Engine) Held(addr netip.Addr, mac vpc.MAC) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	l, ok := e.current(addr)
	return ok && l.MAC == mac
}

// current returns the latest lease of an address, written or about to be; e.mu is held.
func (e *Engine) current(addr netip.Addr) (vpc.Lease, bool) {
	if c, ok := e.pending[addr]; ok {
		return c.lease, true
	}
	return e.stored(addr)
}

// stored returns the lease of an address that the store has; e.mu is held.
func (e *Engine) stored(addr netip.Addr) (vpc.Lease, bool) {
	if l := e.table[addr]; l != nil {
		return *l, true
	}
	return vpc.Lease{}, false
}

func (e *Engine) enqueue(l vpc.Lease, done func(error)) error {
	e.mu.Lock()
	if len(e.queue) >= maxQueued {
		e.mu.Unlock()
		return ErrBusy
	}
	e.seq++
	c := change{lease: l, seq: e.seq, done: done}
	e.queue = append(e.queue, c)
	e.pending[l.Address] = c
	n := len(e.queue)
	e.mu.Unlock()
	signal(e.wake)
	if n >= enough {
		signal(e.many)
	}
	return nil
}

// signal fills a channel of one slot: whoever is asked already need not be asked again.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// newLease is the binding that the interface's address makes at the given time.
func newLease(c Client, nic *vpc.Interface, addr netip.Addr, now time.Time) vpc.Lease {
	return vpc.Lease{
		Address: addr, MAC: nic.MAC, ClientID: c.ClientID, DUID: c.DUID, Hostname: c.Hostname,
		Interface: nic.ID, VSwitch: nic.VSwitch.ID, State: vpc.LeaseBound,
		Start: now.UTC().Truncate(time.Second), Expires: wholeSecond(now.Add(Time(nic.VSwitch, c.Family))),
	}
}

// Time returns how long leases of a family last on a vSwitch.
func Time(w *vpc.VSwitch, f vpc.Family) time.Duration {
	if f == vpc.IPv6 {
		return time.Duration(w.VPC.DHCPOptions.IPv6LeaseTime)
	}
	return time.Duration(w.VPC.DHCPOptions.LeaseTime)
}

// wholeSecond rounds up, so that a lease never ends here before it ends for the client.
func wholeSecond(t time.Time) time.Time {
	s := t.UTC().Truncate(time.Second)
	if s.Before(t) {
		s = s.Add(time.Second)
	}
	return s
}

// stateAt is the state of a lease as time has changed it. An ended quarantine shows as expired.
func stateAt(l vpc.Lease, now time.Time) vpc.LeaseState {
	if (l.State == vpc.LeaseBound || l.State == vpc.LeaseDeclined) && !now.Before(l.Expires) {
		return vpc.LeaseExpired
	}
	return l.State
}

func quarantined(l vpc.Lease, now time.Time) bool { return stateAt(l, now) == vpc.LeaseDeclined }

// identity is how a client names itself on a vSwitch, whatever its MAC.
type identity struct {
	vswitch string
	family  vpc.Family
	id      string // client ID or DUID
}

// identityOf returns whose lease it is; the zero identity when the client did not say.
func identityOf(l vpc.Lease) identity {
	switch {
	case l.ClientID != "":
		return identity{l.VSwitch, vpc.IPv4, l.ClientID}
	case l.DUID != "":
		return identity{l.VSwitch, vpc.IPv6, l.DUID}
	}
	return identity{}
}

// Leases lists the leases for display, by address: one per address, in the state that it has now. A lease whose address
// no longer belongs to its interface is not listed; its client is refused when it comes back.
func (e *Engine) Leases() []vpc.Lease {
	now, s := e.cfg.Now(), e.snapshot.Load()
	e.mu.Lock()
	out := make([]vpc.Lease, 0, len(e.table)+len(e.offers))
	for a, stored := range e.table {
		l := *stored
		if l.State = stateAt(l, now); owns(s, l) && (l.State == vpc.LeaseBound || l.State == vpc.LeaseDeclined || !offered(e.offers[a], now)) {
			out = append(out, l)
		}
	}
	for a, o := range e.offers {
		if !offered(o, now) || !owns(s, o) {
			continue
		}
		l, ok := e.stored(a)
		if st := stateAt(l, now); !ok || !owns(s, l) || st != vpc.LeaseBound && st != vpc.LeaseDeclined {
			out = append(out, o)
		}
	}
	e.mu.Unlock()
	slices.SortFunc(out, func(a, b vpc.Lease) int { return a.Address.Compare(b.Address) })
	return out
}

func offered(o vpc.Lease, now time.Time) bool { return o.Address.IsValid() && now.Before(o.Expires) }

// owns reports whether the lease's address still belongs to the interface that it was leased to.
func owns(s *vpc.Snapshot, l vpc.Lease) bool {
	if s == nil {
		return true // nothing is known yet
	}
	nic := s.InterfaceByAddr(l.Address)
	return nic != nil && nic.MAC == l.MAC && nic.ID == l.Interface && nic.Primary(vpc.FamilyOf(l.Address)) == l.Address
}

// Stats counts what the engine has done since it was made.
type Stats struct {
	Commits   uint64 // transactions written
	Written   uint64 // leases in them
	Failures  uint64 // transactions that the store refused
	Conflicts uint64 // untried addresses that somebody else was found to use
	Waiting   int    // leases that wait to be written
}

// Stats returns the counters.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	waiting := len(e.queue)
	e.mu.Unlock()
	return Stats{Commits: e.commits.Load(), Written: e.written.Load(), Failures: e.failures.Load(), Conflicts: e.conflicts.Load(), Waiting: waiting}
}

// StoreTried tells the engine how writing something else to its store has ended: whether a lease can be written is known then before
// a guest asks for one.
func (e *Engine) StoreTried(err error) { e.storeErr.Store(&err) }

// Health returns why the last write to the store failed, nil when it did not.
func (e *Engine) Health() error {
	if err := e.storeErr.Load(); err != nil && *err != nil {
		return fmt.Errorf("no lease is given that cannot be stored: %w", *err)
	}
	return nil
}
