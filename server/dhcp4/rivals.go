package dhcp4

import (
	"context"
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
		if !ok {
			continue
		}
		m, err := dhcpv4.FromBytes(d.payload)
		if err != nil || m.TransactionID != discover.TransactionID {
			continue
		}
		server := d.src
		if id, ok := netip.AddrFromSlice(m.ServerIdentifier().To4()); ok {
			server = id
		}
		if !slices.Contains(found, server) {
			found = append(found, server)
		}
	}
}

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
