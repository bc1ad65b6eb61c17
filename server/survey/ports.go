package survey

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// exists reports whether there is such a file, if only a link that leads nowhere.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Holder is a program that has a port open.
type Holder struct {
	Network string // udp or tcp
	Addr    netip.AddrPort
	Link    string // that it is bound to; "": to all
	PID     int    // 0: of somebody whose files we may not read
	Process string // its name
}

func (h Holder) String() string {
	if h.PID == 0 {
		return "another program"
	}
	return fmt.Sprintf("%s (process %d)", h.Process, h.PID)
}

// needed are the ports that a gateway serves.
func needed(network string, port uint16) bool {
	return port == 53 || network == "udp" && (port == 67 || port == 547)
}

const tcpListen = "0A"

// Holders lists who has a port open that a gateway serves: 53, and over UDP 67 and 547. What the process self has open is
// left out, and other gatehouses.
func Holders(root string, self int) ([]Holder, error) {
	links := map[string]string{}
	if root == "/" {
		links = boundTo()
	}
	byInode := map[string][]Holder{}
	for _, network := range []string{"udp", "tcp"} {
		for _, version := range []string{"", "6"} {
			err := eachLine(filepath.Join(root, "proc/net", network+version), func(f []string) {
				const local, state, inode = 1, 3, 9
				if len(f) <= inode || network == "tcp" && f[state] != tcpListen {
					return
				}
				if a, ok := parseSocketAddr(f[local]); ok && needed(network, a.Port()) {
					byInode[f[inode]] = append(byInode[f[inode]], Holder{Network: network, Addr: a, Link: links[f[inode]]})
				}
			})
			if err != nil {
				return nil, fmt.Errorf("list sockets: %w", err)
			}
		}
	}
	if len(byInode) == 0 {
		return nil, nil
	}
	owners := socketOwners(root, byInode)
	var out []Holder
	for inode, holders := range byInode {
		pid := owners[inode]
		name := processName(root, pid)
		if pid == self && pid != 0 || name == "gatehouse" {
			continue
		}
		for _, h := range holders {
			h.PID, h.Process = pid, name
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b Holder) int { return strings.Compare(key(a), key(b)) })
	return out, nil
}

func key(h Holder) string { return fmt.Sprintf("%s %05d %s", h.Network, h.Addr.Port(), h.Addr) }

// parseSocketAddr reads an address as /proc/net/udp has it: 32-bit words in the host's order, which is taken to be little
// endian, and the port.
func parseSocketAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	b, err2 := hex.DecodeString(host)
	if !ok || err != nil || err2 != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, uint16(n)), ok
}

// socketOwners finds the processes that have these sockets open, as far as we may look.
func socketOwners(root string, inodes map[string][]Holder) map[string]int {
	owners := map[string]int{}
	processes, err := os.ReadDir(filepath.Join(root, "proc"))
	if err != nil {
		return owners
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(root, "proc", p.Name(), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended, or is none of our business
		}
		for _, fd := range fds {
			target, err := os.Readlink(filepath.Join(dir, fd.Name()))
			if err != nil {
				continue
			}
			inode, ok := strings.CutPrefix(target, "socket:[")
			if inode = strings.TrimSuffix(inode, "]"); ok && inodes[inode] != nil && owners[inode] == 0 {
				owners[inode] = pid
			}
		}
	}
	return owners
}

func processName(root string, pid int) string {
	if pid == 0 {
		return ""
	}
	comm, err := os.ReadFile(filepath.Join(root, "proc", strconv.Itoa(pid), "comm"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(comm))
}
