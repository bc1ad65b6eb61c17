package vpc

import (
	"errors"
	"reflect"
	"testing"
)

func TestParseKind(t *testing.T) {
	for _, k := range Kinds() {
		for _, s := range []string{string(k), k.Plural(), k.Short()} {
			if got, err := ParseKind(s); err != nil || got != k {
				t.Errorf("ParseKind(%q) = %q, %v, want %q", s, got, err, k)
			}
		}
		if k.Noun() == "" {
			t.Errorf("%s has no noun", k)
		}
	}
	for s, want := range map[string]Kind{"SG": KindSecurityGroup, "security-groups": KindSecurityGroup, "nacl": KindNetworkACL, "pl": KindPrefixList, "networkACLs": KindNetworkACL} {
		if got, err := ParseKind(s); err != nil || got != want {
			t.Errorf("ParseKind(%q) = %q, %v, want %q", s, got, err, want)
		}
	}
	if _, err := ParseKind("subnet"); err == nil {
		t.Error("a subnet is a kind")
	}
}

func TestLookup(t *testing.T) {
	s := good()
	s.VPCs[0].PrivateZones = []*PrivateZoneSpec{{ID: "zone-9", Name: "corp.example"}}
	for _, tt := range []struct {
		name       string
		kind       Kind
		vpc, given string
		path       string
		err        string
	}{
		{"by a bare name", KindInstance, "", "web-1", "vpcs[research].instances[web-1]", ""},
		{"by VPC and name", KindInstance, "", "research/web-1", "vpcs[research].instances[web-1]", ""},
		{"by ID", KindVSwitch, "", "vsw-00000002", "vpcs[research].vswitches[web]", ""},
		{"in a VPC by its ID", KindVSwitch, "vpc-1", "web", "vpcs[research].vswitches[web]", ""},
		{"an interface by its MAC in any case", KindInterface, "", "00-16-3E-00-00-02", "vpcs[research].instances[web-1].interfaces[00:16:3e:00:00:02]", ""},
		{"a VPC", KindVPC, "", "prod", "vpcs[prod]", ""},
		{"a shared zone in any case", KindZone, "", "Shared.Example.", "privateZones[shared.example]", ""},
		{"a forwarder", KindForwarder, "", "partner.example.", "vpcs[research].forwarders[partner.example]", ""},
		{"a name of two VPCs", KindSecurityGroup, "", "default", "", `security group "default": the name is not unique: write prod/default or research/default`},
		{"a zone of two VPCs", KindZone, "", "corp.example", "", `private zone "corp.example": the name is not unique: write prod/corp.example or research/corp.example`},
		{"a name of two VPCs in one", KindSecurityGroup, "prod", "default", "vpcs[prod].securityGroups[default]", ""},
		{"what is not there", KindPrefixList, "", "x", "", `not found: prefix list "x"`},
		{"what is not in that VPC", KindInstance, "prod", "web-1", "", `not found: instance "web-1" in VPC "prod"`},
		{"in a VPC that is not there", KindInstance, "", "lab/web-1", "", `not found: VPC "lab"`},
		{"nothing", KindInstance, "", "", "", `not found: instance ""`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, err := Lookup(s, tt.kind, tt.vpc, tt.given)
			switch {
			case tt.err == "" && err != nil:
				t.Fatal(err)
			case tt.err != "" && (err == nil || err.Error() != tt.err):
				t.Fatalf("got %v, want %s", err, tt.err)
			case tt.err != "" && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrAmbiguous):
				t.Errorf("%v is neither ErrNotFound nor ErrAmbiguous", err)
			case tt.err == "" && o.Path() != tt.path:
				t.Errorf("got %s, want %s", o.Path(), tt.path)
			}
		})
	}
}

func TestDelete(t *testing.T) {
	for _, tt := range []struct {
		kind      Kind
		vpc, name string
		want      string // the problem; "" when it is deleted
	}{
		{KindInstance, "", "web-1", ""},
		{KindForwarder, "", "partner.example", ""},
		{KindZone, "", "corp.example", ""},
		{KindZone, "", "shared.example", ""},
		{KindSecurityGroup, "", "closed", ""},
		{KindSecurityGroup, "research", "web", "vpcs[research].securityGroups[web]: still used by instances[web-1].interfaces[00:16:3e:00:00:02]: change these first"},
		{KindSecurityGroup, "", "app", "vpcs[research].securityGroups[app]: still used by securityGroups[web].rules[2], instances[db-1].interfaces[00:16:3e:00:00:01], instances[web-1].interfaces[00:16:3e:00:00:02]: change these first"},
		{KindSecurityGroup, "prod", "default", "vpcs[prod].securityGroups[default]: every VPC has this group: it cannot be deleted"},
		{KindPrefixList, "", "resolvers", "vpcs[research].prefixLists[resolvers]: still used by securityGroups[web].rules[3]: change these first"},
		{KindNetworkACL, "", "dmz", "vpcs[research].networkAcls[dmz]: still used by vswitches[web]: change these first"},
		{KindVSwitch, "", "front", "vpcs[prod].vswitches[front]: still used by instances[front-1].interfaces[00:16:3e:00:00:03]: change these first"},
		{KindInterface, "", "eni-1", "vpcs[research].instances[db-1].interfaces: an instance has at least one interface: give it one with a mac and a vswitch"},
		{KindVPC, "", "prod", "vpcs[prod]: still has vswitches[front], instances[front-1]: delete these first"},
		{KindInstance, "", "x", `not found: instance "x"`},
		{KindLease, "", "10.20.1.10", `not found: lease "10.20.1.10"`},
	} {
		t.Run(string(tt.kind)+" "+tt.name, func(t *testing.T) {
			s := good()
			next, problems := Delete(s, host(), tt.kind, tt.vpc, tt.name)
			if got := problems.Error(); got != tt.want {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			if !reflect.DeepEqual(s, good()) {
				t.Error("Delete changed its argument")
			}
			if tt.want != "" {
				return
			}
			if _, err := Lookup(next, tt.kind, tt.vpc, tt.name); !errors.Is(err, ErrNotFound) {
				t.Errorf("it is still there: %v", err)
			}
			if next.VPCs[0] != s.VPCs[0] {
				t.Error("what stays is not shared")
			}
		})
	}
}

func TestAVPCIsDeletedWhenNothingIsLeftAndNoZoneServesIt(t *testing.T) {
	s := good()
	s.VPCs[0].VSwitches, s.VPCs[0].Instances = nil, nil
	_, problems := Delete(s, host(), KindVPC, "", "prod")
	if got, want := problems.Error(), "vpcs[prod]: still used by privateZones[shared.example]: change these first"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.PrivateZones = nil
	next, problems := Delete(s, host(), KindVPC, "", "prod")
	if problems != nil || len(next.VPCs) != 1 {
		t.Errorf("got %v", problems)
	}
}

func TestSetReplacesOneObject(t *testing.T) {
	s := applied(t, nil, good(), ApplyOptions{})
	instance := &InstanceSpec{Name: "new-1", Interfaces: []*InterfaceSpec{{MAC: mac(50), VSwitch: "web"}}}
	zone := &PrivateZoneSpec{Name: "corp.example", Missing: MissingForward}
	for _, tt := range []struct {
		name, vpc string
		value     any
		want      []string // what changes
	}{
		{"a vswitch", "research", &VSwitchSpec{Name: "new", CIDRBlock: px("10.20.3.0/24")}, []string{"create vswitch research/new"}},
		{"a group", "research", &GroupSpec{Name: "web", Rules: manyRules(1, "0.0.0.0/0")[:0]}, []string{"update securitygroup research/web: -rules"}},
		{"a prefix list", "research", &PrefixListSpec{Name: "new"}, []string{"create prefixlist research/new"}},
		{"an ACL", "prod", &ACLSpec{Name: "new"}, []string{"create networkacl prod/new"}},
		{"an instance", "research", instance, []string{"create instance research/new-1", "create interface research/00:16:3e:00:00:32"}},
		{"a zone of a VPC", "research", zone, []string{"update zone research/corp.example: missing nxdomain -> forward"}},
		{"a shared zone", "", &PrivateZoneSpec{Name: "new.example", VPCs: []string{"prod"}}, []string{"create zone new.example"}},
		{"a forwarder", "prod", &ForwarderSpec{Zone: ".", Servers: []string{"192.0.2.1"}}, []string{"create forwarder prod/."}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			next, problems := Set(s, host(), tt.vpc, tt.value, ApplyOptions{Prune: true})
			if problems != nil {
				t.Fatal(problems)
			}
			d := Diff(s, next)
			if len(d) != len(tt.want) {
				t.Fatalf("got %v, want %v", d, tt.want)
			}
			for i, c := range d {
				if got := c.String(); len(got) < len(tt.want[i]) || got[:len(tt.want[i])] != tt.want[i] {
					t.Errorf("got %q, want %q", got, tt.want[i])
				}
			}
		})
	}
	if _, problems := Set(s, host(), "lab", instance, ApplyOptions{}); problems.Error() != `not found: VPC "lab"` {
		t.Errorf("in a VPC that is not there: %v", problems)
	}
	if _, problems := Set(s, host(), "research", &RuleSpec{}, ApplyOptions{}); problems == nil {
		t.Error("a rule can be set by itself")
	}
	v := *s.VPCs[0]
	v.Description, v.VSwitches, v.Instances = "empty", nil, nil
	if next, problems := Set(s, host(), "", &v, ApplyOptions{Prune: true}); problems != nil || len(next.VPCs[0].VSwitches) != 0 {
		t.Errorf("a VPC with nothing in it, pruned: %v", problems)
	}
}
