package server

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"gatehouse/server/api"
	"gatehouse/server/dns"
	"gatehouse/vpc"
)

// Describe gives everything about one object: its fields, and what follows from them.
func (g *Gateway) Describe(_ context.Context, kind vpc.Kind, vpcName, name string) (*api.Description, error) {
	s := g.stored.Load()
	o, err := lookup(s.Spec, kind, vpcName, name)
	if err != nil {
		return nil, err
	}
	leases := g.leases.Leases()
	shown, err := newCatalogue(s, leases).show(o)
	if err != nil {
		return nil, err
	}
	d := &api.Description{Object: shown}
	switch kind {
	case vpc.KindInstance:
		for _, i := range s.Instances {
			if i.ID == o.ID {
				describeInstance(d, s, i, leases)
			}
		}
	case vpc.KindInterface:
		for _, n := range s.Interfaces {
			if n.ID == o.ID {
				describeRules(d, n)
			}
		}
	case vpc.KindSecurityGroup:
		for _, sg := range s.Groups {
			if sg.ID == o.ID {
				describeGroup(d, s, sg)
			}
		}
	case vpc.KindNetworkACL:
		for _, a := range s.NetworkACLs {
			if a.ID == o.ID {
				d.Sections = append(d.Sections, aclSection("ingress", a, vpc.Ingress), aclSection("egress", a, vpc.Egress))
			}
		}
	case vpc.KindVSwitch:
		if w := s.VSwitchByID(o.ID); w != nil {
			describeVSwitch(d, s, w)
		}
	}
	return d, nil
}

func describeInstance(d *api.Description, s *vpc.Snapshot, i *vpc.Instance, leases []vpc.Lease) {
	rows := [][]string{}
	for _, l := range leases {
		for _, n := range i.Interfaces {
			if l.Interface == n.ID {
				rows = append(rows, []string{l.Address.String(), l.MAC.String(), string(l.State), l.Start.Format("2006-01-02 15:04:05"), l.Expires.Format("2006-01-02 15:04:05"), l.Hostname})
			}
		}
	}
	d.Sections = append(d.Sections, api.Section{Title: "leases", Header: []string{"ADDRESS", "MAC", "STATE", "SINCE", "EXPIRES", "HOSTNAME"}, Rows: rows})
	rows = [][]string{}
	for _, r := range dns.Records(dns.BuildView(s, i.VPC)) {
		if r.Source == "instance "+i.Name {
			rows = append(rows, []string{r.Name, r.Type, r.Value})
		}
	}
	d.Sections = append(d.Sections, api.Section{Title: "names", Header: []string{"NAME", "TYPE", "VALUE"}, Rows: rows})
	for _, n := range i.Interfaces {
		describeRules(d, n)
	}
}

// describeRules shows the rules that decide for an interface, in the order in which they are asked.
func describeRules(d *api.Description, n *vpc.Interface) {
	for _, dir := range []vpc.Direction{vpc.Ingress, vpc.Egress} {
		rows := [][]string{}
		for _, sg := range n.Groups {
			if sg.Type == vpc.GroupBasic && sg.InnerAccess == vpc.Accept {
				rows = append(rows, []string{"-", "accept", "all", "all", "members of " + sg.Name, "", sg.Name, "inner access"})
			}
		}
		for _, r := range n.EffectiveRules(dir) {
			other := ""
			if !r.OtherEnd().IsZero() {
				other = r.OtherEnd().String()
			}
			if r.SourcePorts != nil {
				other = strings.TrimSpace(other + " source ports " + r.SourcePorts.String())
			}
			rows = append(rows, []string{strconv.Itoa(r.Priority), string(r.Policy), r.Protocol.String(), r.Ports.String(), r.Peer().String(), other, r.Group.Name, r.ID})
		}
		last := "drop"
		if dir == vpc.Egress && n.Type() == vpc.GroupBasic {
			last = "accept"
		}
		rows = append(rows, []string{"-", last, "all", "all", "any", "", "", fmt.Sprintf("default of %s groups", n.Type())})
		d.Sections = append(d.Sections, api.Section{
			Title:  fmt.Sprintf("effective %s rules of %s (%s)", dir, n.ID, n.MAC),
			Header: []string{"PRIORITY", "POLICY", "PROTOCOL", "PORTS", "PEER", "OTHER END", "GROUP", "RULE"}, Rows: rows,
		})
	}
}

func describeGroup(d *api.Description, s *vpc.Snapshot, sg *vpc.SecurityGroup) {
	rows := [][]string{}
	for _, n := range sg.Members {
		var addrs []string
		for a := range n.Addrs {
			addrs = append(addrs, a.String())
		}
		for _, p := range n.IPv6Prefixes {
			addrs = append(addrs, p.String())
		}
		rows = append(rows, []string{n.Instance.Name, n.ID, strings.Join(addrs, ",")})
	}
	d.Sections = append(d.Sections, api.Section{Title: "members", Header: []string{"INSTANCE", "INTERFACE", "ADDRESSES"}, Rows: rows})
	rows = [][]string{}
	for _, other := range sg.VPC.Groups {
		for _, r := range other.Rules {
			if r.PeerGroup == sg.GroupSpec {
				rows = append(rows, []string{other.Name, r.ID, string(r.Direction), string(r.Policy)})
			}
		}
	}
	d.Sections = append(d.Sections, api.Section{Title: "named by rules of", Header: []string{"GROUP", "RULE", "DIRECTION", "POLICY"}, Rows: rows})
}

// aclSection shows a direction of an ACL with what the platform always admits before it and drops after it.
func aclSection(title string, a *vpc.NetworkACL, dir vpc.Direction) api.Section {
	sec := api.Section{Title: title, Header: []string{"ORDER", "TYPE", "POLICY", "PROTOCOL", "PORTS", "PEER", "ENTRY"}}
	sec.Rows = append(sec.Rows,
		[]string{"-", "system", "accept", "udp", "67,68,546,547", "this gateway (DHCP)", ""},
		[]string{"-", "system", "accept", "icmpv6", "all", "this gateway (neighbour discovery)", ""},
		[]string{"-", "system", "accept", "udp,tcp", "53", "this gateway (DNS)", ""},
		[]string{"-", "system", "accept", "icmp,icmpv6", "all", "path-MTU errors of admitted flows", ""})
	for _, e := range a.Entries(dir) {
		sec.Rows = append(sec.Rows, []string{strconv.Itoa(e.Index), "custom", string(e.Policy), e.Protocol.String(), e.Ports.String(), e.Peer.String(), e.ID})
	}
	sec.Rows = append(sec.Rows, []string{"*", "system", "drop", "all", "all", "any", ""})
	return sec
}

func describeVSwitch(d *api.Description, s *vpc.Snapshot, w *vpc.VSwitch) {
	rows := [][]string{}
	for _, n := range w.Interfaces {
		var addrs []string
		for a := range n.Addrs {
			addrs = append(addrs, a.String())
		}
		for _, p := range n.IPv6Prefixes {
			addrs = append(addrs, p.String())
		}
		rows = append(rows, []string{n.Instance.Name, n.ID, n.MAC.String(), strings.Join(addrs, ",")})
	}
	d.Sections = append(d.Sections, api.Section{Title: "interfaces", Header: []string{"INSTANCE", "INTERFACE", "MAC", "ADDRESSES"}, Rows: rows})
	rows = [][]string{
		{"system", "udp", "67", "DHCP"}, {"system", "udp", "547", "DHCPv6"}, {"system", "udp,tcp", "53", "DNS"},
		{"system", "icmp,icmpv6", "-", "echo request"}, {"system", "icmpv6", "-", "neighbour discovery, router solicitation, MLD"},
	}
	for _, h := range s.Host.HostAccess {
		if !h.Offered(w) {
			continue
		}
		rows = append(rows, []string{"hostAccess", h.Protocol.String(), h.Ports.String(), ""})
	}
	d.Sections = append(d.Sections, api.Section{Title: "what instances reach on the gateway", Header: []string{"TYPE", "PROTOCOL", "PORTS", ""}, Rows: rows})
}
