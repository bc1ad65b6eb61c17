package vpc

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestEnrol(t *testing.T) {
	s := applied(t, nil, good(), ApplyOptions{})
	vswitch := s.VPCs[1].VSwitches[1].ID // web, of both families
	for _, tt := range []struct {
		name, hostname, want string // want "" for the ID
	}{
		{"a good host name", "laptop", "laptop"},
		{"one in the VPC's domain", "laptop.Research.Internal.", "laptop"},
		{"one in a domain that only ends alike", "laptop.myresearch.internal", "laptop.myresearch.internal"},
		{"one in another domain", "laptop.example.com", "laptop.example.com"},
		{"one that is taken", "web-1", ""},
		{"one that is taken in another case", "WEB-1", ""},
		{"one that another VPC has", "front-1", "front-1"},
		{"none", "", ""},
		{"one that is too short", "x", ""},
		{"one that no host may have", "my laptop", ""},
		{"one that could leave the zone", "../../etc", ""},
		{"everybody's own", "localhost", ""},
		{"a generated name", "ip-10-20-1-77", ""},
		{"an ID", "i-0123456789abcdef", ""},
		{"the domain alone", "research.internal", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := clone(t, s)
			next, inst, err := Enrol(s, host(), EnrolRequest{vswitch, mac(0x100), tt.hostname}, ApplyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			want := tt.want
			if want == "" {
				want = inst.ID
			}
			if inst.Name != want || !inst.Enrolled || !strings.HasPrefix(inst.ID, "i-") {
				t.Errorf("got the instance %q %q, want the name %q", inst.Name, inst.ID, want)
			}
			n := inst.Interfaces[0]
			if n.MAC != mac(0x100) || n.VSwitch != "web" || !slices.Equal(n.SecurityGroups, []string{"default"}) || len(n.IPv6Addresses) != 1 || !n.PrivateIP.IsValid() {
				t.Errorf("got the interface %+v", n)
			}
			if err := Validate(next, host()).Err(); err != nil {
				t.Errorf("the result is not valid: %v", err)
			}
			if again := applied(t, next, clone(t, next), ApplyOptions{Prune: true}); again != next {
				t.Errorf("the result is not as Apply would have it: %v", Diff(next, again))
			}
			if next.VPCs[0] != s.VPCs[0] || !same(next.VPCs[1].VSwitches, s.VPCs[1].VSwitches) || !slices.Contains(next.VPCs[1].Instances, s.VPCs[1].Instances[0]) {
				t.Error("what stays is not shared")
			}
			if !reflect.DeepEqual(before, clone(t, s)) {
				t.Error("Enrol changed its argument")
			}
		})
	}
}

func TestEnrolChoosesAsApplyDoes(t *testing.T) {
	s := applied(t, nil, good(), ApplyOptions{})
	_, inst, err := Enrol(s, host(), EnrolRequest{VSwitch: s.VPCs[1].VSwitches[1].ID, MAC: mac(0x200)}, ApplyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := good()
	want.VPCs[1].Instances = append(want.VPCs[1].Instances, &InstanceSpec{Name: "same", Interfaces: []*InterfaceSpec{{MAC: mac(0x200), VSwitch: "web"}}})
	o, err := Lookup(applied(t, s, want, ApplyOptions{}), KindInterface, "", mac(0x200).String())
	if err != nil {
		t.Fatal(err)
	}
	a, b := inst.Interfaces[0], o.Value.(*InterfaceSpec)
	if a.PrivateIP != b.PrivateIP || !slices.Equal(a.IPv6Addresses, b.IPv6Addresses) {
		t.Errorf("Enrol chose %s %s, Apply %s %s", a.PrivateIP, a.IPv6Addresses, b.PrivateIP, b.IPv6Addresses)
	}
}

func TestEnrolRefuses(t *testing.T) {
	full := func(s *Spec, n int, kind GroupType) {
		*s = *crowd(n)
		s.VPCs[0].SecurityGroups[1].Type = kind
	}
	for _, tt := range []struct {
		name    string
		change  func(s *Spec)
		vswitch string
		mac     MAC
		inUse   func(netip.Addr) bool
		want    error
		text    string
	}{
		{"a vswitch that is not there", nil, "vsw-x", mac(9), nil, ErrNotFound, "enrol 00:16:3e:00:00:09: not found: vswitch vsw-x"},
		{"where enrollment is closed", nil, "vsw-00000001", mac(9), nil, ErrEnrollmentClosed, `enrol 00:16:3e:00:00:09: enrollment is closed in vswitch "db"`},
		{"a MAC that the VPC knows", nil, "vsw-00000002", mac(2), nil, ErrKnownMAC, `enrol 00:16:3e:00:00:02: the MAC already belongs to an instance: "web-1" in VPC "research"`},
		{"a MAC that another VPC knows", nil, "vsw-00000002", mac(3), nil, ErrKnownMAC, `enrol 00:16:3e:00:00:03: the MAC already belongs to an instance: "front-1" in VPC "prod"`},
		{"no MAC", nil, "vsw-00000002", MAC{}, nil, nil, "enrol 00:00:00:00:00:00: 00:00:00:00:00:00 is not the MAC address of an interface"},
		{"into a pool that is used up", func(s *Spec) { web(s.VPCs[1]).Pool = AddrRange{ip("10.20.1.10"), ip("10.20.1.11")} }, "vsw-00000002", mac(9), nil, ErrPoolExhausted, `enrol 00:16:3e:00:00:09: no free address in vswitch "web" (pool 10.20.1.10-10.20.1.11)`},
		{"where every address is leased to somebody", nil, "vsw-00000002", mac(9), netip.Addr.Is4, ErrPoolExhausted, `enrol 00:16:3e:00:00:09: no free address in vswitch "web" (10.20.1.0/24)`},
		{"into a basic group with 5,999 addresses", func(s *Spec) {
			full(s, 3000, GroupBasic)
			s.VPCs[0].Instances[0].Interfaces[0].IPv6Addresses = nil
		}, "vsw-00000001", mac(9999), nil, ErrGroupFull, `enrol 00:16:3e:00:27:0f: the security group is full: "many" has 5999 addresses, and a basic group holds at most 6000`},
		{"into an advanced group with 65,536 interfaces", func(s *Spec) { full(s, 65536, GroupAdvanced) }, "vsw-00000001", mac(0x20000), nil, ErrGroupFull, `enrol 00:16:3e:02:00:00: the security group is full: "many" has 65536 interfaces, and an advanced group holds at most 65536`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := good()
			if tt.change != nil {
				tt.change(s)
			}
			next, inst, err := Enrol(s, host(), EnrolRequest{VSwitch: tt.vswitch, MAC: tt.mac}, ApplyOptions{InUse: tt.inUse})
			if err == nil || err.Error() != tt.text {
				t.Fatalf("got %v, want %s", err, tt.text)
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%v is not %v", err, tt.want)
			}
			if next != nil || inst != nil {
				t.Error("something was returned beside the error")
			}
		})
	}
}

func TestEnrolFillsAVSwitchToTheLastAddress(t *testing.T) {
	s := good()
	v := s.VPCs[1]
	v.VSwitches = append(v.VSwitches, &VSwitchSpec{ID: "vsw-00000009", Name: "small", CIDRBlock: px("10.20.9.0/28"), Gateway: ip("10.20.9.1"), Enrollment: EnrollmentAuto, EnrollmentGroups: []string{"default"}})
	const usable = 16 - 4 - 1
	for i := range usable {
		next, _, err := Enrol(s, host(), EnrolRequest{VSwitch: "vsw-00000009", MAC: mac(0x300 + i)}, ApplyOptions{})
		if err != nil {
			t.Fatalf("number %d: %v", i+1, err)
		}
		s = next
	}
	if err := Validate(s, host()).Err(); err != nil {
		t.Error(err)
	}
	if _, _, err := Enrol(s, host(), EnrolRequest{VSwitch: "vsw-00000009", MAC: mac(0x400)}, ApplyOptions{}); !errors.Is(err, ErrPoolExhausted) {
		t.Errorf("one more: %v", err)
	}
}

func BenchmarkEnrolAmong10k(b *testing.B) {
	s := crowd(10000)
	for b.Loop() {
		if _, _, err := Enrol(s, Host{}, EnrolRequest{VSwitch: "vsw-00000002", MAC: mac(0x100000), Hostname: "laptop"}, ApplyOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
