package dhcp

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/server/lease"
	"gatehouse/server/port"
	"gatehouse/vpc"
)

// How much is served at a time.
const (
	workers       = 2
	queueSize     = 2048 // requests per worker: well under a second of work
	enrolWorkers  = 512  // enrolments under way at a time: together they share one change of the rules
	enrolQueue    = 512
	retryInterval = 5 * time.Second // for sockets that could not be opened
	readPause     = 100 * time.Millisecond
)

// staleAfter is when a queued request is no longer worth an answer: its client has sent another by then.
const staleAfter = 3 * time.Second

// Config is what a Server needs.
type Config struct {
	Leases *lease.Engine
	Holder Holder           // nil: ports hold their MACs without being asked
	Logger *slog.Logger     // nil: nothing is logged
	Now    func() time.Time // nil: time.Now
}

// Server serves one version of DHCP. It is a port.Server. Its methods may be called at any time, from any goroutine; requests
// are served while Run runs.
type Server struct {
	proto  Protocol
	cfg    Config
	log    *slog.Logger
	seed   maphash.Seed
	count  counters
	notes  lease.Limiter
	queues [workers]*queue
	outbox *outbox
	enrols chan *Packet

	relays atomic.Pointer[map[netip.Addr][]string] // relay -> IDs of the vSwitches that name it

	mu       sync.Mutex
	closed   bool
	links    map[string]*port.Reservation
	relay    *port.Relay
	readers  sync.WaitGroup
	problems map[string]error // by what is wrong: a link's name, or "relay"

	probes probes

	enrolMu sync.Mutex
	waiting map[vpc.MAC]bool // enrolments that are queued or under way
}

// New returns a Server without ports.
func New(proto Protocol, cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{
		proto: proto, cfg: cfg, log: cfg.Logger, seed: maphash.MakeSeed(),
		enrols:   make(chan *Packet, enrolQueue),
		links:    map[string]*port.Reservation{},
		problems: map[string]error{},
		probes:   probes{open: map[probeKey]*probe{}},
		waiting:  map[vpc.MAC]bool{},
	}
	s.outbox = newOutbox(s.sendRelayed)
	for i := range s.queues {
		s.queues[i] = newQueue(queueSize)
	}
	s.relays.Store(&map[netip.Addr][]string{})
	return s
}

// Run serves until ctx ends and then closes every socket; a Server runs once.
func (s *Server) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, q := range s.queues {
		running.Go(func() {
			for p := q.pop(); p != nil; p = q.pop() {
				s.serve(p)
			}
		})
	}
	running.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.outbox.filled:
				s.outbox.flush()
			}
		}
	})
	for range enrolWorkers {
		running.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case p := <-s.enrols:
					s.enrol(ctx, p)
				}
			}
		})
	}
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			s.listen(s.cfg.Leases.Snapshot())
		}
	}
	for _, q := range s.queues {
		q.close()
	}
	err := s.close()
	running.Wait()
	s.readers.Wait()
	return errors.Join(ctx.Err(), err)
}

func (s *Server) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var errs []error
	for _, l := range s.links {
		errs = append(errs, l.Close())
	}
	if s.relay != nil {
		errs = append(errs, s.relay.Close())
	}
	clear(s.links)
	s.relay = nil
	return errors.Join(errs...)
}

// SetSnapshot opens and closes what the snapshot asks for: the server's port of the links of all vSwitches that have the
// family, and the relays' socket. The lease engine gets the snapshot by itself, before this one. What cannot be opened is
// in Health and is retried.
func (s *Server) SetSnapshot(snap *vpc.Snapshot) {
	relays := map[netip.Addr][]string{}
	for _, w := range snap.VSwitches {
		for _, a := range w.Attach.Relay {
			relays[a] = append(relays[a], w.ID)
		}
	}
	s.relays.Store(&relays)
	s.listen(snap)
}

// listen brings the UDP sockets in line with a snapshot.
func (s *Server) listen(snap *vpc.Snapshot) {
	if snap == nil {
		return
	}
	relayed := false
	want := map[string]bool{}
	for _, w := range snap.VSwitches {
		if !w.Prefix(s.proto.Family).IsValid() {
			continue
		}
		relayed = relayed || !w.HasLink()
		if name := w.LinkName(); name != "" {
			want[name] = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	problems := map[string]error{}
	for name, l := range s.links {
		// A link that was made anew has another index, and the old socket hears nothing of it.
		index, err := port.Index(name)
		if want[name] && err == nil && index == l.Index {
			continue
		}
		if err := l.Close(); err != nil {
			problems[name] = err
		}
		delete(s.links, name)
	}
	for name := range want {
		if s.links[name] != nil {
			continue
		}
		l, err := port.Reserve(s.proto.Network, name, s.proto.Port, relayed)
		if err != nil {
			problems[name] = err
			continue
		}
		// Nobody else served this port on all links when we took it. Who serves it on a link of his own may come later, like the dnsmasq
		// of a network of libvirt, which asks for all links before it says which.
		if err := l.Share(); err != nil {
			problems[name] = err
		}
		s.links[name] = l
	}
	switch {
	case relayed && s.relay == nil:
		r, err := port.OpenRelay(s.proto.Network, s.proto.Port)
		if err != nil {
			problems["relay"] = err
			break
		}
		s.relay = r
		s.readers.Go(func() { s.readRelay(r) })
	case !relayed && s.relay != nil:
		if err := s.relay.Close(); err != nil {
			problems["relay"] = err
		}
		s.relay = nil
	}
	for what, err := range problems {
		if old := s.problems[what]; old == nil || old.Error() != err.Error() {
			s.log.Error(s.proto.Name+" cannot listen", "error", err)
		}
	}
	s.problems = problems
}

// AddPort makes the server read a port's messages, and the answers to its probes. A message goes into the queue of a worker,
// or is dropped; an answer may cost the lock of the lease engine, which nobody holds for long.
func (s *Server) AddPort(sock *port.Socket) (port.Kinds, port.Receiver) {
	return s.proto.Messages | s.proto.Claims, func(kind port.Kinds, frame []byte) { s.readFrame(sock, kind, frame) }
}

// RemovePort does nothing: the packets of a port that are served already need not be answered.
func (s *Server) RemovePort(*port.Socket) {}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	st := s.count.snapshot(s.proto.Kinds)
	for _, q := range s.queues {
		st.Queued += q.len()
	}
	return st
}

// Health lists what keeps the server from serving everybody, in a fixed order. What the lease engine has to say is not in it.
func (s *Server) Health() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, what := range slices.Sorted(maps.Keys(s.problems)) {
		errs = append(errs, s.problems[what])
	}
	return errs
}

// readFrame takes a frame of a guest.
func (s *Server) readFrame(sock *port.Socket, kind port.Kinds, frame []byte) {
	w := s.cfg.Leases.VSwitch(sock.VSwitch)
	if w == nil || !w.Prefix(s.proto.Family).IsValid() {
		s.count.drop(DropVSwitch)
		return
	}
	if kind&s.proto.Claims != 0 {
		if addr, by, ok := s.proto.Claim(frame); ok {
			s.claimed(sock, addr, by)
		}
		return
	}
	p, d := s.proto.ReadFrame(frame, w)
	if p == nil {
		if d != DropNone {
			s.count.drop(d)
		}
		return
	}
	p.Port = sock
	s.receive(p)
}

// readRelay reads what relays send until the socket is closed.
func (s *Server) readRelay(r *port.Relay) {
	for {
		err := r.Receive(func(in port.Datagram) {
			if len((*s.relays.Load())[in.Relay]) == 0 {
				s.count.drop(DropRelay)
				return
			}
			p, d := s.proto.ReadRelayed(in.Payload, in.Relay)
			if p == nil {
				s.count.drop(d)
				return
			}
			p.Relay = in.Relay
			s.receive(p)
		})
		if port.Gone(err) {
			return
		}
		s.log.Warn("read from relays", "error", err)
		time.Sleep(readPause)
	}
}

// receive takes a packet over from the buffer that it was read into.
func (s *Server) receive(p *Packet) {
	p.Payload, p.at = slices.Clone(p.Payload), s.cfg.Now()
	s.submit(p)
}

// submit queues a packet for the worker that serves its client.
func (s *Server) submit(p *Packet) {
	q := s.queues[maphash.Bytes(s.seed, p.Key.MAC[:])%workers]
	if d := q.push(p); d != DropNone {
		s.count.drop(d)
	}
}

// serve answers one packet, or hands it on to those who wait for the store or for an enrolment.
func (s *Server) serve(p *Packet) {
	if s.cfg.Now().Sub(p.at) > staleAfter && !p.enrolled {
		s.count.drop(DropOverload)
		return
	}
	m, err := s.proto.Parse(p)
	if err != nil {
		s.count.drop(DropOf(err))
		return
	}
	if !p.counted { // it comes again after an enrolment or a probe
		p.counted = true
		s.count.received[m.Kind()].Add(1)
	}
	w, d := s.vswitchOf(p, m)
	if d != DropNone {
		s.count.drop(d)
		return
	}
	if d := s.hold(p, m, w); d != DropNone {
		s.count.drop(d)
		return
	}
	what := m.Decide(s.cfg.Leases, w)
	switch {
	case what.Drop != DropNone:
		s.count.drop(what.Drop)
	case what.Enrol && p.enrolled:
		s.count.drop(DropUnknown) // gone again meanwhile
	case what.Enrol:
		s.queueEnrolment(p)
	case what.Probe.IsValid():
		s.probe(p, m.Sender(w.ID), what.Probe)
	case what.Reply == nil:
	case what.Lease == nil:
		s.answer(p, m, w, what)
	default:
		err := s.cfg.Leases.Commit(*what.Lease, func(err error) {
			if err != nil {
				// Silence: the client asks again. The engine's Health says why, when it is the store.
				s.count.drop(DropOf(err))
				return
			}
			s.answer(p, m, w, what)
		})
		if err != nil {
			s.count.drop(DropOf(err))
		}
	}
}

// vswitchOf returns the vSwitch that a message is on: the port's, or the one that the relay is trusted for.
func (s *Server) vswitchOf(p *Packet, m Message) (*vpc.VSwitch, Drop) {
	if m.Relayed() != (p.Port == nil) {
		return nil, DropRelay // a guest is no relay
	}
	if p.Port != nil {
		if w := s.cfg.Leases.VSwitch(p.Port.VSwitch); w != nil {
			return w, DropNone
		}
		return nil, DropVSwitch
	}
	var candidates []*vpc.VSwitch
	for _, id := range (*s.relays.Load())[p.Relay] {
		if w := s.cfg.Leases.VSwitch(id); w != nil {
			candidates = append(candidates, w)
		}
	}
	if w := m.VSwitch(candidates); w != nil {
		return w, DropNone
	}
	return nil, DropRelay
}

// hold makes sure that a known client's MAC belongs to the port that the message came in by, before anything is said or
// changed in its name.
func (s *Server) hold(p *Packet, m Message, w *vpc.VSwitch) Drop {
	if p.Port == nil {
		return DropNone
	}
	c := m.Sender(w.ID)
	nic, _, err := s.cfg.Leases.Lookup(c)
	if nic == nil || errors.Is(err, lease.ErrElsewhere) {
		return DropNone // it is refused, or enrolled
	}
	if nic.Port != "" && nic.Port != p.Port.Name {
		return DropPort
	}
	if s.cfg.Holder == nil || !w.OwnsBridge() {
		return DropNone
	}
	if err := s.cfg.Holder.Hold(p.Port.Name, c.MAC); err != nil {
		if s.notes.Allow("hold"+c.MAC.String(), s.cfg.Now()) {
			s.log.Warn("request in the name of a MAC that the port does not hold: ignored", "mac", c.MAC, "port", p.Port.Name, "error", err)
		}
		return DropPort
	}
	return DropNone
}

// queueEnrolment hands a packet to the enrolment workers; a client waits there once.
func (s *Server) queueEnrolment(p *Packet) {
	s.enrolMu.Lock()
	defer s.enrolMu.Unlock()
	if s.waiting[p.Key.MAC] {
		s.count.drop(DropDuplicate)
		return
	}
	select {
	case s.enrols <- p:
		s.waiting[p.Key.MAC] = true
	default:
		s.count.drop(DropOverload)
	}
}

// enrol makes an instance of the client and has its packet served again, in the order of its other packets.
func (s *Server) enrol(ctx context.Context, p *Packet) {
	defer func() {
		s.enrolMu.Lock()
		delete(s.waiting, p.Key.MAC)
		s.enrolMu.Unlock()
	}()
	m, err := s.proto.Parse(p)
	if err != nil {
		s.count.drop(DropOf(err))
		return
	}
	w, d := s.vswitchOf(p, m)
	if d != DropNone {
		s.count.drop(d)
		return
	}
	c := m.Sender(w.ID)
	if p.Port != nil && s.cfg.Holder != nil && w.OwnsBridge() {
		// One guest per port: whoever makes up MACs does not become many instances.
		if err := s.cfg.Holder.Hold(p.Port.Name, c.MAC); err != nil {
			s.count.drop(DropPort)
			return
		}
	}
	if err := s.cfg.Leases.Enrol(ctx, c); err != nil {
		if s.notes.Allow("enrol"+c.MAC.String(), s.cfg.Now()) {
			s.log.Warn("unknown MAC not enrolled", "mac", c.MAC, "vswitch", w.ID, "error", err)
		}
		s.count.drop(DropUnknown)
		return
	}
	p.enrolled = true
	s.submit(p)
}

// answer sends a reply to where the request came from.
func (s *Server) answer(p *Packet, m Message, w *vpc.VSwitch, what Decision) {
	if p.Port == nil {
		s.outbox.put(what.Reply.Datagram())
	} else if err := p.Port.Send(what.Reply.Frame(p.Port.Port, w)); err != nil {
		s.log.Debug("reply not sent", "mac", m.Sender(w.ID).MAC, "vswitch", w.ID, "error", err)
		s.count.drop(DropSend)
		return
	}
	s.count.answered(what.Reply.Kind(), s.cfg.Now().Sub(p.at))
	if what.Refused == "" {
		return
	}
	if mac := m.Sender(w.ID).MAC; s.notes.Allow("refused"+mac.String(), s.cfg.Now()) {
		s.log.Info("client refused", "mac", mac, "vswitch", w.ID, "why", what.Refused)
	}
}

// sendRelayed sends replies to relays.
func (s *Server) sendRelayed(replies []port.Datagram) {
	s.mu.Lock()
	relay := s.relay
	s.mu.Unlock()
	refused, err := len(replies), net.ErrClosed
	if relay != nil {
		refused, err = relay.Send(replies)
	}
	if refused > 0 {
		s.log.Debug("replies to relays not sent", "replies", refused, "error", err)
		s.count.dropped[DropSend].Add(uint64(refused))
	}
}
