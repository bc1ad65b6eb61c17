package vpc

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// normalize fills in what the defaults of a field that depend on other fields mean, and brings lists whose order says
// nothing into one order. It copies what it changes: s stays as it is, and what needs nothing is shared with s.
//
// What depends on other objects (the group "default", addresses, IDs) is Apply's.
func normalize(s *Spec) *Spec {
	if s == nil {
		return &Spec{}
	}
	c := *s
	c.VPCs = each(s.VPCs, normalizeVPC)
	c.PrivateZones = each(s.PrivateZones, normalizeZone)
	if c.PrivateZones == nil {
		c.PrivateZones = s.PrivateZones
	}
	c.Tests = each(s.Tests, func(t *TestSpec) *TestSpec { return t })
	if s.Tests != nil && c.Tests == nil {
		c.Tests = []*TestSpec{} // none, as opposed to "as they are"
	}
	return &c
}

func normalizeVPC(v *VPCSpec) *VPCSpec {
	c := *v
	o := &c.DHCPOptions
	o.DomainNameServers, o.NTPServers = noneAsNil(o.DomainNameServers), noneAsNil(o.NTPServers)
	o.SearchDomains, o.Routes = noneAsNil(o.SearchDomains), noneAsNil(o.Routes)
	c.SecondaryCIDRBlocks = sorted(v.SecondaryCIDRBlocks, netip.Prefix.Compare)
	c.IPv6PrefixTranslations = noneAsNil(v.IPv6PrefixTranslations)
	c.VSwitches = each(v.VSwitches, normalizeVSwitch)
	c.SecurityGroups = each(v.SecurityGroups, normalizeGroup)
	c.PrefixLists = each(v.PrefixLists, normalizePrefixList)
	c.NetworkACLs = each(v.NetworkACLs, normalizeACL)
	c.Instances = each(v.Instances, normalizeInstance)
	c.PrivateZones = each(v.PrivateZones, normalizeZone)
	c.Forwarders = each(v.Forwarders, func(f *ForwarderSpec) *ForwarderSpec { return f }) // the order of servers counts
	return &c
}

func normalizeVSwitch(w *VSwitchSpec) *VSwitchSpec {
	c := *w
	c.Enrollment = cmp.Or(w.Enrollment, EnrollmentAuto)
	c.EnrollmentGroups = normalizeGroupNames(w.EnrollmentGroups)
	c.Attach.Relay = sorted(w.Attach.Relay, netip.Addr.Compare)
	return &c
}

// normalizeGroupNames keeps an empty list apart from one that was not written, which is [default]: Validate refuses it.
func normalizeGroupNames(names []string) []string {
	switch {
	case names == nil:
		return []string{DefaultGroup}
	case len(names) == 0:
		return names
	}
	return sorted(names, strings.Compare)
}

func normalizeGroup(g *GroupSpec) *GroupSpec {
	c := *g
	c.Type = cmp.Or(g.Type, GroupBasic)
	if c.InnerAccess == "" {
		c.InnerAccess = Accept
		if c.Type == GroupAdvanced {
			c.InnerAccess = Drop
		}
	}
	c.Rules = each(g.Rules, normalizeRule)
	return &c
}

// normalizeRule derives a direction that was not written from the only side that was.
func normalizeRule(r *RuleSpec) *RuleSpec {
	if r.Direction != "" && r.Policy != "" {
		return r
	}
	c := *r
	c.Policy = cmp.Or(r.Policy, Accept)
	if c.Direction == "" && r.Source.IsZero() != r.Destination.IsZero() {
		c.Direction = Ingress
		if r.Source.IsZero() {
			c.Direction = Egress
		}
	}
	return &c
}

func normalizePrefixList(l *PrefixListSpec) *PrefixListSpec {
	c := *l
	c.Entries = sorted(l.Entries, netip.Prefix.Compare)
	if c.Family == "" {
		c.Family = IPv4.String()
		if len(c.Entries) > 0 {
			c.Family = FamilyOf(c.Entries[0].Addr()).String()
		}
	}
	return &c
}

func normalizeACL(a *ACLSpec) *ACLSpec {
	c := *a
	policy := func(e *EntrySpec) *EntrySpec {
		if e.Policy != "" {
			return e
		}
		c := *e
		c.Policy = Accept
		return &c
	}
	c.Ingress, c.Egress = each(a.Ingress, policy), each(a.Egress, policy)
	return &c
}

// normalizeInstance looks before it copies: there may be ten thousand.
func normalizeInstance(i *InstanceSpec) *InstanceSpec {
	interfaces := each(i.Interfaces, normalizeInterface)
	if i.PrivateDNS.HostnameType != "" && same(interfaces, i.Interfaces) && (i.Metadata.SSHKeys == nil || len(i.Metadata.SSHKeys) > 0) {
		return i
	}
	c := *i
	c.Metadata.SSHKeys = noneAsNil(i.Metadata.SSHKeys)
	c.PrivateDNS.HostnameType = cmp.Or(i.PrivateDNS.HostnameType, HostnameCustom)
	c.Interfaces = interfaces
	return &c
}

func normalizeInterface(n *InterfaceSpec) *InterfaceSpec {
	groups := normalizeGroupNames(n.SecurityGroups)
	secondary := noneAsNil(n.SecondaryPrivateIPs)
	if !slices.IsSortedFunc(secondary, netip.Addr.Compare) {
		secondary = slices.SortedFunc(slices.Values(secondary), netip.Addr.Compare) // duplicates are for Validate
	}
	prefixes := noneAsNil(n.IPv6Prefixes)
	if !slices.IsSortedFunc(prefixes, netip.Prefix.Compare) {
		prefixes = slices.SortedFunc(slices.Values(prefixes), netip.Prefix.Compare)
	}
	explicitNone := n.IPv6Addresses != nil && len(n.IPv6Addresses) == 0
	if same(groups, n.SecurityGroups) && same(secondary, n.SecondaryPrivateIPs) && same(prefixes, n.IPv6Prefixes) && !explicitNone {
		return n
	}
	c := *n
	c.SecurityGroups, c.SecondaryPrivateIPs, c.IPv6Prefixes = groups, secondary, prefixes
	if explicitNone {
		c.IPv6Addresses = nil
		if c.IPv6AddressCount == nil {
			c.IPv6AddressCount = new(int)
		}
	}
	return &c
}

func normalizeZone(z *PrivateZoneSpec) *PrivateZoneSpec {
	c := *z
	c.VPCs = sorted(z.VPCs, strings.Compare)
	c.Missing = cmp.Or(z.Missing, MissingNXDOMAIN)
	c.TransferTo = sorted(z.TransferTo, netip.Addr.Compare)
	c.UpdateKeys = sorted(z.UpdateKeys, strings.Compare)
	c.Records = each(z.Records, func(r *RecordSpec) *RecordSpec {
		t := strings.ToUpper(r.Type)
		if t == r.Type {
			return r
		}
		c := *r
		c.Type = t
		return &c
	})
	return &c
}

// each applies f to every element and leaves out nil ones; when nothing changes it returns the list itself.
func each[T any](list []*T, f func(*T) *T) []*T {
	var out []*T // nil as long as nothing has changed
	for i, e := range list {
		var n *T
		if e != nil {
			n = f(e)
		}
		if n == e && e != nil && out == nil {
			continue
		}
		if out == nil {
			out = append(make([]*T, 0, len(list)), list[:i]...)
		}
		if n != nil {
			out = append(out, n)
		}
	}
	switch {
	case out != nil && len(out) == 0, len(list) == 0:
		return nil
	case out != nil:
		return out
	}
	return list
}

// sorted returns the list in order and each value once; the list itself when it is so already, nil when it is empty.
func sorted[T comparable](list []T, order func(a, b T) int) []T {
	if len(list) == 0 {
		return nil
	}
	for i := 1; i < len(list); i++ {
		if order(list[i-1], list[i]) >= 0 {
			return slices.Compact(slices.SortedFunc(slices.Values(list), order))
		}
	}
	return list
}

// noneAsNil returns nil for an empty list.
func noneAsNil[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}

// same reports whether a and b are one and the same list.
func same[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) && (a == nil) == (b == nil)
}
