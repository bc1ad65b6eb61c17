package vpc

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestValidateAcceptsASpecWithSomethingOfEverything(t *testing.T) {
	if err := Validate(good(), host()).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestValidateAcceptsWhatAManifestMayLeaveOut(t *testing.T) {
	s := &Spec{VPCs: []*VPCSpec{{Name: "a", CIDRBlock: px("10.0.0.0/8"),
		VSwitches: []*VSwitchSpec{{Name: "w", CIDRBlock: px("10.1.0.0/16")}, {Name: "x", CIDRBlock: px("10.2.0.0/16")}},
		Instances: []*InstanceSpec{{Name: "one", Interfaces: []*InterfaceSpec{{MAC: mac(1), VSwitch: "w"}}}}, // in [default], which is always there
	}}}
	s.VPCs[0].SetDefaults()
	if err := Validate(s, Host{}).Err(); err != nil {
		t.Fatal(err)
	}
	if s.VPCs[0].VSwitches[0].Enrollment != "" || s.VPCs[0].Instances[0].Interfaces[0].SecurityGroups != nil {
		t.Error("Validate changed its argument")
	}
}

func TestValidateAcceptsOnePrefixByTwoUplinks(t *testing.T) {
	s, h := good(), Host{Uplinks: []string{"eth0", "eth1", "eth2"}}
	v := s.VPCs[1]
	for _, c := range []struct {
		name  string
		wider func()
		want  []PrefixTranslationSpec
	}{
		{"unique local and global prefixes", func() {}, []PrefixTranslationSpec{{"eth1", px("fd42::/56")}, {"eth2", px("2001:db8:1::/56")}}},
		{"the same prefix", func() {}, []PrefixTranslationSpec{{"eth0", px("2001:db8:2::/56")}, {"eth1", px("2001:db8:2::/56")}}},
		{"of another length", func() { v.IPv6CIDRBlock = px("fd00:20::/48") }, []PrefixTranslationSpec{{"eth0", px("2001:db8:3::/48")}}},
	} {
		c.wider()
		v.IPv6PrefixTranslations = c.want
		if err := Validate(s, h).Err(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestATranslationNeedsAnUplink(t *testing.T) {
	for _, tt := range []struct{ uplinks, want string }{
		{"", `"wan0": this gateway has no uplinks`}, {"eth0 eth1", `"wan0" is no uplink of this gateway (it has eth0 and eth1)`},
	} {
		s := good()
		s.VPCs[1].IPv6PrefixTranslations = []PrefixTranslationSpec{{"wan0", px("2001:db8:1::/56")}}
		got := Validate(s, Host{Uplinks: strings.Fields(tt.uplinks)})
		if want := inResearch + "ipv6PrefixTranslations[0].uplink: " + tt.want; len(got) != 1 || got[0].String() != want {
			t.Errorf("said %v, want %s", got, want)
		}
	}
}

func TestValidateSurvivesNothing(t *testing.T) {
	for _, s := range []*Spec{nil, {}, {VPCs: []*VPCSpec{nil}}, {VPCs: []*VPCSpec{{
		VSwitches: []*VSwitchSpec{nil, {}}, SecurityGroups: []*GroupSpec{nil, {Rules: []*RuleSpec{nil, {}}}}, PrefixLists: []*PrefixListSpec{nil, {}},
		NetworkACLs: []*ACLSpec{nil, {Ingress: []*EntrySpec{nil, {}}}}, Instances: []*InstanceSpec{nil, {Interfaces: []*InterfaceSpec{nil, {}}}},
		PrivateZones: []*PrivateZoneSpec{nil, {Records: []*RecordSpec{nil, {}}}}, Forwarders: []*ForwarderSpec{nil, {}},
	}}, PrivateZones: []*PrivateZoneSpec{nil, {}}, Tests: []*TestSpec{nil, {}}}} {
		_ = Validate(s, Host{}) // must not panic
		_, _ = Apply(nil, s, Host{}, ApplyOptions{Prune: true})
	}
}

// bad names what is wrong and has all that Validate says about it.
type bad struct {
	name   string
	change func(s *Spec, v *VPCSpec) // v is the VPC research
	want   []string
}

// Short ways to the objects of good.
func db(v *VPCSpec) *VSwitchSpec      { return v.VSwitches[0] }
func web(v *VPCSpec) *VSwitchSpec     { return v.VSwitches[1] }
func webGroup(v *VPCSpec) *GroupSpec  { return v.SecurityGroups[3] }
func rule(v *VPCSpec) *RuleSpec       { return v.SecurityGroups[3].Rules[0] }
func dbNIC(v *VPCSpec) *InterfaceSpec { return v.Instances[0].Interfaces[0] }
func nic(v *VPCSpec) *InterfaceSpec   { return v.Instances[1].Interfaces[0] }
func zone(v *VPCSpec) *PrivateZoneSpec {
	return v.PrivateZones[0]
}

const (
	inResearch = "vpcs[research]."
	inDB       = inResearch + "vswitches[db]."
	inWeb      = inResearch + "vswitches[web]."
	inGroup    = inResearch + "securityGroups[web]."
	inRule     = inGroup + "rules[0]."
	inACL      = inResearch + "networkAcls[dmz]."
	inNIC      = inResearch + "instances[web-1].interfaces[00:16:3e:00:00:02]."
	inZone     = inResearch + "privateZones[corp.example]."
)

var badSpecs = []bad{
	// Ranges of VPCs.
	{"a VPC without a range", func(_ *Spec, v *VPCSpec) { *v = VPCSpec{Name: "research"}; v.SetDefaults() },
		[]string{inResearch + "cidrBlock: an IPv4 range is required, as in 10.20.0.0/16"}},
	{"a VPC whose range overlaps another's", func(s *Spec, _ *VPCSpec) { s.VPCs[0].CIDRBlock = px("10.16.0.0/12") },
		[]string{`vpcs[research].cidrBlock: 10.20.0.0/16 overlaps VPC "prod" (10.16.0.0/12): VPCs on one gateway need ranges of their own`,
			`vpcs[research].secondaryCidrBlocks: 10.21.0.0/16 overlaps VPC "prod" (10.16.0.0/12): VPCs on one gateway need ranges of their own`,
		}},
	{"two VPCs with one IPv6 range", func(s *Spec, v *VPCSpec) { s.VPCs[0].IPv6CIDRBlock = v.IPv6CIDRBlock },
		[]string{`vpcs[research].ipv6CidrBlock: fd00:20::/56 overlaps VPC "prod" (fd00:20::/56): VPCs on one gateway need ranges of their own`}},
	{"a secondary range inside the primary one", func(_ *Spec, v *VPCSpec) { v.SecondaryCIDRBlocks[0] = px("10.20.128.0/17") },
		[]string{"vpcs[research].secondaryCidrBlocks: 10.20.128.0/17 overlaps the primary range 10.20.0.0/16 of the same VPC"}},
	{"a secondary range that is too wide", func(_ *Spec, v *VPCSpec) { v.SecondaryCIDRBlocks[0] = px("172.16.0.0/12") },
		[]string{"vpcs[research].secondaryCidrBlocks: 172.16.0.0/12: the mask is /16 to /28"}},
	{"a range wider than /8", func(s *Spec, _ *VPCSpec) { s.VPCs[0].CIDRBlock = px("32.0.0.0/7") },
		[]string{"vpcs[prod].cidrBlock: 32.0.0.0/7: the mask is /8 to /28", "vpcs[prod].vswitches[front].cidrBlock: 10.30.1.0/24 is not in a range of the VPC (32.0.0.0/7)"}},
	{"a range narrower than /28", func(_ *Spec, v *VPCSpec) { v.SecondaryCIDRBlocks[0] = px("172.16.0.0/29") },
		[]string{"vpcs[research].secondaryCidrBlocks: 172.16.0.0/29: the mask is /16 to /28"}},
	{"a range with host bits", func(_ *Spec, v *VPCSpec) { v.CIDRBlock = netip.MustParsePrefix("10.20.0.1/16") },
		[]string{"vpcs[research].cidrBlock: 10.20.0.1/16 has host bits set: write 10.20.0.0/16"}},
	{"an IPv6 range as the IPv4 one", func(s *Spec, _ *VPCSpec) { s.VPCs[0].SecondaryCIDRBlocks = []netip.Prefix{px("fd01::/56")} },
		[]string{"vpcs[prod].secondaryCidrBlocks: fd01::/56 is not an IPv4 range"}},
	{"a range of the cloud's services", func(_ *Spec, v *VPCSpec) { v.SecondaryCIDRBlocks[0] = px("100.64.0.0/16") },
		[]string{"vpcs[research].secondaryCidrBlocks: 100.64.0.0/16 lies in 100.64.0.0/10 (the cloud's own services), which no VPC may use"}},
	{"a loopback range", func(_ *Spec, v *VPCSpec) { v.SecondaryCIDRBlocks[0] = px("127.0.0.0/16") },
		[]string{"vpcs[research].secondaryCidrBlocks: 127.0.0.0/16 lies in 127.0.0.0/8 (loopback), which no VPC may use"}},
	{"the link-local range", func(_ *Spec, v *VPCSpec) { v.SecondaryCIDRBlocks[0] = px("169.254.0.0/16") },
		[]string{"vpcs[research].secondaryCidrBlocks: 169.254.0.0/16 lies in 169.254.0.0/16 (link-local), which no VPC may use"}},
	{"a multicast range", func(_ *Spec, v *VPCSpec) { v.SecondaryCIDRBlocks[0] = px("239.1.0.0/16") },
		[]string{"vpcs[research].secondaryCidrBlocks: 239.1.0.0/16 lies in 224.0.0.0/4 (multicast), which no VPC may use"}},
	{"an IPv6 range that is link-local", func(s *Spec, _ *VPCSpec) { s.VPCs[0].IPv6CIDRBlock = px("fe80::/56") },
		[]string{"vpcs[prod].ipv6CidrBlock: fe80::/56 is neither a unique local (fc00::/7) nor a global unicast (2000::/3) range"}},
	{"an IPv6 range that is too wide", func(s *Spec, _ *VPCSpec) { s.VPCs[0].IPv6CIDRBlock = px("fd01::/40") },
		[]string{"vpcs[prod].ipv6CidrBlock: fd01::/40: the mask of an IPv6 range is /48 to /64, /56 in the cloud"}},
	{"an IPv4 range as the IPv6 one", func(s *Spec, _ *VPCSpec) { s.VPCs[0].IPv6CIDRBlock = px("10.40.0.0/16") },
		[]string{"vpcs[prod].ipv6CidrBlock: 10.40.0.0/16 is not an IPv6 range"}},

	// Prefix translations.
	{"translations of which nothing is right", func(s *Spec, v *VPCSpec) {
		s.VPCs[0].IPv6PrefixTranslations = []PrefixTranslationSpec{{"eth0", px("2001:db8:7::/56")}}
		v.IPv6PrefixTranslations = []PrefixTranslationSpec{
			{"", px("2001:db8:1::/56")}, {"eth0", netip.Prefix{}}, {"eth0", px("10.0.0.0/8")}, {"eth7", px("fe80::/56")},
			{"eth0", netip.MustParsePrefix("2001:db8:3::1/56")}, {"eth0", px("2001:db8:4::/60")}, {"eth0", px("::/0")},
		}
	}, []string{
		"vpcs[prod].ipv6PrefixTranslations[0].externalPrefix: 2001:db8:7::/56: the VPC has no IPv6 range that could be translated; give it an ipv6CidrBlock first",
		inResearch + "ipv6PrefixTranslations[0].uplink: the uplink beyond which the prefix is known is required",
		inResearch + "ipv6PrefixTranslations[1].externalPrefix: an IPv6 prefix is required",
		inResearch + "ipv6PrefixTranslations[2].uplink: the VPC has another prefix beyond eth0 already: one is enough",
		inResearch + "ipv6PrefixTranslations[2].externalPrefix: 10.0.0.0/8 is not an IPv6 prefix",
		inResearch + `ipv6PrefixTranslations[3].uplink: "eth7" is no uplink of this gateway (it has eth0)`,
		inResearch + "ipv6PrefixTranslations[3].externalPrefix: fe80::/56 is neither a unique local (fc00::/7) nor a global unicast (2000::/3) prefix",
		inResearch + "ipv6PrefixTranslations[4].uplink: the VPC has another prefix beyond eth0 already: one is enough",
		inResearch + "ipv6PrefixTranslations[4].externalPrefix: 2001:db8:3::1/56 has host bits set: write 2001:db8:3::/56",
		inResearch + "ipv6PrefixTranslations[5].uplink: the VPC has another prefix beyond eth0 already: one is enough",
		inResearch + "ipv6PrefixTranslations[5].externalPrefix: 2001:db8:4::/60: it has to be a /56, as the VPC's range fd00:20::/56",
		inResearch + "ipv6PrefixTranslations[6].uplink: the VPC has another prefix beyond eth0 already: one is enough",
		inResearch + "ipv6PrefixTranslations[6].externalPrefix: ::/0 is neither a unique local (fc00::/7) nor a global unicast (2000::/3) prefix",
	}},
	{"an external prefix that is a VPC's range", func(_ *Spec, v *VPCSpec) {
		v.IPv6PrefixTranslations = []PrefixTranslationSpec{{"eth0", v.IPv6CIDRBlock}}
	}, []string{inResearch + `ipv6PrefixTranslations[0].externalPrefix: fd00:20::/56 overlaps the IPv6 range fd00:20::/56 of VPC "research": every prefix is one network's, on either side of the gateway`}},
	{"two VPCs with one external prefix", func(s *Spec, v *VPCSpec) {
		s.VPCs[0].IPv6CIDRBlock = px("fd00:31::/52")
		s.VPCs[0].IPv6PrefixTranslations = []PrefixTranslationSpec{{"eth0", px("2001:db8:7::/52")}}
		v.IPv6PrefixTranslations = []PrefixTranslationSpec{{"eth0", px("2001:db8:7:100::/56")}}
	}, []string{inResearch + `ipv6PrefixTranslations[0].externalPrefix: 2001:db8:7:100::/56 overlaps the external prefix 2001:db8:7::/52 of VPC "prod": every prefix is one network's, on either side of the gateway`}},

	// Names and IDs.
	{"a VPC without a name", func(_ *Spec, v *VPCSpec) { *v = VPCSpec{CIDRBlock: px("10.50.0.0/16")}; v.SetDefaults() },
		[]string{`vpcs[1].name: "": a name is required`, `privateZones[shared.example].vpcs: there is no VPC "research"`}},
	{"two VPCs with one name", func(s *Spec, v *VPCSpec) {
		s.VPCs = append(s.VPCs, &VPCSpec{Name: "prod", CIDRBlock: px("10.50.0.0/16"), DHCPOptions: v.DHCPOptions})
	},
		[]string{`vpcs[prod].name: there is another VPC "prod": names are unique in their list`}},
	{"a name with a slash", func(_ *Spec, v *VPCSpec) { v.SecurityGroups[1].Name = "a/b" },
		[]string{`vpcs[research].securityGroups[a/b].name: "a/b": a name has only letters, digits, hyphens, underscores and dots`}},
	{"a name that begins with a hyphen", func(_ *Spec, v *VPCSpec) { v.SecurityGroups[1].Name = "-x" },
		[]string{`vpcs[research].securityGroups[-x].name: "-x": a name begins with a letter or a digit`}},
	{"a name of 129 characters", func(_ *Spec, v *VPCSpec) { v.SecurityGroups[1].Name = strings.Repeat("ä", 129) },
		[]string{`vpcs[research].securityGroups[` + strings.Repeat("ä", 129) + `].name: "` + strings.Repeat("ä", 129) + `": a name has at most 128 characters`}},
	{"two vswitches with one name", func(_ *Spec, v *VPCSpec) {
		v.VSwitches = append(v.VSwitches, &VSwitchSpec{Name: "web", CIDRBlock: px("10.20.3.0/24")})
	},
		[]string{`vpcs[research].vswitches[web].name: there is another vswitch "web": names are unique in their list`}},
	{"one ID twice", func(_ *Spec, v *VPCSpec) { v.SecurityGroups[1].ID = "sg-1" },
		[]string{"vpcs[research].securityGroups[closed].id: sg-1 is already the ID of another object"}},
	{"a description without end", func(_ *Spec, v *VPCSpec) { v.Description = strings.Repeat("x", 257) },
		[]string{"vpcs[research].description: has 257 characters, and at most 256 are kept"}},
	{"a domain with an underscore", func(_ *Spec, v *VPCSpec) { v.Domain = "my_lab" },
		[]string{`vpcs[research].domain: "my_lab": a domain name has only letters, digits, hyphens and dots`}},
	{"a domain with an empty label", func(_ *Spec, v *VPCSpec) { v.Domain = "a..b" },
		[]string{`vpcs[research].domain: "a..b": a domain name has no empty labels`}},

	// DHCP options.
	{"five DNS servers", func(_ *Spec, v *VPCSpec) {
		v.DHCPOptions.DomainNameServers = []netip.Addr{ip("1.1.1.1"), ip("1.1.1.2"), ip("1.1.1.3"), ip("1.1.1.4"), ip("1.1.1.5")}
	}, []string{"vpcs[research].dhcpOptions.domainNameServers: has 5 servers, and at most 4 are allowed"}},
	{"an IPv6 DNS server", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.DomainNameServers = []netip.Addr{ip("fd00::53")} },
		[]string{"vpcs[research].dhcpOptions.domainNameServers: fd00::53 is not an IPv4 address, and a DNS server must be one"}},
	{"a lease of 29 seconds", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.LeaseTime = Duration(29 * time.Second) },
		[]string{"vpcs[research].dhcpOptions.leaseTime: 29s: a lease lasts 30s to 7300d"}},
	{"an IPv6 lease of 7301 days", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.IPv6LeaseTime = Duration(7301 * 24 * time.Hour) },
		[]string{"vpcs[research].dhcpOptions.ipv6LeaseTime: 7301d: a lease lasts 30s to 7300d"}},
	{"an MTU too small for IPv6", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.MTU = 1279 },
		[]string{"vpcs[research].dhcpOptions.mtu: 1279: in a VPC with IPv6 the MTU is 1280 to 9216 bytes"}},
	{"an MTU too small for IPv4", func(s *Spec, _ *VPCSpec) { s.VPCs[0].DHCPOptions.MTU = 575 },
		[]string{"vpcs[prod].dhcpOptions.mtu: 575: the MTU is 576 to 9216 bytes"}},
	{"an MTU too large", func(s *Spec, _ *VPCSpec) { s.VPCs[0].DHCPOptions.MTU = 9217 },
		[]string{"vpcs[prod].dhcpOptions.mtu: 9217: the MTU is 576 to 9216 bytes"}},
	{"an IPv6 route by DHCP", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.Routes = []RouteSpec{{px("2001:db8::/32")}} },
		[]string{"vpcs[research].dhcpOptions.routes[0].destination: 2001:db8::/32 is not an IPv4 range: IPv6 routes come with router advertisements"}},
	{"a route twice", func(_ *Spec, v *VPCSpec) {
		v.DHCPOptions.Routes = []RouteSpec{{px("192.0.2.0/24")}, {px("192.0.2.0/24")}}
	},
		[]string{"vpcs[research].dhcpOptions.routes[1].destination: 192.0.2.0/24 is written twice"}},
	{"a boot server that is neither address nor name", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.Boot.Server = "tftp://x" },
		[]string{`vpcs[research].dhcpOptions.boot.server: "tftp://x" is neither an address nor a host name`}},
	{"a search domain with a space", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.SearchDomains = []string{"a b"} },
		[]string{`vpcs[research].dhcpOptions.searchDomains: "a b": a domain name has only letters, digits, hyphens and dots`}},

	{"a captive portal that is no address of the web", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.CaptivePortal = "portal.example" },
		[]string{`vpcs[research].dhcpOptions.captivePortal: "portal.example": write the address of the portal's API, as in https://portal.example/api (RFC 8908)`}},
	{"a captive portal that anybody can read along", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.CaptivePortal = "http://portal.example/api" },
		[]string{`vpcs[research].dhcpOptions.captivePortal: "http://portal.example/api": write the address of the portal's API, as in https://portal.example/api (RFC 8908)`}},
	{"a captive portal by address", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.CaptivePortal = "https://[fd00::1]/api" },
		[]string{`vpcs[research].dhcpOptions.captivePortal: "https://[fd00::1]/api": name the portal's host: no certificate is for an address`}},
	{"a captive portal nowhere", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.CaptivePortal = "https:///api" },
		[]string{`vpcs[research].dhcpOptions.captivePortal: "https:///api": a domain name is required`}},
	{"a captive portal without end", func(_ *Spec, v *VPCSpec) {
		v.DHCPOptions.CaptivePortal = "https://p.example/" + strings.Repeat("a", 240)
	},
		[]string{`vpcs[research].dhcpOptions.captivePortal: "https://p.example/` + strings.Repeat("a", 240) + `": an option of DHCP holds 255 bytes`}},
	{"IPv6 only for a minute", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.IPv6OnlyPreferred = Duration(time.Minute) },
		[]string{"vpcs[research].dhcpOptions.ipv6OnlyPreferred: 1m: guests do without IPv4 for 5m at least, and for 49710d at most"}},
	{"IPv6 only for less than nothing", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.IPv6OnlyPreferred = Duration(-time.Hour) },
		[]string{"vpcs[research].dhcpOptions.ipv6OnlyPreferred: -1h: guests do without IPv4 for 5m at least, and for 49710d at most"}},
	{"IPv6 only for a century and a half", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.IPv6OnlyPreferred = Duration(49711 * 24 * time.Hour) },
		[]string{"vpcs[research].dhcpOptions.ipv6OnlyPreferred: 49711d: guests do without IPv4 for 5m at least, and for 49710d at most"}},
	{"IPv6 only for half a second", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.IPv6OnlyPreferred = Duration(time.Hour + time.Second/2) },
		[]string{"vpcs[research].dhcpOptions.ipv6OnlyPreferred: 1h0m0.5s: write whole seconds"}},
	{"IPv6 only without IPv6", func(s *Spec, _ *VPCSpec) { s.VPCs[0].DHCPOptions.IPv6OnlyPreferred = Duration(time.Hour) },
		[]string{"vpcs[prod].dhcpOptions.ipv6OnlyPreferred: guests would be left without any address: the VPC has no ipv6CidrBlock"}},

	// vSwitches.
	{"overlapping vswitches", func(_ *Spec, v *VPCSpec) {
		db(v).CIDRBlock = px("10.20.1.128/25")
		dbNIC(v).PrivateIP = ip("10.20.1.140")
	},
		[]string{inWeb + `cidrBlock: 10.20.1.0/24 overlaps vswitch "db" (10.20.1.128/25)`}},
	{"vswitches with one IPv6 range", func(_ *Spec, v *VPCSpec) {
		db(v).IPv6CIDRBlock = web(v).IPv6CIDRBlock
		dbNIC(v).IPv6Addresses = []netip.Addr{ip("fd00:20:0:1::20")}
	},
		[]string{inWeb + `ipv6CidrBlock: fd00:20:0:1::/64 overlaps vswitch "db" (fd00:20:0:1::/64)`}},
	{"a vswitch outside its VPC", func(_ *Spec, v *VPCSpec) { web(v).CIDRBlock = px("10.22.1.0/24"); v.Instances = v.Instances[:1] },
		[]string{inWeb + "cidrBlock: 10.22.1.0/24 is not in a range of the VPC (10.20.0.0/16 or 10.21.0.0/16)"}},
	{"a vswitch of /30", func(_ *Spec, v *VPCSpec) { web(v).CIDRBlock = px("10.20.1.0/30"); v.Instances = v.Instances[:1] },
		[]string{inWeb + "cidrBlock: 10.20.1.0/30: the mask is /16 to /29"}},
	{"a vswitch of /15", func(s *Spec, _ *VPCSpec) {
		s.VPCs[0].CIDRBlock, s.VPCs[0].VSwitches[0].CIDRBlock = px("11.0.0.0/8"), px("11.2.0.0/15")
		s.VPCs[0].Instances = nil
	}, []string{"vpcs[prod].vswitches[front].cidrBlock: 11.2.0.0/15: the mask is /16 to /29"}},
	{"an IPv6 range of /80", func(_ *Spec, v *VPCSpec) { web(v).IPv6CIDRBlock, nic(v).IPv6Prefixes = px("fd00:20:0:1::/80"), nil },
		[]string{inWeb + "ipv6CidrBlock: fd00:20:0:1::/80: the IPv6 range of a vswitch is a /64"}},
	{"an IPv6 range outside the VPC's", func(_ *Spec, v *VPCSpec) {
		web(v).IPv6CIDRBlock, nic(v).IPv6Addresses, nic(v).IPv6Prefixes = px("fd00:21:0:1::/64"), nil, nil
	},
		[]string{inWeb + "ipv6CidrBlock: fd00:21:0:1::/64 is not in the VPC's range fd00:20::/56"}},
	{"IPv6 where the VPC has none", func(s *Spec, _ *VPCSpec) { s.VPCs[0].VSwitches[0].IPv6CIDRBlock = px("fd00:30:0:1::/64") },
		[]string{"vpcs[prod].vswitches[front].ipv6CidrBlock: fd00:30:0:1::/64: the VPC has no IPv6 range; give it an ipv6CidrBlock first"}},
	{"a gateway outside", func(_ *Spec, v *VPCSpec) { web(v).Gateway = ip("10.20.2.1") },
		[]string{inWeb + "gateway: 10.20.2.1 is not in 10.20.1.0/24"}},
	{"the broadcast address as gateway", func(_ *Spec, v *VPCSpec) { web(v).Gateway = ip("10.20.1.255") },
		[]string{inWeb + "gateway: 10.20.1.255 is the network or broadcast address of 10.20.1.0/24"}},
	{"an instance at the gateway's own address", func(_ *Spec, v *VPCSpec) { web(v).Gateway = ip("10.20.1.10") },
		[]string{inNIC + `privateIp: 10.20.1.10 is the gateway of vswitch "web"`}},
	{"a pool outside", func(_ *Spec, v *VPCSpec) { web(v).Pool = AddrRange{ip("10.20.1.200"), ip("10.20.2.10")} },
		[]string{inWeb + "pool: 10.20.1.200-10.20.2.10 is not in 10.20.1.0/24"}},
	{"a pool of reserved addresses", func(_ *Spec, v *VPCSpec) { web(v).Pool = AddrRange{ip("10.20.1.253"), ip("10.20.1.255")} },
		[]string{inWeb + "pool: 10.20.1.253-10.20.1.255 has only reserved addresses (the first, the last three and the gateway of 10.20.1.0/24)"}},
	{"a pool that runs backwards", func(_ *Spec, v *VPCSpec) { web(v).Pool = AddrRange{ip("10.20.1.20"), ip("10.20.1.10")} },
		[]string{inWeb + "pool: 10.20.1.20-10.20.1.10 is not a range of IPv4 addresses, the lower one first"}},
	{"an ACL that is not there", func(_ *Spec, v *VPCSpec) { web(v).NetworkACL = "dnz" },
		[]string{inWeb + `networkAcl: there is no network ACL "dnz" (this VPC has dmz)`}},
	{"an ACL where there is none", func(s *Spec, _ *VPCSpec) { s.VPCs[0].VSwitches[0].NetworkACL = "x" },
		[]string{`vpcs[prod].vswitches[front].networkAcl: there is no network ACL "x": this VPC has none`}},
	{"an ACL of another VPC", func(s *Spec, _ *VPCSpec) { s.VPCs[0].VSwitches[0].NetworkACL = "dmz" },
		[]string{`vpcs[prod].vswitches[front].networkAcl: there is no network ACL "dmz" in this VPC: VPC "research" has one, and nothing is shared between VPCs`}},
	{"an unknown enrollment", func(_ *Spec, v *VPCSpec) { web(v).Enrollment = "open" },
		[]string{inWeb + `enrollment: "open": write auto or closed`}},
	{"no enrollment groups", func(_ *Spec, v *VPCSpec) { web(v).EnrollmentGroups = []string{} },
		[]string{inWeb + "enrollmentSecurityGroups: an interface is in at least one group: leave the field out for [default]"}},
	{"enrollment groups of two types", func(_ *Spec, v *VPCSpec) { web(v).EnrollmentGroups = []string{"closed", "default"} },
		[]string{inWeb + `enrollmentSecurityGroups: group "closed" is advanced and "default" is basic: all groups of an interface have one type`}},
	{"a vswitch attached twice", func(_ *Spec, v *VPCSpec) {
		web(v).Attach = AttachSpec{Bridge: "br0", Interface: "eth1", Relay: []netip.Addr{ip("10.9.0.2")}}
	}, []string{inWeb + "attach: has bridge, interface and relay: a vswitch is attached in one way only"}},
	{"a vswitch on an uplink", func(_ *Spec, v *VPCSpec) { web(v).Attach.Interface = "eth0" },
		[]string{inWeb + "attach.interface: eth0 is an uplink of this gateway: a vswitch needs a link of its own"}},
	{"two vswitches on one link", func(_ *Spec, v *VPCSpec) { web(v).Attach.Bridge = "br-front" },
		[]string{inWeb + `attach.bridge: br-front is already the link of vswitch "front" in VPC "prod": a vswitch needs a link of its own`}},
	{"a generated link that is already there", func(_ *Spec, v *VPCSpec) { db(v).Attach.Bridge = "gh-00000002" },
		[]string{inWeb + `attach.bridge: gh-00000002 is already the link of vswitch "db": a vswitch needs a link of its own`}},
	{"IDs that begin alike", func(_ *Spec, v *VPCSpec) { db(v).ID, web(v).ID = "vsw-0000000911111111", "vsw-0000000922222222" },
		[]string{inWeb + `attach.bridge: gh-00000009 is already the link of vswitch "db": a vswitch needs a link of its own`}},
	{"a link name of 16 characters", func(_ *Spec, v *VPCSpec) { web(v).Attach.Bridge = "br-0123456789abc" },
		[]string{inWeb + `attach.bridge: "br-0123456789abc": the name of a link has at most 15 characters`}},
	{"a link name with a slash", func(_ *Spec, v *VPCSpec) { web(v).Attach.Bridge = "br/0" },
		[]string{inWeb + `attach.bridge: "br/0": the name of a link has only letters, digits, hyphens, underscores and dots`}},
	{"the loopback link", func(_ *Spec, v *VPCSpec) { web(v).Attach.Interface = "lo" },
		[]string{inWeb + `attach.interface: "lo": this name cannot be that of a link with guests`}},
	{"a relay that is everybody", func(_ *Spec, v *VPCSpec) { web(v).Attach.Relay = []netip.Addr{ip("0.0.0.0")} },
		[]string{inWeb + "attach.relay: 0.0.0.0 is not the address of a relay"}},
	{"a link-local relay on some link", func(_ *Spec, v *VPCSpec) { web(v).Attach = AttachSpec{Relay: []netip.Addr{ip("fe80::2")}} },
		[]string{inWeb + "attach.relay: fe80::2 is the same on every link: write on which one of the gateway it is, as in fe80::2%eth1"}},
	{"a link-local relay on no link", func(_ *Spec, v *VPCSpec) { web(v).Attach = AttachSpec{Relay: []netip.Addr{ip("fe80::2%e*")}} },
		[]string{inWeb + "attach.relay: fe80::2%e* the name of a link has only letters, digits, hyphens, underscores and dots"}},
	{"a relay that is on a link and everywhere", func(_ *Spec, v *VPCSpec) { web(v).Attach = AttachSpec{Relay: []netip.Addr{ip("fd00::2%eth1")}} },
		[]string{inWeb + "attach.relay: fd00::2%eth1 is not the address of a relay"}},

	// Security groups.
	{"an unknown type of group", func(_ *Spec, v *VPCSpec) { v.SecurityGroups[1].Type = "enterprise" },
		[]string{`vpcs[research].securityGroups[closed].type: "enterprise": write basic or advanced`}},
	{"an advanced group with inner access", func(_ *Spec, v *VPCSpec) { v.SecurityGroups[1].InnerAccess = Accept },
		[]string{`vpcs[research].securityGroups[closed].innerAccess: "accept": the members of an advanced group are always isolated; leave it out`}},
	{"inner access that is neither", func(_ *Spec, v *VPCSpec) { webGroup(v).InnerAccess = "yes" },
		[]string{inGroup + `innerAccess: "yes": write accept or drop`}},
	{"an advanced default group", func(s *Spec, _ *VPCSpec) {
		s.VPCs[0].SecurityGroups[0].Type, s.VPCs[0].SecurityGroups[0].InnerAccess = GroupAdvanced, Drop
	}, []string{`vpcs[prod].securityGroups[default].type: the group "default" is basic in every VPC`}},
	{"a rule without a peer", func(_ *Spec, v *VPCSpec) { rule(v).Source = Peer{} },
		[]string{inRule + "source: an ingress rule needs a source: a CIDR, an address, sg:NAME or pl:NAME"}},
	{"a rule whose direction nobody can tell", func(_ *Spec, v *VPCSpec) { rule(v).Direction, rule(v).Destination = "", peer("10.20.1.0/24") },
		[]string{inRule + "direction: write ingress or egress: it follows by itself only where just one of source and destination is written"}},
	{"an unknown direction", func(_ *Spec, v *VPCSpec) { rule(v).Direction = "in" },
		[]string{inRule + `direction: "in": write ingress or egress`}},
	{"an unknown policy", func(_ *Spec, v *VPCSpec) { rule(v).Policy = "reject" },
		[]string{inRule + `policy: "reject": write accept or drop`}},
	{"priority 0", func(_ *Spec, v *VPCSpec) { rule(v).Priority = 0 },
		[]string{inRule + "priority: 0: a priority is 1 (strongest) to 100"}},
	{"priority 101", func(_ *Spec, v *VPCSpec) { rule(v).Priority = 101 },
		[]string{inRule + "priority: 101: a priority is 1 (strongest) to 100"}},
	{"port 0 in a rule", func(_ *Spec, v *VPCSpec) { rule(v).Ports = Ports{{0, 80}} },
		[]string{inRule + "ports: 0-80: ports are 1 to 65535"}},
	{"source ports backwards", func(_ *Spec, v *VPCSpec) { rule(v).SourcePorts = Ports{{9, 8}} },
		[]string{inRule + "sourcePorts: 9-8 runs backwards: the lower port comes first"}},
	{"ports of gre", func(_ *Spec, v *VPCSpec) { rule(v).Protocol = ProtocolGRE },
		[]string{inRule + "ports: protocol gre has no ports: only tcp and udp have"}},
	{"an empty list of ports", func(_ *Spec, v *VPCSpec) { rule(v).Ports = Ports{} },
		[]string{inRule + "ports: is empty: leave it out for all ports"}},
	{"icmp from IPv6", func(_ *Spec, v *VPCSpec) {
		*rule(v) = RuleSpec{Protocol: ProtocolICMP, Source: peer("::/0"), Priority: 1}
	},
		[]string{inRule + "protocol: icmp does not exist between IPv6 addresses: write icmpv6"}},
	{"icmpv6 from IPv4", func(_ *Spec, v *VPCSpec) {
		*rule(v) = RuleSpec{Protocol: ProtocolICMPv6, Source: peer("10.0.0.1"), Priority: 1}
	},
		[]string{inRule + "protocol: icmpv6 does not exist between IPv4 addresses: write icmp"}},
	{"icmpv6 from a list of IPv4", func(_ *Spec, v *VPCSpec) {
		*rule(v) = RuleSpec{Protocol: ProtocolICMPv6, Source: peer("pl:resolvers"), Priority: 1}
	}, []string{inRule + "protocol: icmpv6 does not exist between IPv4 addresses: write icmp"}},
	{"icmp from a group to an IPv6 address", func(_ *Spec, v *VPCSpec) {
		*rule(v) = RuleSpec{Direction: Ingress, Protocol: ProtocolICMP, Source: peer("sg:app"), Destination: peer("fd00::1"), Priority: 1}
	}, []string{inRule + "protocol: icmp does not exist between IPv6 addresses: write icmpv6"}},
	{"an extension header as protocol", func(_ *Spec, v *VPCSpec) { *rule(v) = RuleSpec{Protocol: 43, Source: peer("fd00::/64"), Priority: 1} },
		[]string{inRule + "protocol: 43 is an extension header in IPv6 and cannot be matched"}},
	{"ends of two families", func(_ *Spec, v *VPCSpec) { rule(v).Destination = peer("fd00::/64") },
		[]string{inRule + "destination: fd00::/64 is ipv6 and 0.0.0.0/0 is ipv4: both ends of a rule have one family"}},
	{"a group as the other end", func(_ *Spec, v *VPCSpec) { rule(v).Destination = peer("sg:app") },
		[]string{inRule + "destination: sg:app: the destination of an ingress rule is a CIDR or an address"}},
	{"a list as the other end of an egress rule", func(_ *Spec, v *VPCSpec) { webGroup(v).Rules[3].Source = peer("pl:resolvers") },
		[]string{inGroup + "rules[3].source: pl:resolvers: the source of an egress rule is a CIDR or an address"}},
	{"a rule that names an advanced group", func(_ *Spec, v *VPCSpec) { webGroup(v).Rules[2].Source = peer("sg:closed") },
		[]string{inGroup + "rules[2].source: sg:closed is an advanced group, which no rule may name; use a CIDR or a prefix list"}},
	{"a group in a rule of an advanced group", func(_ *Spec, v *VPCSpec) {
		v.SecurityGroups[1].Rules = []*RuleSpec{{Source: peer("sg:app"), Priority: 1}}
	}, []string{"vpcs[research].securityGroups[closed].rules[0].source: sg:app: the rules of an advanced group name no groups; use a CIDR or a prefix list"}},
	{"a rule that names a group that is not there", func(_ *Spec, v *VPCSpec) { webGroup(v).Rules[2].Source = peer("sg:apq") },
		[]string{inGroup + `rules[2].source: there is no security group "apq" (this VPC has app, closed, default, web)`}},
	{"a rule that names another VPC's list", func(s *Spec, _ *VPCSpec) {
		s.VPCs[0].SecurityGroups[0].Rules = []*RuleSpec{{Source: peer("pl:resolvers"), Priority: 1}}
	}, []string{`vpcs[prod].securityGroups[default].rules[0].source: there is no prefix list "resolvers" in this VPC: VPC "research" has one, and nothing is shared between VPCs`}},
	{"21 rules that name groups", func(_ *Spec, v *VPCSpec) {
		v.SecurityGroups[0].Rules = manyRules(21, "sg:web")
	}, []string{"vpcs[research].securityGroups[app].rules: 21 rules name a group, and a group has at most 20 such rules"}},
	{"1,001 rules on an interface", func(_ *Spec, v *VPCSpec) { v.SecurityGroups[0].Rules = manyRules(977, "10.0.0.0/8") },
		// 977 of app, 3 of web, and its prefix list, which may grow to 20
		nil},
	{"1,001 rules on an interface, the prefix list counted", func(_ *Spec, v *VPCSpec) { v.SecurityGroups[0].Rules = manyRules(978, "10.0.0.0/8") },
		[]string{inNIC + "securityGroups: these groups have 1001 rules together, and at most 1000 apply to an interface (a prefix list counts with its maxEntries)"}},

	// Prefix lists.
	{"a list with more than it may hold", func(_ *Spec, v *VPCSpec) { v.PrefixLists[0].MaxEntries = 1 },
		[]string{"vpcs[research].prefixLists[resolvers].entries: has 2 entries, and maxEntries is 1: raise it"}},
	{"a list of 201", func(_ *Spec, v *VPCSpec) { v.PrefixLists[0].MaxEntries = 201 },
		[]string{"vpcs[research].prefixLists[resolvers].maxEntries: 201: a prefix list holds 1 to 200 entries"}},
	{"a list of two families", func(_ *Spec, v *VPCSpec) { v.PrefixLists[0].Entries[1] = px("2001:db8::/32") },
		[]string{"vpcs[research].prefixLists[resolvers].entries: 2001:db8::/32 is not ipv4, and a prefix list has one family"}},
	{"a list of an unknown family", func(_ *Spec, v *VPCSpec) { v.PrefixLists[0].Family = "inet" },
		[]string{`vpcs[research].prefixLists[resolvers].family: "inet": write ipv4 or ipv6`}},

	// Network ACLs.
	{"21 entries of a family", func(_ *Spec, v *VPCSpec) { v.NetworkACLs[0].Ingress = manyEntries(21, "::/0") },
		[]string{inACL + "ingress: has 21 ipv6 entries, and at most 20 per direction and family are allowed (a prefix list counts with its maxEntries)"}},
	{"20 entries of each family", func(_ *Spec, v *VPCSpec) {
		v.NetworkACLs[0].Ingress = append(manyEntries(20, "::/0"), manyEntries(20, "0.0.0.0/0")...)
	}, nil},
	{"an entry with a long prefix list", func(_ *Spec, v *VPCSpec) {
		v.NetworkACLs[0].Ingress = append(v.NetworkACLs[0].Ingress, &EntrySpec{Source: peer("pl:resolvers")})
	}, []string{inACL + "ingress: has 21 ipv4 entries, and at most 20 per direction and family are allowed (a prefix list counts with its maxEntries)"}},
	{"an entry with a group", func(_ *Spec, v *VPCSpec) { v.NetworkACLs[0].Ingress[0].Source = peer("sg:web") },
		[]string{inACL + "ingress[0].source: sg:web: a network ACL knows no groups; use a CIDR, an address or pl:NAME"}},
	{"an entry without its side", func(_ *Spec, v *VPCSpec) {
		e := v.NetworkACLs[0].Egress[0]
		e.Source, e.Destination = e.Destination, Peer{}
	}, []string{inACL + "egress[0].source: 0.0.0.0/0: an egress entry has only a destination",
		inACL + "egress[0].destination: an egress entry needs a destination: a CIDR, an address or pl:NAME"}},
	{"an entry with ports of icmp", func(_ *Spec, v *VPCSpec) { v.NetworkACLs[0].Ingress[0].Protocol = ProtocolICMP },
		[]string{inACL + "ingress[0].ports: protocol icmp has no ports: only tcp and udp have"}},
	{"an entry with icmp from IPv6", func(_ *Spec, v *VPCSpec) {
		*v.NetworkACLs[0].Ingress[0] = EntrySpec{Protocol: ProtocolICMP, Source: peer("::/0")}
	},
		[]string{inACL + "ingress[0].protocol: icmp does not exist between IPv6 addresses: write icmpv6"}},
	{"21 ACLs", func(s *Spec, _ *VPCSpec) {
		for i := range 21 {
			s.VPCs[0].NetworkACLs = append(s.VPCs[0].NetworkACLs, &ACLSpec{Name: fmt.Sprintf("a%d", i)})
		}
	}, []string{"vpcs[prod].networkAcls: there are 21 network ACLs, and a VPC has at most 20"}},

	// Instances and interfaces.
	{"a host name of one character", func(_ *Spec, v *VPCSpec) { v.Instances[1].Name = "w" },
		[]string{`vpcs[research].instances[w].name: "w": a host name has 2 to 64 characters`}},
	{"a host name of 65 characters", func(_ *Spec, v *VPCSpec) { v.Instances[1].Name = strings.Repeat("a.", 32) + "a" },
		[]string{`vpcs[research].instances[` + strings.Repeat("a.", 32) + `a].name: "` + strings.Repeat("a.", 32) + `a": a host name has 2 to 64 characters`}},
	{"a label of 64 characters", func(_ *Spec, v *VPCSpec) { v.Instances[1].Name = strings.Repeat("a", 64) },
		[]string{`vpcs[research].instances[` + strings.Repeat("a", 64) + `].name: "` + strings.Repeat("a", 64) + `": a label of a host name has at most 63 characters`}},
	{"a host name with an underscore", func(_ *Spec, v *VPCSpec) { v.Instances[1].Name = "web_1" },
		[]string{`vpcs[research].instances[web_1].name: "web_1": a host name has only letters, digits, hyphens and dots`}},
	{"a host name that ends in a hyphen", func(_ *Spec, v *VPCSpec) { v.Instances[1].Name = "web-" },
		[]string{`vpcs[research].instances[web-].name: "web-": in a host name dots and hyphens stand alone between letters or digits`}},
	{"a host name that is an address", func(_ *Spec, v *VPCSpec) { v.Instances[1].Name = "10.0.0.1" },
		[]string{`vpcs[research].instances[10.0.0.1].name: "10.0.0.1": a host name is not an address`}},
	{"an instance called localhost", func(_ *Spec, v *VPCSpec) { v.Instances[1].Name = "LocalHost" },
		[]string{`vpcs[research].instances[LocalHost].name: "LocalHost": localhost is what every host calls itself`}},
	{"a generated name of somebody else", func(_ *Spec, v *VPCSpec) { v.Instances[1].Name = "ip-10-20-2-10" },
		[]string{`vpcs[research].instances[ip-10-20-2-10].name: "ip-10-20-2-10" is the generated name of whoever has 10.20.2.10`}},
	{"two instances with one name", func(_ *Spec, v *VPCSpec) { v.Instances[1].Name = "db-1" },
		[]string{`vpcs[research].instances[db-1].name: there is another instance "db-1": names are unique in a VPC`}},
	{"names that differ in case", func(_ *Spec, v *VPCSpec) { v.Instances[1].Name = "DB-1" },
		[]string{`vpcs[research].instances[DB-1].name: there is an instance "db-1": host names differ in more than case`}},
	{"an instance without an interface", func(_ *Spec, v *VPCSpec) { v.Instances[1].Interfaces = nil },
		[]string{"vpcs[research].instances[web-1].interfaces: an instance has at least one interface: give it one with a mac and a vswitch"}},
	{"an unknown form of host name", func(_ *Spec, v *VPCSpec) { v.Instances[1].PrivateDNS.HostnameType = "ip" },
		[]string{`vpcs[research].instances[web-1].privateDns.hostnameType: "ip": write custom, ipBased or instanceIdBased`}},
	{"an interface without a MAC", func(_ *Spec, v *VPCSpec) { nic(v).MAC = MAC{} },
		[]string{"vpcs[research].instances[web-1].interfaces[0].mac: a MAC address is required, as in 00:16:3e:00:00:01"}},
	{"a multicast MAC", func(_ *Spec, v *VPCSpec) { nic(v).MAC = MAC{1, 0, 0x5e, 0, 0, 1} },
		[]string{"vpcs[research].instances[web-1].interfaces[01:00:5e:00:00:01].mac: 01:00:5e:00:00:01 is a multicast address: no interface can own it"}},
	{"a MAC in two VPCs", func(_ *Spec, v *VPCSpec) { nic(v).MAC = mac(3) },
		[]string{`vpcs[research].instances[web-1].interfaces[00:16:3e:00:00:03].mac: 00:16:3e:00:00:03 already belongs to instance "front-1" in VPC "prod"`}},
	{"a MAC of an enrolled instance", func(_ *Spec, v *VPCSpec) { v.Instances[0].Enrolled = true; nic(v).MAC = mac(1) },
		[]string{`vpcs[research].instances[web-1].interfaces[00:16:3e:00:00:01].mac: 00:16:3e:00:00:01 already belongs to enrolled instance "db-1": declare that instance under its own name, or delete it first`}},
	{"an address outside the vswitch", func(_ *Spec, v *VPCSpec) { nic(v).PrivateIP = ip("10.20.2.20") },
		[]string{inNIC + `privateIp: 10.20.2.20 is not in vswitch "web" (10.20.1.0/24)`}},
	{"the network address", func(_ *Spec, v *VPCSpec) { nic(v).PrivateIP = ip("10.20.1.0") },
		[]string{inNIC + "privateIp: 10.20.1.0 is reserved: the first and the last three addresses of 10.20.1.0/24 are"}},
	{"the third last address beside a gateway elsewhere", func(_ *Spec, v *VPCSpec) { web(v).Gateway, nic(v).PrivateIP = ip("10.20.1.1"), ip("10.20.1.253") },
		[]string{inNIC + "privateIp: 10.20.1.253 is reserved: the first and the last three addresses of 10.20.1.0/24 are"}},
	{"the subnet-router address", func(_ *Spec, v *VPCSpec) { nic(v).IPv6Addresses[0] = ip("fd00:20:0:1::") },
		[]string{inNIC + "ipv6Addresses: fd00:20:0:1:: is reserved: the first and the last nine addresses of fd00:20:0:1::/64 are"}},
	{"the IPv6 gateway", func(_ *Spec, v *VPCSpec) { nic(v).IPv6Addresses[0] = ip("fd00:20:0:1:ffff:ffff:ffff:fff7") },
		[]string{inNIC + `ipv6Addresses: fd00:20:0:1:ffff:ffff:ffff:fff7 is the gateway of vswitch "web"`}},
	{"the eighth last IPv6 address", func(_ *Spec, v *VPCSpec) { nic(v).IPv6Addresses[0] = ip("fd00:20:0:1:ffff:ffff:ffff:fff8") },
		[]string{inNIC + "ipv6Addresses: fd00:20:0:1:ffff:ffff:ffff:fff8 is reserved: the first and the last nine addresses of fd00:20:0:1::/64 are"}},
	{"a secondary address that is another's primary", func(_ *Spec, v *VPCSpec) {
		dbNIC(v).VSwitch, dbNIC(v).PrivateIP, dbNIC(v).IPv6Addresses = "web", ip("10.20.1.11"), nil
	}, []string{inNIC + `secondaryPrivateIps: 10.20.1.11 already belongs to instance "db-1"`}},
	{"an address twice on one interface", func(_ *Spec, v *VPCSpec) { nic(v).SecondaryPrivateIPs[0] = nic(v).PrivateIP },
		[]string{inNIC + "secondaryPrivateIps: 10.20.1.10 is written twice"}},
	{"an IPv6 address where the vswitch has none", func(s *Spec, _ *VPCSpec) {
		s.VPCs[0].Instances[0].Interfaces[0].IPv6Addresses = []netip.Addr{ip("fd00::1")}
	}, []string{`vpcs[prod].instances[front-1].interfaces[00:16:3e:00:00:03].ipv6Addresses: fd00::1: vswitch "front" has no IPv6 range`}},
	{"a number of IPv6 addresses where the vswitch has none", func(s *Spec, _ *VPCSpec) {
		s.VPCs[0].Instances[0].Interfaces[0].IPv6AddressCount = new(1)
	}, []string{`vpcs[prod].instances[front-1].interfaces[00:16:3e:00:00:03].ipv6AddressCount: 1: vswitch "front" has no IPv6 range`}},
	{"11 IPv6 addresses", func(_ *Spec, v *VPCSpec) { nic(v).IPv6Addresses, nic(v).IPv6AddressCount = nil, new(11) },
		[]string{inNIC + "ipv6AddressCount: 11: an interface has 0 to 10 IPv6 addresses"}},
	{"IPv6 addresses and their number", func(_ *Spec, v *VPCSpec) { nic(v).IPv6AddressCount = new(1) },
		[]string{inNIC + "ipv6AddressCount: is written beside ipv6Addresses: write one of them"}},
	{"prefixes of other lengths, unmasked, of the other family and of another vswitch", func(_ *Spec, v *VPCSpec) {
		nic(v).IPv6Prefixes = []netip.Prefix{px("10.20.1.32/28"), px("fd00:20:0:1:4::/79"), px("fd00:20:0:1:5::/96"), netip.MustParsePrefix("fd00:20:0:1:6::1/80"), px("fd00:20:0:2:5::/80"), {}}
	}, []string{
		inNIC + "ipv6Prefixes: invalid Prefix is not an IPv6 prefix",
		inNIC + "ipv6Prefixes: 10.20.1.32/28 is not an IPv6 prefix",
		inNIC + "ipv6Prefixes: fd00:20:0:1:4::/79: the prefix of an interface is a /80",
		inNIC + "ipv6Prefixes: fd00:20:0:1:5::/96: the prefix of an interface is a /80",
		inNIC + "ipv6Prefixes: fd00:20:0:1:6::1/80 has host bits set: write fd00:20:0:1:6::/80",
		inNIC + `ipv6Prefixes: fd00:20:0:2:5::/80 is not in vswitch "web" (fd00:20:0:1::/64)`,
	}},
	{"prefixes with reserved addresses", func(_ *Spec, v *VPCSpec) {
		nic(v).IPv6Prefixes = []netip.Prefix{px("fd00:20:0:1::/80"), px("fd00:20:0:1:ffff::/80")}
	}, []string{
		inNIC + "ipv6Prefixes: fd00:20:0:1::/80 has reserved addresses in it: the first and the last /80 of fd00:20:0:1::/64 do",
		inNIC + "ipv6Prefixes: fd00:20:0:1:ffff::/80 has reserved addresses in it: the first and the last /80 of fd00:20:0:1::/64 do",
	}},
	{"a prefix twice on one interface", func(_ *Spec, v *VPCSpec) {
		nic(v).IPv6Prefixes = []netip.Prefix{px("fd00:20:0:1:5::/80"), px("fd00:20:0:1:5::/80")}
	}, []string{inNIC + "ipv6Prefixes: fd00:20:0:1:5::/80 is written twice"}},
	{"a prefix that is another's, with an address of a third in it", func(_ *Spec, v *VPCSpec) {
		dbNIC(v).VSwitch, dbNIC(v).PrivateIP, dbNIC(v).IPv6Addresses = "web", ip("10.20.1.50"), []netip.Addr{ip("fd00:20:0:1:6::1")}
		dbNIC(v).IPv6Prefixes = []netip.Prefix{px("fd00:20:0:1:5::/80")}
		nic(v).IPv6Prefixes = []netip.Prefix{px("fd00:20:0:1:5::/80"), px("fd00:20:0:1:6::/80")}
	}, []string{
		inNIC + `ipv6Prefixes: fd00:20:0:1:5::/80 already belongs to instance "db-1"`,
		inNIC + `ipv6Prefixes: fd00:20:0:1:6::/80 has fd00:20:0:1:6::1 in it, which is an address of instance "db-1"`,
	}},
	{"a prefix with the interface's own address in it", func(_ *Spec, v *VPCSpec) {
		nic(v).IPv6Addresses = []netip.Addr{ip("fd00:20:0:1:5::1")}
		nic(v).IPv6Prefixes = []netip.Prefix{px("fd00:20:0:1:5::/80")}
	}, []string{inNIC + `ipv6Prefixes: fd00:20:0:1:5::/80 has fd00:20:0:1:5::1 in it, which is an address of instance "web-1"`}},
	{"a prefix where the vswitch has no IPv6", func(s *Spec, _ *VPCSpec) {
		s.VPCs[0].Instances[0].Interfaces[0].IPv6Prefixes = []netip.Prefix{px("fd00:20:0:1:5::/80")}
	}, []string{`vpcs[prod].instances[front-1].interfaces[00:16:3e:00:00:03].ipv6Prefixes: fd00:20:0:1:5::/80: vswitch "front" has no IPv6 range`}},
	{"a prefix without an address to reach it by", func(_ *Spec, v *VPCSpec) {
		nic(v).IPv6Addresses, nic(v).IPv6AddressCount, nic(v).IPv6Prefixes = nil, new(0), []netip.Prefix{px("fd00:20:0:1:5::/80")}
	}, []string{inNIC + "ipv6Prefixes: fd00:20:0:1:5::/80: the way there leads over an IPv6 address of the interface, and it has none"}},
	{"11 prefixes", func(_ *Spec, v *VPCSpec) {
		nic(v).IPv6Prefixes = nil
		for i := range byte(11) {
			nic(v).IPv6Prefixes = append(nic(v).IPv6Prefixes, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x20, 0, 0, 0, 1, 1, i}), 80))
		}
	}, []string{inNIC + "ipv6Prefixes: has 11 prefixes, and an interface has at most 10"}},
	{"a vswitch that is not there", func(_ *Spec, v *VPCSpec) { nic(v).VSwitch = "wep" },
		[]string{inNIC + `vswitch: there is no vswitch "wep" (this VPC has db, web)`}},
	{"no vswitch", func(_ *Spec, v *VPCSpec) { nic(v).VSwitch = "" },
		[]string{inNIC + "vswitch: a vswitch is required"}},
	{"a vswitch of another VPC", func(_ *Spec, v *VPCSpec) { nic(v).VSwitch = "front" },
		[]string{inNIC + `vswitch: there is no vswitch "front" in this VPC: VPC "prod" has one, and nothing is shared between VPCs`}},
	{"groups of two types", func(_ *Spec, v *VPCSpec) { nic(v).SecurityGroups = []string{"closed", "web"} },
		[]string{inNIC + `securityGroups: group "closed" is advanced and "web" is basic: all groups of an interface have one type`}},
	{"no groups", func(_ *Spec, v *VPCSpec) { nic(v).SecurityGroups = []string{} },
		[]string{inNIC + "securityGroups: an interface is in at least one group: leave the field out for [default]"}},
	{"a group that is not there", func(_ *Spec, v *VPCSpec) { nic(v).SecurityGroups = []string{"wep"} },
		[]string{inNIC + `securityGroups: there is no security group "wep" (this VPC has app, closed, default, web)`}},
	{"11 groups", func(_ *Spec, v *VPCSpec) {
		nic(v).SecurityGroups = nil
		for i := range 11 {
			v.SecurityGroups = append(v.SecurityGroups, &GroupSpec{Name: fmt.Sprintf("g%d", i)})
			nic(v).SecurityGroups = append(nic(v).SecurityGroups, fmt.Sprintf("g%d", i))
		}
	}, []string{inNIC + "securityGroups: has 11 groups, and an interface is in at most 10"}},
	{"a pinned port with a slash", func(_ *Spec, v *VPCSpec) { nic(v).Port = "a/b" },
		[]string{inNIC + `port: "a/b": the name of a link has only letters, digits, hyphens, underscores and dots`}},
	{"a pinned port where there is no bridge", func(_ *Spec, v *VPCSpec) { nic(v).Port, web(v).Attach.Interface = "tap0", "eth1" },
		[]string{inNIC + `port: vswitch "web" has no bridge, so there are no ports to pin a MAC to`}},

	// Zones and forwarders.
	{"a zone of its own and shared", func(s *Spec, _ *VPCSpec) { s.PrivateZones[0].Name = "Corp.Example." },
		[]string{`privateZones[Corp.Example.].vpcs: VPC "research" has a zone of its own with that name`}},
	{"two shared zones for one VPC", func(s *Spec, _ *VPCSpec) {
		s.PrivateZones = append(s.PrivateZones, &PrivateZoneSpec{Name: "shared.example", VPCs: []string{"prod"}})
	}, []string{`privateZones[shared.example].vpcs: VPC "prod" is already served by another zone with that name`}},
	{"a zone twice in a VPC", func(_ *Spec, v *VPCSpec) {
		v.PrivateZones = append(v.PrivateZones, &PrivateZoneSpec{Name: "CORP.example"})
	},
		[]string{`vpcs[research].privateZones[CORP.example].name: there is another zone "CORP.example" in this VPC`}},
	{"a shared zone for nobody", func(s *Spec, _ *VPCSpec) { s.PrivateZones[0].VPCs = nil },
		[]string{"privateZones[shared.example].vpcs: a zone at the top level names the VPCs that it serves"}},
	{"a shared zone for a VPC that is not there", func(s *Spec, _ *VPCSpec) { s.PrivateZones[0].VPCs = []string{"lab"} },
		[]string{`privateZones[shared.example].vpcs: there is no VPC "lab"`}},
	{"a zone in a VPC that names VPCs", func(_ *Spec, v *VPCSpec) { zone(v).VPCs = []string{"prod"} },
		[]string{inZone + "vpcs: a zone inside a VPC serves that VPC: move it to the top level to share it"}},
	{"an unknown way with missing names", func(_ *Spec, v *VPCSpec) { zone(v).Missing = "refuse" },
		[]string{inZone + `missing: "refuse": write nxdomain or forward`}},
	{"a zone name with a space", func(_ *Spec, v *VPCSpec) { zone(v).Name = "corp example" },
		[]string{`vpcs[research].privateZones[corp example].name: "corp example": a domain name has only letters, digits, hyphens and dots`}},
	{"an unknown type of record", record("a", "SPF", "x"), []string{inZone + `records[2].type: "SPF": the types of a private zone are A, AAAA, CNAME, MX, PTR, SRV, TXT`}},
	{"an A record with an IPv6 address", record("a", "A", "fd00::1"), []string{inZone + `records[2].value: "fd00::1": an A record holds an IPv4 address`}},
	{"an AAAA record with an IPv4 address", record("a", "AAAA", "10.0.0.1"), []string{inZone + `records[2].value: "10.0.0.1": an AAAA record holds an IPv6 address`}},
	{"an MX record without a preference", record("a", "MX", "mail"), []string{inZone + `records[2].value: "mail": an MX record holds a preference and a name, as in "10 mail"`}},
	{"an SRV record without a port", record("_sip._tcp", "SRV", "0 5 sip"), []string{inZone + `records[2].value: "0 5 sip": an SRV record holds priority, weight, port and a name, as in "0 5 5060 sip"`}},
	{"a TXT record of 256 characters", record("a", "TXT", strings.Repeat("x", 256)), []string{inZone + `records[2].value: "` + strings.Repeat("x", 256) + `": a TXT record has at most 255 characters`}},
	{"a TXT record with an open quote", record("a", "TXT", `"x`), []string{inZone + `records[2].value: "\"x": a quotation mark is not closed`}},
	{"a CNAME beside other data", record("git", "A", "10.0.0.1"), []string{inZone + "records[2].type: git has a CNAME and other data: a CNAME stands alone"}},
	{"a second CNAME", record("GIT", "CNAME", "other"), []string{inZone + "records[2].type: GIT has a CNAME already, and a name has at most one"}},
	{"a CNAME at the apex", record("@", "CNAME", "other"), []string{inZone + "records[2].type: the apex of a zone has no CNAME: it has other data (SOA and NS)"}},
	{"a record twice", record("@", "MX", "10 mail"), []string{inZone + "records[2]: @ MX 10 mail is written twice"}},
	{"a record with an absolute name", record("a.corp.example.", "A", "10.0.0.1"), []string{inZone + `records[2].name: "a.corp.example.": the name of a record is relative to its zone: without the final dot`}},
	{"a record with a label of 64", record(strings.Repeat("a", 64), "A", "10.0.0.1"), []string{inZone + `records[2].name: "` + strings.Repeat("a", 64) + `": a label of a domain name has at most 63 characters`}},
	{"a wildcard in the middle", record("a.*.b", "A", "10.0.0.1"), []string{inZone + `records[2].name: "a.*.b": a domain name has only letters, digits, hyphens and dots`}},
	{"a negative TTL", func(_ *Spec, v *VPCSpec) { zone(v).Records[0].TTL = -1 }, []string{inZone + "records[0].ttl: -1: a TTL is 0 to 2147483647 seconds"}},
	{"a weight of 101", func(_ *Spec, v *VPCSpec) { zone(v).Records[0].Weight = 101 }, []string{inZone + "records[0].weight: 101: a weight is 1 to 100"}},
	{"a forwarder without servers", func(_ *Spec, v *VPCSpec) { v.Forwarders[0].Servers = nil },
		[]string{"vpcs[research].forwarders[partner.example].servers: a forwarder needs at least one server: IP[:port]"}},
	{"a forwarder to a name", func(_ *Spec, v *VPCSpec) { v.Forwarders[0].Servers[0] = "ns.example" },
		[]string{`vpcs[research].forwarders[partner.example].servers: "ns.example" is not the address of a server: IP[:port], an IPv6 address with a port in brackets`}},
	{"two forwarders for one zone", func(_ *Spec, v *VPCSpec) {
		v.Forwarders = append(v.Forwarders, &ForwarderSpec{Zone: "Partner.Example.", Servers: []string{"[fd00::53]:5353", "fd00::53"}})
	}, []string{`vpcs[research].forwarders[Partner.Example.].zone: there is another forwarder for "Partner.Example."`}},

	// Tests.
	{"a test without an end", func(s *Spec, _ *VPCSpec) { s.Tests[0].To = "" },
		[]string{"tests[0].to: an instance, an interface's ID, an address or internet is required"}},
	{"a tcp test without a port", func(s *Spec, _ *VPCSpec) { s.Tests[0].Port = 0 },
		[]string{"tests[0].port: 0: a tcp test needs a port from 1 to 65535"}},
	{"an icmp test with a port", func(s *Spec, _ *VPCSpec) { s.Tests[0].Protocol = ProtocolICMP },
		[]string{"tests[0].port: protocol icmp has no ports: only tcp and udp have"}},
	{"a test of all protocols", func(s *Spec, _ *VPCSpec) { s.Tests[0].Protocol = ProtocolAll },
		[]string{"tests[0].protocol: a test is about one protocol: tcp, udp, icmp, icmpv6, gre or a number"}},
	{"a test that expects nothing", func(s *Spec, _ *VPCSpec) { s.Tests[0].Expect = "" },
		[]string{`tests[0].expect: "": write accept or drop`}},
}

func manyRules(n int, source string) []*RuleSpec {
	var out []*RuleSpec
	for i := range n {
		out = append(out, &RuleSpec{Direction: Ingress, Protocol: ProtocolTCP, Ports: Ports{{uint16(i + 1), uint16(i + 1)}}, Source: peer(source), Priority: 1})
	}
	return out
}

func manyEntries(n int, source string) []*EntrySpec {
	var out []*EntrySpec
	for i := range n {
		out = append(out, &EntrySpec{Protocol: ProtocolTCP, Ports: Ports{{uint16(i), uint16(i)}}, Source: peer(source)})
	}
	return out
}

func record(name, rrtype, value string) func(*Spec, *VPCSpec) {
	return func(_ *Spec, v *VPCSpec) {
		zone(v).Records = append(zone(v).Records, &RecordSpec{Name: name, Type: rrtype, Value: value, TTL: 60})
	}
}

func TestValidateRefuses(t *testing.T) {
	for _, tt := range badSpecs {
		t.Run(tt.name, func(t *testing.T) {
			s := good()
			tt.change(s, s.VPCs[1])
			got := Validate(s, host()).Error()
			if want := strings.Join(tt.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestValidateReportsAllProblemsInTheOrderOfTheSpec(t *testing.T) {
	s := good()
	v := s.VPCs[1]
	rule(v).Priority, web(v).Enrollment, nic(v).SecurityGroups, v.Domain, s.Tests[0].Expect = 0, "x", []string{}, "_", "x"
	var got []string
	for _, p := range Validate(s, host()) {
		got = append(got, p.Path)
	}
	want := []string{inResearch + "domain", inWeb + "enrollment", inRule + "priority", inNIC + "securityGroups", "tests[0].expect"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestGroupsHoldAsManyAsTheCloudLets(t *testing.T) {
	for _, tt := range []struct {
		name  string
		group GroupType
		n     int
		want  string
	}{
		{"6,000 addresses in a basic group", GroupBasic, 3000, ""},
		{"6,002 addresses in a basic group", GroupBasic, 3001, "vpcs[big].securityGroups[many]: has 6002 addresses, and a basic group holds at most 6000: use an advanced group or several basic ones"},
		{"65,536 interfaces in an advanced group", GroupAdvanced, 65536, ""},
		{"65,537 interfaces in an advanced group", GroupAdvanced, 65537, "vpcs[big].securityGroups[many]: has 65537 interfaces, and an advanced group holds at most 65536"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := crowd(tt.n)
			s.VPCs[0].SecurityGroups[1].Type = tt.group
			if got := Validate(s, Host{}).Error(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func BenchmarkValidate10k(b *testing.B) {
	s := crowd(10000)
	for b.Loop() {
		if err := Validate(s, Host{}).Err(); err != nil {
			b.Fatal(err)
		}
	}
}
