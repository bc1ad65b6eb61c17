package firewall

import (
	"math/bits"
	"net/netip"
	"slices"
	"strings"
)

// Dispatch over many keys goes through trees of chains, so that a packet asks a handful of rules whatever their number.
// A tree is entered at its root chain and walked by goto. An inner node that has no answer ends with the tree's miss
// rules: without them a packet would fall out of the tree and pass. Adding a key changes one or two nodes.

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

// prefixTree is a tree over 32-bit or 128-bit keys with a fan-out of four, path-compressed: addresses, or marks written
// as if they were IPv4 addresses.
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
	m := t.match(netip.PrefixFrom(a, a.BitLen()))
	m.SrcMAC = r.Match.SrcMAC
	r.Match = m
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
