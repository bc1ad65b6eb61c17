package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Sink counts the datagrams that arrive at a UDP port of a space, of both families, and answers none: to connection
// tracking, each of them stays the first of its connection.
type Sink struct {
	conn *net.UDPConn
	n    atomic.Int64
}

// Sink listens on a port.
func (s *Space) Sink(port uint16) (*Sink, error) {
	k := &Sink{}
	err := s.Do(func() error {
		var err error
		k.conn, err = net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: sink on port %d: %w", s.Label, port, err)
	}
	if err := growBuffer(k.conn); err != nil {
		return nil, fmt.Errorf("%s: sink on port %d: %w", s.Label, port, err)
	}
	go func() {
		buf := make([]byte, 2048)
		for {
			switch _, _, err := k.conn.ReadFromUDPAddrPort(buf); {
			case err == nil:
				k.n.Add(1)
			case errors.Is(err, net.ErrClosed):
				return
			}
		}
	}()
	return k, nil
}

// growBuffer makes room for what comes while nobody reads, beyond what the host grants to all.
func growBuffer(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) }); err != nil {
		return err
	}
	return set
}

// Count is the number of datagrams so far.
func (k *Sink) Count() int64 { return k.n.Load() }

// Close stops counting.
func (k *Sink) Close() error { return k.conn.Close() }

// Pace sends small datagrams from the space at a steady rate until ctx ends, and returns how many it has sent.
func (s *Space) Pace(ctx context.Context, to netip.AddrPort, perSecond int) (sent int64, err error) {
	const (
		tick  = 2 * time.Millisecond
		burst = 32 // of what a late tick makes up for
	)
	var conn net.Conn
	err = s.Do(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "udp", to.String())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("%s: stream to %s: %w", s.Label, to, err)
	}
	defer conn.Close()
	payload := make([]byte, 18)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	budget, last := 0.0, time.Now()
	for {
		select {
		case <-ctx.Done():
			return sent, nil
		case now := <-ticker.C:
			budget = min(budget+now.Sub(last).Seconds()*float64(perSecond), burst)
			last = now
		}
		for ; budget >= 1; budget-- {
			if _, err := conn.Write(payload); err != nil {
				return sent, fmt.Errorf("%s: stream to %s: %w", s.Label, to, err)
			}
			sent++
		}
	}
}
