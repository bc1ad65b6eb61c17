package dns

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
)

const (
	resolveTimeout = 5 * time.Second        // for one question, all attempts together
	minPatience    = 200 * time.Millisecond // before the next server is asked as well
	maxPatience    = 1500 * time.Millisecond
	maxBackoff     = 30 * time.Second // for a server that does not answer
	failuresToDown = 3                // in a row
	rounds         = 2                // how often each server is asked for one question
	maxReply       = 1 << 16
)

// ParseServer reads the address of a resolver: IP, IP:port or [IPv6]:port; the port is 53 where it is not written.
func ParseServer(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(s)
	if err == nil {
		return checkServer(s, netip.AddrPortFrom(a, 53))
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not the address of a resolver (IP or IP:port)", s)
	}
	return checkServer(s, ap)
}

func checkServer(s string, ap netip.AddrPort) (netip.AddrPort, error) {
	if ap.Port() == 0 || ap.Addr().IsUnspecified() || ap.Addr().IsMulticast() {
		return netip.AddrPort{}, fmt.Errorf("%q cannot be the address of a resolver", s)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

// ParseResolvConf returns the name servers that a resolv.conf names, in order. Lines that are none are skipped, as the C
// library does.
func ParseResolvConf(r io.Reader) ([]netip.AddrPort, error) {
	var servers []netip.AddrPort
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if ap, err := ParseServer(f[1]); err == nil && !slices.Contains(servers, ap) {
			servers = append(servers, ap)
		}
	}
	return servers, sc.Err()
}

// upstream is one resolver that we ask, with what we know of it.
type upstream struct {
	addr netip.AddrPort
	now  func() time.Time

	mu       sync.Mutex
	srtt     time.Duration // smoothed; 0: unknown
	failures int           // in a row
	downTill time.Time
	queries  uint64
	failed   uint64
}

// UpstreamStats is the health of one resolver.
type UpstreamStats struct {
	Address string        `json:"address"`
	Healthy bool          `json:"healthy"`
	Latency time.Duration `json:"latency"` // smoothed round trip time
	Queries uint64        `json:"queries"`
	Failed  uint64        `json:"failed"`
}

func (u *upstream) stats() UpstreamStats {
	u.mu.Lock()
	defer u.mu.Unlock()
	return UpstreamStats{u.addr.String(), u.failures < failuresToDown, u.srtt, u.queries, u.failed}
}

// healthy reports whether the server is worth asking first.
func (u *upstream) healthy() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.failures < failuresToDown || !u.now().Before(u.downTill)
}

// patience is how long to wait for this server before another is asked as well.
func (u *upstream) patience() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.srtt == 0 {
		return 2 * minPatience
	}
	return min(max(3*u.srtt, minPatience), maxPatience)
}

// note records how an exchange ended. One that was given up because another server was faster says nothing.
func (u *upstream) note(took time.Duration, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case errors.Is(err, context.Canceled):
		return
	case err != nil:
		u.queries++
		u.failed++
		u.failures++
		if over := u.failures - failuresToDown; over >= 0 {
			u.downTill = u.now().Add(min(time.Second<<min(over, 10), maxBackoff))
		}
		return
	}
	u.queries++
	u.failures = 0
	if u.srtt == 0 {
		u.srtt = took
	} else {
		u.srtt = (7*u.srtt + took) / 8
	}
}

// exchange asks one question: over UDP, and over TCP when the answer does not fit.
func (u *upstream) exchange(ctx context.Context, question *miekg.Msg) (*miekg.Msg, error) {
	began := u.now()
	reply, err := exchangeUDP(ctx, u.addr, question)
	if err == nil && reply.Truncated {
		reply, err = exchangeTCP(ctx, u.addr, question)
	}
	if err != nil && ctx.Err() != nil && context.Cause(ctx) == errAnswered {
		err = context.Canceled
	}
	u.note(u.now().Sub(began), err)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", u.addr, err)
	}
	return reply, nil
}

// errAnswered is why an exchange is given up when another one has the answer.
var errAnswered = errors.New("answered by another server")

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
	conn, err := dial(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer closeWith(ctx, conn)()
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

func exchangeTCP(ctx context.Context, server netip.AddrPort, question *miekg.Msg) (*miekg.Msg, error) {
	wire, id, err := numbered(question)
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer closeWith(ctx, conn)()
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
}

func dial(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	return conn, nil
}

// closeWith makes the connection end with ctx; the function that it returns ends it at once.
func closeWith(ctx context.Context, conn net.Conn) func() {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	return func() {
		stop()
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

// ask puts the question to the servers: the healthy and fast ones first, the next one as soon as one fails or is slow,
// without giving up on the slow one. The first useful reply wins; without any, the last that is not.
func ask(ctx context.Context, servers []*upstream, question *miekg.Msg) (*miekg.Msg, *upstream, error) {
	if len(servers) == 0 {
		return nil, nil, errors.New("no upstream resolver is configured")
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ctx, done := context.WithCancelCause(ctx)
	defer done(errAnswered)

	type result struct {
		reply *miekg.Msg
		from  *upstream
		err   error
	}
	order := preference(servers)
	results := make(chan result, rounds*len(order))
	var worst result
	asked, pending := 0, 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			if asked < rounds*len(order) {
				u, message := order[asked%len(order)], question.Copy() // packing writes to the OPT record
				asked++
				pending++
				go func() {
					reply, err := u.exchange(ctx, message)
					results <- result{reply, u, err}
				}()
				timer.Reset(u.patience())
			}
		case r := <-results:
			pending--
			if r.err == nil && useful(r.reply) {
				return r.reply, r.from, nil
			}
			if r.err == nil && r.reply.Rcode == miekg.RcodeFormatError && question.IsEdns0() != nil {
				question = question.Copy() // a server from before EDNS (RFC 6891 section 7)
				question.Extra = nil
			}
			if r.err == nil || worst.reply == nil {
				worst = r
			}
			switch {
			case asked < rounds*len(order):
				timer.Reset(0)
			case pending == 0:
				return worst.reply, worst.from, worst.err
			}
		case <-ctx.Done():
			if worst.reply != nil {
				return worst.reply, worst.from, nil
			}
			return nil, nil, context.Cause(ctx)
		}
	}
}

// useful reports whether a reply settles the question, so that no other server need be asked.
func useful(m *miekg.Msg) bool {
	return m.Rcode == miekg.RcodeSuccess || m.Rcode == miekg.RcodeNameError
}

// preference orders servers: those that answer before those that do not, then as configured. A server that is much
// slower than the first is found out by patience, not by this order, so that all gateways ask the same one.
func preference(servers []*upstream) []*upstream {
	order := make([]*upstream, 0, len(servers))
	var down []*upstream
	for _, u := range servers {
		if u.healthy() {
			order = append(order, u)
		} else {
			down = append(down, u)
		}
	}
	return append(order, down...)
}
