package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// The generators use the guests' own network stacks. What a cable carries is worked off by the processor that sent it, so
// the sender's processor pays for the gateway too: a rate is what is left of one processor, or of both, after the rules.

// connectOnce opens and resets one TCP connection from the calling thread's namespace, out of the link with an index.
func connectOnce(link int, to unix.Sockaddr, timeout time.Duration) error {
	family := unix.AF_INET
	if _, ok := to.(*unix.SockaddrInet6); ok {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	tv := unix.NsecToTimeval(int64(timeout))
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, link),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv),
		connect(fd, to),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.Close(fd))
}

// connect waits for the connection, also when the runtime's signals interrupt it.
func connect(fd int, to unix.Sockaddr) error {
	for {
		if err := unix.Connect(fd, to); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// listener accepts connections of the target and closes them at once.
type listener struct {
	fd   int
	done chan error
}

// listen accepts on connectPort in a family.
func (s *site) listen(family int) (*listener, error) {
	l := &listener{done: make(chan error, 1)}
	err := s.server.Do(func() error {
		sa, domain := unix.Sockaddr(&unix.SockaddrInet4{Port: connectPort}), unix.AF_INET
		if family == 1 {
			sa, domain = &unix.SockaddrInet6{Port: connectPort}, unix.AF_INET6
		}
		var err error
		if l.fd, err = unix.Socket(domain, unix.SOCK_STREAM, 0); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.Bind(l.fd, sa),
			unix.Listen(l.fd, 4096))
	})
	if err != nil {
		return nil, fmt.Errorf("%s: listen: %w", s.name, err)
	}
	go func() {
		for {
			fd, _, err := unix.Accept(l.fd)
			switch {
			case err == nil:
				unix.Close(fd)
			case errors.Is(err, unix.EINVAL): // shut down
				l.done <- nil
				return
			case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECONNABORTED):
				l.done <- err
				return
			}
		}
	}()
	return l, nil
}

func (l *listener) close() error {
	err := unix.Shutdown(l.fd, unix.SHUT_RDWR)
	return errors.Join(err, <-l.done, unix.Close(l.fd))
}

// connects opens connections from random sources to the target for so long, two at a time, one from each processor, and
// returns how many a second. A refused or lost one is an error.
func (s *site) connects(family int, d time.Duration) (perSecond float64, err error) {
	l, err := s.listen(family)
	if err != nil {
		return 0, err
	}
	var made atomic.Int64
	errs := make([]error, 2)
	var wg sync.WaitGroup
	start := time.Now()
	for cpu := range errs {
		wg.Go(func() {
			errs[cpu] = s.clients.Do(func() error {
				return pinned(cpu, func() error {
					rnd, n := rand.New(rand.NewPCG(uint64(cpu), 1)), int64(0)
					defer func() { made.Add(n) }()
					for time.Since(start) < d {
						for range 16 {
							if err := connectOnce(s.indexes[rnd.IntN(len(s.indexes))], s.targetAddr(family, connectPort), time.Second); err != nil {
								return err
							}
							n++
						}
					}
					return nil
				})
			})
		})
	}
	wg.Wait()
	took := time.Since(start)
	return float64(made.Load()) / took.Seconds(), errors.Join(append(errs, l.close())...)
}

// pinned runs f on one processor. The calling goroutine must be locked to its thread.
func pinned(cpu int, f func() error) error {
	var own, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &own); err != nil {
		return err
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("processor %d: %w", cpu, err)
	}
	return errors.Join(f(), unix.SchedSetaffinity(0, &own))
}

// Datagrams are sent many at a time; 18 bytes make the smallest Ethernet frame.
const (
	batch       = 64
	payloadSize = 18
)

// flood sends small datagrams from every source to the target for so long, as fast as one processor can, and returns how
// many a second came out of the target's cable. Nobody answers, so that each of them is the first of its connection to the
// gateway.
func (s *site) flood(ctx context.Context, family int, d time.Duration) (perSecond float64, err error) {
	sink, err := s.sink(floodPort)
	if err != nil {
		return 0, err
	}
	defer sink.Close()
	conns, err := s.dial(ctx, family, floodPort)
	if err != nil {
		return 0, err
	}
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	messages := make([]ipv4.Message, batch)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, payloadSize)}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = pinned(0, func() error {
		send := func(until time.Duration) error {
			for start, n := time.Now(), 0; time.Since(start) < until; n++ {
				if _, err := conns[n%len(conns)].WriteBatch(messages, 0); err != nil {
					return err
				}
			}
			return nil
		}
		if err := send(d / 10); err != nil { // every flow is known, every cache is warm
			return err
		}
		before, err := s.arrived()
		if err != nil {
			return err
		}
		start := time.Now()
		if err := send(d); err != nil {
			return err
		}
		took := time.Since(start)
		after, err := s.arrived()
		perSecond = float64(after-before) / took.Seconds()
		return err
	})
	return perSecond, err
}

// sink takes a UDP port of the target so that nobody answers what arrives there.
func (s *site) sink(port int) (conn *net.UDPConn, err error) {
	err = s.server.Do(func() error {
		conn, err = net.ListenUDP("udp", &net.UDPAddr{Port: port})
		return err
	})
	return conn, err
}

// dial opens a UDP flow from every source to the target.
func (s *site) dial(ctx context.Context, family, port int) (conns []*ipv4.PacketConn, err error) {
	to := netip.AddrPortFrom(s.pop.addrs(s.pop.target())[family], uint16(port))
	err = s.clients.Do(func() error {
		for _, index := range s.indexes {
			d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
				var err error
				return errors.Join(c.Control(func(fd uintptr) {
					err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, index)
				}), err)
			}}
			c, err := d.DialContext(ctx, "udp", to.String())
			if err != nil {
				return err
			}
			conns = append(conns, ipv4.NewPacketConn(c.(*net.UDPConn)))
		}
		return nil
	})
	return conns, err
}

// arrived is the number of packets that the target's link has received.
func (s *site) arrived() (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", s.server.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, counters, ok := strings.Cut(line, ":")
		if f := strings.Fields(counters); ok && strings.TrimSpace(name) == port(s.pop.target()) && len(f) > 1 {
			return strconv.ParseUint(f[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s: the target has no link", s.name)
}
