package dhcp4

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse/server/lease"
	"gatehouse/vpc"
)

// How much is served at a time.
const (
	workers       = 2
	queueSize     = 2048 // requests per worker: well under a second of work
	enrolWorkers  = 16   // enrolments under way at a time: together they share one change of the rules
	enrolQueue    = 256
	retryInterval = 5 * time.Second // for sockets that could not be opened
	readPause     = 100 * time.Millisecond
)

// Port is where guests are plugged in: a port of a vSwitch's bridge, or the link itself where it has no ports.
type Port struct {
	Index   int     // of the link
	Name    string  //
	VSwitch string  // ID
	LinkMAC vpc.MAC // the gateway's MAC on the vSwitch, from which replies come; zero: the port's own
}

// Holder makes a bridge port the holder of a MAC, so that frames to that MAC go there and no other port may send from it.
type Holder interface {
	// Hold is cheap when the port holds the MAC already. It is an error when another port that is up does, or when the
	// MAC is not that port's to hold.
	Hold(port string, mac vpc.MAC) error
}

// Config is what a Server needs.
type Config struct {
	Leases *lease.Engine
	Holder Holder           // nil: ports hold their MACs without being asked
	Logger *slog.Logger     // nil: nothing is logged
	Now    func() time.Time // nil: time.Now
}

// Server serves DHCPv4. AddPort, RemovePort and SetSnapshot may be called at any time, from any goroutine; requests are
// served while Run runs.
type Server struct {
	cfg    Config
	log    *slog.Logger
	seed   maphash.Seed
	count  counters
	notes  lease.Limiter
	queues [workers]*queue
	enrols chan *inbound

	relays atomic.Pointer[map[netip.Addr][]string] // relay -> IDs of the vSwitches that name it

	mu       sync.Mutex
	closed   bool
	ports    map[int]*portSocket
	links    map[string]*linkSocket
	relay    *relaySocket
	readers  sync.WaitGroup
	problems map[string]error // by what is wrong: a link's name, or "relay"

	enrolMu sync.Mutex
	waiting map[vpc.MAC]bool // enrolments that are queued or under way
}

// New returns a Server without ports.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, seed: maphash.MakeSeed(),
		enrols:   make(chan *inbound, enrolQueue),
		ports:    map[int]*portSocket{},
		links:    map[string]*linkSocket{},
		problems: map[string]error{},
		waiting:  map[vpc.MAC]bool{},
	}
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
	for _, p := range s.ports {
		errs = append(errs, p.conn.Close())
	}
	for _, l := range s.links {
		errs = append(errs, l.conn.Close())
	}
	if s.relay != nil {
		errs = append(errs, s.relay.conn.Close())
	}
	clear(s.ports)
	clear(s.links)
	s.relay = nil
	return errors.Join(errs...)
}

// SetSnapshot opens and closes what the snapshot asks for: port 67 of every vSwitch's link, and the relays' socket. The
// lease engine gets the snapshot by itself, before this one. What cannot be opened is in Health and is retried.
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
		ifi, err := net.InterfaceByName(name)
		if want[name] && err == nil && ifi.Index == l.index {
			continue
		}
		if err := l.conn.Close(); err != nil {
			problems[name] = err
		}
		delete(s.links, name)
	}
	for name := range want {
		if s.links[name] != nil {
			continue
		}
		l, err := openLink(name, relayed)
		if err != nil {
			problems[name] = err
			continue
		}
		s.links[name] = l
	}
	switch {
	case relayed && s.relay == nil:
		for name, l := range s.links {
			if err := l.share(); err != nil {
				problems[name] = err
			}
		}
		r, err := openRelay()
		if err != nil {
			problems["relay"] = err
			break
		}
		s.relay = r
		s.readers.Go(func() { s.readRelay(r) })
	case !relayed && s.relay != nil:
		if err := s.relay.conn.Close(); err != nil {
			problems["relay"] = err
		}
		s.relay = nil
	}
	for what, err := range problems {
		if old := s.problems[what]; old == nil || old.Error() != err.Error() {
			s.log.Error("dhcp cannot listen", "error", err)
		}
	}
	s.problems = problems
}

// AddPort begins to serve a port. A port that is served already for that vSwitch is left as it is.
func (s *Server) AddPort(p Port) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if old := s.ports[p.Index]; old != nil {
		if old.Name == p.Name && old.VSwitch == p.VSwitch && (p.LinkMAC.IsZero() || old.LinkMAC == p.LinkMAC) {
			return nil
		}
		delete(s.ports, p.Index)
		if err := old.conn.Close(); err != nil {
			return fmt.Errorf("port %s: %w", old.Name, err)
		}
	}
	sock, err := openPort(p)
	if err != nil {
		return err
	}
	s.ports[p.Index] = sock
	s.readers.Go(func() { s.readPort(sock) })
	return nil
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

// Stats returns the counters.
func (s *Server) Stats() Stats {
	st := s.count.snapshot()
	for _, q := range s.queues {
		st.Queued += q.len()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Ports = len(s.ports)
	return st
}

// Health lists what keeps the server from serving everybody, in a fixed order.
func (s *Server) Health() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, what := range slices.Sorted(maps.Keys(s.problems)) {
		errs = append(errs, s.problems[what])
	}
	if err := s.cfg.Leases.Health(); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// readPort reads a port until it is removed. A link that goes down is an error once; the socket works again when it is up.
func (s *Server) readPort(p *portSocket) {
	buf := make([]byte, etherSize+60+udpSize+maxMessage+1)
	for {
		n, _, err := p.conn.ReadFrom(buf)
		if err != nil {
			if s.gone(p, err) {
				return
			}
			continue
		}
		d, ok := parseFrame(buf[:n])
		if !ok || len(d.payload) < headerSize+cookieSize || len(d.payload) > maxMessage {
			s.count.drop(DropMalformed)
			continue
		}
		w := s.cfg.Leases.VSwitch(p.VSwitch)
		if w == nil || !w.CIDRBlock.IsValid() {
			s.count.drop(DropVSwitch)
			continue
		}
		if !toServer(d.dst, w) {
			continue // to another server, whose business it is
		}
		key := keyOf(d.payload)
		if key.mac != d.srcMAC {
			s.count.drop(DropSpoofed)
			continue
		}
		s.submit(&inbound{payload: slices.Clone(d.payload), port: p, at: s.cfg.Now(), key: key})
	}
}

// toServer reports whether a request on a vSwitch is for us: broadcast, or to the gateway.
func toServer(dst netip.Addr, w *vpc.VSwitch) bool {
	return dst == w.GatewayAddr(vpc.IPv4) || dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || dst == vpc.LastAddr(w.CIDRBlock)
}

// gone reports whether reading has ended for good; if not, it makes sure that an error that stays does not spin.
func (s *Server) gone(p *portSocket, err error) bool {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, unix.EBADF) {
		return true
	}
	s.mu.Lock()
	removed := s.closed || s.ports[p.Index] != p
	s.mu.Unlock()
	if removed {
		return true
	}
	if !errors.Is(err, unix.ENETDOWN) {
		s.log.Warn("read port", "port", p.Name, "error", err)
	}
	time.Sleep(readPause)
	return false
}

// readRelay reads what relays send until the socket is closed.
func (s *Server) readRelay(r *relaySocket) {
	buf := make([]byte, maxMessage+1)
	for {
		n, from, err := r.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.log.Warn("read from relays", "error", err)
			time.Sleep(readPause)
			continue
		}
		relay := from.Addr().Unmap()
		known := len((*s.relays.Load())[relay]) > 0
		switch {
		case known && (n < headerSize+cookieSize || n > maxMessage):
			s.count.drop(DropMalformed)
			continue
		case !known && n >= headerSize && !unlessZero(buf[24:28]).IsValid():
			continue // a guest's broadcast, which its port reads
		case !known:
			s.count.drop(DropRelay)
			continue
		}
		s.submit(&inbound{payload: slices.Clone(buf[:n]), relay: relay, at: s.cfg.Now(), key: keyOf(buf[:n])})
	}
}

// submit queues a packet for the worker that serves its client.
func (s *Server) submit(p *inbound) {
	q := s.queues[maphash.Bytes(s.seed, p.key.mac[:])%workers]
	if d := q.push(p); d != DropNone {
		s.count.drop(d)
	}
}

// serve answers one packet, or hands it on to those who wait for the store or for an enrolment.
func (s *Server) serve(p *inbound) {
	if s.cfg.Now().Sub(p.at) > staleAfter && !p.enrolled {
		s.count.drop(DropOverload)
		return
	}
	r, err := ParseRequest(p.payload)
	if err != nil {
		s.count.drop(dropOf(err))
		return
	}
	if !p.enrolled {
		s.count.received[r.Type].Add(1)
	}
	w, d := s.vswitchOf(p, r)
	if d != DropNone {
		s.count.drop(d)
		return
	}
	if d := s.hold(p, r, w); d != DropNone {
		s.count.drop(d)
		return
	}
	what := decide(s.cfg.Leases, r, w, p.port == nil)
	switch {
	case what.drop != DropNone:
		s.count.drop(what.drop)
	case what.enrol && p.enrolled:
		s.count.drop(DropUnknown) // gone again meanwhile
	case what.enrol:
		s.queueEnrolment(p)
	case what.reply == nil:
	case what.lease == nil:
		s.answer(p, r, w, what.reply)
	default:
		err := s.cfg.Leases.Commit(*what.lease, func(err error) {
			if err != nil {
				// Silence: the client asks again. The engine's Health says why, when it is the store.
				s.count.drop(dropOf(err))
				return
			}
			s.answer(p, r, w, what.reply)
		})
		if err != nil {
			s.count.drop(dropOf(err))
		}
	}
}

// vswitchOf returns the vSwitch that a request is on: the port's, or the one that the relay is trusted for.
func (s *Server) vswitchOf(p *inbound, r *Request) (*vpc.VSwitch, Drop) {
	if p.port != nil {
		if r.Relay.IsValid() {
			return nil, DropRelay // a guest is no relay
		}
		w := s.cfg.Leases.VSwitch(p.port.VSwitch)
		if w == nil {
			return nil, DropVSwitch
		}
		return w, DropNone
	}
	if !r.Relay.IsValid() {
		return nil, DropRelay
	}
	var candidates []*vpc.VSwitch
	for _, id := range (*s.relays.Load())[p.relay] {
		if w := s.cfg.Leases.VSwitch(id); w != nil {
			candidates = append(candidates, w)
		}
	}
	w := relayedVSwitch(candidates, r)
	if w == nil {
		return nil, DropRelay
	}
	return w, DropNone
}

// hold makes sure that a known client's MAC belongs to the port that the request came in by, before anything is said or
// changed in its name.
func (s *Server) hold(p *inbound, r *Request, w *vpc.VSwitch) Drop {
	if p.port == nil {
		return DropNone
	}
	nic, _, err := s.cfg.Leases.Lookup(clientOf(r, w.ID))
	if nic == nil || errors.Is(err, lease.ErrElsewhere) {
		return DropNone // decide refuses it, or has it enrolled
	}
	if nic.Port != "" && nic.Port != p.port.Name {
		return DropPort
	}
	if s.cfg.Holder == nil || !w.OwnsBridge() {
		return DropNone
	}
	if err := s.cfg.Holder.Hold(p.port.Name, r.MAC); err != nil {
		if s.notes.Allow("hold"+r.MAC.String(), s.cfg.Now()) {
			s.log.Warn("request in the name of a MAC that the port does not hold: ignored", "mac", r.MAC, "port", p.port.Name, "error", err)
		}
		return DropPort
	}
	return DropNone
}

// queueEnrolment hands a packet to the enrolment workers; a client waits there once.
func (s *Server) queueEnrolment(p *inbound) {
	s.enrolMu.Lock()
	defer s.enrolMu.Unlock()
	if s.waiting[p.key.mac] {
		s.count.drop(DropDuplicate)
		return
	}
	select {
	case s.enrols <- p:
		s.waiting[p.key.mac] = true
	default:
		s.count.drop(DropOverload)
	}
}

// enrol makes an instance of the client and has its packet served again, in the order of its other packets.
func (s *Server) enrol(ctx context.Context, p *inbound) {
	defer func() {
		s.enrolMu.Lock()
		delete(s.waiting, p.key.mac)
		s.enrolMu.Unlock()
	}()
	r, err := ParseRequest(p.payload)
	if err != nil {
		s.count.drop(dropOf(err))
		return
	}
	w, d := s.vswitchOf(p, r)
	if d != DropNone {
		s.count.drop(d)
		return
	}
	if err := s.cfg.Leases.Enrol(ctx, clientOf(r, w.ID)); err != nil {
		if s.notes.Allow("enrol"+r.MAC.String(), s.cfg.Now()) {
			s.log.Warn("unknown MAC not enrolled", "mac", r.MAC, "vswitch", w.ID, "error", err)
		}
		s.count.drop(DropUnknown)
		return
	}
	p.enrolled = true
	s.submit(p)
}

// answer sends a reply to where the request came from.
func (s *Server) answer(p *inbound, r *Request, w *vpc.VSwitch, reply *Reply) {
	payload := reply.Encode()
	to := Route(r, reply)
	var err error
	switch {
	case p.port != nil:
		err = p.port.send(buildFrame(p.port.LinkMAC, to.MAC, w.GatewayAddr(vpc.IPv4), to.IP, payload))
	default:
		err = s.sendRelay(to.Relay, payload)
	}
	if err != nil {
		s.log.Debug("reply not sent", "mac", r.MAC, "vswitch", w.ID, "error", err)
		s.count.drop(DropSend)
		return
	}
	s.count.answered(reply.Type, s.cfg.Now().Sub(p.at))
	if reply.Type == dhcpv4.MessageTypeNak && s.notes.Allow("nak"+r.MAC.String(), s.cfg.Now()) {
		s.log.Info("refused an address", "mac", r.MAC, "vswitch", w.ID, "requested", r.Requested, "client", r.Client, "xid", r.Msg.TransactionID)
	}
}

func (s *Server) sendRelay(to netip.Addr, payload []byte) error {
	s.mu.Lock()
	relay := s.relay
	s.mu.Unlock()
	if relay == nil {
		return net.ErrClosed
	}
	return relay.send(to, payload)
}
