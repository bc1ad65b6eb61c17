package port

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// frameSize is how much of a frame is read, in bytes: more than any message that is served takes.
	frameSize = 2048
	// burst is how many frames of a port are read in a row: then other ports have their turn.
	burst = 64
	// floodShare is how many frames of one kind in a burst are a flood, when the kernel has had no room for others.
	floodShare = burst / 8
	// muteTime is how long what floods a port is not let through.
	muteTime = 50 * time.Millisecond
	// readPause keeps an error that stays from spinning.
	readPause = 100 * time.Millisecond
	// floodInterval is how often a port that is flooded is logged.
	floodInterval = time.Minute
)

// Server gets frames that come in by ports.
type Server interface {
	// AddPort is told of a port before the first frame of it is read. It says which kinds of frames the server wants, and
	// what receives them.
	AddPort(*Socket) (Kinds, Receiver)
	// RemovePort is told of a port that is no longer served; a frame that has been read may still be on its way.
	RemovePort(*Socket)
}

// Receiver takes a frame. It is called by the one goroutine that reads the port, so it neither waits nor keeps the frame:
// what takes time goes into a bounded queue of the server's own.
type Receiver func(kind Kinds, frame []byte)

// Set reads the ports of a gateway: each by one socket, whose frames all servers share. The kernel shows every packet that
// comes in by a port to every socket there, and most packets are none of the servers' business.
//
// The servers share a socket's buffer too. When one kind of frames comes faster than it is read, the kernel has no room for
// the others; then what comes in such numbers is not let into the buffer for a moment, and the others are.
//
// Add and Remove may be called from any goroutine.
type Set struct {
	log     *slog.Logger
	servers []Server
	buffers sync.Pool     // of *[frameSize]byte: a port where nothing comes in has none
	floods  atomic.Uint64 // see Stats

	mu      sync.Mutex
	closed  bool
	taps    map[int]*tap
	readers sync.WaitGroup
}

// NewSet returns a Set without ports. Servers are told of ports in their order, and get each frame in that order.
func NewSet(log *slog.Logger, servers ...Server) *Set {
	return &Set{
		log: log, servers: servers, taps: map[int]*tap{},
		buffers: sync.Pool{New: func() any { return new([frameSize]byte) }},
	}
}

// Add begins to serve a port of the calling thread's network namespace. A port that is served alike already is left as it is.
func (s *Set) Add(p Port) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if old := s.taps[p.Index]; old != nil {
		if old.Port.Same(p) {
			return nil
		}
		if err := s.remove(old); err != nil {
			return err
		}
	}
	sock, err := Open(p, []bpf.Instruction{bpf.RetConstant{Val: 0}}) // nothing, until it is known what is wanted
	if err != nil {
		return err
	}
	t := &tap{Socket: sock, set: s}
	s.taps[p.Index] = t
	for _, srv := range s.servers {
		if kinds, receive := srv.AddPort(sock); kinds != 0 {
			t.outlets = append(t.outlets, outlet{kinds, receive})
			t.kinds |= kinds
		}
	}
	if err := t.listen(t.kinds); err != nil {
		return errors.Join(fmt.Errorf("listen on port %s: %w", p.Name, err), s.remove(t))
	}
	s.readers.Go(t.read)
	return nil
}

// Remove ends serving a port; unknown indexes are ignored.
func (s *Set) Remove(index int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.taps[index]; t != nil {
		return s.remove(t)
	}
	return nil
}

// remove needs the lock.
func (s *Set) remove(t *tap) error {
	delete(s.taps, t.Index)
	for _, srv := range s.servers {
		srv.RemovePort(t.Socket)
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("port %s: %w", t.Name, err)
	}
	return nil
}

// Close removes all ports, and returns when no frame is on its way any more. No port can be added then.
func (s *Set) Close() error {
	s.mu.Lock()
	s.closed = true
	var errs []error
	for _, t := range s.taps {
		errs = append(errs, s.remove(t))
	}
	s.mu.Unlock()
	s.readers.Wait()
	return errors.Join(errs...)
}

// Stats are what a Set counts.
type Stats struct {
	Ports  int    // that are served
	Floods uint64 // times that kinds of frames were shut out for a moment so that others came through
}

// Stats returns the counters.
func (s *Set) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Ports: len(s.taps), Floods: s.floods.Load()}
}

// tap reads the frames of a port and hands them out.
type tap struct {
	*Socket
	set     *Set
	outlets []outlet
	kinds   Kinds // that anybody wants

	// Of the reader alone.
	frame  *[frameSize]byte // nil while nothing comes in
	size   int
	err    error             // of the last attempt to read
	row    int               // frames read without a pause
	counts [kindCount]uint16 // of what kinds these are
	muted  Kinds             // that are not let through for the moment
	warned time.Time         // of a flood
}

// outlet is where frames of some kinds go.
type outlet struct {
	kinds   Kinds
	receive Receiver
}

// listen lets frames of these kinds into the socket's buffer.
func (t *tap) listen(kinds Kinds) error {
	filter, err := bpf.Assemble(kinds.filter())
	if err != nil {
		return err
	}
	return onFD(t.raw, func(fd int) error { return setFilter(fd, filter) })
}

// read reads the port until it is closed. A link that goes down is an error once; the socket works again when it is up.
func (t *tap) read() {
	take := t.take
	for {
		err := t.raw.Read(take)
		if err == nil {
			err = t.err
		}
		switch {
		case err == nil:
			t.deliver(t.frame[:t.size])
		case t.closed.Load():
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.unmute()
		default:
			if !Down(err) {
				t.set.log.Warn("read port", "port", t.Name, "error", err)
			}
			time.Sleep(readPause)
		}
	}
}

// take reads a frame, if there is one.
func (t *tap) take(fd uintptr) bool {
	if t.frame == nil {
		t.frame = t.set.buffers.Get().(*[frameSize]byte)
	}
	t.size, t.err = receive(fd, t.frame[:])
	if t.err != unix.EAGAIN {
		return true
	}
	t.set.buffers.Put(t.frame)
	t.frame = nil
	t.row, t.counts = 0, [kindCount]uint16{}
	return false
}

func (t *tap) deliver(frame []byte) {
	kind := kindOf(frame)
	if kind == 0 {
		return // the filter and we do not agree
	}
	for _, o := range t.outlets {
		if o.kinds&kind != 0 {
			o.receive(kind, frame)
		}
	}
	t.counts[bits.TrailingZeros8(uint8(kind))]++
	if t.row++; t.row == burst {
		t.relieve()
		t.row, t.counts = 0, [kindCount]uint16{}
		runtime.Gosched()
	}
}

// relieve shuts out what floods the port when the kernel had no room for frames of late.
func (t *tap) relieve() {
	if !t.overflowed() {
		return
	}
	flood := t.muted
	for i, n := range t.counts {
		if n >= floodShare {
			flood |= 1 << i
		}
	}
	if flood == t.muted || t.listen(t.kinds&^flood) != nil {
		return
	}
	t.overflowed() // what was lost until now says nothing of what is let through from now on
	now := time.Now()
	if t.conn.SetReadDeadline(now.Add(muteTime)) != nil {
		return // closed
	}
	t.muted = flood
	t.set.floods.Add(1)
	if now.Sub(t.warned) >= floodInterval {
		t.warned = now
		t.set.log.Warn("port is flooded: what floods it is shut out for moments, so that the rest is read", "port", t.Name, "frames", flood)
	}
}

// overflowed reports whether frames were lost since it was last called, because the socket's buffer was full.
func (t *tap) overflowed() (lost bool) {
	_ = onFD(t.raw, func(fd int) error {
		st, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		lost = err == nil && st.Drops > 0
		return err
	})
	return lost
}

// unmute lets everything through again.
func (t *tap) unmute() {
	var next time.Time // never
	if err := t.listen(t.kinds); err != nil {
		next = time.Now().Add(muteTime)
	} else {
		t.muted = 0
	}
	_ = t.conn.SetReadDeadline(next) // else it is closed
}
