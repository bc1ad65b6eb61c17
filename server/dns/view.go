package dns

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unsafe"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// generatedTTL is the TTL in seconds of every record that is not declared, negative answers included.
const generatedTTL = 60

// gatewayLabel is the gateway's own name in a VPC's domain: the name server of all its zones.
const gatewayLabel = "gatehouse"

// View is everything that the instances of one VPC are told without asking outside. It is immutable.
type View struct {
	Revision   uint64 // of the snapshot; the serial of its zones
	vpc        *vpc.VPC
	names      map[name]*node // every name that exists, empty non-terminals too; names hidden by a deeper zone do not
	forwarders map[name]*forwarder
	cuts       []name // names below the apex of a private zone that have NS records
	findings   []Finding
}

// Finding is something declared that a view cannot honour: a name that two claim, a value that is no record.
type Finding struct {
	VPC     string `json:"vpc"`
	Name    string `json:"name"` // the domain name concerned, absolute
	Message string `json:"message"`
}

// zone is what answers for the names below its own.
type zone struct {
	name    name
	soa     []byte // in the form of rrset.data
	forward bool   // names without records are asked outside
	// generated zones hold the names of instances: the VPC's domain and its reverse zones. A private zone of the same
	// name is merged into one.
	generated bool
	source    string
}

// node is one name of a zone. Without sets it is an empty non-terminal (or the apex of a forwarding zone).
type node struct {
	zone *zone
	apex bool
	sets []rrset
}

// rrset is the records of one name and type, ready for the wire.
type rrset struct {
	typ     uint16
	count   uint16
	ttl     uint32
	data    []byte // per record: its length in two octets, then that many octets of RDATA, uncompressed
	weights string // empty: all are answered; else one of them, by weight: an octet each
	source  string // who declared it: "instance web-1", "zone corp.example", "gateway"
}

// forwarder sends the names of a zone to other resolvers, or to the name servers that a private zone delegates them to.
type forwarder struct {
	zone       name
	servers    []endpoint
	scope      string // what the cache keeps apart
	source     string
	delegation *rrset // the NS records of the zone's parent; nil for a declared forwarder
}

func (n *node) set(typ uint16) *rrset {
	for i := range n.sets {
		if n.sets[i].typ == typ {
			return &n.sets[i]
		}
	}
	return nil
}

// id returns the ID of the view's VPC; nil is nobody's view.
func (v *View) id() string {
	if v == nil {
		return ""
	}
	return v.vpc.ID
}

// VPC returns the VPC that the view belongs to.
func (v *View) VPC() *vpc.VPC { return v.vpc }

// Findings lists what the view could not honour, in a stable order.
func (v *View) Findings() []Finding { return v.findings }

// BuildView computes the view of one VPC of the snapshot. Nothing but the snapshot goes into it. It never fails:
// what cannot be a name or a record is left out and listed in Findings.
//
// Where several things claim one name, a record of a private zone is preferred to a generated name (the operator wrote
// it on purpose), names made from IDs and addresses to host names, declared instances to enrolled ones, and then the
// smaller ID; so what a client sends as its host name never takes a name away from anybody.
func BuildView(s *vpc.Snapshot, v *vpc.VPC) *View {
	b := &viewBuilder{
		view: &View{
			Revision:   s.Revision,
			vpc:        v,
			names:      make(map[name]*node, 6*len(v.Instances)+64),
			forwarders: make(map[name]*forwarder, len(v.Forwarders)),
		},
		snapshot: s,
	}
	domain, err := parseName(v.Domain)
	if err != nil {
		b.find(v.Domain, "the VPC's domain: %v", err)
		domain = "\x07invalid\x00" // names below it exist nowhere
	}
	b.domain = domain
	b.gateway, err = domain.under(gatewayLabel)
	if err != nil {
		b.gateway = domain
	}

	// Every zone before any record: a record belongs to the deepest zone above it.
	b.addZone(&zone{name: domain, generated: true, source: "gateway"})
	for _, p := range v.Prefixes() {
		for _, z := range reverseZones(p) {
			b.addZone(&zone{name: z, generated: true, source: "gateway"})
		}
	}
	for _, z := range v.Zones {
		b.addPrivateZone(z)
	}
	for _, f := range v.Forwarders {
		b.addForwarder(f)
	}
	for _, z := range v.Zones {
		b.addRecords(z)
	}
	if v.DNSHostnames {
		b.addInstances()
	}
	b.addGateway()
	for _, n := range b.view.cuts {
		b.addDelegation(n)
	}
	b.addEmptyNonTerminals()
	slices.SortStableFunc(b.view.findings, func(x, y Finding) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Message, y.Message))
	})
	return b.view
}

type viewBuilder struct {
	view     *View
	snapshot *vpc.Snapshot
	domain   name
	gateway  name

	// A view is looked at in no order, so that nearly every look is a wait for memory. What belongs to one generated name
	// therefore lies side by side: its octets and its data in the arena, its node and its sets in a room.
	arena []byte
	ones  []oneRoom
	twos  []twoRoom
}

// oneRoom and twoRoom are a node with the memory for one and two sets.
type (
	oneRoom struct {
		node
		room [1]rrset
	}
	twoRoom struct {
		node
		room [2]rrset
	}
)

// newNode returns a node with room for so many sets, one or two; more need memory of their own.
func (b *viewBuilder) newNode(z *zone, sets int) *node {
	const chunk = 256
	if sets == 1 {
		if len(b.ones) == cap(b.ones) {
			b.ones = make([]oneRoom, 0, chunk)
		}
		b.ones = append(b.ones, oneRoom{node: node{zone: z}})
		r := &b.ones[len(b.ones)-1]
		r.sets = r.room[:0]
		return &r.node
	}
	if len(b.twos) == cap(b.twos) {
		b.twos = make([]twoRoom, 0, chunk)
	}
	b.twos = append(b.twos, twoRoom{node: node{zone: z}})
	r := &b.twos[len(b.twos)-1]
	r.sets = r.room[:0]
	return &r.node
}

// reserve makes room for n octets in the arena; what is appended there is never changed again.
func (b *viewBuilder) reserve(n int) {
	if cap(b.arena)-len(b.arena) < n {
		b.arena = make([]byte, 0, max(64<<10, n))
	}
}

// intern returns the same name in the arena.
func (b *viewBuilder) intern(n name) name {
	b.reserve(len(n))
	at := len(b.arena)
	b.arena = append(b.arena, n...)
	return name(unsafe.String(&b.arena[at], len(n)))
}

func (b *viewBuilder) find(at, format string, args ...any) {
	b.view.findings = append(b.view.findings, Finding{b.view.vpc.Name, miekg.Fqdn(at), fmt.Sprintf(format, args...)})
}

// addZone makes a zone unless there is one of the name, and returns the one that is there.
func (b *viewBuilder) addZone(z *zone) *zone {
	if x := b.view.names[z.name]; x != nil {
		return x.zone
	}
	hostmaster, err := b.domain.under("hostmaster")
	if err != nil {
		hostmaster = b.domain
	}
	z.soa = soaData(b.gateway, hostmaster, uint32(b.view.Revision))
	apex := &node{zone: z, apex: true}
	if !z.forward {
		apex.sets = []rrset{
			{typ: miekg.TypeSOA, count: 1, ttl: generatedTTL, data: z.soa, source: z.source},
			{typ: miekg.TypeNS, count: 1, ttl: generatedTTL, data: rdata([]byte(b.gateway)), source: z.source},
		}
	}
	b.view.names[z.name] = apex
	return z
}

func (b *viewBuilder) addPrivateZone(spec *vpc.PrivateZoneSpec) {
	n, err := parseName(spec.Name)
	if err != nil {
		b.find(spec.Name, "private zone: %v", err)
		return
	}
	z := &zone{name: n, forward: spec.Missing == vpc.MissingForward, source: "zone " + strings.TrimSuffix(spec.Name, ".")}
	switch there := b.addZone(z); {
	case there == z:
	case there.generated && z.forward:
		b.find(spec.Name, "the zone holds names of instances: a name that it does not have is never forwarded")
	case !there.generated:
		b.find(spec.Name, "two private zones of this name: they are served as one")
	}
}

func (b *viewBuilder) addForwarder(f *vpc.ForwarderSpec) {
	n, err := parseName(f.Zone)
	if err != nil {
		b.find(f.Zone, "forwarder: %v", err)
		return
	}
	fw := b.view.forwarders[n]
	if fw == nil {
		fw = &forwarder{zone: n, source: "forwarder " + n.String()}
		b.view.forwarders[n] = fw
	}
	for _, s := range f.Servers {
		server, err := parseEndpoint(s)
		switch {
		case err != nil:
			b.find(f.Zone, "forwarder: %v", err)
		case isOwn(b.snapshot, server.addr.Addr()):
			b.find(f.Zone, "forwarder %s is this gateway itself: not used", server)
		case !slices.Contains(fw.servers, server):
			fw.servers = append(fw.servers, server)
		}
	}
	fw.scope = fmt.Sprintf("%s %v", b.view.vpc.ID, fw.servers)
}

// isOwn reports whether asking a on port 53 would be asking ourselves.
func isOwn(s *vpc.Snapshot, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a == vpc.RouterLinkLocal || s != nil && s.GatewayOf(a) != nil
}

// zoneOf returns the deepest zone that n belongs to, nil if none.
func (b *viewBuilder) zoneOf(n name) *zone {
	for ; ; n = n.parent() {
		if x := b.view.names[n]; x != nil && x.apex {
			return x.zone
		}
		if n == root {
			return nil
		}
	}
}

func (b *viewBuilder) addRecords(spec *vpc.PrivateZoneSpec) {
	origin, err := parseName(spec.Name)
	if err != nil {
		return // reported with the zone
	}
	source := "zone " + strings.TrimSuffix(spec.Name, ".")
	for _, r := range spec.Records {
		rec, err := parseRecord(origin, r)
		if err != nil {
			b.find(spec.Name, "record %s %s: %v", r.Name, r.Type, err)
			continue
		}
		z := b.zoneOf(rec.owner)
		if z == nil || !rec.owner.within(origin) {
			b.find(spec.Name, "record %s %s is outside the zone", r.Name, r.Type)
			continue
		}
		if z.name != origin {
			b.find(rec.owner.String(), "record %s of zone %s is hidden by zone %s", r.Type, origin, z.name)
			continue
		}
		n := b.view.names[rec.owner]
		if n == nil {
			n = &node{zone: z}
			b.view.names[rec.owner] = n
		}
		if rec.typ == miekg.TypeCNAME && len(n.sets) > 0 || n.set(miekg.TypeCNAME) != nil {
			b.find(rec.owner.String(), "a CNAME allows no other record beside it (RFC 1034 section 3.6.2): %s %s is left out", r.Type, r.Value)
			continue
		}
		n.add(rec, r.Weight, source)
		if rec.typ == miekg.TypeNS && rec.owner != origin && !slices.Contains(b.view.cuts, rec.owner) {
			b.view.cuts = append(b.view.cuts, rec.owner)
		}
	}
}

// addDelegation makes a name with NS records the name servers' own, and everything below it, if the view knows an address of
// one of them. Otherwise the records are data like any other.
func (b *viewBuilder) addDelegation(n name) {
	set := b.view.names[n].set(miekg.TypeNS)
	if set == nil || b.view.forwarders[n] != nil {
		return // there is a CNAME instead, or somebody else is declared to be asked
	}
	f := &forwarder{zone: n, source: "delegation of " + n.String(), delegation: set}
	for target := range set.each {
		server := b.view.names[name(lowerName(nil, target))]
		if server == nil {
			continue
		}
		for _, typ := range []uint16{miekg.TypeA, miekg.TypeAAAA} {
			addresses := server.set(typ)
			if addresses == nil {
				continue
			}
			for data := range addresses.each {
				a, _ := netip.AddrFromSlice(data)
				if e := (endpoint{addr: netip.AddrPortFrom(a, portDNS)}); !isOwn(b.snapshot, a) && !slices.Contains(f.servers, e) {
					f.servers = append(f.servers, e)
				}
			}
		}
	}
	if len(f.servers) == 0 {
		b.find(n.String(), "the name is delegated, and no address of its name servers is known here: only its NS records are answered")
		return
	}
	f.scope = fmt.Sprintf("%s %v", b.view.vpc.ID, f.servers)
	b.view.forwarders[n] = f
}

// add puts a declared record into its set; the set has the smallest TTL of its records (RFC 2181 section 5.2).
func (n *node) add(rec record, weight int, source string) {
	set := n.set(rec.typ)
	if set == nil {
		n.sets = append(n.sets, rrset{typ: rec.typ, ttl: rec.ttl, source: source})
		set = &n.sets[len(n.sets)-1]
	}
	for d := range set.each {
		if string(d) == string(rec.data) {
			return
		}
	}
	if weight > 0 && set.weights == "" {
		set.weights = strings.Repeat("\x01", int(set.count))
	}
	if weight > 0 || set.weights != "" {
		set.weights += string([]byte{uint8(min(max(weight, 1), 100))})
	}
	set.ttl = min(set.ttl, rec.ttl)
	set.data = appendRdata(set.data, rec.data)
	set.count++
}

// claim returns the node of a generated name that will have so many sets, or nil (and a finding) if somebody else has the
// name.
func (b *viewBuilder) claim(n name, source string, sets int) *node {
	x := b.view.names[n]
	if x == nil {
		z := b.zoneOf(n)
		if z == nil || !z.generated {
			hidden := "no zone"
			if z != nil {
				hidden = z.source
			}
			b.find(n.String(), "the name of %s is hidden by %s", source, hidden)
			return nil
		}
		x = b.newNode(z, sets)
		b.view.names[b.intern(n)] = x
		return x
	}
	if x.apex {
		b.find(n.String(), "the name of %s is that of a zone", source)
		return nil
	}
	if len(x.sets) > 0 && x.sets[0].source != source {
		b.find(n.String(), "the name of %s is taken by %s", source, x.sets[0].source)
		return nil
	}
	return x
}

// give adds one generated record.
func (b *viewBuilder) give(x *node, typ uint16, data []byte, source string) {
	if x == nil {
		return
	}
	if set := x.set(typ); set != nil {
		for d := range set.each {
			if string(d) == string(data) {
				return
			}
		}
		set.data = appendRdata(set.data[:len(set.data):len(set.data)], data)
		set.count++
		return
	}
	b.reserve(len(data) + 2)
	at := len(b.arena)
	b.arena = appendRdata(b.arena, data)
	x.sets = append(x.sets, rrset{typ: typ, count: 1, ttl: generatedTTL, data: b.arena[at:len(b.arena):len(b.arena)], source: source})
}

// addInstances gives every instance its names: those of the primary addresses of its primary interface.
func (b *viewBuilder) addInstances() {
	all := slices.Clone(b.view.vpc.Instances)
	slices.SortFunc(all, func(x, y *vpc.Instance) int {
		switch {
		case x.Enrolled != y.Enrolled && y.Enrolled:
			return -1
		case x.Enrolled != y.Enrolled:
			return 1
		}
		return strings.Compare(x.ID, y.ID)
	})
	ipNames := make([]name, len(all))
	for i, inst := range all {
		if len(inst.Interfaces) == 0 {
			continue
		}
		nic, source := inst.Interfaces[0], "instance "+inst.Name
		v4, v6 := nic.Primary(vpc.IPv4), nic.Primary(vpc.IPv6)
		if id, err := b.domain.under(inst.ID); err == nil && (inst.PrivateDNS.IDARecord || inst.PrivateDNS.IDAAAARecord) {
			x := b.claim(id, source, 2)
			if v4.IsValid() && inst.PrivateDNS.IDARecord {
				b.give(x, miekg.TypeA, v4.AsSlice(), source)
			}
			if v6.IsValid() && inst.PrivateDNS.IDAAAARecord {
				b.give(x, miekg.TypeAAAA, v6.AsSlice(), source)
			}
		}
		if !v4.Is4() {
			continue
		}
		ip, err := b.domain.under(ipLabel(v4))
		if err != nil {
			b.find(b.domain.String(), "no room for the name of %s: %v", v4, err)
			continue
		}
		ipNames[i] = ip
		if inst.PrivateDNS.IPARecord {
			b.give(b.claim(ip, source, 1), miekg.TypeA, v4.AsSlice(), source)
		}
	}
	for i, inst := range all {
		if len(inst.Interfaces) == 0 {
			continue
		}
		nic, source := inst.Interfaces[0], "instance "+inst.Name
		v4, v6 := nic.Primary(vpc.IPv4), nic.Primary(vpc.IPv6)
		if ipNames[i] != "" && inst.PrivateDNS.IPPtrRecord {
			b.give(b.claim(reverseName(v4), source, 1), miekg.TypePTR, []byte(ipNames[i]), source)
		}
		host, err := b.domain.under(strings.TrimSuffix(inst.Name, "."))
		if err != nil {
			b.find(inst.Name, "instance %s has no name: %v", inst.ID, err)
			continue
		}
		x := b.claim(host, source, 2)
		if x == nil {
			continue
		}
		if v4.IsValid() {
			b.give(x, miekg.TypeA, v4.AsSlice(), source)
		}
		if v6.IsValid() {
			b.give(x, miekg.TypeAAAA, v6.AsSlice(), source)
			b.give(b.claim(reverseName(v6), source, 1), miekg.TypePTR, []byte(host), source)
		}
	}
}

// ipLabel returns the label of an IPv4 address: ip-10-20-1-10.
func ipLabel(a netip.Addr) string { return "ip-" + strings.ReplaceAll(a.String(), ".", "-") }

// addGateway names the gateway's addresses, so that the zones' name server can be looked up.
func (b *viewBuilder) addGateway() {
	if x := b.view.names[b.gateway]; x != nil && len(x.sets) > 0 {
		b.find(b.gateway.String(), "the gateway's own name is taken by %s", x.sets[0].source)
		return
	}
	for _, w := range b.view.vpc.VSwitches {
		if !w.HasLink() {
			continue
		}
		for _, f := range vpc.Families() {
			a := w.GatewayAddr(f)
			if !a.IsValid() {
				continue
			}
			typ := miekg.TypeA
			if f == vpc.IPv6 {
				typ = miekg.TypeAAAA
			}
			b.give(b.claim(b.gateway, "gateway", 2), typ, a.AsSlice(), "gateway")
			b.give(b.claim(reverseName(a), "gateway", 1), miekg.TypePTR, []byte(b.gateway), "gateway")
		}
	}
}

// addEmptyNonTerminals makes the names exist that have no records but have names below them (RFC 4592 section 2.2.2).
func (b *viewBuilder) addEmptyNonTerminals() {
	missing := map[name]*zone{}
	for n, x := range b.view.names {
		if x.apex {
			continue
		}
		for n = n.parent(); len(n) > len(x.zone.name) && b.view.names[n] == nil && missing[n] == nil; n = n.parent() {
			missing[n] = x.zone
		}
	}
	empty := map[*zone]*node{} // one stands for all of a zone: an address of IPv6 alone has a dozen
	for n, z := range missing {
		if empty[z] == nil {
			empty[z] = &node{zone: z}
		}
		b.view.names[n] = empty[z]
	}
}

// each yields the RDATA of every record of the set.
func (s *rrset) each(yield func([]byte) bool) {
	for d := s.data; len(d) >= 2; {
		n := 2 + int(binary.BigEndian.Uint16(d))
		if !yield(d[2:n]) {
			return
		}
		d = d[n:]
	}
}

// rdata returns one record's RDATA in the form of rrset.data.
func rdata(d []byte) []byte { return appendRdata(nil, d) }

func appendRdata(dst, d []byte) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(d))), d...)
}

// soaData returns a SOA record's data: refresh, retry and expire are for the secondaries of a zone transfer, the last
// number is the TTL of a negative answer (RFC 2308 section 4).
func soaData(mname, rname name, serial uint32) []byte {
	d := append([]byte(mname), rname...)
	for _, n := range []uint32{serial, 3600, 600, 86400, generatedTTL} {
		d = binary.BigEndian.AppendUint32(d, n)
	}
	return rdata(d)
}
