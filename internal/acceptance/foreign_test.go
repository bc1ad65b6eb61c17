package acceptance

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What other software has put on the host is none of our business: it is there before, byte for byte, and after.

// foreignRules are rules of somebody else in every table, for one of the tools.
const foreignRules = `
*raw
:F-RAW - [0:0]
-A PREROUTING -i br-foreign -j F-RAW
-A PREROUTING -p tcp -m tcp --dport 9 -m comment --comment "somebody's" -j NOTRACK
-A OUTPUT -p udp -m udp --dport 9 -j NOTRACK
-A F-RAW -j RETURN
COMMIT
*mangle
:F-MANGLE - [0:0]
-A PREROUTING -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x7/0xff
-A FORWARD -i br-foreign -j F-MANGLE
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A POSTROUTING -o br-foreign -j F-MANGLE
-A F-MANGLE -m set --match-set %[1]s src -j RETURN
COMMIT
*nat
:F-NAT - [0:0]
-A PREROUTING -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80
-A POSTROUTING -o br-foreign -j F-NAT
-A F-NAT -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:F-USER - [0:0]
-A INPUT -p tcp -m tcp --dport 2222 -j DROP
-A FORWARD -j F-USER
-A FORWARD -i br-foreign -o br-foreign -j ACCEPT
-A F-USER -m set --match-set %[1]s dst -j DROP
-A F-USER -m comment --comment "GH- is not only ours" -j RETURN
COMMIT
`

// The bridge keeps its ageing time while it looks for its topology, since that is twice its forward delay already.
const foreignHost = `
ip link add br-foreign type bridge stp_state 1 forward_delay 200 ageing_time 400
ip link set vf0 master br-foreign
ip link set br-foreign up
bridge link set dev vf0 isolated on
ip addr add 172.31.0.1/24 dev br-foreign
ip -6 addr add fd99::1/64 dev br-foreign nodad
ip route add 198.51.100.0/24 via 172.31.0.9
ip -6 route add 2001:db8:99::/48 via fd99::9
ip rule add fwmark 0x7/0xff lookup 99
ip neigh add 172.31.0.9 lladdr 02:00:00:00:00:99 dev br-foreign nud permanent
sysctl -qw net.ipv4.conf.br-foreign.rp_filter=1 net.ipv4.conf.br-foreign.send_redirects=1 net.ipv4.conf.br-foreign.proxy_arp=1
sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
ipset create foreign4 hash:net
ipset add foreign4 203.0.113.0/24
ipset create foreign6 hash:net family inet6
ipset add foreign6 2001:db8:113::/48
ipset create gh-lookalike hash:ip
ipset add gh-lookalike 192.0.2.77
`

// foreignLab has everything that gatehouse may have on a host.
const foreignLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  natGateway: true
  vswitches:
  - {name: front, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: gh-front}, networkAcl: guard}
  - {name: back, cidrBlock: 10.20.2.0/24, ipv6CidrBlock: "fd00:20:0:2::/64"}
  - {name: plain, cidrBlock: 10.20.3.0/24, ipv6CidrBlock: "fd00:20:0:3::/64", attach: {interface: lan0}}
  - {name: adopted, cidrBlock: 10.20.4.0/24, ipv6CidrBlock: "fd00:20:0:4::/64", attach: {bridge: br-adopted}}
  networkAcls:
  - {name: guard, ingress: [{protocol: tcp, ports: 443, source: 0.0.0.0/0}], egress: [{protocol: all, destination: 0.0.0.0/0}]}
  prefixLists:
  - {name: friends, family: ipv4, entries: [198.51.100.0/24]}
  securityGroups:
  - {name: web, rules: [{direction: ingress, protocol: tcp, ports: 443, source: "pl:friends"}, {direction: ingress, protocol: tcp, source: "sg:web"}]}
  instances:
  - {name: web-1, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: front, securityGroups: [web]}]}
  - {name: web-2, interfaces: [{mac: 00:16:3e:00:02:01, vswitch: back, securityGroups: [web]}]}
  - {name: web-3, interfaces: [{mac: 00:16:3e:00:03:01, vswitch: plain, securityGroups: [web]}]}
  - {name: web-4, interfaces: [{mac: 00:16:3e:00:04:01, vswitch: adopted, securityGroups: [web]}]}
`

// saveTools are the readers of all rules that may be on a host.
func saveTools() []string {
	return []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"}
}

// withoutOurs strips an iptables-save of comments, counters, and everything of gatehouse's; tables that then hold nothing
// but built-in chains that accept go too, since looking at a table makes it.
func withoutOurs(save string) string {
	var out, table []string
	plain := true
	for line := range strings.Lines(save) {
		line = strings.TrimSpace(line)
		ours := strings.HasPrefix(line, ":GH-") || strings.HasPrefix(line, "-A GH-") || strings.Contains(line, " -j GH-")
		switch {
		case line == "" || line[0] == '#' || ours:
		case line[0] == '*':
			table, plain = []string{line}, true
		case line == "COMMIT":
			if !plain {
				out = append(out, table...)
			}
		default:
			if line[0] == ':' {
				line, _, _ = strings.Cut(line, " [")
			}
			plain = plain && strings.HasPrefix(line, ":") && strings.HasSuffix(line, " ACCEPT")
			table = append(table, line)
		}
	}
	return strings.Join(out, "\n")
}

// foreignObjects is what must not change while we are at work.
func (g *gateway) foreignObjects() map[string]string {
	g.Helper()
	what := map[string]string{}
	for _, tool := range saveTools() {
		what[tool] = withoutOurs(g.script(g.space, tool+" 2>/dev/null"))
	}
	for _, set := range []string{"foreign4", "foreign6", "gh-lookalike"} {
		what["ipset "+set] = g.script(g.space, "ipset save "+set)
	}
	for _, command := range []string{
		"ip -d -j addr show dev br-foreign", "ip -d -j link show dev vf0", "bridge -d -j link show dev vf0",
		"ip -j route show dev br-foreign", "ip -6 -j route show dev br-foreign", "ip -j rule", "ip -6 -j rule", "ip -j neigh show dev br-foreign nud permanent",
		// A gateway forwards, and what accepted router advertisements goes on to.
		"sysctl -a --pattern '^net\\.ipv[46]\\.(conf|neigh)\\.br-foreign\\.' | grep -v 'forwarding =\\|accept_ra ='",
	} {
		what[command] = calm(g.script(g.space, command))
	}
	return what
}

// clocks is what changes by itself: the timers of a bridge that speaks STP.
var clocks = regexp.MustCompile(`"([a-z_]+_timer|topology_change(_detected|_ack)?)":[0-9.]+,`)

// calm is a command's output without what changes by itself, an object of a list on each line.
func calm(out string) string {
	return strings.ReplaceAll(clocks.ReplaceAllString(out, ""), `},{"ifindex"`, "},\n{\"ifindex\"")
}

// wholeHost is what teardown must leave as it was found.
func (g *gateway) wholeHost() map[string]string {
	g.Helper()
	what := map[string]string{}
	for _, tool := range saveTools() {
		// A table that was never looked at is not in the list; one that was looked at is, and is empty.
		save := g.script(g.space, tool+" 2>/dev/null")
		what[tool] = withoutOurs(save)
		if strings.Contains(save, "GH-") && !strings.Contains(save, "GH- is not only ours") || strings.Contains(save, ":GH-") {
			what[tool] += "\nchains of ours"
		}
	}
	for _, command := range []string{
		"ipset save", "ip -j addr", "ip -d -j link", "bridge -d -j link", "ip -j route show table all", "ip -6 -j route show table all",
		"ip -j rule", "ip -6 -j rule", "ip -j neigh show nud permanent", "ip -6 -j neigh show nud permanent",
		// Whoever listens to NFLOG becomes the logger of family 0, which no packet has, and stays that.
		"sysctl -a --pattern '^net\\.' | grep -v 'nf_conntrack_count\\|nf_log.0 ='",
	} {
		what[command] = calm(g.script(g.space, command))
	}
	return what
}

func TestWhatIsNotOursStaysAsItIs(t *testing.T) {
	for _, backend := range []string{"nft", "legacy"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, "uplinks: [up0]", "firewall: {backend: "+backend+", verifyInterval: 1s}")
			g.outside()
			wires, err := g.lab.Space("wires")
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"vf0", "va0", "lan0"} {
				if err := g.lab.Veth(g.ctx, g.space, name, wires, name); err != nil {
					t.Fatal(err)
				}
			}
			g.script(g.space, foreignHost+"ip link add br-adopted type bridge\nip link set va0 master br-adopted\nip link set br-adopted up\n")
			for _, tool := range saveTools() {
				set := "foreign4"
				if strings.HasPrefix(tool, "ip6") {
					set = "foreign6"
				}
				restore := strings.Replace(tool, "save", "restore", 1)
				g.script(g.space, restore+" <<'END'\n"+fmt.Sprintf(foreignRules, set)+"END\n")
			}
			g.settleLinks()
			objects, host := g.foreignObjects(), g.wholeHost()

			g.start()
			g.apply(foreignLab)
			g.same("after apply", g.foreignObjects(), objects)
			g.apply(strings.Replace(foreignLab, "ports: 443", "ports: 8443", 1))
			g.ok("delete", "instance", "web-2")
			g.ok("firewall", "resync")
			g.ok("firewall", "verify")
			g.same("after changes", g.foreignObjects(), objects)
			g.stop()
			g.same("after the daemon's end", g.foreignObjects(), objects)
			g.start()
			g.same("after a restart", g.foreignObjects(), objects)
			g.ok("teardown")
			g.same("after teardown", g.wholeHost(), host)
			g.stop()
			g.same("after teardown and the daemon's end", g.wholeHost(), host)

			g.start()
			g.apply(foreignLab)
			g.ok("firewall", "verify")
			g.same("after teardown and apply", g.foreignObjects(), objects)
			g.kill()
			g.ok("teardown", "--offline", "--config", g.path("gatehouse.yaml"))
			g.same("after a crash and teardown without a daemon", g.wholeHost(), host)
		})
	}
}

// settleLinks waits until the kernel has done what it does by itself when links come up: duplicate address detection, and
// the states of ports.
func (g *gateway) settleLinks() {
	g.Helper()
	last := ""
	g.eventually("the links have settled", func() error {
		now := g.script(g.space, "ip -j addr; bridge -j link; ip -6 -j route show table all")
		if strings.Contains(now, "tentative") || slices.ContainsFunc([]string{`"learning"`, `"listening"`}, func(s string) bool { return strings.Contains(now, s) }) || now != last {
			last = now
			return fmt.Errorf("still changing:\n%s", now)
		}
		return nil
	})
}
