package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// overTCP serves the lab's first VPC, whose range is made to hold the client, on loopback.
func overTCP(t *testing.T, loopback string, upstream *fakeUpstream) (*Server, func() net.Conn) {
	t.Helper()
	return serveTCPOf(t, loopback, lab(), upstream)
}

// serveTCPOf is overTCP with another network.
func serveTCPOf(t *testing.T, loopback string, spec *vpc.Spec, upstreams ...*fakeUpstream) (*Server, func() net.Conn) {
	t.Helper()
	if netip.MustParseAddr(loopback).Is4() {
		spec.VPCs[0].CIDRBlock = netip.MustParsePrefix("127.0.0.0/8")
	} else {
		spec.VPCs[0].IPv6CIDRBlock = netip.MustParsePrefix("::/120")
	}
	s := asking(t, nil, spec, upstreams...)
	ln, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.serveTCP(ctx, ln.(*net.TCPListener), "vpc-a") }()
	t.Cleanup(func() {
		cancel()
		ln.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s, func() net.Conn {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		return conn
	}
}

func framed(t *testing.T, m *miekg.Msg) []byte {
	t.Helper()
	wire, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return rdata(wire)
}

func readFrame(t *testing.T, r io.Reader) *miekg.Msg {
	t.Helper()
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		t.Fatal(err)
	}
	wire := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(r, wire); err != nil {
		t.Fatal(err)
	}
	return unpack(t, wire)
}

func TestOneConnectionCarriesManyQuestions(t *testing.T) {
	for _, loopback := range loopbacks() {
		t.Run(loopback, func(t *testing.T) {
			up, release := newGated(t, loopback, "@ 100 IN TXT outside")
			s, dial := overTCP(t, loopback, up)
			conn := dial()
			slow := question("www.example.org.", "TXT")
			slow.Id = 1000
			batch := framed(t, slow)
			want := map[uint16]bool{}
			for id := range uint16(100) {
				m := question("web-1.research.internal.", "A")
				m.Id = id
				want[id] = true
				batch = append(batch, framed(t, m)...)
			}
			// In two pieces, cut within a message.
			for _, piece := range [][]byte{batch[:1001], batch[1001:]} {
				if _, err := conn.Write(piece); err != nil {
					t.Fatal(err)
				}
			}
			for len(want) > 0 { // the slow one holds none of them up
				m := readFrame(t, conn)
				if !want[m.Id] || len(m.Answer) != 1 {
					t.Fatalf("%v", m)
				}
				delete(want, m.Id)
			}
			release()
			if m := readFrame(t, conn); m.Id != slow.Id || len(m.Answer) != 1 {
				t.Errorf("%v", m)
			}
			if n := s.Stats().Connections; n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

func TestAHalfClosedConnectionGetsItsReplies(t *testing.T) {
	up, release := newGated(t, "127.0.0.1", "@ 100 IN TXT outside")
	s, dial := overTCP(t, "127.0.0.1", up)
	conn := dial()
	if _, err := conn.Write(framed(t, question("www.example.org.", "TXT"))); err != nil {
		t.Fatal(err)
	}
	conn.(*net.TCPConn).CloseWrite()
	waitFor(t, "the question to be asked", func() bool { return s.Stats().Waiting == 1 })
	release()
	if m := readFrame(t, conn); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
	waitFor(t, "the connection to end", func() bool { return s.Stats().Connections == 0 })
}

func TestWhatEndsAConnection(t *testing.T) {
	tests := []struct {
		what string
		sent []byte
	}{
		{"a message that is too short", []byte{0, 3, 1, 2, 3}},
		{"an empty message", []byte{0, 0}},
		{"a message that is too long", []byte{0xff, 0xff, 1}},
		{"a reply", rdata([]byte{1, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0})},
	}
	up := newFake(t, "127.0.0.1", silent)
	s, dial := overTCP(t, "127.0.0.1", up)
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			conn := dial()
			if _, err := conn.Write(tt.sent); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(conn); len(b) > 0 || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%x, %v", b, err)
			}
		})
	}
	waitFor(t, "all connections to end", func() bool { return s.Stats().Connections == 0 })
}

func TestAClientHasOnlySoManyConnections(t *testing.T) {
	s, dial := overTCP(t, "127.0.0.1", newFake(t, "127.0.0.1", silent))
	var conns []net.Conn
	for range maxConnsClient {
		conn := dial()
		conns = append(conns, conn)
		if _, err := conn.Write(framed(t, question("web-1.research.internal.", "A"))); err != nil {
			t.Fatal(err)
		}
		readFrame(t, conn)
	}
	if b, err := io.ReadAll(dial()); len(b) != 0 || err != nil {
		t.Errorf("one more: %x, %v", b, err)
	}
	conns[0].Close()
	waitFor(t, "room", func() bool { return s.Stats().Connections == maxConnsClient-1 })
	conn := dial()
	if _, err := conn.Write(framed(t, question("web-1.research.internal.", "A"))); err != nil {
		t.Fatal(err)
	}
	readFrame(t, conn)
}
