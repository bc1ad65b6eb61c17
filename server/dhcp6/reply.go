package dhcp6

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

// maxReply is what passes every link without fragments: the least MTU of IPv6 without headers (RFC 8200 section 5).
const maxReply = 1280 - port.IPv6Size - port.UDPSize

// Option is one option of a reply.
type Option struct {
	Code dhcpv6.OptionCode
	Data []byte
}

// Reply is the answer to one message.
type Reply struct {
	Type dhcpv6.MessageType
	XID  dhcpv6.TransactionID
	MAC  vpc.MAC    // of the client
	Dst  netip.Addr // of the client, without relays

	Must []Option // always sent, in this order
	May  []Option // sent in this order as far as there is room

	relays []hop
	relay  netip.Addr // who sent us the request; invalid without relays
}

// newReply starts the answer to a request with what every answer has (RFC 8415 section 18.3).
func newReply(r *Request, kind dhcpv6.MessageType) *Reply {
	p := &Reply{Type: kind, XID: r.XID, MAC: r.MAC, Dst: r.Src, relays: r.relays, relay: r.relay}
	p.must(dhcpv6.OptionServerID, r.server)
	if r.ClientID != nil {
		p.must(dhcpv6.OptionClientID, r.ClientID)
	}
	return p
}

// must appends an option that is always sent.
func (p *Reply) must(code dhcpv6.OptionCode, data []byte) {
	p.Must = append(p.Must, Option{code, data})
}

// may appends an option that is sent if there is room for it.
func (p *Reply) may(code dhcpv6.OptionCode, data []byte) {
	p.May = append(p.May, Option{code, data})
}

// addAddress gives an identity association its address for some time, and ends those that it had.
func (p *Reply) addAddress(ia IA, addr netip.Addr, d time.Duration, gone []netip.Addr) {
	valid := lifetime(d)
	renew, rebind := uint32(uint64(valid)*5/10), uint32(uint64(valid)*8/10) // section 14.2
	b := slices.Concat(ia.ID[:], uint32Bytes(renew), uint32Bytes(rebind))
	b = appendOption(b, dhcpv6.OptionIAAddr, addressData(addr, valid))
	for _, a := range gone {
		b = appendOption(b, dhcpv6.OptionIAAddr, addressData(a, 0))
	}
	p.must(ia.Code, b)
}

// addPrefixes gives an identity association prefixes for some time, and ends those that it had (section 18.3.1 and following).
func (p *Reply) addPrefixes(ia IA, prefixes []netip.Prefix, d time.Duration, gone []netip.Prefix) {
	valid := lifetime(d)
	renew, rebind := uint32(uint64(valid)*5/10), uint32(uint64(valid)*8/10) // section 14.2
	b := slices.Concat(ia.ID[:], uint32Bytes(renew), uint32Bytes(rebind))
	for _, x := range prefixes {
		b = appendOption(b, dhcpv6.OptionIAPrefix, prefixData(x, valid))
	}
	for _, x := range gone {
		b = appendOption(b, dhcpv6.OptionIAPrefix, prefixData(x, 0))
	}
	p.must(ia.Code, b)
}

// prefixData is the value of a prefix option.
func prefixData(p netip.Prefix, lifetime uint32) []byte {
	return slices.Concat(uint32Bytes(lifetime), uint32Bytes(lifetime), []byte{byte(p.Bits())}, p.Addr().AsSlice())
}

// addressData is the value of an address option; the client may use the address for new connections until its end.
func addressData(a netip.Addr, lifetime uint32) []byte {
	return slices.Concat(a.AsSlice(), uint32Bytes(lifetime), uint32Bytes(lifetime))
}

// addIA answers an identity association with a status.
func (p *Reply) addIA(ia IA, status []byte) {
	b := slices.Clone(ia.ID[:])
	if ia.Code != dhcpv6.OptionIATA {
		b = append(b, make([]byte, 8)...) // T1, T2
	}
	p.must(ia.Code, appendOption(b, dhcpv6.OptionStatusCode, status))
}

// status is the value of a status code option.
func status(code iana.StatusCode, text string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), text...)
}

// Encode returns the message as the client gets it.
func (p *Reply) Encode() []byte {
	b := append(make([]byte, 0, 256), byte(p.Type))
	b = append(b, p.XID[:]...)
	for _, o := range p.Must {
		b = appendOption(b, o.Code, o.Data)
	}
	for _, o := range p.May {
		if len(b)+4+len(o.Data) <= maxReply {
			b = appendOption(b, o.Code, o.Data)
		}
	}
	return b
}

func appendOption(b []byte, code dhcpv6.OptionCode, data []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// Kind is the message type.
func (p *Reply) Kind() byte { return byte(p.Type) }

// Frame is the reply as it goes to a guest, from the router that all guests know.
func (p *Reply) Frame(from port.Port, _ *vpc.VSwitch) []byte {
	m := p.Encode()
	udp := make([]byte, port.UDPSize, port.UDPSize+len(m))
	binary.BigEndian.PutUint16(udp[0:], serverPort)
	binary.BigEndian.PutUint16(udp[2:], clientPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(port.UDPSize+len(m)))
	h := port.IPv6{SrcMAC: from.LinkMAC, DstMAC: p.MAC, Src: vpc.RouterLinkLocal, Dst: p.Dst, HopLimit: 64}
	const checksumAt = 6
	return h.Frame(vpc.ProtocolUDP, append(udp, m...), checksumAt)
}

// Datagram is the reply with the headers that lead it back through the relays (RFC 8415 section 19.3).
func (p *Reply) Datagram() (netip.Addr, []byte) {
	m := p.Encode()
	for _, h := range slices.Backward(p.relays) {
		b := append(make([]byte, 0, relayHeaderSize+len(m)+64), byte(dhcpv6.MessageTypeRelayReply), h.count)
		b = append(b, h.link.AsSlice()...)
		b = append(b, h.peer.AsSlice()...)
		if h.interfaceID != nil {
			b = appendOption(b, dhcpv6.OptionInterfaceID, h.interfaceID)
		}
		m = appendOption(b, dhcpv6.OptionRelayMsg, m)
	}
	return p.relay, m
}

func uint32Bytes(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
