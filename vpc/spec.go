package vpc

import "net/netip"

// Spec is the desired state of the network as people declare it: a tree whose identities are names.
//
// A Spec comes from a manifest (IDs and chosen addresses may be missing, defaults are filled in by SetDefaults), or
// from the store (complete). The objects that it points to are never changed in place once they have been stored:
// a change makes new objects and a new Spec that shares all the others.
//
// The JSON names are the manifest's. An ID, once given, never changes.
type Spec struct {
	VPCs         []*VPCSpec         `json:"vpcs,omitzero"`
	PrivateZones []*PrivateZoneSpec `json:"privateZones,omitzero"` // zones that several VPCs share
	Tests        []*TestSpec        `json:"tests,omitzero"`        // nil in a manifest: the stored tests stay
}

// VPCSpec is one VPC with everything in it.
type VPCSpec struct {
	ID                  string         `json:"id,omitempty"`
	Name                string         `json:"name"`
	Description         string         `json:"description,omitempty"`
	CIDRBlock           netip.Prefix   `json:"cidrBlock"`
	SecondaryCIDRBlocks []netip.Prefix `json:"secondaryCidrBlocks,omitzero"`
	IPv6CIDRBlock       netip.Prefix   `json:"ipv6CidrBlock,omitzero"`
	DNSHostnames        bool           `json:"dnsHostnames"`
	Domain              string         `json:"domain,omitempty"` // empty: <region>.ecs.internal
	NATGateway          bool           `json:"natGateway"`

	IPv6PrefixTranslations []PrefixTranslationSpec `json:"ipv6PrefixTranslations,omitzero"` // at most one an uplink

	DHCPOptions    DHCPOptionsSpec    `json:"dhcpOptions,omitzero"`
	VSwitches      []*VSwitchSpec     `json:"vswitches,omitzero"`
	SecurityGroups []*GroupSpec       `json:"securityGroups,omitzero"`
	PrefixLists    []*PrefixListSpec  `json:"prefixLists,omitzero"`
	NetworkACLs    []*ACLSpec         `json:"networkAcls,omitzero"`
	Instances      []*InstanceSpec    `json:"instances,omitzero"`
	PrivateZones   []*PrivateZoneSpec `json:"privateZones,omitzero"`
	Forwarders     []*ForwarderSpec   `json:"forwarders,omitzero"`
}

// SetDefaults fills in what an omitted field means; decoders call it before they read the fields.
func (v *VPCSpec) SetDefaults() {
	v.DNSHostnames = true
	v.DHCPOptions.SetDefaults()
}

// PrefixTranslationSpec lets a VPC's IPv6 range be seen as another one of the same length beyond an uplink: network prefix
// translation (RFC 6296), but by connection tracking, so that every address keeps its host part and groups know the flows.
type PrefixTranslationSpec struct {
	Uplink         string       `json:"uplink"`
	ExternalPrefix netip.Prefix `json:"externalPrefix"`
}

// DHCPOptionsSpec is a VPC's DHCP options set.
type DHCPOptionsSpec struct {
	DomainName        string       `json:"domainName,omitempty"`       // empty: the VPC's domain
	DomainNameServers []netip.Addr `json:"domainNameServers,omitzero"` // empty: the vSwitch's gateway
	SearchDomains     []string     `json:"searchDomains,omitzero"`
	NTPServers        []netip.Addr `json:"ntpServers,omitzero"`
	LeaseTime         Duration     `json:"leaseTime,omitempty"`     // 30s to 7300d; default 24h
	IPv6LeaseTime     Duration     `json:"ipv6LeaseTime,omitempty"` // the same for DHCPv6
	MTU               int          `json:"mtu,omitempty"`           // bytes; 0: not sent
	Routes            []RouteSpec  `json:"routes,omitzero"`
	Boot              BootSpec     `json:"boot,omitzero"`
	CaptivePortal     string       `json:"captivePortal,omitempty"`     // the portal's API (RFC 8910); empty: not sent
	IPv6OnlyPreferred Duration     `json:"ipv6OnlyPreferred,omitempty"` // for how long a guest that can may do without IPv4 (RFC 8925); 0: not sent
}

// SetDefaults fills in what an omitted field means.
func (o *DHCPOptionsSpec) SetDefaults() {
	const day = Duration(24 * 60 * 60 * 1e9)
	o.LeaseTime, o.IPv6LeaseTime = day, day
}

// RouteSpec is a classless static route (option 121); its next hop is always the gateway.
type RouteSpec struct {
	Destination netip.Prefix `json:"destination"`
}

// BootSpec says what a network boot loads.
type BootSpec struct {
	Server   string `json:"server,omitempty"`   // TFTP or HTTP server: an address or a name
	File     string `json:"file,omitempty"`     // for UEFI clients
	BIOSFile string `json:"biosFile,omitempty"` // for BIOS clients
}

// VSwitchSpec is one vSwitch: a range of addresses behind one link of the gateway.
type VSwitchSpec struct {
	ID               string       `json:"id,omitempty"`
	Name             string       `json:"name"`
	Description      string       `json:"description,omitempty"`
	CIDRBlock        netip.Prefix `json:"cidrBlock"`
	IPv6CIDRBlock    netip.Prefix `json:"ipv6CidrBlock,omitzero"`
	Gateway          netip.Addr   `json:"gateway,omitzero"` // invalid: the third last address
	Attach           AttachSpec   `json:"attach,omitzero"`
	NetworkACL       string       `json:"networkAcl,omitempty"` // empty: unfiltered
	Enrollment       Enrollment   `json:"enrollment"`
	EnrollmentGroups []string     `json:"enrollmentSecurityGroups,omitzero"` // nil: [default]
	Pool             AddrRange    `json:"pool,omitzero"`                     // zero: every free address
}

// SetDefaults fills in what an omitted field means.
func (v *VSwitchSpec) SetDefaults() { v.Enrollment = EnrollmentAuto }

// AttachSpec says where a vSwitch's guests are. At most one field is set; none means a bridge of the vSwitch's own.
type AttachSpec struct {
	Bridge    string       `json:"bridge,omitempty"`
	Interface string       `json:"interface,omitempty"`
	Relay     []netip.Addr `json:"relay,omitzero"` // DHCP relays, link-local ones with their link; no link here and nothing is forwarded
}

// Enrollment says what an unknown MAC that asks for an address becomes.
type Enrollment string

// The two enrolment modes.
const (
	EnrollmentAuto   Enrollment = "auto"
	EnrollmentClosed Enrollment = "closed"
)

// GroupType is the type of a security group.
type GroupType string

// The cloud's API calls them normal and enterprise.
const (
	GroupBasic    GroupType = "basic"
	GroupAdvanced GroupType = "advanced"
)

// Policy is what a rule or an entry does with what it matches; a drop is silent.
type Policy string

// The two policies.
const (
	Accept Policy = "accept"
	Drop   Policy = "drop"
)

// Direction is seen from the instance.
type Direction string

// The two directions.
const (
	Ingress Direction = "ingress"
	Egress  Direction = "egress"
)

// DefaultGroup is the name of the basic group without rules that every VPC has.
const DefaultGroup = "default"

// GroupSpec is a security group.
type GroupSpec struct {
	ID          string      `json:"id,omitempty"`
	Name        string      `json:"name"`
	Description string      `json:"description,omitempty"`
	Type        GroupType   `json:"type"`
	InnerAccess Policy      `json:"innerAccess,omitempty"` // basic: default accept; advanced: always drop
	Rules       []*RuleSpec `json:"rules,omitzero"`
}

// SetDefaults fills in what an omitted field means. InnerAccess depends on Type: empty means accept in a basic group
// and drop in an advanced one (merge fills it in).
func (g *GroupSpec) SetDefaults() { g.Type = GroupBasic }

// RuleSpec is one rule of a security group. On an ingress rule Source is the peer and Destination (with SourcePorts)
// makes it a five-tuple rule; on an egress rule the other way round. Ports are always destination ports.
type RuleSpec struct {
	ID          string    `json:"id,omitempty"`
	Direction   Direction `json:"direction"`
	Policy      Policy    `json:"policy"`
	Protocol    Protocol  `json:"protocol"`
	Ports       Ports     `json:"ports,omitzero"`
	SourcePorts Ports     `json:"sourcePorts,omitzero"`
	Source      Peer      `json:"source,omitzero"`
	Destination Peer      `json:"destination,omitzero"`
	Priority    int       `json:"priority"` // 1 (strongest) to 100
	Description string    `json:"description,omitempty"`
}

// SetDefaults fills in what an omitted field means.
func (r *RuleSpec) SetDefaults() { r.Policy, r.Priority = Accept, 1 }

// Peer returns the side of the rule that it is about: the source of an ingress rule, the destination of an egress rule.
func (r *RuleSpec) Peer() Peer {
	if r.Direction == Egress {
		return r.Destination
	}
	return r.Source
}

// OtherEnd returns the optional other address side of a five-tuple rule: a prefix, or nothing.
func (r *RuleSpec) OtherEnd() Peer {
	if r.Direction == Egress {
		return r.Source
	}
	return r.Destination
}

// PrefixListSpec is a named list of prefixes of one family.
type PrefixListSpec struct {
	ID          string         `json:"id,omitempty"`
	Name        string         `json:"name"`
	Description string         `json:"description,omitempty"`
	Family      string         `json:"family"` // ipv4 or ipv6
	Entries     []netip.Prefix `json:"entries,omitzero"`
	MaxEntries  int            `json:"maxEntries,omitempty"` // what is charged to quotas; 1 to 200
}

// ACLSpec is a network ACL: ordered, stateless entries per direction.
type ACLSpec struct {
	ID          string       `json:"id,omitempty"`
	Name        string       `json:"name"`
	Description string       `json:"description,omitempty"`
	Ingress     []*EntrySpec `json:"ingress,omitzero"`
	Egress      []*EntrySpec `json:"egress,omitzero"`
}

// EntrySpec is one entry of a network ACL: Source on ingress, Destination on egress (a prefix or a prefix list); Ports
// are destination ports in both directions.
type EntrySpec struct {
	ID          string   `json:"id,omitempty"`
	Policy      Policy   `json:"policy"`
	Protocol    Protocol `json:"protocol"`
	Ports       Ports    `json:"ports,omitzero"`
	Source      Peer     `json:"source,omitzero"`
	Destination Peer     `json:"destination,omitzero"`
	Description string   `json:"description,omitempty"`
}

// SetDefaults fills in what an omitted field means.
func (e *EntrySpec) SetDefaults() { e.Policy = Accept }

// InstanceSpec is a machine with one or more interfaces; its name is its host name.
type InstanceSpec struct {
	ID          string           `json:"id,omitempty"`
	Name        string           `json:"name"`
	Description string           `json:"description,omitempty"`
	Interfaces  []*InterfaceSpec `json:"interfaces,omitzero"` // the first is the primary one
	PrivateDNS  PrivateDNSSpec   `json:"privateDns"`
	Metadata    MetadataSpec     `json:"metadata,omitzero"`
	Enrolled    bool             `json:"enrolled,omitempty"` // made from a DHCP request, not declared
}

// SetDefaults fills in what an omitted field means.
func (i *InstanceSpec) SetDefaults() { i.PrivateDNS.SetDefaults() }

// HostnameType says which form of name the guest is told.
type HostnameType string

// The forms of ECS's PrivateDnsNameOptions.
const (
	HostnameCustom     HostnameType = "custom"
	HostnameIPBased    HostnameType = "ipBased"
	HostnameInstanceID HostnameType = "instanceIdBased"
)

// PrivateDNSSpec are the per-instance switches of private DNS names (PrivateDnsNameOptions).
type PrivateDNSSpec struct {
	HostnameType HostnameType `json:"hostnameType"`
	IDARecord    bool         `json:"idARecord"`
	IDAAAARecord bool         `json:"idAAAARecord"`
	IPARecord    bool         `json:"ipARecord"`
	IPPtrRecord  bool         `json:"ipPtrRecord"`
}

// SetDefaults turns everything on, unlike the cloud.
func (p *PrivateDNSSpec) SetDefaults() {
	*p = PrivateDNSSpec{HostnameType: HostnameCustom, IDARecord: true, IDAAAARecord: true, IPARecord: true, IPPtrRecord: true}
}

// MetadataSpec is what the metadata service tells the guest.
type MetadataSpec struct {
	UserData string   `json:"userData,omitempty"`
	SSHKeys  []string `json:"sshKeys,omitzero"`
}

// InterfaceSpec is an elastic network interface; its MAC is its identity.
type InterfaceSpec struct {
	ID                  string         `json:"id,omitempty"`
	MAC                 MAC            `json:"mac"`
	VSwitch             string         `json:"vswitch"`
	PrivateIP           netip.Addr     `json:"privateIp,omitzero"` // invalid in a manifest: chosen once, then kept
	SecondaryPrivateIPs []netip.Addr   `json:"secondaryPrivateIps,omitzero"`
	IPv6Addresses       []netip.Addr   `json:"ipv6Addresses,omitzero"`
	IPv6AddressCount    *int           `json:"ipv6AddressCount,omitempty"` // only in a manifest; nil: 1 where the vSwitch has IPv6
	IPv6Prefixes        []netip.Prefix `json:"ipv6Prefixes,omitzero"`      // delegated to the guest, for what is behind it; each a /80
	SecurityGroups      []string       `json:"securityGroups,omitzero"`    // nil in a manifest: [default]; empty: refused
	Port                string         `json:"port,omitempty"`             // pinned bridge port; empty: wherever the MAC shows up first
}

// Missing says what becomes of a name that a private zone does not have.
type Missing string

// The cloud calls them ZONE and RECORD proxy patterns.
const (
	MissingNXDOMAIN Missing = "nxdomain"
	MissingForward  Missing = "forward"
)

// PrivateZoneSpec is a private DNS zone.
type PrivateZoneSpec struct {
	ID         string        `json:"id,omitempty"`
	Name       string        `json:"name"`
	VPCs       []string      `json:"vpcs,omitzero"` // names; only at the top level
	Missing    Missing       `json:"missing"`
	TransferTo []netip.Addr  `json:"transferTo,omitzero"`
	UpdateKeys []string      `json:"updateKeys,omitzero"`
	Records    []*RecordSpec `json:"records,omitzero"`
}

// SetDefaults fills in what an omitted field means.
func (z *PrivateZoneSpec) SetDefaults() { z.Missing = MissingNXDOMAIN }

// RecordSpec is one record of a private zone in presentation form (RFC 1035 section 5.1): Name is relative to the zone
// (@ is the apex, * a wildcard), a Value without a final dot that holds a name is relative too.
type RecordSpec struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Value  string `json:"value"`
	TTL    int    `json:"ttl"`              // seconds
	Weight int    `json:"weight,omitempty"` // 1 to 100
}

// SetDefaults fills in what an omitted field means.
func (r *RecordSpec) SetDefaults() { r.TTL = 60 }

// ForwarderSpec sends questions about one zone to other resolvers.
type ForwarderSpec struct {
	Zone    string   `json:"zone"`
	Servers []string `json:"servers,omitzero"` // IP[:port], or tls://NAME@IP[:port] with the name in the certificate
}

// TestSpec is a reachability assertion that is kept with the policy.
type TestSpec struct {
	From     string   `json:"from"`
	To       string   `json:"to"`
	Protocol Protocol `json:"protocol"`
	Port     int      `json:"port,omitempty"`
	Expect   Policy   `json:"expect"`
}

// Host is what belongs to the gateway itself: the part of its configuration that the policy depends on.
type Host struct {
	Region     string       // label in generated names
	Uplinks    []string     // links that lead outside
	HostAccess []HostAccess // what instances may reach on the gateway besides DHCP, DNS and echo
}

// HostAccess admits instances to one service of the gateway.
type HostAccess struct {
	Protocol Protocol
	Ports    Ports  // nil: all
	VPC      string // only instances in the VPC of that name; "": in all
	VSwitch  string // only those in its vSwitch of that name; "": in all
}

// Offered reports whether the service is offered to instances in a vSwitch.
func (a HostAccess) Offered(w *VSwitch) bool {
	return (a.VPC == "" || a.VPC == w.VPC.Name) && (a.VSwitch == "" || a.VSwitch == w.Name)
}
