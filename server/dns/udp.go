package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchSize    = 64   // packets read, and replies sent, by one system call
	questionSize = 2048 // octets of a question over UDP; a longer one is ignored
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// batch is the memory for a batch of questions and their replies. Sockets take one from a pool while there is something
// to read, so that an idle socket has none.
type batch struct {
	in, out     [batchSize]mmsghdr
	inVec       [batchSize]unix.Iovec
	outVec      [batchSize]unix.Iovec
	clients     [batchSize]unix.RawSockaddrInet6 // room for both families
	questions   [batchSize][questionSize]byte
	replies     [batchSize][ednsSize + maxSlack]byte
	query       Query
	received    int
	outstanding int
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
		b.out[i].header.Iov = &b.outVec[i]
		b.out[i].header.SetIovlen(1)
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
	var failure error
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
			s.answerBatch(ctx, raw, b, n, vpcID)
			b.send(fd)
			if n < batchSize {
				return false // nothing is left; what comes from now on wakes us
			}
		}
	})
	return errors.Join(failure, err)
}

// answerBatch fills in the replies to the n questions received. All of them come from one state.
func (s *Server) answerBatch(ctx context.Context, conn syscall.RawConn, b *batch, n int, vpcID string) {
	view := s.View(vpcID)
	b.outstanding = 0
	for i := range n {
		h := &b.in[i]
		if h.header.Flags&unix.MSG_TRUNC != 0 {
			s.counters.ignored.Add(1)
			continue
		}
		client := clientAddr(&b.clients[i])
		reply, later := s.handle(ctx, b.replies[i][:0], b.questions[i][:h.length], &b.query, view, client, false)
		if later != nil {
			s.finishUDP(ctx, conn, later, b.clients[i], h.header.Namelen)
			continue
		}
		if len(reply) == 0 {
			continue
		}
		out := &b.out[b.outstanding]
		vec := &b.outVec[b.outstanding]
		vec.Base = &reply[0]
		vec.SetLen(len(reply))
		out.header.Name = h.header.Name
		out.header.Namelen = h.header.Namelen
		b.outstanding++
	}
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

// send sends the replies. One that the kernel refuses (no route back, no room) is skipped: its client asks again.
func (b *batch) send(fd uintptr) {
	for at := 0; at < b.outstanding; {
		n, _, err := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[at])), uintptr(b.outstanding-at), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case err == unix.EINTR:
		case err != 0:
			at++
		default:
			at += int(n)
		}
	}
	for i := range b.out[:b.outstanding] {
		b.outVec[i].Base = nil // a long reply may be on the heap
	}
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
