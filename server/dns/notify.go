package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// How secondaries are told that a zone has changed (RFC 1996 section 3.5 and 3.6).
const (
	portNotify     = 53
	notifyAttempts = 5
	notifyPatience = time.Second // for the first reply; each attempt has twice the one before
	notifyInterval = time.Second // between two changes that one secondary is told of
)

// secondary is who transfers a zone.
type secondary struct {
	vpc  string // ID
	zone name
	addr netip.Addr
}

// notice is what a secondary is told.
type notice struct {
	from netip.Addr // the gateway address that it knows as its primary
	soa  []byte     // RDATA, which has the serial
}

// secondariesOf lists who transfers zones of the view, with what they have to know. Only the VPC's own hosts are served.
func secondariesOf(v *View) map[secondary]notice {
	out := map[secondary]notice{}
	for _, spec := range v.vpc.Zones {
		n, err := parseName(spec.Name)
		apex := v.names[n]
		if err != nil || apex == nil || !apex.apex {
			continue
		}
		for _, a := range spec.TransferTo {
			if from := gatewayFor(v.vpc, a); from.IsValid() {
				out[secondary{v.vpc.ID, n, a}] = notice{from, apex.zone.soa[2:]}
			}
		}
	}
	return out
}

// gatewayFor returns the gateway address that a host of the VPC asks: that of its own vSwitch, else any of its family. It is
// invalid for an address that is not the VPC's.
func gatewayFor(v *vpc.VPC, a netip.Addr) netip.Addr {
	var other netip.Addr
	if !v.Contains(a) {
		return other
	}
	f := vpc.IPv6
	if a.Is4() {
		f = vpc.IPv4
	}
	for _, w := range v.VSwitches {
		switch g := w.GatewayAddr(f); {
		case !w.HasLink() || !g.IsValid():
		case w.Prefix(f).Contains(a):
			return g
		case !other.IsValid():
			other = g
		}
	}
	return other
}

// notifier tells secondaries. Only Server.Run uses it.
type notifier struct {
	log     *slog.Logger
	port    uint16
	telling sync.WaitGroup
	told    map[secondary]*told
}

// told is the last thing that a secondary was told, or is being told.
type told struct {
	notice string // its RDATA
	at     time.Time
	stop   context.CancelFunc
}

// sync tells those for whom something has changed since the last time, in the background until ctx ends.
func (n *notifier) sync(ctx context.Context, want map[secondary]notice) {
	for sec, last := range n.told {
		if _, ok := want[sec]; !ok {
			last.stop()
			delete(n.told, sec)
		}
	}
	for sec, what := range want {
		last := n.told[sec]
		if last != nil && last.notice == string(what.soa) {
			continue
		}
		at := time.Now()
		if last != nil {
			last.stop() // it would only be told what is over
			switch next := last.at.Add(notifyInterval); {
			case last.at.After(at):
				at = last.at
			case next.After(at):
				at = next
			}
		}
		ctx, cancel := context.WithCancel(ctx)
		n.told[sec] = &told{string(what.soa), at, cancel}
		n.telling.Go(func() {
			defer cancel()
			if err := n.tell(ctx, sec, what, at); err != nil && ctx.Err() == nil {
				n.log.Warn("a secondary was told of a change and has not replied", "zone", sec.zone.String(), "secondary", sec.addr, "error", err)
			}
		})
	}
}

// tell sends the notice from a time on until it is replied to, a few times.
func (n *notifier) tell(ctx context.Context, sec secondary, what notice, at time.Time) error {
	message := new(miekg.Msg).SetNotify(sec.zone.String())
	soa, _, err := miekg.UnpackRRWithHeader(miekg.RR_Header{
		Name: sec.zone.String(), Rrtype: miekg.TypeSOA, Class: miekg.ClassINET, Ttl: generatedTTL, Rdlength: uint16(len(what.soa)),
	}, what.soa, 0)
	if err != nil {
		return err
	}
	message.Answer = []miekg.RR{soa}
	var last error
	for attempt := range notifyAttempts {
		select {
		case <-time.After(time.Until(at)):
		case <-ctx.Done():
			return ctx.Err()
		}
		at = time.Now().Add(notifyPatience << attempt)
		if last = n.send(ctx, sec, what, message, at); last == nil {
			return nil
		}
	}
	return last
}

// send sends the notice once and waits for the reply until the deadline.
func (n *notifier) send(ctx context.Context, sec secondary, what notice, message *miekg.Msg, deadline time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	wire, id, err := numbered(message)
	if err != nil {
		return err
	}
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(what.from, 0))}
	conn, err := d.DialContext(ctx, "udp", netip.AddrPortFrom(sec.addr, n.port).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	setDeadline(ctx, conn)
	if _, err := conn.Write(wire); err != nil {
		return err
	}
	buf := make([]byte, plainSize)
	for {
		k, err := conn.Read(buf)
		if err != nil {
			return fmt.Errorf("no reply: %w", err)
		}
		var reply miekg.Msg
		if reply.Unpack(buf[:k]) != nil || !reply.Response || reply.Id != id || reply.Opcode != miekg.OpcodeNotify {
			continue
		}
		if len(reply.Question) == 0 || strings.EqualFold(reply.Question[0].Name, sec.zone.String()) {
			return nil // whatever it says: it has heard
		}
	}
}
