package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// listening is a secondary that notes what it is told, and replies or does not.
type listening struct {
	conn  net.PacketConn
	heard chan string
}

func newListening(t *testing.T, replies func(n int) bool) *listening {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	l := &listening{pc, make(chan string, 100)}
	go func() {
		buf := make([]byte, 2048)
		for n := 0; ; n++ {
			k, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m miekg.Msg
			if m.Unpack(buf[:k]) != nil || len(m.Question) != 1 || len(m.Answer) != 1 {
				l.heard <- "what is no notice"
				continue
			}
			soa, _ := m.Answer[0].(*miekg.SOA)
			l.heard <- fmt.Sprintf("%s %s aa=%v %s serial %d from %s", miekg.OpcodeToString[m.Opcode], m.Question[0].Name, m.Authoritative, m.Answer[0].Header().Name, soa.Serial, from.(*net.UDPAddr).IP)
			if replies(n) {
				if wire, err := new(miekg.Msg).SetReply(&m).Pack(); err == nil {
					pc.WriteTo(wire, from)
				}
			}
		}
	}()
	return l
}

// notifying is a VPC whose zones corp.example and deep.corp.example have the listener as a secondary.
func notifying() *vpc.Spec {
	spec := lab()
	v := spec.VPCs[0]
	v.CIDRBlock = netip.MustParsePrefix("127.0.0.0/8")
	v.VSwitches = []*vpc.VSwitchSpec{
		newVSwitch("far", "vsw-0000000000000001", "127.0.1.0/24", ""),
		newVSwitch("near", "vsw-0000000000000002", "127.0.0.0/24", ""),
	}
	v.Instances, v.Forwarders = nil, nil
	for _, z := range v.PrivateZones[:2] {
		z.TransferTo = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1")}
	}
	return spec
}

func TestSecondariesAreToldOfChanges(t *testing.T) {
	l := newListening(t, func(n int) bool { return n != 0 }) // the first notice is lost
	s := asking(t, nil, notifying())
	s.notifier.port = uint16(l.conn.LocalAddr().(*net.UDPAddr).Port)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	put := func(spec *vpc.Spec, revision uint64) {
		s.SetSnapshot(vpc.NewSnapshot(spec, vpc.Host{Region: "lab-1"}, revision))
		s.notifier.sync(ctx, s.state.Load().tell)
	}
	expect := func(what string, want ...string) {
		t.Helper()
		var got []string
		for range want {
			got = append(got, <-l.heard)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: heard\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		s.notifier.telling.Wait()
		select {
		case more := <-l.heard:
			t.Errorf("%s: heard as well %s", what, more)
		default:
		}
	}
	spec := notifying()
	put(spec, 50)
	// Of the three one is a second attempt.
	first := []string{<-l.heard, <-l.heard, <-l.heard}
	slices.Sort(first)
	first = slices.Compact(first)
	want := []string{
		"NOTIFY corp.example. aa=true corp.example. serial 50 from 127.0.0.253",
		"NOTIFY deep.corp.example. aa=true deep.corp.example. serial 50 from 127.0.0.253",
	}
	if !slices.Equal(first, want) {
		t.Errorf("heard %q, want %q", first, want)
	}
	s.notifier.telling.Wait()

	other := *spec.VPCs[1]
	other.Domain = "elsewhere.internal"
	put(&vpc.Spec{VPCs: []*vpc.VPCSpec{spec.VPCs[0], &other, spec.VPCs[2]}}, 51) // nothing of theirs
	changed := notifying()
	changed.VPCs[0].PrivateZones[0].Records[0].TTL = 61
	put(changed, 52)
	expect("a change", "NOTIFY corp.example. aa=true corp.example. serial 52 from 127.0.0.253",
		"NOTIFY deep.corp.example. aa=true deep.corp.example. serial 52 from 127.0.0.253")
	m := unpackAnswer(t, s, "corp.example.", "SOA")
	if soa := m.Answer[0].(*miekg.SOA); soa.Serial != 52 {
		t.Errorf("it is told of serial 52 and finds %d", soa.Serial)
	}

	one := notifying()
	one.VPCs[0].PrivateZones[1].TransferTo = nil
	put(one, 53)
	expect("a zone that has no secondary any more", "NOTIFY corp.example. aa=true corp.example. serial 53 from 127.0.0.253")
	if len(s.notifier.told) != 1 {
		t.Errorf("%d are remembered", len(s.notifier.told))
	}
}

func unpackAnswer(t *testing.T, s *Server, name, typ string) *miekg.Msg {
	t.Helper()
	q := parseQuery(t, question(name, typ))
	wire, _ := s.View("vpc-a").Answer(nil, q, plainSize)
	return unpack(t, wire)
}

// What is not replied to is overtaken by the next change, and nothing goes on after the end.
func TestANoticeThatIsOverIsNotRepeated(t *testing.T) {
	l := newListening(t, func(int) bool { return false })
	s := asking(t, nil, notifying())
	s.notifier.port = uint16(l.conn.LocalAddr().(*net.UDPAddr).Port)
	ctx, cancel := context.WithCancel(t.Context())
	for revision := uint64(60); revision < 63; revision++ {
		changed := notifying()
		changed.VPCs[0].PrivateZones[1].TransferTo = nil
		changed.VPCs[0].PrivateZones[0].Records[0].TTL = int(revision)
		s.SetSnapshot(vpc.NewSnapshot(changed, vpc.Host{Region: "lab-1"}, revision))
		s.notifier.sync(ctx, s.state.Load().tell)
	}
	for got := ""; !strings.Contains(got, "serial 62"); {
		if got = <-l.heard; strings.Contains(got, "serial 61") {
			t.Errorf("heard of what was over: %s", got)
		}
	}
	if got := <-l.heard; !strings.Contains(got, "serial 62") {
		t.Errorf("the second attempt: %s", got)
	}
	cancel()
	s.notifier.telling.Wait()
}

func TestWhomASecondaryAsks(t *testing.T) {
	spec := lab()
	spec.VPCs[0].VSwitches[1].Attach.Relay = nil
	spec.VPCs[0].VSwitches[1].IPv6CIDRBlock = netip.MustParsePrefix("fd00:20:0:2::/64")
	v := viewOf(t, snapshotOf(spec), "research").VPC()
	for _, tt := range []struct{ host, want string }{
		{"10.20.1.10", "10.20.1.253"},
		{"10.20.2.10", "10.20.2.253"},
		{"10.20.9.10", "10.20.1.253"},
		{"fd00:20:0:1::10", "fd00:20:0:1:ffff:ffff:ffff:fff7"},
		{"fd00:20:0:2::10", "fd00:20:0:2:ffff:ffff:ffff:fff7"},
		{"fd00:20:0:9::10", "fd00:20:0:1:ffff:ffff:ffff:fff7"},
		{"10.30.1.10", "invalid IP"},
		{"192.0.2.1", "invalid IP"},
	} {
		if got := gatewayFor(v, netip.MustParseAddr(tt.host)); got.String() != tt.want {
			t.Errorf("%s asks %s, want %s", tt.host, got, tt.want)
		}
	}
}
