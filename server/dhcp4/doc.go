// Package dhcp4 serves DHCPv4 (RFC 2131) to the guests of the vSwitches.
//
// What is answered is computed by pure functions: ParseRequest reads and checks a message, decide says what to do with
// it, Options and Encode build the answer, Route says where it goes (RFC 2131 section 4.1). Server is the thin rest:
//
//	port (AF_PACKET) --+                           +-> reply: OFFER, NAK, INFORM's ACK
//	port (AF_PACKET) --+-> bounded queues -> decide +-> lease.Engine.Commit -> durable -> ACK
//	relays (UDP 67)  --+   by client                +-> enrolment -> decide again
//
// Frames are read on each port of a vSwitch's bridge (or on the link itself), because a guest that no port holds yet
// never reaches the bridge; the port tells the vSwitch. Answers leave as frames of our own on the port where the request
// came in, which reaches a guest that has no address yet, and nobody else. A UDP socket on port 67 of each vSwitch's link
// receives nothing: it is there so that the kernel does not answer "port unreachable", and so that another DHCP server
// on this host is named instead of half the requests being lost to it.
//
// One queue per worker is bounded and drops the oldest: under overload the requests whose clients still wait are served.
// A client's messages stay in order because its MAC chooses the worker.
package dhcp4
