package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"gatehouse/server/api"
	"gatehouse/vpc"
)

// Guests that nobody has declared, on a switch behind one link of the gateway.
const (
	guests      = 4096
	atATime     = 256
	guestLink   = "ve" // the gateway's end; the other one has the clients' name
	resendAfter = 2 * time.Second
)

// enrolments measures how many unknown guests a second get their address, that is become instances with their names and
// sets in force before the ACK.
func (b *bench) enrolments(ctx context.Context, server string) (err error) {
	if err := settings(server, b.dir(server), 0); err != nil {
		return err
	}
	spec := network(vpc.AttachSpec{Interface: guestLink})
	if err := writeState(ctx, filepath.Join(b.dir(server), "state", "state.db"), spec, false); err != nil {
		return err
	}
	if err := b.lab.Veth(ctx, b.ours.server, guestLink, b.ours.clients, guestLink); err != nil {
		return err
	}
	defer func() {
		_, unplug := b.ours.server.Script(ctx, "ip link del "+guestLink+"\n")
		err = errors.Join(err, unplug)
	}()
	p, err := b.start(ctx, server, b.dir(server), false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	client := api.NewClient(filepath.Join(b.dir(server), "api.sock"))
	for client.Do(ctx, "GET", "/readyz", nil, nil, nil) != nil {
		select {
		case err := <-p.ended:
			return fmt.Errorf("it ended: %w: %s", err, p.logged())
		case <-time.After(20 * time.Millisecond):
		}
	}

	begin := time.Now()
	limited, cancel := context.WithTimeout(ctx, b.span)
	defer cancel()
	bound, err := b.ours.bindGuests(limited)
	took := time.Since(begin)
	if err != nil {
		return err
	}
	if bound == 0 {
		return fmt.Errorf("no guest got an address: %s", p.logged())
	}
	b.results.add("enrol", server, rateKey, float64(bound)/took.Seconds())
	return nil
}

// bindGuests lets guests get their addresses, many at a time, until ctx ends or all have one, and returns how many have.
func (w *world) bindGuests(ctx context.Context) (int, error) {
	var conn *packet.Conn
	if err := w.clients.Do(func() error {
		ifi, err := net.InterfaceByName(guestLink)
		if err == nil {
			conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_IP, nil)
		}
		return err
	}); err != nil {
		return 0, err
	}
	lan := &lan{conn: conn, guests: map[vpc.MAC]chan answer{}}
	var reading, running sync.WaitGroup
	reading.Go(lan.read)
	var next, bound atomic.Int64
	errs := make([]error, atATime)
	for i := range errs {
		running.Go(func() {
			for n := next.Add(1); n <= guests && ctx.Err() == nil; n = next.Add(1) {
				if err := lan.bind(ctx, vpc.MAC{2, 1, 0, 0, byte(n >> 8), byte(n)}); err == nil {
					bound.Add(1)
				} else if ctx.Err() == nil {
					errs[i] = err
					return
				}
			}
		})
	}
	running.Wait()
	err := errors.Join(append(errs, conn.Close())...)
	reading.Wait()
	return int(bound.Load()), err
}

// lan is the guests' end of the link.
type lan struct {
	conn   *packet.Conn
	mu     sync.Mutex
	guests map[vpc.MAC]chan answer // those that wait for one
}

// answer is a server's message as far as a guest needs it.
type answer struct {
	kind         byte
	addr, server netip.Addr
}

// bind gets an address for a guest: DISCOVER, OFFER, REQUEST, ACK.
func (l *lan) bind(ctx context.Context, mac vpc.MAC) error {
	const (
		discover = 1
		offer    = 2
		request  = 3
		ack      = 5
	)
	answers := make(chan answer, 4)
	l.mu.Lock()
	l.guests[mac] = answers
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.guests, mac)
		l.mu.Unlock()
	}()
	offered, err := l.ask(ctx, answers, frame(mac, append(message(mac, discover), 255)), offer)
	if err != nil {
		return err
	}
	m := message(mac, request)
	m = append(append(m, 50, 4), offered.addr.AsSlice()...)
	m = append(append(m, 54, 4), offered.server.AsSlice()...)
	_, err = l.ask(ctx, answers, frame(mac, append(m, 255)), ack)
	return err
}

// ask broadcasts a frame until it is answered by a message of a kind.
func (l *lan) ask(ctx context.Context, answers <-chan answer, frame []byte, kind byte) (answer, error) {
	resend := time.NewTicker(resendAfter)
	defer resend.Stop()
	for {
		if _, err := l.conn.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])}); err != nil {
			return answer{}, err
		}
	wait:
		for {
			select {
			case a := <-answers:
				if a.kind == kind {
					return a, nil
				}
			case <-resend.C:
				break wait
			case <-ctx.Done():
				return answer{}, ctx.Err()
			}
		}
	}
}

// read gives what servers send to the guests that wait for it, until the link is closed.
func (l *lan) read() {
	frame := make([]byte, 2048)
	for {
		n, _, err := l.conn.ReadFrom(frame)
		if err != nil {
			return
		}
		mac, a, ok := parseAnswer(frame[:n])
		if !ok {
			continue
		}
		l.mu.Lock()
		answers := l.guests[mac]
		l.mu.Unlock()
		select {
		case answers <- a:
		default: // nobody waits for it
		}
	}
}

// Sizes of what stands before a message in a frame, and of a message's fixed part with its cookie.
const (
	headers = 14 + 20 + 8
	fixed   = 240
)

// parseAnswer takes a frame apart if it holds a server's message.
func parseAnswer(frame []byte) (vpc.MAC, answer, bool) {
	if len(frame) < headers+fixed+9 || frame[23] != unix.IPPROTO_UDP || binary.BigEndian.Uint16(frame[36:]) != 68 {
		return vpc.MAC{}, answer{}, false
	}
	m := frame[headers:]
	o := m[fixed:]
	if o[0] != 53 || o[3] != 54 {
		return vpc.MAC{}, answer{}, false
	}
	return vpc.MAC(m[28:34]), answer{o[2], netip.AddrFrom4([4]byte(m[16:20])), netip.AddrFrom4([4]byte(o[5:9]))}, true
}

// frame is a message in a datagram from port 68 of nobody to port 67 of everybody, without a UDP checksum.
func frame(mac vpc.MAC, m []byte) []byte {
	b := make([]byte, headers, headers+len(m))
	copy(b, "\xff\xff\xff\xff\xff\xff")
	copy(b[6:], mac[:])
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(m)))
	copy(ip[16:20], "\xff\xff\xff\xff")
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum>>16+sum))
	udp := ip[20:]
	binary.BigEndian.PutUint16(udp[0:], 68)
	binary.BigEndian.PutUint16(udp[2:], 67)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(m)))
	return append(b, m...)
}
