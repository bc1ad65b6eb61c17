package vpc

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Snapshot is one revision of the desired state, resolved: names have become pointers, and everything can be looked up.
// It is immutable and safe for any number of readers; whoever needs a consistent answer takes it once.
type Snapshot struct {
	Revision uint64
	Spec     *Spec
	Host     Host

	VPCs        []*VPC           // by name
	VSwitches   []*VSwitch       // by ID, of all VPCs, as all the lists below
	Groups      []*SecurityGroup // by ID
	PrefixLists []*PrefixList    // by ID
	NetworkACLs []*NetworkACL    // by ID
	Instances   []*Instance      // by ID
	Interfaces  []*Interface     // by ID

	interfaceByAddr map[netip.Addr]*Interface
	interfaceByMAC  map[MAC]*Interface
	gateways        map[netip.Addr]*VSwitch
}

// VPC is a VPC of a snapshot.
type VPC struct {
	*VPCSpec
	Domain    string // never empty, without the final dot
	VSwitches []*VSwitch
	Groups    []*SecurityGroup
	Lists     []*PrefixList
	ACLs      []*NetworkACL
	Instances []*Instance
	Zones     []*PrivateZoneSpec // its own and those it shares
	prefixes  []netip.Prefix
}

// VSwitch is a vSwitch of a snapshot.
type VSwitch struct {
	*VSwitchSpec
	VPC              *VPC
	ACL              *NetworkACL // nil: unfiltered
	EnrollmentGroups []*SecurityGroup
	Interfaces       []*Interface // by ID
}

// SecurityGroup is a security group of a snapshot.
type SecurityGroup struct {
	*GroupSpec
	VPC     *VPC
	Rules   []*Rule      // as declared
	Members []*Interface // by ID
}

// Rule is one rule of a group with its references resolved.
type Rule struct {
	*RuleSpec
	Group     *SecurityGroup
	PeerGroup *SecurityGroup // Peer().Kind is PeerGroup
	PeerList  *PrefixList    // Peer().Kind is PeerList
}

// PrefixList is a prefix list of a snapshot.
type PrefixList struct {
	*PrefixListSpec
	VPC *VPC
}

// NetworkACL is a network ACL of a snapshot.
type NetworkACL struct {
	*ACLSpec
	VPC     *VPC
	Ingress []*Entry
	Egress  []*Entry
}

// Entry is one entry of a network ACL with its reference resolved.
type Entry struct {
	*EntrySpec
	ACL   *NetworkACL
	Index int         // position in its direction, from 1
	Peer  Peer        // Source on ingress, Destination on egress
	List  *PrefixList // Peer.Kind is PeerList
}

// Instance is an instance of a snapshot.
type Instance struct {
	*InstanceSpec
	VPC        *VPC
	Interfaces []*Interface // as declared: the first is the primary one
}

// Interface is a network interface of a snapshot.
type Interface struct {
	*InterfaceSpec
	Instance *Instance
	VSwitch  *VSwitch
	Groups   []*SecurityGroup // by ID, each once
}

// NewSnapshot resolves a complete, valid Spec (see Validate). The Spec must not be changed afterwards.
// References that do not resolve, which Validate refuses, are left nil.
func NewSnapshot(spec *Spec, host Host, revision uint64) *Snapshot {
	s := &Snapshot{
		Revision: revision, Spec: spec, Host: host,
		interfaceByAddr: map[netip.Addr]*Interface{},
		interfaceByMAC:  map[MAC]*Interface{},
		gateways:        map[netip.Addr]*VSwitch{},
	}
	for _, v := range spec.VPCs {
		s.addVPC(v)
	}
	for _, z := range spec.PrivateZones {
		for _, v := range s.VPCs {
			if slices.Contains(z.VPCs, v.Name) {
				v.Zones = append(v.Zones, z)
			}
		}
	}
	slices.SortFunc(s.VPCs, func(a, b *VPC) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.VSwitches, func(a, b *VSwitch) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(s.Groups, func(a, b *SecurityGroup) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(s.PrefixLists, func(a, b *PrefixList) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(s.NetworkACLs, func(a, b *NetworkACL) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(s.Instances, func(a, b *Instance) int { return strings.Compare(a.ID, b.ID) })
	byID := func(a, b *Interface) int { return strings.Compare(a.ID, b.ID) }
	slices.SortFunc(s.Interfaces, byID)
	for _, i := range s.Interfaces {
		i.VSwitch.Interfaces = append(i.VSwitch.Interfaces, i)
		for _, g := range i.Groups {
			g.Members = append(g.Members, i)
		}
	}
	return s
}

func (s *Snapshot) addVPC(spec *VPCSpec) {
	v := &VPC{VPCSpec: spec, Domain: strings.TrimSuffix(spec.Domain, ".")}
	if v.Domain == "" {
		v.Domain = s.Host.Region + ".ecs.internal"
	}
	v.prefixes = append([]netip.Prefix{spec.CIDRBlock}, spec.SecondaryCIDRBlocks...)
	if spec.IPv6CIDRBlock.IsValid() {
		v.prefixes = append(v.prefixes, spec.IPv6CIDRBlock)
	}
	v.Zones = slices.Clone(spec.PrivateZones)
	s.VPCs = append(s.VPCs, v)

	lists := map[string]*PrefixList{}
	for _, p := range spec.PrefixLists {
		l := &PrefixList{PrefixListSpec: p, VPC: v}
		lists[p.Name] = l
		v.Lists = append(v.Lists, l)
		s.PrefixLists = append(s.PrefixLists, l)
	}
	acls := map[string]*NetworkACL{}
	for _, a := range spec.NetworkACLs {
		acl := &NetworkACL{ACLSpec: a, VPC: v}
		for i, e := range a.Ingress {
			acl.Ingress = append(acl.Ingress, &Entry{EntrySpec: e, ACL: acl, Index: i + 1, Peer: e.Source, List: lists[e.Source.Name]})
		}
		for i, e := range a.Egress {
			acl.Egress = append(acl.Egress, &Entry{EntrySpec: e, ACL: acl, Index: i + 1, Peer: e.Destination, List: lists[e.Destination.Name]})
		}
		acls[a.Name] = acl
		v.ACLs = append(v.ACLs, acl)
		s.NetworkACLs = append(s.NetworkACLs, acl)
	}
	groups := map[string]*SecurityGroup{}
	for _, g := range spec.SecurityGroups {
		sg := &SecurityGroup{GroupSpec: g, VPC: v}
		groups[g.Name] = sg
		v.Groups = append(v.Groups, sg)
		s.Groups = append(s.Groups, sg)
	}
	for _, g := range v.Groups {
		for _, r := range g.GroupSpec.Rules {
			rule := &Rule{RuleSpec: r, Group: g}
			switch p := r.Peer(); p.Kind {
			case PeerGroup:
				rule.PeerGroup = groups[p.Name]
			case PeerList:
				rule.PeerList = lists[p.Name]
			}
			g.Rules = append(g.Rules, rule)
		}
	}
	switches := map[string]*VSwitch{}
	for _, w := range spec.VSwitches {
		sw := &VSwitch{VSwitchSpec: w, VPC: v, ACL: acls[w.NetworkACL], EnrollmentGroups: pickGroups(groups, w.EnrollmentGroups)}
		switches[w.Name] = sw
		v.VSwitches = append(v.VSwitches, sw)
		s.VSwitches = append(s.VSwitches, sw)
		for _, f := range Families() {
			if g := sw.GatewayAddr(f); g.IsValid() {
				s.gateways[g] = sw
			}
		}
	}
	for _, i := range spec.Instances {
		inst := &Instance{InstanceSpec: i, VPC: v}
		for _, n := range i.Interfaces {
			sw := switches[n.VSwitch]
			if sw == nil {
				continue
			}
			nic := &Interface{InterfaceSpec: n, Instance: inst, VSwitch: sw, Groups: pickGroups(groups, n.SecurityGroups)}
			inst.Interfaces = append(inst.Interfaces, nic)
			s.Interfaces = append(s.Interfaces, nic)
			s.interfaceByMAC[n.MAC] = nic
			for a := range nic.Addrs {
				s.interfaceByAddr[a] = nic
			}
		}
		v.Instances = append(v.Instances, inst)
		s.Instances = append(s.Instances, inst)
	}
}

// pickGroups returns the named groups by ID, each once.
func pickGroups(all map[string]*SecurityGroup, names []string) []*SecurityGroup {
	out := make([]*SecurityGroup, 0, len(names))
	for _, n := range names {
		if g := all[n]; g != nil && !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b *SecurityGroup) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// InterfaceByAddr returns the interface that has the address, primary or secondary, of either family.
func (s *Snapshot) InterfaceByAddr(a netip.Addr) *Interface { return s.interfaceByAddr[a] }

// InterfaceByMAC returns the interface with that MAC; MACs are unique on a gateway.
func (s *Snapshot) InterfaceByMAC(m MAC) *Interface { return s.interfaceByMAC[m] }

// VSwitchByID returns the vSwitch with that ID; nil if there is none.
func (s *Snapshot) VSwitchByID(id string) *VSwitch {
	i, ok := slices.BinarySearchFunc(s.VSwitches, id, func(w *VSwitch, id string) int { return strings.Compare(w.ID, id) })
	if !ok {
		return nil
	}
	return s.VSwitches[i]
}

// GatewayOf returns the vSwitch whose gateway address a is (fe80::1 belongs to every one and is not listed).
func (s *Snapshot) GatewayOf(a netip.Addr) *VSwitch { return s.gateways[a] }

// VPCOf returns the VPC whose ranges contain the address.
func (s *Snapshot) VPCOf(a netip.Addr) *VPC {
	for _, v := range s.VPCs {
		if v.Contains(a) {
			return v
		}
	}
	return nil
}

// VSwitchOf returns the vSwitch whose ranges contain the address.
func (s *Snapshot) VSwitchOf(a netip.Addr) *VSwitch {
	v := s.VPCOf(a)
	if v == nil {
		return nil
	}
	for _, w := range v.VSwitches {
		if w.Contains(a) {
			return w
		}
	}
	return nil
}

// Route says where a packet for dst leaves: the gateway itself (which is also the only one to hear multicast and the
// limited broadcast), a vSwitch link, nowhere (a link-local address; inside a VPC but in no vSwitch, or in a vSwitch that
// is only relayed), or an uplink if there is one.
func (s *Snapshot) Route(dst netip.Addr) Place {
	if w := s.gateways[dst]; w != nil && w.HasLink() || dst == RouterLinkLocal || dst.IsMulticast() || dst == LimitedBroadcast {
		return Place{Kind: PlaceGateway}
	}
	if s.VPCOf(dst) != nil {
		if w := s.VSwitchOf(dst); w != nil && w.HasLink() {
			return Place{Kind: PlaceVSwitch, VSwitch: w}
		}
		return Place{}
	}
	if len(s.Host.Uplinks) > 0 && !isLinkLocal(dst) {
		return Place{Kind: PlaceUplink}
	}
	return Place{}
}

// Prefixes returns every range of the VPC, IPv4 first.
func (v *VPC) Prefixes() []netip.Prefix { return v.prefixes }

// Contains reports whether the address lies in one of the VPC's ranges.
func (v *VPC) Contains(a netip.Addr) bool {
	for _, p := range v.prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// RouterLinkLocal is the router that IPv6 guests use on every vSwitch.
var RouterLinkLocal = netip.MustParseAddr("fe80::1")

// Prefix returns the vSwitch's range of a family; invalid when it has none.
func (w *VSwitchSpec) Prefix(f Family) netip.Prefix {
	if f == IPv6 {
		return w.IPv6CIDRBlock
	}
	return w.CIDRBlock
}

// Contains reports whether the address lies in one of the vSwitch's ranges.
func (w *VSwitchSpec) Contains(a netip.Addr) bool {
	return w.CIDRBlock.Contains(a) || w.IPv6CIDRBlock.IsValid() && w.IPv6CIDRBlock.Contains(a)
}

// GatewayAddr returns the gateway's address of a family: IPv4 as declared or the third last of the range, IPv6 the host
// part ffff:ffff:ffff:fff7; invalid when the vSwitch does not have the family.
func (w *VSwitchSpec) GatewayAddr(f Family) netip.Addr {
	p := w.Prefix(f)
	if !p.IsValid() {
		return netip.Addr{}
	}
	if f == IPv4 {
		if w.Gateway.IsValid() {
			return w.Gateway
		}
		return LastAddr(p).Prev().Prev()
	}
	b := LastAddr(p).As16()
	b[15] = 0xf7
	return netip.AddrFrom16(b)
}

// HasLink reports whether the vSwitch has a link on this gateway; one that is only relayed has none.
func (w *VSwitchSpec) HasLink() bool { return len(w.Attach.Relay) == 0 }

// OwnsBridge reports whether the vSwitch's link is a bridge, which gatehouse manages with its ports.
func (w *VSwitchSpec) OwnsBridge() bool { return w.HasLink() && w.Attach.Interface == "" }

// LinkName returns the name of the vSwitch's link on the gateway, "" if it has none: what attach names, else gh- and the
// first eight characters of the ID's random part.
func (w *VSwitchSpec) LinkName() string {
	switch {
	case !w.HasLink():
		return ""
	case w.Attach.Interface != "":
		return w.Attach.Interface
	case w.Attach.Bridge != "":
		return w.Attach.Bridge
	}
	_, hex, _ := strings.Cut(w.ID, "-")
	if len(hex) > 8 {
		hex = hex[:8]
	}
	return "gh-" + hex
}

// LastAddr returns the last address of a prefix.
func LastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Addrs yields every address of the interface: the primary, the secondaries, then IPv6.
func (i *InterfaceSpec) Addrs(yield func(netip.Addr) bool) {
	if i.PrivateIP.IsValid() && !yield(i.PrivateIP) {
		return
	}
	for _, a := range i.SecondaryPrivateIPs {
		if !yield(a) {
			return
		}
	}
	for _, a := range i.IPv6Addresses {
		if !yield(a) {
			return
		}
	}
}

// Primary returns the interface's primary address of a family; invalid when it has none.
func (i *InterfaceSpec) Primary(f Family) netip.Addr {
	if f == IPv4 {
		return i.PrivateIP
	}
	if len(i.IPv6Addresses) > 0 {
		return i.IPv6Addresses[0]
	}
	return netip.Addr{}
}

// Type returns the type that all groups of the interface share.
func (i *Interface) Type() GroupType {
	for _, g := range i.Groups {
		return g.Type
	}
	return GroupAdvanced // an interface without a group, which Validate refuses, admits nothing
}
