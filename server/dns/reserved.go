package dns

import (
	"net/netip"
	"strconv"
	"sync"

	miekg "github.com/miekg/dns"
)

// reservedNames are answered here and never asked outside, because nobody outside could know: special-use names and
// the reverse zones of addresses that are not global. Whatever a VPC declares (a zone, a forwarder other than the
// root's) comes before them.
var reservedNames = sync.OnceValue(func() map[name]*node {
	zones := []string{
		"localhost", "invalid", "test", // RFC 6761
		"local",                   // RFC 6762
		"onion",                   // RFC 7686
		"home.arpa",               // RFC 8375
		"alt",                     // RFC 9476
		"resolver.arpa",           // RFC 9462
		"service.arpa",            // RFC 9665
		"10.in-addr.arpa",         // RFC 6303 section 4.1
		"168.192.in-addr.arpa",    //
		"0.in-addr.arpa",          // section 4.2
		"127.in-addr.arpa",        //
		"254.169.in-addr.arpa",    //
		"2.0.192.in-addr.arpa",    //
		"100.51.198.in-addr.arpa", //
		"113.0.203.in-addr.arpa",  //
		"255.255.255.255.in-addr.arpa",
		"d.f.ip6.arpa",             // section 4.4
		"8.e.f.ip6.arpa",           // section 4.5
		"9.e.f.ip6.arpa",           //
		"a.e.f.ip6.arpa",           //
		"b.e.f.ip6.arpa",           //
		"8.b.d.0.1.0.0.2.ip6.arpa", // section 4.6
	}
	for i := 16; i < 32; i++ {
		zones = append(zones, strconv.Itoa(i)+".172.in-addr.arpa")
	}
	for i := 64; i < 128; i++ { // RFC 7793
		zones = append(zones, strconv.Itoa(i)+".100.in-addr.arpa")
	}
	names := map[name]*node{}
	add := func(n name) *node {
		z := &zone{name: n, source: "reserved name"}
		z.soa = soaData(n, "\x06nobody\x07invalid\x00", 1)
		apex := &node{zone: z, apex: true}
		apex.sets = []rrset{
			{typ: miekg.TypeNS, count: 1, ttl: generatedTTL, data: rdata([]byte(n)), source: z.source},
			{typ: miekg.TypeSOA, count: 1, ttl: generatedTTL, data: z.soa, source: z.source},
		}
		names[n] = apex
		return apex
	}
	for _, s := range zones {
		n, err := parseName(s)
		if err != nil {
			continue // the list above has no such name: see the test
		}
		add(n)
	}
	add(reverseName(netip.IPv6Unspecified())) // RFC 6303 section 4.3
	add(reverseName(netip.IPv6Loopback()))

	// RFC 6761 section 6.3: localhost and everything below it is the loopback address.
	local := names["\x09localhost\x00"]
	loopback := []rrset{
		{typ: miekg.TypeA, count: 1, ttl: generatedTTL, data: rdata([]byte{127, 0, 0, 1}), source: local.zone.source},
		{typ: miekg.TypeAAAA, count: 1, ttl: generatedTTL, data: rdata(netip.IPv6Loopback().AsSlice()), source: local.zone.source},
	}
	names["\x01*\x09localhost\x00"] = &node{zone: local.zone, sets: loopback}
	local.sets = append(loopback[:2:2], local.sets...)
	return names
})

// findReserved returns the node or, for a name that does not exist, the zone that says so; both nil if the name is not
// reserved. lower is the name in wire form and lower case.
func findReserved(lower []byte) (*node, *zone) {
	names := reservedNames()
	for s := lower; s[0] != 0; s = s[1+s[0]:] {
		n := names[name(s)]
		switch {
		case n == nil:
			continue
		case len(s) == len(lower):
			return n, nil
		}
		var star [maxName + 2]byte
		if w := names[name(append(append(star[:0], 1, '*'), s...))]; w != nil {
			return w, nil
		}
		return nil, n.zone
	}
	return nil, nil
}
