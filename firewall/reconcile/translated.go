package reconcile

import (
	"net/netip"
	"slices"

	"gatehouse/firewall/conntrack"
	"gatehouse/vpc"
)

// retranslated says which prefix translations go and come. Connection tracking translates a flow as long as it lasts in the way in
// which its first packet was.
type retranslated struct{ gone, come []vpc.PrefixTranslation }

func retranslatedBy(old, new *vpc.Snapshot) retranslated {
	var r retranslated
	was, is := mappings(old), mappings(new)
	without := func(list, others []vpc.PrefixTranslation) []vpc.PrefixTranslation {
		return slices.DeleteFunc(slices.Clone(list), func(t vpc.PrefixTranslation) bool {
			return slices.ContainsFunc(others, func(o vpc.PrefixTranslation) bool { return o.Internal == t.Internal && o.External == t.External })
		})
	}
	r.gone, r.come = without(was, is), without(is, was)
	return r
}

func mappings(s *vpc.Snapshot) []vpc.PrefixTranslation {
	var out []vpc.PrefixTranslation
	for _, v := range s.VPCs {
		out = append(out, s.Translations(v)...)
	}
	return out
}

func (r retranslated) none() bool { return len(r.gone)+len(r.come) == 0 }

// has reports whether an address is in a range whose translation changes.
func (r retranslated) has(a netip.Addr) bool {
	in := func(t vpc.PrefixTranslation) bool { return t.Internal.Contains(a) }
	return slices.ContainsFunc(r.gone, in) || slices.ContainsFunc(r.come, in)
}

// ends reports whether a flow lives on a translation that is gone; or does without the one that came, where it can begin anew at any
// time. A TCP connection cannot, and may be with somebody who knows the way to the range itself.
func (r retranslated) ends(f conntrack.Flow) bool {
	o, back := f.Original, f.Reply
	for _, t := range r.gone {
		if t.Internal.Contains(o.Src) && back.Dst == vpc.Rebase(o.Src, t.External) || t.Internal.Contains(back.Src) && o.Dst == vpc.Rebase(back.Src, t.External) {
			return true
		}
	}
	for _, t := range r.come {
		if o.Protocol != vpc.ProtocolTCP && t.Internal.Contains(o.Src) && back.Dst == o.Src && !t.Internal.Contains(o.Dst) {
			return true
		}
	}
	return false
}
