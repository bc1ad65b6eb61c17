package firewall

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"gatehouse/vpc"
)

// Path is a packet's way through the gateway's links, as routing has chosen it.
type Path struct {
	In    string // the link it enters by; "" when the gateway itself sends it
	Out   string // the link it leaves by; "" when there is no route, or it is for the gateway
	Local bool   // it is for the gateway itself
}

// PathOf returns the way that routing chooses for a packet in a snapshot that is in force. A packet that enters by an
// unknown link enters by one that no snapshot names.
func PathOf(s *vpc.Snapshot, p vpc.Packet) Path {
	const unknown = "?"
	var out Path
	uplink := ""
	if len(s.Host.Uplinks) > 0 {
		uplink = s.Host.Uplinks[0]
	}
	switch p.In.Kind {
	case vpc.PlaceVSwitch:
		out.In = p.In.VSwitch.LinkName()
	case vpc.PlaceUplink:
		out.In = uplink
	case vpc.PlaceGateway:
	default:
		out.In = unknown
	}
	switch to := s.Route(p.Dst); to.Kind {
	case vpc.PlaceGateway:
		out.Local = true
	case vpc.PlaceVSwitch:
		out.Out = to.VSwitch.LinkName()
	case vpc.PlaceUplink:
		out.Out = uplink
	}
	return out
}

// Trace walks one packet through a ruleset, see Tracer.
func Trace(rs *Ruleset, p vpc.Packet, path Path) vpc.Verdict { return NewTracer(rs).Trace(p, path) }

// Tracer walks packets through the rules of one ruleset as the kernel would, rule by rule. It knows nothing of the policy:
// what it answers is what the rules do. It may be used by several goroutines.
type Tracer struct {
	families [2]map[string]map[string]*Chain // by table and name
	sets     map[string]*setIndex
}

// NewTracer indexes a ruleset, which must not change afterwards.
func NewTracer(rs *Ruleset) *Tracer {
	t := &Tracer{sets: make(map[string]*setIndex, len(rs.Sets))}
	for i := range rs.Families {
		t.families[i] = map[string]map[string]*Chain{}
		for _, table := range rs.Families[i].Tables {
			chains := make(map[string]*Chain, len(table.Chains))
			for j := range table.Chains {
				chains[table.Chains[j].Name] = &table.Chains[j]
			}
			t.families[i][table.Name] = chains
		}
	}
	for i := range rs.Sets {
		t.sets[rs.Sets[i].Name] = &setIndex{set: &rs.Sets[i]}
	}
	return t
}

// Trace returns what becomes of a packet, stage by stage. Where a stage drops, the walk goes on with the next one, so that
// all of them are known; the first drop decides. Details, which need names, are left to the caller.
func (t *Tracer) Trace(p vpc.Packet, path Path) vpc.Verdict {
	if path.In == "" {
		return verdict(vpc.StageResult{Stage: vpc.StageVPC, Reason: vpc.ReasonVPCHost})
	}
	w := &walk{t: t, p: p, path: path, found: map[vpc.Stage]vpc.StageResult{}}
	tables := t.families[familyIndex(vpc.FamilyOf(p.Dst))]

	w.stage, w.chains = vpc.StageAntiSpoof, tables["raw"]
	w.run(chainRaw)
	w.decide(vpc.StageAntiSpoof, vpc.ReasonSpoofOK)

	w.chains = tables["mangle"]
	if path.Local {
		w.stage = vpc.StageHostAccess
		w.run(chainInput)
		if r, ok := w.found[vpc.StageHostAccess]; !ok || r.Reason == vpc.ReasonNotOurs {
			return verdict(w.found[vpc.StageAntiSpoof], vpc.StageResult{Stage: vpc.StageVPC, Reason: vpc.ReasonNotOurs})
		}
		return verdict(w.found[vpc.StageAntiSpoof], vpc.StageResult{Stage: vpc.StageVPC, Reason: vpc.ReasonVPCHost}, w.found[vpc.StageHostAccess])
	}
	w.stage = vpc.StageConntrack
	w.top(chainForward)
	return w.forwarded()
}

// verdict puts the results of the stages together.
func verdict(stages ...vpc.StageResult) vpc.Verdict {
	v := vpc.Verdict{Allowed: true, Stages: stages}
	for i := range v.Stages {
		s := &v.Stages[i]
		if s.Verdict == "" {
			s.Verdict = admitted(s.Reason)
		}
		v.Allowed = v.Allowed && s.Verdict != vpc.StageDrop
	}
	return v
}

// admitted says whether a stage that lets a packet go on has admitted it or had nothing to say.
func admitted(r vpc.Reason) vpc.StageVerdict {
	switch r {
	case vpc.ReasonSpoofOK, vpc.ReasonVPCSame, vpc.ReasonVPCUplink, vpc.ReasonVPCHost, vpc.ReasonNotOurs,
		vpc.ReasonNACLOutside, vpc.ReasonNACLSame, vpc.ReasonConnNew, vpc.ReasonSGOutside:
		return vpc.StagePass
	}
	return vpc.StageAccept
}

// walk is one packet on its way through one family's chains.
type walk struct {
	t      *Tracer
	p      vpc.Packet
	path   Path
	chains map[string]*Chain // of the table it is in
	stage  vpc.Stage
	mark   uint32
	found  map[vpc.Stage]vpc.StageResult // what decided each stage so far

	fromVSwitch, toVSwitch bool // the rules took it for one that enters, or leaves, by a vSwitch's link
}

// stageChains are the chains that are stages of their own.
var stageChains = map[string]vpc.Stage{
	chainSource: vpc.StageAntiSpoof, chainVPC: vpc.StageVPC, chainACLOut: vpc.StageNACLEgress, chainACLIn: vpc.StageNACLIngress,
	chainEgress: vpc.StageSGEgress, chainIngress: vpc.StageSGIngress,
}

// forwarded collects the stages of a forwarded packet and fills in what stages decided without a rule.
func (w *walk) forwarded() vpc.Verdict {
	if vpcStage, ok := w.found[vpc.StageVPC]; w.path.Out == "" && (!ok || vpcStage.Reason == vpc.ReasonLinkForeign && w.fromVSwitch) {
		// Without a route the kernel refuses it before it asks any of our chains.
		w.found[vpc.StageVPC] = vpc.StageResult{Stage: vpc.StageVPC, Verdict: vpc.StageDrop, Reason: vpc.ReasonNoRoute}
	}
	if w.found[vpc.StageVPC].Reason == vpc.ReasonNotOurs {
		return verdict(w.found[vpc.StageAntiSpoof], w.found[vpc.StageVPC])
	}
	w.decide(vpc.StageNACLEgress, w.unfiltered(w.fromVSwitch))
	w.decide(vpc.StageNACLIngress, w.unfiltered(w.toVSwitch))
	w.decide(vpc.StageConntrack, vpc.ReasonConnNew)
	var stages []vpc.StageResult
	for _, s := range []vpc.Stage{vpc.StageAntiSpoof, vpc.StageVPC, vpc.StageNACLEgress, vpc.StageNACLIngress, vpc.StageConntrack,
		vpc.StageSGEgress, vpc.StageSGIngress} {
		if r, ok := w.found[s]; ok {
			stages = append(stages, r)
		}
	}
	return verdict(stages...)
}

// unfiltered says why no ACL has seen the packet at one end of its way.
func (w *walk) unfiltered(vswitch bool) vpc.Reason {
	switch {
	case !vswitch:
		return vpc.ReasonNACLOutside
	case w.path.In == w.path.Out:
		return vpc.ReasonNACLSame
	}
	return vpc.ReasonNACLNone
}

// decide sets a stage's result if no rule has.
func (w *walk) decide(s vpc.Stage, r vpc.Reason) {
	if _, ok := w.found[s]; !ok {
		w.found[s] = vpc.StageResult{Stage: s, Reason: r}
	}
}

// note records a rule that ends a stage. The first drop stands; a drop stands over what passed before.
func (w *walk) note(r *Rule, drop bool) {
	if r.Reason == "" {
		return
	}
	before, ok := w.found[w.stage]
	if ok && (before.Verdict == vpc.StageDrop || !drop) {
		return
	}
	out := vpc.StageResult{Stage: w.stage, Rule: r.ID, Reason: r.Reason}
	if drop {
		out.Verdict = vpc.StageDrop
	}
	w.found[w.stage] = out
}

// outcome is how the walk through a chain ends.
type outcome uint8

const (
	returned outcome = iota // by RETURN or at the chain's end
	accepted
	dropped
)

// top walks a chain in which a drop of one rule does not end the walk.
func (w *walk) top(name string) {
	c := w.chains[name]
	if c == nil {
		return
	}
	for i := range c.Rules {
		if out, done := w.rule(c, &c.Rules[i]); done && out != dropped {
			return
		}
	}
}

// run walks a chain and those that it leads to.
func (w *walk) run(name string) outcome {
	c := w.chains[name]
	if c == nil {
		return returned
	}
	w.fromVSwitch = w.fromVSwitch || strings.HasPrefix(name, chainFromVPC)
	for i := range c.Rules {
		if out, done := w.rule(c, &c.Rules[i]); done {
			return out
		}
	}
	return returned
}

// rule asks one rule; done reports whether it ends the walk through its chain.
func (w *walk) rule(c *Chain, r *Rule) (out outcome, done bool) {
	if !w.matches(&r.Match) {
		return returned, false
	}
	switch t := &r.Target; t.Kind {
	case Return:
		w.note(r, false)
		return returned, true
	case Accept:
		w.note(r, false)
		return accepted, true
	case Drop:
		w.note(r, true)
		return dropped, true
	case Jump:
		out := w.jump(t.Chain)
		return out, out != returned
	case Goto:
		return w.run(t.Chain), true
	case SetMark:
		w.mark = w.mark&^t.Mark.Mask ^ t.Mark.Value
		w.toVSwitch = w.toVSwitch || strings.HasPrefix(c.Name, chainToLink)
	case MapMark:
		if s := w.t.sets[t.Set]; s != nil {
			if m, ok := s.markOf(w.addr(t.Dir)); ok {
				w.mark = w.mark&^m.Mask | m.Value&m.Mask
			}
		}
	}
	return returned, false
}

// jump enters a chain to come back from it. A chain that is a stage of its own always comes back: the packet is lost, but
// the next stages are asked all the same.
func (w *walk) jump(name string) outcome {
	stage, ok := stageChains[name]
	if !ok {
		return w.run(name)
	}
	before := w.stage
	w.stage = stage
	w.run(name)
	w.stage = before
	return returned
}

func (w *walk) addr(dir string) netip.Addr {
	if dir == "dst" {
		return w.p.Dst
	}
	return w.p.Src
}

// matches reports whether the packet is what a rule asks for.
func (w *walk) matches(m *Match) bool {
	p := &w.p
	switch {
	case m.In != "" && linkMatches(m.In, w.path.In) == m.NotIn,
		m.Out != "" && linkMatches(m.Out, w.path.Out) == m.NotOut,
		m.Src.IsValid() && m.Src.Contains(p.Src) == m.NotSrc,
		m.Dst.IsValid() && m.Dst.Contains(p.Dst) == m.NotDst,
		m.Protocol != vpc.ProtocolAll && m.Protocol != p.Protocol,
		m.Mark != nil && w.mark&m.Mark.Mask != m.Mark.Value,
		m.SYN > 0 && p.NoSYN, m.SYN < 0 && !p.NoSYN,
		len(m.SrcPorts) > 0 && !(p.Protocol.HasPorts() && m.SrcPorts.Contains(p.SrcPort)),
		len(m.DstPorts) > 0 && !(p.Protocol.HasPorts() && m.DstPorts.Contains(p.DstPort)),
		m.ICMPType > 0 && m.ICMPType != int(p.ICMPType)+1,
		m.ICMPCode > 0 && m.ICMPCode != int(p.ICMPCode)+1,
		!m.SrcMAC.IsZero() && !p.SrcMAC.IsZero() && m.SrcMAC != p.SrcMAC,
		len(m.States) > 0 && !slices.Contains(m.States, p.State),
		m.GroupFrame && !p.Group,
		m.PhysdevIsBridged: // all that is traced is routed
		return false
	}
	for _, s := range m.Sets {
		if w.inSet(s) == s.Not {
			return false
		}
	}
	return true
}

func (w *walk) inSet(m SetMatch) bool {
	s := w.t.sets[m.Set]
	if s == nil {
		return false
	}
	dir, _, pair := strings.Cut(m.Dir, ",")
	if pair {
		mac, ok := s.macOf(w.addr(dir))
		return ok && (w.p.SrcMAC.IsZero() || mac == w.p.SrcMAC)
	}
	return s.contains(w.addr(dir))
}

// linkMatches reports whether a link has the name, or begins with it when it ends in a plus sign.
func linkMatches(name, link string) bool {
	if prefix, ok := strings.CutSuffix(name, "+"); ok {
		return strings.HasPrefix(link, prefix)
	}
	return name == link
}

// setIndex answers questions about one set. It reads the members when it is asked for the first time.
type setIndex struct {
	set  *Set
	once sync.Once

	addrs map[netip.Addr]Mark
	macs  map[netip.Addr]vpc.MAC
	nets  map[netip.Prefix]bool
	bits  []int // lengths of prefixes that occur
}

func (s *setIndex) contains(a netip.Addr) bool {
	s.once.Do(s.read)
	if _, ok := s.addrs[a]; ok {
		return true
	}
	for _, n := range s.bits {
		if p, err := a.Prefix(n); err == nil && s.nets[p] {
			return true
		}
	}
	return false
}

func (s *setIndex) macOf(a netip.Addr) (vpc.MAC, bool) {
	s.once.Do(s.read)
	m, ok := s.macs[a]
	return m, ok
}

func (s *setIndex) markOf(a netip.Addr) (Mark, bool) {
	s.once.Do(s.read)
	m, ok := s.addrs[a]
	return m, ok
}

// read parses the members, which Compile wrote.
func (s *setIndex) read() {
	s.addrs, s.macs, s.nets = make(map[netip.Addr]Mark, len(s.set.Members)), map[netip.Addr]vpc.MAC{}, map[netip.Prefix]bool{}
	for _, m := range s.set.Members {
		element, extra, _ := strings.Cut(m, " ")
		if p, err := netip.ParsePrefix(element); err == nil {
			s.nets[p] = true
			if !slices.Contains(s.bits, p.Bits()) {
				s.bits = append(s.bits, p.Bits())
			}
			continue
		}
		text, mac, _ := strings.Cut(element, ",")
		a, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		if mac != "" {
			if parsed, err := vpc.ParseMAC(mac); err == nil {
				s.macs[a] = parsed
			}
			continue
		}
		s.addrs[a] = parseMark(strings.TrimPrefix(extra, "skbmark "))
	}
}

// parseMark reads "0x10000/0xffff0000"; a mask that is not written is full.
func parseMark(text string) Mark {
	value, mask, masked := strings.Cut(text, "/")
	v, _ := strconv.ParseUint(value, 0, 32)
	m := uint64(0xffffffff)
	if masked {
		m, _ = strconv.ParseUint(mask, 0, 32)
	}
	return Mark{uint32(v), uint32(m)}
}
