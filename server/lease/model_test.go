package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatehouse/vpc"
)

// errCrash is what a process that dies in the middle of a write panics with.
var errCrash = errors.New("crash")

// machine is one guest of the model, as the admin has declared it.
type machine struct {
	mac     vpc.MAC
	vswitch string // "": not declared
	host    int    // of its primary addresses, in both families
	second  int    // of its secondary address; 0: none
}

// model knows, in the plainest terms, what clients have been told and what must follow from it.
type model struct {
	*bench
	rand        *rand.Rand
	machines    []*machine
	revision    uint64
	holders     map[netip.Addr]vpc.MAC   // who was told that it has the address, while it is its
	quarantined map[netip.Addr]time.Time // until when
	latest      time.Time                // the clock's highest reading: it goes back too
	steps       []string
	broken      error // what a callback found
	told        int
	happened    map[string]int
}

func newModel(seed uint64) *model {
	m := &model{
		rand: rand.New(rand.NewPCG(seed, 1)), revision: 1, latest: start,
		holders: map[netip.Addr]vpc.MAC{}, quarantined: map[netip.Addr]time.Time{}, happened: map[string]int{},
	}
	for i := range 6 {
		m.machines = append(m.machines, &machine{mac: vpc.MAC{2, 0, 0, 0, 0, byte(i)}, vswitch: []string{"web", "web", "web", "web", "db", ""}[i], host: 10 + i})
	}
	m.bench = &bench{store: &memoryStore{leases: map[netip.Addr]vpc.Lease{}}, now: start, enroller: modelEnroller{m}}
	m.restart(m.network())
	return m
}

var nets = map[string]string{"web": "1", "db": "2"}
var vswitchIDs = map[string]string{"web": webID, "db": dbID}

func (m *model) at(vswitch string, f vpc.Family, host int) netip.Addr {
	if f == vpc.IPv6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:20:0:%s::%d", nets[vswitch], host))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.20.%s.%d", nets[vswitch], host))
}

// own is the address that a machine may have on a vSwitch; invalid when it is declared elsewhere or nowhere.
func (m *model) own(x *machine, vswitch string, f vpc.Family) netip.Addr {
	if x.vswitch != vswitch {
		return netip.Addr{}
	}
	return m.at(vswitch, f, x.host)
}

func (m *model) network() *vpc.Snapshot {
	var present []seat
	for _, x := range m.machines {
		if x.vswitch != "" {
			present = append(present, seat{x.mac, x.vswitch, m.at(x.vswitch, vpc.IPv4, x.host).String(), m.at(x.vswitch, vpc.IPv6, x.host).String()})
		}
	}
	spec := networkSpec(present...)
	for _, i := range spec.VPCs[0].Instances {
		nic := i.Interfaces[0]
		x := m.machines[nic.MAC[5]]
		if x.second != 0 {
			nic.SecondaryPrivateIPs = []netip.Addr{m.at(x.vswitch, vpc.IPv4, x.second)}
			nic.IPv6Addresses = append(nic.IPv6Addresses, m.at(x.vswitch, vpc.IPv6, x.second))
		}
	}
	return vpc.NewSnapshot(spec, vpc.Host{Region: "lab"}, m.revision)
}

// free is a host number that nobody has on a vSwitch.
func (m *model) free(vswitch string) int {
	for {
		n := 10 + m.rand.IntN(20)
		if !slices.ContainsFunc(m.machines, func(x *machine) bool { return x.vswitch == vswitch && (x.host == n || x.second == n) }) {
			return n
		}
	}
}

func (m *model) owner(a netip.Addr) vpc.MAC {
	for _, x := range m.machines {
		for _, f := range vpc.Families() {
			if x.vswitch != "" && m.at(x.vswitch, f, x.host) == a {
				return x.mac
			}
		}
	}
	return vpc.MAC{}
}

func (m *model) note(format string, args ...any) {
	m.steps = append(m.steps, fmt.Sprintf(format, args...))
}

// modelEnroller declares a machine that asks.
type modelEnroller struct{ m *model }

func (e modelEnroller) Enrol(_ context.Context, vswitchID string, mac vpc.MAC, _ string) (*vpc.Snapshot, error) {
	x := e.m.machines[mac[5]]
	x.vswitch, x.host, x.second = "web", e.m.free("web"), 0
	e.m.revision++
	return e.m.network(), nil
}

// step does one random thing, and returns what it broke.
func (m *model) step() error {
	x := m.machines[m.rand.IntN(len(m.machines))]
	f := vpc.Families()[m.rand.IntN(2)]
	vswitch := x.vswitch
	if vswitch == "" || m.rand.IntN(8) == 0 {
		vswitch = []string{"web", "db"}[m.rand.IntN(2)]
	}
	c := client(x.mac, f)
	c.VSwitch, c.OnLink = vswitchIDs[vswitch], m.rand.IntN(2) == 0
	own := m.own(x, vswitch, f)
	want := own
	if m.rand.IntN(5) == 0 || !want.IsValid() { // an address of somebody else, a secondary one, or one that nobody has
		want = m.at(vswitch, f, 10+m.rand.IntN(20))
	}
	switch m.rand.IntN(18) {
	case 0, 1, 2, 3:
		return m.offer(c, own)
	case 4, 5, 6, 7, 8:
		return m.request(c, own, want)
	case 9:
		m.note("release %s by %s", want, c.MAC)
		if _, err := m.Release(c, want); err == nil && want != own {
			return errors.New("released somebody else's address")
		}
	case 10:
		m.note("decline %s by %s", want, c.MAC)
		l, err := m.Decline(c, want)
		if err != nil {
			return nil
		}
		if want != own {
			return errors.New("declined somebody else's address")
		}
		m.quarantined[want] = l.Expires
		delete(m.holders, want)
	case 11, 12, 13:
		m.write()
	case 14:
		jump := time.Duration(m.rand.Int64N(int64(90*time.Minute))) - 20*time.Minute
		m.note("clock %s", jump)
		if m.now = m.now.Add(jump); m.now.After(m.latest) {
			m.latest = m.now
		}
		if m.rand.IntN(4) == 0 {
			m.store.fail = errDisk
		}
		m.sweep(context.Background())
		m.store.fail = nil
	case 15:
		m.crash("between two writes")
	case 16:
		m.change()
	case 17:
		return m.enrol(c, x, vswitch)
	}
	return nil
}

// write lets the engine write what is queued. The disk may refuse, the process may die before or after the lease is
// durable and before anybody hears of it, and the network may change meanwhile.
func (m *model) write() {
	defer func() {
		m.store.fail, m.store.before, m.store.after = nil, nil, nil
		if r := recover(); r != nil {
			if r != errCrash {
				panic(r)
			}
			m.crash("within a write")
		}
	}()
	die := func() { panic(errCrash) }
	switch m.rand.IntN(12) {
	case 0, 1, 2:
		m.note("write, which the disk refuses")
		m.store.fail = errDisk
		m.happened["refused"]++
	case 3:
		m.note("write, and die before it")
		m.store.before = die
	case 4:
		m.note("write, and die after it")
		m.store.after = die
	case 5:
		m.note("write while the network changes")
		m.store.after = m.change
	default:
		m.note("write")
	}
	m.flush(context.Background())
}

func (m *model) crash(when string) {
	m.note("crash %s", when)
	m.happened["crash "+when]++
	m.restart(m.network())
	// A quarantine that was not written is lost; nobody was promised anything about it.
	for a := range m.quarantined {
		if l := m.store.leases[a]; l.State == vpc.LeaseDeclined {
			m.quarantined[a] = l.Expires // that of an earlier one, if the last was not written
		} else {
			delete(m.quarantined, a)
		}
	}
}

// change is the admin: addresses are exchanged, machines come, go and move, secondary addresses take turns with primary ones.
func (m *model) change() {
	x, y := m.machines[m.rand.IntN(len(m.machines))], m.machines[m.rand.IntN(len(m.machines))]
	what := ""
	switch {
	case m.rand.IntN(4) == 0 && x.vswitch == y.vswitch && x.vswitch != "":
		what = "exchange"
		x.host, y.host = y.host, x.host
	case m.rand.IntN(3) == 0 && x.vswitch != "":
		what = "delete"
		x.vswitch, x.second = "", 0
	case m.rand.IntN(2) == 0 && x.second != 0:
		what = "promote"
		x.host, x.second = x.second, x.host
	case m.rand.IntN(2) == 0 && x.vswitch != "":
		what = "second address"
		x.second = m.free(x.vswitch)
	case m.rand.IntN(2) == 0 && x.vswitch != "":
		what = "another address"
		x.host = m.free(x.vswitch)
	default:
		what = "move or create"
		vswitch := []string{"web", "db"}[m.rand.IntN(2)]
		x.host, x.second = m.free(vswitch), 0
		x.vswitch = vswitch
	}
	m.happened[what]++
	m.revision++
	m.note("revision %d: %s of %s", m.revision, what, x.mac)
	m.SetSnapshot(m.network())
	for a, mac := range m.holders {
		if m.owner(a) != mac {
			delete(m.holders, a) // taken from it: the rules no longer let it use the address
		}
	}
}

func (m *model) enrol(c Client, x *machine, vswitch string) error {
	known := x.vswitch != ""
	err := m.Enrol(context.Background(), c)
	m.note("enrol %s on %s: %v", c.MAC, vswitch, err)
	switch {
	case known && vswitch != x.vswitch && !errors.Is(err, ErrElsewhere), known && vswitch == x.vswitch && err != nil:
		return fmt.Errorf("a known machine: %w", err)
	case !known && vswitch == "db" && !errors.Is(err, ErrClosed):
		return fmt.Errorf("on a closed vSwitch: %w", err)
	case !known && vswitch == "web":
		if _, a, err := m.Lookup(c); err != nil || a != m.own(x, "web", c.Family) {
			return fmt.Errorf("enrolled with %s: %w", a, err)
		}
		m.happened["enrolled"]++
	}
	return nil
}

// inQuarantine is certain; undecided are quarantines that had ended when the clock went back to before their end.
func (m *model) inQuarantine(a netip.Addr) bool { return m.latest.Before(m.quarantined[a]) }

func (m *model) undecided(a netip.Addr) bool {
	return m.now.Before(m.quarantined[a]) && !m.inQuarantine(a)
}

func (m *model) offer(c Client, own netip.Addr) error {
	l, _, err := m.Offer(c)
	m.note("offer to %s: %s, %v", c.MAC, l.Address, err)
	if errors.Is(err, ErrUntried) {
		switch {
		case !c.OnLink:
			return errors.New("a client behind a relay is to be looked for")
		case l.Address != own:
			return fmt.Errorf("%s is to be tried, which is not its own %s", l.Address, own)
		case m.holders[own] == c.MAC:
			return fmt.Errorf("%s is to be tried, which it has", own)
		}
		m.happened["tried"]++
		switch m.rand.IntN(4) {
		case 0:
			m.note("  somebody has it")
			if err := m.Conflict(c, own, unknown); err != nil {
				return fmt.Errorf("conflict: %w", err)
			}
			m.quarantined[own] = wholeSecond(m.now.Add(DefaultQuarantine))
		case 1: // nobody knows yet
		default:
			m.note("  it is free")
			m.Vacant(own)
			if _, _, err := m.Offer(c); err != nil {
				return fmt.Errorf("%s is free and not offered: %w", own, err)
			}
		}
		return nil
	}
	switch {
	case err == nil && l.Address != own:
		return fmt.Errorf("offered %s, which is not its own %s", l.Address, own)
	case err == nil && m.inQuarantine(own):
		return fmt.Errorf("offered %s in quarantine", own)
	case err != nil && own.IsValid() && !m.inQuarantine(own) && !m.undecided(own):
		return fmt.Errorf("its own %s was not offered: %w", own, err)
	}
	return nil
}

func (m *model) request(c Client, own, want netip.Addr) error {
	l, _, err := m.Bind(c, want)
	m.note("request of %s by %s: %v", want, c.MAC, err)
	switch {
	case err != nil && own.IsValid() && want == own && !m.inQuarantine(own) && !m.undecided(own):
		return fmt.Errorf("its own %s was refused: %w", own, err)
	case err != nil:
		return nil
	case want != own || !own.IsValid():
		return fmt.Errorf("%s was granted, which is not its own %s", want, own)
	case m.inQuarantine(own):
		return fmt.Errorf("%s was granted in quarantine", own)
	}
	return m.Commit(l, func(err error) {
		m.note("  %s told about %s: %v", c.MAC, want, err)
		if err == nil && m.broken == nil {
			m.broken = m.hears(l)
		}
	})
}

// hears checks what must hold at the moment when a client hears that it has an address.
func (m *model) hears(l vpc.Lease) error {
	m.told++
	d := m.store.leases[l.Address]
	if d.MAC != l.MAC || d.State != vpc.LeaseBound || d.Expires.Before(l.Expires) {
		return fmt.Errorf("I4: told %v, durable is %v", l, d)
	}
	if m.owner(l.Address) != l.MAC {
		return fmt.Errorf("I5: %s was told that it has %s, which is %s's", l.MAC, l.Address, m.owner(l.Address))
	}
	if h, ok := m.holders[l.Address]; ok && h != l.MAC {
		return fmt.Errorf("I5: %s and %s hold %s", h, l.MAC, l.Address)
	}
	m.holders[l.Address] = l.MAC
	return nil
}

// check compares what must hold after every step.
func (m *model) check() error {
	if m.broken != nil {
		return m.broken
	}
	seen := map[netip.Addr]bool{}
	for _, l := range m.Leases() {
		if seen[l.Address] {
			return fmt.Errorf("%s is listed twice", l.Address)
		}
		seen[l.Address] = true
		if m.owner(l.Address) != l.MAC {
			return fmt.Errorf("%s is listed for %s and belongs to %s", l.Address, l.MAC, m.owner(l.Address))
		}
		if l.State == vpc.LeaseBound && m.store.leases[l.Address].State != vpc.LeaseBound {
			return fmt.Errorf("%s is listed as bound and the store has %v", l.Address, m.store.leases[l.Address])
		}
	}
	return nil
}

// TestAnyOrderOfEventsKeepsOneHolder runs random orders of requests of both families, writes that succeed, fail or are cut
// short, crashes, clock jumps, enrolments and changes of the network: nobody hears of a lease that is not durable, and no
// address has two holders.
func TestAnyOrderOfEventsKeepsOneHolder(t *testing.T) {
	runs, length := 100, 400
	if os.Getenv("GATEHOUSE_SOAK") != "" {
		runs = 5000
	}
	told, happened := 0, map[string]int{}
	for seed := range uint64(runs) {
		m := newModel(seed)
		for range length {
			err := m.step()
			if err == nil {
				err = m.check()
			}
			if err != nil {
				for _, s := range m.steps[max(0, len(m.steps)-40):] {
					t.Log(s)
				}
				t.Fatalf("seed %d, step %d: %v", seed, len(m.steps), err)
			}
		}
		m.flush(t.Context())
		if err := m.check(); err != nil {
			t.Fatalf("seed %d at the end: %v", seed, err)
		}
		// What the engine believes is what a restart would find, quarantines that could not be written apart.
		m.sweep(t.Context())
		for a, l := range m.table {
			if d := m.store.leases[a]; l.State != vpc.LeaseDeclined && !cmp.Equal(*l, d, compare) {
				t.Fatalf("seed %d: %s\n%s", seed, a, cmp.Diff(d, *l, compare))
			}
		}
		told += m.told
		for what, n := range m.happened {
			happened[what] += n
		}
	}
	var list []string
	for _, what := range []string{
		"crash between two writes", "crash within a write", "refused", "tried", "enrolled",
		"exchange", "delete", "promote", "second address", "another address", "move or create",
	} {
		if happened[what] == 0 {
			t.Errorf("%s never happened: the test does not test it", what)
		}
		list = append(list, fmt.Sprintf("%s %d", what, happened[what]))
	}
	if told < runs {
		t.Errorf("%d acknowledgements: the test tests nothing", told)
	}
	t.Logf("%d orders of %d events: %d acknowledgements, each durable and with one holder; %s", runs, length, told, strings.Join(list, ", "))
}
