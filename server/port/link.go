package port

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Index returns the index of a link of the calling thread's network namespace. Unlike net.InterfaceByName it does not list
// all links, of which a gateway with many guests has thousands.
func Index(link string) (index int, err error) {
	ifr, err := unix.NewIfreq(link)
	if err != nil {
		return 0, fmt.Errorf("link %q: %w", link, err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("link %s: %w", link, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, fmt.Errorf("link %s: %w", link, err)
	}
	return int(ifr.Uint32()), nil
}
