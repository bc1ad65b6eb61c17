package firewall

import (
	"strings"
	"testing"

	"gatehouse/vpc"
)

func TestRulesThatOnlyFindTheWayHaveNoComment(t *testing.T) {
	s := vpc.NewSnapshot(lab(), host(), 1)
	rs, err := Compile(s, everything())
	if err != nil {
		t.Fatal(err)
	}
	for _, ts := range rs.Families {
		for _, tb := range ts.Tables {
			for _, c := range tb.Chains {
				lines, hashes := c.Lines(ts.Family), c.Hashes(ts.Family)
				for i, r := range c.Rules {
					comment := strings.Contains(lines[i], " --comment ")
					switch {
					case comment == r.Bare:
						t.Errorf("%s: bare %t", lines[i], r.Bare)
					case r.Bare && "-A "+hashes[i] != lines[i]:
						t.Errorf("%s is known by %q", lines[i], hashes[i])
					case (r.Target.Kind == Jump || r.Target.Kind == SetMark || r.Target.Kind == MapMark) && !r.Bare && !r.Match.GroupFrame:
						t.Errorf("%s: on everybody's way", lines[i])
					}
				}
				if !c.HasHashes(ts.Family, hashes) {
					t.Errorf("%s does not know its own rules", c.Name)
				}
				for i := range hashes {
					hashes[i] += "x"
					if c.HasHashes(ts.Family, hashes) {
						t.Errorf("%s takes another rule for its own", c.Name)
					}
					hashes[i] = strings.TrimSuffix(hashes[i], "x")
				}
			}
		}
	}
}

func TestFormsThatArePrintedInAnotherWayHaveAComment(t *testing.T) {
	for _, c := range []struct {
		name string
		rule Rule
		bare bool
	}{
		{"a jump for all", Rule{Target: Target{Kind: Jump, Chain: "GH-X"}}, true},
		{"a link", Rule{Match: Match{In: "eth0"}}, true},
		{"a link that needs quotes", Rule{Match: Match{In: "eth 0"}}, false},
		{"a prefix", Rule{Match: Match{Src: prefix("10.0.0.0/8")}}, true},
		{"a link and a prefix", Rule{Match: Match{In: "eth0", Src: prefix("10.0.0.0/8")}}, false},
		{"an IPv6 prefix", Rule{Match: Match{Src: prefix("fd00::/8")}}, true},
		{"an IPv6 prefix that may end in an IPv4 address", Rule{Match: Match{Dst: prefix("::102:304/128")}}, false},
		{"a state", Rule{Match: Match{States: []vpc.ConnState{vpc.StateInvalid}}}, true},
		{"several states", Rule{Match: Match{States: []vpc.ConnState{vpc.StateNew, vpc.StateRelated}}}, false},
		{"a full mask", Rule{Match: Match{Mark: &Mark{1, 0xffffffff}}}, false},
		{"a protocol", Rule{Match: Match{Protocol: vpc.ProtocolTCP}}, false},
		{"somebody's rule", Rule{ID: "sgr-1"}, false},
		{"a log", Rule{Target: Target{Kind: NFLog, Log: "x:"}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			rules := []Rule{c.rule}
			Features{Bare: true}.bare(rules)
			if rules[0].Bare != c.bare {
				t.Errorf("bare %t, want %t", rules[0].Bare, c.bare)
			}
			if (Features{}).bare(rules); rules[0].Bare {
				t.Error("bare on a host where rules do not read back")
			}
		})
	}
}
