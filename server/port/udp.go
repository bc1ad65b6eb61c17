package port

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Reservation holds a UDP port of a link without ever receiving: the kernel does not answer "port unreachable" to what
// is read by a Socket, and another server on this host is named instead of half the requests being lost to it.
type Reservation struct {
	Index int // of the link
	conn  *net.UDPConn
}

// Reserve takes a UDP port ("udp4" or "udp6") on a link. shared admits our own Relay socket beside it; without, a second
// server is an error.
func Reserve(network, link string, number int, shared bool) (*Reservation, error) {
	index, err := Index(link)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", link, err)
	}
	nothing, err := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: 0}})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", link, err)
	}
	conn, err := listenUDP(network, number, func(fd int) error {
		if shared {
			if err := shareAddress(fd); err != nil {
				return err
			}
		}
		if err := setFilter(fd, nothing); err != nil {
			return err
		}
		return unix.BindToDevice(fd, link)
	})
	if err != nil {
		return nil, portError(number, "on "+link, err)
	}
	return &Reservation{index, conn}, nil
}

// Share admits others beside a port that was reserved alone: our Relay socket, and whoever shares his with us.
func (r *Reservation) Share() error {
	raw, err := r.conn.SyscallConn()
	if err != nil {
		return err
	}
	return onFD(raw, shareAddress)
}

// Close gives the port back.
func (r *Reservation) Close() error { return r.conn.Close() }

func listenUDP(network string, number int, prepare func(fd int) error) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return onFD(c, prepare) }}
	conn, err := lc.ListenPacket(context.Background(), network, fmt.Sprintf(":%d", number))
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// portError names the one cause that an administrator can do something about.
func portError(number int, where string, err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("udp port %d %s is taken: another DHCP server runs on this host: %w", number, where, err)
	}
	return fmt.Errorf("udp port %d %s: %w", number, where, err)
}

func onFD(c syscall.RawConn, f func(fd int) error) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

func shareAddress(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }

func setFilter(fd int, filter []bpf.RawInstruction) error {
	prog := make([]unix.SockFilter, len(filter))
	for i, f := range filter {
		prog[i] = unix.SockFilter{Code: f.Op, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
}
