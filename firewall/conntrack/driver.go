// Package conntrack lists and deletes the kernel's connections, so that what a changed policy no longer allows ends.
//
// Connections are deleted one by one and never by a mask: deleting too many would make those that are still allowed in
// one direction only start anew from the wrong side.
package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"gatehouse/vpc"
)

// Driver talks to the kernel by netlink, in the network namespace of the calling thread. It keeps no state.
type Driver struct{}

// New returns a driver.
func New() *Driver { return &Driver{} }

// dumpTries is how often a dump that the kernel calls inconsistent is taken again. Entries come and go all the time: the last one
// is used as it is.
const dumpTries = 3

// List returns the flows of a family that carry an address for which want is true.
func (d *Driver) List(ctx context.Context, f vpc.Family, want func(netip.Addr) bool) ([]Flow, error) {
	// A dump goes through a table that all namespaces share, however few of its flows are ours.
	if n, err := count(); err == nil && n == 0 {
		return nil, nil
	}
	local, err := localAddrs(f)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for try := 1; ; try++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		flows, err := dump(f, want)
		if errors.Is(err, netlink.ErrDumpInterrupted) && try < dumpTries {
			continue
		}
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list %s flows: %w", f, err)
		}
		for i := range flows {
			flows[i].Local = local[flows[i].Original.Src]
		}
		return flows, nil
	}
}

// Delete ends the flows and returns how many it ended. One that has ended by itself is no error.
func (d *Driver) Delete(ctx context.Context, flows []Flow) (int, error) {
	n := 0
	for _, f := range flows {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		req := request(f.Family(), nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		req.AddRawData(f.key)
		_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
		switch {
		case err == nil:
			n++
		case !errors.Is(err, unix.ENOENT):
			return n, fmt.Errorf("delete flow %s -> %s: %w", f.Original.Src, f.Original.Dst, err)
		}
	}
	return n, nil
}

// What the netlink library does not name: IPCTNL_MSG_CT_GET_STATS and CTA_STATS_GLOBAL_ENTRIES.
const (
	getStats     = 5
	statsEntries = 1
)

// count returns how many flows of both families the namespace has.
func count() (int, error) {
	msgs, err := request(vpc.IPv4, getStats, unix.NLM_F_ACK).Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return 0, fmt.Errorf("count flows: %w", err)
	}
	for _, m := range msgs {
		if len(m) < nl.SizeofNfgenmsg {
			continue
		}
		for a, err := range attributes(m[nl.SizeofNfgenmsg:]) {
			if err == nil && a.kind == statsEntries && len(a.value) == 4 {
				return int(binary.BigEndian.Uint32(a.value)), nil
			}
		}
	}
	return 0, errors.New("count flows: the kernel does not say")
}

func dump(f vpc.Family, want func(netip.Addr) bool) ([]Flow, error) {
	var flows []Flow
	var bad error
	err := request(f, nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(msg []byte) bool {
		flow, err := parseFlow(msg)
		if err != nil {
			bad = err
			return false
		}
		for a := range flow.Addrs {
			if want(a) {
				flows = append(flows, flow)
				break
			}
		}
		return true
	})
	if bad != nil {
		return nil, bad
	}
	return flows, err
}

func request(f vpc.Family, operation, flags int) *nl.NetlinkRequest {
	family := uint8(unix.AF_INET)
	if f == vpc.IPv6 {
		family = unix.AF_INET6
	}
	req := nl.NewNetlinkRequest(int(netlink.ConntrackTable)<<8|operation, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	return req
}

// localAddrs returns the gateway's own addresses.
func localAddrs(f vpc.Family) (map[netip.Addr]bool, error) {
	family := netlink.FAMILY_V4
	if f == vpc.IPv6 {
		family = netlink.FAMILY_V6
	}
	addrs, err := netlink.AddrList(nil, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	local := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			local[ip.Unmap()] = true
		}
	}
	return local, nil
}
