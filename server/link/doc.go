// Package link gives every vSwitch its link on the gateway: bridges with isolated ports, gateway addresses, routes, permanent
// neighbours, and the few host-wide switches that routing needs. It speaks netlink only.
//
// One pass computes, then acts:
//
//	plan.go      what a snapshot wants                                      pure
//	state.go     what the kernel has, as one reading found it
//	diff.go      what to do about the difference, what is refused           pure
//	host.go      the part of it that is about the whole host                pure
//	ports.go     the part of it that is about the ports of bridges          pure
//	hold.go      which port holds which MAC                                 pure
//	undo.go      what was there before, so that Teardown can put it back
//	kernel.go    netlink and /proc/sys                                      the only part that changes anything
//	monitor.go   hears of changes by others
//	watch.go     reads the first frames of guests on the ports
//	manager.go   Manager: puts the parts together
//
// A pass that did something is followed by another one, so that what has been done is also read back.
//
// Behind a port of a bridge is one guest. A port gets the MAC of an interface by being the first that sends from it while no
// other port that is up holds it, and keeps it while it is in its bridge: nobody else has it while the port is up, and when
// the port was down it has it again. A guest that moves is followed to a port behind which nobody is, also when its old one
// was deleted; the old one has ten minutes to come back. A port behind which a guest is gets no other guest's MAC, whoever
// is away, nor that of a machine which nobody declared. Several guests behind one port are declared, each pinned to it
// (port:), or have a plain interface (attach.interface). Who is behind a new port that nobody is pinned to, its first frame
// says: only pinning protects a machine that is switched off from one that is plugged in anew.
//
// What is ours can be told after a crash: bridges that were created have a MAC that follows from the vSwitch's ID and an
// alias that says so, routes and neighbours carry protocol number 103, entries of the forwarding table are static and
// sticky. What was changed on things that are somebody else's is written down in the Journal before it is changed.
package link
