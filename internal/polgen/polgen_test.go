package polgen

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gatehouse/vpc"
)

var sizes = map[string]Size{"small": Small(), "large": Large()}

func TestEverySpecIsValid(t *testing.T) {
	for name, size := range sizes {
		for seed := range uint64(300) {
			spec := Spec(rand.New(rand.NewPCG(seed, 0)), size)
			if err := vpc.Validate(spec, Host()).Err(); err != nil {
				t.Fatalf("%s, seed %d: %v", name, seed, err)
			}
		}
	}
}

func TestASeedRepeatsItself(t *testing.T) {
	for name, size := range sizes {
		make := func() (*vpc.Spec, []vpc.Packet) {
			r := rand.New(rand.NewPCG(7, 0))
			spec := Spec(r, size)
			return spec, Packets(r, vpc.NewSnapshot(spec, Host(), 1), 50)
		}
		spec1, packets1 := make()
		spec2, packets2 := make()
		if !reflect.DeepEqual(spec1, spec2) || !reflect.DeepEqual(packets1, packets2) {
			t.Errorf("%s: one seed makes two networks", name)
		}
	}
}

// A comparison says something only when both verdicts, every stage and every reason that can be reached are frequent.
func TestBothVerdictsAreFrequent(t *testing.T) {
	for name, packets := range map[string]func(*rand.Rand, *vpc.Snapshot, int) []vpc.Packet{"any": Packets, "first": FirstPackets} {
		for _, f := range vpc.Families() {
			total, allowed := 0, 0
			reasons := map[vpc.Reason]int{}
			for seed := range uint64(300) {
				r := rand.New(rand.NewPCG(seed, 0))
				s := vpc.NewSnapshot(Spec(r, Small()), Host(), 1)
				for _, p := range packets(r, s, 60) {
					if vpc.FamilyOf(p.Dst) != f {
						continue
					}
					v := vpc.Evaluate(s, p)
					total++
					if v.Allowed {
						allowed++
					}
					for _, stage := range v.Stages {
						reasons[stage.Reason]++
						if stage.Verdict == vpc.StageDrop {
							break
						}
					}
				}
			}
			if share := 100 * allowed / total; share < 20 || share > 80 {
				t.Errorf("%s %s: %d %% of %d packets pass", name, f, share, total)
			}
			want := []vpc.Reason{
				vpc.ReasonSpoofOK, vpc.ReasonSpoofAddress, vpc.ReasonVPCSame, vpc.ReasonVPCUplink, vpc.ReasonVPCIsolated, vpc.ReasonVPCHost,
				vpc.ReasonUnknownAddress, vpc.ReasonHostService, vpc.ReasonHostAccess, vpc.ReasonHostClosed, vpc.ReasonHostForeign, vpc.ReasonHostOutside,
				vpc.ReasonNACLNone, vpc.ReasonNACLSame, vpc.ReasonNACLOutside, vpc.ReasonNACLEntry, vpc.ReasonNACLDefault, vpc.ReasonConnNew,
				vpc.ReasonSGOutside, vpc.ReasonSGInner, vpc.ReasonSGRule, vpc.ReasonSGDefaultBasicEgress, vpc.ReasonSGDefaultBasicIngress,
				vpc.ReasonSGDefaultAdvancedEgress, vpc.ReasonSGDefaultAdvancedIngress,
			}
			if name == "any" {
				want = append(want, vpc.ReasonSpoofOutside, vpc.ReasonSpoofUnspecified, vpc.ReasonSpoofSource, vpc.ReasonRogueDHCP, vpc.ReasonLinkForeign,
					vpc.ReasonNoRoute, vpc.ReasonNotOurs, vpc.ReasonHostReply, vpc.ReasonNACLSystem, vpc.ReasonConnEstablished, vpc.ReasonConnRelated,
					vpc.ReasonConnInvalid, vpc.ReasonConnNotSYN)
				if f == vpc.IPv6 {
					want = append(want, vpc.ReasonSpoofLinkLocal, vpc.ReasonRogueRA)
				}
			}
			for _, reason := range want {
				if reasons[reason] < 5 {
					t.Errorf("%s %s: only %d packets of %d see %s", name, f, reasons[reason], total, reason)
				}
			}
		}
	}
}

// Rules of every kind must decide packets, not only exist.
func TestEveryKindOfRuleDecides(t *testing.T) {
	decided := map[string]int{}
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := vpc.NewSnapshot(Spec(r, Small()), Host(), 1)
		rules := map[string]*vpc.Rule{}
		for _, g := range s.Groups {
			for _, rule := range g.Rules {
				rules[rule.ID] = rule
			}
		}
		for _, p := range FirstPackets(r, s, 60) {
			for _, stage := range vpc.Evaluate(s, p).Stages {
				rule := rules[stage.Rule]
				if rule == nil {
					continue
				}
				family := vpc.FamilyOf(p.Dst).String()
				for kind, is := range map[string]bool{
					string(rule.Direction) + " " + string(rule.Policy): true,
					"protocol " + rule.Protocol.String():               true,
					"a list of ports":                                  len(rule.Ports) > 1,
					"source ports":                                     rule.SourcePorts != nil,
					"a five-tuple":                                     !rule.OtherEnd().IsZero(),
					"a group":                                          rule.PeerGroup != nil,
					"a prefix list":                                    rule.PeerList != nil,
					"a prefix":                                         rule.Peer().Kind == vpc.PeerPrefix,
				} {
					if is {
						decided[kind+" "+family]++
					}
				}
			}
		}
	}
	for _, kind := range []string{"ingress accept", "ingress drop", "egress accept", "egress drop", "protocol all", "protocol tcp", "protocol udp",
		"protocol gre", "protocol 50", "protocol 99", "protocol 112", "a list of ports", "source ports", "a five-tuple", "a group", "a prefix list", "a prefix"} {
		for _, f := range vpc.Families() {
			if decided[kind+" "+f.String()] < 5 {
				t.Errorf("a rule with %s decided %d times in %s", kind, decided[kind+" "+f.String()], f)
			}
		}
	}
	if decided["protocol icmp ipv4"] < 5 || decided["protocol icmpv6 ipv6"] < 5 || decided["protocol icmp ipv6"] > 0 || decided["protocol icmpv6 ipv4"] > 0 {
		t.Errorf("rules for ICMP decided %v", decided)
	}
}

func TestFirstPacketsCanBeSent(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		s := vpc.NewSnapshot(Spec(r, Large()), Host(), 1)
		for _, p := range FirstPackets(r, s, 60) {
			nic := s.InterfaceByMAC(p.SrcMAC)
			switch {
			case p.State != vpc.StateNew || p.NoSYN:
				t.Fatalf("seed %d: not the first packet of a flow: %s", seed, DescribePacket(p))
			case p.In.Kind == vpc.PlaceVSwitch && (nic == nil || nic.VSwitch != p.In.VSwitch || !p.In.VSwitch.HasLink()):
				t.Fatalf("seed %d: nobody there can send it: %s", seed, DescribePacket(p))
			case p.In.Kind != vpc.PlaceVSwitch && p.In.Kind != vpc.PlaceUplink:
				t.Fatalf("seed %d: there is no such link: %s", seed, DescribePacket(p))
			case !p.Src.IsGlobalUnicast() || !p.Dst.IsGlobalUnicast() || vpc.FamilyOf(p.Src) != vpc.FamilyOf(p.Dst):
				t.Fatalf("seed %d: not an ordinary packet: %s", seed, DescribePacket(p))
			case nic != nil && slices.Contains(slices.Collect(nic.Addrs), p.Dst):
				t.Fatalf("seed %d: it never leaves its sender: %s", seed, DescribePacket(p))
			}
		}
	}
}

func TestShrinkKeepsOnlyWhatMatters(t *testing.T) {
	spec := Spec(rand.New(rand.NewPCG(3, 0)), Large())
	drops := func(s *vpc.Spec) bool {
		for _, v := range s.VPCs {
			for _, g := range v.SecurityGroups {
				if slices.ContainsFunc(g.Rules, func(r *vpc.RuleSpec) bool { return r.Policy == vpc.Drop && r.Protocol == vpc.ProtocolTCP }) {
					return true
				}
			}
		}
		return false
	}
	if !drops(spec) {
		t.Fatal("the network has no such rule to begin with")
	}
	small := Shrink(spec, drops)
	rules, instances := 0, 0
	for _, v := range small.VPCs {
		instances += len(v.Instances)
		for _, g := range v.SecurityGroups {
			rules += len(g.Rules)
		}
	}
	if !drops(small) || rules != 1 || instances != 0 || len(small.VPCs) != 1 {
		t.Errorf("kept %d rules, %d instances in %d VPCs:\n%s", rules, instances, len(small.VPCs), Describe(small, vpc.Packet{}))
	}
}

func TestDescribeNamesEverything(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 0))
	spec := Spec(r, Small())
	text := Describe(spec, Packets(r, vpc.NewSnapshot(spec, Host(), 1), 1)[0])
	for _, v := range spec.VPCs {
		for _, g := range v.SecurityGroups {
			for _, rule := range g.Rules {
				if !strings.Contains(text, rule.ID) {
					t.Errorf("%s is missing in:\n%s", rule.ID, text)
				}
			}
		}
	}
	if !strings.Contains(text, "packet from ") {
		t.Errorf("no packet in:\n%s", text)
	}
}
