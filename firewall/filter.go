package firewall

import (
	"maps"
	"slices"

	"gatehouse/vpc"
)

// filter adds what lets our decisions stand among other people's rules: what mangle has admitted is accepted before a DROP
// policy can refuse it. Mangle has judged all that has an end in a VPC. And the gateway never tells a guest that it could
// reach a neighbour directly.
func (b *builder) filter() {
	if len(b.switches) == 0 {
		return
	}
	accept := Rule{Target: Target{Kind: Accept}}

	if len(b.ranged) > 0 {
		vpcs, to := slices.Collect(maps.Keys(b.byVPC())), goTo(chainAcceptTo)
		b.chain("filter", chainAccept, append(b.vpcTree("filter", chainAccept, "src", vpcs, accept, to), to)...)
		b.chain("filter", chainAcceptTo, b.vpcTree("filter", chainAcceptTo, "dst", vpcs, accept)...)
		b.hook("filter", "FORWARD", chainAccept)
	}

	b.chain("filter", chainAdmit, b.linkTree("filter", chainAdmit, false, b.linkNames, perLink(accept))...)
	b.hook("filter", "INPUT", chainAdmit)

	redirect := icmpType(b.f, icmp4Redirect)
	if b.f == vpc.IPv6 {
		redirect = icmpType(b.f, icmp6Redirect)
	}
	b.chain("filter", chainRedirect, b.linkTree("filter", chainRedirect, true, b.linkNames, perLink(Rule{Target: Target{Kind: Drop}}))...)
	b.chain("filter", chainOutput, Rule{Match: redirect, Target: Target{Kind: Goto, Chain: chainRedirect}})
	b.hook("filter", "OUTPUT", chainOutput)
}
