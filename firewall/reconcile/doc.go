// Package reconcile keeps the kernel's firewall equal to what the newest snapshot compiles to.
//
// One goroutine, Loop.Run, does all writing. A revision is put in force in this order, and what a step needs the steps
// before it have made:
//
//	sets        created, filled, changed; a set that rules use is never empty in between
//	accepts     that the revision ends are removed (filter decides after mangle, in a transaction of its own)
//	rules       raw, mangle, filter, nat: one transaction each, only chains that differ; both families side by side
//	hooks       one jump at the head of each kernel chain
//	read back   what was written
//	leftovers   chains and sets that nothing uses any more
//	flows       that the revision no longer allows are deleted
//
// When a step fails, what the earlier steps did is undone from the ruleset that was in force, the caller is told, and the
// revision is tried again with growing pauses. In between everything is read back at intervals; what somebody else
// removed or added is logged, counted and repaired, but not without end: two programs that undo each other's work
// would serve nobody.
package reconcile
