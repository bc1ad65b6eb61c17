package ipset

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/firewall"
	"gatehouse/firewall/internal/ownnet"
	"gatehouse/vpc"
)

func newDriver(t *testing.T) *Driver {
	t.Helper()
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func sh(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// both returns one set for each family.
func both(purpose, typ string, v4, v6 []string, options ...string) []firewall.Set {
	return []firewall.Set{
		{Name: "gh4-" + purpose, Type: typ, Family: vpc.IPv4, Options: options, Members: v4},
		{Name: "gh6-" + purpose, Type: typ, Family: vpc.IPv6, Options: options, Members: v6},
	}
}

func TestWhatIsWrittenIsReadBackAndForeignSetsStay(t *testing.T) {
	if !ownnet.Enter(t) {
		return
	}
	ctx, d := context.Background(), newDriver(t)
	sh(t, "ipset create other hash:ip; ipset add other 192.0.2.1; ipset create gh4other hash:ip")
	foreign := sh(t, "ipset save")

	var have map[string]firewall.Set
	for i, want := range [][]firewall.Set{
		slices.Concat(both("sg", "hash:ip", []string{"10.0.0.1", "10.0.0.2"}, []string{"fd00::1"}),
			both("pl", "hash:net", []string{"0.0.0.0/1", "10.0.0.0/8", "128.0.0.0/1"}, []string{"8000::/1", "::/1"}),
			both("mark", "hash:net", []string{"0.0.0.0/1 skbmark 0x0/0xffff0000", "10.0.0.1 skbmark 0x10000/0xffff0000", "128.0.0.0/1 skbmark 0x0/0xffff0000"},
				[]string{"8000::/1 skbmark 0x0/0xffff0000", "::/1 skbmark 0x0/0xffff0000", "fd00::1 skbmark 0x10000/0xffff0000"}, "skbinfo"),
			[]firewall.Set{{Name: "gh4-bind", Type: "bitmap:ip,mac", Family: vpc.IPv4, Options: []string{"range", "10.0.0.0/24"}, Members: []string{"10.0.0.1,0a:bb:00:00:00:01"}}}),
		slices.Concat(both("sg", "hash:ip", []string{"10.0.0.2", "10.0.0.3"}, nil),
			both("mark", "hash:net", []string{"10.0.0.1 skbmark 0x20000/0xffff0000"}, []string{"fd00::1 skbmark 0x20000/0xffff0000"}, "skbinfo")),
		both("sg", "hash:ip", many(3000, 1), []string{"fd00::7"}, "maxelem", "4096"), // another size: swapped
		both("sg", "hash:ip", many(3000, 2), []string{"fd00::7"}, "maxelem", "4096"), // most members: swapped
		both("pl", "hash:ip", []string{"10.0.0.9"}, []string{"fd00::9"}),             // another type
	} {
		now, err := d.Write(ctx, have, want)
		if err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
		read, err := d.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(read, now); diff != "" {
			t.Fatalf("write %d left something else than it says (-read +said):\n%s", i, diff)
		}
		if names := Diff(read, want); len(names) > 0 {
			t.Fatalf("write %d: %v differ", i, names)
		}
		have = now
	}

	if inUse, err := d.Delete(ctx, Stale(have, nil)); err != nil || len(inUse) > 0 {
		t.Fatalf("delete: %v in use, %v", inUse, err)
	}
	if now := sh(t, "ipset save"); now != foreign {
		t.Errorf("foreign sets changed:\n%s\nbefore:\n%s", now, foreign)
	}
}

// TestLargeSetsOfMACsAreReadWhole has enough members for ipset's own output to lose some of their MACs.
func TestLargeSetsOfMACsAreReadWhole(t *testing.T) {
	if !ownnet.Enter(t) {
		return
	}
	ctx, d := context.Background(), newDriver(t)
	want := firewall.Set{Name: "gh4-bind-5cf8fe3241b85d03", Type: "bitmap:ip,mac", Family: vpc.IPv4, Options: []string{"range", "10.1.0.0/16"}}
	for i, a := range many(20000, 1) {
		want.Members = append(want.Members, fmt.Sprintf("%s,02:00:00:00:%02x:%02x", a, i/256, i%256))
	}
	if _, err := d.Write(ctx, nil, []firewall.Set{want}); err != nil {
		t.Fatal(err)
	}
	have, err := d.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if names := Diff(have, []firewall.Set{want}); len(names) > 0 {
		t.Errorf("%v differ; without a MAC: %v", names, lacksMAC(have[want.Name]))
	}

	// A member that really has none is seen.
	sh(t, "ipset del "+want.Name+" 10.1.0.1; ipset add "+want.Name+" 10.1.0.1")
	if have, err = d.Read(ctx); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(have[want.Name].Members, "10.1.0.1") || len(have[want.Name].Members) != 20000 {
		t.Errorf("a member without a MAC is not seen among %d", len(have[want.Name].Members))
	}
}

func TestAWriteThatCannotBePreparedChangesNothing(t *testing.T) {
	if !ownnet.Enter(t) {
		return
	}
	ctx, d := context.Background(), newDriver(t)
	have, err := d.Write(ctx, nil, both("sg", "hash:ip", []string{"10.0.0.1"}, []string{"fd00::1"}))
	if err != nil {
		t.Fatal(err)
	}
	before := sh(t, "ipset save")
	for name, bad := range map[string]struct {
		set  firewall.Set
		kind error
	}{
		"a type that nobody has":    {firewall.Set{Name: "gh4-new", Type: "hash:nonsense"}, ErrUnsupported},
		"more members than it may":  {firewall.Set{Name: "gh4-new", Type: "hash:ip", Options: []string{"maxelem", "1"}, Members: []string{"10.0.0.1", "10.0.0.2"}}, ErrFull},
		"a spare that becomes full": {firewall.Set{Name: "gh4-sg", Type: "hash:ip", Family: vpc.IPv4, Options: []string{"maxelem", "1"}, Members: []string{"10.0.0.1", "10.0.0.2"}}, ErrFull},
	} {
		want := append(both("sg", "hash:ip", []string{"10.0.0.7"}, nil)[1:], bad.set)
		_, err := d.Write(ctx, have, want)
		if !errors.Is(err, bad.kind) {
			t.Errorf("%s: error %v, want %v", name, err, bad.kind)
		}
		if now := sh(t, "ipset save"); now != before {
			t.Errorf("%s: changed\n%s\ninto\n%s", name, before, now)
		}
	}
}

func TestASetInUseIsReportedAndNotDeleted(t *testing.T) {
	if !ownnet.Enter(t) {
		return
	}
	ctx, d := context.Background(), newDriver(t)
	have, err := d.Write(ctx, nil, both("sg", "hash:ip", nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	sh(t, "iptables -w -A INPUT -m set --match-set gh4-sg src")
	inUse, err := d.Delete(ctx, []string{"gh4-gone", "gh4-sg", "gh6-sg"})
	if err != nil || !slices.Equal(inUse, []string{"gh4-sg"}) {
		t.Errorf("in use %v, %v; want gh4-sg alone", inUse, err)
	}
	if left := sh(t, "ipset list -n"); left != "gh4-sg\n" {
		t.Errorf("left: %q", left)
	}
	// Its members can be replaced all the same, its type cannot.
	delete(have, "gh6-sg")
	have, err = d.Write(ctx, have, both("sg", "hash:ip", []string{"10.0.0.1"}, nil, "maxelem", "9")[:1])
	if err != nil {
		t.Errorf("swap: %v", err)
	}
	if _, err := d.Write(ctx, have, both("sg", "hash:net", nil, nil)[:1]); !errors.Is(err, ErrInUse) {
		t.Errorf("another type: %v, want %v", err, ErrInUse)
	}
}

func TestOnlyOurSetsCanBeDeleted(t *testing.T) {
	if _, err := (&Driver{path: "/bin/false"}).Delete(context.Background(), []string{"docker"}); err == nil || !strings.Contains(err.Error(), "not ours") {
		t.Errorf("error %v", err)
	}
}

func TestScratchLeavesNothingBehind(t *testing.T) {
	if !ownnet.Enter(t) {
		return
	}
	ctx, d := context.Background(), newDriver(t)
	used := errors.New("used")
	if ok, err := d.Scratch(ctx, ScratchSet(vpc.IPv6, 1, "hash:ip", "skbinfo"), func() error { return used }); !ok || !errors.Is(err, used) {
		t.Errorf("supported %v, %v", ok, err)
	}
	if ok, err := d.Scratch(ctx, ScratchSet(vpc.IPv4, 1, "hash:nonsense"), nil); ok || err != nil {
		t.Errorf("a type that nobody has: supported %v, %v", ok, err)
	}
	if left := sh(t, "ipset list -n"); left != "" {
		t.Errorf("left: %q", left)
	}
}
