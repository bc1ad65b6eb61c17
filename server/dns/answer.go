package dns

import (
	"encoding/binary"

	miekg "github.com/miekg/dns"
)

// maxChain is how many CNAME records an answer follows.
const maxChain = 12

// Outcome says what an answer is and where it comes from.
type Outcome struct {
	Rcode     int
	Source    string // "instance web-1", "zone corp.example", "gateway", "reserved name", a forwarder, "upstream"; may be empty
	Truncated bool

	// Elsewhere is set when the view does not know: the forwarder (nil: the upstreams) is to be asked, for the target if
	// there is one, else for the question's own name. The message then ends with the CNAME records that lead there.
	Elsewhere bool
	target    name
	forwarder *forwarder
}

// Answer appends to dst the answer to q, at most limit octets long, as far as the view knows it. Both come from this
// view alone. It does not allocate when dst has room, unless a CNAME leads
// elsewhere.
func (v *View) Answer(dst []byte, q *Query, limit int) ([]byte, Outcome) {
	m := newMessage(dst, q, limit)
	switch {
	case q.Class != miekg.ClassINET, q.Type == miekg.TypeAXFR, q.Type == miekg.TypeIXFR:
		q.extended = errProhibited
		return m.finish(miekg.RcodeRefused, 0), Outcome{Rcode: miekg.RcodeRefused}
	case metaType(q.Type) && q.Type != miekg.TypeANY:
		q.extended = errNotSupported
		return m.finish(miekg.RcodeNotImplemented, 0), Outcome{Rcode: miekg.RcodeNotImplemented}
	}
	var (
		out   Outcome
		cur   = q.lower[:q.length] // the name looked for, in lower case
		at    = headerSize         // where in the message it stands
		chase [maxName]byte
		owner [maxChain]int // where in the message the names of the chain stand
	)
	for hop := 0; ; hop++ {
		found := v.find(cur)
		if found.elsewhere {
			if hop == 0 {
				out.Source = found.source()
			} else {
				out.target = name(cur)
			}
			out.Elsewhere, out.forwarder = true, found.forwarder
			return m.finish(miekg.RcodeSuccess, 0), out
		}
		if hop == 0 {
			out.Source = found.source()
		}
		n := found.node
		if n == nil {
			out.Rcode = miekg.RcodeNameError
			m.soa(found.zone, at, len(cur))
			break
		}
		if q.Type == miekg.TypeANY && len(n.sets) > 0 {
			m.record(at, miekg.TypeHINFO, generatedTTL, hinfo) // RFC 8482 section 4.2
			m.answers++
			break
		}
		if set := n.set(q.Type); set != nil {
			m.set(at, set, q.Draw)
			break
		}
		set := n.set(miekg.TypeCNAME)
		if set == nil {
			m.soa(n.zone, at, len(cur))
			break
		}
		target := m.set(at, set, q.Draw)
		owner[hop] = at
		at = len(m.buf) - m.start - len(target)
		cur = lowerName(chase[:0], target)
		if m.standsAt(owner[:hop+1], cur) {
			break // a chain that comes back to itself ends there
		}
		if hop == maxChain-1 {
			out.Rcode = miekg.RcodeServerFailure
			break
		}
	}
	out.Truncated = m.tooLong()
	return m.finish(out.Rcode, flagAA), out
}

// hinfo is the RDATA of the one record that answers ANY.
var hinfo = []byte("\x07RFC8482\x00")

// match is where a name was found.
type match struct {
	node      *node // nil: the name does not exist
	zone      *zone // that says so
	elsewhere bool
	forwarder *forwarder
}

func (m match) source() string {
	switch {
	case m.elsewhere && m.forwarder != nil:
		return m.forwarder.source
	case m.elsewhere:
		return "upstream"
	case m.node != nil && len(m.node.sets) > 0:
		return m.node.sets[len(m.node.sets)-1].source
	case m.node != nil:
		return m.node.zone.source
	case m.zone != nil:
		return m.zone.source
	}
	return ""
}

// find looks a name up: the name itself, else the deepest zone or forwarder above it; wildcards by RFC 4592. lower is
// in wire form and lower case.
func (v *View) find(lower []byte) match {
	if n := v.names[name(lower)]; n != nil && (len(n.sets) > 0 || !n.zone.forward) {
		if len(v.cuts) > 0 && !n.apex {
			if f := v.forwarders[name(lower)]; f != nil && f.delegation != nil {
				return match{elsewhere: true, forwarder: f}
			}
		}
		return match{node: n}
	}
	for s := lower; ; s = s[1+s[0]:] {
		n := v.names[name(s)]
		if len(v.forwarders) > 0 && (n == nil || !n.apex) {
			if f := v.forwarders[name(s)]; f != nil {
				return v.outside(lower, f, s[0] == 0)
			}
		}
		if n != nil { // the closest encloser
			if len(s) < len(lower) {
				var star [maxName + 2]byte
				if w := v.names[name(append(append(star[:0], 1, '*'), s...))]; w != nil && (len(w.sets) > 0 || !w.zone.forward) {
					return match{node: w}
				}
			}
			if !n.zone.forward {
				return match{zone: n.zone}
			}
			for ; len(v.forwarders) > 0; s = s[1+s[0]:] {
				if f := v.forwarders[name(s)]; f != nil || s[0] == 0 {
					return match{elsewhere: true, forwarder: f}
				}
			}
			return match{elsewhere: true}
		}
		if s[0] == 0 {
			return v.outside(lower, nil, true)
		}
	}
}

// outside returns the match of a name that no zone of the view covers. Reserved names stay inside unless a forwarder
// below the root was declared for them.
func (v *View) outside(lower []byte, f *forwarder, atRoot bool) match {
	if atRoot {
		if n, z := findReserved(lower); n != nil || z != nil {
			return match{node: n, zone: z}
		}
	}
	return match{elsewhere: true, forwarder: f}
}

// message is a reply under construction: header, question, records in order of the sections.
type message struct {
	q           *Query
	buf         []byte
	start       int // where the message begins in buf
	limit       int // octets
	answers     uint16
	authorities uint16
	extra       uint16
}

func newMessage(dst []byte, q *Query, limit int) message {
	m := message{q: q, start: len(dst), limit: limit}
	m.buf = append(dst, make([]byte, headerSize)...)
	m.buf = append(m.buf, q.question...)
	return m
}

// record appends a record whose owner stands at an offset of the message, in class IN.
func (m *message) record(owner int, typ uint16, ttl uint32, data []byte) {
	m.buf = append(m.buf, 0xc0|byte(owner>>8), byte(owner), byte(typ>>8), byte(typ), 0, miekg.ClassINET,
		byte(ttl>>24), byte(ttl>>16), byte(ttl>>8), byte(ttl), byte(len(data)>>8), byte(len(data)))
	m.buf = append(m.buf, data...)
}

// set appends the records of a set to the answer section and returns the data of the last.
func (m *message) set(owner int, s *rrset, draw uint32) (last []byte) {
	chosen := s.choose(draw)
	i := 0
	for d := range s.each {
		if chosen < 0 || i == chosen {
			m.record(owner, s.typ, s.ttl, d)
			m.answers++
			last = d
		}
		i++
	}
	return last
}

// choose returns the index of the record that a weighted set answers with, and -1 for any other set.
func (s *rrset) choose(draw uint32) int {
	if len(s.weights) == 0 {
		return -1
	}
	total := uint32(0)
	for _, w := range []byte(s.weights) {
		total += uint32(w)
	}
	draw %= total
	for i, w := range []byte(s.weights) {
		if draw < uint32(w) {
			return i
		}
		draw -= uint32(w)
	}
	return -1
}

// soa appends to the authority section the SOA of the zone that a negative answer comes from (RFC 2308 section 3).
// The name that was looked for stands at an offset of the message and is length octets long; it ends in the zone's.
func (m *message) soa(z *zone, at, length int) {
	m.record(at+length-len(z.name), miekg.TypeSOA, generatedTTL, z.soa[2:])
	m.authorities++
}

func (m *message) length() int {
	n := len(m.buf) - m.start
	if m.q.EDNS {
		n += optSize
	}
	if m.q.cookie {
		n += cookieOptionSize
	}
	return n
}

func (m *message) tooLong() bool { return m.length() > m.limit }

// finish completes the message. One that is longer than the limit is cut down to the question and marked as truncated
// (RFC 2181 section 9), so that the client comes back over TCP.
func (m *message) finish(rcode int, flags uint16) []byte {
	if m.tooLong() {
		flags |= flagTC
		m.buf = m.buf[:m.start+headerSize+len(m.q.question)]
		m.answers, m.authorities, m.extra = 0, 0, 0
	}
	if m.q.EDNS {
		do := byte(0)
		if m.q.DO {
			do = flagDO >> 8
		}
		m.buf = append(m.buf, 0, 0, byte(miekg.TypeOPT), ednsSize>>8, ednsSize&0xff, byte(rcode>>4), 0, do, 0, 0, 0)
		m.extra++
		m.options()
	}
	h := m.buf[m.start:]
	flags |= flagQR | flagRA | uint16(m.q.Opcode)<<11 | uint16(rcode&15)
	if m.q.RD {
		flags |= flagRD
	}
	if m.q.CD {
		flags |= flagCD
	}
	questions := uint16(1)
	if len(m.q.question) == 0 {
		questions = 0
	}
	binary.BigEndian.PutUint16(h, m.q.ID)
	binary.BigEndian.PutUint16(h[2:], flags)
	binary.BigEndian.PutUint16(h[4:], questions)
	binary.BigEndian.PutUint16(h[6:], m.answers)
	binary.BigEndian.PutUint16(h[8:], m.authorities)
	binary.BigEndian.PutUint16(h[10:], m.extra)
	return m.buf
}

// options appends the options of the OPT record that the message ends with.
func (m *message) options() {
	at := len(m.buf)
	if m.q.cookie {
		m.buf = append(m.buf, 0, miekg.EDNS0COOKIE, 0, clientCookieSize+serverCookieSize)
		m.buf = append(m.buf, m.q.clientCookie[:]...)
		m.buf = append(m.buf, m.q.serverCookie[:]...)
	}
	m.buf = m.q.extended.appendTo(m.buf, m.limit-(len(m.buf)-m.start))
	binary.BigEndian.PutUint16(m.buf[at-2:], uint16(len(m.buf)-at))
}

// appendError appends a reply without records.
func appendError(dst []byte, q *Query, rcode int) []byte {
	m := newMessage(dst, q, q.limit(false))
	return m.finish(rcode, 0)
}

// appendReferral appends a reply that says who answers for a name that has been delegated (RFC 1034 section 4.3.1), with the
// addresses that the view knows of them as far as there is room.
func (v *View) appendReferral(dst []byte, q *Query, f *forwarder, limit int) []byte {
	m := newMessage(dst, q, limit)
	owner := headerSize + q.length - len(f.zone)
	var at []int // where the servers' names stand
	for data := range f.delegation.each {
		m.record(owner, miekg.TypeNS, f.delegation.ttl, data)
		m.authorities++
		at = append(at, len(m.buf)-m.start-len(data))
	}
	if m.tooLong() {
		return m.finish(miekg.RcodeSuccess, 0)
	}
	i := 0
	for data := range f.delegation.each {
		server := v.names[name(lowerName(nil, data))]
		for _, typ := range []uint16{miekg.TypeA, miekg.TypeAAAA} {
			if server == nil || server.set(typ) == nil {
				continue
			}
			set := server.set(typ)
			for address := range set.each {
				was := m.buf
				m.record(at[i], typ, set.ttl, address)
				if m.tooLong() {
					m.buf = was
					return m.finish(miekg.RcodeSuccess, 0)
				}
				m.extra++
			}
		}
		i++
	}
	return m.finish(miekg.RcodeSuccess, 0)
}

// appendTruncated appends a reply that says only that there is more over TCP.
func appendTruncated(dst []byte, q *Query) []byte {
	m := newMessage(dst, q, 0)
	return m.finish(miekg.RcodeSuccess, 0)
}

// appendChaos answers questions of class CH: the server's version to whoever asks for it (RFC 4892 has the others, which
// say where a server is and are refused).
func appendChaos(dst []byte, q *Query, version string) ([]byte, int) {
	const bind, server = "\x07version\x04bind\x00", "\x07version\x06server\x00"
	n := q.name()
	if version == "" || n != bind && n != server || q.Type != miekg.TypeTXT && q.Type != miekg.TypeANY {
		return appendError(dst, q, miekg.RcodeRefused), miekg.RcodeRefused
	}
	text := version[:min(len(version), 255)]
	m := newMessage(dst, q, q.limit(false))
	m.record(headerSize, miekg.TypeTXT, 0, append([]byte{byte(len(text))}, text...))
	m.buf[m.start+headerSize+len(q.question)+5] = miekg.ClassCHAOS
	m.answers++
	return m.finish(miekg.RcodeSuccess, flagAA), miekg.RcodeSuccess
}

// standsAt reports whether the name, in lower case, stands at one of the offsets of the message.
func (m *message) standsAt(offsets []int, lower []byte) bool {
	for _, at := range offsets {
		b := m.buf[m.start+at:]
		if len(b) < len(lower) {
			continue
		}
		same := true
		for i, c := range b[:len(lower)] {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			same = same && c == lower[i]
		}
		if same {
			return true
		}
	}
	return false
}
