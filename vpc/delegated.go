package vpc

import (
	"net/netip"
)

// DelegatedBits is the length of every prefix that an interface may have, the cloud's. Because there is one length only,
// who has the prefix that an address lies in is found at once.
const DelegatedBits = 80

// delegatedTo returns the prefix that an address would have to be delegated by; invalid for IPv4.
func delegatedTo(a netip.Addr) netip.Prefix {
	if !a.Is6() {
		return netip.Prefix{}
	}
	p, _ := a.Prefix(DelegatedBits)
	return p
}

// Ranges yields all that belongs to the interface: every address as a prefix of its own, then the prefixes delegated to
// it. No two of them have anything in common.
func (i *InterfaceSpec) Ranges(yield func(netip.Prefix) bool) {
	for a := range i.Addrs {
		if !yield(netip.PrefixFrom(a, a.BitLen())) {
			return
		}
	}
	for _, p := range i.IPv6Prefixes {
		if !yield(p) {
			return
		}
	}
}

// holdings is what the interface counts for where addresses are limited: a prefix counts as one.
func (i *InterfaceSpec) holdings() int {
	n := 0
	for range i.Ranges {
		n++
	}
	return n
}

// delegation is a prefix of an interface as a validator has met it.
type delegation struct {
	holder
	path string // of the interface
}

// delegated checks the prefixes of an interface as far as that can be done without knowing the others.
func (v *validator) delegated(p *path, w *VSwitchSpec, n *InterfaceSpec, me holder) {
	if len(n.IPv6Prefixes) == 0 {
		return
	}
	const field = "ipv6Prefixes"
	if k := len(n.IPv6Prefixes); k > maxIPv6Prefixes {
		v.add(p, field, "has %d prefixes, and an interface has at most %d", k, maxIPv6Prefixes)
	}
	b := w.IPv6CIDRBlock
	if !b.IsValid() {
		v.add(p, field, "%s: vswitch %q has no IPv6 range", n.IPv6Prefixes[0], w.Name)
		return
	}
	if len(n.IPv6Addresses) == 0 && n.IPv6AddressCount != nil && *n.IPv6AddressCount == 0 {
		v.add(p, field, "%s: the way there leads over an IPv6 address of the interface, and it has none", n.IPv6Prefixes[0])
	}
	for _, d := range n.IPv6Prefixes {
		switch {
		case !d.IsValid() || !is6(d.Addr()):
			v.add(p, field, "%s is not an IPv6 prefix", d)
		case d.Bits() != DelegatedBits:
			v.add(p, field, "%s: the prefix of an interface is a /%d", d, DelegatedBits)
		case d != d.Masked():
			v.add(p, field, "%s has host bits set: write %s", d, d.Masked())
		case !b.Contains(d.Addr()):
			v.add(p, field, "%s is not in vswitch %q (%s)", d, w.Name, b)
		case w.Reserved(d.Addr()) || w.Reserved(LastAddr(d)):
			v.add(p, field, "%s has reserved addresses in it: the first and the last /%d of %s do", d, DelegatedBits, b)
		default:
			v.delegate(p, field, d, me)
		}
	}
}

func (v *validator) delegate(p *path, field string, d netip.Prefix, me holder) {
	switch other, taken := v.prefixes[d]; {
	case taken && other.instance == me.instance:
		v.add(p, field, "%s is written twice", d)
	case taken:
		v.add(p, field, "%s already belongs to %s", d, other.from(me.vpc))
	default:
		if v.prefixes == nil {
			v.prefixes = map[netip.Prefix]delegation{}
		}
		v.prefixes[d] = delegation{me, p.String()}
		v.delegations = append(v.delegations, d)
	}
}

// delegatedTwice reports the prefixes that have an address of an interface in them. All addresses have been met by now.
func (v *validator) delegatedTwice() {
	if len(v.delegations) == 0 {
		return
	}
	inside := map[netip.Prefix]netip.Addr{}
	for a := range v.addrs {
		if !v.delegates(a) {
			continue
		}
		d := delegatedTo(a)
		if first, ok := inside[d]; !ok || a.Less(first) {
			inside[d] = a
		}
	}
	for _, d := range v.delegations {
		if a, ok := inside[d]; ok {
			owner := v.prefixes[d]
			v.problems.Add(owner.path+".ipv6Prefixes", "%s has %s in it, which is an address of %s", d, a, v.addrs[a].from(owner.vpc))
		}
	}
}

// delegates reports whether the address lies in a prefix that the validator has met.
func (v *validator) delegates(a netip.Addr) bool {
	_, yes := v.prefixes[delegatedTo(a)]
	return yes
}
