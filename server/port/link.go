package port

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Index returns the index of a link of the calling thread's network namespace. Unlike net.InterfaceByName it does not list
// all links, of which a gateway with many guests has thousands.
func Index(link string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("link %q: %w", link, err)
	}
	index, err := linkIndex(fd, link)
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return 0, fmt.Errorf("link %q: %w", link, err)
	}
	return int(index), nil
}

// Name returns the name of a link by its index; "" when there is none of that index, or not any more.
func Name(index int) string {
	if index == 0 {
		return ""
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	name, err := linkName(fd, uint32(index))
	if err != nil {
		return ""
	}
	return name
}

// linkIndex returns the index of a link of a socket's network namespace, and linkName the name.
func linkIndex(fd int, name string) (uint32, error) {
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr)
	}
	if err != nil {
		return 0, err
	}
	return ifr.Uint32(), nil
}

func linkName(fd int, index uint32) (string, error) {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	ifr.SetUint32(index)
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, ifr); err != nil {
		return "", err
	}
	return ifr.Name(), nil
}
