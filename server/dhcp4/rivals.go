package dhcp4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/bpf"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

// Rivals asks for an address on a link as a client would, takes none, and returns the servers that offered one before the
// time is over. The link must be up. What this host's own servers send on that link is not heard.
func Rivals(ctx context.Context, link string, wait time.Duration) ([]netip.Addr, error) {
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return nil, fmt.Errorf("look for DHCP servers on %s: %w", link, err)
	}
	if len(ifi.HardwareAddr) != len(vpc.MAC{}) {
		return nil, fmt.Errorf("look for DHCP servers on %s: it is no Ethernet link", link)
	}
	discover, err := dhcpv4.NewDiscovery(ifi.HardwareAddr, dhcpv4.WithBroadcast(true))
	if err != nil {
		return nil, fmt.Errorf("look for DHCP servers on %s: %w", link, err)
	}
	s, err := port.Open(port.Port{Index: ifi.Index, Name: link}, offers())
	if err != nil {
		return nil, fmt.Errorf("look for DHCP servers: %w", err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if deadline, ok := ctx.Deadline(); ok {
		if err := s.SetReadDeadline(deadline); err != nil {
			return nil, fmt.Errorf("look for DHCP servers on %s: %w", link, err)
		}
	}
	everyone := vpc.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	frame := buildUDP(vpc.MAC(ifi.HardwareAddr), everyone, netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{255, 255, 255, 255}),
		clientPort, serverPort, discover.ToBytes())
	if err := s.Send(frame); err != nil {
		return nil, fmt.Errorf("look for DHCP servers on %s: %w", link, err)
	}
	var found []netip.Addr
	buf := make([]byte, 1<<16)
	for {
		n, err := s.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return found, nil
		}
		if err != nil {
			return found, fmt.Errorf("look for DHCP servers on %s: %w", link, err)
		}
		d, ok := parseUDP(buf[:n], clientPort)
		if !ok || len(d.payload) < headerSize || dhcpv4.TransactionID(d.payload[4:8]) != discover.TransactionID {
			continue
		}
		if server, ok := answerer(d); ok && !slices.Contains(found, server) {
			found = append(found, server)
		}
	}
}

// answerer reads from a datagram to a client which server it is of: what it calls itself, or where it sends from.
func answerer(d datagram) (netip.Addr, bool) {
	kind, id := serverOf(d.payload, dhcpv4.OpcodeBootReply)
	switch kind {
	case dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak:
	default:
		return netip.Addr{}, false
	}
	if !id.IsValid() {
		id = d.src
	}
	return id, !id.IsUnspecified()
}

// chosen reads from a client's datagram which server's offer it takes: a client says that to all of them (RFC 2131 section
// 3.1), also when the offer came to it alone.
func chosen(d datagram) (netip.Addr, bool) {
	kind, id := serverOf(d.payload, dhcpv4.OpcodeBootRequest)
	return id, kind == dhcpv4.MessageTypeRequest && id.IsValid() && !id.IsUnspecified()
}

// serverOf reads the type of a message and the server that it names; invalid when it names none. A message that cannot be
// read has no type.
func serverOf(b []byte, op dhcpv4.OpcodeType) (kind dhcpv4.MessageType, server netip.Addr) {
	if len(b) < headerSize+cookieSize || dhcpv4.OpcodeType(b[0]) != op || binary.BigEndian.Uint32(b[headerSize:]) != cookie {
		return dhcpv4.MessageTypeNone, netip.Addr{}
	}
	options := make(optionList, 0, usualOptions)
	if _, err := options.read(b[headerSize+cookieSize:]); err != nil {
		return dhcpv4.MessageTypeNone, netip.Addr{}
	}
	if v := options.get(dhcpv4.OptionDHCPMessageType); len(v) == 1 {
		kind = dhcpv4.MessageType(v[0])
	}
	if v := options.get(dhcpv4.OptionServerIdentifier); len(v) == 4 {
		server = netip.AddrFrom4([4]byte(v))
	}
	return kind, server
}

// RivalWatch is a port.Server that hears other DHCP servers on links that are not the gateway's alone. A guest behind a
// bridge's port is not heard: what it answers reaches nobody.
type RivalWatch struct {
	// Heard is told of every message of a server, or to one, with what the server calls itself; of the gateway's own too,
	// where the link brings them back. It is called by who reads the port and must not wait.
	Heard func(at port.Port, server netip.Addr)
}

// AddPort makes the watch hear a plain link.
func (w *RivalWatch) AddPort(s *port.Socket) (port.Kinds, port.Receiver) {
	if s.Bridged {
		return 0, nil
	}
	return port.DHCPv4 | port.DHCPv4Answer, func(kind port.Kinds, frame []byte) {
		to, read := uint16(clientPort), answerer
		if kind == port.DHCPv4 {
			to, read = serverPort, chosen
		}
		if d, ok := parseUDP(frame, to); ok {
			if server, ok := read(d); ok {
				w.Heard(s.Port, server)
			}
		}
	}
}

// RemovePort does nothing: what was heard on a port stays true.
func (w *RivalWatch) RemovePort(*port.Socket) {}

// offers lets through what is for a client: unfragmented IPv4 UDP to its port.
func offers() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: port.EtherIPv4, SkipTrue: 8},
		bpf.LoadAbsolute{Off: 23, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(vpc.ProtocolUDP), SkipTrue: 6},
		bpf.LoadAbsolute{Off: 20, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 4},
		bpf.LoadMemShift{Off: port.EtherSize},
		bpf.LoadIndirect{Off: port.EtherSize + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: clientPort, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	}
}
