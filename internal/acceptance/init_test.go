package acceptance

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// rivalLab is somebody's DHCP server on the link that a new gateway is to serve.
const rivalLab = `
vpcs:
- name: rival
  cidrBlock: 10.77.0.0/16
  vswitches:
  - {name: main, cidrBlock: 10.77.1.0/24, attach: {interface: lan0}}
`

func TestInitWritesWhatTheDaemonTakes(t *testing.T) {
	t.Parallel()
	// The rival's host; the new gateway's is behind its link lan0.
	g := newGateway(t)
	g.start()
	host, err := g.lab.Space("host")
	if err != nil {
		t.Fatal(err)
	}
	outside, err := g.lab.Space("outside")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.lab.Veth(g.ctx, g.space, "lan0", host, "eth1"); err != nil {
		t.Fatal(err)
	}
	if err := g.lab.Veth(g.ctx, host, "eth0", outside, "eth0"); err != nil {
		t.Fatal(err)
	}
	g.script(host, "rm -rf /etc/gatehouse /var/lib/gatehouse\nip addr add 192.0.2.10/24 dev eth0\nip route add default via 192.0.2.1\n")
	run := func(stdin string, args ...string) (string, error) {
		return host.RunInput(g.ctx, strings.NewReader(stdin), g.bin, args...)
	}
	config := func() string { return g.script(host, "cat /etc/gatehouse/gatehouse.yaml") }
	manifest := func() string { return g.script(host, "cat /etc/gatehouse/lab.yaml") }
	has := func(what, text string, lines ...string) {
		t.Helper()
		for _, line := range lines {
			if !regexp.MustCompile("(?m)" + line).MatchString(text) {
				t.Errorf("%s has no %q:\n%s", what, line, text)
			}
		}
	}

	out, err := run("", "init", "--yes")
	if err != nil {
		t.Fatal(err)
	}
	has("what is said", out, `^  eth0 \S+ 192\.0\.2\.10/24 \(default route\)$`, "^nothing on this host is in the way$", "^wrote /etc/gatehouse/gatehouse.yaml ")
	has("the configuration", config(), `^uplinks: \[eth0\]$`, "^manifest: /etc/gatehouse/lab.yaml$")
	has("the manifest", manifest(), `^  cidrBlock: 10\.20\.0\.0/16$`, `^  ipv6CidrBlock: "fd[0-9a-f:]+/56"$`, "natGateway: true", `attach: \{bridge: gh-main\}`)

	// What has been written is nobody's to overwrite, unless he says so, and a refusal writes neither file.
	g.script(host, "echo '# mine' >>/etc/gatehouse/lab.yaml")
	before := config() + manifest()
	if _, err := run("", "init", "--yes", "--uplink", "eth1"); err == nil || !strings.Contains(err.Error(), "lab.yaml is there and has been changed: nothing is overwritten without --force") {
		t.Errorf("a second time: %v", err)
	}
	if config()+manifest() != before {
		t.Error("a refused init has written")
	}
	if out, err = run("", "init", "--yes", "--force", "--uplink", "nowhere", "--range", "10.300.0.0/16"); err == nil || !strings.Contains(err.Error(), `--range: "10.300.0.0/16" is not a range`) {
		t.Errorf("%s%v", out, err)
	}

	// Answers, and a DHCP server on the guests' link that is not ours.
	g.apply(rivalLab)
	g.eventually("the rival is heard", func() error {
		out, err := run("none\neth1\n10.99.0.0/16\nnone\n", "init", "--force")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out, "  problem  host.dhcp: 10.77.1.253 answers DHCP on eth1") {
			return fmt.Errorf("it says %s", out)
		}
		return nil
	})
	has("the configuration", config(), `^uplinks: \[\]$`)
	has("the manifest", manifest(), `^  cidrBlock: 10\.99\.0\.0/16$`, "natGateway: false", `attach: \{interface: eth1\}`)
	if strings.Contains(manifest(), "ipv6") {
		t.Errorf("the manifest has IPv6:\n%s", manifest())
	}

	// The daemon takes both files, and doctor says the same of the link.
	log, err := os.Create(g.path("host.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	daemon := host.Command(g.ctx, g.bin, "serve")
	daemon.Stderr = log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		daemon.Process.Kill()
		daemon.Wait() // killed on purpose
	}()
	g.eventually("the daemon is ready", func() error {
		_, err := run("", "get", "vswitch", "main")
		return err
	})
	if out, err = run("", "doctor"); err == nil {
		t.Error("doctor finds nothing wrong")
	}
	has("doctor", out, `^problem  host\.dhcp: 10\.77\.1\.253 answers DHCP on eth1`, "^ok +firewall.verify")
}
