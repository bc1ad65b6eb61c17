package dhcp

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"gatehouse/server/port"
)

func TestRepliesLeaveInOrderAndABurstAtOnce(t *testing.T) {
	var sent []byte
	o := newOutbox(func(ds []port.Datagram) {
		for _, d := range ds {
			sent = append(sent, d.Payload[0])
		}
	})
	relay := netip.MustParseAddr("192.0.2.2")
	var want []byte
	for n := range byte(burst + 3) {
		o.put(relay, []byte{n})
		want = append(want, n)
		if n == burst-2 && len(sent) > 0 {
			t.Errorf("%d replies left before there was a burst", len(sent))
		}
	}
	if len(sent) != burst {
		t.Errorf("%d replies left, want a burst of %d", len(sent), burst)
	}
	<-o.filled
	o.flush()
	if !slices.Equal(sent, want) {
		t.Errorf("sent %d, want %d", sent, want)
	}
}

func TestNoReplyIsLostWhenManyArePutAtOnce(t *testing.T) {
	seen := map[uint32]int{}
	o := newOutbox(func(ds []port.Datagram) { // one call at a time
		for _, d := range ds {
			seen[binary.BigEndian.Uint32(d.Payload)]++
		}
	})
	const putters, each = 8, 1000
	var wg sync.WaitGroup
	for p := range putters {
		wg.Go(func() {
			for n := range each {
				o.put(netip.IPv4Unspecified(), binary.BigEndian.AppendUint32(nil, uint32(p*each+n)))
			}
		})
	}
	wg.Wait()
	o.flush()
	if len(seen) != putters*each {
		t.Errorf("%d of %d replies were sent", len(seen), putters*each)
	}
	for n, times := range seen {
		if times != 1 {
			t.Errorf("reply %d was sent %d times", n, times)
		}
	}
}
