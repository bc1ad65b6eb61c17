package dhcp4

import (
	"encoding/binary"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/server/dhcp"
	"gatehouse/server/port"
	"gatehouse/vpc"
)

// kinds are the names of the message types that RFC 2131 has, by number.
var kinds = []string{"", "DISCOVER", "OFFER", "REQUEST", "DECLINE", "ACK", "NAK", "RELEASE", "INFORM"}

// New returns a server without ports.
func New(cfg dhcp.Config) *dhcp.Server {
	return dhcp.New(dhcp.Protocol{
		Name: "dhcp4", Family: vpc.IPv4, Network: "udp4", Port: serverPort, Kinds: kinds,
		Messages: port.DHCPv4, Claims: port.ARPReply,
		ReadFrame: readFrame, ReadRelayed: readRelayed, Probe: arpProbe, Claim: arpClaim,
		Parse: func(p *dhcp.Packet) (dhcp.Message, error) {
			r, err := ParseRequest(p.Payload)
			if err != nil {
				return nil, err // not a nil *Request in a Message
			}
			return r, nil
		},
	}, cfg)
}

// readFrame reads a guest's message.
func readFrame(frame []byte, w *vpc.VSwitch) (*dhcp.Packet, dhcp.Drop) {
	d, ok := parseFrame(frame)
	if !ok {
		return nil, dhcp.DropMalformed
	}
	if !toServer(d.dst, w) {
		return nil, dhcp.DropNone
	}
	p, drop := readRelayed(d.payload, netip.Addr{})
	if p != nil && p.Key.MAC != d.srcMAC {
		return nil, dhcp.DropSpoofed
	}
	return p, drop
}

// readRelayed reads a message as a datagram brings it.
func readRelayed(payload []byte, _ netip.Addr) (*dhcp.Packet, dhcp.Drop) {
	if len(payload) < headerSize+cookieSize || len(payload) > maxMessage {
		return nil, dhcp.DropMalformed
	}
	return &dhcp.Packet{Payload: payload, Key: keyOf(payload)}, dhcp.DropNone
}

// toServer reports whether a request on a vSwitch is for us: broadcast, or to the gateway.
func toServer(dst netip.Addr, w *vpc.VSwitch) bool {
	return dst == w.GatewayAddr(vpc.IPv4) || dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || dst == vpc.LastAddr(w.CIDRBlock)
}

// keyOf reads the key from a payload, which must be at least as long as a header with its cookie. The message type is
// taken from where nearly every client puts it; elsewhere it counts as zero, which makes the key no less correct: such a
// client's DISCOVER and REQUEST of one exchange are never queued at the same time.
func keyOf(b []byte) dhcp.Key {
	k := dhcp.Key{MAC: vpc.MAC(b[28:34]), XID: binary.BigEndian.Uint32(b[4:])}
	if o := b[headerSize+cookieSize:]; len(o) >= 3 && o[0] == dhcpv4.OptionDHCPMessageType.Code() && o[1] == 1 {
		k.Kind = o[2]
	}
	return k
}
