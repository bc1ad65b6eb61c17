package store

import (
	"bytes"
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
	b := tx.Bucket(bucketHistory)
	if err := b.Put(uintKey(n), encodeUndo(undo)); err != nil {
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
		before := map[string]map[string][]byte{}
		for r := cur; r > n; r-- {
			if err := undo(tx, r, before); err != nil {
				return err
			}
		}
		all.replace(before)
		spec, err = all.spec()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read revision %d: %w", n, err)
	}
	return spec, nil
}

// undo collects by kind and key what revision n replaced; nil: nothing was there.
func undo(tx *bolt.Tx, n uint64, before map[string]map[string][]byte) error {
	data := tx.Bucket(bucketHistory).Get(uintKey(n))
	if data == nil {
		return fmt.Errorf("%w: the oldest is %d", ErrNoRevision, n)
	}
	states, err := decodeUndo(data)
	if err != nil {
		return fmt.Errorf("decode history of revision %d: %w", n, err)
	}
	for _, o := range slices.Backward(states) {
		if !slices.Contains(kinds, o.Kind) {
			return fmt.Errorf("history of revision %d: unknown kind %q", n, o.Kind)
		}
		if before[o.Kind] == nil {
			before[o.Kind] = map[string][]byte{}
		}
		before[o.Kind][o.Key] = o.Value
	}
	return nil
}

// replace puts objects in place of those with the same keys, or removes these.
func (all objects) replace(before map[string]map[string][]byte) {
	for kind, values := range before {
		list := slices.DeleteFunc(all[kind], func(o object) bool {
			_, other := values[string(o.key)]
			return other
		})
		for key, value := range values {
			if value != nil {
				list = append(list, object{[]byte(key), value})
			}
		}
		slices.SortFunc(list, func(a, b object) int { return bytes.Compare(a.key, b.key) })
		all[kind] = list
	}
}

// What a revision replaced is stored as the version 1 and a row of objects: kind, key, and the value with its length plus
// one before it, or 0 if nothing was there. Until schema 2 it was a list in JSON, which begins with a bracket, or "null".
const undoVersion = 1

func encodeUndo(undo []objectState) []byte {
	b := []byte{undoVersion}
	for _, o := range undo {
		b = appendString(appendString(b, o.Kind), o.Key)
		b = append(appendLen(b, len(o.Value), o.Value == nil), o.Value...)
	}
	return b
}

// decodeUndo reads what a revision replaced in any of its forms.
func decodeUndo(data []byte) ([]objectState, error) {
	if len(data) == 0 {
		return nil, errShort
	}
	var out []objectState
	if data[0] != undoVersion {
		return out, json.Unmarshal(data, &out)
	}
	r := reader{rest: data[1:], pool: newPool()}
	for len(r.rest) > 0 {
		o := objectState{Kind: r.name(), Key: r.string()}
		if n, ok := r.len(); ok {
			o.Value = r.take(uint64(n))
		}
		out = append(out, o)
	}
	if r.bad {
		return nil, errShort
	}
	return out, nil
}
