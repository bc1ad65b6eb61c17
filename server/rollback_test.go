package server

import (
	"net/netip"
	"testing"
	"time"

	"gatehouse/vpc"
)

// lab is a VPC with one vSwitch, one group and the given instances.
func lab(instances ...*vpc.InstanceSpec) *vpc.Spec {
	return &vpc.Spec{VPCs: []*vpc.VPCSpec{{
		ID: "vpc-1", Name: "lab", CIDRBlock: netip.MustParsePrefix("10.20.0.0/16"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20::/56"),
		VSwitches:      []*vpc.VSwitchSpec{{ID: "vsw-1", Name: "main", CIDRBlock: netip.MustParsePrefix("10.20.1.0/24"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20:0:1::/64")}},
		SecurityGroups: []*vpc.GroupSpec{{ID: "sg-1", Name: "default", Type: vpc.GroupBasic, InnerAccess: vpc.Accept}},
		Instances:      instances,
	}}}
}

// machine is an instance with one interface; its last number is in its MAC and addresses.
func machine(name string, n byte, enrolled bool) *vpc.InstanceSpec {
	return &vpc.InstanceSpec{ID: "i-" + name, Name: name, Enrolled: enrolled, Interfaces: []*vpc.InterfaceSpec{{
		ID: "eni-" + name, MAC: vpc.MAC{2, 0, 0, 0, 0, n}, VSwitch: "main", SecurityGroups: []string{"default"},
		PrivateIP:     netip.AddrFrom4([4]byte{10, 20, 1, n}),
		IPv6Addresses: []netip.Addr{netip.MustParsePrefix("fd00:20:0:1::/64").Addr().Next()},
	}}}
}

func TestRollbackKeepsWhoHasEnrolledSince(t *testing.T) {
	with := func(i *vpc.InstanceSpec, f func(*vpc.InstanceSpec)) *vpc.InstanceSpec { f(i); return i }
	other6 := func(i *vpc.InstanceSpec) {
		i.Interfaces[0].IPv6Addresses = []netip.Addr{netip.MustParseAddr("fd00:20:0:1::ff")}
	}
	for _, c := range []struct {
		name         string
		old, current *vpc.Spec
		want         []string
	}{
		{"an enrolled instance stays", lab(machine("web", 10, false)), lab(machine("web", 10, false), with(machine("guest", 20, true), other6)), []string{"guest", "web"}},
		{"a declared one goes back with its revision", lab(machine("web", 10, false)), lab(machine("web", 10, false), with(machine("new", 20, false), other6)), []string{"web"}},
		{"its IPv4 address is somebody's again", lab(machine("web", 10, false)), lab(with(machine("guest", 10, true), func(i *vpc.InstanceSpec) { other6(i); i.Interfaces[0].MAC[5] = 99 })), []string{"web"}},
		{"its IPv6 address is somebody's again", lab(machine("web", 10, false)), lab(machine("guest", 20, true)), []string{"web"}},
		{"its IPv6 address is in somebody's prefix again", lab(with(machine("web", 10, false), func(i *vpc.InstanceSpec) {
			other6(i)
			i.Interfaces[0].IPv6Prefixes = []netip.Prefix{netip.MustParsePrefix("fd00:20:0:1:5::/80")}
		})), lab(with(machine("guest", 20, true), func(i *vpc.InstanceSpec) {
			i.Interfaces[0].IPv6Addresses = []netip.Addr{netip.MustParseAddr("fd00:20:0:1:5::7")}
		})), []string{"web"}},
		{"an address of somebody is in its prefix again", lab(with(machine("web", 10, false), func(i *vpc.InstanceSpec) {
			i.Interfaces[0].IPv6Addresses = []netip.Addr{netip.MustParseAddr("fd00:20:0:1:5::7")}
		})), lab(with(machine("guest", 20, true), func(i *vpc.InstanceSpec) {
			i.Interfaces[0].IPv6Prefixes = []netip.Prefix{netip.MustParsePrefix("fd00:20:0:1:5::/80")}
		})), []string{"web"}},
		{"its MAC is declared again", lab(machine("web", 10, false)), lab(with(machine("guest", 10, true), func(i *vpc.InstanceSpec) { other6(i); i.Interfaces[0].PrivateIP = netip.MustParseAddr("10.20.1.77") })), []string{"web"}},
		{"its name is declared again", lab(machine("web", 10, false)), lab(with(machine("web", 20, true), other6)), []string{"web"}},
		{"its vSwitch did not exist yet", func() *vpc.Spec { s := lab(); s.VPCs[0].VSwitches = nil; return s }(), lab(machine("guest", 20, true)), nil},
		{"its group did not exist yet", lab(), lab(with(machine("guest", 20, true), func(i *vpc.InstanceSpec) { i.Interfaces[0].SecurityGroups = []string{"late"} })), nil},
		{"its VPC did not exist yet", &vpc.Spec{}, lab(machine("guest", 20, true)), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(c.old.VPCs)
			got := keepEnrolled(c.old, c.current)
			var names []string
			for _, v := range got.VPCs {
				for _, i := range v.Instances {
					names = append(names, i.Name)
				}
			}
			if len(names) != len(c.want) || len(names) > 0 && names[0] != c.want[0] || len(names) > 1 && names[1] != c.want[1] {
				t.Errorf("instances %v, want %v", names, c.want)
			}
			if len(c.old.VPCs) != before {
				t.Error("the old revision was changed")
			}
		})
	}
}

func TestEnrolledInstancesExpire(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	spec := lab(machine("seen", 10, true), machine("gone", 11, true), machine("flood", 12, true), machine("young", 13, true), machine("declared", 14, false))
	for n, i := range spec.VPCs[0].Instances {
		i.Interfaces[0].IPv6Addresses = []netip.Addr{netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x20, 0, 0, 0, 1, 15: byte(n + 1)})}
	}
	s := vpc.NewSnapshot(spec, vpc.Host{}, 1)
	lease := func(name string, state vpc.LeaseState, start, expires time.Duration) vpc.Lease {
		return vpc.Lease{Interface: "eni-" + name, State: state, Start: now.Add(start), Expires: now.Add(expires)}
	}
	leases := []vpc.Lease{
		lease("seen", vpc.LeaseReleased, -10*time.Hour, -time.Hour), lease("seen", vpc.LeaseBound, -20*time.Hour, -2*time.Hour),
		lease("gone", vpc.LeaseExpired, -90*time.Hour, -60*time.Hour),
		lease("declared", vpc.LeaseExpired, -90*time.Hour, -60*time.Hour),
	}
	gone, without := expired(s, leases, now.Add(-48*time.Hour), map[string]bool{"i-flood": true})
	var names []string
	for _, i := range gone {
		names = append(names, i.Name)
	}
	if len(names) != 2 || names[0] != "flood" || names[1] != "gone" {
		t.Errorf("expired %v, want those that are not seen any more and those that never took an address: [flood gone]", names)
	}
	if len(without) != 1 || !without["i-young"] {
		t.Errorf("without a lease %v, want the young one, which has until the next time", without)
	}
}

func TestEditsOfRulesLeaveTheOthersAlone(t *testing.T) {
	old := map[string]any{"name": "web", "rules": []any{map[string]any{"id": "sgr-1", "protocol": "tcp"}, map[string]any{"id": "sgr-2", "protocol": "udp"}}}
	change := map[string]any{"removeRules": []any{"sgr-1"}, "addRules": []any{map[string]any{"protocol": "icmp"}}}
	if err := editRules(old, change); err != nil {
		t.Fatal(err)
	}
	rules := change["rules"].([]any)
	if len(rules) != 2 || rules[0].(map[string]any)["id"] != "sgr-2" || rules[1].(map[string]any)["protocol"] != "icmp" {
		t.Errorf("rules %v", rules)
	}
	if len(old["rules"].([]any)) != 2 || change["addRules"] != nil || change["removeRules"] != nil {
		t.Errorf("left %v and %v", old, change)
	}
	if err := editRules(old, map[string]any{"removeRules": []any{"sgr-9"}}); err == nil {
		t.Error("a rule that does not exist was removed")
	}
}
