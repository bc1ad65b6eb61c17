package firewall

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"gatehouse/vpc"
)

// profile is a policy profile: a distinct set of groups that one or more interfaces have. All its interfaces are
// judged by the same two chains.
type profile struct {
	name       string         // in chains; depends on nothing but the groups' IDs
	hash       uint64         // the same as a number
	id         uint32         // in marks, from 1
	groups     []string       // IDs, sorted
	interfaces int            // that have it
	uses       [2]int         // by family: that have an address of it
	chains     *profileChains // nil: to be compiled
	fresh      bool           // chains are not what they were in the snapshot before
}

// profileTable holds the profiles of a snapshot, each with an id that fits the width in bits.
//
// Names and ids are derived from the groups' IDs, so that a new profile leaves the others as they are; only where two
// want the same id does the one with the lower name get it and the other the next free one.
type profileTable struct {
	byName map[string]*profile
	all    []*profile // by name
}

// update follows the interfaces from one snapshot to the next; moved says that a profile that was there has another id now.
func (t *profileTable) update(d *vpc.Delta, width int) (moved bool, err error) {
	if t.byName == nil {
		t.byName = map[string]*profile{}
	}
	others := false
	var left []*profile                        // that somebody has left
	seen := map[**vpc.SecurityGroup]*profile{} // by groupList
	for _, p := range d.Interfaces {
		if n := p.Old; n != nil {
			old := t.byName[profileName(n.Groups)]
			old.count(n, -1)
			left = append(left, old)
		}
	}
	for _, p := range d.Interfaces {
		n := p.New
		if n == nil {
			continue
		}
		list := groupList(n)
		now := seen[list]
		if now == nil {
			name := profileName(n.Groups)
			if now = t.byName[name]; now == nil {
				if now, err = newProfile(name, n.Groups); err != nil {
					return false, err
				}
				t.byName[name] = now
				others = true
			} else if !slices.EqualFunc(now.groups, n.Groups, func(id string, g *vpc.SecurityGroup) bool { return id == g.ID }) {
				return false, fmt.Errorf("interface %s: its set of groups has the same name %s as another set", n.ID, name)
			}
			seen[list] = now
		}
		now.count(n, +1)
	}
	for _, p := range left {
		if p.interfaces == 0 {
			delete(t.byName, p.name)
			others = true
		}
	}
	if !others {
		return false, nil
	}
	t.all = slices.SortedFunc(maps.Values(t.byName), func(a, b *profile) int { return strings.Compare(a.name, b.name) })
	return t.number(width)
}

// number gives the profiles their ids.
func (t *profileTable) number(width int) (moved bool, err error) {
	most := uint64(1)<<width - 2 // neither none nor other
	if uint64(len(t.all)) > most {
		return false, fmt.Errorf("%d combinations of security groups are in use, but the mark mask has room for %d: widen firewall.markMask", len(t.all), most)
	}
	taken := make(map[uint32]bool, len(t.all))
	for _, p := range t.all {
		id := p.hash % most
		for taken[uint32(id+1)] {
			id = (id + 1) % most
		}
		was := p.id
		p.id = uint32(id + 1)
		taken[p.id] = true
		moved = moved || was != 0 && was != p.id
	}
	return moved, nil
}

func newProfile(name string, groups []*vpc.SecurityGroup) (*profile, error) {
	p := &profile{name: name, groups: make([]string, len(groups))}
	for i, g := range groups {
		p.groups[i] = g.ID
	}
	var err error
	if p.hash, err = strconv.ParseUint(name, 16, 64); err != nil {
		return nil, fmt.Errorf("profile %s: %w", name, err)
	}
	return p, nil
}

// count adds an interface, or takes it away.
func (p *profile) count(n *vpc.Interface, by int) {
	p.interfaces += by
	var has [2]bool
	for a := range n.Addrs {
		has[familyIndex(vpc.FamilyOf(a))] = true
	}
	for fi := range has {
		if has[fi] {
			p.uses[fi] += by
		}
	}
}

// of returns the profiles of which somebody has an address of the family, by name.
func (t *profileTable) of(f vpc.Family) []*profile {
	out := make([]*profile, 0, len(t.all))
	for _, p := range t.all {
		if p.uses[familyIndex(f)] > 0 {
			out = append(out, p)
		}
	}
	return out
}

// groupList identifies the list of an interface's groups, which many share.
func groupList(n *vpc.Interface) **vpc.SecurityGroup {
	if len(n.Groups) == 0 {
		return nil
	}
	return &n.Groups[0]
}

func profileName(groups []*vpc.SecurityGroup) string {
	ids := make([]string, len(groups))
	for i, g := range groups {
		ids[i] = g.ID
	}
	return hash16(strings.Join(ids, " "))
}

// markBits are our bits of the packet mark: while the groups judge a packet, they hold the id of a profile.
type markBits struct {
	mask  uint32
	shift int
	width int
}

func newMarkBits(mask uint32) (markBits, error) {
	m := markBits{mask: mask, shift: bits.TrailingZeros32(mask), width: bits.OnesCount32(mask)}
	if m.width < 2 || mask != uint32((uint64(1)<<m.width-1)<<m.shift) {
		return m, fmt.Errorf("mark mask %#x: at least two bits, side by side, are needed", mask)
	}
	return m, nil
}

func (m markBits) profile(id uint32) Mark { return Mark{id << m.shift, m.mask} }

func (m markBits) none() Mark { return Mark{0, m.mask} }

// other marks what does not come from a vSwitch's range; no profile has it.
func (m markBits) other() Mark { return Mark{m.mask, m.mask} }
