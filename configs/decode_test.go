package configs

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/vpc"
)

// everything has a field of every type that a file can hold.
type everything struct {
	Text   string       `json:"text"`
	On     bool         `json:"on"`
	Number int          `json:"number"`
	MAC    vpc.MAC      `json:"mac"`
	Addr   netip.Addr   `json:"addr"`
	Prefix netip.Prefix `json:"prefix"`
	Ports  vpc.Ports    `json:"ports"`
	Proto  vpc.Protocol `json:"proto"`
	Peer   vpc.Peer     `json:"peer"`
	Span   vpc.Duration `json:"span"`
	Words  []string     `json:"words"`
	Count  *int         `json:"count"`
}

func decodeEverything(yaml string) (everything, error) {
	roots, err := parse("test.yaml", []byte(yaml), maxConfig)
	if err != nil {
		return everything{}, err
	}
	d := &decoder{file: "test.yaml"}
	var e everything
	decodeRoot(d, roots[0], &e)
	return e, errorOf(d.findings)
}

func TestScalarsAreReadByTheTypeOfTheirField(t *testing.T) {
	five := 5
	for _, c := range []struct {
		yaml string
		want everything
	}{
		{"mac: 52:54:00:12:34:56", everything{MAC: vpc.MAC{0x52, 0x54, 0, 0x12, 0x34, 0x56}}},
		{"mac: 00-16-3E-00-00-01", everything{MAC: vpc.MAC{0, 0x16, 0x3e, 0, 0, 1}}},
		{"mac: 10:20:30:40:50:10", everything{MAC: vpc.MAC{0x10, 0x20, 0x30, 0x40, 0x50, 0x10}}}, // base 60 to YAML 1.1
		{"addr: fd00::1", everything{Addr: netip.MustParseAddr("fd00::1")}},
		{"addr: ::1", everything{Addr: netip.MustParseAddr("::1")}},
		{"addr: 10.0.0.1", everything{Addr: netip.MustParseAddr("10.0.0.1")}},
		{"prefix: ::/0", everything{Prefix: netip.MustParsePrefix("::/0")}},
		{"{prefix: fd00:20::/56}", everything{Prefix: netip.MustParsePrefix("fd00:20::/56")}},
		{"peer: ::/0", everything{Peer: vpc.Peer{Kind: vpc.PeerPrefix, Prefix: netip.MustParsePrefix("::/0")}}},
		{"peer: 2001:db8::1", everything{Peer: vpc.Peer{Kind: vpc.PeerPrefix, Prefix: netip.MustParsePrefix("2001:db8::1/128")}}},
		{"{peer: sg:web}", everything{Peer: vpc.Peer{Kind: vpc.PeerGroup, Name: "web"}}},
		{"ports: 443", everything{Ports: vpc.Ports{{From: 443, To: 443}}}},
		{"ports: \"443\"", everything{Ports: vpc.Ports{{From: 443, To: 443}}}},
		{"ports: 22-23", everything{Ports: vpc.Ports{{From: 22, To: 23}}}},
		{"ports: 80,443", everything{Ports: vpc.Ports{{From: 80, To: 80}, {From: 443, To: 443}}}},
		{"ports: [80, 443, 8000-8100]", everything{Ports: vpc.Ports{{From: 80, To: 80}, {From: 443, To: 443}, {From: 8000, To: 8100}}}},
		{"ports: all", everything{}},
		{"proto: 50", everything{Proto: 50}},
		{"proto: TCP", everything{Proto: vpc.ProtocolTCP}},
		{"span: 24h", everything{Span: vpc.Duration(24 * 3600 * 1e9)}},
		{"span: 7300d", everything{Span: vpc.Duration(7300 * 24 * 3600 * 1e9)}},
		{"number: 0x10", everything{Number: 16}},
		{"number: -5", everything{Number: -5}},
		{"number: 0", everything{}},
		{"text: 0x10", everything{Text: "0x10"}},
		{"text: yes", everything{Text: "yes"}},
		{"text: 007", everything{Text: "007"}},
		{"text: 1.50", everything{Text: "1.50"}},
		{"text: 2001-01-01", everything{Text: "2001-01-01"}},
		{"text: \"null\"", everything{Text: "null"}},
		{"text: \"\"", everything{}},
		{"text: |\n  two\n  lines\n", everything{Text: "two\nlines\n"}},
		{"on: yes", everything{On: true}},
		{"on: True", everything{On: true}},
		{"on: off", everything{}},
		{"words: []", everything{Words: []string{}}},
		{"words: [no, 1, ~x]", everything{Words: []string{"no", "1", "~x"}}},
		{"count: 5", everything{Count: &five}},
		{"text: &a hello\nwords: [*a, *a]", everything{Text: "hello", Words: []string{"hello", "hello"}}},
		{"{\"text\": \"json\", \"words\": [\"a\"],\n\t\"on\": true}", everything{Text: "json", Words: []string{"a"}, On: true}},
	} {
		t.Run(c.yaml, func(t *testing.T) {
			got, err := decodeEverything(c.yaml)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestWrittenEmptyAndNotWrittenAreTwoThings(t *testing.T) {
	m := mustManifest(t, `
vpcs:
- name: a
  cidrBlock: 10.0.0.0/16
  instances:
  - name: i
    interfaces:
    - {mac: 00:16:3e:00:00:01, vswitch: w, securityGroups: []}
    - {mac: 00:16:3e:00:00:02, vswitch: w}
tests: []
`)
	nics := m.Spec.VPCs[0].Instances[0].Interfaces
	if nics[0].SecurityGroups == nil || nics[1].SecurityGroups != nil {
		t.Errorf("security groups: written empty %#v, not written %#v", nics[0].SecurityGroups, nics[1].SecurityGroups)
	}
	if m.Spec.Tests == nil {
		t.Error("tests: [] was lost")
	}
	if m := mustManifest(t, "vpcs: []\n"); m.Spec.Tests != nil {
		t.Error("tests appeared from nowhere")
	}
}

func TestOmittedFieldsHaveTheirDefaults(t *testing.T) {
	m := mustManifest(t, `
vpcs:
- name: a
  cidrBlock: 10.0.0.0/16
  dhcpOptions: {mtu: 1400}
  vswitches: [{name: w, cidrBlock: 10.0.0.0/24}]
  securityGroups: [{name: g, rules: [{direction: ingress, source: 10.0.0.0/8}]}]
  instances: [{name: i, privateDns: {idARecord: false}}]
  privateZones: [{name: z.example, records: [{name: a, type: A, value: 10.0.0.1}]}]
`)
	v := m.Spec.VPCs[0]
	const day = vpc.Duration(24 * 3600 * 1e9)
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"dnsHostnames", v.DNSHostnames, true},
		{"leaseTime beside a written mtu", v.DHCPOptions.LeaseTime, day},
		{"enrollment", v.VSwitches[0].Enrollment, vpc.EnrollmentAuto},
		{"type", v.SecurityGroups[0].Type, vpc.GroupBasic},
		{"policy", v.SecurityGroups[0].Rules[0].Policy, vpc.Accept},
		{"priority", v.SecurityGroups[0].Rules[0].Priority, 1},
		{"protocol", v.SecurityGroups[0].Rules[0].Protocol, vpc.ProtocolAll},
		{"idARecord, which is written", v.Instances[0].PrivateDNS.IDARecord, false},
		{"ipARecord beside it", v.Instances[0].PrivateDNS.IPARecord, true},
		{"missing", v.PrivateZones[0].Missing, vpc.MissingNXDOMAIN},
		{"ttl", v.PrivateZones[0].Records[0].TTL, 60},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: got %v, want %v", c.what, c.got, c.want)
		}
	}
}

func TestAliasesThatUnfoldWithoutEndAreStopped(t *testing.T) {
	times := func(n int, s string) string { return strings.TrimSuffix(strings.Repeat(s+", ", n), ", ") }
	bomb := "vpcs:\n- name: a\n  networkAcls:\n" +
		"  - ingress: &e [&x {source: 10.0.0.0/8}, " + times(999, "*x") + "]\n" +
		strings.Repeat("  - {ingress: *e, egress: *e}\n", 1000)
	for _, c := range []struct{ name, yaml string }{
		{"many times the same", bomb},
		{"itself within itself", "vpcs: [&a {name: x, instances: [*a]}]\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseManifest("bomb.yaml", []byte(c.yaml))
			if err == nil {
				t.Fatal("accepted")
			}
			if c.yaml == bomb && !strings.Contains(err.Error(), "unfolds to too much") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAFileThatIsTooLargeIsNotParsed(t *testing.T) {
	_, err := ParseConfig("c.yaml", []byte(strings.Repeat("# filler\n", maxConfig/8)))
	if err == nil || !strings.Contains(err.Error(), "bytes; at most") {
		t.Errorf("got %v", err)
	}
}

func TestSuggestionsNameWhatWasMeantAndNothingElse(t *testing.T) {
	known := []string{"cidrBlock", "vswitches", "name", "domain"}
	for _, c := range []struct{ word, want string }{
		{"cidr_block", "; did you mean cidrBlock?"},
		{"CIDRBLOCK", "; did you mean cidrBlock?"},
		{"vswitch", "; did you mean vswitches?"},
		{"nmae", "; did you mean name?"},
		{"colour", ""},
		{"x", ""},
		{strings.Repeat("name", 1000), ""},
	} {
		if got := suggestion(c.word, known); got != c.want {
			t.Errorf("%.20q: got %q, want %q", c.word, got, c.want)
		}
	}
}

func mustManifest(t *testing.T, yaml string) *Manifest {
	t.Helper()
	m, err := ParseManifest("lab.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func diffSpecs(a, b *vpc.Spec) string {
	return cmp.Diff(a, b, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }))
}

func FuzzConfig(f *testing.F) {
	reference, err := Embedded.ReadFile("gatehouse.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(reference))
	f.Add("hostAccess: [22/tcp, icmp]\nfirewall: {markMask: 0xff}\n")
	f.Add("a: &a [*a]\n")
	f.Fuzz(func(t *testing.T, data string) {
		c, err := ParseConfig("fuzz.yaml", []byte(data))
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", c, err)
		}
		if err == nil && len(c.validate()) > 0 {
			t.Errorf("accepted, but %v", c.validate())
		}
	})
}

func FuzzManifest(f *testing.F) {
	for _, name := range []string{"small.yaml", "two-tier.yaml"} {
		data, err := Embedded.ReadFile("examples/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Add("vpcs: [{name: 'a: b', description: \" x\\n\\ty \", cidrBlock: 10.0.0.0/8}]\n---\ntests: []\n")
	f.Fuzz(func(t *testing.T, data string) {
		m, err := ParseManifest("fuzz.yaml", []byte(data))
		if err != nil {
			return
		}
		out, err := EncodeManifest(m.Spec)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseManifest("again.yaml", out)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, out)
		}
		if d := diffSpecs(m.Spec, again.Spec); d != "" {
			t.Errorf("what was read back differs (-first +again):\n%s\n%s", d, out)
		}
	})
}

func ExampleError() {
	_, err := ParseManifest("lab.yaml", []byte("vpcs:\n- name: lab\n  cidrBlock: 10.20.0.1/16\n  natGatway: true\n"))
	fmt.Println(err)
	// Output:
	// lab.yaml:3: vpcs[lab].cidrBlock: 10.20.0.1/16 has host bits set: write 10.20.0.0/16
	// lab.yaml:4: vpcs[lab].natGatway: unknown key; did you mean natGateway?
}
