// Package iptables reads and writes gatehouse's chains and hooks, with whichever of the two iptables a host uses.
//
// What is ours is recognisable by name alone: chains begin with GH-, and a jump to such a chain from any other chain is a
// hook. Nothing else is ever written, also not a policy. Rules are recognised by their comment; saved rule text does not
// round-trip and is never interpreted, only handed back where a rule has to be deleted.
//
// Content goes through `iptables-restore --noflush` on standard input: one transaction per family and table, so that a
// packet sees the old chains or the new ones. A file name is never given: iptables-nft 1.8.9 takes one after -w for the
// number of seconds, applies nothing and reports success.
package iptables
