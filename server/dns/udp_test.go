package dns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockaddr returns an address as the kernel writes it.
func sockaddr(ap netip.AddrPort) unix.RawSockaddrInet6 {
	port := ap.Port()<<8 | ap.Port()>>8
	if ap.Addr().Is6() {
		return unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: ap.Addr().As16()}
	}
	var sa unix.RawSockaddrInet6
	*(*unix.RawSockaddrInet4)(unsafe.Pointer(&sa)) = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: ap.Addr().As4()}
	return sa
}

// fill puts replies to clients into a batch.
func (b *batch) fill(clients []netip.AddrPort, replies []string) {
	b.answered = 0
	for i, text := range replies {
		b.clients[i] = sockaddr(clients[i])
		b.in[i].header.Namelen = unix.SizeofSockaddrInet4
		if clients[i].Addr().Is6() {
			b.in[i].header.Namelen = unix.SizeofSockaddrInet6
		}
		b.waiting[i] = outgoing{append(b.replies[i][:0], text...), i, coupling(&b.clients[i], len(text))}
		b.answered++
	}
}

func TestRepliesOfOneLengthToOneClientLeaveTogether(t *testing.T) {
	a4, b4 := netip.MustParseAddrPort("10.20.1.10:4001"), netip.MustParseAddrPort("10.20.1.10:4002")
	a6, b6 := netip.MustParseAddrPort("[fd00:20::10]:4001"), netip.MustParseAddrPort("[fd00:20:1::10]:4001") // alike in what coupling sees
	long := strings.Repeat("x", 1232)
	for _, tt := range []struct {
		what     string
		clients  []netip.AddrPort
		replies  []string
		together bool
		want     []int // datagrams of each message
	}{
		{"one client, one length", []netip.AddrPort{a4, a4, a4}, []string{"one", "two", "six"}, true, []int{3}},
		{"two ports of a host", []netip.AddrPort{a4, b4, a4}, []string{"one", "two", "six"}, true, []int{2, 1}},
		{"two lengths", []netip.AddrPort{a4, a4, a4, a4}, []string{"one", "three", "two", "seven"}, true, []int{2, 2}},
		{"two IPv6 clients that end alike", []netip.AddrPort{a6, b6, a6}, []string{"one", "two", "six"}, true, []int{2, 1}},
		{"a kernel that cannot cut", []netip.AddrPort{a4, a4, a4}, []string{"one", "two", "six"}, false, []int{1, 1, 1}},
		{"more than one message can hold", slices.Repeat([]netip.AddrPort{a4}, 60), slices.Repeat([]string{long}, 60), true, []int{48, 12}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			b := batches.Get().(*batch)
			b.fill(tt.clients, tt.replies)
			n := b.couple(tt.together)
			var got []int
			for i := range n {
				got = append(got, int(b.out[i].header.Iovlen))
				if cuts := b.out[i].header.Controllen > 0; cuts != (got[i] > 1) {
					t.Errorf("message %d of %d datagrams asks to be cut: %v", i, got[i], cuts)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("messages of %v datagrams, want %v", got, tt.want)
			}
		})
	}
}

// The kernel delivers every reply as a datagram of its own, to its own client.
func TestCoupledRepliesArriveOneByOne(t *testing.T) {
	for _, loopback := range []string{"127.0.0.1", "::1"} {
		t.Run(loopback, func(t *testing.T) {
			listen := func() *net.UDPConn {
				c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(loopback)})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				return c
			}
			server, first, second := listen(), listen(), listen()
			addr := func(c *net.UDPConn) netip.AddrPort {
				ap := c.LocalAddr().(*net.UDPAddr).AddrPort()
				return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
			}
			var clients []netip.AddrPort
			var replies []string
			want := map[*net.UDPConn][]string{}
			for i := range batchSize {
				c := []*net.UDPConn{first, second}[i%2]
				reply := fmt.Sprintf("reply %02d%s", i, strings.Repeat(".", i%3))
				clients, replies, want[c] = append(clients, addr(c)), append(replies, reply), append(want[c], reply)
			}
			b := batches.Get().(*batch)
			b.fill(clients, replies)
			raw, err := server.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := raw.Control(func(fd uintptr) {
				if !b.send(fd, true) {
					t.Error("the kernel cannot cut up messages")
				}
			}); err != nil {
				t.Fatal(err)
			}
			for c, want := range want {
				c.SetReadDeadline(time.Now().Add(5 * time.Second))
				var got []string
				buf := make([]byte, 100)
				for range want {
					n, err := c.Read(buf)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, string(buf[:n]))
				}
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("got %q, want %q", got, want)
				}
			}
		})
	}
}

func TestATrainThatTheKernelRefusesGoesApart(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	raw, err := server.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	to := client.LocalAddr().(*net.UDPAddr).AddrPort()
	b := batches.Get().(*batch)
	b.fill([]netip.AddrPort{to, to}, []string{"one", "two"})
	if err := raw.Control(func(fd uintptr) {
		// Without UDP checksums there is nothing that the cutting could complete.
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1); err != nil {
			t.Error(err)
		}
		if b.send(fd, true) {
			t.Error("the kernel cut a message that it should refuse")
		}
	}); err != nil {
		t.Fatal(err)
	}
	client.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 100)
	for _, want := range []string{"one", "two"} {
		if n, err := client.Read(buf); err != nil || string(buf[:n]) != want {
			t.Errorf("got %q, %v; want %q", buf[:n], err, want)
		}
	}
}
