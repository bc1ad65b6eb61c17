package dns

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"
)

var (
	client4 = netip.MustParseAddr("10.20.1.10")
	client6 = netip.MustParseAddr("fd00:20:0:1::10")
)

func newTestServer(t testing.TB) *Server {
	t.Helper()
	s, err := New(Config{Version: "gatehouse 1.2", CacheSize: 100})
	if err != nil {
		t.Fatal(err)
	}
	s.SetSnapshot(snapshotOf(lab()))
	return s
}

// packet is a message in hexadecimal; spaces are for the reader, words in quotes are labels.
func packet(t testing.TB, s string) []byte {
	t.Helper()
	var b []byte
	for _, f := range strings.Fields(s) {
		if label, ok := strings.CutPrefix(f, "'"); ok {
			b = append(append(b, byte(len(label))), label...)
			continue
		}
		d, err := hex.DecodeString(f)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, d...)
	}
	return b
}

func TestPackets(t *testing.T) {
	const (
		web1 = "'web-1 'research 'internal 00 0001 0001"
		opt  = "00 0029 04d0 00 00 0000 0000"
	)
	tests := []struct {
		what     string
		packet   string
		rcode    int // -1: no reply
		question bool
		opt      bool
		answers  int
	}{
		{"a question", "1234 0100 0001 0000 0000 0000 " + web1, miekg.RcodeSuccess, true, false, 1},
		{"a question with EDNS", "1234 0100 0001 0000 0000 0001 " + web1 + opt, miekg.RcodeSuccess, true, true, 1},
		{"a question that wants no recursion", "1234 0000 0001 0000 0000 0000 " + web1, miekg.RcodeSuccess, true, false, 1},
		{"a name elsewhere that wants no recursion", "1234 0000 0001 0000 0000 0000 'example 00 0001 0001", miekg.RcodeRefused, true, false, 0},
		{"nothing", "", -1, false, false, 0},
		{"half a header", "1234 0100 0001", -1, false, false, 0},
		{"a reply", "1234 8100 0001 0000 0000 0000 " + web1, -1, false, false, 0},
		{"a header alone", "1234 0100 0001 0000 0000 0000", miekg.RcodeFormatError, false, false, 0},
		{"no question", "1234 0100 0000 0000 0000 0000", miekg.RcodeFormatError, false, false, 0},
		{"two questions", "1234 0100 0002 0000 0000 0000 " + web1 + " " + web1, miekg.RcodeFormatError, false, false, 0},
		{"a question cut in its name", "1234 0100 0001 0000 0000 0000 'web-1 'rese", miekg.RcodeFormatError, false, false, 0},
		{"a question cut in its type", "1234 0100 0001 0000 0000 0000 'a 00 00", miekg.RcodeFormatError, false, false, 0},
		{"a question that points at itself", "1234 0100 0001 0000 0000 0000 c00c 0001 0001", miekg.RcodeFormatError, false, false, 0},
		{"a label of a reserved kind", "1234 0100 0001 0000 0000 0000 41 00 0001 0001", miekg.RcodeFormatError, false, false, 0},
		{"a name of 256 octets", "1234 0100 0001 0000 0000 0000 " + strings.Repeat("3f"+strings.Repeat("61", 63), 3) + " 3e" + strings.Repeat("61", 62) + " 00 0001 0001", miekg.RcodeFormatError, false, false, 0},
		{"bytes after the end", "1234 0100 0001 0000 0000 0000 " + web1 + " 00", miekg.RcodeFormatError, true, false, 0},
		{"fewer records than announced", "1234 0100 0001 0000 0000 0001 " + web1, miekg.RcodeFormatError, true, false, 0},
		{"two OPT records", "1234 0100 0001 0000 0000 0002 " + web1 + opt + opt, miekg.RcodeFormatError, true, true, 0},
		{"an OPT record that the root does not own", "1234 0100 0001 0000 0000 0001 " + web1 + " 'x " + opt, miekg.RcodeFormatError, true, false, 0},
		{"an OPT record with half an option", "1234 0100 0001 0000 0000 0001 " + web1 + " 00 0029 04d0 00 00 0000 0005 000a 0008 00", miekg.RcodeFormatError, true, false, 0},
		{"an unknown option", "1234 0100 0001 0000 0000 0001 " + web1 + " 00 0029 04d0 00 00 0000 0006 fde9 0002 abcd", miekg.RcodeSuccess, true, true, 1},
		{"a later version of EDNS", "1234 0100 0001 0000 0000 0001 " + web1 + " 00 0029 04d0 00 01 0000 0000", miekg.RcodeBadVers, true, true, 0},
		{"OPT as a question", "1234 0100 0001 0000 0000 0000 'x 00 0029 0001", miekg.RcodeFormatError, true, false, 0},
		{"an update", "1234 2800 0001 0000 0000 0000 " + web1, miekg.RcodeNotImplemented, false, false, 0},
		{"a notification", "1234 2000 0001 0000 0000 0000 " + web1, miekg.RcodeNotImplemented, false, false, 0},
		{"a status request", "1234 1000 0001 0000 0000 0000 " + web1, miekg.RcodeNotImplemented, false, false, 0},
		{"a zone transfer", "1234 0100 0001 0000 0000 0000 'research 'internal 00 00fc 0001", miekg.RcodeRefused, true, false, 0},
		{"a mailbox type of 1983", "1234 0100 0001 0000 0000 0000 'web-1 00 00fd 0001", miekg.RcodeNotImplemented, true, false, 0},
		{"class Hesiod", "1234 0100 0001 0000 0000 0000 'web-1 'research 'internal 00 0001 0004", miekg.RcodeRefused, true, false, 0},
		{"the version", "1234 0000 0001 0000 0000 0000 'version 'bind 00 0010 0003", miekg.RcodeSuccess, true, false, 1},
		{"the version in capitals", "1234 0000 0001 0000 0000 0000 'VERSION 'SERVER 00 0010 0003", miekg.RcodeSuccess, true, false, 1},
		{"the server's own name", "1234 0000 0001 0000 0000 0000 'hostname 'bind 00 0010 0003", miekg.RcodeRefused, true, false, 0},
	}
	s := newTestServer(t)
	for _, tt := range tests {
		for _, client := range []netip.Addr{client4, client6} {
			t.Run(tt.what+" from "+client.String(), func(t *testing.T) {
				var q Query
				msg := packet(t, tt.packet)
				reply, later := s.handle(t.Context(), nil, msg, &q, s.View("vpc-a"), client, false)
				if later != nil {
					t.Fatal("asked elsewhere")
				}
				if tt.rcode < 0 {
					if len(reply) != 0 {
						t.Fatalf("a reply: %x", reply)
					}
					return
				}
				m := unpack(t, reply)
				if m.Rcode != tt.rcode || m.Id != 0x1234 || !m.Response || len(m.Answer) != tt.answers {
					t.Errorf("got %v", m)
				}
				if m.Opcode != int(msg[2]>>3)&15 || m.RecursionDesired != (msg[2]&1 != 0) {
					t.Errorf("opcode %d, RD %v", m.Opcode, m.RecursionDesired)
				}
				if (len(m.Question) == 1) != tt.question || (m.IsEdns0() != nil) != tt.opt {
					t.Errorf("question %v, OPT %v", m.Question, m.IsEdns0())
				}
			})
		}
	}
}

func TestWhoMayAsk(t *testing.T) {
	tests := []struct {
		client string
		rcode  int
	}{
		{"10.20.1.10", miekg.RcodeSuccess},
		{"10.20.200.1", miekg.RcodeSuccess},
		{"fd00:20:0:1::10", miekg.RcodeSuccess},
		{"fe80::1234%7", miekg.RcodeSuccess},
		{"10.30.1.10", miekg.RcodeRefused},
		{"fd00:30::10", miekg.RcodeRefused},
		{"192.0.2.1", miekg.RcodeRefused},
		{"2001:db8::1", miekg.RcodeRefused},
		{"127.0.0.1", miekg.RcodeRefused},
	}
	s := newTestServer(t)
	wire, err := question("web-1.research.internal.", "A").Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		var q Query
		reply, _ := s.handle(t.Context(), nil, wire, &q, s.View("vpc-a"), netip.MustParseAddr(tt.client), false)
		if m := unpack(t, reply); m.Rcode != tt.rcode {
			t.Errorf("%s: %s", tt.client, miekg.RcodeToString[m.Rcode])
		}
		reply, _ = s.handle(t.Context(), nil, wire, &q, nil, netip.MustParseAddr(tt.client), false)
		if m := unpack(t, reply); m.Rcode != miekg.RcodeRefused {
			t.Errorf("%s without a view: %s", tt.client, miekg.RcodeToString[m.Rcode])
		}
	}
}

// FuzzPacket feeds the way of a packet: no panic, every reply can be read and repeats the ID, and what our own reader of
// questions accepts is what the library's reads.
func FuzzPacket(f *testing.F) {
	for _, m := range []*miekg.Msg{
		question("web-1.research.internal.", "A"), question("git.corp.example.", "AAAA"), question("x.wild.corp.example.", "ANY"),
		question("10.1.20.10.in-addr.arpa.", "PTR"), question(".", "NS"), question("www.example.org.", "A"), question("self.corp.example.", "A"),
	} {
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, false)
		m.SetEdns0(4096, true)
		if wire, err = m.Pack(); err != nil {
			f.Fatal(err)
		}
		f.Add(wire, true)
	}
	s := newTestServer(f)
	v := s.View("vpc-a")
	f.Fuzz(func(t *testing.T, msg []byte, tcp bool) {
		var q Query
		before := bytes.Clone(msg)
		reply, later := s.handle(t.Context(), nil, msg, &q, v, client4, tcp)
		if !bytes.Equal(before, msg) {
			t.Fatal("the packet was changed")
		}
		if len(reply) == 0 && later == nil {
			return
		}
		if later != nil {
			reply = later.local
		}
		if len(reply) > q.limit(tcp) {
			t.Fatalf("%d octets, %d allowed", len(reply), q.limit(tcp))
		}
		m := new(miekg.Msg)
		if err := m.Unpack(reply); err != nil {
			t.Fatalf("the reply to %x cannot be read: %v", msg, err)
		}
		if !m.Response || !bytes.Equal(reply[:2], msg[:2]) {
			t.Fatalf("not a reply to %x: %v", msg, m)
		}
		if q.question == nil || m.Rcode == miekg.RcodeFormatError {
			return
		}
		theirs := new(miekg.Msg)
		if err := theirs.Unpack(msg); err != nil {
			return // the library also reads the records that we skip
		}
		if got := theirs.Question[0]; miekg.CanonicalName(got.Name) != q.Name() || got.Qtype != q.Type || got.Qclass != q.Class {
			t.Fatalf("read %s %d %d, the library %v", q.Name(), q.Type, q.Class, got)
		}
		if opt := theirs.IsEdns0(); opt != nil && opt.Hdr.Name == "." && (!q.EDNS || opt.UDPSize() != q.UDPSize || opt.Do() != q.DO || opt.Version() != q.Version) {
			t.Fatalf("read EDNS %+v, the library %v", q, opt)
		}
	})
}

// FuzzRecord feeds declared records: no panic, and what is accepted goes through the wire and back.
func FuzzRecord(f *testing.F) {
	f.Add("git", "CNAME", "web-1", 60)
	f.Add("@", "TXT", `a "quoted; \text`, 5)
	f.Add("*.x", "MX", "10 mail.example.", 86400)
	f.Add("a.b.", "SVCB", "1 . alpn=h2 ipv4hint=10.0.0.1", 0)
	f.Add("x", "A", "10.0.0.1\n$INCLUDE /etc/passwd", 1)
	f.Fuzz(func(t *testing.T, owner, typ, value string, ttl int) {
		spec := lab()
		z := newZone("fuzz.example", "nxdomain")
		z.Records = append(z.Records, newZone("", "", "x A 10.0.0.1").Records...)
		z.Records[0].Name, z.Records[0].Type, z.Records[0].Value, z.Records[0].TTL = owner, typ, value, ttl
		spec.VPCs[0].PrivateZones = append(spec.VPCs[0].PrivateZones, z)
		v := viewOf(t, snapshotOf(spec), "research")
		for _, r := range Records(v) {
			if r.Source != "zone fuzz.example" || r.Type == "SOA" || r.Type == "NS" {
				continue
			}
			q, err := NewQuery(r.Name, miekg.StringToType[r.Type])
			if err != nil {
				t.Fatalf("%+v: %v", r, err)
			}
			wire, _ := v.Answer(nil, q, q.limit(true))
			m := unpack(t, wire)
			if len(m.Answer) == 0 && !m.Truncated {
				t.Fatalf("%+v is listed and not answered: %v", r, m)
			}
		}
	})
}
