package dhcp4

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/server/dhcp"
	"gatehouse/server/lease"
	"gatehouse/vpc"
)

const (
	webID   = "vsw-0000000000000001" // a bridge of ours, open
	physID  = "vsw-0000000000000002" // a plain link, closed
	farID   = "vsw-0000000000000003" // behind relays
	lockID  = "vsw-0000000000000004" // a bridge of ours, closed
	webName = "ghd4web"
)

var (
	webMAC   = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 1}
	webMAC2  = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 2}
	physMAC  = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 3}
	farMAC   = vpc.MAC{0x00, 0x16, 0x3e, 0, 0, 4}
	stranger = vpc.MAC{0x02, 0, 0, 0, 0, 9}
	begin    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	relay    = addr("10.9.0.2")
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// spec is the network of these tests; change may alter it before it is resolved.
func spec(change func(*vpc.VPCSpec)) *vpc.Snapshot {
	v := &vpc.VPCSpec{ID: "vpc-1", Name: "research", Domain: "research.internal", CIDRBlock: netip.MustParsePrefix("10.20.0.0/16")}
	v.SetDefaults()
	v.VSwitches = []*vpc.VSwitchSpec{
		{ID: webID, Name: "web", CIDRBlock: netip.MustParsePrefix("10.20.1.0/24"), Enrollment: vpc.EnrollmentAuto, Attach: vpc.AttachSpec{Bridge: webName}},
		{ID: physID, Name: "phys", CIDRBlock: netip.MustParsePrefix("10.20.2.0/24"), Enrollment: vpc.EnrollmentClosed, Attach: vpc.AttachSpec{Interface: "eth1"}},
		{ID: farID, Name: "far", CIDRBlock: netip.MustParsePrefix("10.20.3.0/24"), Enrollment: vpc.EnrollmentAuto, Attach: vpc.AttachSpec{Relay: []netip.Addr{relay}}},
		{ID: lockID, Name: "lock", CIDRBlock: netip.MustParsePrefix("10.20.4.0/24"), Enrollment: vpc.EnrollmentClosed},
	}
	for _, s := range []struct {
		name, vswitch, ip string
		mac               vpc.MAC
	}{{"web-1", "web", "10.20.1.10", webMAC}, {"web-2", "web", "10.20.1.11", webMAC2}, {"phys-1", "phys", "10.20.2.10", physMAC}, {"far-1", "far", "10.20.3.10", farMAC}} {
		i := &vpc.InstanceSpec{ID: "i-" + s.name, Name: s.name, Interfaces: []*vpc.InterfaceSpec{{ID: "eni-" + s.name, MAC: s.mac, VSwitch: s.vswitch, PrivateIP: addr(s.ip)}}}
		i.SetDefaults()
		v.Instances = append(v.Instances, i)
	}
	v.Instances[0].Interfaces[0].SecondaryPrivateIPs = []netip.Addr{addr("10.20.1.20")}
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
	for _, l := range leases {
		store.leases[l.Address] = l
	}
	e := lease.New(lease.Config{Store: store, Now: func() time.Time { return begin }}, leases)
	e.SetSnapshot(snap)
	return e
}

// with changes a message that a test is about to send.
type with func(*dhcpv4.DHCPv4)

func option(code dhcpv4.OptionCode, data ...byte) with {
	return func(m *dhcpv4.DHCPv4) { m.Options[code.Code()] = data }
}

func addrIn(code dhcpv4.OptionCode, a string) with { return option(code, addr(a).AsSlice()...) }

func asks(codes ...byte) with { return option(dhcpv4.OptionParameterRequestList, codes...) }

func ciaddr(a string) with {
	return func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = addr(a).AsSlice() }
}

func giaddr(a string) with {
	return func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = addr(a).AsSlice() }
}

func broadcast(m *dhcpv4.DHCPv4) { m.SetBroadcast() }

func requested(a string) with { return addrIn(dhcpv4.OptionRequestedIPAddress, a) }
func server(a string) with    { return addrIn(dhcpv4.OptionServerIdentifier, a) }

// message is what a client sends.
func message(kind dhcpv4.MessageType, mac vpc.MAC, changes ...with) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, TransactionID: dhcpv4.TransactionID{1, 2, 3, 4},
		ClientHWAddr: net.HardwareAddr(slices.Clone(mac[:])), ClientIPAddr: net.IPv4zero.To4(), YourIPAddr: net.IPv4zero.To4(),
		ServerIPAddr: net.IPv4zero.To4(), GatewayIPAddr: net.IPv4zero.To4(),
		Options: dhcpv4.Options{dhcpv4.OptionDHCPMessageType.Code(): {byte(kind)}},
	}
	for _, change := range changes {
		change(m)
	}
	return m
}

func parse(t *testing.T, m *dhcpv4.DHCPv4) *Request {
	t.Helper()
	r, err := ParseRequest(m.ToBytes())
	if err != nil {
		t.Fatalf("ParseRequest: %v\n%s", err, m.Summary())
	}
	return r
}

// decoded is a reply as a client reads it.
func decoded(t *testing.T, b []byte) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatalf("a client cannot read the reply: %v\n%x", err, b)
	}
	if err := unfold(m, b); err != nil {
		t.Fatalf("a client cannot read the reply's overloaded fields: %v", err)
	}
	return m
}

// unfold adds what stands in the file and sname fields, which the library leaves where it is.
func unfold(m *dhcpv4.DHCPv4, b []byte) error {
	for i, field := range [][]byte{b[fileOffset : fileOffset+fileSize], b[snameOffset : snameOffset+snameSize]} {
		if over := m.Options.Get(dhcpv4.OptionOptionOverload); len(over) == 1 && over[0]&(1<<i) != 0 {
			if err := m.Options.FromBytes(field); err != nil {
				return err
			}
		}
	}
	return nil
}

// replyOf is the answer of a decision; nil when there is none.
func replyOf(d dhcp.Decision) *Reply {
	p, _ := d.Reply.(*Reply)
	return p
}
