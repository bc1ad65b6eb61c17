package vpc

import (
	"crypto/rand"
	"encoding/hex"
)

// Prefixes of IDs, with the hyphen.
const (
	prefixVPC           = "vpc-"
	prefixVSwitch       = "vsw-"
	prefixInstance      = "i-"
	prefixInterface     = "eni-"
	prefixSecurityGroup = "sg-"
	prefixRule          = "sgr-"
	prefixNetworkACL    = "nacl-"
	prefixEntry         = "nae-"
	prefixPrefixList    = "pl-"
	prefixZone          = "zone-"
)

// RandomID returns a new ID: the prefix, which ends in a hyphen, and 16 random hexadecimal digits.
func RandomID(prefix string) string {
	var b [8]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return prefix + hex.EncodeToString(b[:])
}
