package vpc

import (
	"net/netip"
	"slices"
	"strings"
)

// validChange reports whether next is valid as far as that can be told from what differs from valid, a Spec that is valid for
// the same Host. It looks at changes that are frequent, of instances and of groups, and says no to everything else and
// whenever it is in doubt: then validate judges the whole.
//
// What is the same object as before cannot have become invalid by itself; it can only by what it names (vSwitches, groups and
// prefix lists, none of which is gone, and no group is of another type), and by what there may be only one or so many
// of: names, IDs, MACs, addresses, members and rules. These are counted over everything where something has been added.
func validChange(valid, next *Spec, h Host) bool {
	if len(next.VPCs) != len(valid.VPCs) || !slices.Equal(next.PrivateZones, valid.PrivateZones) || !slices.Equal(next.Tests, valid.Tests) {
		return false
	}
	all := &added{
		v: &validator{spec: next, host: h, ids: map[string]struct{}{}, macs: map[MAC]holder{}, addrs: map[netip.Addr]holder{},
			links: map[string]holder{}, users: map[deleted][]string{}},
		objects: map[any]bool{}, ids: map[string]bool{}, macs: map[MAC]bool{}, addrs: map[netip.Addr]bool{}, prefixes: map[netip.Prefix]bool{},
	}
	for i, x := range next.VPCs {
		was := valid.VPCs[i]
		if x == was {
			continue
		}
		if x.Name != was.Name || x.ID != was.ID || !x.sameFrame(was) {
			return false
		}
		c := &change{added: all, vpc: x, was: was, rules: map[string]int{}}
		if !c.groups() || !c.instances() || !c.limits() {
			return false
		}
	}
	return all.unique(next)
}

// sameFrame reports whether two VPCs differ in nothing but groups and instances.
func (v *VPCSpec) sameFrame(o *VPCSpec) bool {
	a, b := (&VPC{VPCSpec: v}).bare(), (&VPC{VPCSpec: o}).bare()
	return sameSpec(&a, &b) && slices.Equal(v.VSwitches, o.VSwitches) && slices.Equal(v.PrefixLists, o.PrefixLists) &&
		slices.Equal(v.NetworkACLs, o.NetworkACLs) && slices.Equal(v.PrivateZones, o.PrivateZones) && slices.Equal(v.Forwarders, o.Forwarders)
}

// added is what a change adds of which there may be only one on the gateway, and who adds it.
type added struct {
	v       *validator   // judges all that differs, and sees what is twice among it
	objects map[any]bool // what differs, and has been judged with all that is in it: *InstanceSpec, *GroupSpec
	ids     map[string]bool
	macs    map[MAC]bool
	addrs   map[netip.Addr]bool

	prefixes map[netip.Prefix]bool // also those that would have one of addrs in them
}

// unique reports whether nothing that is as it was has one of the IDs, MACs or addresses.
func (a *added) unique(s *Spec) bool {
	if a.v.delegatedTwice(); len(a.v.problems) > 0 {
		return false
	}
	if len(a.ids)+len(a.macs)+len(a.addrs)+len(a.prefixes) == 0 {
		return true
	}
	for _, z := range s.PrivateZones {
		if a.ids[z.ID] {
			return false
		}
	}
	for _, v := range s.VPCs {
		for _, kind := range []Kind{KindVPC, KindVSwitch, KindPrefixList, KindNetworkACL, KindZone} {
			clash := false
			v.objects(kind, func(o Object) bool { clash = a.ids[o.ID]; return !clash })
			if clash {
				return false
			}
		}
		for _, acl := range v.NetworkACLs {
			for _, e := range slices.Concat(acl.Ingress, acl.Egress) {
				if a.ids[e.ID] {
					return false
				}
			}
		}
		for _, g := range v.SecurityGroups {
			if a.objects[g] {
				continue
			}
			if a.ids[g.ID] {
				return false
			}
			for _, r := range g.Rules {
				if a.ids[r.ID] {
					return false
				}
			}
		}
		for _, i := range v.Instances {
			if a.objects[i] {
				continue
			}
			if a.ids[i.ID] {
				return false
			}
			for _, n := range i.Interfaces {
				if a.ids[n.ID] || a.macs[n.MAC] {
					return false
				}
				for ip := range n.Addrs {
					if a.addrs[ip] || len(a.v.prefixes) > 0 && a.v.delegates(ip) {
						return false
					}
				}
				if slices.ContainsFunc(n.IPv6Prefixes, func(p netip.Prefix) bool { return a.prefixes[p] }) {
					return false
				}
			}
		}
	}
	return true
}

// change is what differs in one VPC.
type change struct {
	*added
	vpc, was *VPCSpec
	scope    *scope
	rules    map[string]int // groups whose rules cost more than before, and what
	members  []string       // groups that may have more members than before
	more     bool           // the VPC may have more addresses
}

// known makes a scope of what the objects that differ can name, groups apart.
func (c *change) known() {
	if c.scope != nil {
		return
	}
	c.scope = &scope{VPCSpec: c.vpc, path: &path{nil, "vpcs", c.vpc.Name}, groups: map[string]*groupUse{}, lists: map[string]*PrefixListSpec{},
		acls: map[string]*ACLSpec{}, switches: map[string]*VSwitchSpec{}}
	for _, l := range c.vpc.PrefixLists {
		c.scope.lists[l.Name] = l
	}
	for _, w := range c.vpc.VSwitches {
		c.scope.switches[w.Name] = w
	}
}

// group returns a group and adds it to the scope; nil if there is none.
func (c *change) group(name string) *groupUse {
	if g := c.scope.groups[name]; g != nil {
		return g
	}
	i, ok := slices.BinarySearchFunc(c.vpc.SecurityGroups, name, func(g *GroupSpec, name string) int { return strings.Compare(g.Name, name) })
	if !ok {
		return nil
	}
	g := &groupUse{GroupSpec: c.vpc.SecurityGroups[i]}
	for _, r := range g.Rules {
		g.rules += c.scope.charge(r.Peer())
	}
	c.scope.groups[name] = g
	return g
}

// groups judges the groups that differ.
func (c *change) groups() bool {
	at := align(c.was.SecurityGroups, c.vpc.SecurityGroups, func(a, b *GroupSpec) bool { return a == b },
		func(g *GroupSpec) string { return g.Name }, func(g *GroupSpec) string { return g.Name })
	gone := false
	leftOut(c.was.SecurityGroups, at, func(*GroupSpec) { gone = true })
	if gone {
		return false
	}
	for j, g := range c.vpc.SecurityGroups {
		old := &GroupSpec{}
		if at[j] >= 0 {
			if old = c.was.SecurityGroups[at[j]]; old == g {
				continue
			}
			if old.Type != g.Type || old.ID != g.ID {
				return false
			}
		} else if checkName(g.Name) != "" || another(c.vpc.SecurityGroups, j, func(o *GroupSpec) bool { return o.Name == g.Name }) {
			return false
		}
		c.known()
		now := c.group(g.Name)
		if now == nil || now.GroupSpec != g {
			return false
		}
		for _, r := range g.Rules {
			for _, p := range []Peer{r.Source, r.Destination} {
				if p.Kind == PeerGroup {
					c.group(p.Name)
				}
			}
		}
		p := path{c.scope.path, "securityGroups", g.Name}
		c.v.group(&p, c.scope, g)
		if len(c.v.problems) > 0 {
			return false
		}
		had := map[*RuleSpec]bool{}
		ids := map[string]bool{}
		cost := 0
		for _, r := range old.Rules {
			had[r], ids[r.ID] = true, true
			cost += c.scope.charge(r.Peer())
		}
		for _, r := range g.Rules {
			if !had[r] && !ids[r.ID] {
				c.ids[r.ID] = true
			}
		}
		if old.ID != g.ID {
			c.ids[g.ID] = true
		}
		c.objects[g] = true
		if now.rules > cost {
			c.rules[g.Name] = now.rules
		}
	}
	return true
}

// another reports whether a place in the list other than i has what is looked for.
func another[T any](list []*T, i int, is func(*T) bool) bool {
	return slices.ContainsFunc(list[:i], is) || slices.ContainsFunc(list[i+1:], is)
}

// instances judges the instances that differ.
func (c *change) instances() bool {
	at := align(c.was.Instances, c.vpc.Instances, func(a, b *InstanceSpec) bool { return a == b },
		func(i *InstanceSpec) string { return i.Name }, func(i *InstanceSpec) string { return i.Name })
	for j, x := range c.vpc.Instances {
		old := &InstanceSpec{}
		if at[j] >= 0 {
			if old = c.was.Instances[at[j]]; old == x {
				continue
			}
		} else if another(c.vpc.Instances, j, func(o *InstanceSpec) bool { return strings.EqualFold(o.Name, x.Name) }) {
			return false
		}
		c.known()
		for _, n := range x.Interfaces {
			for _, name := range n.SecurityGroups {
				c.group(name)
			}
		}
		p := path{c.scope.path, "instances", x.Name}
		c.v.instanceName(&p, x, map[string]string{})
		c.v.instance(&p, c.scope, x)
		if len(c.v.problems) > 0 {
			return false
		}
		c.objects[x] = true
		if x.ID != old.ID {
			c.ids[x.ID] = true
		}
		for _, n := range x.Interfaces {
			was := &InterfaceSpec{}
			if k := slices.IndexFunc(old.Interfaces, func(o *InterfaceSpec) bool { return o.MAC == n.MAC }); k >= 0 {
				was = old.Interfaces[k]
			}
			c.add(was, n)
		}
	}
	return true
}

// add notes what an interface has that it had not before.
func (c *change) add(was, n *InterfaceSpec) {
	if n.ID != was.ID {
		c.ids[n.ID] = true
	}
	if n.MAC != was.MAC {
		c.macs[n.MAC] = true
	}
	had, has := was.holdings(), n.holdings()
	for ip := range n.Addrs {
		if ip != was.PrivateIP && !slices.Contains(was.SecondaryPrivateIPs, ip) && !slices.Contains(was.IPv6Addresses, ip) {
			c.addrs[ip] = true
			if ip.Is6() {
				c.prefixes[delegatedTo(ip)] = true
			}
		}
	}
	for _, p := range n.IPv6Prefixes {
		if !slices.Contains(was.IPv6Prefixes, p) {
			c.prefixes[p] = true
		}
	}
	c.more = c.more || has > had
	for _, name := range n.SecurityGroups {
		if has > had || !slices.Contains(was.SecurityGroups, name) {
			c.members = append(c.members, name)
		}
	}
}

// limits counts where more has come: members of groups, addresses of the VPC, and rules of interfaces.
func (c *change) limits() bool {
	if len(c.members)+len(c.rules) == 0 && !c.more {
		return true
	}
	count := map[string]*groupUse{}
	for _, name := range c.members {
		count[name] = &groupUse{GroupSpec: c.group(name).GroupSpec}
	}
	addresses := 0
	for _, x := range c.vpc.Instances {
		for _, n := range x.Interfaces {
			k := n.holdings()
			addresses += k
			for _, name := range n.SecurityGroups {
				if g := count[name]; g != nil {
					g.addresses += k
					g.interfaces++
				}
				if _, grown := c.rules[name]; grown && c.charged(n.SecurityGroups) > maxRulesPerInterface {
					return false
				}
			}
		}
	}
	for _, w := range c.vpc.VSwitches {
		for _, name := range w.EnrollmentGroups {
			if _, grown := c.rules[name]; grown && c.charged(w.EnrollmentGroups) > maxRulesPerInterface {
				return false
			}
		}
	}
	for _, g := range count {
		if g.Type == GroupBasic && g.addresses > maxAddressesPerBasic || g.Type == GroupAdvanced && g.interfaces > maxInterfacesPerAdvanced {
			return false
		}
	}
	return addresses <= maxAddressesPerVPC
}

// charged is what the rules of groups cost together.
func (c *change) charged(groups []string) int {
	sum := 0
	for _, name := range groups {
		if g := c.group(name); g != nil {
			sum += g.rules
		}
	}
	return sum
}
