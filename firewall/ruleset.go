package firewall

import (
	"net/netip"

	"gatehouse/vpc"
)

// Ruleset is what the kernel shall have for one snapshot: a pure function of the snapshot and the kernel's features.
type Ruleset struct {
	Revision uint64
	Sets     []Set     // of both families, by name
	Families [2]Tables // IPv4, then IPv6
}

// Tables are the tables of one family, in the order in which they are written.
type Tables struct {
	Family vpc.Family
	Tables []Table
}

// Table is our part of one iptables table.
type Table struct {
	Name   string  // raw, mangle, filter, nat
	Chains []Chain // by name; only ours
	Hooks  []Hook
}

// Hook is the one jump that a kernel chain gets, always as its first rule.
type Hook struct {
	Chain  string // PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING
	Target string // a chain of ours
}

// Chain is one chain of ours with all its rules. It is not changed once it is part of a Ruleset.
type Chain struct {
	Name  string // at most 28 characters
	Rules []Rule

	text *chainText // shared by all rulesets that have the chain; nil: hashed every time
}

// Rule is one rule: everything in Match must hold, then Target is carried out.
type Rule struct {
	Match  Match
	Target Target
	ID     string     // what an operator can look up: a rule's or an entry's ID, or ""
	Reason vpc.Reason // why this rule decides; "" where it does not
	Bare   bool       // has no comment: it is known by its text (see bare.go)
}

// Match is what a rule asks of a packet. The zero value of a field asks nothing.
type Match struct {
	In, Out          string       // link names; a final + stands for any rest
	Src, Dst         netip.Prefix //
	SrcPorts         vpc.Ports    // at most 15 multiport slots (a range takes two)
	DstPorts         vpc.Ports    //
	Sets             []SetMatch   // all must hold
	States           []vpc.ConnState
	Mark             *Mark        // the packet's mark, under a mask
	ICMPType         int          // type+1, so that zero asks nothing (type 0 is echo reply)
	ICMPCode         int          // code+1; only with ICMPType
	SYN              int          // 1: opens a TCP connection (SYN without ACK, RST, FIN); -1: does not; EitherSYN
	Protocol         vpc.Protocol // ProtocolAll asks nothing
	SrcMAC           vpc.MAC      //
	NotIn, NotOut    bool         // negate In, Out
	NotSrc, NotDst   bool         // negate Src, Dst
	NotMark          bool         // negate Mark
	PhysdevIsBridged bool         // bridged, not routed
	GroupFrame       bool         // in a frame for many stations: broadcast or multicast
}

// EitherSYN is a Match.SYN: opens a TCP connection from either end, SYN with or without ACK.
const EitherSYN = 2

// SetMatch asks that an address (or an address and MAC) of the packet is in a set.
type SetMatch struct {
	Set string
	Dir string // src, dst; or "src,src" for a set of address and MAC
	Not bool
}

// Mark is a value under a mask.
type Mark struct{ Value, Mask uint32 }

// Target is what a rule does with a packet that it matches.
type Target struct {
	Kind  TargetKind
	Chain string       // Jump, Goto
	Set   string       // MapMark: the set whose element's skbmark becomes the packet's mark
	Dir   string       // MapMark: src or dst
	Mark  Mark         // SetMark: the bits under Mask become Value
	Log   string       // NFLog: the prefix "<reason>:<id>"
	To    netip.Prefix // Netmap
}

// TargetKind is the kind of a Target.
type TargetKind uint8

// The targets.
const (
	Return TargetKind = iota
	Accept
	Drop
	Jump
	Goto
	SetMark
	MapMark
	NFLog
	Masquerade
	ClampMSS // the packet's MSS becomes what both directions' routes can carry (RFC 4459 section 3.2)
	Netmap   // the flow's destination, or at the end of its way its source, goes over to another prefix and keeps its host part
)

// Set is one ipset. Members are in ipset's own syntax without "add NAME", canonical and sorted.
type Set struct {
	Name    string // at most 29 characters, so that a spare for swapping has a name too
	Type    string // hash:ip, hash:net, bitmap:ip,mac, hash:ip,mac …
	Family  vpc.Family
	Options []string // after the type: range, maxelem, skbinfo …
	Members []string // "10.0.0.1", "10.0.0.1,02:00:00:00:00:01", "10.0.0.1 skbmark 0x10000/0xffff0000"
}

// Features are what the kernel and the tools of a host can do, as the drivers probed it.
type Features struct {
	MarkMask uint32 // bits of the mark that are ours, contiguous
	MapMark  bool   // SET --map-set --map-mark and skbinfo sets
	IPMAC4   bool   // bitmap:ip,mac
	IPMAC6   bool   // hash:ip,mac with family inet6
	NFLog    bool   // NFLOG and hashlimit
	Physdev  bool   // -m physdev --physdev-is-bridged
	ClampMSS bool   // TCPMSS --clamp-mss-to-pmtu
	Netmap   bool   // NETMAP in the IPv6 table nat
	Bare     bool   // the rules of BareForms read back as they were written

	// RefuseMidStream refuses TCP packets that open no connection and belong to none. The driver sets it once our
	// chains have been in the kernel for 120 s, so that connections older than them can become known.
	RefuseMidStream bool
}
