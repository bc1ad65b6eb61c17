package ra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

const (
	grain     = 20 * time.Millisecond // advertisements that are due within it leave together
	readPause = 100 * time.Millisecond
	// answersPerSecond bounds what one port is answered: a guest asks for a neighbour at most once a second.
	answersPerSecond = 256
)

// conn is a port's socket.
type conn interface {
	Read([]byte) (int, error)
	Send(frame []byte) error
	Close() error
}

// Config is what a Server needs.
type Config struct {
	Logger *slog.Logger                      // nil: nothing is logged
	Jitter func(time.Duration) time.Duration // at random, from 0 up to what is given; nil: math/rand
}

// Server advertises the gateway on every port, and answers for the neighbours. AddPort, RemovePort, SetSnapshot and
// Withdraw may be called at any time, from any goroutine; advertisements leave while Run runs.
type Server struct {
	cfg      Config
	log      *slog.Logger
	count    counters
	snapshot atomic.Pointer[vpc.Snapshot]
	wake     chan struct{} // one slot: something may be due earlier

	mu      sync.Mutex
	closed  bool
	ports   map[int]*portState
	readers sync.WaitGroup
}

// portState is a port that is served.
type portState struct {
	port.Port
	conn conn

	// Held by Server.mu.
	speaks   bool // as a router
	advert   Advertisement
	schedule schedule

	// Of the reader alone.
	window   time.Time // the second in which answers are counted
	answered int
}

// New returns a Server without ports.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Jitter == nil {
		cfg.Jitter = rand.N[time.Duration]
	}
	return &Server{cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1), ports: map[int]*portState{}}
}

// Run advertises until ctx ends and then closes every socket. It says no good-bye: a gateway that restarts is the guests'
// router all the while. A Server runs once.
func (s *Server) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-s.wake:
			timer.Reset(s.until(time.Now()))
		case <-timer.C:
			now := time.Now()
			s.advertise(now)
			timer.Reset(max(grain, s.until(now)))
		}
	}
	s.mu.Lock()
	s.closed = true
	var errs []error
	for _, p := range s.ports {
		errs = append(errs, p.conn.Close())
	}
	clear(s.ports)
	s.mu.Unlock()
	s.readers.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// until is how long nothing is due.
func (s *Server) until(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := maxInterval
	for _, p := range s.ports {
		if p.speaks {
			wait = min(wait, p.schedule.due().Sub(now))
		}
	}
	return max(0, wait)
}

// advertise sends what is due.
func (s *Server) advertise(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ports {
		if !p.speaks {
			continue
		}
		if to, ok := p.schedule.take(now); ok {
			s.send(p, p.advert, to)
		}
	}
}

// send writes an advertisement to a port; s.mu is held.
func (s *Server) send(p *portState, a Advertisement, to recipient) {
	h := port.IPv6{SrcMAC: p.LinkMAC, DstMAC: to.mac, Src: vpc.RouterLinkLocal, Dst: to.addr, HopLimit: 255}
	if to == (recipient{}) {
		h.DstMAC, h.Dst = multicastMAC(allNodes), allNodes
	}
	if err := p.conn.Send(h.Frame(vpc.ProtocolICMPv6, a.Encode(p.LinkMAC), checksumAt)); err != nil {
		s.count.failed.Add(1)
		s.log.Debug("advertisement not sent", "port", p.Name, "error", err)
		return
	}
	s.count.advertised.Add(1)
}

// SetSnapshot replaces what is advertised. Guests are told at once what is new to them.
func (s *Server) SetSnapshot(snap *vpc.Snapshot) {
	s.snapshot.Store(snap)
	s.mu.Lock()
	for _, p := range s.ports {
		s.speak(p, snap)
	}
	s.mu.Unlock()
	s.poke()
}

// speak brings a port in line with a snapshot; s.mu is held.
func (s *Server) speak(p *portState, snap *vpc.Snapshot) {
	a, ok := advertisementOn(p, snap)
	if !ok {
		s.silence(p)
		return
	}
	if p.speaks && p.advert.Equal(a) {
		return
	}
	p.speaks, p.advert = true, a
	p.schedule.restart(time.Now())
}

// Withdraw tells the guests of the vSwitches that a snapshot no longer has, or no longer with IPv6, that the gateway is not
// their router any more. It is called before their links go, and at teardown with an empty snapshot.
func (s *Server) Withdraw(_ context.Context, snap *vpc.Snapshot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ports {
		if _, ok := advertisementOn(p, snap); !ok {
			s.silence(p)
		}
	}
	return nil
}

// silence ends advertising on a port with the final advertisement; s.mu is held.
func (s *Server) silence(p *portState) {
	if p.speaks {
		p.speaks = false
		s.send(p, p.advert.final(), recipient{})
	}
}

func advertisementOn(p *portState, snap *vpc.Snapshot) (Advertisement, bool) {
	if snap == nil {
		return Advertisement{}, false
	}
	w := snap.VSwitchByID(p.VSwitch)
	if w == nil {
		return Advertisement{}, false
	}
	return AdvertisementOf(w)
}

func (s *Server) poke() {
	select {
	case s.wake <- struct{}{}:
	default: // asked already
	}
}

// AddPort begins to serve a port of the calling thread's network namespace. A port that is served already for that vSwitch
// is left as it is.
func (s *Server) AddPort(p port.Port) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if old := s.ports[p.Index]; old != nil {
		if old.Same(p) {
			return nil
		}
		delete(s.ports, p.Index)
		if err := old.conn.Close(); err != nil {
			return fmt.Errorf("port %s: %w", old.Name, err)
		}
	}
	sock, err := port.Open(p, port.FilterIPv6(vpc.ProtocolICMPv6, 0, 1, typeRouterSolicitation, typeNeighborSolicitation))
	if err != nil {
		return err
	}
	s.add(sock.Port, sock)
	return nil
}

// add serves a port by its socket; s.mu is held.
func (s *Server) add(p port.Port, c conn) {
	st := &portState{Port: p, conn: c, schedule: schedule{jitter: s.cfg.Jitter}}
	s.ports[p.Index] = st
	s.speak(st, s.snapshot.Load())
	s.readers.Go(func() { s.read(st) })
	s.poke()
}

// RemovePort ends serving a port; unknown indexes are ignored.
func (s *Server) RemovePort(index int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.ports[index]; p != nil {
		delete(s.ports, index)
		if err := p.conn.Close(); err != nil {
			s.log.Warn("close port", "port", p.Name, "error", err)
		}
	}
}

// read reads a port until it is removed. A link that goes down is an error once; the socket works again when it is up.
func (s *Server) read(p *portState) {
	buf := make([]byte, port.EtherSize+1500)
	for {
		n, err := p.conn.Read(buf)
		switch {
		case err == nil:
			s.receive(p, buf[:n], time.Now())
		case port.Gone(err), s.removed(p):
			return
		default:
			if !port.Down(err) {
				s.log.Warn("read port", "port", p.Name, "error", err)
			}
			time.Sleep(readPause)
		}
	}
}

func (s *Server) removed(p *portState) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed || s.ports[p.Index] != p
}

// receive takes a frame from a port.
func (s *Server) receive(p *portState, frame []byte, now time.Time) {
	m, ok := parseSolicitation(frame)
	if !ok {
		s.count.malformed.Add(1)
		return
	}
	if m.kind == typeRouterSolicitation {
		s.count.routers.Add(1)
		s.mu.Lock()
		if p.speaks {
			p.schedule.solicit(now, recipient{m.mac, m.src})
		}
		s.mu.Unlock()
		s.poke()
		return
	}
	s.count.neighbors.Add(1)
	snap := s.snapshot.Load()
	if snap == nil {
		return
	}
	if w := snap.VSwitchByID(p.VSwitch); w == nil || !answers(snap, w, m) {
		return
	}
	if now.Sub(p.window) >= time.Second || now.Before(p.window) {
		p.window, p.answered = now, 0
	}
	if p.answered++; p.answered > answersPerSecond {
		s.count.limited.Add(1)
		return
	}
	if err := p.conn.Send(neighborAdvertisement(m, p.LinkMAC)); err != nil {
		s.count.failed.Add(1)
		return
	}
	s.count.answered.Add(1)
}
