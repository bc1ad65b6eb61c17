package polgen

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"gatehouse/vpc"
)

// Packets returns n packets of every kind that a gateway can meet, in all states: between instances, to and from the
// uplink, to the gateway, with forged addresses and MACs, to addresses that nobody has, from foreign links.
func Packets(r *rand.Rand, s *vpc.Snapshot, n int) []vpc.Packet {
	return packets(r, s, n, packetGenerator.any)
}

// FirstPackets returns n packets that a test can really send from one network namespace to another: each is the first of
// its flow, in a protocol that needs no earlier packet, from an interface that exists or from the uplink, which the
// gateway must have. Some forge their source address, none its MAC.
func FirstPackets(r *rand.Rand, s *vpc.Snapshot, n int) []vpc.Packet {
	return packets(r, s, n, packetGenerator.first)
}

func packets(r *rand.Rand, s *vpc.Snapshot, n int, next func(packetGenerator) vpc.Packet) []vpc.Packet {
	g := packetGenerator{r, s}
	list := make([]vpc.Packet, n)
	for i := range list {
		list[i] = next(g)
	}
	return list
}

type packetGenerator struct {
	*rand.Rand
	*vpc.Snapshot
}

func (g packetGenerator) chance(percent int) bool { return g.IntN(100) < percent }

// first returns a first packet of a flow.
func (g packetGenerator) first() vpc.Packet {
	f := pick(g.Rand, vpc.Families())
	p := g.way(f)
	if p.In.Kind == vpc.PlaceVSwitch && g.chance(4) {
		p.Src = pick(g.Rand, []netip.Addr{g.address(f), g.outside(f)}) // forged, or by chance its own
	}
	p.Group = g.chance(5)
	g.content(&p, f)
	return p
}

// any returns a packet of any kind.
func (g packetGenerator) any() vpc.Packet {
	f := pick(g.Rand, vpc.Families())
	p := g.way(f)
	g.content(&p, f)
	switch g.IntN(12) {
	case 0:
		p.State = vpc.StateEstablished
		p.NoSYN = true
	case 1:
		p.State = vpc.StateRelated
		if g.chance(80) { // else a flow that another one has announced
			g.icmpError(&p, f)
		}
	case 2:
		p.State = pick(g.Rand, []vpc.ConnState{vpc.StateInvalid, vpc.StateNew})
		p.NoSYN = p.Protocol == vpc.ProtocolTCP
	}
	if v := g.VPCOf(p.Dst); v != nil && f == vpc.IPv6 {
		if ts := g.Translations(v); len(ts) > 0 && g.chance(30) {
			p.Dst = vpc.Rebase(p.Dst, pick(g.Rand, ts).External)
		}
	}
	switch g.IntN(30) {
	case 0:
		p.Src = g.strange(f)
	case 1:
		p.Dst = g.strange(f)
	case 2:
		p.SrcMAC = pick(g.Rand, g.Interfaces).MAC
	case 3:
		p.Src = pick(g.Rand, []netip.Addr{g.address(f), g.outside(f), g.free(f)})
	case 4:
		p.In = pick(g.Rand, []vpc.Place{g.beyond(), {Kind: vpc.PlaceForeign}, {Kind: vpc.PlaceVSwitch, VSwitch: pick(g.Rand, g.VSwitches)}})
	case 5:
		g.bootstrap(&p, f)
	case 6:
		g.icmpError(&p, f) // about whatever flow the state says
	case 7:
		p.Protocol = pick(g.Rand, []vpc.Protocol{vpc.ProtocolICMP, vpc.ProtocolICMPv6}) // of either family
		p.SrcPort, p.DstPort, p.NoSYN = 0, 0, false
	case 8:
		p.Group = true
	}
	if p.In.Kind == vpc.PlaceVSwitch && !p.In.VSwitch.HasLink() { // no packet enters by a link that is not there
		p.In = g.beyond()
	}
	if p.In.Kind != vpc.PlaceVSwitch {
		p.SrcMAC = vpc.MAC{}
	} else if p.SrcMAC.IsZero() {
		p.SrcMAC = pick(g.Rand, g.Interfaces).MAC
	}
	return p
}

// way chooses where a packet enters and where it goes.
func (g packetGenerator) way(f vpc.Family) vpc.Packet {
	from, to := g.linked(), pick(g.Rand, g.Interfaces)
	p := vpc.Packet{In: g.beyond(), Src: g.outside(f), Dst: g.addressOf(to, f)}
	if from == nil {
		return p
	}
	kind := g.IntN(20)
	if kind < 4 { // from outside
		switch {
		case kind == 0 && g.chance(30):
			p.Dst = pick(g.Rand, g.VSwitches).GatewayAddr(f)
		case kind == 1 && g.chance(30):
			p.Dst = g.free(f)
		}
		return p
	}
	p.In, p.SrcMAC, p.Src = vpc.Place{Kind: vpc.PlaceVSwitch, VSwitch: from.VSwitch}, from.MAC, g.addressOf(from, f)
	switch {
	case kind < 8:
		p.Dst = g.outside(f)
	case kind == 8:
		p.Dst = g.free(f)
	case kind == 9:
		p.Dst = from.VSwitch.GatewayAddr(f)
	case kind == 10 && g.chance(50):
		p.Dst = pick(g.Rand, g.VSwitches).GatewayAddr(f)
	default:
		// Among all interfaces, but mostly of the same VPC, and never from an interface to itself: guests do that alone.
		for range 20 {
			if to != from && (to.Instance.VPC == from.Instance.VPC || g.chance(5)) {
				break
			}
			to = pick(g.Rand, g.Interfaces)
		}
		p.Dst = g.addressOf(to, f)
		if to == from {
			p.Dst = g.outside(f)
		}
	}
	return p
}

// beyond is where a packet from outside enters: the uplink, or some link of the host's when there is none.
func (g packetGenerator) beyond() vpc.Place {
	if len(g.Host.Uplinks) == 0 {
		return vpc.Place{Kind: vpc.PlaceForeign}
	}
	return vpc.Place{Kind: vpc.PlaceUplink}
}

// linked returns an interface whose vSwitch has a link here, nil if there is none.
func (g packetGenerator) linked() *vpc.Interface {
	list := slices.DeleteFunc(slices.Clone(g.Interfaces), func(i *vpc.Interface) bool { return !i.VSwitch.HasLink() })
	if len(list) == 0 {
		return nil
	}
	return pick(g.Rand, list)
}

// content chooses the protocol of a packet that opens a flow, and its ports: at the edges of rules, and one beside.
func (g packetGenerator) content(p *vpc.Packet, f vpc.Family) {
	switch k := g.IntN(20); {
	case k < 9:
		p.Protocol = vpc.ProtocolTCP
	case k < 15:
		p.Protocol = vpc.ProtocolUDP
	case k < 17:
		p.Protocol, p.ICMPType = vpc.ProtocolICMP, 8
		if f == vpc.IPv6 {
			p.Protocol, p.ICMPType = vpc.ProtocolICMPv6, 128
		}
	case k < 18:
		p.Protocol = vpc.ProtocolGRE
	default:
		p.Protocol = pick(g.Rand, numbered)
	}
	if p.Protocol.HasPorts() {
		p.SrcPort, p.DstPort = 40000+uint16(g.IntN(20000)), g.port()
		if g.chance(25) {
			p.SrcPort = g.port()
		}
	}
	if g.chance(30) {
		g.aim(p)
	}
}

// aim makes the packet one that a rule of its source or its destination names, or nearly.
func (g packetGenerator) aim(p *vpc.Packet) {
	var rules []*vpc.Rule
	if nic := g.InterfaceByAddr(p.Src); nic != nil {
		rules = nic.EffectiveRules(vpc.Egress)
	}
	if nic := g.InterfaceByAddr(p.Dst); nic != nil {
		rules = append(rules, nic.EffectiveRules(vpc.Ingress)...)
	}
	if len(rules) == 0 {
		return
	}
	rule := pick(g.Rand, rules)
	switch rule.Protocol {
	case vpc.ProtocolAll, vpc.ProtocolICMP, vpc.ProtocolICMPv6:
		return
	}
	p.Protocol, p.ICMPType, p.ICMPCode = rule.Protocol, 0, 0
	if !p.Protocol.HasPorts() {
		p.SrcPort, p.DstPort = 0, 0
		return
	}
	p.SrcPort, p.DstPort = g.portOf(rule.SourcePorts, 40000+uint16(g.IntN(20000))), g.portOf(rule.Ports, g.port())
}

// portOf returns the first or the last port of a range, or one beside it; otherwise where the rule names none.
func (g packetGenerator) portOf(ports vpc.Ports, otherwise uint16) uint16 {
	if ports == nil {
		return otherwise
	}
	at := pick(g.Rand, ports)
	return pick(g.Rand, []uint16{at.From, at.From, at.To, at.To, at.From - 1, at.To + 1})
}

func (g packetGenerator) port() uint16 {
	port := pick(g.Rand, edges)
	if g.chance(35) {
		port += pick(g.Rand, []uint16{1, 0xffff})
	}
	return port
}

// icmpError makes the packet an error about another flow.
func (g packetGenerator) icmpError(p *vpc.Packet, f vpc.Family) {
	kinds := map[vpc.Family][][2]uint8{
		vpc.IPv4: {{3, 4}, {3, 1}, {3, 3}, {11, 0}, {12, 0}},
		vpc.IPv6: {{2, 0}, {1, 0}, {1, 4}, {3, 0}, {4, 1}},
	}
	kind := pick(g.Rand, kinds[f])
	p.Protocol, p.SrcPort, p.DstPort = vpc.ProtocolICMP, 0, 0
	if f == vpc.IPv6 {
		p.Protocol = vpc.ProtocolICMPv6
	}
	p.ICMPType, p.ICMPCode = kind[0], kind[1]
}

// bootstrap makes the packet one of those by which guests find their router and addresses, or pretend to be it.
func (g packetGenerator) bootstrap(p *vpc.Packet, f vpc.Family) {
	p.State, p.NoSYN = vpc.StateNew, false
	if f == vpc.IPv4 {
		p.Protocol, p.ICMPType = vpc.ProtocolUDP, 0
		p.SrcPort, p.DstPort = 68, 67
		if g.chance(30) {
			p.SrcPort, p.DstPort = 67, 68
		}
		p.Src = netip.IPv4Unspecified()
		if g.chance(70) {
			p.Dst = vpc.LimitedBroadcast
		}
		return
	}
	p.Src = pick(g.Rand, []netip.Addr{netip.IPv6Unspecified(), linkLocal, p.Src})
	p.Dst = pick(g.Rand, []netip.Addr{vpc.RouterLinkLocal, netip.MustParseAddr("ff02::2"), netip.MustParseAddr("ff02::1:2"), netip.MustParseAddr("ff05::1:3"), p.Dst})
	if g.chance(40) {
		p.Protocol, p.ICMPType, p.SrcPort, p.DstPort = vpc.ProtocolUDP, 0, 546, 547
		if g.chance(30) {
			p.SrcPort, p.DstPort = 547, 546
		}
		return
	}
	p.Protocol, p.SrcPort, p.DstPort = vpc.ProtocolICMPv6, 0, 0
	p.ICMPType = pick(g.Rand, []uint8{131, 132, 133, 134, 135, 136, 143})
}

var linkLocal = netip.MustParseAddr("fe80::216:3eff:fe00:1")

// strange returns an address that is not an ordinary unicast one.
func (g packetGenerator) strange(f vpc.Family) netip.Addr {
	if f == vpc.IPv4 {
		return netip.MustParseAddr(pick(g.Rand, []string{"0.0.0.0", "255.255.255.255", "224.0.0.22", "127.0.0.1"}))
	}
	return netip.MustParseAddr(pick(g.Rand, []string{"::", "::1", "fe80::1", "fe80::216:3eff:fe00:1", "ff02::1", "ff05::1:3"}))
}

// addressOf returns an address of the interface, or one behind it.
func (g packetGenerator) addressOf(i *vpc.Interface, f vpc.Family) netip.Addr {
	if f == vpc.IPv6 && len(i.IPv6Prefixes) > 0 && g.chance(40) {
		return addrIn(g.Rand, pick(g.Rand, i.IPv6Prefixes))
	}
	return pick(g.Rand, slices.DeleteFunc(slices.Collect(i.Addrs), func(a netip.Addr) bool { return vpc.FamilyOf(a) != f }))
}

// address returns an address of any interface.
func (g packetGenerator) address(f vpc.Family) netip.Addr {
	return g.addressOf(pick(g.Rand, g.Interfaces), f)
}

// outside returns an address beyond the uplink: one that rules may name, or one that only /0 covers.
func (g packetGenerator) outside(f vpc.Family) netip.Addr {
	if g.chance(20) {
		return map[vpc.Family]netip.Addr{vpc.IPv4: netip.MustParseAddr("192.0.2.77"), vpc.IPv6: netip.MustParseAddr("2001:db8:2::77")}[f]
	}
	p := pick(g.Rand, outside[f])
	if p.IsSingleIP() {
		return p.Addr()
	}
	b := p.Addr().AsSlice()
	b[len(b)-1] = byte(1 + g.IntN(200))
	a, _ := netip.AddrFromSlice(b)
	return a
}

// free returns an address of a VPC that no interface has, inside a vSwitch or beside all of them. It is not one of the
// reserved ones: some of those are broadcast addresses, which a kernel does not forward but hear.
func (g packetGenerator) free(f vpc.Family) netip.Addr {
	for {
		a := addrIn(g.Rand, pick(g.Rand, g.VSwitches).Prefix(f))
		if g.chance(30) {
			a = vpc.LastAddr(pick(g.Rand, pick(g.Rand, g.VPCs).Prefixes()))
		}
		if w := g.VSwitchOf(a); vpc.FamilyOf(a) == f && g.InterfaceByAddr(a) == nil && (w == nil || !w.Reserved(a)) {
			return a
		}
	}
}
