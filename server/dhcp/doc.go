// Package dhcp is what the DHCPv4 and the DHCPv6 server have in common: everything between the sockets and the protocol.
//
//	port (AF_PACKET) --+                           +-> reply
//	port (AF_PACKET) --+-> bounded queues -> decide +-> lease.Engine.Commit -> durable -> reply
//	relays (UDP)     --+   by client                +-> enrolment -> decide again
//	                                                +-> probe: is the address free? -> decide again
//
// Frames are read on each port of a vSwitch's bridge (or on the link itself), because a guest that no port holds yet
// never reaches the bridge; the port tells the vSwitch. Answers leave as frames of our own on the port where the request
// came in, which reaches a guest that has no address yet, and nobody else. A UDP socket on the server's port of each
// vSwitch's link receives nothing: see port.Reservation.
//
// One queue per worker is bounded and fair to the ports: under overload a flood loses its own packets, exchanges that have
// begun are finished, and of the rest the requests whose clients still wait are served. A client's messages stay in order
// because its MAC chooses the worker, but that a DISCOVER or SOLICIT may be overtaken by what follows it.
package dhcp
