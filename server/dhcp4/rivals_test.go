package dhcp4

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

// answer is what a server says to a client.
func answer(kind dhcpv4.MessageType, changes ...with) *dhcpv4.DHCPv4 {
	m := message(kind, webMAC, changes...)
	m.OpCode = dhcpv4.OpcodeBootReply
	return m
}

func TestOtherServersAreHeardOnALinkThatIsNotOursAlone(t *testing.T) {
	const (
		discover = dhcpv4.MessageTypeDiscover
		offer    = dhcpv4.MessageTypeOffer
		request  = dhcpv4.MessageTypeRequest
		ack      = dhcpv4.MessageTypeAck
	)
	everyone := vpc.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for _, tt := range []struct {
		name string
		from string
		to   uint16
		msg  *dhcpv4.DHCPv4
		want string // the server; "": none
	}{
		{"an offer", "192.0.2.1", clientPort, answer(offer, server("192.0.2.9")), "192.0.2.9"},
		{"an acknowledgement", "192.0.2.1", clientPort, answer(ack, server("192.0.2.9")), "192.0.2.9"},
		{"a refusal", "192.0.2.1", clientPort, answer(dhcpv4.MessageTypeNak, server("192.0.2.9")), "192.0.2.9"},
		{"a server that does not name itself", "192.0.2.1", clientPort, answer(offer), "192.0.2.1"},
		{"a server without a name or an address", "0.0.0.0", clientPort, answer(offer), ""},
		{"a client that takes an offer", "0.0.0.0", serverPort, message(request, webMAC, server("192.0.2.9")), "192.0.2.9"},
		{"a client that renews", "192.0.2.50", serverPort, message(request, webMAC), ""},
		{"a client that takes an offer of nobody", "0.0.0.0", serverPort, message(request, webMAC, server("0.0.0.0")), ""},
		{"a client that looks for a server", "0.0.0.0", serverPort, message(discover, webMAC, server("192.0.2.9")), ""},
		{"a client that talks to clients", "192.0.2.1", clientPort, message(request, webMAC, server("192.0.2.9")), ""},
		{"a server that talks to servers", "192.0.2.1", serverPort, answer(offer, server("192.0.2.9")), ""},
		{"a question as an answer", "192.0.2.1", clientPort, answer(discover, server("192.0.2.9")), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			w := RivalWatch{Heard: func(at port.Port, server netip.Addr) { got = append(got, at.Name+" "+server.String()) }}
			_, receive := w.AddPort(&port.Socket{Port: port.Port{Index: 2, Name: "eth1"}})
			kind := map[uint16]port.Kinds{serverPort: port.DHCPv4, clientPort: port.DHCPv4Answer}[tt.to]
			receive(kind, buildUDP(webMAC, everyone, addr(tt.from), addr("255.255.255.255"), 0, tt.to, tt.msg.ToBytes()))
			var want []string
			if tt.want != "" {
				want = append(want, "eth1 "+tt.want)
			}
			if !slices.Equal(got, want) {
				t.Errorf("heard %q, want %q", got, want)
			}
		})
	}
}

func TestGuestsOfABridgeAreNoRivals(t *testing.T) {
	if kinds, _ := new(RivalWatch).AddPort(&port.Socket{Port: port.Port{Index: 2, Name: "tap2", Bridged: true}}); kinds != 0 {
		t.Errorf("a bridge's port is listened to for %s", kinds)
	}
}

func FuzzRivalWatch(f *testing.F) {
	for _, m := range []*dhcpv4.DHCPv4{answer(dhcpv4.MessageTypeOffer, server("192.0.2.9")), message(dhcpv4.MessageTypeRequest, webMAC, server("192.0.2.9"))} {
		for _, to := range []uint16{serverPort, clientPort} {
			f.Add(buildUDP(webMAC, webMAC2, addr("192.0.2.1"), addr("192.0.2.2"), 0, to, m.ToBytes()))
		}
	}
	w := RivalWatch{Heard: func(_ port.Port, server netip.Addr) {
		if !server.Is4() || server.IsUnspecified() {
			panic(fmt.Sprintf("server %s", server))
		}
	}}
	_, receive := w.AddPort(&port.Socket{Port: port.Port{Index: 2, Name: "eth1"}})
	f.Fuzz(func(_ *testing.T, frame []byte) {
		receive(port.DHCPv4, frame)
		receive(port.DHCPv4Answer, frame)
	})
}
