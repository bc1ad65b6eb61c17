package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchSize    = 64   // packets read, and replies sent, by one system call
	questionSize = 2048 // octets of a question over UDP; a longer one is ignored

	maxTrain = 60_000 // octets of replies that leave as one, see batch.couple
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// batch is the memory for a batch of questions and their replies. Sockets take one from a pool while there is something
// to read, so that an idle socket has none.
type batch struct {
	in, out   [batchSize]mmsghdr
	inVec     [batchSize]unix.Iovec
	outVec    [batchSize]unix.Iovec
	controls  [batchSize]segmentControl
	clients   [batchSize]unix.RawSockaddrInet6 // room for both families
	questions [batchSize][questionSize]byte
	replies   [batchSize][ednsSize + maxSlack]byte
	query     Query
	received  int
	waiting   [batchSize]outgoing // replies to send
	answered  int                 // how many of them
}

// outgoing is one reply.
type outgoing struct {
	reply []byte
	to    int    // index of the client
	key   uint64 // what replies that may leave together have in common
}

// segmentControl is the control message that makes the kernel cut what it is given into datagrams of so many octets
// (UDP_SEGMENT, udp(7)).
type segmentControl struct {
	header unix.Cmsghdr
	size   uint16
	_      [6]byte // CMSG_SPACE is a multiple of the word size
}

// maxSlack is the room behind a UDP reply that an answer too long for it may need before it is cut; a longer one moves
// to the heap for a moment.
const maxSlack = 304

var batches = sync.Pool{New: func() any {
	b := new(batch)
	for i := range b.in {
		b.inVec[i].Base = &b.questions[i][0]
		b.inVec[i].SetLen(questionSize)
		b.in[i].header.Iov = &b.inVec[i]
		b.in[i].header.SetIovlen(1)
		b.in[i].header.Name = (*byte)(unsafe.Pointer(&b.clients[i]))
		b.in[i].header.Namelen = unix.SizeofSockaddrInet6
		b.controls[i].header = unix.Cmsghdr{Level: unix.IPPROTO_UDP, Type: unix.UDP_SEGMENT}
		b.controls[i].header.SetLen(unix.CmsgLen(2))
	}
	return b
}}

// serveUDP answers the questions that arrive on a socket until it is closed. Replies that the view or the cache has leave
// in the same round; a goroutine is needed only for those that must wait.
func (s *Server) serveUDP(ctx context.Context, conn *net.UDPConn, vpcID string) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	onLink := isLinkLocal(conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr())
	couples := false // replies to one client can leave together: Linux 4.18 and later
	if err := raw.Control(func(fd uintptr) {
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		couples = err == nil
	}); err != nil {
		return err
	}
	var failure error
	var pace moderation
	err = raw.Read(func(fd uintptr) bool {
		b := batches.Get().(*batch)
		defer batches.Put(b)
		for {
			n, err := b.receive(fd)
			switch err {
			case 0:
			case unix.EINTR:
				continue
			case unix.EAGAIN:
				return false
			default:
				failure = fmt.Errorf("recvmmsg: %w", err)
				return true
			}
			s.answerBatch(ctx, raw, b, n, vpcID, onLink)
			if !b.send(fd, couples) {
				couples = false
			}
			if n < batchSize {
				pause(pace.wait(n, time.Now()))
				return false // nothing is left; what comes from now on wakes us
			}
		}
	})
	return errors.Join(failure, err)
}

// answerBatch answers the n questions received, on a socket that is bound to one link or not. All replies come from one
// state.
func (s *Server) answerBatch(ctx context.Context, conn syscall.RawConn, b *batch, n int, vpcID string, onLink bool) {
	state := s.View(vpcID)
	b.answered = 0
	for i := range n {
		h := &b.in[i]
		if h.header.Flags&unix.MSG_TRUNC != 0 {
			s.counters.ignored.Add(1)
			continue
		}
		client, view := clientAddr(&b.clients[i]), state
		if !onLink && isLinkLocal(client) && !view.hasLink(strconv.Itoa(int(b.clients[i].Scope_id))) {
			view = nil
		}
		reply, later := s.handle(ctx, b.replies[i][:0], b.questions[i][:h.length], &b.query, view, client, false)
		if later != nil {
			s.finishUDP(ctx, conn, later, b.clients[i], h.header.Namelen)
			continue
		}
		if len(reply) > 0 {
			b.waiting[b.answered] = outgoing{reply, i, coupling(&b.clients[i], len(reply))}
			b.answered++
		}
	}
}

// coupling returns a number that is the same for replies of one length to one client. It may be the same for two IPv6
// clients, too.
func coupling(client *unix.RawSockaddrInet6, length int) uint64 {
	addr := uint64(client.Flowinfo) // where an IPv4 socket address has its address
	if client.Family == unix.AF_INET6 {
		addr = uint64(binary.BigEndian.Uint32(client.Addr[12:]))
	}
	return addr<<32 | uint64(client.Port)<<16 | uint64(length)
}

// couple lays out the replies as messages to the kernel. Replies of one length to one client (a stub resolver that asks
// for several names at once, a forwarder) become one message that the kernel takes through its network stack once and
// cuts up behind it, which is where nearly all the cost of a reply is. It returns how many messages there are.
func (b *batch) couple(together bool) int {
	messages, vecs := 0, 0
	for i := range b.waiting[:b.answered] {
		first := &b.waiting[i]
		if first.reply == nil {
			continue // it is in an earlier message
		}
		begin, length := vecs, 0
		add := func(w *outgoing) {
			b.outVec[vecs].Base = &w.reply[0]
			b.outVec[vecs].SetLen(len(w.reply))
			vecs++
			length += len(w.reply)
		}
		add(first)
		size, client := len(first.reply), &b.clients[first.to]
		for j := i + 1; together && j < b.answered; j++ {
			w := &b.waiting[j]
			if w.key == first.key && w.reply != nil && b.clients[w.to] == *client && length+size <= maxTrain {
				add(w)
				w.reply = nil
			}
		}
		h := &b.out[messages].header
		*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(client)), Namelen: b.in[first.to].header.Namelen, Iov: &b.outVec[begin]}
		h.SetIovlen(vecs - begin)
		if vecs-begin > 1 {
			c := &b.controls[messages]
			c.size = uint16(size)
			h.Control = (*byte)(unsafe.Pointer(c))
			h.SetControllen(int(unsafe.Sizeof(*c)))
		}
		messages++
	}
	return messages
}

// receive reads what is there, without waiting.
func (b *batch) receive(fd uintptr) (int, unix.Errno) {
	for i := range b.in[:b.received] {
		b.in[i].header.Namelen = unix.SizeofSockaddrInet6 // the kernel has written the real length there
	}
	b.received = 0
	n, _, err := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
	if err != 0 {
		return 0, err
	}
	b.received = int(n)
	return int(n), 0
}

// send sends the replies. One that the kernel refuses (no route back, no room) is skipped: its client asks again. The
// result is false when the kernel cannot cut up messages on the way to some client; these replies have then gone one
// by one.
func (b *batch) send(fd uintptr, together bool) bool {
	cuts := true
	messages := b.couple(together)
	for at := 0; at < messages; {
		n, err := sendmmsg(fd, b.out[at:messages])
		switch {
		case err == unix.EINTR:
		case err == 0:
			at += n
		case err != unix.EAGAIN && b.out[at].header.Controllen > 0:
			cuts = false
			b.sendApart(fd, &b.out[at].header)
			fallthrough
		default:
			at++
		}
	}
	clear(b.outVec[:b.answered]) // a long reply may be on the heap
	clear(b.waiting[:b.answered])
	return cuts
}

// sendApart sends the replies of one message one by one.
func (b *batch) sendApart(fd uintptr, train *unix.Msghdr) {
	for i := range unsafe.Slice(train.Iov, train.Iovlen) {
		var one [1]mmsghdr
		one[0].header = unix.Msghdr{Name: train.Name, Namelen: train.Namelen, Iov: &unsafe.Slice(train.Iov, train.Iovlen)[i]}
		one[0].header.SetIovlen(1)
		_, _ = sendmmsg(fd, one[:]) // what is lost here is asked for again
	}
}

func sendmmsg(fd uintptr, messages []mmsghdr) (int, unix.Errno) {
	n, _, err := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), err
}

// finishUDP sends the reply of a deferred question when it is there. The kernel's own form of the client's address is
// kept, because a link-local one has the number of its link, not its name.
func (s *Server) finishUDP(ctx context.Context, conn syscall.RawConn, d *deferred, to unix.RawSockaddrInet6, length uint32) {
	s.finish(ctx, d, clientAddr(&to), func(reply []byte) {
		// A reply that cannot be sent is lost, as on the way: the client asks again.
		_ = conn.Write(func(fd uintptr) bool {
			_, _, _ = unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&reply[0])), uintptr(len(reply)), unix.MSG_DONTWAIT,
				uintptr(unsafe.Pointer(&to)), uintptr(length))
			return true
		})
	})
}

// clientAddr reads the address in a socket address of either family.
func clientAddr(sa *unix.RawSockaddrInet6) netip.Addr {
	if sa.Family == unix.AF_INET {
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr)
	}
	return netip.AddrFrom16(sa.Addr)
}
