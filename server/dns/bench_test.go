package dns

import (
	"fmt"
	"net/netip"
	"testing"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// crowd is a VPC with many instances.
func crowd(n int) *vpc.Snapshot {
	v := newVPC("crowd", "vpc-d", "10.64.0.0/12", "fd00:64::/56")
	v.Domain = "crowd.internal"
	v.VSwitches = []*vpc.VSwitchSpec{newVSwitch("all", "vsw-0000000000000064", "10.64.0.0/16", "fd00:64::/64")}
	for i := range n {
		inst := newInstance(fmt.Sprintf("web-%d", i), fmt.Sprintf("i-%016x", i), "all",
			fmt.Sprintf("10.64.%d.%d", i/250, 1+i%250), fmt.Sprintf("fd00:64::%x", 1+i))
		inst.Interfaces[0].MAC = vpc.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}
		v.Instances = append(v.Instances, inst)
	}
	return snapshotOf(&vpc.Spec{VPCs: []*vpc.VPCSpec{v}})
}

// BenchmarkAnswer is the way of a packet from the socket to the reply, without the system calls.
func BenchmarkAnswer(b *testing.B) {
	s, err := New(Config{CacheSize: 1000})
	if err != nil {
		b.Fatal(err)
	}
	s.SetSnapshot(crowd(10000))
	v := s.View("vpc-d")
	client := netip.MustParseAddr("10.64.0.1")
	cached := replyOf(b, "www.example.org.", "A", 0, "www.example.org. 86400 IN A 192.0.2.1")
	e, err := newEntry(keyOf(b, "", "www.example.org.", "A"), cached, "", s.now())
	if err != nil {
		b.Fatal(err)
	}
	s.resolver.cache.put(e)
	for _, bm := range []struct {
		what, name, typ string
		edns            bool
	}{
		{"A", "web-4321.crowd.internal.", "A", false},
		{"AAAA", "web-4321.crowd.internal.", "AAAA", false},
		{"EDNS", "web-4321.crowd.internal.", "A", true},
		{"PTR", "1.0.64.10.in-addr.arpa.", "PTR", false},
		{"PTR6", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.6.0.0.0.0.d.f.ip6.arpa.", "PTR", false},
		{"NODATA", "web-4321.crowd.internal.", "MX", false},
		{"NXDOMAIN", "nobody.crowd.internal.", "A", false},
		{"cached", "www.example.org.", "A", false},
	} {
		b.Run(bm.what, func(b *testing.B) {
			m := question(bm.name, bm.typ)
			if bm.edns {
				m.SetEdns0(1232, false)
			}
			wire, err := m.Pack()
			if err != nil {
				b.Fatal(err)
			}
			var q Query
			buf := make([]byte, 0, 2048)
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				reply, later := s.handle(ctx, buf, wire, &q, v, client, false)
				if len(reply) < headerSize || later != nil {
					b.Fatal("no reply")
				}
			}
		})
	}
}

func TestALocalAnswerAllocatesNothing(t *testing.T) {
	s := newTestServer(t)
	s.SetRateLimit(1e9)
	v := s.View("vpc-a")
	cached := replyOf(t, "www.example.org.", "A", 0, "www.example.org. 86400 IN A 192.0.2.1")
	e, err := newEntry(keyOf(t, "", "www.example.org.", "A"), cached, "", s.now())
	if err != nil {
		t.Fatal(err)
	}
	s.resolver.cache.put(e)
	var q Query
	buf := make([]byte, 0, 2048)
	for _, tt := range []struct{ name, typ string }{
		{"web-1.research.internal.", "A"}, {"web-1.research.internal.", "AAAA"}, {"web-1.research.internal.", "ANY"}, {"web-1.research.internal.", "MX"},
		{"nobody.research.internal.", "A"}, {"10.1.20.10.in-addr.arpa.", "PTR"}, {"www.corp.example.", "AAAA"}, {"y.x.wild.corp.example.", "A"},
		{"app.localhost.", "A"}, {"www.example.org.", "A"},
	} {
		for _, edns := range []bool{false, true} {
			m := question(tt.name, tt.typ)
			if edns {
				m.SetEdns0(1232, false)
			}
			wire, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			if n := testing.AllocsPerRun(100, func() {
				if reply, later := s.handle(ctx, buf, wire, &q, v, client4, false); len(reply) == 0 || later != nil {
					t.Error("no reply")
				}
			}); n != 0 {
				t.Errorf("%s %s: %v allocations", tt.name, tt.typ, n)
			}
		}
	}
}

func BenchmarkBuildView(b *testing.B) {
	s := crowd(10000)
	b.ReportAllocs()
	for b.Loop() {
		if v := BuildView(s, s.VPCs[0]); len(v.findings) > 0 {
			b.Fatal(v.findings)
		}
	}
}

// The library reads every answer that the fast path may give; this keeps the two from drifting apart.
func TestEveryNameOfACrowdIsAnswered(t *testing.T) {
	s := crowd(300)
	v := BuildView(s, s.VPCs[0])
	for _, r := range Records(v) {
		q := parseQuery(t, question(r.Name, r.Type))
		wire, out := v.Answer(nil, q, q.limit(true))
		if m := unpack(t, wire); m.Rcode != miekg.RcodeSuccess || len(m.Answer) == 0 || out.Elsewhere {
			t.Fatalf("%+v: %v", r, m)
		}
	}
}

// BenchmarkAnswerAnybody asks for names in no order, as a crowd does: most of the time is spent waiting for memory.
func BenchmarkAnswerAnybody(b *testing.B) {
	s, err := New(Config{CacheSize: 1000})
	if err != nil {
		b.Fatal(err)
	}
	s.SetSnapshot(crowd(10000))
	v := s.View("vpc-d")
	client := netip.MustParseAddr("10.64.0.1")
	wires := make([][]byte, 1<<14)
	for i := range wires {
		if wires[i], err = question(fmt.Sprintf("web-%d.crowd.internal.", i*7919%10000), "A").Pack(); err != nil {
			b.Fatal(err)
		}
	}
	var q Query
	buf := make([]byte, 0, 2048)
	ctx := b.Context()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if reply, _ := s.handle(ctx, buf, wires[i%len(wires)], &q, v, client, false); len(reply) < headerSize {
			b.Fatal("no reply")
		}
	}
}
