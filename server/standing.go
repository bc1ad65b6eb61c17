package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"gatehouse/configs"
	"gatehouse/firewall/iptables"
	"gatehouse/vpc"
)

// standing is what a revision was put in force with. A daemon that starts and finds all of it as it was knows that the
// rules of the stored revision are in the kernel, and gives guests addresses before it has read them back: all that it can tell
// them was in force when another daemon ended. After a boot, in another namespace, once anybody has changed a rule, or
// when the other daemon did not get round to the revision, something is otherwise.
//
// It is kept in a file that is never synced: what a power cut makes of it is not of this boot.
type standing struct {
	Boot       string           `json:"boot"`       // of the kernel
	Namespace  uint64           `json:"namespace"`  // cookie of the network namespace: none has it twice in a boot
	Generation uint32           `json:"generation"` // of the kernel's rules
	Revision   uint64           `json:"revision"`
	Stamp      uint64           `json:"stamp"` // of the revision
	Host       vpc.Host         `json:"host"`
	Firewall   configs.Firewall `json:"firewall"`
	Version    string           `json:"version"` // another program may compile other rules
}

const standingFile = "standing"

// standing describes the stored revision under the kernel's rules of a generation; ok is false when it is not the given one
// or cannot be told from others.
func (g *Gateway) standing(revision uint64, generation uint32) (_ []byte, ok bool, err error) {
	c := g.config.Load()
	st := standing{Generation: generation, Host: c.Host(), Firewall: c.Firewall, Version: g.version}
	if st.Revision, st.Stamp = g.store.Stamp(); st.Revision != revision || st.Stamp == 0 {
		return nil, false, nil
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, false, err
	}
	st.Boot = strings.TrimSpace(string(boot))
	if st.Namespace, err = namespaceCookie(); err != nil {
		return nil, false, err
	}
	data, err := json.Marshal(st)
	return data, err == nil, err
}

// namespaceCookie names the network namespace that the process is in.
func namespaceCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("name the network namespace: %w", err)
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return 0, fmt.Errorf("name the network namespace: %w", err)
	}
	return cookie, nil
}

func (g *Gateway) standingPath() string { return filepath.Join(g.config.Load().StateDir, standingFile) }

// remember notes that a snapshot is in force under the kernel's rules of a generation.
func (g *Gateway) remember(s *vpc.Snapshot, generation uint32) {
	data, ok, err := g.standing(s.Revision, generation)
	if ok {
		err = os.WriteFile(g.standingPath(), data, 0o600)
	}
	if err != nil {
		g.log.Debug("the next start will read the rules back before it serves", "error", err)
	}
}

// stands reports whether a snapshot, which is of the stored revision, is still in force from before this daemon.
func (g *Gateway) stands(ctx context.Context, s *vpc.Snapshot) bool {
	was, err := os.ReadFile(g.standingPath())
	if errors.Is(err, fs.ErrNotExist) {
		return false // also on a legacy backend, whose rules have no generation
	}
	var now []byte
	var ok bool
	if err == nil {
		var generation uint32
		if generation, err = iptables.Generation(ctx); err == nil {
			now, ok, err = g.standing(s.Revision, generation)
		}
	}
	if err != nil {
		g.log.Debug("rules are read back before addresses are given", "error", err)
	}
	return ok && bytes.Equal(was, now)
}
