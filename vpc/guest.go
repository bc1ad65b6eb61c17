package vpc

import (
	"net/netip"
	"slices"
	"strings"
)

// Resolvers returns the DNS servers that guests of the vSwitch are told of a family: those of the VPC's DHCP options, or
// the gateway where they name none. Declared servers of one family leave nothing for the other: who chose its own servers
// does not want the gateway beside them.
func (w *VSwitch) Resolvers(f Family) []netip.Addr {
	declared := w.VPC.DHCPOptions.DomainNameServers
	if len(declared) > 0 {
		return slices.DeleteFunc(slices.Clone(declared), func(a netip.Addr) bool { return FamilyOf(a) != f })
	}
	if a := w.GatewayAddr(f); a.IsValid() && w.HasLink() { // behind a relay the gateway's address is not ours
		return []netip.Addr{a}
	}
	return nil
}

// DomainName returns the domain that guests are told to be in, without the final dot.
func (v *VPC) DomainName() string {
	if d := v.DHCPOptions.DomainName; d != "" {
		return strings.TrimSuffix(d, ".")
	}
	return v.Domain
}

// SearchList returns the domains that guests complete names with, their own first, without final dots: what IPv6 has one
// option for, where DHCPv4 has one for the first and one for the others.
func (v *VPC) SearchList() []string {
	list := []string{v.DomainName()}
	for _, d := range v.DHCPOptions.SearchDomains {
		if d = strings.TrimSuffix(d, "."); d != "" && !slices.Contains(list, d) {
			list = append(list, d)
		}
	}
	return list
}

// Hostname returns the name that a guest is told to be its own: the form that its instance's private DNS options choose.
func (i *Interface) Hostname() string {
	switch i.Instance.PrivateDNS.HostnameType {
	case HostnameIPBased:
		return "ip-" + strings.ReplaceAll(i.PrivateIP.String(), ".", "-")
	case HostnameInstanceID:
		return i.Instance.ID
	}
	return i.Instance.Name
}

// AppendName appends a domain as DNS writes it (RFC 1035 section 3.1, uncompressed), and reports whether it is one, of
// letters, digits, hyphens and underscores; b is unchanged when it is not.
func AppendName(b []byte, domain string) ([]byte, bool) {
	domain = strings.TrimSuffix(domain, ".")
	if domain == "" || len(domain) > 253 {
		return b, false
	}
	out := b
	for label := range strings.SplitSeq(domain, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, notInName) {
			return b, false
		}
		out = append(append(out, byte(len(label))), label...)
	}
	return append(out, 0), true
}

func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
}
