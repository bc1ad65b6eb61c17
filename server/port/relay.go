package port

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchSize    = 64   // datagrams read or sent by one system call
	datagramSize = 2048 // octets of a datagram that are read; a longer one is no DHCP
)

// Relay talks to DHCP relays, wherever they are. One goroutine may receive and one may send at a time.
type Relay struct {
	number int
	conn   *net.UDPConn
	raw    syscall.RawConn
	in     *inBatch
	out    *outBatch
	trains bool // datagrams of one length to one relay may leave together
}

// Datagram is a message and the relay that it comes from or goes to. A link-local address has the name of the gateway's link
// as its zone.
type Datagram struct {
	Relay   netip.Addr
	Payload []byte
}

// OpenRelay opens a UDP port ("udp4" or "udp6") of this host on every link.
func OpenRelay(network string, number int) (*Relay, error) {
	conn, err := listenUDP(network, number, func(fd int) error {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) // works with less too
		return shareAddress(fd)
	})
	if err != nil {
		return nil, portError(number, "for relays", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(portError(number, "for relays", err), conn.Close())
	}
	r := &Relay{number: number, conn: conn, raw: raw, in: newInBatch(), out: newOutBatch()}
	err = onFD(raw, func(fd int) error {
		_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT) // Linux 4.18 and later
		r.trains = err == nil
		return nil
	})
	return r, err
}

// Close ends receiving.
func (r *Relay) Close() error { return r.conn.Close() }

// Receive calls f for every datagram until an error: one for which Gone is true when the socket has been closed. The
// payload is valid until f returns.
func (r *Relay) Receive(f func(Datagram)) error {
	var failure error
	err := r.raw.Read(func(fd uintptr) bool {
		for {
			n, errno := r.in.receive(fd)
			switch errno {
			case 0:
			case unix.EINTR:
				continue
			case unix.EAGAIN:
				return false
			default:
				failure = fmt.Errorf("recvmmsg: %w", errno)
				return true
			}
			for i := range n {
				if d, ok := r.in.datagram(fd, i); ok {
					f(d)
				}
			}
			if n < batchSize {
				return false // nothing is left; what comes from now on wakes us
			}
		}
	})
	return errors.Join(failure, err)
}

// Send sends datagrams to the port of relays that has our number, at once or not at all, and returns how many the kernel
// has refused. Those of one length to one relay may leave in another order than they stand, together: the kernel takes
// them through its network stack as one.
func (r *Relay) Send(datagrams []Datagram) (refused int, err error) {
	err = r.raw.Write(func(fd uintptr) bool {
		for rest := datagrams; len(rest) > 0; {
			now := rest[:min(len(rest), batchSize)]
			rest = rest[len(now):]
			refused += r.sendBatch(fd, now)
		}
		return true
	})
	return refused, err
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// inBatch is the memory for datagrams that are received by one call.
type inBatch struct {
	headers  [batchSize]mmsghdr
	vecs     [batchSize]unix.Iovec
	names    [batchSize]unix.RawSockaddrInet6 // room for both families
	payloads [batchSize][datagramSize]byte
}

func newInBatch() *inBatch {
	b := new(inBatch)
	for i := range b.headers {
		b.vecs[i].Base = &b.payloads[i][0]
		b.vecs[i].SetLen(datagramSize)
		h := &b.headers[i].header
		h.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		h.Iov = &b.vecs[i]
		h.SetIovlen(1)
	}
	return b
}

// receive reads what is there, without waiting.
func (b *inBatch) receive(fd uintptr) (int, unix.Errno) {
	for i := range b.headers {
		b.headers[i].header.Namelen = unix.SizeofSockaddrInet6 // the kernel writes the real length there
	}
	n, _, err := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.headers[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}

// datagram returns one that was received, unless it was cut.
func (b *inBatch) datagram(fd uintptr, i int) (Datagram, bool) {
	h := &b.headers[i]
	if h.header.Flags&unix.MSG_TRUNC != 0 {
		return Datagram{}, false
	}
	from, ok := addrOf(fd, &b.names[i])
	return Datagram{from, b.payloads[i][:h.length]}, ok
}

// addrOf reads the address in a socket address of either family. A link-local one has its link's name as its zone; it is
// nobody's when that link has gone.
func addrOf(fd uintptr, sa *unix.RawSockaddrInet6) (netip.Addr, bool) {
	if sa.Family == unix.AF_INET {
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr), true
	}
	a := netip.AddrFrom16(sa.Addr).Unmap()
	if !a.Is6() || !a.IsLinkLocalUnicast() {
		return a, true
	}
	link, err := linkName(int(fd), sa.Scope_id)
	return a.WithZone(link), err == nil
}

// nameOf is the socket address of a port, and its length. The kernel refuses that of a link-local address whose link has gone.
func nameOf(fd uintptr, a netip.Addr, number int) (name unix.RawSockaddrInet6, length uint32) {
	name.Port = uint16(number)<<8 | uint16(number)>>8 // in the order of the network; at the same place in both
	if a.Is4() {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&name))
		v4.Family, v4.Addr = unix.AF_INET, a.As4()
		return name, unix.SizeofSockaddrInet4
	}
	name.Family, name.Addr = unix.AF_INET6, a.As16()
	if a.Zone() != "" {
		index, err := linkIndex(int(fd), a.Zone())
		if err != nil {
			index = math.MaxInt32 // no link's; with zero it would go out by another link
		}
		name.Scope_id = index
	}
	return name, unix.SizeofSockaddrInet6
}

// outBatch is the memory for what is sent by one call: messages, each of which is a train of datagrams.
type outBatch struct {
	headers  [batchSize]mmsghdr
	vecs     [batchSize]unix.Iovec
	names    [batchSize]unix.RawSockaddrInet6
	controls [batchSize]segmentControl
}

// segmentControl is the control message that makes the kernel cut what it is given into datagrams of so many octets
// (UDP_SEGMENT, udp(7)).
type segmentControl struct {
	header unix.Cmsghdr
	size   uint16
	_      [6]byte // CMSG_SPACE is a multiple of the word size
}

func newOutBatch() *outBatch {
	b := new(outBatch)
	for i := range b.controls {
		c := &b.controls[i].header
		c.Level, c.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
		c.SetLen(unix.CmsgLen(2))
	}
	return b
}

// maxTrain is how many octets fit into one message to the kernel.
const maxTrain = 60_000

// lay lays out at most batchSize datagrams as messages and returns how many those are.
func (b *outBatch) lay(fd uintptr, datagrams []Datagram, number int, trains bool) int {
	var laid [batchSize]bool
	messages, vecs := 0, 0
	for i, first := range datagrams {
		if laid[i] || len(first.Payload) == 0 {
			continue
		}
		begin, length := vecs, 0
		for j := i; j < len(datagrams); j++ {
			d := datagrams[j]
			if j > i && (!trains || laid[j] || d.Relay != first.Relay || len(d.Payload) != len(first.Payload) || length+len(d.Payload) > maxTrain) {
				continue
			}
			b.vecs[vecs].Base = &d.Payload[0]
			b.vecs[vecs].SetLen(len(d.Payload))
			laid[j] = true
			vecs++
			length += len(d.Payload)
		}
		m := &b.headers[messages]
		name, size := &b.names[messages], uint32(0)
		*name, size = nameOf(fd, first.Relay, number)
		m.header = unix.Msghdr{Name: (*byte)(unsafe.Pointer(name)), Namelen: size, Iov: &b.vecs[begin]}
		m.header.SetIovlen(vecs - begin)
		if vecs-begin > 1 {
			c := &b.controls[messages]
			c.size = uint16(len(first.Payload))
			m.header.Control = (*byte)(unsafe.Pointer(c))
			m.header.SetControllen(int(unsafe.Sizeof(*c)))
		}
		messages++
	}
	return messages
}

// sendBatch sends at most batchSize datagrams and returns how many the kernel has refused.
func (r *Relay) sendBatch(fd uintptr, datagrams []Datagram) (refused int) {
	b := r.out
	messages := b.lay(fd, datagrams, r.number, r.trains)
	for at := 0; at < messages; {
		n, errno := sendmmsg(fd, b.headers[at:messages])
		h := &b.headers[at].header
		switch {
		case errno == unix.EINTR:
		case errno == 0:
			at += n
		case errno != unix.EAGAIN && h.Controllen > 0: // a link on the way there cannot cut them up
			r.trains = false
			refused += sendApart(fd, h)
			at++
		default:
			refused += int(h.Iovlen)
			at++
		}
	}
	clear(b.vecs[:len(datagrams)]) // the payloads are the caller's
	return refused
}

// sendApart sends the datagrams of one message one by one.
func sendApart(fd uintptr, train *unix.Msghdr) (refused int) {
	vecs := unsafe.Slice(train.Iov, train.Iovlen)
	for i := range vecs {
		var one [1]mmsghdr
		one[0].header = unix.Msghdr{Name: train.Name, Namelen: train.Namelen, Iov: &vecs[i]}
		one[0].header.SetIovlen(1)
		if _, errno := sendmmsg(fd, one[:]); errno != 0 {
			refused++
		}
	}
	return refused
}

func sendmmsg(fd uintptr, messages []mmsghdr) (int, unix.Errno) {
	n, _, err := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), err
}
