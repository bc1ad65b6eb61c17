package firewall

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"

	"gatehouse/vpc"
)

// The chains that are entered from elsewhere by name. What comes below them appends to their names.
const (
	chainRaw      = "GH-RAW"   // raw PREROUTING
	chainRawLinks = "GH-RL"    // raw: by link, where the source is not in the range of the link's vSwitch
	chainForward  = "GH-FWD"   // mangle FORWARD
	chainInput    = "GH-INPUT" // mangle INPUT
	chainAccept   = "GH-ACC"   // filter FORWARD
	chainAdmit    = "GH-AIN"   // filter INPUT
	chainOutput   = "GH-OUT"   // filter OUTPUT
	chainMSS      = "GH-MSS"   // mangle POSTROUTING
	chainNAT      = "GH-NAT"   // nat POSTROUTING
	chainMapped   = "GH-MAP"   // nat PREROUTING

	chainSwitches    = "GH-W"   // by source: which vSwitch's range it is from
	chainFrom        = "GH-F-"  // + vSwitch: from its range
	chainVPC         = "GH-V-"  // + VPC: where its packets may go
	chainInside      = "GH-VI-" // + vSwitch: to its range, from inside its VPC
	chainElsewhere   = "GH-VE-" // + VPC: to none of its vSwitches
	chainLeaving     = "GH-VL"  // out of a VPC
	chainUplinks     = "GH-VU"  // and into no other
	chainStays       = "GH-S"   // inside a vSwitch
	chainTo          = "GH-T-"  // + vSwitch: to its range, from no vSwitch's
	chainEntering    = "GH-VO"  // from outside into a VPC
	chainSource      = "GH-SRC" // sources that are never forwarded
	chainOthers      = "GH-XT"  // by destination: to which vSwitch's range it is
	chainNeither     = "GH-XN"  // to none
	chainAstray      = "GH-XA"  // into a VPC, but by no vSwitch's link
	chainACLOut      = "GH-NO-" // + ACL: leaving a vSwitch that has it
	chainACLIn       = "GH-NI-" // + ACL: entering one
	chainToACL       = "GH-NV-" // + VPC: finds the ACL of the vSwitch that is entered
	chainState       = "GH-CT"  // known flows; the groups for all others
	chainEgress      = "GH-EG"  // by profile of the source
	chainIngress     = "GH-IN"  // by profile of the destination
	chainEgressNone  = "GH-EX"  // a source without a profile
	chainIngressNone = "GH-IX"  // a destination without one
	chainProfileEg   = "GH-O-"  // + profile
	chainProfileIn   = "GH-I-"  // + profile

	chainAcceptTo     = "GH-AT" // to a VPC's range
	chainRedirect     = "GH-OR" // redirects
	chainLeft         = "GH-XL" // none of ours: left alone
	chainForged       = "GH-XI" // by a vSwitch's link, but not from its range
	chainNobodys      = "GH-XO" // to a vSwitch's link, but not to its range
	chainHostOutside  = "GH-HX" // to the gateway, by no vSwitch's link
	chainHostServices = "GH-HS" // to an address of the gateway
	chainHostMany     = "GH-HM" // to an address for many
	chainNoSource     = "GH-SU" // raw: from nobody yet
	chainBindings     = "GH-SA" // raw: addresses and their MACs, where they are rules
)

// maxChainName is what the kernel leaves for a chain's name (XT_EXTENSION_MAXNAMELEN, its final NUL apart).
const maxChainName = 28

// key shortens an ID to at most 16 characters that may stand in names: its random part, or a hash when that is none.
func key(id string) string {
	_, random, ok := strings.Cut(id, "-")
	plain := strings.IndexFunc(random, func(c rune) bool { return !('a' <= c && c <= 'z' || '0' <= c && c <= '9') }) < 0
	if ok && plain && random != "" && len(random) <= 16 {
		return random
	}
	return hash16(id)
}

// hash16 returns 64 bits of a hash of s in hexadecimal.
func hash16(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// reasonChain names the chain that drops for a reason. The reasons of group defaults are too long for a chain's name.
func reasonChain(r vpc.Reason) string { return "GH-D-" + strings.Replace(string(r), "default.", "", 1) }

// nodeName names an inner node of a tree of prefixes.
func nodeName(root string, p netip.Prefix) string {
	b := p.Addr().AsSlice()
	text := hex.EncodeToString(b)
	if len(b) > 4 {
		text = hash16(text)
	}
	name := strings.TrimSuffix(root, "-") + "-" + text + "." + strconv.Itoa(p.Bits())
	if len(name) > maxChainName {
		_, kind, _ := strings.Cut(root, "-")
		kind, _, _ = strings.Cut(kind, "-")
		return "GH-" + kind + "." + hash16(name)
	}
	return name
}

// setName names the set of an object, or of a purpose, in a family.
func setName(f vpc.Family, id string) string {
	const limit = 29 - len("gh4-")
	if len(id) > limit || strings.IndexFunc(id, func(c rune) bool { return !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') }) >= 0 {
		kind, _, _ := strings.Cut(id, "-")
		id = kind[:min(len(kind), 4)] + "-" + hash16(id)
	}
	return "gh" + strconv.Itoa(int(f)) + "-" + id
}

// groupSet names the set of a security group's members. That of IPv6 holds networks, the prefixes delegated to members among
// them; it has another name than the set of addresses that it once was, because a set in use cannot change its type.
func groupSet(f vpc.Family, id string) string {
	if f == vpc.IPv6 {
		return setName(f, "net-"+id)
	}
	return setName(f, id)
}

// groupType is the type of the set of a security group's members.
func groupType(f vpc.Family) string {
	if f == vpc.IPv6 {
		return "hash:net"
	}
	return "hash:ip"
}

// Purposes that have a set of their own.
const (
	setVPCs     = "vpcs"  // every range of every VPC
	setGateways = "gw"    // every gateway address that is on a link here
	setLocal    = "local" // these, and the addresses for many of their ranges
	setProfiles = "mark"  // address -> profile, as a mark; every other address has none
	setNAT      = "nat"   // ranges of the VPCs with a NAT gateway
)
