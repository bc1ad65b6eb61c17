// Package scale makes large networks for benchmarks: what a gateway looks like when it is full.
package scale

import (
	"fmt"
	"net/netip"

	"gatehouse/vpc"
)

// Host is the gateway of a Spec.
func Host() vpc.Host { return vpc.Host{Region: "lab-1", Uplinks: []string{"up0"}} }

// Spec returns a complete Spec of one VPC with n instances, in both families: 200 instances a vSwitch, ten a group, twenty
// rules a group of which one names another group; every tenth instance is in two groups, so that there are n/5
// combinations. The same n gives the same Spec, every object of it a new one.
func Spec(n int) *vpc.Spec {
	id := 0
	newID := func(prefix string) string {
		id++
		return fmt.Sprintf("%s%016x", prefix, uint64(id)*0x9e3779b97f4a7c15)
	}
	spec, problems := vpc.Apply(nil, Manifest(n), Host(), vpc.ApplyOptions{NewID: newID})
	if err := problems.Err(); err != nil {
		panic(fmt.Sprintf("the network is not valid: %v", err))
	}
	return spec
}

// Manifest is what somebody would write to get Spec.
func Manifest(n int) *vpc.Spec {
	v := &vpc.VPCSpec{Name: "big", CIDRBlock: netip.MustParsePrefix("10.0.0.0/8"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20::/56")}
	v.SetDefaults()
	for i := range (n + 199) / 200 {
		w := &vpc.VSwitchSpec{
			Name:          fmt.Sprintf("s%d", i),
			CIDRBlock:     netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i/200, i%200)),
			IPv6CIDRBlock: netip.MustParsePrefix(fmt.Sprintf("fd00:20:0:%x::/64", i)),
			Attach:        vpc.AttachSpec{Bridge: fmt.Sprintf("b%d", i)},
		}
		w.SetDefaults()
		v.VSwitches = append(v.VSwitches, w)
	}
	groups := max(n/10, 1)
	for g := range groups {
		v.SecurityGroups = append(v.SecurityGroups, group(g, groups))
	}
	for i := range n {
		names := []string{fmt.Sprintf("g%d", i/10)}
		if i%10 == 0 && groups > 7 {
			names = append(names, fmt.Sprintf("g%d", (i/10+7)%groups))
		}
		inst := &vpc.InstanceSpec{Name: fmt.Sprintf("i%d", i), Interfaces: []*vpc.InterfaceSpec{{
			MAC: vpc.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}, VSwitch: fmt.Sprintf("s%d", i/200), SecurityGroups: names,
		}}}
		inst.SetDefaults()
		v.Instances = append(v.Instances, inst)
	}
	return &vpc.Spec{VPCs: []*vpc.VPCSpec{v}}
}

func group(g, groups int) *vpc.GroupSpec {
	sg := &vpc.GroupSpec{Name: fmt.Sprintf("g%d", g), Type: vpc.GroupBasic}
	for i := range 20 {
		peer := vpc.Peer{Kind: vpc.PeerPrefix, Prefix: netip.MustParsePrefix("0.0.0.0/0")}
		switch {
		case i == 0:
			peer = vpc.Peer{Kind: vpc.PeerGroup, Name: fmt.Sprintf("g%d", (g+1)%groups)}
		case i%2 == 0:
			peer.Prefix = netip.MustParsePrefix("::/0")
		}
		r := &vpc.RuleSpec{Direction: vpc.Ingress, Policy: vpc.Accept, Protocol: vpc.ProtocolTCP, Priority: 1, Source: peer,
			Ports: vpc.Ports{{From: uint16(1000 + i), To: uint16(1000 + i)}}}
		if i >= 12 {
			r.Direction, r.Source, r.Destination = vpc.Egress, vpc.Peer{}, peer
		}
		sg.Rules = append(sg.Rules, r)
	}
	return sg
}

// Join returns a Spec in which instance number i is in other groups, and everything else is shared with s.
func Join(s *vpc.Spec, i int, groups ...string) *vpc.Spec {
	return edit(s, func(v *vpc.VPCSpec) {
		list := append([]*vpc.InstanceSpec{}, v.Instances...)
		for k, inst := range list {
			if inst.Name == fmt.Sprintf("i%d", i) {
				c, n := *inst, *inst.Interfaces[0]
				n.SecurityGroups = groups
				c.Interfaces = []*vpc.InterfaceSpec{&n}
				list[k] = &c
			}
		}
		v.Instances = list
	})
}

// AddRule returns a Spec in which group number g has one rule more, and everything else is shared with s.
func AddRule(s *vpc.Spec, g int, port uint16) *vpc.Spec {
	return edit(s, func(v *vpc.VPCSpec) {
		list := append([]*vpc.GroupSpec{}, v.SecurityGroups...)
		for k, sg := range list {
			if sg.Name == fmt.Sprintf("g%d", g) {
				c := *sg
				c.Rules = append(append([]*vpc.RuleSpec{}, sg.Rules...), &vpc.RuleSpec{
					ID: fmt.Sprintf("sgr-%016x", uint64(g)<<16|uint64(port)), Direction: vpc.Ingress, Policy: vpc.Accept, Protocol: vpc.ProtocolTCP, Priority: 1,
					Ports: vpc.Ports{{From: port, To: port}}, Source: vpc.Peer{Kind: vpc.PeerPrefix, Prefix: netip.MustParsePrefix("0.0.0.0/0")},
				})
				list[k] = &c
			}
		}
		v.SecurityGroups = list
	})
}

func edit(s *vpc.Spec, f func(*vpc.VPCSpec)) *vpc.Spec {
	v := *s.VPCs[0]
	f(&v)
	next := *s
	next.VPCs = []*vpc.VPCSpec{&v}
	return &next
}
