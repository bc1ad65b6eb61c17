package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/vpc"
)

// perfdhcp's DHCPv6 clients have a DUID each and no MAC of their own, neither in their address nor by option 79, and
// gatehouse knows machines by their MACs. So the clients of DHCPv6 are made here, behind a relay that says their MACs.

var (
	server6 = netip.MustParseAddr("fd00:98::1")
	relay6  = netip.MustParseAddr("fd00:98::2")
	subnet6 = netip.MustParsePrefix("fd00:99::/64")
	link6   = netip.MustParseAddr("fd00:99::1")
)

// DHCPv6 message types and options (RFC 8415 section 7.3 and 21, RFC 6939).
const (
	solicit      = 1
	advertise    = 2
	request6     = 3
	reply6       = 7
	relayForward = 12
	relayReply   = 13

	optClientID  = 1
	optServerID  = 2
	optIANA      = 3
	optIAAddr    = 5
	optORO       = 6
	optElapsed   = 8
	optRelay     = 9
	optDNS       = 23
	optLinkLayer = 79
)

// exchanges6 measures exchanges of four messages at the steady rate.
func (b *bench) exchanges6(ctx context.Context, workload, server string) (err error) {
	if err := b.empty(server, fewClients); err != nil {
		return err
	}
	if server == gatehouse {
		if err := copyFile(b.statePath6(), filepath.Join(b.dir(server), "state", "state.db")); err != nil {
			return err
		}
	}
	p, err := b.start(ctx, server, b.dir(server), true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	w := b.world(server)
	l, err := w.newLoad6()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	ready, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for l.finished.Load() == 0 { // once before it is measured
		if ready.Err() != nil {
			return fmt.Errorf("it does not answer: %s", p.logged())
		}
		l.solicit(0)
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(lastWait)

	before, err := usedCPU(p.pid())
	if err != nil {
		return err
	}
	l.finished.Store(0)
	l.run(ctx, b.span)
	after, err := usedCPU(p.pid())
	if err != nil {
		return err
	}
	n := float64(l.finished.Load())
	if n == 0 {
		return fmt.Errorf("nobody got an address: %s", p.logged())
	}
	b.results.add(workload, server, rateKey, n/b.span.Seconds())
	b.results.add(workload, server, cpuKey, (after-before).Seconds()*1e6/n)
	return nil
}

// load6 is the relay and the clients behind it.
type load6 struct {
	conn     *net.UDPConn
	reading  sync.WaitGroup
	finished atomic.Int64
}

func (w *world) newLoad6() (*load6, error) {
	l := &load6{}
	if err := w.clients.Do(func() (err error) {
		l.conn, err = net.ListenUDP("udp6", &net.UDPAddr{IP: relay6.AsSlice(), Port: 547})
		return err
	}); err != nil {
		return nil, err
	}
	if err := l.conn.SetReadBuffer(4 << 20); err != nil {
		return nil, errors.Join(err, l.conn.Close())
	}
	l.reading.Go(l.read)
	return l, nil
}

func (l *load6) close() error {
	err := l.conn.Close()
	l.reading.Wait()
	return err
}

// run begins exchanges for the span and waits for the last answers.
func (l *load6) run(ctx context.Context, span time.Duration) {
	const step = time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	begin := time.Now()
	for sent := 0; ctx.Err() == nil; <-tick.C {
		passed := min(time.Since(begin), span)
		for due := int(passed.Seconds() * steadyRate); sent < due; sent++ {
			l.solicit(sent % fewClients)
		}
		if passed == span {
			break
		}
	}
	time.Sleep(lastWait)
}

// solicit begins the exchange of a client. A datagram that cannot be sent is one that the network has lost.
func (l *load6) solicit(n int) {
	m := []byte{solicit, 0, byte(n >> 8), byte(n)}
	m = option6(m, optClientID, duid(clientMAC(n)))
	m = option6(m, optIANA, make([]byte, 12))
	m = option6(m, optElapsed, []byte{0, 0})
	m = option6(m, optORO, binary.BigEndian.AppendUint16(nil, optDNS))
	l.send(clientMAC(n), m)
}

func (l *load6) send(mac vpc.MAC, m []byte) {
	b := append([]byte{relayForward, 0}, link6.AsSlice()...)
	b = append(b, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0]^2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5])
	b = option6(b, optRelay, m)
	b = option6(b, optLinkLayer, append([]byte{0, 1}, mac[:]...))
	_, _ = l.conn.WriteToUDPAddrPort(b, netip.AddrPortFrom(server6, 547))
}

// read answers advertisements and counts addresses until the socket is closed.
func (l *load6) read() {
	b := make([]byte, 2048)
	for {
		n, err := l.conn.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 34 || b[0] != relayReply {
			continue
		}
		m := find6(b[34:n], optRelay)
		if len(m) < 4 {
			continue
		}
		client, server, ia := find6(m[4:], optClientID), find6(m[4:], optServerID), find6(m[4:], optIANA)
		if len(client) != 10 || len(ia) < 12 || find6(ia[12:], optIAAddr) == nil {
			continue
		}
		switch m[0] {
		case advertise:
			r := slices.Concat([]byte{request6}, m[1:4])
			r = option6(r, optClientID, client)
			r = option6(r, optServerID, server)
			r = option6(r, optIANA, ia)
			r = option6(r, optElapsed, []byte{0, 0})
			r = option6(r, optORO, binary.BigEndian.AppendUint16(nil, optDNS))
			l.send(vpc.MAC(client[4:]), r)
		case reply6:
			l.finished.Add(1)
		}
	}
}

// duid is a client's identifier: its hardware type and MAC (RFC 8415 section 11.4).
func duid(mac vpc.MAC) []byte { return append([]byte{0, 3, 0, 1}, mac[:]...) }

func option6(b []byte, code uint16, data []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// find6 returns the first option of a code, nil if there is none.
func find6(b []byte, code uint16) []byte {
	for len(b) >= 4 {
		c, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if n > len(b)-4 {
			return nil
		}
		if c == code {
			return b[4 : 4+n]
		}
		b = b[4+n:]
	}
	return nil
}
