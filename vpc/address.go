package vpc

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
)

// Reserved reports whether an address of the vSwitch may not be given to an interface: of IPv4 the first and the last
// three, of IPv6 the first and the last nine, and the gateway.
func (w *VSwitchSpec) Reserved(a netip.Addr) bool {
	if a.Is4() {
		if a == w.Gateway {
			return true
		}
		first, last := v4(w.CIDRBlock.Addr()), v4(LastAddr(w.CIDRBlock))
		n := v4(a)
		return n == first || n > last-3 && n <= last
	}
	host := binary.BigEndian.Uint64(a.AsSlice()[8:])
	return host == 0 || host >= 0xffff_ffff_ffff_fff7
}

// poolRange returns the IPv4 addresses that choices are made from, reserved ones included.
func (w *VSwitchSpec) poolRange() AddrRange {
	if !w.Pool.IsZero() {
		return w.Pool
	}
	return AddrRange{w.CIDRBlock.Addr(), LastAddr(w.CIDRBlock)}
}

// choose returns the address of a family that the MAC gets in the vSwitch, and false when none is free. It starts where
// the MAC's hash points and probes linearly, so that a MAC tends to get the address that it had before, whoever came
// first; the same inputs give the same choice. Prefixes that are somebody's are passed over as a whole.
func (w *VSwitchSpec) choose(f Family, mac MAC, taken func(netip.Addr) bool, delegated func(netip.Prefix) bool) (netip.Addr, bool) {
	h := fnv.New64a()
	h.Write(mac[:])
	start := h.Sum64()
	if f == IPv4 {
		pool := w.poolRange()
		from := v4(pool.From)
		size := uint64(v4(pool.To)-from) + 1
		for i := range size {
			a := v4Addr(from + uint32((start+i)%size))
			if !w.Reserved(a) && !taken(a) {
				return a, true
			}
		}
		return netip.Addr{}, false
	}
	b := w.IPv6CIDRBlock.Addr().As16()
	// A /64 never fills up: among so many more probes than an interface's group may have members one is free.
	for range 1 << 20 {
		binary.BigEndian.PutUint64(b[8:], start)
		a := netip.AddrFrom16(b)
		switch {
		case delegated(delegatedTo(a)):
			start |= 1<<(128-DelegatedBits) - 1
		case !w.Reserved(a) && !taken(a):
			return a, true
		}
		start++
	}
	return netip.Addr{}, false
}

func v4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func v4Addr(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}
