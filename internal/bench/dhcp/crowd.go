package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"gatehouse/vpc"
)

// A relay with a crowd behind it: so many clients are in an exchange at any time, and when one has finished the next begins.
// It asks as fast as it is answered, so that what is counted is what the server can do. perfdhcp asks by the clock and reads
// when it comes to it: its core is busy before a fast server's is, and what its socket has no room for is lost.
const (
	crowdSize  = 256
	crowdBatch = 64          // messages that one system call reads or sends
	givesUp    = time.Second // as perfdhcp's clients do
)

type crowd struct {
	conn     *ipv4.PacketConn
	clients  int
	once     bool              // every client has one exchange, and then it is over
	next     int               // client to begin
	asking   map[vpc.MAC]since // who is in an exchange
	out      []ipv4.Message
	finished int
	offered  int
	asked    int
}

// since is when a client was last heard of.
type since = time.Time

// mostByCrowd measures how many exchanges a second a server finishes for a crowd: for the span, of clients that come back
// again and again, or once for each of them.
func (b *bench) mostByCrowd(ctx context.Context, workload, server string, clients int, once bool) error {
	return b.fresh(ctx, server, clients, func(p *process) (err error) {
		before, err := usedCPU(p.pid())
		if err != nil {
			return err
		}
		c, took, err := b.world(server).runCrowd(ctx, clients, once, b.span)
		if err != nil {
			return err
		}
		after, err := usedCPU(p.pid())
		if err != nil {
			return err
		}
		if c.finished == 0 {
			return fmt.Errorf("nobody got an address (%d asked, %d were offered one): %s", c.asked, c.offered, p.logged())
		}
		b.results.add(workload, server, rateKey, float64(c.finished)/took.Seconds())
		b.results.add(workload, server, cpuKey, (after-before).Seconds()*1e6/float64(c.finished))
		return nil
	})
}

// runCrowd lets a crowd ask for the span, or until each has asked once, on the clients' core.
func (w *world) runCrowd(ctx context.Context, clients int, once bool, span time.Duration) (c *crowd, took time.Duration, err error) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and its core with it
		if err = pin(clientCore); err != nil {
			return
		}
		var conn *net.UDPConn
		if err = w.clients.Do(func() (err error) {
			conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: relayAddr.AsSlice(), Port: 67})
			return err
		}); err != nil {
			return
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		if err = conn.SetReadBuffer(4 << 20); err != nil {
			return
		}
		c = &crowd{conn: ipv4.NewPacketConn(conn), clients: clients, once: once, asking: map[vpc.MAC]since{}}
		begin := time.Now()
		err = c.run(ctx, begin.Add(span))
		took = time.Since(begin)
	}()
	<-ended
	return c, took, err
}

// pin keeps the calling thread on a core.
func pin(core string) error {
	n, err := strconv.Atoi(core)
	if err != nil {
		return err
	}
	var set unix.CPUSet
	set.Set(n)
	return os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(0, &set))
}

func (c *crowd) run(ctx context.Context, end time.Time) error {
	in := make([]ipv4.Message, crowdBatch)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	for looked := time.Now(); ctx.Err() == nil; {
		now := time.Now()
		if now.After(end) {
			return nil
		}
		if now.Sub(looked) > givesUp/10 {
			looked = now
			for mac, at := range c.asking {
				if now.Sub(at) > givesUp {
					delete(c.asking, mac)
				}
			}
		}
		for len(c.asking) < crowdSize && !c.all() {
			c.begin(now)
		}
		if len(c.asking) == 0 {
			return nil
		}
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.conn.SetReadDeadline(now.Add(givesUp / 10)); err != nil {
			return err
		}
		n, err := c.conn.ReadBatch(in, 0)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read answers: %w", err)
		}
		for _, m := range in[:n] {
			c.read(m.Buffers[0][:m.N], now)
		}
	}
	return ctx.Err()
}

// all reports whether nobody is left to begin.
func (c *crowd) all() bool { return c.once && c.next >= c.clients }

// begin starts the exchange of the next client that is in none.
func (c *crowd) begin(now time.Time) {
	mac := clientMAC(c.next % c.clients)
	c.next++
	if _, ok := c.asking[mac]; ok {
		return
	}
	c.asking[mac] = now
	c.asked++
	c.send(discover(mac))
}

func (c *crowd) send(b []byte) {
	c.out = append(c.out, ipv4.Message{Buffers: [][]byte{b}, Addr: &net.UDPAddr{IP: serverAddr.AsSlice(), Port: 67}})
}

func (c *crowd) flush() error {
	for sent := 0; sent < len(c.out); {
		n, err := c.conn.WriteBatch(c.out[sent:min(sent+crowdBatch, len(c.out))], 0)
		if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("ask: %w", err)
		}
		sent += n
	}
	c.out = c.out[:0]
	return nil
}

// read goes on with the exchange that an answer belongs to.
func (c *crowd) read(b []byte, now time.Time) {
	const options = 240
	if len(b) < options || b[0] != 2 {
		return
	}
	mac := vpc.MAC(b[28:34])
	if _, ok := c.asking[mac]; !ok {
		return
	}
	kind, server := find4(b[options:], 53), find4(b[options:], 54)
	if len(kind) != 1 || len(server) != 4 {
		return
	}
	switch kind[0] {
	case 2: // OFFER
		c.offered++
		c.asking[mac] = now
		c.send(request(mac, netip.AddrFrom4([4]byte(b[16:20])), server))
	case 5: // ACK
		c.finished++
		delete(c.asking, mac)
	case 6: // NAK
		delete(c.asking, mac)
	}
}

// request takes up an offer.
func request(mac vpc.MAC, offered netip.Addr, server []byte) []byte {
	b := discover(mac)
	at := slices.Index(b[240:], 53) + 240
	b[at+2] = 3
	tail := binary.BigEndian.AppendUint16(nil, 50<<8|4)
	tail = append(append(tail, offered.AsSlice()...), 54, 4)
	tail = append(tail, server...)
	return slices.Insert(b, at+3, tail...)
}

// find4 returns the first option of a code, nil if there is none.
func find4(b []byte, code byte) []byte {
	for len(b) >= 2 && b[0] != 255 {
		if b[0] == 0 {
			b = b[1:]
			continue
		}
		n := int(b[1])
		if n > len(b)-2 {
			return nil
		}
		if b[0] == code {
			return b[2 : 2+n]
		}
		b = b[2+n:]
	}
	return nil
}
