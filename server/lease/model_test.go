package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatehouse/vpc"
)

// model knows, in the plainest terms, what clients have been told and what must follow from it.
type model struct {
	*bench
	rand        *rand.Rand
	seats       []seat
	revision    uint64
	holders     map[netip.Addr]vpc.MAC   // who was told that it has the address, while it is its
	quarantined map[netip.Addr]time.Time // until when
	latest      time.Time                // the clock's highest reading: it goes back too
	steps       []string
}

func newModel(seed uint64) *model {
	m := &model{rand: rand.New(rand.NewPCG(seed, 1)), holders: map[netip.Addr]vpc.MAC{}, quarantined: map[netip.Addr]time.Time{}, latest: start}
	for i := range 4 {
		m.seats = append(m.seats, seat{vpc.MAC{2, 0, 0, 0, 0, byte(i)}, "web", fmt.Sprintf("10.20.1.%d", 10+i), fmt.Sprintf("fd00:20:0:1::%d", 10+i)})
	}
	m.revision = 1
	m.bench = newBench(m.network())
	return m
}

// network leaves out the interfaces that have no addresses at the moment.
func (m *model) network() *vpc.Snapshot {
	var present []seat
	for _, s := range m.seats {
		if s.v4 != "" {
			present = append(present, s)
		}
	}
	return network(m.revision, present...)
}

func (m *model) owner(a netip.Addr) vpc.MAC {
	for _, s := range m.seats {
		if s.v4 == a.String() || s.v6 == a.String() {
			return s.mac
		}
	}
	return vpc.MAC{}
}

func (m *model) note(format string, args ...any) {
	m.steps = append(m.steps, fmt.Sprintf(format, args...))
}

// step does one random thing, and returns what it broke.
func (m *model) step() error {
	s := m.seats[m.rand.IntN(len(m.seats))]
	f := vpc.Families()[m.rand.IntN(2)]
	c := client(s.mac, f)
	var own netip.Addr
	if s.v4 != "" {
		own = s.addr(f)
	}
	want := own
	if m.rand.IntN(5) == 0 { // an address of somebody else, or one that nobody has
		want = netip.MustParseAddr(fmt.Sprintf("10.20.1.%d", 10+m.rand.IntN(6)))
		if f == vpc.IPv6 {
			want = netip.MustParseAddr(fmt.Sprintf("fd00:20:0:1::%d", 10+m.rand.IntN(6)))
		}
	}
	switch m.rand.IntN(16) {
	case 0, 1, 2:
		return m.offer(c, own)
	case 3, 4, 5, 6, 7:
		return m.request(c, own, want)
	case 8:
		m.note("release %s by %s", want, c.MAC)
		if _, err := m.Release(c, want); err == nil && want != own {
			return errors.New("released somebody else's address")
		}
	case 9:
		m.note("decline %s by %s", want, c.MAC)
		l, err := m.Decline(c, want)
		if err != nil {
			return nil
		}
		if want != own {
			return errors.New("declined somebody else's address")
		}
		m.quarantined[want] = l.Expires
	case 10, 11, 12:
		m.store.fail = nil
		if m.rand.IntN(4) == 0 {
			m.store.fail = errDisk
		}
		m.note("write (%v)", m.store.fail)
		m.flush(context.Background())
		m.store.fail = nil
	case 13:
		jump := time.Duration(m.rand.Int64N(int64(90*time.Minute))) - 20*time.Minute
		m.note("clock %s", jump)
		if m.now = m.now.Add(jump); m.now.After(m.latest) {
			m.latest = m.now
		}
		m.sweep(context.Background())
	case 14:
		m.note("crash")
		m.restart(m.network())
		// A quarantine that was not written is lost; nobody was promised anything about it.
		for a, until := range m.quarantined {
			if l := m.store.leases[a]; l.State != vpc.LeaseDeclined || !l.Expires.Equal(until) {
				delete(m.quarantined, a)
			}
		}
	case 15:
		m.change()
	}
	return nil
}

// change swaps the addresses of two interfaces, or removes an interface, or brings one back.
func (m *model) change() {
	i, j := m.rand.IntN(len(m.seats)), m.rand.IntN(len(m.seats))
	m.seats[i].v4, m.seats[j].v4 = m.seats[j].v4, m.seats[i].v4
	m.seats[i].v6, m.seats[j].v6 = m.seats[j].v6, m.seats[i].v6
	if m.rand.IntN(3) == 0 {
		if m.seats[i].v4 != "" {
			m.seats[i].v4, m.seats[i].v6 = "", ""
		} else if n := 20 + m.rand.IntN(4); m.owner(netip.MustParseAddr(fmt.Sprintf("10.20.1.%d", n))).IsZero() {
			m.seats[i].v4, m.seats[i].v6 = fmt.Sprintf("10.20.1.%d", n), fmt.Sprintf("fd00:20:0:1::%d", n)
		}
	}
	m.revision++
	m.note("revision %d: %v", m.revision, m.seats)
	m.SetSnapshot(m.network())
	for a, mac := range m.holders {
		if m.owner(a) != mac {
			delete(m.holders, a) // taken from it: the rules no longer let it use the address
		}
	}
}

// inQuarantine is certain; undecided are quarantines that had ended when the clock went back to before their end.
func (m *model) inQuarantine(a netip.Addr) bool { return m.latest.Before(m.quarantined[a]) }

func (m *model) undecided(a netip.Addr) bool {
	return m.now.Before(m.quarantined[a]) && !m.inQuarantine(a)
}

func (m *model) offer(c Client, own netip.Addr) error {
	l, _, err := m.Offer(c)
	m.note("offer to %s: %s, %v", c.MAC, l.Address, err)
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
		if err == nil {
			m.told(l)
		}
	})
}

// told checks what must hold at the moment when a client hears that it has an address.
func (m *model) told(l vpc.Lease) {
	d := m.store.leases[l.Address]
	if d.MAC != l.MAC || d.State != vpc.LeaseBound || d.Expires.Before(l.Expires) {
		m.note("BROKEN: I4: told %v, durable is %v", l, d)
	}
	if m.owner(l.Address) != l.MAC {
		m.note("BROKEN: I5: %s was told that it has %s, which is %s's", l.MAC, l.Address, m.owner(l.Address))
	}
	if h, ok := m.holders[l.Address]; ok && h != l.MAC {
		m.note("BROKEN: I5: %s and %s hold %s", h, l.MAC, l.Address)
	}
	m.holders[l.Address] = l.MAC
}

// check compares what must hold after every step.
func (m *model) check() error {
	for _, s := range m.steps[max(0, len(m.steps)-100):] {
		if len(s) > 6 && s[:6] == "BROKEN" {
			return errors.New(s)
		}
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

// TestAnyOrderOfEventsKeepsOneHolder runs random orders of requests, writes that succeed or fail, crashes, clock jumps and
// changes of the network: nobody hears of a lease that is not durable, and no address has two holders.
func TestAnyOrderOfEventsKeepsOneHolder(t *testing.T) {
	told := 0
	for seed := range uint64(300) {
		m := newModel(seed)
		for range 300 {
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
			if d := m.store.leases[a]; l.State != vpc.LeaseDeclined && !cmp.Equal(l, d, compare) {
				t.Fatalf("seed %d: %s\n%s", seed, a, cmp.Diff(d, l, compare))
			}
		}
		told += len(m.holders)
	}
	if told == 0 {
		t.Error("nobody ever got an address: the test tests nothing")
	}
}
