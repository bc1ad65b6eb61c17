package polgen

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"gatehouse/vpc"
)

// Edit returns the network with one random change, as a commit makes it: what has not changed is shared with spec. A change
// that is refused (a group that is still used is deleted …) gives spec itself.
func Edit(r *rand.Rand, spec *vpc.Spec, size Size) *vpc.Spec {
	g := generator{Rand: r, size: size, macs: 0x10000 + r.Uint32N(200), taken: map[netip.Addr]bool{}}
	opt := vpc.ApplyOptions{NewID: g.id}
	v := pick(r, spec.VPCs)
	set := func(value any) *vpc.Spec {
		next, problems := vpc.Set(spec, Host(), v.Name, value, opt)
		if len(problems) > 0 {
			return spec
		}
		return next
	}
	remove := func(kind vpc.Kind, name string) *vpc.Spec {
		next, problems := vpc.Delete(spec, Host(), kind, v.Name, name)
		if len(problems) > 0 {
			return spec
		}
		return next
	}
	switch r.IntN(14) {
	case 0, 1: // other rules
		group := *pick(r, v.SecurityGroups)
		group.Rules = slices.Clone(group.Rules)
		if len(group.Rules) > 0 && g.chance(40) {
			k := r.IntN(len(group.Rules))
			group.Rules = slices.Delete(group.Rules, k, k+1)
		} else if len(group.Rules) < 12 {
			group.Rules = append(group.Rules, g.rule(v, &group))
		}
		return set(&group)
	case 2: // a group, new or other than before
		return set(g.group(r.IntN(size.Groups + 2)))
	case 3:
		return remove(vpc.KindSecurityGroup, pick(r, v.SecurityGroups).Name)
	case 4, 5, 6: // other groups, or another vSwitch and with it other addresses
		inst := *pick(r, v.Instances)
		inst.Interfaces = slices.Clone(inst.Interfaces)
		for i := range inst.Interfaces {
			n := *inst.Interfaces[i]
			if g.chance(80) {
				n.SecurityGroups = g.memberships(v, pick(r, v.SecurityGroups).Type)
			}
			if g.chance(20) {
				n.VSwitch, n.PrivateIP, n.SecondaryPrivateIPs, n.IPv6Addresses = pick(r, v.VSwitches).Name, netip.Addr{}, nil, nil
				n.IPv6Prefixes = nil
			} else if g.chance(20) {
				n.IPv6Prefixes = n.IPv6Prefixes[:r.IntN(len(n.IPv6Prefixes)+1)]
			}
			inst.Interfaces[i] = &n
		}
		return set(&inst)
	case 7, 8:
		inst := g.instance(v, r.IntN(2*size.Instances))
		for _, n := range inst.Interfaces {
			n.PrivateIP, n.SecondaryPrivateIPs, n.IPv6Addresses = netip.Addr{}, nil, nil
		}
		return set(inst)
	case 9:
		if len(v.Instances) == 1 {
			return spec // every network has somebody
		}
		return remove(vpc.KindInstance, pick(r, v.Instances).Name)
	case 10:
		return set(g.prefixList(v, g.family()))
	case 11:
		return set(g.acl(v, r.IntN(3)))
	case 12:
		w := *pick(r, v.VSwitches)
		w.NetworkACL = ""
		if len(v.NetworkACLs) > 0 && g.chance(60) {
			w.NetworkACL = pick(r, v.NetworkACLs).Name
		}
		w.EnrollmentGroups = g.memberships(v, vpc.GroupBasic)
		return set(&w)
	default:
		other := *v
		other.NATGateway = g.chance(50)
		other.IPv6PrefixTranslations = g.translations(v)
		other.Description = fmt.Sprint(r.IntN(3))
		other.VSwitches, other.SecurityGroups, other.PrefixLists, other.NetworkACLs = nil, nil, nil, nil
		other.Instances, other.PrivateZones, other.Forwarders = nil, nil, nil
		return set(&other)
	}
}
