package ra

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

// What is advertised (RFC 4861 section 6.2.1; the defaults of MaxRtrAdvInterval).
const (
	maxInterval    = 600 * time.Second
	minInterval    = 200 * time.Second
	routerLifetime = 3 * maxInterval
	prefixLifetime = 30 * 24 * time.Hour // of a prefix that nobody makes an address of: only to be well-formed
)

// maxPayload is what passes every link without fragments: the least MTU of IPv6 without a header.
const maxPayload = 1280 - port.IPv6Size

// allNodes is every host of a link (RFC 4291 section 2.7.1).
var allNodes = netip.MustParseAddr("ff02::1")

// ICMPv6 types and options of neighbour discovery (RFC 4861 section 4).
const (
	typeRouterSolicitation    = 133
	typeRouterAdvertisement   = 134
	typeNeighborSolicitation  = 135
	typeNeighborAdvertisement = 136

	optionSourceLinkLayer = 1
	optionTargetLinkLayer = 2
	optionPrefix          = 3
	optionMTU             = 5
	optionRDNSS           = 25 // RFC 8106
	optionDNSSL           = 31
	optionCaptivePortal   = 37 // RFC 8910
)

// Advertisement is what the guests of a vSwitch are told, as a function of the snapshot.
type Advertisement struct {
	Lifetime time.Duration // as a default router; 0: no longer one
	Prefix   netip.Prefix
	MTU      int // 0: not said
	DNS      []netip.Addr
	Search   []string
	Portal   string // the URI of the captive portal's API; "": not said
}

// AdvertisementOf returns what a vSwitch's guests are told; nothing is said where it has no IPv6 or no link.
func AdvertisementOf(w *vpc.VSwitch) (a Advertisement, ok bool) {
	if !w.IPv6CIDRBlock.IsValid() || !w.HasLink() {
		return Advertisement{}, false
	}
	return Advertisement{
		Lifetime: routerLifetime, Prefix: w.IPv6CIDRBlock, MTU: w.VPC.DHCPOptions.MTU,
		DNS: w.Resolvers(vpc.IPv6), Search: w.VPC.SearchList(), Portal: w.VPC.DHCPOptions.CaptivePortal,
	}, true
}

// Equal reports whether both say the same.
func (a Advertisement) Equal(b Advertisement) bool {
	return a.Lifetime == b.Lifetime && a.Prefix == b.Prefix && a.MTU == b.MTU && a.Portal == b.Portal && slices.Equal(a.DNS, b.DNS) && slices.Equal(a.Search, b.Search)
}

// final is the last advertisement of a router that goes (RFC 4861 section 6.2.5): its names go with it.
func (a Advertisement) final() Advertisement {
	a.Lifetime = 0
	return a
}

// Encode returns the ICMPv6 message of an advertisement from a link with this MAC, without its checksum.
func (a Advertisement) Encode(link vpc.MAC) []byte {
	const managed, other, hopLimit = 0x80, 0x40, 64
	b := make([]byte, 16, 256)
	b[0], b[4], b[5] = typeRouterAdvertisement, hopLimit, managed|other
	binary.BigEndian.PutUint16(b[6:], uint16(a.Lifetime/time.Second))
	b = appendLinkLayer(b, optionSourceLinkLayer, link)
	if a.MTU > 0 {
		b = append(b, optionMTU, 1, 0, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(a.MTU))
	}
	const flags = 0 // neither on-link nor autonomous
	b = append(b, optionPrefix, 4, uint8(a.Prefix.Bits()), flags)
	b = appendSeconds(b, prefixLifetime)
	b = appendSeconds(b, prefixLifetime)
	b = append(b, 0, 0, 0, 0)
	b = append(b, a.Prefix.Masked().Addr().AsSlice()...)
	if len(a.DNS) > 0 {
		b = append(b, optionRDNSS, uint8(1+2*len(a.DNS)), 0, 0)
		b = appendSeconds(b, a.Lifetime)
		for _, s := range a.DNS {
			b = append(b, s.AsSlice()...)
		}
	}
	if a.Portal != "" {
		blocks := (2 + len(a.Portal) + 7) / 8
		b = append(b, optionCaptivePortal, uint8(blocks))
		b = append(b, a.Portal...)
		b = append(b, make([]byte, 8*blocks-2-len(a.Portal))...)
	}
	return a.appendSearch(b)
}

// appendSearch adds the domains for which there is room; what is no name is left out.
func (a Advertisement) appendSearch(b []byte) []byte {
	const head = 8
	room := maxPayload - len(b) - head
	var names []byte
	for _, d := range a.Search {
		if more, ok := vpc.AppendName(names, d); ok && len(more)+7 <= room {
			names = more
		}
	}
	if len(names) == 0 {
		return b
	}
	for len(names)%8 != 0 {
		names = append(names, 0)
	}
	b = append(b, optionDNSSL, uint8((head+len(names))/8), 0, 0)
	b = appendSeconds(b, a.Lifetime)
	return append(b, names...)
}

func appendSeconds(b []byte, d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(d/time.Second))
}

func appendLinkLayer(b []byte, option byte, mac vpc.MAC) []byte {
	return append(append(b, option, 1), mac[:]...)
}
