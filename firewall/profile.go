package firewall

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"gatehouse/vpc"
)

// profile is a policy profile: a distinct set of groups that one or more interfaces have. All its interfaces are
// judged by the same two chains.
type profile struct {
	name       string // in chains; depends on nothing but the groups' IDs
	id         uint32 // in marks, from 1
	groups     []*vpc.SecurityGroup
	interfaces []*vpc.Interface
}

// has reports whether any interface of the profile has an address of the family.
func (p *profile) has(f vpc.Family) bool {
	for _, n := range p.interfaces {
		for a := range n.Addrs {
			if vpc.FamilyOf(a) == f {
				return true
			}
		}
	}
	return false
}

// profiles returns the profiles of a snapshot by name, each with an id that fits the width in bits.
//
// Names and ids are derived from the groups' IDs, so that a new profile leaves the others as they are; only where two
// want the same id does the one with the lower name get it and the other the next free one.
func profiles(s *vpc.Snapshot, width int) ([]*profile, error) {
	byName := map[string]*profile{}
	for _, n := range s.Interfaces {
		name := profileName(n.Groups)
		p := byName[name]
		if p == nil {
			p = &profile{name: name, groups: n.Groups}
			byName[name] = p
		} else if !slices.Equal(p.groups, n.Groups) {
			return nil, fmt.Errorf("interface %s: its set of groups has the same name %s as another set", n.ID, name)
		}
		p.interfaces = append(p.interfaces, n)
	}
	all := make([]*profile, 0, len(byName))
	for _, p := range byName {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *profile) int { return strings.Compare(a.name, b.name) })

	most := uint64(1)<<width - 1
	if uint64(len(all)) > most {
		return nil, fmt.Errorf("%d combinations of security groups are in use, but the mark mask has room for %d: widen firewall.markMask", len(all), most)
	}
	taken := make(map[uint32]bool, len(all))
	for _, p := range all {
		h, err := strconv.ParseUint(p.name, 16, 64)
		if err != nil {
			return nil, fmt.Errorf("profile %s: %w", p.name, err)
		}
		id := h % most
		for taken[uint32(id+1)] {
			id = (id + 1) % most
		}
		p.id = uint32(id + 1)
		taken[p.id] = true
	}
	return all, nil
}

func profileName(groups []*vpc.SecurityGroup) string {
	ids := make([]string, len(groups))
	for i, g := range groups {
		ids[i] = g.ID
	}
	return hash16(strings.Join(ids, " "))
}

// markBits is how our bits of the packet mark are used. Before the profiles are asked for, two of them say by which kinds
// of link a packet enters and leaves.
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

// fromVSwitch and toVSwitch are the bits of the two kinds of link.
func (m markBits) fromVSwitch() Mark { return Mark{1 << m.shift, 1 << m.shift} }
func (m markBits) toVSwitch() Mark   { return Mark{2 << m.shift, 2 << m.shift} }
func (m markBits) none() Mark        { return Mark{0, m.mask} }
