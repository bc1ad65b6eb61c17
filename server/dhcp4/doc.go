// Package dhcp4 serves DHCPv4 (RFC 2131) to the guests of the vSwitches.
//
// What is answered is computed by pure functions: ParseRequest reads and checks a message, Request.Decide says what to do
// with it, Reply.Encode builds the answer, Route says where it goes (RFC 2131 section 4.1). Package dhcp is the rest, the
// same as for DHCPv6.
package dhcp4
