package firewall

import (
	"strings"
	"testing"

	"gatehouse/vpc"
)

// The policy and the rules agree on what is translated, and on what becomes of it.
func TestPrefixTranslation(t *testing.T) {
	const ok = "anti-spoof spoof.ok, "
	group := func(p *vpc.Packet) { p.Group = true }
	s := snapshot(translated())
	tracer := NewTracer(compile(t, translated(), everything()))
	for _, tc := range []struct {
		name string
		way  way
		want string // up to the first drop
	}{
		{"from outside to a port that is open", way{in: "uplink", packet: "2001:db8:1::9 2001:db8:4200:1::10 tcp/443"},
			ok + "vpc vpc.uplink, nacl-egress nacl.outside, nacl-ingress nacl.entry nae-00000000000000a4, conntrack conntrack.new, sg-egress sg.outside, sg-ingress sg.rule sgr-00000000000000a2"},
		{"by the prefix of the other provider", way{in: "uplink", packet: "2001:db8:1::9 2001:db8:4300:1::10 tcp/443"},
			ok + "vpc vpc.uplink, nacl-egress nacl.outside, nacl-ingress nacl.entry nae-00000000000000a4, conntrack conntrack.new, sg-egress sg.outside, sg-ingress sg.rule sgr-00000000000000a2"},
		{"from outside to a port that is not", way{in: "uplink", packet: "2001:db8:1::9 2001:db8:4200:2::10 tcp/22"},
			ok + "vpc vpc.uplink, nacl-egress nacl.outside, nacl-ingress nacl.none, conntrack conntrack.new, sg-egress sg.outside, DROP sg-ingress sg.default.advanced.ingress"},
		{"to an address behind an instance", way{in: "uplink", packet: "2001:db8:1::9 2001:db8:4200:1:5::9 tcp/443"},
			ok + "vpc vpc.uplink, nacl-egress nacl.outside, nacl-ingress nacl.entry nae-00000000000000a4, conntrack conntrack.new, sg-egress sg.outside, sg-ingress sg.rule sgr-00000000000000a2"},
		{"to an address that nobody has", way{in: "uplink", packet: "2001:db8:1::9 2001:db8:4200:1::99 tcp/443"},
			ok + "vpc vpc.uplink, nacl-egress nacl.outside, nacl-ingress nacl.entry nae-00000000000000a4, conntrack conntrack.new, sg-egress sg.outside, DROP sg-ingress unknown.address"},
		{"to a part of the prefix that is no vSwitch's", way{in: "uplink", packet: "2001:db8:1::9 2001:db8:4200:77::1 tcp/443"}, ok + "DROP vpc vpc.no-route"},
		{"to a gateway address", way{in: "uplink", packet: "2001:db8:1::9 2001:db8:4200:1:ffff:ffff:ffff:fff7 udp/53"}, ok + "vpc vpc.host, DROP host-access host.outside"},
		{"a reply", way{in: "uplink", packet: "2001:db8:1::9 2001:db8:4200:1::10 udp/4000", state: vpc.StateEstablished},
			ok + "vpc vpc.uplink, nacl-egress nacl.outside, nacl-ingress nacl.entry nae-00000000000000a4, conntrack conntrack.established"},
		{"what connection tracking cannot translate does not go back where it came from", way{in: "uplink", packet: "2001:db8:1::9 2001:db8:4200:1::10 tcp/443", state: vpc.StateInvalid},
			ok + "DROP vpc vpc.no-route"},
		{"in a frame for many", way{in: "uplink", packet: "2001:db8:1::9 2001:db8:4200:1::10 tcp/443", change: group}, "DROP anti-spoof spoof.frame"},
		{"an instance of ours, forged", way{in: "uplink", packet: "fd00:20:0:2::10 2001:db8:4200:1::10 tcp/443"}, "DROP anti-spoof spoof.outside"},
		{"from a link that is none of ours it is the host's to route", way{in: "foreign", packet: "2001:db8:7::9 2001:db8:4200:1::10 tcp/443"}, ok + "vpc vpc.not-ours"},
		{"from inside the VPC it goes out", way{in: "db", packet: "fd00:20:0:2::12 2001:db8:4200:1::10 tcp/9999"},
			ok + "vpc vpc.uplink, nacl-egress nacl.none, nacl-ingress nacl.outside, conntrack conntrack.new, sg-egress sg.default.basic.egress, sg-ingress sg.outside"},
		{"out", way{in: "web", packet: "fd00:20:0:1::10 2001:db8:1::9 tcp/443"},
			ok + "vpc vpc.uplink, nacl-egress nacl.entry nae-00000000000000b2, nacl-ingress nacl.outside, conntrack conntrack.new, sg-egress sg.default.basic.egress, sg-ingress sg.outside"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := tc.way.resolve(t, s)
			for who, v := range map[string]vpc.Verdict{"the rules": tracer.Trace(p, PathOf(s, p)), "the policy": vpc.Evaluate(s, p)} {
				got := stages(v)
				if before, after, drops := strings.Cut(got, "DROP "); drops {
					first, _, _ := strings.Cut(after, ", ")
					got = before + "DROP " + first
				}
				if got != tc.want {
					t.Errorf("%s say\n%s, want\n%s", who, got, tc.want)
				}
			}
		})
	}
}

func TestWithoutTheKernelsHelpNothingIsTranslatedInSilence(t *testing.T) {
	_, err := Compile(snapshot(translated()), bare())
	if err == nil || !strings.Contains(err.Error(), "VPC research: ipv6PrefixTranslations cannot be carried out: this kernel has no IPv6 target NETMAP") {
		t.Errorf("compiled, or refused for another reason: %v", err)
	}
	spec := translated()
	spec.VPCs[0].IPv6PrefixTranslations[0].Uplink, spec.VPCs[0].IPv6PrefixTranslations[1].Uplink = "gone0", "gone1"
	if got, want := compile(t, spec, bare()).Text(), compile(t, lab(), bare()).Text(); got != want {
		t.Errorf("by uplinks that the host does not have: %s", firstDifference(got, want))
	}
}
