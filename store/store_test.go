package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatehouse/internal/polgen"
	"gatehouse/vpc"
)

var clock = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testOptions() Options { return Options{Now: func() time.Time { return clock }} }

func openTest(t *testing.T, path string, opt Options) *Store {
	t.Helper()
	s, err := Open(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newStore(t *testing.T) *Store {
	return openTest(t, filepath.Join(t.TempDir(), "state.db"), testOptions())
}

func mustCommit(t *testing.T, s *Store, spec *vpc.Spec, verb string) uint64 {
	t.Helper()
	_, base := s.State()
	n, err := s.Commit(context.Background(), base, spec, Audit{Who: "test", Verb: verb})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// specDiff compares two specs by what they say; a list that is nil and one that is empty differ.
func specDiff(a, b *vpc.Spec) string {
	return cmp.Diff(a, b, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }))
}

func spec(seed uint64) *vpc.Spec {
	s := polgen.Spec(rand.New(rand.NewPCG(seed, 1)), polgen.Small())
	s.VPCs[0].PrivateZones = []*vpc.PrivateZoneSpec{{ID: fmt.Sprintf("pz-%d-own", seed), Name: "own.example", Missing: vpc.MissingForward, Records: []*vpc.RecordSpec{{Name: "a", Type: "A", Value: "10.0.0.1", TTL: 60}}}}
	s.VPCs[0].Forwarders = []*vpc.ForwarderSpec{{Zone: "partner.example", Servers: []string{"192.0.2.53"}}}
	s.PrivateZones = []*vpc.PrivateZoneSpec{{ID: fmt.Sprintf("pz-%d-shared", seed), Name: "shared.example", VPCs: []string{s.VPCs[0].Name}, Missing: vpc.MissingNXDOMAIN}}
	s.Tests = []*vpc.TestSpec{{From: "a", To: "b", Protocol: vpc.ProtocolTCP, Port: 22, Expect: vpc.Drop}}
	return s
}

func TestAStoreIsEmptyAtFirstAndPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lib", "gatehouse")
	s := openTest(t, filepath.Join(dir, "state.db"), testOptions())
	got, n := s.State()
	if n != 0 || got == nil || len(got.VPCs) != 0 {
		t.Errorf("revision %d, %+v", n, got)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "state.db"): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
	}
}

func TestWhatWasCommittedIsThereAfterReopening(t *testing.T) {
	for seed := range uint64(20) {
		path := filepath.Join(t.TempDir(), "state.db")
		s, err := Open(path, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		want := spec(seed)
		mustCommit(t, s, want, "apply")
		if got, n := s.State(); got != want || n != 1 {
			t.Fatalf("revision %d, %p for %p", n, got, want)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		got, n := openTest(t, path, testOptions()).State()
		if d := specDiff(want, got); d != "" || n != 1 {
			t.Fatalf("seed %d, revision %d (-committed +reopened):\n%s", seed, n, d)
		}
	}
}

func TestEmptyListsStayApartFromMissingOnes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	want := spec(1)
	want.VPCs[0].VSwitches[0].EnrollmentGroups = []string{}
	want.VPCs[0].Instances[0].Interfaces[0].SecondaryPrivateIPs = nil
	want.Tests = []*vpc.TestSpec{}
	mustCommit(t, s, want, "apply")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, _ := openTest(t, path, testOptions()).State()
	if d := specDiff(want, got); d != "" {
		t.Error(d)
	}
}

func TestACommitOnAStaleRevisionIsAConflictAndChangesNothing(t *testing.T) {
	s := newStore(t)
	first := spec(1)
	mustCommit(t, s, first, "apply")
	for _, base := range []uint64{0, 2, 99} {
		_, err := s.Commit(context.Background(), base, spec(2), Audit{})
		if !errors.Is(err, ErrConflict) {
			t.Errorf("base %d: got %v", base, err)
		}
	}
	if got, n := s.State(); got != first || n != 1 {
		t.Errorf("revision %d", n)
	}
}

func TestACommitThatChangesNothingMakesNoRevision(t *testing.T) {
	s := newStore(t)
	mustCommit(t, s, spec(1), "apply")
	if n := mustCommit(t, s, spec(1), "apply"); n != 1 {
		t.Errorf("revision %d", n)
	}
	if events, err := s.Events(0, 0); err != nil || len(events) != 1 {
		t.Errorf("%d events, %v", len(events), err)
	}
}

func TestACommitThatWasCancelledChangesNothing(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Commit(ctx, 0, spec(1), Audit{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, n := s.State(); n != 0 {
		t.Errorf("revision %d", n)
	}
}

func TestAnObjectWithoutAnIDIsRefused(t *testing.T) {
	s := newStore(t)
	bad := spec(1)
	bad.VPCs[0].VSwitches[0].ID = ""
	if _, err := s.Commit(context.Background(), 0, bad, Audit{}); err == nil || !strings.Contains(err.Error(), "vswitch has no ID") {
		t.Errorf("got %v", err)
	}
	bad = spec(1)
	bad.VPCs[0].SecurityGroups = append(bad.VPCs[0].SecurityGroups, bad.VPCs[0].SecurityGroups[0])
	if _, err := s.Commit(context.Background(), 0, bad, Audit{}); err == nil || !strings.Contains(err.Error(), "have the ID") {
		t.Errorf("got %v", err)
	}
	if _, n := s.State(); n != 0 {
		t.Errorf("revision %d", n)
	}
}

func TestTheAuditLogSaysWhoWhatAndWhen(t *testing.T) {
	s := newStore(t)
	_, err := s.Commit(context.Background(), 0, spec(1), Audit{Who: "root (uid 0)", Verb: "apply", Summary: "1 VPC created", Changes: []string{"+ vpc net0"}})
	if err != nil {
		t.Fatal(err)
	}
	mustCommit(t, s, spec(2), "set")
	got, err := s.Events(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := []Event{
		{Revision: 1, Time: clock, Who: "root (uid 0)", Verb: "apply", Summary: "1 VPC created", Changes: json.RawMessage(`["+ vpc net0"]`)},
		{Revision: 2, Time: clock, Who: "test", Verb: "set"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if got, err := s.Events(2, 0); err != nil || len(got) != 1 || got[0].Revision != 2 {
		t.Errorf("from 2: %+v, %v", got, err)
	}
	if got, err := s.Events(0, 1); err != nil || len(got) != 1 || got[0].Revision != 1 {
		t.Errorf("at most 1: %+v, %v", got, err)
	}
}

func TestOldRevisionsAreKeptAsLongAsAgreed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	opt := testOptions()
	opt.History, opt.MaxAudit = 5, 7
	s := openTest(t, path, opt)
	var specs []*vpc.Spec
	for i := range uint64(12) {
		specs = append(specs, spec(i))
		mustCommit(t, s, specs[i], "apply")
	}
	for n := uint64(1); n <= 12; n++ {
		got, err := s.Revision(n)
		if n < 7 {
			if !errors.Is(err, ErrNoRevision) {
				t.Errorf("revision %d: got %v", n, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("revision %d: %v", n, err)
			continue
		}
		if d := specDiff(specs[n-1], got); d != "" {
			t.Errorf("revision %d:\n%s", n, d)
		}
	}
	if _, err := s.Revision(13); !errors.Is(err, ErrNoRevision) {
		t.Errorf("a revision to come: %v", err)
	}
	if events, err := s.Events(0, 0); err != nil || len(events) != 7 || events[0].Revision != 6 {
		t.Errorf("%d events, %v", len(events), err)
	}
}

func TestWatchersAreWokenOnceHoweverMuchHappened(t *testing.T) {
	s := newStore(t)
	ch, cancel := s.Watch()
	for i := range uint64(3) {
		mustCommit(t, s, spec(i), "apply")
	}
	select {
	case <-ch:
	default:
		t.Fatal("not woken")
	}
	select {
	case <-ch:
		t.Fatal("woken twice")
	default:
	}
	cancel()
	mustCommit(t, s, spec(9), "apply")
	select {
	case <-ch:
		t.Fatal("woken after cancel")
	default:
	}
}

func TestManyWatchersAllSeeTheLastRevision(t *testing.T) {
	s := newStore(t)
	const last = 30
	var wg sync.WaitGroup
	for range 16 {
		ch, cancel := s.Watch()
		wg.Go(func() {
			defer cancel()
			seen := uint64(0)
			for range ch {
				got, n := s.State()
				if n < seen {
					t.Errorf("revision %d after %d", n, seen)
				}
				if len(got.VPCs) == 0 {
					t.Error("half a revision")
				}
				if seen = n; n == last {
					return
				}
			}
		})
	}
	for i := range uint64(last) {
		mustCommit(t, s, spec(i), "apply")
	}
	wg.Wait()
}

func TestOfManyWritersOnOneRevisionOneWins(t *testing.T) {
	s := newStore(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := map[uint64]int{}
	for w := range uint64(8) {
		wg.Go(func() {
			for i := range uint64(20) {
				_, base := s.State()
				n, err := s.Commit(context.Background(), base, spec(w*100+i+1), Audit{Who: "w"})
				switch {
				case errors.Is(err, ErrConflict):
				case err != nil:
					t.Error(err)
				default:
					mu.Lock()
					won[n]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	_, n := s.State()
	for r := uint64(1); r <= n; r++ {
		if won[r] != 1 {
			t.Errorf("revision %d was made %d times", r, won[r])
		}
	}
	if len(won) != int(n) {
		t.Errorf("%d revisions, the last is %d", len(won), n)
	}
}

func TestSmallValuesAreKept(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	if v, err := s.Meta("duid"); v != nil || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if err := s.PutMeta(ctx, "duid", []byte{}); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Meta("duid"); v == nil || err != nil {
		t.Errorf("the empty value: %v, %v", v, err)
	}
	if err := s.PutMeta(ctx, "duid", []byte("0001")); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Meta("duid"); string(v) != "0001" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if err := s.PutMeta(ctx, "duid", nil); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Meta("duid"); v != nil || err != nil {
		t.Errorf("removed: %q, %v", v, err)
	}
	if err := s.PutMeta(ctx, "", []byte("x")); err == nil {
		t.Error("a value without a key was stored")
	}
}

func TestAClosedStoreSaysSo(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "state.db"), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	_, commit := s.Commit(ctx, 0, spec(1), Audit{})
	_, leases := s.Leases()
	_, events := s.Events(0, 0)
	_, rev := s.Revision(0)
	_, meta := s.Meta("x")
	_, stats := s.Stats()
	for what, err := range map[string]error{
		"commit": commit, "leases": leases, "events": events, "revision": rev, "meta": meta, "stats": stats,
		"put leases": s.PutLeases(ctx, lease(1)), "delete leases": s.DeleteLeases(ctx, lease(1).Address),
		"put meta": s.PutMeta(ctx, "x", nil), "backup": s.Backup(new(strings.Builder)),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// TestRandomOperationsAgreeWithAModel drives a store and a model of it in memory through the same random operations.
func TestRandomOperationsAgreeWithAModel(t *testing.T) {
	const rounds, history = 400, 8
	ctx := context.Background()
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 7))
		path := filepath.Join(t.TempDir(), "state.db")
		opt := testOptions()
		opt.History = history
		s, err := Open(path, opt)
		if err != nil {
			t.Fatal(err)
		}
		model := struct {
			specs  []*vpc.Spec
			leases map[netip.Addr]vpc.Lease
			values map[string]string
		}{[]*vpc.Spec{{}}, map[netip.Addr]vpc.Lease{}, map[string]string{}}
		for i := range rounds {
			cur := uint64(len(model.specs) - 1)
			switch r.IntN(8) {
			case 0, 1, 2:
				next := mutate(r, model.specs[cur])
				n, err := s.Commit(ctx, cur, next, Audit{Who: "model", Verb: "set"})
				if err != nil {
					t.Fatalf("seed %d, step %d: %v", seed, i, err)
				}
				if n == cur+1 {
					model.specs = append(model.specs, next)
				} else if d := specDiff(model.specs[cur], next); n != cur || d != "" {
					t.Fatalf("seed %d, step %d: no revision for\n%s", seed, i, d)
				}
			case 3:
				l := lease(r.IntN(50))
				l.State = vpc.LeaseState([]vpc.LeaseState{vpc.LeaseBound, vpc.LeaseExpired}[r.IntN(2)])
				if err := s.PutLeases(ctx, l); err != nil {
					t.Fatal(err)
				}
				model.leases[l.Address] = l
			case 4:
				l := lease(r.IntN(50))
				if err := s.DeleteLeases(ctx, l.Address); err != nil {
					t.Fatal(err)
				}
				delete(model.leases, l.Address)
			case 5:
				key, value := fmt.Sprint("k", r.IntN(3)), fmt.Sprint(r.IntN(1000))
				if err := s.PutMeta(ctx, key, []byte(value)); err != nil {
					t.Fatal(err)
				}
				model.values[key] = value
			case 6:
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if s, err = Open(path, opt); err != nil {
					t.Fatalf("seed %d, step %d: %v", seed, i, err)
				}
			case 7:
				n := cur - min(cur, uint64(r.IntN(history+1)))
				got, err := s.Revision(n)
				if err != nil {
					t.Fatalf("seed %d, step %d: %v", seed, i, err)
				}
				if d := specDiff(model.specs[n], got); d != "" {
					t.Fatalf("seed %d, step %d, revision %d of %d:\n%s", seed, i, n, cur, d)
				}
			}
			cur = uint64(len(model.specs) - 1)
			got, n := s.State()
			if d := specDiff(model.specs[cur], got); n != cur || d != "" {
				t.Fatalf("seed %d, step %d: revision %d, want %d\n%s", seed, i, n, cur, d)
			}
			leases, err := s.Leases()
			if err != nil {
				t.Fatal(err)
			}
			want := slices.SortedFunc(maps.Values(model.leases), func(a, b vpc.Lease) int { return a.Address.Compare(b.Address) })
			if !slices.Equal(leases, want) {
				t.Fatalf("seed %d, step %d: leases %v, want %v", seed, i, leases, want)
			}
			for k, v := range model.values {
				if got, err := s.Meta(k); err != nil || string(got) != v {
					t.Fatalf("seed %d, step %d: %s is %q, want %q (%v)", seed, i, k, got, v, err)
				}
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// mutate returns a changed spec that shares what it did not change.
func mutate(r *rand.Rand, old *vpc.Spec) *vpc.Spec {
	next := *old
	next.VPCs = slices.Clone(old.VPCs)
	if len(old.VPCs) == 0 || r.IntN(10) == 0 {
		return spec(r.Uint64N(1000))
	}
	i := r.IntN(len(next.VPCs))
	v := *next.VPCs[i]
	next.VPCs[i] = &v
	switch r.IntN(8) {
	case 0:
		v.Description = fmt.Sprint(r.IntN(5))
	case 1: // append an instance
		inst := &vpc.InstanceSpec{ID: fmt.Sprintf("i-%016x", r.Uint64()), Name: fmt.Sprint("n", r.Uint32())}
		v.Instances = append(slices.Clone(v.Instances), inst)
	case 2: // insert an instance anywhere
		inst := &vpc.InstanceSpec{ID: fmt.Sprintf("i-%016x", r.Uint64()), Name: fmt.Sprint("n", r.Uint32())}
		v.Instances = slices.Insert(slices.Clone(v.Instances), r.IntN(len(v.Instances)+1), inst)
	case 3: // delete some
		v.Instances = slices.DeleteFunc(slices.Clone(v.Instances), func(*vpc.InstanceSpec) bool { return r.IntN(4) == 0 })
	case 4: // shuffle
		v.Instances = slices.Clone(v.Instances)
		r.Shuffle(len(v.Instances), func(a, b int) { v.Instances[a], v.Instances[b] = v.Instances[b], v.Instances[a] })
	case 5: // change some in place
		v.SecurityGroups = slices.Clone(v.SecurityGroups)
		for j, g := range v.SecurityGroups {
			if r.IntN(2) == 0 {
				c := *g
				c.Description = fmt.Sprint(r.IntN(3))
				v.SecurityGroups[j] = &c
			}
		}
	case 6: // the same again, in new memory
		c := *v.VSwitches[0]
		v.VSwitches = slices.Clone(v.VSwitches)
		v.VSwitches[0] = &c
	case 7:
		next.VPCs = slices.Delete(next.VPCs, i, i+1)
	}
	if len(v.Instances) == 0 {
		v.Instances = nil // the store has no list of children that is empty but there
	}
	if len(next.VPCs) == 0 {
		next.VPCs = nil
	}
	return &next
}

func TestPlacesGivesRisingRanksBetweenTheBounds(t *testing.T) {
	for _, c := range []struct {
		name      string
		keys      string
		ranks     map[string]uint64
		low, high uint64
		want      []uint64 // nil: no room
	}{
		{"a new list", "ab", nil, 0, 0, []uint64{rankStep, 2 * rankStep}},
		{"appending", "c", nil, 200, 0, []uint64{200 + rankStep}},
		{"inserting", "x", nil, 100, 200, []uint64{150}},
		{"inserting three", "xyz", nil, 100, 200, []uint64{125, 150, 175}},
		{"keeping what is in order", "axb", map[string]uint64{"a": 10, "b": 20}, 0, 0, []uint64{10, 15, 20}},
		{"moving one back", "ba", map[string]uint64{"a": 10, "b": 20}, 0, 100, []uint64{20, 60}},
		{"a rank outside of the bounds", "a", map[string]uint64{"a": 500}, 100, 200, []uint64{150}},
		{"no room", "x", nil, 100, 101, nil},
		{"no room for two", "xy", nil, 100, 102, nil},
		{"no room at the end of all numbers", "x", nil, 1<<64 - 2, 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := place(strings.Split(c.keys, ""), func(k string) uint64 { return c.ranks[k] }, c.low, c.high)
			if ok != (c.want != nil) || ok && !slices.Equal(got, c.want) {
				t.Errorf("got %v, %v", got, ok)
			}
		})
	}
}

func TestPrependingForEverKeepsTheOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	cur := &vpc.Spec{VPCs: []*vpc.VPCSpec{{ID: "vpc-1"}}}
	for i := range 100 { // a gap of 2^32 halves 32 times
		v := *cur.VPCs[0]
		id := fmt.Sprintf("i-%03d", i)
		v.Instances = slices.Insert(slices.Clone(v.Instances), 0, &vpc.InstanceSpec{ID: id})
		want = slices.Insert(want, 0, id)
		cur = &vpc.Spec{VPCs: []*vpc.VPCSpec{&v}}
		mustCommit(t, s, cur, "create")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, _ := openTest(t, path, testOptions()).State()
	var ids []string
	for _, i := range got.VPCs[0].Instances {
		ids = append(ids, i.ID)
	}
	if !slices.Equal(ids, want) {
		t.Errorf("got %v", ids)
	}
}

// bigSpec has n instances with what an enrolled one has.
func bigSpec(n int) *vpc.Spec {
	v := &vpc.VPCSpec{ID: "vpc-1", Name: "big", CIDRBlock: netip.MustParsePrefix("10.0.0.0/8")}
	v.SetDefaults()
	for i := range n {
		v.Instances = append(v.Instances, instance(i))
	}
	return &vpc.Spec{VPCs: []*vpc.VPCSpec{v}}
}

func instance(i int) *vpc.InstanceSpec {
	inst := &vpc.InstanceSpec{ID: fmt.Sprintf("i-%016x", i), Name: fmt.Sprint("vm-", i), Enrolled: true, Interfaces: []*vpc.InterfaceSpec{{
		ID: fmt.Sprintf("eni-%016x", i), MAC: vpc.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}, VSwitch: "main",
		PrivateIP: lease(i).Address, SecurityGroups: []string{"default"},
	}}}
	inst.SetDefaults()
	return inst
}

func TestOneMoreInstanceWritesOneObject(t *testing.T) {
	s := newStore(t)
	cur := bigSpec(10_000)
	mustCommit(t, s, cur, "apply")
	plan, err := s.diff(cur, withInstance(cur, 10_000))
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, o := range append(plan.put, plan.drop...) {
		keys = append(keys, o.Kind+" "+o.Key)
	}
	// The VPC is looked at because it is a new VPCSpec; its bytes turn out to be the same.
	if want := []string{"vpc vpc-1", "instance " + instance(10_000).ID}; !slices.Equal(keys, want) {
		t.Errorf("got %v", keys)
	}
}

func withInstance(s *vpc.Spec, i int) *vpc.Spec {
	v := *s.VPCs[0]
	v.Instances = append(slices.Clip(v.Instances), instance(i))
	return &vpc.Spec{VPCs: []*vpc.VPCSpec{&v}}
}

func BenchmarkCommitOfOneMoreInstance(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "state.db"), testOptions())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	cur := bigSpec(10_000)
	rev, err := s.Commit(context.Background(), 0, cur, Audit{})
	if err != nil {
		b.Fatal(err)
	}
	i := 10_000
	for b.Loop() {
		cur = withInstance(cur, i)
		if rev, err = s.Commit(context.Background(), rev, cur, Audit{Who: "dhcp4", Verb: "enrol"}); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkOpenWithTenThousandInstances(b *testing.B) {
	path := filepath.Join(b.TempDir(), "state.db")
	s, err := Open(path, testOptions())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Commit(context.Background(), 0, bigSpec(10_000), Audit{}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		if s, err = Open(path, testOptions()); err != nil {
			b.Fatal(err)
		}
	}
	s.Close()
}

func TestWhatRootHasMadeBelongsToTheOwnerOfTheDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
	const owner = 12345
	dir := t.TempDir()
	if err := os.Chown(dir, owner, owner); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "state.db")
	belongs := func(when string) {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != owner || st.Gid != owner || info.Mode().Perm() != 0o600 {
			t.Errorf("%s it belongs to %d:%d, %s", when, st.Uid, st.Gid, info.Mode())
		}
	}
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	belongs("made new")
	backup := filepath.Join(t.TempDir(), "backup.db")
	f, err := os.Create(backup)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Backup(f), f.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := Replace(path, backup); err != nil {
		t.Fatal(err)
	}
	belongs("restored")
}
