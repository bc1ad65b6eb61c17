package dhcp4

import (
	"encoding/binary"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

// minMessage is what BOOTP relays and old clients expect at least (RFC 1542 section 2.1), in bytes.
const minMessage = 300

// Option is one option of a reply.
type Option struct {
	Code uint8
	Data []byte // longer than 255 bytes: sent in pieces (RFC 3396)
}

// Reply is the answer to one message.
type Reply struct {
	Type      dhcpv4.MessageType
	XID       dhcpv4.TransactionID
	MAC       vpc.MAC
	Broadcast bool
	Client    netip.Addr // ciaddr; invalid: zero, as for the addresses below
	Your      netip.Addr // yiaddr
	Next      netip.Addr // siaddr: the boot server
	Relay     netip.Addr // giaddr
	File      string     // boot file, at most 127 bytes

	Must      []Option // always sent, in this order, after the message type; they fit into the smallest message
	May       []Option // sent in this order as far as there is room
	RelayInfo []byte   // option 82, echoed last; the relay takes it out before the client sees it
	MaxSize   int      // bytes that the client takes

	request *Request
	data    []byte // room for the options' values
	room    struct {
		must [10]Option
		may  [8]Option
		data [160]byte
	}
}

// newReply starts the answer to a request: what every answer copies from it (RFC 2131 table 3).
func newReply(r *Request, kind dhcpv4.MessageType, server netip.Addr) *Reply {
	p := &Reply{
		Type: kind, XID: r.XID, MAC: r.MAC, Broadcast: r.Broadcast, Relay: r.Relay, request: r,
		RelayInfo: r.options.get(dhcpv4.OptionRelayAgentInformation), MaxSize: r.MaxSize,
	}
	p.Must, p.May, p.data = p.room.must[:0], p.room.may[:0], p.room.data[:0]
	p.must(dhcpv4.OptionServerIdentifier, p.keepAddrs(server))
	if len(r.ClientID) > 0 {
		p.must(dhcpv4.OptionClientIdentifier, r.ClientID) // RFC 6842
	}
	return p
}

// must appends an option that is always sent.
func (p *Reply) must(code dhcpv4.OptionCode, data []byte) {
	p.Must = append(p.Must, Option{code.Code(), data})
}

// keepAddrs returns the IPv4 addresses of a list as an option's value; the others are DHCPv6's to tell.
func (p *Reply) keepAddrs(list ...netip.Addr) []byte {
	from := len(p.data)
	for _, a := range list {
		if a.Is4() {
			v := a.As4()
			p.data = append(p.data, v[:]...)
		}
	}
	return p.kept(from)
}

func (p *Reply) keepUint32(v uint32) []byte {
	p.data = binary.BigEndian.AppendUint32(p.data, v)
	return p.kept(len(p.data) - 4)
}

func (p *Reply) keepString(s string) []byte {
	p.data = append(p.data, s...)
	return p.kept(len(p.data) - len(s))
}

// kept is what has been added to the values.
func (p *Reply) kept(from int) []byte { return p.data[from:len(p.data):len(p.data)] }

// may appends an option that is sent if there is room for it.
func (p *Reply) may(code dhcpv4.OptionCode, data []byte) {
	p.May = append(p.May, Option{code.Code(), data})
}

// Encode returns the message as it goes into a datagram. The options that the client must have come first, then what it
// asked for while there is room for it: in the options field, else in file and sname if nothing else stands there
// (option 52, RFC 2131 section 4.1). What fits nowhere is left out.
func (p *Reply) Encode() []byte {
	b := make([]byte, headerSize, minMessage+len(p.RelayInfo)+64) // most are no longer
	b[0], b[1], b[2] = byte(dhcpv4.OpcodeBootReply), byte(iana.HWTypeEthernet), byte(len(p.MAC))
	copy(b[4:8], p.XID[:])
	if p.Broadcast {
		b[10] = 0x80
	}
	for i, a := range []netip.Addr{p.Client, p.Your, p.Next, p.Relay} {
		if a.Is4() {
			v := a.As4()
			copy(b[12+4*i:], v[:])
		}
	}
	copy(b[28:44], p.MAC[:])
	if len(p.File) < fileSize {
		copy(b[fileOffset:fileOffset+fileSize], p.File)
	}
	b = append(b, 99, 130, 83, 99) // the cookie of RFC 2131 section 3
	b = append(b, dhcpv4.OptionDHCPMessageType.Code(), 1, byte(p.Type))
	for _, o := range p.Must {
		b = appendOption(b, o)
	}

	const endSize, overloadSize = 1, 3
	var file, sname []byte
	fileFree := p.File == ""
	limit := p.MaxSize - endSize - overloadSize
	for _, o := range p.May {
		n := optionSize(o)
		switch {
		case len(b)+n <= limit:
			b = appendOption(b, o)
		case fileFree && len(file)+n <= fileSize-endSize:
			file = appendOption(file, o)
		case len(sname)+n <= snameSize-endSize:
			sname = appendOption(sname, o)
		}
	}
	overload := byte(0)
	if len(file) > 0 {
		overload |= 1
		copy(b[fileOffset:], append(file, dhcpv4.OptionEnd.Code()))
	}
	if len(sname) > 0 {
		overload |= 2
		copy(b[snameOffset:], append(sname, dhcpv4.OptionEnd.Code()))
	}
	if overload != 0 {
		b = append(b, dhcpv4.OptionOptionOverload.Code(), 1, overload)
	}
	if o := (Option{dhcpv4.OptionRelayAgentInformation.Code(), p.RelayInfo}); len(o.Data) > 0 && len(b)+optionSize(o)+endSize <= maxMessage {
		b = appendOption(b, o)
	}
	b = append(b, dhcpv4.OptionEnd.Code())
	for len(b) < minMessage {
		b = append(b, 0)
	}
	return b
}

// optionSize is what an option takes in a message, in bytes.
func optionSize(o Option) int {
	pieces := max(1, (len(o.Data)+254)/255)
	return 2*pieces + len(o.Data)
}

func appendOption(b []byte, o Option) []byte {
	data := o.Data
	for {
		n := min(len(data), 255)
		b = append(b, o.Code, byte(n))
		b = append(b, data[:n]...)
		if data = data[n:]; len(data) == 0 {
			return b
		}
	}
}

// Destination is where a reply goes.
type Destination struct {
	Relay netip.Addr // valid: as a datagram to port 67 of this relay
	IP    netip.Addr // else: in a frame on the port where the request came in, to port 68 of this address …
	MAC   vpc.MAC    // … and this hardware address
}

// broadcastMAC is every station of a link.
var broadcastMAC = vpc.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Route says where the reply to a request goes: RFC 2131 section 4.1.
func Route(r *Request, p *Reply) Destination {
	everybody := Destination{IP: netip.AddrFrom4([4]byte{255, 255, 255, 255}), MAC: broadcastMAC}
	switch {
	case r.Relay.IsValid():
		return Destination{Relay: r.Relay}
	case p.Type == dhcpv4.MessageTypeNak:
		return everybody // the address that the client has may not be one to send to
	case r.Client.IsValid():
		return Destination{IP: r.Client, MAC: r.MAC}
	case r.Broadcast || !p.Your.IsValid():
		return everybody
	}
	return Destination{IP: p.Your, MAC: r.MAC}
}

// Kind is the message type.
func (p *Reply) Kind() byte { return byte(p.Type) }

// Frame is the reply as it goes to a guest, from the vSwitch's gateway.
func (p *Reply) Frame(from port.Port, w *vpc.VSwitch) []byte {
	to := Route(p.request, p)
	return buildFrame(from.LinkMAC, to.MAC, w.GatewayAddr(vpc.IPv4), to.IP, p.Encode())
}

// Datagram is the reply as it goes to the relay.
func (p *Reply) Datagram() (netip.Addr, []byte) { return Route(p.request, p).Relay, p.Encode() }
