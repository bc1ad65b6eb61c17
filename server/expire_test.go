package server

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gatehouse/vpc"
)

func TestEnrolledInstancesThatWereNotSeenForLongExpire(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	v := &vpc.VPCSpec{ID: "vpc-1", Name: "lab", CIDRBlock: netip.MustParsePrefix("10.20.0.0/16")}
	v.SetDefaults()
	v.VSwitches = []*vpc.VSwitchSpec{{ID: "vsw-1", Name: "lan", CIDRBlock: netip.MustParsePrefix("10.20.1.0/24")}}
	for i, name := range []string{"declared", "seen", "forgotten", "long-lease", "released", "released-long-ago", "just-expired", "new", "never-came-back"} {
		v.Instances = append(v.Instances, &vpc.InstanceSpec{
			ID: "i-" + name, Name: name, Enrolled: name != "declared",
			Interfaces: []*vpc.InterfaceSpec{{ID: "eni-" + name, MAC: vpc.MAC{2, 0, 0, 0, 0, byte(i)}, VSwitch: "lan", PrivateIP: netip.AddrFrom4([4]byte{10, 20, 1, byte(10 + i)})}},
		})
	}
	s := vpc.NewSnapshot(&vpc.Spec{VPCs: []*vpc.VPCSpec{v}}, vpc.Host{Region: "lab"}, 1)
	lease := func(name string, state vpc.LeaseState, start, expires time.Duration) vpc.Lease {
		return vpc.Lease{Interface: "eni-" + name, State: state, Start: now.Add(start), Expires: now.Add(expires)}
	}
	leases := []vpc.Lease{
		lease("seen", vpc.LeaseBound, -time.Hour, time.Hour),
		lease("forgotten", vpc.LeaseExpired, -90*24*time.Hour, -89*24*time.Hour),
		lease("long-lease", vpc.LeaseBound, -90*24*time.Hour, 90*24*time.Hour), // it need not be heard of before it renews
		lease("released", vpc.LeaseReleased, -90*24*time.Hour, -10*24*time.Hour),
		lease("released-long-ago", vpc.LeaseReleased, -90*24*time.Hour, -31*24*time.Hour),
		lease("just-expired", vpc.LeaseExpired, -90*24*time.Hour, -time.Hour),
	}
	gone, without := expired(s, leases, now.Add(-30*24*time.Hour), map[string]bool{"i-never-came-back": true})
	var names []string
	for _, i := range gone {
		names = append(names, i.Name)
	}
	slices.Sort(names)
	if want := []string{"forgotten", "never-came-back", "released-long-ago"}; !slices.Equal(names, want) {
		t.Errorf("expired: %v, want %v", names, want)
	}
	if got := slices.Collect(maps.Keys(without)); !slices.Equal(got, []string{"i-new"}) {
		t.Errorf("without a lease, to be looked at again: %v", got)
	}
}
