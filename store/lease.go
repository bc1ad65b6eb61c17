package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"gatehouse/vpc"
)

// Leases returns every stored lease: IPv4 first, each family by address.
func (s *Store) Leases() ([]vpc.Lease, error) {
	var out []vpc.Lease
	err := s.view(func(tx *bolt.Tx) (err error) {
		out, err = readLeases(tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	return out, nil
}

func readLeases(tx *bolt.Tx) ([]vpc.Lease, error) {
	recent, err := readJournal(tx)
	if err != nil {
		return nil, err
	}
	b := tx.Bucket(bucketLeases)
	out := make([]vpc.Lease, 0, b.Stats().KeyN+len(recent))
	p := newPool()
	add := func(k, v []byte) error {
		l, err := decodeLease(k, v, p)
		if err != nil {
			return fmt.Errorf("decode lease %x: %w", k, err)
		}
		out = append(out, l)
		return nil
	}
	err = b.ForEach(func(k, v []byte) error {
		if _, changed := recent[string(k)]; changed {
			return nil
		}
		return add(k, v)
	})
	for k, v := range recent {
		if err == nil && v != nil {
			err = add([]byte(k), v)
		}
	}
	slices.SortFunc(out, func(a, b vpc.Lease) int { return a.Address.Compare(b.Address) })
	return out, err
}

// PutLeases stores leases, each in place of any earlier one of its address. They are on the disk when it returns nil, and
// only then may they be acknowledged. Callers that come at the same time share one write.
//
// When ctx ends first the error is that of ctx, and whether the leases are stored is unknown.
func (s *Store) PutLeases(ctx context.Context, leases ...vpc.Lease) error {
	writes := make([]leaseWrite, len(leases))
	for i, l := range leases {
		value, err := encodeLease(l)
		if err != nil {
			return fmt.Errorf("store lease %s: %w", l.Address, err)
		}
		writes[i] = leaseWrite{key: l.Address.AsSlice(), value: value}
	}
	if err := s.leases.submit(ctx, writes); err != nil {
		return fmt.Errorf("store leases: %w", err)
	}
	return nil
}

// DeleteLeases removes the leases of addresses, as PutLeases stores them; an address without a lease is no error.
func (s *Store) DeleteLeases(ctx context.Context, addrs ...netip.Addr) error {
	writes := make([]leaseWrite, len(addrs))
	for i, a := range addrs {
		if !a.IsValid() {
			return fmt.Errorf("delete leases: invalid address")
		}
		writes[i] = leaseWrite{key: a.AsSlice()}
	}
	if err := s.leases.submit(ctx, writes); err != nil {
		return fmt.Errorf("delete leases: %w", err)
	}
	return nil
}

// leaseWrite is one lease to put, or to delete if it has no value.
type leaseWrite struct {
	key, value []byte
}

// leaseRequest is what one caller waits for.
type leaseRequest struct {
	writes []leaseWrite
	done   chan error // one slot: the caller may have left
}

// committer writes leases in groups: whatever has been asked for while one write was on its way to the disk goes into the
// next. There is no timer: a lone request is written at once.
//
// A group is appended to a journal, as one value: that costs two pages, however many leases there are and wherever their
// addresses lie. When the journal has become long it is folded into the table of leases, which touches each page of the
// table once for many groups.
type committer struct {
	update   func(func(*bolt.Tx) error) error
	requests chan leaseRequest
	unfolded int // writes in the journal, or more

	mu      sync.RWMutex // held for reading while a request is handed over
	closed  bool
	stopped chan struct{}
}

const (
	// maxGroup bounds the leases in one write, so that the first of them does not wait for ever.
	maxGroup = 4096
	// foldAt is how many writes the journal holds before it is folded. It takes some ten milliseconds then.
	foldAt = 8192
)

func (c *committer) start(update func(func(*bolt.Tx) error) error) {
	c.update = update
	c.unfolded = foldAt // what an earlier run has left is folded by the first write
	c.requests = make(chan leaseRequest, maxGroup)
	c.stopped = make(chan struct{})
	go c.run()
}

// submit waits until the writes are on the disk.
func (c *committer) submit(ctx context.Context, writes []leaseWrite) error {
	if len(writes) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	req := leaseRequest{writes, make(chan error, 1)}
	if err := c.enqueue(ctx, req); err != nil {
		return err
	}
	select {
	case err := <-req.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *committer) enqueue(ctx context.Context, req leaseRequest) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return ErrClosed
	}
	select {
	case c.requests <- req:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close has what was asked for written, and stops.
func (c *committer) close() {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.requests)
	}
	c.mu.Unlock()
	<-c.stopped
}

func (c *committer) run() {
	defer close(c.stopped)
	for req := range c.requests {
		group := []leaseRequest{req}
		n := len(req.writes)
	drain:
		for n < maxGroup {
			select {
			case req, ok := <-c.requests:
				if !ok {
					break drain
				}
				group = append(group, req)
				n += len(req.writes)
			default:
				break drain
			}
		}
		err := c.write(group)
		for _, r := range group {
			r.done <- err
		}
	}
}

// write stores a group in one transaction.
func (c *committer) write(group []leaseRequest) error {
	var writes []leaseWrite
	for _, r := range group {
		writes = append(writes, r.writes...)
	}
	fold := c.unfolded+len(writes) > foldAt
	err := c.update(func(tx *bolt.Tx) error {
		if fold {
			return foldJournal(tx, writes)
		}
		return appendJournal(tx, writes)
	})
	switch {
	case err != nil:
	case fold:
		c.unfolded = 0
	default:
		c.unfolded += len(writes)
	}
	return err
}

// appendJournal adds writes as one value, under the number that follows the last one's.
func appendJournal(tx *bolt.Tx, writes []leaseWrite) error {
	b, err := tx.CreateBucketIfNotExists(bucketJournal)
	if err != nil {
		return err
	}
	n, err := b.NextSequence()
	if err != nil {
		return err
	}
	b.FillPercent = 1 // keys only ever grow
	return b.Put(uintKey(n), encodeWrites(writes))
}

// foldJournal brings the table of leases up to date with the journal and what is to be written after it, and empties the
// journal.
func foldJournal(tx *bolt.Tx, writes []leaseWrite) error {
	latest, err := readJournal(tx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	for _, w := range writes {
		latest[string(w.key)] = w.value
	}
	if err := dropJournal(tx); err != nil {
		return err
	}
	b := tx.Bucket(bucketLeases)
	for _, key := range slices.Sorted(maps.Keys(latest)) { // neighbours share pages
		if value := latest[key]; value == nil {
			err = b.Delete([]byte(key))
		} else {
			err = b.Put([]byte(key), value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readJournal gives what the journal says of each lease that it has: its value, nil if it has been deleted.
func readJournal(tx *bolt.Tx) (map[string][]byte, error) {
	latest := map[string][]byte{}
	b := tx.Bucket(bucketJournal)
	if b == nil {
		return latest, nil
	}
	return latest, b.ForEach(func(k, v []byte) error {
		writes, err := decodeWrites(bytes.Clone(v)) // the map of the file may move while the leases are written
		if err != nil {
			return fmt.Errorf("decode lease journal %x: %w", k, err)
		}
		for _, w := range writes {
			latest[string(w.key)] = w.value
		}
		return nil
	})
}

// dropJournal empties the journal.
func dropJournal(tx *bolt.Tx) error {
	if tx.Bucket(bucketJournal) == nil {
		return nil
	}
	return tx.DeleteBucket(bucketJournal)
}

// A value of the journal is a row of writes: for each the key with its length before it, and the value with its length
// plus one, or 0 for a lease that is deleted.

func encodeWrites(writes []leaseWrite) []byte {
	size := 0
	for _, w := range writes {
		size += len(w.key) + len(w.value) + 4
	}
	b := make([]byte, 0, size)
	for _, w := range writes {
		b = binary.AppendUvarint(b, uint64(len(w.key)))
		b = append(b, w.key...)
		if w.value == nil {
			b = binary.AppendUvarint(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(w.value))+1)
		b = append(b, w.value...)
	}
	return b
}

// decodeWrites reads what encodeWrites made; keys and values are part of b.
func decodeWrites(b []byte) ([]leaseWrite, error) {
	var writes []leaseWrite
	take := func(n uint64) []byte {
		v := b[:n:n]
		b = b[n:]
		return v
	}
	for len(b) > 0 {
		var w leaseWrite
		n, k := binary.Uvarint(b)
		if k <= 0 || n == 0 || n > uint64(len(b)-k) {
			return nil, errShort
		}
		b = b[k:]
		w.key = take(n)
		n, k = binary.Uvarint(b)
		if k <= 0 || n > uint64(len(b)-k)+1 {
			return nil, errShort
		}
		b = b[k:]
		if n > 0 {
			w.value = take(n - 1)
		}
		writes = append(writes, w)
	}
	return writes, nil
}

// A lease is stored under the bytes of its address (4 or 16), as
//
//	version 1 | MAC (6) | state (1) | start | expires | client ID | DUID | host name | interface | vSwitch
//
// with times as seconds and nanoseconds and the strings of binary.go.

const leaseVersion = 1

// leaseStates are the states by their number in the file; a number is never given to another state.
var leaseStates = []vpc.LeaseState{"", vpc.LeaseOffered, vpc.LeaseBound, vpc.LeaseExpired, vpc.LeaseReleased, vpc.LeaseDeclined}

func encodeLease(l vpc.Lease) ([]byte, error) {
	if !l.Address.IsValid() || l.Address.Zone() != "" {
		return nil, errors.New("not an address that can be leased")
	}
	state := slices.Index(leaseStates, l.State)
	if state < 0 {
		return nil, fmt.Errorf("unknown state %q", l.State)
	}
	b := make([]byte, 0, 64+len(l.ClientID)+len(l.DUID)+len(l.Hostname)+len(l.Interface)+len(l.VSwitch))
	b = append(b, leaseVersion)
	b = append(b, l.MAC[:]...)
	b = append(b, byte(state))
	for _, t := range []time.Time{l.Start, l.Expires} {
		b = binary.AppendVarint(b, t.Unix())
		b = binary.AppendUvarint(b, uint64(t.Nanosecond()))
	}
	for _, s := range []string{l.ClientID, l.DUID, l.Hostname, l.Interface, l.VSwitch} {
		b = appendString(b, s)
	}
	return b, nil
}

func decodeLease(key, value []byte, p *pool) (vpc.Lease, error) {
	addr, ok := netip.AddrFromSlice(key)
	if !ok {
		return vpc.Lease{}, errors.New("the key is not an address")
	}
	l := vpc.Lease{Address: addr}
	if len(value) < 2+len(l.MAC) {
		return vpc.Lease{}, errShort
	}
	if value[0] != leaseVersion {
		return vpc.Lease{}, fmt.Errorf("version %d is not known", value[0])
	}
	copy(l.MAC[:], value[1:])
	state := int(value[1+len(l.MAC)])
	if state >= len(leaseStates) {
		return vpc.Lease{}, fmt.Errorf("state %d is not known", state)
	}
	l.State = leaseStates[state]
	r := reader{rest: value[2+len(l.MAC):], pool: p}
	l.Start, l.Expires = r.time(), r.time()
	l.ClientID, l.DUID, l.Hostname = r.string(), r.string(), r.string()
	l.Interface, l.VSwitch = r.string(), r.name()
	if r.bad || len(r.rest) != 0 {
		return vpc.Lease{}, errShort
	}
	return l, nil
}
