package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
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

func TestIdleConnectionsGiveWay(t *testing.T) {
	c := &connections{}
	next := netip.MustParseAddr("10.20.0.0")
	open := func(vpcID string, idleSince int64) *stream {
		next = next.Next()
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		st := &stream{conn: ours, client: clientOf(vpcID, next), waiting: make(chan struct{}, 1)}
		st.idleSince.Store(idleSince)
		return st
	}
	var all []*stream
	for n := range maxConns - 1 {
		st := open("vpc-a", int64(1000+n))
		if !c.enter(st) {
			t.Fatalf("connection %d is refused", n)
		}
		all = append(all, st)
	}
	other := open("vpc-b", 1)
	if !c.enter(other) {
		t.Fatal("the last one is refused")
	}
	all[0].waiting <- struct{}{} // it has asked something, and is not idle
	if !c.enter(open("vpc-a", 5000)) {
		t.Fatal("one more is refused")
	}
	if c.open[all[1]] || !c.open[all[0]] || !c.open[other] {
		t.Error("another than the idlest of the VPC that has most has given way")
	}
	if _, err := all[1].conn.Write([]byte{0}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("it is open still: %v", err)
	}
	if !c.enter(open("vpc-b", 5000)) || c.open[all[2]] {
		t.Error("a VPC with few connections gets no more")
	}
	c.leave(all[1]) // once more
	for st := range c.open {
		select {
		case st.waiting <- struct{}{}:
		default:
		}
	}
	if !c.enter(open("vpc-c", 6000)) || c.open[all[0]] {
		t.Error("where all wait for answers, it is not the one that has waited for longest that gives way")
	}
	if n, evicted := c.size(); n != maxConns || evicted != 3 {
		t.Errorf("%d connections, %d have given way", n, evicted)
	}
}

func TestTenThousandSlowConnectionsHoldNobodyUp(t *testing.T) {
	const slow = 10_000
	up, release := newGated(t, "127.0.0.1", "@ 100 IN TXT outside")
	s, dial := overTCP(t, "127.0.0.1", up)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.serveUDP(t.Context(), pc.(*net.UDPConn), "vpc-a") }()
	server := dial().RemoteAddr().String()

	whole := framed(t, question("web-1.research.internal.", "A"))
	outside := framed(t, question("www.example.org.", "TXT"))
	beginnings := [][]byte{
		{},                                       // connected, and nothing more
		{0},                                      // half a length
		{0, 40},                                  // a length and nothing behind it
		whole[:14],                               // a header
		whole[:len(whole)-1],                     // all but the last octet
		append(bytes.Clone(whole), 0),            // a question, and half a length
		outside,                                  // a question that takes long
		bytes.Repeat(whole, 20),                  // questions, and nobody reads the answers
		append(bytes.Clone(outside), 0xff, 0xff), // a question that takes long, and too much behind it
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for n := range slow {
		// Half are from as many clients, half from a hundred.
		client := net.IPv4(127, 1, byte(n>>8), byte(n))
		if n%2 == 0 {
			client = net.IPv4(127, 2, 0, byte(n/2%100))
		}
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: client}}).Dial("tcp", server)
		if err != nil {
			t.Fatalf("connection %d: %v", n, err)
		}
		defer conn.Close()
		conn.Write(beginnings[n%len(beginnings)]) // it may be closed already
		if n%1000 > 0 {
			continue
		}
		for _, network := range []string{"udp", "tcp"} {
			at := map[string]string{"udp": pc.LocalAddr().String(), "tcp": server}[network]
			good, err := net.Dial(network, at)
			if err != nil {
				t.Fatal(err)
			}
			good.SetDeadline(time.Now().Add(20 * time.Second))
			c := &miekg.Conn{Conn: good}
			if err := c.WriteMsg(question("web-1.research.internal.", "A")); err != nil {
				t.Fatal(err)
			}
			if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
				t.Fatalf("over %s beside %d slow connections: %v, %v", network, n+1, m, err)
			}
			good.Close()
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	st := s.Stats()
	grown := int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)
	t.Logf("%d connections are open, %d had to give way, %d MB more memory for them and %d clients", st.Connections, st.Evicted, grown>>20, slow)
	if st.Connections > maxConns {
		t.Errorf("%d connections", st.Connections)
	}
	if st.Evicted == 0 {
		t.Error("none had to give way: were there enough?")
	}
	if grown > 128<<20 {
		t.Errorf("%d MB more memory", grown>>20)
	}
	release()
	pc.Close()
	<-served // how it ends when its socket is closed is no matter
}

// fed is a connection on which everything has arrived already.
type fed struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func (f *fed) Read(b []byte) (int, error)       { return f.in.Read(b) }
func (f *fed) Write(b []byte) (int, error)      { return f.out.Write(b) }
func (f *fed) Close() error                     { return nil }
func (f *fed) SetReadDeadline(time.Time) error  { return nil }
func (f *fed) SetWriteDeadline(time.Time) error { return nil }

// FuzzStream feeds what a client may send on a connection: no panic, an end, and no more replies than questions.
func FuzzStream(f *testing.F) {
	q := rdata([]byte("\x12\x67\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05web-1\x08research\x08internal\x00\x00\x01\x00\x01"))
	axfr := bytes.Clone(q)
	axfr[len(axfr)-3] = byte(miekg.TypeAXFR)
	for _, seed := range [][]byte{q, slices.Concat(q, q), q[:20], axfr, {0}, {0, 0}, {0xff, 0xff, 0}, append([]byte{0x10, 0}, make([]byte, 4096)...)} {
		f.Add(seed)
	}
	s := newTestServer(f)
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn := &fed{in: bytes.NewReader(sent)}
		s.serveConn(t.Context(), &stream{conn: conn, client: clientOf("vpc-a", client4), waiting: make(chan struct{}, maxPipelined)}, client4, "vpc-a")
		replies := 0
		for out := conn.out.Bytes(); len(out) > 0; replies++ {
			if len(out) < 2 || len(out) < 2+int(binary.BigEndian.Uint16(out)) {
				t.Fatalf("%x: half a reply: %x", sent, out)
			}
			n := 2 + int(binary.BigEndian.Uint16(out))
			if m := unpack(t, out[2:n]); !m.Response {
				t.Fatalf("%x: %v", sent, m)
			}
			out = out[n:]
		}
		questions := 0
		for in := sent; len(in) >= 2 && len(in) >= 2+int(binary.BigEndian.Uint16(in)); questions++ {
			in = in[2+int(binary.BigEndian.Uint16(in)):]
		}
		if replies > questions {
			t.Fatalf("%x: %d replies to %d questions", sent, replies, questions)
		}
	})
}
