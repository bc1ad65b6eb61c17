package dns

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func cookiesOf(t *testing.T, secret string) cookies {
	b := unhex(t, secret)
	return cookies{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}
}

// The vectors of RFC 9018 appendix A.
func TestServerCookiesAreThoseOfRFC9018(t *testing.T) {
	for _, tt := range []struct {
		what, secret, client, addr, given string
		now                               int64
		want                              string
		proven                            bool
	}{
		{"a new one", "e5e973e5a6b2a43f48e7dc849e37bfcf", "2464c4abcf10c957", "198.51.100.100", "", 1559731985, "010000005cf79f111f8130c3eee29480", false},
		{"the same again", "e5e973e5a6b2a43f48e7dc849e37bfcf", "2464c4abcf10c957", "198.51.100.100", "010000005cf79f111f8130c3eee29480", 1559731985 + 1000, "010000005cf79f111f8130c3eee29480", true},
		{"renewed", "e5e973e5a6b2a43f48e7dc849e37bfcf", "2464c4abcf10c957", "198.51.100.100", "010000005cf79f111f8130c3eee29480", 1559734385, "010000005cf7a871d4a564a1442aca77", true},
		{"with reserved octets", "e5e973e5a6b2a43f48e7dc849e37bfcf", "fc93fc62807ddb86", "203.0.113.203", "01abcdef5cf78f71a314227b6679ebf5", 1559727985, "01abcdef5cf78f71a314227b6679ebf5", true},
		{"too old", "e5e973e5a6b2a43f48e7dc849e37bfcf", "fc93fc62807ddb86", "203.0.113.203", "01abcdef5cf78f71a314227b6679ebf5", 1559734700, "010000005cf7a9acf73a7810aca2381e", false},
		{"over IPv6, with another secret", "445536bcd2513298075a5d379663c962", "22681ab97d52c298", "2001:db8:220:1:59de:d0f4:8769:82b8", "", 1559741961, "010000005cf7c609a6bb79d16625507a", false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			var q Query
			copy(q.clientCookie[:], unhex(t, tt.client))
			q.givenLength = copy(q.givenCookie[:], unhex(t, tt.given))
			cookiesOf(t, tt.secret).stamp(&q, netip.MustParseAddr(tt.addr), time.Unix(tt.now, 0))
			if got := hex.EncodeToString(q.serverCookie[:]); got != tt.want || q.proven != tt.proven {
				t.Errorf("cookie %s, proven %v; want %s, %v", got, q.proven, tt.want, tt.proven)
			}
		})
	}
}

func TestACookieProvesOneAddressForAnHour(t *testing.T) {
	c := newCookies()
	made := time.Unix(1<<32-60, 0) // where the 32 bits of its time run over
	var first Query
	first.clientCookie = [8]byte{1, 2, 3}
	addr := netip.MustParseAddr("10.20.1.10")
	c.stamp(&first, addr, made)
	for _, tt := range []struct {
		what   string
		addr   netip.Addr
		client [8]byte
		after  time.Duration
		spoil  bool
		want   bool
	}{
		{"at once", addr, first.clientCookie, 0, false, true},
		{"an hour later", addr, first.clientCookie, time.Hour, false, true},
		{"after more than an hour", addr, first.clientCookie, time.Hour + time.Second, false, false},
		{"when the clock was set back a little", addr, first.clientCookie, -time.Minute, false, true},
		{"when it is from the future", addr, first.clientCookie, -time.Hour, false, false},
		{"from another address", netip.MustParseAddr("10.20.1.11"), first.clientCookie, 0, false, false},
		{"with another client cookie", addr, [8]byte{9}, 0, false, false},
		{"changed by one bit", addr, first.clientCookie, 0, true, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			var q Query
			q.clientCookie = tt.client
			q.givenLength = copy(q.givenCookie[:], first.serverCookie[:])
			if tt.spoil {
				q.givenCookie[15] ^= 1
			}
			c.stamp(&q, tt.addr, made.Add(tt.after))
			if q.proven != tt.want {
				t.Errorf("proven: %v, want %v", q.proven, tt.want)
			}
		})
	}
}

func TestACookieComesBackWithEveryKindOfReply(t *testing.T) {
	s := newTestServer(t)
	for _, tt := range []struct {
		what, name string
		cookie     string
		rcode      int
		back       bool
	}{
		{"an answer", "web-1.research.internal.", "0102030405060708", miekg.RcodeSuccess, true},
		{"a name error", "nobody.research.internal.", "0102030405060708", miekg.RcodeNameError, true},
		{"a server cookie of somebody else", "web-1.research.internal.", "01020304050607080102030405060708", miekg.RcodeSuccess, true},
		{"a cookie that is too short", "web-1.research.internal.", "01020304", miekg.RcodeFormatError, false},
		{"a server cookie that is too short", "web-1.research.internal.", "010203040506070801", miekg.RcodeFormatError, false},
		{"a cookie that is too long", "web-1.research.internal.", "0102030405060708" + hex.EncodeToString(make([]byte, 33)), miekg.RcodeFormatError, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			m := question(tt.name, "A")
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = append(m.IsEdns0().Option, &miekg.EDNS0_COOKIE{Code: miekg.EDNS0COOKIE, Cookie: tt.cookie})
			wire, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			reply, _ := s.handle(t.Context(), nil, wire, new(Query), s.View("vpc-a"), client4, false)
			r := unpack(t, reply)
			if r.Rcode != tt.rcode {
				t.Errorf("%s, want %s", miekg.RcodeToString[r.Rcode], miekg.RcodeToString[tt.rcode])
			}
			got := ""
			if opt := r.IsEdns0(); opt != nil {
				for _, o := range opt.Option {
					if c, ok := o.(*miekg.EDNS0_COOKIE); ok {
						got = c.Cookie
					}
				}
			}
			switch {
			case !tt.back && got != "":
				t.Errorf("cookie %s in the reply", got)
			case tt.back && (len(got) != 2*(clientCookieSize+serverCookieSize) || got[:16] != tt.cookie[:16]):
				t.Errorf("cookie %s in the reply to %s", got, tt.cookie)
			}
		})
	}
}
