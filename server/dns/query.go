package dns

import (
	"bytes"
	"encoding/binary"

	miekg "github.com/miekg/dns"
)

const (
	headerSize = 12
	ednsSize   = 1232 // octets of a UDP answer that no path breaks in pieces (dnsflagday.net 2020); ours and upstreams'
	plainSize  = 512  // octets of a UDP answer to a client without EDNS (RFC 1035 section 4.2.1)
	optSize    = 11   // octets of an OPT record without options

	soaNumbers = 5 * 4 // octets of the numbers that a SOA record ends with; the serial is the first

	cookieOptionSize = 4 + clientCookieSize + serverCookieSize
)

// Bits of the second word of a header.
const (
	flagQR = 1 << 15
	flagAA = 1 << 10
	flagTC = 1 << 9
	flagRD = 1 << 8
	flagRA = 1 << 7
	flagAD = 1 << 5
	flagCD = 1 << 4
	flagDO = 1 << 15 // of an OPT record's TTL
)

// Query is one question as it was read from the wire. Its zero value is ready for parse, and it may be used again.
type Query struct {
	ID         uint16
	Opcode     uint8
	RD, AD, CD bool
	Type       uint16
	Class      uint16
	EDNS       bool
	Version    uint8  // of EDNS
	DO         bool   // DNSSEC records wanted
	UDPSize    uint16 // what the client can receive; 0 without EDNS
	Draw       uint32 // decides among weighted records: any number

	serial       uint32 // that an IXFR says it has
	hasSerial    bool
	cookie       bool // there is a COOKIE option; the reply has one too
	clientCookie [clientCookieSize]byte
	givenCookie  [maxServerCookie]byte // the server cookie that the client shows
	givenLength  int
	serverCookie [serverCookieSize]byte // the one for the reply
	proven       bool                   // the client has shown that its address is its own
	signed       bool                   // the last record is a TSIG

	extended extendedError // what the reply says beyond its response code

	question []byte // the question section as received, so that the reply repeats the name's case; nil: could not be read
	lower    [maxName]byte
	length   int // of the name in lower
}

// NewQuery returns the question that a stub resolver would ask for a name in presentation form, with EDNS.
func NewQuery(s string, typ uint16) (*Query, error) {
	wire, err := packName(s)
	if err != nil {
		return nil, err
	}
	q := &Query{RD: true, Type: typ, Class: miekg.ClassINET, EDNS: true, UDPSize: ednsSize}
	q.question = appendQuestion(wire, typ)
	q.length = len(lowerName(q.lower[:0], wire))
	return q, nil
}

// appendQuestion makes a question section of a name in wire form.
func appendQuestion(wire []byte, typ uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(wire, typ), miekg.ClassINET)
}

// Name returns the question's name in lower case.
func (q *Query) Name() string { return q.name().String() }

func (q *Query) name() name { return name(q.lower[:q.length]) }

// about returns the same question about another name.
func (q *Query) about(n name) *Query {
	c := *q
	c.question = appendQuestion([]byte(n), q.Type)
	c.length = copy(c.lower[:], n)
	return &c
}

// clone returns a copy that outlives the packet that q was read from.
func (q *Query) clone() *Query {
	c := *q
	c.question = bytes.Clone(q.question)
	return &c
}

// parse reads a message. It returns false when there must be no reply at all (too short, or itself a reply), else the
// response code that the message deserves as a message: success, FORMERR, NOTIMP or BADVERS.
func (q *Query) parse(msg []byte) (rcode int, ok bool) {
	q.question, q.length, q.EDNS, q.DO, q.UDPSize, q.Version = nil, 0, false, false, 0, 0
	q.cookie, q.proven, q.signed, q.extended = false, false, false, extendedError{}
	q.serial, q.hasSerial = 0, false
	if len(msg) < headerSize {
		return 0, false
	}
	flags := binary.BigEndian.Uint16(msg[2:])
	if flags&flagQR != 0 {
		return 0, false
	}
	q.ID = binary.BigEndian.Uint16(msg)
	q.Opcode = uint8(flags>>11) & 15
	q.RD, q.AD, q.CD = flags&flagRD != 0, flags&flagAD != 0, flags&flagCD != 0
	if q.Opcode != miekg.OpcodeQuery {
		return miekg.RcodeNotImplemented, true
	}
	if binary.BigEndian.Uint16(msg[4:]) != 1 {
		return miekg.RcodeFormatError, true
	}
	at := headerSize
	for {
		if at >= len(msg) {
			return miekg.RcodeFormatError, true
		}
		n := int(msg[at])
		if n > maxLabel || at+1+n > len(msg) || at+1+n-headerSize > maxName {
			return miekg.RcodeFormatError, true
		}
		at += 1 + n
		if n == 0 {
			break
		}
	}
	if at+4 > len(msg) {
		return miekg.RcodeFormatError, true
	}
	q.length = at - headerSize
	for i, c := range msg[headerSize:at] {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		q.lower[i] = c
	}
	q.Type = binary.BigEndian.Uint16(msg[at:])
	q.Class = binary.BigEndian.Uint16(msg[at+2:])
	at += 4
	q.question = msg[headerSize:at]

	// What follows matters only for the OPT and TSIG records; everything must still be whole.
	others := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:]))
	records := others + int(binary.BigEndian.Uint16(msg[10:]))
	for i := range records {
		rr, next, ok := parseRR(msg, at)
		if !ok {
			return miekg.RcodeFormatError, true
		}
		if rr.typ == miekg.TypeOPT && i >= others {
			if q.EDNS || msg[at] != 0 || !q.readOptions(rr.data) {
				return miekg.RcodeFormatError, true // RFC 6891 section 6.1.1: one, owned by the root
			}
			q.EDNS = true
			q.UDPSize = rr.class
			q.Version = uint8(rr.ttl >> 16)
			q.DO = rr.ttl&flagDO != 0
		}
		if rr.typ == miekg.TypeTSIG {
			if i != records-1 || i < others {
				return miekg.RcodeFormatError, true // RFC 8945 section 5.1: one, the last
			}
			q.signed = true
		}
		if n := len(rr.data) - soaNumbers; q.Type == miekg.TypeIXFR && rr.typ == miekg.TypeSOA && n > 0 {
			q.serial, q.hasSerial = binary.BigEndian.Uint32(rr.data[n:]), true
		}
		at = next
	}
	if at != len(msg) || q.Type == miekg.TypeOPT {
		return miekg.RcodeFormatError, true
	}
	if q.Version != 0 {
		return miekg.RcodeBadVers, true
	}
	return miekg.RcodeSuccess, true
}

// rawRR is a record in a message, its owner left out.
type rawRR struct {
	typ, class uint16
	ttl        uint32
	ttlAt      int // where in the message the TTL is
	data       []byte
}

// parseRR reads the record at an offset and returns where the next one begins.
func parseRR(msg []byte, at int) (rr rawRR, next int, ok bool) {
	at, ok = skipName(msg, at)
	if !ok || at+10 > len(msg) {
		return rawRR{}, 0, false
	}
	next = at + 10 + int(binary.BigEndian.Uint16(msg[at+8:]))
	if next > len(msg) {
		return rawRR{}, 0, false
	}
	return rawRR{
		typ:   binary.BigEndian.Uint16(msg[at:]),
		class: binary.BigEndian.Uint16(msg[at+2:]),
		ttl:   binary.BigEndian.Uint32(msg[at+4:]),
		ttlAt: at + 4,
		data:  msg[at+10 : next],
	}, next, true
}

// skipName returns the offset behind the name at an offset; compression pointers are not followed.
func skipName(msg []byte, at int) (int, bool) {
	for at < len(msg) {
		switch n := int(msg[at]); {
		case n == 0:
			return at + 1, true
		case n >= 0xc0:
			return at + 2, at+2 <= len(msg)
		case n > maxLabel:
			return 0, false
		default:
			at += 1 + n
		}
	}
	return 0, false
}

// readOptions reads the options of an OPT record and reports whether they fill it exactly and are well formed. What we
// do not know is ignored (RFC 6891 section 6.1.2).
func (q *Query) readOptions(d []byte) bool {
	for len(d) >= 4 {
		code, n := binary.BigEndian.Uint16(d), 4+int(binary.BigEndian.Uint16(d[2:]))
		if n > len(d) {
			return false
		}
		if code == miekg.EDNS0COOKIE && !q.cookie { // the first counts (RFC 7873 section 5.2)
			given := n - 4 - clientCookieSize
			if given < 0 || given > 0 && given < 8 || given > maxServerCookie {
				return false
			}
			q.cookie = true
			copy(q.clientCookie[:], d[4:])
			q.givenLength = copy(q.givenCookie[:], d[4+clientCookieSize:n])
		}
		d = d[n:]
	}
	return len(d) == 0
}

// metaType reports whether a type exists only in questions and messages (RFC 6895 section 3.1); OPT is one too.
func metaType(typ uint16) bool { return typ == miekg.TypeOPT || 128 <= typ && typ <= 255 }

// limit returns how many octets a reply may have.
func (q *Query) limit(tcp bool) int {
	switch {
	case tcp:
		return 1<<16 - 1
	case q.EDNS:
		return min(max(int(q.UDPSize), plainSize), ednsSize)
	}
	return plainSize
}
