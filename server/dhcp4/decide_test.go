package dhcp4

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/server/dhcp"
	"gatehouse/vpc"
)

// bound is the lease of web-1 as an earlier exchange left it.
func bound(mac vpc.MAC, a, nic string) vpc.Lease {
	return vpc.Lease{Address: addr(a), MAC: mac, Interface: nic, VSwitch: webID, State: vpc.LeaseBound, Start: begin, Expires: begin.Add(time.Hour)}
}

func TestDecide(t *testing.T) {
	const (
		discover = dhcpv4.MessageTypeDiscover
		request  = dhcpv4.MessageTypeRequest
		none     = dhcpv4.MessageTypeNone
		offer    = dhcpv4.MessageTypeOffer
		ack      = dhcpv4.MessageTypeAck
		nak      = dhcpv4.MessageTypeNak
	)
	held := bound(webMAC, "10.20.1.10", "eni-web-1")
	declined := held
	declined.State = vpc.LeaseDeclined
	physHeld := bound(stranger, "10.20.2.77", "eni-gone")
	tests := []struct {
		name    string
		vswitch string
		leases  []vpc.Lease
		msg     *dhcpv4.DHCPv4
		reply   dhcpv4.MessageType // none: silence
		your    string
		durable bool // the reply waits for the store
		enrol   bool
		drop    dhcp.Drop
	}{
		// DISCOVER
		{name: "a DISCOVER is offered the interface's address", vswitch: webID, msg: message(discover, webMAC), reply: offer, your: "10.20.1.10"},
		{name: "a DISCOVER that wishes another address is offered its own", vswitch: webID, msg: message(discover, webMAC, requested("10.20.1.99")), reply: offer, your: "10.20.1.10"},
		{name: "a DISCOVER of a client with a lease is offered it again", vswitch: webID, leases: []vpc.Lease{held}, msg: message(discover, webMAC), reply: offer, your: "10.20.1.10"},
		{name: "a DISCOVER with rapid commit is given the address at once", vswitch: webID, msg: message(discover, webMAC, option(dhcpv4.OptionRapidCommit)), reply: ack, your: "10.20.1.10", durable: true},
		{name: "a DISCOVER of an unknown MAC is enrolled", vswitch: webID, msg: message(discover, stranger), enrol: true},
		{name: "a DISCOVER of an unknown MAC is ignored where enrolment is closed", vswitch: lockID, msg: message(discover, stranger), drop: dhcp.DropUnknown},
		{name: "a DISCOVER on another vSwitch is ignored", vswitch: lockID, msg: message(discover, webMAC), drop: dhcp.DropElsewhere},
		{name: "a DISCOVER for a quarantined address is ignored", vswitch: webID, leases: []vpc.Lease{declined}, msg: message(discover, webMAC), drop: dhcp.DropQuarantined},

		// REQUEST, SELECTING
		{name: "SELECTING gets what it was offered", vswitch: webID, msg: message(request, webMAC, server("10.20.1.253"), requested("10.20.1.10")), reply: ack, your: "10.20.1.10", durable: true},
		{name: "SELECTING another server is none of ours", vswitch: webID, msg: message(request, webMAC, server("10.20.1.1"), requested("10.20.1.10")), drop: dhcp.DropOtherServer},
		{name: "SELECTING an address that was not offered is refused", vswitch: webID, msg: message(request, webMAC, server("10.20.1.253"), requested("10.20.1.11")), reply: nak},
		{name: "SELECTING without an address is malformed", vswitch: webID, msg: message(request, webMAC, server("10.20.1.253")), drop: dhcp.DropMalformed},
		{name: "SELECTING by an unknown MAC is refused", vswitch: webID, msg: message(request, stranger, server("10.20.1.253"), requested("10.20.1.10")), reply: nak},
		{name: "SELECTING that states its address in ciaddr is understood", vswitch: webID, msg: message(request, webMAC, server("10.20.1.253"), ciaddr("10.20.1.10")), reply: ack, your: "10.20.1.10", durable: true},

		// REQUEST, INIT-REBOOT
		{name: "INIT-REBOOT gets its address back", vswitch: webID, leases: []vpc.Lease{held}, msg: message(request, webMAC, requested("10.20.1.10")), reply: ack, your: "10.20.1.10", durable: true},
		{name: "INIT-REBOOT without a lease on record gets its address too", vswitch: webID, msg: message(request, webMAC, requested("10.20.1.10")), reply: ack, your: "10.20.1.10", durable: true},
		{name: "INIT-REBOOT with an address of another interface is refused", vswitch: webID, msg: message(request, webMAC, requested("10.20.1.11")), reply: nak},
		{name: "INIT-REBOOT with an address of another network is refused", vswitch: webID, msg: message(request, webMAC, requested("192.168.1.5")), reply: nak},
		{name: "INIT-REBOOT with a secondary address is refused: it is not DHCP's to give", vswitch: webID, msg: message(request, webMAC, requested("10.20.1.20")), reply: nak},
		{name: "INIT-REBOOT on another vSwitch is refused", vswitch: lockID, msg: message(request, webMAC, requested("10.20.1.10")), reply: nak},
		{name: "INIT-REBOOT by an unknown MAC is refused, so that it enrols", vswitch: webID, msg: message(request, stranger, requested("10.20.1.50")), reply: nak},
		{name: "INIT-REBOOT by an unknown MAC is refused on a closed bridge of ours", vswitch: lockID, msg: message(request, stranger, requested("10.20.4.50")), reply: nak},
		{name: "INIT-REBOOT by an unknown MAC on a closed foreign link may be another server's", vswitch: physID, msg: message(request, stranger, requested("10.20.2.50")), drop: dhcp.DropUnknown},
		{name: "INIT-REBOOT by a MAC that we served once is refused on a foreign link", vswitch: physID, leases: []vpc.Lease{physHeld}, msg: message(request, stranger, requested("10.20.2.77")), reply: nak},
		{name: "INIT-REBOOT with a quarantined address is refused", vswitch: webID, leases: []vpc.Lease{declined}, msg: message(request, webMAC, requested("10.20.1.10")), reply: nak},

		// REQUEST, RENEWING and REBINDING
		{name: "RENEWING is extended", vswitch: webID, leases: []vpc.Lease{held}, msg: message(request, webMAC, ciaddr("10.20.1.10")), reply: ack, your: "10.20.1.10", durable: true},
		{name: "RENEWING that also names the address in an option is extended", vswitch: webID, msg: message(request, webMAC, ciaddr("10.20.1.10"), requested("10.20.1.11")), reply: ack, your: "10.20.1.10", durable: true},
		{name: "RENEWING after the reservation changed is refused", vswitch: webID, leases: []vpc.Lease{bound(webMAC, "10.20.1.30", "eni-web-1")}, msg: message(request, webMAC, ciaddr("10.20.1.30")), reply: nak},
		{name: "REBINDING without a lease on record is extended", vswitch: webID, msg: message(request, webMAC, ciaddr("10.20.1.10"), broadcast), reply: ack, your: "10.20.1.10", durable: true},
		{name: "RENEWING by an instance that is gone is refused", vswitch: webID, msg: message(request, stranger, ciaddr("10.20.1.50")), reply: nak},
		{name: "a REQUEST that states no address is malformed", vswitch: webID, msg: message(request, webMAC), drop: dhcp.DropMalformed},

		// RELEASE and DECLINE
		{name: "a RELEASE is not answered", vswitch: webID, leases: []vpc.Lease{held}, msg: message(dhcpv4.MessageTypeRelease, webMAC, ciaddr("10.20.1.10"), server("10.20.1.253"))},
		{name: "a RELEASE to another server is none of ours", vswitch: webID, leases: []vpc.Lease{held}, msg: message(dhcpv4.MessageTypeRelease, webMAC, ciaddr("10.20.1.10"), server("10.20.1.1")), drop: dhcp.DropOtherServer},
		{name: "a RELEASE of somebody else's lease is ignored", vswitch: webID, leases: []vpc.Lease{held}, msg: message(dhcpv4.MessageTypeRelease, webMAC2, ciaddr("10.20.1.10"), server("10.20.1.253")), drop: dhcp.DropNotYours},
		{name: "a RELEASE of an unknown MAC enrols nobody", vswitch: webID, msg: message(dhcpv4.MessageTypeRelease, stranger, ciaddr("10.20.1.10"), server("10.20.1.253")), drop: dhcp.DropUnknown},
		{name: "a DECLINE is not answered", vswitch: webID, leases: []vpc.Lease{held}, msg: message(dhcpv4.MessageTypeDecline, webMAC, requested("10.20.1.10"), server("10.20.1.253"))},
		{name: "a DECLINE of what was not leased is ignored", vswitch: webID, msg: message(dhcpv4.MessageTypeDecline, webMAC, requested("10.20.1.10"), server("10.20.1.253")), drop: dhcp.DropNotYours},
		{name: "a DECLINE of somebody else's lease is ignored", vswitch: webID, leases: []vpc.Lease{held}, msg: message(dhcpv4.MessageTypeDecline, webMAC2, requested("10.20.1.10"), server("10.20.1.253")), drop: dhcp.DropNotYours},
		{name: "a DECLINE to another server is none of ours", vswitch: webID, leases: []vpc.Lease{held}, msg: message(dhcpv4.MessageTypeDecline, webMAC, requested("10.20.1.10"), server("10.20.1.1")), drop: dhcp.DropOtherServer},

		// INFORM
		{name: "an INFORM is told about the network and gets no address", vswitch: webID, msg: message(dhcpv4.MessageTypeInform, webMAC, ciaddr("10.20.1.10")), reply: ack},
		{name: "an INFORM from a secondary address is answered", vswitch: webID, msg: message(dhcpv4.MessageTypeInform, webMAC, ciaddr("10.20.1.20")), reply: ack},
		{name: "an INFORM from somebody else's address is ignored", vswitch: webID, msg: message(dhcpv4.MessageTypeInform, webMAC, ciaddr("10.20.1.11")), drop: dhcp.DropNotYours},
		{name: "an INFORM without an address is ignored", vswitch: webID, msg: message(dhcpv4.MessageTypeInform, webMAC), drop: dhcp.DropNotYours},
		{name: "an INFORM of an unknown MAC is ignored", vswitch: webID, msg: message(dhcpv4.MessageTypeInform, stranger, ciaddr("10.20.1.10")), drop: dhcp.DropUnknown},

		// by a relay
		{name: "a relayed DISCOVER is offered the interface's address", vswitch: farID, msg: message(discover, farMAC, giaddr("10.20.3.1")), reply: offer, your: "10.20.3.10"},
		{name: "a relay may put its own address in place of the server's", vswitch: farID, reply: ack, your: "10.20.3.10", durable: true,
			msg: message(request, farMAC, giaddr("10.20.3.1"), server("10.20.3.1"), requested("10.20.3.10"), option(dhcpv4.OptionRelayAgentInformation, relayServerID, 4, 10, 20, 3, 1))},
		{name: "a guest may not", vswitch: webID, drop: dhcp.DropOtherServer,
			msg: message(request, webMAC, server("10.20.1.1"), requested("10.20.1.10"), option(dhcpv4.OptionRelayAgentInformation, relayServerID, 4, 10, 20, 1, 1))},
	}
	snap := spec(nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newEngine(t, snap, tt.leases...)
			d := parse(t, tt.msg).Decide(e, e.VSwitch(tt.vswitch))
			if d.Drop != tt.drop || d.Enrol != tt.enrol || (d.Lease != nil) != tt.durable {
				t.Errorf("drop %q, enrol %t, durable %t; want %q, %t, %t", d.Drop, d.Enrol, d.Lease != nil, tt.drop, tt.enrol, tt.durable)
			}
			if tt.reply == none {
				if replyOf(d) != nil {
					t.Fatalf("answered with %s, want silence", replyOf(d).Type)
				}
				return
			}
			if replyOf(d) == nil || replyOf(d).Type != tt.reply {
				t.Fatalf("answered with %+v, want %s", replyOf(d), tt.reply)
			}
			want := netip.Addr{}
			if tt.your != "" {
				want = addr(tt.your)
			}
			if replyOf(d).Your != want {
				t.Errorf("address %s, want %s", replyOf(d).Your, want)
			}
			if d.Lease != nil && (d.Lease.Address != want || d.Lease.MAC != vpc.MAC(tt.msg.ClientHWAddr)) {
				t.Errorf("the lease is %+v", d.Lease)
			}
		})
	}
}

func TestANewAddressIsAskedForBeforeItIsOffered(t *testing.T) {
	held := bound(webMAC, "10.20.1.10", "eni-web-1")
	declined := held
	declined.State, declined.Expires = vpc.LeaseDeclined, begin
	for _, tt := range []struct {
		name    string
		vswitch string
		leases  []vpc.Lease
		msg     *dhcpv4.DHCPv4
		probe   string // "": it is answered at once
	}{
		{"of a client that never had it", webID, nil, message(dhcpv4.MessageTypeDiscover, webMAC), "10.20.1.10"},
		{"with rapid commit too", webID, nil, message(dhcpv4.MessageTypeDiscover, webMAC, option(dhcpv4.OptionRapidCommit)), "10.20.1.10"},
		{"that somebody else had last", webID, []vpc.Lease{bound(webMAC2, "10.20.1.10", "eni-web-2")}, message(dhcpv4.MessageTypeDiscover, webMAC), "10.20.1.10"},
		{"whose quarantine is over", webID, []vpc.Lease{declined}, message(dhcpv4.MessageTypeDiscover, webMAC), "10.20.1.10"},
		{"but not of a client that had it", webID, []vpc.Lease{held}, message(dhcpv4.MessageTypeDiscover, webMAC), ""},
		{"but not of one that has it", webID, nil, message(dhcpv4.MessageTypeRequest, webMAC, requested("10.20.1.10")), ""},
		{"but not by a relay", farID, nil, message(dhcpv4.MessageTypeDiscover, farMAC, giaddr("10.20.3.1")), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newUntried(t, spec(nil), tt.leases...)
			d := parse(t, tt.msg).Decide(e, e.VSwitch(tt.vswitch))
			if tt.probe == "" {
				if d.Probe.IsValid() || d.Reply == nil {
					t.Errorf("decided %+v, want an answer", d)
				}
				return
			}
			if d.Probe != addr(tt.probe) || d.Reply != nil || d.Lease != nil {
				t.Fatalf("decided %+v, want a probe for %s", d, tt.probe)
			}
			e.Vacant(d.Probe)
			if d := parse(t, tt.msg).Decide(e, e.VSwitch(tt.vswitch)); d.Probe.IsValid() || d.Reply == nil {
				t.Errorf("when it is free: %+v, want an answer", d)
			}
		})
	}
}

func TestWhatARenewalCarries(t *testing.T) {
	e := newEngine(t, spec(nil))
	d := parse(t, message(dhcpv4.MessageTypeRequest, webMAC, ciaddr("10.20.1.10"))).Decide(e, e.VSwitch(webID))
	m := decoded(t, replyOf(d).Encode())
	if got := unlessZero(m.ClientIPAddr); got != addr("10.20.1.10") {
		t.Errorf("ciaddr %s: an ACK copies it (RFC 2131 table 3)", got)
	}
	d = parse(t, message(dhcpv4.MessageTypeRequest, webMAC, ciaddr("10.20.1.99"), option(dhcpv4.OptionClientIdentifier, 7, 7))).Decide(e, e.VSwitch(webID))
	m = decoded(t, replyOf(d).Encode())
	if len(m.Options) != 4 {
		t.Errorf("a NAK carries type, server, client identifier and a message only:\n%s", m.Summary())
	}
	if unlessZero(m.ClientIPAddr).IsValid() || unlessZero(m.YourIPAddr).IsValid() {
		t.Errorf("a NAK carries no address:\n%s", m.Summary())
	}
}

func TestAChangeOfTheOptionsComesWithTheNextRenewal(t *testing.T) {
	e := newEngine(t, spec(nil), bound(webMAC, "10.20.1.10", "eni-web-1"))
	renewal := parse(t, message(dhcpv4.MessageTypeRequest, webMAC, ciaddr("10.20.1.10"), asks(15, 26, 42)))
	told := func() string {
		m := decoded(t, replyOf(renewal.Decide(e, e.VSwitch(webID))).Encode())
		return fmt.Sprintf("%s %x %x %s", m.Options[15], m.Options[26], m.Options[42], m.IPAddressLeaseTime(0))
	}
	if got, want := told(), "research.internal   24h0m0s"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	e.SetSnapshot(spec(func(v *vpc.VPCSpec) {
		o := &v.DHCPOptions
		o.DomainName, o.MTU, o.NTPServers, o.LeaseTime = "corp.example", 1400, []netip.Addr{addr("192.0.2.123")}, vpc.Duration(time.Hour)
	}))
	if got, want := told(), "corp.example 0578 c000027b 1h0m0s"; got != want {
		t.Errorf("after the change told %q, want %q", got, want)
	}
}

func TestTheRelaysVSwitch(t *testing.T) {
	snap := spec(nil)
	e := newEngine(t, snap)
	far, web := e.VSwitch(farID), e.VSwitch(webID)
	link := func(a string) with {
		return option(dhcpv4.OptionRelayAgentInformation, append([]byte{relayLinkSelection, 4}, addr(a).AsSlice()...)...)
	}
	tests := []struct {
		name       string
		candidates []*vpc.VSwitch
		msg        *dhcpv4.DHCPv4
		want       *vpc.VSwitch
	}{
		{"is where giaddr lies", []*vpc.VSwitch{web, far}, message(1, farMAC, giaddr("10.20.3.1")), far},
		{"is where the link selection lies, whatever giaddr is", []*vpc.VSwitch{web, far}, message(1, farMAC, giaddr("10.9.0.2"), link("10.20.3.0")), far},
		{"is none when giaddr lies elsewhere", []*vpc.VSwitch{far}, message(1, farMAC, giaddr("10.20.1.1")), nil},
		{"is none when the link selection lies elsewhere", []*vpc.VSwitch{far}, message(1, farMAC, giaddr("10.20.3.1"), link("10.20.1.0")), nil},
		{"is none for a relay that nobody names", nil, message(1, farMAC, giaddr("10.20.3.1")), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := parse(t, tt.msg).VSwitch(tt.candidates); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
