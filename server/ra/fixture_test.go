package ra

import (
	"net/netip"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

const (
	webID  = "vsw-0000000000000001"
	backID = "vsw-0000000000000002"
	oldID  = "vsw-0000000000000003" // IPv4 only
	farID  = "vsw-0000000000000004" // behind relays
)

var (
	web1MAC  = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 1}
	web2MAC  = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 2}
	back1MAC = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 3}
	stranger = vpc.MAC{0x02, 0, 0, 0, 0, 9}
	linkMAC  = vpc.MAC{0x02, 0, 0, 0, 0, 1}
	webPort  = port.Port{Index: 7, Name: "tap7", VSwitch: webID, LinkMAC: linkMAC}
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// spec is the network of these tests; change may alter it before it is resolved.
func spec(change func(*vpc.VPCSpec)) *vpc.Snapshot {
	v := &vpc.VPCSpec{ID: "vpc-1", Name: "research", Domain: "research.internal", CIDRBlock: netip.MustParsePrefix("10.20.0.0/16"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20::/56")}
	v.SetDefaults()
	v.VSwitches = []*vpc.VSwitchSpec{
		{ID: webID, Name: "web", CIDRBlock: netip.MustParsePrefix("10.20.1.0/24"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20:0:1::/64")},
		{ID: backID, Name: "back", CIDRBlock: netip.MustParsePrefix("10.20.2.0/24"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20:0:2::/64")},
		{ID: oldID, Name: "old", CIDRBlock: netip.MustParsePrefix("10.20.3.0/24")},
		{ID: farID, Name: "far", CIDRBlock: netip.MustParsePrefix("10.20.4.0/24"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20:0:4::/64"), Attach: vpc.AttachSpec{Relay: []netip.Addr{addr("10.9.0.2")}}},
	}
	for _, s := range []struct {
		name, vswitch, ip string
		mac               vpc.MAC
		addrs             []netip.Addr
	}{
		{"web-1", "web", "10.20.1.10", web1MAC, []netip.Addr{addr("fd00:20:0:1::10"), addr("fd00:20:0:1::20")}},
		{"web-2", "web", "10.20.1.11", web2MAC, []netip.Addr{addr("fd00:20:0:1::11")}},
		{"back-1", "back", "10.20.2.10", back1MAC, []netip.Addr{addr("fd00:20:0:2::10")}},
	} {
		i := &vpc.InstanceSpec{ID: "i-" + s.name, Name: s.name, Interfaces: []*vpc.InterfaceSpec{{ID: "eni-" + s.name, MAC: s.mac, VSwitch: s.vswitch, PrivateIP: addr(s.ip), IPv6Addresses: s.addrs}}}
		i.SetDefaults()
		v.Instances = append(v.Instances, i)
	}
	v.Instances[1].Interfaces[0].IPv6Prefixes = []netip.Prefix{netip.MustParsePrefix("fd00:20:0:1:5::/80")}
	if change != nil {
		change(v)
	}
	return vpc.NewSnapshot(&vpc.Spec{VPCs: []*vpc.VPCSpec{v}}, vpc.Host{Region: "lab"}, 1)
}

// routerSolicitation is the frame of a guest that looks for a router.
func routerSolicitation(mac vpc.MAC, src netip.Addr) []byte {
	m := make([]byte, 8, 16)
	m[0] = typeRouterSolicitation
	if !src.IsUnspecified() {
		m = appendLinkLayer(m, optionSourceLinkLayer, mac)
	}
	routers := addr("ff02::2")
	return port.IPv6{SrcMAC: mac, DstMAC: multicastMAC(routers), Src: src, Dst: routers, HopLimit: 255}.Frame(vpc.ProtocolICMPv6, m, checksumAt)
}

// neighborSolicitation is the frame of a guest that looks for a neighbour, or tries an address out when src is ::.
func neighborSolicitation(mac vpc.MAC, src, target netip.Addr) []byte {
	m := make([]byte, 24, 32)
	m[0] = typeNeighborSolicitation
	copy(m[8:], target.AsSlice())
	if !src.IsUnspecified() {
		m = appendLinkLayer(m, optionSourceLinkLayer, mac)
	}
	dst := solicitedNode(target)
	return port.IPv6{SrcMAC: mac, DstMAC: multicastMAC(dst), Src: src, Dst: dst, HopLimit: 255}.Frame(vpc.ProtocolICMPv6, m, checksumAt)
}
