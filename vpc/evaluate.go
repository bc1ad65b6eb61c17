package vpc

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Evaluate says what the policy makes of a packet. It is the policy's definition, written to be read: one function per
// stage, in the kernel's order, no index and no shortcut. The compiled rules and the kernel are compared with it.
//
// A packet to the gateway itself sees anti-spoof, vpc and host-access. A forwarded one sees anti-spoof, vpc, both network
// ACLs, conntrack and, unless conntrack knows its flow, the groups of both ends. What is none of ours sees the first two.
// The stages after a drop are judged and listed too. p.In must say where the packet enters.
//
// The stage anti-spoof sees the packet as it arrives, all others as a prefix translation makes it: with its destination
// inside the VPC.
func Evaluate(s *Snapshot, p Packet) Verdict {
	v := Verdict{Allowed: true}
	add := func(stage Stage, r StageResult) StageResult {
		r.Stage = stage
		v.Stages = append(v.Stages, r)
		v.Allowed = v.Allowed && r.Verdict != StageDrop
		return r
	}
	if p.In.Kind == PlaceGateway {
		add(StageVPC, result(StagePass, ReasonVPCHost, "the gateway's own traffic is not filtered"))
		return v
	}
	arrived := p
	p = s.Translated(p)
	out := s.Route(p.Dst)
	add(StageAntiSpoof, judgeSource(s, arrived, out))
	if add(StageVPC, judgeVPC(s, p, out)).Reason == ReasonNotOurs {
		return v
	}
	if out.Kind == PlaceGateway {
		add(StageHostAccess, judgeHostAccess(s, p))
		return v
	}
	add(StageNACLEgress, judgeACL(p, Egress, p.In, out))
	add(StageNACLIngress, judgeACL(p, Ingress, out, p.In))
	if add(StageConntrack, judgeState(p)).Verdict == StageAccept {
		return v
	}
	add(StageSGEgress, judgeGroups(s, p, Egress))
	add(StageSGIngress, judgeGroups(s, p, Ingress))
	return v
}

func result(v StageVerdict, r Reason, format string, args ...any) StageResult {
	return StageResult{Verdict: v, Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// judgeSource is the stage anti-spoof: address, MAC and link belong together, and nobody outside forges our addresses.
func judgeSource(s *Snapshot, p Packet, out Place) StageResult {
	if p.In.Kind != PlaceVSwitch {
		if _, translated := s.TranslationOf(p.Dst); p.Group && (translated || s.VPCOf(p.Dst) != nil) {
			return result(StageDrop, ReasonSpoofFrame, "a packet for %s in a frame for many stations", p.Dst)
		}
		if v := s.VPCOf(p.Src); v != nil {
			return result(StageDrop, ReasonSpoofOutside, "%s is inside VPC %s but enters by a link that is not a vSwitch", p.Src, v.Name)
		}
		if why := unroutable(p.Src); why != "" && out.Kind == PlaceVSwitch {
			return result(StageDrop, why, "nothing from %s is ever forwarded", p.Src)
		}
		return result(StagePass, ReasonSpoofOK, "it comes from outside")
	}
	w := p.In.VSwitch
	nic := s.InterfaceByAddr(p.Src)
	switch {
	// Connection tracking would know such a packet's flow before the policy has seen it.
	case p.Group && !p.Dst.IsMulticast() && p.Dst != LimitedBroadcast && (p.family() == IPv6 || p.Dst != LastAddr(w.CIDRBlock)):
		return result(StageDrop, ReasonSpoofFrame, "a packet for %s in a frame for many stations", p.Dst)
	case p.is(ProtocolICMPv6) && p.ICMPType == icmp6RouterAdvert:
		return result(StageDrop, ReasonRogueRA, "only the gateway advertises routers")
	case p.Protocol == ProtocolUDP && p.SrcPort == dhcpServerPort(p.family()):
		return result(StageDrop, ReasonRogueDHCP, "only the gateway answers as a DHCP server")
	case p.Src.IsUnspecified():
		if out.Kind == PlaceGateway && p.isBootstrap() {
			return result(StagePass, ReasonSpoofOK, "it has no address yet")
		}
		return result(StageDrop, ReasonSpoofUnspecified, "without a source address there is only DHCP and neighbour discovery")
	case isLinkLocal(p.Src):
		if isLinkLocal(p.Dst) || p.Dst.IsLinkLocalMulticast() || p.Dst == w.GatewayAddr(IPv6) {
			return result(StagePass, ReasonSpoofOK, "link-local, on its own link")
		}
		return result(StageDrop, ReasonSpoofLinkLocal, "a link-local source reaches nothing beyond its link")
	case unroutable(p.Src) != "":
		return result(StageDrop, ReasonSpoofSource, "%s can be nobody's source address", p.Src)
	case nic == nil || nic.VSwitch != w:
		return result(StageDrop, ReasonSpoofAddress, "no interface in vswitch %s has %s", w.Name, p.Src)
	case !p.SrcMAC.IsZero() && p.SrcMAC != nic.MAC:
		return result(StageDrop, ReasonSpoofAddress, "%s belongs to %s with MAC %s, not %s", p.Src, nic.ID, nic.MAC, p.SrcMAC)
	}
	return result(StagePass, ReasonSpoofOK, "source belongs to %s", nic.ID)
}

// judgeVPC is the stage vpc: inside one VPC, or between a VPC and an uplink.
func judgeVPC(s *Snapshot, p Packet, out Place) StageResult {
	from, to := p.In.VSwitch, s.VPCOf(p.Dst)
	if t, ok := s.TranslationOf(p.Dst); ok && p.In.Kind == PlaceUplink {
		return result(StageDrop, ReasonNoRoute, "%s is an address of VPC %s beyond %s, but connection tracking cannot translate this packet", p.Dst, t.VPC.Name, t.Uplink)
	}
	switch {
	case p.In.Kind != PlaceVSwitch && to == nil:
		return result(StagePass, ReasonNotOurs, "neither end is in a VPC")
	case out.Kind == PlaceGateway:
		return result(StagePass, ReasonVPCHost, "to the gateway itself")
	case p.In.Kind == PlaceVSwitch && to != nil && to != from.VPC:
		return result(StageDrop, ReasonVPCIsolated, "%s is in VPC %s, not in %s", p.Dst, to.Name, from.VPC.Name)
	case p.In.Kind != PlaceVSwitch && p.In.Kind != PlaceUplink:
		return result(StageDrop, ReasonLinkForeign, "it enters by a link that is neither vSwitch nor uplink")
	case out.Kind == PlaceNowhere && to != nil:
		return result(StageDrop, ReasonNoRoute, "no vSwitch with a link here has %s", p.Dst)
	case out.Kind == PlaceNowhere:
		return result(StageDrop, ReasonNoRoute, "no link leads to %s", p.Dst)
	case p.In.Kind == PlaceVSwitch && out.Kind == PlaceVSwitch:
		return result(StagePass, ReasonVPCSame, "same VPC")
	}
	return result(StagePass, ReasonVPCUplink, "between the VPC and an uplink")
}

// judgeHostAccess is the stage host-access: what instances may reach on the gateway. No ACL and no group applies there.
func judgeHostAccess(s *Snapshot, p Packet) StageResult {
	gw := s.GatewayOf(p.Dst) // nil: fe80::1, multicast or broadcast on the packet's own link
	unicast := gw != nil || p.Dst == RouterLinkLocal
	switch {
	case p.State == StateEstablished || p.isRelatedError():
		return result(StageAccept, ReasonHostReply, "part of an admitted flow")
	case p.In.Kind != PlaceVSwitch:
		return result(StageDrop, ReasonHostOutside, "%s answers only its own VPC", p.Dst)
	case gw != nil && gw.VPC != p.In.VSwitch.VPC:
		return result(StageDrop, ReasonHostForeign, "%s is a gateway address of VPC %s", p.Dst, gw.VPC.Name)
	case p.Protocol == ProtocolUDP && p.DstPort == dhcpServerPort(p.family()):
		return result(StageAccept, ReasonHostService, "DHCP")
	case p.is(ProtocolICMPv6) && slices.Contains(icmp6Neighbourhood, p.ICMPType):
		return result(StageAccept, ReasonHostService, "neighbour discovery")
	case unicast && p.Protocol.HasPorts() && p.DstPort == dnsPort:
		return result(StageAccept, ReasonHostService, "DNS")
	case unicast && p.isEchoRequest():
		return result(StageAccept, ReasonHostService, "echo")
	}
	for _, a := range s.Host.HostAccess {
		if unicast && a.Offered(p.In.VSwitch) && p.is(a.Protocol) && p.portIn(a.Ports, p.DstPort) {
			return result(StageAccept, ReasonHostAccess, "hostAccess offers %s", service(a.Protocol, a.Ports))
		}
	}
	return result(StageDrop, ReasonHostClosed, "the gateway does not offer %s", p.service())
}

// judgeACL is one of the stages nacl-egress and nacl-ingress, for the end of the way that lies at the place here. ACLs are
// stateless: they see every packet, also those of established flows, and none that stays inside one vSwitch.
func judgeACL(p Packet, dir Direction, here, there Place) StageResult {
	if here.Kind != PlaceVSwitch {
		return result(StagePass, ReasonNACLOutside, "that end is not in a vSwitch")
	}
	w := here.VSwitch
	switch {
	case w == there.VSwitch:
		return result(StagePass, ReasonNACLSame, "inside vswitch %s", w.Name)
	case w.ACL == nil:
		return result(StageAccept, ReasonNACLNone, "vswitch %s has no ACL", w.Name)
	case p.isRelatedError() && p.isTooBig():
		return result(StageAccept, ReasonNACLSystem, "path-MTU error of a known flow")
	}
	for _, e := range w.ACL.Entries(dir) {
		if e.matches(p, dir) {
			r := result(StageVerdict(e.Policy), ReasonNACLEntry, "%s entry %d", w.ACL.Name, e.Index)
			r.Rule = e.ID
			return r
		}
	}
	return result(StageDrop, ReasonNACLDefault, "%s: no %s entry admits it", w.ACL.Name, dir)
}

// judgeState is the stage conntrack. An accept here means that the first packet of the flow has passed the groups.
func judgeState(p Packet) StageResult {
	switch {
	case p.State == StateEstablished:
		return result(StageAccept, ReasonConnEstablished, "part of an admitted flow")
	case p.isRelatedError():
		return result(StageAccept, ReasonConnRelated, "an error about an admitted flow")
	case p.State == StateInvalid:
		return result(StageDrop, ReasonConnInvalid, "it makes no sense to connection tracking")
	case p.State == StateNew && p.Protocol == ProtocolTCP && p.NoSYN:
		return result(StageDrop, ReasonConnNotSYN, "it belongs to no known flow and does not open one")
	}
	return result(StagePass, ReasonConnNew, "first packet of a flow")
}

// judgeGroups is one of the stages sg-egress (of the source) and sg-ingress (of the destination): inner access before any
// rule, drops included; then the rules of all groups; then what the type of the groups says.
func judgeGroups(s *Snapshot, p Packet, dir Direction) StageResult {
	own, peer := p.ends(dir)
	nic := s.InterfaceByAddr(own)
	if nic == nil {
		if s.VPCOf(own) == nil && (dir == Ingress || p.In.Kind != PlaceVSwitch) {
			return result(StagePass, ReasonSGOutside, "%s is not an interface of ours", own)
		}
		return result(StageDrop, ReasonUnknownAddress, "no interface has %s", own)
	}
	if other := s.InterfaceByAddr(peer); other != nil {
		for _, g := range nic.Groups {
			if g.connects() && slices.Contains(other.Groups, g) {
				return result(StageAccept, ReasonSGInner, "inner access of %s: both are members", g.Name)
			}
		}
	}
	for _, r := range nic.EffectiveRules(dir) {
		if r.matches(s, p) {
			res := result(StageVerdict(r.Policy), ReasonSGRule, "%s of %s %s", r.ID, r.Group.Name, r.phrase())
			res.Rule = r.ID
			return res
		}
	}
	return groupDefault(nic, dir)
}

// groupDefault is what the groups of an interface say when no rule matches.
func groupDefault(nic *Interface, dir Direction) StageResult {
	switch of := "default of " + groupList(nic); {
	case nic.Type() == GroupBasic && dir == Egress:
		return result(StageAccept, ReasonSGDefaultBasicEgress, "%s", of)
	case nic.Type() == GroupBasic:
		return result(StageDrop, ReasonSGDefaultBasicIngress, "%s: no rule admits it", of)
	case dir == Egress:
		return result(StageDrop, ReasonSGDefaultAdvancedEgress, "%s: no rule admits it", of)
	default:
		return result(StageDrop, ReasonSGDefaultAdvancedIngress, "%s: no rule admits it", of)
	}
}

// EffectiveRules returns the rules of all groups of the interface in one direction, in the order in which they are asked:
// by priority, drop before accept, then by ID.
func (i *Interface) EffectiveRules(dir Direction) []*Rule {
	var rules []*Rule
	for _, g := range i.Groups {
		for _, r := range g.Rules {
			if r.Direction == dir {
				rules = append(rules, r)
			}
		}
	}
	slices.SortStableFunc(rules, func(a, b *Rule) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), -strings.Compare(string(a.Policy), string(b.Policy)), strings.Compare(a.ID, b.ID))
	})
	return rules
}

// Entries returns the entries of one direction, in order.
func (a *NetworkACL) Entries(dir Direction) []*Entry {
	if dir == Egress {
		return a.Egress
	}
	return a.Ingress
}

// connects reports whether members of the group reach each other whatever the rules say.
func (g *SecurityGroup) connects() bool { return g.Type == GroupBasic && g.InnerAccess != Drop }

// matches reports whether all that the rule names is true of the packet.
func (r *Rule) matches(s *Snapshot, p Packet) bool {
	own, peer := p.ends(r.Direction)
	return p.is(r.Protocol) && p.portIn(r.Ports, p.DstPort) && p.portIn(r.SourcePorts, p.SrcPort) &&
		r.admitsPeer(s, peer) && r.coversOwn(own)
}

// admitsPeer reports whether the rule is about the peer. A group stands for every address of its members.
func (r *Rule) admitsPeer(s *Snapshot, peer netip.Addr) bool {
	if r.PeerGroup != nil {
		nic := s.InterfaceByAddr(peer)
		return nic != nil && slices.ContainsFunc(nic.Groups, func(g *SecurityGroup) bool { return g.GroupSpec == r.PeerGroup })
	}
	return inPrefix(r.Peer(), r.PeerList, peer)
}

// coversOwn reports whether a five-tuple rule is about the interface's own address.
func (r *Rule) coversOwn(own netip.Addr) bool {
	other := r.OtherEnd()
	return other.IsZero() || other.Prefix.Contains(own)
}

// matches reports whether all that the entry names is true of the packet.
func (e *Entry) matches(p Packet, dir Direction) bool {
	_, peer := p.ends(dir)
	return p.is(e.Protocol) && p.portIn(e.Ports, p.DstPort) && inPrefix(e.Peer, e.List, peer)
}

// inPrefix reports whether the address is in a prefix or a prefix list; one of the other family never is.
func inPrefix(peer Peer, list *PrefixListSpec, a netip.Addr) bool {
	switch {
	case peer.Kind == PeerPrefix:
		return peer.Prefix.Contains(a)
	case list != nil:
		return slices.ContainsFunc(list.Entries, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return false
}

// groupList names the groups of an interface: "basic group web", "advanced groups app, db".
func groupList(nic *Interface) string {
	names := make([]string, len(nic.Groups))
	for i, g := range nic.Groups {
		names[i] = g.Name
	}
	if len(names) == 1 {
		return fmt.Sprintf("%s group %s", nic.Type(), names[0])
	}
	return fmt.Sprintf("%s groups %s", nic.Type(), strings.Join(names, ", "))
}
