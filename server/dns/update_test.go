package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

const updateSecret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"

// records reads records as newZone does and writes them the same way.
func recordsOf(lines ...string) []*vpc.RecordSpec { return newZone("", "", lines...).Records }

func linesOf(records []*vpc.RecordSpec) []string {
	out := []string{}
	for _, r := range records {
		s := r.Name + " " + r.Type + " " + r.Value
		if r.TTL != 60 {
			s = fmt.Sprintf("%s (%d)", s, r.TTL)
		}
		out = append(out, s)
	}
	return out
}

func TestWhatAnUpdateMakesOfAZone(t *testing.T) {
	base := []string{"@ MX 10 mail", "a A 10.20.9.1", "a A 10.20.9.2", "a TXT x", "c CNAME a", "sub NS ns.example.org."}
	absent := func(name string) func(*miekg.Msg) {
		return func(m *miekg.Msg) { m.NameNotUsed([]miekg.RR{newRR(t, name+" A 0.0.0.0")}) }
	}
	all := func(edits ...func(*miekg.Msg)) func(*miekg.Msg) {
		return func(m *miekg.Msg) {
			for _, e := range edits {
				e(m)
			}
		}
	}
	insert := func(lines ...string) func(*miekg.Msg) {
		return func(m *miekg.Msg) {
			for _, l := range lines {
				m.Insert([]miekg.RR{newRR(t, l)})
			}
		}
	}
	raw := func(section string, edit func(miekg.RR), line string) func(*miekg.Msg) {
		return func(m *miekg.Msg) {
			rr := newRR(t, line)
			edit(rr)
			if section == "answer" {
				m.Answer = append(m.Answer, rr)
			} else {
				m.Ns = append(m.Ns, rr)
			}
		}
	}
	for _, tt := range []struct {
		what  string
		edit  func(*miekg.Msg)
		want  []string // nil: as before
		rcode int
	}{
		{"nothing", func(*miekg.Msg) {}, nil, 0},
		{"a new name", insert("new.corp.example. 60 IN A 10.20.9.3"), append(slices.Clone(base), "new A 10.20.9.3"), 0},
		{"a name in capitals", insert("NEW.Corp.Example. 60 IN A 10.20.9.3"), append(slices.Clone(base), "new A 10.20.9.3"), 0},
		{"a record that is there", insert("a.corp.example. 60 IN A 10.20.9.1"), nil, 0},
		{"another TTL, for the whole set", insert("a.corp.example. 300 IN A 10.20.9.1"),
			[]string{"@ MX 10 mail", "a A 10.20.9.1 (300)", "a A 10.20.9.2 (300)", "a TXT x", "c CNAME a", "sub NS ns.example.org."}, 0},
		{"a record of the apex", insert("corp.example. 60 IN TXT \"hello\""), append(slices.Clone(base), `@ TXT "hello"`), 0},
		{"a CNAME where data is", insert("a.corp.example. 60 IN CNAME c.corp.example."), nil, 0},
		{"data where a CNAME is", insert("c.corp.example. 60 IN A 10.20.9.3"), nil, 0},
		{"another CNAME", insert("c.corp.example. 60 IN CNAME b.corp.example."), []string{"@ MX 10 mail", "a A 10.20.9.1", "a A 10.20.9.2", "a TXT x", "sub NS ns.example.org.", "c CNAME b.corp.example."}, 0},
		{"the SOA and the zone's own name servers stay", insert("corp.example. 60 IN SOA a. b. 9 9 9 9 9", "corp.example. 60 IN NS evil.example."), nil, 0},
		{"a name server of a subzone", insert("sub.corp.example. 60 IN NS two.example.org."), append(slices.Clone(base), "sub NS two.example.org."), 0},
		{"one record less", func(m *miekg.Msg) { m.Remove([]miekg.RR{newRR(t, "a.corp.example. A 10.20.9.1")}) },
			[]string{"@ MX 10 mail", "a A 10.20.9.2", "a TXT x", "c CNAME a", "sub NS ns.example.org."}, 0},
		{"a set less", func(m *miekg.Msg) { m.RemoveRRset([]miekg.RR{newRR(t, "a.corp.example. A 0.0.0.0")}) },
			[]string{"@ MX 10 mail", "a TXT x", "c CNAME a", "sub NS ns.example.org."}, 0},
		{"a name less", func(m *miekg.Msg) { m.RemoveName([]miekg.RR{newRR(t, "a.corp.example. A 0.0.0.0")}) },
			[]string{"@ MX 10 mail", "c CNAME a", "sub NS ns.example.org."}, 0},
		{"what is not there less", func(m *miekg.Msg) { m.RemoveName([]miekg.RR{newRR(t, "z.corp.example. A 0.0.0.0")}) }, nil, 0},
		{"in order: gone and new", all(func(m *miekg.Msg) { m.RemoveName([]miekg.RR{newRR(t, "c.corp.example. A 0.0.0.0")}) }, insert("c.corp.example. 60 IN A 10.20.9.3")),
			[]string{"@ MX 10 mail", "a A 10.20.9.1", "a A 10.20.9.2", "a TXT x", "sub NS ns.example.org.", "c A 10.20.9.3"}, 0},

		{"if the name is not in use", all(absent("new.corp.example."), insert("new.corp.example. 60 IN A 10.20.9.3")), append(slices.Clone(base), "new A 10.20.9.3"), 0},
		{"if the name is not in use, but it is", all(absent("a.corp.example."), insert("new.corp.example. 60 IN A 10.20.9.3")), nil, miekg.RcodeYXDomain},
		{"if the name is in use, but it is not", func(m *miekg.Msg) { m.NameUsed([]miekg.RR{newRR(t, "z.corp.example. A 0.0.0.0")}) }, nil, miekg.RcodeNameError},
		{"if the set exists", all(func(m *miekg.Msg) { m.RRsetUsed([]miekg.RR{newRR(t, "a.corp.example. TXT x")}) }, insert("b.corp.example. 60 IN A 10.20.9.3")), append(slices.Clone(base), "b A 10.20.9.3"), 0},
		{"if the set exists, but it does not", func(m *miekg.Msg) { m.RRsetUsed([]miekg.RR{newRR(t, "a.corp.example. MX 1 b.")}) }, nil, miekg.RcodeNXRrset},
		{"if the set does not exist, but it does", func(m *miekg.Msg) { m.RRsetNotUsed([]miekg.RR{newRR(t, "a.corp.example. TXT x")}) }, nil, miekg.RcodeYXRrset},
		{"if the set is this", all(func(m *miekg.Msg) {
			m.Used([]miekg.RR{newRR(t, "a.corp.example. 0 IN A 10.20.9.2"), newRR(t, "a.corp.example. 0 IN A 10.20.9.1")})
		}, insert("b.corp.example. 60 IN A 10.20.9.3")), append(slices.Clone(base), "b A 10.20.9.3"), 0},
		{"if the set is this, but it has more", func(m *miekg.Msg) { m.Used([]miekg.RR{newRR(t, "a.corp.example. 0 IN A 10.20.9.2")}) }, nil, miekg.RcodeNXRrset},

		{"a name of another zone", insert("www.example.org. 60 IN A 10.20.9.3"), nil, miekg.RcodeNotZone},
		{"a condition on another zone", absent("www.example.org."), nil, miekg.RcodeNotZone},
		{"nothing when one change is bad", insert("new.corp.example. 60 IN A 10.20.9.3", "www.example.org. 60 IN A 10.20.9.3"), nil, miekg.RcodeNotZone},
		{"a condition with a TTL", raw("answer", func(rr miekg.RR) {}, "a.corp.example. 60 IN A 10.20.9.1"), nil, miekg.RcodeFormatError},
		{"a condition of a strange class", raw("answer", func(rr miekg.RR) { rr.Header().Class = miekg.ClassHESIOD }, "a.corp.example. 0 IN A 10.20.9.1"), nil, miekg.RcodeFormatError},
		{"a change of a strange class", raw("update", func(rr miekg.RR) { rr.Header().Class = miekg.ClassCHAOS }, "a.corp.example. 0 IN A 10.20.9.1"), nil, miekg.RcodeFormatError},
		{"a removal with a TTL", raw("update", func(rr miekg.RR) { rr.Header().Class = miekg.ClassNONE }, "a.corp.example. 60 IN A 10.20.9.1"), nil, miekg.RcodeFormatError},
		{"a type that no zone holds", insert("a.corp.example. 60 IN DNAME example.org."), nil, miekg.RcodeRefused},
	} {
		t.Run(tt.what, func(t *testing.T) {
			before := recordsOf(base...)
			m := new(miekg.Msg).SetUpdate("corp.example.")
			tt.edit(m)
			wire, err := m.Pack() // as it arrives
			if err != nil {
				t.Fatal(err)
			}
			got, err := applyUpdate("corp.example", before, unpack(t, wire))
			var code rcodeError
			if errors.As(err, &code); int(code) != tt.rcode || err != nil && tt.rcode == 0 {
				t.Errorf("%v, want %s", err, miekg.RcodeToString[tt.rcode])
			}
			want := tt.want
			if tt.rcode != 0 {
				if got != nil {
					t.Errorf("records beside an error: %q", linesOf(got))
				}
			} else if want == nil {
				if len(got) != len(before) || &got[0] != &before[0] {
					t.Errorf("changed to %q", linesOf(got))
				}
			} else if !slices.Equal(linesOf(got), want) {
				t.Errorf("got  %q\nwant %q", linesOf(got), want)
			}
			if !slices.Equal(linesOf(before), base) {
				t.Error("what was there was changed in place")
			}
		})
	}
}

// store is an Updater that keeps one zone and puts it in force.
type zoneStore struct {
	server *Server
	spec   *vpc.Spec
	who    []string
	fail   error
}

func (z *zoneStore) UpdateZone(_ context.Context, vpcID, zone, who string, change func([]*vpc.RecordSpec) ([]*vpc.RecordSpec, error)) error {
	if z.fail != nil {
		return z.fail
	}
	if vpcID != "vpc-a" || zone != "corp.example" {
		return fmt.Errorf("update of %s in %s", zone, vpcID)
	}
	z.who = append(z.who, who)
	next := *z.spec
	next.VPCs = slices.Clone(next.VPCs)
	v := *next.VPCs[0]
	v.PrivateZones = slices.Clone(v.PrivateZones)
	corp := *v.PrivateZones[0]
	var err error
	if corp.Records, err = change(corp.Records); err != nil {
		return err
	}
	v.PrivateZones[0], next.VPCs[0] = &corp, &v
	z.spec = &next
	z.server.SetSnapshot(snapshotOf(z.spec))
	return nil
}

func TestOnlyAKeyOfTheZoneUpdatesIt(t *testing.T) {
	for _, loopback := range loopbacks() {
		t.Run(loopback, func(t *testing.T) {
			spec := lab()
			spec.VPCs[0].PrivateZones[0].UpdateKeys = []string{"lab-key", "lost-key"}
			s, dial := serveTCPOf(t, loopback, spec)
			z := &zoneStore{server: s, spec: spec}
			s.config.Updater = z
			s.SetTSIGKeys([]TSIGKey{{"Lab-Key.", "hmac-sha256", updateSecret}, {"other-key", "hmac-sha256", updateSecret}})

			name := 0
			for _, tt := range []struct {
				what, zone, key, algorithm, secret string
				skew                               time.Duration
				fudge                              uint16
				fail                               error
				rcode                              int
				tsig                               int // its error; -1: the reply is not signed
			}{
				{"the right key", "corp.example.", "lab-key.", miekg.HmacSHA256, updateSecret, 0, 300, nil, miekg.RcodeSuccess, 0},
				{"the right key in capitals", "corp.example.", "LAB-key.", miekg.HmacSHA256, updateSecret, 0, 300, nil, miekg.RcodeSuccess, 0},
				{"another secret", "corp.example.", "lab-key.", miekg.HmacSHA256, "AAAA" + updateSecret, 0, 300, nil, miekg.RcodeNotAuth, miekg.RcodeBadSig},
				{"another algorithm", "corp.example.", "lab-key.", miekg.HmacSHA512, updateSecret, 0, 300, nil, miekg.RcodeNotAuth, miekg.RcodeBadKey},
				{"a key that may not", "corp.example.", "other-key.", miekg.HmacSHA256, updateSecret, 0, 300, nil, miekg.RcodeNotAuth, miekg.RcodeBadKey},
				{"a key whose secret nobody knows", "corp.example.", "lost-key.", miekg.HmacSHA256, updateSecret, 0, 300, nil, miekg.RcodeNotAuth, miekg.RcodeBadKey},
				{"a clock that is an hour late", "corp.example.", "lab-key.", miekg.HmacSHA256, updateSecret, -time.Hour, 300, nil, miekg.RcodeNotAuth, miekg.RcodeBadTime},
				{"a clock that is an hour late, with much patience", "corp.example.", "lab-key.", miekg.HmacSHA256, updateSecret, -time.Hour, 65535, nil, miekg.RcodeNotAuth, miekg.RcodeBadTime},
				{"a clock that is ten minutes ahead, with much patience", "corp.example.", "lab-key.", miekg.HmacSHA256, updateSecret, 10 * time.Minute, 65535, nil, miekg.RcodeNotAuth, miekg.RcodeBadTime},
				{"a clock that is a minute late, with little patience", "corp.example.", "lab-key.", miekg.HmacSHA256, updateSecret, -time.Minute, 10, nil, miekg.RcodeNotAuth, miekg.RcodeBadTime},
				{"no key", "corp.example.", "", "", "", 0, 300, nil, miekg.RcodeRefused, -1},
				{"a zone without keys", "mixed.example.", "lab-key.", miekg.HmacSHA256, updateSecret, 0, 300, nil, miekg.RcodeNotAuth, miekg.RcodeBadKey},
				{"a zone that is not there", "nowhere.example.", "lab-key.", miekg.HmacSHA256, updateSecret, 0, 300, nil, miekg.RcodeNotAuth, -1},
				{"a change that cannot be stored", "corp.example.", "lab-key.", miekg.HmacSHA256, updateSecret, 0, 300, errors.New("disk full"), miekg.RcodeServerFailure, 0},
			} {
				t.Run(tt.what, func(t *testing.T) {
					name++
					host := fmt.Sprintf("new-%d.%s", name, tt.zone)
					z.fail = tt.fail
					m := new(miekg.Msg).SetUpdate(tt.zone)
					m.Insert([]miekg.RR{newRR(t, host+" 60 IN A 10.20.9.77")})
					var wire []byte
					var mac string
					var err error
					if tt.key != "" {
						m.SetTsig(tt.key, tt.algorithm, tt.fudge, time.Now().Add(tt.skew).Unix())
						wire, mac, err = miekg.TsigGenerate(m, tt.secret, "", false)
					} else {
						wire, err = m.Pack()
					}
					if err != nil {
						t.Fatal(err)
					}
					conn := dial()
					if _, err := conn.Write(rdata(wire)); err != nil {
						t.Fatal(err)
					}
					reply := readRaw(t, conn)
					r := unpack(t, reply)
					if r.Rcode != tt.rcode || r.Opcode != miekg.OpcodeUpdate || r.Id != m.Id {
						t.Errorf("%v, want %s", r, miekg.RcodeToString[tt.rcode])
					}
					sig := r.IsTsig()
					switch {
					case tt.tsig < 0 && sig != nil:
						t.Errorf("signed: %v", sig)
					case tt.tsig >= 0 && (sig == nil || int(sig.Error) != tt.tsig):
						t.Fatalf("TSIG %v, want error %d", sig, tt.tsig)
					case tt.tsig == 0:
						if err := miekg.TsigVerify(reply, tt.secret, mac, false); err != nil {
							t.Errorf("the reply's signature: %v", err)
						}
					}
					q := parseQuery(t, question(host, "A"))
					_, out := s.View("vpc-a").Answer(nil, q, 512)
					if there := out.Rcode == miekg.RcodeSuccess && !out.Elsewhere; there != (tt.rcode == miekg.RcodeSuccess) {
						t.Errorf("the new name exists: %v", there)
					}
				})
			}
			if len(z.who) != 2 || !strings.HasPrefix(z.who[0], "key Lab-Key. at ") {
				t.Errorf("who changed it: %q", z.who)
			}
		})
	}
}

func readRaw(t *testing.T, conn net.Conn) []byte {
	t.Helper()
	var size [2]byte
	if _, err := conn.Read(size[:1]); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(size[1:]); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, int(size[0])<<8|int(size[1]))
	for at := 0; at < len(b); {
		n, err := conn.Read(b[at:])
		if err != nil {
			t.Fatal(err)
		}
		at += n
	}
	return b
}

func FuzzUpdate(f *testing.F) {
	for _, edit := range []func(*miekg.Msg){
		func(m *miekg.Msg) { m.Insert([]miekg.RR{newRR(f, "new.corp.example. 60 IN A 10.20.9.3")}) },
		func(m *miekg.Msg) { m.RemoveName([]miekg.RR{newRR(f, "a.corp.example. A 10.20.9.3")}) },
		func(m *miekg.Msg) { m.NameNotUsed([]miekg.RR{newRR(f, "z.corp.example. A 10.20.9.3")}) },
		func(m *miekg.Msg) { m.SetTsig("lab-key.", miekg.HmacSHA256, 300, 0) },
	} {
		m := new(miekg.Msg).SetUpdate("corp.example.")
		edit(m)
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	s := newTestServer(f)
	spec := recordsOf("@ MX 10 mail", "a A 10.20.9.1", "a TXT x", "c CNAME a")
	f.Fuzz(func(t *testing.T, wire []byte) {
		reply, _ := s.update(t.Context(), s.View("vpc-a"), wire, client4)
		if len(reply) < headerSize && len(wire) >= headerSize {
			t.Fatalf("%x: no reply", wire)
		}
		var m miekg.Msg
		if m.Unpack(wire) != nil {
			return
		}
		records, err := applyUpdate("corp.example", spec, &m)
		if err != nil {
			return
		}
		for _, r := range records {
			if _, err := parseRecord("\x04corp\x07example\x00", r); err != nil {
				t.Errorf("%+v is stored, but is no record: %v", *r, err)
			}
		}
	})
}
