package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"gatehouse/vpc"
)

// Audit says who changes the desired state, and why.
type Audit struct {
	Who     string // a user, an address, or the part of the daemon that acts by itself
	Verb    string // apply, create, set, delete, rollback, enrol, expire, …
	Summary string // one line
	Changes any    // what changed, as a plan shows it; kept as JSON
}

// Event is one entry of the audit log: what made a revision.
type Event struct {
	Revision uint64          `json:"revision"`
	Time     time.Time       `json:"time"` // UTC
	Who      string          `json:"who"`
	Verb     string          `json:"verb"`
	Summary  string          `json:"summary,omitempty"`
	Changes  json.RawMessage `json:"changes,omitempty"`

	changes any
}

func (a Audit) event(revision uint64, now time.Time) Event {
	return Event{Revision: revision, Time: now.UTC(), Who: a.Who, Verb: a.Verb, Summary: a.Summary, changes: a.Changes}
}

func putEvent(tx *bolt.Tx, e Event, keep int) error {
	if e.changes != nil {
		data, err := json.Marshal(e.changes)
		if err != nil {
			return fmt.Errorf("encode the changes of the audit entry: %w", err)
		}
		e.Changes = data
	}
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode audit entry: %w", err)
	}
	b := tx.Bucket(bucketEvents)
	if err := b.Put(uintKey(e.Revision), data); err != nil {
		return fmt.Errorf("write audit entry: %w", err)
	}
	return forget(b, e.Revision, keep)
}

// forget deletes all entries but the last keep ones, counted back from revision n.
func forget(b *bolt.Bucket, n uint64, keep int) error {
	if n <= uint64(keep) {
		return nil
	}
	c := b.Cursor()
	for k, _ := c.First(); k != nil && string(k) <= string(uintKey(n-uint64(keep))); k, _ = c.First() {
		if err := c.Delete(); err != nil {
			return fmt.Errorf("forget old revisions: %w", err)
		}
	}
	return nil
}

// Events returns the audit log from a revision on (inclusive), oldest first, at most max entries (0: all).
func (s *Store) Events(from uint64, max int) ([]Event, error) {
	var out []Event
	err := s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketEvents).Cursor()
		for k, v := c.Seek(uintKey(from)); k != nil && (max <= 0 || len(out) < max); k, v = c.Next() {
			var e Event
			if err := json.Unmarshal(v, &e); err != nil {
				return fmt.Errorf("decode audit entry: %w", err)
			}
			out = append(out, e)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	return out, nil
}

// putHistory keeps what the objects were before revision n, so that revision n-1 can be read back.
func putHistory(tx *bolt.Tx, n uint64, undo []objectState, keep int) error {
	data, err := json.Marshal(undo)
	if err != nil {
		return fmt.Errorf("encode history: %w", err)
	}
	b := tx.Bucket(bucketHistory)
	if err := b.Put(uintKey(n), data); err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	return forget(b, n, keep)
}

// Revision returns the desired state as it was at a revision: the current one, or one of those that are kept. Otherwise the
// error is ErrNoRevision.
func (s *Store) Revision(n uint64) (*vpc.Spec, error) {
	var spec *vpc.Spec
	err := s.view(func(tx *bolt.Tx) error {
		cur := getUint(tx.Bucket(bucketMeta), keyRevision)
		if n > cur {
			return fmt.Errorf("%w: the newest is %d", ErrNoRevision, cur)
		}
		all, err := loadObjects(tx)
		if err != nil {
			return err
		}
		for r := cur; r > n; r-- {
			if err := all.undo(tx, r); err != nil {
				return err
			}
		}
		spec, _, err = all.spec()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read revision %d: %w", n, err)
	}
	return spec, nil
}

// undo takes revision n back.
func (all objects) undo(tx *bolt.Tx, n uint64) error {
	data := tx.Bucket(bucketHistory).Get(uintKey(n))
	if data == nil {
		return fmt.Errorf("%w: the oldest is %d", ErrNoRevision, n)
	}
	var before []objectState
	if err := json.Unmarshal(data, &before); err != nil {
		return fmt.Errorf("decode history of revision %d: %w", n, err)
	}
	for _, o := range slices.Backward(before) {
		switch {
		case all[o.Kind] == nil:
			return fmt.Errorf("history of revision %d: unknown kind %q", n, o.Kind)
		case o.Value == nil:
			delete(all[o.Kind], o.Key)
		default:
			all[o.Kind][o.Key] = o.Value
		}
	}
	return nil
}
