package server

import (
	"fmt"

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
