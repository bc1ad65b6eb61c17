package dhcp4

import (
	"errors"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/server/lease"
	"gatehouse/vpc"
)

// decision is what becomes of a request. Exactly one of drop, enrol and reply is set, or none: nothing more to do.
type decision struct {
	drop  Drop
	enrol bool       // make it an instance, then decide again
	reply *Reply     // send this …
	lease *vpc.Lease // … but only once this is durable
}

func dropped(d Drop) decision { return decision{drop: d} }

// decide says what the answer to a request on a vSwitch is. It reads and changes only what the lease engine holds in
// memory. relayed says that the request came by a relay that the vSwitch names.
func decide(leases *lease.Engine, r *Request, w *vpc.VSwitch, relayed bool) decision {
	x := exchange{leases: leases, Request: r, vswitch: w, server: w.GatewayAddr(vpc.IPv4), client: clientOf(r, w.ID)}
	if relayed && r.ServerOverride.IsValid() {
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

// clientOf is who sent a request, as the lease engine knows clients.
func clientOf(r *Request, vswitchID string) lease.Client {
	return lease.Client{VSwitch: vswitchID, MAC: r.MAC, Family: vpc.IPv4, ClientID: r.clientIDText(), Hostname: r.Hostname}
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
func (x *exchange) discover() decision {
	l, nic, err := x.leases.Offer(x.client)
	switch {
	case errors.Is(err, lease.ErrUnknown):
		return decision{enrol: true}
	case err != nil:
		return dropped(dropOf(err))
	}
	if x.has(dhcpv4.OptionRapidCommit) {
		p := x.ack(nic, l.Address)
		p.must(dhcpv4.OptionRapidCommit, nil)
		return decision{reply: p, lease: &l}
	}
	return decision{reply: x.grant(dhcpv4.MessageTypeOffer, nic, l.Address)}
}

// request answers a REQUEST (RFC 2131 section 4.3.2). The three kinds differ in where the client states the address:
//
//	SELECTING             server identifier; option 50
//	INIT-REBOOT           no server identifier; option 50; no ciaddr
//	RENEWING, REBINDING   no server identifier; ciaddr
func (x *exchange) request() decision {
	if x.Server.IsValid() && !x.ours() {
		x.leases.Withdraw(x.client)
		return dropped(DropOtherServer)
	}
	want := x.Requested
	if x.Client.IsValid() && (!x.Server.IsValid() || !want.IsValid()) {
		want = x.Client
	}
	if !want.IsValid() {
		return dropped(DropMalformed)
	}
	l, nic, err := x.leases.Bind(x.client, want)
	switch {
	case err == nil:
		return decision{reply: x.ack(nic, l.Address), lease: &l}
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
	return dropped(dropOf(err))
}

// release ends a lease (RFC 2131 section 4.3.4). It is not answered.
func (x *exchange) release() decision {
	if x.Server.IsValid() && !x.ours() {
		return dropped(DropOtherServer)
	}
	if _, err := x.leases.Release(x.client, x.Client); err != nil {
		return dropped(dropOf(err))
	}
	return decision{}
}

// decline quarantines an address that the client found in use (RFC 2131 section 4.3.3). It is not answered.
func (x *exchange) decline() decision {
	if x.Server.IsValid() && !x.ours() {
		return dropped(DropOtherServer)
	}
	if _, err := x.leases.Decline(x.client, x.Requested); err != nil {
		return dropped(dropOf(err))
	}
	return decision{}
}

// inform tells a guest that configured its address itself about the network (RFC 2131 section 4.3.5): no address, no
// lease.
func (x *exchange) inform() decision {
	nic, _, err := x.leases.Lookup(x.client)
	if err != nil {
		return dropped(dropOf(err))
	}
	known := false
	for a := range nic.Addrs {
		known = known || a == x.Client
	}
	if !known {
		return dropped(DropNotYours)
	}
	p := newReply(x.Request, dhcpv4.MessageTypeAck, x.server)
	p.Client = x.Client
	p.addNetwork(x.Request, nic)
	return decision{reply: p}
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
func (x *exchange) nak(why string) decision {
	p := newReply(x.Request, dhcpv4.MessageTypeNak, x.server)
	p.Broadcast = p.Broadcast || x.Relay.IsValid() // the relay shall broadcast it: section 4.3.2
	p.must(dhcpv4.OptionMessage, []byte(why))
	return decision{reply: p}
}

// relayedVSwitch returns the vSwitch of a request that a relay sent: of those that name the relay, the one that the link
// selection (RFC 3527), else giaddr, lies in; nil when there is none.
func relayedVSwitch(candidates []*vpc.VSwitch, r *Request) *vpc.VSwitch {
	link := r.Relay
	if r.LinkSelection.IsValid() {
		link = r.LinkSelection
	}
	for _, w := range candidates {
		if w.CIDRBlock.Contains(link) {
			return w
		}
	}
	return nil
}

// staleAfter is when a queued request is no longer worth an answer: its client has sent another by then (the first
// retransmission comes after 4 s, RFC 2131 section 4.1).
const staleAfter = 3 * time.Second
