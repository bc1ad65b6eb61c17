package dhcp6

import (
	"encoding/hex"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// codes are the options of a message in their order, and those of its reply.
func codes(b []byte) []dhcpv6.OptionCode {
	var list []dhcpv6.OptionCode
	_ = options(b[headerSize:], func(code dhcpv6.OptionCode, _ []byte) error { list = append(list, code); return nil })
	return list
}

func TestWhichOptionsInWhichMessage(t *testing.T) {
	const (
		client, server, na, preference, statusCode = dhcpv6.OptionClientID, dhcpv6.OptionServerID, dhcpv6.OptionIANA, dhcpv6.OptionPreference, dhcpv6.OptionStatusCode
		rapidCommit, dns, search, name, refresh    = dhcpv6.OptionRapidCommit, dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList, dhcpv6.OptionFQDN, dhcpv6.OptionInformationRefreshTime
		own                                        = "fd00:20:0:1::10"
	)
	servers := func(v *vpc.VPCSpec) { v.DHCPOptions.DomainNameServers = []netip.Addr{addr("10.20.9.53")} }
	extras := func(v *vpc.VPCSpec) {
		v.DHCPOptions.CaptivePortal = "https://portal.example/api"
		v.DHCPOptions.NTPServers = []netip.Addr{addr("192.0.2.1"), addr("2001:db8::7b")}
	}
	for _, tt := range []struct {
		name    string
		change  func(*vpc.VPCSpec)
		vswitch string
		mac     vpc.MAC
		msg     *dhcpv6.Message
		want    []dhcpv6.OptionCode
	}{
		{"an offer on a bridge of ours need not be waited for", nil, webID, webMAC, message(dhcpv6.MessageTypeSolicit, ia(1)), []dhcpv6.OptionCode{server, client, na, preference, dns, search}},
		{"an offer on a foreign link is one among others", nil, physID, physMAC, message(dhcpv6.MessageTypeSolicit, ia(1)), []dhcpv6.OptionCode{server, client, na, dns, search}},
		{"a reply has no preference", nil, webID, webMAC, message(dhcpv6.MessageTypeRequest, ours, ia(1)), []dhcpv6.OptionCode{server, client, na, dns, search}},
		{"rapid commit is confirmed", nil, webID, webMAC, message(dhcpv6.MessageTypeSolicit, ia(1), rapid), []dhcpv6.OptionCode{server, client, na, rapidCommit, dns, search}},
		{"only what is asked for", nil, webID, webMAC, message(dhcpv6.MessageTypeRenew, ours, ia(1, own), asks(search)), []dhcpv6.OptionCode{server, client, na, search}},
		{"nothing when nothing is asked for", nil, webID, webMAC, message(dhcpv6.MessageTypeRenew, ours, ia(1, own), asks()), []dhcpv6.OptionCode{server, client, na}},
		{"declared servers are IPv4's to tell", servers, webID, webMAC, message(dhcpv6.MessageTypeRequest, ours, ia(1)), []dhcpv6.OptionCode{server, client, na, search}},
		{"behind a relay the gateway is no resolver", nil, farID, farMAC, message(dhcpv6.MessageTypeRequest, ours, ia(1)), []dhcpv6.OptionCode{server, client, na, search}},
		{"a captive portal and time servers", extras, webID, webMAC, message(dhcpv6.MessageTypeRequest, ours, ia(1)), []dhcpv6.OptionCode{server, client, na, dns, dhcpv6.OptionCaptivePortal, dhcpv6.OptionNTPServer, dhcpv6.OptionSNTPServerList, search}},
		{"but not unless asked for", extras, webID, webMAC, message(dhcpv6.MessageTypeRequest, ours, ia(1), asks(dns)), []dhcpv6.OptionCode{server, client, na, dns}},
		{"a name is answered to who sends one", nil, webID, webMAC, message(dhcpv6.MessageTypeRequest, ours, ia(1), fqdn6("\x01x", 0)), []dhcpv6.OptionCode{server, client, na, dns, name, search}},
		{"information comes with the time to ask again", nil, webID, webMAC, message(dhcpv6.MessageTypeInformationRequest), []dhcpv6.OptionCode{server, client, refresh, dns, search}},
		{"a confirmation says nothing else", nil, webID, webMAC, message(dhcpv6.MessageTypeConfirm, ia(1, own)), []dhcpv6.OptionCode{server, client, statusCode}},
		{"a release is confirmed and nothing else", nil, webID, webMAC, message(dhcpv6.MessageTypeRelease, ours, ia(1, own)), []dhcpv6.OptionCode{server, client, statusCode, na}},
	} {
		leases := newEngine(t, spec(tt.change))
		d := parse(t, packet(tt.mac, tt.msg)).Decide(leases, leases.VSwitch(tt.vswitch))
		if d.Reply == nil {
			t.Errorf("%s: silence: %+v", tt.name, d)
			continue
		}
		if got := codes(d.Reply.(*Reply).Encode()); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestTimeServersAndThePortalAreWrittenAsTheirRFCsSay(t *testing.T) {
	leases := newEngine(t, spec(func(v *vpc.VPCSpec) {
		v.DHCPOptions.CaptivePortal = "https://portal.example/api"
		v.DHCPOptions.NTPServers = []netip.Addr{addr("192.0.2.1"), addr("2001:db8::7b")}
	}))
	d := parse(t, packet(webMAC, message(dhcpv6.MessageTypeInformationRequest))).Decide(leases, leases.VSwitch(webID))
	got := map[dhcpv6.OptionCode]string{}
	_ = options(d.Reply.(*Reply).Encode()[headerSize:], func(code dhcpv6.OptionCode, data []byte) error {
		got[code] = hex.EncodeToString(data)
		return nil
	})
	for code, want := range map[dhcpv6.OptionCode]string{
		dhcpv6.OptionCaptivePortal:  hex.EncodeToString([]byte("https://portal.example/api")),
		dhcpv6.OptionNTPServer:      "00010010" + "20010db800000000000000000000007b",
		dhcpv6.OptionSNTPServerList: "20010db800000000000000000000007b",
	} {
		if got[code] != want {
			t.Errorf("option %d is %s, want %s", code, got[code], want)
		}
	}
}

func TestFQDN(t *testing.T) {
	for _, tt := range []struct {
		name      string
		published bool
		client    uint8
		want      uint8
	}{
		{"the client leaves its name to us", true, 1, 1},
		{"the client would update its name itself", true, 0, 3},
		{"names are not published, and the client would not have it", false, 4, 4},
		{"names are not published, and the client would have it", false, 1, 6},
	} {
		snap := spec(func(v *vpc.VPCSpec) { v.DNSHostnames = tt.published })
		got := fqdn(&FQDN{Flags: tt.client}, snap.InterfaceByMAC(webMAC))
		if want := string(tt.want) + "\x05web-1\x08research\x08internal\x00"; string(got) != want {
			t.Errorf("%s: %q, want %q", tt.name, got, want)
		}
	}
}

func TestLifetimes(t *testing.T) {
	snap := spec(func(v *vpc.VPCSpec) { v.DHCPOptions.IPv6LeaseTime = vpc.Duration(1000 * time.Second) })
	leases := newEngine(t, snap)
	d := parse(t, packet(webMAC, message(dhcpv6.MessageTypeRequest, ours, ia(1)))).Decide(leases, leases.VSwitch(webID))
	na := decoded(t, d.Reply.(*Reply).Encode()).Options.OneIANA()
	a := na.Options.OneAddress()
	if na.T1 != 500*time.Second || na.T2 != 800*time.Second || a.PreferredLifetime != 1000*time.Second || a.ValidLifetime != 1000*time.Second {
		t.Errorf("T1 %s, T2 %s, preferred %s, valid %s", na.T1, na.T2, a.PreferredLifetime, a.ValidLifetime)
	}
	if !d.Lease.Expires.Equal(begin.Add(1000 * time.Second)) {
		t.Errorf("the lease ends at %s", d.Lease.Expires)
	}
}

func TestWhatDoesNotFitIsLeftOut(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", 60)+".", 4) + "example"
	var search []string
	for i := range 6 {
		search = append(search, string(rune('a'+i))+long)
	}
	leases := newEngine(t, spec(func(v *vpc.VPCSpec) { v.DHCPOptions.SearchDomains = search }))
	d := parse(t, packet(webMAC, message(dhcpv6.MessageTypeRequest, ours, ia(1)))).Decide(leases, leases.VSwitch(webID))
	b := d.Reply.(*Reply).Encode()
	if len(b) > maxReply || slices.Contains(codes(b), dhcpv6.OptionDomainSearchList) || !slices.Contains(codes(b), dhcpv6.OptionDNSRecursiveNameServer) {
		t.Errorf("%d bytes with %v", len(b), codes(b))
	}
}

func TestFramesAndDatagramsAreAsRecorded(t *testing.T) {
	leases := newEngine(t, spec(nil))
	link := vpc.MAC{0x02, 0, 0, 0, 0, 1}
	solicit := message(dhcpv6.MessageTypeSolicit, ia(1), fqdn6("\x05web-1\x00", 1))
	direct := parse(t, packet(webMAC, solicit)).Decide(leases, leases.VSwitch(webID)).Reply.Frame(port.Port{LinkMAC: link}, nil)
	h, udp, ok := port.ParseIPv6(direct, vpc.ProtocolUDP)
	if !ok || !h.Intact(vpc.ProtocolUDP, udp) || h.Src != vpc.RouterLinkLocal || h.Dst != addr("fe80::16") || h.DstMAC != webMAC || h.SrcMAC != link {
		t.Errorf("frame %+v, intact %t", h, h.Intact(vpc.ProtocolUDP, udp))
	}
	golden(t, "advertise.frame", direct)

	onLink := addr("fd00:20:0:3::1")
	inner := relayed(0, onLink, addr("fe80::216:3eff:fe00:4"), solicit.ToBytes(), Option{dhcpv6.OptionInterfaceID, []byte("port7")})
	p, drop := readRelayed(relayed(1, addr("fd00:9::2"), relay2, inner), relay)
	if p == nil {
		t.Fatalf("dropped: %q", drop)
	}
	p.Relay = relay
	to, b := parse(t, p).Decide(leases, leases.VSwitch(farID)).Reply.Datagram()
	if to != relay {
		t.Errorf("to %s", to)
	}
	outer, err := dhcpv6.RelayMessageFromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	if next, ok := outer.Options.RelayMessage().(*dhcpv6.RelayMessage); !ok || outer.HopCount != 1 || string(next.Options.InterfaceID()) != "port7" {
		t.Errorf("relays: %s", outer.Summary())
	}
	golden(t, "relay-reply.datagram", b)
}

// golden compares bytes with a file of hexadecimal lines.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	var text strings.Builder
	for line := range slices.Chunk(b, 32) {
		text.WriteString(hex.EncodeToString(line) + "\n")
	}
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != string(want) {
		t.Errorf("%s differs:\n%swant\n%s", name, text.String(), want)
	}
}
