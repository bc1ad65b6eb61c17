package dhcp

import (
	"testing"
	"time"

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
