package dns

import (
	"context"
	"crypto/x509"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	miekg "github.com/miekg/dns"
)

const (
	maxFlights      = 1024 // questions that upstreams are asked at the same time
	reservedFlights = 64   // of a VPC, whatever the others ask
	maxHandoff      = 4    // how often an answer may lead from here to a forwarder and back

	staleAfter   = 1800 * time.Millisecond // without a reply, an answer that has ended stands in (RFC 8767 section 5)
	staleRecheck = 30 * time.Second        // for how long it then does without asking again (RFC 8767 section 5)
)

// resolver asks others what the views do not know, and remembers what they said.
type resolver struct {
	now   func() time.Time
	roots *x509.CertPool // who may sign the certificates of upstreams; nil: whom the system trusts
	cache *cache

	parallel  atomic.Bool                    // all servers are asked at once
	upstreams atomic.Pointer[[]endpoint]     // the default ones, our own addresses left out
	guarded   atomic.Pointer[[]netip.Prefix] // the ranges of all VPCs

	mu      sync.Mutex
	servers map[endpoint]*upstream
	flights map[cacheKey]*flight
	room    *quota // of flights

	hits, misses, staleHits, refused atomic.Uint64
}

// flight is a question that upstreams are being asked; whoever asks the same waits for it.
type flight struct {
	servers []*upstream
	void    bool // its answer must not be kept: what it was asked under has changed. Guarded by resolver.mu.
	done    chan struct{}
	entry   *entry // set before done is closed
}

func newResolver(cacheSize int, now func() time.Time) *resolver {
	r := &resolver{now: now, cache: newCache(cacheSize), servers: map[endpoint]*upstream{}, flights: map[cacheKey]*flight{}, room: newQuota(maxFlights, 0, reservedFlights)}
	r.upstreams.Store(new([]endpoint))
	r.guarded.Store(new([]netip.Prefix))
	return r
}

// setUpstreams changes the default upstreams; what the former ones said is forgotten.
func (r *resolver) setUpstreams(servers []endpoint) {
	if !slices.Equal(*r.upstreams.Load(), servers) {
		r.upstreams.Store(&servers)
		r.forget(root)
	}
}

// forget drops what upstreams have said about a name and everything below it, and what they are about to say, and returns
// how many answers that were.
func (r *resolver) forget(n name) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, fl := range r.flights {
		if key.name.within(n) {
			fl.void = true
			delete(r.flights, key) // who asks from now on is given a new answer
		}
	}
	return r.cache.flushWithin(n)
}

// setGuarded changes the ranges that no outside name may point into.
func (r *resolver) setGuarded(ranges []netip.Prefix) {
	if !slices.Equal(*r.guarded.Load(), ranges) {
		r.guarded.Store(&ranges)
		r.forget(root)
	}
}

// keep forgets the servers that are neither upstreams nor in use by a forwarder.
func (r *resolver) keep(forwarders map[endpoint]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for e, u := range r.servers {
		if !forwarders[e] && !slices.Contains(*r.upstreams.Load(), e) {
			u.closeIdle()
			delete(r.servers, e)
		}
	}
}

// serversFor returns whom to ask: the forwarder's servers, or the upstreams when f is nil. The caller holds r.mu.
func (r *resolver) serversFor(f *forwarder) []*upstream {
	servers := *r.upstreams.Load()
	if f != nil {
		servers = f.servers
	}
	out := make([]*upstream, len(servers))
	for i, e := range servers {
		if r.servers[e] == nil {
			r.servers[e] = &upstream{endpoint: e, now: r.now, roots: r.roots}
		}
		out[i] = r.servers[e]
	}
	return out
}

// closeIdle closes the connections to all servers that wait for the next question.
func (r *resolver) closeIdle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range r.servers {
		u.closeIdle()
	}
}

func (r *resolver) stats() []UpstreamStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]UpstreamStats, 0, len(r.servers))
	for _, u := range r.servers {
		out = append(out, u.stats())
	}
	slices.SortFunc(out, func(a, b UpstreamStats) int { return strings.Compare(a.Address, b.Address) })
	return out
}

func scopeOf(f *forwarder) string {
	if f == nil {
		return ""
	}
	return f.scope
}

// cached returns a good answer that is already here. One that is about to end is fetched again behind the client's back.
func (r *resolver) cached(ctx context.Context, v *View, f *forwarder, q *Query, lower []byte) *entry {
	e, state := r.cache.get(scopeOf(f), lower, q.Type, q.DO, q.CD, r.now())
	if state < ending {
		return nil
	}
	r.hits.Add(1)
	if state == ending && e.refreshing.CompareAndSwap(false, true) {
		r.fly(context.WithoutCancel(ctx), v, f, e.key)
	}
	return e
}

// resolve returns the answer to a client's question about target, from the cache or from outside. It is never nil: a
// failure is an entry too. ctx bounds the wait, not the question, which others may be waiting for.
func (r *resolver) resolve(ctx context.Context, v *View, client netip.Addr, f *forwarder, q *Query, target name) *entry {
	key := cacheKey{scopeOf(f), target, q.Type, q.DO, q.CD}
	old, state := r.cache.get(key.scope, []byte(target), key.typ, key.do, key.cd, r.now())
	if state >= ending {
		r.hits.Add(1)
		return old
	}
	r.misses.Add(1)
	var patience <-chan time.Time // nil: there is nothing else to answer with
	if state == stale {
		if old.recheck.Load() > r.now().UnixNano() {
			r.staleHits.Add(1)
			return old
		}
		timer := time.NewTimer(staleAfter)
		defer timer.Stop()
		patience = timer.C
	}
	fl, joined := r.fly(context.WithoutCancel(ctx), v, f, key)
	var e *entry
	switch {
	case fl == nil:
		e = failure(key, miekg.RcodeServerFailure, "too many open questions", errOther, r.now())
	case joined && fl.asks(client):
		return failure(key, miekg.RcodeServerFailure, "a loop: "+client.String()+" is asked for it, and asks us", errLoop, r.now())
	default:
		select {
		case <-fl.done:
			e = fl.entry
		case <-patience:
			e = old
		case <-ctx.Done():
			e = failure(key, miekg.RcodeServerFailure, "gave up waiting", errUnreachable, r.now())
		}
	}
	if state == stale && e.rcode == miekg.RcodeServerFailure {
		e = old
	}
	if e.ended(r.now()) {
		r.staleHits.Add(1)
	}
	return e
}

// asks reports whether the client is one of those who are asked: a resolver that asks us what we ask it.
func (fl *flight) asks(client netip.Addr) bool {
	return slices.ContainsFunc(fl.servers, func(u *upstream) bool { return u.addr.Addr().WithZone("") == client.Unmap().WithZone("") })
}

// fly starts to ask for a VPC, or joins those who wait for the same answer already; nil when there is no room.
func (r *resolver) fly(ctx context.Context, v *View, f *forwarder, key cacheKey) (fl *flight, joined bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if fl := r.flights[key]; fl != nil {
		return fl, true
	}
	if !r.room.enter(v.vpc.ID, netip.Addr{}) {
		return nil, false
	}
	fl = &flight{servers: r.serversFor(f), done: make(chan struct{})}
	r.flights[key] = fl
	guarded := *r.guarded.Load()
	go func() {
		fl.entry = r.fetch(ctx, f, fl.servers, guarded, key)
		r.mu.Lock()
		if !fl.void {
			delete(r.flights, key)
			if !fl.entry.ended(r.now()) {
				r.cache.put(fl.entry)
			}
		}
		r.mu.Unlock()
		r.room.leave(v.vpc.ID, netip.Addr{})
		close(fl.done)
	}()
	return fl, false
}

// fetch asks outside. When nobody answers, an answer that has ended stands in.
func (r *resolver) fetch(ctx context.Context, f *forwarder, servers []*upstream, guarded []netip.Prefix, key cacheKey) *entry {
	question := new(miekg.Msg)
	question.SetQuestion(key.name.String(), key.typ)
	question.RecursionDesired, question.CheckingDisabled, question.AuthenticatedData = true, key.cd, true
	question.SetEdns0(ednsSize, key.do)
	source := "upstream"
	if f != nil {
		source = f.source
	}
	reply, from, err := ask(ctx, servers, r.parallel.Load(), question)
	now := r.now()
	var e *entry
	switch {
	case err != nil:
		e = failure(key, miekg.RcodeServerFailure, source+": "+err.Error(), errUnreachable, now)
	case f == nil && pointsInto(reply, guarded):
		// A name outside that has an inside address would let a web page talk to instances, or to what listens on its reader's
		// own machine, through its reader's browser. Whom a forwarder was declared for is trusted.
		r.refused.Add(1)
		e = failure(key, miekg.RcodeRefused, source+" "+from.String()+": the answer points inside", errBlocked, now)
	default:
		source += " " + from.String()
		if e, err = newEntry(key, reply, source, now); err != nil {
			e = failure(key, miekg.RcodeServerFailure, source+": "+err.Error(), extendedError{}, now)
		}
	}
	if e.rcode != miekg.RcodeSuccess && e.rcode != miekg.RcodeNameError {
		if old, state := r.cache.get(key.scope, []byte(key.name), key.typ, key.do, key.cd, now); state != missing && e.rcode != miekg.RcodeRefused {
			old.recheck.Store(now.Add(staleRecheck).UnixNano())
			return old
		}
	}
	return e
}

// nearby are the addresses that mean something else on every host: the host itself and its links.
var nearby = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("::/128"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fe80::/10"),
}

// pointsInto reports whether an answer holds an address of the ranges or a nearby one, as it is or embedded in an IPv6
// address.
func pointsInto(m *miekg.Msg, ranges []netip.Prefix) bool {
	inside := func(a netip.Addr) bool {
		contains := func(p netip.Prefix) bool { return p.Contains(a) }
		return slices.ContainsFunc(ranges, contains) || slices.ContainsFunc(nearby, contains)
	}
	for _, rr := range m.Answer {
		var raw []byte
		switch rr := rr.(type) {
		case *miekg.A:
			raw = rr.A.To4()
		case *miekg.AAAA:
			raw = rr.AAAA.To16()
		case *miekg.SVCB:
			if hintsInto(rr.Value, inside) {
				return true
			}
		case *miekg.HTTPS:
			if hintsInto(rr.Value, inside) {
				return true
			}
		}
		a, ok := netip.AddrFromSlice(raw)
		if ok && (inside(a.Unmap()) || inside(embedded(a))) {
			return true
		}
	}
	return false
}

// hintsInto looks at the address hints of a service binding (RFC 9460 section 7.3).
func hintsInto(values []miekg.SVCBKeyValue, inside func(netip.Addr) bool) bool {
	for _, v := range values {
		switch v := v.(type) {
		case *miekg.SVCBIPv4Hint:
			for _, ip := range v.Hint {
				if a, ok := netip.AddrFromSlice(ip.To4()); ok && inside(a) {
					return true
				}
			}
		case *miekg.SVCBIPv6Hint:
			for _, ip := range v.Hint {
				if a, ok := netip.AddrFromSlice(ip.To16()); ok && (inside(a.Unmap()) || inside(embedded(a))) {
					return true
				}
			}
		}
	}
	return false
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	compatible = netip.MustParsePrefix("::/96")
	sixToFour  = netip.MustParsePrefix("2002::/16")
)

// embedded returns the IPv4 address that traffic to an IPv6 address may end at: that in an address of the NAT64 prefix (RFC
// 6052), in an IPv4-compatible one (RFC 4291 section 2.5.5.1), or in one of 6to4 (RFC 3056); invalid for any other.
func embedded(a netip.Addr) netip.Addr {
	b := a.As16()
	switch {
	case a.Is4():
	case nat64.Contains(a), compatible.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:]))
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:]))
	}
	return netip.Addr{}
}

// complete returns the reply to a client's question that the view could not answer alone. local is the view's message, with
// the CNAME records that lead to out.target.
func (r *resolver) complete(ctx context.Context, v *View, client netip.Addr, q *Query, local []byte, out Outcome, limit int) ([]byte, Outcome) {
	direct := out.target == ""
	if direct {
		out.target = q.name()
	}
	e := r.resolve(ctx, v, client, out.forwarder, q, out.target)
	if direct && !(e.chained && out.forwarder != nil) {
		return e.reply(q, limit, r.now())
	}
	// The answer is pieced together: ours, theirs, and where a forwarder's leads back to a name of ours, ours again.
	var m miekg.Msg
	if err := m.Unpack(local); err != nil {
		return failed(q)
	}
	m.Ns, m.Extra = nil, nil
	for range maxHandoff {
		asked := q.about(e.key.name)
		reply, _ := e.append(nil, asked, maxReply, r.now())
		q.extended = asked.extended
		var theirs miekg.Msg
		if err := theirs.Unpack(reply); err != nil {
			return failed(q)
		}
		m.Rcode, m.Authoritative, m.AuthenticatedData = e.rcode, false, false
		m.Ns = theirs.Ns
		back := ""
		if out.forwarder != nil {
			theirs.Answer, back = v.cutAtOwn(theirs.Answer)
		}
		m.Answer = append(m.Answer, theirs.Answer...)
		if back == "" {
			break
		}
		n, err := parseName(back)
		if err != nil {
			return failed(q)
		}
		var ours miekg.Msg
		reply, out = v.Answer(nil, q.about(n), maxReply)
		if err := ours.Unpack(reply); err != nil {
			return failed(q)
		}
		m.Answer = append(m.Answer, ours.Answer...)
		m.Ns, m.Rcode = ours.Ns, out.Rcode
		if !out.Elsewhere {
			break
		}
		if out.target == "" {
			out.target = n
		}
		e = r.resolve(ctx, v, client, out.forwarder, q, out.target)
	}
	return packReply(&m, q, e.source, limit)
}

// cutAtOwn follows an answer's CNAME records to the first name that the view answers itself, and returns the records up
// to there and that name; all of them and "" if there is none.
func (v *View) cutAtOwn(answer []miekg.RR) ([]miekg.RR, string) {
	for i, rr := range answer {
		if c, ok := rr.(*miekg.CNAME); ok {
			if n, err := parseName(c.Target); err == nil && !v.find([]byte(n)).elsewhere {
				return answer[: i+1 : i+1], c.Target
			}
		}
	}
	return answer, ""
}

func (e *entry) reply(q *Query, limit int, now time.Time) ([]byte, Outcome) {
	reply, truncated := e.append(nil, q, limit, now)
	return reply, Outcome{Rcode: e.rcode, Source: e.source, Truncated: truncated}
}

func failed(q *Query) ([]byte, Outcome) {
	return appendError(nil, q, miekg.RcodeServerFailure), Outcome{Rcode: miekg.RcodeServerFailure}
}

// packReply packs a message pieced together as the reply to q.
func packReply(m *miekg.Msg, q *Query, source string, limit int) ([]byte, Outcome) {
	m.Extra = nil
	m.Compress = true
	wire, err := m.Pack()
	if err != nil || len(wire) < headerSize+len(q.question) {
		return failed(q)
	}
	out := newMessage(nil, q, limit)
	out.buf = append(out.buf, wire[headerSize+len(q.question):]...)
	out.answers, out.authorities = uint16(len(m.Answer)), uint16(len(m.Ns))
	truncated := out.tooLong()
	return out.finish(m.Rcode, 0), Outcome{Rcode: m.Rcode, Source: source, Truncated: truncated}
}
