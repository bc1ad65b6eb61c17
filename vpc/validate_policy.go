package vpc

import (
	"slices"
	"strconv"
)

// noIPv6 are protocols that iptables cannot match in IPv6 packets: they are extension headers.
var noIPv6 = []Protocol{43, 44, 51, 60}

// memberships checks a list of groups that an interface is in, or will be when somebody enrolls.
func (v *validator) memberships(p *path, field string, c *scope, names []string) {
	if len(names) == 0 {
		v.add(p, field, "an interface is in at least one group: leave the field out for [default]")
		return
	}
	if len(names) > maxGroupsPerInterface {
		v.add(p, field, "has %d groups, and an interface is in at most %d", len(names), maxGroupsPerInterface)
	}
	rules := 0
	var first *groupUse
	for _, n := range names {
		g := c.groups[n]
		switch {
		case g == nil:
			v.missing(c.VPCSpec, p, field, KindSecurityGroup, n)
			continue
		case first == nil:
			first = g
		case g.Type != first.Type:
			v.add(p, field, "group %q is %s and %q is %s: all groups of an interface have one type", first.Name, first.Type, n, g.Type)
			return
		}
		rules += g.rules
	}
	if rules > maxRulesPerInterface {
		v.add(p, field, "these groups have %d rules together, and at most %d apply to an interface (a prefix list counts with its maxEntries)", rules, maxRulesPerInterface)
	}
}

func (v *validator) groups(c *scope) {
	names := make(map[string]bool, len(c.SecurityGroups))
	for i, g := range c.SecurityGroups {
		p := at(c.path, "securityGroups", g.Name, i)
		v.name(&p, KindSecurityGroup, g.Name, names)
		v.group(&p, c, g)
	}
}

func (v *validator) group(p *path, c *scope, g *GroupSpec) {
	v.id(p, g.ID)
	v.description(p, g.Description, 256)
	switch g.Type {
	case GroupBasic:
		if g.InnerAccess != Accept && g.InnerAccess != Drop {
			v.add(p, "innerAccess", "%q: write accept or drop", g.InnerAccess)
		}
	case GroupAdvanced:
		if g.InnerAccess != Drop {
			v.add(p, "innerAccess", "%q: the members of an advanced group are always isolated; leave it out", g.InnerAccess)
		}
		if g.Name == DefaultGroup {
			v.add(p, "type", "the group %q is basic in every VPC", DefaultGroup)
		}
	default:
		v.add(p, "type", "%q: write basic or advanced", g.Type)
	}
	references := 0
	for j, r := range g.Rules {
		rp := path{p, "rules", strconv.Itoa(j)}
		v.rule(&rp, c, g, r)
		if r.Peer().Kind == PeerGroup {
			references++
		}
	}
	if references > maxGroupRulesPerGroup {
		v.add(p, "rules", "%d rules name a group, and a group has at most %d such rules", references, maxGroupRulesPerGroup)
	}
}

func (v *validator) rule(p *path, c *scope, g *GroupSpec, r *RuleSpec) {
	v.id(p, r.ID)
	v.description(p, r.Description, 512)
	v.policy(p, r.Policy)
	if r.Priority < 1 || r.Priority > 100 {
		v.add(p, "priority", "%d: a priority is 1 (strongest) to 100", r.Priority)
	}
	v.ports(p, "ports", r.Protocol, r.Ports, 1)
	v.ports(p, "sourcePorts", r.Protocol, r.SourcePorts, 1)

	peer, other := "source", "destination"
	switch r.Direction {
	case Ingress:
	case Egress:
		peer, other = other, peer
	case "":
		v.add(p, "direction", "write ingress or egress: it follows by itself only where just one of source and destination is written")
		return
	default:
		v.add(p, "direction", "%q: write ingress or egress", r.Direction)
		return
	}
	if r.Peer().IsZero() {
		v.add(p, peer, "an %s rule needs a %s: a CIDR, an address, sg:NAME or pl:NAME", r.Direction, peer)
		return
	}
	family := v.peer(p, peer, c, r.Peer())
	if r.Peer().Kind == PeerGroup {
		to := c.groups[r.Peer().Name]
		switch {
		case g.Type == GroupAdvanced:
			v.add(p, peer, "%s: the rules of an advanced group name no groups; use a CIDR or a prefix list", r.Peer())
		case to != nil && to.Type == GroupAdvanced:
			v.add(p, peer, "%s is an advanced group, which no rule may name; use a CIDR or a prefix list", r.Peer())
		}
	}
	switch o := r.OtherEnd(); o.Kind {
	case PeerNone:
	case PeerPrefix:
		f := v.peer(p, other, c, o)
		if family != 0 && f != 0 && f != family {
			v.add(p, other, "%s is %s and %s is %s: both ends of a rule have one family", o, f, r.Peer(), family)
			return
		}
		if family == 0 {
			family = f
		}
	default:
		v.add(p, other, "%s: the %s of an %s rule is a CIDR or an address", o, other, r.Direction)
	}
	v.protocol(p, r.Protocol, family)
}

// peer checks that what a rule or an entry names is there, and returns its family; 0 when that is open.
func (v *validator) peer(p *path, field string, c *scope, peer Peer) Family {
	switch peer.Kind {
	case PeerPrefix:
		b := peer.Prefix
		switch {
		case !b.IsValid() || !plain(b.Addr()):
			v.add(p, field, "%s is not a range of addresses", b)
			return 0
		case b != b.Masked():
			v.add(p, field, "%s has host bits set: write %s", b, b.Masked())
		}
		return FamilyOf(b.Addr())
	case PeerList:
		l := c.lists[peer.Name]
		if l == nil {
			v.missing(c.VPCSpec, p, field, KindPrefixList, peer.Name)
			return 0
		}
		return l.family()
	case PeerGroup:
		if c.groups[peer.Name] == nil {
			v.missing(c.VPCSpec, p, field, KindSecurityGroup, peer.Name)
		}
	}
	return 0
}

// family returns the family of the list's entries; 0 when what is written is none.
func (l *PrefixListSpec) family() Family {
	for _, f := range Families() {
		if l.Family == f.String() {
			return f
		}
	}
	return 0
}

func (v *validator) policy(p *path, a Policy) {
	if a != Accept && a != Drop {
		v.add(p, "policy", "%q: write accept or drop", a)
	}
}

func (v *validator) ports(p *path, field string, proto Protocol, ports Ports, least uint16) {
	if ports == nil {
		return
	}
	if !proto.HasPorts() {
		v.add(p, field, "protocol %s has no ports: only tcp and udp have", proto)
		return
	}
	if len(ports) == 0 {
		v.add(p, field, "is empty: leave it out for all ports")
	}
	for _, r := range ports {
		switch {
		case r.From > r.To:
			v.add(p, field, "%s runs backwards: the lower port comes first", r)
		case r.From < least:
			v.add(p, field, "%s: ports are %d to 65535", r, least)
		}
	}
}

// protocol checks that packets of a family can have the protocol; family 0 is both.
func (v *validator) protocol(p *path, proto Protocol, family Family) {
	switch {
	case proto == ProtocolICMP && family == IPv6:
		v.add(p, "protocol", "icmp does not exist between IPv6 addresses: write icmpv6")
	case proto == ProtocolICMPv6 && family == IPv4:
		v.add(p, "protocol", "icmpv6 does not exist between IPv4 addresses: write icmp")
	case family == IPv6 && slices.Contains(noIPv6, proto):
		v.add(p, "protocol", "%s is an extension header in IPv6 and cannot be matched", proto)
	}
}

func (v *validator) prefixLists(c *scope) {
	names := make(map[string]bool, len(c.PrefixLists))
	for i, l := range c.PrefixLists {
		p := at(c.path, "prefixLists", l.Name, i)
		v.name(&p, KindPrefixList, l.Name, names)
		v.id(&p, l.ID)
		v.description(&p, l.Description, 256)
		family := l.family()
		if family == 0 {
			v.add(&p, "family", "%q: write ipv4 or ipv6", l.Family)
		}
		for _, e := range l.Entries {
			switch {
			case !e.IsValid() || !plain(e.Addr()):
				v.add(&p, "entries", "%s is not a range of addresses", e)
			case e != e.Masked():
				v.add(&p, "entries", "%s has host bits set: write %s", e, e.Masked())
			case family != 0 && FamilyOf(e.Addr()) != family:
				v.add(&p, "entries", "%s is not %s, and a prefix list has one family", e, family)
			}
		}
		switch n := len(l.Entries); {
		case l.MaxEntries < 0 || l.MaxEntries > maxPrefixListEntries:
			v.add(&p, "maxEntries", "%d: a prefix list holds 1 to %d entries", l.MaxEntries, maxPrefixListEntries)
		case n > maxPrefixListEntries:
			v.add(&p, "entries", "has %d entries, and a prefix list holds at most %d", n, maxPrefixListEntries)
		case l.MaxEntries > 0 && n > l.MaxEntries:
			v.add(&p, "entries", "has %d entries, and maxEntries is %d: raise it", n, l.MaxEntries)
		}
	}
}

func (v *validator) acls(c *scope) {
	if n := len(c.NetworkACLs); n > maxACLsPerVPC {
		v.add(c.path, "networkAcls", "there are %d network ACLs, and a VPC has at most %d", n, maxACLsPerVPC)
	}
	names := make(map[string]bool, len(c.NetworkACLs))
	for i, a := range c.NetworkACLs {
		p := at(c.path, "networkAcls", a.Name, i)
		v.name(&p, KindNetworkACL, a.Name, names)
		v.id(&p, a.ID)
		v.description(&p, a.Description, 256)
		v.entries(&p, c, Ingress, a.Ingress)
		v.entries(&p, c, Egress, a.Egress)
	}
}

func (v *validator) entries(parent *path, c *scope, d Direction, entries []*EntrySpec) {
	count := map[Family]int{}
	for i, e := range entries {
		p := path{parent, string(d), strconv.Itoa(i)}
		family := v.entry(&p, c, d, e)
		count[family] += c.charge(e.side(d))
	}
	for _, f := range Families() {
		if count[f] > maxACLEntries {
			v.add(parent, string(d), "has %d %s entries, and at most %d per direction and family are allowed (a prefix list counts with its maxEntries)", count[f], f, maxACLEntries)
		}
	}
}

// side returns the address side that an entry of that direction has.
func (e *EntrySpec) side(d Direction) Peer {
	if d == Egress {
		return e.Destination
	}
	return e.Source
}

func (v *validator) entry(p *path, c *scope, d Direction, e *EntrySpec) Family {
	v.id(p, e.ID)
	v.description(p, e.Description, 256)
	v.policy(p, e.Policy)
	v.ports(p, "ports", e.Protocol, e.Ports, 0)
	peer, other, written := "source", "destination", e.Destination
	if d == Egress {
		peer, other, written = "destination", "source", e.Source
	}
	if !written.IsZero() {
		v.add(p, other, "%s: an %s entry has only a %s", written, d, peer)
	}
	switch s := e.side(d); s.Kind {
	case PeerNone:
		v.add(p, peer, "an %s entry needs a %s: a CIDR, an address or pl:NAME", d, peer)
		return 0
	case PeerGroup:
		v.add(p, peer, "%s: a network ACL knows no groups; use a CIDR, an address or pl:NAME", s)
		return 0
	default:
		family := v.peer(p, peer, c, s)
		v.protocol(p, e.Protocol, family)
		return family
	}
}

// groupCapacities checks how many are in each group, after all instances have been counted.
func (v *validator) groupCapacities(c *scope) {
	for i, g := range c.SecurityGroups {
		u := c.groups[g.Name]
		if u.GroupSpec != g {
			continue // a second one of the name
		}
		p := at(c.path, "securityGroups", g.Name, i)
		switch {
		case g.Type == GroupBasic && u.addresses > maxAddressesPerBasic:
			v.add(&p, "", "has %d addresses, and a basic group holds at most %d: use an advanced group or several basic ones", u.addresses, maxAddressesPerBasic)
		case g.Type == GroupAdvanced && u.interfaces > maxInterfacesPerAdvanced:
			v.add(&p, "", "has %d interfaces, and an advanced group holds at most %d", u.interfaces, maxInterfacesPerAdvanced)
		}
	}
	// The group that nobody has declared yet holds no more than others.
	if u := c.groups[DefaultGroup]; u.addresses > maxAddressesPerBasic && !c.has(KindSecurityGroup, DefaultGroup) {
		p := at(c.path, "securityGroups", DefaultGroup, 0)
		v.add(&p, "", "has %d addresses, and a basic group holds at most %d: use an advanced group or several basic ones", u.addresses, maxAddressesPerBasic)
	}
	if c.addresses > maxAddressesPerVPC {
		v.add(c.path, "instances", "have %d addresses, and a VPC holds at most %d", c.addresses, maxAddressesPerVPC)
	}
}
