package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"gatehouse/server/api"
)

// metaConfirm is where an unconfirmed change is remembered, so that a restart does not make it permanent.
const metaConfirm = "confirm"

// undoRetry is the pause before an undo that failed is tried again.
const undoRetry = 10 * time.Second

// confirmation is the change that `apply --confirm` made and that nobody has confirmed yet. While there is one, nobody else
// changes anything: the undo would take it back.
type confirmation struct {
	mu      sync.Mutex
	pending *pendingChange
	timer   *time.Timer
	err     error // why the last undo failed
}

// pendingChange is what is remembered of it.
type pendingChange struct {
	Base     uint64    `json:"base"` // the revision to go back to
	Deadline time.Time `json:"deadline"`
	User     string    `json:"user"`
}

// waiting gives the change that waits for its confirmation; nil when there is none.
func (c *confirmation) waiting() *pendingChange {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pending
}

// guard refuses a change while another waits for its confirmation.
func (c *confirmation) guard() error {
	p := c.waiting()
	if p == nil {
		return nil
	}
	return api.Errorf(api.CodeConflict, "a change by %s waits for its confirmation until %s: run 'gatehouse confirm' or 'gatehouse rollback' first",
		p.User, p.Deadline.Local().Format(time.TimeOnly))
}

// begin remembers durably, before the change is stored, that it must be undone at the deadline.
func (c *confirmation) begin(ctx context.Context, g *Gateway, base uint64, after time.Duration, user string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &pendingChange{Base: base, Deadline: g.now().Add(after), User: user}
	if err := c.save(ctx, g, p); err != nil {
		return err
	}
	c.arm(g, p, after)
	return nil
}

// restore takes up what a previous run left.
func (c *confirmation) restore(g *Gateway) error {
	text, err := g.store.Meta(metaConfirm)
	if err != nil || len(text) == 0 {
		return err
	}
	var p *pendingChange
	if err := json.Unmarshal(text, &p); err != nil {
		return fmt.Errorf("read the unconfirmed change: %w", err)
	}
	if p == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arm(g, p, max(p.Deadline.Sub(g.now()), 0))
	return nil
}

func (c *confirmation) save(ctx context.Context, g *Gateway, p *pendingChange) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("remember the unconfirmed change: %w", err)
	}
	if err := g.store.PutMeta(ctx, metaConfirm, text); err != nil {
		return fmt.Errorf("remember the unconfirmed change: %w", err)
	}
	return nil
}

// arm sets the time at which the change is undone. It needs the lock.
func (c *confirmation) arm(g *Gateway, p *pendingChange, after time.Duration) {
	c.pending, c.err = p, nil
	c.timer = time.AfterFunc(after, func() { c.expire(g, p) })
}

// expire undoes the change at its deadline, and goes on trying while that fails.
func (c *confirmation) expire(g *Gateway, p *pendingChange) {
	if c.waiting() != p {
		return // confirmed meanwhile
	}
	_, err := g.undo(context.Background(), p, audit{"gatehouse", "unconfirmed", fmt.Sprintf("to revision %d", p.Base)})
	if err == nil || isNotInForce(err) {
		return
	}
	g.log.Error("undo the unconfirmed change", "revision", p.Base, "error", err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending == p {
		c.err = err
		c.timer = time.AfterFunc(undoRetry, func() { c.expire(g, p) })
	}
}

// forget makes the pending change permanent, or has done with it after it was undone.
func (c *confirmation) forget(ctx context.Context, g *Gateway) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending == nil {
		return nil
	}
	if err := c.save(ctx, g, nil); err != nil {
		return err
	}
	c.timer.Stop()
	c.pending, c.err = nil, nil
	return nil
}

// problem says why a change that nobody confirmed is still there; nil when all is well.
func (c *confirmation) problem() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Confirm makes the pending change permanent.
func (g *Gateway) Confirm(ctx context.Context) error {
	p := g.confirm.waiting()
	if p == nil {
		return api.Errorf(api.CodeNotFound, "no change waits for a confirmation")
	}
	if err := g.confirm.forget(ctx, g); err != nil {
		return err
	}
	g.log.Info("a change is confirmed", "revision", g.stored.Load().Revision, "user", p.User)
	return nil
}

// isNotInForce reports whether a change was stored, though the kernel does not carry it yet.
func isNotInForce(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Code == api.CodeNotInForce
}
