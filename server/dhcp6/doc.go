// Package dhcp6 serves DHCPv6 (RFC 8415) to the guests of the vSwitches: one address for each interface, its primary one,
// the prefixes that are delegated to it, and what a guest has to know of its network. Routes are not DHCPv6's to give: see package ra.
//
// What is answered is computed by pure functions: ParseRequest reads and checks a message, Request.Decide says what to do
// with it, Reply.Encode builds the answer. Package dhcp is the rest, the same as for DHCPv4.
//
// The identity of a client is its MAC, as everywhere in gatehouse: the source of its frame. Behind a relay it is what the
// relay says that it was (RFC 6939), else what the client's link-local address or its DUID was made of. For the rest its DUID
// is kept for display, because cloned machines share theirs.
package dhcp6
