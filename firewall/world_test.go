package firewall

import (
	"fmt"
	"net/netip"

	"gatehouse/vpc"
)

// everything is what a current host can do, with the default mask.
func everything() Features {
	return Features{MarkMask: 0xffff0000, MapMark: true, IPMAC4: true, IPMAC6: true, NFLog: true, Physdev: true, ClampMSS: true, Netmap: true, Bare: true, RefuseMidStream: true}
}

// bare is a host without any of the optional kernel parts.
func bare() Features { return Features{MarkMask: 0xff00} }

func host() vpc.Host {
	return vpc.Host{Region: "lab-1", Uplinks: []string{"eth0", "eth1"},
		HostAccess: []vpc.HostAccess{{Protocol: vpc.ProtocolTCP, Ports: ports("22,8000-8100")}, {Protocol: vpc.ProtocolICMP},
			{Protocol: vpc.ProtocolTCP, Ports: ports("2222"), VPC: "research", VSwitch: "db"}}}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, addr(a))
	}
	return out
}

func ports(s string) vpc.Ports {
	p, err := vpc.ParsePorts(s)
	if err != nil {
		panic(err)
	}
	return p
}

func peer(s string) vpc.Peer {
	if s == "" {
		return vpc.Peer{}
	}
	p, err := vpc.ParsePeer(s)
	if err != nil {
		panic(err)
	}
	return p
}

func mac(n int) vpc.MAC { return vpc.MAC{0x00, 0x16, 0x3e, 0, byte(n >> 8), byte(n)} }

func ingress(id, source string, proto vpc.Protocol, p string, policy vpc.Policy, priority int) *vpc.RuleSpec {
	r := &vpc.RuleSpec{ID: id, Direction: vpc.Ingress, Policy: policy, Protocol: proto, Source: peer(source), Priority: priority}
	if p != "" {
		r.Ports = ports(p)
	}
	return r
}

func egress(id, destination string, proto vpc.Protocol, p string, policy vpc.Policy, priority int) *vpc.RuleSpec {
	r := &vpc.RuleSpec{ID: id, Direction: vpc.Egress, Policy: policy, Protocol: proto, Destination: peer(destination), Priority: priority}
	if p != "" {
		r.Ports = ports(p)
	}
	return r
}

// instance has one interface, numbered n in its vSwitch.
func instance(n int, vswitch, v4, v6 string, groups ...string) *vpc.InstanceSpec {
	nic := &vpc.InterfaceSpec{ID: fmt.Sprintf("eni-%016x", n), MAC: mac(n), VSwitch: vswitch, PrivateIP: addr(v4), SecurityGroups: groups}
	if v6 != "" {
		nic.IPv6Addresses = addrs(v6)
	}
	return &vpc.InstanceSpec{ID: fmt.Sprintf("i-%016x", n), Name: fmt.Sprintf("i%d", n), Interfaces: []*vpc.InterfaceSpec{nic}}
}

// lab is one of everything: two VPCs of which one has a NAT gateway, vSwitches with and without ACLs, on a bridge, on a
// plain link and behind relays, and every kind of rule.
func lab() *vpc.Spec {
	web := &vpc.GroupSpec{ID: "sg-00000000000000a1", Name: "web", Type: vpc.GroupBasic, InnerAccess: vpc.Accept, Rules: []*vpc.RuleSpec{
		ingress("sgr-00000000000000a1", "0.0.0.0/0", vpc.ProtocolTCP, "443", vpc.Accept, 1),
		ingress("sgr-00000000000000a2", "::/0", vpc.ProtocolTCP, "443", vpc.Accept, 1),
		ingress("sgr-00000000000000a3", "10.20.9.0/24", vpc.ProtocolTCP, "22-23", vpc.Drop, 10),
		ingress("sgr-00000000000000a4", "sg:bastion", vpc.ProtocolAll, "", vpc.Accept, 20),
		ingress("sgr-00000000000000a5", "0.0.0.0/0", vpc.ProtocolTCP,
			"1,3,5,7,9,11,13,15,17,19,21,23,25,27-29,31,33-35,37", vpc.Accept, 30),
		egress("sgr-00000000000000a6", "pl:resolvers", vpc.ProtocolUDP, "53", vpc.Drop, 1),
		{ID: "sgr-00000000000000a7", Direction: vpc.Ingress, Policy: vpc.Accept, Protocol: vpc.ProtocolUDP, Priority: 1,
			Ports: ports("5000"), SourcePorts: ports("4000-4010"), Source: peer("10.20.2.0/24"), Destination: peer("10.20.1.10")},
		ingress("sgr-00000000000000a8", "sg:web", vpc.ProtocolICMP, "", vpc.Accept, 1),
		ingress("sgr-00000000000000a9", "sg:web", vpc.ProtocolICMPv6, "", vpc.Accept, 1),
	}}
	bastion := &vpc.GroupSpec{ID: "sg-00000000000000b1", Name: "bastion", Type: vpc.GroupBasic, InnerAccess: vpc.Drop, Rules: []*vpc.RuleSpec{
		ingress("sgr-00000000000000b1", "0.0.0.0/0", vpc.ProtocolTCP, "22", vpc.Accept, 1),
		ingress("sgr-00000000000000b2", "203.0.113.0/24", vpc.ProtocolTCP, "22", vpc.Drop, 1),
		ingress("sgr-00000000000000b3", "0.0.0.0/0", vpc.ProtocolTCP, "443", vpc.Drop, 1),
		ingress("sgr-00000000000000b4", "sg:web", vpc.ProtocolGRE, "", vpc.Accept, 1),
		ingress("sgr-00000000000000b5", "sg:web", vpc.Protocol(51), "", vpc.Accept, 1),
	}}
	db := &vpc.GroupSpec{ID: "sg-00000000000000c1", Name: "db", Type: vpc.GroupAdvanced, InnerAccess: vpc.Drop, Rules: []*vpc.RuleSpec{
		ingress("sgr-00000000000000c1", "10.20.1.0/24", vpc.ProtocolTCP, "5432", vpc.Accept, 1),
		ingress("sgr-00000000000000c2", "fd00:20:0:1::/64", vpc.ProtocolTCP, "5432", vpc.Accept, 1),
		egress("sgr-00000000000000c3", "0.0.0.0/0", vpc.ProtocolTCP, "80,443", vpc.Accept, 1),
		egress("sgr-00000000000000c4", "pl:resolvers6", vpc.ProtocolAll, "", vpc.Accept, 1),
	}}
	other := &vpc.GroupSpec{ID: "sg-00000000000000d1", Name: "default", Type: vpc.GroupBasic, InnerAccess: vpc.Accept}
	dmz := &vpc.ACLSpec{ID: "nacl-00000000000000a1", Name: "dmz",
		Ingress: []*vpc.EntrySpec{
			{ID: "nae-00000000000000a1", Policy: vpc.Drop, Protocol: vpc.ProtocolTCP, Ports: ports("25"), Source: peer("0.0.0.0/0")},
			{ID: "nae-00000000000000a2", Policy: vpc.Accept, Protocol: vpc.ProtocolTCP, Ports: ports("1024-65535"), Source: peer("0.0.0.0/0")},
			{ID: "nae-00000000000000a3", Policy: vpc.Accept, Protocol: vpc.ProtocolTCP, Ports: ports("443"), Source: peer("0.0.0.0/0")},
			{ID: "nae-00000000000000a4", Policy: vpc.Accept, Protocol: vpc.ProtocolAll, Source: peer("pl:resolvers6")},
		},
		Egress: []*vpc.EntrySpec{
			{ID: "nae-00000000000000b1", Policy: vpc.Accept, Protocol: vpc.ProtocolAll, Destination: peer("0.0.0.0/0")},
			{ID: "nae-00000000000000b2", Policy: vpc.Accept, Protocol: vpc.ProtocolAll, Destination: peer("::/0")},
		}}
	second := instance(2, "web", "10.20.1.12", "fd00:20:0:1::12", "web", "bastion")
	second.Interfaces[0].SecondaryPrivateIPs = addrs("10.20.1.13")
	second.Interfaces[0].IPv6Prefixes = []netip.Prefix{prefix("fd00:20:0:1:5::/80")}
	return &vpc.Spec{VPCs: []*vpc.VPCSpec{{
		ID: "vpc-00000000000000a1", Name: "research", CIDRBlock: prefix("10.20.0.0/16"), SecondaryCIDRBlocks: []netip.Prefix{prefix("10.21.0.0/16")},
		IPv6CIDRBlock: prefix("fd00:20::/56"), NATGateway: true,
		VSwitches: []*vpc.VSwitchSpec{
			{ID: "vsw-00000000000000a1", Name: "web", CIDRBlock: prefix("10.20.1.0/24"), IPv6CIDRBlock: prefix("fd00:20:0:1::/64"),
				Attach: vpc.AttachSpec{Bridge: "br-web"}, NetworkACL: "dmz"},
			{ID: "vsw-00000000000000a2", Name: "db", CIDRBlock: prefix("10.20.2.0/24"), IPv6CIDRBlock: prefix("fd00:20:0:2::/64")},
			{ID: "vsw-00000000000000a3", Name: "far", CIDRBlock: prefix("10.21.3.0/24"), Attach: vpc.AttachSpec{Relay: addrs("10.9.0.2")}},
		},
		SecurityGroups: []*vpc.GroupSpec{web, bastion, db},
		PrefixLists: []*vpc.PrefixListSpec{
			{ID: "pl-00000000000000a1", Name: "resolvers", Family: "ipv4", Entries: []netip.Prefix{prefix("198.51.100.1/32"), prefix("203.0.113.0/24")}},
			{ID: "pl-00000000000000a2", Name: "resolvers6", Family: "ipv6", Entries: []netip.Prefix{prefix("::/0")}},
		},
		NetworkACLs: []*vpc.ACLSpec{dmz},
		Instances: []*vpc.InstanceSpec{
			instance(1, "web", "10.20.1.10", "fd00:20:0:1::10", "web"),
			second,
			instance(3, "db", "10.20.2.10", "fd00:20:0:2::10", "db"),
			instance(4, "db", "10.20.2.11", "", "bastion"),
			instance(5, "db", "10.20.2.12", "fd00:20:0:2::12", "web", "bastion"),
			instance(6, "far", "10.21.3.10", "", "web"),
		},
	}, {
		ID: "vpc-00000000000000b1", Name: "other", CIDRBlock: prefix("172.16.0.0/16"),
		VSwitches: []*vpc.VSwitchSpec{
			{ID: "vsw-00000000000000b1", Name: "plain", CIDRBlock: prefix("172.16.1.0/24"), Attach: vpc.AttachSpec{Interface: "eth5"}},
		},
		SecurityGroups: []*vpc.GroupSpec{other},
		Instances: []*vpc.InstanceSpec{
			instance(7, "plain", "172.16.1.10", "", "default"),
			instance(8, "plain", "172.16.1.11", "", "default"),
		},
	}}}
}

// translated is the lab, which is known by prefixes of two providers beyond its uplinks.
func translated() *vpc.Spec {
	spec := lab()
	spec.VPCs[0].IPv6PrefixTranslations = []vpc.PrefixTranslationSpec{
		{Uplink: "eth0", ExternalPrefix: prefix("2001:db8:4200::/56")}, {Uplink: "eth1", ExternalPrefix: prefix("2001:db8:4300::/56")},
	}
	return spec
}

// crowded has n vSwitches and m instances in each, so that every dispatch is a tree.
func crowded(n, m int) *vpc.Spec {
	v := &vpc.VPCSpec{ID: "vpc-00000000000000c1", Name: "crowd", CIDRBlock: prefix("10.0.0.0/8"), IPv6CIDRBlock: prefix("fd00:30::/48"),
		NetworkACLs: []*vpc.ACLSpec{{ID: "nacl-00000000000000c1", Name: "open",
			Ingress: []*vpc.EntrySpec{{ID: "nae-00000000000000c1", Policy: vpc.Accept, Source: peer("0.0.0.0/0")}},
			Egress:  []*vpc.EntrySpec{{ID: "nae-00000000000000c2", Policy: vpc.Accept, Destination: peer("0.0.0.0/0")}}}}}
	for i := range n {
		g := fmt.Sprintf("g%d", i)
		v.SecurityGroups = append(v.SecurityGroups, &vpc.GroupSpec{ID: fmt.Sprintf("sg-%016x", i), Name: g, Type: vpc.GroupBasic, InnerAccess: vpc.Accept})
		w := &vpc.VSwitchSpec{ID: fmt.Sprintf("vsw-%016x", uint64(i+1)*0x9e3779b97f4a7c15), Name: g,
			CIDRBlock: prefix(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)), IPv6CIDRBlock: prefix(fmt.Sprintf("fd00:30:0:%x::/64", i)), NetworkACL: "open"}
		v.VSwitches = append(v.VSwitches, w)
		for j := range m {
			v.Instances = append(v.Instances, instance(i*m+j+1, g, fmt.Sprintf("10.%d.%d.%d", i/256, i%256, j+1), fmt.Sprintf("fd00:30:0:%x::%x", i, j+1), g))
		}
	}
	return &vpc.Spec{VPCs: []*vpc.VPCSpec{v}}
}

func snapshot(spec *vpc.Spec) *vpc.Snapshot { return vpc.NewSnapshot(spec, host(), 7) }
