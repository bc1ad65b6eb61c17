package dhcp6

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"gatehouse/server/dhcp"
	"gatehouse/server/lease"
	"gatehouse/vpc"
)

// Decide says what the answer to the request on a vSwitch is (RFC 8415 section 18.3). It reads and changes only what the
// lease engine holds in memory.
func (r *Request) Decide(leases *lease.Engine, w *vpc.VSwitch) dhcp.Decision {
	if r.ServerID != nil && !r.ours() {
		if r.Type == dhcpv6.MessageTypeRequest {
			leases.Withdraw(r.Sender(w.ID))
		}
		return dropped(dhcp.DropOtherServer)
	}
	x := exchange{Request: r, leases: leases, vswitch: w, client: r.Sender(w.ID)}
	if r.Unicast {
		// Nobody has been allowed to (section 18.4).
		return x.refuse(iana.StatusUseMulticast, "sent to one server", false)
	}
	switch r.Type {
	case dhcpv6.MessageTypeSolicit:
		return x.solicit()
	case dhcpv6.MessageTypeRequest:
		return x.request()
	case dhcpv6.MessageTypeConfirm:
		return x.confirm()
	case dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		return x.extend()
	case dhcpv6.MessageTypeRelease:
		return x.end(leases.Release)
	case dhcpv6.MessageTypeDecline:
		return x.end(leases.Decline)
	default:
		return x.inform()
	}
}

func dropped(d dhcp.Drop) dhcp.Decision { return dhcp.Decision{Drop: d} }

// exchange is one request with what is needed to answer it.
type exchange struct {
	*Request
	leases  *lease.Engine
	vswitch *vpc.VSwitch
	client  lease.Client
}

// solicit offers the client its address (section 18.3.1), or gives it at once to a client that asks for rapid commit.
func (x *exchange) solicit() dhcp.Decision {
	if !x.asksForAddress() {
		nic, _, err := x.leases.Lookup(x.client)
		if nic == nil || errors.Is(err, lease.ErrElsewhere) {
			return dropped(dhcp.DropOf(err))
		}
		return dhcp.Decision{Reply: x.offer(nic, netip.Addr{})}
	}
	l, nic, err := x.leases.Offer(x.client)
	switch {
	case errors.Is(err, lease.ErrUnknown):
		return dhcp.Decision{Enrol: true}
	case errors.Is(err, lease.ErrUntried):
		return dhcp.Decision{Probe: l.Address}
	case errors.Is(err, lease.ErrNoAddress):
		return dhcp.Decision{Reply: x.grant(dhcpv6.MessageTypeAdvertise, nic, netip.Addr{}, iana.StatusNoAddrsAvail), Refused: err.Error()}
	case err != nil:
		return dropped(dhcp.DropOf(err))
	}
	if x.RapidCommit {
		return dhcp.Decision{Reply: x.offer(nic, l.Address), Lease: &l}
	}
	return dhcp.Decision{Reply: x.offer(nic, l.Address)}
}

// offer is the answer to a SOLICIT: an offer, or with rapid commit what it asks for, if there is anything of that.
func (x *exchange) offer(nic *vpc.Interface, addr netip.Addr) *Reply {
	something := addr.IsValid() || x.delegates(nic)
	if x.RapidCommit && something {
		p := x.grant(dhcpv6.MessageTypeReply, nic, addr, iana.StatusNoAddrsAvail)
		p.must(dhcpv6.OptionRapidCommit, nil)
		return p
	}
	p := x.grant(dhcpv6.MessageTypeAdvertise, nic, addr, iana.StatusNoAddrsAvail)
	if something && x.vswitch.OwnsBridge() {
		p.must(dhcpv6.OptionPreference, []byte{255}) // nobody else can answer: the client need not wait (section 18.2.1)
	}
	return p
}

// request gives the address that was offered (section 18.3.2).
func (x *exchange) request() dhcp.Decision {
	for _, ia := range x.IAs {
		if slices.ContainsFunc(ia.Addrs, func(a netip.Addr) bool { return !x.vswitch.IPv6CIDRBlock.Contains(a) }) {
			return x.refuse(iana.StatusNotOnLink, "an address of another network", true)
		}
	}
	if !x.asksForAddress() {
		nic, _, err := x.leases.Lookup(x.client)
		if nic == nil || errors.Is(err, lease.ErrElsewhere) {
			return x.refuse(iana.StatusNoAddrsAvail, dhcp.DropOf(err).String(), true)
		}
		return dhcp.Decision{Reply: x.grant(dhcpv6.MessageTypeReply, nic, netip.Addr{}, iana.StatusNoAddrsAvail)}
	}
	l, nic, err := x.bind()
	switch {
	case errors.Is(err, lease.ErrUnknown):
		return dhcp.Decision{Enrol: true}
	case errors.Is(err, lease.ErrNotYours):
		return dropped(dhcp.DropNotYours) // it has just become another one: the client asks again
	case err != nil:
		return x.refuse(iana.StatusNoAddrsAvail, err.Error(), true)
	}
	return dhcp.Decision{Reply: x.grant(dhcpv6.MessageTypeReply, nic, l.Address, iana.StatusNoAddrsAvail), Lease: &l}
}

// confirm tells a client that may have been moved whether its address is still right (section 18.3.3). That is asked of the
// link, but we know more: an address that has become another one on the same link is not right either.
func (x *exchange) confirm() dhcp.Decision {
	var addrs []netip.Addr
	for _, ia := range x.IAs {
		addrs = append(addrs, ia.Addrs...)
	}
	if len(addrs) == 0 {
		return dropped(dhcp.DropMalformed)
	}
	_, own, err := x.leases.Lookup(x.client)
	if d := x.peace(err, addrs); d != dhcp.DropNone {
		return dropped(d)
	}
	if err != nil || slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a != own }) {
		return x.refuse(iana.StatusNotOnLink, "not the address of this interface", false)
	}
	p := newReply(x.Request, dhcpv6.MessageTypeReply)
	p.must(dhcpv6.OptionStatusCode, status(iana.StatusSuccess, ""))
	return dhcp.Decision{Reply: p}
}

// extend lets the client keep its address (sections 18.3.4 and 18.3.5). A client whose interface has got another address
// is told that one, and to forget the old.
func (x *exchange) extend() dhcp.Decision {
	address := x.asksForAddress()
	var l vpc.Lease
	nic, _, err := x.leases.Lookup(x.client)
	switch {
	case address:
		l, nic, err = x.bind()
	case err == nil && !x.delegates(nic):
		return x.refuse(iana.StatusNoBinding, "nothing that it has is an address or a prefix", true)
	}
	if x.Type == dhcpv6.MessageTypeRebind {
		var addrs []netip.Addr
		for _, ia := range x.IAs {
			addrs = append(addrs, ia.Addrs...)
		}
		if d := x.peace(err, addrs); d != dhcp.DropNone {
			return dropped(d)
		}
	}
	if errors.Is(err, lease.ErrNotYours) {
		return dropped(dhcp.DropNotYours) // it has just become another one: the client asks again
	}
	if err != nil {
		return x.refuse(iana.StatusNoBinding, err.Error(), true)
	}
	d := dhcp.Decision{Reply: x.grant(dhcpv6.MessageTypeReply, nic, l.Address, iana.StatusNoBinding)}
	if address {
		d.Lease = &l
	}
	return d
}

// end ends leases by Release (section 18.3.7) or Decline (section 18.3.8). What is not the client's is told apart.
func (x *exchange) end(end func(lease.Client, netip.Addr) (vpc.Lease, error)) dhcp.Decision {
	p := newReply(x.Request, dhcpv6.MessageTypeReply)
	p.must(dhcpv6.OptionStatusCode, status(iana.StatusSuccess, ""))
	for _, ia := range x.IAs {
		ended := ia.Code == dhcpv6.OptionIAPD && x.gaveBack(ia)
		for _, a := range ia.Addrs {
			_, err := end(x.client, a)
			if errors.Is(err, lease.ErrBusy) {
				return dropped(dhcp.DropOf(err))
			}
			ended = ended || err == nil
		}
		if !ended {
			p.addIA(ia, status(iana.StatusNoBinding, "not leased"))
		}
	}
	return dhcp.Decision{Reply: p}
}

// gaveBack reports whether the client ends its use of a prefix that is its own. There is nothing to do then: it stays the
// interface's. A prefix cannot be declined (section 18.2.8).
func (x *exchange) gaveBack(ia IA) bool {
	nic, _, err := x.leases.Lookup(x.client)
	return err == nil && x.Type == dhcpv6.MessageTypeRelease &&
		slices.ContainsFunc(ia.Prefixes, func(p netip.Prefix) bool { return slices.Contains(nic.IPv6Prefixes, p) })
}

// inform tells a guest that has its address from elsewhere about the network (section 18.3.6): no address, no lease.
func (x *exchange) inform() dhcp.Decision {
	nic, _, err := x.leases.Lookup(x.client)
	if err != nil && !errors.Is(err, lease.ErrNoAddress) {
		return dropped(dhcp.DropOf(err))
	}
	p := newReply(x.Request, dhcpv6.MessageTypeReply)
	p.must(dhcpv6.OptionInformationRefreshTime, seconds(refreshTime(x.vswitch)))
	p.addNetwork(x.Request, nic)
	return dhcp.Decision{Reply: p}
}

// bind returns the lease of the interface's own address: a client has no other to choose.
func (x *exchange) bind() (vpc.Lease, *vpc.Interface, error) {
	nic, own, err := x.leases.Lookup(x.client)
	if err != nil {
		return vpc.Lease{}, nic, err
	}
	return x.leases.Bind(x.client, own)
}

// peace says why a message to every server is left to the others: it comes from a MAC that we do not know, on a link that
// is not ours alone. We answer nevertheless for those that we would serve, and for those that we did serve.
func (x *exchange) peace(err error, addrs []netip.Addr) dhcp.Drop {
	switch {
	case errors.Is(err, lease.ErrNoVSwitch), errors.Is(err, lease.ErrBusy):
		return dhcp.DropOf(err)
	case !errors.Is(err, lease.ErrClosed) || x.vswitch.OwnsBridge():
		return dhcp.DropNone
	case slices.ContainsFunc(addrs, func(a netip.Addr) bool { return x.leases.Held(a, x.MAC) }):
		return dhcp.DropNone
	}
	return dhcp.DropOf(err)
}

// asksForAddress reports whether there is an identity association for an address that lasts.
func (x *exchange) asksForAddress() bool { return x.chosen(netip.Addr{}) >= 0 }

// chosen returns the index of the identity association that gets the client's address: the one that has it, else the
// first; -1 when there is none. An interface has one address to give, whatever number a client wants.
func (x *exchange) chosen(addr netip.Addr) int {
	first := -1
	for i, ia := range x.IAs {
		if ia.Code != dhcpv6.OptionIANA {
			continue
		}
		if slices.Contains(ia.Addrs, addr) {
			return i
		}
		if first < 0 {
			first = i
		}
	}
	return first
}

// delegation says which prefixes of the interface each identity association gets, by its index: those that it names, and of
// those that none names each goes to the one that has fewest. So what a client has stays where it is, a client with one
// association gets them all, and what has come to the interface comes with a renewal. A length that a client would like
// (RFC 8168) changes nothing: there is one length only.
//
// A prefix has no lease. It is the interface's by the declared state, which was durable before a snapshot had it, and
// nobody else can be given it, whatever becomes of the client or of us: there is nothing that a reply would have to wait for.
func (x *exchange) delegation(nic *vpc.Interface) map[int][]netip.Prefix {
	given := map[int][]netip.Prefix{}
	var unnamed []netip.Prefix
	for _, p := range nic.IPv6Prefixes {
		if i := slices.IndexFunc(x.IAs, func(ia IA) bool { return slices.Contains(ia.Prefixes, p) }); i >= 0 {
			given[i] = append(given[i], p)
		} else {
			unnamed = append(unnamed, p)
		}
	}
	for _, p := range unnamed {
		fewest := -1
		for i, ia := range x.IAs {
			if ia.Code == dhcpv6.OptionIAPD && (fewest < 0 || len(given[i]) < len(given[fewest])) {
				fewest = i
			}
		}
		if fewest >= 0 {
			given[fewest] = append(given[fewest], p)
		}
	}
	return given
}

// delegates reports whether the client asks for a prefix and gets one.
func (x *exchange) delegates(nic *vpc.Interface) bool { return len(x.delegation(nic)) > 0 }

// grant is a reply that offers or gives an address, if it is valid, and the interface's prefixes; the other identity
// associations are refused with a status.
func (x *exchange) grant(kind dhcpv6.MessageType, nic *vpc.Interface, addr netip.Addr, others iana.StatusCode) *Reply {
	p := newReply(x.Request, kind)
	chosen := -1
	if addr.IsValid() {
		chosen = x.chosen(addr)
	}
	extends := x.Type == dhcpv6.MessageTypeRenew || x.Type == dhcpv6.MessageTypeRebind
	delegation := x.delegation(nic)
	for i, ia := range x.IAs {
		if prefixes := delegation[i]; len(prefixes) > 0 {
			var gone []netip.Prefix
			if extends {
				gone = slices.DeleteFunc(slices.Clone(ia.Prefixes), func(p netip.Prefix) bool {
					return p.Addr().IsUnspecified() || slices.Contains(nic.IPv6Prefixes, p)
				})
			}
			p.addPrefixes(ia, prefixes, lease.Time(x.vswitch, vpc.IPv6), gone)
			continue
		}
		if i != chosen {
			p.addIA(ia, status(refusal(ia, others), refused(ia)))
			continue
		}
		var gone []netip.Addr
		if extends {
			gone = slices.DeleteFunc(slices.Clone(ia.Addrs), func(a netip.Addr) bool { return a == addr })
		}
		p.addAddress(ia, addr, lease.Time(x.vswitch, vpc.IPv6), gone)
	}
	p.addNetwork(x.Request, nic)
	return p
}

// refused says why an identity association gets nothing where others may.
func refused(ia IA) string {
	if ia.Code == dhcpv6.OptionIAPD {
		return "no prefix for it"
	}
	return "an interface has one address"
}

// refuse is a reply that gives nothing: the status stands in each identity association, or for the whole message.
func (x *exchange) refuse(code iana.StatusCode, why string, each bool) dhcp.Decision {
	p := newReply(x.Request, dhcpv6.MessageTypeReply)
	if !each || len(x.IAs) == 0 {
		p.must(dhcpv6.OptionStatusCode, status(code, why))
	} else {
		for _, ia := range x.IAs {
			p.addIA(ia, status(refusal(ia, code), why))
		}
	}
	return dhcp.Decision{Reply: p, Refused: why}
}

// refusal is the status that fits the kind of an identity association.
func refusal(ia IA, code iana.StatusCode) iana.StatusCode {
	if ia.Code == dhcpv6.OptionIAPD && code == iana.StatusNoAddrsAvail {
		return iana.StatusNoPrefixAvail
	}
	return code
}
