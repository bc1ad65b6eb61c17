package vpc

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// world is a small network written in lines, the same in both families. Every world has these places:
//
//	VPC lab:   vswitch web with web-1, web-2 and web-3; vswitch db with db-1 and db-2; vswitch far behind a relay
//	VPC other: vswitch alien with alien-1
//	and one uplink, with "internet" beyond it
//
// Each instance has a second address, NAME.2nd. An instance without an "in" line is in the group alone: basic, inner
// access drop, no rules. The lines, where {any}, {web}, {db-1} and the like stand for prefixes and addresses of the family:
//
//	group NAME basic|advanced accept|drop    a group
//	web-1 in NAME,NAME                       the groups of an instance
//	web-1 has PREFIX                         an IPv6 prefix delegated to it
//	list NAME PREFIX PREFIX                  a prefix list
//	acl NAME on VSWITCH                      a network ACL
//	NAME: DIRECTION POLICY PROTOCOL PORTS|- PEER [of OTHER-END] [sport PORTS] [prio N]
//	                                         a rule of a group, or an entry of an ACL; IDs are r1, r2 … in order
type world struct {
	t      *testing.T
	family Family
	spec   *Spec
	snap   *Snapshot
	rules  int
}

var fixedAddrs = map[string][2]string{
	"web-1": {"10.20.1.10", "fd00:20:0:1::10"}, "web-1.2nd": {"10.20.1.110", "fd00:20:0:1::110"},
	"web-2": {"10.20.1.20", "fd00:20:0:1::20"}, "web-2.2nd": {"10.20.1.120", "fd00:20:0:1::120"},
	"web-3": {"10.20.1.30", "fd00:20:0:1::30"}, "web-3.2nd": {"10.20.1.130", "fd00:20:0:1::130"},
	"db-1": {"10.20.2.10", "fd00:20:0:2::10"}, "db-1.2nd": {"10.20.2.110", "fd00:20:0:2::110"},
	"db-2": {"10.20.2.20", "fd00:20:0:2::20"}, "db-2.2nd": {"10.20.2.120", "fd00:20:0:2::120"},
	"alien-1": {"10.30.1.10", "fd00:30:0:1::10"}, "alien-1.2nd": {"10.30.1.110", "fd00:30:0:1::110"},
	"gw.web": {"10.20.1.253", "fd00:20:0:1:ffff:ffff:ffff:fff7"}, "gw.db": {"10.20.2.253", "fd00:20:0:2:ffff:ffff:ffff:fff7"},
	"gw.far": {"10.20.3.253", "fd00:20:0:3:ffff:ffff:ffff:fff7"}, "gw.alien": {"10.30.1.253", "fd00:30:0:1:ffff:ffff:ffff:fff7"},
	"free.web": {"10.20.1.99", "fd00:20:0:1::99"}, "free.alien": {"10.30.1.99", "fd00:30:0:1::99"},
	"behind.web-1": {"10.20.1.77", "fd00:20:0:1:5::9"}, "beside.web-1": {"10.20.1.78", "fd00:20:0:1:6::9"}, "behind.db-1": {"10.20.2.77", "fd00:20:0:2:5::9"},
	"far": {"10.20.3.10", "fd00:20:0:3::10"}, "free.lab": {"10.20.9.9", "fd00:20:0:9::9"},
	"internet": {"198.51.100.9", "2001:db8::9"}, "internet.2nd": {"203.0.113.9", "2001:db8:1::9"},
	"nobody": {"0.0.0.0", "::"}, "everybody": {"255.255.255.255", "ff02::1"}, "dhcp": {"255.255.255.255", "ff02::1:2"},
	"loopback": {"127.0.0.1", "::1"}, "multicast": {"239.1.1.1", "ff05::1:3"},
	"linklocal": {"fe80::10", "fe80::10"}, "linklocal.2nd": {"fe80::20", "fe80::20"}, "router": {"fe80::1", "fe80::1"},
	"all-routers": {"ff02::2", "ff02::2"}, "solicited": {"ff02::1:ff00:10", "ff02::1:ff00:10"},
}

var fixedPrefixes = map[string][2]string{
	"any": {"0.0.0.0/0", "::/0"}, "any-other": {"::/0", "0.0.0.0/0"},
	"web": {"10.20.1.0/24", "fd00:20:0:1::/64"}, "db": {"10.20.2.0/24", "fd00:20:0:2::/64"}, "lab": {"10.20.0.0/16", "fd00:20::/56"},
}

var fixedProtocols = map[string][2]string{
	"icmp": {"icmp", "icmpv6"}, "icmp-other": {"icmpv6", "icmp"}, "icmp-number": {"1", "58"}, "icmp-other-number": {"58", "1"},
}

func newWorld(t *testing.T, f Family, lines string) *world {
	t.Helper()
	w := &world{t: t, family: f}
	lab := w.vpc("lab", "10.20.0.0/16", "fd00:20::/56")
	w.vswitch(lab, "web", "10.20.1.0/24", "fd00:20:0:1::/64", "web-1", "web-2", "web-3")
	w.vswitch(lab, "db", "10.20.2.0/24", "fd00:20:0:2::/64", "db-1", "db-2")
	w.vswitch(lab, "far", "10.20.3.0/24", "fd00:20:0:3::/64")
	lab.VSwitches[2].Attach.Relay = []netip.Addr{netip.MustParseAddr("10.9.0.2")}
	other := w.vpc("other", "10.30.0.0/16", "fd00:30::/56")
	w.vswitch(other, "alien", "10.30.1.0/24", "fd00:30:0:1::/64", "alien-1")
	w.spec = &Spec{VPCs: []*VPCSpec{lab, other}}
	for line := range strings.Lines(lines) {
		if line = strings.TrimSpace(line); line != "" {
			w.line(lab, line)
		}
	}
	w.snap = NewSnapshot(w.spec, Host{Region: "lab-1", Uplinks: []string{"up0"}, HostAccess: []HostAccess{
		{Protocol: ProtocolTCP, Ports: Ports{{22, 22}}},
		{Protocol: ProtocolTCP, Ports: Ports{{2222, 2222}}, VPC: "lab", VSwitch: "web"},
		{Protocol: ProtocolTCP, Ports: Ports{{2223, 2223}}, VPC: "other"},
	}}, 1)
	return w
}

func (w *world) vpc(name, cidr4, cidr6 string) *VPCSpec {
	return &VPCSpec{
		ID: "vpc-" + name, Name: name, CIDRBlock: netip.MustParsePrefix(cidr4), IPv6CIDRBlock: netip.MustParsePrefix(cidr6),
		SecurityGroups: []*GroupSpec{{ID: "sg-alone", Name: "alone", Type: GroupBasic, InnerAccess: Drop}},
	}
}

func (w *world) vswitch(v *VPCSpec, name, cidr4, cidr6 string, instances ...string) {
	v.VSwitches = append(v.VSwitches, &VSwitchSpec{
		ID: "vsw-" + name, Name: name, CIDRBlock: netip.MustParsePrefix(cidr4), IPv6CIDRBlock: netip.MustParsePrefix(cidr6),
	})
	for _, i := range instances {
		a, b := fixedAddrs[i], fixedAddrs[i+".2nd"]
		nic := &InterfaceSpec{
			ID: "eni-" + i, MAC: macOf(i), VSwitch: name, PrivateIP: netip.MustParseAddr(a[0]),
			SecondaryPrivateIPs: []netip.Addr{netip.MustParseAddr(b[0])},
			IPv6Addresses:       []netip.Addr{netip.MustParseAddr(a[1]), netip.MustParseAddr(b[1])},
			SecurityGroups:      []string{"alone"},
		}
		v.Instances = append(v.Instances, &InstanceSpec{ID: "i-" + i, Name: i, Interfaces: []*InterfaceSpec{nic}})
	}
}

func macOf(instance string) MAC {
	m := MAC{0x00, 0x16, 0x3e}
	copy(m[3:], instance[:2])
	m[5] = instance[len(instance)-1]
	return m
}

// expand replaces {name} by the prefix or address of the world's family.
func (w *world) expand(s string) string {
	for _, names := range []map[string][2]string{fixedAddrs, fixedPrefixes, fixedProtocols} {
		for name, by := range names {
			s = strings.ReplaceAll(s, "{"+name+"}", by[w.index()])
		}
	}
	if strings.ContainsAny(s, "{}") {
		w.t.Fatalf("no such place in %q", s)
	}
	return s
}

func (w *world) index() int {
	if w.family == IPv6 {
		return 1
	}
	return 0
}

func (w *world) line(v *VPCSpec, line string) {
	f := strings.Fields(w.expand(line))
	owner, isRule := strings.CutSuffix(f[0], ":")
	switch {
	case isRule:
		w.rule(v, owner, f[1:])
	case f[0] == "group":
		v.SecurityGroups = append(v.SecurityGroups, &GroupSpec{ID: "sg-" + f[1], Name: f[1], Type: GroupType(f[2]), InnerAccess: Policy(f[3])})
	case f[0] == "list":
		l := &PrefixListSpec{ID: "pl-" + f[1], Name: f[1], Family: w.family.String()}
		for _, p := range f[2:] {
			l.Entries = append(l.Entries, netip.MustParsePrefix(p))
		}
		v.PrefixLists = append(v.PrefixLists, l)
	case f[0] == "acl":
		v.NetworkACLs = append(v.NetworkACLs, &ACLSpec{ID: "nacl-" + f[1], Name: f[1]})
		for _, sw := range v.VSwitches {
			if sw.Name == f[3] {
				sw.NetworkACL = f[1]
			}
		}
	case f[1] == "has":
		for _, i := range v.Instances {
			if i.Name == f[0] {
				i.Interfaces[0].IPv6Prefixes = append(i.Interfaces[0].IPv6Prefixes, netip.MustParsePrefix(f[2]))
			}
		}
	case f[1] == "in":
		for _, i := range v.Instances {
			if i.Name == f[0] {
				i.Interfaces[0].SecurityGroups = strings.Split(f[2], ",")
			}
		}
	default:
		w.t.Fatalf("line not understood: %q", line)
	}
}

func (w *world) rule(v *VPCSpec, owner string, f []string) {
	w.rules++
	r := &RuleSpec{ID: "r" + strconv.Itoa(w.rules), Direction: Direction(f[0]), Policy: Policy(f[1]), Protocol: must(ParseProtocol(f[2])), Priority: 1}
	if f[3] != "-" {
		r.Ports = must(ParsePorts(f[3]))
	}
	peer, other := must(ParsePeer(f[4])), Peer{}
	for f = f[5:]; len(f) > 0; f = f[2:] {
		switch f[0] {
		case "of":
			other = must(ParsePeer(f[1]))
		case "sport":
			r.SourcePorts = must(ParsePorts(f[1]))
		case "prio":
			r.Priority = must(strconv.Atoi(f[1]))
		default:
			w.t.Fatalf("rule not understood at %q", f[0])
		}
	}
	r.Source, r.Destination = peer, other
	if r.Direction == Egress {
		r.Source, r.Destination = other, peer
	}
	for _, g := range v.SecurityGroups {
		if g.Name == owner {
			g.Rules = append(g.Rules, r)
			return
		}
	}
	for _, a := range v.NetworkACLs {
		if a.Name == owner {
			e := &EntrySpec{ID: r.ID, Policy: r.Policy, Protocol: r.Protocol, Ports: r.Ports, Source: r.Source, Destination: r.Destination}
			if r.Direction == Ingress {
				a.Ingress = append(a.Ingress, e)
			} else {
				a.Egress = append(a.Egress, e)
			}
			return
		}
	}
	w.t.Fatalf("no group or ACL %q", owner)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// packet reads "SRC > DST WHAT [key=value …]": WHAT is tcp/443, udp/53, dhcp, ping, too-big, unreachable, type/N (of
// the family's ICMP) or a protocol; keys are via (a vSwitch, uplink, foreign, gateway), mac (an instance), sport and state.
func (w *world) packet(text string) Packet {
	w.t.Helper()
	f := strings.Fields(text)
	p := Packet{Src: w.addr(f[0]), Dst: w.addr(f[2]), SrcPort: 40000}
	icmp, echo, tooBig, unreachable := ProtocolICMP, uint8(8), [2]uint8{3, 4}, [2]uint8{3, 1}
	if w.family == IPv6 {
		icmp, echo, tooBig, unreachable = ProtocolICMPv6, 128, [2]uint8{2, 0}, [2]uint8{1, 3}
	}
	switch proto, port, _ := strings.Cut(f[3], "/"); proto {
	case "tcp", "udp":
		p.Protocol, p.DstPort = must(ParseProtocol(proto)), uint16(must(strconv.Atoi(port)))
	case "dhcp":
		p.Protocol, p.SrcPort, p.DstPort = ProtocolUDP, [2]uint16{68, 546}[w.index()], [2]uint16{67, 547}[w.index()]
	case "ping":
		p.Protocol, p.ICMPType = icmp, echo
	case "type":
		p.Protocol, p.ICMPType = icmp, uint8(must(strconv.Atoi(port)))
	case "too-big":
		p.Protocol, p.ICMPType, p.ICMPCode = icmp, tooBig[0], tooBig[1]
	case "unreachable":
		p.Protocol, p.ICMPType, p.ICMPCode = icmp, unreachable[0], unreachable[1]
	default:
		p.Protocol = must(ParseProtocol(w.expand(proto)))
	}
	p.In = Place{Kind: PlaceUplink}
	if nic := w.snap.InterfaceByAddr(p.Src); nic != nil {
		p.In, p.SrcMAC = Place{PlaceVSwitch, nic.VSwitch}, nic.MAC
	}
	for _, option := range f[4:] {
		switch key, value, _ := strings.Cut(option, "="); key {
		case "via":
			p.In = w.place(value)
		case "mac":
			p.SrcMAC = macOf(value)
		case "sport":
			p.SrcPort = uint16(must(strconv.Atoi(value)))
		case "state":
			p.State = map[string]ConnState{"new": StateNew, "established": StateEstablished, "related": StateRelated, "invalid": StateInvalid}[value]
		case "group":
			p.Group = true
		case "nosyn":
			p.NoSYN = true
		default:
			w.t.Fatalf("packet not understood at %q", option)
		}
	}
	return p
}

func (w *world) addr(name string) netip.Addr {
	w.t.Helper()
	a, ok := fixedAddrs[name]
	if !ok {
		w.t.Fatalf("no address %q", name)
	}
	return netip.MustParseAddr(a[w.index()])
}

func (w *world) place(name string) Place {
	switch name {
	case "uplink":
		return Place{Kind: PlaceUplink}
	case "foreign":
		return Place{Kind: PlaceForeign}
	case "gateway":
		return Place{Kind: PlaceGateway}
	}
	i := slices.IndexFunc(w.snap.VSwitches, func(v *VSwitch) bool { return v.Name == name })
	return Place{PlaceVSwitch, w.snap.VSwitches[i]}
}

// policyTest is one packet in one world. Want is "VERDICT STAGE REASON [RULE]": the stage that drops, or a stage of the
// way of a packet that arrives.
type policyTest struct {
	name   string
	world  string
	packet string
	want   string
}

func runPolicyTests(t *testing.T, families []Family, tests []policyTest) {
	t.Helper()
	for _, tt := range tests {
		for _, f := range families {
			t.Run(fmt.Sprintf("%s/%s", tt.name, f), func(t *testing.T) {
				w := newWorld(t, f, tt.world)
				v := Evaluate(w.snap, w.packet(tt.packet))
				if got := w.summary(v, strings.Fields(tt.want)[1]); got != tt.want {
					t.Errorf("%s: got %q, want %q\n%s", tt.packet, got, tt.want, table(v))
				}
			})
		}
	}
}

// summary is the verdict in the form of policyTest.want: the deciding stage, else the one asked for.
func (w *world) summary(v Verdict, stage string) string {
	r, dropped := v.Deciding()
	if dropped == v.Allowed {
		w.t.Errorf("allowed is %t although the deciding stage is %v", v.Allowed, r)
	}
	if !dropped {
		i := slices.IndexFunc(v.Stages, func(r StageResult) bool { return string(r.Stage) == stage })
		if i < 0 {
			return "allowed without the stage " + stage
		}
		r = v.Stages[i]
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %s", r.Verdict, r.Stage, r.Reason, r.Rule))
}

func table(v Verdict) string {
	var b strings.Builder
	for _, r := range v.Stages {
		fmt.Fprintf(&b, "  %-12s  %-6s  %-28s %s\n", r.Stage, r.Verdict, r.Reason, r.Detail)
	}
	return b.String()
}
