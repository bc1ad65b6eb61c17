package store

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"gatehouse/vpc"
)

// What a gateway has tens of thousands of, instances and leases, is not stored as JSON: all of them are read before the
// first packet is served, and these forms are read in a tenth of the time. Numbers are varints, a string has its length
// before it, a list its length plus one (0: there is none), an address its bytes with their number before them.

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = appendLen(b, len(list), list == nil)
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

// appendLen appends the length of a list.
func appendLen(b []byte, n int, none bool) []byte {
	if none {
		return append(b, 0)
	}
	return binary.AppendUvarint(b, uint64(n)+1)
}

// appendAddr appends an address, which has no zone.
func appendAddr(b []byte, a netip.Addr) []byte {
	raw := a.AsSlice()
	return append(append(b, byte(len(raw))), raw...)
}

// pool is where one goroutine puts what it reads: in few large pieces instead of many small ones, and what is in many
// values once.
type pool struct {
	text  strings.Builder     // what is cut into strings; it never grows
	names map[string]string   // strings that many values have
	lists map[string][]string // lists of them, by their stored form
	rooms []room
}

// room is for an instance with one interface, which is what most are.
type room struct {
	instance vpc.InstanceSpec
	nic      vpc.InterfaceSpec
	nics     [1]*vpc.InterfaceSpec
}

const (
	textSize  = 4096 // of a piece of text
	roomCount = 32   // at a time; a piece lives as long as anything in it
)

func newPool() *pool { return &pool{names: map[string]string{}, lists: map[string][]string{}} }

// string copies bytes.
func (p *pool) string(b []byte) string {
	if len(b) > textSize/16 {
		return string(b)
	}
	if p.text.Cap()-p.text.Len() < len(b) {
		p.text = strings.Builder{}
		p.text.Grow(textSize)
	}
	at := p.text.Len()
	p.text.Write(b)
	return p.text.String()[at:]
}

// name copies bytes that are probably those of an earlier call.
func (p *pool) name(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := p.names[string(b)]; ok {
		return s
	}
	s := string(b)
	p.names[s] = s
	return s
}

func (p *pool) room() *room {
	if len(p.rooms) == 0 {
		p.rooms = make([]room, roomCount)
	}
	r := &p.rooms[0]
	p.rooms = p.rooms[1:]
	return r
}

// reader takes a value apart; bad is set when it ends too early or cannot be.
type reader struct {
	rest []byte
	pool *pool
	bad  bool
}

// fail ends reading.
func (r *reader) fail() { r.bad, r.rest = true, nil }

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.fail()
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) uint() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

// take returns the next n bytes, which are those of the value itself.
func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.fail()
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) bytes() []byte  { return r.take(r.uint()) }
func (r *reader) string() string { return r.pool.string(r.bytes()) }
func (r *reader) name() string   { return r.pool.name(r.bytes()) }

// len reads the length of a list whose elements take at least one byte each; ok is false when there is no list.
func (r *reader) len() (n int, ok bool) {
	size := r.uint()
	if size > uint64(len(r.rest))+1 {
		r.fail()
	}
	if r.bad || size == 0 {
		return 0, false
	}
	return int(size - 1), true
}

// strings reads a list that no other value has.
func (r *reader) strings() []string {
	n, ok := r.len()
	if !ok {
		return nil
	}
	list := make([]string, 0, n)
	for range n {
		list = append(list, r.string())
	}
	return list
}

// names reads a list that is probably in other values too. They share it: it has no room for more.
func (r *reader) names() []string {
	whole := r.rest
	n, ok := r.len()
	if !ok {
		return nil
	}
	for range n {
		r.bytes()
	}
	whole = whole[:len(whole)-len(r.rest)]
	if r.bad {
		return nil
	}
	if list, ok := r.pool.lists[string(whole)]; ok {
		return list
	}
	again := reader{rest: whole, pool: r.pool}
	again.uint()
	list := make([]string, n)
	for i := range list {
		list[i] = again.name()
	}
	r.pool.lists[string(whole)] = list
	return list
}

func (r *reader) addr() netip.Addr {
	raw := r.take(uint64(r.byte()))
	if len(raw) == 0 {
		return netip.Addr{}
	}
	a, ok := netip.AddrFromSlice(raw)
	if !ok {
		r.fail()
	}
	return a
}

func (r *reader) addrs() []netip.Addr {
	n, ok := r.len()
	if !ok {
		return nil
	}
	list := make([]netip.Addr, 0, n)
	for range n {
		list = append(list, r.addr())
	}
	return list
}

func (r *reader) prefixes() []netip.Prefix {
	n, ok := r.len()
	if !ok {
		return nil
	}
	list := make([]netip.Prefix, 0, n)
	for range n {
		a, bits := r.addr(), int(r.byte())
		if a.IsValid() && bits > a.BitLen() {
			r.fail()
		}
		list = append(list, netip.PrefixFrom(a, bits)) // of no address it is none
	}
	return list
}

func (r *reader) time() time.Time {
	sec, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fail()
		return time.Time{}
	}
	r.rest = r.rest[n:]
	nsec := r.uint()
	if nsec >= uint64(time.Second) {
		r.fail()
	}
	if r.bad {
		return time.Time{}
	}
	return time.Unix(sec, int64(nsec)).UTC()
}
