package server

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"

	"gatehouse/firewall/reconcile"
	"gatehouse/server/api"
	"gatehouse/vpc"
)

// ephemeralPort is the source port of a connection whose source port nobody asked about: the middle of the range that
// clients use, where a rule about source ports seldom looks.
const ephemeralPort = 49152

// Explain walks the first packet of a connection, and where ACLs look at it the reply, through the ruleset that is in
// force. It is not a second reading of the policy; only the hints of what would change the answer are.
func (g *Gateway) Explain(ctx context.Context, r api.ExplainRequest) (*api.Explanation, error) {
	force := g.firewall.Current()
	if force == nil {
		return nil, api.Errorf(api.CodeUnavailable, "nothing is in force yet: see 'gatehouse status'")
	}
	s := force.Snapshot
	p, from, to, err := packetOf(s, r)
	if err != nil {
		return nil, err
	}
	v, asked := traced(force, p), p.Dst
	p, translated := translation(s, p)
	if n, err := s.Resolve(p.Dst.String()); err == nil && p.Dst != asked {
		to = n.Name
	}
	e := &api.Explanation{
		From: from, FromAddr: p.Src, To: to, ToAddr: asked, Protocol: p.Protocol, Port: p.DstPort,
		Revision: s.Revision, Kernel: "in force", Notes: append(translated, g.blindSpots(s, p)...),
	}
	e.Allowed = v.Allowed
	e.Stages = explainStages(s, p, v)
	if back, ok := replyOf(s, p); ok && v.Allowed {
		bv := traced(force, back)
		e.Reply = explainStages(s, back, bv)
		if !bv.Allowed {
			e.Allowed = false
			e.Notes = append(e.Notes, "the first packet passes, but the reply does not: network ACLs are stateless")
		}
	}
	if err := g.firewall.InForce(ctx); err != nil {
		e.Kernel = err.Error()
	}
	return e, nil
}

// translation returns the packet as a prefix translation makes it, and says what becomes of its addresses.
func translation(s *vpc.Snapshot, p vpc.Packet) (vpc.Packet, []string) {
	notes := []string{}
	out := s.Translated(p)
	if out.Dst != p.Dst {
		who := "no instance has it"
		if n := s.InterfaceByAddr(out.Dst); n != nil {
			who = "instance " + n.Instance.Name
		}
		notes = append(notes, fmt.Sprintf("%s is translated to %s: %s", p.Dst, out.Dst, who))
	}
	if v := s.VPCOf(p.Src); v != nil && s.Route(out.Dst).Kind == vpc.PlaceUplink {
		for _, t := range s.Translations(v) {
			if t.Internal.Contains(p.Src) {
				notes = append(notes, fmt.Sprintf("%s is translated to %s where it leaves by %s", p.Src, vpc.Rebase(p.Src, t.External), t.Uplink))
			}
		}
	}
	return out, notes
}

// traced is the compiled ruleset's verdict in people's words: the stage, verdict, rule and reason are the ruleset's; the
// detail is the policy's where both agree, which the tests prove that they do.
func traced(force *reconcile.Force, p vpc.Packet) vpc.Verdict {
	v := force.Trace(p)
	plain := map[vpc.Stage]vpc.StageResult{}
	for _, st := range vpc.Evaluate(force.Snapshot, p).Stages {
		plain[st.Stage] = st
	}
	for i, st := range v.Stages {
		if same := plain[st.Stage]; st.Detail == "" && same.Verdict == st.Verdict && same.Reason == st.Reason {
			v.Stages[i].Detail = same.Detail
		}
		if v.Stages[i].Detail == "" {
			v.Stages[i].Detail = string(st.Reason)
		}
	}
	return v
}

// explainStages adds the nearest rule to the stages that drop. That the first packet of a flow is the first of a flow is
// not worth a line.
func explainStages(s *vpc.Snapshot, p vpc.Packet, v vpc.Verdict) []api.ExplainStage {
	out := make([]api.ExplainStage, 0, len(v.Stages))
	for _, st := range v.Stages {
		if st.Reason == vpc.ReasonConnNew {
			continue
		}
		shown := api.ExplainStage{StageResult: st}
		if st.Verdict == vpc.StageDrop {
			if hint, ok := vpc.Nearest(s, p, st.Stage); ok {
				shown.Nearest = hint.Detail
			}
		}
		out = append(out, shown)
	}
	return out
}

// packetOf makes the first packet of the connection that was asked about.
func packetOf(s *vpc.Snapshot, r api.ExplainRequest) (p vpc.Packet, from, to string, err error) {
	src, err := s.Resolve(r.From)
	if err != nil {
		return p, "", "", api.Errorf(api.CodeInvalid, "FROM: %v", err)
	}
	dst, err := s.Resolve(r.To)
	if err != nil {
		return p, "", "", api.Errorf(api.CodeInvalid, "TO: %v", err)
	}
	_, external := s.TranslationOf(dst.Addr)
	if src.Interface == nil && dst.Interface == nil && src.Gateway == nil && dst.Gateway == nil && s.VPCOf(src.Addr) == nil && s.VPCOf(dst.Addr) == nil && !external {
		return p, "", "", api.Errorf(api.CodeInvalid, "neither %s nor %s is in a VPC: the gateway has no say between them", r.From, r.To)
	}
	family, err := chooseFamily(src, dst, r)
	if err != nil {
		return p, "", "", err
	}
	p = vpc.Packet{Src: src.Address(family), Dst: dst.Address(family), Protocol: r.Protocol}
	if p.Protocol.HasPorts() {
		p.SrcPort, p.DstPort = r.SrcPort, r.Port
		if p.SrcPort == 0 {
			p.SrcPort = ephemeralPort
		}
	}
	switch {
	case p.Protocol == vpc.ProtocolICMP:
		p.ICMPType = 8 // echo request
	case p.Protocol == vpc.ProtocolICMPv6:
		p.ICMPType = 128
	}
	p.In = entryOf(s, p.Src)
	return p, src.Name, dst.Name, nil
}

// entryOf says where a packet from an address enters: its vSwitch, the gateway itself, or an uplink.
func entryOf(s *vpc.Snapshot, src netip.Addr) vpc.Place {
	place := s.Route(src)
	if place.Kind == vpc.PlaceNowhere {
		place.Kind = vpc.PlaceForeign
	}
	return place
}

// chooseFamily picks the family that both ends have; IPv4 where both are possible, unless IPv6 was asked for.
func chooseFamily(src, dst vpc.Endpoint, r api.ExplainRequest) (vpc.Family, error) {
	order := []vpc.Family{vpc.IPv4, vpc.IPv6}
	if r.IPv6 || r.Protocol == vpc.ProtocolICMPv6 {
		order = []vpc.Family{vpc.IPv6, vpc.IPv4}
	}
	for i, f := range order {
		if src.Address(f).IsValid() && dst.Address(f).IsValid() {
			if i > 0 && (r.IPv6 || r.Protocol == vpc.ProtocolICMPv6) {
				break
			}
			return f, nil
		}
	}
	return 0, api.Errorf(api.CodeInvalid, "%s and %s have no address of one family that fits the question", r.From, r.To)
}

// replyOf makes the reply to a packet, where it has to pass ACLs of its own.
func replyOf(s *vpc.Snapshot, p vpc.Packet) (vpc.Packet, bool) {
	in, out := p.In, s.Route(p.Dst)
	if out.Kind != vpc.PlaceVSwitch && out.Kind != vpc.PlaceUplink || in.VSwitch == out.VSwitch {
		return p, false
	}
	if (in.VSwitch == nil || in.VSwitch.ACL == nil) && (out.VSwitch == nil || out.VSwitch.ACL == nil) {
		return p, false
	}
	back := p
	back.In = out
	back.Src, back.Dst = p.Dst, p.Src
	back.SrcPort, back.DstPort = p.DstPort, p.SrcPort
	back.State = vpc.StateEstablished
	switch {
	case p.Protocol == vpc.ProtocolICMP:
		back.ICMPType = 0
	case p.Protocol == vpc.ProtocolICMPv6:
		back.ICMPType = 129
	}
	return back, true
}

// blindSpots says what the gateway cannot see on this way.
func (g *Gateway) blindSpots(s *vpc.Snapshot, p vpc.Packet) []string {
	notes := []string{}
	if nic := s.InterfaceByAddr(p.Dst); nic != nil {
		notes = append(notes, "a firewall inside "+nic.Instance.Name+" may still refuse what passes here")
		if in := p.In.VSwitch; in != nil && in == nic.VSwitch && !in.OwnsBridge() {
			notes = append(notes, "vSwitch "+in.Name+" is a plain link ("+in.LinkName()+"): guests on it that set their own routes can go round the gateway")
		}
	}
	return notes
}

// evaluateTest carries out one assertion.
func evaluateTest(s *vpc.Snapshot, t *vpc.TestSpec) (api.TestResult, error) {
	r := api.TestResult{From: t.From, To: t.To, Protocol: t.Protocol, Port: t.Port, Expect: t.Expect}
	p, _, _, err := packetOf(s, api.ExplainRequest{From: t.From, To: t.To, Protocol: t.Protocol, Port: uint16(t.Port)})
	if err != nil {
		return r, err
	}
	v := vpc.Evaluate(s, p)
	if v.Allowed {
		if back, ok := replyOf(s, s.Translated(p)); ok {
			v = vpc.Evaluate(s, back)
		}
	}
	r.Got = vpc.Accept
	if d, dropped := v.Deciding(); dropped {
		r.Got = vpc.Drop
		r.Decided = string(d.Stage) + ": " + d.Detail
	}
	r.OK = r.Got == r.Expect
	return r, nil
}

// Test carries out the assertions of manifests against what is stored.
func (g *Gateway) Test(_ context.Context, files []api.File) ([]api.TestResult, error) {
	m, err := parseFiles(files)
	if m == nil {
		return nil, err
	}
	if err := m.Report(nil); err != nil {
		return nil, refused(findings(err))
	}
	s := g.stored.Load()
	results := []api.TestResult{}
	for i, t := range m.Spec.Tests {
		r, err := evaluateTest(s, t)
		if err != nil {
			return nil, refused([]api.Detail{{Path: fmt.Sprintf("tests[%d]", i), Message: err.Error()}})
		}
		results = append(results, r)
	}
	return results, nil
}

// serviceName prints a protocol and a port.
func serviceName(p vpc.Protocol, port int) string {
	if p.HasPorts() {
		return p.String() + "/" + strconv.Itoa(port)
	}
	return p.String()
}
