package reconcile

import (
	"fmt"
	"net/netip"

	"gatehouse/firewall/conntrack"
	"gatehouse/vpc"
)

// world is a small network that tests change a little at a time.
type world struct {
	revision  uint64
	ports     []string       // what the group web admits from anywhere
	instances map[string]int // name -> the last number of its addresses
	switches  []string       // besides "web"
	acl       string         // policy of the only entry of web's ACL; "": no ACL
	list      []string       // IPv4 prefixes that the group web admits everything from
	uplinks   []string
}

func newWorld() world {
	return world{revision: 1, ports: []string{"80", "443"}, instances: map[string]int{"a": 1, "b": 2}, uplinks: []string{"eth0"},
		list: []string{"203.0.113.0/24"}}
}

func addr4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 1, byte(n)}) }
func addr6(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00::%x", n)) }

func addrOf(f vpc.Family, n int) netip.Addr {
	if f == vpc.IPv6 {
		return addr6(n)
	}
	return addr4(n)
}

// outside returns an address that is in no VPC.
func outside(f vpc.Family) netip.Addr {
	if f == vpc.IPv6 {
		return netip.MustParseAddr("2001:db8::1")
	}
	return netip.MustParseAddr("198.51.100.1")
}

func id(prefix, name string) string {
	h := uint64(14695981039346656037)
	for _, c := range []byte(prefix + name) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return fmt.Sprintf("%s-%016x", prefix, h)
}

// snapshot resolves the world. All objects are made anew, as by a daemon that has been restarted.
func (w world) snapshot() *vpc.Snapshot {
	web := &vpc.GroupSpec{ID: id("sg", "web"), Name: "web", Type: vpc.GroupBasic, InnerAccess: vpc.Drop}
	for _, family := range []string{"0.0.0.0/0", "::/0"} {
		for _, p := range w.ports {
			ports, err := vpc.ParsePorts(p)
			if err != nil {
				panic(err)
			}
			web.Rules = append(web.Rules, &vpc.RuleSpec{ID: id("sgr", family+p), Direction: vpc.Ingress, Policy: vpc.Accept, Protocol: vpc.ProtocolTCP,
				Ports: ports, Source: peer(family), Priority: 1})
		}
	}
	web.Rules = append(web.Rules, &vpc.RuleSpec{ID: id("sgr", "list"), Direction: vpc.Ingress, Policy: vpc.Accept, Source: peer("pl:friends"), Priority: 1})
	spec := &vpc.VPCSpec{
		ID: id("vpc", "lab"), Name: "lab", CIDRBlock: netip.MustParsePrefix("10.0.0.0/16"), IPv6CIDRBlock: netip.MustParsePrefix("fd00::/56"),
		SecurityGroups: []*vpc.GroupSpec{web, {ID: id("sg", "ops"), Name: "ops", Type: vpc.GroupBasic, InnerAccess: vpc.Accept}},
		VSwitches: []*vpc.VSwitchSpec{{ID: id("vsw", "web"), Name: "web", CIDRBlock: netip.MustParsePrefix("10.0.1.0/24"),
			IPv6CIDRBlock: netip.MustParsePrefix("fd00::/64"), Attach: vpc.AttachSpec{Bridge: "vs-web"}}},
		PrefixLists: []*vpc.PrefixListSpec{{ID: id("pl", "friends"), Name: "friends", Family: "ipv4"}},
	}
	for _, p := range w.list {
		spec.PrefixLists[0].Entries = append(spec.PrefixLists[0].Entries, netip.MustParsePrefix(p))
	}
	for i, name := range w.switches {
		spec.VSwitches = append(spec.VSwitches, &vpc.VSwitchSpec{ID: id("vsw", name), Name: name,
			CIDRBlock: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(2 + i), 0}), 24), Attach: vpc.AttachSpec{Bridge: "vs-" + name}})
	}
	if w.acl != "" {
		entry := func(direction string) []*vpc.EntrySpec {
			e := &vpc.EntrySpec{ID: id("nacle", direction), Policy: vpc.Policy(w.acl)}
			if direction == "ingress" {
				e.Source = peer("0.0.0.0/0")
			} else {
				e.Destination = peer("0.0.0.0/0")
			}
			return []*vpc.EntrySpec{e}
		}
		spec.NetworkACLs = []*vpc.ACLSpec{{ID: id("nacl", "dmz"), Name: "dmz", Ingress: entry("ingress"), Egress: entry("egress")}}
		spec.VSwitches[0].NetworkACL = "dmz"
	}
	for name, n := range w.instances {
		group := "web"
		if name == "ops" {
			group = "ops"
		}
		spec.Instances = append(spec.Instances, &vpc.InstanceSpec{ID: id("i", name), Name: name, Interfaces: []*vpc.InterfaceSpec{{
			ID: id("eni", name), MAC: vpc.MAC{2, 0, 0, 0, 0, byte(n)}, VSwitch: "web", SecurityGroups: []string{group},
			PrivateIP: addr4(n), IPv6Addresses: []netip.Addr{addr6(n)},
		}}})
	}
	return vpc.NewSnapshot(&vpc.Spec{VPCs: []*vpc.VPCSpec{spec}}, vpc.Host{Region: "lab-1", Uplinks: w.uplinks}, w.revision)
}

func peer(s string) vpc.Peer {
	p, err := vpc.ParsePeer(s)
	if err != nil {
		panic(err)
	}
	return p
}

// flow is a TCP connection that nobody translates.
func flow(src netip.Addr, dst netip.Addr, port uint16) conntrack.Flow {
	return conntrack.Flow{
		Original: conntrack.Tuple{Protocol: vpc.ProtocolTCP, Src: src, SrcPort: 40000, Dst: dst, DstPort: port},
		Reply:    conntrack.Tuple{Protocol: vpc.ProtocolTCP, Src: dst, SrcPort: port, Dst: src, DstPort: 40000},
	}
}
