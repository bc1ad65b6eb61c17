package acceptance

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/netlab"
	"gatehouse/vpc"
)

// DHCPv6 messages and options (RFC 8415 sections 7.3 and 21).
const (
	dhcp6Solicit      = 1
	dhcp6Reply        = 7
	dhcp6RelayForward = 12
	dhcp6RelayReply   = 13

	dhcp6ClientID    = 1
	dhcp6IANA        = 3
	dhcp6IAAddr      = 5
	dhcp6RelayMsg    = 9
	dhcp6RapidCommit = 14

	dhcp6RelayHeader = 34
)

// option6 is an option of DHCPv6.
func option6(code uint16, data ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// find6 returns the data of the first option with a code; nil when there is none.
func find6(options []byte, code uint16) []byte {
	for len(options) >= 4 {
		n := int(binary.BigEndian.Uint16(options[2:]))
		if n > len(options)-4 {
			return nil
		}
		if binary.BigEndian.Uint16(options) == code {
			return options[4 : 4+n]
		}
		options = options[4+n:]
	}
	return nil
}

// duidOf is the DUID of a client with a MAC (RFC 8415 section 11.4).
func duidOf(mac vpc.MAC) []byte { return append([]byte{0, 3, 0, 1}, mac[:]...) }

// relayLoad6 is relayLoad for DHCPv6: every client asks for an address by rapid commit, over and over.
func relayLoad6(t *testing.T, space *netlab.Space) *relayed {
	t.Helper()
	r := &relayed{last: map[vpc.MAC]acknowledged{}, sent: map[vpc.MAC]time.Time{}}
	if err := space.Do(func() (err error) {
		r.conn, err = net.ListenUDP("udp6", &net.UDPAddr{IP: net.ParseIP("2001:db8::2"), Port: 547})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(r.read6)
	running.Go(func() { r.ask6(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := r.conn.Close(); err != nil {
			t.Error(err)
		}
		running.Wait()
	})
	return r
}

func (r *relayed) ask6(ctx context.Context) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	link := netip.MustParseAddr("fd00:99::1").As16()
	for n := 0; ; n = (n + 1) % relayClients {
		mac := relayMAC(n)
		peer := [16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]}
		solicit := slices.Concat([]byte{dhcp6Solicit, mac[3], mac[4], mac[5]}, option6(dhcp6ClientID, duidOf(mac)...),
			option6(dhcp6RapidCommit), option6(dhcp6IANA, make([]byte, 12)...))
		r.mu.Lock()
		if now := time.Now(); now.Sub(r.sent[mac]) > 2*time.Second { // else the answer may be to the earlier request
			r.sent[mac] = now
		}
		r.mu.Unlock()
		m := slices.Concat([]byte{dhcp6RelayForward, 0}, link[:], peer[:], option6(dhcp6RelayMsg, solicit...))
		_, err := r.conn.WriteToUDP(m, &net.UDPAddr{IP: net.ParseIP("2001:db8::1"), Port: 547})
		if errors.Is(err, net.ErrClosed) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// read6 notes what clients are given until the socket is closed.
func (r *relayed) read6() {
	b := make([]byte, 2048)
	for {
		n, err := r.conn.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < dhcp6RelayHeader || b[0] != dhcp6RelayReply {
			continue
		}
		m := find6(b[dhcp6RelayHeader:n], dhcp6RelayMsg)
		if len(m) < 4 || m[0] != dhcp6Reply {
			continue
		}
		id, ia := find6(m[4:], dhcp6ClientID), find6(m[4:], dhcp6IANA)
		if len(id) != 10 || len(ia) < 12 {
			continue
		}
		addr := find6(ia[12:], dhcp6IAAddr)
		if len(addr) < 24 {
			continue
		}
		mac := vpc.MAC(id[4:])
		r.mu.Lock()
		r.n++
		if asked, ok := r.sent[mac]; ok {
			delete(r.sent, mac)
			r.last[mac] = acknowledged{netip.AddrFrom16([16]byte(addr)), asked}
		}
		r.mu.Unlock()
	}
}
