package dns

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

// point is one demand of a standard, the packets that show how it is met, and what must be so before the first.
type point struct {
	standard string
	demand   string
	ask      []packetOf
	before   func()
}

// showing is a point that packets one by one do not show: it writes what a client sees.
type showing struct {
	standard string
	demand   string
	show     func(out *strings.Builder)
}

// packetOf is a packet of a client and how it arrives.
type packetOf struct {
	text string // what it is, for the reader
	wire []byte
	tcp  bool
}

// TestConformance asks for every point of a standard that the server follows. What it answers is in
// testdata/conformance.txt, which is meant to be read.
func TestConformance(t *testing.T) {
	clk := newClock()
	up := newFake(t, "127.0.0.1", says(t, "@ 300 IN A 192.0.2.1"))
	big := newZone("big.example", vpc.MissingNXDOMAIN, "t TXT "+strings.Repeat("x", 700), "huge TXT "+strings.Repeat("y", 3000), "sub NS ns.sub", "ns.sub A 10.20.9.53")
	spec := lab()
	spec.VPCs[0].PrivateZones = append(spec.VPCs[0].PrivateZones, big)
	spec.VPCs[0].PrivateZones[0].UpdateKeys = []string{"lab-key"}
	spec.VPCs[0].PrivateZones[1].TransferTo = []netip.Addr{client4}
	s := asking(t, clk, spec, up)
	s.SetTSIGKeys([]TSIGKey{{"lab-key", "hmac-sha256", updateSecret}})
	s.cookies, s.config.Version = cookies{1, 2}, "gatehouse 1.2"

	ask := func(name, typ string, edits ...func(*miekg.Msg)) packetOf {
		m := question(name, typ)
		m.Id = 4711
		text := name + " " + typ
		for _, edit := range edits {
			edit(m)
		}
		if c := m.Question[0].Qclass; c != miekg.ClassINET {
			text += " " + miekg.Class(c).String()
		}
		if !m.RecursionDesired {
			text += " -rd"
		}
		if m.CheckingDisabled {
			text += " +cd"
		}
		if opt := m.IsEdns0(); opt != nil {
			text += fmt.Sprintf(" +edns=%d,%d", opt.Version(), opt.UDPSize())
			if opt.Do() {
				text += " +do"
			}
			for _, o := range opt.Option {
				text += fmt.Sprintf(" +option=%d:%s", o.Option(), o)
			}
		}
		wire, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return packetOf{text, wire, false}
	}
	edns := func(size uint16, options ...miekg.EDNS0) func(*miekg.Msg) {
		return func(m *miekg.Msg) { m.SetEdns0(size, false); m.IsEdns0().Option = options }
	}
	do := func(m *miekg.Msg) { m.SetEdns0(1232, true) }
	cd := func(m *miekg.Msg) { m.CheckingDisabled = true }
	noRD := func(m *miekg.Msg) { m.RecursionDesired = false }
	class := func(c uint16) func(*miekg.Msg) { return func(m *miekg.Msg) { m.Question[0].Qclass = c } }
	overTCP := func(p packetOf) packetOf { p.text, p.tcp = p.text+" +tcp", true; return p }
	raw := func(text, hex string) packetOf { return packetOf{text, packet(t, hex), false} }
	changing := func(text, zone string, signed bool, edit func(*miekg.Msg)) packetOf {
		m := new(miekg.Msg).SetUpdate(zone)
		m.Id = 4711
		edit(m)
		wire, err := m.Pack()
		if signed {
			m.SetTsig("lab-key.", miekg.HmacSHA256, tsigFudge, time.Now().Unix())
			wire, _, err = miekg.TsigGenerate(m, updateSecret, "", false)
		}
		if err != nil {
			t.Fatal(err)
		}
		return packetOf{text, wire, false}
	}
	adding := func(record string) func(*miekg.Msg) {
		return func(m *miekg.Msg) { m.Insert([]miekg.RR{newRR(t, record)}) }
	}
	ixfr := func(serial uint32) packetOf {
		m := new(miekg.Msg).SetIxfr("deep.corp.example.", serial, "ns.example.", "host.example.")
		m.Id = 4711
		wire, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return packetOf{fmt.Sprintf("deep.corp.example. IXFR from serial %d", serial), wire, false}
	}
	answering := func(records ...string) func() { return func() { up.set(says(t, records...)) } }

	added := changing("an update that adds new.corp.example", "corp.example.", true, adding("new.corp.example. 60 IN A 10.20.9.7"))

	points := []point{
		{"RFC 1034 3.6.2", "a CNAME is answered with what it points to", []packetOf{ask("www.corp.example.", "A")}, nil},
		{"RFC 1034 3.6.2", "a CNAME that is asked for is not followed", []packetOf{ask("www.corp.example.", "CNAME")}, nil},
		{"RFC 1034 3.6.2", "a loop of CNAMEs ends", []packetOf{ask("loop1.corp.example.", "A"), ask("self.corp.example.", "A")}, nil},
		{"RFC 1034 4.3.1", "who asks for no recursion is referred to whom a name is delegated to", []packetOf{ask("www.sub.big.example.", "A", noRD)}, nil},
		{"RFC 1034 4.3.2", "names of ours are answered with authority", []packetOf{ask("web-1.research.internal.", "A"), ask("web-1.research.internal.", "AAAA"), ask("10.1.20.10.in-addr.arpa.", "PTR")}, nil},
		{"RFC 1034 4.3.2", "the apex of a zone has SOA and NS", []packetOf{ask("corp.example.", "SOA"), ask("corp.example.", "NS")}, nil},
		{"RFC 1034 4.3.2", "the deepest zone answers", []packetOf{ask("x.deep.corp.example.", "A"), ask("y.deep.corp.example.", "A")}, nil},
		{"RFC 1035 4.1.1", "an opcode that we do not know is not implemented", []packetOf{raw("an inverse query", "1267 0900 0001 0000 0000 0000 'www 'example 00 0001 0001"), raw("a status request", "1267 1000 0000 0000 0000 0000")}, nil},
		{"RFC 1035 4.1.1", "a reply is not replied to", []packetOf{raw("a message with QR set", "1267 8100 0001 0000 0000 0000 'www 'example 00 0001 0001")}, nil},
		{"RFC 1035 4.1.1", "a message that is cut short is malformed, less than a header is none", []packetOf{raw("a header that promises a question", "1267 0100 0001 0000 0000 0000"), raw("eleven octets", "1267 0100 0001 0000 0000 00")}, nil},
		{"RFC 1035 2.3.3", "case does not matter and comes back as it was", []packetOf{ask("WeB-1.Research.INTERNAL.", "A")}, nil},
		{"RFC 1035 4.2.1", "512 octets without EDNS, then the TC bit", []packetOf{ask("t.big.example.", "TXT")}, nil},
		{"RFC 1035 4.2.2", "TCP has room for all", []packetOf{overTCP(ask("huge.big.example.", "TXT"))}, nil},
		{"RFC 1035 4.1.2", "classes other than IN and CH are refused", []packetOf{ask("web-1.research.internal.", "A", class(miekg.ClassHESIOD))}, nil},
		{"RFC 1123 6.1.3.2", "a question that only recursion answers is refused without RD", []packetOf{ask("www.example.org.", "A", noRD)}, nil},
		{"RFC 2181 5.2", "a set has one TTL", []packetOf{ask("two.corp.example.", "A")}, nil},
		{"RFC 2181 9", "a truncated answer is empty rather than partial", []packetOf{ask("huge.big.example.", "TXT", edns(4096))}, nil},
		{"RFC 2308 2", "NXDOMAIN and NODATA have the SOA", []packetOf{ask("nobody.research.internal.", "A"), ask("web-1.research.internal.", "MX"), ask("gone.corp.example.", "A")}, nil},
		{"RFC 2782", "SRV", []packetOf{ask("_sip._tcp.corp.example.", "SRV")}, nil},
		{"RFC 3597 5", "a type without a name is a type", []packetOf{ask("web-1.research.internal.", "TYPE65280")}, nil},
		{"RFC 4592 2.2", "wildcards", []packetOf{ask("a.b.wild.corp.example.", "A"), ask("host.wild.corp.example.", "A"), ask("sub.host.wild.corp.example.", "A")}, nil},
		{"RFC 4592 2.2.2", "an empty non-terminal exists", []packetOf{ask("b.ent.corp.example.", "A")}, nil},
		{"RFC 4892 3", "the version, for whoever asks", []packetOf{ask("version.bind.", "TXT", class(miekg.ClassCHAOS)), ask("hostname.bind.", "TXT", class(miekg.ClassCHAOS))}, nil},
		{"RFC 5936 2", "a zone is not transferred to strangers", []packetOf{ask("corp.example.", "AXFR"), overTCP(ask("corp.example.", "AXFR"))}, nil},
		{"RFC 6303 4", "reverse names of private addresses do not leave", []packetOf{ask("1.0.254.169.in-addr.arpa.", "PTR"), ask("9.9.16.172.in-addr.arpa.", "PTR"), ask("1.0.0.127.in-addr.arpa.", "PTR")}, nil},
		{"RFC 6761 6", "special names do not leave", []packetOf{ask("app.localhost.", "A"), ask("app.localhost.", "AAAA"), ask("x.invalid.", "A"), ask("x.test.", "A"), ask("printer.local.", "A"), ask("x.onion.", "A")}, nil},
		{"RFC 6891 6.1.1", "one OPT record, or the message is malformed", []packetOf{ask("web-1.research.internal.", "A", edns(1232), func(m *miekg.Msg) { m.Extra = append(m.Extra, m.Extra[0]) })}, nil},
		{"RFC 6891 6.1.2", "options that are not known are ignored", []packetOf{ask("web-1.research.internal.", "A", edns(1232, &miekg.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}))}, nil},
		{"RFC 6891 6.1.3", "another version of EDNS is BADVERS", []packetOf{ask("web-1.research.internal.", "A", edns(1232), func(m *miekg.Msg) { m.IsEdns0().SetVersion(1) })}, nil},
		{"RFC 6891 6.2.5", "the client's size counts, up to 1232 octets, and at least 512", []packetOf{ask("t.big.example.", "TXT", edns(1232)), ask("t.big.example.", "TXT", edns(600)), ask("web-1.research.internal.", "A", edns(0))}, nil},
		{"RFC 3225 3", "the DO bit comes back", []packetOf{ask("web-1.research.internal.", "A", do)}, nil},
		{"RFC 4035 3.2.2", "the CD bit comes back", []packetOf{ask("web-1.research.internal.", "A", cd)}, nil},
		{"RFC 7873 5.2", "a cookie comes back with ours", []packetOf{ask("web-1.research.internal.", "A", edns(1232, &miekg.EDNS0_COOKIE{Code: miekg.EDNS0COOKIE, Cookie: "0102030405060708"}))}, nil},
		{"RFC 7873 5.2.2", "a cookie of a wrong length is malformed", []packetOf{ask("web-1.research.internal.", "A", edns(1232, &miekg.EDNS0_COOKIE{Code: miekg.EDNS0COOKIE, Cookie: "010203"}))}, nil},
		{"RFC 8482 4.2", "ANY is answered with HINFO", []packetOf{ask("web-1.research.internal.", "ANY"), ask("nobody.research.internal.", "ANY")}, nil},
		{"RFC 8914 2", "a refusal says why", []packetOf{ask("www.example.org.", "A", noRD, edns(1232)), ask("web-1.research.internal.", "MAILB", edns(1232))}, nil},

		{"RFC 1034 5.3.3", "other people's names are asked for and cached", []packetOf{ask("www.example.org.", "A"), ask("www.example.org.", "A")}, nil},
		{"RFC 2181 8", "the TTL counts down", []packetOf{ask("www.example.org.", "A")}, func() { clk.advance(100 * time.Second) }},
		{"RFC 8767 4", "an answer that has ended stands in for silent upstreams", []packetOf{ask("www.example.org.", "A", edns(1232))}, func() { clk.advance(time.Hour); up.set(fails(miekg.RcodeServerFailure)) }},
		{"RFC 9520 3.2", "a failure is an answer too", []packetOf{ask("broken.example.org.", "A", edns(1232))}, nil},
		{"RFC 1918", "an answer from outside does not point inside", []packetOf{ask("rebind.example.org.", "A", edns(1232))}, answering("@ 300 IN A 10.20.1.10")},
		{"RFC 1034 5.3.3", "a CNAME of ours that leads outside is followed there", []packetOf{ask("out.corp.example.", "A")}, func() { clk.advance(2 * maxStale); answering("@ 300 IN A 192.0.2.1")() }},
		{"RFC 1034 5.3.3", "what was not asked for is not believed", []packetOf{ask("extra.example.org.", "A")}, answering("@ 300 IN A 192.0.2.1", "www.bank.example. 300 IN A 192.0.2.66")},
		{"RFC 4035 3.2.3", "what says that it is authentic is handed on to who asks for it", []packetOf{ask("signed.example.org.", "A", do), ask("signed.example.org.", "A")}, func() {
			up.set(func(q *miekg.Msg, tcp bool) []*miekg.Msg {
				m := says(t, "@ 300 IN A 192.0.2.1")(q, tcp)
				m[0].AuthenticatedData = true
				return m
			})
		}},

		{"RFC 1995 2", "a secondary that asks over UDP is told the version", []packetOf{ixfr(41)}, nil},
		{"RFC 1995 4", "one that has the version is told so", []packetOf{overTCP(ixfr(42))}, nil},
		{"RFC 1996 3.11", "the gateway is nobody's secondary", []packetOf{raw("a notice", "1267 2000 0001 0000 0000 0000 'corp 'example 00 0006 0001")}, nil},
		{"RFC 2136 3.3", "a change needs a key", []packetOf{changing("an update without one", "corp.example.", false, adding("new.corp.example. 60 IN A 10.20.9.7"))}, func() { s.now, s.config.Updater = time.Now, &zoneStore{server: s, spec: spec} }},
		{"RFC 2136 3.1", "and a zone of ours", []packetOf{changing("an update of somebody else's zone", "example.org.", true, adding("new.example.org. 60 IN A 10.20.9.7"))}, nil},
		{"RFC 2136 3.2", "and conditions that hold", []packetOf{
			changing("an update if mail.corp.example does not exist", "corp.example.", true, func(m *miekg.Msg) { m.NameNotUsed([]miekg.RR{newRR(t, "mail.corp.example. A 0.0.0.0")}) }),
			changing("an update if new.corp.example exists", "corp.example.", true, func(m *miekg.Msg) { m.NameUsed([]miekg.RR{newRR(t, "new.corp.example. A 0.0.0.0")}) }),
		}, nil},
		{"RFC 2136 3.4", "then it is made at once, and once", []packetOf{
			added, ask("new.corp.example.", "A"),
			changing("an update that removes it", "corp.example.", true, func(m *miekg.Msg) { m.RemoveName([]miekg.RR{newRR(t, "new.corp.example. A 0.0.0.0")}) }), ask("new.corp.example.", "A"),
			packetOf{"the first one again", added.wire, false}, ask("new.corp.example.", "A"),
		}, nil},
		{"RFC 2136 3.4.1", "what lies outside the zone changes nothing", []packetOf{changing("an update of a name outside the zone", "corp.example.", true, adding("www.example.org. 60 IN A 10.20.9.7"))}, nil},
	}
	shows := []showing{
		{"RFC 7766 6.2.1.1", "questions on one connection are answered as answers come, not in their order", func(out *strings.Builder) {
			gated, release := newGated(t, "127.0.0.1", "@ 300 IN A 192.0.2.1")
			_, dial := serveTCPOf(t, "127.0.0.1", lab(), gated)
			conn := dial()
			var sent []byte
			for i, name := range []string{"www.example.org.", "web-1.research.internal.", "nobody.research.internal."} {
				m := question(name, "A")
				m.Id = uint16(i + 1)
				fmt.Fprintf(out, "  > question %d: %s A +tcp\n", m.Id, name)
				sent = append(sent, framed(t, m)...)
			}
			if _, err := conn.Write(sent); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				if i == 2 {
					release()
				}
				m := readFrame(t, conn)
				fmt.Fprintf(out, "  < to question %d:\n", m.Id)
				describeReply(out, m, 0)
			}
		}},
		{"RFC 7766 6.2.3", "a connection that sends no question is closed", func(out *strings.Builder) {
			_, dial := serveTCPOf(t, "127.0.0.1", lab(), up)
			conn := dial()
			fmt.Fprintf(out, "  > two octets that promise none behind them\n")
			if _, err := conn.Write([]byte{0, 0}); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("%d octets, %v", n, err)
			}
			fmt.Fprintf(out, "  < closed\n")
		}},
	}

	var out strings.Builder
	fmt.Fprintf(&out, "What the server answers to an instance of a VPC, point by point of the standards. > is a question, < the reply: its\n")
	fmt.Fprintf(&out, "response code and flags, then the records of its sections, then what the OPT record says.\n")
	for _, p := range points {
		if p.before != nil {
			p.before()
		}
		fmt.Fprintf(&out, "\n%s: %s\n", p.standard, p.demand)
		for _, q := range p.ask {
			fmt.Fprintf(&out, "  > %s\n", q.text)
			reply, later := s.handle(t.Context(), nil, q.wire, new(Query), s.View("vpc-a"), client4, q.tcp)
			if later != nil {
				replies := make(chan []byte, 1)
				s.finish(t.Context(), later, client4, func(b []byte) { replies <- b })
				reply = <-replies
			}
			if len(reply) == 0 {
				fmt.Fprintf(&out, "  < no reply\n")
				continue
			}
			describeReply(&out, unpack(t, reply), len(reply))
		}
	}
	for _, p := range shows {
		fmt.Fprintf(&out, "\n%s: %s\n", p.standard, p.demand)
		p.show(&out)
	}
	got := strings.ReplaceAll(out.String(), up.addr.String(), "UPSTREAM")
	golden := filepath.Join("testdata", "conformance.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range max(len(gotLines), len(wantLines)) {
		if i >= len(gotLines) || i >= len(wantLines) || gotLines[i] != wantLines[i] {
			t.Fatalf("line %d of %s differs:\n%s", i+1, golden, strings.Join(gotLines[max(0, i-4):min(len(gotLines), i+4)], "\n"))
		}
	}
}

func describeReply(out *strings.Builder, m *miekg.Msg, size int) {
	flags := ""
	for _, f := range []struct {
		set  bool
		name string
	}{{m.Authoritative, " aa"}, {m.Truncated, " tc"}, {m.RecursionDesired, " rd"}, {m.RecursionAvailable, " ra"}, {m.AuthenticatedData, " ad"}, {m.CheckingDisabled, " cd"}} {
		if f.set {
			flags += f.name
		}
	}
	rcode := m.Rcode
	if opt := m.IsEdns0(); opt != nil && opt.ExtendedRcode() > 15 {
		rcode = opt.ExtendedRcode()
	}
	name := miekg.RcodeToString[rcode]
	if rcode == miekg.RcodeBadVers {
		name = "BADVERS" // the library's table has the other meaning of the number
	}
	asked := ""
	if len(m.Question) == 1 {
		asked = " (" + m.Question[0].Name + ")"
	}
	fmt.Fprintf(out, "  < %s%s%s\n", name, flags, asked)
	for _, rr := range slices.Concat(m.Answer, m.Ns, m.Extra) {
		if t := rr.Header().Rrtype; t == miekg.TypeOPT || t == miekg.TypeTSIG {
			continue
		}
		line := strings.Join(strings.Fields(rr.String()), " ")
		if len(line) > 120 {
			line = fmt.Sprintf("%s… (a message of %d octets)", line[:100], size)
		}
		fmt.Fprintf(out, "      %s\n", line)
	}
	if opt := m.IsEdns0(); opt != nil {
		fmt.Fprintf(out, "      OPT size=%d", opt.UDPSize())
		if opt.Do() {
			fmt.Fprint(out, " do")
		}
		for _, o := range opt.Option {
			fmt.Fprintf(out, " %d:%s", o.Option(), o)
		}
		fmt.Fprintln(out)
	}
}
