package main

import (
	"bytes"
	"net/netip"
	"testing"

	"gatehouse/vpc"
)

func TestARequestTakesUpTheOffer(t *testing.T) {
	mac, server := vpc.MAC{2, 0, 0, 0, 0, 7}, []byte{192, 0, 2, 1}
	b := request(mac, netip.MustParseAddr("10.20.1.7"), server)
	for code, want := range map[byte][]byte{53: {3}, 50: {10, 20, 1, 7}, 54: server, 61: append([]byte{1}, mac[:]...), 82: relayInfo(), 99: nil} {
		if got := find4(b[240:], code); !bytes.Equal(got, want) {
			t.Errorf("option %d is %v, want %v", code, got, want)
		}
	}
	if relay := b[24:28]; !bytes.Equal(relay, relayAddr.AsSlice()) || b[len(b)-1] != 255 {
		t.Errorf("relay %v, last octet %d", relay, b[len(b)-1])
	}
	for n := range b[240:] { // cut short anywhere it is read without harm
		find4(b[240:240+n], 82)
	}
}

func TestTheCrowdGoesOnWithWhoWasAnswered(t *testing.T) {
	c := &crowd{clients: 10, asking: map[vpc.MAC]since{}}
	mac := clientMAC(0)
	answer := func(kind byte) []byte {
		b := request(mac, netip.MustParseAddr("10.20.1.7"), []byte{192, 0, 2, 1})
		b[0] = 2
		b[bytes.IndexByte(b[240:], 53)+242] = kind
		return b
	}
	c.read(answer(2), since{}) // an offer that nobody asked for
	c.begin(since{})
	c.read(answer(2), since{})
	c.read(answer(5), since{})
	c.read(answer(5), since{}) // it comes twice
	if c.asked != 1 || c.offered != 1 || c.finished != 1 || len(c.out) != 2 || len(c.asking) != 0 {
		t.Errorf("%d asked, %d offered, %d finished, %d sent, %d asking", c.asked, c.offered, c.finished, len(c.out), len(c.asking))
	}
}
