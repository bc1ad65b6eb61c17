// Package port reads and writes Ethernet frames on the ports of the vSwitches, for the servers that guests speak to before
// they have an address, and for who keeps the ports. Each port has one socket; a Set gives its frames to those who want them.
//
// A locked port's unknown MAC never reaches the bridge, so what a guest says first is read on the port itself; and an
// answer that is written to the port reaches the guests behind it and nobody else.
package port

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"gatehouse/vpc"
)

// receiveBuffer is what the kernel may hold for us of a link that many guests share, in bytes: the default holds some
// 280 messages, and a rack that boots sends more.
const receiveBuffer = 4 << 20

// Port is where guests are plugged in: a port of a vSwitch's bridge, or the link itself where it has no ports.
type Port struct {
	Index   int     // of the link
	Name    string  //
	VSwitch string  // ID
	LinkMAC vpc.MAC // the gateway's MAC on the vSwitch, from which we send; zero: the port's own
	Bridged bool    // it is a bridge's port
}

// Same reports whether p and q are served alike: the same link, for the same vSwitch, from the same MAC.
func (p Port) Same(q Port) bool {
	if q.LinkMAC.IsZero() {
		q.LinkMAC = p.LinkMAC
	}
	return p == q
}

// Socket reads the frames of a port that a filter lets through, and sends frames to it.
type Socket struct {
	Port
	conn   *packet.Conn
	raw    syscall.RawConn
	closed atomic.Bool
}

// Open listens on a port of the calling thread's network namespace. The filter sees only frames that come in untagged;
// see Incoming.
func Open(p Port, filter []bpf.Instruction) (*Socket, error) {
	assembled, err := bpf.Assemble(Incoming(filter))
	if err != nil {
		return nil, fmt.Errorf("listen on port %s: %w", p.Name, err)
	}
	// Every protocol, filtered: the bridge takes frames away before sockets of a single protocol see them.
	// Package net would list all links to find this one, of which a gateway with many guests has thousands.
	conn, err := packet.Listen(&net.Interface{Index: p.Index, Name: p.Name}, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: assembled})
	if err != nil {
		return nil, fmt.Errorf("listen on port %s: %w", p.Name, err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on port %s: %w", p.Name, err), conn.Close())
	}
	_ = raw.Control(func(fd uintptr) { // it works with less too
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
		// The filter would drop what goes out by the port, but only once the kernel has copied each packet for it.
		_ = unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		if p.LinkMAC.IsZero() {
			p.LinkMAC = boundMAC(int(fd))
		}
	})
	return &Socket{Port: p, conn: conn, raw: raw}, nil
}

// boundMAC is the MAC of the link that a packet socket is bound to; zero when that is no Ethernet link.
func boundMAC(fd int) vpc.MAC {
	at, err := unix.Getsockname(fd)
	if ll, ok := at.(*unix.SockaddrLinklayer); err == nil && ok && int(ll.Halen) == len(vpc.MAC{}) {
		return vpc.MAC(ll.Addr[:])
	}
	return vpc.MAC{}
}

// Incoming puts before a filter what drops the frames that we and the kernel send, and tagged ones.
func Incoming(filter []bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 2},
		bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}, filter...)
}

// Read waits for a frame. The error is one for which Gone is true when the socket has been closed; a link that goes down
// is an error once, and the socket works again when it is up.
func (s *Socket) Read(b []byte) (n int, err error) {
	wait := s.raw.Read(func(fd uintptr) bool {
		n, err = receive(fd, b)
		return err != unix.EAGAIN
	})
	switch {
	case s.closed.Load():
		return 0, net.ErrClosed
	case wait != nil:
		return 0, wait
	}
	return n, err
}

// receive reads a frame that waits in a socket's buffer.
func receive(fd uintptr, b []byte) (int, error) {
	for {
		// It does not wait, so the scheduler need not be told of it.
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// SetReadDeadline lets Read fail with os.ErrDeadlineExceeded from a time on.
func (s *Socket) SetReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }

// Gone reports whether an error means that the socket has been closed.
func Gone(err error) bool { return errors.Is(err, net.ErrClosed) || errors.Is(err, unix.EBADF) }

// Down reports whether an error means that the link went down.
func Down(err error) bool { return errors.Is(err, unix.ENETDOWN) }

// Send writes a frame at once or not at all: a guest that does not read must not hold up the others.
func (s *Socket) Send(frame []byte) error {
	to := unix.RawSockaddrLinklayer{
		Family: unix.AF_PACKET, Ifindex: int32(s.Index), Protocol: uint16(frame[13])<<8 | uint16(frame[12]), Halen: 6,
	}
	copy(to.Addr[:], frame[:6])
	var errno unix.Errno
	if err := s.raw.Write(func(fd uintptr) bool {
		// It does not wait, so the scheduler need not be told of it: that costs more than the call.
		_, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&frame[0])), uintptr(len(frame)), unix.MSG_DONTWAIT,
			uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to))
		return true
	}); err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// Close ends reading.
func (s *Socket) Close() error {
	s.closed.Store(true)
	return s.conn.Close()
}
