package vpc

import (
	"net/netip"
	"time"
)

// LeaseState is where a lease is in its life.
type LeaseState string

// The states of a lease. Expiry only changes the state: an instance keeps its address for life.
const (
	LeaseOffered  LeaseState = "offered" // held in memory only, for seconds
	LeaseBound    LeaseState = "bound"
	LeaseExpired  LeaseState = "expired"
	LeaseReleased LeaseState = "released"
	LeaseDeclined LeaseState = "declined" // the client found it in use: quarantined until Expires
)

// Lease is one address of one interface as DHCP handed it out. The key is the address.
type Lease struct {
	Address   netip.Addr `json:"address"`
	MAC       MAC        `json:"mac"`
	ClientID  string     `json:"clientId,omitempty"` // hexadecimal; option 61 of DHCPv4
	DUID      string     `json:"duid,omitempty"`     // hexadecimal; DHCPv6
	Hostname  string     `json:"hostname,omitempty"` // as the client sent it
	Interface string     `json:"interface"`          // ID
	VSwitch   string     `json:"vswitch"`            // ID
	State     LeaseState `json:"state"`
	Start     time.Time  `json:"start"`
	Expires   time.Time  `json:"expires"`
}
