package vpc

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// mangled returns a Spec with one to three objects of one or two VPCs changed or added in a way that may or may not be valid:
// values are taken from other objects, made up, or left out.
func mangled(r *rand.Rand, spec *Spec) *Spec {
	next := *spec
	next.VPCs = slices.Clone(spec.VPCs)
	pick := func(n int) int { return r.IntN(max(n, 1)) }
	anyID := func() string {
		var ids []string
		for _, kind := range []Kind{KindVPC, KindVSwitch, KindInstance, KindInterface, KindSecurityGroup, KindPrefixList, KindNetworkACL, KindZone} {
			for o := range spec.Objects(kind) {
				ids = append(ids, o.ID)
				if g, ok := o.Value.(*GroupSpec); ok {
					for _, rule := range g.Rules {
						ids = append(ids, rule.ID)
					}
				}
			}
		}
		return append(ids, RandomID("x-"))[pick(len(ids)+1)]
	}
	anyInterface := func() *InterfaceSpec {
		var all []*InterfaceSpec
		for o := range spec.Objects(KindInterface) {
			all = append(all, o.Value.(*InterfaceSpec))
		}
		return append(all, &InterfaceSpec{MAC: mac(99), PrivateIP: netip.MustParseAddr("10.0.0.77"), IPv6Addresses: []netip.Addr{netip.MustParseAddr("fd00::77")}})[pick(len(all)+1)]
	}
	for range 1 + r.IntN(3) {
		if len(next.VPCs) == 0 {
			return &next
		}
		k := r.IntN(len(next.VPCs))
		v := *next.VPCs[k]
		next.VPCs[k] = &v
		if len(v.SecurityGroups) == 0 || len(v.VSwitches) == 0 {
			continue
		}
		if r.IntN(2) == 0 {
			v.SecurityGroups = slices.Clone(v.SecurityGroups)
			j := r.IntN(len(v.SecurityGroups))
			g := *v.SecurityGroups[j]
			g.Rules = slices.Clone(g.Rules)
			rule := &RuleSpec{ID: RandomID("sgr-"), Direction: Ingress, Policy: Accept, Protocol: ProtocolTCP, Priority: r.IntN(110), Source: Peer{Kind: PeerPrefix, Prefix: px("0.0.0.0/0")}}
			switch r.IntN(9) {
			case 0:
				rule.ID = anyID()
			case 1:
				rule.Source = Peer{Kind: PeerGroup, Name: fmt.Sprintf("group-%d", r.IntN(6))}
			case 2:
				g.Rules = append(g.Rules, manyRules(maxRulesPerInterface/2+1, "0.0.0.0/0")...)
			case 3:
				rule.Source = Peer{Kind: PeerList, Name: fmt.Sprintf("list-%d", r.IntN(5))}
			case 4:
				g.Type = GroupAdvanced
			case 5:
				g.ID = anyID()
			case 6:
				g.Name = fmt.Sprintf("group-%d", r.IntN(8))
			}
			g.Rules = append(g.Rules, rule)
			if r.IntN(4) == 0 {
				v.SecurityGroups = append(v.SecurityGroups, &g)
			} else {
				v.SecurityGroups[j] = &g
			}
			if r.IntN(8) == 0 {
				v.SecurityGroups = slices.Delete(v.SecurityGroups, j, j+1)
			}
			slices.SortStableFunc(v.SecurityGroups, func(a, b *GroupSpec) int { return strings.Compare(a.Name, b.Name) })
			continue
		}
		if len(v.Instances) == 0 {
			continue
		}
		v.Instances = slices.Clone(v.Instances)
		j := r.IntN(len(v.Instances))
		x := *v.Instances[j]
		x.Interfaces = slices.Clone(x.Interfaces)
		n := *x.Interfaces[0]
		x.Interfaces[0] = &n
		added := r.IntN(3) == 0
		if added {
			x.ID, n.ID, n.MAC = RandomID("i-"), RandomID("eni-"), mac(50+r.IntN(50))
			x.Name = fmt.Sprintf("VM-%d", r.IntN(9))
			if i := slices.IndexFunc(v.VSwitches, func(w *VSwitchSpec) bool { return w.Name == n.VSwitch }); i >= 0 {
				w := v.VSwitches[i]
				n.PrivateIP, n.IPv6Addresses = w.CIDRBlock.Addr().Next(), nil
				for range r.IntN(200) {
					n.PrivateIP = n.PrivateIP.Next()
				}
			}
		}
		if r.IntN(4) == 0 {
			n.IPv6Prefixes = anyInterface().IPv6Prefixes
			if a := anyInterface().IPv6Addresses; len(a) > 0 && r.IntN(2) == 0 {
				n.IPv6Prefixes = []netip.Prefix{delegatedTo(a[0])}
			}
		}
		switch r.IntN(12) {
		case 0:
			x.ID = anyID()
		case 1:
			n.ID = anyID()
		case 2:
			n.MAC = anyInterface().MAC
		case 3:
			n.PrivateIP = anyInterface().PrivateIP
		case 4:
			n.IPv6Addresses = anyInterface().IPv6Addresses
		case 5:
			n.SecurityGroups = []string{fmt.Sprintf("group-%d", r.IntN(6))}
		case 6:
			n.SecurityGroups = nil
		case 7:
			n.VSwitch = fmt.Sprintf("sw-%d", r.IntN(6))
		case 8:
			x.Interfaces = append(x.Interfaces, anyInterface())
		case 9:
			x.Name = []string{"localhost", "ip-10-0-0-9", v.Instances[0].Name, strings.ToUpper(v.Instances[0].Name)}[r.IntN(4)]
		default:
			n.SecurityGroups = []string{v.SecurityGroups[r.IntN(len(v.SecurityGroups))].Name}
		}
		if added {
			v.Instances = append(v.Instances, &x)
		} else {
			v.Instances[j] = &x
		}
		slices.SortStableFunc(v.Instances, func(a, b *InstanceSpec) int { return strings.Compare(a.Name, b.Name) })
	}
	return &next
}

// What a look at a change finds valid is valid as a whole; and most valid changes are found so.
func TestAChangeThatIsFoundValidIsValid(t *testing.T) {
	found, valid, invalid := 0, 0, 0
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 8))
		spec := &Spec{}
		for range 60 {
			spec = step(r, spec)
		}
		for n := range 60 {
			next := mangled(r, spec)
			problems := validate(nil, normalize(next), Host{})
			change := validChange(spec, next, Host{})
			switch {
			case change && len(problems) > 0:
				t.Fatalf("seed %d, change %d is found valid, but\n%v\nchanges: %v", seed, n, problems, Diff(spec, next))
			case len(problems) > 0:
				invalid++
				continue
			}
			valid++
			if change {
				found++
			}
			if r.IntN(2) == 0 {
				spec = next
			}
		}
	}
	if invalid < 300 || valid < 300 || found < valid/2 {
		t.Errorf("%d changes were invalid, %d valid, %d of these found so", invalid, valid, found)
	}
}

// Whatever is known to be valid before, Apply gives the same.
func TestApplyToWhatIsKnownToBeValid(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 9))
		spec := &Spec{}
		for n := range 100 {
			next := step(r, spec)
			ids := 0
			opt := ApplyOptions{Prune: r.IntN(2) == 0, NewID: func(prefix string) string {
				ids++
				return fmt.Sprintf("%s%016x", prefix, uint64(n)<<32|uint64(ids)<<8|seed)
			}}
			want := clone(t, next)
			for _, v := range want.VPCs {
				v.Instances = v.Instances[:r.IntN(len(v.Instances)+1)]
				v.SecurityGroups = v.SecurityGroups[:r.IntN(len(v.SecurityGroups)+1)]
			}
			full, problems := Apply(spec, want, Host{}, opt)
			opt.Valid, ids = spec, 0
			quick, same := Apply(spec, want, Host{}, opt)
			if (problems == nil) != (same == nil) || !slices.Equal(problems, same) {
				t.Fatalf("seed %d, step %d: got %v, want %v", seed, n, same, problems)
			}
			if full != nil && len(Diff(full, quick)) > 0 {
				t.Fatalf("seed %d, step %d: the results differ in %v", seed, n, Diff(full, quick))
			}
			spec = next
		}
	}
}
