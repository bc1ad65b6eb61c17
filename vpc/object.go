package vpc

import (
	"fmt"
	"slices"
	"strings"
)

// Kind is a kind of object that people name on the command line and in the API.
type Kind string

// The kinds, in their canonical form.
const (
	KindVPC           Kind = "vpc"
	KindVSwitch       Kind = "vswitch"
	KindInstance      Kind = "instance"
	KindInterface     Kind = "interface"
	KindSecurityGroup Kind = "securitygroup"
	KindNetworkACL    Kind = "networkacl"
	KindPrefixList    Kind = "prefixlist"
	KindZone          Kind = "zone"
	KindForwarder     Kind = "forwarder"
	KindRecord        Kind = "record"
	KindLease         Kind = "lease"
	KindTest          Kind = "test"
)

// kindForms holds how a kind may be written and how messages and manifests call it.
var kindForms = []struct {
	kind   Kind
	plural string
	short  []string
	noun   string // in messages
	field  string // in manifests and paths
}{
	{KindVPC, "vpcs", nil, "VPC", "vpcs"},
	{KindVSwitch, "vswitches", []string{"vsw"}, "vswitch", "vswitches"},
	{KindInstance, "instances", []string{"i", "inst"}, "instance", "instances"},
	{KindInterface, "interfaces", []string{"eni", "nic"}, "interface", "interfaces"},
	{KindSecurityGroup, "securitygroups", []string{"sg", "sgs"}, "security group", "securityGroups"},
	{KindNetworkACL, "networkacls", []string{"nacl", "nacls", "acl"}, "network ACL", "networkAcls"},
	{KindPrefixList, "prefixlists", []string{"pl", "pls"}, "prefix list", "prefixLists"},
	{KindZone, "zones", []string{"privatezone", "privatezones"}, "private zone", "privateZones"},
	{KindForwarder, "forwarders", []string{"fwd"}, "forwarder", "forwarders"},
	{KindRecord, "records", []string{"rr"}, "record", "records"},
	{KindLease, "leases", nil, "lease", "leases"},
	{KindTest, "tests", nil, "test", "tests"},
}

// Kinds lists every kind, in the order in which help texts show them.
func Kinds() []Kind {
	out := make([]Kind, len(kindForms))
	for i, f := range kindForms {
		out[i] = f.kind
	}
	return out
}

// ParseKind reads a kind in its canonical, plural or short form, in any case, with or without hyphens.
func ParseKind(s string) (Kind, error) {
	name := strings.ReplaceAll(strings.ToLower(s), "-", "")
	for _, f := range kindForms {
		if name == string(f.kind) || name == f.plural || slices.Contains(f.short, name) {
			return f.kind, nil
		}
	}
	var known []string
	for _, f := range kindForms {
		known = append(known, string(f.kind))
	}
	return "", fmt.Errorf("no kind %q (there are %s)", s, strings.Join(known, ", "))
}

// Plural returns the plural form, as API paths have it.
func (k Kind) Plural() string {
	for _, f := range kindForms {
		if f.kind == k {
			return f.plural
		}
	}
	return string(k)
}

// Short returns the usual short form; the canonical one when there is none.
func (k Kind) Short() string {
	for _, f := range kindForms {
		if f.kind == k && len(f.short) > 0 {
			return f.short[0]
		}
	}
	return string(k)
}

// Noun returns how messages call the kind: "security group", "VPC".
func (k Kind) Noun() string {
	for _, f := range kindForms {
		if f.kind == k {
			return f.noun
		}
	}
	return string(k)
}

// field returns the manifest's name for a list of the kind.
func (k Kind) field() string {
	for _, f := range kindForms {
		if f.kind == k {
			return f.field
		}
	}
	return string(k)
}

// Object is one object of a Spec with its surroundings.
type Object struct {
	Kind     Kind
	VPC      *VPCSpec      // nil for a zone that several VPCs share
	Instance *InstanceSpec // of an interface
	ID       string        // empty where the kind has none
	Name     string        // an interface's is its MAC, a forwarder's its zone
	Value    any           // *VPCSpec, *VSwitchSpec, *GroupSpec, …
}

// Path returns where the object stands, as in Problem.
func (o Object) Path() string {
	var b strings.Builder
	if o.VPC != nil && o.Kind != KindVPC {
		b.WriteString("vpcs[" + o.VPC.Name + "].")
	}
	if o.Instance != nil && o.Kind != KindInstance {
		b.WriteString("instances[" + o.Instance.Name + "].")
	}
	b.WriteString(o.Kind.field() + "[" + o.Name + "]")
	return b.String()
}

// qualified returns the name that is unique everywhere: VPC/NAME.
func (o Object) qualified() string {
	if o.VPC == nil || o.Kind == KindVPC {
		return o.Name
	}
	return o.VPC.Name + "/" + o.Name
}

// Objects yields every object of a kind, VPC by VPC in the order of the Spec. Kinds that are not objects of a Spec by
// themselves (leases, records, tests) yield nothing.
func (s *Spec) Objects(kind Kind) func(yield func(Object) bool) {
	return func(yield func(Object) bool) {
		for _, v := range s.VPCs {
			if !v.objects(kind, yield) {
				return
			}
		}
		if kind == KindZone {
			for _, z := range s.PrivateZones {
				if !yield(Object{Kind: kind, ID: z.ID, Name: z.Name, Value: z}) {
					return
				}
			}
		}
	}
}

func (v *VPCSpec) objects(kind Kind, yield func(Object) bool) bool {
	switch kind {
	case KindVPC:
		return yield(Object{Kind: kind, VPC: v, ID: v.ID, Name: v.Name, Value: v})
	case KindVSwitch:
		for _, w := range v.VSwitches {
			if !yield(Object{Kind: kind, VPC: v, ID: w.ID, Name: w.Name, Value: w}) {
				return false
			}
		}
	case KindSecurityGroup:
		for _, g := range v.SecurityGroups {
			if !yield(Object{Kind: kind, VPC: v, ID: g.ID, Name: g.Name, Value: g}) {
				return false
			}
		}
	case KindPrefixList:
		for _, l := range v.PrefixLists {
			if !yield(Object{Kind: kind, VPC: v, ID: l.ID, Name: l.Name, Value: l}) {
				return false
			}
		}
	case KindNetworkACL:
		for _, a := range v.NetworkACLs {
			if !yield(Object{Kind: kind, VPC: v, ID: a.ID, Name: a.Name, Value: a}) {
				return false
			}
		}
	case KindInstance:
		for _, i := range v.Instances {
			if !yield(Object{Kind: kind, VPC: v, Instance: i, ID: i.ID, Name: i.Name, Value: i}) {
				return false
			}
		}
	case KindInterface:
		for _, i := range v.Instances {
			for _, n := range i.Interfaces {
				if !yield(Object{Kind: kind, VPC: v, Instance: i, ID: n.ID, Name: n.MAC.String(), Value: n}) {
					return false
				}
			}
		}
	case KindZone:
		for _, z := range v.PrivateZones {
			if !yield(Object{Kind: kind, VPC: v, ID: z.ID, Name: z.Name, Value: z}) {
				return false
			}
		}
	case KindForwarder:
		for _, f := range v.Forwarders {
			if !yield(Object{Kind: kind, VPC: v, Name: f.Zone, Value: f}) {
				return false
			}
		}
	}
	return true
}

// Lookup finds one object by its name, as VPC/NAME, or by its ID; an empty vpcName looks in every VPC and among the
// zones that VPCs share. A name that fits several is refused with the candidates.
func Lookup(s *Spec, kind Kind, vpcName, name string) (Object, error) {
	if inVPC, rest, ok := strings.Cut(name, "/"); ok && vpcName == "" {
		vpcName, name = inVPC, rest
	}
	key := name
	switch kind {
	case KindInterface:
		if mac, err := ParseMAC(name); err == nil {
			key = mac.String()
		}
	case KindZone, KindForwarder:
		key = domainKey(name)
	}
	var found []Object
	for o := range s.Objects(kind) {
		if vpcName != "" && (o.VPC == nil || o.VPC.Name != vpcName && o.VPC.ID != vpcName) {
			continue
		}
		if o.ID != "" && o.ID == name {
			return o, nil
		}
		if o.Name == key || (kind == KindZone || kind == KindForwarder) && domainKey(o.Name) == key {
			found = append(found, o)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return Object{}, fmt.Errorf("%s %q: %w", kind.Noun(), name, ambiguous(found))
	case vpcName != "" && !slices.ContainsFunc(s.VPCs, func(v *VPCSpec) bool { return v.Name == vpcName || v.ID == vpcName }):
		return Object{}, fmt.Errorf("%w: VPC %q", ErrNotFound, vpcName)
	case vpcName != "" && kind != KindVPC:
		return Object{}, fmt.Errorf("%w: %s %q in VPC %q", ErrNotFound, kind.Noun(), name, vpcName)
	}
	return Object{}, fmt.Errorf("%w: %s %q", ErrNotFound, kind.Noun(), name)
}

// ambiguous is the error that names the objects that a bare name may mean.
func ambiguous(found []Object) error {
	names := make([]string, len(found))
	for i, o := range found {
		names[i] = o.qualified()
	}
	slices.Sort(names)
	return fmt.Errorf("%w: write %s", ErrAmbiguous, strings.Join(names, " or "))
}
