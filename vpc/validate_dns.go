package vpc

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// recordTypes are the types that a private zone may have.
var recordTypes = []string{"A", "AAAA", "CNAME", "MX", "PTR", "SRV", "TXT"}

func (v *validator) zones(c *scope) {
	seen := map[string]bool{}
	for i, z := range c.PrivateZones {
		p := at(c.path, "privateZones", z.Name, i)
		if len(z.VPCs) > 0 {
			v.add(&p, "vpcs", "a zone inside a VPC serves that VPC: move it to the top level to share it")
		}
		if key := domainKey(z.Name); seen[key] {
			v.add(&p, "name", "there is another zone %q in this VPC", z.Name)
		} else {
			seen[key] = true
		}
		v.zone(&p, z)
	}
}

// sharedZones checks the zones at the top level; a VPC has a zone once, its own or shared.
func (v *validator) sharedZones() {
	if len(v.spec.PrivateZones) == 0 {
		return
	}
	type in struct{ vpc, zone string }
	seen := map[in]string{} // the words for whose it is
	vpcs := map[string]*VPCSpec{}
	for _, x := range v.spec.VPCs {
		vpcs[x.Name] = x
		for _, z := range x.PrivateZones {
			seen[in{x.Name, domainKey(z.Name)}] = fmt.Sprintf("VPC %q has a zone of its own with that name", x.Name)
		}
	}
	for i, z := range v.spec.PrivateZones {
		p := at(nil, "privateZones", z.Name, i)
		if len(z.VPCs) == 0 {
			v.add(&p, "vpcs", "a zone at the top level names the VPCs that it serves")
		}
		for _, name := range z.VPCs {
			if vpcs[name] == nil {
				v.missingVPC(&p, name)
				continue
			}
			key := in{name, domainKey(z.Name)}
			if other, dup := seen[key]; dup {
				v.add(&p, "vpcs", "%s", other)
				continue
			}
			seen[key] = fmt.Sprintf("VPC %q is already served by another zone with that name", name)
		}
		v.zone(&p, z)
	}
}

// missingVPC reports that a shared zone names a VPC that is not there.
func (v *validator) missingVPC(p *path, name string) {
	if v.before != nil && v.had(name, KindVPC, name) {
		d := deleted{name, KindVPC, name}
		if len(v.users[d]) == 0 {
			v.gone = append(v.gone, d)
		}
		v.users[d] = append(v.users[d], p.String())
		return
	}
	v.add(p, "vpcs", "there is no VPC %q", name)
}

func (v *validator) zone(p *path, z *PrivateZoneSpec) {
	v.id(p, z.ID)
	if why := checkDomain(z.Name, true); why != "" {
		v.add(p, "name", "%q: %s", z.Name, why)
	}
	if z.Missing != MissingNXDOMAIN && z.Missing != MissingForward {
		v.add(p, "missing", "%q: write nxdomain or forward", z.Missing)
	}
	for _, a := range z.TransferTo {
		if !plain(a) {
			v.add(p, "transferTo", "%s is not a plain address", a)
		}
	}
	for _, k := range z.UpdateKeys {
		if why := checkDomain(k, true); why != "" {
			v.add(p, "updateKeys", "%q: the name of a key is a domain name: %s", k, why)
		}
	}
	v.records(p, z)
}

func (v *validator) records(parent *path, z *PrivateZoneSpec) {
	seen := make(map[RecordSpec]bool, len(z.Records))
	cname := map[string]bool{}
	others := map[string]bool{}
	apex := domainKey(z.Name)
	for i, r := range z.Records {
		p := path{parent, "records", strconv.Itoa(i)}
		v.record(&p, r, apex)
		owner := domainKey(r.Name)
		same := RecordSpec{Name: owner, Type: r.Type, Value: r.Value}
		switch {
		case seen[same]:
			v.add(&p, "", "%s %s %s is written twice", r.Name, r.Type, r.Value)
			continue
		case r.Type == "CNAME" && owner == "@":
			v.add(&p, "type", "the apex of a zone has no CNAME: it has other data (SOA and NS)")
		case r.Type == "CNAME" && cname[owner]:
			v.add(&p, "type", "%s has a CNAME already, and a name has at most one", r.Name)
		case r.Type == "CNAME" && others[owner], r.Type != "CNAME" && cname[owner]:
			v.add(&p, "type", "%s has a CNAME and other data: a CNAME stands alone", r.Name)
		}
		seen[same] = true
		if r.Type == "CNAME" {
			cname[owner] = true
		} else {
			others[owner] = true
		}
	}
}

func (v *validator) record(p *path, r *RecordSpec, apex string) {
	if why := checkRecordName(r.Name, apex); why != "" {
		v.add(p, "name", "%q: %s", r.Name, why)
	}
	if r.TTL < 0 || r.TTL > math.MaxInt32 {
		v.add(p, "ttl", "%d: a TTL is 0 to 2147483647 seconds", r.TTL)
	}
	if r.Weight < 0 || r.Weight > 100 {
		v.add(p, "weight", "%d: a weight is 1 to 100", r.Weight)
	}
	if !slices.Contains(recordTypes, r.Type) {
		v.add(p, "type", "%q: the types of a private zone are %s", r.Type, strings.Join(recordTypes, ", "))
		return
	}
	if why := checkRecordValue(r.Type, r.Value); why != "" {
		v.add(p, "value", "%q: %s", r.Value, why)
	}
}

// checkRecordName judges the name of a record: relative to the zone, @ for the apex, * as the leftmost label.
func checkRecordName(s, apex string) string {
	switch {
	case s == "":
		return "a name is required: @ is the zone itself"
	case s == "@" || s == "*":
		return ""
	case strings.HasSuffix(s, "."):
		return "the name of a record is relative to its zone: without the final dot"
	case len(s)+1+len(apex) > 253:
		return "with its zone the name has more than 253 characters"
	}
	return checkDomain(strings.TrimPrefix(s, "*."), true)
}

// checkRecordValue judges a value in presentation form as far as its shape goes.
func checkRecordValue(rrtype, s string) string {
	fields := strings.Fields(s)
	switch rrtype {
	case "A":
		if a, err := netip.ParseAddr(s); err != nil || !a.Is4() {
			return "an A record holds an IPv4 address"
		}
	case "AAAA":
		if a, err := netip.ParseAddr(s); err != nil || !is6(a) {
			return "an AAAA record holds an IPv6 address"
		}
	case "CNAME", "PTR":
		if why := checkTarget(s); why != "" {
			return why
		}
	case "MX":
		if len(fields) != 2 || !isUint16(fields[0]) {
			return `an MX record holds a preference and a name, as in "10 mail"`
		}
		return checkTarget(fields[1])
	case "SRV":
		if len(fields) != 4 || !isUint16(fields[0]) || !isUint16(fields[1]) || !isUint16(fields[2]) {
			return `an SRV record holds priority, weight, port and a name, as in "0 5 5060 sip"`
		}
		return checkTarget(fields[3])
	case "TXT":
		return checkText(s)
	}
	return ""
}

// checkTarget judges a name that a record points to: absolute with the final dot, else relative to the zone; @ is the
// zone itself and a single dot "nowhere".
func checkTarget(s string) string {
	if s == "." || s == "@" {
		return ""
	}
	return checkDomain(s, true)
}

// checkText judges the value of a TXT record: bare words or strings in quotes (RFC 1035 section 5.1).
func checkText(s string) string {
	if s == "" {
		return "a TXT record holds a text"
	}
	if len(s) > 255 {
		return "a TXT record has at most 255 characters"
	}
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			if i++; i == len(s) {
				return "a backslash stands before the character that it protects"
			}
		case c == '"':
			quoted = !quoted
		case c < ' ' || c == 0x7f:
			return `a control character is written as \DDD`
		}
	}
	if quoted {
		return "a quotation mark is not closed"
	}
	return ""
}

func isUint16(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

func (v *validator) forwarders(c *scope) {
	seen := map[string]bool{}
	for i, f := range c.Forwarders {
		p := at(c.path, "forwarders", f.Zone, i)
		if f.Zone != "." {
			if why := checkDomain(f.Zone, true); why != "" {
				v.add(&p, "zone", "%q: %s", f.Zone, why)
			}
		}
		if key := domainKey(f.Zone); seen[key] {
			v.add(&p, "zone", "there is another forwarder for %q", f.Zone)
		} else {
			seen[key] = true
		}
		if n := len(f.Servers); n == 0 {
			v.add(&p, "servers", "a forwarder needs at least one server: IP[:port]")
		} else if n > maxForwarderServers {
			v.add(&p, "servers", "has %d servers, and at most %d are allowed", n, maxForwarderServers)
		}
		for _, s := range f.Servers {
			if _, _, err := ParseForwarder(s); err != nil {
				v.add(&p, "servers", "%s", err)
			}
		}
	}
}

// ParseForwarder reads a server of a forwarder: IP[:port], or tls://NAME@IP[:port] for DNS over TLS (RFC 7858). tlsName is
// what the server's certificate must say, without a final dot, and empty for plain DNS.
func ParseForwarder(s string) (tlsName string, server netip.AddrPort, err error) {
	rest, overTLS := strings.CutPrefix(s, "tls://")
	if !overTLS {
		server, err = ParseServer(s)
		return "", server, err
	}
	tlsName, addr, _ := strings.Cut(rest, "@")
	tlsName = strings.TrimSuffix(tlsName, ".")
	if checkDomain(tlsName, false) == "" {
		if server, err = parseServer(addr, 853); err == nil {
			return tlsName, server, nil
		}
	}
	return "", netip.AddrPort{}, fmt.Errorf("%q is not a server over TLS: tls://NAME@IP[:port], with the name in its certificate", s)
}

// ParseServer reads the address of a DNS server, IP[:port]; the port is 53 when it is not written.
func ParseServer(s string) (netip.AddrPort, error) { return parseServer(s, 53) }

func parseServer(s string, port uint16) (netip.AddrPort, error) {
	server, err := netip.ParseAddrPort(s)
	if err != nil {
		bare, brackets := s, len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']'
		if brackets {
			bare = s[1 : len(s)-1]
		}
		var a netip.Addr
		a, err = netip.ParseAddr(bare)
		if brackets && !a.Is6() {
			err = strconv.ErrSyntax
		}
		server = netip.AddrPortFrom(a, port)
	}
	a := server.Addr()
	if err != nil || !plain(a) || a.IsUnspecified() || a.IsMulticast() || server.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("%q is not the address of a server: IP[:port], an IPv6 address with a port in brackets", s)
	}
	return server, nil
}

func (v *validator) tests() {
	for i, t := range v.spec.Tests {
		p := path{nil, "tests", strconv.Itoa(i)}
		for _, end := range []struct{ field, ref string }{{"from", t.From}, {"to", t.To}} {
			if end.ref == "" {
				v.add(&p, end.field, "an instance, an interface's ID, an address or internet is required")
			}
		}
		switch {
		case t.Protocol == ProtocolAll:
			v.add(&p, "protocol", "a test is about one protocol: tcp, udp, icmp, icmpv6, gre or a number")
		case t.Protocol.HasPorts() && (t.Port < 1 || t.Port > 65535):
			v.add(&p, "port", "%d: a %s test needs a port from 1 to 65535", t.Port, t.Protocol)
		case !t.Protocol.HasPorts() && t.Port != 0:
			v.add(&p, "port", "protocol %s has no ports: only tcp and udp have", t.Protocol)
		}
		if t.Expect != Accept && t.Expect != Drop {
			v.add(&p, "expect", "%q: write accept or drop", t.Expect)
		}
	}
}
