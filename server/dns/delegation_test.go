package dns

import (
	"slices"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// delegating is the lab with a zone that delegates names to name servers inside, outside and unknown.
func delegating() *vpc.Spec {
	spec := lab()
	spec.VPCs[0].PrivateZones = append(spec.VPCs[0].PrivateZones, newZone("parent.example", vpc.MissingNXDOMAIN,
		"child NS ns1.child", "child NS web-1.research.internal.", "ns1.child A 10.20.9.53", "ns1.child AAAA fd00:20::9:53",
		"far NS ns.elsewhere.example.",
		"ours NS gatehouse.research.internal.",
		"asked NS ns1.child",
		"www A 10.20.9.80",
	))
	spec.VPCs[0].Forwarders = append(spec.VPCs[0].Forwarders, &vpc.ForwarderSpec{Zone: "asked.parent.example", Servers: []string{"192.0.2.9"}})
	return spec
}

func TestWhoIsAskedForADelegatedName(t *testing.T) {
	v := viewOf(t, snapshotOf(delegating()), "research")
	servers := "[10.20.9.53:53 [fd00:20::9:53]:53 10.20.1.10:53 [fd00:20:0:1::10]:53]"
	for _, tt := range []struct{ name, typ, want string }{
		{"child.parent.example.", "A", "delegation of child.parent.example. " + servers},
		{"child.parent.example.", "NS", "delegation of child.parent.example. " + servers},
		{"www.child.parent.example.", "A", "delegation of child.parent.example. " + servers},
		{"a.b.CHILD.parent.example.", "AAAA", "delegation of child.parent.example. " + servers},
		{"ns1.child.parent.example.", "A", "NOERROR"}, // its glue
		{"www.parent.example.", "A", "NOERROR"},
		{"nobody.parent.example.", "A", "NXDOMAIN"},
		{"far.parent.example.", "NS", "NOERROR"},
		{"www.far.parent.example.", "A", "NXDOMAIN"},
		{"www.ours.parent.example.", "A", "NXDOMAIN"},
		{"www.asked.parent.example.", "A", "forwarder asked.parent.example. [192.0.2.9:53]"},
	} {
		_, out := v.Answer(nil, parseQuery(t, question(tt.name, tt.typ)), plainSize)
		got := miekg.RcodeToString[out.Rcode]
		if out.Elsewhere {
			var addrs []string
			for _, e := range out.forwarder.servers {
				addrs = append(addrs, e.addr.String())
			}
			got = out.Source + " [" + strings.Join(addrs, " ") + "]"
		}
		if got != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.name, tt.typ, got, tt.want)
		}
	}
	var findings []string
	for _, f := range v.Findings() {
		if strings.Contains(f.Message, "delegated") {
			findings = append(findings, f.Name)
		}
	}
	if want := []string{"far.parent.example.", "ours.parent.example."}; !slices.Equal(findings, want) {
		t.Errorf("nobody can be asked for %q, want %q", findings, want)
	}
	var listed int
	for _, r := range Records(v) {
		if r.Zone == "parent.example." && r.Type == "NS" && r.Name != r.Zone {
			listed++
		}
	}
	if listed != 5 {
		t.Errorf("%d NS records are listed, want 5", listed)
	}
}

func TestADelegatedNameIsAskedOfItsServersOrReferred(t *testing.T) {
	child := newFake(t, "127.0.0.1", says(t, "@ 100 IN A 10.20.9.77"))
	s := asking(t, nil, delegating())
	v := s.View("vpc-a")
	v.forwarders["\x05child\x06parent\x07example\x00"].servers = []endpoint{{addr: child.addr}} // its port is not 53

	m := askServer(t, s, "vpc-a", question("www.child.parent.example.", "A"))
	if got := section(m.Answer); !slices.Equal(got, []string{"www.child.parent.example. 100 IN A 10.20.9.77"}) || m.Authoritative {
		t.Errorf("with recursion: %q", got)
	}
	referral := question("www.child.parent.example.", "A")
	referral.RecursionDesired = false
	m = askServer(t, s, "vpc-a", referral)
	ns := []string{"child.parent.example. 60 IN NS ns1.child.parent.example.", "child.parent.example. 60 IN NS web-1.research.internal."}
	glue := []string{"ns1.child.parent.example. 60 IN A 10.20.9.53", "ns1.child.parent.example. 60 IN AAAA fd00:20::9:53",
		"web-1.research.internal. 60 IN A 10.20.1.10", "web-1.research.internal. 60 IN AAAA fd00:20:0:1::10"}
	if m.Rcode != 0 || m.Authoritative || len(m.Answer) != 0 || !slices.Equal(section(m.Ns), ns) || !slices.Equal(section(m.Extra), glue) {
		t.Errorf("without recursion: %v", m)
	}
	// What does not fit is left out: first the glue, then everything.
	q := parseQuery(t, referral)
	f := v.forwarders["\x05child\x06parent\x07example\x00"]
	for _, tt := range []struct {
		limit  int
		glue   int
		whole  bool
		octets int
	}{{plainSize, 4, true, 0}, {160, 1, true, 0}, {100, 0, false, 0}} {
		wire := v.appendReferral(nil, q, f, tt.limit)
		m := unpack(t, wire)
		if len(wire) > tt.limit || m.Truncated == tt.whole || len(m.Extra) != tt.glue {
			t.Errorf("in %d octets: %d, %v", tt.limit, len(wire), m)
		}
	}
	// Another VPC has no such zone.
	if _, out := s.View("vpc-b").Answer(nil, parseQuery(t, question("www.child.parent.example.", "A")), plainSize); out.forwarder != nil {
		t.Errorf("another VPC asks %v", out.forwarder.servers)
	}
}

// A delegation to a gateway address becomes one as soon as the gateway has it no more, and the other way round.
func TestADelegationFollowsWhatIsOurs(t *testing.T) {
	spec := delegating()
	spec.VPCs[0].Forwarders = nil
	spec.VPCs[0].PrivateZones = append(spec.VPCs[0].PrivateZones, newZone("other.example", vpc.MissingNXDOMAIN, "sub NS ns.sub", "ns.sub A 10.30.8.253"))
	s := asking(t, nil, spec)
	delegated := func() bool { return s.View("vpc-a").forwarders["\x03sub\x05other\x07example\x00"] != nil }
	if !delegated() {
		t.Error("not delegated")
	}
	// Another VPC gets a gateway of that address: it would be us who were asked.
	next, other := *spec, *spec.VPCs[1]
	other.VSwitches = append(slices.Clone(other.VSwitches), newVSwitch("new", "vsw-0000000000000008", "10.30.8.0/24", ""))
	next.VPCs = []*vpc.VPCSpec{spec.VPCs[0], &other, spec.VPCs[2]}
	s.SetSnapshot(vpc.NewSnapshot(&next, vpc.Host{Region: "lab-1"}, 43))
	if delegated() {
		t.Error("delegated to ourselves")
	}
	s.SetSnapshot(vpc.NewSnapshot(spec, vpc.Host{Region: "lab-1"}, 44))
	if !delegated() {
		t.Error("not delegated again")
	}
}
