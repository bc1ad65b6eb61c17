package lease

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gatehouse/vpc"
)

var (
	errDisk = errors.New("disk is full")
	compare = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateErrors()}
	start   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

const (
	webID  = "vsw-0000000000000001"
	dbID   = "vsw-0000000000000002"
	v4only = "vsw-0000000000000003"
)

var (
	mac1    = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 1}
	mac2    = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 2}
	macDB   = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 3}
	macV4   = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 4}
	unknown = vpc.MAC{0x02, 0, 0, 0, 0, 9}
)

// seat is one interface of a test network.
type seat struct {
	mac     vpc.MAC
	vswitch string
	v4, v6  string
}

// seats are the interfaces that most tests have.
var seats = []seat{
	{mac1, "web", "10.20.1.10", "fd00:20:0:1::10"},
	{mac2, "web", "10.20.1.11", "fd00:20:0:1::11"},
	{macDB, "db", "10.20.2.10", "fd00:20:0:2::10"},
	{macV4, "old", "10.20.3.10", ""},
}

func network(revision uint64, seats ...seat) *vpc.Snapshot {
	return vpc.NewSnapshot(networkSpec(seats...), vpc.Host{Region: "lab"}, revision)
}

func networkSpec(seats ...seat) *vpc.Spec {
	v := &vpc.VPCSpec{ID: "vpc-1", Name: "research", CIDRBlock: netip.MustParsePrefix("10.20.0.0/16"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20::/56")}
	v.SetDefaults()
	v.DHCPOptions.LeaseTime, v.DHCPOptions.IPv6LeaseTime = vpc.Duration(time.Hour), vpc.Duration(2*time.Hour)
	v.VSwitches = []*vpc.VSwitchSpec{
		{ID: webID, Name: "web", CIDRBlock: netip.MustParsePrefix("10.20.1.0/24"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20:0:1::/64"),
			Enrollment: vpc.EnrollmentAuto, Pool: vpc.AddrRange{From: netip.MustParseAddr("10.20.1.10"), To: netip.MustParseAddr("10.20.1.13")}},
		{ID: dbID, Name: "db", CIDRBlock: netip.MustParsePrefix("10.20.2.0/24"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20:0:2::/64"), Enrollment: vpc.EnrollmentClosed},
		{ID: v4only, Name: "old", CIDRBlock: netip.MustParsePrefix("10.20.3.0/24"), Enrollment: vpc.EnrollmentAuto},
	}
	for _, s := range seats {
		nic := &vpc.InterfaceSpec{ID: "eni-" + s.mac.String(), MAC: s.mac, VSwitch: s.vswitch}
		if s.v4 != "" {
			nic.PrivateIP = netip.MustParseAddr(s.v4)
		}
		if s.v6 != "" {
			nic.IPv6Addresses = []netip.Addr{netip.MustParseAddr(s.v6)}
		}
		v.Instances = append(v.Instances, &vpc.InstanceSpec{ID: "i-" + s.mac.String(), Name: "host-" + s.mac.String(), Interfaces: []*vpc.InterfaceSpec{nic}})
	}
	return &vpc.Spec{VPCs: []*vpc.VPCSpec{v}}
}

func (s seat) addr(f vpc.Family) netip.Addr {
	if f == vpc.IPv6 {
		return netip.MustParseAddr(s.v6)
	}
	return netip.MustParseAddr(s.v4)
}

// memoryStore is a Store that survives the Engine, and that can be told to refuse or to hang.
type memoryStore struct {
	mu     sync.Mutex
	leases map[netip.Addr]vpc.Lease
	puts   int
	fail   error
	gate   chan struct{} // when set, every put waits for one receive

	before, after func() // when set, called around what a put writes
}

func (m *memoryStore) PutLeases(ctx context.Context, leases ...vpc.Lease) error {
	if m.gate != nil {
		select {
		case <-m.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.puts++
	if m.fail != nil {
		return m.fail
	}
	if m.before != nil {
		m.before()
	}
	if m.after != nil {
		defer m.after()
	}
	for _, l := range leases {
		m.leases[l.Address] = l
	}
	return nil
}

func (m *memoryStore) DeleteLeases(_ context.Context, addrs ...netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for _, a := range addrs {
		delete(m.leases, a)
	}
	return nil
}

func (m *memoryStore) all() []vpc.Lease {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []vpc.Lease
	for _, l := range m.leases {
		out = append(out, l)
	}
	return out
}

// bench is an engine with everything around it in the test's hand.
type bench struct {
	*Engine
	store    *memoryStore
	enroller Enroller
	now      time.Time
	log      bytes.Buffer
}

func newBench(s *vpc.Snapshot) *bench {
	b := &bench{store: &memoryStore{leases: map[netip.Addr]vpc.Lease{}}, now: start}
	b.restart(s)
	return b
}

// restart makes a new engine from what the store has.
func (b *bench) restart(s *vpc.Snapshot) {
	b.Engine = New(Config{
		Store: b.store, Enroller: b.enroller, Now: func() time.Time { return b.now },
		Logger: slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, b.store.all())
	b.SetSnapshot(s)
}

// bind takes a lease through to its end.
func (b *bench) bind(c Client, addr netip.Addr) error {
	l, _, err := b.Bind(c, addr)
	if err != nil {
		return err
	}
	result := errors.New("the engine never called back")
	if err := b.Commit(l, func(err error) { result = err }); err != nil {
		return err
	}
	b.flush(context.Background())
	return result
}

// state is how the lease of an address is shown; "" when it is not.
func (b *bench) state(a netip.Addr) vpc.LeaseState {
	for _, l := range b.Leases() {
		if l.Address == a {
			return l.State
		}
	}
	return ""
}

func client(m vpc.MAC, f vpc.Family) Client {
	c := Client{VSwitch: webID, MAC: m, Family: f, Hostname: "guest"}
	if f == vpc.IPv6 {
		c.DUID = "0003" + strings.ReplaceAll(m.String(), ":", "")
	} else {
		c.ClientID = "01" + strings.ReplaceAll(m.String(), ":", "")
	}
	return c
}

// bothFamilies runs a test for IPv4 and IPv6.
func bothFamilies(t *testing.T, f func(t *testing.T, f vpc.Family)) {
	for _, family := range vpc.Families() {
		t.Run(family.String(), func(t *testing.T) { f(t, family) })
	}
}

func TestLookup(t *testing.T) {
	on := func(vswitch string, m vpc.MAC, f vpc.Family) Client {
		return Client{VSwitch: vswitch, MAC: m, Family: f}
	}
	tests := []struct {
		name string
		c    Client
		want string
		err  error
	}{
		{"an interface has its primary IPv4 address", on(webID, mac1, vpc.IPv4), "10.20.1.10", nil},
		{"an interface has its primary IPv6 address", on(webID, mac1, vpc.IPv6), "fd00:20:0:1::10", nil},
		{"an unknown MAC may enrol", on(webID, unknown, vpc.IPv4), "", ErrUnknown},
		{"an unknown MAC may enrol by IPv6", on(webID, unknown, vpc.IPv6), "", ErrUnknown},
		{"an unknown MAC is refused where enrolment is closed", on(dbID, unknown, vpc.IPv4), "", ErrClosed},
		{"an unknown MAC is refused by IPv6 where enrolment is closed", on(dbID, unknown, vpc.IPv6), "", ErrClosed},
		{"a MAC of another vSwitch is refused", on(dbID, mac1, vpc.IPv4), "", ErrElsewhere},
		{"a MAC of another vSwitch is refused by IPv6", on(dbID, mac1, vpc.IPv6), "", ErrElsewhere},
		{"a vSwitch without IPv6 has no IPv6 address", on(v4only, macV4, vpc.IPv6), "", ErrNoAddress},
		{"a vSwitch that is gone serves nobody", on("vsw-gone", mac1, vpc.IPv4), "", ErrNoVSwitch},
	}
	b := newBench(network(1, seats...))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, addr, err := b.Lookup(tt.c)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if tt.want != "" && addr != netip.MustParseAddr(tt.want) {
				t.Errorf("address %s, want %s", addr, tt.want)
			}
		})
	}
}

func TestAnEngineWithoutASnapshotServesNobody(t *testing.T) {
	e := New(Config{Store: &memoryStore{}}, nil)
	if _, _, err := e.Offer(client(mac1, vpc.IPv4)); !errors.Is(err, ErrNoVSwitch) {
		t.Errorf("Offer before SetSnapshot: %v, want %v", err, ErrNoVSwitch)
	}
	if p := e.Pools(); p != nil {
		t.Errorf("Pools before SetSnapshot: %v", p)
	}
}

func TestAnOfferIsHeldForSecondsInMemoryOnly(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f vpc.Family) {
		b, addr := newBench(network(1, seats...)), seats[0].addr(f)
		l, nic, err := b.Offer(client(mac1, f))
		if err != nil {
			t.Fatal(err)
		}
		if l.Address != addr || nic.MAC != mac1 {
			t.Fatalf("offered %s to %s", l.Address, nic.MAC)
		}
		if got := b.state(addr); got != vpc.LeaseOffered {
			t.Errorf("after the offer: %q", got)
		}
		b.flush(t.Context())
		if b.store.puts != 0 {
			t.Errorf("an offer was written to the store")
		}
		b.now = b.now.Add(DefaultOfferTime)
		if got := b.state(addr); got != "" {
			t.Errorf("after the offer's time: %q", got)
		}
		if _, _, err := b.Offer(client(mac1, f)); err != nil {
			t.Fatal(err)
		}
		b.Withdraw(client(mac1, f))
		if got := b.state(addr); got != "" {
			t.Errorf("after the client chose another server: %q", got)
		}
	})
}

func TestALeaseIsDurableBeforeTheClientHears(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f vpc.Family) {
		b, addr := newBench(network(1, seats...)), seats[0].addr(f)
		l, _, err := b.Bind(client(mac1, f), addr)
		if err != nil {
			t.Fatal(err)
		}
		called := false
		if err := b.Commit(l, func(err error) {
			called = true
			if err != nil {
				t.Errorf("callback: %v", err)
			}
			if diff := cmp.Diff(l, b.store.leases[addr], compare); diff != "" {
				t.Errorf("what the store has when the client hears (-want +got):\n%s", diff)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if called || b.state(addr) == vpc.LeaseBound {
			t.Errorf("the lease counts before it is written")
		}
		b.flush(t.Context())
		if !called {
			t.Errorf("no callback")
		}
		want := vpc.Lease{Address: addr, MAC: mac1, ClientID: client(mac1, f).ClientID, DUID: client(mac1, f).DUID, Hostname: "guest",
			Interface: "eni-" + mac1.String(), VSwitch: webID, State: vpc.LeaseBound, Start: start, Expires: start.Add(time.Hour)}
		if f == vpc.IPv6 {
			want.Expires = start.Add(2 * time.Hour)
		}
		if diff := cmp.Diff([]vpc.Lease{want}, b.Leases(), compare); diff != "" {
			t.Errorf("leases (-want +got):\n%s", diff)
		}
	})
}

func TestExpiryOnlyChangesTheState(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f vpc.Family) {
		b, addr := newBench(network(1, seats...)), seats[0].addr(f)
		if err := b.bind(client(mac1, f), addr); err != nil {
			t.Fatal(err)
		}
		b.now = b.now.Add(3 * time.Hour)
		if got := b.state(addr); got != vpc.LeaseExpired {
			t.Errorf("after its time: %q", got)
		}
		if err := b.bind(client(mac1, f), addr); err != nil {
			t.Errorf("the instance comes back: %v", err)
		}
		if got := b.state(addr); got != vpc.LeaseBound {
			t.Errorf("after it came back: %q", got)
		}
	})
}

func TestARefusingStoreMeansSilence(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f vpc.Family) {
		b, addr := newBench(network(1, seats...)), seats[0].addr(f)
		b.store.fail = errDisk
		if err := b.bind(client(mac1, f), addr); !errors.Is(err, errDisk) {
			t.Fatalf("the client was told %v, want %v", err, errDisk)
		}
		if got := b.state(addr); got != "" {
			t.Errorf("an unwritten lease shows as %q", got)
		}
		if err := b.Health(); !errors.Is(err, errDisk) {
			t.Errorf("health: %v", err)
		}
		if got := b.Stats().Failures; got != 1 {
			t.Errorf("%d failures counted, want 1", got)
		}
		b.store.fail = nil
		b.StoreTried(nil)
		if err := b.Health(); err != nil {
			t.Errorf("health after something else could be written: %v", err)
		}
		b.StoreTried(errDisk)
		if err := b.bind(client(mac1, f), addr); err != nil {
			t.Errorf("after the store recovered: %v", err)
		}
		if err := b.Health(); err != nil {
			t.Errorf("health after the store recovered: %v", err)
		}
	})
}

func TestQueuedLeasesShareOneTransaction(t *testing.T) {
	b := newBench(network(1, seats...))
	told := 0
	for _, f := range vpc.Families() {
		for _, s := range seats[:2] {
			for range 10 { // retransmissions
				l, _, err := b.Bind(client(s.mac, f), s.addr(f))
				if err != nil {
					t.Fatal(err)
				}
				if err := b.Commit(l, func(err error) {
					if err == nil {
						told++
					}
				}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	b.flush(t.Context())
	if b.store.puts != 1 || told != 40 {
		t.Errorf("%d transactions and %d answers, want 1 and 40", b.store.puts, told)
	}
	if got, want := b.Stats(), (Stats{Commits: 1, Written: 4}); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
}

func TestABusyEngineGathersWhileItWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(network(1, seats...))
		b.store.gate = make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- b.Run(ctx) }()
		var mu sync.Mutex
		var told []error
		commit := func(s seat, f vpc.Family) {
			l, _, err := b.Bind(client(s.mac, f), s.addr(f))
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Commit(l, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, err)
			}); err != nil {
				t.Fatal(err)
			}
		}
		commit(seats[0], vpc.IPv4)
		synctest.Wait() // the first transaction is under way
		commit(seats[0], vpc.IPv6)
		commit(seats[1], vpc.IPv4)
		commit(seats[1], vpc.IPv6)
		synctest.Wait()
		if len(told) != 0 {
			t.Errorf("%d clients were told before anything was written", len(told))
		}
		b.store.gate <- struct{}{}
		b.store.gate <- struct{}{}
		synctest.Wait()
		if b.store.puts != 2 || len(told) != 4 || errors.Join(told...) != nil {
			t.Errorf("%d transactions, answers %v; want 2 and four without error", b.store.puts, told)
		}

		commit(seats[0], vpc.IPv4)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
		if len(told) != 5 || !errors.Is(told[4], context.Canceled) {
			t.Errorf("what was queued at the end was told %v, want %v", told[4:], context.Canceled)
		}
	})
}

func TestAFullQueueRefusesAtOnce(t *testing.T) {
	b := newBench(network(1, seats...))
	l, _, err := b.Bind(client(mac1, vpc.IPv4), seats[0].addr(vpc.IPv4))
	if err != nil {
		t.Fatal(err)
	}
	for range maxQueued {
		if err := b.Commit(l, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(l, func(error) { t.Error("called back") }); !errors.Is(err, ErrBusy) {
		t.Errorf("error %v, want %v", err, ErrBusy)
	}
	b.flush(t.Context())
	if err := b.Commit(l, nil); err != nil {
		t.Errorf("after the queue was written: %v", err)
	}
}

func TestReleaseEndsTheLeaseAndKeepsTheAddress(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f vpc.Family) {
		b, addr := newBench(network(1, seats...)), seats[0].addr(f)
		if _, err := b.Release(client(mac1, f), addr); !errors.Is(err, ErrNotYours) {
			t.Errorf("release of what was never leased: %v", err)
		}
		if err := b.bind(client(mac1, f), addr); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Release(client(mac2, f), addr); !errors.Is(err, ErrNotYours) {
			t.Errorf("release of somebody else's: %v", err)
		}
		if _, err := b.Release(client(mac1, f), addr); err != nil {
			t.Fatal(err)
		}
		b.flush(t.Context())
		if got := b.state(addr); got != vpc.LeaseReleased {
			t.Errorf("after the release: %q", got)
		}
		if got := b.store.leases[addr].State; got != vpc.LeaseReleased {
			t.Errorf("the store has %q", got)
		}
		if l, _, err := b.Offer(client(mac1, f)); err != nil || l.Address != addr {
			t.Errorf("offered %s, %v after the release; want %s", l.Address, err, addr)
		}
	})
}

func TestDeclineQuarantinesTheAddress(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f vpc.Family) {
		s := network(1, seats...)
		b, addr, c := newBench(s), seats[0].addr(f), client(mac1, f)
		if err := b.bind(c, addr); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Decline(client(mac2, f), addr); !errors.Is(err, ErrNotYours) {
			t.Errorf("decline of somebody else's: %v", err)
		}
		if _, err := b.Decline(c, addr); err != nil {
			t.Fatal(err)
		}
		refused := func(when string) {
			t.Helper()
			if _, _, err := b.Offer(c); !errors.Is(err, ErrQuarantined) {
				t.Errorf("offer %s: %v", when, err)
			}
			if _, _, err := b.Bind(c, addr); !errors.Is(err, ErrQuarantined) {
				t.Errorf("bind %s: %v", when, err)
			}
		}
		refused("before the quarantine is written")
		b.flush(t.Context())
		refused("when it is written")
		if got := b.state(addr); got != vpc.LeaseDeclined {
			t.Errorf("the lease shows as %q", got)
		}
		if !strings.Contains(b.log.String(), "lease declined") {
			t.Errorf("nothing in the log:\n%s", b.log.String())
		}
		b.restart(s)
		refused("after a restart")
		b.now = b.now.Add(DefaultQuarantine)
		if _, _, err := b.Offer(c); err != nil {
			t.Errorf("offer after the quarantine: %v", err)
		}
	})
}

func TestAQuarantineHoldsWhenItCannotBeWritten(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f vpc.Family) {
		b, addr, c := newBench(network(1, seats...)), seats[0].addr(f), client(mac1, f)
		if err := b.bind(c, addr); err != nil {
			t.Fatal(err)
		}
		b.store.fail = errDisk
		if _, err := b.Decline(c, addr); err != nil {
			t.Fatal(err)
		}
		b.flush(t.Context())
		if _, _, err := b.Offer(c); !errors.Is(err, ErrQuarantined) {
			t.Errorf("offer: %v, want %v", err, ErrQuarantined)
		}
	})
}

func TestANewAddressIsOfferedOnceItIsKnownToBeFree(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f vpc.Family) {
		b := newBench(network(1, seats...))
		own := seats[0].addr(f)
		c := client(mac1, f)
		c.OnLink = true
		try := func(when string, want error) {
			t.Helper()
			if l, nic, err := b.Offer(c); !errors.Is(err, want) || l.Address != own && err != ErrQuarantined || nic == nil {
				t.Errorf("%s: %s, %v, %v; want %v", when, l.Address, nic, err, want)
			}
		}
		try("new", ErrUntried)
		if _, _, err := b.Offer(client(mac1, f)); err != nil {
			t.Errorf("by a relay: %v", err)
		}
		b.Vacant(own)
		try("free", nil)
		b.now = b.now.Add(DefaultOfferTime)
		try("free a while ago", ErrUntried)

		if err := b.Conflict(c, own, unknown); err != nil {
			t.Fatal(err)
		}
		try("used by somebody else", ErrQuarantined)
		b.flush(t.Context())
		if got := b.state(own); got != vpc.LeaseDeclined || b.Stats().Conflicts != 1 {
			t.Errorf("state %q, %+v", got, b.Stats())
		}
		b.restart(network(1, seats...))
		try("used by somebody else before a restart", ErrQuarantined)
		b.now = b.now.Add(DefaultQuarantine)
		try("after the quarantine", ErrUntried)

		if err := b.bind(c, own); err != nil {
			t.Fatal(err)
		}
		b.flush(t.Context())
		try("bound", nil)
		if _, err := b.Release(c, own); err != nil {
			t.Fatal(err)
		}
		b.flush(t.Context())
		try("released", nil)

		// Somebody else gets the address: it is new to that one.
		swapped := network(2, seat{mac1, "web", "10.20.1.11", "fd00:20:0:1::11"}, seat{mac2, "web", "10.20.1.10", "fd00:20:0:1::10"})
		b.SetSnapshot(swapped)
		c = client(mac2, f)
		c.OnLink = true
		try("had by another", ErrUntried)
		if err := b.Conflict(client(mac1, f), own, unknown); !errors.Is(err, ErrNotYours) {
			t.Errorf("a conflict about an address that is another's meanwhile: %v", err)
		}
		if err := b.Conflict(client(unknown, f), own, mac1); !errors.Is(err, ErrUnknown) {
			t.Errorf("a conflict about nobody's address: %v", err)
		}
	})
}

func TestAReservationThatMovedIsRefusedAtTheNextRenewal(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f vpc.Family) {
		b, addr := newBench(network(1, seats...)), seats[0].addr(f)
		if err := b.bind(client(mac1, f), addr); err != nil {
			t.Fatal(err)
		}
		// A renewal is on its way to the disk when the address becomes mac2's.
		l, _, err := b.Bind(client(mac1, f), addr)
		if err != nil {
			t.Fatal(err)
		}
		var told error
		if err := b.Commit(l, func(err error) { told = err }); err != nil {
			t.Fatal(err)
		}
		moved := seats[0]
		moved.mac = mac2
		b.SetSnapshot(network(2, moved))
		b.flush(t.Context())
		if !errors.Is(told, ErrSuperseded) {
			t.Errorf("the old holder's renewal: %v, want %v", told, ErrSuperseded)
		}
		if _, _, err := b.Bind(client(mac1, f), addr); !errors.Is(err, ErrUnknown) {
			t.Errorf("the old holder, whose interface is gone: %v", err)
		}
		if !b.Held(addr, mac1) {
			t.Errorf("nothing remembers who had the address")
		}
		if got := b.state(addr); got != "" {
			t.Errorf("the old holder's lease shows as %q", got)
		}
		if err := b.bind(client(mac2, f), addr); err != nil {
			t.Errorf("the new holder: %v", err)
		}
		if b.Held(addr, mac1) || !b.Held(addr, mac2) {
			t.Errorf("the lease is not the new holder's")
		}
		if _, err := b.Release(client(mac1, f), addr); err == nil {
			t.Errorf("the old holder released the new one's lease")
		}
	})
}

func TestAnAddressOfSomebodyElseIsRefused(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f vpc.Family) {
		b := newBench(network(1, seats...))
		if _, _, err := b.Bind(client(mac1, f), seats[1].addr(f)); !errors.Is(err, ErrNotYours) {
			t.Errorf("error %v, want %v", err, ErrNotYours)
		}
	})
}

func TestLeasesOfInterfacesThatAreGoneAreForgotten(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f vpc.Family) {
		b, addr := newBench(network(1, seats...)), seats[0].addr(f)
		for _, s := range seats[:2] {
			if err := b.bind(client(s.mac, f), s.addr(f)); err != nil {
				t.Fatal(err)
			}
		}
		b.SetSnapshot(network(2, seats[1:]...))
		b.sweep(t.Context())
		if !b.Held(addr, mac1) {
			t.Errorf("a lease that still runs was forgotten: its client would not be refused")
		}
		b.now = b.now.Add(3 * time.Hour)
		b.store.fail = errDisk
		b.sweep(t.Context())
		if !b.Held(addr, mac1) || b.Health() == nil {
			t.Errorf("forgotten although the store refused")
		}
		b.store.fail = nil
		b.sweep(t.Context())
		if b.Held(addr, mac1) {
			t.Errorf("a lease of an interface that is gone is still there")
		}
		if len(b.store.leases) != 1 {
			t.Errorf("the store has %v, want only the other interface's", b.store.leases)
		}
	})
}

func TestARestartKnowsEveryLease(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f vpc.Family) {
		s := network(1, seats...)
		b := newBench(s)
		for _, seat := range seats[:2] {
			if err := b.bind(client(seat.mac, f), seat.addr(f)); err != nil {
				t.Fatal(err)
			}
		}
		want := b.Leases()
		b.restart(s)
		if diff := cmp.Diff(want, b.Leases(), compare); diff != "" {
			t.Errorf("leases after a restart (-before +after):\n%s", diff)
		}
	})
}

// enroller makes the instance that a test gives it.
type enroller struct {
	calls int
	gate  chan struct{}
	snap  *vpc.Snapshot
	err   error
}

func (e *enroller) Enrol(_ context.Context, vswitchID string, mac vpc.MAC, hostname string) (*vpc.Snapshot, error) {
	e.calls++
	if e.gate != nil {
		<-e.gate
	}
	return e.snap, e.err
}

func TestEnrol(t *testing.T) {
	enrolled := append([]seat{{unknown, "web", "10.20.1.12", "fd00:20:0:1::12"}}, seats...)
	bothFamilies(t, func(t *testing.T, f vpc.Family) {
		c := client(unknown, f)
		t.Run("an unknown MAC becomes an instance", func(t *testing.T) {
			b := newBench(network(1, seats...))
			b.cfg.Enroller = &enroller{snap: network(2, enrolled...)}
			if err := b.Enrol(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			l, _, err := b.Offer(c)
			if err != nil || l.Address != enrolled[0].addr(f) {
				t.Errorf("offered %s, %v; want %s", l.Address, err, enrolled[0].addr(f))
			}
		})
		t.Run("a later snapshot is not undone", func(t *testing.T) {
			b := newBench(network(1, seats...))
			later := network(3, enrolled...)
			en := &enroller{snap: network(2, enrolled...)}
			b.cfg.Enroller = en
			b.SetSnapshot(network(1, seats...))
			b.adopt(later)
			b.adopt(en.snap)
			if b.Snapshot() != later {
				t.Errorf("revision %d replaced %d", b.Snapshot().Revision, later.Revision)
			}
		})
		t.Run("a known MAC is not enrolled again", func(t *testing.T) {
			b := newBench(network(1, seats...))
			en := &enroller{}
			b.cfg.Enroller = en
			if err := b.Enrol(t.Context(), client(mac1, f)); err != nil || en.calls != 0 {
				t.Errorf("error %v after %d calls", err, en.calls)
			}
		})
		t.Run("a closed vSwitch enrols nobody", func(t *testing.T) {
			b := newBench(network(1, seats...))
			en := &enroller{}
			b.cfg.Enroller = en
			closed := c
			closed.VSwitch = dbID
			if err := b.Enrol(t.Context(), closed); !errors.Is(err, ErrClosed) || en.calls != 0 {
				t.Errorf("error %v after %d calls, want %v after none", err, en.calls, ErrClosed)
			}
		})
		t.Run("without an enroller nobody enrols", func(t *testing.T) {
			b := newBench(network(1, seats...))
			if err := b.Enrol(t.Context(), c); !errors.Is(err, ErrClosed) {
				t.Errorf("error %v, want %v", err, ErrClosed)
			}
		})
		t.Run("a refusal is the enroller's", func(t *testing.T) {
			b := newBench(network(1, seats...))
			b.cfg.Enroller = &enroller{err: errDisk}
			if err := b.Enrol(t.Context(), c); !errors.Is(err, errDisk) {
				t.Errorf("error %v", err)
			}
		})
		t.Run("requests that come meanwhile share the answer", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(network(1, seats...))
				en := &enroller{snap: network(2, enrolled...), gate: make(chan struct{})}
				b.cfg.Enroller = en
				errs := make(chan error, 5)
				for range cap(errs) {
					go func() { errs <- b.Enrol(t.Context(), c) }()
				}
				impatient, cancel := context.WithCancel(t.Context())
				synctest.Wait()
				gone := make(chan error, 1)
				go func() { gone <- b.Enrol(impatient, c) }()
				synctest.Wait()
				cancel()
				if err := <-gone; !errors.Is(err, context.Canceled) {
					t.Errorf("a cancelled wait: %v", err)
				}
				close(en.gate)
				for range cap(errs) {
					if err := <-errs; err != nil {
						t.Error(err)
					}
				}
				if en.calls != 1 {
					t.Errorf("%d enrolments, want 1", en.calls)
				}
			})
		})
	})
}

func TestPools(t *testing.T) {
	b := newBench(network(1, seats...))
	for _, f := range vpc.Families() {
		if err := b.bind(client(mac1, f), seats[0].addr(f)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Offer(client(mac2, f)); err != nil {
			t.Fatal(err)
		}
	}
	const slash64 = 1 << 64
	want := []Pool{
		{VSwitch: webID, Family: vpc.IPv4, Size: 4, Used: 2, Bound: 1, Offered: 1},
		{VSwitch: webID, Family: vpc.IPv6, Size: slash64 - 10, Used: 2, Bound: 1, Offered: 1},
		{VSwitch: dbID, Family: vpc.IPv4, Size: 252, Used: 1},
		{VSwitch: dbID, Family: vpc.IPv6, Size: slash64 - 10, Used: 1},
		{VSwitch: v4only, Family: vpc.IPv4, Size: 252, Used: 1},
	}
	if diff := cmp.Diff(want, b.Pools()); diff != "" {
		t.Errorf("pools (-want +got):\n%s", diff)
	}
	if strings.Contains(b.log.String(), "running out") {
		t.Errorf("warned about a pool with room:\n%s", b.log.String())
	}
	full := append([]seat{}, seats...)
	full = append(full, seat{vpc.MAC{2, 0, 0, 0, 0, 1}, "web", "10.20.1.12", ""}, seat{vpc.MAC{2, 0, 0, 0, 0, 2}, "web", "10.20.1.13", ""})
	b.SetSnapshot(network(2, full...))
	b.SetSnapshot(network(3, full...))
	if n := strings.Count(b.log.String(), "running out"); n != 1 {
		t.Errorf("warned %d times about a full pool, want once:\n%s", n, b.log.String())
	}
}

func TestWhatIsWorthALine(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f vpc.Family) {
		b := newBench(network(1, seats...))
		lost := client(mac1, f)
		lost.VSwitch = dbID
		for range 10 {
			if _, _, err := b.Offer(lost); !errors.Is(err, ErrElsewhere) {
				t.Fatal(err)
			}
		}
		if n := strings.Count(b.log.String(), "another vSwitch"); n != 1 {
			t.Errorf("a MAC on the wrong vSwitch was logged %d times, want once:\n%s", n, b.log.String())
		}
		clone := client(mac2, f)
		clone.ClientID, clone.DUID = client(mac1, f).ClientID, client(mac1, f).DUID
		if err := b.bind(client(mac1, f), seats[0].addr(f)); err != nil {
			t.Fatal(err)
		}
		if err := b.bind(clone, seats[1].addr(f)); err != nil {
			t.Fatalf("a cloned machine gets no address: %v", err)
		}
		if !strings.Contains(b.log.String(), "cloned") {
			t.Errorf("two MACs with one identifier were not named:\n%s", b.log.String())
		}
	})
}

func TestLimiter(t *testing.T) {
	var l Limiter
	now := start
	if !l.Allow("a", now) || l.Allow("a", now) || !l.Allow("b", now) {
		t.Fatal("a key is allowed once, and by itself")
	}
	if !l.Allow("a", now.Add(noteInterval)) {
		t.Error("a key is not allowed again after the interval")
	}
	if !l.Allow("b", now.Add(-time.Hour)) {
		t.Error("a clock that went back silences a key")
	}
	now = now.Add(24 * time.Hour)
	allowed := 0
	for i := range 3 * noteMax {
		if l.Allow(strings.Repeat("x", i), now) {
			allowed++
		}
	}
	if allowed != noteMax || len(l.last) != noteMax {
		t.Errorf("%d keys allowed and %d kept, want %d", allowed, len(l.last), noteMax)
	}
	if !l.Allow("late", now.Add(noteInterval)) {
		t.Error("old keys do not make room")
	}
}
