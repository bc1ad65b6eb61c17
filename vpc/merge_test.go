package vpc

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// applied applies and fails the test on problems.
func applied(t testing.TB, current, want *Spec, opt ApplyOptions) *Spec {
	t.Helper()
	next, problems := Apply(current, want, host(), opt)
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	return next
}

// manifest returns what a person might write: no IDs, few addresses, nothing that has a default.
func manifest() *Spec {
	v := &VPCSpec{Name: "research", CIDRBlock: px("10.20.0.0/16"), IPv6CIDRBlock: px("fd00:20::/56"), Domain: "research.internal",
		VSwitches: []*VSwitchSpec{
			{Name: "web", CIDRBlock: px("10.20.1.0/24"), IPv6CIDRBlock: px("fd00:20:0:1::/64"), Pool: AddrRange{ip("10.20.1.100"), ip("10.20.1.200")}, NetworkACL: "dmz"},
			{Name: "db", CIDRBlock: px("10.20.2.0/24")},
		},
		SecurityGroups: []*GroupSpec{{Name: "web", Rules: []*RuleSpec{
			{Protocol: ProtocolTCP, Ports: Ports{{443, 443}}, Source: peer("0.0.0.0/0"), Priority: 1},
			{Protocol: ProtocolTCP, Ports: Ports{{22, 22}}, Source: peer("sg:web"), Priority: 1},
			{Protocol: ProtocolUDP, Policy: Drop, Destination: peer("pl:resolvers"), Priority: 1},
		}}},
		PrefixLists: []*PrefixListSpec{{Name: "resolvers", Entries: []netip.Prefix{px("203.0.113.0/24"), px("198.51.100.1/32")}}},
		NetworkACLs: []*ACLSpec{{Name: "dmz",
			Ingress: []*EntrySpec{{Protocol: ProtocolTCP, Ports: Ports{{443, 443}}, Source: peer("0.0.0.0/0")}, {Source: peer("::/0")}},
			Egress:  []*EntrySpec{{Destination: peer("0.0.0.0/0")}},
		}},
		Instances: []*InstanceSpec{
			{Name: "web-1", Interfaces: []*InterfaceSpec{{MAC: mac(1), VSwitch: "web", SecurityGroups: []string{"web", "default"}}, {MAC: mac(9), VSwitch: "db"}}},
			{Name: "web-2", Interfaces: []*InterfaceSpec{{MAC: mac(2), VSwitch: "web", PrivateIP: ip("10.20.1.10"), SecondaryPrivateIPs: []netip.Addr{ip("10.20.1.12"), ip("10.20.1.11")}}}},
			{Name: "db-1", Interfaces: []*InterfaceSpec{{MAC: mac(4), VSwitch: "db"}}},
		},
		PrivateZones: []*PrivateZoneSpec{{Name: "corp.example", Records: []*RecordSpec{{Name: "a", Type: "a", Value: "10.20.1.10", TTL: 60}, {Name: "b", Type: "A", Value: "10.20.1.10", TTL: 60}}}},
		Forwarders:   []*ForwarderSpec{{Zone: "partner.example", Servers: []string{"192.0.2.53"}}},
	}
	v.SetDefaults()
	for _, i := range v.Instances {
		i.SetDefaults()
	}
	return &Spec{VPCs: []*VPCSpec{v}, PrivateZones: []*PrivateZoneSpec{{Name: "shared.example", VPCs: []string{"research"}}}}
}

func TestApplyMakesAManifestComplete(t *testing.T) {
	want := manifest()
	next := applied(t, nil, want, ApplyOptions{})
	if !reflect.DeepEqual(want, manifest()) {
		t.Error("Apply changed the manifest")
	}
	for _, kind := range []Kind{KindVPC, KindVSwitch, KindSecurityGroup, KindPrefixList, KindNetworkACL, KindInstance, KindInterface, KindZone} {
		for o := range next.Objects(kind) {
			if o.ID == "" {
				t.Errorf("%s has no ID", o.Path())
			}
		}
	}
	v := next.VPCs[0]
	var names []string
	for _, i := range v.Instances {
		names = append(names, i.Name)
		for _, n := range i.Interfaces {
			w := v.VSwitches[slices.IndexFunc(v.VSwitches, func(w *VSwitchSpec) bool { return w.Name == n.VSwitch })]
			if !w.holds(n.PrivateIP) {
				t.Errorf("%s has the address %s in %s", i.Name, n.PrivateIP, w.CIDRBlock)
			}
			if !w.Pool.IsZero() && i.Name == "web-1" && !w.Pool.Contains(n.PrivateIP) {
				t.Errorf("%s has %s, which is not in the pool", i.Name, n.PrivateIP)
			}
			if n6 := len(n.IPv6Addresses); w.IPv6CIDRBlock.IsValid() != (n6 == 1) {
				t.Errorf("%s has %d IPv6 addresses in a vswitch with %q", i.Name, n6, w.IPv6CIDRBlock)
			}
		}
	}
	if !slices.Equal(names, []string{"db-1", "web-1", "web-2"}) {
		t.Errorf("instances are %q, not in order", names)
	}
	groups := v.SecurityGroups
	if len(groups) != 2 || groups[0].Name != DefaultGroup || groups[0].InnerAccess != Accept || groups[1].Type != GroupBasic {
		t.Errorf("groups are %+v", groups)
	}
	if d := groups[1].Rules[2].Direction; d != Egress {
		t.Errorf("a rule with a destination alone is %s", d)
	}
	if v.PrefixLists[0].Family != "ipv4" || v.PrivateZones[0].Records[0].Type != "A" || v.VSwitches[0].EnrollmentGroups[0] != DefaultGroup {
		t.Error("a default was not filled in")
	}
}

func TestApplyAgainChangesNothing(t *testing.T) {
	first := applied(t, nil, manifest(), ApplyOptions{})
	for _, prune := range []bool{false, true} {
		again := applied(t, first, manifest(), ApplyOptions{Prune: prune})
		if again != first {
			t.Errorf("prune %t: the second Apply made a new Spec: %v", prune, Diff(first, again))
		}
		if exported := applied(t, first, clone(t, first), ApplyOptions{Prune: prune}); exported != first {
			t.Errorf("prune %t: applying the Spec itself made a new one: %v", prune, Diff(first, exported))
		}
	}
	complete := good()
	if again := applied(t, complete, clone(t, complete), ApplyOptions{Prune: true}); again != complete {
		t.Errorf("applying a complete Spec to itself made a new one: %v", Diff(complete, again))
	}
}

func TestTheOrderOfAManifestIsOfNoAccount(t *testing.T) {
	first := applied(t, nil, manifest(), ApplyOptions{})
	turned := manifest()
	v := turned.VPCs[0]
	slices.Reverse(v.VSwitches)
	slices.Reverse(v.SecurityGroups[0].Rules)
	slices.Reverse(v.PrefixLists[0].Entries)
	slices.Reverse(v.Instances)
	slices.Reverse(v.PrivateZones[0].Records)
	slices.Reverse(v.Instances[2].Interfaces[0].SecurityGroups)
	slices.Reverse(v.Instances[1].Interfaces[0].SecondaryPrivateIPs)
	if again := applied(t, first, turned, ApplyOptions{}); again != first {
		t.Errorf("turned round it changes %v", Diff(first, again))
	}
	// From nothing it comes to the same addresses.
	fresh := applied(t, nil, turned, ApplyOptions{})
	for i, inst := range fresh.VPCs[0].Instances {
		for j, n := range inst.Interfaces {
			if m := first.VPCs[0].Instances[i].Interfaces[j]; n.PrivateIP != m.PrivateIP || !slices.Equal(n.IPv6Addresses, m.IPv6Addresses) {
				t.Errorf("%s has %s %s, and %s %s in the other order", inst.Name, m.PrivateIP, m.IPv6Addresses, n.PrivateIP, n.IPv6Addresses)
			}
		}
	}
	// The order of ACL entries is the only one that counts.
	slices.Reverse(turned.VPCs[0].NetworkACLs[0].Ingress)
	again := applied(t, first, turned, ApplyOptions{})
	if d := Diff(first, again); len(d) != 1 || d[0].Kind != KindNetworkACL {
		t.Errorf("turning the entries round changes %v", d)
	}
}

func TestApplySharesWhatStays(t *testing.T) {
	first := applied(t, nil, manifest(), ApplyOptions{})
	before := clone(t, first)
	want := manifest()
	want.VPCs[0].Instances[2].Description = "the database"
	next := applied(t, first, want, ApplyOptions{})
	a, b := first.VPCs[0], next.VPCs[0]
	if a == b || !same(a.VSwitches, b.VSwitches) || !same(a.SecurityGroups, b.SecurityGroups) || !same(a.NetworkACLs, b.NetworkACLs) ||
		!same(a.PrefixLists, b.PrefixLists) || !same(a.PrivateZones, b.PrivateZones) || !same(a.Forwarders, b.Forwarders) {
		t.Error("lists that did not change are not shared")
	}
	if a.Instances[0] == b.Instances[0] || a.Instances[1] != b.Instances[1] || a.Instances[2] != b.Instances[2] {
		t.Error("not exactly the changed instance is new")
	}
	if !same(a.Instances[0].Interfaces, b.Instances[0].Interfaces) {
		t.Error("the interfaces of the changed instance are not shared")
	}
	if !reflect.DeepEqual(first, before) {
		t.Error("Apply changed the current Spec")
	}
}

func TestPrune(t *testing.T) {
	first := applied(t, nil, manifest(), ApplyOptions{})
	first = applied(t, first, &Spec{VPCs: []*VPCSpec{good().VPCs[0]}, PrivateZones: []*PrivateZoneSpec{{Name: "both.example", VPCs: []string{"prod", "research"}}}}, ApplyOptions{})
	first, enrolled, err := Enrol(first, host(), EnrolRequest{VSwitch: first.VPCs[1].VSwitches[1].ID, MAC: mac(77), Hostname: "guest"}, ApplyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := &Spec{VPCs: []*VPCSpec{manifest().VPCs[0]}}
	v := want.VPCs[0]
	v.Instances, v.SecurityGroups, v.PrefixLists, v.PrivateZones, v.Forwarders = v.Instances[2:], nil, nil, nil, nil

	if kept := applied(t, first, want, ApplyOptions{}); kept != first {
		t.Errorf("without prune it changes %v", Diff(first, kept))
	}
	next := applied(t, first, want, ApplyOptions{Prune: true})
	var got []string
	for _, c := range Diff(first, next) {
		got = append(got, c.String())
	}
	wantChanges := []string{
		"delete prefixlist research/resolvers", "delete securitygroup research/web",
		"delete instance research/web-1", "delete interface research/00:16:3e:00:00:01", "delete interface research/00:16:3e:00:00:09",
		"delete instance research/web-2", "delete interface research/00:16:3e:00:00:02",
		"delete zone research/corp.example", "delete forwarder research/partner.example",
		"delete zone shared.example", // served research alone; both.example serves a VPC that the file does not name
	}
	if !slices.Equal(got, wantChanges) {
		t.Errorf("prune does\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wantChanges, "\n"))
	}
	if !slices.Contains(next.VPCs[1].Instances, enrolled) {
		t.Error("the enrolled instance was pruned")
	}
	if next.VPCs[0] != first.VPCs[0] {
		t.Error("a VPC that the file does not name was touched")
	}
	if g := next.VPCs[1].SecurityGroups; len(g) != 1 || g[0].Name != DefaultGroup {
		t.Error("the group default was pruned")
	}
}

func TestPruneEmptiesTheDefaultGroup(t *testing.T) {
	want := manifest()
	want.VPCs[0].SecurityGroups = append(want.VPCs[0].SecurityGroups, &GroupSpec{Name: DefaultGroup, Rules: manyRules(2, "10.0.0.0/8")})
	first := applied(t, nil, want, ApplyOptions{})
	id := first.VPCs[0].SecurityGroups[0].ID
	if kept := applied(t, first, manifest(), ApplyOptions{}); kept != first {
		t.Error("without prune the rules of the group default are gone")
	}
	g := applied(t, first, manifest(), ApplyOptions{Prune: true}).VPCs[0].SecurityGroups[0]
	if g.ID != id || len(g.Rules) != 0 {
		t.Errorf("pruned it is %s with %d rules, want %s without", g.ID, len(g.Rules), id)
	}
}

func TestAnAddressOnceChosenIsKept(t *testing.T) {
	first := applied(t, nil, manifest(), ApplyOptions{})
	find := func(s *Spec, m MAC) *InterfaceSpec {
		o, err := Lookup(s, KindInterface, "", m.String())
		if err != nil {
			t.Fatal(err)
		}
		return o.Value.(*InterfaceSpec)
	}
	was := find(first, mac(1))
	for _, tt := range []struct {
		name   string
		change func(v *VPCSpec)
		kept   [2]bool // IPv4, IPv6
	}{
		{"when the pool moves away", func(v *VPCSpec) { v.VSwitches[0].Pool = AddrRange{ip("10.20.1.20"), ip("10.20.1.30")} }, [2]bool{true, true}},
		{"when the instance is renamed", func(v *VPCSpec) { v.Instances[0].Name = "web-9" }, [2]bool{true, true}},
		{"unless the interface moves", func(v *VPCSpec) { v.Instances[0].Interfaces[0].VSwitch = "db" }, [2]bool{false, false}},
		{"unless it becomes the gateway", func(v *VPCSpec) { v.VSwitches[0].Gateway = was.PrivateIP }, [2]bool{false, true}},
		{"unless another is asked for", func(v *VPCSpec) {
			v.Instances[0].Interfaces[0].PrivateIP, v.Instances[0].Interfaces[0].IPv6Addresses = ip("10.20.1.50"), []netip.Addr{ip("fd00:20:0:1::50")}
		}, [2]bool{false, false}},
		{"when the vswitch loses IPv6, of the other family", func(v *VPCSpec) { v.VSwitches[0].IPv6CIDRBlock = netip.Prefix{} }, [2]bool{true, false}},
		{"the first, when more IPv6 addresses are wanted", func(v *VPCSpec) { v.Instances[0].Interfaces[0].IPv6AddressCount = new(3) }, [2]bool{true, true}},
		{"unless no IPv6 address is wanted", func(v *VPCSpec) { v.Instances[0].Interfaces[0].IPv6AddressCount = new(0) }, [2]bool{true, false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := manifest()
			tt.change(want.VPCs[0])
			next := applied(t, first, want, ApplyOptions{Prune: true})
			is := find(next, mac(1))
			for i, f := range Families() {
				if kept := is.Primary(f) == was.Primary(f); kept != tt.kept[i] {
					t.Errorf("%s: %s became %s", f, was.Primary(f), is.Primary(f))
				}
			}
			if c := want.VPCs[0].Instances[0].Interfaces[0].IPv6AddressCount; c != nil && len(is.IPv6Addresses) != *c {
				t.Errorf("has %d IPv6 addresses, want %d", len(is.IPv6Addresses), *c)
			}
			if again := applied(t, next, want, ApplyOptions{Prune: true}); again != next {
				t.Errorf("the second Apply changes %v", Diff(next, again))
			}
		})
	}
}

func TestAVSwitchThatGetsIPv6GivesItToAll(t *testing.T) {
	first := applied(t, nil, manifest(), ApplyOptions{})
	want := &Spec{VPCs: []*VPCSpec{manifest().VPCs[0]}}
	v := want.VPCs[0]
	v.VSwitches[1].IPv6CIDRBlock, v.Instances = px("fd00:20:0:2::/64"), nil
	next := applied(t, first, want, ApplyOptions{})
	if n := next.VPCs[0].Instances[0].Interfaces[0]; n.VSwitch != "db" || len(n.IPv6Addresses) != 1 {
		t.Errorf("an instance that the file does not name has %v", n.IPv6Addresses)
	}
}

func TestChoosingAnAddress(t *testing.T) {
	small := func() *Spec {
		s := manifest()
		v := s.VPCs[0]
		v.VSwitches[1].CIDRBlock = px("10.20.2.0/29") // four addresses: .1 to .4
		v.Instances = nil
		for i := range 4 {
			v.Instances = append(v.Instances, &InstanceSpec{Name: fmt.Sprintf("vm-%d", i), Interfaces: []*InterfaceSpec{{MAC: mac(i + 100), VSwitch: "db"}}})
		}
		return s
	}
	t.Run("a vswitch can be filled", func(t *testing.T) {
		applied(t, nil, small(), ApplyOptions{})
	})
	t.Run("a full vswitch says so", func(t *testing.T) {
		s := small()
		s.VPCs[0].Instances = append(s.VPCs[0].Instances, &InstanceSpec{Name: "vm-9", Interfaces: []*InterfaceSpec{{MAC: mac(200), VSwitch: "db"}}})
		_, problems := Apply(nil, s, host(), ApplyOptions{})
		if got, want := problems.Error(), `vpcs[research].instances[vm-9].interfaces[00:16:3e:00:00:c8].privateIp: no free address in vswitch "db" (10.20.2.0/29)`; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("an address in use elsewhere is passed over", func(t *testing.T) {
		_, problems := Apply(nil, small(), host(), ApplyOptions{InUse: func(a netip.Addr) bool { return a == ip("10.20.2.3") }})
		if len(problems) != 1 || !strings.HasSuffix(problems[0].Path, ".privateIp") {
			t.Errorf("got %v", problems)
		}
	})
	t.Run("a prefix that the address would be in is passed over as a whole", func(t *testing.T) {
		s := manifest()
		first := applied(t, nil, s, ApplyOptions{}).VPCs[0].Instances[1].Interfaces[0]
		other := s.VPCs[0].Instances[0].Interfaces[0]
		other.VSwitch, other.PrivateIP = s.VPCs[0].Instances[1].Interfaces[0].VSwitch, netip.Addr{}
		other.IPv6Prefixes = []netip.Prefix{delegatedTo(first.IPv6Addresses[0])}
		is := applied(t, nil, s, ApplyOptions{}).VPCs[0].Instances[1].Interfaces[0].IPv6Addresses[0]
		if want := LastAddr(other.IPv6Prefixes[0]).Next(); is != want {
			t.Errorf("got %s, want the first address after the prefix, %s", is, want)
		}
	})
	t.Run("an address that somebody has written is passed over", func(t *testing.T) {
		free := applied(t, nil, manifest(), ApplyOptions{}).VPCs[0].Instances[1].Interfaces[0]
		s := manifest()
		n := s.VPCs[0].Instances[1].Interfaces[0]
		n.PrivateIP, n.IPv6Addresses = free.PrivateIP, free.IPv6Addresses
		is := applied(t, nil, s, ApplyOptions{}).VPCs[0].Instances[1].Interfaces[0]
		if is.PrivateIP == free.PrivateIP || is.IPv6Addresses[0] == free.IPv6Addresses[0] {
			t.Errorf("web-1 has %v %v, which is web-2's", is.PrivateIP, is.IPv6Addresses)
		}
	})
}

func TestRulesKeepTheirIDs(t *testing.T) {
	first := applied(t, nil, manifest(), ApplyOptions{})
	was := first.VPCs[0].SecurityGroups[1].Rules
	for _, tt := range []struct {
		name   string
		change func(rules []*RuleSpec) []*RuleSpec
		want   []string
	}{
		{"when one is taken away", func(r []*RuleSpec) []*RuleSpec { return r[1:] }, []string{was[1].ID, was[2].ID}},
		{"when one comes first", func(r []*RuleSpec) []*RuleSpec { return append(manyRules(1, "10.0.0.0/8"), r...) }, []string{"new", was[0].ID, was[1].ID, was[2].ID}},
		{"when only the priority changes", func(r []*RuleSpec) []*RuleSpec { r[0].Priority = 7; return r }, []string{was[0].ID, was[1].ID, was[2].ID}},
		{"when only the description changes", func(r []*RuleSpec) []*RuleSpec { r[1].Description = "x"; return r }, []string{was[0].ID, was[1].ID, was[2].ID}},
		{"unless what they match changes", func(r []*RuleSpec) []*RuleSpec { r[1].Ports = nil; return r }, []string{was[0].ID, "new", was[2].ID}},
		{"when they are written twice, the first", func(r []*RuleSpec) []*RuleSpec { c := *r[0]; return append(r, &c) }, []string{was[0].ID, was[1].ID, was[2].ID, "new"}},
		{"by ID, whatever changes", func(r []*RuleSpec) []*RuleSpec {
			r[0].ID, r[0].Ports, r[0].Policy = was[1].ID, nil, Drop
			return r[:1]
		}, []string{was[1].ID}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := manifest()
			g := want.VPCs[0].SecurityGroups[0]
			g.Rules = tt.change(g.Rules)
			next := applied(t, first, want, ApplyOptions{NewID: func(string) string { return "new" }})
			var got []string
			for _, r := range next.VPCs[0].SecurityGroups[1].Rules {
				got = append(got, r.ID)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestEntriesKeepTheirIDsInAnyOrder(t *testing.T) {
	first := applied(t, nil, manifest(), ApplyOptions{})
	was := first.VPCs[0].NetworkACLs[0].Ingress
	want := manifest()
	acl := want.VPCs[0].NetworkACLs[0]
	slices.Reverse(acl.Ingress)
	acl.Ingress[0].Description = "all of IPv6"
	is := applied(t, first, want, ApplyOptions{}).VPCs[0].NetworkACLs[0].Ingress
	if is[0].ID != was[1].ID || is[1] != was[0] {
		t.Errorf("IDs are %s %s, were %s %s", is[0].ID, is[1].ID, was[0].ID, was[1].ID)
	}
}

func TestObjectsKeepTheirIDsWhateverAManifestSays(t *testing.T) {
	first := applied(t, nil, manifest(), ApplyOptions{})
	want := manifest()
	v := want.VPCs[0]
	v.ID, v.VSwitches[0].ID, v.SecurityGroups[0].ID, v.Instances[0].ID, v.Instances[0].Interfaces[0].ID = "vpc-x", "vsw-x", "sg-x", "i-x", "eni-x"
	if next := applied(t, first, want, ApplyOptions{}); next != first {
		t.Errorf("IDs in a manifest change %v", Diff(first, next))
	}
}

func TestApplyRefuses(t *testing.T) {
	current := applied(t, nil, good(), ApplyOptions{})
	for _, tt := range []struct {
		name   string
		prune  bool
		change func(s *Spec, v *VPCSpec)
		want   []string
	}{
		{"another range for a vswitch", false, func(_ *Spec, v *VPCSpec) { db(v).CIDRBlock = px("10.20.2.0/25") },
			[]string{inDB + "cidrBlock: cannot be changed from 10.20.2.0/24 to 10.20.2.0/25: the range of a vswitch is fixed; make another vswitch and move its instances there"}},
		{"another IPv6 range for a vswitch", false, func(_ *Spec, v *VPCSpec) {
			db(v).IPv6CIDRBlock, dbNIC(v).IPv6Addresses = px("fd00:20:0:9::/64"), nil
		}, []string{inDB + "ipv6CidrBlock: cannot be changed from fd00:20:0:2::/64 to fd00:20:0:9::/64: the range of a vswitch is fixed; make another vswitch and move its instances there"}},
		{"pruning a group in use by an enrolled instance", true, func(_ *Spec, v *VPCSpec) { v.SecurityGroups = v.SecurityGroups[1:]; webGroupless(v) },
			[]string{"vpcs[research].securityGroups[app]: still used by instances[db-1].interfaces[00:16:3e:00:00:01]: change these first"}},
		{"pruning all that something uses", true, func(_ *Spec, v *VPCSpec) {
			v.SecurityGroups, v.PrefixLists, v.NetworkACLs = v.SecurityGroups[3:], nil, nil
		},
			[]string{
				"vpcs[research].networkAcls[dmz]: still used by vswitches[web]: change these first",
				"vpcs[research].securityGroups[app]: still used by securityGroups[web].rules[2], instances[db-1].interfaces[00:16:3e:00:00:01], instances[web-1].interfaces[00:16:3e:00:00:02]: change these first",
				"vpcs[research].prefixLists[resolvers]: still used by securityGroups[web].rules[3]: change these first",
			}},
		{"pruning a vswitch with instances", true, func(_ *Spec, v *VPCSpec) { v.VSwitches = v.VSwitches[:1] },
			[]string{"vpcs[research].vswitches[web]: still used by instances[web-1].interfaces[00:16:3e:00:00:02]: change these first"}},
		{"a number of addresses beside the addresses", false, func(_ *Spec, v *VPCSpec) { nic(v).IPv6AddressCount = new(2) },
			[]string{inNIC + "ipv6AddressCount: is written beside ipv6Addresses: write one of them"}},
		{"everything that Validate refuses, once", false, func(_ *Spec, v *VPCSpec) { rule(v).Priority = 0 },
			[]string{inRule + "priority: 0: a priority is 1 (strongest) to 100"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := clone(t, current)
			v := want.VPCs[1]
			tt.change(want, v)
			v.Instances[0].Enrolled = true
			before := clone(t, current)
			next, problems := Apply(current, want, host(), ApplyOptions{Prune: tt.prune})
			if next != nil {
				t.Error("a Spec was returned beside the problems")
			}
			slices.Sort(tt.want)
			got := strings.Split(problems.Error(), "\n")
			slices.Sort(got)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			if !reflect.DeepEqual(before, clone(t, current)) {
				t.Error("the current Spec was changed")
			}
		})
	}
}

// webGroupless takes the other users of the group app away.
func webGroupless(v *VPCSpec) {
	g := v.SecurityGroups[2]
	g.Rules = slices.Delete(g.Rules, 2, 3)
	nic(v).SecurityGroups = []string{"web"}
}

func TestANewVSwitchGetsALinkOfItsOwn(t *testing.T) {
	ids := []string{"vsw-0000000000000001", "vsw-0000000000000002", "vsw-1000000000000001"}
	want := &Spec{VPCs: []*VPCSpec{{Name: "a", CIDRBlock: px("10.1.0.0/16"), VSwitches: []*VSwitchSpec{
		{Name: "x", CIDRBlock: px("10.1.1.0/24")}, {Name: "y", CIDRBlock: px("10.1.2.0/24")},
	}}}}
	want.VPCs[0].SetDefaults()
	next := applied(t, nil, want, ApplyOptions{NewID: func(prefix string) string {
		if prefix != prefixVSwitch {
			return RandomID(prefix)
		}
		id := ids[0]
		ids = ids[1:]
		return id
	}})
	if a, b := next.VPCs[0].VSwitches[0].LinkName(), next.VPCs[0].VSwitches[1].LinkName(); a == b {
		t.Errorf("both have the link %s", a)
	}
}

func TestTestsStayUntilTheyArePruned(t *testing.T) {
	ssh := &TestSpec{From: "internet", To: "web-1", Protocol: ProtocolTCP, Port: 22, Expect: Drop}
	dns := &TestSpec{From: "web-1", To: "internet", Protocol: ProtocolUDP, Port: 53, Expect: Accept}
	changed := *ssh
	changed.Expect = Accept
	spec := good()
	spec.Tests = []*TestSpec{ssh, dns}
	current := applied(t, nil, spec, ApplyOptions{})
	for _, c := range []struct {
		name  string
		want  []*TestSpec
		prune bool
		tests []TestSpec
	}{
		{"a manifest without tests leaves them", nil, true, []TestSpec{*ssh, *dns}},
		{"another manifest's tests leave them", []*TestSpec{{From: "db-1", To: "web-1", Protocol: ProtocolTCP, Port: 1, Expect: Drop}}, false,
			[]TestSpec{{From: "db-1", To: "web-1", Protocol: ProtocolTCP, Port: 1, Expect: Drop}, *ssh, *dns}},
		{"one about the same connection takes its place", []*TestSpec{&changed}, false, []TestSpec{changed, *dns}},
		{"an empty list deletes nothing", []*TestSpec{}, false, []TestSpec{*ssh, *dns}},
		{"pruning leaves what is written", []*TestSpec{dns}, true, []TestSpec{*dns}},
		{"pruning by an empty list deletes all", []*TestSpec{}, true, []TestSpec{}},
		{"their order means nothing", []*TestSpec{dns, ssh}, false, []TestSpec{*ssh, *dns}},
	} {
		t.Run(c.name, func(t *testing.T) {
			next := applied(t, current, &Spec{Tests: c.want}, ApplyOptions{Prune: c.prune})
			if got := values(next.Tests); !slices.Equal(got, c.tests) {
				t.Errorf("tests %v, want %v", got, c.tests)
			}
		})
	}
}

func BenchmarkApply10k(b *testing.B) {
	current, want := crowd(10000), clone(b, crowd(10000))
	for b.Loop() {
		applied(b, current, want, ApplyOptions{})
	}
}
