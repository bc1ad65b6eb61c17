package vpc

import (
	"net/netip"
	"slices"
)

// PrefixTranslation is a prefix translation of a snapshot, by an uplink that the gateway has.
type PrefixTranslation struct {
	VPC                *VPC
	Uplink             string
	Internal, External netip.Prefix // of the same length
}

// Translations returns the VPC's prefix translations.
func (s *Snapshot) Translations(v *VPC) []PrefixTranslation {
	var out []PrefixTranslation
	for _, t := range v.IPv6PrefixTranslations {
		if v.IPv6CIDRBlock.IsValid() && slices.Contains(s.Host.Uplinks, t.Uplink) { // else nothing leaves by it
			out = append(out, PrefixTranslation{v, t.Uplink, v.IPv6CIDRBlock, t.ExternalPrefix})
		}
	}
	return out
}

// TranslationOf returns the prefix translation whose external prefix contains the address, the first one where a VPC has the same
// prefix beyond several uplinks.
func (s *Snapshot) TranslationOf(a netip.Addr) (PrefixTranslation, bool) {
	for _, v := range s.VPCs {
		for _, t := range s.Translations(v) {
			if t.External.Contains(a) {
				return t, true
			}
		}
	}
	return PrefixTranslation{}, false
}

// Translated returns the packet as it is routed and judged: what comes for an external prefix by the prefix's uplink is for the
// address behind it. Only what connection tracking knows can be translated.
func (s *Snapshot) Translated(p Packet) Packet {
	if p.State == StateInvalid || p.In.Kind != PlaceUplink {
		return p
	}
	if t, ok := s.TranslationOf(p.Dst); ok {
		p.Dst = Rebase(p.Dst, t.Internal)
	}
	return p
}

// Rebase returns the address in a prefix that has the host part of a.
func Rebase(a netip.Addr, p netip.Prefix) netip.Addr {
	host, net := a.As16(), p.Addr().As16()
	for i := range host {
		mask := byte(0xff) >> min(max(p.Bits()-8*i, 0), 8)
		host[i] = net[i]&^mask | host[i]&mask
	}
	return netip.AddrFrom16(host)
}
