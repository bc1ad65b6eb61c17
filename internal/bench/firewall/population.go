package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatehouse/vpc"
)

// population is a network of a size: instances in vSwitches of up to 200, ten to a group, every tenth in the next group
// as well, so that there are a fifth as many policy profiles as instances. A group has 20 rules a family, 12 in and 8 out,
// of which the last one, of a weaker priority, admits the traffic that is measured.
type population struct {
	instances int
	switches  int
	perSwitch int
	groups    int
}

const (
	maxPerSwitch = 200
	firstHost    = 10

	connectPort = 5100 // the last rule admits 5001-5300 of TCP and UDP inside the network
	floodPort   = 5200
	shutPort    = 7000 // no rule admits it
)

func newPopulation(instances int) population {
	p := population{instances: instances, groups: instances / 10}
	p.switches = max(2, 2*((instances+2*maxPerSwitch-1)/(2*maxPerSwitch)))
	p.perSwitch = (instances + p.switches - 1) / p.switches
	return p
}

func (p population) switchOf(i int) int { return i / p.perSwitch }

func (p population) mac(i int) vpc.MAC {
	return vpc.MAC{0x02, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}
}

// host gives the n-th address of a vSwitch.
func host(s, n int) [2]netip.Addr {
	return [2]netip.Addr{
		netip.AddrFrom4([4]byte{10, byte(1 + s/200), byte(s % 200), byte(n)}),
		netip.MustParseAddr(fmt.Sprintf("fd00:20:0:%x::%x", s, n)),
	}
}

// addrs are an instance's addresses: IPv4, then IPv6.
func (p population) addrs(i int) [2]netip.Addr {
	return host(p.switchOf(i), firstHost+i%p.perSwitch)
}

// gateways are the gateway's addresses in a vSwitch.
func gateways(s int) [2]netip.Addr { return host(s, 253) }

func bridge(s int) string { return fmt.Sprintf("b%d", s) }

// groupsOf are an instance's groups.
func (p population) groupsOf(i int) []int {
	g := []int{i / 10 % p.groups}
	if next := (g[0] + 1) % p.groups; i%10 == 9 && next != g[0] {
		g = append(g, next)
	}
	return g
}

// sources are up to n instances spread evenly over the first half of the vSwitches.
func (p population) sources(n int) []int {
	half := p.switches / 2 * p.perSwitch
	var out []int
	for k := range n {
		out = append(out, (k+1)*half/(n+1))
	}
	return slices.Compact(out)
}

// target is the median instance of the other half.
func (p population) target() int { return p.instances * 3 / 4 }

// rule is a rule of a group; last ones have the weaker priority.
type rule struct {
	ingress         bool
	protocol, ports string
	peer            string // a CIDR
	group           int    // as the source, where peer is empty
	last            bool
}

// rules are the rules of a group. A rule is of one family, or of both where a group is the source.
func (p population) rules(g int) []rule {
	var out []rule
	both := func(r rule, v4, v6 string) {
		for _, r.peer = range []string{v4, v6} {
			out = append(out, r)
		}
	}
	for k := range 10 {
		v4, v6 := fmt.Sprintf("172.16.%d.0/24", k), fmt.Sprintf("fd16:0:0:%d::/64", k)
		switch k % 3 {
		case 0:
			out = append(out, rule{ingress: true, protocol: "tcp", ports: strconv.Itoa(2000 + k), group: (g + k + 1) % p.groups})
		case 1:
			both(rule{ingress: true, protocol: "tcp", ports: fmt.Sprintf("%d-%d", 3000+k, 3100+k)}, v4, v6)
		case 2:
			both(rule{ingress: true, protocol: "udp", ports: strconv.Itoa(4000 + k)}, v4, v6)
		}
	}
	const net4, net6 = "10.0.0.0/8", "fd00::/8"
	both(rule{ingress: true, protocol: "tcp", ports: "5001-5300", last: true}, net4, net6)
	both(rule{ingress: true, protocol: "udp", ports: "5001-5300", last: true}, net4, net6)
	for k := range 7 {
		both(rule{protocol: "tcp", ports: strconv.Itoa(2000 + k)}, fmt.Sprintf("172.18.%d.0/24", k), fmt.Sprintf("fd18:0:0:%d::/64", k))
	}
	both(rule{protocol: "all", last: true}, net4, net6)
	return out
}

// fields are the rule as a manifest has it.
func (r rule) fields() map[string]any {
	f := map[string]any{"direction": "egress", "policy": "accept", "protocol": r.protocol}
	side := "destination"
	if r.ingress {
		f["direction"], side = "ingress", "source"
	}
	f[side] = r.peer
	if r.peer == "" {
		f[side] = fmt.Sprintf("sg:g%d", r.group)
	}
	if r.ports != "" {
		f["ports"] = r.ports
	}
	if r.last {
		f["priority"] = 2
	}
	return f
}

// iptables writes the match of the rule for IPv4; ok is false where it has none there.
func (r rule) iptables() (match string, ok bool) {
	if strings.Contains(r.peer, ":") {
		return "", false
	}
	side, set := "-d", "dst"
	if r.ingress {
		side, set = "-s", "src"
	}
	if r.peer != "" {
		match = side + " " + r.peer + " "
	}
	if r.protocol != "all" {
		match += "-p " + r.protocol + " "
	}
	if r.peer == "" {
		match += fmt.Sprintf("-m set --match-set g%d %s ", r.group, set)
	}
	if r.ports != "" {
		match += fmt.Sprintf("-m %s --dport %s ", r.protocol, strings.ReplaceAll(r.ports, "-", ":"))
	}
	return match, true
}

// networkACL admits everything but three services, in both families.
const networkACL = `    ingress:
    - {policy: drop, protocol: tcp, ports: 23, source: 0.0.0.0/0}
    - {policy: drop, protocol: tcp, ports: 23, source: "::/0"}
    - {policy: drop, protocol: udp, ports: 161-162, source: 0.0.0.0/0}
    - {policy: drop, protocol: udp, ports: 161-162, source: "::/0"}
    - {policy: accept, protocol: all, source: 0.0.0.0/0}
    - {policy: accept, protocol: all, source: "::/0"}
    egress:
    - {policy: drop, protocol: tcp, ports: 25, destination: 0.0.0.0/0}
    - {policy: drop, protocol: tcp, ports: 25, destination: "::/0"}
    - {policy: accept, protocol: all, destination: 0.0.0.0/0}
    - {policy: accept, protocol: all, destination: "::/0"}
`

// manifest declares the network.
func (p population) manifest() ([]byte, error) {
	var b strings.Builder
	b.WriteString("vpcs:\n- name: bench\n  cidrBlock: 10.0.0.0/8\n  ipv6CidrBlock: fd00:20::/48\n")
	b.WriteString("  networkAcls:\n  - name: services\n" + networkACL)
	b.WriteString("  vswitches:\n")
	for s := range p.switches {
		at := host(s, 0)
		gw := gateways(s)
		fmt.Fprintf(&b, "  - {name: s%d, cidrBlock: %s/24, ipv6CidrBlock: '%s/64', gateway: %s, attach: {bridge: %s}, networkAcl: services}\n",
			s, at[0], at[1], gw[0], bridge(s))
	}
	b.WriteString("  securityGroups:\n")
	for g := range p.groups {
		fmt.Fprintf(&b, "  - name: g%d\n    rules:\n", g)
		for _, r := range p.rules(g) {
			text, err := json.Marshal(r.fields()) // YAML too
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&b, "    - %s\n", text)
		}
	}
	b.WriteString("  instances:\n")
	for i := range p.instances {
		a := p.addrs(i)
		fmt.Fprintf(&b, "  - {name: i%d, interfaces: [{mac: '%s', vswitch: s%d, privateIp: %s, ipv6Addresses: ['%s'], securityGroups: [%s]}]}\n",
			i, p.mac(i), p.switchOf(i), a[0], a[1], groupNames(p.groupsOf(i)))
	}
	return []byte(b.String()), nil
}

func groupNames(groups []int) string {
	names := make([]string, len(groups))
	for i, g := range groups {
		names[i] = fmt.Sprintf("g%d", g)
	}
	return strings.Join(names, ", ")
}

// jumps is the usual design for the same network, as iptables-restore and ipset restore read it, IPv4 only: the packet is
// compared with one vSwitch after the other for its ACL and with one instance after the other for its groups; each instance has
// a chain with its own copy of its groups' rules, and at its head what keeps it from forging.
func (p population) jumps() (sets, rules string) {
	var s, chains, body strings.Builder
	for g := range p.groups {
		fmt.Fprintf(&s, "create g%d hash:ip hashsize 64\n", g)
	}
	chains.WriteString("*filter\n:FORWARD ACCEPT [0:0]\n:FWD - [0:0]\n:AO - [0:0]\n:AI - [0:0]\n:ACLO - [0:0]\n:ACLI - [0:0]\n:EG - [0:0]\n:IN - [0:0]\n")
	body.WriteString("-A FORWARD -j FWD\n-A FWD -j AO\n-A FWD -j AI\n" +
		"-A FWD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FWD -m conntrack --ctstate INVALID -j DROP\n-A FWD -j EG\n-A FWD -j IN\n" +
		"-A ACLO -p tcp -m tcp --dport 25 -j DROP\n-A ACLO -j RETURN\n" +
		"-A ACLI -p tcp -m tcp --dport 23 -j DROP\n-A ACLI -p udp -m udp --dport 161:162 -j DROP\n-A ACLI -j RETURN\n")
	for w := range p.switches {
		fmt.Fprintf(&body, "-A AO -i %[1]s ! -o %[1]s -g ACLO\n-A AI -o %[1]s ! -i %[1]s -g ACLI\n", bridge(w))
	}
	for i := range p.instances {
		a := p.addrs(i)[0]
		fmt.Fprintf(&chains, ":i%d - [0:0]\n:o%d - [0:0]\n", i, i)
		fmt.Fprintf(&body, "-A EG -s %s/32 -g o%d\n-A IN -d %s/32 -g i%d\n", a, i, a, i)
		fmt.Fprintf(&body, "-A o%[1]d -m mac ! --mac-source %[2]s -j DROP\n-A o%[1]d -p udp -m udp --sport 67 -j DROP\n", i, p.mac(i))
		for _, last := range []bool{false, true} {
			for _, g := range p.groupsOf(i) {
				if !last {
					fmt.Fprintf(&s, "add g%d %s\n", g, a)
				}
				for _, r := range p.rules(g) {
					match, ok := r.iptables()
					if !ok || r.last != last {
						continue
					}
					chain, verdict := "o", "RETURN"
					if r.ingress {
						chain, verdict = "i", "ACCEPT"
					}
					fmt.Fprintf(&body, "-A %s%d %s-j %s\n", chain, i, match, verdict)
				}
			}
		}
		fmt.Fprintf(&body, "-A i%d -j DROP\n-A o%d -j DROP\n", i, i)
	}
	return s.String(), chains.String() + body.String() + "COMMIT\n"
}
