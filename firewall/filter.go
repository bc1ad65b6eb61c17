package firewall

import "gatehouse/vpc"

// filter adds what lets our decisions stand among other people's rules: what mangle has admitted is accepted before a DROP
// policy can refuse it, between vSwitches and between a vSwitch and an uplink only. And the gateway never tells a guest
// that it could reach a neighbour directly.
func (b *builder) filter() {
	if len(b.switches) == 0 {
		return
	}
	accept := Rule{Target: Target{Kind: Accept}}

	b.chain("filter", "GH-AV", b.linkTree("filter", "GH-AV", true, b.linkNames, perLink(accept))...)
	var toUplink, fromUplink []Rule
	for _, u := range b.s.Host.Uplinks {
		toUplink = append(toUplink, Rule{Match: Match{Out: u}, Target: Target{Kind: Accept}})
		fromUplink = append(fromUplink, Rule{Match: Match{In: u}, Target: Target{Kind: Goto, Chain: "GH-AV"}})
	}
	uplinks := Rule{Target: Target{Kind: Goto, Chain: "GH-AU"}}
	b.chain("filter", "GH-AU", fromUplink...)
	b.chain("filter", "GH-AO", append(toUplink, Rule{Target: Target{Kind: Goto, Chain: "GH-AV"}})...)
	b.chain("filter", chainAccept, append(b.linkTree("filter", chainAccept, false, b.linkNames,
		perLink(Rule{Target: Target{Kind: Goto, Chain: "GH-AO"}}), uplinks), uplinks)...)
	b.hook("filter", "FORWARD", chainAccept)

	b.chain("filter", chainAdmit, b.linkTree("filter", chainAdmit, false, b.linkNames, perLink(accept))...)
	b.hook("filter", "INPUT", chainAdmit)

	redirect := icmpType(b.f, icmp4Redirect)
	if b.f == vpc.IPv6 {
		redirect = icmpType(b.f, icmp6Redirect)
	}
	b.chain("filter", "GH-OR", b.linkTree("filter", "GH-OR", true, b.linkNames, perLink(Rule{Target: Target{Kind: Drop}}))...)
	b.chain("filter", chainOutput, Rule{Match: redirect, Target: Target{Kind: Goto, Chain: "GH-OR"}})
	b.hook("filter", "OUTPUT", chainOutput)
}
