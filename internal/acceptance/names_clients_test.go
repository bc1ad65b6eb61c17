package acceptance

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gatehouse/internal/netlab"
)

// resolveLab is a VPC whose instance asks with every client, and another one that uses the same names.
const resolveLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  domain: lab.internal
  natGateway: true
  vswitches:
  - {name: web, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: gh-web}}
  privateZones:
  - name: corp.example
    records:
    - {name: git, type: CNAME, value: web-1.lab.internal.}
    - {name: motd, type: TXT, value: '"hello"'}
    - {name: "*.wild", type: A, value: 10.20.9.1}
  - {name: mixed.example, missing: forward, records: [{name: inside, type: A, value: 10.20.9.2}]}
  instances:
  - {name: web-1, interfaces: [{mac: 00:16:3e:00:00:01, vswitch: web, privateIp: 10.20.1.10, ipv6Addresses: ["fd00:20:0:1::10"]}]}
  - {name: asker, interfaces: [{mac: 00:16:3e:00:00:02, vswitch: web, privateIp: 10.20.1.20, ipv6Addresses: ["fd00:20:0:1::20"]}]}
- name: other
  cidrBlock: 10.30.0.0/16
  ipv6CidrBlock: fd00:30::/56
  domain: lab.internal
  vswitches:
  - {name: web, cidrBlock: 10.30.1.0/24, ipv6CidrBlock: "fd00:30:0:1::/64", attach: {bridge: gh-other}}
  instances:
  - {name: web-1, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: web, privateIp: 10.30.1.10, ipv6Addresses: ["fd00:30:0:1::10"]}]}
`

// resolveGateway raises the lab with a resolver outside, and an instance that has its IPv4 address and its resolv.conf from
// dhclient.
func resolveGateway(t *testing.T) (g *gateway, asker *netlab.Space) {
	g = newGateway(t, "uplinks: [up0]", "dns: {upstreams: ["+outside4+"]}")
	world := g.outside("10.20.0.0/16", "fd00:20::/56", "10.30.0.0/16", "fd00:30::/56")
	g.start()
	g.apply(resolveLab)
	resolver, err := world.Resolver(netip.MustParseAddr(outside4), map[string]netip.Addr{
		"www.example.org": netip.MustParseAddr("203.0.113.80"), "six.example.org": netip.MustParseAddr("2001:db8:9::80"),
		"outside.mixed.example": netip.MustParseAddr("203.0.113.81"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resolver.Close() })
	asker = g.guest("asker", "gh-web", "00:16:3e:00:00:02")
	if err := asker.DHClient(g.ctx); err != nil {
		t.Fatal(err)
	}
	return g, asker
}

// asked is a question and what a client has to find.
type asked struct {
	name, typ string
	want      string // data in any order; empty: the name does not exist, or has nothing of the type
}

var everyName = []asked{
	{"web-1.lab.internal", "A", "10.20.1.10"},
	{"web-1.lab.internal", "AAAA", "fd00:20:0:1::10"},
	{"WEB-1.Lab.Internal", "A", "10.20.1.10"},
	{"ip-10-20-1-10.lab.internal", "A", "10.20.1.10"},
	{"10.1.20.10.in-addr.arpa", "PTR", "ip-10-20-1-10.lab.internal."},
	{"0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa", "PTR", "web-1.lab.internal."},
	{"git.corp.example", "A", "web-1.lab.internal. 10.20.1.10"},
	{"git.corp.example", "AAAA", "web-1.lab.internal. fd00:20:0:1::10"},
	{"motd.corp.example", "TXT", `"hello"`},
	{"any.wild.corp.example", "A", "10.20.9.1"},
	{"inside.mixed.example", "A", "10.20.9.2"},
	{"outside.mixed.example", "A", "203.0.113.81"},
	{"www.example.org", "A", "203.0.113.80"},
	{"six.example.org", "AAAA", "2001:db8:9::80"},
	{"nobody.lab.internal", "A", ""},
	{"nobody.corp.example", "A", ""},
	{"web-1.lab.internal", "MX", ""},
	{"nobody.example.org", "A", ""},
}

// asks is one client and how it asks: it prints the data of the answer.
type asks struct {
	client string
	script string           // $1 is the name, $2 the type, $3 the server
	data   func(string) any // what a line of its output says: the data, or nil
}

// questioners are the programs that print records.
var questioners = []asks{
	{"dig", `dig +short +tries=2 +time=5 @"$3" "$1" "$2"`, wholeLine},
	{"dig over TCP", `dig +short +tcp +tries=2 +time=5 @"$3" "$1" "$2"`, wholeLine},
	{"dig with a cookie and DNSSEC", `dig +short +cookie +dnssec +tries=2 +time=5 @"$3" "$1" "$2"`, wholeLine},
	{"kdig", `kdig +short +retry=2 +time=5 @"$3" "$1" "$2"`, wholeLine},
	{"kdig over TCP", `kdig +short +tcp +retry=2 +time=5 @"$3" "$1" "$2"`, wholeLine},
	{"drill", `drill "$1" @"$3" "$2"`, record},
	{"drill over TCP", `drill -t "$1" @"$3" "$2"`, record},
	{"drill with DNSSEC", `drill -D "$1" @"$3" "$2"`, record},
	{"host", `host -W 5 -t "$2" "$1" "$3" || [ $? = 1 ]`, sentence},
	{"host over TCP", `host -T -W 5 -t "$2" "$1" "$3" || [ $? = 1 ]`, sentence},
}

func wholeLine(line string) any { return line }

// record reads a line of a zone file.
func record(line string) any {
	f := strings.Fields(line)
	if len(f) < 5 || f[0][0] == ';' || f[2] != "IN" || f[3] == "SOA" {
		return nil
	}
	return strings.Join(f[4:], " ")
}

// sentence reads what host says.
func sentence(line string) any {
	for _, verb := range []string{" has address ", " has IPv6 address ", " domain name pointer ", " is an alias for ", " descriptive text "} {
		if _, data, ok := strings.Cut(line, verb); ok {
			return data
		}
	}
	return nil
}

func TestEveryClientFindsEveryName(t *testing.T) {
	t.Parallel()
	g, asker := resolveGateway(t)
	if err := asker.DHClient6(g.ctx); err != nil {
		t.Fatal(err)
	}
	for _, server := range []string{"10.20.1.253", "fd00:20:0:1:ffff:ffff:ffff:fff7", "fe80::1%eth0"} {
		for _, c := range questioners {
			if strings.Contains(server, "%") && strings.HasPrefix(c.client, "drill") {
				continue // it takes no address with a link
			}
			t.Run(c.client+" at "+server, func(t *testing.T) {
				t.Parallel()
				for _, q := range everyName {
					out, err := asker.RunInput(g.ctx, strings.NewReader(c.script+"\n"), "sh", "-s", q.name, q.typ, server)
					if err != nil {
						t.Errorf("%s %s: %v", q.name, q.typ, err)
						continue
					}
					var got []string
					for line := range strings.Lines(out) {
						if data := c.data(strings.TrimSpace(line)); data != nil && data != "" {
							got = append(got, data.(string))
						}
					}
					want := strings.Fields(q.want)
					slices.Sort(got)
					slices.Sort(want)
					if !slices.Equal(got, want) {
						t.Errorf("%s %s: %q, want %q; it printed\n%s", q.name, q.typ, got, want, out)
					}
				}
			})
		}
	}
}

func TestTheCLibraryFindsNamesByItself(t *testing.T) {
	t.Parallel()
	g, asker := resolveGateway(t)
	t.Run("told over DHCPv4", func(t *testing.T) { g.in(t).findsByItself(asker, "10.20.1.253") })
	if err := asker.DHClient6(g.ctx); err != nil {
		t.Fatal(err)
	}
	t.Run("told over DHCPv6", func(t *testing.T) { g.in(t).findsByItself(asker, "fd00:20:0:1:ffff:ffff:ffff:fff7") })
}

// findsByItself asks as programs do, with a resolv.conf that names a server.
func (g *gateway) findsByItself(asker *netlab.Space, server string) {
	g.Helper()
	if conf := g.script(asker, "cat /etc/resolv.conf"); !strings.Contains(conf, "nameserver "+server+"\n") || !strings.Contains(conf, "search lab.internal") {
		g.Fatalf("dhclient wrote\n%s", conf)
	}
	for _, tt := range []struct{ database, key, want string }{
		{"ahostsv4", "web-1", "10.20.1.10"},
		{"ahostsv6", "web-1", "fd00:20:0:1::10"},
		{"ahosts", "web-1.lab.internal", "fd00:20:0:1::10 10.20.1.10"},
		{"ahostsv4", "git.corp.example", "10.20.1.10"},
		{"hosts", "10.20.1.10", "ip-10-20-1-10.lab.internal"},
		{"hosts", "fd00:20:0:1::10", "web-1.lab.internal"},
		{"ahostsv4", "www.example.org", "203.0.113.80"},
		{"ahostsv6", "six.example.org", "2001:db8:9::80"},
		{"ahosts", "nobody", ""},
		{"ahosts", "nobody.example.org", ""},
		{"hosts", "10.20.1.99", ""},
	} {
		out, err := asker.Run(g.ctx, "getent", tt.database, tt.key)
		if tt.want == "" {
			if err == nil {
				g.Errorf("getent %s %s: %q", tt.database, tt.key, out)
			}
			continue
		}
		var got []string
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			switch {
			case tt.database == "hosts" && len(f) > 1:
				got = append(got, f[1])
			case len(f) > 1 && f[1] == "STREAM":
				got = append(got, f[0])
			}
		}
		want := strings.Fields(tt.want)
		slices.Sort(got)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			g.Errorf("getent %s %s: %q, %v; want %q; it printed\n%s", tt.database, tt.key, got, err, want, out)
		}
	}
}

// resolvedFiles are the parts of systemd-resolved, on this machine or in the copy that deps-test has made: where it is
// installed it takes over the machine's own name resolution.
func resolvedFiles(t *testing.T) (daemon, control, policy string) {
	t.Helper()
	roots := []string{"/", "../../bin/resolved"}
	find := func(paths ...string) string {
		for _, root := range roots {
			for _, p := range paths {
				if path, err := filepath.Abs(filepath.Join(root, p)); err == nil {
					if _, err := os.Stat(path); err == nil {
						return path
					}
				}
			}
		}
		t.Fatalf("%s is in none of %s: run make deps-test", paths[0], roots)
		return ""
	}
	return find("usr/lib/systemd/systemd-resolved", "lib/systemd/systemd-resolved"), find("usr/bin/resolvectl"),
		find("usr/share/dbus-1/system.d/org.freedesktop.resolve1.conf")
}

// startResolved runs systemd-resolved on a host, with the message bus that its clients reach it by.
func startResolved(g *gateway, s *netlab.Space, servers ...string) (control string) {
	g.Helper()
	daemon, control, policy := resolvedFiles(g.T)
	g.script(s, fmt.Sprintf(`grep -q ^systemd-resolve: /etc/group || echo systemd-resolve:x:991: >>/etc/group
grep -q ^systemd-resolve: /etc/passwd || echo systemd-resolve:x:991:991::/:/usr/sbin/nologin >>/etc/passwd
mkdir -p /run/dbus /run/systemd/resolve /etc/dbus-1/system.d
chown systemd-resolve:systemd-resolve /run/systemd/resolve
cp %s /etc/dbus-1/system.d/
printf '[Resolve]\nDNS=%s\nDomains=lab.internal\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\n' >/etc/systemd/resolved.conf
dbus-daemon --system --fork --nopidfile
`, policy, strings.Join(servers, " ")))
	cmd := s.Command(g.ctx, daemon)
	log, err := os.Create(g.path("resolved.log"))
	if err != nil {
		g.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		g.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	g.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	g.eventually("systemd-resolved answers", func() error {
		if _, err := s.Run(g.ctx, control, "query", "localhost"); err != nil {
			text, _ := os.ReadFile(g.path("resolved.log")) // only to say more
			return fmt.Errorf("%w: %s", err, text)
		}
		return nil
	})
	return control
}

func TestResolvedFindsEveryName(t *testing.T) {
	t.Parallel()
	for family, server := range map[string]string{"IPv4": "10.20.1.253", "IPv6": "fd00:20:0:1:ffff:ffff:ffff:fff7"} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			g, asker := resolveGateway(t)
			if err := asker.DHClient6(g.ctx); err != nil {
				t.Fatal(err)
			}
			control := startResolved(g, asker, server)
			for _, q := range everyName {
				out, err := asker.Run(g.ctx, control, "query", "--legend=no", "--type="+q.typ, q.name)
				if (err != nil) != (q.want == "") {
					t.Errorf("%s %s: %v", q.name, q.typ, err)
				}
				if q.want == "" || err != nil {
					continue
				}
				var got []string
				for line := range strings.Lines(out) {
					if f := strings.Fields(line); len(f) > 3 && f[1] == "IN" {
						got = append(got, f[3])
					}
				}
				chain := strings.Fields(q.want) // of which it prints the end
				if want := strings.TrimSuffix(chain[len(chain)-1], "."); len(got) != 1 || got[0] != want {
					t.Errorf("%s %s: %q, want %q; it printed\n%s", q.name, q.typ, got, want, out)
				}
			}
			// As programs do that know nothing of it: by its stub, and with a bare name.
			g.script(asker, "printf 'nameserver 127.0.0.53\\nsearch lab.internal\\n' >/etc/resolv.conf")
			for key, want := range map[string]string{"web-1": "10.20.1.10", "www.example.org": "203.0.113.80"} {
				if out, err := asker.Run(g.ctx, "getent", "ahostsv4", key); err != nil || !strings.HasPrefix(out, want+" ") {
					t.Errorf("getent %s through its stub: %q, %v", key, out, err)
				}
			}
			if out, err := asker.Run(g.ctx, control, "query", "web-1"); err != nil || !strings.Contains(out, "10.20.1.10") || !strings.Contains(out, "fd00:20:0:1::10") {
				t.Errorf("a bare name: %q, %v", out, err)
			}
			if out, err := asker.Run(g.ctx, control, "query", "10.20.1.10"); err != nil || !strings.Contains(out, "ip-10-20-1-10.lab.internal") {
				t.Errorf("an address: %q, %v", out, err)
			}
		})
	}
}

func TestOneNameIsAnotherInEachVPC(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.start()
	g.apply(resolveLab)
	for vpc, from := range map[string]*netlab.Space{
		"10.20": g.static("lab", "gh-web", "00:16:3e:00:00:01", "10.20.1.10", "10.20.1.253", "fd00:20:0:1::10"),
		"10.30": g.static("other", "gh-other", "00:16:3e:00:01:01", "10.30.1.10", "10.30.1.253", "fd00:30:0:1::10"),
	} {
		v6 := strings.Replace(vpc, "10.", "fd00:", 1) + ":0:1:"
		for server, transport := range map[string]string{vpc + ".1.253": "IPv4", v6 + "ffff:ffff:ffff:fff7": "IPv6"} {
			if got := g.dig(from, "@"+server, "web-1.lab.internal", "A"); got.answer != vpc+".1.10" {
				t.Errorf("in %s over %s: %+v", vpc, transport, got)
			}
			if got := g.dig(from, "@"+server, "web-1.lab.internal", "AAAA"); got.answer != v6+":10" {
				t.Errorf("in %s over %s: %+v", vpc, transport, got)
			}
		}
	}
}
