package vpc

import (
	"net/netip"
	"testing"
)

func TestRebaseKeepsTheHostPart(t *testing.T) {
	for _, tt := range []struct{ addr, to, want string }{
		{"fd00:20:0:1::10", "2001:db8:42::/56", "2001:db8:42:1::10"},
		{"fd00:20:0:ab:1:2:3:4", "2001:db8:42:cd00::/56", "2001:db8:42:cdab:1:2:3:4"},
		{"fd00:20:0:ffff::1", "2001:db8:42::/52", "2001:db8:42:fff::1"},
		{"fd00:20:0:f:ffff:ffff:ffff:fff7", "2001:db8:42::/61", "2001:db8:42:7:ffff:ffff:ffff:fff7"},
		{"fd00:20:0:1::10", "2001:db8:42:7::/64", "2001:db8:42:7::10"},
		{"fd00:20:0:1::10", "2001:db8:42::/48", "2001:db8:42:1::10"},
	} {
		if got := Rebase(netip.MustParseAddr(tt.addr), netip.MustParsePrefix(tt.to)); got != netip.MustParseAddr(tt.want) {
			t.Errorf("%s in %s is %s, want %s", tt.addr, tt.to, got, tt.want)
		}
	}
}
