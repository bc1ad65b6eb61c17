package vpc

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Family is an IP version. Everything that exists for one family exists for the other.
type Family uint8

// The two families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families lists both, in the order in which they are shown.
func Families() []Family { return []Family{IPv4, IPv6} }

// FamilyOf returns the family of an address; an IPv4-mapped IPv6 address counts as IPv4.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

func (f Family) String() string { return "ipv" + strconv.Itoa(int(f)) }

// MAC is an Ethernet hardware address. The zero MAC means "none".
type MAC [6]byte

// ParseMAC reads six hexadecimal octets separated by colons or hyphens, in either case.
// Multicast and all-zero addresses are refused: no interface may own them.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	parts := strings.FieldsFunc(s, func(r rune) bool { return r == ':' || r == '-' })
	if len(parts) != len(m) || len(s) < 11 {
		return MAC{}, fmt.Errorf("%q is not a MAC address (six octets, as in 00:16:3e:00:00:01)", s)
	}
	for i, p := range parts {
		b, err := strconv.ParseUint(p, 16, 8)
		if err != nil || len(p) > 2 {
			return MAC{}, fmt.Errorf("%q is not a MAC address (six octets, as in 00:16:3e:00:00:01)", s)
		}
		m[i] = byte(b)
	}
	if m[0]&1 != 0 {
		return MAC{}, fmt.Errorf("%s is a multicast address: no interface can own it", m)
	}
	if m == (MAC{}) {
		return MAC{}, fmt.Errorf("%s is the all-zero address: no interface can own it", m)
	}
	return m, nil
}

func (m MAC) String() string {
	const digits = "0123456789abcdef"
	var b [17]byte
	for i, octet := range m {
		if i > 0 {
			b[3*i-1] = ':'
		}
		b[3*i], b[3*i+1] = digits[octet>>4], digits[octet&15]
	}
	return string(b[:])
}

// IsZero reports whether m is "none".
func (m MAC) IsZero() bool { return m == MAC{} }

// MarshalText and UnmarshalText give a MAC its manifest form.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (m *MAC) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMAC(string(b))
	return err
}

// Protocol is an IP protocol number; ProtocolAll (zero) stands for every protocol.
type Protocol uint8

// Protocols that have names in a manifest.
const (
	ProtocolAll    Protocol = 0
	ProtocolICMP   Protocol = 1
	ProtocolTCP    Protocol = 6
	ProtocolUDP    Protocol = 17
	ProtocolGRE    Protocol = 47
	ProtocolICMPv6 Protocol = 58
)

// ParseProtocol reads tcp, udp, icmp, icmpv6, gre, all (in any case) or a number from 1 to 255.
// Zero is refused: to iptables it means "every protocol", to an IPv6 packet "hop-by-hop options".
func ParseProtocol(s string) (Protocol, error) {
	switch strings.ToLower(s) {
	case "all":
		return ProtocolAll, nil
	case "tcp":
		return ProtocolTCP, nil
	case "udp":
		return ProtocolUDP, nil
	case "icmp":
		return ProtocolICMP, nil
	case "icmpv6":
		return ProtocolICMPv6, nil
	case "gre":
		return ProtocolGRE, nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a protocol (tcp, udp, icmp, icmpv6, gre, all, or a number from 1 to 255)", s)
	}
	return Protocol(n), nil
}

func (p Protocol) String() string {
	switch p {
	case ProtocolAll:
		return "all"
	case ProtocolTCP:
		return "tcp"
	case ProtocolUDP:
		return "udp"
	case ProtocolICMP:
		return "icmp"
	case ProtocolICMPv6:
		return "icmpv6"
	case ProtocolGRE:
		return "gre"
	}
	return strconv.Itoa(int(p))
}

// HasPorts reports whether packets of the protocol carry ports that a rule may name.
func (p Protocol) HasPorts() bool { return p == ProtocolTCP || p == ProtocolUDP }

// MarshalText gives a Protocol its manifest form.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (p *Protocol) UnmarshalText(b []byte) (err error) {
	*p, err = ParseProtocol(string(b))
	return err
}

// PortRange is a range of TCP or UDP ports, both ends included.
type PortRange struct{ From, To uint16 }

// ParsePortRange reads "443" or "22-23".
func ParsePortRange(s string) (PortRange, error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	a, errA := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
	b, errB := strconv.ParseUint(strings.TrimSpace(to), 10, 16)
	if errA != nil || errB != nil {
		return PortRange{}, fmt.Errorf("%q is not a port or a range of ports (443, or 22-23)", s)
	}
	if a > b {
		return PortRange{}, fmt.Errorf("%q runs backwards: the lower port comes first", s)
	}
	return PortRange{uint16(a), uint16(b)}, nil
}

func (r PortRange) String() string {
	if r.From == r.To {
		return strconv.Itoa(int(r.From))
	}
	return strconv.Itoa(int(r.From)) + "-" + strconv.Itoa(int(r.To))
}

// Contains reports whether p lies in the range.
func (r PortRange) Contains(p uint16) bool { return r.From <= p && p <= r.To }

// MarshalText gives a PortRange its manifest form.
func (r PortRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (r *PortRange) UnmarshalText(b []byte) (err error) {
	*r, err = ParsePortRange(string(b))
	return err
}

// Ports is a list of port ranges; nil means every port, and also packets without ports.
type Ports []PortRange

// ParsePorts reads a comma-separated list of ports and ranges: "443", "22-23", "80,443,8000-8100".
func ParsePorts(s string) (Ports, error) {
	var ps Ports
	for _, f := range strings.Split(s, ",") {
		r, err := ParsePortRange(strings.TrimSpace(f))
		if err != nil {
			return nil, err
		}
		ps = append(ps, r)
	}
	return ps, nil
}

func (ps Ports) String() string {
	if ps == nil {
		return "all"
	}
	s := make([]string, len(ps))
	for i, r := range ps {
		s[i] = r.String()
	}
	return strings.Join(s, ",")
}

// Contains reports whether port p is in the list; nil contains every port.
func (ps Ports) Contains(p uint16) bool {
	if ps == nil {
		return true
	}
	for _, r := range ps {
		if r.Contains(p) {
			return true
		}
	}
	return false
}

// MarshalText gives Ports their manifest form.
func (ps Ports) MarshalText() ([]byte, error) { return []byte(ps.String()), nil }

// UnmarshalText reads what ParsePorts reads.
func (ps *Ports) UnmarshalText(b []byte) (err error) {
	if string(b) == "all" {
		*ps = nil
		return nil
	}
	*ps, err = ParsePorts(string(b))
	return err
}

// PeerKind says what a Peer names.
type PeerKind uint8

// What a rule may name as its peer.
const (
	PeerNone   PeerKind = iota // not written
	PeerPrefix                 // a CIDR or a single address
	PeerGroup                  // sg:NAME
	PeerList                   // pl:NAME
)

// Peer is one address side of a rule: a prefix, a security group or a prefix list.
type Peer struct {
	Kind   PeerKind
	Prefix netip.Prefix // PeerPrefix; masked
	Name   string       // PeerGroup, PeerList: a name within the VPC
}

// ParsePeer reads a CIDR, an address, sg:NAME or pl:NAME. A CIDR with host bits set is refused: it hides a typing error.
func ParsePeer(s string) (Peer, error) {
	if name, ok := strings.CutPrefix(s, "sg:"); ok && name != "" {
		return Peer{Kind: PeerGroup, Name: name}, nil
	}
	if name, ok := strings.CutPrefix(s, "pl:"); ok && name != "" {
		return Peer{Kind: PeerList, Name: name}, nil
	}
	p, err := ParsePrefix(s)
	if err != nil {
		if a, aerr := netip.ParseAddr(s); aerr == nil && a.Zone() == "" && !a.Is4In6() {
			return Peer{Kind: PeerPrefix, Prefix: netip.PrefixFrom(a, a.BitLen())}, nil
		}
		if strings.Contains(s, "/") {
			return Peer{}, err
		}
		return Peer{}, fmt.Errorf("%q is not a CIDR, an address, sg:NAME or pl:NAME", s)
	}
	return Peer{Kind: PeerPrefix, Prefix: p}, nil
}

func (p Peer) String() string {
	switch p.Kind {
	case PeerPrefix:
		return p.Prefix.String()
	case PeerGroup:
		return "sg:" + p.Name
	case PeerList:
		return "pl:" + p.Name
	}
	return ""
}

// IsZero reports whether the peer was not written.
func (p Peer) IsZero() bool { return p.Kind == PeerNone }

// MarshalText gives a Peer its manifest form.
func (p Peer) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is the inverse of MarshalText; the empty text is "not written".
func (p *Peer) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*p = Peer{}
		return nil
	}
	*p, err = ParsePeer(string(b))
	return err
}

// ParsePrefix reads a CIDR and refuses one with host bits set, naming the one that was probably meant.
func ParsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR (as in 10.20.0.0/16 or fd00:20::/56)", s)
	}
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("%s has host bits set: write %s", s, p.Masked())
	}
	return p, nil
}

// AddrRange is an inclusive range of addresses of one family; the zero value means "not written".
type AddrRange struct{ From, To netip.Addr }

// ParseAddrRange reads "10.0.1.100-10.0.1.200".
func ParseAddrRange(s string) (AddrRange, error) {
	from, to, ok := strings.Cut(s, "-")
	a, errA := netip.ParseAddr(strings.TrimSpace(from))
	b, errB := netip.ParseAddr(strings.TrimSpace(to))
	if !ok || errA != nil || errB != nil || a.BitLen() != b.BitLen() {
		return AddrRange{}, fmt.Errorf("%q is not a range of addresses (as in 10.20.1.100-10.20.1.200)", s)
	}
	if b.Less(a) {
		return AddrRange{}, fmt.Errorf("%q runs backwards: the lower address comes first", s)
	}
	return AddrRange{a, b}, nil
}

func (r AddrRange) String() string {
	if r.IsZero() {
		return ""
	}
	return r.From.String() + "-" + r.To.String()
}

// IsZero reports whether the range was not written.
func (r AddrRange) IsZero() bool { return !r.From.IsValid() }

// Contains reports whether a lies in the range.
func (r AddrRange) Contains(a netip.Addr) bool {
	return r.From.IsValid() && r.From.BitLen() == a.BitLen() && !a.Less(r.From) && !r.To.Less(a)
}

// MarshalText gives an AddrRange its manifest form.
func (r AddrRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is the inverse of MarshalText; the empty text is "not written".
func (r *AddrRange) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*r = AddrRange{}
		return nil
	}
	*r, err = ParseAddrRange(string(b))
	return err
}

// Duration is a time span written as "90s", "24h" or "7300d".
type Duration time.Duration

// ParseDuration reads what time.ParseDuration reads, and whole days with the suffix d.
func ParseDuration(s string) (Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err == nil {
			return Duration(time.Duration(n) * 24 * time.Hour), nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration (as in 90s, 24h or 30d)", s)
	}
	return Duration(d), nil
}

func (d Duration) String() string {
	t := time.Duration(d)
	if t >= 48*time.Hour && t%(24*time.Hour) == 0 {
		return strconv.Itoa(int(t/(24*time.Hour))) + "d"
	}
	s := t.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText gives a Duration its manifest form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (d *Duration) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDuration(string(b))
	return err
}
