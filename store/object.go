package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"

	"gatehouse/vpc"
)

// Objects are kept one per key, in a bucket per kind whose keys are IDs. An object names the VPC that it belongs to, and
// has a rank: its place among its siblings. Ranks have gaps, so that an object can come between two others without those
// being written again.

// record is how objects are stored, in JSON, but for instances: see instance.go.
type record[T any] struct {
	VPC  string `json:"vpc,omitempty"` // ID; none: a VPC itself, or a zone that several share
	Rank uint64 `json:"rank"`
	Spec T      `json:"spec"`
}

// The kinds, which are also the names of their buckets.
const (
	kindVPC     = "vpc"
	kindVSwitch = "vswitch"
	kindGroup   = "securitygroup"
	kindList    = "prefixlist"
	kindACL     = "networkacl"
	kindInst    = "instance"
	kindZone    = "privatezone"
	kindTests   = "tests" // one key: the assertions are a value, not objects
)

var kinds = []string{kindVPC, kindVSwitch, kindGroup, kindList, kindACL, kindInst, kindZone, kindTests}

// testsKey is the one key of kindTests.
const testsKey = "tests"

// objectState is an object as it was stored before a revision: Value is nil if it was not there.
type objectState struct {
	Kind  string          `json:"kind"`
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value,omitempty"`
}

// changes are the objects to write for one revision.
type changes struct {
	put  []objectState // Value is the new value
	drop []objectState
}

// ranks tells the rank of a stored object.
type ranks func(kind, key string) uint64

// ranksIn reads ranks from the file: few are ever asked for.
func ranksIn(tx *bolt.Tx) ranks {
	return func(kind, key string) uint64 {
		value := tx.Bucket([]byte(kind)).Get([]byte(key))
		if rank := storedRank(value); rank != 0 {
			return rank
		}
		var r record[json.RawMessage]
		if err := json.Unmarshal(value, &r); err != nil {
			return 0 // it gets a new one
		}
		return r.Rank
	}
}

// diff returns what has to be written to get from old to new. Objects that both share by pointer are skipped.
func diff(old, new *vpc.Spec, ranks ranks) (*changes, error) {
	c := &changes{}
	if err := diffList(c, ranks, kindVPC, "", old.VPCs, new.VPCs, func(v *vpc.VPCSpec) string { return v.ID }, bare); err != nil {
		return nil, err
	}
	before := make(map[string]*vpc.VPCSpec, len(old.VPCs))
	for _, v := range old.VPCs {
		before[v.ID] = v
	}
	for _, v := range new.VPCs {
		o := before[v.ID]
		delete(before, v.ID)
		if o == v {
			continue
		}
		if o == nil {
			o = &vpc.VPCSpec{}
		}
		if err := c.diffChildren(ranks, v.ID, o, v); err != nil {
			return nil, err
		}
	}
	for id, o := range before {
		if err := c.diffChildren(ranks, id, o, &vpc.VPCSpec{}); err != nil {
			return nil, err
		}
	}
	if err := diffList(c, ranks, kindZone, "", old.PrivateZones, new.PrivateZones, zoneID, same); err != nil {
		return nil, err
	}
	return c, c.diffTests(old.Tests, new.Tests)
}

func zoneID(z *vpc.PrivateZoneSpec) string { return z.ID }

// same is the stored form of most objects: the object itself.
func same[T any](p *T) *T { return p }

// bare is a VPC apart from its children.
func bare(v *vpc.VPCSpec) *vpc.VPCSpec {
	own := *v
	own.VSwitches, own.SecurityGroups, own.PrefixLists = nil, nil, nil
	own.NetworkACLs, own.Instances, own.PrivateZones = nil, nil, nil
	return &own
}

func (c *changes) diffChildren(ranks ranks, id string, old, new *vpc.VPCSpec) error {
	if err := diffList(c, ranks, kindVSwitch, id, old.VSwitches, new.VSwitches, func(w *vpc.VSwitchSpec) string { return w.ID }, same); err != nil {
		return err
	}
	if err := diffList(c, ranks, kindGroup, id, old.SecurityGroups, new.SecurityGroups, func(g *vpc.GroupSpec) string { return g.ID }, same); err != nil {
		return err
	}
	if err := diffList(c, ranks, kindList, id, old.PrefixLists, new.PrefixLists, func(l *vpc.PrefixListSpec) string { return l.ID }, same); err != nil {
		return err
	}
	if err := diffList(c, ranks, kindACL, id, old.NetworkACLs, new.NetworkACLs, func(a *vpc.ACLSpec) string { return a.ID }, same); err != nil {
		return err
	}
	if err := diffList(c, ranks, kindInst, id, old.Instances, new.Instances, func(i *vpc.InstanceSpec) string { return i.ID }, same); err != nil {
		return err
	}
	return diffList(c, ranks, kindZone, id, old.PrivateZones, new.PrivateZones, zoneID, same)
}

// diffList compares two lists of siblings. What they share at their beginning and end costs one comparison of pointers
// per object and no memory.
func diffList[T any](c *changes, ranks ranks, kind, vpcID string, old, new []*T, id func(*T) string, stored func(*T) *T) error {
	head := 0
	for head < len(old) && head < len(new) && old[head] == new[head] {
		head++
	}
	tail := 0
	for tail < len(old)-head && tail < len(new)-head && old[len(old)-1-tail] == new[len(new)-1-tail] {
		tail++
	}
	before, after := old[head:len(old)-tail], new[head:len(new)-tail]
	if len(before) == 0 && len(after) == 0 {
		return nil
	}
	was := make(map[string]*T, len(before))
	for _, o := range before {
		was[id(o)] = o
	}
	// The ranks of what stays put on either side bound those in between.
	low, high := uint64(0), uint64(0)
	if head > 0 {
		low = ranks(kind, id(new[head-1]))
	}
	if tail > 0 {
		high = ranks(kind, id(new[len(new)-tail]))
	}
	keys := make([]string, len(after))
	for i, n := range after {
		if keys[i] = id(n); keys[i] == "" {
			return fmt.Errorf("a %s has no ID", kind)
		}
	}
	placed, ok := place(keys, func(k string) uint64 {
		if was[k] == nil {
			return 0
		}
		return ranks(kind, k)
	}, low, high)
	if !ok {
		// No room left between two neighbours: give the whole list new ranks.
		return renumber(c, kind, vpcID, old, new, id, stored)
	}
	seen := make(map[string]bool, len(after))
	for i, n := range after {
		if seen[keys[i]] {
			return fmt.Errorf("two of kind %s have the ID %s", kind, keys[i])
		}
		seen[keys[i]] = true
		if was[keys[i]] == n && ranks(kind, keys[i]) == placed[i] {
			continue
		}
		if err := putRecord(c, kind, keys[i], vpcID, placed[i], stored(n)); err != nil {
			return err
		}
	}
	for k := range was {
		if !seen[k] {
			c.drop = append(c.drop, objectState{Kind: kind, Key: k})
		}
	}
	return nil
}

func renumber[T any](c *changes, kind, vpcID string, old, new []*T, id func(*T) string, stored func(*T) *T) error {
	seen := make(map[string]bool, len(new))
	for i, n := range new {
		seen[id(n)] = true
		if err := putRecord(c, kind, id(n), vpcID, uint64(i+1)*rankStep, stored(n)); err != nil {
			return err
		}
	}
	for _, o := range old {
		if !seen[id(o)] {
			c.drop = append(c.drop, objectState{Kind: kind, Key: id(o)})
		}
	}
	return nil
}

func putRecord[T any](c *changes, kind, key, vpcID string, rank uint64, spec *T) error {
	var data []byte
	var err error
	if inst, ok := any(spec).(*vpc.InstanceSpec); ok {
		data, err = encodeInstance(vpcID, rank, inst)
	} else {
		data, err = json.Marshal(record[*T]{vpcID, rank, spec})
	}
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", kind, key, err)
	}
	c.put = append(c.put, objectState{kind, key, data})
	return nil
}

// rankStep is the gap between neighbours: 2^32 of them fit, and 32 objects can each come before the last newcomer.
const rankStep = 1 << 32

// place gives every key a rank that rises along the list and lies between low and high (0: no bound). A key keeps the rank
// it has (0: none) if it can. It reports false when there is no room.
func place(keys []string, rank func(string) uint64, low, high uint64) ([]uint64, bool) {
	out := make([]uint64, len(keys))
	last := low
	for i, k := range keys {
		if r := rank(k); r > last && (high == 0 || r < high) {
			out[i], last = r, r
		}
	}
	for i := 0; i < len(out); {
		if out[i] != 0 {
			low = out[i]
			i++
			continue
		}
		end := i
		for end < len(out) && out[end] == 0 {
			end++
		}
		next := high
		if end < len(out) {
			next = out[end]
		}
		step := uint64(rankStep)
		if next != 0 {
			step = min(step, (next-low)/uint64(end-i+1))
		}
		if step == 0 || low > low+step*uint64(end-i) {
			return nil, false
		}
		for ; i < end; i++ {
			low += step
			out[i] = low
		}
	}
	return out, true
}

func (c *changes) diffTests(old, new []*vpc.TestSpec) error {
	if slices.Equal(old, new) && (old == nil) == (new == nil) {
		return nil
	}
	if new == nil {
		c.drop = append(c.drop, objectState{Kind: kindTests, Key: testsKey})
		return nil
	}
	data, err := json.Marshal(record[[]*vpc.TestSpec]{Spec: new})
	if err != nil {
		return fmt.Errorf("encode tests: %w", err)
	}
	c.put = append(c.put, objectState{kindTests, testsKey, data})
	return nil
}

// write puts the changes into a transaction, skipping objects whose bytes stay the same, and returns what was there before,
// in the order in which it was replaced.
func (c *changes) write(tx *bolt.Tx) ([]objectState, error) {
	var undo []objectState
	for _, o := range c.drop {
		b := tx.Bucket([]byte(o.Kind))
		undo = append(undo, objectState{o.Kind, o.Key, bytes.Clone(b.Get([]byte(o.Key)))})
		if err := b.Delete([]byte(o.Key)); err != nil {
			return nil, fmt.Errorf("delete %s %s: %w", o.Kind, o.Key, err)
		}
	}
	for _, o := range c.put {
		b := tx.Bucket([]byte(o.Kind))
		was := b.Get([]byte(o.Key))
		if bytes.Equal(was, o.Value) {
			continue
		}
		undo = append(undo, objectState{o.Kind, o.Key, bytes.Clone(was)})
		if err := b.Put([]byte(o.Key), o.Value); err != nil {
			return nil, fmt.Errorf("write %s %s: %w", o.Kind, o.Key, err)
		}
	}
	return undo, nil
}

// object is one that is stored; it is valid as long as the transaction.
type object struct {
	key, value []byte
}

// objects are those that are stored, by kind and in the order of their keys.
type objects map[string][]object

// loadObjects reads every object.
func loadObjects(tx *bolt.Tx) (objects, error) {
	all := objects{}
	for _, kind := range kinds {
		var list []object
		err := tx.Bucket([]byte(kind)).ForEach(func(k, v []byte) error {
			if len(list) == cap(list) {
				list = slices.Grow(list, 1+len(list)) // append alone would leave five times the memory behind
			}
			list = append(list, object{k, v})
			return nil
		})
		if err != nil {
			return nil, err
		}
		all[kind] = list
	}
	return all, nil
}

func loadSpec(tx *bolt.Tx) (*vpc.Spec, error) {
	all, err := loadObjects(tx)
	if err != nil {
		return nil, err
	}
	return all.spec()
}

// spec puts the tree together.
func (all objects) spec() (*vpc.Spec, error) {
	spec := &vpc.Spec{}
	vpcs, err := decode(all, kindVPC, decodeRecord[vpc.VPCSpec])
	if err != nil {
		return nil, err
	}
	parents := map[string]*vpc.VPCSpec{}
	for _, r := range vpcs {
		parents[r.key] = r.spec
		spec.VPCs = append(spec.VPCs, r.spec)
	}
	if err := attach(all, kindVSwitch, decodeRecord[vpc.VSwitchSpec], parents, func(v *vpc.VPCSpec) *[]*vpc.VSwitchSpec { return &v.VSwitches }); err != nil {
		return nil, err
	}
	if err := attach(all, kindGroup, decodeRecord[vpc.GroupSpec], parents, func(v *vpc.VPCSpec) *[]*vpc.GroupSpec { return &v.SecurityGroups }); err != nil {
		return nil, err
	}
	if err := attach(all, kindList, decodeRecord[vpc.PrefixListSpec], parents, func(v *vpc.VPCSpec) *[]*vpc.PrefixListSpec { return &v.PrefixLists }); err != nil {
		return nil, err
	}
	if err := attach(all, kindACL, decodeRecord[vpc.ACLSpec], parents, func(v *vpc.VPCSpec) *[]*vpc.ACLSpec { return &v.NetworkACLs }); err != nil {
		return nil, err
	}
	if err := attach(all, kindInst, decodeInstance, parents, func(v *vpc.VPCSpec) *[]*vpc.InstanceSpec { return &v.Instances }); err != nil {
		return nil, err
	}
	zones, err := decode(all, kindZone, decodeRecord[vpc.PrivateZoneSpec])
	if err != nil {
		return nil, err
	}
	for _, z := range zones {
		if z.vpc == "" {
			spec.PrivateZones = append(spec.PrivateZones, z.spec)
			continue
		}
		v := parents[z.vpc]
		if v == nil {
			return nil, orphan(kindZone, z.key, z.vpc)
		}
		v.PrivateZones = append(v.PrivateZones, z.spec)
	}
	for _, o := range all[kindTests] {
		var r record[[]*vpc.TestSpec]
		if err := json.Unmarshal(o.value, &r); err != nil {
			return nil, fmt.Errorf("decode tests: %w", err)
		}
		spec.Tests = r.Spec
	}
	return spec, nil
}

// decoded is an object that has been read.
type decoded[T any] struct {
	key, vpc string
	rank     uint64
	spec     *T
}

// decodeRecord reads an object that is stored in JSON.
func decodeRecord[T any](o object, _ *pool) (decoded[T], error) {
	var r record[*T]
	if err := json.Unmarshal(o.value, &r); err != nil {
		return decoded[T]{}, err
	}
	if r.Spec == nil {
		return decoded[T]{}, errors.New("it is empty")
	}
	return decoded[T]{string(o.key), r.VPC, r.Rank, r.Spec}, nil
}

// decode returns the objects of a kind in the order of their ranks.
func decode[T any](all objects, kind string, one func(object, *pool) (decoded[T], error)) ([]decoded[T], error) {
	list := byRank(all[kind])
	out := make([]decoded[T], len(list))
	if err := inParallel(len(list), func(from, to int) error {
		p := newPool()
		for i := from; i < to; i++ {
			var err error
			if out[i], err = one(list[i], p); err != nil {
				return fmt.Errorf("decode %s %s: %w", kind, list[i].key, err)
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b decoded[T]) int {
		if a.rank != b.rank {
			return cmp.Compare(a.rank, b.rank)
		}
		return strings.Compare(a.key, b.key)
	})
	return out, nil
}

// byRank returns objects in the order of those ranks that can be told without decoding. What is decoded one after the
// other lies side by side in memory, and everybody walks through it in that order.
func byRank(list []object) []object {
	type place struct {
		rank uint64
		at   int
	}
	order := make([]place, len(list))
	for i, o := range list {
		order[i] = place{storedRank(o.value), i}
	}
	slices.SortFunc(order, func(a, b place) int {
		if a.rank != b.rank {
			return cmp.Compare(a.rank, b.rank)
		}
		return a.at - b.at
	})
	out := make([]object, len(list))
	for i, p := range order {
		out[i] = list[p.at]
	}
	return out
}

// inParallel calls f for ranges of the numbers below n, on all processors. A fault of the mapped file becomes an error as in
// guard, which sees its own goroutine's alone.
func inParallel(n int, f func(from, to int) error) error {
	workers := min(runtime.GOMAXPROCS(0), 1+n/1000)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			errs[w] = guard(func() error { return f(w*n/workers, (w+1)*n/workers) })
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// attach reads the objects of a kind into their VPCs' lists.
func attach[T any](all objects, kind string, one func(object, *pool) (decoded[T], error), parents map[string]*vpc.VPCSpec, in func(*vpc.VPCSpec) *[]*T) error {
	list, err := decode(all, kind, one)
	if err != nil {
		return err
	}
	for _, o := range list {
		v := parents[o.vpc]
		if v == nil {
			return orphan(kind, o.key, o.vpc)
		}
		siblings := in(v)
		if *siblings == nil && len(parents) == 1 {
			*siblings = make([]*T, 0, len(list))
		}
		*siblings = append(*siblings, o.spec)
	}
	return nil
}

func orphan(kind, key, vpcID string) error {
	return fmt.Errorf("%s %s belongs to VPC %s, which is not there", kind, key, vpcID)
}
