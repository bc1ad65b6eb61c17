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
		if t, ok := s.TranslationOf(p.Dst); ok {
			out.In = t.Uplink
		}
	case vpc.PlaceGateway:
	default:
		out.In = unknown
	}
	switch to := s.Route(s.Translated(p).Dst); to.Kind {
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
	rs    *Ruleset
	bits  sync.Map // by name: the lengths of the members of a set of networks, read when it is asked for the first time
	links func() map[string]bool
}

// NewTracer returns a tracer of a ruleset, which must not change afterwards. It costs nothing: chains, sets and members stand
// in order, and are found where they stand.
func NewTracer(rs *Ruleset) *Tracer {
	return &Tracer{rs: rs, links: sync.OnceValue(func() map[string]bool { return switchLinks(rs) })}
}

// switchLinks are the links that the rules take for those of vSwitches.
func switchLinks(rs *Ruleset) map[string]bool {
	links := map[string]bool{}
	for i := range rs.Families {
		for _, c := range mangle(&rs.Families[i]) {
			if strings.HasPrefix(c.Name, chainFrom) {
				links[c.Rules[0].Match.In] = true // fromSwitch
			}
		}
	}
	return links
}

// chain returns a chain of a table of the family; nil if there is none.
func (t *Tracer) chain(f vpc.Family, table, name string) *Chain {
	for i := range t.rs.Families[familyIndex(f)].Tables {
		if tb := &t.rs.Families[familyIndex(f)].Tables[i]; tb.Name == table {
			k, ok := slices.BinarySearchFunc(tb.Chains, name, func(c Chain, name string) int { return strings.Compare(c.Name, name) })
			if ok {
				return &tb.Chains[k]
			}
		}
	}
	return nil
}

// set returns a set; nil if there is none.
func (t *Tracer) set(name string) *Set {
	k, ok := slices.BinarySearchFunc(t.rs.Sets, name, func(s Set, name string) int { return strings.Compare(s.Name, name) })
	if !ok {
		return nil
	}
	return &t.rs.Sets[k]
}

// Trace returns what becomes of a packet, stage by stage. Where a stage drops, the walk goes on with the next one, so that
// all of them are known; the first drop decides. Details, which need names, are left to the caller.
func (t *Tracer) Trace(p vpc.Packet, path Path) vpc.Verdict {
	if path.In == "" {
		return verdict(vpc.StageResult{Stage: vpc.StageVPC, Reason: vpc.ReasonVPCHost})
	}
	w := &walk{t: t, p: p, path: path, found: map[vpc.Stage]vpc.StageResult{}}
	w.family = vpc.FamilyOf(p.Dst)

	w.stage, w.table = vpc.StageAntiSpoof, "raw"
	w.run(chainRaw)
	w.decide(vpc.StageAntiSpoof, vpc.ReasonSpoofOK)

	if p.State != vpc.StateInvalid { // the later packets of a flow are translated as the first one was
		w.table = "nat"
		w.run(chainMapped)
	}

	w.table = "mangle"
	if path.Local {
		w.stage = vpc.StageHostAccess
		w.run(chainInput)
		if r, ok := w.found[vpc.StageHostAccess]; !ok || r.Reason == vpc.ReasonNotOurs {
			return verdict(w.found[vpc.StageAntiSpoof], vpc.StageResult{Stage: vpc.StageVPC, Reason: vpc.ReasonNotOurs})
		}
		return verdict(w.found[vpc.StageAntiSpoof], vpc.StageResult{Stage: vpc.StageVPC, Reason: vpc.ReasonVPCHost}, w.found[vpc.StageHostAccess])
	}
	w.run(chainForward)
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
	family vpc.Family
	table  string // that it is in
	stage  vpc.Stage
	mark   uint32
	found  map[vpc.Stage]vpc.StageResult // what decided each stage so far
}

// stageOf returns the stage that begins with a chain.
func stageOf(chain string) (vpc.Stage, bool) {
	switch chain {
	case chainSource:
		return vpc.StageAntiSpoof, true
	case chainForward, chainEntering, chainNeither, chainAstray:
		return vpc.StageVPC, true
	case chainState, chainStays:
		return vpc.StageConntrack, true
	case chainEgress:
		return vpc.StageSGEgress, true
	case chainIngress:
		return vpc.StageSGIngress, true
	}
	switch {
	case strings.HasPrefix(chain, chainVPC):
		return vpc.StageVPC, true
	case strings.HasPrefix(chain, chainACLOut):
		return vpc.StageNACLEgress, true
	case strings.HasPrefix(chain, chainACLIn), strings.HasPrefix(chain, chainToACL):
		return vpc.StageNACLIngress, true
	}
	return "", false
}

// forwarded collects the stages of a forwarded packet and fills in what stages decided without a rule.
func (w *walk) forwarded() vpc.Verdict {
	if vpcStage, ok := w.found[vpc.StageVPC]; w.path.Out == "" && (!ok || vpcStage.Reason == vpc.ReasonLinkForeign && w.t.links()[w.path.In]) {
		// Without a route the kernel refuses it before it asks any of our chains.
		w.found[vpc.StageVPC] = vpc.StageResult{Stage: vpc.StageVPC, Verdict: vpc.StageDrop, Reason: vpc.ReasonNoRoute}
	}
	if w.found[vpc.StageVPC].Reason == vpc.ReasonNotOurs {
		return verdict(w.found[vpc.StageAntiSpoof], w.found[vpc.StageVPC])
	}
	w.decide(vpc.StageNACLEgress, w.unfiltered(w.path.In))
	w.decide(vpc.StageNACLIngress, w.unfiltered(w.path.Out))
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

// unfiltered says why no ACL has seen the packet at the end of its way that is at a link.
func (w *walk) unfiltered(link string) vpc.Reason {
	switch {
	case !w.t.links()[link]:
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

// run walks a chain and those that it leads to.
func (w *walk) run(name string) outcome {
	c := w.t.chain(w.family, w.table, name)
	if c == nil {
		return returned
	}
	if s, ok := stageOf(name); ok {
		w.stage = s
	}
	for i := range c.Rules {
		out, done := w.rule(&c.Rules[i])
		if done && out == dropped && (name == chainState || name == chainStays) {
			continue // the packet is lost, but the groups are asked all the same
		}
		if done {
			return out
		}
	}
	return returned
}

// rule asks one rule; done reports whether it ends the walk through its chain.
func (w *walk) rule(r *Rule) (out outcome, done bool) {
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
	case Netmap:
		w.p.Dst = vpc.Rebase(w.p.Dst, t.To)
		return accepted, true
	case MapMark:
		if s := w.t.set(t.Set); s != nil {
			if m, ok := markOf(s, w.addr(t.Dir)); ok {
				w.mark = w.mark&^m.Mask | m.Value&m.Mask
			}
		}
	}
	return returned, false
}

// jump enters a chain to come back from it. On a forwarded packet's way it always comes back: the packet is lost, but the next
// stages are asked all the same.
func (w *walk) jump(name string) outcome {
	before := w.stage
	out := w.run(name)
	w.stage = before
	if w.table == "mangle" && !w.path.Local {
		return returned
	}
	return out
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
		m.Mark != nil && (w.mark&m.Mark.Mask == m.Mark.Value) == m.NotMark,
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
	s := w.t.set(m.Set)
	if s == nil {
		return false
	}
	dir, _, pair := strings.Cut(m.Dir, ",")
	switch {
	case pair:
		mac, ok := macOf(s, w.addr(dir))
		return ok && (w.p.SrcMAC.IsZero() || mac == w.p.SrcMAC)
	case s.Type == "hash:net":
		return w.t.inNetworks(s, w.addr(dir))
	}
	_, ok := member(s, w.addr(dir).String(), ' ')
	return ok
}

// linkMatches reports whether a link has the name, or begins with it when it ends in a plus sign.
func linkMatches(name, link string) bool {
	if prefix, ok := strings.CutSuffix(name, "+"); ok {
		return strings.HasPrefix(link, prefix)
	}
	return name == link
}

// member returns what follows an address or network and a separator in the set; ok is false when the set does not have it.
func member(s *Set, text string, separator byte) (rest string, ok bool) {
	i, exact := slices.BinarySearch(s.Members, text)
	if exact {
		return "", true
	}
	if i < len(s.Members) && len(s.Members[i]) > len(text) && s.Members[i][:len(text)] == text && s.Members[i][len(text)] == separator {
		return s.Members[i][len(text)+1:], true
	}
	return "", false
}

// macOf returns the MAC that the address belongs to.
func macOf(s *Set, a netip.Addr) (vpc.MAC, bool) {
	text, ok := member(s, a.String(), ',')
	if !ok {
		return vpc.MAC{}, false
	}
	m, err := vpc.ParseMAC(text)
	return m, err == nil
}

// markOf returns the mark that the longest member with the address has.
func markOf(s *Set, a netip.Addr) (Mark, bool) {
	text, ok := member(s, a.String(), ' ')
	for n := a.BitLen() - 1; n > 0 && !ok; n-- {
		p, _ := a.Prefix(n)
		text, ok = member(s, p.String(), ' ')
	}
	return parseMark(strings.TrimPrefix(text, "skbmark ")), ok
}

// inNetworks reports whether a set of networks has one with the address.
func (t *Tracer) inNetworks(s *Set, a netip.Addr) bool {
	for _, n := range t.lengths(s) {
		text := a.String()
		if n < a.BitLen() {
			p, err := a.Prefix(n)
			if err != nil {
				continue // of the other family
			}
			text = p.String()
		}
		if _, ok := member(s, text, ' '); ok {
			return true
		}
	}
	return false
}

// lengths returns the lengths that members of a set of networks have, the longest first.
func (t *Tracer) lengths(s *Set) []int {
	if n, ok := t.bits.Load(s.Name); ok {
		return n.([]int)
	}
	var occur [129]bool
	for _, m := range s.Members {
		n := 128 // an address
		if _, text, ok := strings.Cut(m, "/"); ok {
			n, _ = strconv.Atoi(text) // as Compile wrote it
		}
		occur[min(n, 128)] = true
	}
	var lengths []int
	for n := 128; n >= 0; n-- {
		if occur[n] {
			lengths = append(lengths, n)
		}
	}
	t.bits.Store(s.Name, lengths)
	return lengths
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
