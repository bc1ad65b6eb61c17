package dns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// Updater changes the desired state for clients that send dynamic updates.
type Updater interface {
	// UpdateZone replaces the records of a private zone that the VPC sees by what change makes of the present ones, with
	// nobody else's change in between, and returns when the result is in force. change must not alter the records it
	// is given; when it returns the same slice or an error nothing changes, and the error is returned as it is.
	UpdateZone(ctx context.Context, vpcID, zone, who string, change func([]*vpc.RecordSpec) ([]*vpc.RecordSpec, error)) error
}

// rcodeError is an error that has a response code.
type rcodeError int

func (e rcodeError) Error() string { return miekg.RcodeToString[int(e)] }

// update carries out a dynamic update (RFC 2136) and returns the reply.
func (s *Server) update(ctx context.Context, v *View, wire []byte, client netip.Addr) ([]byte, Outcome) {
	var m miekg.Msg
	if err := m.Unpack(wire); err != nil {
		return appendUpdateError(wire, miekg.RcodeFormatError)
	}
	reply := new(miekg.Msg).SetReply(&m)
	reply.Opcode = m.Opcode
	var before *replay // this message
	var (
		out    Outcome
		tsig   = m.IsTsig()
		secret string
	)
	zone, key, err := s.mayUpdate(v, &m)
	switch {
	case err == nil:
		secret = key.Secret
		now := s.now()
		if err = verify(wire, tsig, key, now); err == nil {
			var known bool
			if before, known = s.replays.begin(tsig, now); known {
				if packed, out, ok := before.wait(ctx); ok {
					return packed, out
				}
				return appendUpdateError(wire, miekg.RcodeServerFailure)
			}
			if before == nil {
				err = miekg.ErrTime
			}
		}
		if err != nil {
			secret = s.refuseTSIG(reply, tsig, key, err)
			break
		}
		out.Source = "zone " + zone.Name
		who := fmt.Sprintf("key %s at %s", key.Name, client)
		err = s.config.Updater.UpdateZone(ctx, v.vpc.ID, zone.Name, who, func(records []*vpc.RecordSpec) ([]*vpc.RecordSpec, error) {
			return applyUpdate(zone.Name, records, &m)
		})
		var code rcodeError
		switch {
		case errors.As(err, &code):
			reply.Rcode = int(code)
		case err != nil:
			reply.Rcode = miekg.RcodeServerFailure
			s.log.Warn("DNS update refused", "vpc", v.vpc.Name, "zone", zone.Name, "by", who, "error", err)
		default:
			s.log.Info("DNS update", "vpc", v.vpc.Name, "zone", zone.Name, "by", who)
		}
		s.addTSIG(reply, tsig, miekg.RcodeSuccess)
	case errors.Is(err, rcodeError(miekg.RcodeBadKey)):
		s.refuseTSIG(reply, tsig, TSIGKey{}, err)
	default:
		var code rcodeError
		errors.As(err, &code)
		reply.Rcode = int(code)
	}
	out.Rcode = reply.Rcode
	var packed []byte
	if secret != "" {
		packed, _, err = miekg.TsigGenerate(reply, secret, tsig.MAC, false)
	} else {
		packed, err = reply.Pack()
	}
	if err != nil {
		s.log.Warn("DNS update: no reply", "error", err)
		packed, out = appendUpdateError(wire, miekg.RcodeServerFailure)
	}
	if before != nil {
		before.end(packed, out)
	}
	return packed, out
}

// appendUpdateError returns the reply to a message that could not be read or carried out.
func appendUpdateError(wire []byte, rcode int) ([]byte, Outcome) {
	q := new(Query)
	q.parse(wire)
	return appendError(nil, q, rcode), Outcome{Rcode: rcode}
}

// mayUpdate finds the zone of an update and the key that it says it is signed with. The error is an rcodeError.
func (s *Server) mayUpdate(v *View, m *miekg.Msg) (*vpc.PrivateZoneSpec, TSIGKey, error) {
	if len(m.Question) != 1 || m.Question[0].Qtype != miekg.TypeSOA {
		return nil, TSIGKey{}, rcodeError(miekg.RcodeFormatError)
	}
	at := slices.IndexFunc(v.vpc.Zones, func(z *vpc.PrivateZoneSpec) bool {
		return miekg.CanonicalName(z.Name) == miekg.CanonicalName(m.Question[0].Name)
	})
	if at < 0 || m.Question[0].Qclass != miekg.ClassINET {
		return nil, TSIGKey{}, rcodeError(miekg.RcodeNotAuth)
	}
	zone, tsig := v.vpc.Zones[at], m.IsTsig()
	if tsig == nil {
		return nil, TSIGKey{}, rcodeError(miekg.RcodeRefused)
	}
	key, ok := s.keyOf(tsig)
	if !ok || !slices.ContainsFunc(zone.UpdateKeys, func(k string) bool { return miekg.CanonicalName(k) == miekg.CanonicalName(key.Name) }) {
		return nil, TSIGKey{}, rcodeError(miekg.RcodeBadKey)
	}
	return zone, key, nil
}

// applyUpdate returns what an update makes of a zone's records. The error is an rcodeError.
func applyUpdate(zone string, specs []*vpc.RecordSpec, m *miekg.Msg) ([]*vpc.RecordSpec, error) {
	origin, err := parseName(zone)
	if err != nil {
		return nil, rcodeError(miekg.RcodeServerFailure)
	}
	u := &zoneUpdate{origin: origin}
	for _, spec := range specs {
		r, err := parseRecord(origin, spec)
		if err != nil {
			return nil, rcodeError(miekg.RcodeServerFailure) // a stored record is good: it was validated
		}
		u.records = append(u.records, declared{r, spec})
	}
	if err := u.require(m.Answer); err != nil {
		return nil, err
	}
	changes, err := u.scan(m.Ns)
	if err != nil {
		return nil, err
	}
	for _, c := range changes {
		u.apply(c)
	}
	if !u.changed {
		return specs, nil
	}
	out := make([]*vpc.RecordSpec, len(u.records))
	for i, d := range u.records {
		out[i] = d.spec
	}
	return out, nil
}

// zoneUpdate is a zone while it is changed.
type zoneUpdate struct {
	origin  name
	records []declared
	changed bool
}

// declared is a record of the zone in both its forms.
type declared struct {
	record
	spec *vpc.RecordSpec
}

// wanted is one record of an update: what it says is to be done depends on its class.
type wanted struct {
	record
	class uint16
	empty bool // it has no data
	spec  *vpc.RecordSpec
}

// read reads a record of the prerequisite or update section.
func (u *zoneUpdate) read(rr miekg.RR) (wanted, error) {
	h := rr.Header()
	owner, err := parseName(h.Name)
	if err != nil {
		return wanted{}, rcodeError(miekg.RcodeFormatError)
	}
	if !owner.within(u.origin) {
		return wanted{}, rcodeError(miekg.RcodeNotZone)
	}
	w := wanted{record: record{owner: owner, typ: h.Rrtype, ttl: h.Ttl}, class: h.Class, empty: h.Rdlength == 0}
	if w.empty {
		return w, nil
	}
	plain := miekg.Copy(rr)
	plain.Header().Class = miekg.ClassINET
	w.spec = &vpc.RecordSpec{
		Name: owner.relativeTo(u.origin), Type: miekg.Type(h.Rrtype).String(), TTL: int(h.Ttl),
		Value: presentationOf(plain),
	}
	r, err := parseRecord(u.origin, w.spec)
	if err != nil && h.Rrtype != miekg.TypeSOA {
		return wanted{}, rcodeError(miekg.RcodeRefused) // a type that a zone of ours cannot hold
	}
	w.data = r.data
	return w, nil
}

// has reports whether the zone has a record with the name and, unless it is ANY, the type.
func (u *zoneUpdate) has(owner name, typ uint16) bool {
	return slices.ContainsFunc(u.records, func(d declared) bool { return d.owner == owner && (typ == miekg.TypeANY || d.typ == typ) })
}

// require checks the prerequisites (RFC 2136 section 3.2).
func (u *zoneUpdate) require(section []miekg.RR) error {
	type key struct {
		owner name
		typ   uint16
	}
	exact := map[key][][]byte{}
	for _, rr := range section {
		w, err := u.read(rr)
		switch {
		case err != nil:
			return err
		case w.ttl != 0, w.class != miekg.ClassINET && !w.empty:
			return rcodeError(miekg.RcodeFormatError)
		}
		there := u.has(w.owner, w.typ)
		switch {
		case w.class == miekg.ClassANY && !there && w.typ == miekg.TypeANY:
			return rcodeError(miekg.RcodeNameError)
		case w.class == miekg.ClassANY && !there:
			return rcodeError(miekg.RcodeNXRrset)
		case w.class == miekg.ClassNONE && there && w.typ == miekg.TypeANY:
			return rcodeError(miekg.RcodeYXDomain)
		case w.class == miekg.ClassNONE && there:
			return rcodeError(miekg.RcodeYXRrset)
		case w.class == miekg.ClassINET:
			k := key{w.owner, w.typ}
			exact[k] = append(exact[k], w.data)
		case w.class != miekg.ClassANY && w.class != miekg.ClassNONE:
			return rcodeError(miekg.RcodeFormatError)
		}
	}
	for k, want := range exact {
		var have [][]byte
		for _, d := range u.records {
			if d.owner == k.owner && d.typ == k.typ {
				have = append(have, d.data)
			}
		}
		slices.SortFunc(want, bytes.Compare)
		slices.SortFunc(have, bytes.Compare)
		if !slices.EqualFunc(slices.CompactFunc(want, bytes.Equal), slices.CompactFunc(have, bytes.Equal), bytes.Equal) {
			return rcodeError(miekg.RcodeNXRrset)
		}
	}
	return nil
}

// scan reads the changes, all of which must be well formed before the first is made (RFC 2136 section 3.4.1).
func (u *zoneUpdate) scan(section []miekg.RR) ([]wanted, error) {
	changes := make([]wanted, 0, len(section))
	for _, rr := range section {
		w, err := u.read(rr)
		if err != nil {
			return nil, err
		}
		ok := false
		switch w.class {
		case miekg.ClassINET:
			ok = !w.empty && !metaType(w.typ)
		case miekg.ClassANY:
			ok = w.empty && w.ttl == 0 && (w.typ == miekg.TypeANY || !metaType(w.typ))
		case miekg.ClassNONE:
			ok = !w.empty && w.ttl == 0 && !metaType(w.typ)
		}
		if !ok {
			return nil, rcodeError(miekg.RcodeFormatError)
		}
		changes = append(changes, w)
	}
	return changes, nil
}

// apply makes one change (RFC 2136 section 3.4.2). The zone's SOA and its own NS records are the gateway's.
func (u *zoneUpdate) apply(w wanted) {
	if w.typ == miekg.TypeSOA || w.owner == u.origin && w.typ == miekg.TypeNS {
		return
	}
	same := func(d declared) bool { return d.owner == w.owner && d.typ == w.typ }
	switch w.class {
	case miekg.ClassANY:
		u.remove(func(d declared) bool { return d.owner == w.owner && (w.typ == miekg.TypeANY || d.typ == w.typ) })
	case miekg.ClassNONE:
		u.remove(func(d declared) bool { return same(d) && bytes.Equal(d.data, w.data) })
	case miekg.ClassINET:
		alias := w.typ == miekg.TypeCNAME
		if slices.ContainsFunc(u.records, func(d declared) bool { return d.owner == w.owner && (d.typ == miekg.TypeCNAME) != alias }) {
			return // a CNAME allows nothing beside it, and does not displace what is there
		}
		if alias {
			u.remove(func(d declared) bool { return same(d) && !bytes.Equal(d.data, w.data) })
		}
		there := false
		for i, d := range u.records {
			if !same(d) {
				continue
			}
			there = there || bytes.Equal(d.data, w.data)
			if d.ttl != w.ttl { // a set has one TTL (RFC 2181 section 5.2)
				changed := *d.spec
				changed.TTL = int(w.ttl)
				d.ttl, d.spec = w.ttl, &changed
				u.records[i], u.changed = d, true
			}
		}
		if !there {
			u.records = append(u.records, declared{w.record, w.spec})
			u.changed = true
		}
	}
}

func (u *zoneUpdate) remove(which func(declared) bool) {
	n := len(u.records)
	u.records = slices.DeleteFunc(u.records, which)
	u.changed = u.changed || len(u.records) < n
}
