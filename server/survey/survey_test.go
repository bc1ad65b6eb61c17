package survey

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// host writes the files of a host: contents by path, and links where the contents begin with "-> ".
func host(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const (
	udpHeader = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
	// 0.0.0.0:67, 127.0.0.53:53, 10.20.1.253:53, 0.0.0.0:68
	udp4 = udpHeader +
		"  1: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 101 2 0000000000000000 0\n" +
		"  2: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 102 2 0000000000000000 0\n" +
		"  3: FD01140A:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 103 2 0000000000000000 0\n" +
		"  4: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 104 2 0000000000000000 0\n"
	// [::]:547
	udp6 = udpHeader +
		"  1: 00000000000000000000000000000000:0223 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 105 2 0 0\n"
	// a connection from 10.20.1.9:53, and [fd00:20:0:1:ffff:ffff:ffff:fff7]:53 listening
	tcp4 = udpHeader +
		"  1: 0901140A:0035 0101140A:9999 01 00000000:00000000 00:00000000 00000000     0        0 106 2 0000000000000000 0\n"
	tcp6 = udpHeader +
		"  1: 200000FD01000000FFFFFFFFF7FFFFFF:0035 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 107 2 0 0\n"
)

func sockets() map[string]string {
	return map[string]string{
		"proc/net/udp": udp4, "proc/net/udp6": udp6, "proc/net/tcp": tcp4, "proc/net/tcp6": tcp6,
		"proc/812/comm": "dnsmasq\n", "proc/812/fd/4": "-> socket:[101]", "proc/812/fd/5": "-> socket:[103]",
		"proc/900/comm": "gatehouse\n", "proc/900/fd/9": "-> socket:[105]",
		"proc/self": "-> 1",
	}
}

func TestHoldersNamesWhoHasThePortsOfAGateway(t *testing.T) {
	root := host(t, sockets())
	for _, tt := range []struct {
		name string
		self int
		want []string
	}{
		{"but not another gatehouse", 0, []string{
			"tcp [fd00:20:0:1:ffff:ffff:ffff:fff7]:53 another program",
			"udp 10.20.1.253:53 dnsmasq (process 812)",
			"udp 127.0.0.53:53 another program",
			"udp 0.0.0.0:67 dnsmasq (process 812)",
		}},
		{"but not the process itself", 812, []string{
			"tcp [fd00:20:0:1:ffff:ffff:ffff:fff7]:53 another program",
			"udp 127.0.0.53:53 another program",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			holders, err := Holders(root, tt.self)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, h := range holders {
				got = append(got, h.Network+" "+h.Addr.String()+" "+h.String())
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestASocketOnAnotherLinkIsNotInTheWay(t *testing.T) {
	g := Gateway{Links: []string{"gh-main"}}
	every := netip.MustParseAddrPort("0.0.0.0:67")
	for link, want := range map[string]bool{"": true, "gh-main": true, "virbr0": false} {
		if got := (Holder{Network: "udp", Addr: every, Link: link}).inTheWay(g); got != want {
			t.Errorf("bound to %q: in the way %v, want %v", link, got, want)
		}
	}
}

// TestTheKernelTellsWhatASocketIsBoundTo opens a socket on lo.
func TestTheKernelTellsWhatASocketIsBoundTo(t *testing.T) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "lo") }), err)
	}}
	c, err := lc.ListenPacket(t.Context(), "udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := c.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	inode := strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")
	if got := boundTo()[inode]; got != "lo" {
		t.Errorf("socket %s is bound to %q, want lo", inode, got)
	}
}

func TestSessionsAreEstablishedConnections(t *testing.T) {
	mapped := "  2: 0000000000000000FFFF0000FD01140A:0016 0000000000000000FFFF00000901140A:9C40 01 00000000:00000000 00:00000000 00000000 0 0 110 2 0 0\n"
	got, err := Sessions(host(t, map[string]string{"proc/net/tcp": tcp4, "proc/net/tcp6": tcp6 + mapped}))
	if err != nil {
		t.Fatal(err)
	}
	want := []Session{
		{netip.MustParseAddrPort("10.20.1.9:53"), netip.MustParseAddrPort("10.20.1.1:39321")},
		{netip.MustParseAddrPort("10.20.1.253:22"), netip.MustParseAddrPort("10.20.1.9:40000")},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func libvirtNetwork(bridge, ip string) string {
	return "<network>\n  <name>default</name>\n  <forward mode='nat'/>\n  <bridge name='" + bridge + "' stp='on' delay='0'/>\n  " + ip + "\n</network>\n"
}

func TestLook(t *testing.T) {
	g := Gateway{
		Uplinks: []string{"wan0", "ppp.7"},
		Links:   []string{"br-lab", "gh-main"},
		Addrs:   []netip.Addr{netip.MustParseAddr("10.20.1.253"), netip.MustParseAddr("fd00:20:0:1:ffff:ffff:ffff:fff7")},
		Ranges:  []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("fd00:20::/56")},
	}
	const network = "etc/libvirt/qemu/networks/autostart/default.xml"
	unit := func(name string) map[string]string {
		return map[string]string{"run/systemd/units/invocation:" + name + ".service": "-> 0123"}
	}
	conf := func(link, disabled, forwarding, accepts string, more ...string) map[string]string {
		dir := "proc/sys/net/ipv6/conf/" + link + "/"
		files := map[string]string{dir + "disable_ipv6": disabled + "\n", dir + "forwarding": forwarding + "\n", dir + "accept_ra": accepts + "\n"}
		if len(more) > 0 {
			files["proc/net/ipv6_route"] = more[0]
		}
		return files
	}
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  []string // "problem code: a part of the message | a part of the remedy"
	}{
		{"an empty host is fine", nil, nil},
		{"ports are in the way at every address and at the gateway's, in both families", sockets(), []string{
			"problem host.port: tcp port 53 of fd00:20:0:1:ffff:ffff:ffff:fff7 is held by another program | ss -lnp 'sport = :53'",
			"problem host.port: udp port 53 of 10.20.1.253 is held by dnsmasq (process 812) | stop it",
			"problem host.port: udp port 67 of every address is held by dnsmasq (process 812) | ss -lnp 'sport = :67'",
		}},
		{"an uplink that does not hear its routers", conf("wan0", "0", "1", "1"), []string{"note host.routers: router advertisements on uplink wan0 are ignored | sysctl net.ipv6.conf.wan0.accept_ra=2"}},
		{"one with a dot in its name", conf("ppp.7", "0", "1", "1"), []string{"note host.routers: router advertisements on uplink ppp.7 are ignored | sysctl net.ipv6.conf.ppp/7.accept_ra=2"}},
		{"an uplink that hears them though it forwards", conf("wan0", "0", "1", "2"), nil},
		{"an uplink that does not forward", conf("wan0", "0", "0", "1"), nil},
		{"an uplink for which somebody else listens", conf("wan0", "0", "1", "0"), nil},
		{"an uplink without IPv6", conf("wan0", "1", "1", "1"), nil},
		{"an uplink with a default route", conf("wan0", "0", "1", "1",
			"00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     wan0\n"), nil},
		{"a link that is no uplink", conf("lan0", "0", "1", "1"), nil},
		{"Docker", unit("docker"), []string{"note host.docker: Docker is running | nothing"}},
		{"firewalld", unit("firewalld"), []string{"note host.firewalld: firewalld is running | for l in br-lab gh-main; do firewall-cmd"}},
		{"NetworkManager", unit("NetworkManager"), []string{"note host.networkmanager: NetworkManager is running | interface-name:gh-*;interface-name:br-lab\\n"}},
		{"the policy that lets firewalld admit what comes from an uplink", unit("firewalld"), []string{"note host.firewalld: firewalld is running | --policy gatehouse --add-egress-zone trusted"}},
		{"systemd-networkd", unit("systemd-networkd"), []string{"note host.networkd: systemd-networkd is running | Name=gh-* br-lab\\n[Link]\\nUnmanaged=yes"}},
		{"systemd-resolved", unit("systemd-resolved"), []string{"note host.resolved: systemd-resolved is running: it answers on 127.0.0.53 | DNSStubListenerExtra="}},
		{"fail2ban", unit("fail2ban"), []string{"note host.fail2ban: fail2ban is running | nothing"}},
		{"nftables", unit("nftables"), []string{"note host.flush: a service loads rules | gatehouse firewall resync"}},
		{"ufw", map[string]string{"etc/ufw/ufw.conf": "# ufw\nENABLED=yes\nLOGLEVEL=low\n"}, []string{"note host.ufw: ufw is enabled | nothing"}},
		{"ufw that is installed only", map[string]string{"etc/ufw/ufw.conf": "ENABLED=no\n"}, nil},
		{"libvirt whose files are not for us", map[string]string{"sys/class/net/virbr0": "-> nowhere"}, []string{"note host.libvirt: libvirt has networks: they have servers | virsh net-list"}},
		{"a network of libvirt elsewhere", map[string]string{network: libvirtNetwork("virbr0", `<ip address='192.168.122.1' netmask='255.255.255.0'>`)},
			[]string{`note host.libvirt: libvirt has a network "default" on virbr0 | nothing`}},
		{"a network of libvirt in an IPv4 range", map[string]string{network: libvirtNetwork("virbr0", `<ip address='10.20.7.1' netmask='255.255.255.0'>`)},
			[]string{`problem host.libvirt: libvirt's network "default" has 10.20.7.0/24, which overlaps 10.20.0.0/16 of a VPC | virsh net-destroy default`}},
		{"a network of libvirt in an IPv6 range", map[string]string{network: libvirtNetwork("virbr0", `<ip family="ipv6" address="fd00:20:0:7::1" prefix="64">`)},
			[]string{`problem host.libvirt: libvirt's network "default" has fd00:20:0:7::/64, which overlaps fd00:20::/56 of a VPC | another range`}},
		{"a network of libvirt on our bridge", map[string]string{network: libvirtNetwork("gh-main", `<ip address='192.168.122.1' prefix='24'/>`)},
			[]string{`problem host.libvirt: libvirt's network "default" serves DHCP and DNS on gh-main | virsh net-autostart --disable default`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Look(host(t, tt.files), g)
			for i, f := range got {
				level := "note "
				if f.Problem {
					level = "problem "
				}
				if i >= len(tt.want) {
					t.Errorf("also %s%s: %s", level, f.Code, f.Message)
					continue
				}
				message, remedy, _ := strings.Cut(tt.want[i], " | ")
				if said := level + f.Code + ": " + f.Message; !strings.HasPrefix(said, message) || !strings.Contains(f.Remedy, remedy) {
					t.Errorf("said %q\nremedy %q\nwant %q", said, f.Remedy, tt.want[i])
				}
			}
			if len(got) < len(tt.want) {
				t.Errorf("not said: %q", tt.want[len(got):])
			}
		})
	}
}

func TestDefaultRoutesOfBothFamilies(t *testing.T) {
	root := host(t, map[string]string{
		"proc/net/route": "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
			"eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
			"eth1\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n",
		"proc/net/ipv6_route": "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth6\n" +
			"00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n" +
			"fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth1\n",
	})
	got, err := defaultRoutes(root, ipv4Routes, ipv6Routes)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]bool{"eth0": true, "eth6": true}, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestFreeRangeIsNobodys(t *testing.T) {
	links := []Link{{Addrs: []netip.Prefix{netip.MustParsePrefix("10.20.3.1/24"), netip.MustParsePrefix("2001:db8::1/64")}},
		{Addrs: []netip.Prefix{netip.MustParsePrefix("10.21.0.1/15")}}}
	if got := FreeRange(links); got != netip.MustParsePrefix("10.22.0.0/16") {
		t.Errorf("it is %s", got)
	}
}

func FuzzParseSocketAddr(f *testing.F) {
	f.Add("3500007F:0035")
	f.Add("200000FD01000000FFFFFFFFF7FFFFFF:0035")
	f.Add(":")
	f.Fuzz(func(t *testing.T, s string) {
		a, ok := parseSocketAddr(s)
		if !ok {
			return
		}
		if _, port, _ := strings.Cut(s, ":"); !a.Addr().IsValid() || !strings.EqualFold(strings.TrimLeft(port, "0"), strings.TrimLeft(strconv.FormatUint(uint64(a.Port()), 16), "0")) {
			t.Errorf("%q is %s", s, a)
		}
	})
}
