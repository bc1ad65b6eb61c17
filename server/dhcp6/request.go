package dhcp6

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"gatehouse/server/dhcp"
	"gatehouse/server/lease"
	"gatehouse/vpc"
)

// Sizes of messages, in bytes, and how much of one is believed.
const (
	headerSize      = 4
	relayHeaderSize = 34
	maxMessage      = 1452 // what fits an Ethernet frame without fragments
	maxHops         = 8    // HOP_COUNT_LIMIT, RFC 8415 section 7.6
	maxIAs          = 8
	maxAddrs        = 8 // of one IA; as many prefixes
)

// Request is a client's message that has passed every check that needs no knowledge of the network (RFC 8415 section 16).
// The library reads messages without bounds (relays within relays, compressed names), so this does not use it.
type Request struct {
	Type        dhcpv6.MessageType
	XID         dhcpv6.TransactionID
	MAC         vpc.MAC
	ClientID    DUID // nil: it says nothing about itself
	ServerID    DUID // nil: to every server
	IAs         []IA
	Options     []dhcpv6.OptionCode // that it asks for; nil: it does not say
	RapidCommit bool
	FQDN        *FQDN // nil: not sent

	Src     netip.Addr // where the answer goes, without relays
	Unicast bool       // it was sent to our address, not to all servers
	relays  []hop      // the one that sent it to us first; empty: none
	relay   netip.Addr // the source of its datagram
	server  DUID       // ours
}

// IA is an identity association: what a client wants an address, or a prefix, for.
type IA struct {
	Code  dhcpv6.OptionCode // OptionIANA, OptionIATA or OptionIAPD
	ID    [4]byte
	Addrs []netip.Addr // those it has or would like; of IA_NA only

	Prefixes []netip.Prefix // the same, of IA_PD only; one of no address says no more than a length
}

// FQDN is a client's option 39 (RFC 4704).
type FQDN struct {
	Flags    uint8
	Hostname string // the first label; "" when it is no host name
}

// hop is one relay's header.
type hop struct {
	count       uint8
	link, peer  netip.Addr
	interfaceID []byte  // nil: not sent
	linkLayer   vpc.MAC // of the peer, option 79 (RFC 6939); zero: not sent
}

// clientMAC is the MAC of the client that a relay has heard: what it says, else what the client's address was made of
// (RFC 4291 appendix A). Zero when neither tells.
func (h hop) clientMAC() vpc.MAC {
	if !h.linkLayer.IsZero() {
		return h.linkLayer
	}
	a := h.peer.As16()
	if !h.peer.IsLinkLocalUnicast() || a[11] != 0xff || a[12] != 0xfe {
		return vpc.MAC{}
	}
	return vpc.MAC{a[8] ^ 2, a[9], a[10], a[13], a[14], a[15]}
}

// options calls f for each option until f returns an error.
func options(b []byte, f func(code dhcpv6.OptionCode, data []byte) error) error {
	for len(b) > 0 {
		if len(b) < 4 {
			return fmt.Errorf("%w: half an option", dhcp.ErrMalformed)
		}
		code, n := dhcpv6.OptionCode(binary.BigEndian.Uint16(b)), int(binary.BigEndian.Uint16(b[2:]))
		if n > len(b)-4 {
			return fmt.Errorf("%w: option %d is cut off", dhcp.ErrMalformed, code)
		}
		if err := f(code, b[4:4+n]); err != nil {
			return err
		}
		b = b[4+n:]
	}
	return nil
}

// unwrap takes a client's message out of what relays have put around it. The hops are in the order in which they are
// found; the last has heard the client.
func unwrap(b []byte) (hops []hop, m []byte, err error) {
	for len(b) > 0 && b[0] == byte(dhcpv6.MessageTypeRelayForward) {
		if len(hops) == maxHops {
			return nil, nil, fmt.Errorf("%w: more than %d relays", dhcp.ErrMalformed, maxHops)
		}
		if len(b) < relayHeaderSize {
			return nil, nil, fmt.Errorf("%w: relay header of %d bytes", dhcp.ErrMalformed, len(b))
		}
		h := hop{count: b[1], link: netip.AddrFrom16([16]byte(b[2:18])), peer: netip.AddrFrom16([16]byte(b[18:34]))}
		var inner []byte
		err := options(b[relayHeaderSize:], func(code dhcpv6.OptionCode, data []byte) error {
			switch code {
			case dhcpv6.OptionRelayMsg:
				if inner != nil {
					return fmt.Errorf("%w: two relayed messages", dhcp.ErrMalformed)
				}
				inner = data
			case dhcpv6.OptionInterfaceID:
				h.interfaceID = data
			case dhcpv6.OptionClientLinkLayerAddr:
				if len(data) == 8 && binary.BigEndian.Uint16(data) == uint16(iana.HWTypeEthernet) && data[2]&1 == 0 {
					h.linkLayer = vpc.MAC(data[2:])
				}
			}
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
		hops, b = append(hops, h), inner
	}
	if len(b) < headerSize {
		return nil, nil, fmt.Errorf("%w: message of %d bytes", dhcp.ErrMalformed, len(b))
	}
	return hops, b, nil
}

// ParseRequest reads a packet, whose bytes the request keeps; server is our DUID. The error says that the message is
// malformed, or is not from a client; either way it is not answered.
func ParseRequest(p *dhcp.Packet, server DUID) (*Request, error) {
	hops, m, err := unwrap(p.Payload)
	if err != nil {
		return nil, err
	}
	r := &Request{
		Type: dhcpv6.MessageType(m[0]), XID: dhcpv6.TransactionID(m[1:4]), MAC: p.Key.MAC,
		relay: p.Relay, Src: p.Src, Unicast: len(hops) == 0 && p.Dst != allServers, relays: hops, server: server,
	}
	if err := options(m[headerSize:], r.option); err != nil {
		return nil, err
	}
	return r, r.check()
}

// option takes one option of the message.
func (r *Request) option(code dhcpv6.OptionCode, data []byte) error {
	switch code {
	case dhcpv6.OptionClientID, dhcpv6.OptionServerID:
		id, err := ParseDUID(data)
		if err != nil {
			return fmt.Errorf("%w: option %d: %w", dhcp.ErrMalformed, code, err)
		}
		if code == dhcpv6.OptionServerID {
			r.ServerID = id
		} else {
			r.ClientID = id
		}
	case dhcpv6.OptionIANA, dhcpv6.OptionIATA, dhcpv6.OptionIAPD:
		if len(r.IAs) == maxIAs {
			return nil // nobody has so many; those are not answered
		}
		ia, err := parseIA(code, data)
		if err != nil {
			return err
		}
		r.IAs = append(r.IAs, ia)
	case dhcpv6.OptionORO:
		r.Options = []dhcpv6.OptionCode{}
		for ; len(data) >= 2; data = data[2:] {
			r.Options = append(r.Options, dhcpv6.OptionCode(binary.BigEndian.Uint16(data)))
		}
	case dhcpv6.OptionRapidCommit:
		r.RapidCommit = true
	case dhcpv6.OptionFQDN:
		r.FQDN = parseFQDN(data)
	}
	return nil
}

func parseIA(code dhcpv6.OptionCode, data []byte) (IA, error) {
	head := 12 // IAID, T1, T2
	if code == dhcpv6.OptionIATA {
		head = 4
	}
	if len(data) < head {
		return IA{}, fmt.Errorf("%w: option %d of %d bytes", dhcp.ErrMalformed, code, len(data))
	}
	ia := IA{Code: code, ID: [4]byte(data)}
	switch code {
	case dhcpv6.OptionIATA:
		return ia, nil
	case dhcpv6.OptionIAPD:
		err := options(data[head:], ia.prefix)
		return ia, err
	}
	return ia, options(data[head:], func(code dhcpv6.OptionCode, data []byte) error {
		if code != dhcpv6.OptionIAAddr {
			return nil
		}
		if len(data) < 24 {
			return fmt.Errorf("%w: address of %d bytes", dhcp.ErrMalformed, len(data))
		}
		if len(ia.Addrs) < maxAddrs {
			ia.Addrs = append(ia.Addrs, netip.AddrFrom16([16]byte(data)))
		}
		return nil
	})
}

// prefix takes one option of an IA_PD (RFC 8415 section 21.22). A prefix that cannot be one is no wish.
func (ia *IA) prefix(code dhcpv6.OptionCode, data []byte) error {
	if code != dhcpv6.OptionIAPrefix {
		return nil
	}
	if len(data) < 25 { // lifetimes, length, address
		return fmt.Errorf("%w: prefix of %d bytes", dhcp.ErrMalformed, len(data))
	}
	p, err := netip.AddrFrom16([16]byte(data[9:25])).Prefix(int(data[8]))
	if err == nil && len(ia.Prefixes) < maxAddrs {
		ia.Prefixes = append(ia.Prefixes, p)
	}
	return nil
}

// parseFQDN reads the flags and the first label; the rest of the name is not the client's to say.
func parseFQDN(data []byte) *FQDN {
	if len(data) == 0 {
		return nil
	}
	f := &FQDN{Flags: data[0]}
	if name := data[1:]; len(name) > 0 && int(name[0]) < len(name) { // a compression pointer is longer than the rest
		f.Hostname = dhcp.Hostname(name[1 : 1+int(name[0])])
	}
	return f
}

// check is RFC 8415 section 16: who must say what.
func (r *Request) check() error {
	const must, mustNot, may = 1, 2, 3
	var client, server int
	switch r.Type {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		client, server = must, mustNot
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		client, server = must, must
	case dhcpv6.MessageTypeInformationRequest:
		client, server = may, may
		if len(r.IAs) > 0 {
			return fmt.Errorf("%w: %s with an identity association", dhcp.ErrMalformed, kinds[r.Type])
		}
	default:
		return fmt.Errorf("%w: message type %d", dhcp.ErrNotClient, r.Type)
	}
	switch {
	case client == must && r.ClientID == nil:
		return fmt.Errorf("%w: %s without a client identifier", dhcp.ErrMalformed, kinds[r.Type])
	case server == must && r.ServerID == nil:
		return fmt.Errorf("%w: %s without a server identifier", dhcp.ErrMalformed, kinds[r.Type])
	case server == mustNot && r.ServerID != nil:
		return fmt.Errorf("%w: %s with a server identifier", dhcp.ErrMalformed, kinds[r.Type])
	case r.Unicast && server != must:
		return fmt.Errorf("%w: %s to one server", dhcp.ErrMalformed, kinds[r.Type]) // section 18.4
	}
	return nil
}

// Kind is the message type.
func (r *Request) Kind() byte { return byte(r.Type) }

// Relayed reports whether a relay sent it.
func (r *Request) Relayed() bool { return len(r.relays) > 0 }

// Sender is who sent it.
func (r *Request) Sender(vswitchID string) lease.Client {
	c := lease.Client{VSwitch: vswitchID, MAC: r.MAC, Family: vpc.IPv6, OnLink: !r.Relayed(), DUID: hex.EncodeToString(r.ClientID)}
	if r.FQDN != nil {
		c.Hostname = r.FQDN.Hostname
	}
	return c
}

// VSwitch returns the vSwitch of a relayed message: the one that the link of the relay nearest to the client lies in
// (section 13.1). Every relay on the way must be one that the vSwitch names: a guest that plays a relay towards its own
// relay could speak for anybody. A link-local address says nothing there: it is the same on the guest's link.
func (r *Request) VSwitch(candidates []*vpc.VSwitch) *vpc.VSwitch {
	var link netip.Addr
	for _, h := range r.relays {
		if !h.link.IsUnspecified() {
			link = h.link
		}
	}
	for _, w := range candidates {
		if !w.IPv6CIDRBlock.IsValid() || !w.IPv6CIDRBlock.Contains(link) {
			continue
		}
		for _, h := range r.relays[:len(r.relays)-1] {
			if !names(w, h.peer) {
				return nil
			}
		}
		return w
	}
	return nil
}

func names(w *vpc.VSwitch, relay netip.Addr) bool {
	for _, a := range w.Attach.Relay {
		if a == relay {
			return true
		}
	}
	return false
}

// ours reports whether the message names this server.
func (r *Request) ours() bool { return bytes.Equal(r.ServerID, r.server) }

// wants reports whether the client asked for an option, or does not say what it wants.
func (r *Request) wants(code dhcpv6.OptionCode) bool {
	if r.Options == nil {
		return true
	}
	for _, c := range r.Options {
		if c == code {
			return true
		}
	}
	return false
}
