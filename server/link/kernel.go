package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gatehouse/vpc"
)

const (
	// protocol marks routes and neighbours as ours (RTPROT_…; nobody else's in iproute2's list).
	protocol = 103
	// unreachableMetric is weaker than anything that leads somewhere.
	unreachableMetric = 1<<31 - 1

	ndaProtocol  = 12   // NDA_PROTOCOL
	ntfMaster    = 0x04 // NTF_MASTER
	ntfSticky    = 0x40 // NTF_STICKY
	skipStats    = 0x08 // RTEXT_FILTER_SKIP_STATS
	dumpAttempts = 5    // a dump that was interrupted by a change is made again
)

// kernel is netlink and /proc/sys of one network namespace.
type kernel struct {
	ns     netns.NsHandle // netns.None(): the process's own
	handle *netlink.Handle
	socket *nl.SocketHandle
}

func openKernel(ns netns.NsHandle) (*kernel, error) {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	s, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &kernel{ns, h, &nl.SocketHandle{Socket: s}}, nil
}

func (k *kernel) close() {
	k.handle.Close()
	k.socket.Close()
}

// in runs f on a thread that is in the kernel's namespace: /proc/sys/net and new sockets belong to the thread's.
func (k *kernel) in(f func() error) error {
	if !k.ns.IsOpen() {
		return f()
	}
	runtime.LockOSThread()
	own, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("find the own network namespace: %w", err)
	}
	defer own.Close()
	if err := netns.Set(k.ns); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	err = f()
	if back := netns.Set(own); back != nil {
		return errors.Join(err, fmt.Errorf("leave the network namespace: %w", back)) // the thread stays locked and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// sysctl reads one setting; it must be called inside in.
func (k *kernel) sysctl(path string) (string, bool) {
	b, err := os.ReadFile("/proc/sys/" + path)
	return strings.TrimSpace(string(b)), err == nil
}

func (k *kernel) setSysctl(path, value string) error {
	err := os.WriteFile("/proc/sys/"+path, []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the link has gone
	}
	return err
}

// bootID is another one after every boot.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}

// read takes one reading: one dump of each kind, whatever the number of links. Neighbours and forwarding entries are kept
// of the links of interest, routes when they concern us.
func (k *kernel) read(interest func(name string) bool, ranges []netip.Prefix) (*state, error) {
	st := &state{links: map[string]*link{}, sysctl: k.sysctl}
	byIndex := map[int]*link{}
	err := k.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, func() []nl.NetlinkRequestData {
		return []nl.NetlinkRequestData{nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats))}
	}, func() { clear(st.links); clear(byIndex) }, func(m []byte) error {
		l, err := parseLink(m)
		if err == nil {
			st.links[l.name], byIndex[l.index] = l, l
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, name := range sortedKeys(st.links) {
		if l := st.links[name]; byIndex[l.master] != nil {
			byIndex[l.master].ports = append(byIndex[l.master].ports, l)
		}
	}
	if err := k.readAddrs(byIndex); err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	if st.routes, err = k.readRoutes(byIndex, interest, ranges); err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6, unix.AF_BRIDGE} {
		if err := k.readNeighs(family, byIndex, interest); err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
	}
	return st, nil
}

// dump carries out one dump and hands every message to parse; reset forgets what an interrupted one has given.
func (k *kernel) dump(request int, reply uint16, data func() []nl.NetlinkRequestData, reset func(), parse func([]byte) error) error {
	var err error
	for range dumpAttempts {
		reset()
		req := k.request(request, unix.NLM_F_DUMP)
		for _, d := range data() {
			req.AddData(d)
		}
		var bad error
		err = req.ExecuteIter(unix.NETLINK_ROUTE, reply, func(m []byte) bool {
			bad = parse(m)
			return bad == nil
		})
		if bad != nil {
			return bad
		}
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			return err
		}
	}
	return err
}

func (k *kernel) request(proto, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(proto, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: k.socket}
	return req
}

func parseLink(m []byte) (*link, error) {
	if len(m) < unix.SizeofIfInfomsg {
		return nil, errors.New("short link message")
	}
	msg := nl.DeserializeIfInfomsg(m)
	l := &link{index: int(msg.Index), up: msg.Flags&unix.IFF_UP != 0, carrier: msg.Flags&unix.IFF_LOWER_UP != 0}
	for t, v := range attributes(m[unix.SizeofIfInfomsg:]) {
		switch t {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(v)
		case unix.IFLA_IFALIAS:
			l.alias = unix.ByteSliceToString(v)
		case unix.IFLA_ADDRESS:
			if len(v) == len(l.mac) {
				l.mac = vpc.MAC(v)
			}
		case unix.IFLA_MASTER:
			l.master = int(uint32Value(v))
		case unix.IFLA_LINKINFO:
			l.parseInfo(v)
		}
	}
	return l, nil
}

// parseInfo reads what a link's kind, and its master's, have to say of it.
func (l *link) parseInfo(b []byte) {
	var data, slaveData []byte
	slave := ""
	for t, v := range attributes(b) {
		switch t {
		case nl.IFLA_INFO_KIND:
			l.kind = unix.ByteSliceToString(v)
		case nl.IFLA_INFO_DATA:
			data = v
		case nl.IFLA_INFO_SLAVE_KIND:
			slave = unix.ByteSliceToString(v)
		case nl.IFLA_INFO_SLAVE_DATA:
			slaveData = v
		}
	}
	if l.kind == "bridge" {
		l.bridge = map[uint16]uint32{}
		for t, v := range attributes(data) {
			if slices.ContainsFunc(bridgeAttrs(), func(b bridgeAttr) bool { return b.attr == t }) {
				l.bridge[t] = uint32Value(v)
			}
		}
	}
	if slave == "bridge" {
		l.port = map[uint16]uint8{}
		for t, v := range attributes(slaveData) {
			if len(v) == 1 {
				l.port[t] = v[0]
			}
		}
	}
}

// attributes yields the attributes of a message by type, without the flags of nested ones. What is malformed ends it.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(binary.NativeEndian.Uint16(b))
			if n < unix.SizeofRtAttr || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min((n+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(b)):]
		}
	}
}

// uint32Value reads an integer attribute of one, two or four bytes.
func uint32Value(b []byte) uint32 {
	switch len(b) {
	case 1:
		return uint32(b[0])
	case 2:
		return uint32(binary.NativeEndian.Uint16(b))
	case 4:
		return binary.NativeEndian.Uint32(b)
	}
	return 0
}

func (k *kernel) readAddrs(byIndex map[int]*link) error {
	for range dumpAttempts {
		addrs, err := k.handle.AddrList(nil, netlink.FAMILY_ALL)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if l, p := byIndex[a.LinkIndex], prefixOf(a.IPNet); l != nil && p.IsValid() {
				l.addrs = append(l.addrs, p)
			}
		}
		return nil
	}
	return netlink.ErrDumpInterrupted
}

// prefixOf converts an address with its mask; the host bits stay.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	if !ok {
		return netip.Prefix{}
	}
	if len(n.Mask) == net.IPv4len {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// readRoutes keeps the routes that a comparison asks for; a router with a full table has a million others.
func (k *kernel) readRoutes(byIndex map[int]*link, interest func(string) bool, ranges []netip.Prefix) ([]route, error) {
	var routes []route
	for _, f := range vpc.Families() {
		family, zero := netlink.FAMILY_V4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if f == vpc.IPv6 {
			family, zero = netlink.FAMILY_V6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		var err error
		for range dumpAttempts {
			var found []route
			err = k.handle.RouteListFilteredIter(family, &netlink.Route{}, 0, func(n netlink.Route) bool {
				r := route{dst: prefixOf(n.Dst), ours: n.Protocol == protocol, unicast: n.Type == unix.RTN_UNICAST, kernel: n.Protocol == unix.RTPROT_KERNEL, family: f}
				if n.Dst == nil {
					r.dst = zero
				}
				if !r.dst.IsValid() {
					return true
				}
				if n.LinkIndex != 0 && r.unicast {
					r.devs = append(r.devs, n.LinkIndex)
					r.via, _ = netip.AddrFromSlice(n.Gw)
				}
				for _, hop := range n.MultiPath {
					r.devs = append(r.devs, hop.LinkIndex)
				}
				onLink := slices.ContainsFunc(r.devs, func(i int) bool { return byIndex[i] != nil && interest(byIndex[i].name) })
				inRange := slices.ContainsFunc(ranges, r.dst.Overlaps)
				if r.ours || r.isDefault() || onLink || inRange {
					found = append(found, r)
				}
				return true
			})
			if !errors.Is(err, netlink.ErrDumpInterrupted) {
				routes = append(routes, found...)
				break
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return routes, nil
}

// readNeighs reads the neighbours of an IP family, or with AF_BRIDGE the forwarding tables.
func (k *kernel) readNeighs(family int, byIndex map[int]*link, interest func(string) bool) error {
	reset := func() {
		for _, l := range byIndex {
			if family == unix.AF_BRIDGE {
				l.fdb = nil
			}
		}
	}
	return k.dump(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, func() []nl.NetlinkRequestData {
		return []nl.NetlinkRequestData{&netlink.Ndmsg{Family: uint8(family)}}
	}, reset, func(m []byte) error {
		n, err := parseNeigh(m)
		if err != nil {
			return err
		}
		l := byIndex[n.index]
		switch {
		case l == nil || n.mac.IsZero():
		case family == unix.AF_BRIDGE:
			if bridge := byIndex[n.master]; bridge != nil && l.master == n.master && interest(bridge.name) {
				l.fdb = append(l.fdb, fdbEntry{n.mac, n.vlan, n.fdbKind(), n.flags&ntfSticky != 0})
			}
		case n.state&netlink.NUD_PERMANENT != 0 && n.addr.IsValid() && interest(l.name):
			if l.neighs == nil {
				l.neighs = map[netip.Addr]neigh{}
			}
			l.neighs[n.addr] = neigh{n.mac, n.protocol == protocol}
		}
		return nil
	})
}

// neighMessage is a neighbour or forwarding entry as netlink tells it.
type neighMessage struct {
	family   int
	index    int
	state    int
	flags    int
	addr     netip.Addr
	mac      vpc.MAC
	vlan     uint16
	master   int
	protocol uint8
}

const sizeofNdmsg = 12

func parseNeigh(m []byte) (neighMessage, error) {
	if len(m) < sizeofNdmsg {
		return neighMessage{}, errors.New("short neighbour message")
	}
	n := neighMessage{
		family: int(m[0]),
		index:  int(binary.NativeEndian.Uint32(m[4:])),
		state:  int(binary.NativeEndian.Uint16(m[8:])),
		flags:  int(m[10]),
	}
	for t, v := range attributes(m[sizeofNdmsg:]) {
		switch t {
		case netlink.NDA_DST:
			n.addr, _ = netip.AddrFromSlice(v)
		case netlink.NDA_LLADDR:
			if len(v) == len(n.mac) {
				n.mac = vpc.MAC(v)
			}
		case netlink.NDA_VLAN:
			n.vlan = uint16(uint32Value(v))
		case netlink.NDA_MASTER:
			n.master = int(uint32Value(v))
		case ndaProtocol:
			n.protocol = uint8(uint32Value(v))
		}
	}
	return n, nil
}

func (n neighMessage) fdbKind() fdbKind {
	switch {
	case n.state&netlink.NUD_PERMANENT != 0:
		return fdbLocal
	case n.state&netlink.NUD_NOARP != 0:
		return fdbStatic
	}
	return fdbLearned
}

// createBridge makes a bridge that is still down; the MAC comes with it, so that it is known as ours from its first moment.
func (k *kernel) createBridge(name string, mac vpc.MAC) error {
	req := k.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac[:]))
	attrs := map[uint16]uint32{}
	for _, a := range bridgeAttrs() {
		if a.attr != vlanFiltering { // off anyway, and refused by kernels without it
			attrs[a.attr] = a.want
		}
	}
	req.AddData(bridgeInfo(attrs))
	return execute(req)
}

func (k *kernel) setBridge(index int, attrs map[uint16]uint32) error {
	req := k.request(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	req.AddData(infomsg(unix.AF_UNSPEC, index))
	req.AddData(bridgeInfo(attrs))
	return execute(req)
}

func bridgeInfo(attrs map[uint16]uint32) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	for _, a := range bridgeAttrs() {
		v, ok := attrs[a.attr]
		switch {
		case !ok:
		case a.size == 1:
			data.AddRtAttr(int(a.attr), nl.Uint8Attr(uint8(v)))
		default:
			data.AddRtAttr(int(a.attr), nl.Uint32Attr(v))
		}
	}
	return info
}

func (k *kernel) setPort(index int, flags map[uint16]uint8) error {
	req := k.request(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.AddData(infomsg(unix.AF_BRIDGE, index))
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for _, f := range portFlags() {
		if v, ok := flags[f.attr]; ok {
			info.AddRtAttr(int(f.attr), nl.Uint8Attr(v))
		}
	}
	req.AddData(info)
	return execute(req)
}

func (k *kernel) flushPort(index int) error {
	req := k.request(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.AddData(infomsg(unix.AF_BRIDGE, index))
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(nl.IFLA_BRPORT_FLUSH, nil)
	req.AddData(info)
	return execute(req)
}

func infomsg(family, index int) *nl.IfInfomsg {
	m := nl.NewIfInfomsg(family)
	m.Index = int32(index)
	return m
}

func execute(req *nl.NetlinkRequest, ignore ...error) error {
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return unless(err, ignore...)
}

// unless drops an error that says that it is so already.
func unless(err error, ignore ...error) error {
	for _, e := range ignore {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

// byIndex names a link to the library, which asks for no more than its index.
func byIndex(index int) netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func (k *kernel) setAlias(index int, alias string) error {
	return k.handle.LinkSetAlias(byIndex(index), alias)
}

func (k *kernel) setMAC(index int, mac vpc.MAC) error {
	return k.handle.LinkSetHardwareAddr(byIndex(index), mac[:])
}

func (k *kernel) deleteLink(index int) error {
	return unless(k.handle.LinkDel(byIndex(index)), unix.ENODEV)
}

func (k *kernel) setUp(index int, up bool) error {
	if up {
		return k.handle.LinkSetUp(byIndex(index))
	}
	return unless(k.handle.LinkSetDown(byIndex(index)), unix.ENODEV)
}

func (k *kernel) addAddr(index int, a netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(a)}
	if a.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if a.Addr().IsLinkLocalUnicast() {
		addr.Scope = unix.RT_SCOPE_LINK
	}
	return unless(k.handle.AddrAdd(byIndex(index), addr), unix.EEXIST)
}

func (k *kernel) deleteAddr(index int, a netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(a), Broadcast: net.IPv4zero}
	return unless(k.handle.AddrDel(byIndex(index), addr), unix.EADDRNOTAVAIL, unix.ENODEV)
}

func (k *kernel) replaceRoute(dst netip.Prefix, dev int, via, src netip.Addr) error {
	return k.handle.RouteReplace(newRoute(dst, dev, via, src))
}

func (k *kernel) deleteRoute(dst netip.Prefix, dev int) error {
	return unless(k.handle.RouteDel(newRoute(dst, dev, netip.Addr{}, netip.Addr{})), unix.ESRCH, unix.ENODEV)
}

func newRoute(dst netip.Prefix, dev int, via, src netip.Addr) *netlink.Route {
	r := &netlink.Route{Dst: ipNet(dst), Protocol: protocol, Table: unix.RT_TABLE_MAIN, Family: netlink.FAMILY_V4}
	if dst.Addr().Is6() {
		r.Family = netlink.FAMILY_V6
	}
	if dev == 0 {
		r.Type, r.Priority = unix.RTN_UNREACHABLE, unreachableMetric
		return r
	}
	r.LinkIndex, r.Type = dev, unix.RTN_UNICAST
	if dst.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	if via.IsValid() {
		r.Gw = via.AsSlice()
	}
	if src.IsValid() {
		r.Src = src.AsSlice()
	}
	return r
}

func (k *kernel) replaceNeigh(index int, a netip.Addr, mac vpc.MAC) error {
	req := k.request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	req.AddData(&netlink.Ndmsg{Family: addressFamily(a), Index: uint32(index), State: netlink.NUD_PERMANENT})
	req.AddData(nl.NewRtAttr(netlink.NDA_DST, a.AsSlice()))
	req.AddData(nl.NewRtAttr(netlink.NDA_LLADDR, mac[:]))
	req.AddData(nl.NewRtAttr(ndaProtocol, nl.Uint8Attr(protocol)))
	return execute(req)
}

func (k *kernel) deleteNeigh(index int, a netip.Addr) error {
	req := k.request(unix.RTM_DELNEIGH, unix.NLM_F_ACK)
	req.AddData(&netlink.Ndmsg{Family: addressFamily(a), Index: uint32(index)})
	req.AddData(nl.NewRtAttr(netlink.NDA_DST, a.AsSlice()))
	return execute(req, unix.ENOENT, unix.ENODEV)
}

func addressFamily(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (k *kernel) replaceFDB(port int, mac vpc.MAC) error {
	req := k.request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	req.AddData(&netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(port), State: netlink.NUD_NOARP, Flags: ntfMaster | ntfSticky})
	req.AddData(nl.NewRtAttr(netlink.NDA_LLADDR, mac[:]))
	return execute(req)
}

func (k *kernel) deleteFDB(port int, mac vpc.MAC, vlan uint16) error {
	req := k.request(unix.RTM_DELNEIGH, unix.NLM_F_ACK)
	req.AddData(&netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(port), Flags: ntfMaster})
	req.AddData(nl.NewRtAttr(netlink.NDA_LLADDR, mac[:]))
	if vlan != 0 {
		req.AddData(nl.NewRtAttr(netlink.NDA_VLAN, nl.Uint16Attr(vlan)))
	}
	return execute(req, unix.ENOENT, unix.ENODEV)
}

// running reports whether a link is up and has a carrier; one that is gone has none.
func (k *kernel) running(index int) bool {
	l, err := k.handle.LinkByIndex(index)
	return err == nil && l.Attrs().Flags&net.FlagUp != 0 && l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
}
