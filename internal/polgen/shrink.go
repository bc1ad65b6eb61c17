package polgen

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"gatehouse/vpc"
)

// Shrink returns the smallest network it finds in which fails is still true, by leaving out one thing after another.
// What it leaves is valid if spec is.
func Shrink(spec *vpc.Spec, fails func(*vpc.Spec) bool) *vpc.Spec {
	for smaller := true; smaller; {
		smaller = false
		for n := 0; ; {
			c := clone(spec)
			if !cut(c, n) {
				break
			}
			if vpc.Validate(c, Host()).Err() == nil && fails(c) {
				spec, smaller = c, true
			} else {
				n++
			}
		}
	}
	return spec
}

// clone returns a deep copy.
func clone(spec *vpc.Spec) *vpc.Spec {
	b, err := json.Marshal(spec)
	c := &vpc.Spec{}
	if err == nil {
		err = json.Unmarshal(b, c)
	}
	if err != nil {
		panic(fmt.Sprintf("a generated network does not survive JSON: %v", err)) // a fault of the model, not of data
	}
	return c
}

// cut removes the nth thing that can be left out, and reports whether there is an nth one.
func cut(s *vpc.Spec, n int) bool {
	c := cutter{n}
	if remove(&c, &s.VPCs) {
		return true
	}
	for _, v := range s.VPCs {
		if remove(&c, &v.Instances) || remove(&c, &v.VSwitches) ||
			remove(&c, &v.NetworkACLs) || remove(&c, &v.PrefixLists) || remove(&c, &v.SecondaryCIDRBlocks) || remove(&c, &v.IPv6PrefixTranslations) {
			return true
		}
		for _, w := range v.VSwitches {
			if w.NetworkACL != "" && c.here() {
				w.NetworkACL = ""
				return true
			}
		}
		for i, g := range v.SecurityGroups {
			if g.Name != vpc.DefaultGroup && c.here() { // the group default is always there
				v.SecurityGroups = slices.Delete(v.SecurityGroups, i, i+1)
				return true
			}
			if remove(&c, &g.Rules) {
				return true
			}
			for _, r := range g.Rules {
				if r.SourcePorts != nil && c.here() {
					r.SourcePorts = nil
					return true
				}
				if r.Ports != nil && c.here() {
					r.Ports = nil
					return true
				}
			}
		}
		for _, a := range v.NetworkACLs {
			if remove(&c, &a.Ingress) || remove(&c, &a.Egress) {
				return true
			}
		}
		for _, l := range v.PrefixLists {
			if remove(&c, &l.Entries) {
				return true
			}
		}
		for _, i := range v.Instances {
			for _, nic := range i.Interfaces {
				if remove(&c, &nic.SecondaryPrivateIPs) || remove(&c, &nic.IPv6Addresses) || remove(&c, &nic.IPv6Prefixes) || len(nic.SecurityGroups) > 1 && remove(&c, &nic.SecurityGroups) {
					return true
				}
			}
		}
	}
	return false
}

// cutter counts down to the thing to cut.
type cutter struct{ n int }

func (c *cutter) here() bool {
	c.n--
	return c.n < 0
}

func remove[T any](c *cutter, list *[]T) bool {
	if c.n >= len(*list) {
		c.n -= len(*list)
		return false
	}
	*list = slices.Delete(*list, c.n, c.n+1)
	return true
}

// Describe writes a network and a packet in few lines, for the report of a failure.
func Describe(spec *vpc.Spec, p vpc.Packet) string {
	var b strings.Builder
	for _, v := range spec.VPCs {
		fmt.Fprintf(&b, "vpc %s %s %v %s\n", v.Name, v.CIDRBlock, v.SecondaryCIDRBlocks, v.IPv6CIDRBlock)
		for _, w := range v.VSwitches {
			fmt.Fprintf(&b, "  vswitch %s %s %s link=%s gateway=%s acl=%s\n", w.Name, w.CIDRBlock, w.IPv6CIDRBlock, w.LinkName(), w.GatewayAddr(vpc.IPv4), w.NetworkACL)
		}
		for _, l := range v.PrefixLists {
			fmt.Fprintf(&b, "  list %s %v\n", l.Name, l.Entries)
		}
		for _, a := range v.NetworkACLs {
			for _, e := range a.Ingress {
				fmt.Fprintf(&b, "  acl %s ingress %s %s %s %s from %s\n", a.Name, e.ID, e.Policy, e.Protocol, e.Ports, e.Source)
			}
			for _, e := range a.Egress {
				fmt.Fprintf(&b, "  acl %s egress %s %s %s %s to %s\n", a.Name, e.ID, e.Policy, e.Protocol, e.Ports, e.Destination)
			}
		}
		for _, g := range v.SecurityGroups {
			fmt.Fprintf(&b, "  group %s %s %s inner=%s\n", g.Name, g.ID, g.Type, g.InnerAccess)
			for _, r := range g.Rules {
				fmt.Fprintf(&b, "    %s %s %s %s %s [sport %s] from %s to %s prio %d\n", r.ID, r.Direction, r.Policy, r.Protocol, r.Ports, r.SourcePorts, r.Source, r.Destination, r.Priority)
			}
		}
		for _, i := range v.Instances {
			for _, n := range i.Interfaces {
				fmt.Fprintf(&b, "  %s %s %s %s in %s: %v groups %s\n", i.Name, n.ID, n.MAC, n.VSwitch, v.Name, slices.Collect(n.Ranges), strings.Join(n.SecurityGroups, ","))
			}
		}
	}
	return b.String() + DescribePacket(p)
}

// DescribePacket writes a packet in one line.
func DescribePacket(p vpc.Packet) string {
	from := map[vpc.PlaceKind]string{vpc.PlaceUplink: "uplink", vpc.PlaceForeign: "foreign link", vpc.PlaceGateway: "gateway", vpc.PlaceNowhere: "nowhere"}[p.In.Kind]
	if p.In.Kind == vpc.PlaceVSwitch {
		from = fmt.Sprintf("%s/%s mac %s", p.In.VSwitch.VPC.Name, p.In.VSwitch.Name, p.SrcMAC)
	}
	what := p.Protocol.String()
	switch {
	case p.Protocol.HasPorts():
		what = fmt.Sprintf("%s %d -> %d", p.Protocol, p.SrcPort, p.DstPort)
	case p.Protocol == vpc.ProtocolICMP || p.Protocol == vpc.ProtocolICMPv6:
		what = fmt.Sprintf("%s %d/%d", p.Protocol, p.ICMPType, p.ICMPCode)
	}
	state := map[vpc.ConnState]string{vpc.StateNew: "new", vpc.StateEstablished: "established", vpc.StateRelated: "related", vpc.StateInvalid: "invalid"}[p.State]
	if p.NoSYN {
		state += " without SYN"
	}
	if p.Group {
		state += ", in a frame for many stations"
	}
	return fmt.Sprintf("packet from %s: %s -> %s %s, %s", from, p.Src, p.Dst, what, state)
}
