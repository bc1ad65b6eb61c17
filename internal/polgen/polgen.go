// Package polgen makes random networks with random policies, and random packets that try them, for tests that compare
// what the policy says with what the compiled rules and the kernel do.
//
// Everything is a function of the random source: a seed repeats a failure. Every network has both families, every kind of
// rule that there is, and is valid (see vpc.Validate); packets aim at the edges of its rules, so that both verdicts are
// frequent.
package polgen

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"gatehouse/vpc"
)

// Size bounds a generated network from above; each number of it is drawn from 1 to the bound, Rules and Entries from 0.
type Size struct {
	VPCs       int
	VSwitches  int // in a VPC; at most 8
	Groups     int // in a VPC, besides the group default
	Instances  int // in a VPC
	Rules      int // of a group, both directions together
	Entries    int // of a network ACL in one direction; at most 6
	Interfaces int // of an instance
	Relays     bool
}

// Small is quick to compare by the thousand and easy to read when it fails.
func Small() Size {
	return Size{VPCs: 2, VSwitches: 3, Groups: 4, Instances: 6, Rules: 6, Entries: 4, Interfaces: 1}
}

// Large has all that Small has, more of it, and vSwitches behind relays.
func Large() Size {
	return Size{VPCs: 2, VSwitches: 4, Groups: 8, Instances: 24, Rules: 14, Entries: 6, Interfaces: 2, Relays: true}
}

// Host is the host part of every generated network.
func Host() vpc.Host {
	return vpc.Host{
		Region: "lab-1", Uplinks: []string{"up0"},
		HostAccess: []vpc.HostAccess{
			{Protocol: vpc.ProtocolTCP, Ports: vpc.Ports{{From: 22, To: 22}}},
			{Protocol: vpc.ProtocolUDP, Ports: vpc.Ports{{From: 1, To: 2000}}, VPC: "net0"},
		},
	}
}

// edges are the ports that rules begin and end at.
var edges = []uint16{22, 53, 80, 443, 1024, 5000, 8080}

// numbered are protocols without a name.
var numbered = []vpc.Protocol{50, 99, 112}

// outside are prefixes beyond the uplink, a wide and a narrow one of each family in turn.
var outside = map[vpc.Family][]netip.Prefix{
	vpc.IPv4: {netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.9/32")},
	vpc.IPv6: {netip.MustParsePrefix("2001:db8::/64"), netip.MustParsePrefix("2001:db8:1::9/128")},
}

var everywhere = map[vpc.Family]netip.Prefix{
	vpc.IPv4: netip.MustParsePrefix("0.0.0.0/0"),
	vpc.IPv6: netip.MustParsePrefix("::/0"),
}

// Spec returns a complete network: all IDs and addresses are chosen.
func Spec(r *rand.Rand, size Size) *vpc.Spec {
	g := generator{Rand: r, size: size, taken: map[netip.Addr]bool{}}
	spec := &vpc.Spec{}
	for i := range 1 + r.IntN(size.VPCs) {
		spec.VPCs = append(spec.VPCs, g.vpc(i))
	}
	return spec
}

// Translate returns the network with prefix translations for some of its VPCs, by the uplink of Host.
func Translate(r *rand.Rand, spec *vpc.Spec) *vpc.Spec {
	g := generator{Rand: r}
	out := *spec
	out.VPCs = slices.Clone(spec.VPCs)
	for i, v := range spec.VPCs {
		c := *v
		c.IPv6PrefixTranslations = g.translations(v)
		out.VPCs[i] = &c
	}
	return &out
}

// translations are those of a VPC, or none.
func (g *generator) translations(v *vpc.VPCSpec) []vpc.PrefixTranslationSpec {
	if !v.IPv6CIDRBlock.IsValid() || g.chance(40) {
		return nil
	}
	external := netip.MustParsePrefix("2001:db8:4200::/56") // outside is elsewhere
	b := external.Addr().As16()
	b[3], b[6] = v.IPv6CIDRBlock.Addr().As16()[3], byte(g.IntN(2))
	return []vpc.PrefixTranslationSpec{{Uplink: Host().Uplinks[0], ExternalPrefix: netip.PrefixFrom(netip.AddrFrom16(b), v.IPv6CIDRBlock.Bits())}}
}

type generator struct {
	*rand.Rand
	size  Size
	macs  uint32
	taken map[netip.Addr]bool
}

// chance is true in percent of 100 cases.
func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func (g *generator) id(prefix string) string { return fmt.Sprintf("%s%016x", prefix, g.Uint64()) }

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func (g *generator) family() vpc.Family { return pick(g.Rand, vpc.Families()) }

func (g *generator) vpc(n int) *vpc.VPCSpec {
	v := &vpc.VPCSpec{
		ID: g.id("vpc-"), Name: fmt.Sprintf("net%d", n),
		CIDRBlock:     netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(20 + 10*n)}), 16),
		IPv6CIDRBlock: netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/56", 20+10*n)),
	}
	v.SetDefaults()
	if g.chance(30) {
		v.SecondaryCIDRBlocks = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(21 + 10*n)}), 16)}
	}
	for i := range 1 + g.IntN(g.size.VSwitches) {
		v.VSwitches = append(v.VSwitches, g.vswitch(v, n, i))
	}
	v.SecurityGroups = []*vpc.GroupSpec{{ID: g.id("sg-"), Name: vpc.DefaultGroup, Type: vpc.GroupBasic, InnerAccess: vpc.Accept}}
	for i := range 1 + g.IntN(g.size.Groups) {
		v.SecurityGroups = append(v.SecurityGroups, g.group(i))
	}
	for i := range 1 + g.IntN(g.size.Instances) {
		v.Instances = append(v.Instances, g.instance(v, i))
	}
	for _, f := range vpc.Families() {
		v.PrefixLists = append(v.PrefixLists, g.prefixList(v, f))
	}
	for _, group := range v.SecurityGroups {
		for range g.IntN(g.size.Rules + 1) {
			if rule := g.rule(v, group); !slices.ContainsFunc(group.Rules, func(r *vpc.RuleSpec) bool { return sameMatch(r, rule) }) {
				group.Rules = append(group.Rules, rule)
			}
		}
	}
	for i := range g.IntN(3) {
		acl := g.acl(v, i)
		v.NetworkACLs = append(v.NetworkACLs, acl)
		for _, w := range v.VSwitches {
			if g.chance(40) {
				w.NetworkACL = acl.Name
			}
		}
	}
	return v
}

func (g *generator) vswitch(v *vpc.VPCSpec, n, i int) *vpc.VSwitchSpec {
	block := v.CIDRBlock
	if len(v.SecondaryCIDRBlocks) > 0 && g.chance(50) {
		block = v.SecondaryCIDRBlocks[0]
	}
	b := block.Addr().As4()
	b[2] = byte(4 * (i + 1))
	w := &vpc.VSwitchSpec{
		ID: g.id("vsw-"), Name: fmt.Sprintf("vsw%d", i),
		CIDRBlock:     netip.PrefixFrom(netip.AddrFrom4(b), 22+g.IntN(3)), // never full: see addrIn
		IPv6CIDRBlock: netip.MustParsePrefix(fmt.Sprintf("fd00:%d:0:%d::/64", 20+10*n, i+1)),
	}
	w.SetDefaults()
	w.EnrollmentGroups = []string{vpc.DefaultGroup}
	if g.chance(20) {
		w.Gateway = w.CIDRBlock.Addr().Next()
	}
	switch k := g.IntN(4); {
	case k == 0:
		w.Attach.Interface = fmt.Sprintf("lan%d-%d", n, i)
	case k == 1:
		w.Attach.Bridge = fmt.Sprintf("br%d-%d", n, i)
	case k == 2 && g.size.Relays && g.chance(40):
		w.Attach.Relay = []netip.Addr{netip.MustParseAddr("192.0.2.2")}
	}
	return w
}

func (g *generator) group(i int) *vpc.GroupSpec {
	s := &vpc.GroupSpec{ID: g.id("sg-"), Name: fmt.Sprintf("g%d", i), Type: vpc.GroupAdvanced, InnerAccess: vpc.Drop}
	if g.chance(70) {
		s.Type = vpc.GroupBasic
		s.InnerAccess = pick(g.Rand, []vpc.Policy{vpc.Accept, vpc.Drop, vpc.Drop})
	}
	return s
}

func (g *generator) instance(v *vpc.VPCSpec, i int) *vpc.InstanceSpec {
	inst := &vpc.InstanceSpec{ID: g.id("i-"), Name: fmt.Sprintf("vm%d", i)}
	inst.SetDefaults()
	kind := pick(g.Rand, v.SecurityGroups).Type // one type only on all interfaces of an instance
	for range 1 + g.IntN(g.size.Interfaces) {
		w := pick(g.Rand, v.VSwitches)
		g.macs++
		nic := &vpc.InterfaceSpec{
			ID: g.id("eni-"), MAC: vpc.MAC{0, 0x16, 0x3e, byte(g.macs >> 16), byte(g.macs >> 8), byte(g.macs)},
			VSwitch: w.Name, PrivateIP: g.freeAddr(w, vpc.IPv4), SecurityGroups: g.memberships(v, kind),
		}
		inst.Interfaces = append(inst.Interfaces, nic)
		for g.chance(30) && len(nic.SecondaryPrivateIPs) < 3 {
			nic.SecondaryPrivateIPs = append(nic.SecondaryPrivateIPs, g.freeAddr(w, vpc.IPv4))
		}
		for len(nic.IPv6Addresses) == 0 || g.chance(30) && len(nic.IPv6Addresses) < 4 {
			nic.IPv6Addresses = append(nic.IPv6Addresses, g.freeAddr(w, vpc.IPv6))
		}
		for g.chance(25) && len(nic.IPv6Prefixes) < 2 {
			nic.IPv6Prefixes = append(nic.IPv6Prefixes, g.freePrefix(w))
		}
		slices.SortFunc(nic.SecondaryPrivateIPs, netip.Addr.Compare)
		slices.SortFunc(nic.IPv6Prefixes, netip.Prefix.Compare)
	}
	return inst
}

// memberships returns one to three names of groups of one type.
func (g *generator) memberships(v *vpc.VPCSpec, kind vpc.GroupType) []string {
	var names []string
	for _, i := range g.Perm(len(v.SecurityGroups)) {
		if s := v.SecurityGroups[i]; s.Type == kind && (len(names) == 0 || len(names) < 3 && g.chance(35)) {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return names
}

// freeAddr takes an address of the vSwitch that nobody has and that may be given.
func (g *generator) freeAddr(w *vpc.VSwitchSpec, f vpc.Family) netip.Addr {
	for {
		if a := addrIn(g.Rand, w.Prefix(f)); !w.Reserved(a) && !g.taken[a] {
			g.taken[a] = true
			return a
		}
	}
}

// freePrefix takes a prefix in the vSwitch's IPv6 range that nobody has, and that no address is chosen in.
func (g *generator) freePrefix(w *vpc.VSwitchSpec) netip.Prefix {
	for {
		b := w.IPv6CIDRBlock.Addr().As16()
		b[8], b[9] = 0x40, byte(g.IntN(256))
		if a := netip.AddrFrom16(b); !g.taken[a] {
			g.taken[a] = true
			return netip.PrefixFrom(a, vpc.DelegatedBits)
		}
	}
}

// addrIn returns one of the first 256 addresses of a prefix.
func addrIn(r *rand.Rand, p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	host := min(p.Addr().BitLen()-p.Bits(), 8)
	b[len(b)-1] |= byte(r.IntN(1 << host))
	a, _ := netip.AddrFromSlice(b)
	return a
}

func addressesIn(v *vpc.VPCSpec) []netip.Addr {
	var all []netip.Addr
	for _, i := range v.Instances {
		for _, n := range i.Interfaces {
			all = slices.AppendSeq(all, n.Addrs)
			for _, p := range n.IPv6Prefixes {
				all = append(all, vpc.LastAddr(p))
			}
		}
	}
	return all
}

func (g *generator) prefixList(v *vpc.VPCSpec, f vpc.Family) *vpc.PrefixListSpec {
	l := &vpc.PrefixListSpec{ID: g.id("pl-"), Name: "list-" + f.String(), Family: f.String()}
	for range 1 + g.IntN(3) {
		if p := g.prefix(v, f); !slices.Contains(l.Entries, p) {
			l.Entries = append(l.Entries, p)
		}
	}
	slices.SortFunc(l.Entries, netip.Prefix.Compare)
	l.MaxEntries = len(l.Entries)
	return l
}

// prefix returns a range that some packet will come from or go to.
func (g *generator) prefix(v *vpc.VPCSpec, f vpc.Family) netip.Prefix {
	switch g.IntN(9) {
	case 0, 1:
		return everywhere[f]
	case 2, 3:
		return pick(g.Rand, v.VSwitches).Prefix(f)
	case 4:
		a := g.address(v, f)
		return netip.PrefixFrom(a, a.BitLen()-1-g.IntN(4)).Masked()
	case 5, 6:
		a := g.address(v, f)
		return netip.PrefixFrom(a, a.BitLen())
	case 7:
		if f == vpc.IPv6 {
			return v.IPv6CIDRBlock
		}
		return v.CIDRBlock
	}
	return pick(g.Rand, outside[f])
}

// address returns an address of an instance, or of a vSwitch when there is none.
func (g *generator) address(v *vpc.VPCSpec, f vpc.Family) netip.Addr {
	all := slices.DeleteFunc(addressesIn(v), func(a netip.Addr) bool { return vpc.FamilyOf(a) != f })
	if len(all) == 0 {
		return addrIn(g.Rand, pick(g.Rand, v.VSwitches).Prefix(f))
	}
	return pick(g.Rand, all)
}

// protocol returns what a rule of a family names.
func (g *generator) protocol(f vpc.Family) vpc.Protocol {
	switch g.IntN(12) {
	case 0, 1, 2:
		return vpc.ProtocolAll
	case 3, 4, 5, 6:
		return vpc.ProtocolTCP
	case 7, 8:
		return vpc.ProtocolUDP
	case 9:
		return vpc.ProtocolGRE
	case 10:
		return pick(g.Rand, numbered)
	}
	if f == vpc.IPv6 {
		return vpc.ProtocolICMPv6
	}
	return vpc.ProtocolICMP
}

// ports returns nil, one port, a range, or a list, for a protocol that has ports.
func (g *generator) ports(proto vpc.Protocol, percent int) vpc.Ports {
	if !proto.HasPorts() || !g.chance(percent) {
		return nil
	}
	at := g.IntN(len(edges))
	one := vpc.PortRange{From: edges[at], To: edges[at]}
	if at+1 < len(edges) && g.chance(50) {
		one.To = edges[at+1]
	}
	if g.chance(25) && at > 0 {
		return vpc.Ports{{From: edges[at-1], To: edges[at-1]}, one}
	}
	return vpc.Ports{one}
}

func (g *generator) rule(v *vpc.VPCSpec, group *vpc.GroupSpec) *vpc.RuleSpec {
	f := g.family()
	r := &vpc.RuleSpec{
		ID: g.id("sgr-"), Direction: pick(g.Rand, []vpc.Direction{vpc.Ingress, vpc.Egress}),
		Policy: vpc.Accept, Protocol: g.protocol(f), Priority: pick(g.Rand, []int{1, 1, 1, 2, 10, 50, 100}),
	}
	// Ingress is closed by default and basic egress is open: what goes against the default is what can be seen.
	if against := r.Direction == vpc.Egress && group.Type == vpc.GroupBasic; against && g.chance(75) || g.chance(20) {
		r.Policy = vpc.Drop
	}
	r.Ports, r.SourcePorts = g.ports(r.Protocol, 60), g.ports(r.Protocol, 15)
	peer := vpc.Peer{Kind: vpc.PeerPrefix, Prefix: g.prefix(v, f)}
	basics := slices.DeleteFunc(slices.Clone(v.SecurityGroups), func(s *vpc.GroupSpec) bool { return s.Type != vpc.GroupBasic })
	switch k := g.IntN(10); {
	case k < 3 && group.Type == vpc.GroupBasic:
		peer = vpc.Peer{Kind: vpc.PeerGroup, Name: pick(g.Rand, basics).Name}
	case k == 3:
		peer = vpc.Peer{Kind: vpc.PeerList, Name: "list-" + f.String()}
	}
	var other vpc.Peer
	if g.chance(12) {
		other = vpc.Peer{Kind: vpc.PeerPrefix, Prefix: g.prefix(v, f)}
	}
	r.Source, r.Destination = peer, other
	if r.Direction == vpc.Egress {
		r.Source, r.Destination = other, peer
	}
	return r
}

// sameMatch reports whether two rules say the same but for ID, policy and priority.
func sameMatch(a, b *vpc.RuleSpec) bool {
	return a.Direction == b.Direction && a.Protocol == b.Protocol && slices.Equal(a.Ports, b.Ports) &&
		slices.Equal(a.SourcePorts, b.SourcePorts) && a.Source == b.Source && a.Destination == b.Destination &&
		a.Policy == b.Policy
}

func (g *generator) acl(v *vpc.VPCSpec, i int) *vpc.ACLSpec {
	a := &vpc.ACLSpec{ID: g.id("nacl-"), Name: fmt.Sprintf("acl%d", i)}
	a.Ingress, a.Egress = g.entries(v, vpc.Ingress), g.entries(v, vpc.Egress)
	return a
}

func (g *generator) entries(v *vpc.VPCSpec, dir vpc.Direction) []*vpc.EntrySpec {
	var list []*vpc.EntrySpec
	add := func(p vpc.Policy, proto vpc.Protocol, peer vpc.Peer) {
		e := &vpc.EntrySpec{ID: g.id("nae-"), Policy: p, Protocol: proto, Ports: g.ports(proto, 70), Source: peer}
		if dir == vpc.Egress {
			e.Source, e.Destination = vpc.Peer{}, peer
		}
		list = append(list, e)
	}
	for range g.IntN(g.size.Entries + 1) {
		f := g.family()
		peer := vpc.Peer{Kind: vpc.PeerPrefix, Prefix: g.prefix(v, f)}
		if g.chance(10) {
			peer = vpc.Peer{Kind: vpc.PeerList, Name: "list-" + f.String()}
		}
		policy := vpc.Accept
		if g.chance(35) {
			policy = vpc.Drop
		}
		add(policy, g.protocol(f), peer)
	}
	for _, f := range vpc.Families() { // most ACLs close with what their owner wants to pass
		if g.chance(75) {
			add(vpc.Accept, vpc.ProtocolAll, vpc.Peer{Kind: vpc.PeerPrefix, Prefix: everywhere[f]})
		}
	}
	return list
}
