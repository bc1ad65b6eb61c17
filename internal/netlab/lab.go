// Package netlab raises small networks in namespaces of one machine: a gateway, guests behind it, an outside. Tests and
// `gatehouse demo` use it to send real packets between real clients.
//
// Nothing outside the namespaces is touched, and nothing is left behind: Close removes everything, and New removes what a
// killed process of the same kind left.
package netlab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
)

// namespaceDir is where iproute2 keeps named namespaces.
const namespaceDir = "/run/netns"

// Lab is a set of namespaces that live and die together. Its methods may be used from several goroutines.
type Lab struct {
	Dir    string // scratch files, removed by Close; visible in every Space
	prefix string

	mu     sync.Mutex
	spaces []*Space
	links  int
}

// New starts an empty lab. The label becomes part of the namespaces' names: gh-<label>-<pid>-<space>.
// It needs root; what an earlier, killed process with the same label left is removed first.
func New(label string) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root")
	}
	if err := removeStale(label); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "gh-"+label+"-")
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", label, err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lab %s: %w", label, err)
	}
	// One process may raise several labs of a label: the directory's random part tells them apart.
	unique := strings.TrimPrefix(filepath.Base(dir), "gh-"+label+"-")
	return &Lab{Dir: dir, prefix: fmt.Sprintf("gh-%s-%d-%s", label, os.Getpid(), unique)}, nil
}

// removeStale deletes the namespaces of dead processes with that label.
func removeStale(label string) error {
	entries, err := os.ReadDir(namespaceDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), "gh-"+label+"-")
		if !ok {
			continue
		}
		pid, err := strconv.Atoi(strings.SplitN(rest, "-", 2)[0])
		if err != nil || syscall.Kill(pid, 0) == nil {
			continue
		}
		if err := deleteNamespace(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// deleteNamespace kills whatever runs in a namespace and removes it.
func deleteNamespace(name string) error {
	pids, _ := exec.Command("ip", "netns", "pids", name).Output() // a namespace that is gone has none
	for _, f := range strings.Fields(string(pids)) {
		if pid, err := strconv.Atoi(f); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
		}
	}
	if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
		return fmt.Errorf("delete namespace %s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// Close kills what runs in the lab and removes its namespaces and files.
func (l *Lab) Close() error {
	l.mu.Lock()
	spaces := l.spaces
	l.spaces = nil
	l.mu.Unlock()
	var errs []error
	for _, s := range spaces {
		if s.holder != nil && s.holder.Process != nil {
			_ = s.holder.Process.Kill() // it may be gone already
		}
		errs = append(errs, deleteNamespace(s.name))
		if s.holder != nil {
			_ = s.holder.Wait() // killed on purpose
		}
	}
	errs = append(errs, os.RemoveAll(l.Dir))
	return errors.Join(errs...)
}

// Space is one namespace: a host of the lab with its own network, host name, /etc, /run and
// /var/lib, so that a DHCP client's script may write resolv.conf as it likes.
type Space struct {
	Lab    *Lab
	Label  string
	name   string
	holder *exec.Cmd
}

// holderScript gives the holder process private copies of what clients and daemons write to, says so, and waits.
const holderScript = `set -e
hostname "$2"
mkdir -p "$1"
mount -t tmpfs gh-lab "$1"
mount -t tmpfs gh-run /run
mkdir -p /run/lock /run/systemd/netif/leases /run/systemd/netif/links /run/systemd/netif/lldp
chown -R systemd-network /run/systemd/netif 2>/dev/null || true
for d in etc var/lib; do
	n=$(echo $d | tr / -)
	mkdir -p "$1/$n.upper" "$1/$n.work"
	mount -t overlay gh-overlay -o "lowerdir=/$d,upperdir=$1/$n.upper,workdir=$1/$n.work" "/$d"
done
rm -f /etc/resolv.conf
: > /etc/resolv.conf
echo "127.0.0.1 localhost $2" > /etc/hosts
ip link set lo up
echo ready
exec sleep infinity
`

// Space adds a namespace. The label must be unique in the lab.
func (l *Lab) Space(label string) (*Space, error) {
	s := &Space{Lab: l, Label: label, name: l.prefix + "-" + label}
	if out, err := exec.Command("ip", "netns", "add", s.name).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("add namespace %s: %w: %s", s.name, err, bytes.TrimSpace(out))
	}
	l.mu.Lock()
	l.spaces = append(l.spaces, s)
	l.mu.Unlock()
	s.holder = exec.Command("ip", "netns", "exec", s.name, "unshare", "--mount", "--uts", "--propagation", "private",
		"sh", "-c", holderScript, "sh", filepath.Join(l.Dir, "space-"+label), label)
	stdout, err := s.holder.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", s.name, err)
	}
	var stderr bytes.Buffer
	s.holder.Stderr = &stderr
	if err := s.holder.Start(); err != nil {
		return nil, fmt.Errorf("namespace %s: %w", s.name, err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "ready\n" {
		return nil, fmt.Errorf("namespace %s: private files: %s", s.name, bytes.TrimSpace(stderr.Bytes()))
	}
	return s, nil
}

// Name returns the namespace's name as `ip netns` shows it.
func (s *Space) Name() string { return s.name }

// PID returns the process that holds the namespace open: what `ip link set … netns PID` and nsenter take. A space's
// private /run hides the named namespaces from commands that run in it.
func (s *Space) PID() int { return s.holder.Process.Pid }

// Command prepares a command that runs in the namespace with its private files. It is killed when ctx ends.
func (s *Space) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	pid := strconv.Itoa(s.PID())
	full := append([]string{"-t", pid, "-m", "-n", "-u", "--wd=/", "--", name}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", full...)
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// Run runs a command in the namespace and returns what it printed on standard output. The error holds what it printed on
// standard error.
func (s *Space) Run(ctx context.Context, name string, args ...string) (string, error) {
	return s.RunInput(ctx, nil, name, args...)
}

// RunInput is Run with standard input.
func (s *Space) RunInput(ctx context.Context, input io.Reader, name string, args ...string) (string, error) {
	cmd := s.Command(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = input, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %s %s: %w: %s", s.Label, name, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// Script runs a shell script in the namespace, stopping at the first command that fails.
func (s *Space) Script(ctx context.Context, script string) (string, error) {
	return s.RunInput(ctx, strings.NewReader(script), "sh", "-e")
}

// Do calls f on a thread that is in the namespace's network: sockets and netlink handles that f opens belong to it, also
// after f has returned. Goroutines that f starts are not in it.
func (s *Space) Do(f func() error) error {
	errc := make(chan error, 1)
	go func() {
		// The thread is not given back to the runtime when it could not return to its own namespace.
		runtime.LockOSThread()
		own, err := netns.Get()
		if err != nil {
			errc <- fmt.Errorf("%s: %w", s.Label, err)
			return
		}
		defer own.Close()
		other, err := netns.GetFromName(s.name)
		if err != nil {
			errc <- fmt.Errorf("%s: %w", s.Label, err)
			return
		}
		defer other.Close()
		if err := netns.Set(other); err != nil {
			errc <- fmt.Errorf("%s: %w", s.Label, err)
			return
		}
		err = f()
		if netns.Set(own) == nil {
			runtime.UnlockOSThread()
		}
		errc <- err
	}()
	return <-errc
}

// Handle opens the namespace; the caller closes it.
func (s *Space) Handle() (netns.NsHandle, error) { return netns.GetFromName(s.name) }

// Veth joins two spaces by a cable: link aName in a, link bName in b, both up.
func (l *Lab) Veth(ctx context.Context, a *Space, aName string, b *Space, bName string) error {
	l.mu.Lock()
	l.links++
	tmp := fmt.Sprintf("ghl%d", l.links)
	l.mu.Unlock()
	_, err := a.Script(ctx, fmt.Sprintf("ip link add %s type veth peer name %s netns %d\nip link set %s up\n", aName, tmp, b.PID(), aName))
	if err != nil {
		return err
	}
	_, err = b.Script(ctx, fmt.Sprintf("ip link set %s name %s\nip link set %s up\n", tmp, bName, bName))
	return err
}

// Guest adds a host with one link eth0 of the given MAC, whose other end is the link port of the gateway, a port of bridge
// (or of nothing, when bridge is empty). The guest has no address yet.
func (l *Lab) Guest(ctx context.Context, label string, gateway *Space, port, bridge, mac string) (*Space, error) {
	s, err := l.Space(label)
	if err != nil {
		return nil, err
	}
	// The MAC is set before the link comes up: no frame ever leaves with another one.
	script := fmt.Sprintf("ip link add %s type veth peer name eth0 address %s netns %d\n", port, mac, s.PID())
	if bridge != "" {
		script += fmt.Sprintf("ip link set %s master %s\n", port, bridge)
	}
	script += fmt.Sprintf("ip link set %s up\n", port)
	if _, err := gateway.Script(ctx, script); err != nil {
		return nil, err
	}
	if _, err := s.Script(ctx, "ip link set eth0 up\n"); err != nil {
		return nil, err
	}
	return s, nil
}

// Eventually calls f until it returns nil, at growing intervals up to 100 ms, and gives its last error when ctx ends.
func Eventually(ctx context.Context, f func() error) error {
	wait := time.Millisecond
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		wait = min(2*wait, 100*time.Millisecond)
	}
}
