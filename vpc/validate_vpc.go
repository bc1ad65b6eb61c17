package vpc

import (
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// forbidden are ranges that no VPC may lie in.
var forbidden = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "addresses that no host has"},
	{netip.MustParsePrefix("100.64.0.0/10"), "the cloud's own services"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "not routed"},
}

// unicast6 are the IPv6 ranges that a VPC may lie in: unique local and global unicast addresses.
var unicast6 = []netip.Prefix{netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("2000::/3")}

// scope is one VPC with what its objects refer to.
type scope struct {
	*VPCSpec
	path      *path
	groups    map[string]*groupUse
	lists     map[string]*PrefixListSpec
	acls      map[string]*ACLSpec
	switches  map[string]*VSwitchSpec
	addresses int
}

// groupUse is a group with what it costs an interface and who is in it.
type groupUse struct {
	*GroupSpec
	rules      int // prefix lists counted with all they may hold
	addresses  int
	interfaces int
}

func (v *validator) vpc(p *path, x *VPCSpec) {
	v.id(p, x.ID)
	v.description(p, x.Description, 256)
	v.vpcRanges(p, x)
	v.prefixTranslations(p, x)
	if x.Domain != "" {
		if why := checkDomain(x.Domain, false); why != "" {
			v.add(p, "domain", "%q: %s", x.Domain, why)
		}
	}
	v.dhcpOptions(p, x)

	c := &scope{
		VPCSpec: x, path: p,
		groups:   make(map[string]*groupUse, len(x.SecurityGroups)+1),
		lists:    make(map[string]*PrefixListSpec, len(x.PrefixLists)),
		acls:     make(map[string]*ACLSpec, len(x.NetworkACLs)),
		switches: make(map[string]*VSwitchSpec, len(x.VSwitches)),
	}
	// The first of a name counts: the others are reported where they stand.
	for _, l := range slices.Backward(x.PrefixLists) {
		c.lists[l.Name] = l
	}
	for _, a := range slices.Backward(x.NetworkACLs) {
		c.acls[a.Name] = a
	}
	for _, w := range slices.Backward(x.VSwitches) {
		c.switches[w.Name] = w
	}
	c.groups[DefaultGroup] = &groupUse{GroupSpec: &GroupSpec{Name: DefaultGroup, Type: GroupBasic, InnerAccess: Accept}}
	for _, g := range slices.Backward(x.SecurityGroups) {
		c.groups[g.Name] = &groupUse{GroupSpec: g}
	}
	for _, g := range c.groups {
		for _, r := range g.Rules {
			g.rules += c.charge(r.Peer())
		}
	}
	v.vswitches(c)
	v.groups(c)
	v.prefixLists(c)
	v.acls(c)
	v.instances(c)
	v.groupCapacities(c)
	v.zones(c)
	v.forwarders(c)
}

// charge returns how many rules or entries one with that peer counts as.
func (c *scope) charge(p Peer) int {
	if p.Kind == PeerList {
		if l := c.lists[p.Name]; l != nil {
			return l.charge()
		}
	}
	return 1
}

// charge returns what the list is charged to quotas: as much as it may hold.
func (l *PrefixListSpec) charge() int { return max(l.MaxEntries, len(l.Entries), 1) }

func (v *validator) vpcRanges(p *path, x *VPCSpec) {
	v.range4(p, "cidrBlock", x.CIDRBlock, 8, 28)
	for _, b := range x.SecondaryCIDRBlocks {
		v.range4(p, "secondaryCidrBlocks", b, 16, 28)
	}
	b := x.IPv6CIDRBlock
	switch {
	case !b.IsValid():
	case !is6(b.Addr()):
		v.add(p, "ipv6CidrBlock", "%s is not an IPv6 range", b)
	case b != b.Masked():
		v.add(p, "ipv6CidrBlock", "%s has host bits set: write %s", b, b.Masked())
	case b.Bits() < 48 || b.Bits() > 64:
		v.add(p, "ipv6CidrBlock", "%s: the mask of an IPv6 range is /48 to /64, /56 in the cloud", b)
	case !slices.ContainsFunc(unicast6, func(u netip.Prefix) bool { return u.Overlaps(b) }):
		v.add(p, "ipv6CidrBlock", "%s is neither a unique local (fc00::/7) nor a global unicast (2000::/3) range", b)
	}
}

func (v *validator) prefixTranslations(parent *path, x *VPCSpec) {
	uplinks := map[string]bool{}
	for i, t := range x.IPv6PrefixTranslations {
		p := path{parent, "ipv6PrefixTranslations", strconv.Itoa(i)}
		switch {
		case t.Uplink == "":
			v.add(&p, "uplink", "the uplink beyond which the prefix is known is required")
		case len(v.host.Uplinks) == 0:
			v.add(&p, "uplink", "%q: this gateway has no uplinks", t.Uplink)
		case !slices.Contains(v.host.Uplinks, t.Uplink):
			v.add(&p, "uplink", "%q is no uplink of this gateway (it has %s)", t.Uplink, joinWords(v.host.Uplinks, "and"))
		case uplinks[t.Uplink]:
			v.add(&p, "uplink", "the VPC has another prefix beyond %s already: one is enough", t.Uplink)
		}
		uplinks[t.Uplink] = true
		if why := checkExternal(x.IPv6CIDRBlock, t.ExternalPrefix); why != "" {
			v.add(&p, externalPrefix, "%s", why)
		}
	}
}

// checkExternal returns what keeps a VPC's IPv6 range from being known by a prefix, "" when nothing does.
func checkExternal(inner, b netip.Prefix) string {
	switch {
	case !b.IsValid():
		return "an IPv6 prefix is required"
	case !is6(b.Addr()):
		return fmt.Sprintf("%s is not an IPv6 prefix", b)
	case b != b.Masked():
		return fmt.Sprintf("%s has host bits set: write %s", b, b.Masked())
	case !slices.ContainsFunc(unicast6, func(u netip.Prefix) bool { return u.Bits() <= b.Bits() && u.Contains(b.Addr()) }):
		return fmt.Sprintf("%s is neither a unique local (fc00::/7) nor a global unicast (2000::/3) prefix", b)
	case !inner.IsValid():
		return fmt.Sprintf("%s: the VPC has no IPv6 range that could be translated; give it an ipv6CidrBlock first", b)
	case b.Bits() != inner.Bits():
		return fmt.Sprintf("%s: it has to be a /%d, as the VPC's range %s", b, inner.Bits(), inner)
	}
	return ""
}

// range4 checks an IPv4 range of a VPC.
func (v *validator) range4(p *path, field string, b netip.Prefix, least, most int) {
	switch {
	case !b.IsValid():
		v.add(p, field, "an IPv4 range is required, as in 10.20.0.0/16")
		return
	case !b.Addr().Is4():
		v.add(p, field, "%s is not an IPv4 range", b)
		return
	case b != b.Masked():
		v.add(p, field, "%s has host bits set: write %s", b, b.Masked())
		return
	case b.Bits() < least || b.Bits() > most:
		v.add(p, field, "%s: the mask is /%d to /%d", b, least, most)
		return
	}
	for _, f := range forbidden {
		if f.prefix.Bits() <= b.Bits() && f.prefix.Contains(b.Addr()) {
			v.add(p, field, "%s lies in %s (%s), which no VPC may use", b, f.prefix, f.what)
		}
	}
}

// is6 reports whether a is an IPv6 address that is not an IPv4 one in disguise and has no zone.
func is6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() && a.Zone() == "" }

// plain reports whether a is an address of either family without a zone.
func plain(a netip.Addr) bool { return a.Is4() || is6(a) }

const externalPrefix = "externalPrefix"

// vpcOverlaps reports ranges of VPCs that overlap, on either side of the gateway: all VPCs share the gateway's routes.
func (v *validator) vpcOverlaps() {
	var blocks []block
	for i, x := range v.spec.VPCs {
		p := at(nil, "vpcs", x.Name, i)
		add := func(b netip.Prefix, field, name string) {
			if b.IsValid() && b == b.Masked() {
				blocks = append(blocks, block{b, i, len(blocks), &p, field, name})
			}
		}
		add(x.CIDRBlock, "cidrBlock", "the primary range")
		for _, b := range x.SecondaryCIDRBlocks {
			add(b, "secondaryCidrBlocks", "the secondary range")
		}
		add(x.IPv6CIDRBlock, "ipv6CidrBlock", "the IPv6 range")
		for k, t := range x.IPv6PrefixTranslations {
			if b := t.ExternalPrefix; checkExternal(x.IPv6CIDRBlock, b) == "" {
				blocks = append(blocks, block{b, i, len(blocks), &path{&p, "ipv6PrefixTranslations", strconv.Itoa(k)}, externalPrefix, "the external prefix"})
			}
		}
	}
	overlapping(blocks, func(b, a block) {
		switch external := a.field == externalPrefix; {
		case external && b.field == externalPrefix && a.owner == b.owner && a.prefix == b.prefix:
			return // one prefix that several uplinks lead to
		case external || b.field == externalPrefix:
			v.add(b.path, b.field, "%s overlaps %s %s of VPC %q: every prefix is one network's, on either side of the gateway", b.prefix, a.name, a.prefix, v.spec.VPCs[a.owner].Name)
			return
		}
		if a.owner == b.owner {
			v.add(b.path, b.field, "%s overlaps %s %s of the same VPC", b.prefix, a.name, a.prefix)
			return
		}
		v.add(b.path, b.field, "%s overlaps VPC %q (%s): VPCs on one gateway need ranges of their own", b.prefix, v.spec.VPCs[a.owner].Name, a.prefix)
	})
}

func (v *validator) dhcpOptions(parent *path, x *VPCSpec) {
	p := path{parent, "dhcpOptions", ""}
	o := &x.DHCPOptions
	if o.DomainName != "" {
		if why := checkDomain(o.DomainName, false); why != "" {
			v.add(&p, "domainName", "%q: %s", o.DomainName, why)
		}
	}
	if n := len(o.DomainNameServers); n > maxDNSServers {
		v.add(&p, "domainNameServers", "has %d servers, and at most %d are allowed", n, maxDNSServers)
	}
	for _, a := range o.DomainNameServers {
		if !a.Is4() {
			v.add(&p, "domainNameServers", "%s is not an IPv4 address, and a DNS server must be one", a)
		}
	}
	for _, d := range o.SearchDomains {
		if why := checkDomain(d, false); why != "" {
			v.add(&p, "searchDomains", "%q: %s", d, why)
		}
	}
	for _, a := range o.NTPServers {
		if !plain(a) {
			v.add(&p, "ntpServers", "%s is not a plain address", a)
		}
	}
	for _, l := range []struct {
		field string
		time  Duration
	}{{"leaseTime", o.LeaseTime}, {"ipv6LeaseTime", o.IPv6LeaseTime}} {
		if d := time.Duration(l.time); d < 30*time.Second || d > 7300*24*time.Hour {
			v.add(&p, l.field, "%s: a lease lasts 30s to 7300d", l.time)
		} else if d%time.Second != 0 {
			v.add(&p, l.field, "%s: a lease lasts whole seconds", l.time)
		}
	}
	least := 576
	if x.IPv6CIDRBlock.IsValid() {
		least = 1280 // RFC 8200 section 5
	}
	if o.MTU != 0 && (o.MTU < least || o.MTU > 9216) {
		if least > 576 {
			v.add(&p, "mtu", "%d: in a VPC with IPv6 the MTU is 1280 to 9216 bytes", o.MTU)
		} else {
			v.add(&p, "mtu", "%d: the MTU is 576 to 9216 bytes", o.MTU)
		}
	}
	if why := checkCaptivePortal(o.CaptivePortal); why != "" {
		v.add(&p, "captivePortal", "%q: %s", o.CaptivePortal, why)
	}
	if d := time.Duration(o.IPv6OnlyPreferred); d != 0 {
		switch {
		case !x.IPv6CIDRBlock.IsValid():
			v.add(&p, "ipv6OnlyPreferred", "guests would be left without any address: the VPC has no ipv6CidrBlock")
		case d < 300*time.Second || d > math.MaxUint32*time.Second: // RFC 8925 section 3.4
			v.add(&p, "ipv6OnlyPreferred", "%s: guests do without IPv4 for 5m at least, and for 49710d at most", o.IPv6OnlyPreferred)
		case d%time.Second != 0:
			v.add(&p, "ipv6OnlyPreferred", "%s: write whole seconds", o.IPv6OnlyPreferred)
		}
	}
	for i, r := range o.Routes {
		p := path{&p, "routes", strconv.Itoa(i)}
		d := r.Destination
		switch {
		case !d.IsValid():
			v.add(&p, "destination", "an IPv4 range is required")
		case !d.Addr().Is4():
			v.add(&p, "destination", "%s is not an IPv4 range: IPv6 routes come with router advertisements", d)
		case d != d.Masked():
			v.add(&p, "destination", "%s has host bits set: write %s", d, d.Masked())
		case slices.ContainsFunc(o.Routes[:i], func(e RouteSpec) bool { return e.Destination == d }):
			v.add(&p, "destination", "%s is written twice", d)
		}
	}
	boot := path{&p, "boot", ""}
	for _, f := range []struct{ field, value string }{{"server", o.Boot.Server}, {"file", o.Boot.File}, {"biosFile", o.Boot.BIOSFile}} {
		if len(f.value) > 255 {
			v.add(&boot, f.field, "has %d bytes, and a DHCP option holds 255", len(f.value))
		}
	}
	if s := o.Boot.Server; s != "" {
		if _, err := netip.ParseAddr(s); err != nil {
			if why := checkDomain(s, false); why != "" {
				v.add(&boot, "server", "%q is neither an address nor a host name", s)
			}
		}
	}
}

// unrestricted says that there is no captive portal (RFC 8910 section 2).
const unrestricted = "urn:ietf:params:capport:unrestricted"

// checkCaptivePortal returns what is wrong with the URI of a captive portal's API, "" when it is good or not declared.
func checkCaptivePortal(uri string) string {
	if uri == "" || uri == unrestricted {
		return ""
	}
	if len(uri) > 255 {
		return "an option of DHCP holds 255 bytes"
	}
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Fragment != "" {
		return "write the address of the portal's API, as in https://portal.example/api (RFC 8908)"
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return "name the portal's host: no certificate is for an address"
	}
	if why := checkDomain(u.Hostname(), false); why != "" {
		return why
	}
	return ""
}

func (v *validator) vswitches(c *scope) {
	names := make(map[string]bool, len(c.VSwitches))
	var blocks []block
	for i, w := range c.VSwitches {
		p := at(c.path, "vswitches", w.Name, i)
		v.name(&p, KindVSwitch, w.Name, names)
		v.id(&p, w.ID)
		v.description(&p, w.Description, 256)
		if v.vswitchRange(&p, c, w) {
			blocks = append(blocks, block{w.CIDRBlock, i, len(blocks), &p, "cidrBlock", w.Name})
			v.gateway(&p, c, w)
			v.pool(&p, w)
		}
		if v.vswitchRange6(&p, c, w) {
			blocks = append(blocks, block{w.IPv6CIDRBlock, i, len(blocks), &p, "ipv6CidrBlock", w.Name})
		}
		v.attach(&p, c, w)
		if w.NetworkACL != "" && c.acls[w.NetworkACL] == nil {
			v.missing(c.VPCSpec, &p, "networkAcl", KindNetworkACL, w.NetworkACL)
		}
		if w.Enrollment != EnrollmentAuto && w.Enrollment != EnrollmentClosed {
			v.add(&p, "enrollment", "%q: write auto or closed", w.Enrollment)
		}
		v.memberships(&p, "enrollmentSecurityGroups", c, w.EnrollmentGroups)
	}
	overlapping(blocks, func(b, a block) {
		v.add(b.path, b.field, "%s overlaps vswitch %q (%s)", b.prefix, a.name, a.prefix)
	})
}

func (v *validator) vswitchRange(p *path, c *scope, w *VSwitchSpec) bool {
	b := w.CIDRBlock
	n := len(v.problems)
	v.range4(p, "cidrBlock", b, 16, 29)
	if len(v.problems) > n {
		return false
	}
	blocks := append([]netip.Prefix{c.CIDRBlock}, c.SecondaryCIDRBlocks...)
	for _, outer := range blocks {
		if outer.IsValid() && outer.Bits() <= b.Bits() && outer.Contains(b.Addr()) {
			return true
		}
	}
	v.add(p, "cidrBlock", "%s is not in a range of the VPC (%s)", b, joinText(blocks))
	return false
}

func (v *validator) vswitchRange6(p *path, c *scope, w *VSwitchSpec) bool {
	b, outer := w.IPv6CIDRBlock, c.IPv6CIDRBlock
	switch {
	case !b.IsValid():
	case !is6(b.Addr()):
		v.add(p, "ipv6CidrBlock", "%s is not an IPv6 range", b)
	case b != b.Masked():
		v.add(p, "ipv6CidrBlock", "%s has host bits set: write %s", b, b.Masked())
	case b.Bits() != 64:
		v.add(p, "ipv6CidrBlock", "%s: the IPv6 range of a vswitch is a /64", b)
	case !outer.IsValid():
		v.add(p, "ipv6CidrBlock", "%s: the VPC has no IPv6 range; give it an ipv6CidrBlock first", b)
	case outer.Bits() > 64 || !outer.Contains(b.Addr()):
		v.add(p, "ipv6CidrBlock", "%s is not in the VPC's range %s", b, outer)
	default:
		return true
	}
	return false
}

func (v *validator) gateway(p *path, c *scope, w *VSwitchSpec) {
	if g := w.Gateway; g.IsValid() {
		switch {
		case !w.CIDRBlock.Contains(g):
			v.add(p, "gateway", "%s is not in %s", g, w.CIDRBlock)
			return
		case g == w.CIDRBlock.Addr() || g == LastAddr(w.CIDRBlock):
			v.add(p, "gateway", "%s is the network or broadcast address of %s", g, w.CIDRBlock)
			return
		}
	}
	v.addrs[w.GatewayAddr(IPv4)] = holder{vpc: c.VPCSpec, vswitch: w}
}

func (v *validator) pool(p *path, w *VSwitchSpec) {
	r := w.Pool
	switch {
	case r.IsZero():
		return
	case !r.From.Is4() || !r.To.Is4() || r.To.Less(r.From):
		v.add(p, "pool", "%s is not a range of IPv4 addresses, the lower one first", r)
		return
	case !w.CIDRBlock.Contains(r.From) || !w.CIDRBlock.Contains(r.To):
		v.add(p, "pool", "%s is not in %s", r, w.CIDRBlock)
		return
	}
	// At most five addresses are reserved, so a longer pool has others.
	for a := r.From; ; a = a.Next() {
		if !w.Reserved(a) {
			return
		}
		if a == r.To {
			break
		}
	}
	v.add(p, "pool", "%s has only reserved addresses (the first, the last three and the gateway of %s)", r, w.CIDRBlock)
}

func (v *validator) attach(parent *path, c *scope, w *VSwitchSpec) {
	p := path{parent, "attach", ""}
	var kinds []string
	if w.Attach.Bridge != "" {
		kinds = append(kinds, "bridge")
	}
	if w.Attach.Interface != "" {
		kinds = append(kinds, "interface")
	}
	if len(w.Attach.Relay) > 0 {
		kinds = append(kinds, "relay")
	}
	if len(kinds) > 1 {
		v.add(&p, "", "has %s: a vswitch is attached in one way only", joinWords(kinds, "and"))
		return
	}
	for _, a := range w.Attach.Relay {
		if why := checkRelay(a); why != "" {
			v.add(&p, "relay", "%s %s", a, why)
		}
	}
	if !w.HasLink() {
		return
	}
	link, field := w.LinkName(), "interface"
	if w.OwnsBridge() {
		field = "bridge"
		if w.Attach.Bridge == "" && w.ID == "" {
			return // the name comes with the ID
		}
	}
	if why := checkLink(link); why != "" {
		v.add(&p, field, "%q: %s", link, why)
		return
	}
	if slices.Contains(v.host.Uplinks, link) {
		v.add(&p, field, "%s is an uplink of this gateway: a vswitch needs a link of its own", link)
	}
	if other, taken := v.links[link]; taken {
		v.add(&p, field, "%s is already the link of %s: a vswitch needs a link of its own", link, other.from(c.VPCSpec))
		return
	}
	v.links[link] = holder{vpc: c.VPCSpec, vswitch: w}
}

// checkRelay returns what keeps an address from being that of a relay, "" when nothing does. A link-local one comes with the
// gateway's link that it is on.
func checkRelay(a netip.Addr) string {
	switch scoped := a.Is6() && a.IsLinkLocalUnicast(); {
	case scoped && a.Zone() == "":
		return fmt.Sprintf("is the same on every link: write on which one of the gateway it is, as in %s%%eth1", a)
	case scoped:
		return checkLink(a.Zone())
	case !plain(a) || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback():
		return "is not the address of a relay"
	}
	return ""
}

func joinText[T fmt.Stringer](list []T) string {
	words := make([]string, len(list))
	for i, x := range list {
		words[i] = x.String()
	}
	return joinWords(words, "or")
}

// joinWords writes "a", "a and b" or "a, b and c".
func joinWords(words []string, conjunction string) string {
	switch n := len(words); n {
	case 0:
		return ""
	case 1:
		return words[0]
	default:
		return several(words[:n-1], ", ", "%d more") + " " + conjunction + " " + words[n-1]
	}
}
