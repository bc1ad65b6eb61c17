package dhcp6

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"gatehouse/server/dhcp"
	"gatehouse/server/lease"
	"gatehouse/vpc"
)

const (
	webID   = "vsw-0000000000000001" // a bridge of ours, open
	physID  = "vsw-0000000000000002" // a plain link, closed
	farID   = "vsw-0000000000000003" // behind relays
	lockID  = "vsw-0000000000000004" // a bridge of ours, closed
	webName = "ghd6web"
)

var (
	webMAC   = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 1}
	webMAC2  = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 2}
	physMAC  = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 3}
	farMAC   = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 4}
	v4MAC    = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 5} // has no IPv6 address
	stranger = vpc.MAC{0x02, 0, 0, 0, 0, 9}
	begin    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	relay    = addr("fd00:9::2")
	relay2   = addr("fd00:9::3")

	serverDUID = DUID{0, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	clientDUID = DUID{0, 3, 0, 1, 0x00, 0x16, 0x3e, 0, 0, 1}
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// spec is the network of these tests; change may alter it before it is resolved.
func spec(change func(*vpc.VPCSpec)) *vpc.Snapshot {
	v := &vpc.VPCSpec{ID: "vpc-1", Name: "research", Domain: "research.internal",
		CIDRBlock: netip.MustParsePrefix("10.20.0.0/16"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20::/56")}
	v.SetDefaults()
	for i, w := range []vpc.VSwitchSpec{
		{ID: webID, Name: "web", Enrollment: vpc.EnrollmentAuto, Attach: vpc.AttachSpec{Bridge: webName}},
		{ID: physID, Name: "phys", Enrollment: vpc.EnrollmentClosed, Attach: vpc.AttachSpec{Interface: "eth1"}},
		{ID: farID, Name: "far", Enrollment: vpc.EnrollmentAuto, Attach: vpc.AttachSpec{Relay: []netip.Addr{relay, relay2}}},
		{ID: lockID, Name: "lock", Enrollment: vpc.EnrollmentClosed},
	} {
		n := byte(i + 1)
		w.CIDRBlock = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, n, 0}), 24)
		w.IPv6CIDRBlock = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x20, 0, 0, 0, n}), 64)
		v.VSwitches = append(v.VSwitches, &w)
	}
	for _, s := range []struct {
		name, vswitch, ip, ip6 string
		mac                    vpc.MAC
	}{
		{"web-1", "web", "10.20.1.10", "fd00:20:0:1::10", webMAC}, {"web-2", "web", "10.20.1.11", "fd00:20:0:1::11", webMAC2},
		{"phys-1", "phys", "10.20.2.10", "fd00:20:0:2::10", physMAC}, {"far-1", "far", "10.20.3.10", "fd00:20:0:3::10", farMAC},
		{"old", "web", "10.20.1.12", "", v4MAC},
	} {
		nic := &vpc.InterfaceSpec{ID: "eni-" + s.name, MAC: s.mac, VSwitch: s.vswitch, PrivateIP: addr(s.ip)}
		if s.ip6 != "" {
			nic.IPv6Addresses = []netip.Addr{addr(s.ip6)}
		}
		i := &vpc.InstanceSpec{ID: "i-" + s.name, Name: s.name, Interfaces: []*vpc.InterfaceSpec{nic}}
		i.SetDefaults()
		v.Instances = append(v.Instances, i)
	}
	web1 := v.Instances[0].Interfaces[0]
	web1.IPv6Addresses = append(web1.IPv6Addresses, addr("fd00:20:0:1::20"))
	if change != nil {
		change(v)
	}
	return vpc.NewSnapshot(&vpc.Spec{VPCs: []*vpc.VPCSpec{v}}, vpc.Host{Region: "lab"}, 1)
}

// memoryStore keeps leases in memory; it refuses them while fail is set.
type memoryStore struct {
	mu     sync.Mutex
	leases map[netip.Addr]vpc.Lease
	fail   error
}

var errDisk = errors.New("disk is full")

func (m *memoryStore) PutLeases(_ context.Context, leases ...vpc.Lease) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for _, l := range leases {
		m.leases[l.Address] = l
	}
	return nil
}

func (m *memoryStore) DeleteLeases(_ context.Context, addrs ...netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range addrs {
		delete(m.leases, a)
	}
	return nil
}

func (m *memoryStore) get(a netip.Addr) vpc.Lease {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leases[a]
}

func (m *memoryStore) refuse(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// newEngine has the leases, and has found every other address free.
func newEngine(t *testing.T, snap *vpc.Snapshot, leases ...vpc.Lease) *lease.Engine {
	t.Helper()
	e := newUntried(t, snap, leases...)
	for _, nic := range snap.Interfaces {
		for a := range nic.Addrs {
			e.Vacant(a)
		}
	}
	return e
}

// newUntried has the leases, and knows nothing about any other address.
func newUntried(t *testing.T, snap *vpc.Snapshot, leases ...vpc.Lease) *lease.Engine {
	t.Helper()
	store := &memoryStore{leases: map[netip.Addr]vpc.Lease{}}
	e := lease.New(lease.Config{Store: store, Now: func() time.Time { return begin }}, leases)
	e.SetSnapshot(snap)
	return e
}

// with changes a message that a test is about to send.
type with func(*dhcpv6.Message)

func option(o dhcpv6.Option) with { return func(m *dhcpv6.Message) { m.AddOption(o) } }

func raw(code dhcpv6.OptionCode, data ...byte) with {
	return option(&dhcpv6.OptionGeneric{OptionCode: code, OptionData: data})
}

// ia is an identity association for addresses, as a client has it.
func ia(id byte, addrs ...string) with {
	o := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, id}}
	for _, a := range addrs {
		o.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.IP(addr(a).AsSlice())})
	}
	return option(o)
}

// pd is an identity association for prefixes.
func pd(id byte, prefixes ...string) with {
	o := &dhcpv6.OptIAPD{IaId: [4]byte{0, 0, 0, id}}
	for _, p := range prefixes {
		_, n, err := net.ParseCIDR(p)
		if err != nil {
			panic(err)
		}
		o.Options.Add(&dhcpv6.OptIAPrefix{Prefix: n})
	}
	return option(o)
}

// tooLong is an IA_PD with a prefix longer than an address, which the library reads as none at all.
func tooLong() []byte {
	return slices.Concat([]byte{0, 0, 0, 1}, make([]byte, 8), []byte{0, 26, 0, 25}, make([]byte, 8), []byte{200}, make([]byte, 16))
}

// delegated gives web-1 two prefixes.
func delegated(v *vpc.VPCSpec) {
	v.Instances[0].Interfaces[0].IPv6Prefixes = []netip.Prefix{netip.MustParsePrefix("fd00:20:0:1:5::/80"), netip.MustParsePrefix("fd00:20:0:1:6::/80")}
}

func asks(codes ...dhcpv6.OptionCode) with { return option(dhcpv6.OptRequestedOption(codes...)) }

func ours(m *dhcpv6.Message)         { raw(dhcpv6.OptionServerID, serverDUID...)(m) }
func others(m *dhcpv6.Message)       { raw(dhcpv6.OptionServerID, 0, 3, 0, 1, 9, 9, 9, 9, 9, 9)(m) }
func rapid(m *dhcpv6.Message)        { raw(dhcpv6.OptionRapidCommit)(m) }
func nobody(m *dhcpv6.Message)       { m.Options.Del(dhcpv6.OptionClientID) }
func prefixed(m *dhcpv6.Message)     { option(&dhcpv6.OptIAPD{IaId: [4]byte{0, 0, 0, 9}})(m) }
func fqdn6(name string, f byte) with { return raw(dhcpv6.OptionFQDN, append([]byte{f}, name...)...) }

// message is what a client sends.
func message(kind dhcpv6.MessageType, changes ...with) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: kind, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
	raw(dhcpv6.OptionClientID, clientDUID...)(m)
	for _, change := range changes {
		change(m)
	}
	return m
}

// packet is a message as a guest's frame brings it.
func packet(mac vpc.MAC, m *dhcpv6.Message) *dhcp.Packet {
	return &dhcp.Packet{Payload: m.ToBytes(), Key: keyOf(m.ToBytes(), mac), Src: addr("fe80::16"), Dst: allServers}
}

func parse(t *testing.T, p *dhcp.Packet) *Request {
	t.Helper()
	r, err := ParseRequest(p, serverDUID)
	if err != nil {
		t.Fatalf("ParseRequest: %v", err)
	}
	return r
}

// decoded is a reply as a client reads it.
func decoded(t *testing.T, b []byte) *dhcpv6.Message {
	t.Helper()
	m, err := dhcpv6.MessageFromBytes(b)
	if err != nil {
		t.Fatalf("a client cannot read the reply: %v\n%x", err, b)
	}
	return m
}

// statusOf is the status in a list of options; Success when there is none.
func statusOf(o *dhcpv6.OptStatusCode) iana.StatusCode {
	if o == nil {
		return iana.StatusSuccess
	}
	return o.StatusCode
}
