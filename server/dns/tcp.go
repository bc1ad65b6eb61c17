package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Limits of connections (RFC 7766 section 6.2).
const (
	idleTimeout      = 10 * time.Second
	writeTimeout     = 5 * time.Second
	maxConns         = 1024 // of all clients
	maxConnsClient   = 32   // of one client
	reservedConns    = 64   // of a VPC, whatever the others open
	maxPipelined     = 128  // questions of one connection that wait for others
	streamQuestion   = 4096 // octets of a question; a client that sends a longer one has lost its way
	streamBuffer     = 4096
	acceptRetryAfter = 50 * time.Millisecond // when the process is out of descriptors
)

// connections bounds the connections there are: of each client, and altogether. When there is no room, the connection that
// has been idle for longest gives way to the new one (RFC 7766 section 6.2.3), unless it is of a VPC that has no more than
// its reserve: so neither slow nor half-open connections nor those of another VPC keep anybody from being served.
type connections struct {
	mu      sync.Mutex
	open    map[*stream]bool
	vpcs    map[string]int // by ID
	clients map[client]int
	evicted uint64
}

// enter admits a connection, if need be instead of another one, which is closed.
func (c *connections) enter(st *stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open, c.vpcs, c.clients = map[*stream]bool{}, map[string]int{}, map[client]int{}
	}
	if c.clients[st.client] >= maxConnsClient {
		return false
	}
	if len(c.open) >= maxConns {
		idlest := c.idlest(st.client.vpc)
		if idlest == nil {
			return false
		}
		c.remove(idlest)
		c.evicted++
		idlest.conn.Close()
	}
	c.open[st] = true
	c.vpcs[st.client.vpc]++
	c.clients[st.client]++
	return true
}

// idlest returns the connection that gives way to one of the VPC, nil if there is none: one of a VPC that has more than its
// reserve, else one of the same VPC. One that waits for answers is not idle: it comes after all that are.
func (c *connections) idlest(vpc string) *stream {
	var idlest *stream
	rank := func(st *stream) (busy, reserved bool, since int64) {
		return len(st.waiting) > 0, c.vpcs[st.client.vpc] <= reservedConns, st.idleSince.Load()
	}
	before := func(a, b *stream) bool {
		aBusy, aReserved, aSince := rank(a)
		bBusy, bReserved, bSince := rank(b)
		switch {
		case aReserved != bReserved:
			return bReserved
		case aBusy != bBusy:
			return bBusy
		}
		return aSince < bSince
	}
	for st := range c.open {
		if _, reserved, _ := rank(st); reserved && st.client.vpc != vpc {
			continue
		}
		if idlest == nil || before(st, idlest) {
			idlest = st
		}
	}
	return idlest
}

// leave forgets a connection that has ended.
func (c *connections) leave(st *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(st)
}

func (c *connections) remove(st *stream) {
	if c.open[st] {
		delete(c.open, st)
		decrement(c.vpcs, st.client.vpc)
		decrement(c.clients, st.client)
	}
}

// size returns how many connections there are, and how many have had to give way.
func (c *connections) size() (open int, evicted uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open), c.evicted
}

// serveTCP accepts connections until the listener is closed, and waits for those that are open to end.
func (s *Server) serveTCP(ctx context.Context, ln *net.TCPListener, vpcID string) error {
	var open sync.WaitGroup
	defer open.Wait()
	onLink := isLinkLocal(ln.Addr().(*net.TCPAddr).AddrPort().Addr())
	for {
		conn, err := ln.AcceptTCP()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) || !outOfRoom(err) {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(acceptRetryAfter):
			}
			continue
		}
		client := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		st := &stream{conn: conn, client: clientOf(vpcID, client), waiting: make(chan struct{}, maxPipelined)}
		st.idleSince.Store(time.Now().UnixNano())
		if v := s.View(vpcID); v == nil || !admits(v, client) || !onLink && isLinkLocal(client) && !v.hasLink(client.Zone()) || !s.conns.enter(st) {
			conn.Close()
			continue
		}
		open.Go(func() {
			defer s.conns.leave(st)
			s.serveConn(ctx, st, client, vpcID)
		})
	}
}

// stream is one connection. Replies go out as they come, in any order (RFC 7766 section 7).
type stream struct {
	conn      net.Conn
	client    client
	idleSince atomic.Int64 // Unix time in nanoseconds
	mu        sync.Mutex   // of writes
	waiting   chan struct{}
}

func (st *stream) write(b []byte) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := st.conn.Write(b)
	return err
}

// serveConn answers the questions of one connection. What the view knows is collected as long as more questions have
// arrived already, and leaves in one write.
func (s *Server) serveConn(ctx context.Context, st *stream, client netip.Addr, vpcID string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer closeWith(ctx, st.conn)()
	defer func() { // the replies that are under way are sent before the connection closes
		for range cap(st.waiting) {
			select {
			case st.waiting <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	var (
		r    = bufio.NewReaderSize(st.conn, streamBuffer)
		q    Query
		msg  = make([]byte, 0, plainSize)
		out  = make([]byte, 0, streamBuffer)
		size [2]byte
	)
	for {
		if r.Buffered() < 2 || r.Buffered() < 2+peekLength(r) {
			if len(out) > 0 {
				if st.write(out) != nil {
					return
				}
				out = out[:0]
			}
			now := time.Now()
			st.idleSince.Store(now.UnixNano())
			st.conn.SetReadDeadline(now.Add(idleTimeout))
		}
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if n > streamQuestion {
			return
		}
		if n > cap(msg) {
			msg = make([]byte, 0, streamQuestion)
		}
		if _, err := io.ReadFull(r, msg[:n]); err != nil {
			return
		}
		at := len(out)
		reply, later := s.handle(ctx, append(out, 0, 0), msg[:n], &q, s.View(vpcID), client, true)
		switch {
		case later != nil && later.transfer != nil:
			if len(out) > 0 && st.write(out) != nil {
				return
			}
			out = out[:0]
			for m := range later.view.transfer(later.query, later.transfer) {
				signed, err := later.signature.sign(m)
				if err != nil {
					s.log.Warn("DNS transfer ended early", "client", client, "error", err)
					return
				}
				if st.write(rdata(signed)) != nil {
					return
				}
			}
		case later != nil:
			select {
			case st.waiting <- struct{}{}:
			case <-ctx.Done():
				return
			}
			s.finish(ctx, later, client, func(reply []byte) {
				defer func() { <-st.waiting }()
				if st.write(rdata(reply)) != nil {
					cancel()
				}
			})
		case len(reply) > at+2:
			out = reply
			binary.BigEndian.PutUint16(out[at:], uint16(len(out)-at-2))
			if len(out) >= 1<<15 {
				if st.write(out) != nil {
					return
				}
				out = out[:0]
			}
		default:
			return // not a question: nothing good follows
		}
	}
}

// closeWith makes the connection end with ctx; the function that it returns ends it at once.
func closeWith(ctx context.Context, conn net.Conn) func() {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	return func() {
		stop()
		conn.Close()
	}
}

// peekLength returns the length of the message at the head of the buffer, of which two octets are there.
func peekLength(r *bufio.Reader) int {
	b, err := r.Peek(2)
	if err != nil {
		return 0
	}
	return int(binary.BigEndian.Uint16(b))
}

// outOfRoom reports whether accepting may succeed when other connections have ended.
func outOfRoom(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
