package survey

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gatehouse/vpc"
)

// Finding is something on the host that a gateway's administrator should know.
type Finding struct {
	Problem bool // something does not work; else it is good to know
	Code    string
	Message string
	Remedy  string
}

// The codes of findings.
const (
	FindingPort           = "host.port" // a port that the gateway serves is somebody else's
	FindingRival          = "host.dhcp" // another DHCP server answers on a vSwitch's link
	FindingDocker         = "host.docker"
	FindingUFW            = "host.ufw"
	FindingFirewalld      = "host.firewalld"
	FindingNetworkManager = "host.networkmanager"
	FindingNetworkd       = "host.networkd"
	FindingResolved       = "host.resolved"
	FindingFail2ban       = "host.fail2ban"
	FindingLibvirt        = "host.libvirt" // a network of libvirt, which has a DHCP and a DNS server of its own
	FindingFlush          = "host.flush"   // a service that flushes all rules when it is reloaded
	FindingRouters        = "host.routers" // an uplink does not hear its provider's router advertisements
	FindingLooking        = "host.survey"  // something could not be looked at
)

// Gateway is what a gateway has, or is going to have.
type Gateway struct {
	Self    int            // its process; 0: it does not run
	Uplinks []string       // that lead outside
	Links   []string       // of its vSwitches
	Addrs   []netip.Addr   // that it answers DNS at
	Ranges  []netip.Prefix // of its VPCs
}

// Look returns what the host has that concerns a gateway. root is where the host's files are: "/", but in tests.
func Look(root string, g Gateway) []Finding {
	var out []Finding
	holders, err := Holders(root, g.Self)
	if err != nil {
		out = append(out, Finding{true, FindingLooking, err.Error(), ""})
	}
	for _, h := range holders {
		if !h.inTheWay(g) {
			continue
		}
		out = append(out, Finding{true, FindingPort,
			fmt.Sprintf("%s port %d of %s is held by %s", h.Network, h.Addr.Port(), anyAddr(h.Addr.Addr()), h),
			fmt.Sprintf("stop it, or let it listen only on addresses and links that are not gatehouse's; `ss -lnp 'sport = :%d'` shows it", h.Addr.Port())})
	}
	links := strings.Join(g.Links, " ")
	for _, s := range []struct {
		units   []string
		finding Finding
	}{
		{[]string{"docker"}, Finding{false, FindingDocker, "Docker is running: it drops what it does not know in FORWARD",
			"nothing: gatehouse's guests pass before that; attach containers to a vSwitch by macvlan or a veth, not by Docker's own bridges"}},
		{[]string{"firewalld"}, Finding{false, FindingFirewalld, "firewalld is running: it refuses forwarded packets of links that are in no zone that admits them, whatever others accept, and removes the rules of others when it is started, stopped or reloaded",
			"gatehouse puts its rules back at once; let firewalld admit what gatehouse decides about: for l in " + links + "; do firewall-cmd --permanent --zone=trusted --add-interface=$l; done; " +
				"firewall-cmd --permanent --new-policy gatehouse; firewall-cmd --permanent --policy gatehouse --set-target ACCEPT; " +
				"firewall-cmd --permanent --policy gatehouse --add-ingress-zone ANY; firewall-cmd --permanent --policy gatehouse --add-egress-zone trusted; firewall-cmd --reload"}},
		{[]string{"NetworkManager"}, Finding{false, FindingNetworkManager, "NetworkManager is running: it may take over links that it finds",
			"tell it that they are gatehouse's, and their ports the guests': printf '[keyfile]\\nunmanaged-devices=driver:veth;driver:tun;interface-name:gh-*" + unmanaged(g.Links) + "\\n' > /etc/NetworkManager/conf.d/gatehouse.conf; nmcli general reload"}},
		{[]string{"systemd-networkd"}, Finding{false, FindingNetworkd, "systemd-networkd is running: it configures every link that one of its files matches, and clears what others have set there",
			"if a file matches more than the host's own links: printf '[Match]\\nName=gh-*" + networkdNames(g.Links) + "\\n[Link]\\nUnmanaged=yes\\n' > /etc/systemd/network/05-gatehouse.network; " +
				"printf '[Match]\\nKind=veth tun\\n[Link]\\nUnmanaged=yes\\n' > /etc/systemd/network/06-gatehouse-ports.network; networkctl reload"}},
		{[]string{"systemd-resolved"}, Finding{false, FindingResolved, "systemd-resolved is running: it answers on 127.0.0.53 and 127.0.0.54, which no guest reaches",
			"nothing, as long as its DNSStubListenerExtra= names no address of a vSwitch; the upstream \"system\" is then it"}},
		{[]string{"fail2ban"}, Finding{false, FindingFail2ban, "fail2ban is running: whom it has banned reaches none of the gateway's own ports that it guards",
			"nothing: what guests may reach is decided before that, and no ban concerns what is forwarded"}},
		{[]string{"nftables", "netfilter-persistent", "iptables"}, Finding{false, FindingFlush, "a service loads rules of its own at boot, and flushes all rules when it is started again",
			"nothing: gatehouse puts its rules back by itself; `gatehouse firewall resync` does it at once"}},
	} {
		for _, unit := range s.units {
			if active(root, unit) {
				out = append(out, s.finding)
				break
			}
		}
	}
	if enabled(root) {
		out = append(out, Finding{false, FindingUFW, "ufw is enabled: it drops what it does not know in INPUT and FORWARD",
			"nothing: what gatehouse admits passes before that, and ufw's rules hold for everything else"})
	}
	return append(append(out, libvirt(root, g)...), deaf(root, g)...)
}

// deaf names the uplinks on which the kernel ignores router advertisements, unless they have an IPv6 default route all the same. Where
// it is gatehouse that turns forwarding on, it lets them be heard; whoever did so before may not have. What listens for the kernel, as
// systemd-networkd and NetworkManager do, sets accept_ra to 0.
func deaf(root string, g Gateway) []Finding {
	routes, err := defaultRoutes(root, ipv6Routes)
	if err != nil {
		return []Finding{{true, FindingLooking, err.Error(), ""}}
	}
	var out []Finding
	for _, l := range g.Uplinks {
		setting := func(name string) string {
			text, err := os.ReadFile(filepath.Join(root, "proc/sys/net/ipv6/conf", l, name))
			if err != nil {
				return "" // no such link, or no IPv6
			}
			return strings.TrimSpace(string(text))
		}
		if setting("disable_ipv6") != "0" || setting("forwarding") == "0" || setting("accept_ra") != "1" || routes[l] {
			continue
		}
		out = append(out, Finding{false, FindingRouters,
			"router advertisements on uplink " + l + " are ignored: this host forwarded IPv6 before gatehouse came, and accept_ra is 1, which only hosts that do not forward heed",
			"if the provider has IPv6 and advertises its router: sysctl net.ipv6.conf." + strings.ReplaceAll(l, ".", "/") + ".accept_ra=2, and the same in /etc/sysctl.d/"})
	}
	return out
}

// inTheWay reports whether a gateway cannot open its own socket because of a holder's.
func (h Holder) inTheWay(g Gateway) bool {
	a := h.Addr.Addr()
	if h.Link != "" && !slices.Contains(g.Links, h.Link) {
		return false
	}
	return a.IsUnspecified() || slices.Contains(g.Addrs, a.Unmap())
}

func anyAddr(a netip.Addr) string {
	if a.IsUnspecified() {
		return "every address"
	}
	return a.String()
}

func unmanaged(links []string) string {
	out := ""
	for _, l := range links {
		if !strings.HasPrefix(l, "gh-") {
			out += ";interface-name:" + l
		}
	}
	return out
}

func networkdNames(links []string) string {
	out := ""
	for _, l := range links {
		if !strings.HasPrefix(l, "gh-") {
			out += " " + l
		}
	}
	return out
}

// active reports whether systemd runs a service: it keeps a link for each that is active.
func active(root, unit string) bool {
	return exists(filepath.Join(root, "run/systemd/units/invocation:"+unit+".service"))
}

// enabled reports whether ufw is; it has no process.
func enabled(root string) bool {
	text, err := os.ReadFile(filepath.Join(root, "etc/ufw/ufw.conf"))
	return err == nil && regexp.MustCompile(`(?mi)^ENABLED=["']?yes`).Match(text)
}

var (
	libvirtBridge  = regexp.MustCompile(`<bridge[^>]* name=['"]([^'"]+)['"]`)
	libvirtAddress = regexp.MustCompile(`<ip[^>]* address=['"]([^'"]+)['"][^>]* (netmask|prefix)=['"]([^'"]+)['"]`)
)

// libvirt lists the networks that libvirt starts by itself.
func libvirt(root string, g Gateway) []Finding {
	files, err := filepath.Glob(filepath.Join(root, "etc/libvirt/qemu/networks/autostart/*.xml"))
	if err != nil {
		return nil // the pattern is good
	}
	var out []Finding
	bridges, err := filepath.Glob(filepath.Join(root, "sys/class/net/virbr*"))
	if err != nil {
		return nil
	}
	if len(files) == 0 && len(bridges) > 0 {
		// Its files are for root only.
		out = append(out, Finding{false, FindingLibvirt, "libvirt has networks: they have servers of their own for DHCP and DNS",
			"nothing, as long as no vSwitch is attached to a bridge of them; guests of a vSwitch have <interface type='bridge'> with its bridge; `virsh net-list` shows them"})
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			text = nil // readable by root only; that there is a network is known all the same
		}
		name := strings.TrimSuffix(filepath.Base(file), ".xml")
		bridge := "a bridge"
		if m := libvirtBridge.FindSubmatch(text); m != nil {
			bridge = string(m[1])
		}
		f := Finding{false, FindingLibvirt, fmt.Sprintf("libvirt has a network %q on %s with servers of its own for DHCP and DNS", name, bridge),
			"nothing, as long as no vSwitch is attached to it; guests of a vSwitch have <interface type='bridge'> with its bridge"}
		for _, m := range libvirtAddress.FindAllStringSubmatch(string(text), -1) {
			p, ok := parsePrefix(m[1], m[3])
			if i := slices.IndexFunc(g.Ranges, p.Overlaps); ok && i >= 0 {
				f.Problem = true
				f.Message = fmt.Sprintf("libvirt's network %q has %s, which overlaps %s of a VPC", name, p.Masked(), g.Ranges[i])
				f.Remedy = "remove it (virsh net-autostart --disable " + name + "; virsh net-destroy " + name + "), or give one of both another range"
			}
		}
		if slices.Contains(g.Links, bridge) {
			f.Problem = true
			f.Message = fmt.Sprintf("libvirt's network %q serves DHCP and DNS on %s, the link of a vSwitch", name, bridge)
			f.Remedy = "remove it (virsh net-autostart --disable " + name + "; virsh net-destroy " + name + "): gatehouse serves that bridge"
		}
		out = append(out, f)
	}
	return out
}

// parsePrefix reads an address with a mask or a length.
func parsePrefix(addr, mask string) (netip.Prefix, bool) {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.Prefix{}, false
	}
	if m, err := netip.ParseAddr(mask); err == nil && m.Is4() {
		ones := 0
		for _, b := range m.As4() {
			for ; b&0x80 != 0; b <<= 1 {
				ones++
			}
		}
		return netip.PrefixFrom(a, ones), true
	}
	p, err := netip.ParsePrefix(addr + "/" + mask)
	return p, err == nil
}

// Rival is the finding of another DHCP server on a vSwitch's link.
func Rival(link string, server netip.Addr) Finding {
	return Finding{true, FindingRival, fmt.Sprintf("%s answers DHCP on %s: guests would get addresses of either", server, link),
		"stop that server, or take it off that link (tcpdump -eni " + link + " port 67 shows its MAC); or attach the vSwitch to another link"}
}

// GatewayOf is what a gateway has when a snapshot is in force.
func GatewayOf(s *vpc.Snapshot) Gateway {
	g := Gateway{Uplinks: s.Host.Uplinks}
	for _, v := range s.VPCs {
		g.Ranges = append(g.Ranges, v.Prefixes()...)
	}
	for _, w := range s.VSwitches {
		if !w.HasLink() {
			continue
		}
		g.Links = append(g.Links, w.LinkName())
		for _, f := range vpc.Families() {
			if a := w.GatewayAddr(f); a.IsValid() {
				g.Addrs = append(g.Addrs, a)
			}
		}
	}
	slices.Sort(g.Links)
	return g
}
