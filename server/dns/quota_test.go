package dns

import (
	"net/netip"
	"testing"
)

func TestAVPCHasItsReserveWhateverOthersTake(t *testing.T) {
	for _, loopback := range loopbacks() {
		a, b := netip.MustParseAddr(loopback), netip.MustParseAddr(loopback).Next()
		q := newQuota(10, 8, 3)
		for i := range 10 {
			addr := a
			if i >= 8 {
				addr = b
			}
			if !q.enter("vpc-a", addr) {
				t.Fatalf("number %d is refused", i)
			}
		}
		if q.enter("vpc-a", b) {
			t.Error("more than there are")
		}
		for i := range 3 {
			if !q.enter("vpc-b", a) {
				t.Errorf("number %d of the reserve is refused", i)
			}
		}
		if q.enter("vpc-b", b) {
			t.Error("more than the reserve")
		}
		q.leave("vpc-b", a)
		if q.size() != 12 || !q.enter("vpc-b", b) {
			t.Error("what was given back is lost")
		}
		for range 8 {
			q.leave("vpc-a", a)
		}
		for range 2 {
			q.leave("vpc-a", b)
			q.leave("vpc-b", a)
		}
		q.leave("vpc-b", b)
		if q.size() != 0 || len(q.vpcs) != 0 || len(q.clients) != 0 {
			t.Errorf("%d are left: %v, %v", q.size(), q.vpcs, q.clients)
		}
	}
}
