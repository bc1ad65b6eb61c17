package dhcp4

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"gatehouse/vpc"
)

// receiveBuffer is what the kernel may hold for us of a link that many guests share, in bytes: the default holds some
// 280 messages, and a rack that boots sends more.
const receiveBuffer = 4 << 20

// portSocket reads requests from one port and sends frames to it.
type portSocket struct {
	Port
	conn *packet.Conn
	raw  syscall.RawConn
}

// openPort listens on a port of the calling thread's network namespace.
func openPort(p Port) (*portSocket, error) {
	ifi, err := net.InterfaceByIndex(p.Index)
	if err != nil {
		return nil, fmt.Errorf("listen on port %s: %w", p.Name, err)
	}
	if p.LinkMAC.IsZero() && len(ifi.HardwareAddr) == len(p.LinkMAC) {
		p.LinkMAC = vpc.MAC(ifi.HardwareAddr)
	}
	filter, err := frameFilter()
	if err != nil {
		return nil, fmt.Errorf("listen on port %s: %w", p.Name, err)
	}
	// Every protocol, filtered: the bridge takes frames away before sockets of a single protocol see them.
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("listen on port %s: %w", p.Name, err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on port %s: %w", p.Name, err), conn.Close())
	}
	s := &portSocket{Port: p, conn: conn, raw: raw}
	s.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) })
	return s, nil
}

// control sets an option that the socket also works without.
func (s *portSocket) control(f func(fd int) error) {
	_ = s.raw.Control(func(fd uintptr) { _ = f(int(fd)) })
}

// send writes a frame at once or not at all: a guest that does not read must not hold up the others.
func (s *portSocket) send(frame []byte) error {
	to := &unix.SockaddrLinklayer{Ifindex: s.Index, Protocol: htons(etherIPv4), Halen: 6}
	copy(to.Addr[:], frame[:6])
	return sendNow(s.raw, frame, to)
}

func sendNow(raw syscall.RawConn, b []byte, to unix.Sockaddr) error {
	var err error
	if cerr := raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT, to)
		return true
	}); cerr != nil {
		return cerr
	}
	return err
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// linkSocket holds UDP port 67 of a vSwitch's link without ever receiving.
type linkSocket struct {
	index int
	conn  net.PacketConn
}

// openLink takes port 67 on a link. shared admits our own relay socket beside it; without, a second server is an error.
func openLink(name string, shared bool) (*linkSocket, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	filter, err := dropFilter()
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	conn, err := listenUDP(func(fd int) error {
		if shared {
			if err := shareAddress(fd); err != nil {
				return err
			}
		}
		if err := setFilter(fd, filter); err != nil {
			return err
		}
		return unix.BindToDevice(fd, name)
	})
	if err != nil {
		return nil, portError("on "+name, err)
	}
	return &linkSocket{ifi.Index, conn}, nil
}

// share admits our relay socket beside a link's socket that is open already.
func (l *linkSocket) share() error {
	raw, err := l.conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	return onFD(raw, shareAddress)
}

// relaySocket talks to the relays, wherever they are.
type relaySocket struct {
	conn *net.UDPConn
	raw  syscall.RawConn
}

func openRelay() (*relaySocket, error) {
	conn, err := listenUDP(func(fd int) error {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) // works with less too
		return shareAddress(fd)
	})
	if err != nil {
		return nil, portError("for relays", err)
	}
	udp := conn.(*net.UDPConn)
	raw, err := udp.SyscallConn()
	if err != nil {
		return nil, errors.Join(portError("for relays", err), conn.Close())
	}
	return &relaySocket{udp, raw}, nil
}

// send writes a message to a relay's port 67 at once or not at all.
func (s *relaySocket) send(to netip.Addr, payload []byte) error {
	return sendNow(s.raw, payload, &unix.SockaddrInet4{Port: serverPort, Addr: to.As4()})
}

func listenUDP(prepare func(fd int) error) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return onFD(c, prepare) }}
	return lc.ListenPacket(context.Background(), "udp4", fmt.Sprintf(":%d", serverPort))
}

// portError names the one cause that an administrator can do something about.
func portError(where string, err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("udp port 67 %s is taken: another DHCP server runs on this host: %w", where, err)
	}
	return fmt.Errorf("udp port 67 %s: %w", where, err)
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
