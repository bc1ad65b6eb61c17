package dns

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// maxZoneFile is how many records a zone file may have (as many as a zone).
const maxZoneFile = 100_000

// ReadZoneFile reads the records of a zone from a zone file (RFC 1035 section 5). The zone's SOA and its own NS records
// are left out, since they are the gateway's; names in values come out absolute. The error lists every record that a
// zone cannot hold; a file with a mistake of form is read up to it. $INCLUDE is refused.
func ReadZoneFile(r io.Reader, zone string) ([]*vpc.RecordSpec, error) {
	origin, err := parseName(zone)
	if err != nil {
		return nil, err
	}
	var records []*vpc.RecordSpec
	var errs []error
	zp := miekg.NewZoneParser(r, origin.String(), "")
	zp.SetDefaultTTL(generatedTTL)
	for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
		h := rr.Header()
		value := presentationOf(rr)
		owner, err := parseName(h.Name)
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case !owner.within(origin):
			errs = append(errs, fmt.Errorf("%s is not in the zone %s", h.Name, origin))
			continue
		case owner == origin && (h.Rrtype == miekg.TypeSOA || h.Rrtype == miekg.TypeNS):
			continue
		case len(records) == maxZoneFile:
			return nil, fmt.Errorf("more than %d records", maxZoneFile)
		}
		spec := &vpc.RecordSpec{Name: owner.relativeTo(origin), Type: miekg.Type(h.Rrtype).String(), Value: value, TTL: int(h.Ttl)}
		if _, err := parseRecord(origin, spec); err != nil || h.Class != miekg.ClassINET {
			if err == nil {
				err = errors.New("its class is not IN")
			}
			errs = append(errs, fmt.Errorf("%s %s: %w", spec.Name, spec.Type, err))
			continue
		}
		records = append(records, spec)
	}
	if err := zp.Err(); err != nil {
		errs = append(errs, err)
	}
	return records, errors.Join(errs...)
}

// WriteZoneFile writes records of one zone, as Records lists them, as a zone file that any name server reads.
func WriteZoneFile(w io.Writer, zone string, records []Record) error {
	origin, err := parseName(zone)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "$ORIGIN %s\n", origin)
	for _, first := range []bool{true, false} { // the SOA record comes first
		for _, r := range records {
			owner, err := parseName(r.Name)
			if err != nil {
				return err
			}
			if r.Zone == origin.String() && (r.Type == "SOA") == first {
				fmt.Fprintf(out, "%s\t%d\tIN\t%s\t%s\n", owner.relativeTo(origin), r.TTL, r.Type, r.Value)
			}
		}
	}
	return out.Flush()
}

// relativeTo returns the presentation form of n relative to origin, which it must be within: @ for the same name.
func (n name) relativeTo(origin name) string {
	if n == origin {
		return "@"
	}
	if origin == root {
		return strings.TrimSuffix(n.String(), ".")
	}
	return strings.TrimSuffix(strings.TrimSuffix(n.String(), origin.String()), ".")
}
