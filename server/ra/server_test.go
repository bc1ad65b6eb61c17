package ra

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse/server/port"
	"gatehouse/vpc"
)

// sent is an advertisement that a port has sent.
type sent struct {
	after    time.Duration // since the test began
	to       netip.Addr
	lifetime int // seconds
}

// fakePort is a port's socket whose guest is the test.
type fakePort struct {
	begin   time.Time
	receive func(frame []byte)
	sent    []sent
}

func (p *fakePort) Send(frame []byte) error {
	h, m, ok := port.ParseIPv6(frame, vpc.ProtocolICMPv6)
	if !ok || !h.Intact(vpc.ProtocolICMPv6, m) || h.Src != vpc.RouterLinkLocal || h.HopLimit != 255 {
		panic("not a frame of neighbour discovery")
	}
	p.sent = append(p.sent, sent{time.Since(p.begin), h.Dst, int(binary.BigEndian.Uint16(m[6:]))})
	return nil
}

// take is what was sent since it was last called.
func (p *fakePort) take() []sent {
	synctest.Wait()
	s := p.sent
	p.sent = nil
	return s
}

// inBubble runs a server with one port on a clock of its own; chance always gives the largest delay.
func inBubble(t *testing.T, snap *vpc.Snapshot, f func(s *Server, p *fakePort)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Jitter: func(d time.Duration) time.Duration { return d }})
		s.SetSnapshot(snap)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		p := &fakePort{begin: time.Now()}
		at := s.add(webPort, p)
		p.receive = func(frame []byte) { s.receive(at, frame, time.Now()) }
		f(s, p)
		p.take()
		cancel()
		if err := <-ended; err == nil {
			t.Error("Run does not say why it ended")
		}
		if left := p.take(); len(left) != 0 {
			t.Errorf("a server that ends says good-bye: %v", left)
		}
	})
}

func expect(t *testing.T, what string, got []sent, want ...sent) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

const (
	full = 1800
	ms   = time.Millisecond
)

func TestPeriodicAdvertisements(t *testing.T) {
	inBubble(t, spec(nil), func(_ *Server, p *fakePort) {
		time.Sleep(20 * time.Minute)
		expect(t, "three soon, then every ten minutes", p.take(),
			sent{500 * ms, allNodes, full}, sent{16500 * ms, allNodes, full}, sent{32500 * ms, allNodes, full}, sent{632500 * ms, allNodes, full})
	})
}

func TestSolicitedAdvertisements(t *testing.T) {
	a, b := addr("fe80::a"), addr("fe80::b")
	inBubble(t, spec(nil), func(_ *Server, p *fakePort) {
		time.Sleep(time.Minute)
		p.take()
		p.receive(routerSolicitation(web1MAC, a))
		time.Sleep(time.Second)
		expect(t, "who has an address is answered alone", p.take(), sent{60500 * ms, a, full})

		p.receive(routerSolicitation(web1MAC, netip.IPv6Unspecified()))
		time.Sleep(time.Second)
		expect(t, "who has none is answered with everybody", p.take(), sent{61500 * ms, allNodes, full})

		p.receive(routerSolicitation(web1MAC, netip.IPv6Unspecified()))
		time.Sleep(3 * time.Second)
		expect(t, "everybody hears no two within three seconds", p.take(), sent{64500 * ms, allNodes, full})

		time.Sleep(5 * time.Second)
		p.receive(routerSolicitation(web1MAC, a))
		p.receive(routerSolicitation(web1MAC, a))
		time.Sleep(time.Second)
		expect(t, "who asks twice is answered once", p.take(), sent{70500 * ms, a, full})

		p.receive(routerSolicitation(web1MAC, a))
		p.receive(routerSolicitation(web2MAC, b))
		time.Sleep(time.Second)
		expect(t, "two are answered together", p.take(), sent{71500 * ms, allNodes, full})
	})
}

func TestWhatIsNewIsToldAtOnce(t *testing.T) {
	inBubble(t, spec(nil), func(s *Server, p *fakePort) {
		time.Sleep(time.Minute)
		p.take()
		s.SetSnapshot(spec(nil))
		time.Sleep(time.Minute)
		expect(t, "nothing new", p.take())
		s.SetSnapshot(spec(func(v *vpc.VPCSpec) { v.DHCPOptions.MTU = 1400 }))
		time.Sleep(time.Minute)
		expect(t, "another MTU", p.take(), sent{120500 * ms, allNodes, full}, sent{136500 * ms, allNodes, full}, sent{152500 * ms, allNodes, full})
	})
}

func TestTheLastAdvertisement(t *testing.T) {
	without := spec(func(v *vpc.VPCSpec) { v.VSwitches[0].IPv6CIDRBlock = netip.Prefix{} })
	for name, gone := range map[string]*vpc.Snapshot{"teardown": vpc.NewSnapshot(&vpc.Spec{}, vpc.Host{}, 2), "without IPv6": without} {
		inBubble(t, spec(nil), func(s *Server, p *fakePort) {
			time.Sleep(time.Minute)
			p.take()
			if err := s.Withdraw(t.Context(), spec(nil)); err != nil {
				t.Error(err)
			}
			expect(t, name+": a vSwitch that stays", p.take())
			if err := s.Withdraw(t.Context(), gone); err != nil {
				t.Error(err)
			}
			expect(t, name, p.take(), sent{time.Minute, allNodes, 0})
			s.SetSnapshot(gone)
			p.receive(routerSolicitation(web1MAC, addr("fe80::a")))
			time.Sleep(time.Hour)
			expect(t, name+": then silence", p.take())
			s.SetSnapshot(spec(nil))
			time.Sleep(time.Second)
			expect(t, name+": back again", p.take(), sent{time.Hour + time.Minute + 500*ms, allNodes, full})
		})
	}
}

func TestARemovedPortIsLeftWithoutAWord(t *testing.T) {
	inBubble(t, spec(nil), func(s *Server, p *fakePort) {
		time.Sleep(time.Minute)
		p.take()
		s.remove(webPort.Index)
		time.Sleep(time.Hour)
		expect(t, "after removal", p.take())
		if n := s.Stats().Ports; n != 0 {
			t.Errorf("%d ports", n)
		}
		s.remove(webPort.Index)
	})
}

func TestNeighboursAreAnsweredUpToALimit(t *testing.T) {
	inBubble(t, spec(nil), func(s *Server, p *fakePort) {
		time.Sleep(time.Minute)
		p.take()
		asks := neighborSolicitation(web1MAC, addr("fd00:20:0:1::10"), addr("fd00:20:0:1::11"))
		for range answersPerSecond + 10 {
			p.receive(asks)
		}
		if n := len(p.take()); n != answersPerSecond {
			t.Errorf("%d answers within a second", n)
		}
		time.Sleep(time.Second)
		p.receive(asks)
		if n := len(p.take()); n != 1 {
			t.Errorf("%d answers in the next second", n)
		}
		if st := s.Stats(); st.Limited != 10 || st.Answered != answersPerSecond+1 || st.Neighbors != answersPerSecond+11 {
			t.Errorf("stats %+v", st)
		}
	})
}
