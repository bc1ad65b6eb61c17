package dhcp4

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/server/dhcp"
	"gatehouse/server/port"
)

func TestParseRequestRefuses(t *testing.T) {
	patch := func(offset int, v ...byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[offset:], v); return b }
	}
	tests := []struct {
		name   string
		change func([]byte) []byte
		err    error
	}{
		{"an empty datagram", func([]byte) []byte { return nil }, dhcp.ErrMalformed},
		{"a message cut short", func(b []byte) []byte { return b[:239] }, dhcp.ErrMalformed},
		{"a message longer than a frame", func(b []byte) []byte { return append(b, make([]byte, maxMessage)...) }, dhcp.ErrMalformed},
		{"a server's message", patch(0, 2), dhcp.ErrNotClient},
		{"a message that is neither", patch(0, 0), dhcp.ErrNotClient},
		{"hardware that is not Ethernet", patch(1, 32), dhcp.ErrMalformed},
		{"a hardware address of no octets", patch(2, 0), dhcp.ErrMalformed},
		{"a hardware address of sixteen octets", patch(2, 16), dhcp.ErrMalformed},
		{"a hardware address longer than its field", patch(2, 255), dhcp.ErrMalformed},
		{"a message that went in circles", patch(3, 17), dhcp.ErrMalformed},
		{"no hardware address", patch(28, 0, 0, 0, 0, 0, 0), dhcp.ErrMalformed},
		{"a multicast hardware address", patch(28, 1), dhcp.ErrMalformed},
		{"a wrong cookie", patch(236, 0), dhcp.ErrMalformed},
		{"BOOTP without a message type", patch(240, 0, 0, 0), dhcp.ErrMalformed},
		{"an OFFER", patch(242, 2), dhcp.ErrNotClient},
		{"an ACK", patch(242, 5), dhcp.ErrNotClient},
		{"a message type out of range", patch(242, 200), dhcp.ErrNotClient},
		{"options without an end", func(b []byte) []byte { return b[:243] }, dhcp.ErrMalformed},
		{"an option longer than the message", patch(243, 50, 200), dhcp.ErrMalformed},
		{"a requested address of three octets", patch(243, 50, 3, 1, 2, 3, 255), dhcp.ErrMalformed},
		{"a server identifier of no octets", patch(243, 54, 0, 255), dhcp.ErrMalformed},
		{"option overload out of range", patch(243, 52, 1, 4, 255), dhcp.ErrMalformed},
		{"option overload without a value", patch(243, 52, 0, 255), dhcp.ErrMalformed},
		{"an option in file longer than the field", func(b []byte) []byte {
			b[108+126], b[108+127] = 12, 200
			return patch(243, 52, 1, 1, 255)(b)
		}, dhcp.ErrMalformed},
		{"a client identifier in pieces that is longer than one option", func(b []byte) []byte {
			b = b[:243]
			for range 2 {
				b = append(append(b, 61, 200), make([]byte, 200)...)
			}
			return append(b, 255)
		}, dhcp.ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := message(dhcpv4.MessageTypeDiscover, webMAC).ToBytes()
			r, err := ParseRequest(tt.change(b))
			if !errors.Is(err, tt.err) {
				t.Errorf("error %v (%+v), want %v", err, r, tt.err)
			}
		})
	}
}

func TestParseRequest(t *testing.T) {
	info := []byte{1, 2, 'p', '1', relayLinkSelection, 4, 10, 20, 3, 0, relayServerID, 4, 10, 9, 0, 2}
	r := parse(t, message(dhcpv4.MessageTypeRequest, farMAC, broadcast, giaddr("10.9.0.2"), ciaddr("10.20.3.10"), requested("10.20.3.11"),
		server("10.20.3.253"), option(dhcpv4.OptionClientIdentifier, 1, 2, 3), option(dhcpv4.OptionRelayAgentInformation, info...),
		option(dhcpv4.OptionMaximumDHCPMessageSize, 0x03, 0xe8)))
	for what, pair := range map[string][2]any{
		"MAC":                 {r.MAC, farMAC},
		"type":                {r.Type, dhcpv4.MessageTypeRequest},
		"ciaddr":              {r.Client, addr("10.20.3.10")},
		"giaddr":              {r.Relay, addr("10.9.0.2")},
		"requested address":   {r.Requested, addr("10.20.3.11")},
		"server identifier":   {r.Server, addr("10.20.3.253")},
		"client identifier":   {r.Sender(webID).ClientID, "010203"},
		"broadcast":           {r.Broadcast, true},
		"payload that it can": {r.MaxSize, 1000 - 28},
		"link selection":      {r.LinkSelection, addr("10.20.3.0")},
		"server override":     {r.ServerOverride, addr("10.9.0.2")},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %v, want %v", what, pair[0], pair[1])
		}
	}
}

func TestOptionsInFileAndSnameAreRead(t *testing.T) {
	b := message(dhcpv4.MessageTypeRequest, webMAC, option(dhcpv4.OptionOptionOverload, 3)).ToBytes()
	copy(b[fileOffset:], []byte{50, 4, 10, 20, 1, 10, 255})
	copy(b[snameOffset:], []byte{12, 5, 'g', 'u', 'e', 's', 't', 255})
	r, err := ParseRequest(b)
	if err != nil {
		t.Fatal(err)
	}
	if r.Requested != addr("10.20.1.10") || r.Hostname != "guest" {
		t.Errorf("requested %s, host name %q", r.Requested, r.Hostname)
	}
}

func TestMaxSizeStaysInBounds(t *testing.T) {
	tests := []struct {
		name  string
		value []byte
		want  int
	}{
		{"absent", nil, 548},
		{"less than every client takes", []byte{0, 100}, 548},
		{"zero", []byte{0, 0}, 548},
		{"an Ethernet frame", []byte{0x05, 0xdc}, 1472},
		{"more than a frame", []byte{0xff, 0xff}, 1472},
		{"of the wrong length", []byte{5}, 548},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := message(dhcpv4.MessageTypeDiscover, webMAC)
			if tt.value != nil {
				option(dhcpv4.OptionMaximumDHCPMessageSize, tt.value...)(m)
			}
			if got := parse(t, m).MaxSize; got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
}

func TestClientHostname(t *testing.T) {
	tests := []struct {
		name   string
		option dhcpv4.OptionCode
		value  string
		want   string
	}{
		{"a plain name", dhcpv4.OptionHostName, "web-1", "web-1"},
		{"a qualified name", dhcpv4.OptionHostName, "web-1.example", "web-1.example"},
		{"a counted NUL", dhcpv4.OptionHostName, "web-1\x00", "web-1"},
		{"a shell's attack", dhcpv4.OptionHostName, "a;reboot", ""},
		{"a line break", dhcpv4.OptionHostName, "a\nb", ""},
		{"a final dot", dhcpv4.OptionHostName, "a.", ""},
		{"an empty label", dhcpv4.OptionHostName, "a..b", ""},
		{"a hyphen at the end of a label", dhcpv4.OptionHostName, "a-.b", ""},
		{"a hyphen in front", dhcpv4.OptionHostName, "-a", ""},
		{"a label that is too long", dhcpv4.OptionHostName, strings.Repeat("a", 64), ""},
		{"a name of the longest labels", dhcpv4.OptionHostName, strings.Repeat("a", 63) + ".b", strings.Repeat("a", 63) + ".b"},
		{"bytes that are no text", dhcpv4.OptionHostName, "\xff\xfe", ""},
		{"nothing", dhcpv4.OptionHostName, "", ""},
		{"a qualified name on the wire", dhcpv4.OptionFQDN, "\x04\x00\x00\x05web-1\x07example\x00", "web-1"},
		{"a partial name on the wire", dhcpv4.OptionFQDN, "\x04\x00\x00\x05web-1", "web-1"},
		{"a qualified name as text", dhcpv4.OptionFQDN, "\x00\x00\x00web-1", "web-1"},
		{"a compression pointer", dhcpv4.OptionFQDN, "\x04\x00\x00\xc0\x00", ""},
		{"a label longer than the option", dhcpv4.OptionFQDN, "\x04\x00\x00\x3fweb", ""},
		{"a qualified name as text with its final dot", dhcpv4.OptionFQDN, "\x00\x00\x00web-1.example.", "web-1.example"},
		{"a name option without a name", dhcpv4.OptionFQDN, "\x04\x00\x00", ""},
		{"a name option cut short", dhcpv4.OptionFQDN, "\x04", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := parse(t, message(dhcpv4.MessageTypeDiscover, webMAC, option(tt.option, []byte(tt.value)...)))
			if r.Hostname != tt.want {
				t.Errorf("%q, want %q", r.Hostname, tt.want)
			}
		})
	}
}

func TestTheQualifiedNameCountsBesideAPlainOne(t *testing.T) {
	plain := option(dhcpv4.OptionHostName, []byte("plain")...)
	for fqdn, want := range map[string]string{
		"\x04\x00\x00\x05web-1\x07example\x00": "web-1",
		"\x04\x00\x00":                         "plain", // a client may leave the name to us, and says option 12 to old servers
		"\x04\x00\x00\xc0\x00":                 "plain",
	} {
		if r := parse(t, message(dhcpv4.MessageTypeDiscover, webMAC, plain, option(dhcpv4.OptionFQDN, []byte(fqdn)...))); r.Hostname != want {
			t.Errorf("beside %q: %q, want %q", fqdn, r.Hostname, want)
		}
	}
}

func TestRelayInfoIsReadWithinItsBounds(t *testing.T) {
	tests := []struct {
		name  string
		value []byte
		link  netip.Addr
	}{
		{"a link selection", []byte{5, 4, 10, 20, 3, 0}, addr("10.20.3.0")},
		{"a link selection after others", []byte{1, 1, 'x', 2, 0, 5, 4, 10, 20, 3, 0}, addr("10.20.3.0")},
		{"a link selection of the wrong length", []byte{5, 3, 10, 20, 3}, netip.Addr{}},
		{"a sub-option longer than the option", []byte{5, 200, 10, 20, 3, 0}, netip.Addr{}},
		{"half a header", []byte{5}, netip.Addr{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if link, _ := relayInfo(tt.value); link != tt.link {
				t.Errorf("%s, want %s", link, tt.link)
			}
		})
	}
}

// FuzzRequest feeds what a network may send through everything that runs before a lease is looked up and behind it.
func FuzzRequest(f *testing.F) {
	snap := spec(nil)
	f.Add([]byte{})
	for _, kind := range []dhcpv4.MessageType{1, 2, 3, 4, 5, 6, 7, 8, 0, 255} {
		f.Add(message(kind, webMAC, requested("10.20.1.10")).ToBytes())
	}
	seed := func(changes ...with) {
		f.Add(message(dhcpv4.MessageTypeDiscover, webMAC, changes...).ToBytes())
	}
	seed(func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootReply })
	seed(func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = nil })
	seed(option(dhcpv4.OptionOptionOverload, 3))
	seed(option(dhcpv4.OptionDNSDomainSearchList, bytes.Repeat([]byte{0xc0, 0}, 120)...)) // pointers that multiply
	seed(option(dhcpv4.OptionFQDN, 4, 0, 0, 0xc0, 0))
	seed(option(dhcpv4.OptionMaximumDHCPMessageSize, 0, 0))
	seed(asks(bytes.Repeat([]byte{121, 3, 6, 249}, 60)...))
	seed(option(dhcpv4.OptionRelayAgentInformation, bytes.Repeat([]byte{5, 4}, 100)...))
	seed(option(dhcpv4.OptionClientIdentifier, bytes.Repeat([]byte{1}, 255)...))
	seed(option(dhcpv4.OptionClientSystemArchitectureType, 7), option(dhcpv4.OptionClassIdentifier, []byte("PXEClient:Arch:00007")...))
	noEnd := message(dhcpv4.MessageTypeDiscover, webMAC).ToBytes()
	f.Add(noEnd[:243])
	bootp := message(dhcpv4.MessageTypeDiscover, webMAC)
	bootp.Options = dhcpv4.Options{}
	f.Add(bootp.ToBytes())

	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			return
		}
		for _, w := range snap.VSwitches {
			e := newEngine(t, snap)
			d := r.Decide(e, w)
			if replyOf(d) == nil {
				continue
			}
			out := replyOf(d).Encode()
			if len(out) > maxMessage || len(out)-optionSize(Option{82, replyOf(d).RelayInfo}) > max(minMessage, r.MaxSize) {
				t.Errorf("a reply of %d bytes to a client that takes %d", len(out), r.MaxSize)
			}
			m := decoded(t, out)
			if m.TransactionID != r.XID || m.OpCode != dhcpv4.OpcodeBootReply {
				t.Errorf("not a reply to the request: %s", m.Summary())
			}
			to := Route(r, replyOf(d))
			if !to.Relay.IsValid() {
				frame := buildFrame(webMAC2, to.MAC, addr("10.20.1.253"), to.IP, out)
				frame[port.EtherSize+ipSize+3] = serverPort // parseFrame reads what comes to a server
				if got, ok := parseFrame(frame); !ok || !bytes.Equal(got.payload, out) {
					t.Errorf("the frame does not hold the reply")
				}
			}
		}
	})
}

// FuzzFrame feeds frames as a port may receive them.
func FuzzFrame(f *testing.F) {
	good := buildFrame(webMAC, broadcastMAC, addr("0.0.0.0"), addr("255.255.255.255"), message(dhcpv4.MessageTypeDiscover, webMAC).ToBytes())
	good[port.EtherSize+ipSize+3] = serverPort
	f.Add(good)
	f.Add(good[:20])
	f.Add(good[:port.EtherSize+ipSize+port.UDPSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		d, ok := parseFrame(b)
		if ok && len(d.payload) > len(b)-port.EtherSize-ipSize-port.UDPSize {
			t.Errorf("a payload of %d bytes out of a frame of %d", len(d.payload), len(b))
		}
		if ok && len(d.payload) >= headerSize+cookieSize {
			keyOf(d.payload)
		}
	})
}
