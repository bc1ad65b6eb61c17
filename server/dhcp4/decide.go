package dhcp4

import (
	"errors"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/server/dhcp"
	"gatehouse/server/lease"
	"gatehouse/vpc"
)

func dropped(d dhcp.Drop) dhcp.Decision { return dhcp.Decision{Drop: d} }

// Decide says what the answer to the request on a vSwitch is. It reads and changes only what the lease engine holds in
// memory.
func (r *Request) Decide(leases *lease.Engine, w *vpc.VSwitch) dhcp.Decision {
	x := exchange{leases: leases, Request: r, vswitch: w, server: w.GatewayAddr(vpc.IPv4), client: r.Sender(w.ID)}
	if r.Relayed() && r.ServerOverride.IsValid() {
		x.server = r.ServerOverride
	}
	switch r.Type {
	case dhcpv4.MessageTypeDiscover:
		return x.discover()
	case dhcpv4.MessageTypeRequest:
		return x.request()
	case dhcpv4.MessageTypeRelease:
		return x.release()
	case dhcpv4.MessageTypeDecline:
		return x.decline()
	default:
		return x.inform()
	}
}

// exchange is one request with what is needed to answer it.
type exchange struct {
	*Request
	leases  *lease.Engine
	vswitch *vpc.VSwitch
	server  netip.Addr // how we call ourselves: option 54
	client  lease.Client
}

// ours reports whether the request names this server. The gateway's address is always ours, also when a relay has put
// another in its place since.
func (x *exchange) ours() bool {
	return x.Server == x.server || x.Server == x.vswitch.GatewayAddr(vpc.IPv4)
}

// discover offers the client its address (RFC 2131 section 4.3.1), or gives it at once to a client that asks for rapid
// commit (RFC 4039).
func (x *exchange) discover() dhcp.Decision {
	l, nic, err := x.leases.Offer(x.client)
	switch {
	case errors.Is(err, lease.ErrUnknown):
		return dhcp.Decision{Enrol: true}
	case errors.Is(err, lease.ErrUntried):
		return dhcp.Decision{Probe: l.Address}
	case err != nil:
		return dropped(dhcp.DropOf(err))
	}
	if x.has(dhcpv4.OptionRapidCommit) {
		p := x.ack(nic, l.Address)
		p.must(dhcpv4.OptionRapidCommit, nil)
		return dhcp.Decision{Reply: p, Lease: &l}
	}
	return dhcp.Decision{Reply: x.grant(dhcpv4.MessageTypeOffer, nic, l.Address)}
}

// request answers a REQUEST (RFC 2131 section 4.3.2). The three kinds differ in where the client states the address:
//
//	SELECTING             server identifier; option 50
//	INIT-REBOOT           no server identifier; option 50; no ciaddr
//	RENEWING, REBINDING   no server identifier; ciaddr
func (x *exchange) request() dhcp.Decision {
	if x.Server.IsValid() && !x.ours() {
		x.leases.Withdraw(x.client)
		return dropped(dhcp.DropOtherServer)
	}
	want := x.Requested
	if x.Client.IsValid() && (!x.Server.IsValid() || !want.IsValid()) {
		want = x.Client
	}
	if !want.IsValid() {
		return dropped(dhcp.DropMalformed)
	}
	l, nic, err := x.leases.Bind(x.client, want)
	switch {
	case err == nil:
		return dhcp.Decision{Reply: x.ack(nic, l.Address), Lease: &l}
	case errors.Is(err, lease.ErrNotYours), errors.Is(err, lease.ErrNoAddress):
		return x.nak("not the address of this interface")
	case errors.Is(err, lease.ErrElsewhere):
		return x.nak("this interface belongs to another vSwitch")
	case errors.Is(err, lease.ErrQuarantined):
		return x.nak("the address was declined")
	case errors.Is(err, lease.ErrUnknown), errors.Is(err, lease.ErrClosed):
		// Silence keeps the peace with other servers on a link that is not ours alone, except towards those that we
		// would serve, and those that we did serve.
		if x.vswitch.OwnsBridge() || errors.Is(err, lease.ErrUnknown) || x.leases.Held(want, x.MAC) {
			return x.nak("no such interface")
		}
	}
	return dropped(dhcp.DropOf(err))
}

// release ends a lease (RFC 2131 section 4.3.4). It is not answered.
func (x *exchange) release() dhcp.Decision {
	if x.Server.IsValid() && !x.ours() {
		return dropped(dhcp.DropOtherServer)
	}
	if _, err := x.leases.Release(x.client, x.Client); err != nil {
		return dropped(dhcp.DropOf(err))
	}
	return dhcp.Decision{}
}

// decline quarantines an address that the client found in use (RFC 2131 section 4.3.3). It is not answered.
func (x *exchange) decline() dhcp.Decision {
	if x.Server.IsValid() && !x.ours() {
		return dropped(dhcp.DropOtherServer)
	}
	if _, err := x.leases.Decline(x.client, x.Requested); err != nil {
		return dropped(dhcp.DropOf(err))
	}
	return dhcp.Decision{}
}

// inform tells a guest that configured its address itself about the network (RFC 2131 section 4.3.5): no address, no
// lease.
func (x *exchange) inform() dhcp.Decision {
	nic, _, err := x.leases.Lookup(x.client)
	if err != nil {
		return dropped(dhcp.DropOf(err))
	}
	known := false
	for a := range nic.Addrs {
		known = known || a == x.Client
	}
	if !known {
		return dropped(dhcp.DropNotYours)
	}
	p := newReply(x.Request, dhcpv4.MessageTypeAck, x.server)
	p.Client = x.Client
	p.addNetwork(x.Request, nic)
	return dhcp.Decision{Reply: p}
}

// ack is the reply that gives an address.
func (x *exchange) ack(nic *vpc.Interface, addr netip.Addr) *Reply {
	p := x.grant(dhcpv4.MessageTypeAck, nic, addr)
	p.Client = x.Client
	return p
}

// grant is a reply that offers or gives an address.
func (x *exchange) grant(kind dhcpv4.MessageType, nic *vpc.Interface, addr netip.Addr) *Reply {
	p := newReply(x.Request, kind, x.server)
	p.Your = addr
	p.addLease(lease.Time(nic.VSwitch, vpc.IPv4))
	p.addNetwork(x.Request, nic)
	return p
}

// nak sends the client back to DISCOVER (RFC 2131 table 3: neither addresses nor settings).
func (x *exchange) nak(why string) dhcp.Decision {
	p := newReply(x.Request, dhcpv4.MessageTypeNak, x.server)
	p.Broadcast = p.Broadcast || x.Relay.IsValid() // the relay shall broadcast it: section 4.3.2
	p.must(dhcpv4.OptionMessage, []byte(why))
	return dhcp.Decision{Reply: p, Refused: why}
}
