package vpc

import (
	"net/netip"
	"strings"
)

func (v *validator) instances(c *scope) {
	names := make(map[string]string, len(c.Instances))
	for i, x := range c.Instances {
		p := at(c.path, "instances", x.Name, i)
		v.instanceName(&p, x, names)
		v.instance(&p, c, x)
	}
}

func (v *validator) instance(p *path, c *scope, x *InstanceSpec) {
	v.id(p, x.ID)
	v.description(p, x.Description, 256)
	switch x.PrivateDNS.HostnameType {
	case HostnameCustom, HostnameIPBased, HostnameInstanceID:
	default:
		v.add(p, "privateDns.hostnameType", "%q: write %s, %s or %s", x.PrivateDNS.HostnameType, HostnameCustom, HostnameIPBased, HostnameInstanceID)
	}
	if len(x.Interfaces) == 0 {
		v.add(p, "interfaces", "an instance has at least one interface: give it one with a mac and a vswitch")
	}
	for j, n := range x.Interfaces {
		key := ""
		if !n.MAC.IsZero() {
			key = n.MAC.String()
		}
		np := at(p, "interfaces", key, j)
		v.netInterface(&np, c, x, n)
	}
}

func (v *validator) instanceName(p *path, x *InstanceSpec, names map[string]string) {
	if why := checkHostname(x.Name); why != "" {
		v.add(p, "name", "%q: %s", x.Name, why)
		return
	}
	key := strings.ToLower(x.Name)
	if other, dup := names[key]; dup {
		if other == x.Name {
			v.add(p, "name", "there is another instance %q: names are unique in a VPC", x.Name)
		} else {
			v.add(p, "name", "there is an instance %q: host names differ in more than case", other)
		}
	}
	names[key] = x.Name
	if a, ok := generatedAddr(x.Name); ok && len(x.Interfaces) > 0 && x.Interfaces[0].PrivateIP != a {
		v.add(p, "name", "%q is the generated name of whoever has %s", x.Name, a)
	}
}

func (v *validator) netInterface(p *path, c *scope, x *InstanceSpec, n *InterfaceSpec) {
	v.id(p, n.ID)
	me := holder{vpc: c.VPCSpec, instance: x}
	switch other, dup := v.macs[n.MAC]; {
	case n.MAC.IsZero():
		v.add(p, "mac", "a MAC address is required, as in 00:16:3e:00:00:01")
	case n.MAC[0]&1 != 0:
		v.add(p, "mac", "%s is a multicast address: no interface can own it", n.MAC)
	case dup && other.instance == x:
		v.add(p, "mac", "%s is written twice", n.MAC)
	case dup && other.instance.Enrolled != x.Enrolled:
		v.add(p, "mac", "%s already belongs to %s: declare that instance under its own name, or delete it first", n.MAC, other.from(c.VPCSpec))
	case dup:
		v.add(p, "mac", "%s already belongs to %s", n.MAC, other.from(c.VPCSpec))
	default:
		v.macs[n.MAC] = me
	}
	v.memberships(p, "securityGroups", c, n.SecurityGroups)
	w := c.switches[n.VSwitch]
	if w == nil {
		v.missing(c.VPCSpec, p, "vswitch", KindVSwitch, n.VSwitch)
		return
	}
	if n.Port != "" {
		if why := checkLink(n.Port); why != "" {
			v.add(p, "port", "%q: %s", n.Port, why)
		} else if !w.OwnsBridge() {
			v.add(p, "port", "vswitch %q has no bridge, so there are no ports to pin a MAC to", w.Name)
		}
	}
	if n.PrivateIP.IsValid() {
		v.address(p, "privateIp", IPv4, w, n.PrivateIP, me)
	}
	for _, a := range n.SecondaryPrivateIPs {
		v.address(p, "secondaryPrivateIps", IPv4, w, a, me)
	}
	for _, a := range n.IPv6Addresses {
		v.address(p, "ipv6Addresses", IPv6, w, a, me)
	}
	if k := len(n.SecondaryPrivateIPs); k > maxSecondaryAddresses {
		v.add(p, "secondaryPrivateIps", "has %d addresses, and an interface has at most %d secondary ones", k, maxSecondaryAddresses)
	}
	if k := len(n.IPv6Addresses); k > maxIPv6Addresses {
		v.add(p, "ipv6Addresses", "has %d addresses, and an interface has at most %d IPv6 ones", k, maxIPv6Addresses)
	}
	v.addressCount(p, w, n)
	v.delegated(p, w, n, me)

	k := n.holdings()
	c.addresses += k
	for _, name := range n.SecurityGroups {
		if g := c.groups[name]; g != nil {
			g.addresses += k
			g.interfaces++
		}
	}
}

// bothIPv6 says what is wrong where addresses and their number are written.
const bothIPv6 = "is written beside ipv6Addresses: write one of them"

func (v *validator) addressCount(p *path, w *VSwitchSpec, n *InterfaceSpec) {
	if n.IPv6AddressCount == nil {
		return
	}
	switch k := *n.IPv6AddressCount; {
	case k < 0 || k > maxIPv6Addresses:
		v.add(p, "ipv6AddressCount", "%d: an interface has 0 to %d IPv6 addresses", k, maxIPv6Addresses)
	case len(n.IPv6Addresses) > 0:
		v.add(p, "ipv6AddressCount", bothIPv6)
	case k > 0 && !w.IPv6CIDRBlock.IsValid():
		v.add(p, "ipv6AddressCount", "%d: vswitch %q has no IPv6 range", k, w.Name)
	}
}

// address checks one address of an interface.
func (v *validator) address(p *path, field string, f Family, w *VSwitchSpec, a netip.Addr, me holder) {
	b := w.Prefix(f)
	switch {
	case !b.IsValid():
		if f == IPv6 {
			v.add(p, field, "%s: vswitch %q has no IPv6 range", a, w.Name)
		}
		return
	case !b.Contains(a):
		v.add(p, field, "%s is not in vswitch %q (%s)", a, w.Name, b)
		return
	case a == w.GatewayAddr(f):
		v.add(p, field, "%s is the gateway of vswitch %q", a, w.Name)
		return
	case w.Reserved(a) && f == IPv4:
		v.add(p, field, "%s is reserved: the first and the last three addresses of %s are", a, b)
		return
	case w.Reserved(a):
		v.add(p, field, "%s is reserved: the first and the last nine addresses of %s are", a, b)
		return
	}
	if other, taken := v.addrs[a]; taken {
		if other.instance == me.instance {
			v.add(p, field, "%s is written twice", a)
		} else {
			v.add(p, field, "%s already belongs to %s", a, other.from(me.vpc))
		}
		return
	}
	v.addrs[a] = me
}
