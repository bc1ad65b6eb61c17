package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/internal/netlab"
)

// system is a machine with a real systemd as its first process: a copy of this machine's files that is thrown away, its own
// processes, network and cgroups. What it writes stays when it is booted again; what is in its kernel does not.
type system struct {
	*testing.T
	ctx   context.Context
	lab   *netlab.Lab
	disk  *netlab.Space // holds what it has written
	space *netlab.Space // its network, another one after every boot
	boots int
	cmd   *exec.Cmd
	ended chan error
	pid   int          // of its systemd, as this machine sees it
	last  func(func()) // does something when the whole test ends, not just a part of it
}

// systemInit makes the files of the system and becomes its systemd. A cgroup and a network have been given to it; $1 is
// the disk.
const systemInit = `set -e
mount --make-rprivate /
disk=$1 R=$1/root
mkdir -p $disk/upper $disk/work $R
mount -t overlay overlay -o lowerdir=/,upperdir=$disk/upper,workdir=$disk/work $R
mount -t proc proc $R/proc
mount -t sysfs -o ro sysfs $R/sys
mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
mount -t tmpfs -o mode=755 dev $R/dev
mkdir $R/dev/pts $R/dev/shm $R/dev/mqueue $R/dev/net
for d in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 $R/dev/${d%:*} c 1 ${d#*:}; done
mknod -m 666 $R/dev/tty c 5 0
mknod -m 600 $R/dev/kmsg c 1 3
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts $R/dev/pts
ln -s pts/ptmx $R/dev/ptmx
mount -t tmpfs shm $R/dev/shm
mount -t tmpfs -o mode=755 run $R/run
mount -t tmpfs tmp $R/tmp
# Every boot has its own ID.
cat /proc/sys/kernel/random/uuid >$R/run/boot_id
mount --bind $R/run/boot_id $R/proc/sys/kernel/random/boot_id
if [ ! -e $disk/installed ]; then
	# Only what the test wants starts, and nothing is left of what this machine has had of gatehouse.
	rm -rf $R/etc/init.d/* $R/etc/rc?.d/* $R/etc/systemd/system/* $R/etc/systemd/network/* $R/var/log/journal
	rm -rf $R/etc/gatehouse $R/var/lib/gatehouse $R/usr/sbin/policy-rc.d
	: >$R/etc/fstab
	echo 00000000000000000000000000000001 >$R/etc/machine-id
	rm -f $R/etc/resolv.conf
	echo nameserver 192.0.2.53 >$R/etc/resolv.conf
	touch $disk/installed
fi
cd $R
mkdir -p .old
pivot_root . .old
umount -l /.old
rmdir /.old 2>/dev/null || true
exec env -i container=sandbox PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
	/lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=no </dev/null >/dev/null 2>&1
`

// newSystem installs the machine; nothing runs yet. Those that run at the same time have different labels.
func newSystem(t *testing.T, label string) *system {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	raising.Lock()
	lab, err := netlab.New(label)
	raising.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	s := &system{T: t, ctx: ctx, lab: lab, last: t.Cleanup}
	t.Cleanup(func() {
		if t.Failed() && s.pid != 0 {
			out, _ := s.in("journalctl", "-b", "--no-pager", "-o", "short-monotonic", "-u", "gatehouse*", "-u", "first-link") // only to say more
			t.Logf("its journal:\n%s", out)
		}
		s.cut()
		cancel()
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	if s.disk, err = lab.Space("disk"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(lab.Dir, "init.sh"), []byte(systemInit), 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

// cgroup is where the system's processes are. It needs the second version, beside the first or alone.
func (s *system) cgroup() string {
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/unified"); err == nil {
		root += "/unified"
	}
	return filepath.Join(root, fmt.Sprintf("%s-%d", filepath.Base(s.lab.Dir), s.boots))
}

// boot starts the machine with an empty kernel, and waits until everything that starts by itself has.
func (s *system) boot() {
	s.Helper()
	s.boots++
	var err error
	if s.space, err = s.lab.Space("gw" + strconv.Itoa(s.boots)); err != nil {
		s.Fatal(err)
	}
	group := s.cgroup()
	if err := os.Mkdir(group, 0o755); err != nil {
		s.Fatal(err)
	}
	s.cmd = exec.Command("bash", "-c", `echo $$ >"$1/cgroup.procs"; exec nsenter --mount=/proc/$2/ns/mnt --net=/proc/$3/ns/net -- `+
		`unshare --fork --pid --mount --uts --ipc --cgroup --kill-child bash "$4" "$5"`, "boot",
		group, strconv.Itoa(s.disk.PID()), strconv.Itoa(s.space.PID()), filepath.Join(s.lab.Dir, "init.sh"), filepath.Join(s.lab.Dir, "space-disk"))
	var said bytes.Buffer
	s.cmd.Stdout, s.cmd.Stderr = &said, &said
	if err := s.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.ended = make(chan error, 1)
	go func(cmd *exec.Cmd, ended chan<- error) { ended <- cmd.Wait() }(s.cmd, s.ended)
	s.eventually("systemd runs", func() error {
		select {
		case err := <-s.ended:
			s.Fatalf("it does not boot: %v\n%s", err, said.String())
		default:
		}
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.cmd.Process.Pid, s.cmd.Process.Pid))
		if err != nil {
			return err
		}
		for _, child := range strings.Fields(string(children)) {
			comm, err := os.ReadFile("/proc/" + child + "/comm")
			if err == nil && string(comm) == "systemd\n" {
				s.pid, err = strconv.Atoi(child)
				return err
			}
		}
		return errors.New("not yet")
	})
	s.eventually("it has booted", func() error {
		out, err := s.in("systemctl", "is-system-running")
		if state := strings.TrimSpace(out); state != "running" && state != "degraded" {
			return fmt.Errorf("%s: %w", state, err)
		}
		return nil
	})
}

// shutdown switches it off in order.
func (s *system) shutdown() {
	s.Helper()
	s.in("systemctl", "poweroff", "--no-block") // cut off with everything else
	select {
	case <-s.ended:
	case <-time.After(patience):
		s.Error("it does not shut down")
	}
	s.cut()
}

// cut is a power cut: it is gone with all its processes, and its cgroups.
func (s *system) cut() {
	if s.cmd == nil {
		return
	}
	if s.pid != 0 {
		syscall.Kill(s.pid, syscall.SIGKILL) // it may have ended
	}
	s.cmd.Process.Kill()
	s.cmd, s.pid = nil, 0
	group := s.cgroup()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// Its processes die with their first one, and then its cgroups are empty.
	err := netlab.Eventually(ctx, func() error {
		var dirs []string
		filepath.WalkDir(group, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append([]string{path}, dirs...)
			}
			return nil
		})
		for _, d := range dirs {
			syscall.Rmdir(d) // the last one tells
		}
		if _, err := os.Stat(group); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is still there", group)
		}
		return nil
	})
	if err != nil {
		s.Error(err)
	}
}

// in runs a command in the system and returns all that it printed.
func (s *system) in(args ...string) (string, error) { return s.inInput(nil, args...) }

func (s *system) inInput(input io.Reader, args ...string) (string, error) {
	full := append([]string{"-t", strconv.Itoa(s.pid), "-m", "-p", "-n", "-u", "-i", "-C", "--",
		"env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=dumb", "SYSTEMD_PAGER=", "LANG=C.UTF-8"}, args...)
	cmd := exec.CommandContext(s.ctx, "nsenter", full...)
	cmd.WaitDelay = 2 * time.Second
	cmd.Stdin = input
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// do runs a command that must succeed.
func (s *system) do(args ...string) string {
	s.Helper()
	out, err := s.in(args...)
	if err != nil {
		s.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// put writes a file.
func (s *system) put(path string, text []byte) {
	s.Helper()
	if out, err := s.inInput(bytes.NewReader(text), "sh", "-c", `mkdir -p "$(dirname "$1")" && cat >"$1"`, "sh", path); err != nil {
		s.Fatalf("write %s: %v\n%s", path, err, out)
	}
}

// apply puts a manifest in force.
func (s *system) apply(manifest string, flags ...string) {
	s.Helper()
	out, err := s.inInput(strings.NewReader(manifest), append([]string{"gatehouse", "apply", "-f", "-"}, flags...)...)
	if err != nil {
		s.Fatalf("apply: %v\n%s", err, out)
	}
}

// property asks systemd about the daemon.
func (s *system) property(name string) string {
	s.Helper()
	return strings.TrimSpace(s.do("systemctl", "show", "gatehouse", "--value", "-p", name))
}

// eventually waits until a condition holds.
func (s *system) eventually(what string, f func() error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	if err := netlab.Eventually(ctx, f); err != nil {
		s.Fatalf("%s: not within %s: %v", what, patience, err)
	}
}

// part runs a part of the test; what follows a part that failed would only confuse.
func (s *system) part(name string, f func(s *system)) {
	s.Helper()
	whole := s.T
	ok := whole.Run(name, func(t *testing.T) {
		s.T = t
		f(s)
	})
	s.T = whole
	if !ok {
		s.FailNow()
	}
}
