package dns

import (
	"net/netip"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// lab is the network that the tests ask about: two VPCs that use the same names, domains and zones.
func lab() *vpc.Spec {
	research := newVPC("research", "vpc-a", "10.20.0.0/16", "fd00:20::/56")
	research.Domain = "research.internal"
	research.VSwitches = []*vpc.VSwitchSpec{
		newVSwitch("web", "vsw-0000000000000001", "10.20.1.0/24", "fd00:20:0:1::/64"),
		newVSwitch("far", "vsw-0000000000000002", "10.20.2.0/24", ""),
	}
	research.VSwitches[1].Attach.Relay = []netip.Addr{netip.MustParseAddr("10.9.0.2")}
	research.Instances = []*vpc.InstanceSpec{
		newInstance("web-1", "i-aaaa000000000001", "web", "10.20.1.10", "fd00:20:0:1::10"),
		newInstance("db.prod", "i-aaaa000000000002", "web", "10.20.1.11", "fd00:20:0:1::11"),
		newInstance("v4only", "i-aaaa000000000003", "web", "10.20.1.12", ""),
		newInstance("Mixed-Case", "i-aaaa000000000004", "web", "10.20.1.13", ""),
		newInstance("quiet", "i-aaaa000000000005", "web", "10.20.1.14", "fd00:20:0:1::14"),
	}
	research.Instances[0].Interfaces[0].SecondaryPrivateIPs = []netip.Addr{netip.MustParseAddr("10.20.1.110")}
	research.Instances[4].PrivateDNS = vpc.PrivateDNSSpec{HostnameType: vpc.HostnameCustom}
	research.PrivateZones = []*vpc.PrivateZoneSpec{
		newZone("corp.example", vpc.MissingNXDOMAIN,
			"git CNAME web-1.research.internal.",
			"www CNAME git",
			"loop1 CNAME loop2", "loop2 CNAME loop1", "self CNAME self",
			"gone CNAME nowhere.research.internal.",
			"out CNAME www.example.org.",
			"@ MX 10 mail", "mail A 10.20.9.9", "mail AAAA fd00:20::9:9",
			"txt TXT v=spf1 include:example.org; -all",
			`quoted TXT "one" "two"`,
			"_sip._tcp SRV 10 20 5060 mail",
			"*.wild A 10.20.9.1", "host.wild A 10.20.9.2", "sub.*.wild TXT below a star",
			"a.b.ent A 10.20.9.3",
			"caa CAA 0 issue \"ca.example\"",
			"two A 10.20.9.4", "two A 10.20.9.5", "two AAAA fd00:20::9:4",
		),
		newZone("deep.corp.example", vpc.MissingNXDOMAIN, "x A 10.20.9.20"),
		newZone("mixed.example", vpc.MissingForward, "inside A 10.20.9.30", "*.star A 10.20.9.31", "a.ent A 10.20.9.32"),
		newZone("10.in-addr.arpa", vpc.MissingNXDOMAIN, "1.0.99 PTR far.corp.example."),
	}
	research.Forwarders = []*vpc.ForwarderSpec{
		{Zone: "partner.example", Servers: []string{"192.0.2.53"}},
		{Zone: "lab.corp.example", Servers: []string{"192.0.2.54:5353"}},
		{Zone: "168.192.in-addr.arpa", Servers: []string{"192.0.2.55"}},
	}

	other := newVPC("other", "vpc-b", "10.30.0.0/20", "fd00:30::/62")
	other.Domain = "research.internal"
	other.VSwitches = []*vpc.VSwitchSpec{newVSwitch("web", "vsw-0000000000000003", "10.30.1.0/24", "fd00:30::/64")}
	other.Instances = []*vpc.InstanceSpec{
		newInstance("web-1", "i-bbbb000000000001", "web", "10.30.1.10", "fd00:30::10"),
	}

	silent := newVPC("silent", "vpc-c", "10.40.0.0/16", "")
	silent.DNSHostnames = false
	silent.VSwitches = []*vpc.VSwitchSpec{newVSwitch("web", "vsw-0000000000000004", "10.40.1.0/24", "")}
	silent.Instances = []*vpc.InstanceSpec{newInstance("web-1", "i-cccc000000000001", "web", "10.40.1.10", "")}

	shared := newZone("shared.example", vpc.MissingNXDOMAIN, "both A 10.20.9.99")
	shared.VPCs = []string{"other", "silent"}
	return &vpc.Spec{VPCs: []*vpc.VPCSpec{research, other, silent}, PrivateZones: []*vpc.PrivateZoneSpec{shared}}
}

func newVPC(name, id, v4, v6 string) *vpc.VPCSpec {
	v := &vpc.VPCSpec{Name: name, ID: id, CIDRBlock: netip.MustParsePrefix(v4)}
	v.SetDefaults()
	if v6 != "" {
		v.IPv6CIDRBlock = netip.MustParsePrefix(v6)
	}
	return v
}

func newVSwitch(name, id, v4, v6 string) *vpc.VSwitchSpec {
	w := &vpc.VSwitchSpec{Name: name, ID: id, CIDRBlock: netip.MustParsePrefix(v4)}
	w.SetDefaults()
	if v6 != "" {
		w.IPv6CIDRBlock = netip.MustParsePrefix(v6)
	}
	return w
}

func newInstance(name, id, vswitch, v4, v6 string) *vpc.InstanceSpec {
	i := &vpc.InstanceSpec{Name: name, ID: id}
	i.SetDefaults()
	a := netip.MustParseAddr(v4)
	b := a.As4()
	nic := &vpc.InterfaceSpec{ID: "eni-" + strings.TrimPrefix(id, "i-"), MAC: vpc.MAC{0, 0x16, b[0], b[1], b[2], b[3]}, VSwitch: vswitch, PrivateIP: a}
	if v6 != "" {
		nic.IPv6Addresses = []netip.Addr{netip.MustParseAddr(v6)}
	}
	i.Interfaces = []*vpc.InterfaceSpec{nic}
	return i
}

// newZone reads records as "name TYPE value".
func newZone(name string, missing vpc.Missing, records ...string) *vpc.PrivateZoneSpec {
	z := &vpc.PrivateZoneSpec{Name: name, Missing: missing}
	for _, s := range records {
		f := strings.SplitN(s, " ", 3)
		r := &vpc.RecordSpec{Name: f[0], Type: f[1], Value: f[2]}
		r.SetDefaults()
		z.Records = append(z.Records, r)
	}
	return z
}

func snapshotOf(spec *vpc.Spec) *vpc.Snapshot {
	return vpc.NewSnapshot(spec, vpc.Host{Region: "lab-1"}, 42)
}

// viewOf builds the view of one of the VPCs.
func viewOf(t testing.TB, s *vpc.Snapshot, name string) *View {
	t.Helper()
	for _, v := range s.VPCs {
		if v.Name == name {
			return BuildView(s, v)
		}
	}
	t.Fatalf("no VPC %s", name)
	return nil
}

// parseQuery packs a message and reads it as a packet would be.
func parseQuery(t testing.TB, m *miekg.Msg) *Query {
	t.Helper()
	wire, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q := new(Query)
	if rcode, ok := q.parse(wire); !ok || rcode != miekg.RcodeSuccess {
		t.Fatalf("parse: rcode %d, reply %v", rcode, ok)
	}
	return q
}

func question(name, typ string) *miekg.Msg {
	m := new(miekg.Msg)
	m.SetQuestion(name, miekg.StringToType[typ])
	return m
}

func unpack(t testing.TB, wire []byte) *miekg.Msg {
	t.Helper()
	m := new(miekg.Msg)
	if err := m.Unpack(wire); err != nil {
		t.Fatalf("unpack the reply: %v", err)
	}
	return m
}

// section prints records with single spaces, OPT left out.
func section(rrs []miekg.RR) []string {
	out := []string{}
	for _, rr := range rrs {
		if rr.Header().Rrtype != miekg.TypeOPT {
			out = append(out, strings.Join(strings.Fields(rr.String()), " "))
		}
	}
	return out
}
