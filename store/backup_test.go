package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"gatehouse/vpc"
)

// backupOf returns a file with a backup of the store.
func backupOf(t *testing.T, s *Store) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.Backup(&b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "backup.db")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestABackupIsConsistentWhileTheStoreIsInUse(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	mustCommit(t, s, bigSpec(1), "apply")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // every revision n has n instances, and as many leases are stored before it
		for n := 2; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := s.PutLeases(ctx, lease(n)); err != nil {
				t.Error(err)
			}
			cur, base := s.State()
			if _, err := s.Commit(ctx, base, withInstance(cur, n), Audit{}); err != nil {
				t.Error(err)
			}
		}
	})
	for range 10 {
		c, err := Check(backupOf(t, s))
		if err != nil {
			t.Fatal(err)
		}
		instances := len(c.Spec.VPCs[0].Instances)
		if uint64(instances) != c.Revision || len(c.Leases) < instances-1 || len(c.Leases) > instances {
			t.Errorf("revision %d with %d instances and %d leases", c.Revision, instances, len(c.Leases))
		}
	}
	close(stop)
	wg.Wait()
	if left, err := filepath.Glob(s.path + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRestoringIsOneRevisionMore(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	old := spec(1)
	mustCommit(t, s, old, "apply")
	if err := errors.Join(s.PutLeases(ctx, lease(1), lease(2)), s.PutMeta(ctx, "duid", []byte("old")), s.PutMeta(ctx, "lost", []byte("x"))); err != nil {
		t.Fatal(err)
	}
	path := backupOf(t, s)

	newer := spec(2)
	mustCommit(t, s, newer, "apply")
	if err := errors.Join(s.PutLeases(ctx, lease(4)), s.DeleteLeases(ctx, lease(1).Address), s.PutMeta(ctx, "duid", []byte("new")), s.PutMeta(ctx, "lost", nil)); err != nil {
		t.Fatal(err)
	}
	c, err := Check(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Restore(ctx, 1, c, Audit{}); !errors.Is(err, ErrConflict) {
		t.Errorf("on a stale revision: %v", err)
	}
	woken, cancel := s.Watch()
	defer cancel()
	n, err := s.Restore(ctx, 2, c, Audit{Who: "root", Verb: "restore"})
	if err != nil || n != 3 {
		t.Fatalf("revision %d, %v", n, err)
	}
	select {
	case <-woken:
	default:
		t.Error("nobody was woken")
	}
	got, _ := s.State()
	if d := specDiff(old, got); d != "" {
		t.Error(d)
	}
	if l, err := s.Leases(); err != nil || !slices.Equal(l, []vpc.Lease{lease(1), lease(2)}) {
		t.Errorf("leases %v, %v", l, err)
	}
	for key, want := range map[string]string{"duid": "new", "lost": "x"} {
		if v, err := s.Meta(key); err != nil || string(v) != want {
			t.Errorf("%s: %q, %v", key, v, err)
		}
	}
	if before, err := s.Revision(2); err != nil || specDiff(newer, before) != "" {
		t.Errorf("what was before the restore: %v", err)
	}
	// What is restored goes on like anything else.
	mustCommit(t, s, mutateOnce(got), "set")
	if events, err := s.Events(3, 0); err != nil || len(events) != 2 || events[0].Verb != "restore" {
		t.Errorf("%+v, %v", events, err)
	}
}

func mutateOnce(s *vpc.Spec) *vpc.Spec {
	v := *s.VPCs[0]
	v.Description = "changed"
	next := *s
	next.VPCs = append([]*vpc.VPCSpec{&v}, s.VPCs[1:]...)
	return &next
}

func TestABackupReplacesADamagedStore(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	backup := backupOf(t, func() *Store { s := newStore(t); mustCommit(t, s, spec(1), "apply"); return s }())

	t.Run("a damaged backup is not used", func(t *testing.T) {
		if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
		bad := filepath.Join(dir, "bad.db")
		if err := os.WriteFile(bad, []byte("damaged too"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Replace(path, bad); !errors.Is(err, ErrCorrupt) {
			t.Errorf("got %v", err)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != "damaged" {
			t.Errorf("%q, %v", now, err)
		}
	})
	t.Run("a good one is, and what was there is kept", func(t *testing.T) {
		if err := Replace(path, backup); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		got, n := s.State()
		if d := specDiff(spec(1), got); d != "" || n != 1 {
			t.Errorf("revision %d\n%s", n, d)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if old, err := os.ReadFile(path + ".old"); err != nil || string(old) != "damaged" {
			t.Errorf("%q, %v", old, err)
		}
	})
	t.Run("again, and where there was nothing", func(t *testing.T) {
		for _, p := range []string{path, filepath.Join(dir, "new", "state.db")} {
			if err := Replace(p, backup); err != nil {
				t.Error(err)
			}
		}
		if left, err := filepath.Glob(path + ".restore*"); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	if _, err := Check(filepath.Join(dir, "none.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	empty := filepath.Join(dir, "empty.db")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(empty); !errors.Is(err, ErrCorrupt) {
		t.Errorf("an empty file: %v", err)
	}
	if _, err := Check(dir); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a directory: %v", err)
	}
}
