package vpc

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// EnrolRequest is an unknown MAC that asks for an address.
type EnrolRequest struct {
	VSwitch  string // ID
	MAC      MAC
	Hostname string // as the client sent it; may be anything
}

// Enrol returns the current Spec with an instance made from a request: marked as enrolled, named by the client's host
// name if that is valid and free in the VPC, else by its ID, in the vSwitch's enrollment groups, with an IPv4 address
// and, where the vSwitch has IPv6, one of those.
//
// Current must be complete, as Apply makes it; everything but the VPC itself and its list of instances is shared with
// it. It is not validated again: Enrol looks at every interface once and checks what an enrolment can break. The error
// wraps ErrNotFound, ErrEnrollmentClosed, ErrKnownMAC, ErrPoolExhausted or ErrGroupFull.
func Enrol(current *Spec, h Host, req EnrolRequest, opt ApplyOptions) (*Spec, *InstanceSpec, error) {
	next, inst, err := enrol(current, h, req, opt)
	if err != nil {
		return nil, nil, fmt.Errorf("enrol %s: %w", req.MAC, err)
	}
	return next, inst, nil
}

func enrol(current *Spec, h Host, req EnrolRequest, opt ApplyOptions) (*Spec, *InstanceSpec, error) {
	var v *VPCSpec
	var w *VSwitchSpec
	for o := range current.Objects(KindVSwitch) {
		if o.ID == req.VSwitch {
			v, w = o.VPC, o.Value.(*VSwitchSpec)
		}
	}
	switch {
	case w == nil:
		return nil, nil, fmt.Errorf("%w: vswitch %s", ErrNotFound, req.VSwitch)
	case w.Enrollment != EnrollmentAuto:
		return nil, nil, fmt.Errorf("%w in vswitch %q", ErrEnrollmentClosed, w.Name)
	case req.MAC.IsZero() || req.MAC[0]&1 != 0:
		return nil, nil, fmt.Errorf("%s is not the MAC address of an interface", req.MAC)
	}
	name := enrolledName(v, h, req.Hostname)
	groups := w.EnrollmentGroups
	if groups == nil {
		groups = []string{DefaultGroup}
	}
	a := &arrival{vpc: v, vswitch: w, free4: newPoolMap(w), members: make([]groupUse, len(groups))}
	for _, other := range current.VPCs {
		for _, i := range other.Instances {
			if other == v && len(i.Name) == len(name) && strings.EqualFold(i.Name, name) {
				name = ""
			}
			for _, n := range i.Interfaces {
				if n.MAC == req.MAC {
					return nil, nil, fmt.Errorf("%w: %q in VPC %q", ErrKnownMAC, i.Name, other.Name)
				}
				if other == v {
					a.see(n, groups)
				}
			}
		}
	}

	n := &InterfaceSpec{ID: opt.newID(prefixInterface), MAC: req.MAC, VSwitch: w.Name, SecurityGroups: groups}
	ip, ok := w.choose(IPv4, req.MAC, func(ip netip.Addr) bool { return a.free4.taken(ip) || opt.inUse(ip) }, a.delegated)
	if !ok {
		return nil, nil, fmt.Errorf("%w in vswitch %q (%s)", ErrPoolExhausted, w.Name, w.poolName())
	}
	n.PrivateIP = ip
	if w.IPv6CIDRBlock.IsValid() {
		ip, ok := w.choose(IPv6, req.MAC, func(ip netip.Addr) bool { return a.taken6(ip) || opt.inUse(ip) }, a.delegated)
		if !ok {
			return nil, nil, fmt.Errorf("%w in vswitch %q (%s)", ErrPoolExhausted, w.Name, w.IPv6CIDRBlock)
		}
		n.IPv6Addresses = []netip.Addr{ip}
	}
	if err := a.fits(n, groups); err != nil {
		return nil, nil, err
	}

	inst := &InstanceSpec{ID: opt.newID(prefixInstance), Name: name, Interfaces: []*InterfaceSpec{n}, Enrolled: true}
	inst.SetDefaults()
	if inst.Name == "" {
		inst.Name = inst.ID
	}
	grown := *v
	at, _ := slices.BinarySearchFunc(v.Instances, inst.Name, func(i *InstanceSpec, name string) int { return strings.Compare(i.Name, name) })
	grown.Instances = make([]*InstanceSpec, 0, len(v.Instances)+1)
	grown.Instances = append(append(append(grown.Instances, v.Instances[:at]...), inst), v.Instances[at:]...)
	next := *current
	next.VPCs = replaced(current.VPCs, v, &grown)
	return &next, inst, nil
}

// enrolledName returns the name that a client may have by its own word, "" if none: its host name without the VPC's
// domain, unless that is a name which the VPC gives away itself.
func enrolledName(v *VPCSpec, h Host, hostname string) string {
	name := strings.TrimSuffix(hostname, ".")
	domain := strings.TrimSuffix(v.Domain, ".")
	if domain == "" {
		domain = h.Region + ".ecs.internal"
	}
	if strings.EqualFold(name, domain) {
		return ""
	}
	if n := len(name) - len(domain) - 1; n > 0 && name[n] == '.' && strings.EqualFold(name[n+1:], domain) {
		name = name[:n]
	}
	if checkHostname(name) != "" {
		return ""
	}
	if _, generated := generatedAddr(name); generated || len(name) >= 2 && strings.EqualFold(name[:2], prefixInstance) {
		return ""
	}
	return name
}

// arrival is what an enrolment has to know of the VPC that it comes into.
type arrival struct {
	vpc       *VPCSpec
	vswitch   *VSwitchSpec
	free4     poolMap
	members   []groupUse // of the enrollment groups, in their order
	addresses int
	prefixes  map[netip.Prefix]bool // of interfaces; nil: none
}

func (a *arrival) see(n *InterfaceSpec, groups []string) {
	k := n.holdings()
	for ip := range n.Addrs {
		a.free4.take(ip)
	}
	for _, p := range n.IPv6Prefixes {
		if a.prefixes == nil {
			a.prefixes = map[netip.Prefix]bool{}
		}
		a.prefixes[p] = true
	}
	a.addresses += k
	for i, g := range groups {
		if slices.Contains(n.SecurityGroups, g) {
			a.members[i].addresses += k
			a.members[i].interfaces++
		}
	}
}

func (a *arrival) delegated(p netip.Prefix) bool { return a.prefixes[p] }

// taken6 looks through the vSwitch again: with addresses from a hash over 64 bits a second look is hardly ever needed.
func (a *arrival) taken6(ip netip.Addr) bool {
	for _, i := range a.vpc.Instances {
		for _, n := range i.Interfaces {
			if slices.Contains(n.IPv6Addresses, ip) {
				return true
			}
		}
	}
	return false
}

// fits checks the limits of the groups and of the VPC for one more interface.
func (a *arrival) fits(n *InterfaceSpec, groups []string) error {
	k := 1 + len(n.IPv6Addresses)
	for i, name := range groups {
		advanced := slices.ContainsFunc(a.vpc.SecurityGroups, func(g *GroupSpec) bool { return g.Name == name && g.Type == GroupAdvanced })
		switch m := a.members[i]; {
		case advanced && m.interfaces+1 > maxInterfacesPerAdvanced:
			return fmt.Errorf("%w: %q has %d interfaces, and an advanced group holds at most %d", ErrGroupFull, name, m.interfaces, maxInterfacesPerAdvanced)
		case !advanced && m.addresses+k > maxAddressesPerBasic:
			return fmt.Errorf("%w: %q has %d addresses, and a basic group holds at most %d", ErrGroupFull, name, m.addresses, maxAddressesPerBasic)
		}
	}
	if a.addresses+k > maxAddressesPerVPC {
		return fmt.Errorf("%w: VPC %q has %d addresses, and holds at most %d", ErrPoolExhausted, a.vpc.Name, a.addresses, maxAddressesPerVPC)
	}
	return nil
}

// poolMap has a bit for every IPv4 address of a vSwitch, which is a /16 at most.
type poolMap struct {
	first uint32
	bits  []uint64
}

func newPoolMap(w *VSwitchSpec) poolMap {
	first, last := v4(w.CIDRBlock.Addr()), v4(LastAddr(w.CIDRBlock))
	return poolMap{first, make([]uint64, (last-first)/64+1)}
}

func (m poolMap) take(a netip.Addr) {
	if a.Is4() {
		if i := v4(a) - m.first; i/64 < uint32(len(m.bits)) {
			m.bits[i/64] |= 1 << (i % 64)
		}
	}
}

func (m poolMap) taken(a netip.Addr) bool {
	i := v4(a) - m.first
	return i/64 < uint32(len(m.bits)) && m.bits[i/64]&(1<<(i%64)) != 0
}
