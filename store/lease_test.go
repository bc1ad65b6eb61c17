package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"gatehouse/vpc"
)

// lease returns the i-th of many leases; every third is one of DHCPv6.
func lease(i int) vpc.Lease {
	l := vpc.Lease{
		Address: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), MAC: vpc.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)},
		ClientID: fmt.Sprintf("01%012x", i), Hostname: fmt.Sprint("vm-", i), Interface: fmt.Sprintf("eni-%016x", i), VSwitch: "vsw-0000000000000001",
		State: vpc.LeaseBound, Start: clock, Expires: clock.Add(24 * time.Hour),
	}
	if i%3 == 2 {
		l.Address = netip.MustParseAddr(fmt.Sprintf("fd00::%x", i))
		l.ClientID, l.DUID = "", fmt.Sprintf("0001%012x", i)
	}
	return l
}

func TestLeasesComeBackAsTheyWere(t *testing.T) {
	s := newStore(t)
	want := []vpc.Lease{
		lease(1), lease(2), {Address: netip.MustParseAddr("10.9.9.9"), State: vpc.LeaseDeclined, Expires: clock.Add(time.Nanosecond)},
		{Address: netip.MustParseAddr("fd00::1"), State: vpc.LeaseReleased, Hostname: "hostile\x00\xff name", Start: time.Date(1969, 1, 1, 0, 0, 0, 999, time.UTC)},
	}
	if err := s.PutLeases(context.Background(), want...); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(want, func(a, b vpc.Lease) int { return a.Address.Compare(b.Address) })
	got, err := s.Leases()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestALeaseThatCannotBeKeptIsRefused(t *testing.T) {
	s := newStore(t)
	for name, l := range map[string]vpc.Lease{
		"no address":       {},
		"a zone":           {Address: netip.MustParseAddr("fe80::1%eth0")},
		"an unknown state": {Address: netip.MustParseAddr("10.0.0.1"), State: "lost"},
	} {
		if err := s.PutLeases(context.Background(), lease(1), l); err == nil {
			t.Errorf("%s: stored", name)
		}
	}
	if err := s.DeleteLeases(context.Background(), netip.Addr{}); err == nil {
		t.Error("no address: deleted")
	}
	if got, err := s.Leases(); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestOfTwoWritesToAnAddressInOneCallTheLastStays(t *testing.T) {
	s := newStore(t)
	older, newer := lease(1), lease(1)
	newer.Hostname = "newer"
	if err := s.PutLeases(context.Background(), older, newer); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Leases(); err != nil || len(got) != 1 || got[0] != newer {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestManyCallersShareAWriteAndAllAreStored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	const n = 500
	stats := s.db.Stats()
	before := stats.TxStats.GetWrite()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := s.PutLeases(context.Background(), lease(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	stats = s.db.Stats()
	t.Logf("%d leases in %d page writes", n, stats.TxStats.GetWrite()-before)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := openTest(t, path, testOptions()).Leases()
	if err != nil || len(got) != n {
		t.Errorf("%d leases, %v", len(got), err)
	}
}

// TestAGroupIsWhatWasAskedForMeanwhile holds the disk while requests come in: they must go out in one write.
func TestAGroupIsWhatWasAskedForMeanwhile(t *testing.T) {
	started, disk := make(chan struct{}, 10), make(chan struct{})
	var c committer
	c.start(func(func(*bolt.Tx) error) error {
		started <- struct{}{}
		<-disk
		return nil
	})
	var wg sync.WaitGroup
	submit := func() {
		wg.Go(func() {
			if err := c.submit(context.Background(), []leaseWrite{{key: []byte{1}}}); err != nil {
				t.Error(err)
			}
		})
	}
	submit()
	<-started
	const n = 100
	for range n {
		submit()
	}
	for deadline := time.Now().Add(30 * time.Second); len(c.requests) < n; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("only %d of %d came in", len(c.requests), n)
		}
	}
	close(disk)
	wg.Wait()
	c.close()
	if more := len(started); more != 1 {
		t.Errorf("%d requests took %d writes", n, more)
	}
}

func TestADiskErrorReachesEveryWaiterAndIsGoneWithTheDiskError(t *testing.T) {
	broken := errors.New("input/output error")
	var c committer
	var mu sync.Mutex
	err := broken
	c.start(func(func(*bolt.Tx) error) error {
		mu.Lock()
		defer mu.Unlock()
		return err
	})
	defer c.close()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if got := c.submit(context.Background(), []leaseWrite{{key: []byte{1}}}); !errors.Is(got, broken) {
				t.Errorf("got %v", got)
			}
		})
	}
	wg.Wait()
	mu.Lock()
	err = nil
	mu.Unlock()
	if got := c.submit(context.Background(), []leaseWrite{{key: []byte{1}}}); got != nil {
		t.Errorf("after the error: %v", got)
	}
}

func TestACallerMayLeaveBeforeTheDiskAnswers(t *testing.T) {
	disk := make(chan struct{})
	var c committer
	c.start(func(func(*bolt.Tx) error) error { <-disk; return nil })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- c.submit(ctx, []leaseWrite{{key: []byte{1}}}) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(disk)
	c.close()
}

func FuzzLease(f *testing.F) {
	for i := range 3 {
		value, err := encodeLease(lease(i))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(lease(i).Address.AsSlice(), value)
	}
	f.Add([]byte{10, 0, 0, 1}, []byte{leaseVersion})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		l, err := decodeLease(key, value, newPool())
		if err != nil {
			return
		}
		again, err := encodeLease(l)
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeLease(l.Address.AsSlice(), again, newPool())
		if err != nil || back != l {
			t.Errorf("%+v became %+v (%v)", l, back, err)
		}
		if !bytes.Equal(l.Address.AsSlice(), key) {
			t.Errorf("key %x became %x", key, l.Address.AsSlice())
		}
	})
}

func BenchmarkPutLease(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprint(writers, " at a time"), func(b *testing.B) {
			s, err := Open(filepath.Join(b.TempDir(), "state.db"), testOptions())
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			b.SetParallelism(max(1, writers/2))
			i := 0
			var mu sync.Mutex
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					mu.Lock()
					i++
					l := lease(i % 65536)
					mu.Unlock()
					if err := s.PutLeases(context.Background(), l); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkOpenAndReadLeases(b *testing.B) {
	path := filepath.Join(b.TempDir(), "state.db")
	s, err := Open(path, testOptions())
	if err != nil {
		b.Fatal(err)
	}
	var all []vpc.Lease
	for i := range 65_000 {
		all = append(all, lease(i))
	}
	if err := s.PutLeases(context.Background(), all...); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		if s, err = Open(path, testOptions()); err != nil {
			b.Fatal(err)
		}
		if l, err := s.Leases(); err != nil || len(l) != len(all) {
			b.Fatal(len(l), err)
		}
	}
	s.Close()
}

// Leases as a busy DHCP server commits them: a few dozen at a time, of clients in no order.
func BenchmarkPutLeasesOfABusyServer(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "state.db"), testOptions())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	group := make([]vpc.Lease, 32)
	next := 0
	for b.Loop() {
		for i := range group {
			group[i] = lease(next * 40503 % 60_000)
			next++
		}
		if err := s.PutLeases(context.Background(), group...); err != nil {
			b.Fatal(err)
		}
	}
}
