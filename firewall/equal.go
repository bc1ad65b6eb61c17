package firewall

import "slices"

// Same reports whether two chains are one and the same: equal at the cost of comparing a pointer. A Compiler makes it so that
// chains which have not changed are the same.
func (c *Chain) Same(o *Chain) bool { return c.text != nil && c.text == o.text }

func (c *Chain) equal(o *Chain) bool {
	return c.Same(o) || c.Name == o.Name && slices.EqualFunc(c.Rules, o.Rules, func(a, b Rule) bool { return a.equal(&b) })
}

func (r *Rule) equal(o *Rule) bool {
	return r.ID == o.ID && r.Reason == o.Reason && r.Bare == o.Bare && r.Target == o.Target && r.Match.equal(&o.Match)
}

func (m *Match) equal(o *Match) bool {
	if m.In != o.In || m.Out != o.Out || m.NotIn != o.NotIn || m.NotOut != o.NotOut ||
		m.Src != o.Src || m.Dst != o.Dst || m.NotSrc != o.NotSrc || m.NotDst != o.NotDst ||
		m.Protocol != o.Protocol || m.ICMPType != o.ICMPType || m.ICMPCode != o.ICMPCode || m.SrcMAC != o.SrcMAC ||
		m.SYN != o.SYN || m.NotMark != o.NotMark || m.PhysdevIsBridged != o.PhysdevIsBridged || m.GroupFrame != o.GroupFrame {
		return false
	}
	if m.Mark != o.Mark && (m.Mark == nil || o.Mark == nil || *m.Mark != *o.Mark) {
		return false
	}
	return slices.Equal(m.SrcPorts, o.SrcPorts) && slices.Equal(m.DstPorts, o.DstPorts) &&
		slices.Equal(m.Sets, o.Sets) && slices.Equal(m.States, o.States)
}

// sameMembers reports whether two sets have one and the same list of members.
func sameMembers(a, b []string) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// Same reports whether two sets are one and the same, as for chains.
func (s *Set) Same(o *Set) bool {
	return s.Name == o.Name && s.Type == o.Type && s.Family == o.Family && sameMembers(s.Members, o.Members) && slices.Equal(s.Options, o.Options)
}

func (s *Set) equal(o *Set) bool {
	return s.Name == o.Name && s.Type == o.Type && s.Family == o.Family && slices.Equal(s.Options, o.Options) && slices.Equal(s.Members, o.Members)
}
