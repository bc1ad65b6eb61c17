package link

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"

	"gatehouse/vpc"
)

// state is what one reading of the kernel found.
type state struct {
	links  map[string]*link
	routes []route // of the main table: default routes, ours, and those that overlap a wanted range
	sysctl func(path string) (value string, ok bool)
}

// link is one network link. Addresses are known of every link; neighbours and forwarding entries only of links that are
// wanted or managed, and of their ports.
type link struct {
	index   int
	name    string
	kind    string // bridge, veth, tun …; "" for hardware
	alias   string
	mac     vpc.MAC
	up      bool              // administratively
	carrier bool              //
	master  int               // index; 0: none
	bridge  map[uint16]uint32 // a bridge's own attributes, IFLA_BR_…
	port    map[uint16]uint8  // a bridge port's flags, IFLA_BRPORT_…; what the kernel does not know is missing
	addrs   []netip.Prefix
	neighs  map[netip.Addr]neigh // permanent ones
	fdb     []fdbEntry           // of a bridge port
	ports   []*link              // of a bridge, by name
}

// running reports whether a guest behind a port can send.
func (l *link) running() bool { return l.up && l.carrier }

// has reports whether the link has the address with that prefix length.
func (l *link) has(a netip.Prefix) bool {
	for _, b := range l.addrs {
		if a == b {
			return true
		}
	}
	return false
}

// neigh is a permanent neighbour.
type neigh struct {
	mac  vpc.MAC
	ours bool // carries our protocol number
}

// fdbEntry is an entry of a bridge's forwarding table that points to a port.
type fdbEntry struct {
	mac    vpc.MAC
	vlan   uint16
	kind   fdbKind
	sticky bool
}

type fdbKind uint8

const (
	fdbLearned fdbKind = iota
	fdbStatic
	fdbLocal // the port's own MAC
)

// route is one route of the main table.
type route struct {
	dst     netip.Prefix
	devs    []int      // indexes
	via     netip.Addr // the next hop, if there is one only
	ours    bool       // carries our protocol number
	unicast bool       // leads somewhere; else blackhole, unreachable, prohibit, throw
	kernel  bool       // the kernel made it for an address
	family  vpc.Family
}

// is reports whether the route is one of ours that is wanted on a link.
func (r route) is(want wantRoute, index int) bool {
	return r.ours && r.unicast && r.dst == want.dst && r.via == want.via && slices.Contains(r.devs, index)
}

// isDefault reports whether the route is a default route.
func (r route) isDefault() bool { return r.dst.Bits() == 0 }

// portFlag is one flag of a bridge port.
type portFlag struct {
	attr    uint16
	name    string
	want    uint8 // on a port of ours
	initial uint8 // as the kernel makes a port
	need    bool  // guests could reach each other without it
}

// portFlags is what every port of a vSwitch's bridge has. Unicast for a MAC that no port holds goes to nobody, multicast
// and broadcast from the gateway (router advertisements, ARP) to everybody.
func portFlags() []portFlag {
	return []portFlag{
		{nl.IFLA_BRPORT_ISOLATED, "isolated", 1, 0, true},
		{nl.IFLA_BRPORT_LOCKED, "locked", 1, 0, false},
		{nl.IFLA_BRPORT_LEARNING, "learning", 0, 1, false},
		{nl.IFLA_BRPORT_UNICAST_FLOOD, "flood", 0, 1, false},
		{nl.IFLA_BRPORT_MCAST_FLOOD, "mcast_flood", 1, 1, false},
		{nl.IFLA_BRPORT_BCAST_FLOOD, "bcast_flood", 1, 1, false},
		{nl.IFLA_BRPORT_MODE, "hairpin", 0, 0, false},
		{nl.IFLA_BRPORT_NEIGH_SUPPRESS, "neigh_suppress", 0, 0, false},
	}
}

// bridgeAttr is one attribute of a bridge.
type bridgeAttr struct {
	attr    uint16
	name    string
	size    int // bytes
	want    uint32
	created bool // only where we create the bridge; an adopted one keeps its own
}

// bridgeAttrs is what every bridge of a vSwitch has. Snooping is off because nothing crosses the bridge and what guests
// report would only fill its tables. What is bridged all the same, by a port that nobody has isolated yet, is shown to
// iptables, which drops it.
func bridgeAttrs() []bridgeAttr {
	return []bridgeAttr{
		{nl.IFLA_BR_STP_STATE, "stp_state", 4, 0, true},
		{nl.IFLA_BR_FORWARD_DELAY, "forward_delay", 4, 0, true},
		{nl.IFLA_BR_VLAN_FILTERING, "vlan_filtering", 1, 0, true},
		{nl.IFLA_BR_MCAST_SNOOPING, "mcast_snooping", 1, 0, false},
		{nl.IFLA_BR_NF_CALL_IPTABLES, "nf_call_iptables", 1, 1, false},
		{nl.IFLA_BR_NF_CALL_IP6TABLES, "nf_call_ip6tables", 1, 1, false},
	}
}

// aliasOf is what the alias of a bridge says that we created; ownerOf reads it.
func aliasOf(vswitch string) string { return "gatehouse " + vswitch }

func ownerOf(alias string) (vswitch string, ok bool) { return strings.CutPrefix(alias, "gatehouse ") }

// created reports whether a link is a bridge that we created for some vSwitch.
func (l *link) created() bool {
	id, ok := ownerOf(l.alias)
	return ok && l.kind == "bridge" && l.mac == bridgeMAC(id)
}
