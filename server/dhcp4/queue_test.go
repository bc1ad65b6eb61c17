package dhcp4

import (
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/vpc"
)

func numbered(n byte) *inbound {
	return &inbound{key: packetKey{mac: vpc.MAC{2, 0, 0, 0, 0, n}}}
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
		if got := q.pop(); got.key != numbered(n).key {
			t.Errorf("got %v, want packet %d", got.key, n)
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
	done := make(chan *inbound)
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

func TestKeysTellMessagesApart(t *testing.T) {
	discover, again := message(dhcpv4.MessageTypeDiscover, webMAC), message(dhcpv4.MessageTypeDiscover, webMAC)
	again.NumSeconds = 4
	if keyOf(discover.ToBytes()) != keyOf(again.ToBytes()) {
		t.Error("a retransmission has another key")
	}
	other := message(dhcpv4.MessageTypeDiscover, webMAC)
	other.TransactionID = dhcpv4.TransactionID{9}
	for name, m := range map[string]*dhcpv4.DHCPv4{
		"another client":      message(dhcpv4.MessageTypeDiscover, webMAC2),
		"another message":     message(dhcpv4.MessageTypeRequest, webMAC),
		"another transaction": other,
	} {
		if keyOf(m.ToBytes()) == keyOf(discover.ToBytes()) {
			t.Errorf("%s has the same key", name)
		}
	}
}
