package vpc

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
)

// addressing gives the interfaces of one VPC the addresses that a manifest leaves open.
type addressing struct {
	path     *path                   // of the VPC
	switches map[string]*VSwitchSpec // as they will be
	cur      *VPCSpec
	before   map[MAC]*InterfaceSpec // who had addresses in cur; each gives them once; nil: nobody has asked yet
}

func newAddressing(p *path, next, cur *VPCSpec) *addressing {
	a := &addressing{path: p, switches: make(map[string]*VSwitchSpec, len(next.VSwitches)), cur: cur}
	for _, w := range next.VSwitches {
		a.switches[w.Name] = w
	}
	return a
}

// take returns who had the MAC; each only once.
func (a *addressing) take(mac MAC) *InterfaceSpec {
	if a.before == nil {
		a.before = make(map[MAC]*InterfaceSpec, len(a.cur.Instances))
		for _, i := range a.cur.Instances {
			for _, n := range i.Interfaces {
				a.before[n.MAC] = n
			}
		}
	}
	before := a.before[mac]
	delete(a.before, mac)
	return before
}

// keep fills in the addresses that the interface leaves open with those that its MAC has had in the same vSwitch, as
// far as they are still good there. It settles IPv6AddressCount where nothing is left to choose.
func (a *addressing) keep(n *InterfaceSpec) {
	w := a.switches[n.VSwitch]
	if w == nil {
		return
	}
	if n.PrivateIP.IsValid() && w.missing6(n) == 0 {
		w.settle6(n)
		return
	}
	before := a.take(n.MAC)
	if before != nil && before.VSwitch == n.VSwitch {
		if ip := before.PrivateIP; !n.PrivateIP.IsValid() && !slices.Contains(n.SecondaryPrivateIPs, ip) && w.holds(ip) {
			n.PrivateIP = ip
		}
		if k := w.missing6(n); k > 0 {
			for _, ip := range before.IPv6Addresses {
				if k > 0 && w.holds(ip) {
					n.IPv6Addresses = append(slices.Clip(n.IPv6Addresses), ip)
					k--
				}
			}
		}
	}
	w.settle6(n)
}

// choosable reports whether the ranges of the vSwitch are such that something can be chosen from them. Of those that are not,
// Validate says what is wrong.
func (w *VSwitchSpec) choosable() bool {
	if !w.CIDRBlock.IsValid() || !w.CIDRBlock.Addr().Is4() || w.CIDRBlock.Bits() < 16 || w.IPv6CIDRBlock.IsValid() && !is6(w.IPv6CIDRBlock.Addr()) {
		return false
	}
	pool := w.poolRange()
	return w.CIDRBlock.Contains(pool.From) && w.CIDRBlock.Contains(pool.To) && !pool.To.Less(pool.From)
}

// holds reports whether an interface in the vSwitch may have the address.
func (w *VSwitchSpec) holds(a netip.Addr) bool { return w.Contains(a) && !w.Reserved(a) }

// missing6 returns how many IPv6 addresses are to be chosen for the interface. A count that Validate refuses asks for
// none.
func (w *VSwitchSpec) missing6(n *InterfaceSpec) int {
	if !w.IPv6CIDRBlock.IsValid() {
		return 0
	}
	want := 1
	switch {
	case n.IPv6AddressCount != nil:
		want = *n.IPv6AddressCount
	case len(n.IPv6Addresses) > 0:
		return 0
	}
	if want > maxIPv6Addresses || len(n.IPv6Addresses) > want {
		return 0
	}
	return want - len(n.IPv6Addresses)
}

// settle6 brings IPv6AddressCount into the one form that is stored: 0 for an interface that wants none where the vSwitch has
// IPv6, else not written.
func (w *VSwitchSpec) settle6(n *InterfaceSpec) {
	switch c := n.IPv6AddressCount; {
	case c == nil || w.missing6(n) > 0:
	case *c > 0 && *c == len(n.IPv6Addresses), *c == 0 && !w.IPv6CIDRBlock.IsValid():
		n.IPv6AddressCount = nil
	}
}

// pending is an interface that lacks an address.
type pending struct {
	path  path
	iface *InterfaceSpec
	in    *VSwitchSpec
}

// addresses chooses the addresses that are still missing in a VPC, in the order of the MACs: the order of a manifest is
// of no account. It replaces the instances concerned in next.Instances; cur is complete.
func (m *merger) addresses(a *addressing, next, cur *VPCSpec) {
	var todo []pending
	owned := false
	shared := func(int) bool { return false }
	if same(next.VSwitches, cur.VSwitches) { // then what is as it was lacks nothing
		at := align(cur.Instances, next.Instances, func(a, b *InstanceSpec) bool { return a == b },
			func(i *InstanceSpec) string { return i.Name }, func(i *InstanceSpec) string { return i.Name })
		was := next.Instances
		shared = func(i int) bool { return at[i] >= 0 && cur.Instances[at[i]] == was[i] }
	}
	for i, inst := range next.Instances {
		if shared(i) {
			continue
		}
		for j, n := range inst.Interfaces {
			w := a.switches[n.VSwitch]
			if w == nil || !w.choosable() || n.PrivateIP.IsValid() && w.missing6(n) == 0 {
				continue
			}
			if !owned {
				next.Instances = slices.Clone(next.Instances)
				owned = true
			}
			if next.Instances[i] == inst {
				c := *inst
				c.Interfaces = slices.Clone(inst.Interfaces)
				next.Instances[i] = &c
			}
			c := *n
			next.Instances[i].Interfaces[j] = &c
			ip := path{a.path, "instances", inst.Name}
			todo = append(todo, pending{path{&ip, "interfaces", n.MAC.String()}, &c, w})
		}
	}
	if len(todo) == 0 {
		return
	}
	taken := make(map[netip.Addr]struct{}, 2*len(next.Instances))
	delegated := map[netip.Prefix]bool{}
	for _, inst := range next.Instances {
		for _, n := range inst.Interfaces {
			for ip := range n.Addrs {
				taken[ip] = struct{}{}
			}
			for _, p := range n.IPv6Prefixes {
				delegated[p] = true
			}
		}
	}
	isTaken := func(ip netip.Addr) bool {
		_, yes := taken[ip]
		return yes || m.opt.inUse(ip)
	}
	isDelegated := func(p netip.Prefix) bool { return delegated[p] }
	slices.SortStableFunc(todo, func(x, y pending) int {
		return cmp.Or(bytes.Compare(x.iface.MAC[:], y.iface.MAC[:]), cmp.Compare(x.path.parent.key, y.path.parent.key))
	})
	for _, t := range todo {
		n := t.iface
		if !n.PrivateIP.IsValid() {
			ip, ok := t.in.choose(IPv4, n.MAC, isTaken, isDelegated)
			if ok {
				n.PrivateIP = ip
				taken[ip] = struct{}{}
			} else {
				m.problems.Add(t.path.String()+".privateIp", "%v in vswitch %q (%s)", ErrPoolExhausted, t.in.Name, t.in.poolName())
			}
		}
		for range t.in.missing6(n) {
			ip, ok := t.in.choose(IPv6, n.MAC, isTaken, isDelegated)
			if !ok {
				m.problems.Add(t.path.String()+".ipv6Addresses", "%v in vswitch %q (%s)", ErrPoolExhausted, t.in.Name, t.in.IPv6CIDRBlock)
				break
			}
			n.IPv6Addresses = append(slices.Clip(n.IPv6Addresses), ip)
			taken[ip] = struct{}{}
		}
		t.in.settle6(n)
	}
}

// poolName names what IPv4 addresses are chosen from.
func (w *VSwitchSpec) poolName() string {
	if w.Pool.IsZero() {
		return w.CIDRBlock.String()
	}
	return "pool " + w.Pool.String()
}
