package vpc

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// step changes a Spec by hand: one object is made, replaced or deleted. What is refused leaves it as it is.
func step(r *rand.Rand, s *Spec) *Spec {
	name := func(kinds string) string { return fmt.Sprintf("%s-%d", kinds, r.IntN(4)) }
	vpc := fmt.Sprintf("net-%d", r.IntN(2))
	vswitch := func(n int) *VSwitchSpec {
		i := map[string]int{"net-0": 0, "net-1": 1}[vpc]
		w := &VSwitchSpec{Name: fmt.Sprintf("sw-%d", n), CIDRBlock: px(fmt.Sprintf("10.%d.%d.0/24", i, n))}
		if n%2 == 0 {
			w.IPv6CIDRBlock = px(fmt.Sprintf("fd00:0:0:%d0%d::/64", i, n))
		}
		return w
	}
	groups := func() []string {
		out := []string{name("group")}
		if r.IntN(2) == 0 {
			out = append(out, DefaultGroup)
		}
		return out
	}
	var next *Spec
	switch r.IntN(12) {
	case 0:
		i := map[string]int{"net-0": 0, "net-1": 1}[vpc]
		v := &VPCSpec{Name: vpc, CIDRBlock: px(fmt.Sprintf("10.%d.0.0/16", i)), IPv6CIDRBlock: px(fmt.Sprintf("fd00:0:0:%d00::/56", i)), NATGateway: r.IntN(2) == 0}
		v.SetDefaults()
		next, _ = Set(s, Host{}, "", v, ApplyOptions{})
	case 1, 2:
		w := vswitch(r.IntN(4))
		w.Description = name("text")
		next, _ = Set(s, Host{}, vpc, w, ApplyOptions{})
	case 3:
		g := &GroupSpec{Name: name("group"), Rules: manyRules(r.IntN(4), "10.0.0.0/8")}
		for _, peer := range []Peer{{Kind: PeerGroup, Name: name("group")}, {Kind: PeerGroup, Name: g.Name}, {Kind: PeerList, Name: name("list")}} {
			if r.IntN(3) == 0 {
				g.Rules = append(g.Rules, &RuleSpec{Direction: Ingress, Policy: Accept, Protocol: ProtocolTCP, Priority: 1 + r.IntN(100), Source: peer})
			}
		}
		r.Shuffle(len(g.Rules), func(i, j int) { g.Rules[i], g.Rules[j] = g.Rules[j], g.Rules[i] })
		next, _ = Set(s, Host{}, vpc, g, ApplyOptions{})
	case 4, 5:
		i := &InstanceSpec{Name: name("vm"), Interfaces: []*InterfaceSpec{{MAC: mac(r.IntN(6) + 1), VSwitch: name("sw"), SecurityGroups: groups()}}}
		i.SetDefaults()
		if r.IntN(3) == 0 { // the addresses of MACs like these are chosen in the range with fffd
			of := map[string]int{"net-0": 0, "net-1": 1}[vpc]
			n := i.Interfaces[0]
			n.IPv6Prefixes = []netip.Prefix{px(fmt.Sprintf("fd00:0:0:%d0%s:%s::/80", of, strings.TrimPrefix(n.VSwitch, "sw-"), []string{"4", "5", "fffd"}[r.IntN(3)]))}
		}
		if r.IntN(4) == 0 {
			i.Interfaces = append(i.Interfaces, &InterfaceSpec{MAC: mac(r.IntN(6) + 11), VSwitch: name("sw"), SecurityGroups: groups()})
		}
		next, _ = Set(s, Host{}, vpc, i, ApplyOptions{})
	case 6:
		for o := range s.Objects(KindVSwitch) {
			if r.IntN(3) == 0 {
				next, _, _ = Enrol(s, Host{}, EnrolRequest{VSwitch: o.ID, MAC: mac(r.IntN(6) + 1), Hostname: name("vm")}, ApplyOptions{})
				break
			}
		}
	case 7:
		next, _ = Set(s, Host{}, vpc, &PrefixListSpec{Name: name("list"), Family: "ipv4", Entries: slices.Repeat([]netip.Prefix{px("192.0.2.0/24")}, r.IntN(2))}, ApplyOptions{})
	case 8:
		a := &ACLSpec{Name: name("acl"), Ingress: []*EntrySpec{{Policy: Accept, Source: Peer{Kind: PeerList, Name: name("list")}}}}
		if next, _ = Set(s, Host{}, vpc, a, ApplyOptions{}); next != nil {
			w := vswitch(r.IntN(4))
			w.NetworkACL = a.Name
			if attached, _ := Set(next, Host{}, vpc, w, ApplyOptions{}); attached != nil {
				next = attached
			}
		}
	case 9:
		z := &PrivateZoneSpec{Name: name("zone") + ".example", Records: []*RecordSpec{{Name: "a", Type: "A", Value: "192.0.2.1", TTL: 60}}}
		if in := []string{vpc, ""}[r.IntN(2)]; in == "" {
			z.VPCs = []string{vpc}
			next, _ = Set(s, Host{}, "", z, ApplyOptions{})
		} else {
			next, _ = Set(s, Host{}, in, z, ApplyOptions{})
		}
	default:
		kind := []Kind{KindInstance, KindSecurityGroup, KindVSwitch, KindVPC, KindPrefixList, KindNetworkACL, KindZone}[r.IntN(7)]
		prefix := map[Kind]string{KindInstance: "vm", KindSecurityGroup: "group", KindVSwitch: "sw", KindVPC: "net",
			KindPrefixList: "list", KindNetworkACL: "acl", KindZone: "zone"}[kind]
		suffix := map[bool]string{true: ".example"}[kind == KindZone]
		next, _ = Delete(s, Host{}, kind, "", name(prefix)+suffix)
	}
	if next == nil {
		return s
	}
	return next
}

var ids = regexp.MustCompile(`"id":"[^"]*"`)

// withoutIDs is a Spec in words that has no IDs; names that are IDs stay.
func withoutIDs(t *testing.T, s *Spec) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return ids.ReplaceAllString(string(b), `"id":""`)
}

// However a state was reached, by hand, by enrolment or by a manifest: it is valid, its export applies to itself without
// a change, and on an empty gateway the export makes the same state but for the IDs.
func TestTheSameStateByAnyRoute(t *testing.T) {
	grown := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := &Spec{}
		for range 60 {
			before := withoutIDs(t, s)
			next := step(r, s)
			if withoutIDs(t, s) != before {
				t.Fatalf("seed %d: a step changed the Spec that it began with", seed)
			}
			if d := Diff(s, next); (len(d) == 0) != (withoutIDs(t, next) == before) {
				t.Fatalf("seed %d: the difference is %v", seed, d)
			}
			s = next
		}
		if err := Validate(s, Host{}).Err(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for range s.Objects(KindInstance) {
			grown++
		}
		export := clone(t, s)
		if again := applied(t, s, export, ApplyOptions{Prune: true}); again != s {
			t.Fatalf("seed %d: the export changes %v", seed, Diff(s, again))
		}
		for _, v := range export.VPCs {
			slices.Reverse(v.Instances)
			slices.Reverse(v.VSwitches)
		}
		if got, want := withoutIDs(t, applied(t, nil, export, ApplyOptions{})), withoutIDs(t, s); got != want {
			t.Fatalf("seed %d: got\n%s\nwant\n%s", seed, got, want)
		}
	}
	if grown < 60 {
		t.Errorf("in all walks only %d instances were left: the steps are mostly refused", grown)
	}
}

// A Spec may come from anywhere as JSON: it is refused or made complete, and never brings the program down.
func FuzzApply(f *testing.F) {
	for _, s := range []*Spec{good(), manifest(), {}} {
		b, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"vpcs":[null,{"cidrBlock":"10.0.0.0/8","vswitches":[{"cidrBlock":"::/0","pool":"0.0.0.0-255.255.255.255"},null]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		want := new(Spec)
		if json.Unmarshal(b, want) != nil {
			return
		}
		next, problems := Apply(nil, want, host(), ApplyOptions{})
		if problems != nil {
			return
		}
		if err := Validate(next, host()).Err(); err != nil {
			t.Fatalf("what was applied is not valid: %v", err)
		}
		if again, problems := Apply(next, next, host(), ApplyOptions{Prune: true}); again != next {
			t.Fatalf("applying it to itself changes %v %v", Diff(next, again), problems)
		}
		NewSnapshot(next, host(), 1)
	})
}
