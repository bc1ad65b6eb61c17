package dhcp6

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"gatehouse/server/dhcp"
	"gatehouse/vpc"
)

// bound is a lease as an earlier exchange left it.
func bound(mac vpc.MAC, a, nic string) vpc.Lease {
	return vpc.Lease{Address: addr(a), MAC: mac, Interface: nic, VSwitch: webID, State: vpc.LeaseBound, Start: begin, Expires: begin.Add(time.Hour)}
}

// summary is what a reply says of addresses, one identity association after the other: its kind and ID, then addresses
// with their lifetimes in seconds, then its status.
func summary(m *dhcpv6.Message) string {
	var parts []string
	if s := m.Options.Status(); s != nil {
		parts = append(parts, s.StatusCode.String())
	}
	for _, o := range m.Options.Options {
		switch o := o.(type) {
		case *dhcpv6.OptIANA:
			s := fmt.Sprintf("na%d", o.IaId[3])
			for _, a := range o.Options.Addresses() {
				s += fmt.Sprintf(" %s/%d", a.IPv6Addr, int(a.ValidLifetime.Seconds()))
			}
			if st := o.Options.Status(); st != nil {
				s += " " + st.StatusCode.String()
			}
			parts = append(parts, s)
		case *dhcpv6.OptIATA:
			parts = append(parts, fmt.Sprintf("ta%d %s", o.IaId[3], statusOf(o.Options.Status())))
		case *dhcpv6.OptIAPD:
			s := fmt.Sprintf("pd%d", o.IaId[3])
			for _, p := range o.Options.Prefixes() {
				s += fmt.Sprintf(" %s/%d", p.Prefix, int(p.ValidLifetime.Seconds()))
			}
			if st := o.Options.Status(); st != nil {
				s += " " + st.StatusCode.String()
			}
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, "; ")
}

func TestDecide(t *testing.T) {
	const (
		solicit = dhcpv6.MessageTypeSolicit
		request = dhcpv6.MessageTypeRequest
		confirm = dhcpv6.MessageTypeConfirm
		renew   = dhcpv6.MessageTypeRenew
		rebind  = dhcpv6.MessageTypeRebind
		release = dhcpv6.MessageTypeRelease
		decline = dhcpv6.MessageTypeDecline
		inform  = dhcpv6.MessageTypeInformationRequest

		none      = dhcpv6.MessageTypeNone
		advertise = dhcpv6.MessageTypeAdvertise
		reply     = dhcpv6.MessageTypeReply
		own       = "fd00:20:0:1::10"
	)
	held := bound(webMAC, own, "eni-web-1")
	declined := held
	declined.State = vpc.LeaseDeclined
	physHeld := bound(stranger, "fd00:20:0:2::77", "eni-gone")
	tests := []struct {
		name    string
		vswitch string
		leases  []vpc.Lease
		mac     vpc.MAC
		msg     *dhcpv6.Message
		reply   dhcpv6.MessageType // none: silence
		says    string
		durable bool // the reply waits for the store
		enrol   bool
		drop    dhcp.Drop
	}{
		{name: "a SOLICIT is offered the interface's primary address", vswitch: webID, mac: webMAC, msg: message(solicit, ia(1)), reply: advertise, says: "na1 fd00:20:0:1::10/86400"},
		{name: "a SOLICIT that wishes another address is offered its own", vswitch: webID, mac: webMAC, msg: message(solicit, ia(1, "fd00:20:0:1::99")), reply: advertise, says: "na1 fd00:20:0:1::10/86400"},
		{name: "a SOLICIT with rapid commit is given the address at once", vswitch: webID, mac: webMAC, msg: message(solicit, ia(1), rapid), reply: reply, says: "na1 fd00:20:0:1::10/86400", durable: true},
		{name: "of several identity associations the first is served", vswitch: webID, mac: webMAC, msg: message(solicit, ia(7), ia(3)), reply: advertise, says: "na7 fd00:20:0:1::10/86400; na3 NoAddrsAvail"},
		{name: "or that which has the address", vswitch: webID, mac: webMAC, msg: message(solicit, ia(7), ia(3, own)), reply: advertise, says: "na7 NoAddrsAvail; na3 fd00:20:0:1::10/86400"},
		{name: "there are no prefixes and no temporary addresses", vswitch: webID, mac: webMAC, msg: message(solicit, prefixed, ia(1), option(&dhcpv6.OptIATA{IaId: [4]byte{0, 0, 0, 5}})), reply: advertise, says: "pd9 NoPrefixAvail; na1 fd00:20:0:1::10/86400; ta5 NoAddrsAvail"},
		{name: "a SOLICIT for a prefix alone gets none", vswitch: webID, mac: webMAC, msg: message(solicit, prefixed), reply: advertise, says: "pd9 NoPrefixAvail"},
		{name: "an interface without an IPv6 address is told so", vswitch: webID, mac: v4MAC, msg: message(solicit, ia(1)), reply: advertise, says: "na1 NoAddrsAvail"},
		{name: "a SOLICIT of an unknown MAC is enrolled", vswitch: webID, mac: stranger, msg: message(solicit, ia(1)), enrol: true},
		{name: "a SOLICIT of an unknown MAC for a prefix alone is not", vswitch: webID, mac: stranger, msg: message(solicit, prefixed), drop: dhcp.DropUnknown},
		{name: "a SOLICIT of an unknown MAC is ignored where enrolment is closed", vswitch: lockID, mac: stranger, msg: message(solicit, ia(1)), drop: dhcp.DropUnknown},
		{name: "a SOLICIT on another vSwitch is ignored", vswitch: lockID, mac: webMAC, msg: message(solicit, ia(1)), drop: dhcp.DropElsewhere},
		{name: "a SOLICIT for a quarantined address is ignored", vswitch: webID, mac: webMAC, leases: []vpc.Lease{declined}, msg: message(solicit, ia(1)), drop: dhcp.DropQuarantined},

		{name: "a REQUEST gets what it was offered", vswitch: webID, mac: webMAC, msg: message(request, ours, ia(1, own)), reply: reply, says: "na1 fd00:20:0:1::10/86400", durable: true},
		{name: "a REQUEST to another server is none of ours", vswitch: webID, mac: webMAC, msg: message(request, others, ia(1, own)), drop: dhcp.DropOtherServer},
		{name: "a REQUEST for a neighbour's address gets its own", vswitch: webID, mac: webMAC, msg: message(request, ours, ia(1, "fd00:20:0:1::11")), reply: reply, says: "na1 fd00:20:0:1::10/86400", durable: true},
		{name: "a REQUEST for an address of another network is refused", vswitch: webID, mac: webMAC, msg: message(request, ours, ia(1, "2001:db8::1")), reply: reply, says: "na1 NotOnLink"},
		{name: "a REQUEST of an unknown MAC is enrolled: its client does not solicit again after NoBinding", vswitch: webID, mac: stranger, msg: message(request, ours, ia(1)), enrol: true},
		{name: "a REQUEST of an unknown MAC is refused where enrolment is closed", vswitch: physID, mac: stranger, msg: message(request, ours, ia(1)), reply: reply, says: "na1 NoAddrsAvail"},
		{name: "a REQUEST on another vSwitch is refused", vswitch: lockID, mac: webMAC, msg: message(request, ours, ia(1)), reply: reply, says: "na1 NoAddrsAvail"},
		{name: "a REQUEST for a quarantined address is refused", vswitch: webID, mac: webMAC, leases: []vpc.Lease{declined}, msg: message(request, ours, ia(1, own)), reply: reply, says: "na1 NoAddrsAvail"},

		{name: "a CONFIRM of the right address is confirmed", vswitch: webID, mac: webMAC, msg: message(confirm, ia(1, own)), reply: reply, says: "Success"},
		{name: "a CONFIRM of an address of another network is denied", vswitch: webID, mac: webMAC, msg: message(confirm, ia(1, "2001:db8::1")), reply: reply, says: "NotOnLink"},
		{name: "a CONFIRM of an address that it no longer has is denied", vswitch: webID, mac: webMAC, msg: message(confirm, ia(1, "fd00:20:0:1::30")), reply: reply, says: "NotOnLink"},
		{name: "a CONFIRM without an address is nothing", vswitch: webID, mac: webMAC, msg: message(confirm, ia(1)), drop: dhcp.DropMalformed},
		{name: "a CONFIRM on another vSwitch is denied", vswitch: lockID, mac: webMAC, msg: message(confirm, ia(1, own)), reply: reply, says: "NotOnLink"},
		{name: "a CONFIRM of an unknown MAC is denied, so that it enrols", vswitch: webID, mac: stranger, msg: message(confirm, ia(1, "fd00:20:0:1::50")), reply: reply, says: "NotOnLink"},
		{name: "a CONFIRM of an unknown MAC on a closed foreign link may be another server's", vswitch: physID, mac: stranger, msg: message(confirm, ia(1, "fd00:20:0:2::50")), drop: dhcp.DropUnknown},
		{name: "a CONFIRM of a MAC that we served once is denied there", vswitch: physID, mac: stranger, leases: []vpc.Lease{physHeld}, msg: message(confirm, ia(1, "fd00:20:0:2::77")), reply: reply, says: "NotOnLink"},

		{name: "a RENEW is extended", vswitch: webID, mac: webMAC, leases: []vpc.Lease{held}, msg: message(renew, ours, ia(1, own)), reply: reply, says: "na1 fd00:20:0:1::10/86400", durable: true},
		{name: "a RENEW without a lease on record is extended", vswitch: webID, mac: webMAC, msg: message(renew, ours, ia(1, own)), reply: reply, says: "na1 fd00:20:0:1::10/86400", durable: true},
		{name: "a RENEW after the address changed gets the new one and loses the old", vswitch: webID, mac: webMAC, msg: message(renew, ours, ia(1, "fd00:20:0:1::30")), reply: reply, says: "na1 fd00:20:0:1::10/86400 fd00:20:0:1::30/0", durable: true},
		{name: "a RENEW with more identity associations keeps one", vswitch: webID, mac: webMAC, msg: message(renew, ours, ia(1), ia(2, own), prefixed), reply: reply, says: "na1 NoBinding; na2 fd00:20:0:1::10/86400; pd9 NoBinding", durable: true},
		{name: "a RENEW of an instance that is gone has no binding", vswitch: webID, mac: stranger, msg: message(renew, ours, ia(1, "fd00:20:0:1::50")), reply: reply, says: "na1 NoBinding"},
		{name: "a RENEW to another server is none of ours", vswitch: webID, mac: webMAC, msg: message(renew, others, ia(1, own)), drop: dhcp.DropOtherServer},
		{name: "a REBIND is extended", vswitch: webID, mac: webMAC, msg: message(rebind, ia(1, own)), reply: reply, says: "na1 fd00:20:0:1::10/86400", durable: true},
		{name: "a REBIND of an unknown MAC on a closed foreign link may be another server's", vswitch: physID, mac: stranger, msg: message(rebind, ia(1, "fd00:20:0:2::50")), drop: dhcp.DropUnknown},
		{name: "a REBIND of an unknown MAC on a bridge of ours has no binding", vswitch: lockID, mac: stranger, msg: message(rebind, ia(1, "fd00:20:0:4::50")), reply: reply, says: "na1 NoBinding"},

		{name: "a RELEASE is confirmed", vswitch: webID, mac: webMAC, leases: []vpc.Lease{held}, msg: message(release, ours, ia(1, own)), reply: reply, says: "Success"},
		{name: "a RELEASE of what was not leased has no binding", vswitch: webID, mac: webMAC, msg: message(release, ours, ia(1, own)), reply: reply, says: "Success; na1 NoBinding"},
		{name: "a RELEASE of somebody else's lease has no binding", vswitch: webID, mac: webMAC2, leases: []vpc.Lease{held}, msg: message(release, ours, ia(1, own)), reply: reply, says: "Success; na1 NoBinding"},
		{name: "a RELEASE of an unknown MAC enrols nobody", vswitch: webID, mac: stranger, msg: message(release, ours, ia(1, own)), reply: reply, says: "Success; na1 NoBinding"},
		{name: "a DECLINE is confirmed", vswitch: webID, mac: webMAC, leases: []vpc.Lease{held}, msg: message(decline, ours, ia(1, own)), reply: reply, says: "Success"},
		{name: "a DECLINE to another server is none of ours", vswitch: webID, mac: webMAC, leases: []vpc.Lease{held}, msg: message(decline, others, ia(1, own)), drop: dhcp.DropOtherServer},

		{name: "an INFORMATION-REQUEST gets no address", vswitch: webID, mac: webMAC, msg: message(inform), reply: reply},
		{name: "nor does one that does not say who it is", vswitch: webID, mac: webMAC, msg: message(inform, nobody), reply: reply},
		{name: "an INFORMATION-REQUEST of an interface without an IPv6 address is answered", vswitch: webID, mac: v4MAC, msg: message(inform), reply: reply},
		{name: "an INFORMATION-REQUEST of an unknown MAC is ignored", vswitch: webID, mac: stranger, msg: message(inform), drop: dhcp.DropUnknown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			leases := newEngine(t, spec(nil), tt.leases...)
			d := parse(t, packet(tt.mac, tt.msg)).Decide(leases, leases.VSwitch(tt.vswitch))
			if d.Drop != tt.drop || d.Enrol != tt.enrol || (d.Lease != nil) != tt.durable {
				t.Fatalf("drop %q, enrol %t, lease %v", d.Drop, d.Enrol, d.Lease)
			}
			if d.Reply == nil {
				if tt.reply != none {
					t.Fatalf("silence, want %s", tt.reply)
				}
				return
			}
			m := decoded(t, d.Reply.(*Reply).Encode())
			if m.MessageType != tt.reply || summary(m) != tt.says {
				t.Errorf("%s %q, want %s %q", m.MessageType, summary(m), tt.reply, tt.says)
			}
			if m.TransactionID != tt.msg.TransactionID || string(m.GetOneOption(dhcpv6.OptionServerID).ToBytes()) != string(serverDUID) {
				t.Errorf("the reply is not to that client from us: %s", m.Summary())
			}
			if (m.GetOneOption(dhcpv6.OptionClientID) != nil) != (tt.msg.GetOneOption(dhcpv6.OptionClientID) != nil) {
				t.Errorf("the client identifier is not echoed: %s", m.Summary())
			}
			if d.Lease != nil && (d.Lease.Address != addr(own) || d.Lease.MAC != webMAC || d.Lease.DUID == "") {
				t.Errorf("lease %+v", *d.Lease)
			}
		})
	}
}

func TestPrefixesAreDelegated(t *testing.T) {
	const (
		first, second = "fd00:20:0:1:5::/80", "fd00:20:0:1:6::/80"
		all           = " " + first + "/86400 " + second + "/86400"
		own           = "fd00:20:0:1::10"
		advertise     = dhcpv6.MessageTypeAdvertise
		reply         = dhcpv6.MessageTypeReply
	)
	declined := bound(webMAC, own, "eni-web-1")
	declined.State = vpc.LeaseDeclined
	for _, tt := range []struct {
		name    string
		mac     vpc.MAC
		leases  []vpc.Lease
		msg     *dhcpv6.Message
		reply   dhcpv6.MessageType
		says    string
		durable bool
	}{
		{"a SOLICIT for prefixes alone is offered them all", webMAC, nil, message(dhcpv6.MessageTypeSolicit, pd(1)), advertise, "pd1" + all, false},
		{"an address and prefixes", webMAC, nil, message(dhcpv6.MessageTypeSolicit, ia(1), pd(2)), advertise, "na1 fd00:20:0:1::10/86400; pd2" + all, false},
		{"two associations share them", webMAC, nil, message(dhcpv6.MessageTypeSolicit, pd(1), pd(2)), advertise, "pd1 " + first + "/86400; pd2 " + second + "/86400", false},
		{"and a third gets none", webMAC, nil, message(dhcpv6.MessageTypeSolicit, pd(1), pd(2), pd(3)), advertise, "pd1 " + first + "/86400; pd2 " + second + "/86400; pd3 NoPrefixAvail", false},
		{"who names a prefix gets that one", webMAC, nil, message(dhcpv6.MessageTypeSolicit, pd(1, second), pd(2)), advertise, "pd1 " + second + "/86400; pd2 " + first + "/86400", false},
		{"who names a length gets what there is", webMAC, nil, message(dhcpv6.MessageTypeSolicit, pd(1, "::/56")), advertise, "pd1" + all, false},
		{"who names another's prefix gets his own", webMAC, nil, message(dhcpv6.MessageTypeSolicit, pd(1, "fd00:20:0:1:7::/80")), advertise, "pd1" + all, false},
		{"a prefix longer than an address is no wish", webMAC, nil, message(dhcpv6.MessageTypeSolicit, raw(dhcpv6.OptionIAPD, tooLong()...)), advertise, "pd1" + all, false},
		{"rapid commit gives prefixes at once", webMAC, nil, message(dhcpv6.MessageTypeSolicit, pd(1), rapid), reply, "pd1" + all, false},
		{"rapid commit of both waits for the address", webMAC, nil, message(dhcpv6.MessageTypeSolicit, ia(1), pd(1), rapid), reply, "na1 fd00:20:0:1::10/86400; pd1" + all, true},
		{"an interface without a prefix is told so, whatever it names", webMAC2, nil, message(dhcpv6.MessageTypeSolicit, pd(1, first), rapid), advertise, "pd1 NoPrefixAvail", false},
		{"a REQUEST for prefixes alone", webMAC, nil, message(dhcpv6.MessageTypeRequest, ours, pd(1, first, second)), reply, "pd1" + all, false},
		{"a REQUEST for both", webMAC, nil, message(dhcpv6.MessageTypeRequest, ours, ia(1, own), pd(1, first, second)), reply, "na1 fd00:20:0:1::10/86400; pd1" + all, true},
		{"a REQUEST of an interface without a prefix", webMAC2, nil, message(dhcpv6.MessageTypeRequest, ours, pd(1, first)), reply, "pd1 NoPrefixAvail", false},
		{"no prefix leads over an address that somebody else uses", webMAC, []vpc.Lease{declined}, message(dhcpv6.MessageTypeRequest, ours, ia(1, own), pd(1)), reply, "na1 NoAddrsAvail; pd1 NoPrefixAvail", false},
		{"a RENEW of prefixes alone", webMAC, nil, message(dhcpv6.MessageTypeRenew, ours, pd(1, first, second)), reply, "pd1" + all, false},
		{"a RENEW gets what is new and loses what is gone", webMAC, nil, message(dhcpv6.MessageTypeRenew, ours, pd(1, first, "fd00:20:0:1:7::/80")), reply, "pd1" + all + " fd00:20:0:1:7::/80/0", false},
		{"a RENEW leaves each association what it has", webMAC, nil, message(dhcpv6.MessageTypeRenew, ours, ia(1, own), pd(1, second), pd(2, first)), reply, "na1 fd00:20:0:1::10/86400; pd1 " + second + "/86400; pd2 " + first + "/86400", true},
		{"a RENEW of a prefix that is gone has no binding", webMAC2, nil, message(dhcpv6.MessageTypeRenew, ours, pd(1, first)), reply, "pd1 NoBinding", false},
		{"a REBIND of prefixes alone", webMAC, nil, message(dhcpv6.MessageTypeRebind, pd(1, first, second)), reply, "pd1" + all, false},
		{"a REBIND of a prefix that is gone has no binding", webMAC2, nil, message(dhcpv6.MessageTypeRebind, pd(1, first)), reply, "pd1 NoBinding", false},
		{"a RENEW of an unknown MAC has no binding", stranger, nil, message(dhcpv6.MessageTypeRenew, ours, pd(1, first)), reply, "pd1 NoBinding", false},
		{"a RELEASE is confirmed", webMAC, nil, message(dhcpv6.MessageTypeRelease, ours, pd(1, first)), reply, "Success", false},
		{"a RELEASE of another's prefix has no binding", webMAC2, nil, message(dhcpv6.MessageTypeRelease, ours, pd(1, first)), reply, "Success; pd1 NoBinding", false},
		{"a RELEASE of an unknown MAC has no binding", stranger, nil, message(dhcpv6.MessageTypeRelease, ours, pd(1, first)), reply, "Success; pd1 NoBinding", false},
		{"a prefix cannot be declined", webMAC, nil, message(dhcpv6.MessageTypeDecline, ours, pd(1, first)), reply, "Success; pd1 NoBinding", false},
		{"nor confirmed", webMAC, nil, message(dhcpv6.MessageTypeConfirm, pd(1, first)), dhcpv6.MessageTypeNone, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leases := newEngine(t, spec(delegated), tt.leases...)
			d := parse(t, packet(tt.mac, tt.msg)).Decide(leases, leases.VSwitch(webID))
			if (d.Lease != nil) != tt.durable || d.Enrol || (d.Reply == nil) != (tt.reply == dhcpv6.MessageTypeNone) {
				t.Fatalf("got %+v", d)
			}
			if d.Reply == nil {
				return
			}
			m := decoded(t, d.Reply.(*Reply).Encode())
			if m.MessageType != tt.reply || summary(m) != tt.says {
				t.Errorf("%s %q, want %s %q", m.MessageType, summary(m), tt.reply, tt.says)
			}
			for _, o := range m.Options.IAPD() {
				if len(o.Options.Prefixes()) > 0 && (o.T1 != 12*time.Hour || o.T2 != 24*time.Hour*8/10) {
					t.Errorf("T1 %s, T2 %s", o.T1, o.T2)
				}
			}
		})
	}
}

func TestADeclinedAddressIsQuarantinedAndAReleasedOneIsNot(t *testing.T) {
	for _, tt := range []struct {
		kind dhcpv6.MessageType
		drop dhcp.Drop
	}{{dhcpv6.MessageTypeDecline, dhcp.DropQuarantined}, {dhcpv6.MessageTypeRelease, dhcp.DropNone}} {
		leases := newEngine(t, spec(nil), bound(webMAC, "fd00:20:0:1::10", "eni-web-1"))
		w := leases.VSwitch(webID)
		parse(t, packet(webMAC, message(tt.kind, ours, ia(1, "fd00:20:0:1::10")))).Decide(leases, w)
		if d := parse(t, packet(webMAC, message(dhcpv6.MessageTypeSolicit, ia(1)))).Decide(leases, w); d.Drop != tt.drop {
			t.Errorf("after %s: %q, want %q", tt.kind, d.Drop, tt.drop)
		}
	}
}

func TestAChangeOfTheOptionsComesWithTheNextRenewal(t *testing.T) {
	const own = "fd00:20:0:1::10"
	leases := newEngine(t, spec(nil), bound(webMAC, own, "eni-web-1"))
	renewal := parse(t, packet(webMAC, message(dhcpv6.MessageTypeRenew, ours, ia(1, own))))
	told := func() string {
		m := decoded(t, renewal.Decide(leases, leases.VSwitch(webID)).Reply.(*Reply).Encode())
		return fmt.Sprintf("%s %v", summary(m), m.Options.DomainSearchList().Labels)
	}
	if got, want := told(), "na1 "+own+"/86400 [research.internal]"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	leases.SetSnapshot(spec(func(v *vpc.VPCSpec) {
		v.DHCPOptions.SearchDomains, v.DHCPOptions.IPv6LeaseTime = []string{"corp.example"}, vpc.Duration(time.Hour)
	}))
	if got, want := told(), "na1 "+own+"/3600 [research.internal corp.example]"; got != want {
		t.Errorf("after the change told %q, want %q", got, want)
	}
}

func TestANewAddressIsAskedForBeforeItIsOffered(t *testing.T) {
	const own = "fd00:20:0:1::10"
	declined := bound(webMAC, own, "eni-web-1")
	declined.State, declined.Expires = vpc.LeaseDeclined, begin
	byRelay := packet(farMAC, message(dhcpv6.MessageTypeSolicit, ia(1)))
	byRelay.Payload = relayed(0, addr("fd00:20:0:3::1"), addr("fe80::5"), byRelay.Payload)
	for _, tt := range []struct {
		name    string
		vswitch string
		leases  []vpc.Lease
		packet  *dhcp.Packet
		probe   bool
	}{
		{"of a client that never had it", webID, nil, packet(webMAC, message(dhcpv6.MessageTypeSolicit, ia(1))), true},
		{"with rapid commit too", webID, nil, packet(webMAC, message(dhcpv6.MessageTypeSolicit, ia(1), rapid)), true},
		{"that somebody else had last", webID, []vpc.Lease{bound(webMAC2, own, "eni-web-2")}, packet(webMAC, message(dhcpv6.MessageTypeSolicit, ia(1))), true},
		{"whose quarantine is over", webID, []vpc.Lease{declined}, packet(webMAC, message(dhcpv6.MessageTypeSolicit, ia(1))), true},
		{"but not of a client that had it", webID, []vpc.Lease{bound(webMAC, own, "eni-web-1")}, packet(webMAC, message(dhcpv6.MessageTypeSolicit, ia(1))), false},
		{"but not of one that has it", webID, nil, packet(webMAC, message(dhcpv6.MessageTypeRebind, ia(1, own))), false},
		{"but not by a relay", farID, nil, byRelay, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leases := newUntried(t, spec(nil), tt.leases...)
			d := parse(t, tt.packet).Decide(leases, leases.VSwitch(tt.vswitch))
			if !tt.probe {
				if d.Probe.IsValid() || d.Reply == nil {
					t.Errorf("decided %+v, want an answer", d)
				}
				return
			}
			if d.Probe != addr(own) || d.Reply != nil || d.Lease != nil {
				t.Fatalf("decided %+v, want a probe", d)
			}
			leases.Vacant(d.Probe)
			if d := parse(t, tt.packet).Decide(leases, leases.VSwitch(tt.vswitch)); d.Probe.IsValid() || d.Reply == nil {
				t.Errorf("when it is free: %+v, want an answer", d)
			}
		})
	}
}

func TestWhatIsSentToOneServerIsSentToAllInstead(t *testing.T) {
	leases := newEngine(t, spec(nil))
	p := packet(webMAC, message(dhcpv6.MessageTypeRenew, ours, ia(1, "fd00:20:0:1::10")))
	p.Dst = leases.VSwitch(webID).GatewayAddr(vpc.IPv6)
	d := parse(t, p).Decide(leases, leases.VSwitch(webID))
	if d.Reply == nil || d.Lease != nil {
		t.Fatalf("decision %+v", d)
	}
	if got := summary(decoded(t, d.Reply.(*Reply).Encode())); got != "UseMulticast" {
		t.Errorf("says %q", got)
	}
}

func TestRelayedVSwitch(t *testing.T) {
	snap := spec(nil)
	far := snap.VSwitchByID(farID)
	onLink := addr("fd00:20:0:3::1")
	for _, tt := range []struct {
		name string
		hops []hop // the one that sent it first
		want *vpc.VSwitch
	}{
		{"the link of the only relay decides", []hop{{link: onLink, peer: addr("fe80::5")}}, far},
		{"the link of the relay nearest to the client decides", []hop{{link: addr("fd00:20:0:1::1"), peer: relay2}, {link: onLink, peer: addr("fe80::5")}}, far},
		{"a relay that names no link leaves it to the others", []hop{{link: onLink, peer: relay2}, {link: netip.IPv6Unspecified(), peer: addr("fe80::5")}}, far},
		{"a relay that is not named speaks for nobody", []hop{{link: addr("fd00:9::1"), peer: addr("fe80::5")}, {link: onLink, peer: addr("fe80::6")}}, nil},
		{"a link of another vSwitch is not the relay's", []hop{{link: addr("fd00:20:0:1::1"), peer: addr("fe80::5")}}, nil},
		{"no link is no vSwitch", []hop{{link: netip.IPv6Unspecified(), peer: addr("fe80::5")}}, nil},
	} {
		if got := (&Request{relays: tt.hops}).VSwitch([]*vpc.VSwitch{far}); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}
