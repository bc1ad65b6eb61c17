package vpc

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Snapshot is one revision of the desired state, resolved: names have become pointers, and everything can be looked up.
// It is immutable and safe for any number of readers; whoever needs a consistent answer takes it once.
//
// What has not changed is not made again. Objects of a Spec are immutable and shared between revisions, so that the same
// pointer (Interface.InterfaceSpec, SecurityGroup.GroupSpec …) means the same content. A VPC in which nothing has changed
// is shared as a whole. In one that has, all resolved objects are new, because they point to each other, but the Specs
// in them tell which have changed. Compare finds these; whoever keeps something that follows from a snapshot keeps the
// snapshot beside it, and brings it up to date with what Compare says. The result must equal what a start from nothing
// gives, and tests say that it does.
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

	slots    []*Interface // each has its place from one snapshot to the next; nil: free
	byMAC    map[macKey]int32
	gateways map[netip.Addr]*VSwitch

	addrs    sync.Once // fills byAddr and byPrefix, unless they follow from the snapshot before
	byAddr   map[netip.Addr]int32
	byPrefix map[netip.Prefix]int32 // those delegated to interfaces

	outside     sync.Once     // fills outsideAddr
	outsideAddr [2]netip.Addr // see internet
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
	sets      [][]*SecurityGroup // the sets of groups that interfaces have
}

// VSwitch is a vSwitch of a snapshot.
type VSwitch struct {
	*VSwitchSpec
	VPC              *VPC
	ACL              *NetworkACL // nil: unfiltered
	EnrollmentGroups []*SecurityGroup
	Interfaces       []*Interface // by ID
	pos              int32        // in VPC.VSwitches
}

// SecurityGroup is a security group of a snapshot.
type SecurityGroup struct {
	*GroupSpec
	VPC     *VPC
	Rules   []*Rule      // as declared
	Members []*Interface // by ID
	pos     int32        // in VPC.Groups
}

// Rule is one rule of a group with its references resolved. It names nothing that belongs to one snapshot only: snapshots with
// the same groups and prefix lists share their rules.
type Rule struct {
	*RuleSpec
	Group     *GroupSpec      // that it is of
	PeerGroup *GroupSpec      // Peer().Kind is PeerGroup
	PeerList  *PrefixListSpec // Peer().Kind is PeerList
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
	Index int             // position in its direction, from 1
	Peer  Peer            // Source on ingress, Destination on egress
	List  *PrefixListSpec // Peer.Kind is PeerList
}

// Instance is an instance of a snapshot.
type Instance struct {
	*InstanceSpec
	VPC        *VPC
	Interfaces []*Interface // as declared: the first is the primary one
	pos        int32        // in VPC.Instances
}

// Interface is a network interface of a snapshot.
type Interface struct {
	*InterfaceSpec
	Instance *Instance
	VSwitch  *VSwitch
	Groups   []*SecurityGroup // by ID, each once; those with the same groups may share the list
	set      int32            // Groups in VPC.sets
	slot     int32            // its place in Snapshot.slots
}

// InterfaceByAddr returns the interface that the address belongs to: that has it, primary or secondary, of either family, or
// a prefix that it lies in.
func (s *Snapshot) InterfaceByAddr(a netip.Addr) *Interface {
	if n := s.Holder(a); n != nil {
		return n
	}
	if len(s.byPrefix) > 0 {
		if slot, ok := s.byPrefix[delegatedTo(a)]; ok {
			return s.slots[slot]
		}
	}
	return nil
}

// Holder returns the interface that has the address itself, and not by a prefix: which answers for it on its link.
func (s *Snapshot) Holder(a netip.Addr) *Interface {
	if slot, ok := s.slotsByAddr()[a]; ok {
		return s.slots[slot]
	}
	return nil
}

// slotsByAddr makes the tables when it is first asked for: the first guests after a start are found by their MACs.
func (s *Snapshot) slotsByAddr() map[netip.Addr]int32 {
	s.addrs.Do(func() {
		if s.byAddr != nil {
			return
		}
		n := 0
		for _, nic := range s.Interfaces {
			for range nic.Addrs {
				n++
			}
		}
		s.byAddr = make(map[netip.Addr]int32, n)
		for _, nic := range s.Interfaces {
			for a := range nic.Addrs {
				s.byAddr[a] = nic.slot
			}
			for _, p := range nic.IPv6Prefixes {
				if s.byPrefix == nil {
					s.byPrefix = map[netip.Prefix]int32{}
				}
				s.byPrefix[p] = nic.slot
			}
		}
	})
	return s.byAddr
}

// InterfaceByMAC returns the interface with that MAC; MACs are unique on a gateway.
func (s *Snapshot) InterfaceByMAC(m MAC) *Interface {
	if slot, ok := s.byMAC[keyOf(m)]; ok {
		return s.slots[slot]
	}
	return nil
}

// macKey is a MAC as a number, which maps find faster.
type macKey uint64

func keyOf(m MAC) macKey {
	return macKey(m[0])<<40 | macKey(m[1])<<32 | macKey(m[2])<<24 | macKey(m[3])<<16 | macKey(m[4])<<8 | macKey(m[5])
}

// VSwitchByID returns the vSwitch with that ID; nil if there is none.
func (s *Snapshot) VSwitchByID(id string) *VSwitch {
	i, ok := slices.BinarySearchFunc(s.VSwitches, id, func(w *VSwitch, id string) int { return strings.Compare(w.ID, id) })
	if !ok {
		return nil
	}
	return s.VSwitches[i]
}

// GroupByID returns the security group with that ID; nil if there is none.
func (s *Snapshot) GroupByID(id string) *SecurityGroup {
	i, ok := slices.BinarySearchFunc(s.Groups, id, func(g *SecurityGroup, id string) int { return strings.Compare(g.ID, id) })
	if !ok {
		return nil
	}
	return s.Groups[i]
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

// SameBindings reports whether two interfaces have the same MAC and the same addresses and prefixes.
func (i *Interface) SameBindings(o *Interface) bool {
	a, b := i.InterfaceSpec, o.InterfaceSpec
	return a == b || a.MAC == b.MAC && a.PrivateIP == b.PrivateIP &&
		slices.Equal(a.SecondaryPrivateIPs, b.SecondaryPrivateIPs) && slices.Equal(a.IPv6Addresses, b.IPv6Addresses) &&
		slices.Equal(a.IPv6Prefixes, b.IPv6Prefixes)
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
