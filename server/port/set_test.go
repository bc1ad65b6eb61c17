package port

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/bpf"

	"gatehouse/internal/netlab"
	"gatehouse/vpc"
)

// recorder is a Server that counts what it gets, by port and kind.
type recorder struct {
	wants   Kinds
	receive Receiver // after counting; may be nil

	mu      sync.Mutex
	got     map[Kinds]int
	added   []Port
	removed []Port
}

func (r *recorder) AddPort(s *Socket) (Kinds, Receiver) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.added = append(r.added, s.Port)
	return r.wants, func(kind Kinds, frame []byte) {
		r.mu.Lock()
		r.got[kind]++
		r.mu.Unlock()
		if r.receive != nil {
			r.receive(kind, frame)
		}
	}
}

func (r *recorder) RemovePort(s *Socket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed = append(r.removed, s.Port)
}

func (r *recorder) counts() map[Kinds]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.got)
}

func newRecorder(wants Kinds) *recorder { return &recorder{wants: wants, got: map[Kinds]int{}} }

// lab is a gateway with the port p0, behind which is a guest with eth0.
type lab struct {
	t              *testing.T
	ctx            context.Context
	gateway, guest *netlab.Space
	set            *Set
	wire           *Socket // the guest's
}

func newLab(t *testing.T, servers ...Server) *lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	t.Cleanup(cancel)
	net, err := netlab.New("portset")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := net.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &lab{t: t, ctx: ctx, set: NewSet(slog.New(slog.NewTextHandler(t.Output(), nil)), servers...)}
	t.Cleanup(func() {
		if err := l.set.Close(); err != nil {
			t.Error(err)
		}
	})
	if l.gateway, err = net.Space("gw"); err == nil {
		l.guest, err = net.Space("guest")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*netlab.Space{l.gateway, l.guest} { // else the kernel speaks too
		l.run(s, "sysctl -qw net.ipv6.conf.default.disable_ipv6=1 net.ipv6.conf.all.disable_ipv6=1")
	}
	l.cable()
	return l
}

// cable connects the guest with p0, and opens the guest's side.
func (l *lab) cable() {
	l.t.Helper()
	l.run(l.gateway, fmt.Sprintf("ip link add p0 type veth peer name eth0 netns %d\nip link set p0 up", l.guest.PID()))
	l.run(l.guest, "ip link set eth0 up")
	err := l.guest.Do(func() error {
		index, err := Index("eth0")
		if err == nil {
			l.wire, err = Open(Port{Index: index, Name: "eth0"}, []bpf.Instruction{bpf.RetConstant{Val: frameSize}})
		}
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = l.wire.Close() }) // it may have been closed already
}

func (l *lab) run(s *netlab.Space, script string) string {
	l.t.Helper()
	out, err := s.Script(l.ctx, script)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

// add serves p0 and returns it.
func (l *lab) add(change func(*Port)) Port {
	l.t.Helper()
	p := Port{Name: "p0", VSwitch: "vsw-1"}
	if err := l.gateway.Do(func() (err error) {
		if p.Index, err = Index(p.Name); err != nil {
			return err
		}
		if change != nil {
			change(&p)
		}
		return l.set.Add(p)
	}); err != nil {
		l.t.Fatal(err)
	}
	return p
}

func (l *lab) send(frames ...[]byte) {
	l.t.Helper()
	for _, f := range frames {
		if err := l.wire.Send(f); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *lab) eventually(f func() error) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, 30*time.Second)
	defer cancel()
	if err := netlab.Eventually(ctx, f); err != nil {
		l.t.Fatal(err)
	}
}

// gets waits until a server has got exactly this.
func (l *lab) gets(r *recorder, want map[Kinds]int) {
	l.t.Helper()
	l.eventually(func() error {
		if got := r.counts(); !maps.Equal(got, want) {
			return fmt.Errorf("got %v, want %v", got, want)
		}
		return nil
	})
}

func TestServersGetTheKindsThatTheyWantByOneSocket(t *testing.T) {
	all, dhcp, nobody := newRecorder(AllKinds), newRecorder(DHCPv4|ARPReply), newRecorder(0)
	l := newLab(t, all, dhcp, nobody)
	l.add(nil)
	if out := l.run(l.gateway, "sed 1d /proc/net/packet | wc -l"); strings.TrimSpace(out) != "1" {
		t.Errorf("%s packet sockets", out)
	}
	wantAll, wantDHCP := map[Kinds]int{}, map[Kinds]int{}
	for _, tt := range frames {
		if len(tt.frame) < EtherSize {
			continue
		}
		l.send(tt.frame)
		if tt.kind != 0 {
			wantAll[tt.kind]++
		}
		if tt.kind&dhcp.wants != 0 {
			wantDHCP[tt.kind]++
		}
	}
	// The last frame of all comes after whatever should not have come.
	l.send(ipv4(0, 0, 17, 67))
	wantAll[DHCPv4]++
	wantDHCP[DHCPv4]++
	l.gets(all, wantAll)
	l.gets(dhcp, wantDHCP)
	l.gets(nobody, map[Kinds]int{})
}

func TestWhatTheGatewaySendsIsNotRead(t *testing.T) {
	r := newRecorder(AllKinds)
	l := newLab(t, r)
	p := l.add(nil)
	l.set.mu.Lock()
	sock := l.set.taps[p.Index].Socket
	l.set.mu.Unlock()
	answer := arp(2)
	if err := sock.Send(answer); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, frameSize)
	if err := l.wire.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := l.wire.Read(buf); err != nil || string(buf[:n]) != string(answer) {
		t.Fatalf("the guest reads %x, %v", buf[:n], err)
	}
	l.send(arp(1))
	l.gets(r, map[Kinds]int{ARPRequest: 1})
}

func TestAPortIsReadAgainWhenItsLinkIsUpAgain(t *testing.T) {
	r := newRecorder(AllKinds)
	l := newLab(t, r)
	l.add(nil)
	for n := 1; n <= 3; n++ {
		l.run(l.gateway, "ip link set p0 down\nip link set p0 up")
		l.eventually(func() error {
			_ = l.wire.Send(icmp(135)) // it fails while there is no carrier
			if got := r.counts()[NeighborSolicitation]; got < n {
				return fmt.Errorf("got %d frames, want %d at least", got, n)
			}
			return nil
		})
		r.mu.Lock()
		r.got[NeighborSolicitation] = n
		r.mu.Unlock()
	}
	if n := l.set.Stats().Ports; n != 1 {
		t.Errorf("%d ports", n)
	}
}

func TestPortsComeAndGo(t *testing.T) {
	r := newRecorder(AllKinds)
	l := newLab(t, r)
	first := l.add(nil)
	l.add(nil) // nothing new
	another := l.add(func(p *Port) { p.LinkMAC = vpc.MAC{2, 0, 0, 0, 0, 9} })
	l.add(func(p *Port) { p.LinkMAC = another.LinkMAC })
	l.add(func(p *Port) { p.LinkMAC = another.LinkMAC; p.Bridged = true })
	if got, gone := len(r.added), len(r.removed); got != 3 || gone != 2 {
		t.Errorf("told of %d ports that came and %d that went, want 3 and 2: %+v", got, gone, r.added)
	}
	if mac := r.added[0].LinkMAC; mac.IsZero() || mac == another.LinkMAC {
		t.Errorf("a port that is given no MAC sends from %s", mac)
	}

	l.run(l.gateway, "ip link del p0") // without a word to the set
	if err := l.wire.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.set.Remove(first.Index); err != nil {
		t.Error(err)
	}
	if err := l.set.Remove(first.Index); err != nil {
		t.Errorf("removed twice: %v", err)
	}
	if n := l.set.Stats().Ports; n != 0 {
		t.Errorf("%d ports", n)
	}
	l.cable()
	if again := l.add(nil); again.Index == first.Index {
		t.Fatalf("the new link has the index of the old one: %d", again.Index)
	}
	l.send(arp(1))
	l.gets(r, map[Kinds]int{ARPRequest: 1})

	if err := l.set.Close(); err != nil {
		t.Error(err)
	}
	if err := l.set.Add(first); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a port is added to a closed set: %v", err)
	}
	if got, gone := len(r.added), len(r.removed); got != gone {
		t.Errorf("told of %d ports that came and %d that went", got, gone)
	}
	if err := l.set.Remove(first.Index); err != nil {
		t.Error(err)
	}
}

// One kind of frames comes so fast that the kernel's buffer is full of it all the time, since whoever gets it takes long
// about it. The few frames of another kind come through all the same.
func TestAFloodOfOneKindDoesNotKeepOutAnother(t *testing.T) {
	for _, tt := range []struct {
		flood, rest []byte
		kind        Kinds // of the rest
	}{
		{ipv4(0, 0, 17, 67), icmp(135), NeighborSolicitation},
		{icmp(135), ipv6(17, 2, 34, 2, 35, 0, 8, 0, 0), DHCPv6},
		{arp(1), ipv4(0, 0, 17, 67), DHCPv4},
	} {
		t.Run(kindOf(tt.flood).String(), func(t *testing.T) {
			r := newRecorder(AllKinds)
			r.receive = func(kind Kinds, _ []byte) {
				if kind == kindOf(tt.flood) {
					for begin := time.Now(); time.Since(begin) < 20*time.Microsecond; {
						continue // this is what a lock or a search would cost; a wait would not be allowed
					}
				}
			}
			l := newLab(t, r)
			l.add(nil)
			var over atomic.Bool
			var flooding sync.WaitGroup
			flooding.Go(func() {
				for !over.Load() && l.ctx.Err() == nil {
					_ = l.wire.Send(tt.flood)
				}
			})
			t.Cleanup(flooding.Wait)
			t.Cleanup(func() { over.Store(true) })
			l.eventually(func() error {
				if l.set.Stats().Floods < 2 {
					return errors.New("the flood is not noticed")
				}
				return nil
			})
			const asked = 400
			before := r.counts()[tt.kind]
			for range asked {
				l.send(tt.rest)
				for begin := time.Now(); time.Since(begin) < time.Millisecond; {
					_ = l.wire.Send(tt.flood)
				}
			}
			l.eventually(func() error {
				if got := r.counts()[tt.kind] - before; got < asked*3/4 {
					return fmt.Errorf("%d of %d came through; stats %+v", got, asked, l.set.Stats())
				}
				return nil
			})
			if r.counts()[kindOf(tt.flood)] == 0 {
				t.Error("nothing of the flood is read")
			}
			// Afterwards everything is let through again.
			over.Store(true)
			flooding.Wait()
			l.eventually(func() error {
				was := r.counts()[kindOf(tt.flood)]
				l.send(tt.flood)
				if r.counts()[kindOf(tt.flood)] == was {
					return errors.New("what flooded the port stays shut out")
				}
				return nil
			})
		})
	}
}

func TestAClosedSocketSaysSo(t *testing.T) {
	l := newLab(t)
	ended := make(chan error, 1)
	go func() {
		_, err := l.wire.Read(make([]byte, frameSize))
		ended <- err
	}()
	if err := l.wire.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) || Gone(err) {
		t.Errorf("after the deadline: %v", err)
	}
	if err := l.wire.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := l.wire.Read(make([]byte, frameSize))
		ended <- err
	}()
	if err := l.wire.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !Gone(err) {
		t.Errorf("after Close: %v", err)
	}
}

func TestKindsHaveNames(t *testing.T) {
	if got := (DHCPv4 | ARPReply).String(); got != "DHCPv4, ARP reply" {
		t.Errorf("%q", got)
	}
	if got := AllKinds.String(); strings.Count(got, ", ") != kindCount-1 {
		t.Errorf("%q", got)
	}
}
