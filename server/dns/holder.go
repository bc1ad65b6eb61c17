package dns

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// holderOf names the program that keeps us from binding an address, as in "dnsmasq (process 812)"; empty if that cannot
// be found out: it may belong to somebody into whose files we may not look.
func holderOf(network string, addr netip.AddrPort) string {
	var inodes []string
	for _, suffix := range []string{"", "6"} { // a socket of IPv6 may hold IPv4 as well
		f, err := os.Open("/proc/thread-self/net/" + network + suffix)
		if err != nil {
			continue
		}
		inodes = append(inodes, holdingSockets(f, network, addr)...)
		f.Close()
	}
	if len(inodes) == 0 {
		return ""
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is good
	for _, fd := range fds {
		link, err := os.Readlink(fd)
		inode, ok := strings.CutPrefix(link, "socket:[")
		if err != nil || !ok || !slices.Contains(inodes, strings.TrimSuffix(inode, "]")) {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		if pid == strconv.Itoa(os.Getpid()) {
			continue
		}
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			continue // it has ended
		}
		return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), pid)
	}
	return ""
}

// holdingSockets reads a table of sockets as in /proc/net/udp and returns the inodes of those that are bound to the port
// of the address, at this address or at all.
func holdingSockets(r io.Reader, network string, addr netip.AddrPort) []string {
	const (
		local, state, inode = 1, 3, 9 // columns; see proc_net(5)
		listening           = "0A"
	)
	var inodes []string
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) <= inode || network == "tcp" && f[state] != listening {
			continue
		}
		at, ok := parseProcAddr(f[local])
		if ok && at.Port() == addr.Port() && (at.Addr() == addr.Addr().WithZone("") || at.Addr().IsUnspecified()) {
			inodes = append(inodes, f[inode])
		}
	}
	return inodes
}

// parseProcAddr reads an address as in 0100007F:0035: words in the order of the host's octets, then the port.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	words, port, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(words)
	if !ok || err != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for w := b; len(w) > 0; w = w[4:] {
		binary.NativeEndian.PutUint32(w, binary.BigEndian.Uint32(w))
	}
	a, ok := netip.AddrFromSlice(b)
	p, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), true
}
