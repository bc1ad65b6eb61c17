package vpc

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// EndpointKind says what an Endpoint is.
type EndpointKind uint8

// The kinds of endpoint.
const (
	EndpointInterface EndpointKind = iota + 1 // an interface: by its instance, by ID, MAC or one of its addresses
	EndpointGateway                           // a gateway address of a vSwitch
	EndpointAddress                           // any other address
	EndpointInternet                          // an address outside every VPC that only /0 rules match
)

// Endpoint is one end of a question: may FROM reach TO?
type Endpoint struct {
	Kind      EndpointKind
	Name      string     // as it is shown: the instance's name, qualified where it must be; else what was asked
	Interface *Interface // EndpointInterface
	Gateway   *VSwitch   // EndpointGateway
	Addr      netip.Addr // the address that was asked for; invalid where only an object was
	internet  [2]netip.Addr
}

// Address returns the endpoint's address of a family; invalid when it has none.
func (e Endpoint) Address(f Family) netip.Addr {
	switch {
	case e.Addr.IsValid():
		if FamilyOf(e.Addr) == f {
			return e.Addr
		}
		return netip.Addr{}
	case e.Kind == EndpointInterface:
		return e.Interface.Primary(f)
	case e.Kind == EndpointInternet && f == IPv6:
		return e.internet[1]
	case e.Kind == EndpointInternet:
		return e.internet[0]
	}
	return netip.Addr{}
}

// Resolve finds what a reference means: an instance by name or VPC/NAME or ID (then its primary interface), an interface
// by ID or MAC, an address, or "internet". A bare name that several VPCs have is refused with the candidates
// (ErrAmbiguous), what is not there with ErrNotFound.
func (s *Snapshot) Resolve(ref string) (Endpoint, error) {
	if ref == "internet" {
		return Endpoint{Kind: EndpointInternet, Name: ref, internet: s.internet()}, nil
	}
	if a, err := netip.ParseAddr(ref); err == nil {
		if !plain(a) {
			return Endpoint{}, fmt.Errorf("%s: an address without a zone is required", ref)
		}
		return s.endpointAt(a), nil
	}
	if mac, err := ParseMAC(ref); err == nil {
		if n := s.InterfaceByMAC(mac); n != nil {
			return s.endpointOf(n), nil
		}
		return Endpoint{}, fmt.Errorf("%w: interface %s", ErrNotFound, mac)
	}
	vpcName, name, qualified := strings.Cut(ref, "/")
	if !qualified {
		vpcName, name = "", ref
		if i, ok := slices.BinarySearchFunc(s.Interfaces, ref, func(n *Interface, id string) int { return strings.Compare(n.ID, id) }); ok {
			return s.endpointOf(s.Interfaces[i]), nil
		}
	}
	var found []Object
	var match *Instance
	for _, i := range s.Instances {
		if vpcName != "" && i.VPC.Name != vpcName && i.VPC.ID != vpcName {
			continue
		}
		if i.ID == name && len(i.Interfaces) > 0 {
			return s.endpointOf(i.Interfaces[0]), nil
		}
		if strings.EqualFold(i.Name, name) {
			found = append(found, Object{Kind: KindInstance, VPC: i.VPC.VPCSpec, Name: i.Name})
			match = i
		}
	}
	switch {
	case len(found) > 1:
		return Endpoint{}, fmt.Errorf("instance %q: %w", ref, ambiguous(found))
	case match == nil:
		return Endpoint{}, fmt.Errorf("%w: %q is no instance, no ID of an instance or interface, no address, and not internet", ErrNotFound, ref)
	case len(match.Interfaces) == 0:
		return Endpoint{}, fmt.Errorf("instance %q has no interface", ref)
	}
	return s.endpointOf(match.Interfaces[0]), nil
}

func (s *Snapshot) endpointOf(n *Interface) Endpoint {
	return Endpoint{Kind: EndpointInterface, Name: s.nameOf(n.Instance), Interface: n}
}

// nameOf returns the instance's name, with its VPC where others have the same.
func (s *Snapshot) nameOf(i *Instance) string {
	for _, other := range s.Instances {
		if other != i && strings.EqualFold(other.Name, i.Name) {
			return i.VPC.Name + "/" + i.Name
		}
	}
	return i.Name
}

func (s *Snapshot) endpointAt(a netip.Addr) Endpoint {
	if n := s.InterfaceByAddr(a); n != nil {
		e := s.endpointOf(n)
		e.Addr = a
		return e
	}
	if w := s.GatewayOf(a); w != nil {
		return Endpoint{Kind: EndpointGateway, Name: a.String(), Gateway: w, Addr: a}
	}
	return Endpoint{Kind: EndpointAddress, Name: a.String(), Addr: a}
}

// special are ranges that are not the internet.
var special = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("4000::/2"), netip.MustParsePrefix("8000::/1"),
}

// internet returns an address of each family for "internet". To find them is some work, which is done at most once.
func (s *Snapshot) internet() [2]netip.Addr {
	s.outside.Do(func() { s.outsideAddr = [2]netip.Addr{s.internetAddr(IPv4), s.internetAddr(IPv6)} })
	return s.outsideAddr
}

// internetAddr returns an address of the family outside every VPC that no rule, entry or prefix list names otherwise than by
// /0: the first such one from 8.0.0.1 or 2600::1 on. Should the rules leave none, it is that address.
func (s *Snapshot) internetAddr(f Family) netip.Addr {
	start := netip.MustParseAddr("8.0.0.1")
	if f == IPv6 {
		start = netip.MustParseAddr("2600::1")
	}
	named := slices.Clone(special)
	add := func(p netip.Prefix) {
		if p.IsValid() && p.Bits() > 0 && FamilyOf(p.Addr()) == f {
			named = append(named, p)
		}
	}
	for _, v := range s.VPCs {
		for _, p := range v.Prefixes() {
			add(p)
		}
		for _, t := range v.IPv6PrefixTranslations {
			add(t.ExternalPrefix)
		}
	}
	for _, g := range s.Groups {
		for _, r := range g.Rules {
			add(r.Source.Prefix)
			add(r.Destination.Prefix)
		}
	}
	for _, a := range s.NetworkACLs {
		for _, e := range slices.Concat(a.Ingress, a.Egress) {
			add(e.Peer.Prefix)
		}
	}
	for _, l := range s.PrefixLists {
		for _, p := range l.Entries {
			add(p)
		}
	}
	slices.SortFunc(named, func(a, b netip.Prefix) int { return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits()) })
	a := start
	for _, p := range named {
		if p.Contains(a) {
			a = LastAddr(p).Next()
		}
	}
	if !a.IsValid() || FamilyOf(a) != f {
		return start
	}
	return a
}
