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
// What is ours can be told after a crash: bridges that were created have a MAC that follows from the vSwitch's ID and an
// alias that says so, routes and neighbours carry protocol number 103, entries of the forwarding table are static and
// sticky. What was changed on things that are somebody else's is written down in the Journal before it is changed.
package link
