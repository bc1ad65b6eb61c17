package dns

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	miekg "github.com/miekg/dns"
)

// name is an absolute domain name in wire form (RFC 1035 section 3.1) with its ASCII letters in lower case, which is
// how names compare (RFC 4343). A length octet is at most 63 and therefore never looks like an upper case letter.
type name string

const root name = "\x00"

const (
	maxName  = 255 // octets of a name in wire form
	maxLabel = 63
)

// parseName reads a name in presentation form. It is taken as absolute whether or not it ends in a dot.
func parseName(s string) (name, error) {
	b, err := packName(s)
	if err != nil {
		return "", err
	}
	return name(lowerName(nil, b)), nil
}

// packName returns the wire form of an absolute name in presentation form, its letters as they are.
func packName(s string) ([]byte, error) {
	if s == "" {
		return nil, fmt.Errorf("a name is empty")
	}
	if _, ok := miekg.IsDomainName(s); !ok {
		return nil, fmt.Errorf("%q is not a domain name", s)
	}
	buf := make([]byte, maxName+1)
	n, err := miekg.PackDomainName(miekg.Fqdn(s), buf, 0, nil, false)
	if err != nil || n > maxName {
		return nil, fmt.Errorf("%q is not a domain name", s)
	}
	return buf[:n:n], nil
}

// under puts relative, a name in presentation form, below n.
func (n name) under(relative string) (name, error) {
	if strings.ContainsAny(relative, `\`) {
		return parseName(relative + "." + n.String())
	}
	b := make([]byte, 0, len(relative)+1+len(n))
	for label := range strings.SplitSeq(relative, ".") {
		if label == "" || len(label) > maxLabel {
			return "", fmt.Errorf("%q is not a domain name", relative)
		}
		b = append(append(b, byte(len(label))), label...)
	}
	if len(b)+len(n) > maxName {
		return "", fmt.Errorf("%q below %s is too long for a domain name", relative, n)
	}
	return name(append(lowerName(b[:0], b), n...)), nil
}

// String returns the presentation form with the final dot.
func (n name) String() string {
	s, _, err := miekg.UnpackDomainName([]byte(n), 0)
	if err != nil {
		return strconv.Quote(string(n))
	}
	return s
}

// parent returns the name without its first label; n must not be the root.
func (n name) parent() name { return n[1+n[0]:] }

// within reports whether n is zone or lies below it.
func (n name) within(zone name) bool {
	for len(n) > len(zone) {
		n = n.parent()
	}
	return n == zone
}

// reverseName returns the name that holds an address's PTR record (RFC 1035 section 3.5, RFC 3596 section 2.5).
func reverseName(a netip.Addr) name {
	return reversePrefix(netip.PrefixFrom(a, a.BitLen()))
}

// reversePrefix returns the reverse name of a prefix whose length is a whole number of octets (IPv4) or nibbles (IPv6).
func reversePrefix(p netip.Prefix) name {
	b := make([]byte, 0, 74)
	if a := p.Addr(); a.Is4() {
		octets := a.As4()
		for i := p.Bits()/8 - 1; i >= 0; i-- {
			at := len(b)
			b = strconv.AppendUint(append(b, 0), uint64(octets[i]), 10)
			b[at] = byte(len(b) - at - 1)
		}
		b = append(b, "\x07in-addr\x04arpa\x00"...)
	} else {
		const hex = "0123456789abcdef"
		octets := a.As16()
		for i := p.Bits()/4 - 1; i >= 0; i-- {
			nibble := octets[i/2] >> 4
			if i%2 == 1 {
				nibble = octets[i/2] & 15
			}
			b = append(b, 1, hex[nibble])
		}
		b = append(b, "\x03ip6\x04arpa\x00"...)
	}
	return name(b)
}

// reverseZones returns the reverse zones that together cover exactly the prefix: DNS can cut only at whole octets or
// nibbles, so a /20 is sixteen zones.
func reverseZones(p netip.Prefix) []name {
	step := 8
	if p.Addr().Is6() {
		step = 4
	}
	bits := (p.Bits() + step - 1) / step * step
	zones := make([]name, 0, 1<<(bits-p.Bits()))
	for i := range cap(zones) {
		b := p.Masked().Addr().AsSlice()
		if bits > 0 {
			last := (bits - 1) / 8
			b[last] |= byte(i) << (7 - (bits-1)%8)
		}
		a, _ := netip.AddrFromSlice(b)
		zones = append(zones, reversePrefix(netip.PrefixFrom(a, bits)))
	}
	return zones
}

// lowerName appends a name in wire form in lower case.
func lowerName(dst, wire []byte) []byte {
	for _, c := range wire {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}
