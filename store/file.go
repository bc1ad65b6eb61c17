package store

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// schemaVersion is the form of the file that this program writes. Every change of it adds a migration.
const schemaVersion = 2

// migrations lead from each schema to the next: the first from 1 to 2. All that are needed run in one transaction, after
// a copy of the file has been put beside it.
var migrations = []func(*bolt.Tx) error{instancesFromJSON}

// The buckets besides those of the kinds of objects.
var (
	bucketMeta    = []byte("meta")    // schema, revision, stamp
	bucketValues  = []byte("values")  // small values of the daemon
	bucketLeases  = []byte("leases")  // by address
	bucketJournal = []byte("journal") // what is newer than that, in the order of writing; absent when nothing is
	bucketEvents  = []byte("events")  // audit log, by revision
	bucketHistory = []byte("history") // what each revision replaced, by revision

	keySchema   = []byte("schema")
	keyRevision = []byte("revision")
	keyStamp    = []byte("stamp") // of the revision; none in what was migrated from schema 1
)

const (
	fileMode = 0o600 // keys of updates and user data are in it
	dirMode  = 0o700

	// mapSize is mapped from the start. It is address space, not memory; a file that outgrows its map makes the writer
	// wait for every reader.
	mapSize = 256 << 20

	// lockWait is as good as none: the lock is tried once. (Zero would mean for ever.)
	lockWait = time.Nanosecond

	// A file is rewritten when it is opened if more than half of it, and more than this, is free.
	compactAbove = 16 << 20
)

// Open opens the store at path, making it and its directory if they are missing. Only one process may have it open
// (ErrInUse). An older file is brought up to date first, a newer one is refused (ErrNewer), as is a damaged one
// (ErrCorrupt): nothing is ever repaired by guessing, restore a backup instead.
func Open(path string, opt Options) (*Store, error) {
	opt = opt.withDefaults()
	s, err := open(path, opt)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return s, nil
}

func open(path string, opt Options) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return nil, err
	}
	if err := create(path); err != nil {
		return nil, err
	}
	db, err := openFile(path, false)
	if err != nil {
		return nil, err
	}
	if err := checkPages(path); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if db, err = compact(db, path, opt); err != nil {
		return nil, err
	}
	s := &Store{db: db, path: path, opt: opt, watchers: map[chan struct{}]bool{}}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s.leases.start(s.update)
	return s, nil
}

// create makes an empty database where there is none. It gets its name when it is whole: an empty file of that name is what
// is left of a store, not the beginning of one.
func create(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh := fmt.Sprintf("%s.%d.new", path, os.Getpid())
	if err := removeIfThere(fresh); err != nil {
		return err
	}
	db, err := bolt.Open(fresh, fileMode, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return err
	}
	err = db.Close()
	if err == nil {
		err = os.Link(fresh, path) // unlike a rename it leaves alone what another process has made meanwhile
	}
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	return errors.Join(err, os.Remove(fresh))
}

// load prepares the buckets, migrates, and reads the current state.
func (s *Store) load() error {
	if err := os.Chmod(s.path, fileMode); err != nil {
		return err
	}
	if err := giveToOwner(s.path); err != nil {
		return err
	}
	if err := s.migrate(); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		return err
	}
	return guard(func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			for _, name := range buckets() {
				if tx.Bucket(name) == nil {
					return fmt.Errorf("%w: %s is missing", ErrCorrupt, name)
				}
			}
			now, err := loadRevision(tx)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
			s.current.Store(now)
			return nil
		})
	})
}

// migrate makes an empty file a store, and an older store one of today.
func (s *Store) migrate() error {
	var schema uint64
	var empty bool
	err := guard(func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			if k, _ := tx.Cursor().First(); k == nil {
				empty = true
				return nil
			}
			if tx.Bucket(bucketMeta) == nil {
				return fmt.Errorf("%w: it has no schema", ErrCorrupt)
			}
			schema = getUint(tx.Bucket(bucketMeta), keySchema)
			return nil
		})
	})
	switch {
	case err != nil:
		return err
	case empty:
		return s.db.Update(func(tx *bolt.Tx) error { return initialise(tx, s.opt.schema) })
	case schema == 0:
		return fmt.Errorf("%w: it has no schema", ErrCorrupt)
	case schema > s.opt.schema:
		return fmt.Errorf("%w: its schema is %d, this one knows %d; install a newer gatehouse, or restore a backup", ErrNewer, schema, s.opt.schema)
	case schema == s.opt.schema:
		return nil
	}
	// Whoever goes back to the older program can put this copy in place.
	old := fmt.Sprintf("%s.schema%d", s.path, schema)
	if err := copyTo(s.db, old); err != nil {
		return fmt.Errorf("copy to %s before migrating: %w", old, err)
	}
	s.opt.Log.Info("migrating store", "from", schema, "to", s.opt.schema, "copy", old)
	return guard(func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			for v := schema; v < s.opt.schema; v++ {
				if err := s.opt.migrations[v-1](tx); err != nil {
					return fmt.Errorf("migrate from schema %d to %d: %w", v, v+1, err)
				}
			}
			return initialise(tx, s.opt.schema)
		})
	})
}

// buckets lists every bucket that a store has.
func buckets() [][]byte {
	names := [][]byte{bucketMeta, bucketValues, bucketLeases, bucketEvents, bucketHistory}
	for _, k := range kinds {
		names = append(names, []byte(k))
	}
	return names
}

// initialise makes the buckets that are missing.
func initialise(tx *bolt.Tx, schema uint64) error {
	for _, name := range buckets() {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return fmt.Errorf("create bucket %s: %w", name, err)
		}
	}
	return putUint(tx.Bucket(bucketMeta), keySchema, schema)
}

// openFile opens a bbolt file, having made sure that mapping it is safe.
func openFile(path string, readOnly bool) (db *bolt.DB, err error) {
	if err := checkSize(path); err != nil {
		return nil, err
	}
	var file *os.File
	err = guard(func() error {
		db, err = bolt.Open(path, fileMode, &bolt.Options{
			Timeout:         lockWait,
			FreelistType:    bolt.FreelistMapType,
			InitialMmapSize: mapSize,
			ReadOnly:        readOnly,
			OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
				f, err = os.OpenFile(name, flag, mode)
				file = f
				return f, err
			},
		})
		return err
	})
	if err != nil && file != nil {
		// bbolt does both itself, unless it panicked. Closing alone would not do then: the mapping keeps the lock.
		_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
		_ = file.Close()
	}
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		if pid := lockHolder(path); pid != "" {
			return nil, fmt.Errorf("%w (process %s)", ErrInUse, pid)
		}
		return nil, ErrInUse
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return db, err
}

// giveToOwner gives the file to whom its directory belongs, when root has made it: the daemon is not root, and must be able
// to open what an administrator's command has left.
func giveToOwner(path string) error {
	var file, dir syscall.Stat_t
	if err := errors.Join(syscall.Stat(path, &file), syscall.Stat(filepath.Dir(path), &dir)); err != nil {
		return err
	}
	if os.Geteuid() != 0 || file.Uid == dir.Uid {
		return nil
	}
	return os.Chown(path, int(dir.Uid), int(dir.Gid))
}

// checkSize refuses a file that is shorter than it says. bbolt maps the file: reading behind its end kills the process.
func checkSize(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: not a regular file", ErrCorrupt)
	}
	if info.Size() == 0 {
		return fmt.Errorf("%w: the file is empty", ErrCorrupt)
	}
	m, err := readMeta(f, info.Size())
	if err != nil {
		return err
	}
	if need := int64(m.pages) * m.pageSize; info.Size() < need {
		return fmt.Errorf("%w: the file has %d bytes of %d", ErrCorrupt, info.Size(), need)
	}
	return nil
}

// guard turns what bbolt does on a damaged file, panics and faults on the mapping included, into ErrCorrupt.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, r)
		}
	}()
	return fn()
}

// lockHolder returns the process that holds the lock on a file, "" if the kernel does not say (proc_locks(5)).
func lockHolder(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return ""
	}
	defer f.Close()
	inode := ":" + strconv.FormatUint(st.Ino, 10)
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 4242 fe:01:123456 0 EOF
		if w := strings.Fields(sc.Text()); len(w) >= 6 && w[1] == "FLOCK" && strings.HasSuffix(w[5], inode) && w[4] != "0" {
			return w[4]
		}
	}
	return ""
}

// freeBytes is how much of the file is unused.
func freeBytes(db *bolt.DB) int64 {
	st := db.Stats()
	return int64(st.FreePageN+st.PendingPageN) * int64(db.Info().PageSize)
}

// compact rewrites a file that is mostly empty: bbolt never gives space back by itself.
func compact(db *bolt.DB, path string, opt Options) (*bolt.DB, error) {
	tmp := path + ".compact"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, db.Close())
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if free := freeBytes(db); free <= compactAbove || free <= info.Size()/2 {
		return db, nil
	}
	if err := rewrite(db, tmp); err != nil {
		// The file as it is does as well; a full disk must not keep the gateway from starting.
		opt.Log.Warn("store not compacted", "path", path, "error", err)
		return db, errors.Join(removeIfThere(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	// The old file's lock is held until the new one has its own.
	fresh, err := openFile(path, false)
	if err := errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	after, err := os.Stat(path)
	if err != nil {
		return nil, errors.Join(err, fresh.Close())
	}
	opt.Log.Info("store compacted", "path", path, "before", info.Size(), "after", after.Size())
	return fresh, nil
}

// rewrite copies what is in use into a new file, which is on the disk when it returns.
func rewrite(src *bolt.DB, dst string) error {
	out, err := bolt.Open(dst, fileMode, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return err
	}
	const perTransaction = 4 << 20
	err = guard(func() error { return bolt.Compact(out, src, perTransaction) })
	return errors.Join(err, out.Close())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncDir makes names in a directory durable: a new file is lost with its name.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
