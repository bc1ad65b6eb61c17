package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Service is something that listens in a space until Close.
type Service struct{ closers []io.Closer }

// Close stops listening.
func (s *Service) Close() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Echo answers what it is sent, on a TCP and a UDP port of every address of the space, of both families.
func (s *Space) Echo(port uint16) (*Service, error) {
	svc := &Service{}
	err := s.Do(func() error {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{Port: int(port)})
		if err != nil {
			return err
		}
		svc.closers = append(svc.closers, l)
		u, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
		if err != nil {
			return errors.Join(err, l.Close())
		}
		svc.closers = append(svc.closers, u)
		go echoTCP(l)
		go echoUDP(u)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: echo on port %d: %w", s.Label, port, err)
	}
	return svc, nil
}

func echoTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed
		}
		go func() {
			defer c.Close()
			io.Copy(c, c) // until the other side has had enough
		}()
	}
}

func echoUDP(u *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := u.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			u.WriteToUDPAddrPort(buf[:n], from) // an answer that cannot be sent is a loss like any other
		}
	}
}

// probeSize is the payload of a probe: enough to see that the answer is the one to this question.
const probeSize = 16

// Reach sends a payload from the space to an Echo over "tcp" or "udp" and reports whether it came back in time. An error
// means that the probe itself could not be made.
func (s *Space) Reach(ctx context.Context, network string, to netip.AddrPort, timeout time.Duration) (bool, error) {
	var conn net.Conn
	deadline := time.Now().Add(timeout)
	err := s.Do(func() error {
		d := net.Dialer{Deadline: deadline}
		var err error
		conn, err = d.DialContext(ctx, network, to.String())
		return err
	})
	if err != nil {
		var op *net.OpError
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &op) {
			return false, nil // refused, unreachable or silent: not reached
		}
		return false, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return false, err
	}
	question := fmt.Appendf(nil, "%0*x", probeSize, time.Now().UnixNano())[:probeSize]
	answer := make([]byte, probeSize)
	// A datagram may be lost on a busy machine without any policy: it is sent again, a third of the time apart.
	for try := range 3 {
		if network == "udp" {
			if err := conn.SetReadDeadline(deadline.Add(-timeout * time.Duration(2-try) / 3)); err != nil {
				return false, err
			}
		}
		if _, err := conn.Write(question); err != nil {
			continue
		}
		if _, err := io.ReadFull(conn, answer); err == nil {
			return string(answer) == string(question), nil
		}
		if network != "udp" {
			break
		}
	}
	return false, nil
}

// Resolver is a stand-in for the resolvers outside: it answers questions of type A and AAAA for the names it is given, and
// NXDOMAIN for all others, over UDP on port 53.
func (s *Space) Resolver(addr netip.Addr, names map[string]netip.Addr) (*Service, error) {
	svc := &Service{}
	err := s.Do(func() error {
		u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 53)))
		if err != nil {
			return err
		}
		svc.closers = append(svc.closers, u)
		go resolve(u, names)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: resolver on %s: %w", s.Label, addr, err)
	}
	return svc, nil
}

func resolve(u *net.UDPConn, names map[string]netip.Addr) {
	buf := make([]byte, 4096)
	for {
		n, from, err := u.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || m.Response || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		reply := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionDesired: m.RecursionDesired, RecursionAvailable: true},
			Questions: m.Questions,
		}
		a, known := names[strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))]
		head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 300}
		switch {
		case !known:
			reply.RCode = dnsmessage.RCodeNameError
		case q.Type == dnsmessage.TypeA && a.Is4():
			reply.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AResource{A: a.As4()}}}
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			reply.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}}}
		}
		if out, err := reply.Pack(); err == nil {
			u.WriteToUDPAddrPort(out, from) // a lost answer is asked for again
		}
	}
}
