package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"gatehouse/server/api"
	"gatehouse/vpc"
)

// Guests that nobody has declared: so many at each port of a bridge, of which a few at a time ask for an address.
const (
	guestPorts   = 64
	guestsAtPort = 60
	lanes        = 4
	guestBridge  = "bench0"
	resendAfter  = 2 * time.Second
)

// enrolments measures how many unknown guests a second get their address, that is become instances with their names and
// sets in force before the ACK.
func (b *bench) enrolments(ctx context.Context, server string) (err error) {
	if err := settings(server, b.dir(server), 0); err != nil {
		return err
	}
	spec := network(vpc.AttachSpec{Bridge: guestBridge})
	if err := writeState(ctx, filepath.Join(b.dir(server), "state", "state.db"), spec, false); err != nil {
		return err
	}
	if err := b.plugGuests(ctx); err != nil {
		return err
	}
	defer func() {
		_, unplug := b.ours.server.Script(ctx, "for l in $(ls /sys/class/net | grep ^gp); do ip link del $l; done\nip link del "+guestBridge+"\n")
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
	guests, cancel := context.WithTimeout(ctx, b.span)
	defer cancel()
	bound, err := b.ours.bindGuests(guests)
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

// plugGuests gives the bridge its ports, whose other ends are links of the clients' host.
func (b *bench) plugGuests(ctx context.Context) error {
	var script strings.Builder
	fmt.Fprintf(&script, "ip link add %s type bridge\n", guestBridge)
	for i := range guestPorts {
		fmt.Fprintf(&script, "ip link add gp%d type veth peer name ge%[1]d netns %[2]d\nip link set gp%[1]d master %[3]s up\n", i, b.ours.clients.PID(), guestBridge)
	}
	if _, err := b.ours.server.Script(ctx, script.String()); err != nil {
		return err
	}
	_, err := b.ours.clients.Script(ctx, "for l in $(ls /sys/class/net | grep ^ge); do ip link set $l up; done\n")
	return err
}

// bindGuests lets the guests of each port get their addresses, a few at a time, until ctx ends or all have one, and returns
// how many have.
func (w *world) bindGuests(ctx context.Context) (int, error) {
	var running sync.WaitGroup
	bound, errs := make([]int, guestPorts*lanes), make([]error, guestPorts*lanes)
	for i := range bound {
		port, lane := i/lanes, i%lanes
		var conn *packet.Conn
		if err := w.clients.Do(func() error {
			ifi, err := net.InterfaceByName(fmt.Sprintf("ge%d", port))
			if err == nil {
				conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_IP, nil)
			}
			return err
		}); err != nil {
			return 0, err
		}
		running.Go(func() {
			defer conn.Close()
			for n := lane; n < guestsAtPort; n += lanes {
				g := guest{conn, vpc.MAC{2, 1, 0, byte(port), 0, byte(n)}}
				if err := g.bind(ctx); err != nil {
					if ctx.Err() == nil {
						errs[i] = err
					}
					return
				}
				bound[i]++
			}
		})
	}
	running.Wait()
	sum := 0
	for _, n := range bound {
		sum += n
	}
	return sum, errors.Join(errs...)
}

// guest is a machine without an address.
type guest struct {
	conn *packet.Conn
	mac  vpc.MAC
}

// bind gets an address: DISCOVER, OFFER, REQUEST, ACK.
func (g guest) bind(ctx context.Context) error {
	const (
		request = 3
		offer   = 2
		ack     = 5
	)
	offered, server, err := g.ask(ctx, append(message(g.mac, 1), 255), offer)
	if err != nil {
		return err
	}
	m := message(g.mac, request)
	m = append(append(m, 50, 4), offered.AsSlice()...)
	m = append(append(m, 54, 4), server.AsSlice()...)
	_, _, err = g.ask(ctx, append(m, 255), ack)
	return err
}

// ask broadcasts a message until it is answered by one of a kind, and returns the address and the server in the answer.
func (g guest) ask(ctx context.Context, m []byte, kind byte) (addr, server netip.Addr, err error) {
	frame, answer := g.frame(m), make([]byte, 2048)
	for ctx.Err() == nil {
		if _, err := g.conn.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])}); err != nil {
			return addr, server, err
		}
		resend := time.Now().Add(resendAfter)
		if end, ok := ctx.Deadline(); ok && end.Before(resend) {
			resend = end
		}
		if err := g.conn.SetReadDeadline(resend); err != nil {
			return addr, server, err
		}
		for {
			n, _, err := g.conn.ReadFrom(answer)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return addr, server, err
			}
			if got, from, ok := g.read(answer[:n], kind); ok {
				return got, from, nil
			}
		}
	}
	return addr, server, ctx.Err()
}

// Sizes of what stands before a message in a frame, and of a message's fixed part with its cookie.
const (
	headers = 14 + 20 + 8
	fixed   = 240
)

// read takes a frame apart if it is an answer of a kind to this guest.
func (g guest) read(frame []byte, kind byte) (addr, server netip.Addr, ok bool) {
	if len(frame) < headers+fixed+9 || frame[23] != unix.IPPROTO_UDP || binary.BigEndian.Uint16(frame[36:]) != 68 {
		return addr, server, false
	}
	m := frame[headers:]
	if o := m[fixed:]; vpc.MAC(m[28:34]) != g.mac || o[0] != 53 || o[2] != kind || o[3] != 54 {
		return addr, server, false
	}
	return netip.AddrFrom4([4]byte(m[16:20])), netip.AddrFrom4([4]byte(m[fixed+5 : fixed+9])), true
}

// frame is a message in a datagram from port 68 of nobody to port 67 of everybody, without a UDP checksum.
func (g guest) frame(m []byte) []byte {
	b := make([]byte, headers, headers+len(m))
	copy(b, "\xff\xff\xff\xff\xff\xff")
	copy(b[6:], g.mac[:])
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
