package firewall

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"gatehouse/vpc"
)

// Dispatch over many keys goes through trees of chains, so that a packet asks a handful of rules whatever their number.
// A tree is entered at its root chain and walked by goto. An inner node that has no answer ends with the tree's miss rules; a
// tree without them is one that a packet may fall out of, because it only picks what it knows.

// linearLinks is the number of links up to which one chain asks for them one by one.
const linearLinks = 16

// linkTree returns the root's rules of a tree over link names. leaf gives the rules of one link without the match of its name.
// The caller ends the root itself.
func (b *builder) linkTree(table, root string, out bool, names []string, leaf func(name string) []Rule, miss ...Rule) []Rule {
	names = slices.Clone(names)
	slices.Sort(names)
	t := linkTree{b: b, table: table, root: root, out: out, leaf: leaf, miss: miss}
	return t.node(names, 0)
}

type linkTree struct {
	b           *builder
	table, root string
	out         bool
	leaf        func(string) []Rule
	miss        []Rule
}

// node returns the rules over sorted names that share their first skip characters.
func (t *linkTree) node(names []string, skip int) []Rule {
	var rules []Rule
	if len(names) <= linearLinks {
		for _, n := range names {
			rules = append(rules, t.rules(n)...)
		}
		return rules
	}
	if len(names[0]) == skip { // one name is the beginning of all the others
		rules = append(rules, t.rules(names[0])...)
		names = names[1:]
	}
	for len(names) > 0 {
		n := 1
		for n < len(names) && names[n][skip] == names[0][skip] {
			n++
		}
		group := names[:n]
		names = names[n:]
		if n == 1 {
			rules = append(rules, t.rules(group[0])...)
			continue
		}
		common := commonPrefix(group[0], group[n-1])
		chain := t.root + "." + linkKey(common)
		t.b.chain(t.table, chain, append(t.node(group, len(common)), t.miss...)...)
		rules = append(rules, Rule{Match: t.match(common + "+"), Target: Target{Kind: Goto, Chain: chain}})
	}
	return rules
}

func (t *linkTree) rules(name string) []Rule {
	rules := slices.Clone(t.leaf(name))
	for i := range rules {
		if t.out {
			rules[i].Match.Out = name
		} else {
			rules[i].Match.In = name
		}
	}
	return rules
}

func (t *linkTree) match(name string) Match {
	if t.out {
		return Match{Out: name}
	}
	return Match{In: name}
}

func commonPrefix(a, b string) string {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return a[:n]
}

// linkKey is a part of a link's name as it may stand in a chain's name.
func linkKey(s string) string {
	if strings.IndexFunc(s, needsQuotes) >= 0 {
		return hash16(s)
	}
	return s
}

// prefixTree is a tree over marks, written as if they were IPv4 addresses, with a fan-out of four, path-compressed. A mark that
// comes or goes changes one or two nodes.
type prefixTree[K comparable] struct {
	b           *builder
	table, root string
	addr        func(K) netip.Addr
	match       func(netip.Prefix) Match
	leaf        func(K) Rule // its match is added to that of the key
	miss        []Rule

	known, nodes subtrees[K] // of the tree that was there before, if there was one, and of this one
}

// subtrees are the inner nodes of a tree by the names of their chains. A node over the same keys is the same, with all that is
// below it.
type subtrees[K comparable] map[string]subtree[K]

type subtree[K comparable] struct {
	keys  []K
	chain Chain
	below []string // names of the nodes that it leads to
}

// node returns the rules over keys, sorted by address and different, and the names of the nodes that they lead to.
func (t *prefixTree[K]) node(keys []K) (rules []Rule, below []string) {
	rules = make([]Rule, 0, 4+len(t.miss))
	if len(keys) <= 4 {
		for _, k := range keys {
			rules = append(rules, t.rule(k))
		}
		return rules, nil
	}
	depth := commonBits(t.addr(keys[0]), t.addr(keys[len(keys)-1])) &^ 1
	for len(keys) > 0 {
		p, _ := t.addr(keys[0]).Prefix(depth + 2)
		n := 1
		for n < len(keys) && p.Contains(t.addr(keys[n])) {
			n++
		}
		group := keys[:n]
		keys = keys[n:]
		if n == 1 {
			rules = append(rules, t.rule(group[0]))
			continue
		}
		p, _ = t.addr(group[0]).Prefix(commonBits(t.addr(group[0]), t.addr(group[n-1])) &^ 1)
		chain := nodeName(t.root, p)
		if !t.keep(chain, group) {
			inner, names := t.node(group)
			t.b.chain(t.table, chain, append(inner, t.miss...)...)
			if t.nodes != nil {
				t.nodes[chain] = subtree[K]{group, t.b.tables[t.table][chain], names}
			}
		}
		rules = append(rules, Rule{Match: t.match(p), Target: Target{Kind: Goto, Chain: chain}})
		below = append(below, chain)
	}
	return rules, below
}

// keep takes over a node and all below it from the tree that was there before, if it was over the same keys.
func (t *prefixTree[K]) keep(chain string, keys []K) bool {
	old, ok := t.known[chain]
	if !ok || !slices.Equal(old.keys, keys) {
		return false
	}
	t.b.add(t.table, old.chain)
	t.nodes[chain] = old
	for _, name := range old.below {
		t.keep(name, t.known[name].keys)
	}
	return true
}

func (t *prefixTree[K]) rule(k K) Rule {
	a, r := t.addr(k), t.leaf(k)
	r.Match = t.match(netip.PrefixFrom(a, a.BitLen()))
	return r
}

// commonBits returns how many leading bits two addresses of one family share.
func commonBits(a, b netip.Addr) int {
	x, y := a.AsSlice(), b.AsSlice()
	for i := range x {
		if d := x[i] ^ y[i]; d != 0 {
			return i*8 + bits.LeadingZeros8(d)
		}
	}
	return len(x) * 8
}

// rangeTree is a tree over ranges of addresses, or single ones, that have nothing in common. However they lie, it is nearly as flat as it can
// be: a node cuts the range with most keys in two until it has as many rules as it may have.
type rangeTree struct {
	b           *builder
	table, root string
	match       func(netip.Prefix) Match
	fanOut      int
	miss        []Rule
}

// rangeKey is a range and what happens to packets in it; the rule's match is added to that of the range.
type rangeKey struct {
	netip.Prefix
	rule Rule
}

// newRangeTree returns a tree over sources or destinations. A node has as many rules as are cheaper than another level: the
// kernel compares IPv4 addresses some fifteen times as fast as IPv6 addresses.
func (b *builder) newRangeTree(table, root, dir string, miss ...Rule) *rangeTree {
	t := &rangeTree{b: b, table: table, root: root, fanOut: 16 << b.flat, miss: miss}
	if b.f == vpc.IPv6 {
		t.fanOut = 8 << b.flat
	}
	t.match = func(p netip.Prefix) Match { return Match{Dst: p} }
	if dir == "src" {
		t.match = func(p netip.Prefix) Match { return Match{Src: p} }
	}
	return t
}

// rules returns the rules of the tree's root, which the caller ends.
func (t *rangeTree) rules(keys []rangeKey) []Rule {
	keys = slices.SortedFunc(slices.Values(keys), func(x, y rangeKey) int { return x.Addr().Compare(y.Addr()) })
	for i := 1; i < len(keys); i++ {
		if keys[i-1].Overlaps(keys[i].Prefix) {
			t.b.fail(fmt.Errorf("chain %s: %s overlaps %s", t.root, keys[i-1].Prefix, keys[i].Prefix))
			return nil
		}
	}
	return t.node(keys)
}

func (t *rangeTree) node(keys []rangeKey) []Rule {
	groups := [][]rangeKey{keys}
	for len(groups) < t.fanOut {
		most := 0
		for i := range groups {
			if len(groups[i]) > len(groups[most]) {
				most = i
			}
		}
		if len(groups[most]) < 2 {
			break
		}
		low, high := halves(groups[most])
		groups = slices.Replace(groups, most, most+1, low, high)
	}
	var rules []Rule
	for _, g := range groups {
		switch len(g) {
		case 0:
		case 1:
			r := g[0].rule
			m := t.match(g[0].Prefix)
			r.Match.Src, r.Match.Dst = m.Src, m.Dst
			rules = append(rules, r)
		default:
			p := cover(g)
			chain := nodeName(t.root, p)
			t.b.chain(t.table, chain, append(t.node(g), t.miss...)...)
			rules = append(rules, Rule{Match: t.match(p), Target: Target{Kind: Goto, Chain: chain}})
		}
	}
	return rules
}

// cover is the smallest range that holds all keys, two or more.
func cover(keys []rangeKey) netip.Prefix {
	first, last := keys[0].Addr(), keys[len(keys)-1].Addr()
	p, _ := first.Prefix(commonBits(first, last))
	return p
}

// halves cuts two or more keys where their range has its middle.
func halves(keys []rangeKey) (low, high []rangeKey) {
	p := cover(keys)
	lower, _ := p.Addr().Prefix(p.Bits() + 1)
	n := slices.IndexFunc(keys, func(k rangeKey) bool { return !lower.Contains(k.Addr()) })
	return keys[:n:n], keys[n:]
}

// switchTree returns the root's rules of a tree that leads to a chain for each vSwitch by its range.
func (b *builder) switchTree(table, root, dir string, switches []*vpc.VSwitch, chain func(*vpc.VSwitch) string, miss ...Rule) []Rule {
	keys := make([]rangeKey, len(switches))
	for i, w := range switches {
		keys[i] = rangeKey{w.Prefix(b.f), goTo(chain(w))}
	}
	return b.newRangeTree(table, root, dir, miss...).rules(keys)
}

// vpcTree returns the root's rules of a tree over the ranges of VPCs, all with the same end.
func (b *builder) vpcTree(table, root, dir string, vpcs []*vpc.VPC, end Rule, miss ...Rule) []Rule {
	var keys []rangeKey
	for _, v := range vpcs {
		for _, p := range b.ranges(v) {
			keys = append(keys, rangeKey{p, end})
		}
	}
	return b.newRangeTree(table, root, dir, miss...).rules(keys)
}
