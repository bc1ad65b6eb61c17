package dhcp6

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"gatehouse/server/dhcp"
	"gatehouse/server/port"
	"gatehouse/vpc"
)

// relayed puts a relay's header around a message.
func relayed(count byte, link, peer netip.Addr, inner []byte, options ...Option) []byte {
	b := slices.Concat([]byte{byte(dhcpv6.MessageTypeRelayForward), count}, link.AsSlice(), peer.AsSlice())
	for _, o := range append(options, Option{dhcpv6.OptionRelayMsg, inner}) {
		b = appendOption(b, o.Code, o.Data)
	}
	return b
}

// nested is a message within n relays.
func nested(n int) []byte {
	b := message(dhcpv6.MessageTypeSolicit, ia(1)).ToBytes()
	for i := range n {
		b = relayed(byte(i), addr("fd00:20:0:3::1"), addr("fe80::216:3eff:fe00:4"), b)
	}
	return b
}

// broken are messages that once hurt a DHCPv6 server, or the library that this one does not read them with.
func broken() map[string][]byte {
	solicit := message(dhcpv6.MessageTypeSolicit).ToBytes()
	with := func(code dhcpv6.OptionCode, data ...byte) []byte {
		return appendOption(slices.Clone(solicit), code, data)
	}
	return map[string][]byte{
		"nothing":                               {},
		"three bytes":                           solicit[:3],
		"half an option":                        append(slices.Clone(solicit), 0, 3),
		"an option that is cut off":             append(slices.Clone(solicit), 0, 3, 0, 12, 1),
		"a DUID of two bytes":                   appendOption(slices.Clone(solicit[:4]), dhcpv6.OptionClientID, []byte{0, 3}),
		"a DUID that is too long":               appendOption(slices.Clone(solicit[:4]), dhcpv6.OptionClientID, make([]byte, 131)),
		"an identity association of ten bytes":  with(dhcpv6.OptionIANA, make([]byte, 10)...),
		"an address of ten bytes":               with(dhcpv6.OptionIANA, append(make([]byte, 12), 0, 5, 0, 10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)...),
		"options within options that run over":  with(dhcpv6.OptionIANA, append(make([]byte, 12), 0, 5, 0, 200)...),
		"nine relays":                           nested(9),
		"a relay's header that is cut off":      nested(1)[:20],
		"a relay without a message":             nested(1)[:34],
		"a relay with two messages":             appendOption(nested(1), dhcpv6.OptionRelayMsg, solicit),
		"a SOLICIT without a client identifier": message(dhcpv6.MessageTypeSolicit, nobody).ToBytes(),
		"a SOLICIT with a server identifier":    message(dhcpv6.MessageTypeSolicit, ours).ToBytes(),
		"a REQUEST without a server identifier": message(dhcpv6.MessageTypeRequest, ia(1)).ToBytes(),
		"an INFORMATION-REQUEST for an address": message(dhcpv6.MessageTypeInformationRequest, ia(1)).ToBytes(),
	}
}

func TestParseRequestRefuses(t *testing.T) {
	for name, b := range broken() {
		if _, err := ParseRequest(&dhcp.Packet{Payload: b, Dst: allServers}, serverDUID); !errors.Is(err, dhcp.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, kind := range []dhcpv6.MessageType{dhcpv6.MessageTypeAdvertise, dhcpv6.MessageTypeReply, dhcpv6.MessageTypeReconfigure, dhcpv6.MessageTypeRelayReply, 200} {
		if _, err := ParseRequest(packet(webMAC, message(kind)), serverDUID); !errors.Is(err, dhcp.ErrNotClient) {
			t.Errorf("message type %d: %v", kind, err)
		}
	}
	p := packet(webMAC, message(dhcpv6.MessageTypeSolicit, ia(1)))
	p.Dst = addr("fd00:20:0:1:ffff:ffff:ffff:fff7")
	if _, err := ParseRequest(p, serverDUID); !errors.Is(err, dhcp.ErrMalformed) {
		t.Errorf("a SOLICIT to one server: %v", err)
	}
}

func TestParseRequestReadsWhatTheLibraryWrites(t *testing.T) {
	const badPrefix = "\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\x1a\x00\x19\x00\x00\x00\x00\x00\x00\x00\x00\xc8................"
	r := parse(t, packet(webMAC, message(dhcpv6.MessageTypeSolicit, ia(1, "fd00:20:0:1::10", "fd00:20:0:1::11"), rapid,
		asks(dhcpv6.OptionDNSRecursiveNameServer), fqdn6("\x05web-1\x03lab\x00", 1), raw(dhcpv6.OptionIAPD, []byte(badPrefix)...))))
	if r.Type != dhcpv6.MessageTypeSolicit || r.MAC != webMAC || !bytes.Equal(r.ClientID, clientDUID) || !r.RapidCommit || r.ServerID != nil {
		t.Errorf("read %+v", r)
	}
	if len(r.IAs) != 2 || !slices.Equal(r.IAs[0].Addrs, []netip.Addr{addr("fd00:20:0:1::10"), addr("fd00:20:0:1::11")}) || r.IAs[0].ID != [4]byte{0, 0, 0, 1} {
		t.Errorf("identity associations %+v", r.IAs)
	}
	if !r.wants(dhcpv6.OptionDNSRecursiveNameServer) || r.wants(dhcpv6.OptionDomainSearchList) {
		t.Errorf("options %v", r.Options)
	}
	if c := r.Sender(webID); c.Hostname != "web-1" || c.Family != vpc.IPv6 || c.DUID != "0003000100163e000001" {
		t.Errorf("client %+v", c)
	}
	if r.Relayed() || r.Unicast {
		t.Errorf("relayed %t, unicast %t", r.Relayed(), r.Unicast)
	}
}

func TestHostnameOfFQDN(t *testing.T) {
	for data, want := range map[string]string{
		"\x00\x03web\x00": "web", "\x00\x03web": "web", "\x00": "", "\x00\x00": "", "\x00\x3fweb": "", "\x00\xc0\x0c": "",
		"\x00\x03w b\x00": "", "\x00\x04-web\x00": "",
	} {
		if f := parseFQDN([]byte(data)); f == nil || f.Hostname != want {
			t.Errorf("%q: %+v, want %q", data, f, want)
		}
	}
}

func TestClientMACOfARelayedMessage(t *testing.T) {
	mac := []byte{0, 1, 0x00, 0x16, 0x3e, 0, 0, 4}
	withID := func(id ...byte) []byte {
		return message(dhcpv6.MessageTypeSolicit, nobody, raw(dhcpv6.OptionClientID, id...), ia(1)).ToBytes()
	}
	inner := withID(0, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
	link := addr("fd00:20:0:3::1")
	for _, tt := range []struct {
		name    string
		payload []byte
		want    vpc.MAC
	}{
		{"the relay says it", relayed(0, link, addr("fe80::5"), inner, Option{dhcpv6.OptionClientLinkLayerAddr, mac}), farMAC},
		{"the client's address is made of it", relayed(0, link, addr("fe80::216:3eff:fe00:4"), inner), farMAC},
		{"its DUID is made of it", relayed(0, link, addr("fe80::5"), withID(0, 3, 0, 1, 0x00, 0x16, 0x3e, 0, 0, 4)), farMAC},
		{"its DUID is made of it and of a time", relayed(0, link, addr("fe80::5"), withID(0, 1, 0, 1, 9, 9, 9, 9, 0x00, 0x16, 0x3e, 0, 0, 4)), farMAC},
		{"its DUID is another interface's", relayed(0, link, addr("fe80::216:3eff:fe00:4"), withID(0, 3, 0, 1, 2, 0, 0, 0, 0, 7)), farMAC},
		{"its DUID is made of no Ethernet address", relayed(0, link, addr("fe80::5"), withID(0, 3, 0, 6, 1, 2, 3, 4, 5, 6)), vpc.MAC{}},
		{"its DUID is made of everybody's address", relayed(0, link, addr("fe80::5"), withID(0, 3, 0, 1, 255, 255, 255, 255, 255, 255)), vpc.MAC{}},
		{"its DUID is too long for what it says it is", relayed(0, link, addr("fe80::5"), withID(0, 3, 0, 1, 2, 0, 0, 0, 0, 7, 7)), vpc.MAC{}},
		{"nobody says it", relayed(0, link, addr("fe80::5"), inner), vpc.MAC{}},
		{"it is no Ethernet address", relayed(0, link, addr("fe80::5"), inner, Option{dhcpv6.OptionClientLinkLayerAddr, []byte{0, 6, 1, 2, 3, 4, 5, 6}}), vpc.MAC{}},
		{"a relay further away does not know", relayed(1, link, relay2, relayed(0, link, addr("fe80::5"), inner), Option{dhcpv6.OptionClientLinkLayerAddr, mac}), vpc.MAC{}},
	} {
		p, d := readRelayed(tt.payload, relay)
		if tt.want.IsZero() {
			if p != nil || d != dhcp.DropSpoofed {
				t.Errorf("%s: %+v, %q", tt.name, p, d)
			}
			continue
		}
		if p == nil || p.Key.MAC != tt.want || p.Key.Kind != byte(dhcpv6.MessageTypeSolicit) || p.Key.XID != 0x010203 {
			t.Errorf("%s: %+v, %q", tt.name, p, d)
		}
	}
	if p, d := readRelayed(inner, relay); p != nil || d != dhcp.DropRelay {
		t.Errorf("a client that speaks to the relays' socket: %+v, %q", p, d)
	}
}

func TestEightRelaysAreAsManyAsThereMayBe(t *testing.T) {
	snap := spec(func(v *vpc.VPCSpec) { v.VSwitches[2].Attach.Relay = []netip.Addr{relay, addr("fd00:9::3")} })
	inner, link := message(dhcpv6.MessageTypeSolicit, ia(1)).ToBytes(), addr("fd00:20:0:3::1")
	b := relayed(0, link, addr("fe80::216:3eff:fe00:4"), inner)
	for i := range maxHops - 1 {
		b = relayed(byte(i+1), netip.IPv6Unspecified(), addr("fd00:9::3"), b, Option{dhcpv6.OptionInterfaceID, []byte{byte(i)}})
	}
	p, drop := readRelayed(b, relay)
	if p == nil {
		t.Fatalf("dropped: %q", drop)
	}
	p.Relay = relay
	r := parse(t, p)
	far := snap.VSwitchByID(farID)
	if got := r.VSwitch([]*vpc.VSwitch{far}); got != far {
		t.Fatalf("for %v", got)
	}
	leases := newEngine(t, snap)
	to, b := r.Decide(leases, far).Reply.Datagram()
	for i := maxHops - 2; i >= 0; i-- {
		m, err := dhcpv6.RelayMessageFromBytes(b)
		if err != nil || m.MessageType != dhcpv6.MessageTypeRelayReply || int(m.HopCount) != i+1 || !bytes.Equal(m.Options.InterfaceID(), []byte{byte(i)}) {
			t.Fatalf("relay %d reads %v, %v", i+1, m, err)
		}
		b = m.Options.RelayMessage().ToBytes()
	}
	last, err := dhcpv6.RelayMessageFromBytes(b)
	if err != nil || to != relay {
		t.Fatalf("to %s: %v", to, err)
	}
	if m, err := last.GetInnerMessage(); err != nil || summary(m) != "na1 fd00:20:0:3::10/86400" {
		t.Errorf("the client reads %v, %v", m, err)
	}
}

// guestFrame is a message as a guest sends it.
func guestFrame(mac vpc.MAC, src, dst netip.Addr, m []byte) []byte {
	udp := make([]byte, port.UDPSize, port.UDPSize+len(m))
	binary.BigEndian.PutUint16(udp[0:], clientPort)
	binary.BigEndian.PutUint16(udp[2:], serverPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(port.UDPSize+len(m)))
	h := port.IPv6{SrcMAC: mac, DstMAC: vpc.MAC{0x33, 0x33, 0, 1, 0, 2}, Src: src, Dst: dst, HopLimit: 1}
	return h.Frame(vpc.ProtocolUDP, append(udp, m...), 6)
}

func TestReadFrame(t *testing.T) {
	w := spec(nil).VSwitchByID(webID)
	m := message(dhcpv6.MessageTypeSolicit, ia(1)).ToBytes()
	good := guestFrame(webMAC, addr("fe80::16"), allServers, m)
	other := func(change func(b []byte)) []byte { b := slices.Clone(good); change(b); return b }
	for _, tt := range []struct {
		name  string
		frame []byte
		ok    bool
		drop  dhcp.Drop
	}{
		{"to all servers", good, true, dhcp.DropNone},
		{"to the gateway", guestFrame(webMAC, addr("fe80::16"), w.GatewayAddr(vpc.IPv6), m), true, dhcp.DropNone},
		{"to the router", guestFrame(webMAC, addr("fe80::16"), vpc.RouterLinkLocal, m), true, dhcp.DropNone},
		{"to another server", guestFrame(webMAC, addr("fe80::16"), addr("fd00:20:0:1::11"), m), false, dhcp.DropNone},
		{"from nowhere", guestFrame(webMAC, netip.IPv6Unspecified(), allServers, m), false, dhcp.DropMalformed},
		{"from a group", guestFrame(webMAC, addr("ff02::1"), allServers, m), false, dhcp.DropMalformed},
		{"from a group of Ethernet", guestFrame(vpc.MAC{1, 2, 3, 4, 5, 6}, addr("fe80::16"), allServers, m), false, dhcp.DropMalformed},
		{"cut off", good[:len(good)-1], false, dhcp.DropMalformed},
		{"with a length of UDP that runs over", other(func(b []byte) { b[58]++ }), false, dhcp.DropMalformed},
		{"to another port", other(func(b []byte) { b[57]++ }), false, dhcp.DropMalformed},
		{"of TCP", other(func(b []byte) { b[20] = 6 }), false, dhcp.DropMalformed},
		{"of IPv4", other(func(b []byte) { b[12], b[13] = 8, 0 }), false, dhcp.DropMalformed},
		{"without a message", guestFrame(webMAC, addr("fe80::16"), allServers, m[:3]), false, dhcp.DropMalformed},
	} {
		p, d := readFrame(tt.frame, w)
		if (p != nil) != tt.ok || d != tt.drop {
			t.Errorf("%s: %+v, %q", tt.name, p, d)
		}
		if p != nil && (p.Key.MAC != webMAC || !bytes.Equal(p.Payload, m) || p.Src != addr("fe80::16")) {
			t.Errorf("%s: read %+v", tt.name, p)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, b := range broken() {
		f.Add(b)
	}
	f.Add(message(dhcpv6.MessageTypeSolicit, ia(1, "fd00:20:0:1::10"), rapid, fqdn6("\x05web-1\x00", 1)).ToBytes())
	f.Add(nested(8))
	// A prefix longer than an address, which the library reads as none at all.
	f.Add(message(dhcpv6.MessageTypeSolicit, raw(dhcpv6.OptionIAPD, tooLong()...)).ToBytes())
	f.Add(message(dhcpv6.MessageTypeSolicit, raw(dhcpv6.OptionIAPD, tooLong()[:30]...)).ToBytes())
	f.Add(message(dhcpv6.MessageTypeRenew, ours, ia(1, "fd00:20:0:1::10"), pd(1, "fd00:20:0:1:6::/80", "::/0"), pd(2, "fd00:20:0:1:7::/80")).ToBytes())
	f.Add(message(dhcpv6.MessageTypeRelease, ours, pd(1, "fd00:20:0:1:6::/80")).ToBytes())
	// Compression pointers that make a name of one packet a megabyte long.
	f.Add(message(dhcpv6.MessageTypeSolicit, raw(dhcpv6.OptionFQDN, append([]byte{0}, bytes.Repeat([]byte{0xc0, 1}, 500)...)...)).ToBytes())
	snap := spec(delegated)
	w := snap.VSwitchByID(webID)
	f.Fuzz(func(t *testing.T, b []byte) {
		leases := newEngine(t, snap)
		readFrame(b, w)
		readRelayed(b, relay)
		readRelayed(relayed(0, addr("fd00:20:0:3::1"), addr("fe80::216:3eff:fe00:4"), b), relay)
		r, err := ParseRequest(&dhcp.Packet{Payload: b, Key: dhcp.Key{MAC: webMAC}, Src: addr("fe80::16"), Dst: allServers}, serverDUID)
		if err != nil {
			return
		}
		r.ClientID = clientDUID // which the library takes apart, and we do not
		d := r.Decide(leases, w)
		if d.Reply == nil {
			return
		}
		answer := d.Reply.(*Reply).Encode()
		if len(answer) > maxReply {
			t.Errorf("a reply of %d bytes", len(answer))
		}
		if _, err := dhcpv6.MessageFromBytes(answer); err != nil {
			t.Errorf("a client cannot read the reply: %v\n%x", err, answer)
		}
		d.Reply.Datagram()
	})
}
