package server

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// lockName is an abstract socket: such names belong to a network namespace, and go with the process that has them.
const lockName = "@gatehouse"

// lockNamespace keeps every other gatehouse, whatever its state directory, from touching this network namespace until the
// returned listener is closed or the process ends.
func lockNamespace(ctx context.Context) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", lockName)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("another gatehouse%s runs in this network namespace: stop it first", lockHolder(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("lock the network namespace: %w", err)
	}
	return l, nil
}

// lockHolder names the process that has the lock; "" when it does not say.
func lockHolder(ctx context.Context) string {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", lockName)
	if err != nil {
		return ""
	}
	defer c.Close()
	if cred, err := peerOf(c); err == nil {
		return fmt.Sprintf(" (process %d)", cred.Pid)
	}
	return ""
}

// peerOf says who is at the other end of a Unix socket (SO_PEERCRED).
func peerOf(c net.Conn) (*unix.Ucred, error) {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a Unix socket")
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cred, errors.Join(cerr, err)
}
