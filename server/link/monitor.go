package link

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// interest says which of the kernel's messages can mean that something has to be done. It is immutable.
type interest struct {
	plan  *plan           // knows the permanent neighbours
	names map[string]bool // of links that are wanted or managed
	links map[int]bool    // indexes of those that are there
	ports map[int]bool    // indexes of their ports
}

func newInterest(p *plan, u *undo, st *state) *interest {
	i := &interest{plan: p, names: map[string]bool{}, links: map[int]bool{}, ports: map[int]bool{}}
	for _, w := range p.links {
		i.names[w.name] = true
	}
	for name := range u.Links {
		i.names[name] = true
	}
	for name := range i.names {
		if l := st.links[name]; l != nil {
			i.links[l.index] = true
			for _, port := range l.ports {
				i.ports[port.index] = true
			}
		}
	}
	return i
}

// concerns reports whether a message asks for a new reading. What we do ourselves comes back as messages too: those that
// say that something is as it shall be are passed over.
func (i *interest) concerns(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, err := parseLink(m.Data)
		return err != nil || i.names[l.name] || i.links[l.index] || i.ports[l.index] || i.links[l.master]
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return len(m.Data) < unix.SizeofIfAddrmsg || i.links[int(nl.DeserializeIfAddrmsg(m.Data).Index)]
	case unix.RTM_DELROUTE:
		return len(m.Data) < unix.SizeofRtMsg || nl.DeserializeRtMsg(m.Data).Protocol == protocol
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		n, err := parseNeigh(m.Data)
		switch {
		case err != nil:
			return true
		case n.family == unix.AF_BRIDGE: // a MAC has lost its port
			return m.Header.Type == unix.RTM_DELNEIGH && i.links[n.master] && n.fdbKind() == fdbStatic
		case !i.links[n.index]:
			return false
		}
		mac := i.plan.neighbour(n.addr)
		if mac.IsZero() {
			return false
		}
		return m.Header.Type == unix.RTM_DELNEIGH || n.state&netlink.NUD_PERMANENT == 0 || n.mac != mac
	}
	return false
}

// receiveBuffer holds the messages of a few thousand ports coming at once; when it is too small the kernel says so, and
// everything is read anew.
const receiveBuffer = 4 << 20

// subscribe opens a socket that hears of links, addresses, neighbours and routes.
func subscribe(ns netns.NsHandle) (*nl.NetlinkSocket, error) {
	s, err := nl.SubscribeAt(ns, netns.None(), unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("subscribe to netlink: %w", err)
	}
	if err := s.SetReceiveBufferSize(receiveBuffer, true); err != nil {
		s.Close()
		return nil, fmt.Errorf("subscribe to netlink: %w", err)
	}
	return s, nil
}

// listen calls changed for messages that concern us until the context ends, which closes the socket.
func listen(ctx context.Context, s *nl.NetlinkSocket, current func() *interest, changed func()) error {
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	for {
		msgs, from, err := s.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // messages were lost
			changed()
			continue
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return fmt.Errorf("hear of changes: %w", err)
		case from.Pid != nl.PidKernel:
			continue
		}
		i := current()
		for _, m := range msgs {
			if i != nil && i.concerns(m) {
				changed()
				break
			}
		}
	}
}
