// Package store keeps what must outlive the daemon in one bbolt file: the desired state with its revisions and who made
// them, leases, and a few small values.
//
// A revision is an immutable *vpc.Spec. Commit writes what differs from the revision before it, an audit event and what is
// needed to read the older revision back, all in one transaction, and then wakes the watchers. On disk every object is a
// key of its own (object.go), so that one more instance among ten thousand costs one more key. Leases (lease.go) are apart
// from objects: they change with every packet and decide nothing about rules.
//
// Nothing here assumes to be the only writer of the desired state: a Commit names the revision that it started from.
package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"gatehouse/vpc"
)

// Errors that callers tell apart.
var (
	// ErrConflict: the revision that a Commit started from is not the current one any more.
	ErrConflict = errors.New("the desired state has changed meanwhile")
	// ErrNoRevision: the revision is not kept any more, or does not exist yet.
	ErrNoRevision = errors.New("revision is not kept")
	// ErrInUse: another process has the file open.
	ErrInUse = errors.New("in use by another gatehouse")
	// ErrCorrupt: the file is damaged, or not a store at all.
	ErrCorrupt = errors.New("damaged, or not a gatehouse store")
	// ErrNewer: the file was written by a newer gatehouse.
	ErrNewer = errors.New("written by a newer gatehouse")
	// ErrClosed: the store has been closed.
	ErrClosed = errors.New("store is closed")
)

// Options are what a Store may be told. The zero value is ready for use.
type Options struct {
	Now      func() time.Time // default time.Now
	Log      *slog.Logger     // default: silent
	History  int              // revisions before the current one that can be read back; default 100
	MaxAudit int              // audit events kept; default 10000

	schema     uint64                 // default schemaVersion
	migrations []func(*bolt.Tx) error // default migrations
}

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.History == 0 {
		o.History = 100
	}
	if o.MaxAudit == 0 {
		o.MaxAudit = 10_000
	}
	if o.schema == 0 {
		o.schema, o.migrations = schemaVersion, migrations
	}
	return o
}

// Store is an open store. Its methods may be called from any goroutine.
type Store struct {
	db   *bolt.DB
	path string
	opt  Options

	current atomic.Pointer[revision]

	commit sync.Mutex // held from reading the current revision to replacing it

	watch    sync.Mutex
	watchers map[chan struct{}]bool

	leases committer
}

// revision is one state of the network. It is never changed.
type revision struct {
	spec   *vpc.Spec
	number uint64
	stamp  uint64 // random
}

// newRevision makes one that is to be stored.
func newRevision(spec *vpc.Spec, number uint64) *revision {
	return &revision{spec, number, 1 + rand.Uint64N(math.MaxUint64)}
}

// loadRevision reads the current one.
func loadRevision(tx *bolt.Tx) (*revision, error) {
	spec, err := loadSpec(tx)
	if err != nil {
		return nil, err
	}
	b := tx.Bucket(bucketMeta)
	return &revision{spec, getUint(b, keyRevision), getUint(b, keyStamp)}, nil
}

// State returns the desired state and its revision; an empty Spec and 0 before the first Commit. The Spec and what it
// points to must not be changed.
func (s *Store) State() (*vpc.Spec, uint64) {
	r := s.current.Load()
	return r.spec, r.number
}

// Stamp returns the current revision with a number that tells it from every other one that was ever given that number, in
// this store, in another, or in a backup that has gone its own way. It is 0 before the first Commit.
func (s *Store) Stamp() (revision, stamp uint64) {
	r := s.current.Load()
	return r.number, r.stamp
}

// Commit makes spec the desired state and returns its revision, which is durable then and which State returns. base is the
// revision that spec was derived from: if it is not the current one the error is ErrConflict. A spec that differs from the
// current one in nothing that is stored makes no revision: the current one is returned.
//
// The Spec must be complete (every object has its ID) and must not be changed afterwards; what it shares with the current
// one, by pointer, is not even looked at.
func (s *Store) Commit(ctx context.Context, base uint64, spec *vpc.Spec, a Audit) (uint64, error) {
	s.commit.Lock()
	defer s.commit.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	cur := s.current.Load()
	if base != cur.number {
		return 0, fmt.Errorf("commit on revision %d: %w: it is at revision %d", base, ErrConflict, cur.number)
	}
	plan, err := s.diff(cur.spec, spec)
	if err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	next := newRevision(spec, cur.number+1)
	err = s.update(func(tx *bolt.Tx) error {
		if n := getUint(tx.Bucket(bucketMeta), keyRevision); n != cur.number {
			return fmt.Errorf("%w: the file is at revision %d", ErrConflict, n)
		}
		undo, err := plan.write(tx)
		if err != nil {
			return err
		}
		if len(undo) == 0 {
			return errSame
		}
		return s.writeRevision(tx, next, undo, a)
	})
	switch {
	case errors.Is(err, errSame):
		return cur.number, nil
	case err != nil:
		s.resync()
		return 0, fmt.Errorf("commit revision %d: %w", next.number, err)
	}
	s.adopt(next)
	return next.number, nil
}

// diff compares what is stored with what shall be.
func (s *Store) diff(old, new *vpc.Spec) (plan *changes, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		plan, err = diff(old, new, ranksIn(tx))
		return err
	})
	return plan, err
}

// errSame rolls a transaction back that would change nothing.
var errSame = errors.New("nothing to change")

// adopt makes a revision that has just been stored the current one.
func (s *Store) adopt(r *revision) {
	s.current.Store(r)
	s.wake()
}

// resync makes memory agree with the file again after a commit whose outcome is unknown: when the disk fails in the very
// last write, a transaction that was reported as failed may be there.
func (s *Store) resync() {
	var now *revision
	err := s.view(func(tx *bolt.Tx) (err error) {
		if getUint(tx.Bucket(bucketMeta), keyRevision) != s.current.Load().number {
			now, err = loadRevision(tx)
		}
		return err
	})
	if err != nil || now == nil {
		return // unchanged, or unreadable: what was last known to be stored stays in force
	}
	s.adopt(now)
}

// writeRevision writes what a revision consists of besides its objects, and forgets what is too old.
func (s *Store) writeRevision(tx *bolt.Tx, r *revision, undo []objectState, a Audit) error {
	b := tx.Bucket(bucketMeta)
	if err := errors.Join(putUint(b, keyRevision, r.number), putUint(b, keyStamp, r.stamp)); err != nil {
		return err
	}
	if err := putHistory(tx, r.number, undo, s.opt.History); err != nil {
		return err
	}
	return putEvent(tx, a.event(r.number, s.opt.Now()), s.opt.MaxAudit)
}

// Watch returns a channel that receives after every new revision. It has one slot: whoever was busy during ten commits is
// woken once, and reads State. cancel ends it; the channel is never closed.
func (s *Store) Watch() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	s.watch.Lock()
	defer s.watch.Unlock()
	s.watchers[ch] = true
	return ch, func() {
		s.watch.Lock()
		defer s.watch.Unlock()
		delete(s.watchers, ch)
	}
}

func (s *Store) wake() {
	s.watch.Lock()
	defer s.watch.Unlock()
	for ch := range s.watchers {
		select {
		case ch <- struct{}{}:
		default: // asked already
		}
	}
}

// Meta returns a small value that the daemon keeps for itself; nil if there is none under that key.
func (s *Store) Meta(key string) ([]byte, error) {
	var value []byte
	err := s.view(func(tx *bolt.Tx) error {
		if v := tx.Bucket(bucketValues).Get([]byte(key)); v != nil {
			value = append([]byte{}, v...) // v dies with the transaction
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return value, nil
}

// PutMeta keeps a small value; nil removes it. It is durable when PutMeta returns.
func (s *Store) PutMeta(ctx context.Context, key string, value []byte) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	err := s.update(func(tx *bolt.Tx) error {
		if value == nil {
			return tx.Bucket(bucketValues).Delete([]byte(key))
		}
		return tx.Bucket(bucketValues).Put([]byte(key), value)
	})
	if err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}

// Stats are figures about the file.
type Stats struct {
	Revision  uint64
	FileBytes int64 // size of the file
	FreeBytes int64 // of that, unused; the file shrinks when it is next opened
}

// Stats returns figures about the file.
func (s *Store) Stats() (Stats, error) {
	st := Stats{Revision: s.current.Load().number}
	err := s.view(func(tx *bolt.Tx) error {
		st.FileBytes = tx.Size()
		st.FreeBytes = freeBytes(s.db)
		return nil
	})
	if err != nil {
		return Stats{}, fmt.Errorf("store figures: %w", err)
	}
	return st, nil
}

// Close waits for what has been asked for, and closes the file. Every later call fails with ErrClosed.
func (s *Store) Close() error {
	s.leases.close()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close %s: %w", s.path, err)
	}
	return nil
}

// update runs one write transaction; when it returns nil everything is on the disk.
func (s *Store) update(fn func(*bolt.Tx) error) error { return closedError(s.db.Update(fn)) }

func (s *Store) view(fn func(*bolt.Tx) error) error { return closedError(s.db.View(fn)) }

// closedError keeps bbolt's errors from crossing the package's edge.
func closedError(err error) error {
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

func getUint(b *bolt.Bucket, key []byte) uint64 {
	if v := b.Get(key); len(v) == 8 {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func putUint(b *bolt.Bucket, key []byte, n uint64) error {
	return b.Put(key, uintKey(n))
}

// uintKey is a number as a key: big endian, so that keys are in the order of the numbers.
func uintKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
