package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/vishvananda/netlink/nl"

	"gatehouse/vpc"
)

// Flow is one connection as the kernel tracks it.
type Flow struct {
	Original, Reply Tuple // as each direction's packets look when they enter
	Local           bool  // the gateway itself opened it

	key []byte // attributes that name this flow: its tuple, zone and the kernel's ID, which the next flow of the tuple hardly ever gets again
}

// Tuple is one direction of a flow.
type Tuple struct {
	Protocol           vpc.Protocol
	Src, Dst           netip.Addr
	SrcPort, DstPort   uint16 // TCP, UDP and other protocols with ports
	ICMPType, ICMPCode uint8
}

// Family returns the IP version of the flow.
func (f Flow) Family() vpc.Family { return vpc.FamilyOf(f.Original.Src) }

// Addrs yields every address that the flow's packets carry on either side of the gateway; some may come twice.
func (f Flow) Addrs(yield func(netip.Addr) bool) {
	_ = yield(f.Original.Src) && yield(f.Original.Dst) && yield(f.Reply.Src) && yield(f.Reply.Dst)
}

// Packet returns the packet that would open the flow anew, as the forwarding chains see it: after a translation of its
// destination and before one of its source.
func (f Flow) Packet(s *vpc.Snapshot) vpc.Packet {
	o := f.Original
	p := vpc.Packet{
		In:       placeOf(s, o.Src),
		Src:      o.Src,
		Dst:      f.Reply.Src,
		Protocol: o.Protocol,
		SrcPort:  o.SrcPort,
		DstPort:  f.Reply.SrcPort,
		ICMPType: o.ICMPType,
		ICMPCode: o.ICMPCode,
		State:    vpc.StateNew,
	}
	if !p.Protocol.HasPorts() {
		p.SrcPort, p.DstPort = 0, 0
	}
	if i := s.InterfaceByAddr(o.Src); i != nil {
		p.SrcMAC = i.MAC
	}
	return p
}

// placeOf returns where packets from an address enter.
func placeOf(s *vpc.Snapshot, src netip.Addr) vpc.Place {
	if w := s.VSwitchOf(src); w != nil {
		return vpc.Place{Kind: vpc.PlaceVSwitch, VSwitch: w}
	}
	if len(s.Host.Uplinks) > 0 {
		return vpc.Place{Kind: vpc.PlaceUplink}
	}
	return vpc.Place{Kind: vpc.PlaceForeign}
}

// Attributes of a tuple that the netlink library does not name.
const (
	attrICMPType   = 5
	attrICMPCode   = 6
	attrICMPv6Type = 8
	attrICMPv6Code = 9
)

var errShort = errors.New("attribute is cut short")

// parseFlow reads one message of a dump: the netfilter header and attributes.
func parseFlow(msg []byte) (Flow, error) {
	if len(msg) < nl.SizeofNfgenmsg {
		return Flow{}, errShort
	}
	var f Flow
	for a, err := range attributes(msg[nl.SizeofNfgenmsg:]) {
		if err != nil {
			return Flow{}, err
		}
		switch a.kind {
		case nl.CTA_TUPLE_ORIG:
			f.Original, err = parseTuple(a.value)
			f.key = append(f.key, a.raw...)
		case nl.CTA_TUPLE_REPLY:
			f.Reply, err = parseTuple(a.value)
		case nl.CTA_ID, nl.CTA_ZONE:
			f.key = append(f.key, a.raw...)
		}
		if err != nil {
			return Flow{}, err
		}
	}
	if !f.Original.Src.IsValid() || !f.Original.Dst.IsValid() || !f.Reply.Src.IsValid() || !f.Reply.Dst.IsValid() {
		return Flow{}, errors.New("flow without addresses")
	}
	return f, nil
}

func parseTuple(b []byte) (Tuple, error) {
	var t Tuple
	for a, err := range attributes(b) {
		if err != nil {
			return t, err
		}
		switch a.kind {
		case nl.CTA_TUPLE_IP:
			err = t.parseAddrs(a.value)
		case nl.CTA_TUPLE_PROTO:
			err = t.parseProto(a.value)
		}
		if err != nil {
			return t, err
		}
	}
	return t, nil
}

func (t *Tuple) parseAddrs(b []byte) error {
	for a, err := range attributes(b) {
		if err != nil {
			return err
		}
		addr, ok := netip.AddrFromSlice(a.value)
		switch a.kind {
		case nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC:
			t.Src = addr
		case nl.CTA_IP_V4_DST, nl.CTA_IP_V6_DST:
			t.Dst = addr
		default:
			continue
		}
		if !ok {
			return fmt.Errorf("address of %d bytes", len(a.value))
		}
	}
	return nil
}

func (t *Tuple) parseProto(b []byte) error {
	for a, err := range attributes(b) {
		if err != nil {
			return err
		}
		switch a.kind {
		case nl.CTA_PROTO_NUM, attrICMPType, attrICMPCode, attrICMPv6Type, attrICMPv6Code:
			if len(a.value) < 1 {
				return errShort
			}
		case nl.CTA_PROTO_SRC_PORT, nl.CTA_PROTO_DST_PORT:
			if len(a.value) < 2 {
				return errShort
			}
		}
		switch a.kind {
		case nl.CTA_PROTO_NUM:
			t.Protocol = vpc.Protocol(a.value[0])
		case nl.CTA_PROTO_SRC_PORT:
			t.SrcPort = binary.BigEndian.Uint16(a.value)
		case nl.CTA_PROTO_DST_PORT:
			t.DstPort = binary.BigEndian.Uint16(a.value)
		case attrICMPType, attrICMPv6Type:
			t.ICMPType = a.value[0]
		case attrICMPCode, attrICMPv6Code:
			t.ICMPCode = a.value[0]
		}
	}
	return nil
}

// attribute is one netlink attribute.
type attribute struct {
	kind  uint16 // without the flags
	value []byte
	raw   []byte // with header and padding
}

const attributeHeader = 4

// attributes yields the attributes of b in order, or an error as the last thing.
func attributes(b []byte) iter.Seq2[attribute, error] {
	return func(yield func(attribute, error) bool) {
		for len(b) >= attributeHeader {
			size := int(binary.NativeEndian.Uint16(b))
			if size < attributeHeader || size > len(b) {
				yield(attribute{}, errShort)
				return
			}
			padded := min((size+3)&^3, len(b))
			a := attribute{
				kind:  binary.NativeEndian.Uint16(b[2:]) &^ (nl.NLA_F_NESTED | nl.NLA_F_NET_BYTEORDER),
				value: b[attributeHeader:size],
				raw:   b[:padded],
			}
			if !yield(a, nil) {
				return
			}
			b = b[padded:]
		}
	}
}
