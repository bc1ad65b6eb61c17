package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/server/api"
)

// leastRoom is how much room the state's file system must have for a commit to be sure to succeed: a few pages, the list of free
// ones, and what the file grows by at once.
const leastRoom = 4 << 20

// diskProblems says whether the file system that the state is on can still be written to: without, no lease is given or renewed,
// and that should be known before the guests know it.
func diskProblems(dir string) []api.Problem {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return []api.Problem{{Code: "state", Message: fmt.Sprintf("state directory %s: %v", dir, err), Remedy: startRemedy(err)}}
	}
	room := fs.Bavail * uint64(fs.Bsize)
	switch {
	case fs.Flags&unix.ST_RDONLY != 0:
		return []api.Problem{{Code: "state", Message: "the state directory " + dir + " is on a read-only file system: no lease and no change can be written",
			Remedy: "see in `dmesg` why it is read-only, and mount it writable: the daemon goes on by itself"}}
	case room < leastRoom:
		return []api.Problem{{Code: "state", Message: fmt.Sprintf("the state directory %s has %d kB left: soon no lease and no change can be written", dir, room>>10),
			Remedy: "free some room there: the daemon goes on by itself"}}
	}
	return nil
}

// metaTried is written for no other reason than to see that it can be.
const metaTried = "tried"

// tryState writes something where the state is, and tells those who could not write to it how that ended.
func (g *Gateway) tryState(ctx context.Context) {
	err := g.store.PutMeta(ctx, metaTried, []byte(g.now().UTC().Format(time.RFC3339)))
	if ctx.Err() == nil {
		g.leases.StoreTried(err)
	}
}

// diskRemedy says what helps against a disk that refuses what is written to it; "" when that is not what is wrong.
func diskRemedy(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "it is read-only: mount it writable (`dmesg` says why it is not), or let stateDir be on a file system that is; under systemd add ReadWritePaths= with it (systemctl edit gatehouse)"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "free some room there"
	case errors.Is(err, unix.EIO):
		return "the disk or its file system fails: see `dmesg`, repair it (fsck), and restart the daemon"
	}
	return ""
}
