package vpc

import (
	"fmt"
	"net/netip"
	"strings"
)

// StageHint names the rule or entry that comes nearest to admitting a packet that a stage drops, and what it lacks:
// "sgr-… accepts tcp/5432 from sg:app; web-1 is not in app".
type StageHint struct {
	Rule   string `json:"rule"`
	Detail string `json:"detail"`
}

// Nearest looks for a hint for one of the stages of groups and network ACLs. There is none when the stage does not drop
// the packet, or when no rule there is about anything like it.
func Nearest(s *Snapshot, p Packet, stage Stage) (StageHint, bool) {
	var best nearest
	switch out := s.Route(p.Dst); stage {
	case StageSGEgress:
		best.searchGroups(s, p, Egress)
	case StageSGIngress:
		best.searchGroups(s, p, Ingress)
	case StageNACLEgress:
		best.searchACL(s, p, Egress, p.In, out)
	case StageNACLIngress:
		best.searchACL(s, p, Ingress, out, p.In)
	}
	return best.hint, best.found
}

// tooFar is the distance from which a rule is about something else altogether.
const tooFar = 3

// nearest keeps the first of the candidates that lack least.
type nearest struct {
	hint     StageHint
	distance int
	found    bool
}

func (n *nearest) offer(id, phrase string, m misses) {
	if m.distance < tooFar && (!n.found || m.distance < n.distance) {
		*n = nearest{StageHint{Rule: id, Detail: phrase + "; " + strings.Join(m.why, ", ")}, m.distance, true}
	}
}

func (n *nearest) searchGroups(s *Snapshot, p Packet, dir Direction) {
	verdict := judgeGroups(s, p, dir)
	own, peer := p.ends(dir)
	nic := s.InterfaceByAddr(own)
	if verdict.Verdict != StageDrop || nic == nil {
		return
	}
	for _, r := range nic.EffectiveRules(dir) {
		if r.Policy != Accept {
			continue
		}
		var m misses
		m.service(p, r.Protocol, r.Ports)
		if !p.portIn(r.SourcePorts, p.SrcPort) {
			m.add(1, "source port %d is not among %s", p.SrcPort, r.SourcePorts)
		}
		if !r.admitsPeer(s, peer) {
			m.add(1, "%s is not %s", peerName(s, r.Peer(), peer), within(r.Peer()))
		}
		if !r.coversOwn(own) {
			m.add(1, "%s is not %s", own, within(r.OtherEnd()))
		}
		if len(m.why) == 0 {
			m.add(0, "%s comes first", verdict.Rule)
		}
		n.offer(r.ID, r.ID+" "+r.phrase(), m)
	}
}

func (n *nearest) searchACL(s *Snapshot, p Packet, dir Direction, here, there Place) {
	verdict := judgeACL(p, dir, here, there)
	if verdict.Verdict != StageDrop {
		return
	}
	_, peer := p.ends(dir)
	for _, e := range here.VSwitch.ACL.Entries(dir) {
		if e.Policy != Accept {
			continue
		}
		var m misses
		m.service(p, e.Protocol, e.Ports)
		if !inPrefix(e.Peer, e.List, peer) {
			m.add(1, "%s is not %s", peerName(s, e.Peer, peer), within(e.Peer))
		}
		if len(m.why) == 0 {
			m.add(0, "%s comes first", verdict.Detail)
		}
		n.offer(e.ID, fmt.Sprintf("%s entry %d %s", e.ACL.Name, e.Index, e.phrase(dir)), m)
	}
}

// misses collects what a rule asks and the packet lacks.
type misses struct {
	why      []string
	distance int
}

func (m *misses) add(distance int, format string, args ...any) {
	m.distance += distance
	m.why = append(m.why, fmt.Sprintf(format, args...))
}

// service compares protocol and destination port. Another protocol is further away than another port.
func (m *misses) service(p Packet, proto Protocol, ports Ports) {
	if !p.is(proto) {
		m.add(2, "the packet is %s", p.service())
	} else if !p.portIn(ports, p.DstPort) {
		m.add(1, "port %d is not among %s", p.DstPort, ports)
	}
}

// peerName is how a person knows the address: by its instance where the rule names a group.
func peerName(s *Snapshot, peer Peer, a netip.Addr) string {
	if nic := s.InterfaceByAddr(a); nic != nil && peer.Kind == PeerGroup {
		return nic.Instance.Name
	}
	return a.String()
}

// within says where an address would have to be: "in 10.0.0.0/8", "in app", or just the address that the rule names.
func within(p Peer) string {
	switch {
	case p.Kind == PeerGroup:
		return "in " + p.Name
	case p.Kind == PeerPrefix && p.Prefix.IsSingleIP():
		return p.short()
	}
	return "in " + p.String()
}
