package vpc

import (
	"fmt"
	"slices"
)

// Set returns the current Spec with one object created or replaced by value: a *VPCSpec, *VSwitchSpec, *GroupSpec,
// *PrefixListSpec, *ACLSpec, *InstanceSpec, *PrivateZoneSpec or *ForwarderSpec, with the meaning that it has in a manifest
// that names nothing else. An object in a VPC needs the VPC's name or ID; a zone without one is shared. Everything
// else is as Apply has it; a *VPCSpec brings along what is in it, and with opt.Prune it replaces what was.
func Set(current *Spec, h Host, vpcName string, value any, opt ApplyOptions) (*Spec, Problems) {
	if current == nil {
		current = &Spec{}
	}
	switch x := value.(type) {
	case *VPCSpec:
		return Apply(current, &Spec{VPCs: []*VPCSpec{x}}, h, opt)
	case *PrivateZoneSpec:
		if vpcName == "" {
			opt.Prune = false
			return Apply(current, &Spec{PrivateZones: []*PrivateZoneSpec{x}}, h, opt)
		}
	}
	o, err := Lookup(current, KindVPC, "", vpcName)
	if err != nil {
		return nil, Problems{{Message: err.Error()}}
	}
	v := *o.VPC
	v.VSwitches, v.SecurityGroups, v.PrefixLists, v.NetworkACLs = nil, nil, nil, nil
	v.Instances, v.PrivateZones, v.Forwarders = nil, nil, nil
	switch x := value.(type) {
	case *VSwitchSpec:
		v.VSwitches = []*VSwitchSpec{x}
	case *GroupSpec:
		v.SecurityGroups = []*GroupSpec{x}
	case *PrefixListSpec:
		v.PrefixLists = []*PrefixListSpec{x}
	case *ACLSpec:
		v.NetworkACLs = []*ACLSpec{x}
	case *InstanceSpec:
		v.Instances = []*InstanceSpec{x}
	case *PrivateZoneSpec:
		v.PrivateZones = []*PrivateZoneSpec{x}
	case *ForwarderSpec:
		v.Forwarders = []*ForwarderSpec{x}
	default:
		return nil, Problems{{Message: fmt.Sprintf("%T is not an object that can be set by itself", value)}}
	}
	opt.Prune = false
	return Apply(current, &Spec{VPCs: []*VPCSpec{&v}}, h, opt)
}

// Delete returns the current Spec without one object, which is named as for Lookup. What something else still uses, and
// a VPC that still has something in it, is not deleted: the problems name the users. The result shares everything else
// with current.
func Delete(current *Spec, h Host, kind Kind, vpcName, name string) (*Spec, Problems) {
	if current == nil {
		current = &Spec{}
	}
	o, err := Lookup(current, kind, vpcName, name)
	if err != nil {
		return nil, Problems{{Message: err.Error()}}
	}
	next := *current
	switch {
	case kind == KindVPC:
		if inside := o.VPC.inside(); len(inside) > 0 {
			return nil, Problems{{Path: o.Path(), Message: fmt.Sprintf("still has %s: delete these first", several(inside, ", ", "and %d more"))}}
		}
		next.VPCs = without(current.VPCs, o.VPC)
	case o.VPC == nil:
		next.PrivateZones = without(current.PrivateZones, o.Value.(*PrivateZoneSpec))
	default:
		v := *o.VPC
		switch x := o.Value.(type) {
		case *VSwitchSpec:
			v.VSwitches = without(v.VSwitches, x)
		case *GroupSpec:
			if x.Name == DefaultGroup {
				return nil, Problems{{Path: o.Path(), Message: "every VPC has this group: it cannot be deleted"}}
			}
			v.SecurityGroups = without(v.SecurityGroups, x)
		case *PrefixListSpec:
			v.PrefixLists = without(v.PrefixLists, x)
		case *ACLSpec:
			v.NetworkACLs = without(v.NetworkACLs, x)
		case *InstanceSpec:
			v.Instances = without(v.Instances, x)
		case *InterfaceSpec:
			i := *o.Instance
			i.Interfaces = without(i.Interfaces, x)
			v.Instances = replaced(v.Instances, o.Instance, &i)
		case *PrivateZoneSpec:
			v.PrivateZones = without(v.PrivateZones, x)
		case *ForwarderSpec:
			v.Forwarders = without(v.Forwarders, x)
		}
		next.VPCs = replaced(current.VPCs, o.VPC, &v)
	}
	if problems := compact(validate(current, normalize(&next), h)); len(problems) > 0 {
		return nil, problems
	}
	return &next, nil
}

// inside lists what is in the VPC besides the group that every VPC has.
func (v *VPCSpec) inside() []string {
	var list []string
	for _, kind := range []Kind{KindVSwitch, KindInstance, KindSecurityGroup, KindNetworkACL, KindPrefixList, KindZone, KindForwarder} {
		v.objects(kind, func(o Object) bool {
			if kind != KindSecurityGroup || o.Name != DefaultGroup {
				list = append(list, kind.field()+"["+o.Name+"]")
			}
			return true
		})
	}
	return list
}

// without returns a copy of the list that lacks x; nil when nothing is left.
func without[T any](list []*T, x *T) []*T {
	if len(list) == 1 && list[0] == x {
		return nil
	}
	out := make([]*T, 0, len(list))
	for _, e := range list {
		if e != x {
			out = append(out, e)
		}
	}
	return out
}

// replaced returns a copy of the list with y in the place of x.
func replaced[T any](list []*T, x, y *T) []*T {
	out := slices.Clone(list)
	out[slices.Index(out, x)] = y
	return out
}
