package firewall

import (
	"slices"
	"strings"
	"testing"

	"gatehouse/vpc"
)

func TestRulesAsText(t *testing.T) {
	mark := Mark{0x10000, 0xffff0000}
	for _, tc := range []struct {
		name   string
		rule   Rule
		v4, v6 string
	}{
		{"nothing asked, RETURN", Rule{}, "-j RETURN", "-j RETURN"},
		{"links, also negated", Rule{Match: Match{In: "br-web", Out: "br-web", NotOut: true}, Target: Target{Kind: Goto, Chain: "GH-X"}},
			"-i br-web ! -o br-web -g GH-X", "-i br-web ! -o br-web -g GH-X"},
		{"the link's beginning", Rule{Match: Match{In: "gh-1+"}, Target: Target{Kind: Jump, Chain: "GH-X"}}, "-i gh-1+ -j GH-X", "-i gh-1+ -j GH-X"},
		{"a link whose name needs quotes", Rule{Match: Match{In: `a"b\c d`}}, `-i "a\"b\\c d" -j RETURN`, `-i "a\"b\\c d" -j RETURN`},
		{"one port of either side", Rule{Match: Match{Protocol: vpc.ProtocolUDP, SrcPorts: ports("68"), DstPorts: ports("67-69")}},
			"-p udp -m udp --sport 68 --dport 67:69 -j RETURN", "-p udp -m udp --sport 68 --dport 67:69 -j RETURN"},
		{"many ports", Rule{Match: Match{Protocol: vpc.ProtocolTCP, SrcPorts: ports("1,2"), DstPorts: ports("80,443,8000-8100")}},
			"-p tcp -m multiport --sports 1,2 -m multiport --dports 80,443,8000:8100 -j RETURN",
			"-p tcp -m multiport --sports 1,2 -m multiport --dports 80,443,8000:8100 -j RETURN"},
		{"opens no connection", Rule{Match: Match{Protocol: vpc.ProtocolTCP, SYN: -1, States: unseen}, Target: Target{Kind: Drop}},
			"-p tcp -m tcp ! --syn -m conntrack --ctstate NEW -j DROP", "-p tcp -m tcp ! --syn -m conntrack --ctstate NEW -j DROP"},
		{"a type and a code", Rule{Match: Match{Protocol: vpc.ProtocolICMP, ICMPType: 4, ICMPCode: 5}},
			"-p icmp -m icmp --icmp-type 3/4 -j RETURN", "-p icmp -m icmp6 --icmpv6-type 3/4 -j RETURN"},
		{"echo reply, which is type zero", Rule{Match: Match{Protocol: vpc.ProtocolICMP, ICMPType: 1}},
			"-p icmp -m icmp --icmp-type 0 -j RETURN", "-p icmp -m icmp6 --icmpv6-type 0 -j RETURN"},
		{"sets and marks", Rule{Match: Match{Mark: &mark, Sets: []SetMatch{{Set: "gh4-a", Dir: "src,src"}, {Set: "gh4-b", Dir: "dst", Not: true}}}},
			"-m mark --mark 0x10000/0xffff0000 -m set --match-set gh4-a src,src -m set ! --match-set gh4-b dst -j RETURN",
			"-m mark --mark 0x10000/0xffff0000 -m set --match-set gh4-a src,src -m set ! --match-set gh4-b dst -j RETURN"},
		{"a MAC", Rule{Match: Match{Src: prefix("10.0.0.1/32"), SrcMAC: mac(1)}},
			"-s 10.0.0.1/32 -m mac --mac-source 00:16:3e:00:00:01 -j RETURN", "-s 10.0.0.1/32 -m mac --mac-source 00:16:3e:00:00:01 -j RETURN"},
		{"every address is no question", Rule{Match: Match{Src: prefix("::/0"), Dst: prefix("fd00::/8"), NotDst: true}},
			"! -d fd00::/8 -j RETURN", "! -d fd00::/8 -j RETURN"},
		{"marking", Rule{Target: Target{Kind: SetMark, Mark: Mark{0, 0xff00}}}, "-j MARK --set-xmark 0x0/0xff00", "-j MARK --set-xmark 0x0/0xff00"},
		{"mapping", Rule{Target: Target{Kind: MapMark, Set: "gh4-mark", Dir: "dst"}}, "-j SET --map-set gh4-mark dst --map-mark", "-j SET --map-set gh4-mark dst --map-mark"},
		{"logging, at most 63 bytes", Rule{Target: Target{Kind: NFLog, Log: "sg.rule:" + strings.Repeat("x", 80)}},
			logLimit + "-j NFLOG --nflog-group 77 --nflog-prefix sg.rule:" + strings.Repeat("x", 55),
			logLimit + "-j NFLOG --nflog-group 77 --nflog-prefix sg.rule:" + strings.Repeat("x", 55)},
		{"a target that does not exist", Rule{Target: Target{Kind: 99}}, "-j DROP", "-j DROP"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.rule.Spec(vpc.IPv4); got != tc.v4 {
				t.Errorf("IPv4: got  %s\nwant %s", got, tc.v4)
			}
			if got := tc.rule.Spec(vpc.IPv6); got != tc.v6 {
				t.Errorf("IPv6: got  %s\nwant %s", got, tc.v6)
			}
		})
	}
}

func TestHashesTellAChainFromAnyOther(t *testing.T) {
	a, b := Rule{ID: "sgr-1"}, Rule{Target: Target{Kind: Drop}}
	for _, f := range vpc.Families() {
		chain := Chain{Name: "GH-A", Rules: []Rule{a, b}}
		same := Chain{Name: "GH-A", Rules: []Rule{a, b}, text: &chainText{}}
		if !slices.Equal(chain.Hashes(f), same.Hashes(f)) || !slices.Equal(same.Hashes(f), same.Hashes(f)) || !chain.Equal(&same, f) {
			t.Errorf("%s: equal chains have different hashes", f)
		}
		for name, other := range map[string]Chain{
			"another name":       {Name: "GH-B", Rules: []Rule{a, b}},
			"another order":      {Name: "GH-A", Rules: []Rule{b, a}},
			"another rule first": {Name: "GH-A", Rules: []Rule{{}, b}},
			"one rule less":      {Name: "GH-A", Rules: []Rule{a}},
			"no rules":           {Name: "GH-A"},
			"another ID":         {Name: "GH-A", Rules: []Rule{{ID: "sgr-2"}, b}},
		} {
			if other.Equal(&chain, f) || other.HasHashes(f, chain.Hashes(f)) {
				t.Errorf("%s: %s makes no difference", f, name)
			}
		}
	}
}

func TestLinesSurviveAnyID(t *testing.T) {
	for _, id := range []string{"sgr-1", `a" -j ACCEPT "`, `back\slash`, "line\nbreak", "nul\x00", strings.Repeat("long", 100)} {
		lines := Chain{Name: "GH-A", Rules: []Rule{{ID: id, Target: Target{Kind: Drop}}}}.Lines(vpc.IPv4)
		if len(lines) != 1 || strings.ContainsAny(lines[0], "\n\x00") || !strings.HasSuffix(lines[0], `" -j DROP`) {
			t.Errorf("ID %q: %q", id, lines)
		}
	}
}

func TestPortsAreSplitWhereOneRuleCannotHoldThem(t *testing.T) {
	for _, tc := range []struct {
		ports string
		want  []string
	}{
		{"443", []string{"443"}},
		{"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15", []string{"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"}},
		{"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", []string{"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15", "16"}},
		{"1-2,3-4,5-6,7-8,9-10,11-12,13-14,15-16", []string{"1-2,3-4,5-6,7-8,9-10,11-12,13-14", "15-16"}},
		{"1-2,3-4,5-6,7-8,9-10,11-12,13-14,15", []string{"1-2,3-4,5-6,7-8,9-10,11-12,13-14,15"}},
	} {
		var got []string
		for _, p := range splitPorts(ports(tc.ports)) {
			got = append(got, p.String())
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", tc.ports, got, tc.want)
		}
	}
}
