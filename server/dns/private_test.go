package dns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// What one VPC knows no other one learns, whatever zones, upstreams and caches have in common.
func TestNothingPassesFromOneVPCToAnother(t *testing.T) {
	world := newFake(t, "127.0.0.1", func(q *miekg.Msg, tcp bool) []*miekg.Msg {
		name := strings.ToLower(q.Question[0].Name)
		switch {
		case name == "alias.example.org.": // somebody outside who would like to see inside
			return says(t, "@ 100 IN CNAME web-1.research.internal.")(q, tcp)
		case strings.HasSuffix(name, ".example.org."):
			return says(t, "@ 100 IN A 192.0.2.2")(q, tcp)
		}
		return fails(miekg.RcodeNameError)(q, tcp)
	})
	partner := newFake(t, "127.0.0.1", says(t, "@ 100 IN A 192.0.2.1"))
	spec := lab()
	research := spec.VPCs[0]
	research.Forwarders = []*vpc.ForwarderSpec{{Zone: "partner.example", Servers: []string{partner.addr.String()}}}
	research.PrivateZones = append(research.PrivateZones, newZone("way.example", vpc.MissingNXDOMAIN,
		"shared CNAME both.shared.example.", "outside CNAME alias.example.org.", "other CNAME ip-10-30-1-10.research.internal."))
	s := asking(t, nil, spec, world)
	for _, tt := range []struct {
		what, vpc, name, typ string
		rcode                int
		answer               []string
	}{
		{"a name that both have", "vpc-a", "web-1.research.internal.", "A", miekg.RcodeSuccess, []string{"web-1.research.internal. 60 IN A 10.20.1.10"}},
		{"the same name", "vpc-b", "web-1.research.internal.", "A", miekg.RcodeSuccess, []string{"web-1.research.internal. 60 IN A 10.30.1.10"}},
		{"a name that only the other has", "vpc-b", "db.prod.research.internal.", "A", miekg.RcodeNameError, nil},
		{"a zone that only others have", "vpc-a", "both.shared.example.", "A", miekg.RcodeNameError, nil},
		{"an alias to it", "vpc-a", "shared.way.example.", "A", miekg.RcodeNameError, []string{"shared.way.example. 60 IN CNAME both.shared.example."}},
		{"an alias to a name of the other", "vpc-a", "other.way.example.", "A", miekg.RcodeNameError, []string{"other.way.example. 60 IN CNAME ip-10-30-1-10.research.internal."}},
		{"the other's address", "vpc-a", "10.1.30.10.in-addr.arpa.", "PTR", miekg.RcodeNameError, nil},
		{"the other's IPv6 address", "vpc-a", reverseName(netip.MustParseAddr("fd00:30::10")).String(), "PTR", miekg.RcodeNameError, nil},
		{"what a forwarder says", "vpc-a", "www.partner.example.", "A", miekg.RcodeSuccess, []string{"www.partner.example. 100 IN A 192.0.2.1"}},
		{"what the other's forwarder has said", "vpc-b", "www.partner.example.", "A", miekg.RcodeNameError, nil},
		{"what a forwarder says, again", "vpc-a", "www.partner.example.", "A", miekg.RcodeSuccess, []string{"www.partner.example. 100 IN A 192.0.2.1"}},
		{"an outside alias to a name inside", "vpc-a", "alias.example.org.", "A", miekg.RcodeSuccess, []string{"alias.example.org. 100 IN CNAME web-1.research.internal."}},
		{"the same by an alias of ours", "vpc-a", "outside.way.example.", "A", miekg.RcodeSuccess,
			[]string{"outside.way.example. 60 IN CNAME alias.example.org.", "alias.example.org. 100 IN CNAME web-1.research.internal."}},
		{"the same from the other", "vpc-b", "alias.example.org.", "A", miekg.RcodeSuccess, []string{"alias.example.org. 100 IN CNAME web-1.research.internal."}},
	} {
		m := askServer(t, s, tt.vpc, question(tt.name, tt.typ))
		if got := section(m.Answer); m.Rcode != tt.rcode || !slices.Equal(got, tt.answer) {
			t.Errorf("%s: %s %q, want %s %q", tt.what, miekg.RcodeToString[m.Rcode], got, miekg.RcodeToString[tt.rcode], tt.answer)
		}
	}
	for _, q := range world.questions() {
		if name := strings.ToLower(q.Question[0].Name); strings.HasSuffix(name, ".research.internal.") || strings.HasSuffix(name, ".arpa.") {
			t.Errorf("%s has been asked outside", name)
		}
	}
}
