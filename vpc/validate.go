package vpc

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Limits that the cloud does not raise.
const (
	maxGroupsPerInterface    = 10
	maxRulesPerInterface     = 1000 // prefix lists count with their maxEntries
	maxGroupRulesPerGroup    = 20   // rules whose peer is a group
	maxAddressesPerBasic     = 6000
	maxInterfacesPerAdvanced = 65536
	maxPrefixListEntries     = 200
	maxACLsPerVPC            = 20
	maxACLEntries            = 20 // per direction and family
	maxAddressesPerVPC       = 300000
	maxSecondaryAddresses    = 49
	maxIPv6Addresses         = 10
	maxIPv6Prefixes          = 10
	maxDNSServers            = 4
	maxForwarderServers      = 6
)

// Validate returns everything that is wrong with a Spec, in the order of the Spec; nil when it may be put in force.
// It judges what is written: IDs and addresses that a manifest leaves to Apply may be missing.
func Validate(s *Spec, h Host) Problems {
	return validate(nil, normalize(s), h)
}

// validate judges a normalized Spec. With before, the Spec that it replaces, a reference to what before had and s has
// not is a deletion of something in use, and is told as such.
func validate(before, s *Spec, h Host) Problems {
	n := 0
	for _, v := range s.VPCs {
		n += len(v.Instances)
	}
	v := &validator{
		before: before, spec: s, host: h,
		ids:   make(map[string]struct{}, 2*n),
		macs:  make(map[MAC]holder, n),
		addrs: make(map[netip.Addr]holder, 2*n),
		links: map[string]holder{},
		users: map[deleted][]string{},
	}
	v.run()
	return v.problems
}

type validator struct {
	before, spec *Spec
	host         Host
	problems     Problems

	ids         map[string]struct{}
	macs        map[MAC]holder
	addrs       map[netip.Addr]holder // VPCs do not overlap, so one map serves all
	links       map[string]holder
	prefixes    map[netip.Prefix]delegation // the same
	delegations []netip.Prefix              // the keys of prefixes, in the order of the Spec

	users map[deleted][]string // who still uses what is gone
	gone  []deleted            // the keys of users, in the order of the Spec
}

// holder is who has a MAC, an address or a link.
type holder struct {
	vpc      *VPCSpec
	vswitch  *VSwitchSpec // of a link or a gateway address
	instance *InstanceSpec
}

// from names the holder as seen from a VPC.
func (h holder) from(v *VPCSpec) string {
	name := ""
	if h.instance != nil {
		name = fmt.Sprintf("instance %q", h.instance.Name)
		if h.instance.Enrolled {
			name = "enrolled " + name
		}
	} else {
		name = fmt.Sprintf("vswitch %q", h.vswitch.Name)
	}
	if h.vpc != v {
		name += fmt.Sprintf(" in VPC %q", h.vpc.Name)
	}
	return name
}

// deleted is an object that the Spec before had.
type deleted struct {
	vpc  string
	kind Kind
	name string
}

// path is where something stands in a Spec. It is put into words only when there is something to say about it.
type path struct {
	parent *path
	field  string
	key    string // in brackets; "" for none
}

func (p *path) String() string {
	if p == nil {
		return ""
	}
	s := p.field
	if p.parent != nil {
		s = p.parent.String() + "." + s
	}
	if p.key != "" {
		s += "[" + p.key + "]"
	}
	return s
}

// at returns the path of an element: by its name, or by its index when it has none.
func at(parent *path, field, name string, index int) path {
	if name == "" {
		name = strconv.Itoa(index)
	}
	return path{parent, field, name}
}

func (v *validator) add(p *path, field, format string, args ...any) {
	where := p.String()
	if where != "" && field != "" {
		where += "."
	}
	v.problems.Add(where+field, format, args...)
}

func (v *validator) run() {
	names := map[string]bool{}
	for i, x := range v.spec.VPCs {
		p := at(nil, "vpcs", x.Name, i)
		v.name(&p, KindVPC, x.Name, names)
		v.vpc(&p, x)
	}
	v.delegatedTwice()
	v.vpcOverlaps()
	v.sharedZones()
	v.tests()
	for _, d := range v.gone {
		p := path{nil, "vpcs", d.vpc}
		if d.kind != KindVPC {
			p = path{&path{nil, "vpcs", d.vpc}, d.kind.field(), d.name}
		}
		v.add(&p, "", "still used by %s: change these first", several(v.users[d], ", ", "and %d more"))
	}
}

// several joins a list of which only the beginning is worth reading when it is long.
func several(list []string, separator, more string) string {
	const shown = 8
	if len(list) > shown+1 {
		return strings.Join(list[:shown], separator) + separator + fmt.Sprintf(more, len(list)-shown)
	}
	return strings.Join(list, separator)
}

// name checks the name of an object and that it is the only one in its list.
func (v *validator) name(p *path, kind Kind, name string, seen map[string]bool) {
	if why := checkName(name); why != "" {
		v.add(p, "name", "%q: %s", name, why)
		return
	}
	if seen[name] {
		v.add(p, "name", "there is another %s %q: names are unique in their list", kind.Noun(), name)
	}
	seen[name] = true
}

// id checks that an ID is the only one of its kind and value on the gateway.
func (v *validator) id(p *path, id string) {
	if id == "" {
		return
	}
	if _, dup := v.ids[id]; dup {
		v.add(p, "id", "%s is already the ID of another object", id)
	}
	v.ids[id] = struct{}{}
}

func (v *validator) description(p *path, s string, most int) {
	if n := len([]rune(s)); n > most {
		v.add(p, "description", "has %d characters, and at most %d are kept", n, most)
	}
}

// missing reports a reference to what is not there. path is the path of what refers.
func (v *validator) missing(in *VPCSpec, p *path, field string, kind Kind, name string) {
	if v.before != nil && v.had(in.Name, kind, name) {
		user := strings.TrimPrefix(p.String(), "vpcs["+in.Name+"].")
		d := deleted{in.Name, kind, name}
		if len(v.users[d]) == 0 {
			v.gone = append(v.gone, d)
		}
		if !slices.Contains(v.users[d], user) {
			v.users[d] = append(v.users[d], user)
		}
		return
	}
	if name == "" {
		v.add(p, field, "a %s is required", kind.Noun())
		return
	}
	for _, other := range v.spec.VPCs {
		if other != in && other.has(kind, name) {
			v.add(p, field, "there is no %s %q in this VPC: VPC %q has one, and nothing is shared between VPCs", kind.Noun(), name, other.Name)
			return
		}
	}
	var there []string
	in.objects(kind, func(o Object) bool {
		there = append(there, o.Name)
		return true
	})
	if kind == KindSecurityGroup && !slices.Contains(there, DefaultGroup) {
		there = append(there, DefaultGroup)
	}
	if len(there) == 0 {
		v.add(p, field, "there is no %s %q: this VPC has none", kind.Noun(), name)
		return
	}
	slices.Sort(there)
	v.add(p, field, "there is no %s %q (this VPC has %s)", kind.Noun(), name, several(there, ", ", "and %d more"))
}

func (v *validator) had(vpcName string, kind Kind, name string) bool {
	for _, x := range v.before.VPCs {
		if x.Name == vpcName {
			return x.has(kind, name)
		}
	}
	return false
}

// has reports whether the VPC has an object of that kind and name; of the kind VPC it is the VPC itself.
func (x *VPCSpec) has(kind Kind, name string) bool {
	found := false
	x.objects(kind, func(o Object) bool {
		found = o.Name == name
		return !found
	})
	return found
}

// block is a range with what messages call it.
type block struct {
	prefix netip.Prefix
	owner  int // blocks of one owner are compared too
	order  int // position in the Spec
	path   *path
	field  string
	name   string // as in: overlaps NAME
}

// overlapping calls report for blocks that share addresses, with the later one of the Spec first. Prefixes either nest or have
// nothing in common, so in order each one need only be compared with the one that is open.
func overlapping(blocks []block, report func(later, earlier block)) {
	slices.SortFunc(blocks, func(a, b block) int {
		if c := a.prefix.Compare(b.prefix); c != 0 {
			return c
		}
		return a.order - b.order
	})
	type clash struct{ later, earlier block }
	var found []clash
	for i, open := 1, 0; i < len(blocks); i++ {
		a, b := blocks[open], blocks[i]
		if !a.prefix.Overlaps(b.prefix) {
			open = i
			continue
		}
		if a.order > b.order {
			a, b = b, a
		}
		found = append(found, clash{later: b, earlier: a})
	}
	slices.SortStableFunc(found, func(a, b clash) int { return a.later.order - b.later.order })
	for _, c := range found {
		report(c.later, c.earlier)
	}
}
