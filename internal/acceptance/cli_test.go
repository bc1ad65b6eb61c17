package acceptance

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cliLab has two VPCs, both with a vSwitch "web".
const cliLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  domain: lab.internal
  vswitches:
  - {name: web, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", networkAcl: dmz}
  - {name: db, cidrBlock: 10.20.2.0/24, ipv6CidrBlock: "fd00:20:0:2::/64"}
  networkAcls:
  - name: dmz
    ingress:
    - {policy: accept, protocol: tcp, ports: 443, source: 0.0.0.0/0}
    - {policy: accept, protocol: tcp, ports: 1024-65535, source: 0.0.0.0/0}
    egress:
    - {policy: accept, protocol: all, destination: 0.0.0.0/0}
  prefixLists:
  - {name: friends, family: ipv4, entries: [198.51.100.0/24]}
  securityGroups:
  - {name: web, rules: [{direction: ingress, protocol: tcp, ports: 443, source: "pl:friends", priority: 3, description: https}]}
  - {name: db, innerAccess: drop, rules: [{direction: ingress, protocol: tcp, ports: 5432, source: "sg:web"}]}
  instances:
  - {name: web-1, interfaces: [{mac: 00:16:3e:00:00:01, vswitch: web, privateIp: 10.20.1.10, securityGroups: [web]}]}
  - {name: db-1, interfaces: [{mac: 00:16:3e:00:00:02, vswitch: db, privateIp: 10.20.2.10, securityGroups: [db]}]}
  privateZones:
  - {name: corp.example, records: [{name: git, type: CNAME, value: web-1.lab.internal.}]}
  forwarders:
  - {zone: partner.example, servers: [192.0.2.53]}
- name: two
  cidrBlock: 10.30.0.0/16
  vswitches:
  - {name: web, cidrBlock: 10.30.1.0/24}
`

func newCLI(t *testing.T) *gateway {
	t.Helper()
	g := newGateway(t, "region: lab-1")
	g.start()
	g.apply(cliLab)
	return g
}

// object is one JSON object that the program prints.
func (g *gateway) object(args ...string) map[string]any {
	g.Helper()
	var o map[string]any
	g.decode(g.ok(append(args, "-o", "json")...), &o)
	return o
}

// fields checks that an object has these fields.
func (g *gateway) fields(what string, o map[string]any, names ...string) {
	g.Helper()
	for _, n := range names {
		if _, ok := o[n]; !ok {
			g.Errorf("%s has no field %q: %v", what, n, o)
		}
	}
}

func TestPlanShowsWhatApplyDoes(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.start()
	g.write("lab.yaml", cliLab)
	plan := g.run("plan", "-f", "lab.yaml")
	if plan.code != 2 || !strings.HasSuffix(plan.stdout, "17 to create, 0 to change, 0 to delete\n") || plan.stderr != "" {
		t.Errorf("plan: exit %d\n%s%s", plan.code, plan.stdout, plan.stderr)
	}
	if dry := g.ok("apply", "-f", "lab.yaml", "--dry-run"); dry != plan.stdout {
		t.Errorf("apply --dry-run says\n%s\nand plan\n%s", dry, plan.stdout)
	}
	if stored, _ := g.revisions(); stored != 0 {
		t.Errorf("a dry run made revision %d", stored)
	}
	applied := g.ok("apply", "-f", "lab.yaml")
	want := strings.Replace(plan.stdout, "17 to create, 0 to change, 0 to delete\n", "17 created, 0 changed, 0 deleted\nrevision 1 is in force\n", 1)
	if applied != want {
		t.Errorf("apply says\n%s\nwant\n%s", applied, want)
	}
	// Twice is once, and what is exported is what there is.
	if again := g.ok("apply", "-f", "lab.yaml"); again != "nothing to change\n" {
		t.Errorf("apply again: %s", again)
	}
	g.write("export.yaml", g.ok("export"))
	for _, flags := range [][]string{nil, {"--prune"}} {
		if r := g.run(append([]string{"plan", "-f", "export.yaml"}, flags...)...); r.code != 0 || r.stdout != "nothing to change\n" || r.stderr != "" {
			t.Errorf("plan of the export %v: exit %d\n%s%s", flags, r.code, r.stdout, r.stderr)
		}
	}
	// Another gateway takes the export as well.
	other := newGateway(t)
	other.start()
	other.write("export.yaml", g.ok("export"))
	other.ok("apply", "-f", "export.yaml")
	if a, b := g.ok("export"), other.ok("export"); a != b {
		t.Errorf("an export that was applied elsewhere is exported otherwise:\n%s", difference(a, b))
	}

	// A file that no longer names something deletes it only with --prune.
	g.write("less.yaml", strings.Replace(cliLab, "  - {name: db-1,", "  - {name: db-2,", 1))
	var changes struct {
		Changes []struct{ Action, Kind, Path string } `json:"changes"`
	}
	for _, c := range []struct{ flag, want string }{{"--prune=false", "refused"}, {"--prune", "create db-2, delete db-1"}} {
		r := g.run("plan", "-f", "less.yaml", c.flag, "-o", "json")
		got := "refused" // without a prune both instances want one MAC
		if r.code == 2 {
			g.decode(r.stdout, &changes)
			var what []string
			for _, c := range changes.Changes {
				if c.Kind == "instance" {
					what = append(what, c.Action+" "+strings.TrimSuffix(strings.TrimPrefix(c.Path, "vpcs[lab].instances["), "]"))
				}
			}
			slices.Sort(what)
			got = strings.Join(what, ", ")
		}
		if got != c.want {
			t.Errorf("plan %s: %s, want %s\n%s%s", c.flag, got, c.want, r.stdout, r.stderr)
		}
	}
	g.ok("apply", "-f", "less.yaml", "--prune")
	g.fails(1, "gatehouse: get: not found: instance \"db-1\"\n", "get", "instance", "db-1")

	// Standard input, and several files that are one.
	r := g.runInput(strings.NewReader("vpcs: [{name: three, cidrBlock: 10.40.0.0/16}]\n"), "apply", "-f", "-")
	if r.code != 0 || !strings.Contains(r.stdout, "+ vpc vpcs[three]\n") {
		t.Errorf("apply -f -: exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	g.write("four.yaml", "vpcs: [{name: four, cidrBlock: 10.50.0.0/16}]\n")
	g.write("five.yaml", "vpcs: [{name: five, cidrBlock: 10.60.0.0/16}]\n")
	if out := g.ok("apply", "-f", "four.yaml", "-f", "five.yaml"); !strings.Contains(out, "vpcs[four]\n") || !strings.Contains(out, "vpcs[five]\n") {
		t.Errorf("apply of two files:\n%s", out)
	}
	g.write("bad.yaml", "vpcs: [{name: six, cidrBlock: 10.50.0.0/16}]\n")
	g.fails(1, "gatehouse: apply bad.yaml: vpcs[six].cidrBlock: 10.50.0.0/16 overlaps VPC \"four\" (10.50.0.0/16): VPCs on one gateway need ranges of their own\n",
		"apply", "-f", "four.yaml", "-f", "bad.yaml")
}

func TestGetAndDescribeShowWhatThereIs(t *testing.T) {
	t.Parallel()
	g := newCLI(t)
	for _, c := range []struct {
		kinds         []string
		name, bare    string // with its VPC, and the name alone
		table, fields string
	}{
		{[]string{"vpc", "vpcs"}, "lab", "lab", "NAME CIDR IPV6 VSWITCHES INSTANCES NAT", "id name cidrBlock ipv6CidrBlock status"},
		{[]string{"vswitch", "vswitches", "vsw"}, "lab/db", "db", "VPC NAME CIDR IPV6 GATEWAY LINK ACL FREE POOL", "id name vpc cidrBlock ipv6CidrBlock enrollment enrollmentSecurityGroups status"},
		{[]string{"instance", "instances", "i"}, "lab/web-1", "web-1", "VPC NAME ADDRESS IPV6 VSWITCH GROUPS LEASE", "id name vpc interfaces privateDns status"},
		{[]string{"interface", "interfaces", "eni"}, "lab/00:16:3e:00:00:01", "00:16:3e:00:00:01", "VPC INSTANCE ID MAC VSWITCH ADDRESS IPV6 GROUPS", "id mac vpc vswitch instance privateIp ipv6Addresses securityGroups"},
		{[]string{"securitygroup", "securitygroups", "sg"}, "lab/db", "db", "VPC NAME TYPE INNER RULES MEMBERS", "id name vpc type innerAccess rules status"},
		{[]string{"networkacl", "networkacls", "nacl"}, "lab/dmz", "dmz", "VPC NAME INGRESS EGRESS VSWITCHES", "id name vpc ingress egress status"},
		{[]string{"prefixlist", "prefixlists", "pl"}, "lab/friends", "friends", "VPC NAME FAMILY ENTRIES MAX", "id name vpc family entries"},
		{[]string{"zone", "zones"}, "lab/corp.example", "corp.example", "VPC NAME RECORDS MISSING", "id name vpc records missing"},
	} {
		for _, kind := range c.kinds {
			if head, _, _ := strings.Cut(g.ok("get", kind), "\n"); strings.Join(strings.Fields(head), " ") != c.table {
				t.Errorf("get %s: the table begins with %q, want %q", kind, head, c.table)
			}
		}
		kind := c.kinds[0]
		if list := g.get(kind); len(list) == 0 {
			t.Errorf("get %s -o json: nothing", kind)
		}
		byPath, byName := g.object("get", kind, c.name), g.object("get", kind, c.bare)
		g.fields(kind, byPath, strings.Fields(c.fields)...)
		if fmt.Sprint(byPath) != fmt.Sprint(byName) {
			t.Errorf("get %s %s and %s differ:\n%v\n%v", kind, c.name, c.bare, byPath, byName)
		}
		if byID := g.object("get", kind, byPath["id"].(string)); fmt.Sprint(byPath) != fmt.Sprint(byID) {
			t.Errorf("get %s by ID and by name differ:\n%v\n%v", kind, byID, byPath)
		}
		if yaml := g.ok("get", kind, c.name, "-o", "yaml"); !strings.Contains(yaml, "id: "+byPath["id"].(string)) {
			t.Errorf("get %s -o yaml:\n%s", kind, yaml)
		}
		if wide := g.ok("get", kind, "-o", "wide"); !strings.Contains(wide, byPath["id"].(string)) {
			t.Errorf("get %s -o wide lacks the ID:\n%s", kind, wide)
		}
		if d := g.ok("describe", kind, c.name); !strings.Contains(d, "id: "+byPath["id"].(string)) {
			t.Errorf("describe %s:\n%s", kind, d)
		}
		g.fields("describe "+kind, g.object("describe", kind, c.name)["object"].(map[string]any), strings.Fields(c.fields)...)
	}

	// Leases and records have no ID.
	var record map[string]any
	for _, r := range g.get("records", "--vpc", "lab") {
		g.fields("a record", r, "vpc", "zone", "name", "type", "ttl", "value", "source")
		if r["name"] == "web-1.lab.internal." && r["type"] == "A" {
			record = r
		}
	}
	if record["value"] != "10.20.1.10" || record["ttl"] != 60.0 {
		t.Errorf("the record of web-1: %v", record)
	}
	if l := g.ok("get", "leases", "-o", "json"); l != "[]\n" {
		t.Errorf("leases before anybody asked: %s", l)
	}

	// What describe adds: the effective rules, and what the platform always admits.
	for _, c := range []struct{ kind, name, want string }{
		{"instance", "db-1", "sg:web"},
		{"instance", "db-1", "default of basic groups"},
		{"networkacl", "dmz", "system"},
		{"securitygroup", "web", "web-1"},
		{"vswitch", "db", "db-1"},
	} {
		if d := g.ok("describe", c.kind, c.name); !strings.Contains(d, c.want) {
			t.Errorf("describe %s %s lacks %q:\n%s", c.kind, c.name, c.want, d)
		}
	}

	// A bare name that two VPCs have is refused with the candidates.
	const why = `vswitch "web": the name is not unique: write lab/web or two/web` + "\n"
	g.fails(1, "gatehouse: get: "+why, "get", "vswitch", "web")
	g.fails(1, "gatehouse: describe: "+why, "describe", "vswitch", "web")
	g.fails(1, "gatehouse: set vswitch: "+why, "set", "vswitch", "web", "--description", "x")
	g.fails(1, "gatehouse: delete: "+why, "delete", "vswitch", "web")
	if o := g.object("get", "vswitch", "web", "--vpc", "two"); o["cidrBlock"] != "10.30.1.0/24" {
		t.Errorf("get --vpc two: %v", o)
	}
}

func TestErrorsSayWhatAndWhy(t *testing.T) {
	t.Parallel()
	g := newCLI(t)
	before, _ := g.revisions()
	usage := func(verb string) string { return "See 'gatehouse" + verb + " --help'.\n" }
	for _, c := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"bogus", 2, "gatehouse: unknown command \"bogus\" for \"gatehouse\"\n" + usage("")},
		{"get", 2, "gatehouse: get: requires at least 1 arg(s), only received 0\n" + usage(" get")},
		{"get instances --bogus", 2, "gatehouse: get: unknown flag: --bogus\n" + usage(" get")},
		{"get instances -o xml", 2, "gatehouse: get: --output: \"xml\" is not one of [table wide json yaml]\n" + usage(" get")},
		{"apply", 2, "gatehouse: apply: -f FILE is needed: the manifest (- reads standard input)\n" + usage(" apply")},
		{"apply -f apply.yaml --confirm 0s", 2, "gatehouse: apply: --confirm: a time in which to confirm is needed (as in 60s)\n" + usage(" apply")},
		{"plan", 1, "gatehouse: plan: -f FILE is needed: the manifest (- reads standard input)\n" + usage(" plan")},
		{"plan --bogus", 1, "gatehouse: plan: unknown flag: --bogus\n" + usage(" plan")},
		{"plan -f nowhere.yaml", 1, "gatehouse: plan nowhere.yaml: no such file or directory\n"},
		{"apply -f nowhere.yaml", 1, "gatehouse: apply nowhere.yaml: no such file or directory\n"},
		{"explain web-1", 2, "gatehouse: explain: accepts 3 arg(s), received 1\n" + usage(" explain")},
		{"explain web-1 db-1 tcp", 2, "gatehouse: explain: \"tcp\": a port is needed, as in tcp/443\n" + usage(" explain")},
		{"rollback x", 2, "gatehouse: rollback: \"x\" is not a revision: 'gatehouse events' lists them\n" + usage(" rollback")},
		{"rollback 99", 1, "gatehouse: rollback: revision 99: read revision 99: revision is not kept: the newest is 1\n"},
		{"confirm", 1, "gatehouse: confirm: no change waits for a confirmation\n"},
		{"get instance nobody", 1, "gatehouse: get: not found: instance \"nobody\"\n"},
		{"set instance web-1", 2, "gatehouse: set instance: nothing to set: name at least one field\n" + usage(" set instance")},
		{"set instance nobody --description x", 1, "gatehouse: set instance: not found: instance \"nobody\": create it with 'gatehouse create'\n"},
		{"set instance web-1 --private-ip 10.20.2.9", 1, "gatehouse: set instance: vpcs[lab].instances[web-1].interfaces[00:16:3e:00:00:01].privateIp: 10.20.2.9 is not in vswitch \"web\" (10.20.1.0/24)\n"},
		{"create vswitch extra", 1, "gatehouse: create vswitch: name the VPC with --vpc: there are 2\n"},
		{"create vswitch web --vpc lab", 1, "gatehouse: create vswitch: vpcs[lab].vswitches[web] exists: change it with 'gatehouse set'\n"},
		{"delete vpc lab", 1, "gatehouse: delete: vpcs[lab]: still has vswitches[db], vswitches[web], instances[db-1], instances[web-1], securityGroups[db], securityGroups[web], networkAcls[dmz], prefixLists[friends], and 2 more: delete these first\n"},
		{"delete securitygroup lab/web", 1, "gatehouse: delete: vpcs[lab].securityGroups[web]: still used by securityGroups[db].rules[0], instances[web-1].interfaces[00:16:3e:00:00:01]: change these first\n"},
		{"config check --config nowhere.yaml", 1, "gatehouse: config check: read configuration: open nowhere.yaml: no such file or directory\n"},
		{"serve --config nowhere.yaml", 1, "gatehouse: serve: read configuration: open nowhere.yaml: no such file or directory\n"},
		{"--socket /nowhere.sock status", 1, "gatehouse: status: no daemon answers on /nowhere.sock: start it with `systemctl start gatehouse` or `gatehouse serve`, or name its socket with --socket\n"},
	} {
		g.fails(c.code, c.stderr, strings.Fields(c.args)...)
	}
	if after, _ := g.revisions(); after != before {
		t.Errorf("errors made revision %d of %d", after, before)
	}

	// For programs.
	g.write("bad.yaml", "vpcs:\n- {name: six, cidrBlock: 10.20.0.0/24}\n")
	for _, c := range []struct{ args, code, path string }{
		{"apply -f bad.yaml -o json", "invalid", "vpcs[six].cidrBlock"},
		{"plan -f bad.yaml -o json", "invalid", "vpcs[six].cidrBlock"},
		{"get instance nobody -o json", "not-found", ""},
		{"create vpc six --cidr-block 10.20.0.0/24 -o json", "invalid", "vpcs[six].cidrBlock"},
		{"--socket /nowhere.sock status -o json", "unavailable", ""},
	} {
		r := g.run(strings.Fields(c.args)...)
		var said struct {
			Error struct {
				Code, Message string
				Details       []struct{ Path, Message string }
			}
		}
		if r.code != 1 || r.stdout != "" {
			t.Errorf("gatehouse %s: exit %d, printed %s", c.args, r.code, r.stdout)
		}
		g.decode(r.stderr, &said)
		e := said.Error
		if e.Code != c.code || e.Message == "" || e.Details == nil || c.path != "" && (len(e.Details) != 1 || e.Details[0].Path != c.path || e.Details[0].Message == "") {
			t.Errorf("gatehouse %s: %s", c.args, r.stderr)
		}
	}
	g.stop()
	g.fails(1, "gatehouse: get: no daemon answers on "+g.path("api.sock")+": start it with `systemctl start gatehouse` or `gatehouse serve`, or name its socket with --socket\n", "get", "vpcs")
}

func TestObjectsAreChangedByHand(t *testing.T) {
	t.Parallel()
	g := newCLI(t)
	for _, args := range [][]string{
		{"create", "vpc", "hand", "--cidr-block", "10.70.0.0/16", "--ipv6-cidr-block", "fd00:70::/56", "--domain", "hand.internal"},
		{"create", "vswitch", "one", "--vpc", "hand", "--cidr-block", "10.70.1.0/24", "--ipv6-cidr-block", "fd00:70:0:1::/64", "--attach", "bridge=gh-hand"},
		{"create", "securitygroup", "ops", "--vpc", "hand", "--inner-access", "drop"},
		{"create", "prefixlist", "peers", "--vpc", "hand", "--family", "ipv6", "--entries", "2001:db8::/32,2001:db9::/32"},
		{"create", "instance", "hand-1", "--vpc", "hand", "--vswitch", "one", "--mac", "00:16:3e:00:07:01", "--private-ip", "10.70.1.9", "--security-groups", "ops"},
		{"set", "sg", "hand/ops", "--add-rule", "ingress accept tcp 22 from 198.51.100.0/24 priority 5"},
		{"set", "sg", "hand/ops", "--add-rule", "ingress drop udp 53 from pl:peers description no names"},
		{"set", "vswitch", "hand/one", "--enrollment", "closed"},
		{"set", "instance", "hand-1", "--secondary-private-ips", "10.70.1.20,10.70.1.21"},
	} {
		before, _ := g.revisions()
		out := g.ok(args...)
		after, applied := g.revisions()
		if after != before+1 || applied != after || !strings.HasSuffix(out, fmt.Sprintf("revision %d is in force\n", after)) {
			t.Errorf("gatehouse %s: revisions %d, %d, %d:\n%s", strings.Join(args, " "), before, after, applied, out)
		}
	}
	i := g.object("get", "instance", "hand-1")
	nic := i["interfaces"].([]any)[0].(map[string]any)
	if nic["privateIp"] != "10.70.1.9" || fmt.Sprint(nic["secondaryPrivateIps"]) != "[10.70.1.20 10.70.1.21]" || fmt.Sprint(nic["securityGroups"]) != "[ops]" {
		t.Errorf("hand-1: %v", nic)
	}
	if out := g.ok("explain", "198.51.100.7", "hand-1", "tcp/22"); !strings.Contains(out, "sgr-") {
		t.Errorf("explain does not name the rule that was added:\n%s", out)
	}
	rules := g.object("get", "sg", "hand/ops")["rules"].([]any)
	if len(rules) != 2 {
		t.Fatalf("rules: %v", rules)
	}
	g.ok("set", "sg", "hand/ops", "--remove-rule", rules[0].(map[string]any)["id"].(string))
	if left := g.object("get", "sg", "hand/ops")["rules"].([]any); len(left) != 1 || left[0].(map[string]any)["id"] != rules[1].(map[string]any)["id"] {
		t.Errorf("after the removal of the first of %v there are %v", rules, left)
	}
	g.ok("firewall", "verify")
	for _, args := range [][]string{
		{"delete", "instance", "hand-1"}, {"delete", "vswitch", "hand/one"}, {"delete", "sg", "hand/ops"}, {"delete", "pl", "peers"}, {"delete", "vpc", "hand"},
	} {
		g.ok(args...)
	}
	g.fails(1, "gatehouse: get: not found: VPC \"hand\"\n", "get", "vpc", "hand")
	g.eventually("the link of the deleted vSwitch goes", func() error {
		if _, err := g.space.Run(g.ctx, "ip", "link", "show", "gh-hand"); err == nil {
			return errors.New("gh-hand is still there")
		}
		return nil
	})

	// The audit log knows all of it.
	var events []map[string]any
	g.decode(g.ok("events", "-o", "json"), &events)
	var verbs []string
	for n, e := range events {
		g.fields("an event", e, "revision", "time", "user", "verb", "summary", "changes")
		if e["revision"] != float64(n+1) || e["user"] != "root" {
			t.Errorf("event %d: %v", n, e)
		}
		verbs = append(verbs, e["verb"].(string))
	}
	if got, want := strings.Join(verbs, " "), "apply create create create create create set set set set set delete delete delete delete delete"; got != want {
		t.Errorf("events: %s, want %s", got, want)
	}
}

func TestExplainAndTestAnswer(t *testing.T) {
	t.Parallel()
	g := newCLI(t)
	type stage struct{ Stage, Verdict, Rule, Reason, Detail string }
	type answer struct {
		From, To, Protocol, Kernel string
		Port                       int
		Allowed                    bool
		Stages                     []stage
	}
	for _, c := range []struct {
		args    string
		allowed bool
		decides string // the stage that drops
		reason  string
	}{
		{"web-1 db-1 tcp/5432", true, "", ""},
		{"web-1 db-1 tcp/22", false, "sg-ingress", "sg.default.basic.ingress"},
		{"web-1 10.20.2.10 tcp/5432", true, "", ""},
		{"10.20.1.10 db-1 tcp/5432", true, "", ""},
		{"198.51.100.9 web-1 tcp/443", false, "vpc", ""}, // no uplinks: there is no way in
		{"db-1 web-1 tcp/22", false, "nacl-ingress", ""},
		{"-6 web-1 db-1 tcp/5432", false, "nacl-egress", ""},
	} {
		out := g.ok(slices.Concat([]string{"explain", "-o", "json"}, strings.Fields(c.args))...)
		var a answer
		g.decode(out, &a)
		decides := ""
		var names []string
		var reason string
		for _, s := range a.Stages {
			names = append(names, s.Stage)
			if s.Verdict == "drop" && decides == "" {
				decides, reason = s.Stage, s.Reason
			}
		}
		if a.Allowed != c.allowed || decides != c.decides || a.Kernel != "in force" || c.reason != "" && reason != c.reason {
			t.Errorf("explain %s: allowed %v, %s decides (%s): %s", c.args, a.Allowed, decides, reason, out)
		}
		if got := strings.Join(names, " "); got != "anti-spoof vpc nacl-egress nacl-ingress sg-egress sg-ingress" && c.decides != "vpc" {
			t.Errorf("explain %s: the stages are %s", c.args, got)
		}
		verdict := map[bool]string{true: "ALLOWED", false: "DROPPED"}[c.allowed]
		if text := g.ok(slices.Concat([]string{"explain"}, strings.Fields(c.args))...); !strings.Contains(text, ": "+verdict+"\n") {
			t.Errorf("explain %s:\n%s", c.args, text)
		}
	}

	g.write("tests.yaml", `
tests:
- {from: web-1, to: db-1, protocol: tcp, port: 5432, expect: accept}
- {from: web-1, to: db-1, protocol: tcp, port: 22, expect: accept}
`)
	r := g.run("test", "-f", "tests.yaml")
	if r.code != 1 || r.stdout != `ok      web-1 -> db-1 tcp/5432: expected accept, got accept
FAILED  web-1 -> db-1 tcp/22: expected accept, got drop (sg-ingress: default of basic group db: no rule admits it)
1 passed, 1 failed
` {
		t.Errorf("test: exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}

	// A test that is kept refuses a change that breaks it, whoever makes it.
	g.write("kept.yaml", "tests:\n- {from: web-1, to: db-1, protocol: tcp, port: 5432, expect: accept}\n")
	g.ok("apply", "-f", "kept.yaml")
	before, _ := g.revisions()
	const broken = "tests[0]: web-1 -> db-1 tcp/5432: expected accept, but the change makes it drop (sg-ingress: default of basic group db: no rule admits it)\n"
	g.fails(1, "gatehouse: set instance: "+broken, "set", "instance", "web-1", "--security-groups", "default")
	g.write("break.yaml", strings.Replace(cliLab, "sg:web", "sg:default", 1))
	g.fails(1, "gatehouse: apply: "+broken, "apply", "-f", "break.yaml")
	g.fails(1, "gatehouse: plan: "+broken, "plan", "-f", "break.yaml")
	if after, _ := g.revisions(); after != before {
		t.Errorf("a refused change made revision %d of %d", after, before)
	}
	// Tests stay until they are pruned, like everything else.
	g.write("kept.yaml", "tests: []\n")
	if out := g.ok("apply", "-f", "kept.yaml"); out != "nothing to change\n" {
		t.Errorf("an empty list of tests without --prune:\n%s", out)
	}
	g.ok("apply", "-f", "kept.yaml", "--prune")
	g.ok("apply", "-f", "break.yaml")
}

func TestAnUnconfirmedChangeIsUndone(t *testing.T) {
	t.Parallel()
	g := newCLI(t)
	before := g.ok("export")
	undone := func(what string) {
		t.Helper()
		g.eventually(what, func() error {
			if now := g.ok("export"); now != before {
				return errors.New("it is still there:\n" + difference(before, now))
			}
			if stored, applied := g.revisions(); stored != applied {
				return fmt.Errorf("revision %d is stored and %d in force", stored, applied)
			}
			return nil
		})
		if r := g.run("firewall", "verify"); r.code != 0 {
			t.Errorf("%s: %s%s", what, r.stdout, r.stderr)
		}
	}
	g.write("change.yaml", strings.Replace(cliLab, "ports: 5432", "ports: 5433", 1))
	begin := time.Now()
	g.ok("apply", "-f", "change.yaml", "--confirm", "2s")
	if now := g.ok("export"); now == before && time.Since(begin) < 2*time.Second {
		t.Error("the change is not made")
	}
	undone("the change is undone after its time")
	if took := time.Since(begin); took < 2*time.Second {
		t.Errorf("it was undone after %s", took)
	}

	g.ok("apply", "-f", "change.yaml", "--confirm", "2s")
	g.kill()
	g.start()
	undone("the change is undone although the daemon was killed")

	// Until it is confirmed nobody else's may come, and rollback does not wait.
	g.ok("apply", "-f", "change.yaml", "--confirm", "10m")
	g.write("other.yaml", strings.Replace(cliLab, "ports: 5432", "ports: 5434", 1))
	if r := g.run("apply", "-f", "other.yaml", "--confirm", "10m"); r.code != 1 || !strings.HasPrefix(r.stderr, "gatehouse: apply: a change by root waits for its confirmation until ") ||
		!strings.HasSuffix(r.stderr, ": run 'gatehouse confirm' or 'gatehouse rollback' first\n") {
		t.Errorf("a second unconfirmed change: exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	g.ok("rollback")
	undone("rollback undoes it now")

	g.ok("apply", "-f", "change.yaml", "--confirm", "10m")
	g.ok("confirm")
	g.fails(1, "gatehouse: confirm: no change waits for a confirmation\n", "confirm")
	changed := g.ok("export")
	if changed == before {
		t.Error("the confirmed change is gone")
	}
	g.ok("rollback", "1")
	undone("rollback to a revision by number")
	var events []map[string]any
	g.decode(g.ok("events", "-o", "json"), &events)
	if last := events[len(events)-1]; last["verb"] != "rollback" || !strings.Contains(last["summary"].(string), "to revision 1") {
		t.Errorf("the last event: %v", last)
	}
}

func TestTheStateIsBackedUpTornDownAndReloaded(t *testing.T) {
	t.Parallel()
	g := newCLI(t)
	s := g.object("status")
	g.fields("status", s, "version", "revision", "applied", "healthy", "problems")
	if s["healthy"] != true || s["revision"] != 1.0 || s["applied"] != 1.0 {
		t.Errorf("status: %v", s)
	}
	export := g.ok("export")

	// A backup, put in place of a later state.
	g.ok("backup", g.path("copy.db"))
	if info, err := os.Stat(g.path("copy.db")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup: %v, %v", info, err)
	}
	g.ok("delete", "instance", "db-1")
	g.stop()
	g.ok("restore", "--config", g.path("gatehouse.yaml"), g.path("copy.db"))
	g.start()
	if now := g.ok("export"); now != export {
		t.Errorf("after the restore:\n%s", difference(export, now))
	}

	// Teardown keeps the state, and says what that means.
	g.ok("teardown")
	if r := g.run("status"); r.code != 1 || !strings.Contains(r.stdout, "torn-down") {
		t.Errorf("status after teardown: exit %d\n%s", r.code, r.stdout)
	}
	for _, tool := range []string{"iptables-save", "ip6tables-save", "ipset save", "ip -br link"} {
		if out := strings.ToLower(g.script(g.space, tool)); strings.Contains(out, "gh-") || strings.Contains(out, "gh4-") {
			t.Errorf("%s after teardown:\n%s", tool, out)
		}
	}
	g.stop()
	g.start()
	g.ok("firewall", "verify")
	if now := g.ok("export"); now != export {
		t.Errorf("after a teardown and a start:\n%s", difference(export, now))
	}

	// SIGHUP: what the configuration admits is in force without a restart; a bad one changes nothing.
	allowed := func() any { return g.object("explain", "web-1", "10.20.1.253", "tcp/22")["allowed"] }
	if allowed() != false {
		t.Error("the gateway's SSH is open by itself")
	}
	g.configure("region: lab-1", "hostAccess: [22/tcp]")
	g.ok("config", "check", "--config", "gatehouse.yaml")
	g.signal(syscall.SIGHUP)
	g.eventually("the reloaded configuration is in force", func() error {
		if allowed() != true {
			return errors.New("the gateway's SSH is closed")
		}
		return nil
	})
	g.ok("firewall", "verify")
	g.configure("region: lab-1", "hostAccess: []", "colour: blue")
	g.signal(syscall.SIGHUP)
	g.eventually("the bad configuration is refused", func() error {
		if !strings.Contains(g.log(), "colour: unknown key") {
			return errors.New("nothing in the log")
		}
		return nil
	})
	if allowed() != true {
		t.Error("a configuration that is refused has changed something")
	}
	g.ok("status")
}

func TestTheProgramTellsItsVersionAndCompletesWords(t *testing.T) {
	t.Parallel()
	g := newCLI(t)
	if out := g.ok("version"); !strings.HasPrefix(out, "gatehouse ") {
		t.Errorf("version: %s", out)
	}
	g.fields("version", g.object("version"), "version", "go")
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := g.ok("completion", shell); !strings.Contains(out, "gatehouse") {
			t.Errorf("completion %s:\n%s", shell, out)
		}
	}
	// Names of live objects complete.
	if r := g.run("__complete", "get", "instance", ""); !strings.Contains(r.stdout, "db-1\nweb-1\n") {
		t.Errorf("completion of an instance's name:\n%s", r.stdout)
	}
	if out := g.ok("help"); !strings.Contains(out, "Available Commands") {
		t.Errorf("help:\n%s", out)
	}
}
