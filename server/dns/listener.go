package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/vpc"
)

// checkEvery is how often sockets that could not be opened are tried again, and links are looked at.
const checkEvery = time.Second

// lookEvery is how often it is found out who has a port that we want.
const lookEvery = 30 * time.Second

// receiveBuffer is asked for in octets: the kernel's default holds only a few hundred questions.
const receiveBuffer = 4 << 20

// PortError says that a socket could not be opened; errors.Is(err, syscall.EADDRINUSE) when another program has it.
type PortError struct {
	Network string // udp or tcp
	Addr    netip.AddrPort
	Holder  string // who has it, as in "dnsmasq (process 812)"; empty: nobody, or not known
	Err     error
}

func (e *PortError) Error() string {
	if errors.Is(e.Err, syscall.EADDRINUSE) {
		return fmt.Sprintf("%s port %d of %s is taken by %s", e.Network, e.Addr.Port(), e.Addr.Addr(), cmp.Or(e.Holder, "another program"))
	}
	return fmt.Sprintf("listen on %s %s: %v", e.Network, e.Addr, e.Err)
}

func (e *PortError) Unwrap() error { return e.Err }

// ListenerStatus is one address that is served, or that should be.
type ListenerStatus struct {
	Addr    netip.AddrPort
	VSwitch string // ID
	Err     error  // nil: open; a *PortError with the reason otherwise
}

// listenerKey is one address to serve. It is a gateway address, or fe80::1 with the link as its zone.
type listenerKey struct {
	addr netip.Addr
	vpc  string // ID
}

// wantListeners adds the addresses that a vSwitch's instances ask. A gateway address is not tied to the vSwitch's link:
// instances of the VPC's other vSwitches may ask there too. It is bound even while no link has it, so that neither the
// order of starting nor a link that comes back matters.
func (s *Server) wantListeners(wanted map[listenerKey]string, w *vpc.VSwitch) {
	for _, f := range vpc.Families() {
		if a := w.GatewayAddr(f); a.IsValid() {
			wanted[listenerKey{a, w.VPC.ID}] = w.ID
		}
	}
	if w.Prefix(vpc.IPv6).IsValid() {
		wanted[listenerKey{vpc.RouterLinkLocal.WithZone(w.LinkName()), w.VPC.ID}] = w.ID
	}
}

// listener is the pair of sockets of one address.
type listener struct {
	server  *Server
	key     listenerKey
	vswitch string
	err     error  // why it is closed
	index   uint32 // of the link, for a link-local address
	stop    context.CancelFunc
	serving sync.WaitGroup
	failed  chan struct{} // closed when a socket has died

	holder string    // who has the port
	looked time.Time // when that was found out
}

// syncListeners opens the sockets that are wanted and not open, and closes those that are not wanted any more or whose
// link is not the one it was. Only Run calls it.
func (s *Server) syncListeners(ctx context.Context, wanted map[listenerKey]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, l := range s.listeners {
		if _, ok := wanted[key]; !ok {
			l.close()
			delete(s.listeners, key)
		}
	}
	for key, vswitch := range wanted {
		l := s.listeners[key]
		if l == nil {
			l = &listener{server: s, key: key}
			s.listeners[key] = l
		}
		l.vswitch = vswitch
		if l.open() && l.broken() {
			l.close()
		}
		if l.open() {
			continue
		}
		err := l.start(ctx)
		switch {
		case err != nil && (l.err == nil || l.err.Error() != err.Error()):
			s.log.Warn("DNS socket not open, trying again", "vswitch", vswitch, "error", err)
		case err == nil:
			s.log.Info("DNS socket open", "address", key.addr, "vswitch", vswitch)
		}
		l.err = err
	}
}

// Listeners lists the addresses that are wanted, in order.
func (s *Server) Listeners() []ListenerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ListenerStatus, 0, len(s.listeners))
	for _, l := range s.listeners {
		out = append(out, ListenerStatus{netip.AddrPortFrom(l.key.addr, s.config.Port), l.vswitch, l.err})
	}
	slices.SortFunc(out, func(a, b ListenerStatus) int {
		if c := a.Addr.Compare(b.Addr); c != 0 {
			return c
		}
		return strings.Compare(a.VSwitch, b.VSwitch)
	})
	return out
}

func (l *listener) open() bool { return l.stop != nil }

// broken reports whether the sockets are of no use any more.
func (l *listener) broken() bool {
	select {
	case <-l.failed:
		return true
	default:
	}
	return l.key.addr.Zone() != "" && linkIndex(l.key.addr.Zone()) != l.index
}

// linkIndex returns a link's index, 0 if there is no such link.
func linkIndex(link string) uint32 {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(link)
	if err != nil || unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req) != nil {
		return 0
	}
	return req.Uint32()
}

// start opens both sockets and serves them.
func (l *listener) start(ctx context.Context) error {
	addr := netip.AddrPortFrom(l.key.addr, l.server.config.Port)
	bind := addr
	l.index = 0
	if zone := l.key.addr.Zone(); zone != "" {
		if l.index = linkIndex(zone); l.index == 0 {
			return l.portError("udp", addr, fmt.Errorf("there is no link %s", zone))
		}
		// By number: package net remembers for a minute which number a name had.
		bind = netip.AddrPortFrom(l.key.addr.WithZone(strconv.Itoa(int(l.index))), addr.Port())
	}
	family := "4"
	if addr.Addr().Is6() {
		family = "6"
	}
	lc := net.ListenConfig{Control: control}
	packets, err := lc.ListenPacket(ctx, "udp"+family, bind.String())
	if err != nil {
		return l.portError("udp", addr, err)
	}
	streams, err := lc.Listen(ctx, "tcp"+family, bind.String())
	if err != nil {
		packets.Close()
		return l.portError("tcp", addr, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	failed := make(chan struct{})
	var once sync.Once
	fail := func(what string, err error) {
		if ctx.Err() == nil {
			l.server.log.Warn("DNS socket lost", "socket", what, "address", addr, "error", err)
			once.Do(func() { close(failed) })
			l.server.poke()
		}
	}
	closeBoth := context.AfterFunc(ctx, func() {
		packets.Close()
		streams.Close()
	})
	l.failed = failed
	l.stop = func() {
		cancel()
		if closeBoth() {
			packets.Close()
			streams.Close()
		}
	}
	l.serving.Go(func() {
		if err := l.server.serveUDP(ctx, packets.(*net.UDPConn), l.key.vpc); err != nil {
			fail("udp", err)
		}
	})
	l.serving.Go(func() {
		if err := l.server.serveTCP(ctx, streams.(*net.TCPListener), l.key.vpc); err != nil {
			fail("tcp", err)
		}
	})
	return nil
}

// portError says why a socket could not be opened.
func (l *listener) portError(network string, addr netip.AddrPort, err error) *PortError {
	e := &PortError{Network: network, Addr: addr, Err: err}
	if errors.Is(err, syscall.EADDRINUSE) {
		if now := l.server.now(); l.looked.IsZero() || now.Sub(l.looked) >= lookEvery {
			l.holder, l.looked = holderOf(network, addr), now
		}
		e.Holder = l.holder
	}
	return e
}

// close ends the service of the address and waits until its sockets are closed.
func (l *listener) close() {
	if l.stop != nil {
		l.stop()
		l.serving.Wait()
		l.stop = nil
	}
}

// control prepares a socket before it is bound: the address may come later than the socket.
func control(network, _ string, c syscall.RawConn) error {
	var err error
	ctlErr := c.Control(func(fd uintptr) {
		if strings.HasSuffix(network, "6") {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
		}
		if err != nil || !strings.HasPrefix(network, "udp") {
			return
		}
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		}
	})
	return errors.Join(ctlErr, err)
}
