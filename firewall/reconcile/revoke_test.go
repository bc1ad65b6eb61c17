package reconcile

import (
	"net/netip"
	"slices"
	"testing"

	"gatehouse/vpc"
)

func TestAffectedAreThoseWhosePolicyChanged(t *testing.T) {
	base := func() world {
		w := newWorld()
		w.instances["ops"] = 7
		w.acl = "accept"
		return w
	}
	for _, tt := range []struct {
		name              string
		change            func(*world)
		all               bool
		changed, departed []int // last numbers of addresses
	}{
		{"nothing changes", func(*world) {}, false, nil, nil},
		{"a rule of a group less: its members", func(w *world) { w.ports = []string{"443"} }, false, []int{1, 2}, nil},
		{"a rule more that accepts: nobody", func(w *world) { w.ports = append(w.ports, "8080") }, false, nil, nil},
		{"a list that a rule names: its members", func(w *world) { w.list = nil }, false, []int{1, 2}, nil},
		{"an ACL: everybody on the vSwitch", func(w *world) { w.acl = "drop" }, false, []int{1, 2, 7}, nil},
		{"an ACL that is taken away: everybody on the vSwitch", func(w *world) { w.acl = "" }, false, []int{1, 2, 7}, nil},
		{"another vSwitch: nobody", func(w *world) { w.switches = []string{"db"} }, false, nil, nil},
		{"an instance that comes to an address that nobody had: nobody", func(w *world) { w.instances["c"] = 3 }, false, nil, nil},
		{"an instance that goes: its address", func(w *world) { delete(w.instances, "b") }, false, nil, []int{2}},
		{"an address that goes to another instance", func(w *world) { delete(w.instances, "b"); w.instances["c"] = 2 }, false, nil, []int{2}},
		{"an instance with another address", func(w *world) { w.instances["b"] = 3 }, false, []int{2, 3}, []int{2}},
		{"the uplinks: everybody", func(w *world) { w.uplinks = nil }, true, nil, nil},
		{"the uplinks, and an instance goes", func(w *world) { w.uplinks = nil; delete(w.instances, "b") }, true, nil, []int{2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old, new := base(), base()
			tt.change(&new)
			a := affectedBy(old.snapshot(), new.snapshot())
			if a.all != tt.all {
				t.Errorf("all: %v, want %v", a.all, tt.all)
			}
			for set, got := range map[string]holding{"changed": a.changed, "departed": a.departed} {
				want := map[string][]int{"changed": tt.changed, "departed": tt.departed}[set]
				for n := range 10 {
					for _, f := range vpc.Families() {
						if got.has(addrOf(f, n)) != slices.Contains(want, n) {
							t.Errorf("%s has %s: %v", set, addrOf(f, n), got.has(addrOf(f, n)))
						}
					}
				}
			}
		})
	}
}

// A prefix that leaves its interface takes with it the flows of all that is in it.
func TestAPrefixThatGoesEndsItsFlows(t *testing.T) {
	w := newWorld()
	old, spec := w.snapshot(), w.snapshot().Spec
	behind := netip.MustParseAddr("fd00:20:0:1:5::9")
	with := func(prefixes ...netip.Prefix) *vpc.Snapshot {
		v := *spec.VPCs[0]
		v.Instances = slices.Clone(v.Instances)
		i := *v.Instances[0]
		n := *i.Interfaces[0]
		n.IPv6Prefixes = prefixes
		i.Interfaces, v.Instances[0] = []*vpc.InterfaceSpec{&n}, &i
		return vpc.NewSnapshot(&vpc.Spec{VPCs: append([]*vpc.VPCSpec{&v}, spec.VPCs[1:]...)}, old.Host, 2)
	}
	has := with(netip.PrefixFrom(behind, vpc.DelegatedBits).Masked())
	if a := affectedBy(has, with()); !a.departed.has(behind) || a.departed.has(netip.MustParseAddr("fd00:20:0:1:6::9")) {
		t.Errorf("a prefix goes: %v", a.departed)
	}
	if a := affectedBy(with(), has); len(a.departed) != 0 || !a.changed.has(behind) {
		t.Errorf("a prefix comes: %v have departed, %v changed", a.departed, a.changed)
	}
	if a := affectedBy(has, has); !a.none() {
		t.Errorf("nothing changes: %v have departed, %v changed", a.departed, a.changed)
	}
}

// What was nobody's range may have had flows of the host's own.
func TestInstancesOfANewVSwitchAreAffected(t *testing.T) {
	s := newWorld().snapshot()
	a := affectedBy(vpc.NewSnapshot(&vpc.Spec{}, s.Host, 0), s)
	for _, f := range vpc.Families() {
		if !a.changed.has(addrOf(f, 1)) {
			t.Errorf("%s is not affected", addrOf(f, 1))
		}
	}
}

func TestWithoutKnowledgeOfBeforeEverybodyIsAffected(t *testing.T) {
	s := newWorld().snapshot()
	wants := affectedBy(nil, s).wants(s)
	for _, f := range vpc.Families() {
		if !wants(addrOf(f, 99)) || wants(outside(f)) {
			t.Errorf("%s: inside %v, outside %v", f, wants(addrOf(f, 99)), wants(outside(f)))
		}
	}
}
