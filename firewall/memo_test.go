package firewall

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"gatehouse/vpc"
)

// shuffled returns the same specification with everything whose order does not matter in another order.
func shuffled(spec *vpc.Spec, r *rand.Rand) *vpc.Spec {
	out := &vpc.Spec{}
	for _, v := range spec.VPCs {
		c := *v
		c.VSwitches, c.SecurityGroups, c.PrefixLists = mix(r, v.VSwitches), mix(r, v.SecurityGroups), mix(r, v.PrefixLists)
		c.NetworkACLs, c.Instances = mix(r, v.NetworkACLs), mix(r, v.Instances)
		for i, g := range c.SecurityGroups {
			copied := *g
			copied.Rules = mix(r, g.Rules)
			c.SecurityGroups[i] = &copied
		}
		for i, inst := range c.Instances {
			copied := *inst
			copied.Interfaces = nil
			for _, n := range inst.Interfaces {
				nic := *n
				nic.SecurityGroups = mix(r, n.SecurityGroups)
				copied.Interfaces = append(copied.Interfaces, &nic)
			}
			c.Instances[i] = &copied
		}
		out.VPCs = append(out.VPCs, &c)
	}
	out.VPCs = mix(r, out.VPCs)
	return out
}

func mix[T any](r *rand.Rand, s []T) []T {
	s = slices.Clone(s)
	r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	return s
}

func TestOrderOfTheSpecificationDoesNotMatter(t *testing.T) {
	for name, c := range cases() {
		t.Run(name, func(t *testing.T) {
			want := compile(t, c.spec, c.f).Text()
			for seed := range uint64(10) {
				got := compile(t, shuffled(c.spec, rand.New(rand.NewPCG(seed, 0))), c.f).Text()
				if got != want {
					t.Fatalf("seed %d: %s", seed, firstDifference(got, want))
				}
			}
		})
	}
}

// edits are changes as a commit makes them: new objects along the way to what changes, all others shared.
func edits() map[string]func(*vpc.VPCSpec) {
	editGroup := func(v *vpc.VPCSpec, edit func(*vpc.GroupSpec)) {
		g := *v.SecurityGroups[0]
		g.Rules = slices.Clone(g.Rules)
		edit(&g)
		v.SecurityGroups = slices.Clone(v.SecurityGroups)
		v.SecurityGroups[0] = &g
	}
	return map[string]func(*vpc.VPCSpec){
		"nothing":          func(*vpc.VPCSpec) {},
		"a rule less":      func(v *vpc.VPCSpec) { editGroup(v, func(g *vpc.GroupSpec) { g.Rules = g.Rules[1:] }) },
		"isolation":        func(v *vpc.VPCSpec) { editGroup(v, func(g *vpc.GroupSpec) { g.InnerAccess = vpc.Drop }) },
		"an instance less": func(v *vpc.VPCSpec) { v.Instances = v.Instances[1:] },
		"another instance": func(v *vpc.VPCSpec) {
			v.Instances = append(slices.Clone(v.Instances), instance(99, "db", "10.20.2.99", "", "web"))
		},
		"a new combination": func(v *vpc.VPCSpec) {
			v.Instances = append(slices.Clone(v.Instances), instance(99, "db", "10.20.2.99", "", "bastion", "web"))
		},
		"a recreated group": func(v *vpc.VPCSpec) { // its name, to which others refer, stands for another ID
			bastion := *v.SecurityGroups[1]
			bastion.ID = "sg-00000000000000b9"
			v.SecurityGroups = slices.Clone(v.SecurityGroups)
			v.SecurityGroups[1] = &bastion
		},
		"another prefix": func(v *vpc.VPCSpec) {
			list := *v.PrefixLists[0]
			list.Entries = []netip.Prefix{prefix("192.0.2.0/24")}
			v.PrefixLists = slices.Clone(v.PrefixLists)
			v.PrefixLists[0] = &list
		},
		"the other family": func(v *vpc.VPCSpec) {
			list := *v.PrefixLists[0]
			list.Family, list.Entries = "ipv6", []netip.Prefix{prefix("2001:db8::/32")}
			v.PrefixLists = slices.Clone(v.PrefixLists)
			v.PrefixLists[0] = &list
		},
	}
}

func TestCompilerRemembersOnlyWhatIsStillTrue(t *testing.T) {
	for name, edit := range edits() {
		for _, f := range []Features{everything(), bare()} {
			t.Run(fmt.Sprintf("%s with %+v", name, f), func(t *testing.T) {
				first := lab()
				c := NewCompiler(f)
				if _, err := c.Compile(snapshot(first)); err != nil {
					t.Fatal(err)
				}
				v := *first.VPCs[0]
				edit(&v)
				second := snapshot(&vpc.Spec{VPCs: []*vpc.VPCSpec{&v, first.VPCs[1]}})
				warm, err := c.Compile(second)
				if err != nil {
					t.Fatal(err)
				}
				cold, err := Compile(second, f)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := warm.Text(), cold.Text(); got != want {
					t.Error(firstDifference(got, want))
				}
			})
		}
	}
}

func TestCompilerFollowsItsFeatures(t *testing.T) {
	c := NewCompiler(bare())
	if _, err := c.Compile(snapshot(lab())); err != nil {
		t.Fatal(err)
	}
	c.SetFeatures(everything())
	warm, err := c.Compile(snapshot(lab()))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := warm.Text(), compile(t, lab(), everything()).Text(); got != want {
		t.Error(firstDifference(got, want))
	}
}

// A change of members changes sets and no rule; a new combination of groups changes few chains.
func TestSmallChangesWriteLittle(t *testing.T) {
	for _, tc := range []struct {
		name     string
		edit     func(*vpc.VPCSpec)
		mostToDo int // chains of one family
	}{
		{"a member comes", func(v *vpc.VPCSpec) {
			v.Instances = append(v.Instances, instance(999, "g0", "10.0.0.99", "fd00:30::99", "g0"))
		}, 0},
		{"a combination comes", func(v *vpc.VPCSpec) {
			v.Instances = append(v.Instances, instance(999, "g0", "10.0.0.99", "fd00:30::99", "g0", "g1"))
		}, 2 + 2*3},
		{"a group is isolated", func(v *vpc.VPCSpec) { v.SecurityGroups[3].InnerAccess = vpc.Drop }, 2},
		{"a vSwitch gets no ACL", func(v *vpc.VPCSpec) { v.VSwitches[3].NetworkACL = "" }, 3}, // the ways from it and to it, and how its ACL is found
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := compile(t, crowded(200, 2), everything())
			spec := crowded(200, 2)
			tc.edit(spec.VPCs[0])
			after := compile(t, spec, everything())
			for i, family := range after.Families {
				n := 0
				for _, d := range Diff(kernelOf(before.Families[i]), family) {
					n += len(d.Write) + len(d.Delete)
				}
				if n > tc.mostToDo {
					t.Errorf("%s: %d chains are written or deleted, at most %d expected", family.Family, n, tc.mostToDo)
				}
			}
		})
	}
}

// kernelOf is a kernel that carries the tables.
func kernelOf(t Tables) Kernel {
	k := Kernel{}
	for _, table := range t.Tables {
		k[table.Name] = map[string][]string{}
		for _, c := range table.Chains {
			k[table.Name][c.Name] = c.Hashes(t.Family)
		}
	}
	return k
}

// large is the network of the compile targets: 10,000 instances, 2,000 profiles, 1,000 groups of 20 rules.
func large() *vpc.Spec {
	v := &vpc.VPCSpec{ID: "vpc-00000000000000e1", Name: "large", CIDRBlock: prefix("10.0.0.0/8"), IPv6CIDRBlock: prefix("fd00:40::/48")}
	for i := range 8 {
		v.VSwitches = append(v.VSwitches, &vpc.VSwitchSpec{ID: fmt.Sprintf("vsw-%016x", uint64(i+1)*0x9e3779b97f4a7c15), Name: fmt.Sprintf("s%d", i),
			CIDRBlock: prefix(fmt.Sprintf("10.%d.0.0/16", i)), IPv6CIDRBlock: prefix(fmt.Sprintf("fd00:40:0:%x::/64", i))})
	}
	for i := range 1000 {
		g := &vpc.GroupSpec{ID: fmt.Sprintf("sg-%016x", uint64(i+1)*0x9e3779b97f4a7c15), Name: fmt.Sprintf("g%d", i), Type: vpc.GroupBasic, InnerAccess: vpc.Accept}
		for j := range 20 {
			id, port, policy := fmt.Sprintf("sgr-%08x%08x", i, j), fmt.Sprintf("%d", 2000+j), vpc.Accept
			if j%5 == 0 {
				policy = vpc.Drop
			}
			switch j % 4 {
			case 0:
				g.Rules = append(g.Rules, ingress(id, fmt.Sprintf("sg:g%d", (i+j)%1000), vpc.ProtocolTCP, port, policy, 1+j%3))
			case 1:
				g.Rules = append(g.Rules, ingress(id, fmt.Sprintf("172.16.%d.0/24", j), vpc.ProtocolTCP, port, policy, 1+j%3))
			case 2:
				g.Rules = append(g.Rules, ingress(id, fmt.Sprintf("2001:db8:%x::/48", j), vpc.ProtocolUDP, port, policy, 1+j%3))
			default:
				g.Rules = append(g.Rules, egress(id, fmt.Sprintf("172.18.%d.0/24", j), vpc.ProtocolTCP, port, policy, 1+j%3))
			}
		}
		v.SecurityGroups = append(v.SecurityGroups, g)
	}
	for i := range 10000 {
		groups := []string{fmt.Sprintf("g%d", i/10)}
		if i%10 == 9 {
			groups = append(groups, fmt.Sprintf("g%d", (i/10+1)%1000))
		}
		v.Instances = append(v.Instances, instance(i+1, fmt.Sprintf("s%d", i%8), fmt.Sprintf("10.%d.%d.%d", i%8, i/8/200, i/8%200+1),
			fmt.Sprintf("fd00:40:0:%x::%x", i%8, i+1), groups...))
	}
	return &vpc.Spec{VPCs: []*vpc.VPCSpec{v}}
}

func BenchmarkCompile10000(b *testing.B) {
	s := snapshot(large())
	for _, f := range []Features{everything(), bare()} {
		b.Run(fmt.Sprintf("cold,mapmark=%t", f.MapMark), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Compile(s, f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("warm", func(b *testing.B) {
		b.ReportAllocs()
		c := NewCompiler(everything())
		for b.Loop() {
			if _, err := c.Compile(s); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("warm and diff", func(b *testing.B) {
		c := NewCompiler(everything())
		rs, err := c.Compile(s)
		if err != nil {
			b.Fatal(err)
		}
		have := [2]Kernel{kernelOf(rs.Families[0]), kernelOf(rs.Families[1])}
		for b.Loop() {
			rs, err := c.Compile(s)
			if err != nil {
				b.Fatal(err)
			}
			for i := range have {
				if d := Diff(have[i], rs.Families[i]); len(d) > 0 {
					b.Fatalf("%d tables differ", len(d))
				}
			}
		}
	})
	b.Run("text", func(b *testing.B) {
		for b.Loop() {
			rs, err := Compile(s, everything())
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(rs.Text())))
		}
	})
}

func BenchmarkTrace10000(b *testing.B) {
	s := snapshot(large())
	rs, err := Compile(s, everything())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("index", func(b *testing.B) {
		for b.Loop() {
			NewTracer(rs)
		}
	})
	tracer := NewTracer(rs)
	from, to := s.Interfaces[17], s.Interfaces[4711]
	p := vpc.Packet{In: vpc.Place{Kind: vpc.PlaceVSwitch, VSwitch: from.VSwitch}, Src: from.PrivateIP, Dst: to.PrivateIP, Protocol: vpc.ProtocolTCP, DstPort: 80}
	b.Run("packet", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			tracer.Trace(p, PathOf(s, p))
		}
	})
}
