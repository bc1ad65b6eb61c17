package dns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// receive transfers a zone with the library's client and returns its records in presentation form.
func receive(t *testing.T, conn net.Conn, m *miekg.Msg) (records []string, messages int, err error) {
	t.Helper()
	in, err := (&miekg.Transfer{Conn: &miekg.Conn{Conn: conn}}).In(m, conn.RemoteAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	for e := range in {
		if e.Error != nil {
			return nil, 0, e.Error
		}
		messages++
		records = append(records, section(e.RR)...)
	}
	return records, messages, nil
}

func TestASecondaryIsGivenTheWholeZone(t *testing.T) {
	for _, loopback := range loopbacks() {
		t.Run(loopback, func(t *testing.T) {
			spec := lab()
			many := newZone("many.example", vpc.MissingNXDOMAIN)
			for i := range 2000 {
				many.Records = append(many.Records, &vpc.RecordSpec{Name: fmt.Sprintf("host-%d", i), Type: "A", Value: fmt.Sprintf("10.20.%d.%d", i/250, i%250), TTL: 60})
			}
			spec.VPCs[0].PrivateZones = append(spec.VPCs[0].PrivateZones, many)
			for _, z := range spec.VPCs[0].PrivateZones {
				z.TransferTo = []netip.Addr{netip.MustParseAddr(loopback)}
			}
			closed := newZone("closed.example", vpc.MissingNXDOMAIN, "a A 10.20.1.1")
			closed.TransferTo = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
			spec.VPCs[0].PrivateZones = append(spec.VPCs[0].PrivateZones, closed)
			s, dial := serveTCPOf(t, loopback, spec)

			for _, zone := range []string{"corp.example.", "deep.corp.example.", "many.example."} {
				for _, ask := range []string{"AXFR", "IXFR"} {
					m := new(miekg.Msg)
					m.SetAxfr(zone)
					if ask == "IXFR" {
						m.SetIxfr(zone, 7, "ns.example.", "host.example.")
					}
					got, messages, err := receive(t, dial(), m)
					if err != nil {
						t.Fatalf("%s %s: %v", ask, zone, err)
					}
					if len(got) < 3 || got[0] != got[len(got)-1] || !strings.Contains(got[0], " SOA ") {
						t.Fatalf("%s %s does not begin and end with its SOA: %q", ask, zone, got)
					}
					var want []string
					for _, r := range Records(s.View("vpc-a")) {
						if r.Zone == zone && r.Type != "SOA" {
							want = append(want, strings.Join(strings.Fields(fmt.Sprintf("%s %d IN %s %s", r.Name, r.TTL, r.Type, r.Value)), " "))
						}
					}
					got = got[1 : len(got)-1]
					slices.Sort(got)
					slices.Sort(want)
					if !slices.Equal(got, want) {
						t.Errorf("%s %s: %d records, want %d", ask, zone, len(got), len(want))
					}
					if zone == "many.example." && messages < 2 {
						t.Errorf("%d records in %d messages", len(got), messages)
					}
				}
			}
			for _, zone := range []string{"closed.example.", "research.internal.", "git.corp.example.", "example.org."} {
				m := new(miekg.Msg)
				m.SetAxfr(zone)
				if got, _, err := receive(t, dial(), m); err == nil {
					t.Errorf("%s was transferred: %q", zone, got)
				}
			}
		})
	}
}

// A zone on the same connection as other questions, one after the other.
func TestATransferLeavesTheConnectionOpen(t *testing.T) {
	spec := lab()
	spec.VPCs[0].PrivateZones[0].TransferTo = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	_, dial := serveTCPOf(t, "127.0.0.1", spec)
	conn := dial()
	axfr := new(miekg.Msg)
	axfr.SetAxfr("corp.example.")
	sent := slices.Concat(framed(t, question("web-1.research.internal.", "A")), framed(t, axfr), framed(t, question("v4only.research.internal.", "A")))
	if _, err := conn.Write(sent); err != nil {
		t.Fatal(err)
	}
	if m := readFrame(t, conn); len(m.Answer) != 1 {
		t.Errorf("before it: %v", m)
	}
	if m := readFrame(t, conn); m.Id != axfr.Id || len(m.Answer) < 10 || !m.Authoritative {
		t.Errorf("the transfer: %v", m)
	}
	if m := readFrame(t, conn); len(m.Answer) != 1 {
		t.Errorf("after it: %v", m)
	}
}

func TestASecondaryThatIsUpToDateIsToldSo(t *testing.T) {
	spec := lab()
	spec.VPCs[0].PrivateZones[0].TransferTo = []netip.Addr{client4, client6}
	s := asking(t, nil, spec)
	for _, tt := range []struct {
		what   string
		zone   string
		serial uint32
		tcp    bool
		client netip.Addr
		rcode  int
		soa    bool // alone; else a transfer, or nothing
	}{
		{"the same version", "corp.example.", 42, true, client4, miekg.RcodeSuccess, true},
		{"the same version from IPv6", "corp.example.", 42, true, client6, miekg.RcodeSuccess, true},
		{"an older version", "corp.example.", 41, true, client4, miekg.RcodeSuccess, false},
		{"a newer version, as after a restored backup", "corp.example.", 43, true, client4, miekg.RcodeSuccess, false},
		{"an older version over UDP", "corp.example.", 41, false, client4, miekg.RcodeSuccess, true},
		{"the same version over UDP", "corp.example.", 42, false, client6, miekg.RcodeSuccess, true},
		{"a stranger", "corp.example.", 42, true, client4.Next(), miekg.RcodeRefused, false},
		{"a stranger over UDP", "corp.example.", 42, false, client4.Next(), miekg.RcodeRefused, false},
		{"a zone that is nobody's to have", "deep.corp.example.", 42, false, client4, miekg.RcodeRefused, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			m := new(miekg.Msg)
			m.SetIxfr(tt.zone, tt.serial, "ns.example.", "host.example.")
			wire, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			reply, later := s.handle(t.Context(), nil, wire, new(Query), s.View("vpc-a"), tt.client, tt.tcp)
			if whole := later != nil && later.transfer != nil; whole != (tt.rcode == miekg.RcodeSuccess && !tt.soa) {
				t.Fatalf("a whole transfer: %v", whole)
			} else if whole {
				return
			}
			r := unpack(t, reply)
			if r.Rcode != tt.rcode || tt.soa != (len(r.Answer) == 1) {
				t.Fatalf("%v", r)
			}
			if tt.soa && r.Answer[0].(*miekg.SOA).Serial != 42 {
				t.Errorf("%v", r.Answer[0])
			}
		})
	}
}
