package dns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestSocketsThatHoldAPort(t *testing.T) {
	const udp = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  100: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1001 2 0000000000000000 0
  101: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1002 2 0000000000000000 0
  102: FD01140A:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1003 2 0000000000000000 0
  103: FD01140A:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1004 2 0000000000000000 0
  nonsense
  104: XX:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1005 2 0000000000000000 0
`
	const tcp6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2001 1 0000000000000000 100 0 0 10 0
   1: 200000FD01000000FFFFFFFFF7FFFFFF:0035 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2002 1 0000000000000000 100 0 0 10 0
   2: 200000FD01000000FFFFFFFFF7FFFFFF:0035 200000FD01000000000000000A000000:C350 01 00000000:00000000 00:00000000 00000000     0        0 2003 1 0000000000000000 100 0 0 10 0
`
	for _, tt := range []struct {
		what, network, table, addr string
		want                       []string
	}{
		{"an address and all addresses", "udp", udp, "10.20.1.253:53", []string{"1002", "1003"}},
		{"another port", "udp", udp, "10.20.1.253:67", nil},
		{"all addresses of both families", "tcp", tcp6, "10.20.1.253:53", []string{"2001"}},
		{"listening sockets only", "tcp", tcp6, "[fd00:20:0:1:ffff:ffff:ffff:fff7]:53", []string{"2001", "2002"}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			table := tt.table
			if got := holdingSockets(strings.NewReader(table), tt.network, netip.MustParseAddrPort(tt.addr)); !slices.Equal(got, tt.want) {
				t.Errorf("sockets %v, want %v", got, tt.want)
			}
		})
	}
}
