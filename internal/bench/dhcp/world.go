package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/internal/netlab"
	"gatehouse/vpc"
)

// Cores: one for the server, one for the clients.
const (
	serverCore = "0"
	clientCore = "1"
)

// The two ends of the cable, and the subnet that is served behind the relay at the clients' end. The relay is outside of
// it, as a router's address towards the server is, and says which link it speaks for in option 82 (RFC 3527).
var (
	serverAddr = netip.MustParseAddr("192.0.2.1")
	relayAddr  = netip.MustParseAddr("192.0.2.2")
	subnet     = netip.MustParsePrefix("10.99.0.0/16")
	linkAddr   = netip.MustParseAddr("10.99.0.1")
	poolFirst  = netip.MustParseAddr("10.99.1.0")
	poolLast   = netip.MustParseAddr("10.99.254.255")
)

const (
	serverLink = "vs"
	clientLink = "vc"
)

// world is a server's host and its clients', joined by a cable.
type world struct {
	server, clients *netlab.Space
}

func newWorld(ctx context.Context, lab *netlab.Lab, label string) (*world, error) {
	server, err := lab.Space(label + "-s")
	if err != nil {
		return nil, err
	}
	clients, err := lab.Space(label + "-c")
	if err != nil {
		return nil, err
	}
	if err := lab.Veth(ctx, server, serverLink, clients, clientLink); err != nil {
		return nil, err
	}
	for _, end := range []struct {
		space  *netlab.Space
		link   string
		v4, v6 string
	}{{server, serverLink, serverAddr.String(), server6.String()}, {clients, clientLink, relayAddr.String(), relay6.String()}} {
		if _, err := end.space.Script(ctx, fmt.Sprintf("ip addr add %s/24 dev %s\nip addr add %s/64 dev %[2]s nodad\n", end.v4, end.link, end.v6)); err != nil {
			return nil, err
		}
	}
	return &world{server, clients}, nil
}

// clientMAC is the MAC of perfdhcp's n-th client, given baseMAC: it adds n to the last octets, without carrying.
func clientMAC(n int) vpc.MAC { return vpc.MAC{2, 0, 0, byte(n >> 16), byte(n >> 8), byte(n)} }

const baseMAC = "02:00:00:00:00:00"

// relayInfo is option 82 with a link selection.
func relayInfo() []byte { return append([]byte{5, 4}, linkAddr.AsSlice()...) }

// firstOffer asks for an address again and again until a server offers one, and returns it. Only an offer of want is
// taken, unless that is the zero Addr.
func (w *world) firstOffer(ctx context.Context, mac vpc.MAC, want netip.Addr) (got netip.Addr, err error) {
	var conn *net.UDPConn
	if err := w.clients.Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: relayAddr.AsSlice(), Port: 67})
		return err
	}); err != nil {
		return netip.Addr{}, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ask, answer := discover(mac), make([]byte, 2048)
	for ctx.Err() == nil {
		// Nobody listens yet: the last datagram was refused, which the next call on the socket reports.
		if _, err := conn.WriteToUDP(ask, &net.UDPAddr{IP: serverAddr.AsSlice(), Port: 67}); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			return netip.Addr{}, err
		}
		if err := conn.SetReadDeadline(time.Now().Add(2 * time.Millisecond)); err != nil {
			return netip.Addr{}, err
		}
		n, _, err := conn.ReadFromUDP(answer)
		if err != nil || n < 240 || answer[0] != 2 {
			continue
		}
		if got = netip.AddrFrom4([4]byte(answer[16:20])); got == want || !want.IsValid() {
			return got, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no server offers %s an address: %w", mac, ctx.Err())
}

// discover is a DISCOVER as the relay forwards it.
func discover(mac vpc.MAC) []byte {
	b := message(mac, 1)
	copy(b[24:28], relayAddr.AsSlice())
	b = append(append(b, 82, byte(len(relayInfo()))), relayInfo()...)
	return append(b, 255)
}

// message starts a client's message of a type: what comes before its other options and the end.
func message(mac vpc.MAC, kind byte) []byte {
	b := make([]byte, 236, 320)
	b[0], b[1], b[2] = 1, 1, 6
	copy(b[4:8], mac[2:])
	copy(b[28:34], mac[:])
	b = binary.BigEndian.AppendUint32(b, 0x63825363)
	b = append(b, 53, 1, kind, 61, 7, 1)
	b = append(b, mac[:]...)
	return append(b, 55, 2, 3, 6)
}

// usedCPU is what a process has used of the processor, with the children that it has waited for.
func usedCPU(pid int) (time.Duration, error) {
	f, err := statFields(pid)
	if err != nil {
		return 0, err
	}
	const tick = time.Second / 100 // USER_HZ
	var sum time.Duration
	for _, s := range f[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// statFields are those of /proc/PID/stat after the name.
func statFields(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	_, rest, ok := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 15 {
		return nil, fmt.Errorf("/proc/%d/stat is not understood", pid)
	}
	return fields, nil
}

// syncTime is the median time of an fdatasync after a write of 4 KiB in a directory's file system.
func syncTime(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "sync")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4096)
	if err := f.Truncate(1 << 20); err != nil {
		return 0, err
	}
	times := make([]time.Duration, 200)
	for i := range times {
		start := time.Now()
		if _, err := f.WriteAt(page, int64(i)*4096); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		times[i] = time.Since(start)
	}
	slices.Sort(times)
	return times[len(times)/2].Round(time.Microsecond), nil
}
