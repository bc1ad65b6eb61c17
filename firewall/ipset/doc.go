// Package ipset makes the kernel's sets equal to those of a compiled ruleset.
//
// Only sets whose names begin with gh4- or gh6- are ever listed or written. A few members are changed by asking the kernel,
// everything else goes through `ipset restore` on standard input, which is one process for any number of changes. It is not a transaction: the lines before the
// one that the kernel refuses stay in force. Write therefore prepares whatever can fail (new sets, and spares for those
// that change much) before it touches a set that rules already use, and a set in use is never flushed: small changes are
// single additions and removals, large ones fill a spare and swap, which is atomic for packets.
package ipset
