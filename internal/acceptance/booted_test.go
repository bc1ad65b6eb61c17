package acceptance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/netlab"
)

// startBudget is how long a start with a thousand instances may take until systemd is told READY: four times what it
// takes on an idle machine, since this one is busy.
const startBudget = 6 * time.Second

// quickWatchdog lets the test see in seconds what the shipped unit does in half a minute.
const quickWatchdog = "[Service]\nWatchdogSec=3s\n"

// firstLink is somebody else's unit: it sets up a link that a vSwitch adopts, as early as anybody may, and notes what the
// kernel's rules are at this moment.
const firstLink = `[Unit]
DefaultDependencies=no
Wants=network-pre.target
After=network-pre.target
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'iptables-save >/root/first4; ip6tables-save >/root/first6; ip link add br-adopt type bridge; ip link set br-adopt up'
[Install]
WantedBy=multi-user.target
`

// adopted is a vSwitch on that link.
const adopted = `  - {name: adopted, cidrBlock: 10.20.3.0/24, attach: {bridge: br-adopt}}
`

// debianPackage builds the package.
func debianPackage(t *testing.T) string {
	t.Helper()
	dist := t.TempDir()
	cmd := exec.Command("make", "-C", "../..", "--no-print-directory", "-s", "deb", "DIST="+dist)
	cmd.Env = append(os.Environ(), "COMPRESSION=none")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make deb: %v\n%s", err, out)
	}
	found, err := filepath.Glob(dist + "/*.deb")
	if err != nil || len(found) != 1 {
		t.Fatalf("make deb made %q: %v", found, err)
	}
	return found[0]
}

// stagedFiles gives what make install puts on a host, as an archive, and the Makefile that can remove it.
func stagedFiles(t *testing.T) (archive, makefile []byte) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("make", "-C", "../..", "--no-print-directory", "-s", "stage", "DESTDIR="+dir+"/root", "BIN="+dir+"/gatehouse")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make stage: %v\n%s", err, out)
	}
	archive, err := exec.Command("tar", "-C", dir+"/root", "--owner=root", "--group=root", "-c", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	makefile, err = os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	return archive, makefile
}

func TestThePackageIsReproducible(t *testing.T) {
	t.Parallel()
	one, err := os.ReadFile(debianPackage(t))
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(debianPackage(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("the same commit gives two packages")
	}
}

// thousand is a manifest with a thousand instances in forty groups on four vSwitches.
func thousand() string {
	var b strings.Builder
	b.WriteString("vpcs:\n- name: big\n  cidrBlock: 10.40.0.0/16\n  ipv6CidrBlock: fd00:40::/56\n  vswitches:\n")
	for w := range 4 {
		fmt.Fprintf(&b, "  - {name: w%d, cidrBlock: 10.40.%d.0/22, ipv6CidrBlock: \"fd00:40:0:%d::/64\"}\n", w, 4*w, w)
	}
	b.WriteString("  securityGroups:\n")
	for g := range 40 {
		fmt.Fprintf(&b, "  - {name: g%d, rules: [{direction: ingress, protocol: tcp, ports: %d, source: \"sg:g%d\"}, {direction: ingress, protocol: tcp, ports: 22, source: 0.0.0.0/0}]}\n",
			g, 1000+g, (g+1)%40)
	}
	b.WriteString("  instances:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  - {name: i%d, interfaces: [{mac: \"00:16:3e:10:%02x:%02x\", vswitch: w%d, securityGroups: [g%d]}]}\n", i, i>>8, i&0xff, i%4, i%40)
	}
	return b.String()
}

func TestAGatewayThatIsReallyBooted(t *testing.T) {
	t.Parallel()
	pkg, err := os.ReadFile(debianPackage(t))
	if err != nil {
		t.Fatal(err)
	}
	staged, makefile := stagedFiles(t)
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	s := newSystem(t, "booted")
	s.boot()

	s.part("the package is installed and runs", func(s *system) {
		s.put("/root/gatehouse.deb", pkg)
		s.put("/etc/systemd/system/gatehouse.service.d/watchdog.conf", []byte(quickWatchdog))
		s.do("dpkg", "-i", "/root/gatehouse.deb")
		if state := s.property("ActiveState"); state != "active" {
			s.Fatalf("it is %s", state)
		}
		s.do("systemctl", "is-enabled", "gatehouse.service", "gatehouse-base.service")
		if got := s.do("stat", "-c", "%U:%G %a", "/etc/gatehouse/gatehouse.yaml", "/var/lib/gatehouse", "/var/lib/gatehouse/state.db", "/run/gatehouse/api.sock", "/run/xtables.lock"); got !=
			"root:gatehouse 640\ngatehouse:gatehouse 700\ngatehouse:gatehouse 600\ngatehouse:gatehouse 660\nroot:gatehouse 660\n" {
			s.Errorf("its files belong to and are open for\n%s", got)
		}
		if out := s.do("gatehouse", "--version"); !regexp.MustCompile(`^gatehouse \S+ \(go\S+, commit [0-9a-f]{40}\)\n$`).MatchString(out) {
			s.Errorf("its version is %q", out)
		}
	})
	s.part("it is shut in", func(s *system) {
		status := s.do("sh", "-c", "grep -E '^(Uid|CapPrm|CapBnd|NoNewPrivs|Seccomp):' /proc/"+s.property("MainPID")+"/status")
		// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW
		for _, want := range []string{"CapPrm:\t0000000000003400", "CapBnd:\t0000000000003400", "NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(status, want) {
				s.Errorf("no %q in\n%s", want, status)
			}
		}
		if strings.Contains(status, "Uid:\t0") {
			s.Errorf("it is root:\n%s", status)
		}
		for _, unit := range []string{"gatehouse.service", "gatehouse-base.service"} {
			s.do("systemd-analyze", "verify", "--man=no", "/usr/lib/systemd/system/"+unit)
			out := s.do("systemd-analyze", "security", "--threshold=25", "--no-pager", unit)
			s.Log(strings.TrimSpace(out[strings.LastIndex(strings.TrimSpace(out), "\n"):]))
		}
	})

	g := &gateway{T: t, ctx: s.ctx, lab: s.lab, space: s.space}
	v6 := map[string]string{}
	guests := func(s *system, suffix string) (from, to *netlab.Space) {
		s.Helper()
		for name, mac := range map[string]string{"client": "00:16:3e:00:01:01", "server": "00:16:3e:00:02:01"} {
			bridge := map[string]string{"client": "gh-front", "server": "gh-back"}[name]
			guest, err := s.lab.Guest(s.ctx, name+suffix, s.space, portOf(name), bridge, mac)
			if err != nil {
				s.Fatal(err)
			}
			if err := guest.DHClient(s.ctx); err != nil {
				s.Fatal(err)
			}
			if err := guest.StaticIPv6(s.ctx, v6[name]); err != nil {
				s.Fatal(err)
			}
			if name == "client" {
				from = guest
			} else {
				to = guest
			}
		}
		return from, to
	}
	bootedLab := strings.Replace(restartLab, `cidrBlock: 10.20.2.0/24, ipv6`, `cidrBlock: 10.20.2.0/24, attach: {bridge: gh-back}, ipv6`, 1)
	var from, to *netlab.Space
	var server string
	s.part("guests get addresses and names", func(s *system) {
		s.apply(bootedLab)
		for _, i := range s.list("interfaces") {
			v6[i["instance"].(string)] = i["ipv6Addresses"].([]any)[0].(string)
			if i["instance"] == "server" {
				server = i["privateIp"].(string)
			}
		}
		from, to = guests(s, "")
		for _, ask := range [][2]string{{"A", server}, {"AAAA", v6["server"]}} {
			if got, err := from.Dig(s.ctx, "@10.20.1.253", "server.lab.internal", ask[0]); err != nil || strings.Join(got, " ") != ask[1] {
				s.Errorf("server has the %s %q, want %q: %v", ask[0], got, ask[1], err)
			}
		}
		if got := len(s.bound()); got != 2 {
			s.Errorf("%d leases are bound, want 2", got)
		}
	})
	s.part("a reload takes a good configuration and refuses a bad one", func(s *system) {
		pid := s.property("MainPID")
		s.do("sed", "-i", "s/^hostAccess: .*/hostAccess: [8080\\/tcp]/", "/etc/gatehouse/gatehouse.yaml")
		s.do("systemctl", "reload", "gatehouse")
		s.eventually("the rules follow", func() error {
			if out := s.do("gatehouse", "firewall", "render"); !strings.Contains(out, "--dport 8080") {
				return errors.New("no rule for port 8080")
			}
			return nil
		})
		s.do("cp", "/etc/gatehouse/gatehouse.yaml", "/root/good.yaml")
		s.do("sh", "-c", "echo 'uplink: eth0' >>/etc/gatehouse/gatehouse.yaml")
		if out, err := s.in("systemctl", "reload", "gatehouse"); err == nil {
			s.Errorf("a bad configuration is taken: %s", out)
		}
		s.do("cp", "/root/good.yaml", "/etc/gatehouse/gatehouse.yaml")
		s.do("systemctl", "reload", "gatehouse")
		if now := s.property("MainPID"); now != pid {
			s.Errorf("process %s became %s", pid, now)
		}
	})
	s.part("nobody sees it restart, die, hang, stop or be upgraded", func(s *system) {
		g.T = s.T
		f := newTraffic(g, from, to, server, v6["server"])
		for _, addr := range f.addrs {
			s.eventually("both families are up", func() error {
				return f.flow("tcp", netip.AddrPortFrom(netip.MustParseAddr(addr), allowedPort))
			})
		}
		f.start()
		s.eventually("enough of a control run", func() error {
			if n := f.flows.Load(); n < 200 {
				return fmt.Errorf("%d flows", n)
			}
			return nil
		})
		f.stop()
		control := f.lost.Load()
		s.Logf("undisturbed: %s", f)
		f.reset()
		f.start()
		leases := s.bound()
		again := func(what string, before string) {
			s.Helper()
			s.eventually("it is back after "+what, func() error {
				if state, pid := s.property("ActiveState"), s.property("MainPID"); state != "active" || pid == before || pid == "0" {
					return fmt.Errorf("%s, process %s", state, pid)
				}
				return nil
			})
			if got := s.bound(); strings.Join(got, "\n") != strings.Join(leases, "\n") {
				s.Errorf("leases after %s:\n%s\nbefore:\n%s", what, strings.Join(got, "\n"), strings.Join(leases, "\n"))
			}
			if got, err := from.Dig(s.ctx, "@10.20.1.253", "server.lab.internal"); err != nil || strings.Join(got, " ") != server {
				s.Errorf("names after %s: %q, %v", what, got, err)
			}
		}
		for _, disturb := range []struct {
			what string
			how  []string
		}{
			{"a restart", []string{"systemctl", "restart", "gatehouse"}},
			{"kill -9", []string{"systemctl", "kill", "-s", "KILL", "gatehouse"}},
			{"an upgrade", []string{"dpkg", "-i", "/root/gatehouse.deb"}},
			{"a hang", []string{"systemctl", "kill", "-s", "STOP", "gatehouse"}},
			{"a stop", []string{"sh", "-c", "systemctl stop gatehouse && sleep 1 && systemctl start gatehouse"}},
		} {
			pid := s.property("MainPID")
			began := time.Now()
			s.do(disturb.how...)
			again(disturb.what, pid)
			s.Logf("%s: back after %s", disturb.what, time.Since(began).Round(10*time.Millisecond))
		}
		f.stop()
		s.Logf("disturbed: %s", f)
		if err := f.brokenStream.Load(); err != nil {
			s.Errorf("a standing connection broke: %v", *err)
		}
		if n := f.lost.Load(); n > control {
			s.Errorf("%d of %d allowed flows were lost, and %d when nothing happened", n, f.flows.Load(), control)
		}
		if n := f.passed.Load(); n > 0 {
			s.Errorf("%d of %d refused probes passed", n, f.tried.Load())
		}
		if n := s.property("NRestarts"); n != "0" { // started by hand since
			s.Errorf("it was restarted %s times since", n)
		}
		if out := s.do("journalctl", "-u", "gatehouse", "--no-pager", "-o", "cat"); !strings.Contains(out, "Watchdog timeout") {
			s.Error("the watchdog has done nothing")
		}
	})
	s.part("with the socket unit commands wait while it restarts", func(s *system) {
		s.do("systemctl", "stop", "gatehouse")
		if out, err := s.in("gatehouse", "status"); err == nil {
			s.Errorf("nobody listens, and status says %s", out)
		}
		s.do("systemctl", "enable", "--now", "gatehouse.socket")
		if out := s.do("stat", "-c", "%a %U:%G", "/run/gatehouse/api.sock"); out != "660 gatehouse:gatehouse\n" {
			s.Errorf("the socket is %s", out)
		}
		s.do("gatehouse", "status") // starts it
		pid := s.property("MainPID")
		s.do("systemctl", "restart", "--no-block", "gatehouse")
		s.eventually("another daemon answers", func() error {
			s.do("gatehouse", "status") // at any moment
			if now := s.property("MainPID"); now == pid || now == "0" {
				return fmt.Errorf("process %s", now)
			}
			return nil
		})
		s.do("systemctl", "disable", "--now", "gatehouse.socket")
		s.do("systemctl", "restart", "gatehouse")
		s.do("gatehouse", "status")
	})
	s.part("it starts with a thousand instances", func(s *system) {
		s.apply(thousand())
		s.do("systemctl", "stop", "gatehouse")
		began := time.Now()
		s.do("systemctl", "start", "gatehouse")
		took := time.Since(began)
		s.Logf("READY with 1000 instances in force already after %s", took.Round(10*time.Millisecond))
		s.do("systemctl", "stop", "gatehouse")
		s.do("gatehouse", "teardown", "--offline")
		began = time.Now()
		s.do("systemctl", "start", "gatehouse")
		cold := time.Since(began)
		s.Logf("READY with 1000 instances and an empty kernel after %s", cold.Round(10*time.Millisecond))
		if took > startBudget || cold > startBudget {
			s.Errorf("more than %s", startBudget)
		}
		s.apply("vpcs: [{name: big, cidrBlock: 10.40.0.0/16}]", "--prune")
		s.do("gatehouse", "delete", "vpc", "big")
	})
	s.part("the other iptables works too, and its lock is the common one", func(s *system) {
		s.do("systemctl", "stop", "gatehouse")
		s.do("gatehouse", "teardown", "--offline")
		s.do("sed", "-i", "s/^  backend: .*/  backend: legacy/", "/etc/gatehouse/gatehouse.yaml")
		s.do("systemctl", "start", "gatehouse")
		if out := s.do("iptables-legacy-save"); !strings.Contains(out, "GH-FWD") {
			s.Errorf("no rules of iptables-legacy:\n%s", out)
		}
		if out := s.do("iptables-nft-save"); strings.Contains(out, "GH-") {
			s.Errorf("rules of iptables-nft are left:\n%s", out)
		}
		// Somebody else holds the lock: the daemon waits for him.
		holder := exec.CommandContext(s.ctx, "nsenter", "-t", strconv.Itoa(s.pid), "-m", "-p", "flock", "/run/xtables.lock", "sleep", "1")
		began := time.Now()
		if err := holder.Start(); err != nil {
			s.Fatal(err)
		}
		s.eventually("the lock is taken", func() error {
			if _, err := s.in("flock", "-n", "/run/xtables.lock", "true"); err == nil {
				return errors.New("it is free")
			}
			return nil
		})
		s.do("gatehouse", "set", "sg", "server", "--add-rule", "ingress accept tcp 8443 from 0.0.0.0/0")
		if took := time.Since(began); took < time.Second {
			s.Errorf("a change was in force after %s, while another held the lock", took)
		}
		if err := holder.Wait(); err != nil {
			s.Error(err)
		}
		s.do("systemctl", "stop", "gatehouse")
		s.do("gatehouse", "teardown", "--offline")
		s.do("sed", "-i", "s/^  backend: .*/  backend: auto/", "/etc/gatehouse/gatehouse.yaml")
		s.do("systemctl", "start", "gatehouse")
	})
	s.part("after a boot the rules are there before the links", func(s *system) {
		before := s.bound()
		s.put("/etc/systemd/system/first-link.service", []byte(firstLink))
		s.do("systemctl", "enable", "first-link")
		s.apply(strings.Replace(bootedLab, "  networkAcls:\n", adopted+"  networkAcls:\n", 1))
		s.shutdown()
		s.boot()
		for family, file := range map[string]string{"IPv4": "/root/first4", "IPv6": "/root/first6"} {
			rules := s.do("cat", file)
			for _, link := range []string{"gh-front", "gh-back", "br-adopt"} {
				for _, rule := range []string{"-A GH-RAW -i " + link, "-A GH-FWD -o " + link} {
					if !regexp.MustCompile("(?m)^" + rule + " .*-j DROP$").MatchString(rules) {
						s.Errorf("%s: when the first link came up there was no %s … -j DROP in\n%s", family, rule, rules)
					}
				}
			}
		}
		if state := s.property("ActiveState"); state != "active" {
			s.Fatalf("it is %s", state)
		}
		s.do("gatehouse", "firewall", "verify")
		s.do("gatehouse", "status")
		from, to = guests(s, "-again")
		if got := s.bound(); strings.Join(got, "\n") != strings.Join(before, "\n") {
			s.Errorf("leases after the boot:\n%s\nbefore:\n%s", strings.Join(got, "\n"), strings.Join(before, "\n"))
		}
		echo, err := to.Echo(allowedPort)
		if err != nil {
			s.Fatal(err)
		}
		defer echo.Close()
		s.eventually("what is allowed passes", func() error {
			if ok, err := from.Reach(s.ctx, "tcp", netip.AddrPortFrom(netip.MustParseAddr(server), allowedPort), time.Second); !ok || err != nil {
				return fmt.Errorf("reached: %v, %w", ok, err)
			}
			return nil
		})
	})
	s.part("a stop leaves the rules, a removal takes them away, a purge everything", func(s *system) {
		s.do("systemctl", "stop", "gatehouse")
		if out := s.do("iptables-save"); !strings.Contains(out, "-j GH-FWD") {
			s.Errorf("a stop has opened the firewall:\n%s", out)
		}
		s.do("dpkg", "-r", "gatehouse")
		for _, tool := range []string{"iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save", "ipset", "ip"} {
			args := map[string][]string{"ipset": {"save"}, "ip": {"-o", "link"}}[tool]
			if out := s.do(append([]string{tool}, args...)...); regexp.MustCompile(`GH-|\bgh`).MatchString(out) {
				s.Errorf("%s after the removal:\n%s", tool, out)
			}
		}
		s.do("test", "-e", "/var/lib/gatehouse/state.db")
		s.do("test", "-e", "/etc/gatehouse/gatehouse.yaml")
		s.do("dpkg", "-P", "gatehouse")
		left := "find /etc /usr/lib /usr/sbin /usr/share /var /run -xdev -name '*gatehouse*' ! -path '/etc/systemd/system/gatehouse.service.d*' ! -path '/var/log/*'"
		if out := s.do("sh", "-c", left+"; getent passwd gatehouse; getent group gatehouse; true"); out != "" {
			s.Errorf("a purge leaves\n%s", out)
		}
	})
	s.part("make install, and make uninstall while it runs", func(s *system) {
		s.put("/root/staged.tar", staged)
		s.put("/root/source/Makefile", makefile)
		s.do("tar", "-C", "/", "-xf", "/root/staged.tar")
		s.do("sh", "-c", "systemd-sysusers gatehouse.conf && systemd-tmpfiles --create gatehouse.conf && systemctl daemon-reload && systemctl enable --now gatehouse")
		s.do("sh", "-c", "printf 'vpcs: [{name: lab, cidrBlock: 10.60.0.0/16, vswitches: [{name: front, cidrBlock: 10.60.1.0/24, attach: {bridge: gh-front}}]}]' | /usr/local/sbin/gatehouse apply -f -")
		s.Log(strings.TrimSpace(s.do("env", "PATH=/usr/local/go/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "make", "--no-print-directory", "-C", "/root/source", "uninstall", "GO="+goTool)))
		for _, tool := range []string{"iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save", "ipset", "ip"} {
			args := map[string][]string{"ipset": {"save"}, "ip": {"-o", "link"}}[tool]
			if out := s.do(append([]string{tool}, args...)...); regexp.MustCompile(`GH-|\bgh`).MatchString(out) {
				s.Errorf("%s after make uninstall:\n%s", tool, out)
			}
		}
		left := s.do("sh", "-c", "find /etc /usr /var /run -xdev -name '*gatehouse*' ! -path '/var/log/*' ! -path '/etc/systemd/system/gatehouse.service.d*' ! -path '/usr/local/go/*' | sort")
		if want := "/etc/gatehouse\n/etc/gatehouse/gatehouse.yaml\n/var/lib/gatehouse\n"; left != want {
			s.Errorf("make uninstall leaves\n%swant\n%s", left, want)
		}
		if out, _ := s.in("systemctl", "list-units", "--all", "--no-legend", "gatehouse*"); strings.Contains(out, "active") { // none is what is hoped for
			s.Errorf("units after make uninstall:\n%s", out)
		}
	})
}

// list reads objects as `get -o json` prints them.
func (s *system) list(kind string) []map[string]any {
	s.Helper()
	var out []map[string]any
	if err := json.Unmarshal([]byte(s.do("gatehouse", "get", kind, "-o", "json")), &out); err != nil {
		s.Fatal(err)
	}
	return out
}

// bound gives the leases that are bound, without their times.
func (s *system) bound() []string {
	s.Helper()
	var out []string
	for _, l := range s.list("leases") {
		if l["state"] == "bound" {
			out = append(out, fmt.Sprintf("%s %s %s", l["address"], l["mac"], l["instance"]))
		}
	}
	return out
}
