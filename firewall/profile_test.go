package firewall

import (
	"fmt"
	"strings"
	"testing"

	"gatehouse/vpc"
)

// combinations is a network in which n interfaces have n different sets of groups.
func combinations(n int) *vpc.Spec {
	spec := crowded(64, 0)
	v := spec.VPCs[0]
	for i := range n {
		a, b := i/63, i%63+1
		v.Instances = append(v.Instances, instance(i+1, "g0", fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), "", fmt.Sprintf("g%d", a), fmt.Sprintf("g%d", (a+b)%64)))
	}
	return spec
}

func TestProfilesFitTheMarkOrAreRefused(t *testing.T) {
	f := everything()
	f.MarkMask = 0xf0
	if _, err := Compile(snapshot(combinations(14)), f); err != nil {
		t.Errorf("14 profiles in four bits: %v", err)
	}
	_, err := Compile(snapshot(combinations(15)), f)
	if err == nil || !strings.Contains(err.Error(), "15 combinations of security groups are in use, but the mark mask has room for 14") {
		t.Errorf("15 profiles in four bits: %v", err)
	}
	f.MapMark = false
	if _, err := Compile(snapshot(combinations(15)), f); err != nil {
		t.Errorf("16 profiles, found by address: %v", err)
	}
}

func TestMarkMasks(t *testing.T) {
	for mask, want := range map[uint32]bool{0xffff0000: true, 0xffffffff: true, 0x3: true, 0x180: true, 0: false, 1: false, 0xf0f0: false} {
		f := everything()
		f.MarkMask = mask
		_, err := Compile(snapshot(&vpc.Spec{}), f)
		if (err == nil) != want {
			t.Errorf("mask %#x: %v", mask, err)
		}
	}
}

func TestANewProfileLeavesTheOthersTheirIDs(t *testing.T) {
	before := map[string]uint32{}
	none := snapshot(&vpc.Spec{})
	some := snapshot(combinations(500))
	var table profileTable
	if _, err := table.update(vpc.Compare(none, some), 16); err != nil {
		t.Fatal(err)
	}
	ids := map[uint32]bool{}
	for _, p := range table.all {
		before[p.name] = p.id
		if p.id == 0 || p.id > 0xffff || ids[p.id] {
			t.Errorf("profile %s has id %d", p.name, p.id)
		}
		ids[p.id] = true
	}
	if _, err := table.update(vpc.Compare(some, snapshot(combinations(520))), 16); err != nil {
		t.Fatal(err)
	}
	moved := 0
	for _, p := range table.all {
		if id, ok := before[p.name]; ok && id != p.id {
			moved++
		}
	}
	if moved > 2 {
		t.Errorf("20 new profiles gave another id to %d of 500", moved)
	}
}

func TestWhatCannotBeCompiledIsSaid(t *testing.T) {
	twice := lab()
	twice.VPCs[0].VSwitches[1].Attach.Bridge = "br-web"
	plus := lab()
	plus.VPCs[0].VSwitches[0].Attach.Bridge = "br+"
	for want, spec := range map[string]*vpc.Spec{
		"vswitches vsw-00000000000000a1 and vsw-00000000000000a2 are on the same link br-web": twice,
		"link br+: iptables cannot name a link that ends in a plus sign":                      plus,
	} {
		if _, err := Compile(snapshot(spec), everything()); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
