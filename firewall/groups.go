package firewall

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"gatehouse/vpc"
)

// groupRules are the rules of one security group, compiled once for all profiles that have the group.
type groupRules struct {
	id    string
	basic bool
	inner bool // members reach each other whatever the rules say
	rules [2][2][]groupRule
}

// groupRule is one rule of a group in one family: any of the matches makes it apply.
type groupRule struct {
	spec    *vpc.RuleSpec
	matches []Match
	texts   []string // the matches as text, to find doubles
	set     string   // ID of the group or prefix list whose set the rule asks; "" for none
}

// profileChains are the chains of one profile in both families: egress, then ingress.
type profileChains struct {
	chains  [2][2]Chain
	sets    [2][]string     // IDs of what the chains need sets of
	reasons [2][]vpc.Reason // for what they refuse
}

// directions are the two directions in the order in which a packet meets them.
var directions = [2]vpc.Direction{vpc.Egress, vpc.Ingress}

// recompileGroups compiles the profiles that are new or have a group that differs.
func (c *Compiler) recompileGroups(s *vpc.Snapshot, d *vpc.Delta) {
	differs := make(map[string]bool, len(d.Groups))
	for _, p := range d.Groups {
		for _, g := range []*vpc.SecurityGroup{p.Old, p.New} {
			if g != nil {
				differs[g.ID] = true
			}
		}
	}
	groups := map[string]*groupRules{} // by ID; compiled once for all profiles, and not kept
	for _, p := range c.profiles.all {
		p.fresh = p.chains == nil || len(differs) > 0 && slices.ContainsFunc(p.groups, func(id string) bool { return differs[id] })
		if p.fresh {
			c.recompileProfile(s, p, groups)
		}
	}
}

// newGroupRules compiles the rules of a group.
func newGroupRules(g *vpc.SecurityGroup) *groupRules {
	out := &groupRules{id: g.ID, basic: g.Type == vpc.GroupBasic, inner: g.Type == vpc.GroupBasic && g.InnerAccess != vpc.Drop}
	for fi, f := range vpc.Families() {
		for di, dir := range directions {
			out.rules[fi][di] = compileGroup(g, dir, f)
		}
	}
	return out
}

func compileGroup(g *vpc.SecurityGroup, dir vpc.Direction, f vpc.Family) []groupRule {
	var out []groupRule
	for _, r := range g.Rules {
		if r.Direction != dir {
			continue
		}
		end := endpoint{peer: r.Peer(), other: r.OtherEnd(), list: r.PeerList, fromPeer: dir == vpc.Ingress}
		if r.PeerGroup != nil {
			end.group = r.PeerGroup.ID
		}
		matches := end.matches(f, r.Protocol, r.SourcePorts, r.Ports)
		if len(matches) == 0 {
			continue
		}
		gr := groupRule{spec: r.RuleSpec, matches: matches, set: end.setID()}
		for i := range matches {
			gr.texts = append(gr.texts, string(appendMatch(nil, &matches[i], f)))
		}
		out = append(out, gr)
	}
	return out
}

// recompileProfile compiles the chains of a profile. Those that come out as they were stay the same.
func (c *Compiler) recompileProfile(s *vpc.Snapshot, p *profile, compiled map[string]*groupRules) {
	groups := make([]*groupRules, len(p.groups))
	for i, id := range p.groups {
		if compiled[id] == nil {
			compiled[id] = newGroupRules(s.GroupByID(id))
		}
		groups[i] = compiled[id]
	}
	out := &profileChains{}
	for fi, f := range vpc.Families() {
		for di, dir := range directions {
			chain := Chain{Name: profileChain(p, dir), Rules: c.profileRules(groups, out, f, dir), text: &chainText{}}
			if p.chains != nil && p.chains.chains[fi][di].equal(&chain) {
				chain = p.chains.chains[fi][di]
			}
			out.chains[fi][di] = chain
			out.reasons[fi] = append(out.reasons[fi], reasonsOf(chain.Rules)...)
		}
		slices.Sort(out.sets[fi])
		out.sets[fi] = slices.Compact(out.sets[fi])
	}
	p.chains = out
}

func profileChain(p *profile, dir vpc.Direction) string {
	if dir == vpc.Egress {
		return chainProfileEg + p.name
	}
	return chainProfileIn + p.name
}

// profileRules merges the rules of a profile's groups in one direction: inner access before any rule, explicit drops
// included; then by priority, drop before accept; then the default of the type. RETURN means that the direction admits the packet.
func (c *Compiler) profileRules(groups []*groupRules, pc *profileChains, f vpc.Family, dir vpc.Direction) []Rule {
	fi, di, peer := familyIndex(f), slices.Index(directions[:], dir), "dst"
	if dir == vpc.Ingress {
		peer = "src"
	}
	size := 1 + len(groups)
	for _, g := range groups {
		for _, r := range g.rules[fi][di] {
			size += len(r.matches)
			if r.spec.Policy != vpc.Accept && c.features.NFLog {
				size += len(r.matches) // it is logged by a rule of its own
			}
		}
	}
	rules := make([]Rule, 0, size)
	var merged []*groupRule
	for _, g := range groups {
		if g.inner {
			rules = append(rules, Rule{Match: inSet(groupSet(f, g.id), peer), Reason: vpc.ReasonSGInner})
			pc.sets[fi] = append(pc.sets[fi], g.id)
		}
		for j := range g.rules[fi][di] {
			merged = append(merged, &g.rules[fi][di][j])
		}
	}
	slices.SortStableFunc(merged, func(a, b *groupRule) int {
		return cmp.Or(cmp.Compare(a.spec.Priority, b.spec.Priority),
			-strings.Compare(string(a.spec.Policy), string(b.spec.Policy)), // drop before accept
			strings.Compare(a.spec.ID, b.spec.ID))
	})
	seen := make(map[string]bool, len(merged))
	for _, r := range merged {
		for i, m := range r.matches {
			if seen[r.texts[i]] {
				continue // an earlier rule asks the same and decides
			}
			seen[r.texts[i]] = true
			rules = c.features.appendPolicy(rules, m, r.spec.Policy, vpc.ReasonSGRule, r.spec.ID)
			if r.set != "" {
				pc.sets[fi] = append(pc.sets[fi], r.set)
			}
		}
	}
	rules = append(rules, groupDefault(groups, dir))
	c.features.bare(rules)
	return rules
}

// groupDefault is what the groups say when no rule matches. No groups, which a valid snapshot does not have, admit nothing.
func groupDefault(groups []*groupRules, dir vpc.Direction) Rule {
	basic := len(groups) > 0 && groups[0].basic
	switch {
	case basic && dir == vpc.Egress:
		return Rule{Reason: vpc.ReasonSGDefaultBasicEgress}
	case basic:
		return refuse(Match{}, vpc.ReasonSGDefaultBasicIngress)
	case dir == vpc.Egress:
		return refuse(Match{}, vpc.ReasonSGDefaultAdvancedEgress)
	}
	return refuse(Match{}, vpc.ReasonSGDefaultAdvancedIngress)
}

// groupStages adds the two stages of the groups: dispatch to the profile of the source, then to that of the destination.
func (b *builder) groupStages() {
	if len(b.ranged) == 0 {
		return
	}
	for _, d := range []struct {
		root, unknown, addr string
		dir                 vpc.Direction
	}{{chainEgress, chainEgressNone, "src", vpc.Egress}, {chainIngress, chainIngressNone, "dst", vpc.Ingress}} {
		// Addresses without a profile: ours are refused, whatever has become of the sets; and so is a link-local source,
		// which only a vSwitch's link can have brought this far.
		var outside []Rule
		if d.dir == vpc.Egress && b.f == vpc.IPv6 {
			outside = append(outside, refuse(Match{Src: linkLocal6}, vpc.ReasonUnknownAddress))
		}
		outside = append(outside, Rule{Reason: vpc.ReasonSGOutside})
		ours := b.vpcTree("mangle", d.unknown, d.addr, b.s.VPCs, refuse(Match{}, vpc.ReasonUnknownAddress), outside...)
		b.chain("mangle", d.unknown, append(ours, outside...)...)
		b.chain("mangle", d.root, b.dispatch(d.root, d.unknown, d.dir)...)
	}
}

// dispatch returns the rules that find the profile's chain: by mark, or by address where the kernel cannot map
// addresses to marks.
func (b *builder) dispatch(root, unknown string, dir vpc.Direction) []Rule {
	if b.feat.MapMark {
		none := b.marks.none()
		miss := refuse(Match{}, vpc.ReasonUnknownAddress)
		shift := 32 - b.marks.shift - b.marks.width // a mark as an address: its bits come first
		t := prefixTree[*profile]{
			b: b, table: "mangle", root: root, miss: []Rule{miss},
			addr: func(p *profile) netip.Addr { return addrOf(b.marks.profile(p.id).Value << shift) },
			match: func(p netip.Prefix) Match {
				mask := uint32(0xffffffff<<(32-p.Bits())) >> shift & b.marks.mask
				return Match{Mark: &Mark{valueOf(p.Addr()) >> shift, mask}}
			},
			leaf:  func(p *profile) Rule { return Rule{Target: Target{Kind: Goto, Chain: profileChain(p, dir)}} },
			known: b.st.trees[dir], nodes: subtrees[*profile]{},
		}
		byID := slices.Clone(b.st.profiles)
		slices.SortFunc(byID, func(x, y *profile) int { return cmp.Compare(x.id, y.id) })
		rules := []Rule{{Match: Match{Mark: &none}, Target: Target{Kind: Goto, Chain: unknown}}}
		inner, _ := t.node(byID)
		b.st.trees[dir] = t.nodes
		return append(append(rules, inner...), miss)
	}
	var keys []rangeKey
	for _, n := range b.s.Interfaces {
		to := goTo(profileChain(b.c.profiles.byName[profileName(n.Groups)], dir))
		for p := range n.Ranges {
			if vpc.FamilyOf(p.Addr()) == b.f {
				keys = append(keys, rangeKey{p, to})
			}
		}
	}
	by := "dst"
	if dir == vpc.Egress {
		by = "src"
	}
	miss := goTo(unknown)
	return append(b.newRangeTree("mangle", root, by, miss).rules(keys), miss)
}

func addrOf(v uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

func valueOf(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}
