package server

import (
	"context"

	"gatehouse/vpc"
)

// Enrol makes an instance of an unknown MAC that asks for an address on a vSwitch that enrols. It returns when the
// instance's rules, sets and names are in force, so that whoever answers the client may do so at once.
func (g *Gateway) Enrol(ctx context.Context, vswitchID string, mac vpc.MAC, hostname string) (*vpc.Snapshot, error) {
	revision, err := g.storeEnrolment(ctx, vswitchID, mac, hostname)
	if err != nil {
		return nil, err
	}
	if err := g.waitInForce(ctx, revision, 0); err != nil {
		return nil, err
	}
	return g.inUse.Load(), nil
}

func (g *Gateway) storeEnrolment(ctx context.Context, vswitchID string, mac vpc.MAC, hostname string) (uint64, error) {
	g.change.Lock()
	defer g.change.Unlock()
	current, revision := g.store.State()
	if nic := g.stored.Load().InterfaceByMAC(mac); nic != nil {
		return revision, nil // another packet of the same client was quicker
	}
	candidate, instance, err := vpc.Enrol(current, g.host(), vpc.EnrolRequest{VSwitch: vswitchID, MAC: mac, Hostname: hostname}, g.applyOptions(false))
	if err != nil {
		return 0, err
	}
	changes := vpc.Diff(current, candidate)
	revision, err = g.storeSpec(ctx, revision, candidate, changes, audit{"gatehouse", "enrol", instance.Name})
	if err != nil {
		return 0, err
	}
	g.reload()
	return revision, nil
}
