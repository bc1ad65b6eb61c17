package acceptance

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/netlab"
	"gatehouse/server/api"
)

// faultsLab has a vSwitch on a link that is not its own.
const faultsLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  vswitches:
  - {name: front, cidrBlock: 10.20.1.0/24, attach: {bridge: gh-front}}
  - {name: plain, cidrBlock: 10.20.3.0/24, attach: {interface: lan0}}
`

// fault is something that is wrong with a host, and what is to be said of it.
type fault struct {
	name         string
	make, mend   string // in the system's shell, while the daemon is stopped
	worsen       string // in the system's shell, while it runs
	holds        [2]string
	rival        bool   // a DHCP server behind lan0
	what, remedy string // in one line, in `systemctl status`, the journal and by doctor
}

// elsewhere lets the daemon keep its state in /srv/gatehouse, where its unit lets it write.
const elsewhere = `
sed -i 's|^stateDir: .*|stateDir: /srv/gatehouse|' /etc/gatehouse/gatehouse.yaml
mkdir -p /srv/gatehouse /etc/systemd/system/gatehouse.service.d
printf '[Service]\nReadWritePaths=/srv\n' >/etc/systemd/system/gatehouse.service.d/elsewhere.conf
systemctl daemon-reload
`

const notElsewhere = `
umount /srv/gatehouse 2>/dev/null || true
rm -rf /srv/gatehouse /etc/systemd/system/gatehouse.service.d
systemctl daemon-reload
`

// oldKernel makes iptables refuse a rule as it does where the kernel lacks what it needs.
const oldKernel = `
cp -a /usr/sbin/iptables-restore /root/
rm /usr/sbin/iptables-restore
cat >/usr/sbin/iptables-restore <<'END'
#!/bin/sh
[ "$1" = -V ] && exec /usr/sbin/iptables-nft-restore -V
text=$(cat)
case $text in *--match-set*) echo "iptables-restore: Couldn't load match set: No such file or directory" >&2; exit 2;; esac
echo "$text" | exec /usr/sbin/iptables-nft-restore "$@"
END
chmod 755 /usr/sbin/iptables-restore
`

var faults = []fault{
	{name: "an uplink that is not there", make: "sed -i 's/^uplinks: .*/uplinks: [eth9]/' /etc/gatehouse/gatehouse.yaml",
		what: "there is no link eth9, which is an uplink", remedy: "correct uplinks in the configuration"},
	{name: "a vSwitch's link that is not there", make: "ip link set lan0 down; ip addr flush dev lan0; ip link set lan0 name lan8", mend: "ip link set lan8 name lan0; ip link set lan0 up",
		what: "there is no link lan0, which vSwitch plain is attached to (there is lan8", remedy: "correct attach.interface of the vSwitch, or plug it in"},
	{name: "another DHCP server on a vSwitch's link", rival: true, what: "answers DHCP on lan0", remedy: "stop that server"},
	{name: "a state directory that the unit does not let it write", make: "sed -i 's|^stateDir: .*|stateDir: /srv/gatehouse|' /etc/gatehouse/gatehouse.yaml",
		mend: notElsewhere, what: "/srv/gatehouse", remedy: "ReadWritePaths="},
	{name: "a state directory of somebody else", make: elsewhere + "chmod 700 /srv/gatehouse", mend: notElsewhere,
		what: "/srv/gatehouse", remedy: "chown"},
	{name: "a read-only file system", make: elsewhere + "mount -t tmpfs -o ro none /srv/gatehouse", mend: notElsewhere,
		what: "read-only file system", remedy: "mount it writable"},
	{name: "a full disk", make: elsewhere + "mount -t tmpfs -o size=64k none /srv/gatehouse; head -c 65536 /dev/zero >/srv/gatehouse/full || true; chown -R gatehouse: /srv/gatehouse",
		mend: notElsewhere, what: "no space left on device", remedy: "free some room"},
	{name: "a disk that fills up while the daemon runs", make: elsewhere + "mount -t tmpfs -o size=16m none /srv/gatehouse; chown -R gatehouse: /srv/gatehouse",
		worsen: "head -c 16m /dev/zero >/srv/gatehouse/full || true", mend: notElsewhere,
		what: "the state directory /srv/gatehouse has", remedy: "free some room"},
	{name: "port 67", holds: [2]string{"udp4", ":67"}, what: "udp port 67 on gh-", remedy: "free the port"},
	{name: "port 53", holds: [2]string{"udp4", "10.20.1.253:53"}, what: "udp port 53 of 10.20.1.253 is taken", remedy: "free the "},
	{name: "no iptables", make: "mv /usr/sbin/xtables-nft-multi /root/", mend: "mv /root/xtables-nft-multi /usr/sbin/",
		what: "iptables", remedy: "install"},
	{name: "a kernel without what rules need", make: oldKernel, mend: "rm /usr/sbin/iptables-restore; mv /root/iptables-restore /usr/sbin/",
		what: "lacks, for ipv4, the match set (xt_set)", remedy: "modprobe"},
}

func TestWhatIsWrongWithTheHostIsSaidInOneLine(t *testing.T) {
	t.Parallel()
	pkg, err := os.ReadFile(debianPackage(t))
	if err != nil {
		t.Fatal(err)
	}
	s := newSystem(t, "faults")
	s.boot()
	behind, err := s.lab.Space("behind")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.lab.Veth(s.ctx, s.space, "lan0", behind, "eth0"); err != nil {
		t.Fatal(err)
	}
	s.put("/root/gatehouse.deb", pkg)
	s.do("dpkg", "-i", "/root/gatehouse.deb")
	s.apply(faultsLab)
	s.do("cp", "/etc/gatehouse/gatehouse.yaml", "/root/right.yaml")
	for _, f := range faults {
		s.part(f.name, func(s *system) {
			s.do("systemctl", "stop", "gatehouse")
			s.do("sh", "-ec", f.make)
			undo := func() {}
			if f.holds[0] != "" {
				undo = s.hold(f.holds[0], f.holds[1])
			}
			if f.rival {
				undo = s.rival(behind)
			}
			s.do("systemctl", "start", "--no-block", "gatehouse") // where it cannot, it is tried again and again
			if f.worsen != "" {
				s.eventually("it runs", func() error {
					_, err := s.in("gatehouse", "status")
					return err
				})
				s.do("sh", "-ec", f.worsen)
			}
			for _, command := range []string{"systemctl status --no-pager -l gatehouse", "journalctl -b -u gatehouse --no-pager -o cat", "gatehouse doctor"} {
				s.Logf("%s: %s", command, s.says(command, f.what, f.remedy))
			}
			undo()
			s.do("systemctl", "stop", "gatehouse")
			s.do("sh", "-c", f.mend)
			s.do("cp", "/root/right.yaml", "/etc/gatehouse/gatehouse.yaml")
			s.do("systemctl", "start", "gatehouse")
			s.eventually("nothing is wrong any more", func() error {
				if out, err := s.in("gatehouse", "status"); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				return nil
			})
			// What was said of one fault must not be taken for what is said of the next one.
			s.do("journalctl", "--rotate", "--vacuum-time=1us")
		})
	}
}

// rival runs somebody's DHCP server in a space, on its link eth0, until stop is called.
func (s *system) rival(behind *netlab.Space) (stop func()) {
	s.Helper()
	dir := filepath.Join(s.lab.Dir, "rival")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.Fatal(err)
	}
	config := filepath.Join(dir, "gatehouse.yaml")
	text := fmt.Sprintf("stateDir: %s\napi: {socket: %s}\n", filepath.Join(dir, "state"), filepath.Join(dir, "api.sock"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		s.Fatal(err)
	}
	daemon := behind.Command(s.ctx, program(s.T), "serve", "--config", config)
	if err := daemon.Start(); err != nil {
		s.Fatal(err)
	}
	client := api.NewClient(filepath.Join(dir, "api.sock"))
	s.eventually("the rival serves", func() error {
		_, err := client.Apply(s.ctx, api.ApplyRequest{Timeout: 10 * time.Second,
			Files: []api.File{{Name: "rival.yaml", Content: []byte(strings.ReplaceAll(rivalLab, "lan0", "eth0"))}}})
		return err
	})
	return func() {
		if err := daemon.Process.Signal(os.Interrupt); err != nil {
			s.Error(err)
		}
		if err := daemon.Wait(); err != nil {
			s.Error(err)
		}
	}
}

// says waits until a command prints a line with both texts, and returns it.
func (s *system) says(command, what, remedy string) (said string) {
	s.Helper()
	s.eventually(command+" names it", func() error {
		out, _ := s.in(strings.Fields(command)...) // status and doctor exit with an error of their own
		for line := range strings.Lines(strings.ReplaceAll(out, "\n         ", ": ")) {
			if strings.Contains(line, what) && strings.Contains(line, remedy) {
				said = strings.TrimSpace(line)
				return nil
			}
		}
		return fmt.Errorf("no line with %q and %q:\n%s", what, remedy, out)
	})
	return said
}

// hold takes a port until the function that it returns is called.
func (s *system) hold(network, addr string) (free func()) {
	s.Helper()
	var holder net.PacketConn
	err := s.space.Do(func() (err error) {
		holder, err = net.ListenPacket(network, addr)
		return err
	})
	if err != nil {
		s.Fatal(err)
	}
	return func() {
		if err := holder.Close(); err != nil {
			s.Error(err)
		}
	}
}
