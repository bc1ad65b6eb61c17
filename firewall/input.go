package firewall

import (
	"net/netip"

	"gatehouse/vpc"
)

const dnsPort = 53

// input adds mangle INPUT: what instances may reach on the gateway itself. It stands in mangle, so that nobody's ACCEPT goes
// round it. The gateway's own traffic to its guests is not filtered.
func (b *builder) input() {
	outside := Rule{Target: Target{Kind: Goto, Chain: chainHostOutside}}
	rules := []Rule{{Match: Match{In: "lo"}}}
	rules = append(rules, b.linkTree("mangle", chainInput, false, b.linkNames, func(name string) []Rule {
		return []Rule{{Target: Target{Kind: Goto, Chain: hostChain(b.byLink[name].VPC)}}}
	}, outside)...)
	b.chain("mangle", chainInput, append(rules, outside)...)
	b.hook("mangle", "INPUT", chainInput)

	// By a link that is no vSwitch's: nothing that is addressed to a gateway address, but for what DHCP relays forward.
	others := []Rule{{Match: notInSet(setName(b.f, setLocal), "dst"), Reason: vpc.ReasonNotOurs}}
	others = append(others, b.replies()...)
	for _, w := range b.s.VSwitches {
		for _, relay := range w.Attach.Relay {
			if vpc.FamilyOf(relay) == b.f {
				m := b.dhcp()
				m.Src = hostPrefix(relay)
				others = append(others, Rule{Match: m, Reason: vpc.ReasonHostService})
			}
		}
	}
	b.chain("mangle", chainHostOutside, append(others, refuse(Match{}, vpc.ReasonHostOutside))...)

	done := map[*vpc.VPC]bool{}
	for _, w := range b.switches {
		if !done[w.VPC] {
			done[w.VPC] = true
			b.chain("mangle", hostChain(w.VPC), b.hostRules(w.VPC)...)
		}
	}
	if len(b.switches) > 0 {
		b.chain("mangle", chainHostServices, b.services()...)
		b.chain("mangle", chainHostMany, append(b.essentials(), Rule{Target: Target{Kind: Drop}, Reason: vpc.ReasonHostClosed})...)
	}
}

func hostChain(v *vpc.VPC) string { return "GH-H-" + key(v.ID) }

func gatewaySet(f vpc.Family, v *vpc.VPC) string { return setName(f, setGateways+"-"+key(v.ID)) }

// hostRules sort what enters by a vSwitch of the VPC by whom it is addressed to.
func (b *builder) hostRules(v *vpc.VPC) []Rule {
	rules := b.replies()
	offered, many := Target{Kind: Goto, Chain: chainHostServices}, Target{Kind: Goto, Chain: chainHostMany}
	rules = append(rules, Rule{Match: inSet(gatewaySet(b.f, v), "dst"), Target: offered})
	if b.f == vpc.IPv6 {
		// fe80::1, and the address that the link has by itself.
		rules = append(rules, Rule{Match: Match{Dst: linkLocal6}, Target: offered}, Rule{Match: Match{Dst: multicast6}, Target: many})
	} else {
		rules = append(rules, Rule{Match: Match{Dst: broadcast4}, Target: many}, Rule{Match: Match{Dst: multicast4}, Target: many})
		for _, w := range b.switches {
			if w.VPC == v && w.CIDRBlock.IsValid() {
				rules = append(rules, Rule{Match: Match{Dst: hostPrefix(vpc.LastAddr(w.CIDRBlock))}, Target: many})
			}
		}
	}
	return append(rules, refuse(Match{}, vpc.ReasonHostForeign))
}

// replies admit what belongs to a known flow.
func (b *builder) replies() []Rule {
	rules := []Rule{{Match: Match{States: established}, Reason: vpc.ReasonHostReply}}
	for _, m := range relatedErrors(b.f) {
		rules = append(rules, Rule{Match: m, Reason: vpc.ReasonHostReply})
	}
	if !b.feat.RefuseMidStream {
		// Somebody's session may be older than our chains, and is then not known before it has passed. Without a SYN nobody opens one.
		rules = append(rules, Rule{Match: Match{Protocol: vpc.ProtocolTCP, SYN: -1, States: unseen}, Reason: vpc.ReasonHostReply})
	}
	return rules
}

func (b *builder) dhcp() Match {
	port := dhcpServerPort(b.f)
	return Match{Protocol: vpc.ProtocolUDP, DstPorts: vpc.Ports{{From: port, To: port}}}
}

// essentials are what no guest can live without, by unicast or not: DHCP, and in IPv6 neighbour and multicast listener
// discovery (RFC 4861, RFC 2710, RFC 3810).
func (b *builder) essentials() []Rule {
	rules := []Rule{{Match: b.dhcp(), Reason: vpc.ReasonHostService}}
	if b.f == vpc.IPv6 {
		for _, t := range []int{131, 132, icmp6RouterSol, icmp6NeighSol, 136, icmp6ReportV2} {
			rules = append(rules, Rule{Match: icmpType(b.f, t), Reason: vpc.ReasonHostService})
		}
	}
	return rules
}

// services are what the gateway offers at an address of its own.
func (b *builder) services() []Rule {
	rules := b.essentials()
	dns := vpc.Ports{{From: dnsPort, To: dnsPort}}
	echo := icmpType(b.f, icmp4Echo)
	if b.f == vpc.IPv6 {
		echo = icmpType(b.f, icmp6Echo)
	}
	for _, m := range []Match{{Protocol: vpc.ProtocolUDP, DstPorts: dns}, {Protocol: vpc.ProtocolTCP, DstPorts: dns}, echo} {
		rules = append(rules, Rule{Match: m, Reason: vpc.ReasonHostService})
	}
	everywhere := vpc.Peer{Kind: vpc.PeerPrefix, Prefix: netip.PrefixFrom(unspecified(b.f), 0)}
	for _, a := range b.s.Host.HostAccess {
		for _, m := range (endpoint{peer: everywhere, fromPeer: true}).matches(b.f, a.Protocol, nil, a.Ports) {
			if a.VPC == "" && a.VSwitch == "" {
				rules = append(rules, Rule{Match: m, Reason: vpc.ReasonHostAccess})
				continue
			}
			for _, w := range b.switches {
				if a.Offered(w) {
					m.In = w.LinkName()
					rules = append(rules, Rule{Match: m, Reason: vpc.ReasonHostAccess})
				}
			}
		}
	}
	return append(rules, refuse(Match{}, vpc.ReasonHostClosed))
}
