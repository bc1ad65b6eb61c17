package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"gatehouse/vpc"
)

// snapLen is how much of a frame is read: the addresses and the type.
const snapLen = 64

// firstFrames matches what a guest sends before anything else can work: ARP, neighbour discovery and router solicitations
// (duplicate address detection among them), and the questions of DHCP clients. Everything else stays in the kernel.
func firstFrames() []bpf.Instruction {
	const accept, drop = 22, 23 // positions below
	to := func(at, target int) uint8 { return uint8(target - at - 1) }
	return []bpf.Instruction{
		/*  0 */ bpf.LoadAbsolute{Off: 12, Size: 2},
		/*  1 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipTrue: to(1, accept)},
		/*  2 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipTrue: to(2, 12)},
		/*  3 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipFalse: to(3, drop)},
		// IPv4: UDP, the first fragment, to port 67
		/*  4 */ bpf.LoadAbsolute{Off: 23, Size: 1},
		/*  5 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipFalse: to(5, drop)},
		/*  6 */ bpf.LoadAbsolute{Off: 20, Size: 2},
		/*  7 */ bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: to(7, drop)},
		/*  8 */ bpf.LoadMemShift{Off: 14},
		/*  9 */ bpf.LoadIndirect{Off: 16, Size: 2},
		/* 10 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: 67, SkipTrue: to(10, accept)},
		/* 11 */ bpf.Jump{Skip: uint32(to(11, drop))},
		// IPv6: UDP to port 547, or ICMPv6 of neighbour discovery
		/* 12 */ bpf.LoadAbsolute{Off: 20, Size: 1},
		/* 13 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipTrue: to(13, 19)},
		/* 14 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6, SkipFalse: to(14, drop)},
		/* 15 */ bpf.LoadAbsolute{Off: 54, Size: 1},
		/* 16 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: 133, SkipTrue: to(16, accept)}, // router solicitation
		/* 17 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: 135, SkipTrue: to(17, accept)}, // neighbour solicitation
		/* 18 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: 136, SkipTrue: to(18, accept), SkipFalse: to(18, drop)},
		/* 19 */ bpf.LoadAbsolute{Off: 56, Size: 2},
		/* 20 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: 547, SkipTrue: to(20, accept)},
		/* 21 */ bpf.Jump{Skip: uint32(to(21, drop))},
		/* 22 */ bpf.RetConstant{Val: snapLen},
		/* 23 */ bpf.RetConstant{Val: 0},
	}
}

// incoming drops what the gateway itself sends by the port.
func incoming() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
}

// openPort opens a packet socket on a port. It must be called in the port's namespace.
func openPort(port Port) (*packet.Conn, error) {
	filter, err := bpf.Assemble(append(incoming(), firstFrames()...))
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", port.Name, err)
	}
	// Every protocol: a port's frames are the bridge's before a socket for one protocol sees them.
	c, err := packet.Listen(&net.Interface{Index: port.Index, Name: port.Name}, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", port.Name, err)
	}
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // it works without
			// The filter would drop what goes out by the port, but only once the kernel has copied each packet for it.
			_ = unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		})
	}
	return c, nil
}

// A guest that floods its port with first frames is read no faster than burst frames an interval.
const (
	watchBurst    = 32
	watchInterval = 100 * time.Millisecond
)

// watchPort hands the sender of every first frame on a port to seen, until the context ends.
func watchPort(ctx context.Context, c *packet.Conn, seen func(vpc.MAC)) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // nothing was written: there is nothing to lose
	defer stop()
	buf := make([]byte, snapLen)
	for {
		start := time.Now()
		for range watchBurst {
			n, _, err := c.ReadFrom(buf)
			if ctx.Err() != nil || errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				break // the port went down: it may come up again
			}
			if mac, ok := sender(buf[:n]); ok {
				seen(mac)
			}
		}
		if rest := watchInterval - time.Since(start); rest > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(rest):
			}
		}
	}
}

// sender returns the source MAC of a frame.
func sender(frame []byte) (vpc.MAC, bool) {
	if len(frame) < 14 {
		return vpc.MAC{}, false
	}
	mac := vpc.MAC(frame[6:12])
	return mac, !mac.IsZero() && mac[0]&1 == 0
}
