package vpc

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestResolversOfAVSwitch(t *testing.T) {
	for _, tt := range []struct {
		name     string
		declared []netip.Addr
		attach   AttachSpec
		v4, v6   string
	}{
		{"the gateway", nil, AttachSpec{}, "[10.0.1.253]", "[fd00::ffff:ffff:ffff:fff7]"},
		{"not the gateway behind a relay", nil, AttachSpec{Relay: []netip.Addr{ip("10.9.0.2")}}, "[]", "[]"},
		{"those of IPv4 leave nothing for IPv6", []netip.Addr{ip("10.0.9.53"), ip("10.0.9.54")}, AttachSpec{}, "[10.0.9.53 10.0.9.54]", "[]"},
	} {
		w := &VSwitch{
			VSwitchSpec: &VSwitchSpec{CIDRBlock: netip.MustParsePrefix("10.0.1.0/24"), IPv6CIDRBlock: netip.MustParsePrefix("fd00::/64"), Attach: tt.attach},
			VPC:         &VPC{VPCSpec: &VPCSpec{DHCPOptions: DHCPOptionsSpec{DomainNameServers: tt.declared}}},
		}
		for f, want := range map[Family]string{IPv4: tt.v4, IPv6: tt.v6} {
			var got []string
			for _, a := range w.Resolvers(f) {
				got = append(got, a.String())
			}
			if text := "[" + strings.Join(got, " ") + "]"; text != want {
				t.Errorf("%s, %s: %s, want %s", tt.name, f, text, want)
			}
		}
	}
}

func TestSearchList(t *testing.T) {
	v := &VPC{VPCSpec: &VPCSpec{}, Domain: "lab.internal"}
	if got := v.SearchList(); !slices.Equal(got, []string{"lab.internal"}) {
		t.Errorf("by default: %v", got)
	}
	v.DHCPOptions.DomainName = "a.example."
	v.DHCPOptions.SearchDomains = []string{"b.example.", "a.example", "b.example"}
	if got := v.SearchList(); !slices.Equal(got, []string{"a.example", "b.example"}) {
		t.Errorf("declared: %v", got)
	}
}

func TestHostnameOfAnInterface(t *testing.T) {
	for kind, want := range map[HostnameType]string{HostnameCustom: "web-1", HostnameIPBased: "ip-10-0-1-5", HostnameInstanceID: "i-1"} {
		i := &Interface{
			InterfaceSpec: &InterfaceSpec{PrivateIP: ip("10.0.1.5")},
			Instance:      &Instance{InstanceSpec: &InstanceSpec{ID: "i-1", Name: "web-1", PrivateDNS: PrivateDNSSpec{HostnameType: kind}}},
		}
		if got := i.Hostname(); got != want {
			t.Errorf("%s: %s, want %s", kind, got, want)
		}
	}
}

func TestAppendName(t *testing.T) {
	label := strings.Repeat("x", 63)
	for domain, want := range map[string]string{
		"a.example": "\x01a\aexample\x00", "a.example.": "\x01a\aexample\x00", "_tcp.example": "\x04_tcp\aexample\x00", label: "?" + label + "\x00",
		"": "", ".": "", "a..b": "", "-a": "", "a-": "", "not a name": "", "ä": "", label + "x": "",
		strings.Repeat(label+".", 4): "",
	} {
		got, ok := AppendName([]byte("|"), domain)
		if string(got) != "|"+want || ok != (want != "") {
			t.Errorf("%q: %q, %t", domain, got, ok)
		}
	}
}
