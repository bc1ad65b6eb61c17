package survey

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind says what a link is, as far as it matters to a gateway.
type Kind string

// The kinds of links. Virtual is whatever is none of the others: veth, tun, dummy, VLAN.
const (
	Hardware Kind = "hardware"
	Bridge   Kind = "bridge"
	Virtual  Kind = "virtual"
)

// Link is a link of the host.
type Link struct {
	Name    string
	Kind    Kind
	Default bool // a default route leads over it
	Addrs   []netip.Prefix
}

// Links lists the links of the calling thread's network namespace, but lo.
func Links() ([]Link, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	defaults, err := defaultRoutes("/", ipv4Routes, ipv6Routes)
	if err != nil {
		return nil, err
	}
	var links []Link
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback == 0 {
			links = append(links, Link{i.Name, kindOf(i.Name), defaults[i.Name], addrsOf(i)})
		}
	}
	return links, nil
}

// kindOf asks a link's driver. Hardware is where the driver knows a bus.
func kindOf(name string) Kind {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Virtual
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	switch {
	case err != nil:
		return Virtual
	case unix.ByteSliceToString(info.Driver[:]) == "bridge":
		return Bridge
	case strings.ContainsAny(unix.ByteSliceToString(info.Bus_info[:]), ":.-0123456789"):
		return Hardware
	}
	return Virtual
}

// addrsOf gives a link's addresses, but link-local ones; none where it has gone again.
func addrsOf(i net.Interface) []netip.Prefix {
	addrs, err := i.Addrs()
	if err != nil {
		return nil
	}
	var out []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p)
		}
	}
	return out
}

// routeTable is where a family's routes are listed.
type routeTable struct {
	file               string
	link, dest, length int // columns; length holds a mask or a length, which is zero for a default route
}

var (
	ipv4Routes = routeTable{"proc/net/route", 0, 1, 7}
	ipv6Routes = routeTable{"proc/net/ipv6_route", 9, 0, 1}
)

// defaultRoutes gives the links over which a default route of one of the tables leads.
func defaultRoutes(root string, tables ...routeTable) (map[string]bool, error) {
	found := map[string]bool{}
	for _, table := range tables {
		err := eachLine(filepath.Join(root, table.file), func(f []string) {
			if len(f) > max(table.link, table.length) && zero(f[table.dest]) && zero(f[table.length]) && f[table.link] != "lo" {
				found[f[table.link]] = true
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
	}
	return found, nil
}

func zero(hex string) bool { return hex != "" && strings.Trim(hex, "0") == "" }

// eachLine hands the words of every line to f; a kernel without IPv6 does not have all files.
func eachLine(path string, f func([]string)) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	sc := bufio.NewScanner(file)
	for sc.Scan() {
		f(strings.Fields(sc.Text()))
	}
	return sc.Err()
}

// FreeRange gives the first of 10.20.0.0/16, 10.21.0.0/16 … that no address of the links lies in.
func FreeRange(links []Link) netip.Prefix {
	for n := range 200 {
		p := netip.MustParsePrefix("10." + strconv.Itoa(20+n) + ".0.0/16")
		taken := slices.ContainsFunc(links, func(l Link) bool {
			return slices.ContainsFunc(l.Addrs, func(a netip.Prefix) bool { return a.Masked().Overlaps(p) })
		})
		if !taken {
			return p
		}
	}
	return netip.MustParsePrefix("192.168.0.0/16")
}
