// Package firewall compiles a snapshot into the rules and sets that the kernel shall have, and walks packets through them.
//
// The order of a packet's way (Compile builds it, Trace walks it, docs and explain use its names):
//
//	raw PREROUTING    GH-RAW    who are you: source address, MAC and link belong together     anti-spoof
//	nat PREROUTING    GH-MAP    who is meant by an address in an external prefix
//	mangle INPUT      GH-INPUT  to the gateway itself: only what is offered to instances      host-access
//	mangle FORWARD    GH-FWD    two ways lead to GH-CT, and one out of here
//	                  GH-W      from a vSwitch's range, GH-F-…:
//	                  GH-V-…      where its VPC may send it; other VPCs, foreign links        vpc
//	                  GH-NO-…     the ACL of the vSwitch that it leaves; every packet         nacl-egress
//	                  GH-NV-…     finds the ACL of the vSwitch that it enters, GH-NI-…        nacl-ingress
//	                  GH-XT     from elsewhere: none of ours is left alone, or to a vSwitch's range, GH-T-…:
//	                  GH-VO       by an uplink only, from sources that somebody can have      vpc, anti-spoof
//	                  GH-NI-…     the ACL of the vSwitch that it enters                       nacl-ingress
//	                  GH-CT     established and related flows pass, invalid ones do not       conntrack
//	                  GH-EG     the source's profile: its groups' egress rules, merged        sg-egress
//	                  GH-IN     the destination's profile                                     sg-ingress
//	filter            GH-ACC    accepts what mangle has decided, so that nobody's DROP policy kills it
//	                  GH-AIN    the same for what is for the gateway itself
//	                  GH-OUT    keeps redirects from the guests
//	mangle POSTROUTING GH-MSS   between a VPC and the outside: TCP segments that fit the smaller link
//	nat POSTROUTING   GH-NAT    masquerade for VPCs with a NAT gateway, and external prefixes for those with prefix translation
//
// A stage is entered by jump and walked by goto: RETURN in it means "go on with the next stage", and every drop ends in a
// chain GH-D-<reason>, or at a rule whose comment and log prefix name the rule or entry that decided.
//
// Where there is much to choose from, a tree of chains chooses (tree.go): by address or range, by link name, or by the mark
// that a set gives every address for its profile. Policy profiles (profile.go) are the distinct sets of groups that interfaces
// have; each has one chain of egress rules, GH-O-…, and one of ingress rules, GH-I-….
//
// Everything here is a pure function. The drivers below (iptables, ipset, conntrack) make the kernel match, and reconcile
// keeps it so. Chains are named GH-…, sets gh4-… and gh6-…; nothing else on a host is ever touched but for one jump at
// the head of each kernel chain above.
package firewall
