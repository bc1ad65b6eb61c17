package acceptance

import (
	"strings"
	"testing"

	"gatehouse/internal/netlab"
)

const namesLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  domain: lab.internal
  vswitches:
  - {name: web, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: gh-web}}
  privateZones:
  - name: corp.example
    transferTo: [10.20.1.10, "fd00:20:0:1::10"]
    updateKeys: [lab-key]
    records:
    - {name: git, type: CNAME, value: peer.lab.internal.}
    - {name: motd, type: TXT, value: '"hello"'}
  - {name: closed.example, records: [{name: a, type: A, value: 10.20.9.1}]}
  instances:
  - {name: peer, interfaces: [{mac: 00:16:3e:00:00:01, vswitch: web, privateIp: 10.20.1.10, ipv6Addresses: ["fd00:20:0:1::10"]}]}
`

const namesKey = "hmac-sha256:lab-key:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"

func namesGateway(t *testing.T) (*gateway, *netlab.Space) {
	g := newGateway(t, "region: lab-1", "", "dns:", "  upstreams: []", "  tsigKeys: [{name: lab-key, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3}]")
	g.start()
	g.apply(namesLab)
	return g, g.static("peer", "gh-web", "00:16:3e:00:00:01", "10.20.1.10", "10.20.1.253", "fd00:20:0:1::10")
}

func TestClientsWithAKeyUpdateAZone(t *testing.T) {
	t.Parallel()
	g, peer := namesGateway(t)
	for _, server := range []string{"10.20.1.253", "fd00:20:0:1:ffff:ffff:ffff:fff7"} {
		t.Run(server, func(t *testing.T) {
			g := g.in(t)
			nsupdate := func(key, script string) error {
				args := []string{}
				if key != "" {
					args = append(args, "-y", key)
				}
				_, err := peer.RunInput(g.ctx, strings.NewReader("server "+server+"\nzone corp.example\n"+script+"send\n"), "nsupdate", args...)
				return err
			}
			if err := nsupdate(namesKey, "prereq nxdomain new.corp.example\nupdate add new.corp.example 60 A 10.20.9.3\n"); err != nil {
				t.Fatal(err)
			}
			// The reply came when the change was in force.
			if got := g.dig(peer, "@"+server, "new.corp.example", "A"); got.answer != "10.20.9.3" {
				t.Errorf("after the update: %+v", got)
			}
			if err := nsupdate(namesKey, "prereq nxdomain new.corp.example\nupdate add new.corp.example 60 A 10.20.9.4\n"); err == nil || !strings.Contains(err.Error(), "YXDOMAIN") {
				t.Errorf("a condition that does not hold: %v", err)
			}
			if err := nsupdate("", "update add bad.corp.example 60 A 10.20.9.4\n"); err == nil || !strings.Contains(err.Error(), "REFUSED") {
				t.Errorf("an update without a key: %v", err)
			}
			if err := nsupdate(strings.Replace(namesKey, "MDEy", "AAAA", 1), "update add bad.corp.example 60 A 10.20.9.4\n"); err == nil || !strings.Contains(err.Error(), "BADSIG") {
				t.Errorf("an update with a wrong key: %v", err)
			}
			if got := g.dig(peer, "@"+server, "bad.corp.example", "A"); got.status != "NXDOMAIN" {
				t.Errorf("after refused updates: %+v", got)
			}
			if err := nsupdate(namesKey, "update delete new.corp.example\n"); err != nil {
				t.Fatal(err)
			}
			if got := g.dig(peer, "@"+server, "new.corp.example", "A"); got.status != "NXDOMAIN" {
				t.Errorf("after the deletion: %+v", got)
			}
		})
	}
	if log := g.ok("events"); strings.Count(log, "key lab-key at 10.20.1.10") != 2 || !strings.Contains(log, "zone corp.example") {
		t.Errorf("the audit log:\n%s", log)
	}
}

func TestZonesMoveAsAWhole(t *testing.T) {
	t.Parallel()
	g, peer := namesGateway(t)
	for _, server := range []string{"10.20.1.253", "fd00:20:0:1:ffff:ffff:ffff:fff7"} {
		if got := g.dig(peer, "@"+server, "corp.example", "AXFR"); got.answer != `peer.lab.internal. "hello"` {
			t.Errorf("transfer from %s: %+v", server, got)
		}
		if got := g.dig(peer, "@"+server, "closed.example", "AXFR"); got.answer != "" {
			t.Errorf("transfer from %s that nobody allowed: %+v", server, got)
		}
	}
	file := g.ok("dns", "export", "corp.example")
	for _, want := range []string{"$ORIGIN corp.example.\n", "\nmotd\t60\tIN\tTXT\t\"hello\"\n", "\ngit\t60\tIN\tCNAME\tpeer.lab.internal.\n"} {
		if !strings.Contains(file, want) {
			t.Errorf("%q is not in the zone file:\n%s", want, file)
		}
	}
	g.write("copy.zone", strings.ReplaceAll(file, "corp.example.", "copy.example."))
	g.write("copy.yaml", g.ok("dns", "import", "copy.example", g.path("copy.zone"), "--vpc", "lab"))
	g.ok("apply", "-f", g.path("copy.yaml"))
	if got := g.dig(peer, "@10.20.1.253", "motd.copy.example", "TXT"); got.answer != `"hello"` {
		t.Errorf("the copy: %+v", got)
	}
}

func TestTheProgramAsksAsAnInstanceWould(t *testing.T) {
	t.Parallel()
	g, _ := namesGateway(t)
	for args, want := range map[string]string{
		"peer.lab.internal":              "peer.lab.internal.\t60\tIN\tA\t10.20.1.10\n; peer.lab.internal. A in lab: NOERROR, from instance peer\n",
		"peer.lab.internal AAAA":         "peer.lab.internal.\t60\tIN\tAAAA\tfd00:20:0:1::10\n; peer.lab.internal. AAAA in lab: NOERROR, from instance peer\n",
		"nobody.lab.internal --vpc lab":  "; nobody.lab.internal. A in lab: NXDOMAIN, from gateway\n",
		"MOTD.corp.example txt":          "MOTD.corp.example.\t60\tIN\tTXT\t\"hello\"\n; motd.corp.example. TXT in lab: NOERROR, from zone corp.example\n",
		"10.1.20.10.in-addr.arpa TYPE12": "10.1.20.10.in-addr.arpa.\t60\tIN\tPTR\tip-10-20-1-10.lab.internal.\n; 10.1.20.10.in-addr.arpa. PTR in lab: NOERROR, from instance peer\n",
	} {
		if got := g.ok(append([]string{"dns", "query"}, strings.Fields(args)...)...); got != want {
			t.Errorf("dns query %s\ngot  %q\nwant %q", args, got, want)
		}
	}
	if got := g.object("dns", "query", "peer.lab.internal"); got["source"] != "instance peer" || got["rcode"] != "NOERROR" {
		t.Errorf("as JSON: %v", got)
	}
	if got := g.ok("dns", "flush"); got != "0 answers forgotten\n" {
		t.Errorf("flush: %q", got)
	}
}
