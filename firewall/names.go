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
	chainRaw     = "GH-RAW"   // raw PREROUTING
	chainForward = "GH-FWD"   // mangle FORWARD
	chainInput   = "GH-INPUT" // mangle INPUT
	chainAccept  = "GH-ACC"   // filter FORWARD
	chainAdmit   = "GH-AIN"   // filter INPUT
	chainOutput  = "GH-OUT"   // filter OUTPUT
	chainNAT     = "GH-NAT"   // nat POSTROUTING

	chainSource    = "GH-SRC"  // sources that are never forwarded
	chainVPC       = "GH-VPC"  // by ingress link: which VPC, and may it go where it goes
	chainFromVPC   = "GH-V-"   // + VPC: the packet comes from one of its vSwitches
	chainToLink    = "GH-LO"   // by egress link: marks what leaves by a vSwitch
	chainACL       = "GH-NACL" // both network ACLs
	chainACLOut    = "GH-NO"   // leaving a vSwitch that has one
	chainACLIn     = "GH-NI"   // entering one
	chainEgress    = "GH-EG"   // by profile of the source
	chainIngress   = "GH-IN"   // by profile of the destination
	chainProfileEg = "GH-O-"   // + profile
	chainProfileIn = "GH-I-"   // + profile
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
	return strings.TrimSuffix(root, "-") + "-" + text + "." + strconv.Itoa(p.Bits())
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

// Purposes that have a set of their own.
const (
	setVPCs     = "vpcs" // every range of every VPC
	setGateways = "gw"   // every gateway address that is on a link here
	setProfiles = "prof" // address -> profile, as a mark
	setNAT      = "nat"  // ranges of the VPCs with a NAT gateway
)
