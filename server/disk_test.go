package server

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/firewall/iptables"
	"gatehouse/server/lease"
	"gatehouse/store"
)

func TestAStateDirectoryThatCannotBeWrittenIsAProblem(t *testing.T) {
	if p := diskProblems(t.TempDir()); len(p) > 0 {
		t.Errorf("a directory with room: %v", p)
	}
	gone := filepath.Join(t.TempDir(), "gone")
	if p := diskProblems(gone); len(p) != 1 || !strings.Contains(p[0].Message, gone) {
		t.Errorf("a directory that is gone: %v", p)
	}
	// /proc has no room, and is no place for a state.
	if p := diskProblems("/proc"); len(p) != 1 || !strings.Contains(p[0].Message, "/proc has 0 kB left") || p[0].Remedy == "" {
		t.Errorf("a file system without room: %v", p)
	}
}

func TestWhatADiskRefusesHasItsRemedyWhereverItComesUp(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("write leases: %w", unix.ENOSPC), "free some room"},
		{fmt.Errorf("write leases: %w", unix.EDQUOT), "free some room"},
		{fmt.Errorf("write leases: %w", unix.EROFS), "mount it writable"},
		{errors.Join(errors.New("links"), unix.EIO), "fsck"},
		{fmt.Errorf("firewall: %w", &iptables.LockError{}), (&iptables.LockError{}).Remedy()},
		{fmt.Errorf("links: %w", unix.EPERM), "it is tried again by itself"}, // no file's
	} {
		if got := remedyOf(tt.err); !strings.Contains(got, tt.want) {
			t.Errorf("%v: %q has no %q", tt.err, got, tt.want)
		}
	}
}

func TestADiskThatWorksAgainIsKnownBeforeAGuestAsks(t *testing.T) {
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{now: time.Now, store: st, leases: lease.New(lease.Config{}, nil)}
	g.leases.StoreTried(unix.ENOSPC)
	g.tryState(t.Context())
	if err := g.leases.Health(); err != nil {
		t.Errorf("a disk that takes what is written: %v", err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	g.tryState(t.Context())
	if err := g.leases.Health(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("a store that takes nothing: %v", err)
	}
}
