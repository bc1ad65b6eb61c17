package dns

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	miekg "github.com/miekg/dns"
)

const (
	maxIdleConns = 4                // connections to one server that wait for the next question
	idleConnTime = 10 * time.Second // how long
	paddingBlock = 128              // octets (RFC 8467 section 4.1)
)

// errAnswered is why an exchange is given up when another one has the answer.
var errAnswered = errors.New("answered by another server")

// exchange asks one question: over TLS where that is configured; else over UDP, and over TCP when the answer does not fit or
// looks forged.
func (u *upstream) exchange(ctx context.Context, question *miekg.Msg) (*miekg.Msg, error) {
	began := u.now()
	reply, err := u.transact(ctx, question)
	if err != nil && ctx.Err() != nil && context.Cause(ctx) == errAnswered {
		err = context.Canceled
	}
	u.note(u.now().Sub(began), err)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", u.endpoint, err)
	}
	return reply, nil
}

func (u *upstream) transact(ctx context.Context, question *miekg.Msg) (*miekg.Msg, error) {
	if u.tlsName != "" {
		pad(question)
		return u.exchangeStream(ctx, question)
	}
	if u.foldsCase() {
		reply, err := exchangeUDP(ctx, u.addr, question)
		if err == nil && reply.Truncated {
			return u.exchangeStream(ctx, question)
		}
		return reply, err
	}
	// The letters' case is random: whoever forges a reply has to guess it as well as ID and port
	// (draft-vixie-dnsext-dns0x20).
	mixed := question.Copy()
	mixed.Question[0].Name = mixCase(question.Question[0].Name)
	reply, err := exchangeUDP(ctx, u.addr, mixed)
	if err != nil || !reply.Truncated && repeats(reply, mixed) {
		return reply, err
	}
	suspect := !repeats(reply, mixed)
	reply, err = u.exchangeStream(ctx, mixed) // nobody can forge that from afar
	switch {
	case suspect && errors.Is(err, syscall.ECONNREFUSED): // a server without TCP that folds case: then as everybody did
		u.setFoldsCase()
		return exchangeUDP(ctx, u.addr, question)
	case suspect && err == nil && !repeats(reply, mixed):
		u.setFoldsCase()
	}
	return reply, err
}

func (u *upstream) foldsCase() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.folds
}

func (u *upstream) setFoldsCase() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.folds = true
}

// mixCase gives every letter a random case.
func mixCase(s string) string {
	var draw [maxName / 8 * 4]byte // a name in presentation form has up to four characters an octet
	rand.Read(draw[:])
	b := []byte(s)
	for i, c := range b {
		if 'a' <= c|0x20 && c|0x20 <= 'z' && i/8 < len(draw) {
			b[i] = c&^0x20 | draw[i/8]>>(i%8)&1<<5
		}
	}
	return string(b)
}

// repeats reports whether a reply has its question in the same letters; one without a question repeats nothing wrong.
func repeats(reply, question *miekg.Msg) bool {
	return len(reply.Question) == 0 || reply.Question[0].Name == question.Question[0].Name
}

// pad fills a question up to a whole number of blocks, so that its length tells nothing about the name (RFC 7830).
func pad(question *miekg.Msg) {
	opt := question.IsEdns0()
	if opt == nil {
		return
	}
	const header = 4
	n := question.Len() + header
	opt.Option = append(opt.Option, &miekg.EDNS0_PADDING{Padding: make([]byte, (paddingBlock-n%paddingBlock)%paddingBlock)})
}

// numbered returns the question's wire form with an ID that nobody can guess, and the ID.
func numbered(question *miekg.Msg) ([]byte, uint16, error) {
	wire, err := question.Pack()
	if err != nil {
		return nil, 0, err
	}
	rand.Read(wire[:2])
	return wire, binary.BigEndian.Uint16(wire), nil
}

// exchangeUDP uses a socket of its own, and so a random port, for every question. The kernel passes on only what comes
// from the server's address; what is not the reply to this question is taken for a forgery and waited out.
func exchangeUDP(ctx context.Context, server netip.AddrPort, question *miekg.Msg) (*miekg.Msg, error) {
	wire, id, err := numbered(question)
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "udp", server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	setDeadline(ctx, conn)
	if _, err := conn.Write(wire); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if reply := readReply(buf[:n], id, question); reply != nil {
			return reply, nil
		}
	}
}

// exchangeStream asks over TCP or TLS, on a connection that an earlier question has left open if there is one (RFC 7766
// section 6.2.1).
func (u *upstream) exchangeStream(ctx context.Context, question *miekg.Msg) (*miekg.Msg, error) {
	for {
		conn, err := u.takeConn(), error(nil)
		used := conn != nil
		if !used {
			if conn, err = u.dial(ctx); err != nil {
				return nil, err
			}
		}
		reply, err := exchangeOver(ctx, conn, question)
		if err == nil {
			u.keepConn(conn)
			return reply, nil
		}
		conn.Close()
		if !used || ctx.Err() != nil {
			return nil, err
		}
		// The server may have closed it while nobody used it: that says nothing about the server.
	}
}

func (u *upstream) dial(ctx context.Context) (net.Conn, error) {
	if u.tlsName == "" {
		return new(net.Dialer).DialContext(ctx, "tcp", u.addr.String())
	}
	d := tls.Dialer{Config: &tls.Config{ServerName: u.tlsName, RootCAs: u.roots, MinVersion: tls.VersionTLS12}}
	return d.DialContext(ctx, "tcp", u.addr.String())
}

// exchangeOver asks one question on a connection and leaves it open, unless there is an error.
func exchangeOver(ctx context.Context, conn net.Conn, question *miekg.Msg) (*miekg.Msg, error) {
	wire, id, err := numbered(question)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	setDeadline(ctx, conn)
	reply, err := func() (*miekg.Msg, error) {
		if _, err := conn.Write(rdata(wire)); err != nil {
			return nil, err
		}
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return nil, err
		}
		buf := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, buf); err != nil {
			return nil, err
		}
		reply := readReply(buf, id, question)
		if reply == nil {
			return nil, errors.New("the reply is not to this question")
		}
		return reply, nil
	}()
	if !stop() && err == nil {
		err = context.Cause(ctx) // it is being closed
	}
	return reply, err
}

func setDeadline(ctx context.Context, conn net.Conn) {
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
}

// idleConn is a connection that waits for the next question.
type idleConn struct {
	conn   net.Conn
	expiry *time.Timer
}

// takeConn returns a connection that waits, nil if there is none.
func (u *upstream) takeConn() net.Conn {
	u.mu.Lock()
	defer u.mu.Unlock()
	for n := len(u.idle); n > 0; n = len(u.idle) {
		c := u.idle[n-1] // the one that was used last
		u.idle = u.idle[:n-1]
		if c.expiry.Stop() {
			return c.conn
		}
	}
	return nil
}

// keepConn lets a connection wait for the next question, for a while.
func (u *upstream) keepConn(conn net.Conn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.idle) >= maxIdleConns {
		conn.Close()
		return
	}
	c := &idleConn{conn: conn}
	c.expiry = time.AfterFunc(idleConnTime, func() {
		conn.Close()
		u.mu.Lock()
		defer u.mu.Unlock()
		u.idle = slices.DeleteFunc(u.idle, func(x *idleConn) bool { return x == c })
	})
	u.idle = append(u.idle, c)
}

// closeIdle closes the connections that wait.
func (u *upstream) closeIdle() {
	for conn := u.takeConn(); conn != nil; conn = u.takeConn() {
		conn.Close()
	}
}

// readReply returns the message if it is a reply to the question with that ID, else nil.
func readReply(wire []byte, id uint16, question *miekg.Msg) *miekg.Msg {
	if len(wire) < headerSize || binary.BigEndian.Uint16(wire) != id || wire[2]&(flagQR>>8) == 0 {
		return nil
	}
	reply := new(miekg.Msg)
	if err := reply.Unpack(wire); err != nil && !reply.Truncated {
		return nil
	}
	if len(reply.Question) != 1 {
		// Some servers send a bare header with FORMERR or the like.
		if len(reply.Question) == 0 && reply.Rcode != miekg.RcodeSuccess && reply.Rcode != miekg.RcodeNameError {
			return reply
		}
		return nil
	}
	got, want := reply.Question[0], question.Question[0]
	if got.Qtype != want.Qtype || got.Qclass != want.Qclass || !strings.EqualFold(got.Name, want.Name) {
		return nil
	}
	return reply
}
