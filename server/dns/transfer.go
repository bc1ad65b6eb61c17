package dns

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"
	"strings"

	miekg "github.com/miekg/dns"
)

// transferSize is about how many octets the messages of a transfer have.
const transferSize = 16 << 10

// current answers an IXFR with the zone's SOA alone: the client has that version already, or it has to come over TCP (RFC
// 1995 section 2).
func current(dst []byte, q *Query, zone *zone) []byte {
	m := newMessage(dst, q, q.limit(false))
	m.record(headerSize, miekg.TypeSOA, generatedTTL, zone.soa[2:])
	m.answers++
	return m.finish(miekg.RcodeSuccess, flagAA)
}

// has reports whether the client of an IXFR has the zone as it is.
func (z *zone) has(q *Query) bool {
	return q.hasSerial && q.serial == binary.BigEndian.Uint32(z.soa[len(z.soa)-soaNumbers:])
}

// transferable returns the apex of the zone that q wants as a whole, nil if the client may not have it.
func (v *View) transferable(q *Query, client netip.Addr) *node {
	apex := v.names[q.name()]
	if apex == nil || !apex.apex || q.Class != miekg.ClassINET {
		return nil
	}
	for _, z := range v.vpc.Zones {
		if n, err := parseName(z.Name); err == nil && n == q.name() && slices.Contains(z.TransferTo, client.Unmap()) {
			return apex
		}
	}
	return nil
}

// transfer yields the messages that hold a whole zone (RFC 5936 section 2.2): its SOA, everything else, and its SOA again.
// A client that asked for what has changed is given it, too: that is always allowed (RFC 1995 section 4).
func (v *View) transfer(q *Query, zone *zone) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		owners := make([]name, 0, len(v.names))
		for n, x := range v.names {
			if x.zone == zone && len(x.sets) > 0 {
				owners = append(owners, n)
			}
		}
		slices.SortFunc(owners, func(a, b name) int { return strings.Compare(canonicalKey(a), canonicalKey(b)) })

		m := newMessage(nil, q, 1<<16-1)
		add := func(owner name, typ uint16, ttl uint32, data []byte) bool {
			if len(m.buf)+len(owner)+10+len(data) > transferSize && m.answers > 0 {
				if !yield(m.finish(miekg.RcodeSuccess, flagAA)) {
					return false
				}
				m = newMessage(nil, q, 1<<16-1)
			}
			m.buf = append(m.buf, owner...)
			m.buf = binary.BigEndian.AppendUint16(m.buf, typ)
			m.buf = binary.BigEndian.AppendUint16(m.buf, miekg.ClassINET)
			m.buf = binary.BigEndian.AppendUint32(m.buf, ttl)
			m.buf = appendRdata(m.buf, data)
			m.answers++
			return true
		}
		soa := zone.soa[2:]
		if !add(zone.name, miekg.TypeSOA, generatedTTL, soa) {
			return
		}
		for _, owner := range owners {
			for _, set := range v.names[owner].sets {
				if set.typ == miekg.TypeSOA {
					continue
				}
				for data := range set.each {
					if !add(owner, set.typ, set.ttl, data) {
						return
					}
				}
			}
		}
		if add(zone.name, miekg.TypeSOA, generatedTTL, soa) {
			yield(m.finish(miekg.RcodeSuccess, flagAA))
		}
	}
}
