package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// badInputLab is what is in force while bad manifests are tried: something to collide with.
const badInputLab = `
vpcs:
- name: base
  cidrBlock: 10.10.0.0/16
  ipv6CidrBlock: fd00:10::/56
  domain: base.internal
  vswitches:
  - {name: web, cidrBlock: 10.10.1.0/24, ipv6CidrBlock: "fd00:10:0:1::/64", networkAcl: dmz, attach: {bridge: gh-web}}
  - {name: db, cidrBlock: 10.10.2.0/24}
  networkAcls:
  - {name: dmz, ingress: [{protocol: all, source: 0.0.0.0/0}], egress: [{protocol: all, destination: 0.0.0.0/0}]}
  prefixLists:
  - {name: friends, family: ipv4, entries: [198.51.100.0/24]}
  securityGroups:
  - {name: web, rules: [{direction: ingress, protocol: tcp, ports: 443, source: "pl:friends"}]}
  - {name: db, innerAccess: drop, rules: [{direction: ingress, protocol: tcp, ports: 5432, source: "sg:web"}]}
  - {name: managed, type: advanced}
  instances:
  - {name: web-1, interfaces: [{mac: 00:16:3e:00:00:01, vswitch: web, privateIp: 10.10.1.10, securityGroups: [web]}]}
  - {name: db-1, interfaces: [{mac: 00:16:3e:00:00:02, vswitch: db, privateIp: 10.10.2.10, securityGroups: [db]}]}
  privateZones:
  - {name: corp.example, records: [{name: git, type: CNAME, value: web-1.base.internal.}]}
tests:
- {from: web-1, to: db-1, protocol: tcp, port: 5432, expect: accept}
`

// badCase is one input with what the program must say about it; the golden files hold a list of them.
type badCase struct {
	name  string
	flags []string // from a first line "#! --prune"
	input string
	want  string
}

// readCases reads a golden file: "=== name", the input, "--- says", what is said.
func readCases(t *testing.T, file string) []badCase {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var cases []badCase
	for _, part := range strings.Split("\n"+string(text), "\n=== ")[1:] {
		var c badCase
		c.name, c.input, _ = strings.Cut(part, "\n")
		c.input, c.want, _ = strings.Cut(c.input, "--- says\n")
		c.want = strings.TrimSuffix(c.want, "\n") + "\n"
		if flags, ok := strings.CutPrefix(c.input, "#! "); ok {
			flags, _, _ = strings.Cut(flags, "\n")
			c.flags = strings.Fields(flags)
		}
		cases = append(cases, c)
	}
	return cases
}

// writeCases writes what was said into the golden file.
func writeCases(t *testing.T, file string, cases []badCase) {
	t.Helper()
	var text strings.Builder
	for _, c := range cases {
		fmt.Fprintf(&text, "=== %s\n%s--- says\n%s", c.name, c.input, c.want)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// check compares what the program said with a case, or with -update takes it over.
func (c *badCase) check(t *testing.T, r result) {
	t.Helper()
	if *update {
		c.want = r.stderr
	}
	if r.code != 1 || r.stdout != "" || r.stderr != c.want {
		t.Errorf("%s: exit %d, printed %q\nsaid\n%s\nwant\n%s", c.name, r.code, r.stdout, r.stderr, c.want)
	}
	for line := range strings.Lines(r.stderr) {
		if !strings.HasPrefix(line, "gatehouse: ") {
			t.Errorf("%s: a line does not begin as it should: %s", c.name, line)
		}
	}
}

func TestBadManifestsAreRefusedAndChangeNothing(t *testing.T) {
	t.Parallel()
	file := filepath.Join("testdata", "bad-manifests.txt")
	cases := readCases(t, file)
	if len(cases) < 60 {
		t.Fatalf("only %d cases", len(cases))
	}
	g := newGateway(t, "uplinks: [up0]")
	g.outside()
	g.script(g.space, `
ip link add br-foreign type bridge
ip link set br-foreign up
ip addr add 172.31.0.1/24 dev br-foreign
ip link add vf0 type veth peer name vf1
ip link set vf0 master br-foreign up
ip link add eth9 type veth peer name eth8
ip link set eth9 up
ip addr add 198.18.0.1/24 dev eth9
`)
	g.start()
	g.apply(badInputLab)
	before := g.ok("export")
	revision, _ := g.revisions()
	for i := range cases {
		c := &cases[i]
		g.write("lab.yaml", c.input)
		c.check(t, g.run(slices.Concat([]string{"apply", "-f", "lab.yaml"}, c.flags)...))
		// plan says the same of it.
		r := g.run(slices.Concat([]string{"plan", "-f", "lab.yaml"}, c.flags)...)
		if want := strings.ReplaceAll(c.want, "gatehouse: apply", "gatehouse: plan"); r.code != 1 || r.stdout != "" || r.stderr != want {
			t.Errorf("%s: plan: exit %d, printed %q, said\n%s\nwant\n%s", c.name, r.code, r.stdout, r.stderr, want)
		}
		if now, _ := g.revisions(); now != revision {
			t.Errorf("%s: revision %d has become %d", c.name, revision, now)
			revision = now
		}
	}
	if after := g.ok("export"); after != before {
		t.Errorf("the state has changed:\n%s", difference(before, after))
	}
	if *update {
		writeCases(t, file, cases)
	}
}

func TestBadConfigurationsAreRefused(t *testing.T) {
	t.Parallel()
	file := filepath.Join("testdata", "bad-configs.txt")
	cases := readCases(t, file)
	g := newGateway(t)
	for i := range cases {
		c := &cases[i]
		g.write("bad.yaml", c.input)
		c.check(t, g.run("config", "check", "--config", "bad.yaml"))
		// The daemon says the same and does not start.
		r := g.run("serve", "--config", "bad.yaml")
		if want := strings.ReplaceAll(c.want, "gatehouse: config check", "gatehouse: serve"); r.code != 1 || r.stdout != "" || r.stderr != want {
			t.Errorf("%s: serve: exit %d, printed %q, said\n%s\nwant\n%s", c.name, r.code, r.stdout, r.stderr, want)
		}
	}
	if *update {
		writeCases(t, file, cases)
	}
}
