package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The generators use the guests' own network stacks. What a cable carries is worked off by the processor that sent it, so
// the sender pays for the gateway too, and is billed for it: the kernel adds the time of soft interrupts to the thread that
// they interrupt, or to ksoftirqd. Work is therefore counted by the second of processor time. On an idle machine that is a
// second of the clock for one busy processor; on a shared one it does not depend on what else runs there.

// rate is work by time.
type rate struct {
	perCPU    float64 // by the second of processor time
	perSecond float64 // by the second of the clock
}

func newRate(n int64, wall, cpu time.Duration) rate {
	return rate{float64(n) / cpu.Seconds(), float64(n) / wall.Seconds()}
}

// threadTime is the processor time of the calling thread.
func threadTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// softirqTime is the processor time of the kernel's threads that carry what nobody else is billed for.
func softirqTime() (total time.Duration, err error) {
	for _, file := range softirqThreads() {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		total += time.Duration(ns)
	}
	return total, nil
}

// softirqThreads are the schedstat files of the ksoftirqd threads. A process namespace of its own hides them.
var softirqThreads = sync.OnceValue(func() (files []string) {
	names, _ := filepath.Glob("/proc/[0-9]*/comm") // the pattern is right
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(text), "ksoftirqd/") {
			files = append(files, filepath.Join(filepath.Dir(name), "schedstat"))
		}
	}
	return files
})

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
	used time.Duration // processor time, known once it is closed
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
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		before, _ := threadTime() // its only error is a wrong argument
		for {
			fd, _, err := unix.Accept(l.fd)
			switch {
			case err == nil:
				unix.Close(fd)
			case errors.Is(err, unix.EINVAL): // shut down
				after, _ := threadTime()
				l.used = after - before
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

// connects opens connections from random sources to the target for so long, two at a time, one from each processor. A
// refused or lost one is an error.
func (s *site) connects(family int, d time.Duration) (rate, error) {
	l, err := s.listen(family)
	if err != nil {
		return rate{}, err
	}
	softirq, err := softirqTime()
	if err != nil {
		return rate{}, errors.Join(err, l.close())
	}
	var made, used atomic.Int64
	errs := make([]error, 2)
	var wg sync.WaitGroup
	start := time.Now()
	for cpu := range errs {
		wg.Go(func() {
			errs[cpu] = s.clients.Do(func() error {
				return pinned(cpu, func() error {
					before, err := threadTime()
					if err != nil {
						return err
					}
					rnd, n := rand.New(rand.NewPCG(uint64(cpu), 1)), int64(0)
					for time.Since(start) < d {
						for range 16 {
							if err := connectOnce(s.indexes[rnd.IntN(len(s.indexes))], s.targetAddr(family, connectPort), time.Second); err != nil {
								return err
							}
							n++
						}
					}
					after, err := threadTime()
					made.Add(n)
					used.Add(int64(after - before))
					return err
				})
			})
		})
	}
	wg.Wait()
	took := time.Since(start)
	now, err := softirqTime()
	if err := errors.Join(append(errs, l.close(), err)...); err != nil {
		return rate{}, err
	}
	return newRate(made.Load(), took, time.Duration(used.Load())+l.used+now-softirq), nil
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

// flood sends small datagrams from every source to the target for so long, as fast as one processor can, and counts those
// that come out of the target's cable. Nobody answers, so that each of them is the first of its connection to the gateway.
func (s *site) flood(family int, d time.Duration) (out rate, err error) {
	sink, err := s.sink(floodPort)
	if err != nil {
		return rate{}, err
	}
	defer sink.Close()
	flows, err := s.dial(s.targetAddr(family, floodPort))
	if err != nil {
		return rate{}, err
	}
	defer flows.close()
	burst := newBurst()
	send := func(until time.Duration) error {
		for start, n := time.Now(), 0; time.Since(start) < until; n++ {
			if err := burst.send(flows[n%len(flows)]); err != nil {
				return err
			}
		}
		return nil
	}
	// meter says how many have arrived, and what processor time they have cost.
	meter := func() (n int64, cpu time.Duration, err error) {
		thread, err1 := threadTime()
		softirq, err2 := softirqTime()
		n, err3 := s.arrived()
		return n, thread + softirq, errors.Join(err1, err2, err3)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = pinned(0, func() error {
		if err := send(d / 10); err != nil { // every flow is known, every cache is warm
			return err
		}
		n, cpu, err := meter()
		if err != nil {
			return err
		}
		start := time.Now()
		if err := send(d); err != nil {
			return err
		}
		took := time.Since(start)
		n2, cpu2, err := meter()
		out = newRate(n2-n, took, cpu2-cpu)
		return err
	})
	return out, err
}

// sink takes a UDP port of the target so that nobody answers what arrives there.
func (s *site) sink(port int) (conn *net.UDPConn, err error) {
	err = s.server.Do(func() error {
		conn, err = net.ListenUDP("udp", &net.UDPAddr{Port: port})
		return err
	})
	return conn, err
}

// flows are connected UDP sockets, one for each source.
type flows []int

// dial opens a UDP flow from every source to the target. The sockets are blocking ones that the runtime does not watch: being
// told of every datagram that has left would cost more than the datagram.
func (s *site) dial(to unix.Sockaddr) (f flows, err error) {
	domain := unix.AF_INET
	if _, ok := to.(*unix.SockaddrInet6); ok {
		domain = unix.AF_INET6
	}
	err = s.clients.Do(func() error {
		for _, index := range s.indexes {
			fd, err := unix.Socket(domain, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			f = append(f, fd)
			if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, index), unix.Connect(fd, to)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		f.close()
	}
	return f, err
}

func (f flows) close() {
	for _, fd := range f {
		unix.Close(fd)
	}
}

// burst is what one sendmmsg(2) sends: the same datagram many times.
type burst struct {
	payload  [payloadSize]byte
	vector   unix.Iovec
	messages [batch]message
}

// message is the kernel's struct mmsghdr.
type message struct {
	header unix.Msghdr
	_      uint32 // how much was sent; the kernel fills it in
}

func newBurst() *burst {
	b := &burst{}
	b.vector.Base = &b.payload[0]
	b.vector.SetLen(len(b.payload))
	for i := range b.messages {
		b.messages[i].header.Iov = &b.vector
		b.messages[i].header.SetIovlen(1)
	}
	return b
}

func (b *burst) send(fd int) error {
	_, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.messages)), batch, 0, 0, 0)
	if errno != 0 && errno != unix.EINTR {
		return fmt.Errorf("send: %w", errno)
	}
	return nil
}

// arrived is the number of packets that the target's link has received.
func (s *site) arrived() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", s.server.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, counters, ok := strings.Cut(line, ":")
		if f := strings.Fields(counters); ok && strings.TrimSpace(name) == port(s.pop.target()) && len(f) > 1 {
			return strconv.ParseInt(f[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s: the target has no link", s.name)
}
