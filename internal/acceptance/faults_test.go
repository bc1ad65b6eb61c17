package acceptance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/internal/netlab"
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
	make, mend   string                                      // in the system's shell
	wrong        func(*system, *netlab.Space) (right func()) // made besides; the space is behind lan0
	runs         bool                                        // it is made while the daemon runs, else while it is stopped
	worsen       string                                      // in the system's shell, once the daemon runs with what was made
	silent       bool                                        // no guest is given an address
	heals        bool                                        // the daemon finds by itself that it has been mended …
	heal         string                                      // … by this, in the system's shell, while it runs
	what, remedy string                                      // in one line, in `systemctl status`, the journal and by doctor
}

// holds takes a port of the gateway's.
func holds(network, addr string) func(*system, *netlab.Space) func() {
	return func(s *system, _ *netlab.Space) func() { return s.hold(network, addr) }
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

// loopDisk is a disk of its own for that state, which begins as a copy of the other.
const loopDisk = `
mknod /dev/loop-control c 10 237 2>/dev/null || true
for i in 0 1 2 3 4 5 6 7; do mknod /dev/loop$i b 7 $i 2>/dev/null || true; done
truncate -s 64M /root/disk
mkfs.ext4 -q -F /root/disk
mount -o loop,errors=remount-ro /root/disk /srv/gatehouse
cp -a /var/lib/gatehouse/. /srv/gatehouse/
chown gatehouse: /srv/gatehouse
`

// failDisk is what the kernel makes of that disk after an error: it is read-only.
const failDisk = `
mount -o remount,rw /sys
echo 1 >/sys/fs/ext4/$(basename $(findmnt -no SOURCE /srv/gatehouse))/trigger_fs_error
mount -o remount,ro /sys
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
	{name: "a vSwitch's link that is not there", make: "ip link set lan0 down; ip addr flush dev lan0; ip link set lan0 name lan8",
		heals: true, heal: "ip link set lan8 name lan0; ip link set lan0 up", what: "there is no link lan0, which vSwitch plain is attached to (there is lan8", remedy: "it is used as soon as it is there"},
	{name: "a vSwitch's link that goes away", runs: true, heals: true, make: "ip link del lan0", wrong: func(s *system, behind *netlab.Space) func() { return func() { s.cable(behind) } },
		what: "there is no link lan0, which vSwitch plain is attached to", remedy: "it is used as soon as it is there"},
	{name: "a range that another DHCP server serves", heals: true, wrong: rivalServer(false), what: "192.0.2.67 answers DHCP on lan0", remedy: "stop that server"},
	{name: "a DHCP server that comes later", runs: true, heals: true, wrong: rivalServer(true), what: "192.0.2.67 answers DHCP on lan0", remedy: "stop that server"},
	{name: "a state directory that the unit does not let it write", make: "sed -i 's|^stateDir: .*|stateDir: /srv/gatehouse|' /etc/gatehouse/gatehouse.yaml",
		mend: notElsewhere, what: "/srv/gatehouse", remedy: "ReadWritePaths="},
	{name: "a state directory of somebody else", make: elsewhere + "chmod 700 /srv/gatehouse", mend: notElsewhere,
		what: "/srv/gatehouse", remedy: "chown"},
	{name: "a read-only file system", make: elsewhere + "mount -t tmpfs -o ro none /srv/gatehouse", mend: notElsewhere,
		what: "read-only file system", remedy: "mount it writable"},
	{name: "a full disk", make: elsewhere + "mount -t tmpfs -o size=64k none /srv/gatehouse; head -c 65536 /dev/zero >/srv/gatehouse/full || true; chown -R gatehouse: /srv/gatehouse",
		mend: notElsewhere, what: "no space left on device", remedy: "free some room"},
	{name: "a disk that fills up while the daemon runs", make: elsewhere + "mount -t tmpfs -o size=16m none /srv/gatehouse; chown -R gatehouse: /srv/gatehouse",
		worsen: "head -c 16m /dev/zero >/srv/gatehouse/full || true", heals: true, heal: "rm /srv/gatehouse/full", mend: notElsewhere,
		what: "the state directory /srv/gatehouse has", remedy: "free some room"},
	{name: "a file system that turns read-only while the daemon runs", make: elsewhere + loopDisk, worsen: failDisk, silent: true, mend: notElsewhere + "rm /root/disk",
		what: "no lease is given that cannot be stored: ", remedy: "mount it writable"},
	{name: "a read-only root", make: "mount -t tmpfs -o ro,mode=700,uid=$(id -u gatehouse),gid=$(id -g gatehouse) none /var/lib/gatehouse",
		mend: "umount /var/lib/gatehouse", what: "read-only file system", remedy: "mount it writable"},
	{name: "port 67", wrong: holds("udp4", ":67"), what: "udp port 67 on gh-", remedy: "free the port"},
	{name: "port 53", wrong: holds("udp4", "10.20.1.253:53"), what: "udp port 53 of 10.20.1.253 is taken", remedy: "free the "},
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
	s.cable(behind)
	s.put("/root/gatehouse.deb", pkg)
	s.do("dpkg", "-i", "/root/gatehouse.deb")
	s.apply(faultsLab)
	s.do("cp", "/etc/gatehouse/gatehouse.yaml", "/root/right.yaml")
	for _, f := range faults {
		s.part(f.name, func(s *system) {
			if !f.runs {
				s.do("systemctl", "stop", "gatehouse")
			}
			s.do("sh", "-ec", f.make)
			undo := func() {}
			if f.wrong != nil {
				undo = f.wrong(s, behind)
			}
			if !f.runs {
				s.do("systemctl", "start", "--no-block", "gatehouse") // where it cannot, it is tried again and again
			}
			if f.worsen != "" {
				s.eventually("it runs", func() error {
					_, err := s.in("gatehouse", "status")
					return err
				})
				s.do("sh", "-ec", f.worsen)
			}
			if f.silent {
				guest, err := s.lab.Guest(s.ctx, "guest", s.space, "guest0", "gh-front", "00:16:3e:00:09:01")
				if err != nil {
					s.Fatal(err)
				}
				if out, err := guest.Run(s.ctx, "udhcpc", "-n", "-q", "-t", "3", "-T", "1", "-i", "eth0"); err == nil {
					s.Errorf("a guest is given an address: %s", out)
				}
			}
			for _, command := range []string{"systemctl status --no-pager -l gatehouse", "journalctl -b -u gatehouse --no-pager -o cat", "gatehouse doctor"} {
				s.Logf("%s: %s", command, s.says(command, f.what, f.remedy))
			}
			undo()
			healthy := func() error {
				if out, err := s.in("gatehouse", "status"); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				return nil
			}
			if f.heals {
				pid := s.property("MainPID")
				s.do("sh", "-ec", f.heal)
				s.eventually("nothing is wrong any more, by itself", healthy)
				if now := s.property("MainPID"); now != pid {
					s.Errorf("process %s became %s", pid, now)
				}
			}
			if !f.heals || f.mend != "" {
				s.do("systemctl", "stop", "gatehouse")
				s.do("sh", "-c", f.mend)
				s.do("cp", "/root/right.yaml", "/etc/gatehouse/gatehouse.yaml")
				s.do("systemctl", "start", "gatehouse")
				s.eventually("nothing is wrong any more", healthy)
			}
			// What was said of one fault must not be taken for what is said of the next one.
			s.do("journalctl", "--rotate", "--vacuum-time=1us")
		})
	}
}

// cable makes the link lan0, behind which is another machine.
func (s *system) cable(behind *netlab.Space) {
	s.Helper()
	if err := s.lab.Veth(s.ctx, s.space, "lan0", behind, "eth0"); err != nil {
		s.Fatal(err)
	}
	if _, err := behind.Script(s.ctx, "ip addr add 192.0.2.67/24 dev eth0\n"); err != nil {
		s.Fatal(err)
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

// rivalServer offers an address to every client behind lan0, and to the link itself when it is asked there. With a client of
// its own it is heard without being asked.
func rivalServer(client bool) func(s *system, behind *netlab.Space) (end func()) {
	return func(s *system, behind *netlab.Space) (end func()) {
		s.Helper()
		var conn net.PacketConn
		err := behind.Do(func() (err error) {
			lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
				if ctl := c.Control(func(fd uintptr) {
					err = errors.Join(unix.BindToDevice(int(fd), "eth0"), unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
				}); ctl != nil {
					return ctl
				}
				return err
			}}
			conn, err = lc.ListenPacket(s.ctx, "udp4", ":67")
			return err
		})
		if err != nil {
			s.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			const fixed = 240 // what is before the options: RFC 2131 section 2
			question := make([]byte, 1500)
			for {
				if client { // which asks again and again, over a link that only the server shares with it
					if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
						return // closed
					}
				}
				n, _, err := conn.ReadFrom(question)
				switch {
				case errors.Is(err, os.ErrDeadlineExceeded):
					copy(question, []byte{1, 1, 6, 0, 7, 7, 7, 7})
					copy(question[fixed-4:], []byte{99, 130, 83, 99})
				case err != nil:
					return // closed
				case n < fixed:
					continue
				}
				offer := append([]byte{2}, question[1:fixed]...)
				copy(offer[16:], []byte{192, 0, 2, 68})                                       // yiaddr
				offer = append(offer, 53, 1, 2, 54, 4, 192, 0, 2, 67, 51, 4, 0, 0, 1, 0, 255) // OFFER, the server, a lease time
				conn.WriteTo(offer, &net.UDPAddr{IP: net.IPv4bcast, Port: 68})                // who waits for it tells
			}
		}()
		return func() {
			if err := conn.Close(); err != nil {
				s.Error(err)
			}
			<-ended
		}
	}
}
