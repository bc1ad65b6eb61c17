//go:build packages

package acceptance

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/netlab"
)

// What else runs on gateways, from its real package, in a booted system: what is allowed passes and what is refused does not,
// whoever started first, and after a reload and a reboot; its rules stay as it wrote them. What has to be set for that is in
// systemd/COEXISTENCE.md, and doctor says it.

// companion is other software on a gateway.
type companion struct {
	name     string
	packages []string
	setup    string   // what its administrator does with it, in the system's shell
	remedy   string   // what doctor and the documentation ask for, once gatehouse is there
	reload   string   // how it is told to read its configuration again
	stop     string   // and to end
	start    string   // and to begin again
	settled  string   // succeeds when it is there again
	rules    string   // prints what it has in the kernel that the four readers of iptables do not show
	tells    []string // what doctor says of it, as regular expressions
	silent   []string // what doctor must not say
	quiet    bool     // its reload takes nothing of what is allowed
	flushes  bool     // its reload removes everybody's rules, for the moment that it takes to put them back
	host22   bool     // somebody outside reaches the gateway's own port 22
	byOrder  string   // a policy that it sets only if it was first
	extra    func(c *coexistence)
}

var companions = []companion{
	{
		name: "Docker, beside systemd-resolved", packages: []string{"docker.io", "systemd-resolved"},
		setup:   dockerImage,
		reload:  "systemctl reload docker; systemctl restart docker; docker start web",
		stop:    "docker stop -t0 web; systemctl stop docker.socket docker",
		start:   "systemctl start docker; docker start web",
		settled: "docker ps -q --filter status=running --filter name=web | grep .",
		tells:   []string{`^note +host\.docker: Docker is running`, `^note +host\.resolved: systemd-resolved is running`},
		silent:  []string{"^problem"},
		quiet:   true, host22: true,
		// It refuses what others forward, unless the host has forwarded before it came.
		byOrder: ":FORWARD DROP",
		extra:   (*coexistence).docker,
	},
	{
		name: "ufw", packages: []string{"ufw"},
		setup:   "ufw default deny incoming; ufw default deny routed; ufw allow 22/tcp; ufw --force enable; systemctl start ufw",
		reload:  "ufw reload",
		stop:    "systemctl stop ufw",
		start:   "systemctl start ufw",
		settled: "iptables -S ufw-before-forward | grep -q ESTABLISHED",
		tells:   []string{`^note +host\.ufw: ufw is enabled`},
		silent:  []string{"^problem"},
		quiet:   true, host22: true,
	},
	{
		name: "firewalld on nftables", packages: []string{"firewalld"},
		remedy:  firewalldRemedy,
		reload:  "firewall-cmd --reload",
		stop:    "systemctl stop firewalld",
		start:   "systemctl start firewalld",
		settled: "firewall-cmd --state",
		rules:   "nft list table inet firewalld",
		tells:   []string{`^note +host\.firewalld: firewalld is running`},
		silent:  []string{"^problem"},
		flushes: true, host22: true,
	},
	{
		name: "firewalld on iptables", packages: []string{"firewalld"},
		setup:  "sed -i s/^FirewallBackend=.*/FirewallBackend=iptables/ /etc/firewalld/firewalld.conf; systemctl restart firewalld",
		remedy: firewalldRemedy,
		reload: "firewall-cmd --reload || firewall-cmd --reload", // what a flush by iptables 1.8.9 says when another writes

		stop:    "systemctl stop firewalld",
		start:   "systemctl start firewalld",
		settled: "firewall-cmd --state",
		tells:   []string{`^note +host\.firewalld: firewalld is running`},
		silent:  []string{"^problem"},
		flushes: true, host22: true,
	},
	{
		name: "libvirt's default network", packages: []string{"libvirt-daemon-system", "libvirt-clients", "libvirt-daemon-config-network", "dnsmasq-base"},
		setup:   "virsh -c network:///system net-autostart default; virsh -c network:///system net-start default || true",
		reload:  "systemctl reload-or-restart libvirtd; until virsh -c network:///system net-list; do sleep 0.2; done; virsh -c network:///system net-destroy default; virsh -c network:///system net-start default",
		stop:    "virsh -c network:///system net-destroy default",
		start:   "virsh -c network:///system net-start default",
		settled: "ip -4 -o addr show dev virbr0 | grep 192.168.122.1",
		tells:   []string{`^note +host\.libvirt: libvirt has a network "default"`},
		silent:  []string{"^problem"},
		quiet:   true, host22: true,
		extra: (*coexistence).libvirt,
	},
	{
		name: "fail2ban", packages: []string{"fail2ban"},
		setup:   "touch /var/log/auth.log; systemctl restart fail2ban; until fail2ban-client status sshd; do sleep 0.2; done; fail2ban-client set sshd banip 198.51.100.66",
		reload:  "fail2ban-client reload",
		stop:    "systemctl stop fail2ban",
		start:   "systemctl start fail2ban",
		settled: "iptables -S f2b-sshd | grep 198.51.100.66",
		tells:   []string{`^note +host\.fail2ban: fail2ban is running`},
		silent:  []string{"^problem"},
		quiet:   true, host22: true,
	},
	{
		name: "NetworkManager", packages: []string{"network-manager"},
		setup:   networkManagerUplink,
		remedy:  "printf '[keyfile]\\nunmanaged-devices=driver:veth;driver:tun;interface-name:gh-*;interface-name:br-back;interface-name:lan0;except:interface-name:up0\\n' >/etc/NetworkManager/conf.d/gatehouse.conf; nmcli general reload",
		reload:  "nmcli general reload; nmcli connection reload; systemctl restart NetworkManager",
		stop:    "systemctl stop NetworkManager",
		start:   "systemctl start NetworkManager",
		settled: "nmcli -t -f STATE,CONNECTION device show up0 2>/dev/null; ip -4 -o addr show dev up0 | grep 192.0.2.1",
		tells:   []string{`^note +host\.networkmanager: NetworkManager is running`},
		silent:  []string{"^problem"},
		quiet:   true, host22: true,
	},
	{
		name:  "systemd-networkd",
		setup: networkdLinks,
		remedy: "printf '[Match]\\nName=gh-* br-back lan0\\n[Link]\\nUnmanaged=yes\\n' >/etc/systemd/network/05-gatehouse.network\n" +
			"printf '[Match]\\nKind=veth tun\\n[Link]\\nUnmanaged=yes\\n' >/etc/systemd/network/06-gatehouse-ports.network; networkctl reload",
		reload:  "networkctl reload; systemctl restart systemd-networkd",
		stop:    "systemctl stop systemd-networkd.socket systemd-networkd",
		start:   "systemctl start systemd-networkd",
		settled: "ip -4 -o addr show dev up0 | grep 192.0.2.1",
		tells:   []string{`^note +host\.networkd: systemd-networkd is running`},
		silent:  []string{"^problem"},
		quiet:   true, host22: true,
		extra: (*coexistence).routes,
	},
	{
		name: "systemd-resolved", packages: []string{"systemd-resolved"},
		reload:  "systemctl restart systemd-resolved",
		stop:    "systemctl stop systemd-resolved",
		start:   "systemctl start systemd-resolved",
		settled: "ss -lnu | grep 127.0.0.53",
		tells:   []string{`^note +host\.resolved: systemd-resolved is running`},
		silent:  []string{"^problem"},
		quiet:   true, host22: true,
	},
}

// firewalldRemedy lets firewalld admit what gatehouse decides about.
const firewalldRemedy = `
for l in gh-front br-back lan0; do firewall-cmd --permanent --zone=trusted --add-interface=$l; done
firewall-cmd --permanent --new-policy gatehouse
firewall-cmd --permanent --policy gatehouse --add-ingress-zone ANY
firewall-cmd --permanent --policy gatehouse --add-egress-zone trusted
firewall-cmd --permanent --policy gatehouse --set-target ACCEPT
firewall-cmd --reload || firewall-cmd --reload
`

// networkManagerUplink is the uplink as its administrator has it.
const networkManagerUplink = `
cat >/etc/NetworkManager/system-connections/up0.nmconnection <<'END'
[connection]
id=up0
type=ethernet
interface-name=up0
[ipv4]
method=manual
address1=192.0.2.1/24
[ipv6]
method=manual
address1=2001:db8:2::1/64
END
chmod 600 /etc/NetworkManager/system-connections/up0.nmconnection
nmcli connection reload
nmcli connection up up0
`

// networkdLinks is an uplink, and a file that takes everything else, as images of clouds have it.
const networkdLinks = `
printf '[Match]\nName=up0\n[Network]\nAddress=192.0.2.1/24\nAddress=2001:db8:2::1/64\nIPv6AcceptRA=no\n' >/etc/systemd/network/01-up0.network
printf '[Match]\nName=*\nType=!loopback\n[Network]\nDHCP=yes\n' >/etc/systemd/network/99-all.network
systemctl enable --now systemd-networkd
`

// dockerImage is a container with a web server, from what the host has.
const dockerImage = `
mkdir -p /root/image/bin
cp /bin/busybox /root/image/bin/
for l in $(ldd /bin/busybox | grep -o '/[^ )]*'); do install -D $l /root/image$l; done
for a in sh nc; do ln -s busybox /root/image/bin/$a; done
tar -C /root/image -c . | docker import - image
docker run -d --restart always --name web -p 8080:80 image /bin/sh -c 'while :; do echo here | nc -l -p 80; done'
`

// coexistLab has a server that is open to the client on one port, and to all the world on another one.
const coexistLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  domain: lab.internal
  natGateway: true
  vswitches:
  - {name: front, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: gh-front}}
  - {name: back, cidrBlock: 10.20.2.0/24, ipv6CidrBlock: "fd00:20:0:2::/64", attach: {bridge: br-back}}
  - {name: plain, cidrBlock: 10.20.3.0/24, ipv6CidrBlock: "fd00:20:0:3::/64", attach: {interface: lan0}}
  securityGroups:
  - {name: client}
  - name: server
    rules:
    - {direction: ingress, protocol: tcp, ports: 443, source: "sg:client"}
    - {direction: ingress, protocol: udp, ports: 443, source: "sg:client"}
    - {direction: ingress, protocol: tcp, ports: 8443, source: 0.0.0.0/0}
    - {direction: ingress, protocol: tcp, ports: 8443, source: "::/0"}
  instances:
  - {name: client, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: front, privateIp: 10.20.1.10, ipv6Addresses: ["fd00:20:0:1::10"], securityGroups: [client]}]}
  - {name: server, interfaces: [{mac: 00:16:3e:00:02:01, vswitch: back, privateIp: 10.20.2.10, ipv6Addresses: ["fd00:20:0:2::10"], securityGroups: [server]}]}
  - {name: plain, interfaces: [{mac: 00:16:3e:00:03:01, vswitch: plain, privateIp: 10.20.3.10, ipv6Addresses: ["fd00:20:0:3::10"]}]}
`

const (
	clientAt6            = "fd00:20:0:1::10"
	plainAt6             = "fd00:20:0:3::10"
	serverAt4, serverAt6 = "10.20.2.10", "fd00:20:0:2::10"
	publicPort           = 8443
)

// coexistence is a gateway in a booted system that shares it with something.
type coexistence struct {
	*system
	companion
	outside, client, server, plain *netlab.Space
}

func TestOtherSoftwareOnTheGateway(t *testing.T) {
	pkg := debianPackage(t)
	for _, other := range companions {
		t.Run(other.name, func(t *testing.T) {
			cache := fetch(t, other.packages...)
			c := &coexistence{system: newSystem(t, "coexist"), companion: other}
			c.boot()
			c.run(pkg, cache)
		})
	}
}

func (c *coexistence) run(pkg, cache string) {
	c.part("it is there first", func(*system) {
		c.plugOutside()
		c.install(cache)
		c.script(c.setup)
		c.waitSettled()
	})
	var before map[string]string
	c.part("gatehouse comes", func(*system) {
		alone := c.foreign()
		c.put("/etc/gatehouse/gatehouse.yaml", []byte("uplinks: [up0]\ndns: {upstreams: []}\n"))
		text, err := os.ReadFile(pkg)
		if err != nil {
			c.Fatal(err)
		}
		c.put("/root/gatehouse.deb", text)
		c.do("dpkg", "-i", "--force-confold", "/root/gatehouse.deb")
		c.apply(coexistLab)
		c.same("after gatehouse came", c.foreign(), alone)
		if c.remedy != "" {
			c.script(c.remedy)
			c.waitSettled()
		}
		before = c.foreign()
		c.plugGuests()
		c.passes()
		c.same("with guests", c.foreign(), before)
	})
	c.part("doctor knows it, and nothing is wrong", func(*system) {
		c.healthy()
		out, _ := c.in("gatehouse", "doctor")
		c.Logf("gatehouse doctor:\n%s", out)
		for _, want := range c.tells {
			if !regexp.MustCompile("(?m)" + want).MatchString(out) {
				c.Errorf("it does not say %q", want)
			}
		}
		for _, not := range c.silent {
			if regexp.MustCompile("(?m)" + not).MatchString(out) {
				c.Errorf("it says %q", not)
			}
		}
	})
	if c.extra != nil {
		c.part("what it does itself", func(*system) { c.extra(c) })
	}
	c.part("it is reloaded under traffic", func(*system) {
		g := &gateway{T: c.T, ctx: c.ctx, lab: c.lab, space: c.space}
		f := newTraffic(g, c.client, c.server, serverAt4, serverAt6)
		f.start()
		c.eventually("traffic flows", func() error {
			if n := f.flows.Load(); n < 100 {
				return fmt.Errorf("%d flows", n)
			}
			return nil
		})
		c.script(c.reload)
		c.waitSettled()
		seen := f.flows.Load()
		c.eventually("and goes on flowing", func() error {
			if n := f.flows.Load() - seen; n < 100 {
				return fmt.Errorf("%d flows", n)
			}
			return nil
		})
		f.stop()
		c.Logf("while it was reloaded: %s", f)
		if n := f.passed.Load(); n > 0 && !c.flushes {
			c.Errorf("%d of %d refused probes passed", n, f.tried.Load())
		}
		if n := f.lost.Load(); c.quiet && n > 0 {
			c.Errorf("%d of %d allowed flows were lost", n, f.flows.Load())
		}
		if err := f.brokenStream.Load(); err != nil {
			c.Errorf("a standing connection broke: %v", *err)
		}
	})
	c.part("after the reload", func(*system) {
		c.healthy()
		c.passes()
		c.same("after the reload", c.foreign(), before)
	})
	c.part("it is stopped, and started after gatehouse", func(*system) {
		c.script(c.stop)
		c.passes22(true)
		c.script(c.start)
		c.waitSettled()
		c.healthy()
		c.passes()
		c.same("after its start", c.foreign(), before)
	})
	c.part("both are started by a boot", func(*system) {
		c.shutdown()
		c.boot()
		c.plugOutside()
		c.waitSettled()
		c.eventually("gatehouse has its links", func() error {
			out, err := c.in("sh", "-c", "systemctl is-active gatehouse && ip -br link show dev gh-front && ip -br link show dev br-back")
			if err != nil {
				return errors.New(out)
			}
			return nil
		})
		c.plugGuests()
		c.healthy()
		c.passes()
		c.sameAfterBoot("after a boot", before)
	})
	c.part("gatehouse goes", func(*system) {
		c.do("systemctl", "stop", "gatehouse")
		c.do("gatehouse", "teardown", "--offline")
		c.sameAfterBoot("after a teardown", before)
	})
}

// healthy waits until gatehouse has nothing to complain of, and the kernel has its rules.
func (c *coexistence) healthy() {
	c.Helper()
	c.eventually("it is healthy", func() error {
		for _, args := range [][]string{{"gatehouse", "status"}, {"gatehouse", "firewall", "verify"}} {
			if out, err := c.in(args...); err != nil {
				return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
			}
		}
		return nil
	})
}

// fetch gets packages with what they need, which this machine does not install, and returns where they are. A later run
// finds them there.
func fetch(t *testing.T, packages ...string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "gatehouse-test-packages")
	if err := os.MkdirAll(filepath.Join(cache, "partial"), 0o755); err != nil {
		t.Fatal(err)
	}
	get := func() (string, error) {
		args := append([]string{"install", "-y", "-qq", "--download-only", "--no-install-recommends", "-o", "Dir::Cache::Archives=" + cache}, packages...)
		out, err := exec.Command("apt-get", args...).CombinedOutput()
		return string(out), err
	}
	if _, err := get(); err == nil {
		return cache
	}
	if out, err := exec.Command("apt-get", "update", "-qq").CombinedOutput(); err != nil { // the lists are old
		t.Fatalf("apt-get update: %v\n%s", err, out)
	}
	if out, err := get(); err != nil {
		t.Fatalf("download %s: %v\n%s", strings.Join(packages, " "), err, out)
	}
	return cache
}

// install installs them in the system.
func (c *coexistence) install(cache string) {
	c.Helper()
	c.do(append([]string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-download", "--no-install-recommends",
		"-o", "Dir::Cache::Archives=" + cache, "-o", "Dpkg::Use-Pty=0"}, c.packages...)...)
}

// script runs a script in the system; its first command that fails is fatal.
func (c *coexistence) script(text string) {
	c.Helper()
	if out, err := c.inInput(strings.NewReader(text), "sh", "-e"); err != nil {
		c.Fatalf("%s: %v\n%s", text, err, out)
	}
}

func (c *coexistence) waitSettled() {
	c.Helper()
	if c.settled == "" {
		return
	}
	c.eventually("it has settled", func() error {
		if out, err := c.in("sh", "-c", c.settled); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// plugOutside gives the system its uplink, with somebody behind who knows the way to the lab.
func (c *coexistence) plugOutside() {
	c.Helper()
	var err error
	if c.outside, err = c.lab.Space(fmt.Sprintf("out%d", c.boots)); err != nil {
		c.Fatal(err)
	}
	if err := c.lab.Veth(c.ctx, c.space, "up0", c.outside, "eth0"); err != nil {
		c.Fatal(err)
	}
	for space, script := range map[*netlab.Space]string{
		c.space: fmt.Sprintf("ip addr replace %s/24 dev up0\nip addr replace %s/64 dev up0 nodad\n", uplink4, uplink6),
		c.outside: fmt.Sprintf("ip addr add %s/24 dev eth0\nip addr add %s/64 dev eth0 nodad\nip route add 10.20.0.0/16 via %s\nip route add fd00:20::/56 via %s\n",
			outside4, outside6, uplink4, uplink6),
	} {
		if _, err := space.Script(c.ctx, script); err != nil {
			c.Fatal(err)
		}
	}
	c.serve(c.outside, allowedPort)
	c.serve(c.space, 22) // stands for the gateway's own sshd
}

// plugGuests plugs the guests in; they get their IPv4 addresses by DHCP, past whatever else is there.
func (c *coexistence) plugGuests() {
	c.Helper()
	for _, x := range []struct {
		to            **netlab.Space
		name, mac, v6 string
		bridge        string
		ports         []uint16
	}{
		{&c.client, "client", "00:16:3e:00:01:01", clientAt6, "gh-front", nil},
		{&c.plain, "plain", "00:16:3e:00:03:01", plainAt6, "", nil},
		{&c.server, "server", "00:16:3e:00:02:01", serverAt6, "br-back", []uint16{publicPort}},
	} {
		port := portOf(x.name)
		if x.bridge == "" {
			port = "lan0"
		}
		s, err := c.lab.Guest(c.ctx, fmt.Sprintf("%s%d", x.name, c.boots), c.space, port, x.bridge, x.mac)
		if err != nil {
			c.Fatal(err)
		}
		if err := s.DHClient(c.ctx); err != nil {
			c.Fatal(err)
		}
		if err := s.StaticIPv6(c.ctx, x.v6); err != nil {
			c.Fatal(err)
		}
		c.serve(s, x.ports...)
		*x.to = s
	}
}

func (c *coexistence) serve(s *netlab.Space, ports ...uint16) {
	c.Helper()
	for _, p := range ports {
		svc, err := s.Echo(p)
		if err != nil {
			c.Fatal(err)
		}
		c.last(func() { svc.Close() })
	}
}

// passage is who asks whom, and whether it is allowed.
type passage struct {
	from    *netlab.Space
	to      string
	port    uint16
	network string
	allowed bool
}

// passes checks what passes and what does not.
func (c *coexistence) passes() {
	c.Helper()
	for _, port := range []uint16{allowedPort, refusedPort} {
		svc, err := c.server.Echo(port)
		if err != nil {
			c.Fatal(err)
		}
		defer svc.Close()
	}
	var list []passage
	for _, to := range []string{serverAt4, serverAt6} {
		list = append(list,
			passage{c.client, to, allowedPort, "tcp", true}, passage{c.client, to, allowedPort, "udp", true},
			passage{c.client, to, refusedPort, "tcp", false}, passage{c.client, to, refusedPort, "udp", false},
			passage{c.plain, to, publicPort, "tcp", true}, passage{c.plain, to, allowedPort, "tcp", false},
			passage{c.outside, to, publicPort, "tcp", true}, passage{c.outside, to, refusedPort, "tcp", false}, passage{c.outside, to, allowedPort, "tcp", false})
	}
	for _, to := range []string{outside4, outside6} {
		list = append(list, passage{c.client, to, allowedPort, "tcp", true}, passage{c.client, to, allowedPort, "udp", true})
	}
	for _, to := range []string{"10.20.1.253", "fd00:20:0:1:ffff:ffff:ffff:fff7", uplink4, uplink6} {
		list = append(list, passage{c.client, to, 22, "tcp", false})
	}
	c.all(list)
	c.passes22(c.host22)
	for _, ask := range [][2]string{{"A", serverAt4}, {"AAAA", serverAt6}} {
		if got, err := c.client.Dig(c.ctx, "@10.20.1.253", "server.lab.internal", ask[0]); err != nil || strings.Join(got, " ") != ask[1] {
			c.Errorf("server has the %s %q, want %q: %v", ask[0], got, ask[1], err)
		}
	}
	if !c.client.Ping(c.ctx, "10.20.1.253") {
		c.Error("the gateway does not answer a ping")
	}
}

// passes22 checks whether somebody outside reaches the gateway's own port: that is not gatehouse's to decide.
func (c *coexistence) passes22(want bool) {
	c.Helper()
	c.all([]passage{{c.outside, uplink4, 22, "tcp", want}, {c.outside, uplink6, 22, "tcp", want}})
}

// all tries a list at once.
func (c *coexistence) all(list []passage) {
	c.Helper()
	var wg sync.WaitGroup
	for _, p := range list {
		wg.Go(func() {
			to := netip.AddrPortFrom(netip.MustParseAddr(p.to), p.port)
			if !p.allowed {
				if ok, err := p.from.Reach(c.ctx, p.network, to, time.Second); ok || err != nil {
					c.Errorf("%s -> %s/%s passes, and is refused: %v", p.from.Label, to, p.network, err)
				}
				return
			}
			deadline := time.Now().Add(patience)
			for {
				ok, err := p.from.Reach(c.ctx, p.network, to, time.Second)
				if ok {
					return
				}
				if err != nil || time.Now().After(deadline) {
					c.Errorf("%s -> %s/%s does not pass: %v", p.from.Label, to, p.network, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// foreign is what the other has in the kernel.
func (c *coexistence) foreign() map[string]string {
	c.Helper()
	what := map[string]string{}
	for _, tool := range saveTools() {
		what[tool] = withoutOurs(c.do("sh", "-c", tool+" 2>/dev/null"))
	}
	if c.rules != "" {
		what["rules"] = c.do("sh", "-c", c.rules)
	}
	if c.flushes { // it writes them in the order that a table of hashes has
		for k, text := range what {
			lines := strings.Split(text, "\n")
			slices.Sort(lines)
			what[k] = strings.Join(lines, "\n")
		}
	}
	return what
}

// same compares two memories.
func (c *coexistence) same(when string, got, want map[string]string) {
	c.Helper()
	for k := range want {
		if got[k] != want[k] {
			c.Errorf("%s: %s is another (+ now, - before):\n%s", when, k, difference(want[k], got[k]))
		}
	}
}

// sameAfterBoot compares what the other has with what it had, but for what it decides by who was first.
func (c *coexistence) sameAfterBoot(when string, before map[string]string) {
	c.Helper()
	now, want := c.foreign(), maps.Clone(before)
	if c.byOrder != "" {
		for k := range now {
			now[k], want[k] = strings.ReplaceAll(now[k], c.byOrder, ":FORWARD ACCEPT"), strings.ReplaceAll(want[k], c.byOrder, ":FORWARD ACCEPT")
		}
	}
	c.same(when, now, want)
}

// docker checks that a container's published port is not a guest's to reach, and guests not a container's.
func (c *coexistence) docker() {
	reach := func(from *netlab.Space, to string) bool {
		out, err := from.Run(c.ctx, "busybox", "nc", "-w", "2", to, "8080")
		return err == nil && strings.Contains(out, "here")
	}
	c.eventually("the container is reached from outside", func() error {
		if !reach(c.outside, uplink4) {
			return errors.New("not yet")
		}
		return nil
	})
	for _, to := range []string{"10.20.1.253", uplink4} {
		if reach(c.client, to) {
			c.Errorf("a guest reaches a container's port by %s", to)
		}
	}
	if out, err := c.in("docker", "exec", "web", "/bin/busybox", "nc", "-w", "2", serverAt4, "8443"); err == nil {
		c.Errorf("a container reaches a guest: %s", out)
	}
}

// libvirt checks that libvirt's network serves its own guests, that they and the lab's are nothing to each other, and that its
// dnsmasq and the daemon are not in each other's way.
func (c *coexistence) libvirt() {
	guest, err := c.lab.Guest(c.ctx, "vm", c.space, "vnet0", "virbr0", "52:54:00:00:00:01")
	if err != nil {
		c.Fatal(err)
	}
	if err := guest.DHClient(c.ctx); err != nil {
		c.Fatal(err)
	}
	if got, err := guest.Run(c.ctx, "ip", "-4", "-o", "addr", "show", "dev", "eth0"); err != nil || !strings.Contains(got, "192.168.122.") {
		c.Fatalf("libvirt's guest has %q: %v", got, err)
	}
	at := regexp.MustCompile(`192\.168\.122\.[0-9]+`).FindString(c.do("sh", "-c", "ip -4 neigh show dev virbr0 | grep -v FAILED; cat /var/lib/libvirt/dnsmasq/virbr0.status"))
	if at == "" {
		c.Fatal("nobody knows libvirt's guest")
	}
	c.serve(guest, publicPort)
	c.all([]passage{
		{guest, serverAt4, publicPort, "tcp", false},
		{c.client, at, publicPort, "tcp", false},
		{guest, outside4, allowedPort, "tcp", true},
	})
}

// routes checks that what keeps a VPC's addresses from leaving by an uplink comes back when networkd has cleared the
// kernel's routes.
func (c *coexistence) routes() {
	c.script("networkctl reconfigure up0; systemctl restart systemd-networkd")
	c.eventually("the VPC's range leads nowhere else", func() error {
		for _, args := range [][]string{{"-4", "10.20.0.0/16"}, {"-6", "fd00:20::/56"}} {
			out := c.do("ip", args[0], "route", "show", "type", "unreachable", args[1])
			if !strings.Contains(out, "unreachable") {
				return fmt.Errorf("no unreachable route to %s", args[1])
			}
		}
		return nil
	})
}
