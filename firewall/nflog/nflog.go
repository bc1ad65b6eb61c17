// Package nflog hears of the packets that the rules refuse: the kernel sends the head of each, with the reason and the
// rule's ID as the log rules have it, under the rate limit of those rules.
package nflog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/florianl/go-nflog/v2"
	"golang.org/x/sys/unix"

	"gatehouse/firewall"
	"gatehouse/vpc"
)

// Refusal is one packet that a rule refused.
type Refusal struct {
	Time             time.Time
	Reason           vpc.Reason
	Rule             string // ID; "" where a named default decided
	In, Out          int    // interface indexes; 0: none
	Protocol         vpc.Protocol
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16 // TCP and UDP
}

const (
	headBytes  = 128     // of each packet: any IPv6 header with ports and room to spare
	readBuffer = 4 << 20 // bytes; at the rules' limits the kernel never fills it
)

// Listen calls f for every refusal until ctx ends. Only one program can listen to the group: a second one gets an error.
// f is called by one goroutine and should return quickly.
func Listen(ctx context.Context, now func() time.Time, f func(Refusal)) error {
	n, err := nflog.Open(&nflog.Config{Group: firewall.LogGroup, Copymode: nflog.CopyPacket, Bufsize: headBytes, QThresh: 1})
	if err != nil {
		return fmt.Errorf("listen to NFLOG group %d: %w", firewall.LogGroup, err)
	}
	defer n.Close()
	if err := n.Con.SetReadBuffer(readBuffer); err != nil {
		return fmt.Errorf("listen to NFLOG group %d: %w", firewall.LogGroup, err)
	}
	failed := make(chan error, 1)
	err = n.RegisterWithErrorFunc(ctx,
		func(a nflog.Attribute) int {
			if r, ok := parse(a, now()); ok {
				f(r)
			}
			return 0
		},
		func(err error) int {
			if ctx.Err() != nil {
				return 1
			}
			if errors.Is(err, unix.ENOBUFS) {
				return 0 // some records are lost; the counters of the rules are not
			}
			select {
			case failed <- err:
			default:
			}
			return 1
		})
	if err != nil {
		return fmt.Errorf("listen to NFLOG group %d: %w", firewall.LogGroup, err)
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return fmt.Errorf("listen to NFLOG group %d: %w", firewall.LogGroup, err)
	}
}

// parse reads a record; ok is false for one that no rule of ours sent.
func parse(a nflog.Attribute, now time.Time) (r Refusal, ok bool) {
	if a.Prefix == nil || a.Payload == nil {
		return r, false
	}
	reason, rule, ours := strings.Cut(strings.TrimRight(*a.Prefix, "\x00"), ":")
	if !ours {
		return r, false
	}
	r = Refusal{Time: now, Reason: vpc.Reason(reason), Rule: rule}
	if a.InDev != nil {
		r.In = int(*a.InDev)
	}
	if a.OutDev != nil {
		r.Out = int(*a.OutDev)
	}
	return r, r.parsePacket(*a.Payload)
}

// parsePacket reads addresses, protocol and ports from the head of an IP packet. Extension headers of IPv6 are walked as
// far as the head goes.
func (r *Refusal) parsePacket(b []byte) bool {
	if len(b) < 20 {
		return false
	}
	var rest []byte
	switch b[0] >> 4 {
	case 4:
		n := int(b[0]&0xf) * 4
		if n < 20 || len(b) < n {
			return false
		}
		r.Protocol = vpc.Protocol(b[9])
		r.Src, r.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		if binary.BigEndian.Uint16(b[6:])&0x1fff == 0 { // a later fragment has no ports
			rest = b[n:]
		}
	case 6:
		if len(b) < 40 {
			return false
		}
		r.Src, r.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		r.Protocol, rest = upperLayer(vpc.Protocol(b[6]), b[40:])
	default:
		return false
	}
	if r.Protocol.HasPorts() && len(rest) >= 4 {
		r.SrcPort, r.DstPort = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	}
	return true
}

// upperLayer walks the extension headers of RFC 8200 section 4.
func upperLayer(next vpc.Protocol, b []byte) (vpc.Protocol, []byte) {
	for {
		var n int
		switch next {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			if len(b) < 8 {
				return next, nil
			}
			n = 8 + int(b[1])*8
		case unix.IPPROTO_FRAGMENT:
			if len(b) < 8 || binary.BigEndian.Uint16(b[2:])&0xfff8 != 0 {
				return next, nil
			}
			n = 8
		default:
			return next, b
		}
		if len(b) < n {
			return next, nil
		}
		next, b = vpc.Protocol(b[0]), b[n:]
	}
}
