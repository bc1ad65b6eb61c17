package dns

import (
	"slices"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// soaOf returns the SOA record that a zone's negative answers carry.
func soaOf(zone string) string {
	return zone + " 60 IN SOA gatehouse.research.internal. hostmaster.research.internal. 42 3600 600 86400 60"
}

func TestAnswersOfAView(t *testing.T) {
	const forwarded = "forwarded"
	tests := []struct {
		what      string
		view      string // default: research
		name, typ string
		rcode     string // default: NOERROR; or forwarded
		answer    []string
		authority []string
		source    string
	}{
		{what: "an instance has its IPv4 address", name: "web-1.research.internal.", typ: "A",
			answer: []string{"web-1.research.internal. 60 IN A 10.20.1.10"}, source: "instance web-1"},
		{what: "an instance has its IPv6 address", name: "web-1.research.internal.", typ: "AAAA",
			answer: []string{"web-1.research.internal. 60 IN AAAA fd00:20:0:1::10"}, source: "instance web-1"},
		{what: "an instance has a name made of its ID", name: "i-aaaa000000000001.research.internal.", typ: "A",
			answer: []string{"i-aaaa000000000001.research.internal. 60 IN A 10.20.1.10"}, source: "instance web-1"},
		{what: "the ID's name has the IPv6 address too", name: "i-aaaa000000000001.research.internal.", typ: "AAAA",
			answer: []string{"i-aaaa000000000001.research.internal. 60 IN AAAA fd00:20:0:1::10"}},
		{what: "an instance has a name made of its address", name: "ip-10-20-1-10.research.internal.", typ: "A",
			answer: []string{"ip-10-20-1-10.research.internal. 60 IN A 10.20.1.10"}},
		{what: "the address's name has no IPv6 address", name: "ip-10-20-1-10.research.internal.", typ: "AAAA",
			authority: []string{soaOf("research.internal.")}},
		{what: "a secondary address has no name", name: "ip-10-20-1-110.research.internal.", typ: "A",
			rcode: "NXDOMAIN", authority: []string{soaOf("research.internal.")}},
		{what: "a secondary address has no reverse name", name: "110.1.20.10.in-addr.arpa.", typ: "PTR",
			rcode: "NXDOMAIN", authority: []string{soaOf("20.10.in-addr.arpa.")}},
		{what: "an IPv4 address leads to its own name", name: "10.1.20.10.in-addr.arpa.", typ: "PTR",
			answer: []string{"10.1.20.10.in-addr.arpa. 60 IN PTR ip-10-20-1-10.research.internal."}},
		{what: "an IPv6 address leads to the instance", name: "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa.", typ: "PTR",
			answer: []string{"0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa. 60 IN PTR web-1.research.internal."}},
		{what: "an IPv6 address of nobody has no name", name: "f.f.f.f.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa.", typ: "PTR",
			rcode: "NXDOMAIN", authority: []string{soaOf("0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa.")}},
		{what: "a name between an address and its zone exists", name: "1.20.10.in-addr.arpa.", typ: "PTR",
			authority: []string{soaOf("20.10.in-addr.arpa.")}},
		{what: "an instance without IPv6 has no AAAA", name: "v4only.research.internal.", typ: "AAAA",
			authority: []string{soaOf("research.internal.")}},
		{what: "the question's case comes back", name: "WeB-1.Research.INTERNAL.", typ: "A",
			answer: []string{"WeB-1.Research.INTERNAL. 60 IN A 10.20.1.10"}},
		{what: "an instance's name has no case", name: "mixed-case.research.internal.", typ: "A",
			answer: []string{"mixed-case.research.internal. 60 IN A 10.20.1.13"}},
		{what: "an instance's name may have dots", name: "db.prod.research.internal.", typ: "A",
			answer: []string{"db.prod.research.internal. 60 IN A 10.20.1.11"}},
		{what: "the name above a dotted name exists", name: "prod.research.internal.", typ: "A",
			authority: []string{soaOf("research.internal.")}},
		{what: "a name that nobody has does not exist", name: "nobody.research.internal.", typ: "A",
			rcode: "NXDOMAIN", authority: []string{soaOf("research.internal.")}},
		{what: "a name below an instance does not exist", name: "x.web-1.research.internal.", typ: "A",
			rcode: "NXDOMAIN", authority: []string{soaOf("research.internal.")}},
		{what: "the switches of an instance leave it its host name", name: "quiet.research.internal.", typ: "A",
			answer: []string{"quiet.research.internal. 60 IN A 10.20.1.14"}},
		{what: "idARecord and idAAAARecord off: no name from the ID", name: "i-aaaa000000000005.research.internal.", typ: "A",
			rcode: "NXDOMAIN", authority: []string{soaOf("research.internal.")}},
		{what: "ipARecord off: no name from the address", name: "ip-10-20-1-14.research.internal.", typ: "A",
			rcode: "NXDOMAIN", authority: []string{soaOf("research.internal.")}},
		{what: "ipPtrRecord off: no reverse name", name: "14.1.20.10.in-addr.arpa.", typ: "PTR",
			rcode: "NXDOMAIN", authority: []string{soaOf("20.10.in-addr.arpa.")}},
		{what: "the domain has a SOA", name: "research.internal.", typ: "SOA",
			answer: []string{soaOf("research.internal.")}},
		{what: "the domain has a name server", name: "research.internal.", typ: "NS",
			answer: []string{"research.internal. 60 IN NS gatehouse.research.internal."}},
		{what: "the name server has the gateway's address", name: "gatehouse.research.internal.", typ: "A",
			answer: []string{"gatehouse.research.internal. 60 IN A 10.20.1.253"}},
		{what: "the name server has the gateway's IPv6 address", name: "gatehouse.research.internal.", typ: "AAAA",
			answer: []string{"gatehouse.research.internal. 60 IN AAAA fd00:20:0:1:ffff:ffff:ffff:fff7"}},
		{what: "the domain itself has no address", name: "research.internal.", typ: "A",
			authority: []string{soaOf("research.internal.")}},
		{what: "ANY is answered by a pointer to RFC 8482", name: "web-1.research.internal.", typ: "ANY",
			answer: []string{`web-1.research.internal. 60 IN HINFO "RFC8482" ""`}},
		{what: "ANY of no name is no name", name: "nobody.research.internal.", typ: "ANY",
			rcode: "NXDOMAIN", authority: []string{soaOf("research.internal.")}},

		{what: "a CNAME leads from a private zone to an instance", name: "git.corp.example.", typ: "A",
			answer: []string{"git.corp.example. 60 IN CNAME web-1.research.internal.", "web-1.research.internal. 60 IN A 10.20.1.10"}, source: "zone corp.example"},
		{what: "two CNAMEs lead to an instance", name: "www.corp.example.", typ: "AAAA",
			answer: []string{"www.corp.example. 60 IN CNAME git.corp.example.", "git.corp.example. 60 IN CNAME web-1.research.internal.", "web-1.research.internal. 60 IN AAAA fd00:20:0:1::10"}},
		{what: "a CNAME itself can be asked for", name: "git.corp.example.", typ: "CNAME",
			answer: []string{"git.corp.example. 60 IN CNAME web-1.research.internal."}},
		{what: "a CNAME to a name without the type has no data", name: "git.corp.example.", typ: "MX",
			answer: []string{"git.corp.example. 60 IN CNAME web-1.research.internal."}, authority: []string{soaOf("research.internal.")}},
		{what: "a CNAME to nothing says so", name: "gone.corp.example.", typ: "A", rcode: "NXDOMAIN",
			answer: []string{"gone.corp.example. 60 IN CNAME nowhere.research.internal."}, authority: []string{soaOf("research.internal.")}},
		{what: "a CNAME to itself stops", name: "self.corp.example.", typ: "A",
			answer: []string{"self.corp.example. 60 IN CNAME self.corp.example."}},
		{what: "a ring of CNAMEs stops", name: "loop1.corp.example.", typ: "A",
			answer: []string{"loop1.corp.example. 60 IN CNAME loop2.corp.example.", "loop2.corp.example. 60 IN CNAME loop1.corp.example."}},
		{what: "a CNAME that leads outside is followed outside", name: "out.corp.example.", typ: "A", rcode: forwarded,
			answer: []string{"out.corp.example. 60 IN CNAME www.example.org."}, source: "zone corp.example"},
		{what: "a relative value is completed with the zone", name: "corp.example.", typ: "MX",
			answer: []string{"corp.example. 60 IN MX 10 mail.corp.example."}},
		{what: "a service record", name: "_sip._tcp.corp.example.", typ: "SRV",
			answer: []string{"_sip._tcp.corp.example. 60 IN SRV 10 20 5060 mail.corp.example."}},
		{what: "an unquoted text is one text", name: "txt.corp.example.", typ: "TXT",
			answer: []string{`txt.corp.example. 60 IN TXT "v=spf1 include:example.org; -all"`}},
		{what: "a quoted text is as it is quoted", name: "quoted.corp.example.", typ: "TXT",
			answer: []string{`quoted.corp.example. 60 IN TXT "one" "two"`}},
		{what: "a set has all its records", name: "two.corp.example.", typ: "A",
			answer: []string{"two.corp.example. 60 IN A 10.20.9.4", "two.corp.example. 60 IN A 10.20.9.5"}},
		{what: "an IPv6 record of a private zone", name: "two.corp.example.", typ: "AAAA",
			answer: []string{"two.corp.example. 60 IN AAAA fd00:20::9:4"}},
		{what: "any type of record", name: "caa.corp.example.", typ: "CAA",
			answer: []string{`caa.corp.example. 60 IN CAA 0 issue "ca.example"`}},
		{what: "a star stands for one label", name: "x.wild.corp.example.", typ: "A",
			answer: []string{"x.wild.corp.example. 60 IN A 10.20.9.1"}},
		{what: "a star stands for several labels", name: "y.x.wild.corp.example.", typ: "A",
			answer: []string{"y.x.wild.corp.example. 60 IN A 10.20.9.1"}},
		{what: "a star gives way to a name that exists", name: "host.wild.corp.example.", typ: "A",
			answer: []string{"host.wild.corp.example. 60 IN A 10.20.9.2"}},
		{what: "a star does not fill in a type", name: "host.wild.corp.example.", typ: "TXT",
			authority: []string{soaOf("corp.example.")}},
		{what: "a star does not reach below a name that exists", name: "x.host.wild.corp.example.", typ: "A",
			rcode: "NXDOMAIN", authority: []string{soaOf("corp.example.")}},
		{what: "a star without the type has no data", name: "x.wild.corp.example.", typ: "MX",
			authority: []string{soaOf("corp.example.")}},
		{what: "the star itself is a name", name: "*.wild.corp.example.", typ: "A",
			answer: []string{"*.wild.corp.example. 60 IN A 10.20.9.1"}},
		{what: "a name below a star is a name", name: "sub.*.wild.corp.example.", typ: "TXT",
			answer: []string{`sub.*.wild.corp.example. 60 IN TXT "below a star"`}},
		{what: "a star below a star is none", name: "ghost.*.wild.corp.example.", typ: "A",
			rcode: "NXDOMAIN", authority: []string{soaOf("corp.example.")}},
		{what: "the name above the star exists", name: "wild.corp.example.", typ: "A",
			authority: []string{soaOf("corp.example.")}},
		{what: "an empty name between others exists", name: "b.ent.corp.example.", typ: "A",
			authority: []string{soaOf("corp.example.")}},
		{what: "beside an empty name there is nothing", name: "c.ent.corp.example.", typ: "A",
			rcode: "NXDOMAIN", authority: []string{soaOf("corp.example.")}},
		{what: "the deeper zone answers", name: "x.deep.corp.example.", typ: "A",
			answer: []string{"x.deep.corp.example. 60 IN A 10.20.9.20"}},
		{what: "the deeper zone answers for what it does not have", name: "y.deep.corp.example.", typ: "A",
			rcode: "NXDOMAIN", authority: []string{soaOf("deep.corp.example.")}},
		{what: "a private reverse zone above the generated one", name: "1.0.99.10.in-addr.arpa.", typ: "PTR",
			answer: []string{"1.0.99.10.in-addr.arpa. 60 IN PTR far.corp.example."}},

		{what: "missing: forward answers what it has", name: "inside.mixed.example.", typ: "A",
			answer: []string{"inside.mixed.example. 60 IN A 10.20.9.30"}},
		{what: "missing: forward has no data for a name that it has", name: "inside.mixed.example.", typ: "AAAA",
			authority: []string{soaOf("mixed.example.")}},
		{what: "missing: forward asks for the rest", name: "outside.mixed.example.", typ: "A", rcode: forwarded, source: "upstream"},
		{what: "missing: forward asks for its own name", name: "mixed.example.", typ: "A", rcode: forwarded},
		{what: "missing: forward asks for empty names", name: "ent.mixed.example.", typ: "A", rcode: forwarded},
		{what: "missing: forward has stars", name: "x.star.mixed.example.", typ: "A",
			answer: []string{"x.star.mixed.example. 60 IN A 10.20.9.31"}},

		{what: "a forwarder's zone is asked there", name: "www.partner.example.", typ: "A", rcode: forwarded, source: "forwarder partner.example."},
		{what: "the forwarder's zone itself is asked there", name: "PARTNER.example.", typ: "MX", rcode: forwarded, source: "forwarder partner.example."},
		{what: "a forwarder below a private zone is deeper", name: "x.lab.corp.example.", typ: "A", rcode: forwarded, source: "forwarder lab.corp.example."},
		{what: "a forwarder for a reserved zone is asked", name: "1.0.168.192.in-addr.arpa.", typ: "PTR", rcode: forwarded, source: "forwarder 168.192.in-addr.arpa."},
		{what: "any other name is asked upstream", name: "www.example.org.", typ: "A", rcode: forwarded, source: "upstream"},
		{what: "the root is asked upstream", name: ".", typ: "NS", rcode: forwarded, source: "upstream"},

		{what: "localhost is here", name: "localhost.", typ: "A", answer: []string{"localhost. 60 IN A 127.0.0.1"}, source: "reserved name"},
		{what: "localhost is here in IPv6", name: "localhost.", typ: "AAAA", answer: []string{"localhost. 60 IN AAAA ::1"}},
		{what: "everything below localhost is here", name: "app.localhost.", typ: "A", answer: []string{"app.localhost. 60 IN A 127.0.0.1"}},
		{what: "invalid is never asked", name: "x.invalid.", typ: "A", rcode: "NXDOMAIN",
			authority: []string{"invalid. 60 IN SOA invalid. nobody.invalid. 1 3600 600 86400 60"}, source: "reserved name"},
		{what: "onion is never asked", name: "x.onion.", typ: "AAAA", rcode: "NXDOMAIN",
			authority: []string{"onion. 60 IN SOA onion. nobody.invalid. 1 3600 600 86400 60"}},
		{what: "multicast names are never asked", name: "printer.local.", typ: "A", rcode: "NXDOMAIN",
			authority: []string{"local. 60 IN SOA local. nobody.invalid. 1 3600 600 86400 60"}},
		{what: "private reverse names are never asked", name: "1.0.16.172.in-addr.arpa.", typ: "PTR", rcode: "NXDOMAIN",
			authority: []string{"16.172.in-addr.arpa. 60 IN SOA 16.172.in-addr.arpa. nobody.invalid. 1 3600 600 86400 60"}},
		{what: "private IPv6 reverse names are never asked", name: "1.0.0.0.d.f.ip6.arpa.", typ: "PTR", rcode: "NXDOMAIN",
			authority: []string{"d.f.ip6.arpa. 60 IN SOA d.f.ip6.arpa. nobody.invalid. 1 3600 600 86400 60"}},
		{what: "public reverse names are asked", name: "8.8.8.8.in-addr.arpa.", typ: "PTR", rcode: forwarded},

		{what: "the same name in another VPC is another instance", view: "other", name: "web-1.research.internal.", typ: "A",
			answer: []string{"web-1.research.internal. 60 IN A 10.30.1.10"}},
		{what: "another VPC's instance has no name here", view: "other", name: "i-aaaa000000000001.research.internal.", typ: "A",
			rcode: "NXDOMAIN", authority: []string{soaOf("research.internal.")}},
		{what: "another VPC's private zone is not here", view: "other", name: "git.corp.example.", typ: "A", rcode: forwarded},
		{what: "another VPC's forwarder is not here", view: "other", name: "www.partner.example.", typ: "A", rcode: forwarded, source: "upstream"},
		{what: "another VPC's addresses have no names here", view: "other", name: "10.1.20.10.in-addr.arpa.", typ: "PTR", rcode: "NXDOMAIN",
			authority: []string{"10.in-addr.arpa. 60 IN SOA 10.in-addr.arpa. nobody.invalid. 1 3600 600 86400 60"}},
		{what: "a range that is no whole octet is several zones", view: "other", name: "15.30.10.in-addr.arpa.", typ: "SOA",
			answer: []string{soaOf("15.30.10.in-addr.arpa.")}},
		{what: "the zones end where the range does", view: "other", name: "16.30.10.in-addr.arpa.", typ: "SOA", rcode: "NXDOMAIN",
			authority: []string{"10.in-addr.arpa. 60 IN SOA 10.in-addr.arpa. nobody.invalid. 1 3600 600 86400 60"}},
		{what: "a shared zone is in the VPCs that share it", view: "other", name: "both.shared.example.", typ: "A",
			answer: []string{"both.shared.example. 60 IN A 10.20.9.99"}, source: "zone shared.example"},
		{what: "a shared zone is not elsewhere", name: "both.shared.example.", typ: "A", rcode: forwarded},

		{what: "without host names an instance has none", view: "silent", name: "web-1.lab-1.ecs.internal.", typ: "A", rcode: "NXDOMAIN",
			authority: []string{"lab-1.ecs.internal. 60 IN SOA gatehouse.lab-1.ecs.internal. hostmaster.lab-1.ecs.internal. 42 3600 600 86400 60"}},
		{what: "without host names an address has no name", view: "silent", name: "10.1.40.10.in-addr.arpa.", typ: "PTR", rcode: "NXDOMAIN",
			authority: []string{"40.10.in-addr.arpa. 60 IN SOA gatehouse.lab-1.ecs.internal. hostmaster.lab-1.ecs.internal. 42 3600 600 86400 60"}},
		{what: "without host names private zones stay", view: "silent", name: "both.shared.example.", typ: "A",
			answer: []string{"both.shared.example. 60 IN A 10.20.9.99"}},
	}
	s := snapshotOf(lab())
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			if tt.view == "" {
				tt.view = "research"
			}
			q := parseQuery(t, question(tt.name, tt.typ))
			wire, out := viewOf(t, s, tt.view).Answer(nil, q, q.limit(true))
			m := unpack(t, wire)
			rcode := miekg.RcodeToString[m.Rcode]
			if out.Elsewhere {
				rcode = forwarded
			}
			if tt.rcode == "" {
				tt.rcode = "NOERROR"
			}
			if rcode != tt.rcode {
				t.Errorf("rcode %s, want %s", rcode, tt.rcode)
			}
			if got := section(m.Answer); !slices.Equal(got, tt.answer) {
				t.Errorf("answer\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.answer, "\n"))
			}
			if got := section(m.Ns); !slices.Equal(got, tt.authority) {
				t.Errorf("authority\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.authority, "\n"))
			}
			if tt.source != "" && out.Source != tt.source {
				t.Errorf("source %q, want %q", out.Source, tt.source)
			}
			if m.Question[0].Name != tt.name {
				t.Errorf("question %s, want %s", m.Question[0].Name, tt.name)
			}
			if !out.Elsewhere && !m.Authoritative || !m.Response || !m.RecursionAvailable || !m.RecursionDesired {
				t.Errorf("header %+v", m.MsgHdr)
			}
		})
	}
}

func TestAChainThatIsTooLongFails(t *testing.T) {
	spec := lab()
	var records []string
	for c := 'a'; c < 'z'; c++ {
		records = append(records, string(c)+" CNAME "+string(c+1))
	}
	spec.VPCs[0].PrivateZones = append(spec.VPCs[0].PrivateZones, newZone("chain.example", vpc.MissingNXDOMAIN, records...))
	q := parseQuery(t, question("a.chain.example.", "A"))
	wire, out := viewOf(t, snapshotOf(spec), "research").Answer(nil, q, q.limit(true))
	m := unpack(t, wire)
	if m.Rcode != miekg.RcodeServerFailure || out.Rcode != miekg.RcodeServerFailure || len(m.Answer) != maxChain {
		t.Fatalf("%v", m)
	}
}

func TestANameFollowsItsAddress(t *testing.T) {
	before := lab()
	after := lab()
	after.VPCs[0].Instances[0] = newInstance("web-1", "i-aaaa000000000001", "web", "10.20.1.77", "fd00:20:0:1::77")
	tests := []struct{ name, typ, before, after string }{
		{"web-1.research.internal.", "A", "10.20.1.10", "10.20.1.77"},
		{"web-1.research.internal.", "AAAA", "fd00:20:0:1::10", "fd00:20:0:1::77"},
		{"i-aaaa000000000001.research.internal.", "A", "10.20.1.10", "10.20.1.77"},
		{"i-aaaa000000000001.research.internal.", "AAAA", "fd00:20:0:1::10", "fd00:20:0:1::77"},
		{"ip-10-20-1-10.research.internal.", "A", "10.20.1.10", ""},
		{"ip-10-20-1-77.research.internal.", "A", "", "10.20.1.77"},
		{"77.1.20.10.in-addr.arpa.", "PTR", "", "ip-10-20-1-77.research.internal."},
		{"10.1.20.10.in-addr.arpa.", "PTR", "ip-10-20-1-10.research.internal.", ""},
		{"git.corp.example.", "A", "10.20.1.10", "10.20.1.77"},
	}
	value := func(spec *vpc.Spec, name, typ string) string {
		q := parseQuery(t, question(name, typ))
		wire, _ := viewOf(t, snapshotOf(spec), "research").Answer(nil, q, q.limit(true))
		m := unpack(t, wire)
		if len(m.Answer) == 0 {
			return ""
		}
		rr := m.Answer[len(m.Answer)-1]
		return strings.TrimPrefix(rr.String(), rr.Header().String())
	}
	for _, tt := range tests {
		if got := value(before, tt.name, tt.typ); got != tt.before {
			t.Errorf("before: %s %s is %q, want %q", tt.name, tt.typ, got, tt.before)
		}
		if got := value(after, tt.name, tt.typ); got != tt.after {
			t.Errorf("after: %s %s is %q, want %q", tt.name, tt.typ, got, tt.after)
		}
	}
}

func TestAWeightedSetAnswersWithOneRecordByWeight(t *testing.T) {
	spec := lab()
	z := newZone("weights.example", vpc.MissingNXDOMAIN, "w A 10.20.9.1", "w A 10.20.9.2", "w AAAA fd00:20::1", "w AAAA fd00:20::2")
	for i, r := range z.Records {
		r.Weight = []int{1, 3}[i%2]
	}
	spec.VPCs[0].PrivateZones = append(spec.VPCs[0].PrivateZones, z)
	v := viewOf(t, snapshotOf(spec), "research")
	for _, typ := range []string{"A", "AAAA"} {
		seen := map[string]int{}
		q := parseQuery(t, question("w.weights.example.", typ))
		for draw := range uint32(400) {
			q.Draw = draw
			wire, _ := v.Answer(nil, q, q.limit(false))
			m := unpack(t, wire)
			if len(m.Answer) != 1 {
				t.Fatalf("%d records, want 1", len(m.Answer))
			}
			seen[m.Answer[0].String()]++
		}
		if len(seen) != 2 {
			t.Fatalf("%s: %v", typ, seen)
		}
		for rr, n := range seen {
			if want := map[bool]int{true: 300, false: 100}[strings.HasSuffix(rr, "2")]; n != want {
				t.Errorf("%s came %d times, want %d", rr, n, want)
			}
		}
	}
}

func TestAnAnswerThatDoesNotFitIsTruncated(t *testing.T) {
	spec := lab()
	z := newZone("big.example", vpc.MissingNXDOMAIN, "t TXT "+strings.Repeat("x", 900), "huge TXT "+strings.Repeat("y", 3000))
	spec.VPCs[0].PrivateZones = append(spec.VPCs[0].PrivateZones, z)
	v := viewOf(t, snapshotOf(spec), "research")
	tests := []struct {
		what      string
		name      string
		edns      int
		tcp       bool
		truncated bool
	}{
		{"512 octets without EDNS", "t.big.example.", 0, false, true},
		{"as much as the client takes", "t.big.example.", 1000, false, false},
		{"a client that takes less than 512 takes 512", "t.big.example.", 100, false, true},
		{"the client takes too little", "t.big.example.", 800, false, true},
		{"never more than a path surely carries", "huge.big.example.", 4096, false, true},
		{"everything fits a stream", "huge.big.example.", 0, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			msg := question(tt.name, "TXT")
			if tt.edns > 0 {
				msg.SetEdns0(uint16(tt.edns), true)
			}
			q := parseQuery(t, msg)
			limit := q.limit(tt.tcp)
			wire, out := v.Answer(nil, q, limit)
			m := unpack(t, wire)
			if m.Truncated != tt.truncated || out.Truncated != tt.truncated || len(wire) > limit || (len(m.Answer) == 0) != tt.truncated {
				t.Errorf("truncated %v, %d octets of %d, %d answers", m.Truncated, len(wire), limit, len(m.Answer))
			}
			if (m.IsEdns0() != nil) != (tt.edns > 0) {
				t.Errorf("OPT %v", m.IsEdns0())
			}
			if o := m.IsEdns0(); o != nil && (!o.Do() || o.UDPSize() != ednsSize || o.Version() != 0) {
				t.Errorf("OPT %v", o)
			}
		})
	}
}

func TestClaimsToOneName(t *testing.T) {
	spec := lab()
	v := spec.VPCs[0]
	v.PrivateZones = append(v.PrivateZones,
		newZone("research.internal", vpc.MissingForward, "fixed A 10.20.9.50", "@ TXT hello", "bad A nonsense", "x CNAME web-1", "x A 10.20.9.51"),
		newZone("hidden.research.internal", vpc.MissingNXDOMAIN),
	)
	enrolled := newInstance("WEB-1", "i-0000000000000000", "web", "10.20.1.60", "fd00:20:0:1::60")
	enrolled.Enrolled = true
	posing := newInstance("ip-10-20-1-10", "i-0000000000000001", "web", "10.20.1.61", "")
	v.Instances = append(v.Instances, enrolled, posing,
		newInstance("fixed", "i-0000000000000002", "web", "10.20.1.62", ""),
		newInstance("a.hidden", "i-0000000000000003", "web", "10.20.1.63", ""),
		newInstance("gatehouse", "i-0000000000000004", "web", "10.20.1.64", ""),
		newInstance("bad..name", "i-0000000000000005", "web", "10.20.1.65", ""),
		newInstance("i-0000000000000006", "i-0000000000000006", "web", "10.20.1.66", "fd00:20:0:1::66"),
	)
	v.Forwarders = append(v.Forwarders, &vpc.ForwarderSpec{Zone: "self.example", Servers: []string{"10.20.1.253", "fd00:30::ffff:ffff:ffff:fff7", "nonsense"}})
	view := viewOf(t, snapshotOf(spec), "research")
	answers := []struct{ name, typ, want string }{
		{"web-1.research.internal.", "A", "10.20.1.10"},         // declared before enrolled
		{"ip-10-20-1-10.research.internal.", "A", "10.20.1.10"}, // an address's name before a host name
		{"fixed.research.internal.", "A", "10.20.9.50"},         // a private record before an instance
		{"gatehouse.research.internal.", "A", "10.20.1.64"},     // an instance before the gateway
		{"research.internal.", "TXT", `"hello"`},
		{"i-0000000000000006.research.internal.", "A", "10.20.1.66"},
		{"x.research.internal.", "CNAME", "web-1.research.internal."},
	}
	for _, tt := range answers {
		q := parseQuery(t, question(tt.name, tt.typ))
		wire, _ := view.Answer(nil, q, q.limit(true))
		m := unpack(t, wire)
		if len(m.Answer) != 1 || !strings.HasSuffix(m.Answer[0].String(), "\t"+tt.want) {
			t.Errorf("%s %s: %v, want %s", tt.name, tt.typ, m.Answer, tt.want)
		}
	}
	q := parseQuery(t, question("nobody.research.internal.", "A"))
	if _, out := view.Answer(nil, q, q.limit(true)); out.Elsewhere || out.Rcode != miekg.RcodeNameError {
		t.Errorf("a name of the VPC's domain is asked outside: %+v", out)
	}
	var got []string
	for _, f := range view.Findings() {
		got = append(got, f.Name+" "+f.Message)
	}
	want := []string{
		`a.hidden.research.internal. the name of instance a.hidden is hidden by zone hidden.research.internal`,
		`bad..name. instance i-0000000000000005 has no name: "bad..name" is not a domain name`,
		`fixed.research.internal. the name of instance fixed is taken by zone research.internal`,
		`gatehouse.research.internal. the gateway's own name is taken by instance gatehouse`,
		`ip-10-20-1-10.research.internal. the name of instance ip-10-20-1-10 is taken by instance web-1`,
		`research.internal. record bad A: "nonsense" is not the value of such a record`,
		`research.internal. the zone holds names of instances: a name that it does not have is never forwarded`,
		`self.example. forwarder 10.20.1.253:53 is this gateway itself: not used`,
		`self.example. forwarder [fd00:30::ffff:ffff:ffff:fff7]:53 is this gateway itself: not used`,
		`self.example. forwarder: "nonsense" is not the address of a resolver (IP or IP:port)`,
		`web-1.research.internal. the name of instance WEB-1 is taken by instance web-1`,
		`x.research.internal. a CNAME allows no other record beside it (RFC 1034 section 3.6.2): A 10.20.9.51 is left out`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("findings\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
