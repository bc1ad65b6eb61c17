package vpc

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with a file in testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

func TestDiff(t *testing.T) {
	for _, tt := range []struct {
		name     string
		from, to func() *Spec
	}{
		{"from-nothing", func() *Spec { return nil }, good},
		{"to-nothing", good, func() *Spec { return nil }},
		{"of-everything", good, func() *Spec {
			s := good()
			v := s.VPCs[1]
			v.Description, v.DNSHostnames, v.DHCPOptions.MTU, v.SecondaryCIDRBlocks = "a lab", false, 1400, nil
			v.DHCPOptions.Routes = []RouteSpec{{px("192.0.2.0/24")}, {px("198.51.100.0/24")}}
			web(v).Attach.Bridge, web(v).NetworkACL, web(v).Gateway = "br-web", "", ip("10.20.1.1")
			webGroup(v).InnerAccess = Drop
			rule(v).Priority = 7
			webGroup(v).Rules = append(webGroup(v).Rules[:2:2], &RuleSpec{ID: "sgr-9", Direction: Ingress, Policy: Accept, Protocol: ProtocolICMPv6, Source: peer("::/0"), Priority: 1, Description: "ping"})
			v.PrefixLists[0].Entries = append(v.PrefixLists[0].Entries, px("192.0.2.0/24"))
			slices.Reverse(v.NetworkACLs[0].Egress)
			nic(v).PrivateIP, nic(v).SecurityGroups, nic(v).IPv6Addresses = ip("10.20.1.20"), []string{"closed"}, append(nic(v).IPv6Addresses, ip("fd00:20:0:1::11"))
			nic(v).IPv6Prefixes = []netip.Prefix{px("fd00:20:0:1:4::/80"), px("fd00:20:0:1:9::/80")}
			v.Instances[1].PrivateDNS.IPARecord = false
			zone(v).Records[0].TTL = 5
			v.Forwarders[0].Servers = append(v.Forwarders[0].Servers, "192.0.2.54:5353")
			v.Instances = slices.Insert(v.Instances, 1, &InstanceSpec{ID: "i-9", Name: "new-1", Enrolled: true, Interfaces: []*InterfaceSpec{{
				ID: "eni-9", MAC: mac(9), VSwitch: "db", PrivateIP: ip("10.20.2.9"), IPv6AddressCount: new(0), SecurityGroups: []string{"default"}}}})
			s.VPCs = s.VPCs[1:]
			s.PrivateZones[0].VPCs = []string{"research"}
			s.Tests[0].Expect = Drop
			return s
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changes := Diff(tt.from(), tt.to())
			got, err := json.MarshalIndent(changes, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "diff-"+tt.name+".json", append(got, '\n'))
			var lines strings.Builder
			for _, c := range changes {
				lines.WriteString(c.String() + "\n")
			}
			golden(t, "diff-"+tt.name+".txt", []byte(lines.String()))
			for range 10 {
				if again, _ := json.MarshalIndent(Diff(tt.from(), tt.to()), "", "  "); string(again) != string(got) {
					t.Fatal("the same Specs differ otherwise the second time")
				}
			}
		})
	}
}

func TestEqualSpecsDoNotDiffer(t *testing.T) {
	turned := good()
	v := turned.VPCs[1]
	slices.Reverse(webGroup(v).Rules)
	slices.Reverse(zone(v).Records)
	slices.Reverse(v.Instances)
	slices.Reverse(turned.VPCs)
	for _, to := range []*Spec{good(), clone(t, good()), turned} {
		if d := Diff(good(), to); len(d) > 0 {
			t.Errorf("they differ by %v", d)
		}
	}
	if d := Diff(nil, &Spec{}); len(d) > 0 {
		t.Errorf("nothing differs from an empty Spec by %v", d)
	}
}

func TestTheOrderOfInterfacesMakesADifference(t *testing.T) {
	pair := func(a, b int) *Spec {
		s := good()
		v := s.VPCs[1]
		v.Instances[0].Interfaces = []*InterfaceSpec{{MAC: mac(a), VSwitch: "db"}, {MAC: mac(b), VSwitch: "db"}}
		return s
	}
	d := Diff(pair(1, 2), pair(2, 1))
	if len(d) != 1 || d[0].String() != "update instance research/db-1: interfaces 00:16:3e:00:00:01, 00:16:3e:00:00:02 -> 00:16:3e:00:00:02, 00:16:3e:00:00:01" {
		t.Errorf("got %v", d)
	}
}

// A plan must show whatever an object has: no field may be forgotten.
func TestEveryFieldMakesADifference(t *testing.T) {
	for _, tt := range []struct {
		field  string
		change func(s *Spec, v *VPCSpec)
	}{
		{"cidrBlock", func(_ *Spec, v *VPCSpec) { v.CIDRBlock = px("10.20.0.0/15") }},
		{"ipv6CidrBlock", func(_ *Spec, v *VPCSpec) { v.IPv6CIDRBlock = netip.Prefix{} }},
		{"natGateway", func(_ *Spec, v *VPCSpec) { v.NATGateway = true }},
		{"ipv6PrefixTranslations", func(_ *Spec, v *VPCSpec) {
			v.IPv6PrefixTranslations = []PrefixTranslationSpec{{"eth0", px("2001:db8:1::/56")}}
		}},
		{"dhcpOptions.boot.biosFile", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.Boot.BIOSFile = "undionly.kpxe" }},
		{"dhcpOptions.ntpServers", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.NTPServers = []netip.Addr{ip("192.0.2.1")} }},
		{"dhcpOptions.captivePortal", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.CaptivePortal = "https://portal.example/api" }},
		{"dhcpOptions.ipv6OnlyPreferred", func(_ *Spec, v *VPCSpec) { v.DHCPOptions.IPv6OnlyPreferred = Duration(3600e9) }},
		{"attach.relay", func(_ *Spec, v *VPCSpec) { web(v).Attach.Relay = []netip.Addr{ip("10.9.0.2")} }},
		{"pool", func(_ *Spec, v *VPCSpec) { web(v).Pool = AddrRange{ip("10.20.1.20"), ip("10.20.1.30")} }},
		{"enrollment", func(_ *Spec, v *VPCSpec) { web(v).Enrollment = EnrollmentClosed }},
		{"maxEntries", func(_ *Spec, v *VPCSpec) { v.PrefixLists[0].MaxEntries = 21 }},
		{"rules[sgr-1]", func(_ *Spec, v *VPCSpec) { rule(v).SourcePorts = Ports{{1, 2}} }},
		{"rules[sgr-1]", func(_ *Spec, v *VPCSpec) { rule(v).Destination = peer("10.20.1.10") }},
		{"ingress[0]", func(_ *Spec, v *VPCSpec) { v.NetworkACLs[0].Ingress[0].Description = "x" }},
		{"egress[1]", func(_ *Spec, v *VPCSpec) { v.NetworkACLs[0].Egress[1].Policy = Drop }},
		{"metadata.sshKeys", func(_ *Spec, v *VPCSpec) { v.Instances[0].Metadata.SSHKeys = []string{"ssh-ed25519 AAAA"} }},
		{"metadata.userData", func(_ *Spec, v *VPCSpec) { v.Instances[0].Metadata.UserData = "#!/bin/sh" }},
		{"enrolled", func(_ *Spec, v *VPCSpec) { v.Instances[0].Enrolled = true }},
		{"port", func(_ *Spec, v *VPCSpec) { nic(v).Port = "tap0" }},
		{"missing", func(_ *Spec, v *VPCSpec) { zone(v).Missing = MissingForward }},
		{"transferTo", func(_ *Spec, v *VPCSpec) { zone(v).TransferTo = []netip.Addr{ip("192.0.2.1")} }},
		{"updateKeys", func(_ *Spec, v *VPCSpec) { zone(v).UpdateKeys = []string{"key"} }},
		{"id", func(_ *Spec, v *VPCSpec) { v.SecurityGroups[1].ID = "sg-9" }},
		{"records", func(_ *Spec, v *VPCSpec) { zone(v).Records[0].Weight = 5 }},
		{"vpcs", func(s *Spec, _ *VPCSpec) { s.PrivateZones[0].VPCs = []string{"prod"} }},
	} {
		t.Run(tt.field, func(t *testing.T) {
			s := good()
			tt.change(s, s.VPCs[1])
			d := Diff(good(), s)
			if len(d) != 1 || d[0].Action != Update || len(d[0].Fields) != 1 || d[0].Fields[0].Field != tt.field {
				t.Errorf("got %+v", d)
			}
		})
	}
}
