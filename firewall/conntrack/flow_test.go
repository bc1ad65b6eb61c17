package conntrack

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"gatehouse/firewall/internal/ownnet"
	"gatehouse/vpc"
)

var addr = netip.MustParseAddr

// attr encodes one netlink attribute.
func attr(kind uint16, value ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(attributeHeader+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func nested(kind uint16, attrs ...[]byte) []byte {
	return attr(kind|unix.NLA_F_NESTED, slices.Concat(attrs...)...)
}

func port(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

// encode is the inverse of parseTuple.
func encode(kind uint16, t Tuple) []byte {
	src, dst := uint16(nl.CTA_IP_V4_SRC), uint16(nl.CTA_IP_V4_DST)
	if t.Src.Is6() {
		src, dst = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	proto := [][]byte{attr(nl.CTA_PROTO_NUM, byte(t.Protocol))}
	switch t.Protocol {
	case vpc.ProtocolICMP:
		proto = append(proto, attr(4, port(t.SrcPort)...), attr(attrICMPType, t.ICMPType), attr(attrICMPCode, t.ICMPCode))
	case vpc.ProtocolICMPv6:
		proto = append(proto, attr(7, port(t.SrcPort)...), attr(attrICMPv6Type, t.ICMPType), attr(attrICMPv6Code, t.ICMPCode))
	default:
		proto = append(proto, attr(nl.CTA_PROTO_SRC_PORT, port(t.SrcPort)...), attr(nl.CTA_PROTO_DST_PORT, port(t.DstPort)...))
	}
	return nested(kind,
		nested(nl.CTA_TUPLE_IP, attr(src, t.Src.AsSlice()...), attr(dst, t.Dst.AsSlice()...)),
		nested(nl.CTA_TUPLE_PROTO, proto...))
}

// create puts a flow into the kernel's table.
func create(t *testing.T, orig, reply Tuple) {
	t.Helper()
	req := request(vpc.FamilyOf(orig.Src), nl.IPCTNL_MSG_CT_NEW, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	req.AddRawData(slices.Concat(encode(nl.CTA_TUPLE_ORIG, orig), encode(nl.CTA_TUPLE_REPLY, reply), attr(nl.CTA_TIMEOUT, 0, 0, 2, 0)))
	if orig.Protocol == vpc.ProtocolTCP {
		req.AddRawData(nested(nl.CTA_PROTOINFO, nested(nl.CTA_PROTOINFO_TCP, attr(nl.CTA_PROTOINFO_TCP_STATE, 3))))
	}
	if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil {
		t.Fatalf("create %v: %v", orig, err)
	}
}

func tcp(src string, sport uint16, dst string, dport uint16) Tuple {
	return Tuple{Protocol: vpc.ProtocolTCP, Src: addr(src), SrcPort: sport, Dst: addr(dst), DstPort: dport}
}

func (t Tuple) reversed() Tuple {
	t.Src, t.Dst, t.SrcPort, t.DstPort = t.Dst, t.Src, t.DstPort, t.SrcPort
	return t
}

// lab are the addresses that both families' tests use.
type lab struct {
	family             vpc.Family
	a, b, c, out, self string
	icmp               vpc.Protocol
	echo, reply        uint8
}

var labs = []lab{
	{vpc.IPv4, "10.0.1.1", "10.0.1.2", "10.0.1.3", "198.51.100.1", "10.0.1.253", vpc.ProtocolICMP, 8, 0},
	{vpc.IPv6, "fd00::1", "fd00::2", "fd00::3", "2001:db8::1", "fd00::ffff:ffff:ffff:fff7", vpc.ProtocolICMPv6, 128, 129},
}

func TestFlowsAreListedByAddressAndDeletedOneByOne(t *testing.T) {
	if !ownnet.Enter(t) {
		return
	}
	ctx, d := context.Background(), New()
	for _, l := range labs {
		t.Run(l.family.String(), func(t *testing.T) {
			ab, cb := tcp(l.a, 1000, l.b, 443), tcp(l.c, 1000, l.b, 443)
			create(t, ab, ab.reversed())
			create(t, cb, cb.reversed())
			ping := Tuple{Protocol: l.icmp, Src: addr(l.a), Dst: addr(l.out), SrcPort: 7, ICMPType: l.echo}
			pong := Tuple{Protocol: l.icmp, Src: addr(l.out), Dst: addr(l.a), SrcPort: 7, ICMPType: l.reply}
			create(t, ping, pong)
			nat := tcp(l.a, 2000, l.out, 80) // leaves with the gateway's address
			create(t, nat, tcp(l.out, 80, l.self, 40000))

			list := func(who string) []Flow {
				t.Helper()
				flows, err := d.List(ctx, l.family, func(a netip.Addr) bool { return a == addr(who) })
				if err != nil {
					t.Fatal(err)
				}
				slices.SortFunc(flows, func(x, y Flow) int { return int(x.Original.Protocol) - int(y.Original.Protocol) })
				return flows
			}
			if n := len(list(l.a)); n != 3 {
				t.Errorf("%d flows of %s, want 3", n, l.a)
			}
			if n := len(list(l.b)); n != 2 {
				t.Errorf("%d flows of %s, want 2", n, l.b)
			}
			if n := len(list(l.self)); n != 1 {
				t.Errorf("%d flows that were translated to %s, want 1", n, l.self)
			}
			var echo Flow
			for _, f := range list(l.out) {
				if f.Original.Protocol == l.icmp {
					echo = f
				}
			}
			ping.SrcPort, pong.SrcPort = 0, 0 // the identifier is not kept
			want := Flow{Original: ping, Reply: pong}
			if diff := cmp.Diff(want, echo, cmpopts.IgnoreUnexported(Flow{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("ping (-want +got):\n%s", diff)
			}

			victims := list(l.a)
			if n, err := d.Delete(ctx, victims); err != nil || n != 3 {
				t.Errorf("deleted %d, %v", n, err)
			}
			if left := list(l.b); len(left) != 1 || left[0].Original != cb {
				t.Errorf("left %v, want %v", left, cb)
			}
			if n, err := d.Delete(ctx, victims); err != nil || n != 0 {
				t.Errorf("deleted again %d, %v", n, err)
			}
		})
	}
}

func TestFlowsThatTheGatewayOpenedAreLocal(t *testing.T) {
	if !ownnet.Enter(t) {
		return
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range labs {
		bits := map[vpc.Family]string{vpc.IPv4: "/32", vpc.IPv6: "/128"}[l.family]
		a, err := netlink.ParseAddr(l.self + bits)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(lo, a); err != nil {
			t.Fatal(err)
		}
		from, to := tcp(l.self, 1000, l.a, 22), tcp(l.a, 1000, l.self, 53)
		create(t, from, from.reversed())
		create(t, to, to.reversed())
		flows, err := New().List(context.Background(), l.family, func(a netip.Addr) bool { return a == addr(l.a) })
		if err != nil {
			t.Fatal(err)
		}
		if len(flows) != 2 {
			t.Fatalf("%d flows", len(flows))
		}
		for _, f := range flows {
			if want := f.Original.Src == addr(l.self); f.Local != want {
				t.Errorf("%s %v: local %v", l.family, f.Original, f.Local)
			}
		}
	}
}

func TestPacketIsWhatWouldOpenTheFlowAnew(t *testing.T) {
	for _, l := range labs {
		t.Run(l.family.String(), func(t *testing.T) {
			s := snapshot(l)
			inside := vpc.Place{Kind: vpc.PlaceVSwitch, VSwitch: s.VSwitches[0]}
			mac := s.Interfaces[0].MAC
			for _, tt := range []struct {
				name        string
				orig, reply Tuple
				want        vpc.Packet
			}{
				{"between instances", tcp(l.a, 1000, l.b, 443), tcp(l.b, 443, l.a, 1000),
					vpc.Packet{In: inside, SrcMAC: mac, Src: addr(l.a), SrcPort: 1000, Dst: addr(l.b), DstPort: 443, Protocol: vpc.ProtocolTCP}},
				{"out, with the gateway's address", tcp(l.a, 1000, l.out, 443), tcp(l.out, 443, l.self, 4000),
					vpc.Packet{In: inside, SrcMAC: mac, Src: addr(l.a), SrcPort: 1000, Dst: addr(l.out), DstPort: 443, Protocol: vpc.ProtocolTCP}},
				{"in, to a forwarded port", tcp(l.out, 1000, l.self, 8080), tcp(l.a, 80, l.out, 1000),
					vpc.Packet{In: vpc.Place{Kind: vpc.PlaceUplink}, Src: addr(l.out), SrcPort: 1000, Dst: addr(l.a), DstPort: 80, Protocol: vpc.ProtocolTCP}},
				{"a ping", Tuple{Protocol: l.icmp, Src: addr(l.a), Dst: addr(l.b), ICMPType: l.echo}, Tuple{Protocol: l.icmp, Src: addr(l.b), Dst: addr(l.a)},
					vpc.Packet{In: inside, SrcMAC: mac, Src: addr(l.a), Dst: addr(l.b), Protocol: l.icmp, ICMPType: l.echo}},
			} {
				got := Flow{Original: tt.orig, Reply: tt.reply}.Packet(s)
				if got != tt.want {
					t.Errorf("%s:\ngot  %+v\nwant %+v", tt.name, got, tt.want)
				}
			}
		})
	}
}

// snapshot has one vSwitch with one instance, the lab's a.
func snapshot(l lab) *vpc.Snapshot {
	nic := &vpc.InterfaceSpec{ID: "eni-1", MAC: vpc.MAC{2, 0, 0, 0, 0, 1}, VSwitch: "web", SecurityGroups: []string{"default"},
		PrivateIP: addr(labs[0].a), IPv6Addresses: []netip.Addr{addr(labs[1].a)}}
	return vpc.NewSnapshot(&vpc.Spec{VPCs: []*vpc.VPCSpec{{
		ID: "vpc-1", Name: "lab", CIDRBlock: netip.MustParsePrefix("10.0.0.0/16"), IPv6CIDRBlock: netip.MustParsePrefix("fd00::/56"),
		VSwitches: []*vpc.VSwitchSpec{{ID: "vsw-1", Name: "web", CIDRBlock: netip.MustParsePrefix("10.0.1.0/24"), IPv6CIDRBlock: netip.MustParsePrefix("fd00::/64")}},
		Instances: []*vpc.InstanceSpec{{ID: "i-1", Name: "a", Interfaces: []*vpc.InterfaceSpec{nic}}},
	}}}, vpc.Host{Uplinks: []string{"eth0"}}, 1)
}

func FuzzParseFlow(f *testing.F) {
	head := []byte{unix.AF_INET, 0, 0, 0}
	ab := tcp("10.0.1.1", 1000, "10.0.1.2", 443)
	f.Add(slices.Concat(head, encode(nl.CTA_TUPLE_ORIG, ab), encode(nl.CTA_TUPLE_REPLY, ab.reversed()), attr(nl.CTA_ID, 1, 2, 3, 4)))
	f.Add(slices.Concat(head, nested(nl.CTA_TUPLE_ORIG, nested(nl.CTA_TUPLE_IP, attr(nl.CTA_IP_V4_SRC, 1)))))
	f.Fuzz(func(t *testing.T, msg []byte) {
		flow, err := parseFlow(msg)
		if err != nil {
			return
		}
		for a := range flow.Addrs {
			if !a.IsValid() {
				t.Errorf("%+v has an invalid address", flow)
			}
		}
		if len(flow.key) > len(msg) {
			t.Errorf("key of %d bytes from %d", len(flow.key), len(msg))
		}
	})
}
