package server

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"gatehouse/server/api"
)

// metaConfirm is where an unconfirmed change is remembered, so that a restart does not make it permanent.
const metaConfirm = "confirm"

// confirmation is the change that `apply --confirm` made and that nobody has confirmed yet.
type confirmation struct {
	mu      sync.Mutex
	pending *pendingChange
	timer   *time.Timer
}

// pendingChange is what is remembered of it.
type pendingChange struct {
	Base     uint64    `json:"base"` // the revision to go back to
	Deadline time.Time `json:"deadline"`
}

// begin remembers durably, before the change is stored, that it must be undone at the deadline.
func (c *confirmation) begin(g *Gateway, base uint64, after time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending != nil {
		return api.Errorf(api.CodeConflict, "another change waits for its confirmation: run 'gatehouse confirm' or 'gatehouse rollback' first")
	}
	p := &pendingChange{Base: base, Deadline: g.now().Add(after)}
	if err := c.save(g, p); err != nil {
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

func (c *confirmation) save(g *Gateway, p *pendingChange) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("remember the unconfirmed change: %w", err)
	}
	if err := g.store.PutMeta(context.Background(), metaConfirm, text); err != nil {
		return fmt.Errorf("remember the unconfirmed change: %w", err)
	}
	return nil
}

func (c *confirmation) arm(g *Gateway, p *pendingChange, after time.Duration) {
	c.pending = p
	c.timer = time.AfterFunc(after, func() {
		if base, pending := c.cancel(g); pending {
			if _, err := g.rollback(context.Background(), base, "gatehouse", "unconfirmed"); err != nil {
				g.log.Error("undo the unconfirmed change", "revision", base, "error", err)
			}
		}
	})
}

// cancel forgets the pending change and says what it was based on.
func (c *confirmation) cancel(g *Gateway) (base uint64, pending bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending == nil {
		return 0, false
	}
	base = c.pending.Base
	c.timer.Stop()
	if err := c.save(g, nil); err != nil {
		g.log.Error("confirm", "error", err)
	}
	c.pending = nil
	return base, true
}

// Confirm makes the pending change permanent.
func (g *Gateway) Confirm(context.Context) error {
	if _, pending := g.confirm.cancel(g); !pending {
		return api.Errorf(api.CodeNotFound, "no change waits for a confirmation")
	}
	return nil
}
