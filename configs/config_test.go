package configs

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gatehouse/vpc"
)

func TestTheReferenceFileShowsEveryKeyWithItsDefault(t *testing.T) {
	c, err := Load("gatehouse.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// The file shows empty lists; not written, they are nil.
	for _, list := range []reflect.Value{reflect.ValueOf(&c.Uplinks), reflect.ValueOf(&c.HostAccess), reflect.ValueOf(&c.DNS.TSIGKeys), reflect.ValueOf(&c.DNS.QueryLog)} {
		if list.Elem().IsNil() || list.Elem().Len() != 0 {
			t.Errorf("%s is not shown as the empty list", list.Elem().Type())
		}
		list.Elem().SetZero()
	}
	if want := Default(); !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
	data, err := os.ReadFile("gatehouse.yaml")
	if err != nil {
		t.Fatal(err)
	}
	roots, err := parse("gatehouse.yaml", data, maxConfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range keysOf(reflect.TypeFor[Config](), "") {
		at, steps := locateIn("gatehouse.yaml", roots[0], path)
		if steps != len(segments(path)) {
			t.Errorf("%s is not shown (found as far as line %d)", path, at.Line)
		}
	}
}

// keysOf lists the paths of all keys of a struct.
func keysOf(typ reflect.Type, path string) []string {
	var out []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		at := join(path, jsonName(f))
		out = append(out, at)
		if f.Type.Kind() == reflect.Struct {
			out = append(out, keysOf(f.Type, at)...)
		}
	}
	return out
}

func TestAnEmptyConfigurationIsTheDefault(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n", "{}\n", "\ufeff"} {
		c, err := ParseConfig("c.yaml", []byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if !reflect.DeepEqual(c, Default()) {
			t.Errorf("%q: got %+v", text, c)
		}
	}
}

func TestEveryKeyIsRead(t *testing.T) {
	c, err := ParseConfig("c.yaml", []byte(`
stateDir: /srv/gatehouse
region: cn-lab-7
uplinks: [eth0, wg-out]
api: {socket: /tmp/api.sock, listen: "[::1]:8443"}
metrics: {listen: :9153}
dns:
  upstreams: [system, 192.0.2.53, 192.0.2.54:5353, "2001:db8::53", "[2001:db8::54]:5353", tls://dns.example@192.0.2.55, "tls://dns.example@[2001:db8::55]:8853"]
  parallel: true
  rateLimit: 5000
  queryLog: [research]
  cacheSize: 0
  tsigKeys: [{name: k.example., secret: MDEyMzQ1Njc4OWFiY2RlZg==}]
firewall: {backend: legacy, verifyInterval: 1m, markMask: 0x00ffff00}
hostAccess: [22/tcp, 53/udp, icmp, "8000-8100,9000/tcp", gre, 22/tcp@lab, icmp@lab/admin]
enrollmentExpiry: 7d
log: {level: debug, format: json}
manifest: /etc/gatehouse/lab.yaml
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		StateDir: "/srv/gatehouse", Region: "cn-lab-7", Uplinks: []string{"eth0", "wg-out"},
		API:     API{Socket: "/tmp/api.sock", Listen: "[::1]:8443"},
		Metrics: Metrics{Listen: ":9153"},
		DNS: DNS{
			Upstreams: []Upstream{
				{System: true}, {Addr: netip.MustParseAddrPort("192.0.2.53:53")}, {Addr: netip.MustParseAddrPort("192.0.2.54:5353")},
				{Addr: netip.MustParseAddrPort("[2001:db8::53]:53")}, {Addr: netip.MustParseAddrPort("[2001:db8::54]:5353")},
				{Addr: netip.MustParseAddrPort("192.0.2.55:853"), TLSName: "dns.example"}, {Addr: netip.MustParseAddrPort("[2001:db8::55]:8853"), TLSName: "dns.example"},
			},
			Parallel: true, RateLimit: 5000, QueryLog: []string{"research"},
			TSIGKeys: []TSIGKey{{Name: "k.example.", Algorithm: "hmac-sha256", Secret: "MDEyMzQ1Njc4OWFiY2RlZg=="}},
		},
		Firewall: Firewall{Backend: BackendLegacy, VerifyInterval: vpc.Duration(time.Minute), MarkMask: 0x00ffff00},
		HostAccess: []HostAccess{
			{Protocol: vpc.ProtocolTCP, Ports: vpc.Ports{{From: 22, To: 22}}},
			{Protocol: vpc.ProtocolUDP, Ports: vpc.Ports{{From: 53, To: 53}}},
			{Protocol: vpc.ProtocolICMP},
			{Protocol: vpc.ProtocolTCP, Ports: vpc.Ports{{From: 8000, To: 8100}, {From: 9000, To: 9000}}},
			{Protocol: vpc.ProtocolGRE},
			{Protocol: vpc.ProtocolTCP, Ports: vpc.Ports{{From: 22, To: 22}}, VPC: "lab"},
			{Protocol: vpc.ProtocolICMP, VPC: "lab", VSwitch: "admin"},
		},
		EnrollmentExpiry: vpc.Duration(7 * 24 * time.Hour),
		Log:              Log{Level: LevelDebug, Format: FormatJSON},
		Manifest:         "/etc/gatehouse/lab.yaml",
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	h := c.Host()
	if h.Region != c.Region || !reflect.DeepEqual(h.Uplinks, c.Uplinks) || len(h.HostAccess) != len(c.HostAccess) {
		t.Errorf("host: %+v", h)
	}
	if c.StateFile() != "/srv/gatehouse/state.db" {
		t.Errorf("state file: %s", c.StateFile())
	}
}

func TestAConfigurationThatIsNotThereSaysWhichFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	_, err := Load(path)
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

func TestValuesAreWrittenAsTheyAreRead(t *testing.T) {
	for _, text := range []string{"22/tcp", "22-23,80/udp", "icmp", "all", "22/tcp@lab", "22-23,80/udp@lab/admin", "all@lab/a.b"} {
		var h HostAccess
		if err := h.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got, _ := h.MarshalText(); string(got) != text {
			t.Errorf("%s: written as %s", text, got)
		}
	}
	for _, text := range []string{"system", "192.0.2.1:53", "[2001:db8::1]:5353", "tls://dns.example@192.0.2.1:853"} {
		var u Upstream
		if err := u.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got, _ := u.MarshalText(); string(got) != text {
			t.Errorf("%s: written as %s", text, got)
		}
	}
	for _, text := range []string{"0xffff0000", "0x00ffff00"} {
		var m Mask
		if err := m.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got, _ := m.MarshalText(); string(got) != text {
			t.Errorf("%s: written as %s", text, got)
		}
	}
}
