package main

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// answerOf makes a reply about an alias of a TTL and an address, or, without a TTL, about a host.
func answerOf(rcode byte, ttl int, addr netip.Addr) []byte {
	m := []byte{0, 0, 0x80, rcode, 0, 1, 0, 1, 0, 0, 0, 0}
	m = append(m, "\x01x\x00\x00\x01\x00\x01"...)
	if ttl > 0 {
		m[7] = 2
		m = append(m, 0xc0, 12, 0, 5, 0, 1)
		m = binary.BigEndian.AppendUint32(m, uint32(ttl))
		m = append(m, 0, 3, 1, 'y', 0)
	}
	m = append(m, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
	a := addr.As4()
	return append(m, a[:]...)
}

func TestEveryAnswerIsChecked(t *testing.T) {
	all := hosts()
	for _, tt := range []struct {
		what   string
		alias  bool
		after  int64 // generation that was seen before
		answer []byte
		want   change
	}{
		{"a host", false, 0, answerOf(0, 0, all[7].v4), change{}},
		{"another host's address", false, 0, answerOf(0, 0, all[8].v4), change{Wrong: 1}},
		{"no such host", false, 0, answerOf(3, 0, all[7].v4), change{Wrong: 1}},
		{"an alias", true, 3, answerOf(0, baseTTL+3, target(7, 3)), change{}},
		{"an alias of the next generation", true, 3, answerOf(0, baseTTL+4, target(7, 4)), change{}},
		{"an alias of a generation before", true, 3, answerOf(0, baseTTL+2, target(7, 2)), change{Old: 1}},
		{"an alias of one generation and a target of another", true, 3, answerOf(0, baseTTL+3, target(7, 4)), change{Mixed: 1}},
		{"another alias's target", true, 3, answerOf(0, baseTTL+3, target(8, 3)), change{Wrong: 1}},
		{"a target alone", true, 3, answerOf(0, 0, target(7, 3)), change{Wrong: 1}},
		{"a header alone", true, 3, answerOf(0, 0, target(7, 3))[:12], change{Wrong: 1}},
	} {
		a := asker{hosts: all}
		a.check(&asked{index: 7, alias: tt.alias, after: tt.after}, tt.answer)
		if a.change != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.what, a.change, tt.want)
		}
	}
}
