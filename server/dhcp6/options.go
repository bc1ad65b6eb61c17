package dhcp6

import (
	"math"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"gatehouse/server/lease"
	"gatehouse/vpc"
)

// lifetime is a duration in seconds; the largest value would mean for ever (RFC 8415 section 7.7).
func lifetime(d time.Duration) uint32 { return uint32(min(d/time.Second, math.MaxUint32-1)) }

func seconds(d time.Duration) []byte { return uint32Bytes(lifetime(d)) }

// refreshTime is when a client that has no lease asks again what it should know: as often as one that has a lease, but not
// more often than is allowed (RFC 8415 section 21.23).
func refreshTime(w *vpc.VSwitch) time.Duration {
	const least = 600 * time.Second
	return max(least, lease.Time(w, vpc.IPv6))
}

// addNetwork adds what a guest is told about its network, as it asks for it.
func (p *Reply) addNetwork(r *Request, nic *vpc.Interface) {
	w := nic.VSwitch
	if servers := w.Resolvers(vpc.IPv6); len(servers) > 0 && r.wants(dhcpv6.OptionDNSRecursiveNameServer) {
		var b []byte
		for _, a := range servers {
			b = append(b, a.AsSlice()...)
		}
		p.may(dhcpv6.OptionDNSRecursiveNameServer, b)
	}
	if r.FQDN != nil {
		if b := fqdn(r.FQDN, nic); b != nil {
			p.may(dhcpv6.OptionFQDN, b)
		}
	}
	if uri := w.VPC.DHCPOptions.CaptivePortal; uri != "" && r.wants(dhcpv6.OptionCaptivePortal) {
		p.may(dhcpv6.OptionCaptivePortal, []byte(uri)) // RFC 8910
	}
	p.addNTP(r, w.VPC.DHCPOptions.NTPServers)
	if r.wants(dhcpv6.OptionDomainSearchList) {
		var b []byte
		for _, d := range w.VPC.SearchList() {
			b, _ = vpc.AppendName(b, d) // what is no name is left out
		}
		if len(b) > 0 {
			p.may(dhcpv6.OptionDomainSearchList, b)
		}
	}
}

// addNTP adds the time servers that have IPv6 addresses, in the forms of RFC 5908 and of RFC 4075, which it has replaced
// and which clients ask for still.
func (p *Reply) addNTP(r *Request, servers []netip.Addr) {
	const subOptionServer = dhcpv6.OptionCode(1)
	var ntp, sntp []byte
	for _, a := range servers {
		if a.Is6() {
			ntp = appendOption(ntp, subOptionServer, a.AsSlice())
			sntp = append(sntp, a.AsSlice()...)
		}
	}
	if len(ntp) > 0 && r.wants(dhcpv6.OptionNTPServer) {
		p.may(dhcpv6.OptionNTPServer, ntp)
	}
	if len(sntp) > 0 && r.wants(dhcpv6.OptionSNTPServerList) {
		p.may(dhcpv6.OptionSNTPServerList, sntp)
	}
}

// fqdn answers a client's option 39 (RFC 4704 section 6): we keep its name in DNS ourselves, and it is not the client that
// chooses it.
func fqdn(f *FQDN, nic *vpc.Interface) []byte {
	const serverUpdates, overridden, noUpdates = 0x01, 0x02, 0x04
	flags := byte(noUpdates)
	if nic.VSwitch.VPC.DNSHostnames {
		flags = serverUpdates
	}
	if f.Flags&serverUpdates != flags&serverUpdates {
		flags |= overridden
	}
	b, ok := vpc.AppendName([]byte{flags}, nic.Hostname()+"."+nic.VSwitch.VPC.Domain)
	if !ok {
		return nil
	}
	return b
}
