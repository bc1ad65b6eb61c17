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
	"syscall"
	"time"
)

// Limits of connections (RFC 7766 section 6.2).
const (
	idleTimeout      = 10 * time.Second
	writeTimeout     = 5 * time.Second
	maxConns         = 1024 // of all clients
	maxConnsClient   = 32   // of one client
	maxPipelined     = 128  // questions of one connection that wait for others
	streamQuestion   = 4096 // octets of a question; a client that sends a longer one has lost its way
	streamBuffer     = 4096
	acceptRetryAfter = 50 * time.Millisecond // when the process is out of descriptors
)

// connections bounds the connections there are.
type connections struct {
	mu      sync.Mutex
	total   int
	clients map[netip.Addr]int
}

func (c *connections) enter(client netip.Addr) bool {
	client = clientOf(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total >= maxConns || c.clients[client] >= maxConnsClient {
		return false
	}
	if c.clients == nil {
		c.clients = map[netip.Addr]int{}
	}
	c.total++
	c.clients[client]++
	return true
}

func (c *connections) leave(client netip.Addr) {
	client = clientOf(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	if c.clients[client]--; c.clients[client] == 0 {
		delete(c.clients, client)
	}
}

func (c *connections) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

// serveTCP accepts connections until the listener is closed, and waits for those that are open to end.
func (s *Server) serveTCP(ctx context.Context, ln *net.TCPListener, vpcID string) error {
	var open sync.WaitGroup
	defer open.Wait()
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
		if v := s.View(vpcID); v == nil || !admits(v, client) || !s.conns.enter(client) {
			conn.Close()
			continue
		}
		open.Go(func() {
			defer s.conns.leave(client)
			s.serveConn(ctx, conn, client, vpcID)
		})
	}
}

// stream is one connection. Replies go out as they come, in any order (RFC 7766 section 7).
type stream struct {
	conn    net.Conn
	mu      sync.Mutex // of writes
	waiting chan struct{}
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
func (s *Server) serveConn(ctx context.Context, conn net.Conn, client netip.Addr, vpcID string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer closeWith(ctx, conn)()
	st := &stream{conn: conn, waiting: make(chan struct{}, maxPipelined)}
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
		r    = bufio.NewReaderSize(conn, streamBuffer)
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
			conn.SetReadDeadline(time.Now().Add(idleTimeout))
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
				if st.write(rdata(m)) != nil {
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
