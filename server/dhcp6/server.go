package dhcp6

import (
	"encoding/binary"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"gatehouse/server/dhcp"
	"gatehouse/server/port"
	"gatehouse/vpc"
)

// The ports of DHCPv6 (RFC 8415 section 7.2).
const (
	serverPort = 547
	clientPort = 546
)

// allServers is All_DHCP_Relay_Agents_and_Servers (RFC 8415 section 7.1).
var allServers = netip.MustParseAddr("ff02::1:2")

// kinds are the names of the message types that RFC 8415 has, by number.
var kinds = []string{
	"", "SOLICIT", "ADVERTISE", "REQUEST", "CONFIRM", "RENEW", "REBIND", "REPLY", "RELEASE", "DECLINE", "RECONFIGURE",
	"INFORMATION-REQUEST",
}

// Config is what a server needs.
type Config struct {
	dhcp.Config
	DUID DUID // the server's; it must stay the same as long as there are leases
}

// New returns a server without ports.
func New(cfg Config) *dhcp.Server {
	return dhcp.New(dhcp.Protocol{
		Name: "dhcp6", Family: vpc.IPv6, Network: "udp6", Port: serverPort, Kinds: kinds,
		Messages: port.DHCPv6, Claims: port.NeighborAdvertisement,
		ReadFrame: readFrame, ReadRelayed: readRelayed, Probe: neighborProbe, Claim: neighborClaim,
		Parse: func(p *dhcp.Packet) (dhcp.Message, error) {
			r, err := ParseRequest(p, cfg.DUID)
			if err != nil {
				return nil, err // not a nil *Request in a Message
			}
			return r, nil
		},
	}, cfg.Config)
}

// readFrame reads a guest's message. Checksums are not checked: what a guest sends over a virtual link may have been left
// to hardware that is not there, and the link loses no bits.
func readFrame(frame []byte, w *vpc.VSwitch) (*dhcp.Packet, dhcp.Drop) {
	h, udp, ok := port.ParseIPv6(frame, vpc.ProtocolUDP)
	if !ok || len(udp) < port.UDPSize+headerSize {
		return nil, dhcp.DropMalformed
	}
	size := int(binary.BigEndian.Uint16(udp[4:]))
	if binary.BigEndian.Uint16(udp[2:]) != serverPort || size < port.UDPSize+headerSize || size > len(udp) {
		return nil, dhcp.DropMalformed
	}
	if h.Dst != allServers && h.Dst != w.GatewayAddr(vpc.IPv6) && h.Dst != vpc.RouterLinkLocal {
		return nil, dhcp.DropNone
	}
	if h.Src.IsUnspecified() || h.Src.IsMulticast() || h.SrcMAC.IsZero() || h.SrcMAC[0]&1 != 0 {
		return nil, dhcp.DropMalformed // there is nowhere to answer to
	}
	m := udp[port.UDPSize:size]
	if len(m) > maxMessage {
		return nil, dhcp.DropMalformed
	}
	return &dhcp.Packet{Payload: m, Key: keyOf(m, h.SrcMAC), Src: h.Src, Dst: h.Dst}, dhcp.DropNone
}

// readRelayed reads a relay's message.
func readRelayed(payload []byte, _ netip.Addr) (*dhcp.Packet, dhcp.Drop) {
	if len(payload) > maxMessage {
		return nil, dhcp.DropMalformed
	}
	hops, m, err := unwrap(payload)
	if err != nil {
		return nil, dhcp.DropOf(err)
	}
	if len(hops) == 0 {
		return nil, dhcp.DropRelay // a client that is not on our links
	}
	mac := hops[len(hops)-1].clientMAC()
	if mac.IsZero() {
		mac = clientID(m).linkLayer()
	}
	if mac.IsZero() {
		return nil, dhcp.DropSpoofed
	}
	return &dhcp.Packet{Payload: payload, Key: keyOf(m, mac)}, dhcp.DropNone
}

// clientID is the DUID of a message's client; nil when it has none that can be read.
func clientID(m []byte) (id DUID) {
	_ = options(m[headerSize:], func(code dhcpv6.OptionCode, data []byte) error { // what is malformed is found by who reads it all
		if code == dhcpv6.OptionClientID {
			id = data
		}
		return nil
	})
	return id
}

// keyOf reads the key of a message, which is at least as long as a header.
func keyOf(m []byte, mac vpc.MAC) dhcp.Key {
	return dhcp.Key{MAC: mac, Kind: m[0], XID: binary.BigEndian.Uint32(m) & 0xffffff}
}
