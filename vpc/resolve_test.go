package vpc

import (
	"errors"
	"net/netip"
	"testing"
)

func TestResolve(t *testing.T) {
	s := good()
	s.VPCs[0].Instances[0].Name = "db-1" // in both VPCs
	snap := NewSnapshot(s, host(), 1)
	for _, tt := range []struct {
		name, ref string
		kind      EndpointKind
		shown     string
		v4, v6    string // "" for none
		err       error
		text      string
	}{
		{"an instance", "web-1", EndpointInterface, "web-1", "10.20.1.10", "fd00:20:0:1::10", nil, ""},
		{"an instance in any case", "WEB-1", EndpointInterface, "web-1", "10.20.1.10", "fd00:20:0:1::10", nil, ""},
		{"an instance with its VPC", "prod/db-1", EndpointInterface, "prod/db-1", "10.30.1.10", "", nil, ""},
		{"an instance's ID", "i-1", EndpointInterface, "research/db-1", "10.20.2.10", "fd00:20:0:2::10", nil, ""},
		{"an interface's ID", "eni-2", EndpointInterface, "web-1", "10.20.1.10", "fd00:20:0:1::10", nil, ""},
		{"a MAC", "00:16:3E:00:00:02", EndpointInterface, "web-1", "10.20.1.10", "fd00:20:0:1::10", nil, ""},
		{"a secondary address", "10.20.1.11", EndpointInterface, "web-1", "10.20.1.11", "", nil, ""},
		{"an IPv6 address", "fd00:20:0:1::10", EndpointInterface, "web-1", "", "fd00:20:0:1::10", nil, ""},
		{"a gateway address", "10.20.1.253", EndpointGateway, "10.20.1.253", "10.20.1.253", "", nil, ""},
		{"an IPv6 gateway address", "fd00:20:0:1:ffff:ffff:ffff:fff7", EndpointGateway, "fd00:20:0:1:ffff:ffff:ffff:fff7", "", "fd00:20:0:1:ffff:ffff:ffff:fff7", nil, ""},
		{"an address outside", "198.51.100.9", EndpointAddress, "198.51.100.9", "198.51.100.9", "", nil, ""},
		{"an IPv6 address outside", "2001:db8::9", EndpointAddress, "2001:db8::9", "", "2001:db8::9", nil, ""},
		{"the internet", "internet", EndpointInternet, "internet", "8.0.0.1", "2600::1", nil, ""},
		{"a name of two VPCs", "db-1", 0, "", "", "", ErrAmbiguous, `instance "db-1": the name is not unique: write prod/db-1 or research/db-1`},
		{"a name of nobody", "web-9", 0, "", "", "", ErrNotFound, `not found: "web-9" is no instance, no ID of an instance or interface, no address, and not internet`},
		{"a name of nobody in that VPC", "prod/web-1", 0, "", "", "", ErrNotFound, `not found: "prod/web-1" is no instance, no ID of an instance or interface, no address, and not internet`},
		{"a MAC of nobody", "00:16:3e:00:00:99", 0, "", "", "", ErrNotFound, "not found: interface 00:16:3e:00:00:99"},
		{"an address with a zone", "fe80::1%eth0", 0, "", "", "", nil, "fe80::1%eth0: an address without a zone is required"},
		{"nothing", "", 0, "", "", "", ErrNotFound, `not found: "" is no instance, no ID of an instance or interface, no address, and not internet`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, err := snap.Resolve(tt.ref)
			if tt.text != "" {
				if err == nil || err.Error() != tt.text || tt.err != nil && !errors.Is(err, tt.err) {
					t.Fatalf("got %v, want %s", err, tt.text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind != tt.kind || e.Name != tt.shown || (e.Kind == EndpointInterface) != (e.Interface != nil) || (e.Kind == EndpointGateway) != (e.Gateway != nil) {
				t.Errorf("got %+v", e)
			}
			for f, want := range map[Family]string{IPv4: tt.v4, IPv6: tt.v6} {
				got := ""
				if a := e.Address(f); a.IsValid() {
					got = a.String()
				}
				if got != want {
					t.Errorf("%s: got %q, want %q", f, got, want)
				}
			}
		})
	}
}

func TestTheInternetIsWhatOnlyTheWidestRulesMatch(t *testing.T) {
	for _, tt := range []struct {
		name   string
		source string
		f      Family
		want   string
	}{
		{"a rule that names it", "8.0.0.0/8", IPv4, "9.0.0.0"},
		{"a wide rule", "0.0.0.0/1", IPv4, "128.0.0.0"},
		{"a rule for the address itself", "8.0.0.1", IPv4, "8.0.0.2"},
		{"a rule for everything", "0.0.0.0/0", IPv4, "8.0.0.1"},
		{"a rule that names it, IPv6", "2600::/16", IPv6, "2601::"},
		{"a wide rule, IPv6", "2000::/3", IPv6, "2600::1"}, // what comes after is not the internet
		{"a rule for everything, IPv6", "::/0", IPv6, "2600::1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := good()
			v := s.VPCs[1]
			v.SecurityGroups[1].Rules = []*RuleSpec{{Direction: Egress, Destination: peer(tt.source)}}
			v.NetworkACLs[0].Ingress = []*EntrySpec{{Source: peer("1.2.3.4")}}
			v.PrefixLists[0].Entries = append(v.PrefixLists[0].Entries, netip.MustParsePrefix("2606::/16"))
			e, err := NewSnapshot(s, host(), 1).Resolve("internet")
			if err != nil {
				t.Fatal(err)
			}
			if got := e.Address(tt.f).String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
