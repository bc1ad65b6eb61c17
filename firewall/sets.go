package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatehouse/vpc"
)

// maxElements is the size that every hash may grow to; it costs nothing until it is used.
const maxElements = "262144"

// sets returns the sets that the family's rules ask, by name.
func (b *builder) sets() ([]Set, error) {
	groups := make(map[string]*vpc.SecurityGroup, len(b.s.Groups))
	for _, g := range b.s.Groups {
		groups[g.ID] = g
	}
	lists := make(map[string]*vpc.PrefixList, len(b.s.PrefixLists))
	for _, l := range b.s.PrefixLists {
		lists[l.ID] = l
	}

	out := []Set{
		b.hash(setVPCs, "hash:net", b.vpcRanges()),
		b.hash(setGateways, "hash:ip", b.gateways(nil)),
	}
	done := map[*vpc.VPC]bool{}
	for _, w := range b.switches {
		if !done[w.VPC] {
			done[w.VPC] = true
			out = append(out, b.hash(setGateways+"-"+key(w.VPC.ID), "hash:ip", b.gateways(w.VPC)))
		}
		if b.bindBySet(w) {
			out = append(out, b.bindSet(w))
		}
	}
	if b.feat.MapMark {
		out = append(out, b.profileSet())
	}
	if _, ok := b.tables["nat"]; ok {
		out = append(out, b.hash(setNAT, "hash:net", b.natRanges()))
	}
	for id := range b.wanted {
		switch g, l := groups[id], lists[id]; {
		case g != nil:
			out = append(out, b.hash(id, "hash:ip", b.members(g)))
		case l != nil:
			out = append(out, b.hash(id, "hash:net", netMembers(l.Entries)))
		default:
			return nil, fmt.Errorf("a rule asks for %s, which is neither a group nor a prefix list", id)
		}
	}
	slices.SortFunc(out, func(x, y Set) int { return strings.Compare(x.Name, y.Name) })
	for i := 1; i < len(out); i++ {
		if out[i].Name == out[i-1].Name {
			return nil, fmt.Errorf("two sets would be named %s", out[i].Name)
		}
	}
	return out, nil
}

// hash returns a set of addresses or networks, its members sorted and each once.
func (b *builder) hash(id, typ string, members []string) Set {
	slices.Sort(members)
	return Set{Name: setName(b.f, id), Type: typ, Family: b.f, Options: []string{"maxelem", maxElements}, Members: slices.Compact(members)}
}

func (b *builder) vpcRanges() []string {
	var out []string
	for _, v := range b.s.VPCs {
		out = append(out, netMembers(b.ranges(v))...)
	}
	return out
}

// gateways are the gateway addresses that are on a link here, of one VPC or of all.
func (b *builder) gateways(v *vpc.VPC) []string {
	var out []string
	for _, w := range b.switches {
		if g := w.GatewayAddr(b.f); g.IsValid() && (v == nil || v == w.VPC) {
			out = append(out, g.String())
		}
	}
	return out
}

// members are the addresses of a group's members.
func (b *builder) members(g *vpc.SecurityGroup) []string {
	var out []string
	for _, n := range g.Members {
		for a := range n.Addrs {
			if vpc.FamilyOf(a) == b.f {
				out = append(out, a.String())
			}
		}
	}
	return out
}

// bindSet holds the addresses of a vSwitch with their MACs.
func (b *builder) bindSet(w *vpc.VSwitch) Set {
	s := Set{Name: bindSet(b.f, w), Type: "hash:ip,mac", Family: b.f, Options: []string{"maxelem", maxElements}}
	if b.f == vpc.IPv4 {
		s.Type = "bitmap:ip,mac"
		s.Options = []string{"range", w.CIDRBlock.Masked().Addr().String() + "-" + vpc.LastAddr(w.CIDRBlock).String()}
	}
	for _, x := range bindings(w, b.f) {
		s.Members = append(s.Members, x.addr.String()+","+x.mac.String())
	}
	slices.Sort(s.Members)
	return s
}

// profileSet maps every address to the mark of its profile.
func (b *builder) profileSet() Set {
	s := b.hash(setProfiles, "hash:ip", nil)
	s.Options = append(slices.Clone(s.Options), "skbinfo")
	for _, p := range b.profiles {
		m := b.marks.profile(p.id)
		mark := " skbmark 0x" + strconv.FormatUint(uint64(m.Value), 16)
		if m.Mask != 0xffffffff { // ipset leaves out a full mask
			mark += "/0x" + strconv.FormatUint(uint64(m.Mask), 16)
		}
		for _, n := range p.interfaces {
			for a := range n.Addrs {
				if vpc.FamilyOf(a) == b.f {
					s.Members = append(s.Members, a.String()+mark)
				}
			}
		}
	}
	slices.Sort(s.Members)
	return s
}

// netMembers writes prefixes as members of hash:net, which has no /0: it takes two halves.
func netMembers(prefixes []netip.Prefix) []string {
	var out []string
	for _, p := range prefixes {
		switch {
		case p.Bits() == 0:
			low := netip.PrefixFrom(p.Addr(), 1).Masked()
			b := low.Addr().AsSlice()
			b[0] |= 0x80
			high, _ := netip.AddrFromSlice(b)
			out = append(out, low.String(), netip.PrefixFrom(high, 1).String())
		case p.IsSingleIP():
			out = append(out, p.Addr().String())
		default:
			out = append(out, p.Masked().String())
		}
	}
	return out
}
