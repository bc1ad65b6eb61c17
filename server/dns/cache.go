package dns

import (
	"container/list"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	miekg "github.com/miekg/dns"
)

// Limits of what is believed for how long.
const (
	maxTTL         = 24 * time.Hour
	maxNegativeTTL = time.Hour        // RFC 2308 section 5 allows three
	failureTTL     = 5 * time.Second  // a failure is remembered too (RFC 9520 section 3.2)
	maxStale       = 24 * time.Hour   // how long after its end an answer may stand in for silent upstreams (RFC 8767)
	staleTTL       = 30               // seconds, of such an answer (RFC 8767 section 4)
	prefetchFrom   = 10 * time.Second // answers that live shorter are not fetched again before they end
	entryOverhead  = 320              // octets that an entry costs besides its message
	bytesPerEntry  = 1024             // the cache's memory: so much for each entry that it may have
)

// cacheKey is what makes two questions the same one.
type cacheKey struct {
	scope string // of the forwarder; "" for the upstreams
	name  name
	typ   uint16
	do    bool
	cd    bool
}

// entry is one answer, ready for the wire. It is immutable but for its place in the cache.
type entry struct {
	key     cacheKey
	wire    []byte // the message without OPT; its question is key.name in lower case
	ttlAt   []int  // where in wire the TTLs are
	rcode   int
	ad      bool
	chained bool // there is a CNAME in the answer
	source  string
	stored  time.Time
	why     extendedError
	ttl     time.Duration

	refreshing atomic.Bool  // somebody is fetching it again
	recheck    atomic.Int64 // until then (Unix time in nanoseconds) it stands in without anybody being asked
}

// ended reports whether the entry is only good as long as no upstream answers.
func (e *entry) ended(now time.Time) bool { return e.ttl > 0 && now.Sub(e.stored) >= e.ttl }

// freshness says what an entry may still be used for.
type freshness int

const (
	missing freshness = iota
	stale             // only when no upstream answers
	ending            // good, but it is time to ask again
	fresh
)

// cache keeps answers until they end or room is needed; the least recently used leave first.
type cache struct {
	maxEntries int
	maxBytes   int

	mu      sync.Mutex
	entries map[cacheKey]*list.Element // of *entry
	order   *list.List                 // most recently used first
	bytes   int
}

func newCache(maxEntries int) *cache {
	return &cache{maxEntries: maxEntries, maxBytes: maxEntries * bytesPerEntry, entries: map[cacheKey]*list.Element{}, order: list.New()}
}

// get returns the entry for a question asked now.
func (c *cache) get(scope string, lower []byte, typ uint16, do, cd bool, now time.Time) (*entry, freshness) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[cacheKey{scope, name(lower), typ, do, cd}]
	if el == nil {
		return nil, missing
	}
	e := el.Value.(*entry)
	age := now.Sub(e.stored)
	switch {
	case age >= e.ttl+maxStale, age >= e.ttl && e.rcode != miekg.RcodeSuccess && e.rcode != miekg.RcodeNameError:
		c.remove(el)
		return nil, missing
	case age >= e.ttl:
		return e, stale
	}
	c.order.MoveToFront(el)
	if e.ttl >= prefetchFrom && e.ttl-age < e.ttl/10 {
		return e, ending
	}
	return e, fresh
}

// put stores an entry that has a TTL. A failure does not displace an answer that may still stand in for it.
func (c *cache) put(e *entry) {
	size := e.size()
	if e.ttl <= 0 || c.maxEntries <= 0 || size > c.maxBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.entries[e.key]; el != nil {
		c.remove(el)
	}
	c.entries[e.key] = c.order.PushFront(e)
	c.bytes += size
	for len(c.entries) > c.maxEntries || c.bytes > c.maxBytes {
		c.remove(c.order.Back())
	}
}

func (c *cache) remove(el *list.Element) {
	e := c.order.Remove(el).(*entry)
	delete(c.entries, e.key)
	c.bytes -= e.size()
}

// flushWithin forgets a name and everything below it, and returns how many entries that were.
func (c *cache) flushWithin(n name) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := len(c.entries)
	for key, el := range c.entries {
		if key.name.within(n) {
			c.remove(el)
		}
	}
	return before - len(c.entries)
}

// resize changes how many entries there may be.
func (c *cache) resize(maxEntries int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.maxEntries, c.maxBytes = maxEntries, maxEntries*bytesPerEntry
	for len(c.entries) > c.maxEntries || c.bytes > c.maxBytes {
		c.remove(c.order.Back())
	}
}

func (c *cache) size() (entries, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries), c.bytes
}

func (e *entry) size() int {
	return entryOverhead + len(e.wire) + 8*len(e.ttlAt) + len(e.key.name) + len(e.key.scope)
}

// newEntry makes an entry of an upstream's reply to the question of key. Only what answers it is kept.
func newEntry(key cacheKey, reply *miekg.Msg, source string, now time.Time) (*entry, error) {
	m := &miekg.Msg{Compress: true}
	m.Question = []miekg.Question{{Name: key.name.String(), Qtype: key.typ, Qclass: miekg.ClassINET}}
	m.Rcode = reply.Rcode
	for _, rr := range slices.Concat(reply.Answer, reply.Ns) {
		// The server was asked in random letters, and may have used them in its answer.
		rr.Header().Name = strings.ToLower(rr.Header().Name)
		if c, ok := rr.(*miekg.CNAME); ok {
			c.Target = strings.ToLower(c.Target)
		}
	}
	var names map[string]bool
	m.Answer, names = relevant(reply.Answer, key.name.String())
	for _, rr := range reply.Ns {
		h := rr.Header()
		if h.Class != miekg.ClassINET || h.Rrtype == miekg.TypeNS || h.Rrtype == miekg.TypeSOA && !above(h.Name, names) {
			continue
		}
		m.Ns = append(m.Ns, rr)
	}
	wire, err := m.Pack()
	if err != nil {
		return nil, err
	}
	e := &entry{key: key, wire: wire, rcode: reply.Rcode, ad: reply.AuthenticatedData, source: source, stored: now, why: extendedOf(reply)}
	e.ttl = lifetime(m, key.typ)
	for _, rr := range m.Answer {
		e.chained = e.chained || rr.Header().Rrtype == miekg.TypeCNAME
	}
	at := headerSize + len(key.name) + 4
	for range len(m.Answer) + len(m.Ns) {
		rr, next, ok := parseRR(wire, at)
		if !ok {
			break
		}
		e.ttlAt = append(e.ttlAt, rr.ttlAt)
		at = next
	}
	return e, nil
}

// relevant returns the records of an answer section that belong to the question: those of its name and of the names that
// CNAME records lead to from there, and those names. Others would be somebody's attempt to say more than he was asked.
func relevant(answer []miekg.RR, asked string) ([]miekg.RR, map[string]bool) {
	names := map[string]bool{asked: true}
	for range maxChain { // in whatever order the chain is
		before := len(names)
		for _, rr := range answer {
			if c, ok := rr.(*miekg.CNAME); ok && names[c.Hdr.Name] {
				names[c.Target] = true
			}
		}
		if len(names) == before {
			break
		}
	}
	var kept []miekg.RR
	for _, rr := range answer {
		h := rr.Header()
		sig, _ := rr.(*miekg.RRSIG)
		renames := h.Rrtype == miekg.TypeDNAME || sig != nil && sig.TypeCovered == miekg.TypeDNAME
		if h.Class == miekg.ClassINET && (names[h.Name] || renames && above(h.Name, names)) {
			kept = append(kept, rr)
		}
	}
	return kept, names
}

// above reports whether one of the names is the zone's or below it.
func above(zone string, names map[string]bool) bool {
	for n := range names {
		if miekg.IsSubDomain(zone, n) {
			return true
		}
	}
	return false
}

// failure is the entry of a question that nobody answered, or not in a way that may be passed on.
func failure(key cacheKey, rcode int, source string, why extendedError, now time.Time) *entry {
	m := &miekg.Msg{Question: []miekg.Question{{Name: key.name.String(), Qtype: key.typ, Qclass: miekg.ClassINET}}}
	wire, err := m.Pack()
	if err != nil { // every name of a key fits a message
		wire = make([]byte, headerSize+len(key.name)+4)
	}
	return &entry{key: key, wire: wire, rcode: rcode, source: source, stored: now, ttl: failureTTL, why: why}
}

// lifetime returns for how long a reply may be kept; zero: not at all.
func lifetime(m *miekg.Msg, typ uint16) time.Duration {
	const second = time.Second
	if m.Rcode != miekg.RcodeSuccess && m.Rcode != miekg.RcodeNameError {
		return failureTTL
	}
	positive := false
	ttl := maxTTL
	for _, rr := range m.Answer {
		h := rr.Header()
		positive = positive || h.Rrtype == typ || typ == miekg.TypeANY
		ttl = min(ttl, time.Duration(h.Ttl)*second)
	}
	if positive && m.Rcode == miekg.RcodeSuccess {
		return ttl
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*miekg.SOA); ok { // RFC 2308 section 5
			return min(ttl, maxNegativeTTL, time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*second)
		}
	}
	return 0
}

// append appends the entry as the reply to q, its TTLs less by its age.
func (e *entry) append(dst []byte, q *Query, limit int, now time.Time) ([]byte, bool) {
	m := newMessage(dst, q, limit)
	body := len(m.buf)
	skip := headerSize + len(e.key.name) + 4
	m.buf = append(m.buf, e.wire[skip:]...)
	age := now.Sub(e.stored)
	lapsed := uint32(max(age, 0) / time.Second)
	q.extended = e.why
	if e.ended(now) {
		q.extended = errStale
		if e.rcode == miekg.RcodeNameError {
			q.extended = errStaleNXDOMAIN
		}
	}
	for _, at := range e.ttlAt {
		field := m.buf[body+at-skip:]
		ttl := binary.BigEndian.Uint32(field)
		switch {
		case e.ended(now):
			ttl = staleTTL
		default:
			ttl = min(ttl, uint32(maxTTL/time.Second))
			ttl -= min(ttl, lapsed)
		}
		binary.BigEndian.PutUint32(field, ttl)
	}
	m.answers = binary.BigEndian.Uint16(e.wire[6:])
	m.authorities = binary.BigEndian.Uint16(e.wire[8:])
	var flags uint16
	if e.ad && (q.AD || q.DO) { // RFC 6840 section 5.8
		flags |= flagAD
	}
	truncated := m.tooLong()
	return m.finish(e.rcode, flags), truncated
}
