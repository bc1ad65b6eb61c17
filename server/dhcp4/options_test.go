package dhcp4

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/vpc"
)

// offerTo is the OFFER that a client gets in a network that change has altered.
func offerTo(t *testing.T, change func(*vpc.VPCSpec), vswitch string, mac vpc.MAC, changes ...with) (*dhcpv4.DHCPv4, []byte) {
	t.Helper()
	e := newEngine(t, spec(change))
	d := parse(t, message(dhcpv4.MessageTypeDiscover, mac, changes...)).Decide(e, e.VSwitch(vswitch))
	if replyOf(d) == nil {
		t.Fatalf("no offer: %s", d.Drop)
	}
	b := replyOf(d).Encode()
	return decoded(t, b), b
}

func TestOptions(t *testing.T) {
	set := func(f func(*vpc.DHCPOptionsSpec)) func(*vpc.VPCSpec) {
		return func(v *vpc.VPCSpec) { f(&v.DHCPOptions) }
	}
	name := func(kind vpc.HostnameType) func(*vpc.VPCSpec) {
		return func(v *vpc.VPCSpec) { v.Instances[0].PrivateDNS.HostnameType = kind }
	}
	routes := set(func(o *vpc.DHCPOptionsSpec) {
		o.Routes = []vpc.RouteSpec{{Destination: netip.MustParsePrefix("192.0.2.0/25")}, {Destination: netip.MustParsePrefix("10.0.0.0/8")}, {Destination: netip.MustParsePrefix("0.0.0.0/0")}}
	})
	portal := set(func(o *vpc.DHCPOptionsSpec) { o.CaptivePortal = "https://portal.example/api" })
	withIPv6 := func(v *vpc.VPCSpec) {
		v.IPv6CIDRBlock, v.VSwitches[0].IPv6CIDRBlock = netip.MustParsePrefix("fd00:20::/56"), netip.MustParsePrefix("fd00:20:0:1::/64")
		v.Instances[0].Interfaces[0].IPv6Addresses = []netip.Addr{addr("fd00:20:0:1::10")}
	}
	v6only := func(v *vpc.VPCSpec) {
		withIPv6(v)
		v.DHCPOptions.IPv6OnlyPreferred = vpc.Duration(30 * time.Minute)
	}
	hidden := func(v *vpc.VPCSpec) { v.DNSHostnames = false }
	nothing := func(*vpc.VPCSpec) {}
	tests := []struct {
		name    string
		change  func(*vpc.VPCSpec)
		vswitch string
		mac     vpc.MAC
		ask     with
		code    uint8
		want    string // "": the option is absent
	}{
		{"the server is the gateway", nothing, webID, webMAC, asks(), 54, "\x0a\x14\x01\xfd"},
		{"a bridge's mask is the vSwitch's", nothing, webID, webMAC, asks(), 1, "\xff\xff\xff\x00"},
		{"a foreign link's mask leaves nobody else on the link", nothing, physID, physMAC, asks(), 1, "\xff\xff\xff\xff"},
		{"a relayed vSwitch's mask is its own", nothing, farID, farMAC, asks(), 1, "\xff\xff\xff\x00"},
		{"the router is always there", nothing, webID, webMAC, asks(6), 3, "\x0a\x14\x01\xfd"},
		{"the router is there beside routes", routes, webID, webMAC, asks(121), 3, "\x0a\x14\x01\xfd"},
		{"the gateway resolves names", nothing, webID, webMAC, asks(6), 6, "\x0a\x14\x01\xfd"},
		{"behind a relay no address of ours resolves names", nothing, farID, farMAC, asks(6), 6, ""},
		{"declared resolvers take the gateway's place", set(func(o *vpc.DHCPOptionsSpec) {
			o.DomainNameServers = []netip.Addr{addr("192.0.2.53"), addr("2001:db8::53"), addr("192.0.2.54")}
		}), webID, webMAC, asks(6), 6, "\xc0\x00\x02\x35\xc0\x00\x02\x36"},
		{"a custom host name is the instance's name", nothing, webID, webMAC, asks(12), 12, "web-1"},
		{"a host name by address", name(vpc.HostnameIPBased), webID, webMAC, asks(12), 12, "ip-10-20-1-10"},
		{"a host name by instance", name(vpc.HostnameInstanceID), webID, webMAC, asks(12), 12, "i-web-1"},
		{"the domain is the VPC's", nothing, webID, webMAC, asks(15), 15, "research.internal"},
		{"a declared domain takes its place", set(func(o *vpc.DHCPOptionsSpec) { o.DomainName = "corp.example." }), webID, webMAC, asks(15), 15, "corp.example"},
		{"an MTU that is not declared is not sent", nothing, webID, webMAC, asks(26), 26, ""},
		{"a declared MTU", set(func(o *vpc.DHCPOptionsSpec) { o.MTU = 8500 }), webID, webMAC, asks(26), 26, "\x21\x34"},
		{"the broadcast address of a bridge", nothing, webID, webMAC, asks(28), 28, "\x0a\x14\x01\xff"},
		{"a foreign link has no broadcast address", nothing, physID, physMAC, asks(28), 28, ""},
		{"time servers", set(func(o *vpc.DHCPOptionsSpec) { o.NTPServers = []netip.Addr{addr("192.0.2.123")} }), webID, webMAC, asks(42), 42, "\xc0\x00\x02\x7b"},
		{"no time servers", nothing, webID, webMAC, asks(42), 42, ""},
		{"the lease time", set(func(o *vpc.DHCPOptionsSpec) { o.LeaseTime = vpc.Duration(time.Hour) }), webID, webMAC, asks(), 51, "\x00\x00\x0e\x10"},
		{"renewal after half of it", set(func(o *vpc.DHCPOptionsSpec) { o.LeaseTime = vpc.Duration(time.Hour) }), webID, webMAC, asks(), 58, "\x00\x00\x07\x08"},
		{"rebinding after seven eighths", set(func(o *vpc.DHCPOptionsSpec) { o.LeaseTime = vpc.Duration(time.Hour) }), webID, webMAC, asks(), 59, "\x00\x00\x0c\x4e"},
		{"the longest lease that can be declared", set(func(o *vpc.DHCPOptionsSpec) { o.LeaseTime = vpc.Duration(7300 * 24 * time.Hour) }), webID, webMAC, asks(), 59, "\x20\xe5\x05\x40"},
		{"the search list", set(func(o *vpc.DHCPOptionsSpec) { o.SearchDomains = []string{"a.example", "not a name", "_b.example."} }), webID, webMAC, asks(119), 119, "\x01a\x07example\x00\x02_b\x07example\x00"},
		{"no search list", nothing, webID, webMAC, asks(119), 119, ""},
		{"a bridge needs no routes", nothing, webID, webMAC, asks(121), 121, ""},
		{"declared routes go through the gateway, and so does everything else", routes, webID, webMAC, asks(121), 121,
			"\x19\xc0\x00\x02\x00\x0a\x14\x01\xfd" + "\x08\x0a\x0a\x14\x01\xfd" + "\x00\x0a\x14\x01\xfd"},
		{"Microsoft's number for the same", routes, webID, webMAC, asks(249), 249,
			"\x19\xc0\x00\x02\x00\x0a\x14\x01\xfd" + "\x08\x0a\x0a\x14\x01\xfd" + "\x00\x0a\x14\x01\xfd"},
		{"on a foreign link the gateway is reached directly and all else through it", nothing, physID, physMAC, asks(6), 121,
			"\x20\x0a\x14\x02\xfd\x00\x00\x00\x00" + "\x00\x0a\x14\x02\xfd"},
		{"a captive portal", portal, webID, webMAC, asks(114), 114, "https://portal.example/api"},
		{"no captive portal that is not asked for", portal, webID, webMAC, asks(6), 114, ""},
		{"no captive portal that is not declared", nothing, webID, webMAC, asks(114), 114, ""},
		{"how long IPv4 may be done without", v6only, webID, webMAC, asks(108), 108, "\x00\x00\x07\x08"},
		{"not to whom it would be news", v6only, webID, webMAC, asks(6), 108, ""},
		{"not where it is not declared", withIPv6, webID, webMAC, asks(108), 108, ""},
		{"not on a vSwitch without IPv6", v6only, physID, physMAC, asks(108), 108, ""},
		{"not to an interface without an IPv6 address", v6only, webID, webMAC2, asks(108), 108, ""},
		{"a name is answered as DNS writes it", nothing, webID, webMAC, option(dhcpv4.OptionFQDN, []byte("\x05\x00\x00\x03own")...), 81, "\x05\xff\xff\x05web-1\x08research\x08internal\x00"},
		{"a name is answered as text to who writes it so", nothing, webID, webMAC, option(dhcpv4.OptionFQDN, []byte("\x01\x00\x00own")...), 81, "\x01\xff\xffweb-1.research.internal"},
		{"a client that would update its name itself is told that we do", nothing, webID, webMAC, option(dhcpv4.OptionFQDN, []byte("\x04\x00\x00")...), 81, "\x07\xff\xff\x05web-1\x08research\x08internal\x00"},
		{"a client whose name is not published is told so", hidden, webID, webMAC, option(dhcpv4.OptionFQDN, []byte("\x05\x00\x00")...), 81, "\x0e\xff\xff\x05web-1\x08research\x08internal\x00"},
		{"another's name is not given away", nothing, webID, webMAC, option(dhcpv4.OptionFQDN, []byte("\x01\x00\x00web-2.research.internal")...), 81, "\x01\xff\xffweb-1.research.internal"},
		{"no name is told to who sends none", nothing, webID, webMAC, asks(81), 81, ""},
		{"nor to who sends half an option", nothing, webID, webMAC, option(dhcpv4.OptionFQDN, 1, 0), 81, ""},
		{"a client that names nothing gets the usual", nothing, webID, webMAC, func(*dhcpv4.DHCPv4) {}, 12, "web-1"},
		{"what is not asked for is not sent", nothing, webID, webMAC, asks(6), 12, ""},
		{"the client identifier comes back", nothing, webID, webMAC, option(dhcpv4.OptionClientIdentifier, 1, 2, 3), 61, "\x01\x02\x03"},
		{"no client identifier comes back when there was none", nothing, webID, webMAC, asks(61), 61, ""},
		{"relay information comes back", nothing, farID, farMAC, option(dhcpv4.OptionRelayAgentInformation, 1, 1, 'x'), 82, "\x01\x01x"},
		{"relay information comes back to a switch that adds it without being a relay", nothing, physID, physMAC, option(dhcpv4.OptionRelayAgentInformation, 1, 1, 'x'), 82, "\x01\x01x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, _ := offerTo(t, tt.change, tt.vswitch, tt.mac, tt.ask)
			got, ok := m.Options[tt.code]
			if string(got) != tt.want || ok != (tt.want != "") {
				t.Errorf("option %d is %q (%t), want %q", tt.code, got, ok, tt.want)
			}
		})
	}
}

func TestBoot(t *testing.T) {
	boot := vpc.BootSpec{Server: "10.20.1.5", File: "ipxe.efi", BIOSFile: "undionly.kpxe"}
	arch := func(n byte) with { return option(dhcpv4.OptionClientSystemArchitectureType, 0, n) }
	class := func(s string) with { return option(dhcpv4.OptionClassIdentifier, []byte(s)...) }
	tests := []struct {
		name          string
		boot          vpc.BootSpec
		client        []with
		file, class   string
		server        string // option 66
		next          string // siaddr
		pxeController bool
	}{
		{"a BIOS machine gets its file", boot, []with{arch(0), class("PXEClient:Arch:00000:UNDI:002001")}, "undionly.kpxe", "PXEClient", "10.20.1.5", "10.20.1.5", true},
		{"a UEFI machine gets its file", boot, []with{arch(7), class("PXEClient:Arch:00007:UNDI:003016")}, "ipxe.efi", "PXEClient", "10.20.1.5", "10.20.1.5", true},
		{"a UEFI machine of another processor gets it too", boot, []with{arch(11), class("PXEClient:Arch:00011")}, "ipxe.efi", "PXEClient", "10.20.1.5", "10.20.1.5", true},
		{"a machine that does not say is an old one", boot, []with{class("PXEClient")}, "undionly.kpxe", "PXEClient", "10.20.1.5", "10.20.1.5", true},
		{"an old machine gets the only file there is", vpc.BootSpec{Server: "10.20.1.5", File: "boot"}, []with{class("PXEClient")}, "boot", "PXEClient", "10.20.1.5", "10.20.1.5", true},
		{"a BIOS machine without a file of its own gets none", vpc.BootSpec{Server: "10.20.1.5", File: "ipxe.efi"}, []with{arch(0), class("PXEClient")}, "", "", "", "0.0.0.0", false},
		{"UEFI HTTP boot gets an address of the web", boot, []with{arch(16), class("HTTPClient:Arch:00016:UNDI:003001")}, "http://10.20.1.5/ipxe.efi", "HTTPClient", "10.20.1.5", "10.20.1.5", false},
		{"UEFI HTTP boot gets a whole address as declared", vpc.BootSpec{File: "https://boot.example/x.efi"}, []with{arch(16), class("HTTPClient")}, "https://boot.example/x.efi", "HTTPClient", "", "0.0.0.0", false},
		{"a client that asks for it gets it without a class", boot, []with{asks(66, 67)}, "undionly.kpxe", "", "10.20.1.5", "10.20.1.5", false},
		{"a server by name stands in its option only", vpc.BootSpec{Server: "boot.research.internal", File: "a"}, []with{asks(66, 67), arch(7)}, "a", "", "boot.research.internal", "0.0.0.0", false},
		{"a client that boots from its disk is told nothing", boot, []with{asks(1, 3, 6)}, "", "", "", "0.0.0.0", false},
		{"nothing is told where nothing is declared", vpc.BootSpec{}, []with{arch(7), class("PXEClient")}, "", "", "", "0.0.0.0", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, _ := offerTo(t, func(v *vpc.VPCSpec) { v.DHCPOptions.Boot = tt.boot }, webID, webMAC, tt.client...)
			get := func(c dhcpv4.OptionCode) string { return string(m.Options.Get(c)) }
			if m.BootFileName != tt.file || get(dhcpv4.OptionBootfileName) != tt.file {
				t.Errorf("file %q and option 67 %q, want %q", m.BootFileName, get(dhcpv4.OptionBootfileName), tt.file)
			}
			if got := get(dhcpv4.OptionClassIdentifier); got != tt.class {
				t.Errorf("class %q, want %q", got, tt.class)
			}
			if got := get(dhcpv4.OptionTFTPServerName); got != tt.server {
				t.Errorf("server %q, want %q", got, tt.server)
			}
			if got := m.ServerIPAddr.String(); got != tt.next {
				t.Errorf("siaddr %s, want %s", got, tt.next)
			}
			if got := bytes.Equal(m.Options[43], pxeControl); got != tt.pxeController {
				t.Errorf("PXE control %t, want %t", got, tt.pxeController)
			}
		})
	}
}

// codes are the options of a message in the order in which they stand in the options field.
func codes(b []byte) []byte {
	var out []byte
	for b = b[headerSize+cookieSize:]; len(b) > 1 && b[0] != 255; b = b[2+int(b[1]):] {
		out = append(out, b[0])
	}
	return out
}

func TestTheOrderOfOptions(t *testing.T) {
	_, b := offerTo(t, nil, webID, webMAC, asks(15, 12, 6, 1, 3, 12, 15, 77), option(dhcpv4.OptionClientIdentifier, 1, 2),
		option(dhcpv4.OptionRelayAgentInformation, 1, 1, 'x'))
	want := []byte{53, 54, 61, 51, 58, 59, 1, 3, 15, 12, 6, 82}
	if got := codes(b); !bytes.Equal(got, want) {
		t.Errorf("order %v, want %v: the type first, then what must be, then as asked, 82 last", got, want)
	}
}

func TestAShortReplyIsPadded(t *testing.T) {
	e := newEngine(t, spec(nil))
	d := parse(t, message(dhcpv4.MessageTypeRequest, webMAC, requested("10.20.1.99"))).Decide(e, e.VSwitch(webID))
	if b := replyOf(d).Encode(); len(b) != minMessage {
		t.Errorf("%d bytes, want %d: old clients refuse less", len(b), minMessage)
	}
}

func TestOptionsThatDoNotFit(t *testing.T) {
	long := func(v *vpc.VPCSpec) {
		for i := range 40 {
			v.DHCPOptions.Routes = append(v.DHCPOptions.Routes, vpc.RouteSpec{Destination: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(i), 0}), 24)})
		}
		v.DHCPOptions.SearchDomains = []string{strings.Repeat("a", 60) + ".example"}
		v.DHCPOptions.NTPServers = []netip.Addr{addr("192.0.2.1"), addr("192.0.2.2"), addr("192.0.2.3")}
		v.Instances[0].Name = strings.Repeat("n", 60)
	}
	const routes = 40*8 + 5
	everything := asks(12, 15, 6, 42, 119, 121)
	size := func(n uint16) with {
		return option(dhcpv4.OptionMaximumDHCPMessageSize, byte(n>>8), byte(n))
	}
	t.Run("a client that takes a frame gets everything in the options field", func(t *testing.T) {
		m, b := offerTo(t, long, webID, webMAC, everything, size(1500))
		if len(m.Options[121]) != routes {
			t.Errorf("%d bytes of routes, want %d in pieces", len(m.Options[121]), routes)
		}
		if m.Options.Has(dhcpv4.OptionOptionOverload) {
			t.Errorf("overload without need")
		}
		if len(b) > 1472 {
			t.Errorf("%d bytes", len(b))
		}
	})
	t.Run("a client that takes little gets what fits, the most wanted first", func(t *testing.T) {
		m, b := offerTo(t, long, webID, webMAC, everything)
		if len(b) > 548 {
			t.Errorf("%d bytes, and the client takes 548", len(b))
		}
		for _, code := range []uint8{1, 3, 6, 12, 15, 42, 119} {
			if _, ok := m.Options[code]; !ok {
				t.Errorf("option %d is missing", code)
			}
		}
		if _, ok := m.Options[121]; ok {
			t.Errorf("routes that do not fit were sent")
		}
	})
	t.Run("file and sname take what the options field cannot", func(t *testing.T) {
		// The client identifier fills the field nearly up.
		m, b := offerTo(t, long, webID, webMAC, asks(119, 12, 15, 6, 42), option(dhcpv4.OptionClientIdentifier, bytes.Repeat([]byte{9}, 250)...))
		if len(b) > 548 {
			t.Errorf("%d bytes, and the client takes 548", len(b))
		}
		if got := m.Options[52]; !bytes.Equal(got, []byte{3}) {
			t.Errorf("overload %v, want 3: both fields", got)
		}
		for code, want := range map[uint8]string{12: strings.Repeat("n", 60), 15: "research.internal"} {
			if got := string(m.Options[code]); got != want {
				t.Errorf("option %d is %q, want %q", code, got, want)
			}
		}
	})
	t.Run("the boot file's name keeps its field", func(t *testing.T) {
		boot := func(v *vpc.VPCSpec) { long(v); v.DHCPOptions.Boot = vpc.BootSpec{BIOSFile: "undionly.kpxe"} }
		m, _ := offerTo(t, boot, webID, webMAC, asks(66, 67, 12, 119, 15), option(dhcpv4.OptionClientIdentifier, bytes.Repeat([]byte{9}, 250)...))
		if m.BootFileName != "undionly.kpxe" {
			t.Errorf("file %q", m.BootFileName)
		}
	})
	t.Run("relay information does not count: the relay takes it out", func(t *testing.T) {
		with82 := option(dhcpv4.OptionRelayAgentInformation, append([]byte{1, 200}, make([]byte, 200)...)...)
		_, plain := offerTo(t, long, farID, farMAC, everything)
		m, b := offerTo(t, long, farID, farMAC, everything, with82)
		if len(m.Options[82]) != 202 || len(b) != len(plain)+204 {
			t.Errorf("%d bytes with %d of relay information, %d without", len(b), len(m.Options[82]), len(plain))
		}
	})
}

func TestRoute(t *testing.T) {
	everybody := Destination{IP: addr("255.255.255.255"), MAC: broadcastMAC}
	tests := []struct {
		name string
		msg  *dhcpv4.DHCPv4
		kind dhcpv4.MessageType
		your string
		want Destination
	}{
		{"a relayed reply goes to the relay", message(1, webMAC, giaddr("10.20.3.1")), dhcpv4.MessageTypeOffer, "10.20.3.10", Destination{Relay: addr("10.20.3.1")}},
		{"so does a relayed NAK", message(3, webMAC, giaddr("10.20.3.1")), dhcpv4.MessageTypeNak, "", Destination{Relay: addr("10.20.3.1")}},
		{"so does a relayed renewal", message(3, webMAC, giaddr("10.20.3.1"), ciaddr("10.20.3.10")), dhcpv4.MessageTypeAck, "10.20.3.10", Destination{Relay: addr("10.20.3.1")}},
		{"a NAK goes to everybody", message(3, webMAC), dhcpv4.MessageTypeNak, "", everybody},
		{"a NAK to a renewal goes to everybody", message(3, webMAC, ciaddr("10.20.1.10")), dhcpv4.MessageTypeNak, "", everybody},
		{"a renewal is answered to the address that the client has", message(3, webMAC, ciaddr("10.20.1.10")), dhcpv4.MessageTypeAck, "10.20.1.10", Destination{IP: addr("10.20.1.10"), MAC: webMAC}},
		{"that holds with the broadcast flag", message(3, webMAC, ciaddr("10.20.1.10"), broadcast), dhcpv4.MessageTypeAck, "10.20.1.10", Destination{IP: addr("10.20.1.10"), MAC: webMAC}},
		{"an INFORM is answered to the client's address", message(8, webMAC, ciaddr("10.20.1.10")), dhcpv4.MessageTypeAck, "", Destination{IP: addr("10.20.1.10"), MAC: webMAC}},
		{"a client that cannot take unicast yet gets broadcast", message(1, webMAC, broadcast), dhcpv4.MessageTypeOffer, "10.20.1.10", everybody},
		{"else the offer goes to the address that it is about", message(1, webMAC), dhcpv4.MessageTypeOffer, "10.20.1.10", Destination{IP: addr("10.20.1.10"), MAC: webMAC}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := parse(t, tt.msg)
			p := newReply(r, tt.kind, addr("10.20.1.253"))
			if tt.your != "" {
				p.Your = addr(tt.your)
			}
			if got := Route(r, p); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestARelayedNAKAsksTheRelayToBroadcast(t *testing.T) {
	e := newEngine(t, spec(nil))
	d := parse(t, message(dhcpv4.MessageTypeRequest, farMAC, giaddr("10.20.3.1"), requested("10.20.3.99"))).Decide(e, e.VSwitch(farID))
	if m := decoded(t, replyOf(d).Encode()); !m.IsBroadcast() || unlessZero(m.GatewayIPAddr) != addr("10.20.3.1") {
		t.Errorf("no broadcast flag (RFC 2131 section 4.3.2):\n%s", m.Summary())
	}
}
