package ipset

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"gatehouse/vpc"
)

// Commands and attributes of linux/netfilter/ipset/ip_set.h.
const (
	protocol = 6 // the oldest that every kernel speaks

	commandAdd = unix.NFNL_SUBSYS_IPSET<<8 | 9  // IPSET_CMD_ADD
	commandDel = unix.NFNL_SUBSYS_IPSET<<8 | 10 // IPSET_CMD_DEL

	attrProtocol = 1 // IPSET_ATTR_PROTOCOL
	attrName     = 2 // IPSET_ATTR_SETNAME
	attrData     = 7 // IPSET_ATTR_DATA

	attrIP    = 1  // IPSET_ATTR_IP
	attrCIDR  = 3  // IPSET_ATTR_CIDR
	attrEther = 17 // IPSET_ATTR_ETHER
	attrMark  = 27 // IPSET_ATTR_SKBMARK

	attrIPv4 = 1 // IPSET_ATTR_IPADDR_IPV4
	attrIPv6 = 2 // IPSET_ATTR_IPADDR_IPV6
)

// change is one member that comes to a set in use, or leaves it. The member is canonical.
type change struct {
	set, typ string
	add      bool
	member   string
}

// line is the change as `ipset restore` reads it.
func (c change) line() string {
	if c.add {
		return "add " + c.set + " " + c.member
	}
	return "del " + c.set + " " + c.member
}

// message is the change as the kernel reads it. What is there already, or not any more, is no error.
func (c change) message() (netlink.Message, error) {
	e, err := parseElement(c.typ, c.member)
	if err != nil {
		return netlink.Message{}, fmt.Errorf("set %s: %w", c.set, err)
	}
	command, family := netlink.HeaderType(commandDel), byte(unix.AF_INET)
	if c.add {
		command = commandAdd
	}
	if e.addr.Is6() {
		family = unix.AF_INET6
	}
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Uint8(attrProtocol, protocol)
	ae.String(attrName, c.set)
	ae.Nested(attrData, e.encode)
	attrs, err := ae.Encode()
	if err != nil {
		return netlink.Message{}, fmt.Errorf("set %s: %w", c.set, err)
	}
	return netlink.Message{
		Header: netlink.Header{Type: command, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}, nil
}

// element is a member of a set.
type element struct {
	addr   netip.Addr
	bits   int // of a prefix; -1: an address
	mac    vpc.MAC
	hasMAC bool
	mark   uint64 // value, then mask
	marked bool
}

// parseElement reads a canonical member of a set of a type that gatehouse uses.
func parseElement(typ, member string) (element, error) {
	words := strings.Fields(member)
	bad := fmt.Errorf("%q is no member of a %s", member, typ)
	if len(words) == 0 {
		return element{}, bad
	}
	e := element{bits: -1}
	addr, rest, more := strings.Cut(words[0], ",")
	var err error
	switch typ {
	case "hash:ip":
	case "hash:net":
		if p, prefix := netip.ParsePrefix(addr); prefix == nil {
			addr, e.bits = p.Addr().String(), p.Bits()
		}
	case "bitmap:ip,mac", "hash:ip,mac":
		if e.hasMAC = more; more {
			e.mac, err = vpc.ParseMAC(rest)
			more = false
		}
	default:
		return element{}, bad
	}
	if err == nil {
		e.addr, err = netip.ParseAddr(addr)
	}
	if err != nil || more || e.addr.Zone() != "" || e.addr.Is4In6() {
		return element{}, bad
	}
	switch {
	case len(words) == 1:
		return e, nil
	case len(words) != 3 || words[1] != "skbmark":
		return element{}, bad
	}
	value, mask, _ := strings.Cut(words[2], "/")
	v, err1 := strconv.ParseUint(value, 0, 32)
	m, err2 := strconv.ParseUint(mask, 0, 32)
	if err1 != nil || err2 != nil {
		return element{}, bad
	}
	e.mark, e.marked = v<<32|m, true
	return e, nil
}

func (e element) encode(ae *netlink.AttributeEncoder) error {
	ae.Nested(attrIP, func(ae *netlink.AttributeEncoder) error {
		typ := uint16(attrIPv4)
		if e.addr.Is6() {
			typ = attrIPv6
		}
		ae.Bytes(typ|netlink.NetByteOrder, e.addr.AsSlice())
		return nil
	})
	if e.bits >= 0 {
		ae.Uint8(attrCIDR, uint8(e.bits))
	}
	if e.hasMAC {
		ae.Bytes(attrEther, e.mac[:])
	}
	if e.marked {
		ae.Uint64(attrMark|netlink.NetByteOrder, e.mark)
	}
	return nil
}

// atOnce is how many changes are sent before their answers are read, for which there is room in a socket of the usual size.
const atOnce = 64

// send makes changes without the ipset program, which would take longer to start than the kernel to make them. After an error
// some of them are made.
func send(changes []change) error {
	messages := make([]netlink.Message, len(changes))
	for i, c := range changes {
		var err error
		if messages[i], err = c.message(); err != nil {
			return err
		}
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	for len(messages) > 0 {
		n := min(len(messages), atOnce)
		if _, err := conn.SendMessages(messages[:n]); err != nil {
			return err
		}
		for answered := 0; answered < n; {
			answers, err := conn.Receive()
			if err != nil {
				return err
			}
			answered += len(answers)
		}
		messages = messages[n:]
	}
	return nil
}
