package dns

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

func TestASecondaryWithAKeyIsAnsweredWithSignatures(t *testing.T) {
	for _, loopback := range loopbacks() {
		t.Run(loopback, func(t *testing.T) {
			spec := lab()
			many := newZone("many.example", vpc.MissingNXDOMAIN)
			for i := range 2000 {
				many.Records = append(many.Records, &vpc.RecordSpec{Name: fmt.Sprintf("host-%d", i), Type: "A", Value: fmt.Sprintf("10.20.%d.%d", i/250, i%250), TTL: 60})
			}
			many.TransferTo = []netip.Addr{netip.MustParseAddr(loopback)}
			spec.VPCs[0].PrivateZones = append(spec.VPCs[0].PrivateZones, many)
			s, dial := serveTCPOf(t, loopback, spec)
			s.SetTSIGKeys([]TSIGKey{{"Lab-Key", "hmac-sha256", updateSecret}})
			for _, c := range []struct {
				name, key, secret string
				signed            time.Time
				want              error
			}{
				{"the right key", "lab-key.", updateSecret, time.Now(), nil},
				{"another secret", "lab-key.", "bm90IGl0", time.Now(), miekg.ErrAuth},
				{"a key that nobody knows", "other.", updateSecret, time.Now(), miekg.ErrAuth},
				{"a signature of yesterday", "lab-key.", updateSecret, time.Now().Add(-24 * time.Hour), miekg.ErrAuth},
			} {
				conn := dial()
				soa := new(miekg.Msg)
				soa.SetQuestion("many.example.", miekg.TypeSOA)
				soa.SetTsig(c.key, miekg.HmacSHA256, 300, c.signed.Unix())
				client := &miekg.Client{Net: "tcp", TsigSecret: map[string]string{c.key: c.secret}}
				r, _, err := client.ExchangeWithConn(soa, &miekg.Conn{Conn: conn})
				if (err == nil && r.Rcode == miekg.RcodeSuccess && r.IsTsig() != nil) != (c.want == nil) || c.want != nil && r != nil && r.Rcode != miekg.RcodeNotAuth {
					t.Errorf("%s: a SOA: %v, %v", c.name, r, err)
				}
				axfr := new(miekg.Msg)
				axfr.SetAxfr("many.example.")
				axfr.SetTsig(c.key, miekg.HmacSHA256, 300, c.signed.Unix())
				in, err := (&miekg.Transfer{Conn: &miekg.Conn{Conn: dial()}, TsigSecret: map[string]string{c.key: c.secret}}).In(axfr, "")
				if err != nil {
					t.Fatal(err)
				}
				records, messages := 0, 0
				for e := range in {
					if e.Error != nil {
						err = e.Error
						continue
					}
					messages++
					records += len(e.RR)
				}
				if c.want == nil && (err != nil || messages < 2 || records < 2000) || c.want != nil && (err == nil || records > 0) {
					t.Errorf("%s: %d records in %d messages, %v", c.name, records, messages, err)
				}
			}
		})
	}
}

func TestASignedQuestionOverUDP(t *testing.T) {
	s := asking(t, nil, lab())
	s.SetTSIGKeys([]TSIGKey{{"lab-key", "hmac-sha256", updateSecret}})
	m := new(miekg.Msg)
	m.SetQuestion("web-1.research.internal.", miekg.TypeA)
	m.SetTsig("lab-key.", miekg.HmacSHA256, 300, time.Now().Unix())
	wire, mac, err := miekg.TsigGenerate(m, updateSecret, "", false)
	if err != nil {
		t.Fatal(err)
	}
	var q Query
	reply, later := s.handle(t.Context(), nil, wire, &q, s.View("vpc-a"), client4, false)
	if later != nil {
		t.Fatal("the reply is deferred")
	}
	var got miekg.Msg
	if err := got.Unpack(reply); err != nil || len(got.Answer) != 1 {
		t.Fatalf("%v: %v", err, &got)
	}
	if err := miekg.TsigVerify(bytes.Clone(reply), updateSecret, mac, false); err != nil {
		t.Errorf("the reply's signature: %v", err)
	}

	t.Run("a signature that is not the last record", func(t *testing.T) {
		m.SetTsig("lab-key.", miekg.HmacSHA256, 300, time.Now().Unix())
		m.Extra = append(m.Extra, newRR(t, "x.example. A 192.0.2.1"))
		wire, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		reply, _ := s.handle(t.Context(), nil, wire, &q, s.View("vpc-a"), client4, false)
		if err := got.Unpack(reply); err != nil || got.Rcode != miekg.RcodeFormatError {
			t.Errorf("%v: %v", err, &got)
		}
	})
}

// What ends with something that is called a TSIG record, and whatever stands before it, gets one reply and no panic.
func FuzzSigned(f *testing.F) {
	s, err := New(Config{CacheSize: 1})
	if err != nil {
		f.Fatal(err)
	}
	s.SetSnapshot(snapshotOf(lab()))
	s.SetTSIGKeys([]TSIGKey{{"lab-key", "hmac-sha256", updateSecret}})
	m := new(miekg.Msg)
	m.SetQuestion("web-1.research.internal.", miekg.TypeA)
	m.SetTsig("lab-key.", miekg.HmacSHA256, 300, 1)
	wire, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	f.Add(wire[:len(wire)-1])
	f.Fuzz(func(t *testing.T, wire []byte) {
		var q Query
		reply, _ := s.handle(t.Context(), nil, wire, &q, s.View("vpc-a"), client4, false)
		if q.signed && len(reply) == 0 {
			t.Error("no reply")
		}
	})
}
