package store

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"

	"gatehouse/vpc"
)

// journaled counts what the journal holds.
func journaled(t *testing.T, s *Store) int {
	t.Helper()
	n := 0
	if err := s.view(func(tx *bolt.Tx) error {
		latest, err := readJournal(tx)
		n = len(latest)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestLeasesAreTheSameInTheJournalAndFolded writes and deletes leases in no order, until the journal has been folded
// more than once, and reopens the store now and then.
func TestLeasesAreTheSameInTheJournalAndFolded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openTest(t, path, testOptions())
	r := rand.New(rand.NewPCG(1, 2))
	want := map[netip.Addr]vpc.Lease{}
	folded, before := 0, 0
	for step := range 60 {
		if step%20 == 19 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openTest(t, path, testOptions())
		}
		var put []vpc.Lease
		var gone []netip.Addr
		for range 400 {
			l := lease(r.IntN(3000))
			l.Hostname = fmt.Sprint("step-", step)
			put = append(put, l)
			want[l.Address] = l
		}
		if err := s.PutLeases(context.Background(), put...); err != nil {
			t.Fatal(err)
		}
		for range 40 {
			a := lease(r.IntN(3000)).Address
			gone = append(gone, a)
			delete(want, a)
		}
		if err := s.DeleteLeases(context.Background(), gone...); err != nil {
			t.Fatal(err)
		}
		n := journaled(t, s)
		if n < before {
			folded++
		}
		before = n
		got, err := s.Leases()
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("step %d: %d leases, want %d", step, len(got), len(want))
		}
		for _, l := range got {
			if want[l.Address] != l {
				t.Fatalf("step %d: %+v, want %+v", step, l, want[l.Address])
			}
		}
	}
	if folded < 3 {
		t.Errorf("the journal was folded %d times", folded)
	}
}

func TestAFoldThatFailsLosesNothing(t *testing.T) {
	s := newStore(t)
	if err := s.PutLeases(context.Background(), lease(1)); err != nil { // folds what is not there
		t.Fatal(err)
	}
	if err := s.PutLeases(context.Background(), lease(2)); err != nil {
		t.Fatal(err)
	}
	failed := s.update(func(tx *bolt.Tx) error {
		if err := foldJournal(tx, []leaseWrite{{key: lease(3).Address.AsSlice(), value: []byte{1}}}); err != nil {
			return err
		}
		return errSame
	})
	got, err := s.Leases()
	if failed == nil || err != nil || !slices.Equal(got, []vpc.Lease{lease(1), lease(2)}) {
		t.Errorf("%v; %+v, %v", failed, got, err)
	}
}

func FuzzDecodeWrites(f *testing.F) {
	f.Add(encodeWrites([]leaseWrite{{key: []byte{10, 0, 0, 1}, value: []byte("v")}, {key: []byte{10, 0, 0, 2}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		writes, err := decodeWrites(b)
		if err != nil {
			return
		}
		again, err := decodeWrites(encodeWrites(writes))
		if err != nil || !slices.EqualFunc(again, writes, func(a, b leaseWrite) bool {
			return bytes.Equal(a.key, b.key) && bytes.Equal(a.value, b.value) && (a.value == nil) == (b.value == nil)
		}) {
			t.Errorf("%x: %v, again %v, %v", b, writes, again, err)
		}
	})
}
