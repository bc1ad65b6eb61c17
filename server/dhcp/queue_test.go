package dhcp

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

func numbered(n byte) *Packet {
	return &Packet{Key: Key{MAC: vpc.MAC{2, 0, 0, 0, 0, n}}}
}

func TestAFullQueueGivesUpTheOldest(t *testing.T) {
	q := newQueue(3)
	for n := range byte(5) {
		want := DropNone
		if n >= 3 {
			want = DropOverload
		}
		if got := q.push(numbered(n)); got != want {
			t.Errorf("packet %d: %q, want %q", n, got, want)
		}
	}
	for n := byte(2); n < 5; n++ {
		if got := q.pop(); got.Key != numbered(n).Key {
			t.Errorf("got %v, want packet %d", got.Key, n)
		}
	}
	if q.len() != 0 {
		t.Errorf("%d packets left", q.len())
	}
}

func TestARetransmissionIsNotQueuedTwice(t *testing.T) {
	q := newQueue(3)
	q.push(numbered(1))
	if got := q.push(numbered(1)); got != DropDuplicate {
		t.Errorf("%q, want %q", got, DropDuplicate)
	}
	q.pop()
	if got := q.push(numbered(1)); got != DropNone {
		t.Errorf("after the first was served: %q", got)
	}
}

func TestAClosedQueueReleasesItsWorker(t *testing.T) {
	q := newQueue(3)
	done := make(chan *Packet)
	go func() { done <- q.pop() }()
	q.close()
	select {
	case p := <-done:
		if p != nil {
			t.Errorf("got %v", p)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the worker still waits")
	}
	if got := q.push(numbered(1)); got != DropOverload {
		t.Errorf("push after close: %q", got)
	}
}

// of returns a numbered packet of a kind from a port.
func of(portIndex int, kind, n byte) *Packet {
	p := numbered(n)
	p.Key.Kind = kind
	p.Port = &port.Socket{Port: port.Port{Index: portIndex}}
	return p
}

func TestSourcesTakeTurns(t *testing.T) {
	q := newQueue(100)
	for n := range byte(50) {
		q.push(of(1, 3, n))
	}
	q.push(of(2, 3, 100))
	q.push(of(3, 1, 101))
	var got []byte
	for range 4 {
		got = append(got, q.pop().Key.MAC[5])
	}
	if want := []byte{0, 100, 101, 1}; !slices.Equal(got, want) {
		t.Errorf("served %d, want %d", got, want)
	}
}

func TestAFloodLosesItsOwnPackets(t *testing.T) {
	q := newQueue(10)
	quiet := func(n byte) {
		t.Helper()
		if got := q.push(of(2, 1, 100+n)); got != DropNone && got != DropOverload {
			t.Errorf("%q", got)
		}
	}
	for n := range byte(50) {
		q.push(of(1, 3, n))
		if n%20 == 0 {
			quiet(n / 20)
		}
	}
	served := map[int][]byte{}
	for q.len() > 0 {
		p := q.pop()
		served[p.Port.Index] = append(served[p.Port.Index], p.Key.MAC[5])
	}
	if want := []byte{100, 101, 102}; !slices.Equal(served[2], want) {
		t.Errorf("of the quiet port %d, want %d", served[2], want)
	}
	if want := []byte{43, 44, 45, 46, 47, 48, 49}; !slices.Equal(served[1], want) {
		t.Errorf("of the flood %d, want %d", served[1], want)
	}
}

func TestExchangesThatHaveBegunAreFinishedFirst(t *testing.T) {
	q := newQueue(4)
	for n, kind := range []byte{1, 3, 1, 1, 1, 3} { // two DISCOVERs too many
		q.push(of(1, kind, byte(n)))
	}
	var got []byte
	for q.len() > 0 {
		got = append(got, q.pop().Key.MAC[5])
	}
	if want := []byte{1, 5, 3, 4}; !slices.Equal(got, want) {
		t.Errorf("served %d, want %d", got, want)
	}
}

// TestAQueueLosesAndInventsNothing pushes and pops at random and keeps account.
func TestAQueueLosesAndInventsNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	q := newQueue(20)
	held, next := map[byte]bool{}, 0
	for range 100_000 {
		if r.IntN(2) == 0 || q.len() == 0 {
			n := byte(next)
			next++
			p := of(r.IntN(40), byte(1+r.IntN(2)), n)
			if drop := q.push(p); drop == DropNone || drop == DropOverload {
				held[n] = true
			}
		} else {
			n := q.pop().Key.MAC[5]
			if !held[n] {
				t.Fatalf("%d was popped and is not held", n)
			}
			delete(held, n)
		}
		if q.len() > 20 || len(q.lines) > 60 {
			t.Fatalf("%d packets in %d lines", q.len(), len(q.lines))
		}
	}
	for q.len() > 0 {
		q.pop()
	}
	if len(q.lines)+len(q.held) > 20 || q.turns.len() > 20 {
		t.Errorf("left over: %d lines, %d keys, %d turns", len(q.lines), len(q.held), q.turns.len())
	}
}
