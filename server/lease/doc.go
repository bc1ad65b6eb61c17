// Package lease says which address a DHCP client may have, and for how long. DHCPv4 and DHCPv6 share it.
//
// An instance has its addresses from the moment it exists, so nothing is ever picked from a pool here: the address of a
// client is the primary address of the interface whose MAC it has. What a lease adds is time: offered, bound, expired,
// released, declined. Only an enrolment makes an interface from a request, and it is the Enroller that makes it.
//
// An address that is new to an interface is offered once nobody on the client's link has answered for it; one that somebody
// uses is quarantined, as after a DECLINE. Offer says when to look, and Vacant and Conflict what was found.
//
// Offers are held in memory for seconds. A binding is durable before the client hears of it: Commit queues it, Run writes
// whatever has been queued meanwhile in one transaction, and only then calls back. An idle engine writes at once, a busy one
// gathers while the previous write is under way, and for four milliseconds at least while leases keep coming.
package lease
