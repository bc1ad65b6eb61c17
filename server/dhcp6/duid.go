package dhcp6

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"gatehouse/vpc"
)

// Lengths of a DUID with its type (RFC 8415 section 11.1), in bytes. One without an identifier says nothing.
const (
	minDUID = 3
	maxDUID = 130
)

// DUID identifies a server or a client of DHCPv6, as it stands in messages.
type DUID []byte

// NewDUID makes one from a random UUID (RFC 6355), which needs neither a clock nor a link that stays.
func NewDUID() DUID {
	d := make(DUID, 18)
	d[1] = byte(dhcpv6.DUID_UUID)
	rand.Read(d[2:]) // never fails
	d[2+6] = d[2+6]&0x0f | 0x40
	d[2+8] = d[2+8]&0x3f | 0x80
	return d
}

// linkLayer is the MAC that a DUID was made of (RFC 8415 sections 11.2 and 11.4); zero when it was made otherwise.
func (d DUID) linkLayer() vpc.MAC {
	at := 0
	switch {
	case len(d) == 14 && d[1] == byte(dhcpv6.DUID_LLT):
		at = 8
	case len(d) == 10 && d[1] == byte(dhcpv6.DUID_LL):
		at = 4
	}
	if at == 0 || d[0] != 0 || binary.BigEndian.Uint16(d[2:]) != uint16(iana.HWTypeEthernet) || d[at]&1 != 0 {
		return vpc.MAC{}
	}
	return vpc.MAC(d[at:])
}

// ParseDUID checks bytes that are to be the server's DUID.
func ParseDUID(b []byte) (DUID, error) {
	if len(b) < minDUID || len(b) > maxDUID {
		return nil, fmt.Errorf("a DUID has %d to %d bytes, not %d", minDUID, maxDUID, len(b))
	}
	return DUID(b), nil
}
