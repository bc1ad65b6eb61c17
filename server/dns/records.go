package dns

import (
	"fmt"
	"slices"
	"strings"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// Record is one record of a view as people see it. Names are absolute with the final dot.
type Record struct {
	VPC    string `json:"vpc"`
	Zone   string `json:"zone"`
	Name   string `json:"name"`
	Type   string `json:"type"`
	TTL    uint32 `json:"ttl"` // seconds
	Value  string `json:"value"`
	Source string `json:"source"` // "instance NAME", "zone NAME" or "gateway"
}

// Records lists everything that a view holds, in a stable order: by zone, then by name from the top of the tree (the
// canonical order of RFC 4034 section 6.1), then by type.
func Records(v *View) []Record {
	type entry struct {
		name name
		node *node
	}
	entries := make([]entry, 0, len(v.names))
	for n, x := range v.names {
		if len(x.sets) > 0 {
			entries = append(entries, entry{n, x})
		}
	}
	keys := make(map[name]string, len(entries))
	key := func(n name) string {
		k, ok := keys[n]
		if !ok {
			k = canonicalKey(n)
			keys[n] = k
		}
		return k
	}
	slices.SortFunc(entries, func(a, b entry) int {
		if c := strings.Compare(key(a.node.zone.name), key(b.node.zone.name)); c != 0 {
			return c
		}
		return strings.Compare(key(a.name), key(b.name))
	})
	var out []Record
	for _, e := range entries {
		sets := slices.Clone(e.node.sets)
		slices.SortFunc(sets, func(a, b rrset) int { return int(a.typ) - int(b.typ) })
		owner, apex := e.name.String(), e.node.zone.name.String()
		for _, s := range sets {
			for d := range s.each {
				out = append(out, Record{
					VPC: v.vpc.Name, Zone: apex, Name: owner, Type: miekg.TypeToString[s.typ],
					TTL: s.ttl, Value: presentation(s.typ, d), Source: s.source,
				})
			}
		}
	}
	return out
}

// canonicalKey returns a string that sorts names by their labels from the last to the first.
func canonicalKey(n name) string {
	var labels []string
	for ; n != root; n = n.parent() {
		labels = append(labels, string(n[1:1+n[0]]))
	}
	slices.Reverse(labels)
	return strings.Join(labels, "\x00")
}

// presentation returns RDATA as a zone file writes it.
func presentation(typ uint16, data []byte) string {
	h := miekg.RR_Header{Name: ".", Rrtype: typ, Class: miekg.ClassINET, Rdlength: uint16(len(data))}
	rr, _, err := miekg.UnpackRRWithHeader(h, data, 0)
	if err != nil {
		return fmt.Sprintf(`\# %d %x`, len(data), data) // RFC 3597 section 5
	}
	return presentationOf(rr)
}

// presentationOf returns a record's data as a zone file writes it.
func presentationOf(rr miekg.RR) string { return strings.TrimPrefix(rr.String(), rr.Header().String()) }

// record is one declared record, parsed.
type record struct {
	owner name
	typ   uint16
	ttl   uint32
	data  []byte // RDATA, uncompressed
}

// parseRecord reads a record of the zone origin. Names in its value that do not end in a dot are relative to the zone;
// a TXT value that is not quoted is one text, whatever characters it has.
func parseRecord(origin name, r *vpc.RecordSpec) (record, error) {
	typ, ok := miekg.StringToType[strings.ToUpper(r.Type)]
	if !ok || unstorable(typ) {
		return record{}, fmt.Errorf("%q is not a type that a zone can hold", r.Type)
	}
	var owner name
	var err error
	switch {
	case r.Name == "@" || r.Name == "":
		owner = origin
	case strings.HasSuffix(r.Name, ".") && !strings.HasSuffix(r.Name, `\.`):
		owner, err = parseName(r.Name)
	default:
		owner, err = origin.under(r.Name)
	}
	if err != nil {
		return record{}, err
	}
	if strings.ContainsAny(r.Value, "\r\n") {
		return record{}, fmt.Errorf("a value is one line")
	}
	value := r.Value
	if (typ == miekg.TypeTXT || typ == miekg.TypeSPF) && !strings.HasPrefix(value, `"`) {
		value = quoteText(value)
	}
	zp := miekg.NewZoneParser(strings.NewReader(fmt.Sprintf(". %d IN %s %s\n", max(r.TTL, 0), miekg.TypeToString[typ], value)), origin.String(), "")
	rr, ok := zp.Next()
	if err := zp.Err(); err != nil {
		return record{}, fmt.Errorf("%q is not the value of such a record", r.Value)
	}
	if _, more := zp.Next(); !ok || rr == nil || more || rr.Header().Rrtype != typ {
		return record{}, fmt.Errorf("%q is not the value of such a record", r.Value)
	}
	buf := make([]byte, miekg.Len(rr)+maxName)
	end, err := miekg.PackRR(rr, buf, 0, nil, false)
	if err != nil {
		return record{}, fmt.Errorf("%q is not the value of such a record: %w", r.Value, err)
	}
	const header = 1 + 10 // the root as owner, type, class, TTL, length
	return record{owner: owner, typ: typ, ttl: rr.Header().Ttl, data: buf[header:end:end]}, nil
}

// unstorable reports whether records of the type cannot be declared: those that only live in messages, and those that
// belong to the server or to a signer.
func unstorable(typ uint16) bool {
	switch typ {
	case miekg.TypeNone, miekg.TypeSOA, miekg.TypeRRSIG, miekg.TypeNSEC, miekg.TypeNSEC3, miekg.TypeNSEC3PARAM,
		miekg.TypeDNSKEY, miekg.TypeSIG, miekg.TypeKEY, miekg.TypeNXT, miekg.TypeDNAME, miekg.TypeNULL:
		return true
	}
	return metaType(typ)
}

// quoteText writes a text as the character strings of a TXT record, at most 255 octets each.
func quoteText(s string) string {
	var b strings.Builder
	for first := true; first || s != ""; first = false {
		n := min(len(s), 255)
		if !first {
			b.WriteByte(' ')
		}
		b.WriteByte('"')
		for _, c := range []byte(s[:n]) {
			if c == '"' || c == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		}
		b.WriteByte('"')
		s = s[n:]
	}
	return b.String()
}
