package server

import (
	"context"
	"strconv"

	"gatehouse/vpc"
)

// enrolment is an unknown MAC that waits to become an instance.
type enrolment struct {
	request vpc.EnrolRequest
	done    chan error // one slot: whoever asked may have left
}

// maxEnrolments bounds how many become instances in one revision, so that the first of them does not wait for ever.
const maxEnrolments = 1024

// Enrol makes an instance of an unknown MAC that asks for an address on a vSwitch that enrols. It returns when the
// instance's rules, sets and names are in force, so that whoever answers the client may do so at once.
func (g *Gateway) Enrol(ctx context.Context, vswitchID string, mac vpc.MAC, hostname string) (*vpc.Snapshot, error) {
	e := &enrolment{vpc.EnrolRequest{VSwitch: vswitchID, MAC: mac, Hostname: hostname}, make(chan error, 1)}
	select {
	case g.enrolments <- e:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case err := <-e.done:
		return g.inUse.Load(), err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// runEnrolments stores enrolments and waits until they are in force. Those that come meanwhile gather and share the next
// revision: a rack that boots costs a few changes of the rules, not one for each machine.
func (g *Gateway) runEnrolments(ctx context.Context) error {
	for {
		var batch []*enrolment
		select {
		case <-ctx.Done():
			return nil
		case e := <-g.enrolments:
			batch = append(batch, e)
		}
	gather:
		for len(batch) < maxEnrolments {
			select {
			case e := <-g.enrolments:
				batch = append(batch, e)
			default:
				break gather
			}
		}
		g.enrol(ctx, batch)
	}
}

// enrol makes instances of a batch and tells everybody what became of it.
func (g *Gateway) enrol(ctx context.Context, batch []*enrolment) {
	stored, revision, err := g.storeEnrolments(ctx, batch)
	if err == nil && len(stored) > 0 {
		err = g.waitInForce(ctx, revision, 0)
	}
	for _, e := range stored {
		e.done <- err
	}
}

// storeEnrolments stores one revision with the instances of all that may have one; the others are told why not.
func (g *Gateway) storeEnrolments(ctx context.Context, batch []*enrolment) (stored []*enrolment, revision uint64, err error) {
	g.change.Lock()
	defer g.change.Unlock()
	current, revision := g.store.State()
	candidate, options := current, g.applyOptions(false)
	var names []string
	for _, e := range batch {
		if g.stored.Load().InterfaceByMAC(e.request.MAC) != nil { // another packet of the same client was quicker
			stored = append(stored, e)
			continue
		}
		next, instance, err := vpc.Enrol(candidate, g.host(), e.request, options)
		if err != nil {
			e.done <- err
			continue
		}
		candidate = next
		names = append(names, instance.Name)
		stored = append(stored, e)
	}
	if len(names) == 0 {
		return stored, revision, nil
	}
	revision, err = g.storeSpec(ctx, revision, candidate, vpc.Diff(current, candidate), audit{"gatehouse", "enrol", enrolled(names)})
	if err == nil {
		g.reload()
	}
	return stored, revision, err
}

// enrolled says who in the audit log.
func enrolled(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return names[0] + " and " + strconv.Itoa(len(names)-1) + " more"
}
