package firewall

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"gatehouse/vpc"
)

// way describes a packet: where it enters, "src dst protocol[/port]".
type way struct {
	in     string // name of a vSwitch, "uplink", "foreign" or "gateway"
	packet string
	state  vpc.ConnState
	change func(*vpc.Packet)
}

func (w way) resolve(t *testing.T, s *vpc.Snapshot) vpc.Packet {
	t.Helper()
	var p vpc.Packet
	switch w.in {
	case "uplink":
		p.In.Kind = vpc.PlaceUplink
	case "foreign":
		p.In.Kind = vpc.PlaceForeign
	case "gateway":
		p.In.Kind = vpc.PlaceGateway
	default:
		p.In.Kind = vpc.PlaceVSwitch
		for _, sw := range s.VSwitches {
			if sw.Name == w.in {
				p.In.VSwitch = sw
			}
		}
	}
	f := strings.Fields(w.packet)
	p.Src, p.Dst, p.State = addr(f[0]), addr(f[1]), w.state
	proto, port, _ := strings.Cut(f[2], "/")
	var err error
	if p.Protocol, err = vpc.ParseProtocol(proto); err != nil {
		t.Fatal(err)
	}
	if port != "" {
		p.DstPort = ports(port)[0].From
	}
	if w.change != nil {
		w.change(&p)
	}
	return p
}

// stages writes a verdict as "stage reason, …", with the rule where there is one and DROP before the stages that drop.
func stages(v vpc.Verdict) string {
	var out []string
	for _, s := range v.Stages {
		text := fmt.Sprintf("%s %s", s.Stage, s.Reason)
		if s.Verdict == vpc.StageDrop {
			text = "DROP " + text
		}
		if s.Rule != "" {
			text += " " + s.Rule
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func TestTrace(t *testing.T) {
	for _, tc := range []struct {
		name string
		way  way
		want string
	}{
		{"between members of an accepting group, whatever the ACL's stages say", way{in: "web", packet: "10.20.1.10 10.20.1.12 tcp/9999"},
			"anti-spoof spoof.ok, vpc vpc.same, nacl-egress nacl.same, nacl-ingress nacl.same, conntrack conntrack.new, sg-egress sg.inner, sg-ingress sg.inner"},
		{"a rule's ID decides", way{in: "web", packet: "10.20.1.10 10.20.2.10 tcp/5432"},
			"anti-spoof spoof.ok, vpc vpc.same, nacl-egress nacl.entry nae-00000000000000b1, nacl-ingress nacl.none, conntrack conntrack.new, " +
				"sg-egress sg.default.basic.egress, sg-ingress sg.rule sgr-00000000000000c1"},
		{"the same in IPv6", way{in: "web", packet: "fd00:20:0:1::10 fd00:20:0:2::10 tcp/5432"},
			"anti-spoof spoof.ok, vpc vpc.same, nacl-egress nacl.entry nae-00000000000000b2, nacl-ingress nacl.none, conntrack conntrack.new, " +
				"sg-egress sg.default.basic.egress, sg-ingress sg.rule sgr-00000000000000c2"},
		{"drop stands before accept at one priority", way{in: "uplink", packet: "203.0.113.9 10.20.2.11 tcp/22"},
			"anti-spoof spoof.ok, vpc vpc.uplink, nacl-egress nacl.outside, nacl-ingress nacl.none, conntrack conntrack.new, " +
				"sg-egress sg.outside, DROP sg-ingress sg.rule sgr-00000000000000b2"},
		{"every stage is shown after a drop", way{in: "uplink", packet: "198.51.100.9 10.20.1.10 tcp/25"},
			"anti-spoof spoof.ok, vpc vpc.uplink, nacl-egress nacl.outside, DROP nacl-ingress nacl.entry nae-00000000000000a1, conntrack conntrack.new, " +
				"sg-egress sg.outside, sg-ingress sg.rule sgr-00000000000000a5"},
		{"every stage is shown after a drop on the way from another vSwitch", way{in: "db", packet: "10.20.2.10 10.20.1.10 tcp/25"},
			"anti-spoof spoof.ok, vpc vpc.same, nacl-egress nacl.none, DROP nacl-ingress nacl.entry nae-00000000000000a1, conntrack conntrack.new, " +
				"DROP sg-egress sg.default.advanced.egress, sg-ingress sg.rule sgr-00000000000000a5"},
		{"ACLs see established flows too", way{in: "uplink", packet: "198.51.100.9 10.20.1.10 udp/53", state: vpc.StateEstablished},
			"anti-spoof spoof.ok, vpc vpc.uplink, nacl-egress nacl.outside, DROP nacl-ingress nacl.default, conntrack conntrack.established"},
		{"a path-MTU error passes the ACL", way{in: "uplink", packet: "198.51.100.9 10.20.1.10 icmp", state: vpc.StateRelated,
			change: func(p *vpc.Packet) { p.ICMPType, p.ICMPCode = 3, 4 }},
			"anti-spoof spoof.ok, vpc vpc.uplink, nacl-egress nacl.outside, nacl-ingress nacl.system, conntrack conntrack.related"},
		{"an advanced group admits nothing out by itself", way{in: "db", packet: "10.20.2.10 198.51.100.9 udp/53"},
			"anti-spoof spoof.ok, vpc vpc.uplink, nacl-egress nacl.none, nacl-ingress nacl.outside, conntrack conntrack.new, " +
				"DROP sg-egress sg.default.advanced.egress, sg-ingress sg.outside"},
		{"middle of an unknown connection", way{in: "web", packet: "10.20.1.10 10.20.2.10 tcp/5432", change: func(p *vpc.Packet) { p.NoSYN = true }},
			"anti-spoof spoof.ok, vpc vpc.same, nacl-egress nacl.entry nae-00000000000000b1, nacl-ingress nacl.none, DROP conntrack conntrack.not-syn, " +
				"sg-egress sg.default.basic.egress, sg-ingress sg.rule sgr-00000000000000c1"},
		{"somebody else's MAC", way{in: "web", packet: "10.20.1.10 10.20.1.12 tcp/1", change: func(p *vpc.Packet) { p.SrcMAC = mac(3) }},
			"DROP anti-spoof spoof.address, vpc vpc.same, nacl-egress nacl.same, nacl-ingress nacl.same, conntrack conntrack.new, sg-egress sg.inner, sg-ingress sg.inner"},
		{"our address from outside", way{in: "uplink", packet: "10.20.1.10 10.20.2.10 tcp/5432"},
			"DROP anti-spoof spoof.outside, DROP vpc link.foreign, nacl-egress nacl.outside, nacl-ingress nacl.none, conntrack conntrack.new, " +
				"sg-egress sg.default.basic.egress, sg-ingress sg.rule sgr-00000000000000c1"},
		{"another VPC", way{in: "web", packet: "10.20.1.10 172.16.1.10 tcp/80"},
			"anti-spoof spoof.ok, DROP vpc vpc.isolated, nacl-egress nacl.entry nae-00000000000000b1, nacl-ingress nacl.none, conntrack conntrack.new, " +
				"sg-egress sg.default.basic.egress, DROP sg-ingress sg.default.basic.ingress"},
		{"an address that nobody has", way{in: "web", packet: "10.20.1.10 10.20.2.77 tcp/80"},
			"anti-spoof spoof.ok, vpc vpc.same, nacl-egress nacl.entry nae-00000000000000b1, nacl-ingress nacl.none, conntrack conntrack.new, " +
				"sg-egress sg.default.basic.egress, DROP sg-ingress unknown.address"},
		{"behind a relay nothing is forwarded", way{in: "web", packet: "10.20.1.10 10.21.3.10 tcp/80"},
			"anti-spoof spoof.ok, DROP vpc vpc.no-route, nacl-egress nacl.entry nae-00000000000000b1, nacl-ingress nacl.outside, conntrack conntrack.new, " +
				"sg-egress sg.inner, sg-ingress sg.inner"},
		{"from a link that is none of ours", way{in: "foreign", packet: "192.168.7.7 10.20.1.10 tcp/443"},
			"anti-spoof spoof.ok, DROP vpc link.foreign, nacl-egress nacl.outside, nacl-ingress nacl.entry nae-00000000000000a3, conntrack conntrack.new, " +
				"sg-egress sg.outside, sg-ingress sg.rule sgr-00000000000000a1"},
		{"other people's traffic", way{in: "foreign", packet: "192.168.7.7 198.51.100.9 tcp/443"}, "anti-spoof spoof.ok, vpc vpc.not-ours"},
		{"DNS at the gateway", way{in: "db", packet: "10.20.2.10 10.20.1.253 udp/53"}, "anti-spoof spoof.ok, vpc vpc.host, host-access host.service"},
		{"echo at the router's IPv6 address", way{in: "db", packet: "fd00:20:0:2::10 fe80::1 icmpv6", change: func(p *vpc.Packet) { p.ICMPType = 128 }},
			"anti-spoof spoof.ok, vpc vpc.host, host-access host.service"},
		{"what hostAccess offers", way{in: "db", packet: "10.20.2.10 10.20.1.253 tcp/22"}, "anti-spoof spoof.ok, vpc vpc.host, host-access host.access"},
		{"what hostAccess offers to its vSwitch", way{in: "db", packet: "10.20.2.10 10.20.1.253 tcp/2222"}, "anti-spoof spoof.ok, vpc vpc.host, host-access host.access"},
		{"what hostAccess offers to another vSwitch", way{in: "web", packet: "10.20.1.10 10.20.1.253 tcp/2222"}, "anti-spoof spoof.ok, vpc vpc.host, DROP host-access host.closed"},
		{"what it does not", way{in: "db", packet: "10.20.2.10 10.20.1.253 tcp/23"}, "anti-spoof spoof.ok, vpc vpc.host, DROP host-access host.closed"},
		{"another VPC's gateway", way{in: "db", packet: "10.20.2.10 172.16.1.253 udp/53"}, "anti-spoof spoof.ok, vpc vpc.host, DROP host-access host.foreign"},
		{"a gateway address from outside", way{in: "uplink", packet: "198.51.100.9 10.20.1.253 udp/53"}, "anti-spoof spoof.ok, vpc vpc.host, DROP host-access host.outside"},
		{"a DHCP relay", way{in: "uplink", packet: "10.9.0.2 10.20.1.253 udp/67"}, "anti-spoof spoof.ok, vpc vpc.host, host-access host.service"},
		{"DHCP without an address", way{in: "web", packet: "0.0.0.0 255.255.255.255 udp/67", change: func(p *vpc.Packet) { p.SrcPort, p.SrcMAC = 68, mac(77) }},
			"anti-spoof spoof.ok, vpc vpc.host, host-access host.service"},
		{"a rogue DHCP server", way{in: "web", packet: "10.20.1.10 10.20.1.12 udp/68", change: func(p *vpc.Packet) { p.SrcPort = 67 }},
			"DROP anti-spoof spoof.rogue-dhcp, vpc vpc.same, nacl-egress nacl.same, nacl-ingress nacl.same, conntrack conntrack.new, sg-egress sg.inner, sg-ingress sg.inner"},
		{"the gateway itself", way{in: "gateway", packet: "10.20.1.253 10.20.1.10 tcp/22"}, "vpc vpc.host"},
	} {
		for _, f := range []Features{everything(), bare()} {
			f.RefuseMidStream = true
			t.Run(fmt.Sprintf("%s, mapmark=%t", tc.name, f.MapMark), func(t *testing.T) {
				s := snapshot(lab())
				rs, err := Compile(s, f)
				if err != nil {
					t.Fatal(err)
				}
				p := tc.way.resolve(t, s)
				v := Trace(rs, p, PathOf(s, p))
				if got := stages(v); got != tc.want {
					t.Errorf("got  %s\nwant %s", got, tc.want)
				}
				if _, drops := v.Deciding(); drops == v.Allowed {
					t.Errorf("allowed is %t", v.Allowed)
				}
			})
		}
	}
}

func TestBaseClosesTheLinks(t *testing.T) {
	for _, f := range []Features{everything(), bare()} {
		tracer := NewTracer(Base(f, "br-web", "eth5"))
		for _, family := range []struct{ src, dst string }{{"10.0.0.1", "10.0.0.2"}, {"fd00::1", "fd00::2"}} {
			p := vpc.Packet{Src: addr(family.src), Dst: addr(family.dst), Protocol: vpc.ProtocolTCP}
			for path, want := range map[Path]bool{
				{In: "br-web", Out: "eth0"}: false, {In: "eth0", Out: "eth5"}: false, {In: "eth5", Local: true}: false,
				{In: "eth0", Out: "eth1"}: true, {In: "eth0", Local: true}: true,
			} {
				if v := tracer.Trace(p, path); v.Allowed != want {
					t.Errorf("%+v %s: allowed is %t", path, family.src, v.Allowed)
				}
			}
		}
	}
}

func TestTracerServesManyAtOnce(t *testing.T) {
	s := snapshot(lab())
	rs, err := Compile(s, everything())
	if err != nil {
		t.Fatal(err)
	}
	tracer := NewTracer(rs)
	p := way{in: "web", packet: "10.20.1.10 10.20.2.10 tcp/5432"}.resolve(t, s)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if !tracer.Trace(p, PathOf(s, p)).Allowed {
				t.Error("not allowed")
			}
			rs.Text()
		})
	}
	wg.Wait()
}
