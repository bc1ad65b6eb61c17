package ra

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

const (
	grain = 20 * time.Millisecond // advertisements that are due within it leave together
	// answersPerSecond bounds what one port is answered: a guest asks for a neighbour at most once a second.
	answersPerSecond = 256
)

// sender writes frames to a port.
type sender interface {
	Send(frame []byte) error
}

// Config is what a Server needs.
type Config struct {
	Logger *slog.Logger                      // nil: nothing is logged
	Jitter func(time.Duration) time.Duration // at random, from 0 up to what is given; nil: math/rand
}

// Server advertises the gateway on every port, and answers for the neighbours. It is a port.Server. Its methods may be
// called at any time, from any goroutine; advertisements leave while Run runs.
type Server struct {
	cfg      Config
	log      *slog.Logger
	count    counters
	snapshot atomic.Pointer[vpc.Snapshot]
	wake     chan struct{} // one slot: something may be due earlier

	mu    sync.Mutex
	ports map[int]*portState
}

// portState is a port that is served.
type portState struct {
	port.Port
	sender

	// A solicitation does not wait for Server.mu, which is held while all ports are advertised to.
	mu       sync.Mutex
	speaks   bool // as a router
	advert   Advertisement
	schedule schedule

	// Of the port's reader alone.
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
	return ctx.Err()
}

// until is how long nothing is due.
func (s *Server) until(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := maxInterval
	for _, p := range s.ports {
		p.mu.Lock()
		if p.speaks {
			wait = min(wait, p.schedule.due().Sub(now))
		}
		p.mu.Unlock()
	}
	return max(0, wait)
}

// advertise sends what is due.
func (s *Server) advertise(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ports {
		if a, to, ok := p.take(now); ok {
			s.send(p, a, to)
		}
	}
}

// take returns the advertisement that is due on the port.
func (p *portState) take(now time.Time) (a Advertisement, to recipient, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.speaks {
		to, ok = p.schedule.take(now)
	}
	return p.advert, to, ok
}

// send writes an advertisement to a port; s.mu is held.
func (s *Server) send(p *portState, a Advertisement, to recipient) {
	h := port.IPv6{SrcMAC: p.LinkMAC, DstMAC: to.mac, Src: vpc.RouterLinkLocal, Dst: to.addr, HopLimit: 255}
	if to == (recipient{}) {
		h.DstMAC, h.Dst = multicastMAC(allNodes), allNodes
	}
	if err := p.Send(h.Frame(vpc.ProtocolICMPv6, a.Encode(p.LinkMAC), checksumAt)); err != nil {
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
	p.mu.Lock()
	defer p.mu.Unlock()
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
	p.mu.Lock()
	spoke, final := p.speaks, p.advert.final()
	p.speaks = false
	p.mu.Unlock()
	if spoke {
		s.send(p, final, recipient{})
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

// AddPort begins to advertise on a port, and makes the server read what is solicited there. A solicitation is answered at
// once, or noted for Run.
func (s *Server) AddPort(sock *port.Socket) (port.Kinds, port.Receiver) {
	p := s.add(sock.Port, sock)
	return port.RouterSolicitation | port.NeighborSolicitation, func(_ port.Kinds, frame []byte) { s.receive(p, frame, time.Now()) }
}

func (s *Server) add(at port.Port, to sender) *portState {
	p := &portState{Port: at, sender: to, schedule: schedule{jitter: s.cfg.Jitter}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports[p.Index] = p
	s.speak(p, s.snapshot.Load())
	s.poke()
	return p
}

// RemovePort ends advertising on a port, without a word.
func (s *Server) RemovePort(sock *port.Socket) { s.remove(sock.Index) }

func (s *Server) remove(index int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ports, index)
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
		p.mu.Lock()
		if p.speaks {
			p.schedule.solicit(now, recipient{m.mac, m.src})
		}
		p.mu.Unlock()
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
	if err := p.Send(neighborAdvertisement(m, p.LinkMAC)); err != nil {
		s.count.failed.Add(1)
		return
	}
	s.count.answered.Add(1)
}
