package dns

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// Config is what the server needs to know besides snapshots.
type Config struct {
	Upstreams  []string         // "system" (what resolv.conf names), IP[:port] or tls://NAME@IP[:port], in order of preference
	Parallel   bool             // all healthy servers are asked at once, instead of in order
	CacheSize  int              // answers; 0: none is kept
	RateLimit  int              // answers a second that a client is given over UDP; 0: no limit
	QueryLog   []string         // names of VPCs whose questions are logged
	TSIGKeys   []TSIGKey        // that may sign updates
	Updater    Updater          // nil: updates are not implemented
	Version    string           // told to whoever asks for version.bind; empty: refused
	Roots      *x509.CertPool   // who may sign the certificates of upstreams; nil: whom the system trusts
	ResolvConf string           // empty: /etc/resolv.conf
	Port       uint16           // 0: 53
	Logger     *slog.Logger     // nil: nothing is logged
	Now        func() time.Time // nil: time.Now
}

// Server answers the instances of all VPCs. All methods may be called by anybody at any time.
type Server struct {
	config   Config
	log      *slog.Logger
	now      func() time.Time
	resolver *resolver
	state    atomic.Pointer[state]
	wake     chan struct{} // one slot: the listeners may have to change
	waiting  *quota
	counters counters
	conns    connections
	cookies  cookies
	limiter  *limiter
	queries  queryLog
	replays  replays
	notifier notifier
	tsigKeys atomic.Pointer[map[string]TSIGKey] // by canonical name

	setting sync.Mutex // one SetSnapshot at a time

	mu         sync.Mutex
	configured []string   // upstreams
	servers    []endpoint // what they are, our own addresses among them
	resolvConf time.Time  // when it was changed; zero: it is not there
	listeners  map[listenerKey]*listener
	running    bool
}

// state is what one snapshot means to the server.
type state struct {
	snapshot *vpc.Snapshot
	views    map[string]*View // by VPC ID
	wanted   map[listenerKey]string
	tell     map[secondary]notice
}

// New returns a server that has no snapshot yet. It fails when an upstream is not an address.
func New(c Config) (*Server, error) {
	if c.Port == 0 {
		c.Port = 53
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	s := &Server{
		config: c, log: c.Logger, now: c.Now,
		wake:      make(chan struct{}, 1),
		waiting:   newQuota(maxWaiting, maxWaitingClient, reservedWaiting),
		listeners: map[listenerKey]*listener{},
		cookies:   newCookies(),
		limiter:   newLimiter(),
		notifier:  notifier{port: portNotify, told: map[secondary]*told{}},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.notifier.log = s.log
	s.resolver = newResolver(c.CacheSize, s.now)
	s.resolver.roots = c.Roots
	s.SetParallel(c.Parallel)
	s.limiter.set(c.RateLimit)
	s.queries.log = s.log
	s.queries.set(c.QueryLog)
	s.SetTSIGKeys(c.TSIGKeys)
	s.state.Store(&state{})
	if err := s.SetUpstreams(c.Upstreams); err != nil {
		return nil, err
	}
	return s, nil
}

// SetUpstreams changes whom to ask what no view knows.
func (s *Server) SetUpstreams(upstreams []string) error {
	for _, u := range upstreams {
		if u == "system" {
			continue
		}
		if _, err := parseEndpoint(u); err != nil {
			return fmt.Errorf("upstream: %w", err)
		}
	}
	s.mu.Lock()
	s.configured = slices.Clone(upstreams)
	s.readUpstreams()
	s.mu.Unlock()
	return nil
}

// SetParallel changes whether all healthy servers are asked at once, or one after the other.
func (s *Server) SetParallel(on bool) { s.resolver.parallel.Store(on) }

// SetRateLimit changes how many answers a second a client is given over UDP before it is sent to TCP; 0: no limit.
// Clients that show a cookie are not limited, since their address is not forged.
func (s *Server) SetRateLimit(perSecond int) { s.limiter.set(perSecond) }

// SetQueryLog changes whose questions are logged: VPCs by name.
func (s *Server) SetQueryLog(vpcs []string) { s.queries.set(vpcs) }

// SetCacheSize changes how many answers are kept.
func (s *Server) SetCacheSize(n int) { s.resolver.cache.resize(n) }

// readUpstreams finds out which servers are configured, and reads resolv.conf if that is what it takes. The caller holds
// s.mu.
func (s *Server) readUpstreams() {
	s.servers = nil
	for _, u := range s.configured {
		if u == "system" {
			system, err := readResolvConf(s.config.ResolvConf)
			if err != nil {
				s.log.Warn("no upstreams from the system", "error", err)
			}
			for _, ap := range system {
				s.servers = append(s.servers, endpoint{addr: ap})
			}
		} else if e, err := parseEndpoint(u); err == nil {
			s.servers = append(s.servers, e)
		}
	}
	s.useUpstreams()
}

// useUpstreams hands the configured servers to the resolver, each once and our own addresses left out. The caller holds
// s.mu.
func (s *Server) useUpstreams() {
	snapshot := s.state.Load().snapshot
	var kept []endpoint
	for _, e := range s.servers {
		if !isOwn(snapshot, e.addr.Addr()) && !slices.Contains(kept, e) {
			kept = append(kept, e)
		}
	}
	s.resolver.setUpstreams(kept)
}

func readResolvConf(path string) ([]netip.AddrPort, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	servers, err := ParseResolvConf(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return servers, nil
}

// SetSnapshot puts a snapshot in force: answers follow it as soon as this returns; sockets for new vSwitches open, and
// those of removed ones close, soon after.
func (s *Server) SetSnapshot(snapshot *vpc.Snapshot) {
	s.setting.Lock()
	defer s.setting.Unlock()
	old := s.state.Load()
	st := &state{snapshot: snapshot, views: make(map[string]*View, len(snapshot.VPCs)), wanted: map[listenerKey]string{}, tell: map[secondary]notice{}}
	inUse := map[endpoint]bool{}
	var guarded []netip.Prefix
	affected := affectedViews(cmp.Or(old.snapshot, new(vpc.Snapshot)), snapshot, old.views)
	for _, v := range snapshot.VPCs {
		view := old.views[v.ID]
		if view == nil || affected[v.ID] || !slices.Equal(view.vpc.Zones, v.Zones) || !slices.Equal(view.vpc.Forwarders, v.Forwarders) {
			view = BuildView(snapshot, v)
		} else {
			view = view.follow(v)
		}
		st.views[v.ID] = view
		maps.Copy(st.tell, secondariesOf(view))
		for _, f := range view.forwarders {
			for _, e := range f.servers {
				inUse[e] = true
			}
		}
		guarded = append(guarded, v.Prefixes()...)
		for _, w := range v.VSwitches {
			if w.HasLink() {
				s.wantListeners(st.wanted, w)
			}
		}
	}
	s.resolver.setGuarded(guarded)
	s.state.Store(st)
	s.mu.Lock()
	s.useUpstreams()
	s.mu.Unlock()
	s.resolver.keep(inUse)
	s.poke()
}

// affectedViews returns the IDs of the VPCs whose views may be other than they were. Most changes are none of DNS's: of an
// instance counts what Names has, and of its interfaces nothing else.
func affectedViews(old, snapshot *vpc.Snapshot, views map[string]*View) map[string]bool {
	d := vpc.Compare(old, snapshot)
	ids := map[string]bool{}
	for _, p := range d.VPCs {
		if p.New != nil {
			ids[p.New.ID] = true
		}
	}
	if len(d.VSwitches) > 0 || len(d.VPCs) > 0 { // which servers are our own depends on all VPCs
		for _, v := range snapshot.VPCs {
			ids[v.ID] = ids[v.ID] || len(v.Forwarders) > 0 || views[v.ID] != nil && len(views[v.ID].cuts) > 0
		}
	}
	for _, p := range d.VSwitches {
		for _, w := range []*vpc.VSwitch{p.Old, p.New} {
			if w != nil {
				ids[w.VPC.ID] = true
			}
		}
	}
	for _, p := range d.Instances {
		switch {
		case p.Old == nil:
			ids[p.New.VPC.ID] = true
		case p.New == nil:
			ids[p.Old.VPC.ID] = true
		case namesOf(p.Old) != namesOf(p.New):
			ids[p.New.VPC.ID] = true
		}
	}
	return ids
}

// instanceNames is what the names of an instance are made of.
type instanceNames struct {
	id, name string
	enrolled bool
	switches vpc.PrivateDNSSpec
	v4, v6   netip.Addr // the primary addresses of its primary interface
}

func namesOf(i *vpc.Instance) instanceNames {
	n := instanceNames{id: i.ID, name: i.Name, enrolled: i.Enrolled, switches: i.PrivateDNS}
	if len(i.Interfaces) > 0 {
		n.v4, n.v6 = i.Interfaces[0].Primary(vpc.IPv4), i.Interfaces[0].Primary(vpc.IPv6)
	}
	return n
}

// follow returns the view for a VPC in which nothing has changed that it is made of.
func (v *View) follow(now *vpc.VPC) *View {
	if v.vpc == now {
		return v
	}
	next := *v
	next.vpc = now
	return &next
}

// View returns the view of a VPC by ID; nil if there is none.
func (s *Server) View(vpcID string) *View { return s.state.Load().views[vpcID] }

// poke makes Run look at the listeners.
func (s *Server) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run serves until ctx ends. Sockets that cannot be opened are tried again as long as they are wanted: see Listeners.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		return errors.New("the DNS server is running already")
	}
	s.running = true
	s.mu.Unlock()

	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	defer func() {
		s.syncListeners(ctx, nil)
		s.notifier.sync(ctx, nil)
		s.notifier.telling.Wait()
		s.resolver.closeIdle()
		s.mu.Lock()
		s.running = false
		s.mu.Unlock()
	}()
	for {
		st := s.state.Load()
		s.syncListeners(ctx, st.wanted)
		s.notifier.sync(ctx, st.tell)
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-tick.C:
			s.watchResolvConf()
		}
	}
}

// watchResolvConf reads resolv.conf again when it has changed.
func (s *Server) watchResolvConf() {
	var changed time.Time
	if info, err := os.Stat(s.config.ResolvConf); err == nil {
		changed = info.ModTime()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !changed.Equal(s.resolvConf) && slices.Contains(s.configured, "system") {
		s.resolvConf = changed
		s.readUpstreams()
	}
}

// deferred is a question that is not answered with one message at once: its answer must be asked for elsewhere, or it is
// a whole zone.
type deferred struct {
	view     *View
	query    *Query
	local    []byte // what the view says already
	out      Outcome
	limit    int
	transfer *zone  // nil: not a transfer
	update   []byte // nil: not an update

	signature *signature // nil: the question was not signed
}

// handle answers one message that came from src to an address of the view's VPC. The reply is appended to dst; dst comes
// back as it was when there must be no reply, or when it will come later: then the second result is set. It waits for
// nobody.
func (s *Server) handle(ctx context.Context, dst, msg []byte, q *Query, v *View, src netip.Addr, tcp bool) ([]byte, *deferred) {
	rcode, ok := q.parse(msg)
	if !ok {
		s.counters.ignored.Add(1)
		return dst, nil
	}
	if q.cookie {
		s.cookies.stamp(q, src, s.now())
	}
	if !tcp && s.limiter.limits() && !q.proven && !s.limiter.admit(clientOf(v.id(), src), s.now()) {
		s.counters.limited.Add(1)
		return appendTruncated(dst, q), nil
	}
	out := Outcome{Rcode: rcode}
	switch {
	case v == nil || !admits(v, src):
		out.Rcode, q.extended = miekg.RcodeRefused, errProhibited
		s.answered(v, q, src, out)
		return appendError(dst, q, out.Rcode), nil
	case q.Opcode == miekg.OpcodeUpdate && s.config.Updater != nil:
		return dst, &deferred{view: v, query: q.clone(), update: bytes.Clone(msg)}
	case rcode != miekg.RcodeSuccess:
		s.answered(v, q, src, out)
		return appendError(dst, q, out.Rcode), nil
	case q.signed:
		return s.handleSigned(ctx, dst, msg, q, v, src, tcp)
	case q.Class == miekg.ClassCHAOS:
		dst, out.Rcode = appendChaos(dst, q, s.config.Version)
		s.answered(v, q, src, out)
		return dst, nil
	}
	if tcp && q.Type == miekg.TypeAXFR || q.Type == miekg.TypeIXFR {
		if apex := v.transferable(q, src); apex != nil {
			out.Source = apex.zone.source
			s.answered(v, q, src, out)
			if q.Type == miekg.TypeIXFR && (!tcp || apex.zone.has(q)) {
				return current(dst, q, apex.zone), nil
			}
			return dst, &deferred{view: v, query: q.clone(), transfer: apex.zone}
		}
	}
	q.Draw = rand.Uint32()
	limit := q.limit(tcp)
	reply, out := v.Answer(dst, q, limit)
	if !out.Elsewhere {
		s.answered(v, q, src, out)
		return reply, nil
	}
	if !q.RD && out.target == "" && out.forwarder != nil && out.forwarder.delegation != nil {
		out.Rcode = miekg.RcodeSuccess
		s.answered(v, q, src, out)
		return v.appendReferral(dst, q, out.forwarder, limit), nil
	}
	if !q.RD { // only recursion could help
		out.Rcode, q.extended = miekg.RcodeRefused, errNotHere
		s.answered(v, q, src, out)
		return appendError(dst, q, out.Rcode), nil
	}
	if out.target == "" {
		if e := s.resolver.cached(ctx, v, out.forwarder, q, q.lower[:q.length]); e != nil && !(e.chained && out.forwarder != nil) {
			reply, out.Truncated = e.append(dst, q, limit, s.now())
			out.Rcode, out.Source = e.rcode, e.source
			s.answered(v, q, src, out)
			return reply, nil
		}
	}
	d := &deferred{view: v, query: q.clone(), local: slices.Clone(reply[len(dst):]), out: out, limit: limit}
	return dst, d
}

// answered counts a reply, and logs it if it is to be.
func (s *Server) answered(v *View, q *Query, src netip.Addr, out Outcome) {
	s.counters.answered(out)
	if s.queries.of(v) != nil {
		s.queries.write(v, q, src, out.Rcode, out.Source, s.now())
	}
}

// admits reports whether a client may ask the view: it has an address of the VPC, or a link-local one, which cannot
// come from anywhere but a link. That the link is one of the VPC's is for the caller to know: see hasLink.
func admits(v *View, src netip.Addr) bool {
	src = src.Unmap()
	return isLinkLocal(src) || v.vpc.Contains(src)
}

// isLinkLocal reports whether many links may have the address.
func isLinkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

// hasLink reports whether a link, by its name or its number, is a vSwitch's of the view's VPC. Whoever is on a link can send
// from a link-local address to every address of the gateway, another VPC's included.
func (v *View) hasLink(zone string) bool {
	return v != nil && slices.ContainsFunc(v.vpc.VSwitches, func(w *vpc.VSwitch) bool {
		return w.HasLink() && (w.LinkName() == zone || strconv.Itoa(int(linkIndex(w.LinkName()))) == zone)
	})
}

// finish completes a deferred question and gives the reply to send. Clients wait here, up to so many altogether and
// each, so that none can take all the room.
func (s *Server) finish(ctx context.Context, d *deferred, src netip.Addr, send func([]byte)) {
	if !s.waiting.enter(d.view.vpc.ID, src) {
		s.counters.overload.Add(1)
		s.answered(d.view, d.query, src, Outcome{Rcode: miekg.RcodeServerFailure, Source: "too many open questions"})
		d.query.extended = errOther
		send(appendError(nil, d.query, miekg.RcodeServerFailure))
		return
	}
	began := s.now()
	go func() {
		defer s.waiting.leave(d.view.vpc.ID, src)
		if d.update != nil {
			reply, out := s.update(ctx, d.view, d.update, src)
			s.counters.answered(out)
			send(reply)
			return
		}
		reply, out := s.resolver.complete(ctx, d.view, src, d.query, d.local, d.out, d.limit)
		s.answered(d.view, d.query, src, out)
		s.counters.wait(s.now().Sub(began))
		signed, err := d.signature.sign(reply)
		if err != nil {
			s.log.Warn("DNS reply lost", "client", src, "error", err)
			signed = appendError(nil, d.query, miekg.RcodeServerFailure)
		}
		send(signed)
	}()
}

// Flush forgets what upstreams said about a name and everything below it, about all names when it is empty, and returns
// how many answers that were.
func (s *Server) Flush(name string) (int, error) {
	if name == "" {
		name = "."
	}
	n, err := parseName(name)
	if err != nil {
		return 0, err
	}
	return s.resolver.forget(n), nil
}

// ParseType reads the type of a question: a mnemonic in any case, or TYPE and its number (RFC 3597 section 5).
func ParseType(s string) (uint16, error) {
	typ, ok := miekg.StringToType[strings.ToUpper(s)]
	if number, generic := strings.CutPrefix(strings.ToUpper(s), "TYPE"); !ok && generic {
		n, err := strconv.ParseUint(number, 10, 16)
		typ, ok = uint16(n), err == nil
	}
	if !ok {
		return 0, fmt.Errorf("%q is not a type of records", s)
	}
	return typ, nil
}

// Explanation is what a client of a VPC would be answered, and why.
type Explanation struct {
	VPC      string   `json:"vpc"`
	Name     string   `json:"name"`
	Type     string   `json:"type"`
	Rcode    string   `json:"rcode"`
	Answer   []string `json:"answer"` // records in presentation form
	Source   string   `json:"source"` // "instance NAME", "zone NAME", "gateway", "reserved name", "forwarder ZONE SERVER", "upstream SERVER"
	Revision uint64   `json:"revision"`
}

// Query answers a question as an instance of the VPC would be answered, asking outside if that is what it takes.
func (s *Server) Query(ctx context.Context, vpcID, name string, typ uint16) (Explanation, error) {
	v := s.View(vpcID)
	if v == nil {
		return Explanation{}, fmt.Errorf("there is no VPC %s", vpcID)
	}
	q, err := NewQuery(name, typ)
	if err != nil {
		return Explanation{}, err
	}
	reply, out := v.Answer(nil, q, maxReply-1)
	if out.Elsewhere {
		reply, out = s.resolver.complete(ctx, v, netip.Addr{}, q, reply, out, maxReply-1)
	}
	var m miekg.Msg
	if err := m.Unpack(reply); err != nil {
		return Explanation{}, fmt.Errorf("read the answer to %s: %w", name, err)
	}
	e := Explanation{
		VPC: v.vpc.Name, Name: q.Name(), Type: miekg.Type(typ).String(), Rcode: miekg.RcodeToString[m.Rcode],
		Source: out.Source, Revision: v.Revision, Answer: []string{},
	}
	for _, rr := range m.Answer {
		e.Answer = append(e.Answer, rr.String())
	}
	return e, nil
}

// Findings lists what the views could not honour.
func (s *Server) Findings() []Finding {
	st := s.state.Load()
	var all []Finding
	if st.snapshot != nil {
		for _, v := range st.snapshot.VPCs {
			all = append(all, st.views[v.ID].findings...)
		}
	}
	return all
}

// Records lists the records of every view, VPC by VPC.
func (s *Server) Records() []Record {
	st := s.state.Load()
	var all []Record
	if st.snapshot != nil {
		for _, v := range st.snapshot.VPCs {
			all = append(all, Records(st.views[v.ID])...)
		}
	}
	return all
}
