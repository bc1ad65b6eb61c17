package dns

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
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

// endpoint is how a resolver is reached.
type endpoint struct {
	addr    netip.AddrPort
	tlsName string // the name in its certificate; empty: plain DNS
}

func (e endpoint) String() string {
	if e.tlsName == "" {
		return e.addr.String()
	}
	if e.addr.Port() == portTLS {
		return tlsScheme + e.tlsName + "@" + e.addr.Addr().String()
	}
	return tlsScheme + e.tlsName + "@" + e.addr.String()
}

const (
	tlsScheme = "tls://"
	portDNS   = 53
	portTLS   = 853
)

// parseEndpoint reads what ParseServer reads, and tls://NAME@IP or tls://NAME@IP:port for DNS over TLS (RFC 7858).
func parseEndpoint(s string) (endpoint, error) {
	rest, ok := strings.CutPrefix(s, tlsScheme)
	if !ok {
		ap, err := ParseServer(s)
		return endpoint{addr: ap}, err
	}
	host, addr, ok := strings.Cut(rest, "@")
	if _, err := parseName(host); !ok || err != nil {
		return endpoint{}, fmt.Errorf("%q is not a resolver over TLS (tls://NAME@IP)", s)
	}
	ap, err := netip.ParseAddrPort(addr)
	if a, addrErr := netip.ParseAddr(addr); addrErr == nil {
		ap, err = netip.AddrPortFrom(a, portTLS), nil
	}
	if err != nil {
		return endpoint{}, fmt.Errorf("%q is not a resolver over TLS (tls://NAME@IP)", s)
	}
	ap, err = checkServer(s, ap)
	return endpoint{ap, strings.TrimSuffix(host, ".")}, err
}

// upstream is one resolver that we ask, with what we know of it.
type upstream struct {
	endpoint
	now   func() time.Time
	roots *x509.CertPool // who may sign its certificate; nil: the system's

	mu       sync.Mutex
	folds    bool // it does not repeat the case of letters
	idle     []*idleConn
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
	return UpstreamStats{u.String(), u.failures < failuresToDown, u.srtt, u.queries, u.failed}
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

// ask puts the question to the servers: in order, healthy ones first, the next one as soon as one fails or is slow, without
// giving up on the slow one; or, in parallel, to all healthy ones at once. The first useful reply wins; without any, the last
// that is not.
func ask(ctx context.Context, servers []*upstream, parallel bool, question *miekg.Msg) (*miekg.Msg, *upstream, error) {
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
	order, healthy := preference(servers)
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
				if wait := u.patience(); !parallel || asked >= healthy {
					timer.Reset(wait)
				} else {
					timer.Reset(0)
				}
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

// preference orders servers: those that answer, of which it tells how many they are, before those that do not, then as
// configured. A server that is much slower than the first is found out by patience, not by this order, so that all gateways
// ask the same one.
func preference(servers []*upstream) (order []*upstream, healthy int) {
	order = make([]*upstream, 0, len(servers))
	var down []*upstream
	for _, u := range servers {
		if u.healthy() {
			order = append(order, u)
		} else {
			down = append(down, u)
		}
	}
	return append(order, down...), len(order)
}
