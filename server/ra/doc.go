// Package ra is what the gateway says to IPv6 guests as a router (RFC 4861): router advertisements, and answers to those
// who look for a neighbour.
//
// DHCPv6 gives addresses and no routes. The advertisement makes guests ask it (M and O), gives them the default route by
// fe80::1, and says of the vSwitch's prefix that it is neither on the link nor for making addresses of: so what guests say
// to each other comes by the gateway. A guest that takes the prefix to be on its link all the same looks for its
// neighbours there; since ports are isolated, only the gateway can answer, and it does so in their name.
//
// A port is a link of its own to a router: advertisements leave by each port, and what one guest solicits the others do
// not hear. They come as frames of our own, as in package dhcp.
package ra
