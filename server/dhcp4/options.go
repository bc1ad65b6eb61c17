package dhcp4

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/vpc"
)

// addLease adds how long the lease lasts and when to renew and to rebind it (RFC 2131 section 4.4.5).
func (p *Reply) addLease(d time.Duration) {
	secs := uint32(min(d/time.Second, math.MaxUint32-1)) // the largest value would mean for ever
	p.must(dhcpv4.OptionIPAddressLeaseTime, p.keepUint32(secs))
	p.must(dhcpv4.OptionRenewTimeValue, p.keepUint32(secs/2))
	p.must(dhcpv4.OptionRebindingTimeValue, p.keepUint32(uint32(uint64(secs)*7/8)))
}

// addNetwork adds what a guest is told about its network: mask, router and, on a link that is not ours, the routes always;
// the rest as the client asks for it, in its order.
func (p *Reply) addNetwork(r *Request, nic *vpc.Interface) {
	w := nic.VSwitch
	gateway := w.GatewayAddr(vpc.IPv4)
	p.must(dhcpv4.OptionSubnetMask, p.keepUint32(mask(w)))
	p.must(dhcpv4.OptionRouter, p.keepAddrs(gateway)) // also beside 121: who does not know that one needs it
	routes := classlessRoutes(w)
	if onForeignLink(w) {
		p.may(dhcpv4.OptionClasslessStaticRoute, routes)
	}
	p.addBoot(r, w.VPC.DHCPOptions.Boot)
	if b := clientFQDN(r, nic); b != nil {
		p.may(dhcpv4.OptionFQDN, b)
	}

	var sent [256]bool
	sent[dhcpv4.OptionDHCPMessageType.Code()] = true
	for _, list := range [][]Option{p.Must, p.May} {
		for _, o := range list {
			sent[o.Code] = true
		}
	}
	list := r.options.get(dhcpv4.OptionParameterRequestList)
	if len(list) == 0 {
		list = defaultOptions
	}
	for _, code := range list {
		if sent[code] {
			continue
		}
		sent[code] = true
		if data := p.wanted(code, nic, routes); len(data) > 0 {
			p.May = append(p.May, Option{code, data})
		}
	}
}

// defaultOptions is what a client gets that does not say what it wants.
var defaultOptions = []byte{
	dhcpv4.OptionClasslessStaticRoute.Code(), dhcpv4.OptionDomainNameServer.Code(), dhcpv4.OptionDomainName.Code(),
	dhcpv4.OptionHostName.Code(), dhcpv4.OptionInterfaceMTU.Code(), dhcpv4.OptionDNSDomainSearchList.Code(),
	dhcpv4.OptionNTPServers.Code(),
}

// wanted is the value of an option for an interface; empty when there is nothing to say.
func (p *Reply) wanted(code uint8, nic *vpc.Interface, routes []byte) []byte {
	w := nic.VSwitch
	set := &w.VPC.DHCPOptions
	switch code {
	case dhcpv4.OptionDomainNameServer.Code():
		return p.keepAddrs(w.Resolvers(vpc.IPv4)...)
	case dhcpv4.OptionHostName.Code():
		return p.keepString(nic.Hostname())
	case dhcpv4.OptionDomainName.Code():
		return p.keepString(w.VPC.DomainName())
	case dhcpv4.OptionInterfaceMTU.Code():
		if set.MTU > 0 && set.MTU <= math.MaxUint16 {
			return binary.BigEndian.AppendUint16(nil, uint16(set.MTU))
		}
	case dhcpv4.OptionBroadcastAddress.Code():
		if !onForeignLink(w) {
			return p.keepAddrs(vpc.LastAddr(w.CIDRBlock))
		}
	case dhcpv4.OptionNTPServers.Code():
		return p.keepAddrs(set.NTPServers...)
	case dhcpv4.OptionDNSDomainSearchList.Code():
		return searchList(set.SearchDomains)
	case dhcpv4.OptionClasslessStaticRoute.Code(), optionMSClasslessRoutes.Code():
		return routes
	case optionCaptivePortal.Code():
		return p.keepString(set.CaptivePortal)
	case dhcpv4.OptionIPv6OnlyPreferred.Code():
		if d := time.Duration(set.IPv6OnlyPreferred); d > 0 && w.IPv6CIDRBlock.IsValid() && nic.Primary(vpc.IPv6).IsValid() {
			return p.keepUint32(uint32(d / time.Second))
		}
	}
	return nil
}

// clientFQDN answers a client's option 81 (RFC 4702 section 4): we keep its name in DNS ourselves, and which name that is
// does not depend on what the client says.
func clientFQDN(r *Request, nic *vpc.Interface) []byte {
	const serverUpdates, overridden, wireForm, noUpdates = 0x01, 0x02, 0x04, 0x08
	asked := r.options.get(dhcpv4.OptionFQDN)
	if len(asked) < fqdnHeader {
		return nil
	}
	flags := byte(noUpdates)
	if nic.VSwitch.VPC.DNSHostnames {
		flags = serverUpdates
	}
	if asked[0]&serverUpdates != flags&serverUpdates {
		flags |= overridden
	}
	flags |= asked[0] & wireForm
	const obsolete = 255 // the fields that once held the results of updates (section 2.2)
	b, name := []byte{flags, obsolete, obsolete}, nic.Hostname()+"."+nic.VSwitch.VPC.Domain
	if flags&wireForm == 0 {
		return append(b, name...)
	}
	b, ok := vpc.AppendName(b, name)
	if !ok {
		return nil
	}
	return b
}

// onForeignLink reports whether the vSwitch's guests are on a switch that is not ours. They are told that nobody is on
// their link, so that what they say to each other comes by the gateway too.
func onForeignLink(w *vpc.VSwitch) bool { return w.Attach.Interface != "" }

func mask(w *vpc.VSwitch) uint32 {
	if onForeignLink(w) {
		return math.MaxUint32
	}
	return ^(math.MaxUint32 >> w.CIDRBlock.Bits())
}

// classlessRoutes is the value of option 121 (RFC 3442), empty when option 3 says it all. A client that takes 121 ignores
// 3, so the default route is in it too.
func classlessRoutes(w *vpc.VSwitch) []byte {
	var b []byte
	gateway := w.GatewayAddr(vpc.IPv4)
	if onForeignLink(w) {
		b = appendRoute(b, netip.PrefixFrom(gateway, 32), netip.IPv4Unspecified())
	}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	for _, r := range w.VPC.DHCPOptions.Routes {
		if r.Destination.Addr().Is4() && r.Destination != all {
			b = appendRoute(b, r.Destination, gateway)
		}
	}
	if len(b) == 0 {
		return nil
	}
	return appendRoute(b, all, gateway)
}

func appendRoute(b []byte, dst netip.Prefix, via netip.Addr) []byte {
	b = append(b, byte(dst.Bits()))
	b = append(b, dst.Addr().AsSlice()[:(dst.Bits()+7)/8]...)
	return append(b, via.AsSlice()...)
}

// searchList is the value of option 119 (RFC 3397), uncompressed: a domain that is no name is left out.
func searchList(domains []string) []byte {
	var b []byte
	for _, d := range domains {
		b, _ = vpc.AppendName(b, d)
	}
	return b
}
