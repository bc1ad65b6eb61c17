package lease

import (
	"context"
	"errors"
)

// enrolment is one call of the Enroller that several requests of a client may wait for.
type enrolment struct {
	done chan struct{}
	err  error
}

// Enrol makes the client an instance when its MAC is unknown and its vSwitch allows it, and returns when the instance's
// rules are in force; Lookup finds it then. It waits for the store and the kernel, so it is not for a packet's path.
// Requests of one MAC that come meanwhile share the answer.
func (e *Engine) Enrol(ctx context.Context, c Client) error {
	if _, _, err := e.Lookup(c); !errors.Is(err, ErrUnknown) {
		return err
	}
	if e.cfg.Enroller == nil {
		return ErrClosed
	}
	e.enrolMu.Lock()
	call, ok := e.enrolling[c.MAC]
	if !ok {
		call = &enrolment{done: make(chan struct{})}
		e.enrolling[c.MAC] = call
	}
	e.enrolMu.Unlock()
	if ok {
		select {
		case <-call.done:
			return call.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s, err := e.cfg.Enroller.Enrol(ctx, c.VSwitch, c.MAC, c.Hostname)
	if err != nil {
		call.err = err
	} else {
		e.adopt(s)
	}
	e.enrolMu.Lock()
	delete(e.enrolling, c.MAC)
	e.enrolMu.Unlock()
	close(call.done)
	return call.err
}
