package dhcp4

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"gatehouse/server/dhcp"
	"gatehouse/server/lease"
	"gatehouse/vpc"
)

// Sizes of a message (RFC 2131 section 2), in bytes.
const (
	headerSize     = 236
	cookieSize     = 4
	cookie         = 99<<24 | 130<<16 | 83<<8 | 99 // RFC 2131 section 3
	flagsOffset    = 10
	clientOffset   = 12 // ciaddr
	relayOffset    = 24 // giaddr
	hardwareOffset = 28
	fileOffset     = 108
	fileSize       = 128
	snameOffset    = 44
	snameSize      = 64
	maxMessage     = 1472 // what fits an Ethernet frame without fragments
	maxHops        = 16   // RFC 1542 section 4.1.1
	maxClientID    = 255
)

// Options that the library has no name for.
const (
	optionSubnetSelection   = dhcpv4.GenericOptionCode(118)
	optionRapidCommit       = dhcpv4.GenericOptionCode(80)  // RFC 4039
	optionCaptivePortal     = dhcpv4.GenericOptionCode(114) // RFC 8910
	optionMSClasslessRoutes = dhcpv4.GenericOptionCode(249)
	relayLinkSelection      = 5  // sub-option of 82, RFC 3527
	relayServerID           = 11 // sub-option of 82, RFC 5107
)

// Request is a client's message that has passed every check that needs no knowledge of the network.
type Request struct {
	Type      dhcpv4.MessageType
	XID       dhcpv4.TransactionID
	MAC       vpc.MAC
	Client    netip.Addr // ciaddr; invalid when zero
	Relay     netip.Addr // giaddr; invalid when zero
	Requested netip.Addr // option 50
	Server    netip.Addr // option 54
	ClientID  []byte     // option 61
	Hostname  string     // the first label of option 81, else option 12; "" when it is no host name
	MaxSize   int        // bytes of UDP payload that the client takes
	Broadcast bool       // it cannot receive unicast before it has an address

	// What the relay says in option 82.
	LinkSelection  netip.Addr // RFC 3527
	ServerOverride netip.Addr // RFC 5107

	options  optionList
	clientID string // ClientID as the lease engine has it
}

// usualOptions is how many options nearly every client sends at most.
const usualOptions = 10

// ParseRequest reads the payload of a datagram to port 67, whose bytes the request keeps.
// The error says that the message is malformed, or is not from a client; either way it is not answered.
func ParseRequest(b []byte) (*Request, error) {
	if len(b) < headerSize+cookieSize || len(b) > maxMessage {
		return nil, fmt.Errorf("%w: %d bytes", dhcp.ErrMalformed, len(b))
	}
	if b[0] != byte(dhcpv4.OpcodeBootRequest) {
		return nil, fmt.Errorf("%w: op %d", dhcp.ErrNotClient, b[0])
	}
	if b[1] != byte(iana.HWTypeEthernet) || b[2] != 6 {
		return nil, fmt.Errorf("%w: hardware type %d with %d octets", dhcp.ErrMalformed, b[1], b[2])
	}
	if b[3] > maxHops {
		return nil, fmt.Errorf("%w: %d hops", dhcp.ErrMalformed, b[3])
	}
	if binary.BigEndian.Uint32(b[headerSize:]) != cookie {
		return nil, fmt.Errorf("%w: no DHCP", dhcp.ErrMalformed)
	}
	const broadcast = 0x80
	r := &Request{
		XID: dhcpv4.TransactionID(b[4:8]), MAC: vpc.MAC(b[hardwareOffset:]), Broadcast: b[flagsOffset]&broadcast != 0,
		Client: unlessZero(b[clientOffset:]), Relay: unlessZero(b[relayOffset:]),
		options: make(optionList, 0, usualOptions),
	}
	if r.MAC.IsZero() || r.MAC[0]&1 != 0 {
		return nil, fmt.Errorf("%w: hardware address %s", dhcp.ErrMalformed, r.MAC)
	}
	if err := r.readOptions(b); err != nil {
		return nil, err
	}
	kind := r.options.get(dhcpv4.OptionDHCPMessageType)
	if len(kind) != 1 {
		return nil, fmt.Errorf("%w: no message type", dhcp.ErrMalformed)
	}
	switch r.Type = dhcpv4.MessageType(kind[0]); r.Type {
	case dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeDecline,
		dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeInform:
	default:
		return nil, fmt.Errorf("%w: message type %d", dhcp.ErrNotClient, kind[0])
	}
	var err error
	if r.Requested, err = r.addrOption(dhcpv4.OptionRequestedIPAddress); err != nil {
		return nil, err
	}
	if r.Server, err = r.addrOption(dhcpv4.OptionServerIdentifier); err != nil {
		return nil, err
	}
	if r.ClientID = r.options.get(dhcpv4.OptionClientIdentifier); len(r.ClientID) > maxClientID {
		return nil, fmt.Errorf("%w: client identifier of %d bytes", dhcp.ErrMalformed, len(r.ClientID))
	}
	r.clientID = hex.EncodeToString(r.ClientID)
	r.Hostname = r.clientHostname()
	r.MaxSize = r.maxSize()
	r.LinkSelection, r.ServerOverride = relayInfo(r.options.get(dhcpv4.OptionRelayAgentInformation))
	return r, nil
}

// readOptions reads the options, also those that stand in the file and sname fields (option 52, RFC 2131 section 4.1).
func (r *Request) readOptions(b []byte) error {
	ended, err := r.options.read(b[headerSize+cookieSize:])
	if err != nil {
		return err
	}
	if !ended {
		return fmt.Errorf("%w: options without an end", dhcp.ErrMalformed)
	}
	if !r.options.has(dhcpv4.OptionOptionOverload) {
		return nil
	}
	over := r.options.get(dhcpv4.OptionOptionOverload)
	if len(over) != 1 || over[0] < 1 || over[0] > 3 {
		return fmt.Errorf("%w: option overload", dhcp.ErrMalformed)
	}
	if over[0]&1 != 0 {
		if _, err := r.options.read(b[fileOffset : fileOffset+fileSize]); err != nil {
			return fmt.Errorf("in file: %w", err)
		}
	}
	if over[0]&2 != 0 {
		if _, err := r.options.read(b[snameOffset : snameOffset+snameSize]); err != nil {
			return fmt.Errorf("in sname: %w", err)
		}
	}
	return nil
}

// unlessZero reads an address of the header; 0.0.0.0 means that there is none.
func unlessZero(b []byte) netip.Addr {
	a := netip.AddrFrom4([4]byte(b))
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// addrOption reads an option that holds one address; invalid when it is absent.
func (r *Request) addrOption(code dhcpv4.OptionCode) (netip.Addr, error) {
	v := r.options.get(code)
	if v == nil {
		return netip.Addr{}, nil
	}
	if len(v) != 4 {
		return netip.Addr{}, fmt.Errorf("%w: option %d of %d bytes", dhcp.ErrMalformed, code.Code(), len(v))
	}
	return netip.AddrFrom4([4]byte(v)), nil
}

// maxSize is the UDP payload that the client takes: option 57 counts the IP and UDP headers, and 576 is what every client
// takes (RFC 2132 section 9.10).
func (r *Request) maxSize() int {
	const headers, least = 28, 576
	size := least
	if v := r.options.get(dhcpv4.OptionMaximumDHCPMessageSize); len(v) == 2 {
		size = max(least, int(binary.BigEndian.Uint16(v)))
	}
	return min(size-headers, maxMessage)
}

// fqdnHeader is the size of what stands before the name in option 81, in bytes.
const fqdnHeader = 3

// clientHostname is the host name that the client gives itself: the name of option 81, beside which option 12 does not
// count (RFC 4702 section 3.1), else option 12.
func (r *Request) clientHostname() string {
	if v := r.options.get(dhcpv4.OptionFQDN); len(v) > fqdnHeader {
		if name := fqdnName(v[0], v[fqdnHeader:]); name != "" {
			return name
		}
	}
	v := r.options.get(dhcpv4.OptionHostName)
	for len(v) > 0 && v[len(v)-1] == 0 { // some clients count the final NUL
		v = v[:len(v)-1]
	}
	return dhcp.Hostname(v)
}

// fqdnName reads the name of option 81: as text, or its first label as DNS writes it.
func fqdnName(flags byte, name []byte) string {
	const wireForm = 0x04
	if flags&wireForm == 0 {
		return dhcp.Hostname(bytes.TrimSuffix(name, []byte(".")))
	}
	if int(name[0]) > len(name)-1 {
		return ""
	}
	return dhcp.Hostname(name[1 : 1+int(name[0])]) // a compression pointer is longer than the rest
}

// relayInfo reads the sub-options of option 82 that concern us. One that is broken is as good as absent: only a relay
// that the vSwitch names is believed anyway.
func relayInfo(v []byte) (link, server netip.Addr) {
	for len(v) >= 2 {
		code, n := v[0], int(v[1])
		if n > len(v)-2 {
			break
		}
		value := v[2 : 2+n]
		v = v[2+n:]
		if n != 4 {
			continue
		}
		switch code {
		case relayLinkSelection:
			link = netip.AddrFrom4([4]byte(value))
		case relayServerID:
			server = netip.AddrFrom4([4]byte(value))
		}
	}
	return link, server
}

// Kind is the message type.
func (r *Request) Kind() byte { return byte(r.Type) }

// Relayed reports whether a relay sent it.
func (r *Request) Relayed() bool { return r.Relay.IsValid() }

// Sender is who sent it.
func (r *Request) Sender(vswitchID string) lease.Client {
	return lease.Client{
		VSwitch: vswitchID, MAC: r.MAC, Family: vpc.IPv4, OnLink: !r.Relayed(),
		ClientID: r.clientID, Hostname: r.Hostname,
	}
}

// VSwitch returns the vSwitch of a relayed message: the one that the link selection (RFC 3527), else giaddr, lies in.
func (r *Request) VSwitch(candidates []*vpc.VSwitch) *vpc.VSwitch {
	link := r.Relay
	if r.LinkSelection.IsValid() {
		link = r.LinkSelection
	}
	for _, w := range candidates {
		if w.CIDRBlock.Contains(link) {
			return w
		}
	}
	return nil
}

// has reports whether the client sent the option.
func (r *Request) has(code dhcpv4.OptionCode) bool { return r.options.has(code) }

// wants reports whether the client asked for the option (option 55).
func (r *Request) wants(code uint8) bool {
	for _, c := range r.options.get(dhcpv4.OptionParameterRequestList) {
		if c == code {
			return true
		}
	}
	return false
}
