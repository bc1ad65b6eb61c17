package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/netlab"
	"gatehouse/server/api"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// binEnv names the program under test; without it the tests build one.
const binEnv = "GATEHOUSE_BIN"

// patience is how long a condition may take on a machine that is busy with other tests.
const patience = time.Minute

// built is the program that build makes; TestMain removes it.
var built struct {
	once sync.Once
	dir  string
	bin  string
	err  error
}

// program gives the path of the program under test.
func program(t *testing.T) string {
	t.Helper()
	built.once.Do(func() { built.bin, built.err = build() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.bin
}

func build() (string, error) {
	if bin := os.Getenv(binEnv); bin != "" {
		return filepath.Abs(bin)
	}
	var err error
	if built.dir, err = os.MkdirTemp("", "gh-bin-"); err != nil {
		return "", err
	}
	bin := filepath.Join(built.dir, "gatehouse")
	if out, err := exec.Command("go", "build", "-o", bin, "gatehouse/cmd/gatehouse").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return bin, nil
}

// removeBuilt removes what program has built.
func removeBuilt() { os.RemoveAll(built.dir) }

// gateway is a host with the daemon on it, in a lab of its own. The daemon outlives its death: start, kill and stop may
// follow each other as a test likes.
type gateway struct {
	*testing.T
	ctx    context.Context
	lab    *netlab.Lab
	space  *netlab.Space
	bin    string
	client *api.Client
	env    []string   // of the daemon, besides the test's own
	daemon *exec.Cmd  // nil: none is running
	ended  chan error // what the daemon's Wait said
}

var raising sync.Mutex

// newGateway raises a host and writes the daemon's configuration: the lab's paths, and the lines given. Nothing runs yet.
func newGateway(t *testing.T, config ...string) *gateway {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	raising.Lock() // each lab sweeps up behind dead ones, which two cannot do at once
	lab, err := netlab.New("accept")
	raising.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{T: t, ctx: ctx, lab: lab, bin: program(t)}
	t.Cleanup(func() {
		if g.daemon != nil {
			g.kill()
		}
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", g.log())
		}
		cancel()
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	if g.space, err = lab.Space("gw"); err != nil {
		t.Fatal(err)
	}
	g.client = api.NewClient(g.path("api.sock"))
	g.configure(config...)
	return g
}

// in is the same gateway for a part of the test.
func (g *gateway) in(t *testing.T) *gateway {
	part := *g
	part.T = t
	return &part
}

// path gives a file of the lab's scratch directory, which every host of the lab sees, and where commands are run.
func (g *gateway) path(name string) string { return filepath.Join(g.lab.Dir, name) }

// write writes a file there and returns its name.
func (g *gateway) write(name, text string) string {
	g.Helper()
	if err := os.WriteFile(g.path(name), []byte(text), 0o644); err != nil {
		g.Fatal(err)
	}
	return name
}

// configure writes the configuration; the daemon reads it when it starts, or at SIGHUP.
func (g *gateway) configure(lines ...string) {
	g.Helper()
	lines = append([]string{
		"stateDir: " + g.path("state"),
		"api: {socket: " + g.path("api.sock") + "}",
	}, lines...)
	if !strings.Contains(strings.Join(lines, "\n"), "\ndns:") {
		lines = append(lines, "dns: {upstreams: []}")
	}
	g.write("gatehouse.yaml", strings.Join(lines, "\n")+"\n")
}

func (g *gateway) log() string {
	text, err := os.ReadFile(g.path("daemon.log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// start runs the daemon and waits until what is stored is in force.
func (g *gateway) start() {
	g.Helper()
	g.launch()
	g.ready()
}

// launch runs the daemon.
func (g *gateway) launch() {
	g.Helper()
	log, err := os.OpenFile(g.path("daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		g.Fatal(err)
	}
	defer log.Close()
	cmd := g.space.Command(g.ctx, "env", append(slices.Clone(g.env), g.bin, "serve", "--config", g.path("gatehouse.yaml"))...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		g.Fatal(err)
	}
	g.daemon, g.ended = cmd, make(chan error, 1)
	go func(ended chan<- error) { ended <- cmd.Wait() }(g.ended)
}

// ready waits until the daemon says that it is.
func (g *gateway) ready() {
	g.Helper()
	g.eventually("the daemon is ready", func() error {
		select {
		case err := <-g.ended:
			g.daemon = nil
			g.Fatalf("the daemon ended: %v", err)
		default:
		}
		return g.client.Do(g.ctx, "GET", "/readyz", nil, nil, nil)
	})
}

// kill ends the daemon as a crash does.
func (g *gateway) kill() {
	g.Helper()
	if err := g.daemon.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		g.Error(err)
	}
	<-g.ended
	g.daemon = nil
}

// stop ends the daemon in order and checks that it ends so.
func (g *gateway) stop() {
	g.Helper()
	g.signal(os.Interrupt)
	select {
	case err := <-g.ended:
		if err != nil {
			g.Errorf("the daemon, asked to end: %v", err)
		}
		g.daemon = nil
	case <-time.After(patience):
		g.Fatal("the daemon does not end")
	}
}

func (g *gateway) signal(s os.Signal) {
	g.Helper()
	if err := g.daemon.Process.Signal(s); err != nil {
		g.Fatal(err)
	}
}

// result is what a command line did.
type result struct {
	stdout, stderr string
	code           int
}

// runInput runs the program with one command line in the lab's directory, on the gateway, with an input.
func (g *gateway) runInput(input io.Reader, args ...string) result {
	g.Helper()
	cmd := g.space.Command(g.ctx, "env", append([]string{"-C", g.lab.Dir, "GATEHOUSE_SOCKET=" + g.path("api.sock"), g.bin}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = input, &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		g.Fatalf("gatehouse %s: %v", strings.Join(args, " "), err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// run runs the program with one command line.
func (g *gateway) run(args ...string) result {
	g.Helper()
	return g.runInput(nil, args...)
}

// ok runs the program and returns what it printed; anything but success and silence on standard error is fatal.
func (g *gateway) ok(args ...string) string {
	g.Helper()
	r := g.run(args...)
	if r.code != 0 || r.stderr != "" {
		g.Fatalf("gatehouse %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// fails runs the program and checks that it exits with a code, prints nothing on standard output and exactly this on
// standard error.
func (g *gateway) fails(code int, stderr string, args ...string) {
	g.Helper()
	r := g.run(args...)
	if r.code != code || r.stdout != "" || r.stderr != stderr {
		g.Errorf("gatehouse %s: exit %d (want %d)\nprinted %q\nsaid  %q\nwant  %q", strings.Join(args, " "), r.code, code, r.stdout, r.stderr, stderr)
	}
}

// apply puts a manifest in force.
func (g *gateway) apply(manifest string, flags ...string) {
	g.Helper()
	g.write("apply.yaml", manifest)
	g.ok(append([]string{"apply", "-f", "apply.yaml"}, flags...)...)
}

// get reads objects as `get -o json` prints them.
func (g *gateway) get(args ...string) []map[string]any {
	g.Helper()
	var list []map[string]any
	g.decode(g.ok(append(append([]string{"get"}, args...), "-o", "json")...), &list)
	return list
}

// decode reads JSON that the program printed.
func (g *gateway) decode(text string, into any) {
	g.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		g.Fatalf("not the JSON that was expected: %v\n%s", err, text)
	}
}

// revisions gives what is stored and what is in force.
func (g *gateway) revisions() (stored, applied uint64) {
	g.Helper()
	s, err := g.client.Status(g.ctx)
	if err != nil {
		g.Fatal(err)
	}
	return s.Revision, s.Applied
}

// eventually waits until a condition holds.
func (g *gateway) eventually(what string, f func() error) {
	g.Helper()
	ctx, cancel := context.WithTimeout(g.ctx, patience)
	defer cancel()
	if err := netlab.Eventually(ctx, f); err != nil {
		g.Fatalf("%s: not within %s: %v", what, patience, err)
	}
}

// portOf names the gateway's end of a guest's cable; the kernel takes 15 characters.
func portOf(label string) string {
	port := "p-" + label
	return port[:min(len(port), 15)]
}

// guest plugs a new host into a bridge of the gateway.
func (g *gateway) guest(label, bridge, mac string) *netlab.Space {
	g.Helper()
	s, err := g.lab.Guest(g.ctx, label, g.space, portOf(label), bridge, mac)
	if err != nil {
		g.Fatal(err)
	}
	return s
}

// static plugs a guest in and gives it its addresses by hand, with the gateway as its router in both families.
func (g *gateway) static(label, bridge, mac, v4, router4, v6 string) *netlab.Space {
	g.Helper()
	s := g.guest(label, bridge, mac)
	g.script(s, fmt.Sprintf("ip addr add %s/24 dev eth0\nip route add default via %s\n", v4, router4))
	if v6 != "" {
		if err := s.StaticIPv6(g.ctx, v6); err != nil {
			g.Fatal(err)
		}
	}
	return s
}

// script runs a shell script on a host and returns what it printed.
func (g *gateway) script(s *netlab.Space, script string) string {
	g.Helper()
	out, err := s.Script(g.ctx, script)
	if err != nil {
		g.Fatal(err)
	}
	return out
}

// The lab's outside (RFC 5737 and RFC 3849 documentation ranges).
const (
	uplink4, outside4 = "192.0.2.1", "192.0.2.2"
	uplink6, outside6 = "2001:db8:2::1", "2001:db8:2::2"
)

// outside adds a host behind the gateway's link up0, which knows the way to the lab's ranges.
func (g *gateway) outside(ranges ...string) *netlab.Space {
	g.Helper()
	s, err := g.lab.Space("outside")
	if err == nil {
		err = g.lab.Veth(g.ctx, g.space, "up0", s, "eth0")
	}
	if err != nil {
		g.Fatal(err)
	}
	g.script(g.space, fmt.Sprintf("ip addr add %s/24 dev up0\nip addr add %s/64 dev up0 nodad\n", uplink4, uplink6))
	script := fmt.Sprintf("ip addr add %s/24 dev eth0\nip addr add %s/64 dev eth0 nodad\n", outside4, outside6)
	for _, r := range ranges {
		via := uplink4
		if strings.Contains(r, ":") {
			via = uplink6
		}
		script += fmt.Sprintf("ip route add %s via %s\n", r, via)
	}
	g.script(s, script)
	return s
}
