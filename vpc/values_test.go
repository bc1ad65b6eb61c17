package vpc

import (
	"encoding"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	type result struct{ text, err string }
	text := func(v encoding.TextMarshaler, err error) result {
		if err != nil {
			return result{err: err.Error()}
		}
		b, _ := v.MarshalText()
		return result{text: string(b)}
	}
	parsers := map[string]func(string) result{
		"MAC":      func(s string) result { v, err := ParseMAC(s); return text(v, err) },
		"protocol": func(s string) result { v, err := ParseProtocol(s); return text(v, err) },
		"ports":    func(s string) result { v, err := ParsePorts(s); return text(v, err) },
		"peer":     func(s string) result { v, err := ParsePeer(s); return text(v, err) },
		"prefix":   func(s string) result { v, err := ParsePrefix(s); return text(v, err) },
		"range":    func(s string) result { v, err := ParseAddrRange(s); return text(v, err) },
		"duration": func(s string) result { v, err := ParseDuration(s); return text(v, err) },
		"server":   func(s string) result { v, err := ParseServer(s); return text(v, err) },
	}
	const notMAC = " is not a MAC address (six octets, as in 00:16:3e:00:00:01)"
	const notProtocol = " is not a protocol (tcp, udp, icmp, icmpv6, gre, all, or a number from 1 to 255)"
	const notPorts = " is not a port or a range of ports (443, or 22-23)"
	const notPrefix = " is not a CIDR (as in 10.20.0.0/16 or fd00:20::/56)"
	const notPeer = " is not a CIDR, an address, sg:NAME or pl:NAME"
	const notRange = " is not a range of addresses (as in 10.20.1.100-10.20.1.200)"
	const notDuration = " is not a duration (as in 90s, 24h or 30d)"
	const notServer = " is not the address of a server: IP[:port], an IPv6 address with a port in brackets"
	for _, tt := range []struct{ what, in, text, err string }{
		{"MAC", "00:16:3E:00:00:0f", "00:16:3e:00:00:0f", ""},
		{"MAC", "00-16-3e-00-00-01", "00:16:3e:00:00:01", ""},
		{"MAC", "0:16:3e:0:0:1", "00:16:3e:00:00:01", ""},
		{"MAC", "00:16:3e:00:00", "", `"00:16:3e:00:00"` + notMAC},
		{"MAC", "00:16:3e:00:00:001", "", `"00:16:3e:00:00:001"` + notMAC},
		{"MAC", "00:16:3e:00:00:0g", "", `"00:16:3e:00:00:0g"` + notMAC},
		{"MAC", "", "", `""` + notMAC},
		{"MAC", "01:00:5e:00:00:01", "", "01:00:5e:00:00:01 is a multicast address: no interface can own it"},
		{"MAC", "ff:ff:ff:ff:ff:ff", "", "ff:ff:ff:ff:ff:ff is a multicast address: no interface can own it"},
		{"MAC", "00:00:00:00:00:00", "", "00:00:00:00:00:00 is the all-zero address: no interface can own it"},
		{"protocol", "TCP", "tcp", ""}, {"protocol", "6", "tcp", ""}, {"protocol", "17", "udp", ""}, {"protocol", "icmpv6", "icmpv6", ""},
		{"protocol", "gre", "gre", ""}, {"protocol", "all", "all", ""}, {"protocol", "255", "255", ""},
		{"protocol", "0", "", `"0"` + notProtocol}, {"protocol", "256", "", `"256"` + notProtocol}, {"protocol", "-1", "", `"-1"` + notProtocol}, {"protocol", "", "", `""` + notProtocol},
		{"ports", "443", "443", ""}, {"ports", "22-23", "22-23", ""}, {"ports", "80, 443,8000-8100", "80,443,8000-8100", ""}, {"ports", "0-65535", "0-65535", ""}, {"ports", "7-7", "7", ""},
		{"ports", "", "", `""` + notPorts}, {"ports", "23-22", "", `"23-22" runs backwards: the lower port comes first`}, {"ports", "65536", "", `"65536"` + notPorts},
		{"ports", "80,", "", `""` + notPorts}, {"ports", "1-2-3", "", `"1-2-3"` + notPorts}, {"ports", "-1", "", `"-1"` + notPorts},
		{"peer", "10.0.0.0/8", "10.0.0.0/8", ""}, {"peer", "10.0.0.1", "10.0.0.1/32", ""}, {"peer", "fd00::1", "fd00::1/128", ""}, {"peer", "::/0", "::/0", ""},
		{"peer", "sg:web", "sg:web", ""}, {"peer", "pl:x", "pl:x", ""},
		{"peer", "10.0.0.1/8", "", "10.0.0.1/8 has host bits set: write 10.0.0.0/8"}, {"peer", "sg:", "", `"sg:"` + notPeer}, {"peer", "web", "", `"web"` + notPeer},
		{"peer", "fe80::1%eth0", "", `"fe80::1%eth0"` + notPeer}, {"peer", "::ffff:10.0.0.1", "", `"::ffff:10.0.0.1"` + notPeer}, {"peer", "10.0.0.0/33", "", `"10.0.0.0/33"` + notPrefix},
		{"prefix", "10.20.0.0/16", "10.20.0.0/16", ""}, {"prefix", "fd00::/56", "fd00::/56", ""}, {"prefix", "10.20.0.1/16", "", "10.20.0.1/16 has host bits set: write 10.20.0.0/16"},
		{"prefix", "10.20.0.0", "", `"10.20.0.0"` + notPrefix}, {"prefix", "::ffff:10.0.0.0/104", "", `"::ffff:10.0.0.0/104"` + notPrefix},
		{"range", "10.0.0.1-10.0.0.9", "10.0.0.1-10.0.0.9", ""}, {"range", "fd00::1 - fd00::9", "fd00::1-fd00::9", ""}, {"range", "10.0.0.9-10.0.0.1", "", `"10.0.0.9-10.0.0.1" runs backwards: the lower address comes first`},
		{"range", "10.0.0.1", "", `"10.0.0.1"` + notRange}, {"range", "10.0.0.1-fd00::1", "", `"10.0.0.1-fd00::1"` + notRange},
		{"duration", "90s", "1m30s", ""}, {"duration", "24h", "24h", ""}, {"duration", "30d", "30d", ""}, {"duration", "60m", "1h", ""}, {"duration", "7300d", "7300d", ""}, {"duration", "0d", "0s", ""},
		{"duration", "1.5d", "", `"1.5d"` + notDuration}, {"duration", "", "", `""` + notDuration}, {"duration", "-1d", "", `"-1d"` + notDuration},
		{"server", "192.0.2.53", "192.0.2.53:53", ""}, {"server", "192.0.2.53:5353", "192.0.2.53:5353", ""}, {"server", "fd00::53", "[fd00::53]:53", ""}, {"server", "[fd00::53]:5353", "[fd00::53]:5353", ""}, {"server", "[fd00::53]", "[fd00::53]:53", ""},
		{"server", "192.0.2.53:0", "", `"192.0.2.53:0"` + notServer}, {"server", "0.0.0.0", "", `"0.0.0.0"` + notServer}, {"server", "ns:53", "", `"ns:53"` + notServer}, {"server", "[fd00::53", "", `"[fd00::53"` + notServer}, {"server", "[192.0.2.53]", "", `"[192.0.2.53]"` + notServer},
	} {
		t.Run(tt.what+" "+tt.in, func(t *testing.T) {
			if got := parsers[tt.what](tt.in); got != (result{tt.text, tt.err}) {
				t.Errorf("got %+v, want %q %q", got, tt.text, tt.err)
			}
		})
	}
}

func TestZeroValuesAreNotWritten(t *testing.T) {
	for _, v := range []interface {
		encoding.TextMarshaler
		IsZero() bool
	}{Peer{}, AddrRange{}} {
		if b, err := v.MarshalText(); len(b) > 0 || err != nil || !v.IsZero() {
			t.Errorf("%T: %q %v", v, b, err)
		}
	}
	var p Peer
	var r AddrRange
	var all Ports
	for _, tt := range []struct {
		v    encoding.TextUnmarshaler
		text string
	}{{&p, ""}, {&r, ""}, {&all, "all"}} {
		if err := tt.v.UnmarshalText([]byte(tt.text)); err != nil {
			t.Error(err)
		}
	}
	if !p.IsZero() || !r.IsZero() || all != nil {
		t.Error("an empty text is a value")
	}
}

func TestContains(t *testing.T) {
	for _, tt := range []struct {
		name      string
		got, want bool
	}{
		{"all ports contain 0", Ports(nil).Contains(0), true},
		{"no ports contain nothing", Ports{}.Contains(80), false},
		{"the first port of a range", Ports{{22, 23}}.Contains(22), true},
		{"the last port of a range", Ports{{22, 23}}.Contains(23), true},
		{"the port after a range", Ports{{22, 23}, {80, 80}}.Contains(24), false},
		{"the first address of a range", AddrRange{ip("10.0.0.1"), ip("10.0.0.9")}.Contains(ip("10.0.0.1")), true},
		{"the last address of an IPv6 range", AddrRange{ip("fd00::1"), ip("fd00::9")}.Contains(ip("fd00::9")), true},
		{"the address after a range", AddrRange{ip("10.0.0.1"), ip("10.0.0.9")}.Contains(ip("10.0.0.10")), false},
		{"an address of the other family", AddrRange{ip("10.0.0.1"), ip("10.0.0.9")}.Contains(ip("fd00::1")), false},
		{"no range", AddrRange{}.Contains(ip("10.0.0.1")), false},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got %t", tt.name, tt.got)
		}
	}
	if FamilyOf(ip("::ffff:10.0.0.1")) != IPv4 || FamilyOf(ip("fd00::1")) != IPv6 {
		t.Error("an address is of the wrong family")
	}
}

func TestParseRule(t *testing.T) {
	for _, tt := range []struct{ in, text, err string }{
		{"ingress accept tcp 443 from 0.0.0.0/0 priority 1", "ingress accept tcp 443 from 0.0.0.0/0 priority 1", ""},
		{"egress drop udp 53,5353 to pl:x", "egress drop udp 53,5353 to pl:x priority 1", ""},
		{"ingress all from sg:web", "ingress accept all from sg:web priority 1", ""},
		{`ingress TCP priority 7 source-ports 1-2 to 10.0.0.1 from 10.0.0.0/8 description "two words"`, `ingress accept tcp from 10.0.0.0/8 to 10.0.0.1/32 source-ports 1-2 priority 7 description "two words"`, ""},
		{"accept tcp 443", "", `rule "accept tcp 443": it begins with ingress or egress`},
		{"ingress accept", "", `rule "ingress accept": "" is not a protocol (tcp, udp, icmp, icmpv6, gre, all, or a number from 1 to 255)`},
		{"ingress tcp 443 from", "", `rule "ingress tcp 443 from": "from" wants something after it`},
		{"ingress tcp from 10.0.0.1 from 10.0.0.2", "", `rule "ingress tcp from 10.0.0.1 from 10.0.0.2": "from" is written twice`},
		{"ingress tcp via 10.0.0.1", "", `rule "ingress tcp via 10.0.0.1": "via" is not one of from, to, source-ports, priority and description`},
		{"ingress tcp priority high", "", `rule "ingress tcp priority high": "high" is not a priority (1 to 100)`},
		{`ingress tcp description "x`, "", `"x: a quotation mark is not closed`},
	} {
		r, err := ParseRule(tt.in)
		switch {
		case tt.err != "" && (err == nil || err.Error() != tt.err):
			t.Errorf("%s: got %v, want %s", tt.in, err, tt.err)
		case tt.err == "" && err != nil:
			t.Errorf("%s: %v", tt.in, err)
		case tt.err == "" && r.String() != tt.text:
			t.Errorf("%s: got %s, want %s", tt.in, r, tt.text)
		}
	}
}

// roundTrip checks that what a parser accepts is written in a form that it reads as the same.
func roundTrip[T interface {
	comparable
	String() string
}](t *testing.T, s string, parse func(string) (T, error)) {
	v, err := parse(s)
	if err != nil {
		if !strings.Contains(err.Error(), "is ") && !strings.Contains(err.Error(), "runs backwards") && !strings.Contains(err.Error(), "host bits") {
			t.Errorf("%q: %v does not say what is wrong", s, err)
		}
		return
	}
	again, err := parse(v.String())
	if err != nil || again != v {
		t.Errorf("%q is %v, which is read as %v, %v", s, v, again, err)
	}
}

func FuzzParseMAC(f *testing.F) {
	for _, s := range []string{"00:16:3e:00:00:01", "00-16-3E-0-0-1", "ff:ff:ff:ff:ff:ff", "::::::::::::", "0:0:0:0:0:0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		roundTrip(t, s, ParseMAC)
		if m, err := ParseMAC(s); err == nil && (m.IsZero() || m[0]&1 != 0) {
			t.Errorf("%q is accepted as %s", s, m)
		}
	})
}

func FuzzParseProtocol(f *testing.F) {
	for _, s := range []string{"tcp", "ALL", "0", "1", "255", "256", "+6", "06"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { roundTrip(t, s, ParseProtocol) })
}

func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"443", "22-23", "80,443,8000-8100", "", ",", "-", "65536", "2-1", " 1 - 2 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePorts(s)
		if err != nil {
			return
		}
		again, err := ParsePorts(p.String())
		if err != nil || again.String() != p.String() || len(p) == 0 {
			t.Errorf("%q is %v, which is read as %v, %v", s, p, again, err)
		}
		for _, r := range p {
			if r.From > r.To || !p.Contains(r.From) || !p.Contains(r.To) {
				t.Errorf("%q has the range %v", s, r)
			}
		}
	})
}

func FuzzParsePeer(f *testing.F) {
	for _, s := range []string{"0.0.0.0/0", "10.0.0.1", "fd00::/64", "::1", "sg:web", "pl:x", "sg:", "10.0.0.1/8", "::ffff:1.2.3.4", "fe80::1%1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		roundTrip(t, s, ParsePeer)
		if p, err := ParsePeer(s); err == nil && p.Kind == PeerPrefix && (p.Prefix != p.Prefix.Masked() || !plain(p.Prefix.Addr())) {
			t.Errorf("%q is accepted as %s", s, p)
		}
	})
}

func FuzzParseAddrRange(f *testing.F) {
	for _, s := range []string{"10.0.0.1-10.0.0.9", "fd00::1-fd00::9", "10.0.0.9-10.0.0.1", "-", "::1-10.0.0.1", "fe80::1%a-fe80::2%b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { roundTrip(t, s, ParseAddrRange) })
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"90s", "24h", "7300d", "65536d", "1.5h", "-1s", "1h0m0s", "48h", "10m0s", "100m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err != nil {
			return
		}
		if again, err := ParseDuration(d.String()); err != nil || again != d {
			t.Errorf("%q is %s (%s), which is read as %s, %v", s, d, time.Duration(d), again, err)
		}
	})
}

func FuzzParseServer(f *testing.F) {
	for _, s := range []string{"192.0.2.53", "192.0.2.53:53", "[fd00::53]:53", "fd00::53", "[::]", "[[fd00::53]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseServer(s)
		if err != nil {
			return
		}
		if again, err := ParseServer(a.String()); err != nil || again != a || a.Port() == 0 || !plain(a.Addr()) {
			t.Errorf("%q is %s, which is read as %s, %v", s, a, again, err)
		}
	})
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{"ingress accept tcp 443 from 0.0.0.0/0 priority 1", `egress drop all to sg:x description "a b"`, "ingress 6 1-2,3 source-ports 5 from ::/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRule(s)
		if err != nil {
			return
		}
		again, err := ParseRule(r.String())
		// A name after sg: or pl: may be anything but have a space where words are not quoted; names like that are refused later.
		if strings.ContainsAny(r.Source.Name+r.Destination.Name, " \t\"") {
			return
		}
		if err != nil || again.String() != r.String() {
			t.Errorf("%q is %s, which is read as %v, %v", s, r, again, err)
		}
	})
}

// Names that are accepted must be harmless wherever they are put.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"web", "web-1", "a.b", "-", "a--b", "ü", "br0", "gh-0123", "..", "a/b", "localhost", "10.0.0.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if checkName(s) == "" && (s == "" || strings.ContainsAny(s, " /,:[]\n\"'") || s[0] == '-') {
			t.Errorf("%q is accepted as a name", s)
		}
		if checkHostname(s) == "" {
			if checkDomain(s, false) != "" || checkName(s) != "" || strings.ContainsAny(s, "_") {
				t.Errorf("%q is accepted as a host name", s)
			}
			if _, err := netip.ParseAddr(s); err == nil {
				t.Errorf("the address %q is accepted as a host name", s)
			}
		}
		if s != "" && checkLink(s) == "" && (len(s) > 15 || strings.ContainsAny(s, "/ :+\t\n") || s == "." || s == "..") {
			t.Errorf("%q is accepted as the name of a link", s)
		}
		if checkDomain(s, true) == "" && (len(s) > 254 || strings.Contains(s, "..") || strings.ContainsAny(s, " \\*/")) {
			t.Errorf("%q is accepted as a domain name", s)
		}
	})
}

// Whatever a client sends as its host name, what comes of it is a valid Spec.
func FuzzEnrolHostname(f *testing.F) {
	for _, s := range []string{"laptop", "web-1", "WEB-1.research.internal.", "ip-10-20-1-10", "i-1", "\x00", "a b", "..", "research.internal"} {
		f.Add(s)
	}
	s := good()
	f.Fuzz(func(t *testing.T, hostname string) {
		next, _, err := Enrol(s, host(), EnrolRequest{VSwitch: "vsw-00000002", MAC: mac(0x500), Hostname: hostname}, ApplyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := Validate(next, host()).Err(); err != nil {
			t.Error(err)
		}
	})
}
