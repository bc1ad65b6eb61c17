package vpc

import (
	"cmp"
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Action is what a Change does.
type Action string

// The actions.
const (
	Create Action = "create"
	Update Action = "update"
	Remove Action = "delete"
)

// Change is what happens to one object between two Specs.
type Change struct {
	Action Action        `json:"action"`
	Kind   Kind          `json:"kind"`
	ID     string        `json:"id,omitempty"`
	VPC    string        `json:"vpc,omitempty"` // name
	Name   string        `json:"name"`
	Path   string        `json:"path"`             // as in Problem
	Fields []FieldChange `json:"fields,omitempty"` // none when the object is deleted
}

// FieldChange is one field of a Change, named as in a manifest. Rules stand as rules[ID], entries of ACLs as ingress[0].
type FieldChange struct {
	Field string `json:"field"`
	Old   string `json:"old,omitempty"`
	New   string `json:"new,omitempty"`
}

// String writes the change in one line: update securitygroup research/web: innerAccess accept -> drop.
func (c Change) String() string {
	name := c.Name
	if c.VPC != "" && c.Kind != KindVPC {
		name = c.VPC + "/" + name
	}
	s := fmt.Sprintf("%s %s %s", c.Action, c.Kind, name)
	if c.Action != Update {
		return s
	}
	fields := make([]string, len(c.Fields))
	for i, f := range c.Fields {
		fields[i] = f.String()
	}
	return s + ": " + strings.Join(fields, ", ")
}

func (f FieldChange) String() string {
	switch {
	case f.Old == "":
		return "+" + f.Field + " " + f.New
	case f.New == "":
		return "-" + f.Field + " " + f.Old
	}
	return f.Field + " " + f.Old + " -> " + f.New
}

// Diff returns what changes from one Spec to another: by VPC, in each by kind and name; nothing for equal ones. Objects
// are the same when they have the same name (interfaces: the same MAC in the same instance). Orders that mean nothing make
// no difference. Both must be complete, as Apply makes them.
func Diff(from, to *Spec) []Change {
	d := &differ{}
	if from == nil {
		from = &Spec{}
	}
	if to == nil {
		to = &Spec{}
	}
	pair(from.VPCs, to.VPCs, func(v *VPCSpec) string { return v.Name }, d.vpc)
	pair(from.PrivateZones, to.PrivateZones, zoneKey, func(a, b *PrivateZoneSpec) { compare(d, nil, nil, KindZone, a, b) })
	d.tests(from.Tests, to.Tests)
	return d.changes
}

type differ struct{ changes []Change }

// pair calls f for every name of a or b, in order, with nil for what one of them lacks; what both share is skipped.
func pair[T any](a, b []*T, name func(*T) string, f func(a, b *T)) {
	type entry struct{ a, b *T }
	var all []entry
	at := align(a, b, func(x, y *T) bool { return x == y }, name, name)
	for j, y := range b {
		switch {
		case at[j] < 0:
			all = append(all, entry{nil, y})
		case a[at[j]] != y:
			all = append(all, entry{a[at[j]], y})
		}
	}
	leftOut(a, at, func(x *T) { all = append(all, entry{x, nil}) })
	slices.SortStableFunc(all, func(x, y entry) int { return strings.Compare(name(cmp.Or(x.b, x.a)), name(cmp.Or(y.b, y.a))) })
	for _, e := range all {
		f(e.a, e.b)
	}
}

func (d *differ) vpc(a, b *VPCSpec) {
	x, y := orZero(a), orZero(b)
	in := cmp.Or(b, a)
	compare(d, nil, nil, KindVPC, a, b)
	pair(x.PrefixLists, y.PrefixLists, func(l *PrefixListSpec) string { return l.Name }, func(a, b *PrefixListSpec) { compare(d, in, nil, KindPrefixList, a, b) })
	pair(x.SecurityGroups, y.SecurityGroups, func(g *GroupSpec) string { return g.Name }, func(a, b *GroupSpec) { compare(d, in, nil, KindSecurityGroup, a, b) })
	pair(x.NetworkACLs, y.NetworkACLs, func(a *ACLSpec) string { return a.Name }, func(a, b *ACLSpec) { compare(d, in, nil, KindNetworkACL, a, b) })
	pair(x.VSwitches, y.VSwitches, func(w *VSwitchSpec) string { return w.Name }, func(a, b *VSwitchSpec) { compare(d, in, nil, KindVSwitch, a, b) })
	pair(x.Instances, y.Instances, func(i *InstanceSpec) string { return i.Name }, func(a, b *InstanceSpec) {
		compare(d, in, nil, KindInstance, a, b)
		pair(orZero(a).Interfaces, orZero(b).Interfaces, func(n *InterfaceSpec) string { return n.MAC.String() }, func(m, n *InterfaceSpec) {
			compare(d, in, cmp.Or(b, a), KindInterface, m, n)
		})
	})
	pair(x.PrivateZones, y.PrivateZones, zoneKey, func(a, b *PrivateZoneSpec) { compare(d, in, nil, KindZone, a, b) })
	pair(x.Forwarders, y.Forwarders, func(f *ForwarderSpec) string { return domainKey(f.Zone) }, func(a, b *ForwarderSpec) { compare(d, in, nil, KindForwarder, a, b) })
}

func orZero[T any](x *T) *T {
	if x == nil {
		return new(T)
	}
	return x
}

// compare adds the change from a to b, if any; nil stands for an object that is not there.
func compare[T any](d *differ, in *VPCSpec, of *InstanceSpec, kind Kind, a, b *T) {
	o := Object{Kind: kind, VPC: in, Instance: of}
	switch x := any(cmp.Or(b, a)).(type) {
	case *VPCSpec:
		o.VPC, o.Name = x, x.Name
	case *VSwitchSpec:
		o.Name = x.Name
	case *GroupSpec:
		o.Name = x.Name
	case *PrefixListSpec:
		o.Name = x.Name
	case *ACLSpec:
		o.Name = x.Name
	case *InstanceSpec:
		o.Name = x.Name
	case *InterfaceSpec:
		o.Name = x.MAC.String()
	case *PrivateZoneSpec:
		o.Name = x.Name
	case *ForwarderSpec:
		o.Name = x.Zone
	}
	c := Change{Kind: kind, ID: idOf(cmp.Or(b, a)), Name: o.Name, Path: o.Path()}
	if o.VPC != nil {
		c.VPC = o.VPC.Name
	}
	switch {
	case a == nil:
		c.Action = Create
		c.Fields = fieldChanges(nil, attributes(b))
	case b == nil:
		c.Action = Remove
	default:
		c.Action = Update
		if was := idOf(a); was != c.ID { // deleted and made anew
			c.Fields = []FieldChange{{Field: "id", Old: was, New: c.ID}}
		}
		if c.Fields = append(c.Fields, fieldChanges(attributes(a), attributes(b))...); len(c.Fields) == 0 {
			return
		}
	}
	d.changes = append(d.changes, c)
}

// idOf returns an object's ID, "" for a kind without.
func idOf(object any) string {
	f := reflect.ValueOf(object).Elem().FieldByName("ID")
	if !f.IsValid() {
		return ""
	}
	return f.String()
}

// tests are compared by what they say; their order means nothing.
func (d *differ) tests(from, to []*TestSpec) {
	old, now := stringsOf(from), stringsOf(to)
	for _, list := range []struct {
		action Action
		of     []string
	}{{Remove, lacking(old, now)}, {Create, lacking(now, old)}} {
		for _, t := range list.of {
			d.changes = append(d.changes, Change{Action: list.action, Kind: KindTest, Name: t, Path: "tests"})
		}
	}
}

func stringsOf[T fmt.Stringer](list []T) []string {
	out := make([]string, len(list))
	for i, x := range list {
		out[i] = x.String()
	}
	return out
}

// lacking returns what a has more often than b, in order.
func lacking(a, b []string) []string {
	count := map[string]int{}
	for _, s := range b {
		count[s]++
	}
	var out []string
	for _, s := range a {
		if count[s]--; count[s] < 0 {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

// attribute is one field in words. A field may stand several times with different words (records).
type attribute struct{ field, text string }

// fieldChanges compares attributes by name; among those of one name by what they say.
func fieldChanges(old, now []attribute) []FieldChange {
	was, is := byField(old), byField(now)
	var out []FieldChange
	done := map[string]bool{}
	for _, a := range slices.Concat(now, old) {
		if done[a.field] {
			continue
		}
		done[a.field] = true
		gone, come := lacking(was[a.field], is[a.field]), lacking(is[a.field], was[a.field])
		for i := range max(len(gone), len(come)) {
			f := FieldChange{Field: a.field}
			if i < len(gone) {
				f.Old = gone[i]
			}
			if i < len(come) {
				f.New = come[i]
			}
			if f.Old != f.New {
				out = append(out, f)
			}
		}
	}
	return out
}

func byField(list []attribute) map[string][]string {
	m := map[string][]string{}
	for _, a := range list {
		m[a.field] = append(m[a.field], a.text)
	}
	return m
}

// attributes flattens an object into its own fields as a manifest names them, without its name, its ID and the objects in it.
// Fields without a value are left out.
func attributes(object any) []attribute {
	var out []attribute
	v := reflect.ValueOf(object).Elem()
	for i := range v.NumField() {
		field, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if field != "name" && field != "id" && field != "mac" {
			flatten(field, v.Field(i), &out)
		}
	}
	return out
}

func flatten(field string, v reflect.Value, out *[]attribute) {
	add := func(field, text string) {
		if text != "" {
			*out = append(*out, attribute{field, text})
		}
	}
	switch x := v.Interface().(type) {
	case []*RuleSpec:
		for _, r := range x {
			add(field+"["+r.ID+"]", r.String())
		}
		return
	case []*EntrySpec:
		for i, e := range x {
			add(field+"["+strconv.Itoa(i)+"]", e.String())
		}
		return
	case []*RecordSpec:
		for _, r := range x {
			add(field, r.String())
		}
		return
	case []*InterfaceSpec: // each has changes of its own; here their order counts
		macs := make([]string, len(x))
		for i, n := range x {
			macs[i] = n.MAC.String()
		}
		add(field, strings.Join(macs, ", "))
		return
	case Duration:
		if x != 0 {
			add(field, x.String())
		}
		return
	case encoding.TextMarshaler:
		text, err := x.MarshalText()
		if err != nil {
			text = fmt.Append(nil, x)
		}
		add(field, string(text))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			flatten(field+"."+name, v.Field(i), out)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Pointer {
			return // objects in the object: they have changes of their own
		}
		var words []string
		for i := range v.Len() {
			var parts []attribute
			flatten("", v.Index(i), &parts)
			for _, p := range parts {
				words = append(words, p.text)
			}
		}
		add(field, strings.Join(words, ", "))
	case reflect.Pointer:
		if !v.IsNil() {
			add(field, fmt.Sprint(v.Elem()))
		}
	case reflect.Int:
		if n := v.Int(); n != 0 {
			add(field, strconv.FormatInt(n, 10))
		}
	default:
		add(field, fmt.Sprint(v.Interface()))
	}
}
