package vpc

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
)

var (
	px = netip.MustParsePrefix
	ip = netip.MustParseAddr
)

func peer(s string) Peer {
	p, err := ParsePeer(s)
	if err != nil {
		panic(err)
	}
	return p
}

func mac(n int) MAC { return MAC{0x00, 0x16, 0x3e, byte(n >> 16), byte(n >> 8), byte(n)} }

func host() Host { return Host{Region: "lab-1", Uplinks: []string{"eth0"}} }

// good returns a complete Spec with something of everything; tests change it at will.
func good() *Spec {
	research := &VPCSpec{
		ID: "vpc-1", Name: "research", CIDRBlock: px("10.20.0.0/16"), SecondaryCIDRBlocks: []netip.Prefix{px("10.21.0.0/16")},
		IPv6CIDRBlock: px("fd00:20::/56"), Domain: "research.internal",
		VSwitches: []*VSwitchSpec{
			{ID: "vsw-00000001", Name: "db", CIDRBlock: px("10.20.2.0/24"), IPv6CIDRBlock: px("fd00:20:0:2::/64"), Enrollment: EnrollmentClosed, EnrollmentGroups: []string{"default"}},
			{ID: "vsw-00000002", Name: "web", CIDRBlock: px("10.20.1.0/24"), IPv6CIDRBlock: px("fd00:20:0:1::/64"), Enrollment: EnrollmentAuto, EnrollmentGroups: []string{"default"}, NetworkACL: "dmz"},
		},
		SecurityGroups: []*GroupSpec{
			{ID: "sg-1", Name: "app", Type: GroupBasic, InnerAccess: Drop},
			{ID: "sg-2", Name: "closed", Type: GroupAdvanced, InnerAccess: Drop},
			{ID: "sg-3", Name: "default", Type: GroupBasic, InnerAccess: Accept},
			{ID: "sg-4", Name: "web", Type: GroupBasic, InnerAccess: Accept, Rules: []*RuleSpec{
				{ID: "sgr-1", Direction: Ingress, Policy: Accept, Protocol: ProtocolTCP, Ports: Ports{{443, 443}}, Source: peer("0.0.0.0/0"), Priority: 1},
				{ID: "sgr-2", Direction: Ingress, Policy: Accept, Protocol: ProtocolTCP, Ports: Ports{{443, 443}}, Source: peer("::/0"), Priority: 1},
				{ID: "sgr-3", Direction: Ingress, Policy: Drop, Protocol: ProtocolAll, Source: peer("sg:app"), Priority: 2},
				{ID: "sgr-4", Direction: Egress, Policy: Drop, Protocol: ProtocolUDP, Ports: Ports{{53, 53}}, Destination: peer("pl:resolvers"), Priority: 1},
			}},
		},
		PrefixLists: []*PrefixListSpec{{ID: "pl-1", Name: "resolvers", Family: "ipv4", Entries: []netip.Prefix{px("198.51.100.1/32"), px("203.0.113.0/24")}, MaxEntries: 20}},
		NetworkACLs: []*ACLSpec{{
			ID: "nacl-1", Name: "dmz",
			Ingress: []*EntrySpec{{ID: "nae-1", Policy: Accept, Protocol: ProtocolTCP, Ports: Ports{{0, 65535}}, Source: peer("0.0.0.0/0")}},
			Egress:  []*EntrySpec{{ID: "nae-2", Policy: Accept, Destination: peer("0.0.0.0/0")}, {ID: "nae-3", Policy: Accept, Destination: peer("::/0")}},
		}},
		Instances: []*InstanceSpec{
			{ID: "i-1", Name: "db-1", Interfaces: []*InterfaceSpec{{
				ID: "eni-1", MAC: mac(1), VSwitch: "db", PrivateIP: ip("10.20.2.10"), IPv6Addresses: []netip.Addr{ip("fd00:20:0:2::10")}, SecurityGroups: []string{"app"},
			}}},
			{ID: "i-2", Name: "web-1", Interfaces: []*InterfaceSpec{{
				ID: "eni-2", MAC: mac(2), VSwitch: "web", PrivateIP: ip("10.20.1.10"), SecondaryPrivateIPs: []netip.Addr{ip("10.20.1.11")},
				IPv6Addresses: []netip.Addr{ip("fd00:20:0:1::10")}, IPv6Prefixes: []netip.Prefix{px("fd00:20:0:1:4::/80"), px("fd00:20:0:1:8000::/80")},
				SecurityGroups: []string{"app", "web"},
			}}},
		},
		PrivateZones: []*PrivateZoneSpec{{ID: "zone-1", Name: "corp.example", Missing: MissingNXDOMAIN, Records: []*RecordSpec{
			{Name: "git", Type: "CNAME", Value: "web-1.research.internal.", TTL: 60},
			{Name: "@", Type: "MX", Value: "10 mail", TTL: 60},
		}}},
		Forwarders: []*ForwarderSpec{{Zone: "partner.example", Servers: []string{"192.0.2.53"}}},
	}
	other := &VPCSpec{
		ID: "vpc-2", Name: "prod", CIDRBlock: px("10.30.0.0/16"),
		VSwitches:      []*VSwitchSpec{{ID: "vsw-00000003", Name: "front", CIDRBlock: px("10.30.1.0/24"), Enrollment: EnrollmentAuto, EnrollmentGroups: []string{"default"}, Attach: AttachSpec{Bridge: "br-front"}}},
		SecurityGroups: []*GroupSpec{{ID: "sg-5", Name: "default", Type: GroupBasic, InnerAccess: Accept}},
		Instances: []*InstanceSpec{{ID: "i-3", Name: "front-1", Interfaces: []*InterfaceSpec{{
			ID: "eni-3", MAC: mac(3), VSwitch: "front", PrivateIP: ip("10.30.1.10"), SecurityGroups: []string{"default"},
		}}}},
	}
	s := &Spec{
		VPCs:         []*VPCSpec{other, research},
		PrivateZones: []*PrivateZoneSpec{{ID: "zone-2", Name: "shared.example", Missing: MissingForward, VPCs: []string{"prod", "research"}}},
		Tests:        []*TestSpec{{From: "web-1", To: "db-1", Protocol: ProtocolTCP, Port: 5432, Expect: Accept}},
	}
	for _, v := range s.VPCs {
		v.SetDefaults()
		for _, i := range v.Instances {
			i.SetDefaults()
		}
	}
	return s
}

// clone returns a Spec that shares nothing with s.
func clone(t testing.TB, s *Spec) *Spec {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	c := new(Spec)
	if err := json.Unmarshal(b, c); err != nil {
		t.Fatal(err)
	}
	return c
}

// crowd returns a Spec with n instances in one basic and one advanced group for every 5,000.
func crowd(n int) *Spec {
	v := &VPCSpec{ID: "vpc-1", Name: "big", CIDRBlock: px("10.0.0.0/8"), IPv6CIDRBlock: px("fd00::/56")}
	v.SetDefaults()
	for i := range (n + 4999) / 5000 {
		v.VSwitches = append(v.VSwitches, &VSwitchSpec{
			ID: fmt.Sprintf("vsw-%08x", i+1), Name: fmt.Sprintf("w%d", i), CIDRBlock: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 16),
			IPv6CIDRBlock: netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 7: byte(i)}), 64), Enrollment: EnrollmentAuto, EnrollmentGroups: []string{"many"},
		})
	}
	v.SecurityGroups = []*GroupSpec{
		{ID: "sg-1", Name: "default", Type: GroupBasic, InnerAccess: Accept},
		{ID: "sg-2", Name: "many", Type: GroupAdvanced, InnerAccess: Drop},
	}
	for i := range n {
		w := i / 5000
		x := &InstanceSpec{ID: fmt.Sprintf("i-%d", i), Name: fmt.Sprintf("vm-%06d", i), Interfaces: []*InterfaceSpec{{
			ID: fmt.Sprintf("eni-%d", i), MAC: mac(i + 1), VSwitch: fmt.Sprintf("w%d", w), SecurityGroups: []string{"many"},
			PrivateIP:     netip.AddrFrom4([4]byte{10, byte(w), byte((i%5000 + 1) >> 8), byte(i%5000 + 1)}),
			IPv6Addresses: []netip.Addr{netip.AddrFrom16([16]byte{0xfd, 7: byte(w), 14: byte((i%5000 + 1) >> 8), 15: byte(i%5000 + 1)})},
		}}}
		x.SetDefaults()
		v.Instances = append(v.Instances, x)
	}
	return &Spec{VPCs: []*VPCSpec{v}}
}
