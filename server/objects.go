package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gatehouse/server/api"
	"gatehouse/server/dns"
	"gatehouse/server/lease"
	"gatehouse/vpc"
)

// Objects lists the objects of a kind as get shows them; no names means all. A name that does not exist is an error.
func (g *Gateway) Objects(_ context.Context, kind vpc.Kind, vpcName string, names []string) ([]api.Object, error) {
	s := g.stored.Load()
	if vpcName != "" && !slices.ContainsFunc(s.VPCs, func(v *vpc.VPC) bool { return v.Name == vpcName || v.ID == vpcName }) {
		return nil, api.Errorf(api.CodeNotFound, "no VPC %q: 'gatehouse get vpcs' lists them", vpcName)
	}
	switch kind {
	case vpc.KindLease:
		return selectObjects(kind, leaseObjects(s, g.leases.Leases(), vpcName), names)
	case vpc.KindRecord:
		return selectObjects(kind, recordObjects(s, vpcName), names)
	}
	c := newCatalogue(s, g.leases.Leases())
	out := []api.Object{}
	if len(names) == 0 {
		for o := range s.Spec.Objects(kind) {
			if vpcName != "" && (o.VPC == nil || o.VPC.Name != vpcName && o.VPC.ID != vpcName) {
				continue
			}
			shown, err := c.show(o)
			if err != nil {
				return nil, err
			}
			out = append(out, shown)
		}
		return out, nil
	}
	for _, name := range names {
		o, err := lookup(s.Spec, kind, vpcName, name)
		if err != nil {
			return nil, err
		}
		shown, err := c.show(o)
		if err != nil {
			return nil, err
		}
		out = append(out, shown)
	}
	return out, nil
}

// lookup finds one object, with the API's errors.
func lookup(spec *vpc.Spec, kind vpc.Kind, vpcName, name string) (vpc.Object, error) {
	o, err := vpc.Lookup(spec, kind, vpcName, name)
	switch {
	case errors.Is(err, vpc.ErrNotFound):
		return o, api.Errorf(api.CodeNotFound, "%v", err)
	case err != nil:
		return o, api.Errorf(api.CodeInvalid, "%v", err)
	}
	return o, nil
}

// selectObjects picks the named ones; a name may fit several leases or records.
func selectObjects(kind vpc.Kind, all []api.Object, names []string) ([]api.Object, error) {
	if len(names) == 0 {
		return all, nil
	}
	out := []api.Object{}
	for _, name := range names {
		n := len(out)
		for _, o := range all {
			if o.Name == name || strings.TrimSuffix(o.Name, ".") == strings.TrimSuffix(name, ".") {
				out = append(out, o)
			}
		}
		if len(out) == n {
			return nil, api.Errorf(api.CodeNotFound, "no %s %q", kind, name)
		}
	}
	return out, nil
}

// fieldsOf gives an object's JSON form as a map.
func fieldsOf(v any) (map[string]any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	return m, json.Unmarshal(text, &m)
}

// catalogue looks up what get shows beside what was declared.
type catalogue struct {
	vpcs      map[string]*vpc.VPC // by ID, as all of them
	vswitches map[string]*vpc.VSwitch
	instances map[string]*vpc.Instance
	groups    map[string]*vpc.SecurityGroup
	users     map[string][]string // network ACL -> names of its vSwitches
	leases    map[netip.Addr]vpc.LeaseState
}

func newCatalogue(s *vpc.Snapshot, leases []vpc.Lease) *catalogue {
	c := &catalogue{map[string]*vpc.VPC{}, map[string]*vpc.VSwitch{}, map[string]*vpc.Instance{}, map[string]*vpc.SecurityGroup{},
		map[string][]string{}, map[netip.Addr]vpc.LeaseState{}}
	for _, v := range s.VPCs {
		c.vpcs[v.ID] = v
	}
	for _, w := range s.VSwitches {
		c.vswitches[w.ID] = w
		if w.ACL != nil {
			c.users[w.ACL.ID] = append(c.users[w.ACL.ID], w.Name)
		}
	}
	for _, i := range s.Instances {
		c.instances[i.ID] = i
	}
	for _, sg := range s.Groups {
		c.groups[sg.ID] = sg
	}
	for _, l := range leases {
		c.leases[l.Address] = l.State
	}
	return c
}

// show adds what a person wants to know beside what was declared.
func (c *catalogue) show(o vpc.Object) (api.Object, error) {
	fields, err := fieldsOf(o.Value)
	if err != nil {
		return api.Object{}, fmt.Errorf("show %s: %w", o.Path(), err)
	}
	if o.VPC != nil && o.Kind != vpc.KindVPC {
		fields["vpc"] = o.VPC.Name
	}
	if o.Kind == vpc.KindInterface {
		fields["instance"] = o.Instance.Name
		fields["name"] = o.Name
	}
	if status := c.status(o); len(status) > 0 {
		fields["status"] = status
	}
	shown := api.Object{Kind: o.Kind, Name: o.Name, ID: o.ID, Fields: fields}
	if o.VPC != nil {
		shown.VPC = o.VPC.Name
	}
	return shown, nil
}

// status gives an object's read-only fields.
func (c *catalogue) status(o vpc.Object) map[string]any {
	switch o.Kind {
	case vpc.KindVPC:
		v := c.vpcs[o.ID]
		return map[string]any{"vswitches": len(v.VSwitches), "instances": len(v.Instances), "securityGroups": len(v.Groups), "domain": v.Domain}
	case vpc.KindVSwitch:
		w := c.vswitches[o.ID]
		status := map[string]any{"gateway": w.GatewayAddr(vpc.IPv4), "link": w.LinkName(), "interfaces": len(w.Interfaces), "freeAddresses": freeAddresses(w)}
		pool := lease.PoolOf(w, vpc.IPv4)
		status["pool"] = fmt.Sprintf("%d/%.0f", pool.Used, pool.Size)
		if w.IPv6CIDRBlock.IsValid() {
			status["ipv6Gateway"] = w.GatewayAddr(vpc.IPv6)
		}
		return status
	case vpc.KindInstance:
		return map[string]any{"lease": c.leaseState(c.instances[o.ID])}
	case vpc.KindSecurityGroup:
		return map[string]any{"members": len(c.groups[o.ID].Members)}
	case vpc.KindNetworkACL:
		names := c.users[o.ID]
		if names == nil {
			names = []string{}
		}
		return map[string]any{"vswitches": names}
	}
	return nil
}

// leaseState is the state of the lease of an instance's primary address; "none" when it never had one.
func (c *catalogue) leaseState(i *vpc.Instance) string {
	if len(i.Interfaces) > 0 {
		if state, ok := c.leases[i.Interfaces[0].PrivateIP]; ok {
			return string(state)
		}
	}
	return "none"
}

// freeAddresses counts the IPv4 addresses of a vSwitch that nobody has: 2^(32-mask) - 4 less those taken.
func freeAddresses(w *vpc.VSwitch) int {
	free := 1<<(32-w.CIDRBlock.Bits()) - 4
	if w.Gateway.IsValid() && !reservedByDefault(w) {
		free--
	}
	for _, i := range w.Interfaces {
		free -= 1 + len(i.SecondaryPrivateIPs)
	}
	return max(free, 0)
}

// reservedByDefault reports whether the declared gateway is one of the addresses that are reserved anyway.
func reservedByDefault(w *vpc.VSwitch) bool {
	plain := *w.VSwitchSpec
	plain.Gateway = netip.Addr{}
	return plain.Reserved(w.Gateway)
}

// leaseObjects gives leases as people see them.
func leaseObjects(s *vpc.Snapshot, leases []vpc.Lease, vpcName string) []api.Object {
	out := []api.Object{}
	slices.SortFunc(leases, func(a, b vpc.Lease) int { return a.Address.Compare(b.Address) })
	for _, l := range leases {
		shown := api.Lease{
			Address: l.Address, Family: vpc.FamilyOf(l.Address).String(), MAC: l.MAC, ClientID: l.ClientID, DUID: l.DUID,
			Hostname: l.Hostname, Interface: l.Interface, State: l.State, Start: l.Start, Expires: l.Expires,
		}
		if w := s.VSwitchByID(l.VSwitch); w != nil {
			shown.VSwitch, shown.VPC = w.Name, w.VPC.Name
		}
		if nic := s.InterfaceByMAC(l.MAC); nic != nil {
			shown.Instance = nic.Instance.Name
			if l.Address.Is6() && l.State == vpc.LeaseBound {
				shown.Prefixes = nic.IPv6Prefixes
			}
		}
		if vpcName != "" && shown.VPC != vpcName {
			continue
		}
		fields, err := fieldsOf(shown)
		if err != nil {
			continue // an address or a time always has a JSON form
		}
		out = append(out, api.Object{Kind: vpc.KindLease, VPC: shown.VPC, Name: l.Address.String(), Fields: fields})
	}
	return out
}

// recordObjects gives everything that the views answer.
func recordObjects(s *vpc.Snapshot, vpcName string) []api.Object {
	out := []api.Object{}
	for _, v := range s.VPCs {
		if vpcName != "" && v.Name != vpcName && v.ID != vpcName {
			continue
		}
		for _, r := range dns.Records(dns.BuildView(s, v)) {
			fields, err := fieldsOf(api.Record(r))
			if err != nil {
				continue // plain strings and numbers always have a JSON form
			}
			out = append(out, api.Object{Kind: vpc.KindRecord, VPC: v.Name, Name: r.Name, Fields: fields})
		}
	}
	return out
}

// objectManifest wraps one object's fields in the VPC that it belongs to, with that VPC's own fields as they are, so that
// a change of one object goes the way of every other manifest.
func objectManifest(current *vpc.Spec, r api.PutRequest, fields map[string]any) (map[string]any, error) {
	list, ok := map[vpc.Kind]string{
		vpc.KindVPC: "vpcs", vpc.KindVSwitch: "vswitches", vpc.KindInstance: "instances", vpc.KindSecurityGroup: "securityGroups",
		vpc.KindNetworkACL: "networkAcls", vpc.KindPrefixList: "prefixLists", vpc.KindZone: "privateZones", vpc.KindForwarder: "forwarders",
	}[r.Kind]
	if !ok {
		return nil, api.Errorf(api.CodeInvalid, "a %s cannot be set by itself: change what it belongs to", r.Kind)
	}
	vpcName, name := splitName(r.VPC, r.Name)
	existing, err := vpc.Lookup(current, r.Kind, vpcName, name)
	switch {
	case err == nil && r.Create:
		return nil, api.Errorf(api.CodeConflict, "%s exists: change it with 'gatehouse set'", existing.Path())
	case err != nil && !errors.Is(err, vpc.ErrNotFound):
		return nil, api.Errorf(api.CodeInvalid, "%v", err)
	case err != nil && r.Patch:
		return nil, api.Errorf(api.CodeNotFound, "%v: create it with 'gatehouse create'", err)
	}
	object := fields
	if err == nil {
		name = existing.Name
		old, jsonErr := fieldsOf(existing.Value)
		if jsonErr != nil {
			return nil, jsonErr
		}
		if r.Patch {
			if err := editRules(old, fields); err != nil {
				return nil, err
			}
			object = patch(old, fields)
		}
	}
	if r.Kind == vpc.KindForwarder {
		object["zone"] = name
	} else {
		object["name"] = name
	}
	for _, readOnly := range []string{"vpc", "status"} {
		delete(object, readOnly)
	}
	dropIDs(object)
	if r.Kind == vpc.KindVPC {
		for _, child := range []string{"vswitches", "securityGroups", "prefixLists", "networkAcls", "instances", "privateZones", "forwarders"} {
			delete(object, child)
		}
		return map[string]any{list: []any{object}}, nil
	}
	if err == nil && existing.VPC == nil {
		return map[string]any{list: []any{object}}, nil // a zone that VPCs share
	}
	parent, perr := parentOf(current, existing, vpcName)
	if perr != nil {
		return nil, perr
	}
	bare := *parent
	bare.VSwitches, bare.SecurityGroups, bare.PrefixLists, bare.NetworkACLs = nil, nil, nil, nil
	bare.Instances, bare.PrivateZones, bare.Forwarders = nil, nil, nil
	tree, jsonErr := fieldsOf(bare)
	if jsonErr != nil {
		return nil, jsonErr
	}
	dropIDs(tree)
	tree[list] = []any{object}
	return map[string]any{"vpcs": []any{tree}}, nil
}

// parentOf finds the VPC of an object, or the one that a new object shall belong to.
func parentOf(current *vpc.Spec, existing vpc.Object, vpcName string) (*vpc.VPCSpec, error) {
	if existing.VPC != nil {
		return existing.VPC, nil
	}
	if vpcName == "" {
		if len(current.VPCs) == 1 {
			return current.VPCs[0], nil
		}
		return nil, api.Errorf(api.CodeInvalid, "name the VPC with --vpc: there are %d", len(current.VPCs))
	}
	o, err := lookup(current, vpc.KindVPC, "", vpcName)
	if err != nil {
		return nil, err
	}
	return o.VPC, nil
}

// editRules carries out the edits of a group's rules that a patch may hold beside its fields: addRules, a list of rules, and
// removeRules, a list of IDs. Unlike a new list of all rules they leave alone what somebody else adds at the same time.
func editRules(old, change map[string]any) error {
	add, _ := change["addRules"].([]any)
	remove, _ := change["removeRules"].([]any)
	delete(change, "addRules")
	delete(change, "removeRules")
	if len(add)+len(remove) == 0 {
		return nil
	}
	rules, _ := old["rules"].([]any)
	for _, id := range remove {
		at := slices.IndexFunc(rules, func(r any) bool {
			rule, ok := r.(map[string]any)
			return ok && rule["id"] == id
		})
		if at < 0 {
			return api.Errorf(api.CodeNotFound, "group %v has no rule %v: 'gatehouse describe sg %v' lists them", old["name"], id, old["name"])
		}
		rules = slices.Delete(slices.Clone(rules), at, at+1)
	}
	change["rules"] = append(slices.Clone(rules), add...)
	return nil
}

// patch merges as RFC 7396 does, and goes into the first element of a list of objects where the patch has one element:
// that is the primary interface of an instance.
func patch(old, change map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range old {
		out[k] = v
	}
	for k, v := range change {
		if v == nil {
			delete(out, k)
			continue
		}
		if sub, ok := v.(map[string]any); ok {
			if was, ok := out[k].(map[string]any); ok && k != "attach" {
				out[k] = patch(was, sub)
				continue
			}
		}
		if list, ok := v.([]any); ok && k == "interfaces" && len(list) == 1 {
			if was, ok := out[k].([]any); ok && len(was) > 0 {
				first, okOld := was[0].(map[string]any)
				sub, okNew := list[0].(map[string]any)
				if okOld && okNew {
					out[k] = append([]any{patch(first, sub)}, was[1:]...)
					continue
				}
			}
		}
		out[k] = v
	}
	return out
}

// dropIDs removes the read-only IDs of an object and all it holds.
func dropIDs(v any) {
	switch t := v.(type) {
	case map[string]any:
		delete(t, "id")
		for _, e := range t {
			dropIDs(e)
		}
	case []any:
		for _, e := range t {
			dropIDs(e)
		}
	}
}
