package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"gatehouse/configs"
	"gatehouse/vpc"
)

const (
	instances   = 10_000
	questions   = 100_000
	zone        = "lab.internal"
	reverseZone = "10.in-addr.arpa"
	outside     = "outside.example" // what is forwarded
)

// gatewayAddr is where gatehouse answers: the third last address of the vSwitch. The peers use other ports of it, so that
// all packets take the same way.
var gatewayAddr = netip.MustParseAddr("10.0.255.253")

// host is one instance, or one name of the peers' zones.
type host struct {
	name    string // a label
	v4, v6  netip.Addr
	ipName  string // what its IPv4 address is called
	reverse string
}

// hosts are the same ones in every run.
func hosts() []host {
	r := rand.New(rand.NewPCG(1, 2))
	seen := map[string]bool{}
	out := make([]host, 0, instances)
	for len(out) < instances {
		name := fmt.Sprintf("h-%08x", r.Uint32())
		if seen[name] {
			continue
		}
		seen[name] = true
		n := len(out) + 10
		b := [4]byte{10, 0, byte(n >> 8), byte(n)}
		out = append(out, host{
			name: name, v4: netip.AddrFrom4(b),
			v6:      netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x10, 14: byte(n >> 8), 15: byte(n)}),
			ipName:  fmt.Sprintf("ip-%d-%d-%d-%d", b[0], b[1], b[2], b[3]),
			reverse: fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa", b[3], b[2], b[1], b[0]),
		})
	}
	return out
}

// spec is the hosts as instances of a VPC.
func spec() *vpc.Spec {
	v := &vpc.VPCSpec{Name: "lab", CIDRBlock: netip.MustParsePrefix("10.0.0.0/8"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:10::/56"), Domain: zone}
	v.SetDefaults()
	w := &vpc.VSwitchSpec{Name: "lab", CIDRBlock: netip.MustParsePrefix("10.0.0.0/16"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:10::/64")}
	w.SetDefaults()
	v.VSwitches = []*vpc.VSwitchSpec{w}
	g := &vpc.GroupSpec{Name: "lab"}
	g.SetDefaults()
	g.Type = vpc.GroupAdvanced // a basic one has no room for so many
	v.SecurityGroups = []*vpc.GroupSpec{g}
	for i, h := range hosts() {
		inst := &vpc.InstanceSpec{Name: h.name}
		inst.SetDefaults()
		inst.Interfaces = []*vpc.InterfaceSpec{{
			MAC: vpc.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}, VSwitch: w.Name, PrivateIP: h.v4, IPv6Addresses: []netip.Addr{h.v6},
			SecurityGroups: []string{g.Name},
		}}
		v.Instances = append(v.Instances, inst)
	}
	return &vpc.Spec{VPCs: []*vpc.VPCSpec{v}}
}

// writeData writes the manifest, the same records in each peer's form, and the questions: 80 % A, 10 % AAAA, 5 % PTR,
// 5 % for names that do not exist.
func writeData(dir string) error {
	manifest, err := configs.EncodeManifest(spec())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.yaml"), manifest, 0o644); err != nil {
		return err
	}
	var (
		all     = hosts()
		r       = rand.New(rand.NewPCG(3, 4))
		soa     = "@ 60 IN SOA ns.lab.internal. hostmaster.lab.internal. 1 3600 600 86400 60\n@ 60 IN NS ns.lab.internal.\n"
		forward = &strings.Builder{}
		reverse = &strings.Builder{}
		far     = &strings.Builder{}
		masq    = &strings.Builder{}
		etc     = &strings.Builder{}
		asked   = &strings.Builder{}
		farQ    = &strings.Builder{}
	)
	fmt.Fprintf(forward, "$ORIGIN %s.\n$TTL 60\n%sns 60 IN A %s\n", zone, soa, gatewayAddr)
	fmt.Fprintf(reverse, "$ORIGIN %s.\n$TTL 60\n%s", reverseZone, soa)
	fmt.Fprintf(far, "$ORIGIN %s.\n$TTL 86400\n%s", outside, soa)
	for _, h := range all {
		fmt.Fprintf(forward, "%s A %s\n%[1]s AAAA %[3]s\n", h.name, h.v4, h.v6)
		fmt.Fprintf(reverse, "%s. PTR %s.%s.\n", h.reverse, h.ipName, zone)
		fmt.Fprintf(far, "%s A 192.0.2.1\n", h.name)
		fmt.Fprintf(masq, "host-record=%s.%s,%s,%s,60\n", h.name, zone, h.v4, h.v6)
		fmt.Fprintf(etc, "%s %s.%s\n%s %[2]s.%s\n", h.v4, h.name, zone, h.v6)
		fmt.Fprintf(farQ, "%s.%s A\n", h.name, outside)
	}
	for range questions {
		h := all[r.IntN(len(all))]
		switch x := r.IntN(100); {
		case x < 80:
			fmt.Fprintf(asked, "%s.%s A\n", h.name, zone)
		case x < 90:
			fmt.Fprintf(asked, "%s.%s AAAA\n", h.name, zone)
		case x < 95:
			fmt.Fprintf(asked, "%s PTR\n", h.reverse)
		default:
			fmt.Fprintf(asked, "h-%08x.nx.%s A\n", r.Uint32(), zone)
		}
	}
	for name, text := range map[string]*strings.Builder{
		zone + ".zone": forward, reverseZone + ".zone": reverse, outside + ".zone": far,
		"dnsmasq-hosts.conf": masq, "hosts": etc, "queries.txt": asked, "outside.txt": farQ,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
