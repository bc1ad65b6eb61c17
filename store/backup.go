package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"gatehouse/vpc"
)

// Backup writes a consistent copy of the store to w while it is in use. The copy is a store itself: Check and Restore
// read it, and it may be put in place of state.db while no gatehouse runs.
func (s *Store) Backup(w io.Writer) error {
	// The copy is made in a file first. A transaction that is open for as long as a slow reader takes would keep the
	// store from growing, and so leases from being acknowledged.
	tmp, err := os.CreateTemp(filepath.Dir(s.path), filepath.Base(s.path)+".backup-*")
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	defer tmp.Close()
	if err := os.Remove(tmp.Name()); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	err = s.view(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(tmp)
		return err
	})
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	if _, err := io.Copy(w, tmp); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	return nil
}

// copyTo writes a consistent, durable copy of a store to a file.
func copyTo(db *bolt.DB, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fileMode)
	if err != nil {
		return err
	}
	err = db.View(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(f)
		return err
	})
	return errors.Join(err, f.Sync(), f.Close())
}

// Contents is what Check found in a file.
type Contents struct {
	Revision uint64
	Spec     *vpc.Spec
	Leases   []vpc.Lease

	values map[string][]byte
}

// Check reads a store or a backup from end to end without changing it, and returns what is in it. The error tells a
// damaged file (ErrCorrupt) from one of a newer gatehouse (ErrNewer). Whether the Spec still suits this gateway is for
// vpc.Validate to say.
func Check(path string) (*Contents, error) {
	c, err := check(path, Options{}.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("check %s: %w", path, err)
	}
	return c, nil
}

func check(path string, opt Options) (*Contents, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if info.Size() == 0 {
		return nil, fmt.Errorf("%w: the file is empty", ErrCorrupt)
	}
	src, err := openFile(path, true)
	if err != nil {
		return nil, err
	}
	// A copy is read, not the file: an older one is migrated on the way.
	dir, err := os.MkdirTemp("", "gatehouse-check-")
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "state.db")
	if err := errors.Join(guard(func() error { return copyTo(src, tmp) }), src.Close()); err != nil {
		return nil, err
	}
	s, err := open(tmp, opt)
	if err != nil {
		return nil, err
	}
	c, err := s.contents()
	return c, errors.Join(err, s.Close())
}

func (s *Store) contents() (*Contents, error) {
	c := &Contents{values: map[string][]byte{}}
	c.Spec, c.Revision = s.State()
	err := guard(func() error {
		return s.view(func(tx *bolt.Tx) (err error) {
			if c.Leases, err = readLeases(tx); err != nil {
				return fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
			return tx.Bucket(bucketValues).ForEach(func(k, v []byte) error {
				c.values[string(k)] = append([]byte{}, v...)
				return nil
			})
		})
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Restore makes what Check found the desired state, as a new revision on top of base, with all leases of the backup in
// place of those that are stored. Values that the daemon keeps for itself are taken over only where there are none.
// Everything is one transaction; older revisions can still be read back.
func (s *Store) Restore(ctx context.Context, base uint64, c *Contents, a Audit) (uint64, error) {
	leases := make(map[string][]byte, len(c.Leases))
	for _, l := range c.Leases {
		value, err := encodeLease(l)
		if err != nil {
			return 0, fmt.Errorf("restore lease %s: %w", l.Address, err)
		}
		leases[string(l.Address.AsSlice())] = value
	}
	s.commit.Lock()
	defer s.commit.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("restore: %w", err)
	}
	cur := s.current.Load()
	if base != cur.number {
		return 0, fmt.Errorf("restore on revision %d: %w: it is at revision %d", base, ErrConflict, cur.number)
	}
	plan, err := s.diff(cur.spec, c.Spec)
	if err != nil {
		return 0, fmt.Errorf("restore: %w", err)
	}
	next := newRevision(c.Spec, cur.number+1)
	err = s.update(func(tx *bolt.Tx) error {
		undo, err := plan.write(tx)
		if err != nil {
			return err
		}
		if err := s.writeRevision(tx, next, undo, a); err != nil {
			return err
		}
		if err := errors.Join(tx.DeleteBucket(bucketLeases), dropJournal(tx)); err != nil {
			return err
		}
		b, err := tx.CreateBucket(bucketLeases)
		if err != nil {
			return err
		}
		for k, v := range leases {
			if err := b.Put([]byte(k), v); err != nil {
				return err
			}
		}
		values := tx.Bucket(bucketValues)
		for k, v := range c.values {
			if values.Get([]byte(k)) == nil {
				if err := values.Put([]byte(k), v); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		s.resync()
		return 0, fmt.Errorf("restore: %w", err)
	}
	s.adopt(next)
	return next.number, nil
}

// Replace puts a backup in place of the store at path while no gatehouse runs: it is checked first, brought up to date,
// and moved into place in one step. The store that was there is kept beside it, with .old appended.
func Replace(path, backup string) error {
	if err := replace(path, backup); err != nil {
		return fmt.Errorf("restore %s from %s: %w", path, backup, err)
	}
	return nil
}

func replace(path, backup string) (err error) {
	opt := Options{}.withDefaults()
	if _, err := check(backup, opt); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return err
	}
	// The lock on what is there now keeps a daemon from starting meanwhile; a damaged file, which nobody can open, is
	// what restoring is for.
	db, err := openFile(path, false)
	switch {
	case err == nil:
		defer func() { err = errors.Join(err, db.Close()) }()
	case !errors.Is(err, ErrCorrupt):
		return err
	}
	tmp := path + ".restore"
	src, err := openFile(backup, true)
	if err != nil {
		return err
	}
	if err := errors.Join(rewrite(src, tmp), src.Close()); err != nil {
		return errors.Join(err, removeIfThere(tmp))
	}
	s, err := open(tmp, opt)
	if err != nil {
		return errors.Join(err, removeIfThere(tmp))
	}
	if err := s.Close(); err != nil {
		return errors.Join(err, removeIfThere(tmp))
	}
	// There is a store at path at every moment: a daemon that found none would begin an empty one.
	old := path + ".old"
	if err := removeIfThere(old); err != nil {
		return errors.Join(err, removeIfThere(tmp))
	}
	if err := os.Link(path, old); err != nil {
		return errors.Join(err, removeIfThere(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, removeIfThere(tmp))
	}
	return syncDir(filepath.Dir(path))
}
