// Package firewall compiles a snapshot into the rules and sets that the kernel shall have, and walks packets through them.
//
// The order of a packet's way (Compile builds it, Trace walks it, docs and explain use its names):
//
//	raw PREROUTING    GH-RAW    who are you: source address, MAC and link belong together     anti-spoof
//	mangle INPUT      GH-INPUT  to the gateway itself: only what is offered to instances      host-access
//	mangle FORWARD    GH-FWD    foreign links, other VPCs                                     vpc
//	                  GH-NACL   network ACLs, out then in; every packet, stateless            nacl-egress, nacl-ingress
//	                  (GH-FWD)  established and related flows pass, invalid ones do not       conntrack
//	                  GH-EG     the source's profile: its groups' egress rules, merged        sg-egress
//	                  GH-IN     the destination's profile                                     sg-ingress
//	filter            GH-ACC    accepts what mangle has decided, so that nobody's DROP policy kills it
//	nat POSTROUTING   GH-NAT    masquerade for VPCs with a NAT gateway
//
// Everything here is a pure function. The drivers below (iptables, ipset, conntrack) make the kernel match, and reconcile
// keeps it so. Chains are named GH-…, sets gh4-… and gh6-…; nothing else on a host is ever touched but for one jump at
// the head of each kernel chain above.
package firewall
