package dhcp4

import (
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/server/lease"
	"gatehouse/vpc"
)

// BenchmarkExchange is what a whole exchange costs between the sockets: DISCOVER and REQUEST read, decided, answered.
func BenchmarkExchange(b *testing.B) {
	snap := spec(nil)
	e := lease.New(lease.Config{}, []vpc.Lease{bound(webMAC, "10.20.1.10", "eni-web-1")})
	e.SetSnapshot(snap)
	w := e.VSwitch(webID)
	messages := [][]byte{
		message(dhcpv4.MessageTypeDiscover, webMAC, asks(1, 28, 2, 3, 15, 6, 119, 12, 26, 121, 42)).ToBytes(),
		message(dhcpv4.MessageTypeRequest, webMAC, requested("10.20.1.10"), server("10.20.1.253"), asks(1, 28, 2, 3, 15, 6, 119, 12, 26, 121, 42)).ToBytes(),
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, m := range messages {
			r, err := ParseRequest(m)
			if err != nil {
				b.Fatal(err)
			}
			d := r.Decide(e, w)
			to := Route(r, replyOf(d))
			buildFrame(webMAC2, to.MAC, addr("10.20.1.253"), to.IP, replyOf(d).Encode())
		}
	}
}
