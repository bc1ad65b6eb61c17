package link

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatehouse/vpc"
)

// wide is a vSwitch with a thousand interfaces.
func wide(n int) *vpc.Snapshot {
	return network(0, func(v *vpc.VPCSpec) {
		w := v.VSwitches[0]
		w.CIDRBlock = netip.MustParsePrefix("10.20.16.0/20")
		for i := range n {
			c := nic(i + 1)
			c.PrivateIP = netip.AddrFrom4([4]byte{10, 20, byte(16 + (i+1)>>8), byte(i + 1)})
			v.Instances = append(v.Instances, &vpc.InstanceSpec{ID: "i-" + strconv.Itoa(i), Name: "n-" + strconv.Itoa(i), Interfaces: []*vpc.InterfaceSpec{c}})
		}
	})
}

// The bounds are wide, for a machine that does other things too: they fail when the work is no longer proportional.
func TestAThousandInterfacesAreQuick(t *testing.T) {
	const n, taps = 1000, 100
	g := newGateway(t)
	g.start()
	start := time.Now()
	g.apply(wide(n))
	t.Logf("cold, %d interfaces: %s", n, time.Since(start))
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("a cold apply took %s", d)
	}
	var b strings.Builder
	for i := range taps {
		fmt.Fprintf(&b, "link add tap%d type veth peer name x%d\nlink set x%d up\nlink set tap%d master gh-web up\n", i, i, i, i)
	}
	start = time.Now()
	g.sh("ip -batch - <<'E'\n%sE", b.String())
	for i := range taps {
		g.eventually(g.told("tap"+strconv.Itoa(i), true))
	}
	t.Logf("%d ports plugged in and secured: %s", taps, time.Since(start))
	for i := range taps {
		if err := g.Hold("tap"+strconv.Itoa(i), nic(i+1).MAC); err != nil {
			t.Fatal(err)
		}
	}
	out := g.sh("ip -4 neigh show nud permanent dev gh-web | wc -l\nip -6 neigh show nud permanent dev gh-web | wc -l")
	if got := strings.Fields(out); got[0] != "1000" || got[1] != "1000" {
		t.Errorf("permanent neighbours: %v, want 1000 of each family", got)
	}
	before := strings.Count(g.log.String(), "links changed")
	start = time.Now()
	g.apply(wide(n))
	t.Logf("nothing to do: %s", time.Since(start))
	if d := time.Since(start); d > time.Second {
		t.Errorf("an apply with nothing to do took %s", d)
	}
	if strings.Count(g.log.String(), "links changed") != before {
		t.Error("an apply with nothing to do did something")
	}
	start = time.Now()
	g.apply(wide(n - 1))
	t.Logf("one interface less: %s", time.Since(start))
	if err := g.shows("ip neigh show nud permanent dev gh-web | wc -l", "1998"); err != nil {
		t.Error(err)
	}
}
