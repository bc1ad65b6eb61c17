package vpc

import (
	"net/netip"
	"strings"
	"testing"
)

func TestAForwarderIsPlainOrOverTLS(t *testing.T) {
	const notTLS = " is not a server over TLS: tls://NAME@IP[:port], with the name in its certificate"
	for _, tt := range []struct{ in, name, server, err string }{
		{"192.0.2.53", "", "192.0.2.53:53", ""},
		{"[2001:db8::53]:5353", "", "[2001:db8::53]:5353", ""},
		{"tls://dns.example@192.0.2.53", "dns.example", "192.0.2.53:853", ""},
		{"tls://dns.example.@192.0.2.53:8853", "dns.example", "192.0.2.53:8853", ""},
		{"tls://dns.example@2001:db8::53", "dns.example", "[2001:db8::53]:853", ""},
		{"tls://dns.example@[2001:db8::53]:8853", "dns.example", "[2001:db8::53]:8853", ""},
		{"tls://192.0.2.53", "", "", `"tls://192.0.2.53"` + notTLS},
		{"tls://@192.0.2.53", "", "", `"tls://@192.0.2.53"` + notTLS},
		{"tls://dns.example@", "", "", `"tls://dns.example@"` + notTLS},
		{"tls://dns.example@192.0.2.53:0", "", "", `"tls://dns.example@192.0.2.53:0"` + notTLS},
		{"tls://a b@192.0.2.53", "", "", `"tls://a b@192.0.2.53"` + notTLS},
		{"https://192.0.2.53", "", "", `"https://192.0.2.53" is not the address of a server: IP[:port], an IPv6 address with a port in brackets`},
	} {
		name, server, err := ParseForwarder(tt.in)
		switch {
		case tt.err != "" && (err == nil || err.Error() != tt.err || name != "" || server.IsValid()):
			t.Errorf("%s: %q, %s, %v; want the error %s", tt.in, name, server, err, tt.err)
		case tt.err == "" && (err != nil || name != tt.name || server.String() != tt.server):
			t.Errorf("%s: %q, %s, %v; want %q and %s", tt.in, name, server, err, tt.name, tt.server)
		}
	}
}

func FuzzParseForwarder(f *testing.F) {
	for _, s := range []string{"192.0.2.53", "tls://dns.example@192.0.2.53", "tls://dns.example@[2001:db8::53]:8853", "tls://@", "tls://a@b@c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, server, err := ParseForwarder(s)
		if err != nil {
			if name != "" || server != (netip.AddrPort{}) {
				t.Errorf("%q: %v, and yet %q %s", s, err, name, server)
			}
			return
		}
		text := server.String()
		if name != "" {
			text = "tls://" + name + "@" + text
		}
		againName, again, err := ParseForwarder(text)
		if err != nil || againName != name || again != server || strings.HasPrefix(s, "tls://") != (name != "") {
			t.Errorf("%q is %s, which is read as %q %s, %v", s, text, againName, again, err)
		}
	})
}
