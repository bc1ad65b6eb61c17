package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"gatehouse/store"
	"gatehouse/vpc"
)

// How many clients there are.
const (
	fewClients  = 4_000
	manyClients = 60_000
	allClients  = 65_000 // of a restart: nearly the whole subnet
)

// prepare raises both worlds and makes the states that gatehouse starts with: so many registered interfaces, no lease.
func (b *bench) prepare(ctx context.Context) (err error) {
	if b.gatehouse, err = filepath.Abs(b.gatehouse); err != nil {
		return err
	}
	if b.ours, err = newWorld(ctx, b.lab, "ours"); err != nil {
		return err
	}
	if b.theirs, err = newWorld(ctx, b.lab, "peer"); err != nil {
		return err
	}
	for _, n := range []int{fewClients, manyClients} {
		if err := writeState(ctx, b.statePath(n), relayed(n), false); err != nil {
			return fmt.Errorf("a state with %d interfaces: %w", n, err)
		}
	}
	both := relayed(fewClients)
	both.VPCs[0].IPv6CIDRBlock = netip.PrefixFrom(subnet6.Addr(), 56)
	both.VPCs[0].VSwitches[0].IPv6CIDRBlock = subnet6
	return writeState(ctx, b.statePath6(), both, false)
}

// dir is where a server has its files during a measurement.
func (b *bench) dir(server string) string { return filepath.Join(b.lab.Dir, server) }

// statePath is the prepared state with so many interfaces.
func (b *bench) statePath(clients int) string {
	return filepath.Join(b.lab.Dir, fmt.Sprintf("state-%d", clients))
}

// statePath6 is the prepared state with few interfaces that have both families.
func (b *bench) statePath6() string { return filepath.Join(b.lab.Dir, "state-both") }

// empty gives a server an empty directory, and gatehouse a copy of the prepared state.
func (b *bench) empty(server string, clients int) error {
	if err := settings(server, b.dir(server), clients); err != nil || server != gatehouse {
		return err
	}
	return copyFile(b.statePath(clients), filepath.Join(b.dir(server), "state", "state.db"))
}

// writeState makes a store with a desired state, and if wanted with a lease for each interface.
func writeState(ctx context.Context, path string, want *vpc.Spec, leased bool) error {
	st, err := store.Open(path, store.Options{})
	if err != nil {
		return err
	}
	defer st.Close()
	host := vpc.Host{Region: "lab-1"}
	spec, problems := vpc.Apply(&vpc.Spec{}, want, host, vpc.ApplyOptions{NewID: vpc.RandomID})
	if len(problems) > 0 {
		return problems
	}
	if _, err := st.Commit(ctx, 0, spec, store.Audit{Who: "bench", Verb: "apply"}); err != nil {
		return err
	}
	if !leased {
		return st.Close()
	}
	now := time.Now().UTC().Truncate(time.Second)
	var leases []vpc.Lease
	for _, nic := range vpc.NewSnapshot(spec, host, 1).Interfaces {
		leases = append(leases, vpc.Lease{
			Address: nic.PrivateIP, MAC: nic.MAC, Interface: nic.ID, VSwitch: nic.VSwitch.ID,
			State: vpc.LeaseBound, Start: now, Expires: now.Add(time.Hour),
		})
	}
	if err := st.PutLeases(ctx, leases...); err != nil {
		return err
	}
	return st.Close()
}

// relayed is the network of perfdhcp's clients.
func relayed(clients int) *vpc.Spec {
	spec := network(vpc.AttachSpec{Relay: []netip.Addr{relayAddr, relay6}})
	v := spec.VPCs[0]
	for n := range clients {
		i := &vpc.InstanceSpec{Name: fmt.Sprintf("c%d", n)}
		i.SetDefaults()
		i.Interfaces = []*vpc.InterfaceSpec{{MAC: clientMAC(n), VSwitch: v.VSwitches[0].Name, SecurityGroups: []string{v.SecurityGroups[0].Name}}}
		v.Instances = append(v.Instances, i)
	}
	return spec
}

// network is a VPC with one vSwitch and nobody in it.
func network(attach vpc.AttachSpec) *vpc.Spec {
	v := &vpc.VPCSpec{Name: "bench", CIDRBlock: subnet}
	v.SetDefaults()
	v.DHCPOptions.LeaseTime = vpc.Duration(time.Hour)
	// A basic group holds too few.
	g := &vpc.GroupSpec{Name: "clients", Type: vpc.GroupAdvanced}
	v.SecurityGroups = []*vpc.GroupSpec{g}
	w := &vpc.VSwitchSpec{Name: "main", CIDRBlock: subnet, Attach: attach, EnrollmentGroups: []string{g.Name}}
	w.SetDefaults()
	v.VSwitches = []*vpc.VSwitchSpec{w}
	return &vpc.Spec{VPCs: []*vpc.VPCSpec{v}}
}

func copyFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}
