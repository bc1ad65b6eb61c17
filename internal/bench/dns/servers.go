package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gatehouse/internal/netlab"
	"gatehouse/server/dns"
	"gatehouse/vpc"
)

// The core that servers run on, and that of the generator.
const (
	serverCore = "0"
	loadCore   = "1"
)

// readyTime is how long a server may take until it answers.
const readyTime = 2 * time.Minute

// bench is one run.
type bench struct {
	options
	space   *netlab.Space
	dir     string
	out     writer
	running map[string]*process            // by server
	runs    map[string]map[string][]sample // by workload and server

	rest, busy []change // one of each a round
}

type writer = interface{ Write([]byte) (int, error) }

// process is one server at work.
type process struct {
	addr   netip.AddrPort
	cmd    *exec.Cmd
	exited chan struct{}
}

// server is how to start one. DIR in its configuration and arguments is the run's directory, ADDR the gateway address.
type server struct {
	name   string
	addr   netip.Addr // invalid: the gateway address
	port   uint16
	config string // written to DIR/NAME.conf
	args   []string
	probe  string // a name that it answers when it is ready
}

const known = "ns." + zone // the peers' own name; instances are asked of gatehouse

func servers() []server {
	first := hosts()[0].name
	return []server{
		{name: "far", addr: netip.AddrFrom4([4]byte{127, 0, 0, 1}), port: 5310, config: nsdConfig("127.0.0.1", 5310, outside), args: []string{"nsd", "-d", "-c", "DIR/far.conf"}, probe: first + "." + outside},
		{name: "gatehouse", port: 53, probe: first + "." + zone},
		{name: "nsd", port: 5301, config: nsdConfig("ADDR", 5301, zone, reverseZone), args: []string{"nsd", "-d", "-c", "DIR/nsd.conf"}, probe: known},
		{name: "knot", port: 5304, config: `server:
    rundir: "DIR"
    listen: ADDR@5304
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    tcp-io-timeout: 2000
database:
    storage: "DIR/knot"
log:
  - target: stderr
    any: error
template:
  - id: default
    storage: "DIR"
    file: "%s.zone"
    zonefile-sync: -1
    journal-content: none
zone:
  - domain: lab.internal
  - domain: 10.in-addr.arpa
`, args: []string{"knotd", "-c", "DIR/knot.conf"}, probe: known},
		{name: "coredns", port: 5306, config: `.:5306 {
    bind ADDR
    hosts DIR/hosts {
        ttl 60
        reload 0
    }
}
`, args: []string{"COREDNS", "-conf", "DIR/coredns.conf", "-quiet"}, probe: first + "." + zone},
		{name: "dnsmasq", port: 5303, config: `port=5303
listen-address=ADDR
bind-interfaces
no-resolv
no-hosts
no-poll
local=/lab.internal/
local=/10.in-addr.arpa/
local-ttl=60
cache-size=10000
conf-file=DIR/dnsmasq-hosts.conf
`, args: []string{"dnsmasq", "-k", "-C", "DIR/dnsmasq.conf", "-u", "root", "--pid-file="}, probe: first + "." + zone},
		{name: "unbound", port: 5302, config: `server:
  num-threads: 1
  interface: ADDR@5302
  port: 5302
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "DIR"
  pidfile: ""
  use-syslog: no
  logfile: "DIR/unbound.log"
  access-control: 10.0.0.0/8 allow
  do-not-query-localhost: no
  module-config: "iterator"
  minimal-responses: yes
  msg-cache-size: 64m
  rrset-cache-size: 64m
  incoming-num-tcp: 200
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@5310
remote-control:
  control-enable: no
`, args: []string{"unbound", "-d", "-c", "DIR/unbound.conf"}, probe: first + "." + outside},
		{name: aloneServer, port: alonePort, probe: first + "." + zone},
	}
}

// nsdConfig switches off the response rate limit, which Debian's NSD has on and which would measure drops.
func nsdConfig(addr string, port int, zones ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `server:
  server-count: 1
  ip-address: %s@%d
  port: %[2]d
  username: ""
  chroot: ""
  zonesdir: "DIR"
  database: ""
  zonelistfile: "DIR/nsd%[2]d.zonelist"
  xfrdfile: "DIR/nsd%[2]d.xfrd"
  pidfile: "DIR/nsd%[2]d.pid"
  hide-version: yes
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
  tcp-count: 200
remote-control:
  control-enable: no
`, addr, port)
	for _, z := range zones {
		fmt.Fprintf(&b, "zone:\n  name: %s\n  zonefile: %[1]s.zone\n", z)
	}
	return b.String()
}

// startServers starts the daemon first, which makes the gateway address, and then the others on other ports of it.
func (b *bench) startServers(ctx context.Context) error {
	if err := os.Mkdir(filepath.Join(b.dir, "knot"), 0o700); err != nil {
		return err
	}
	if err := b.startGatehouse(ctx); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if b.coredns == "" && b.needs("coredns") {
		if b.coredns, err = buildCoreDNS(ctx, b.dir); err != nil {
			fmt.Fprintln(b.out, "CoreDNS is left out:", err)
		}
	}
	fill := strings.NewReplacer("DIR", b.dir, "ADDR", gatewayAddr.String(), "COREDNS", b.coredns)
	for _, s := range servers() {
		args := s.args
		if !b.needs(s.name) {
			continue
		}
		switch s.name {
		case "gatehouse":
			continue
		case aloneServer:
			args = []string{self, aloneVerb}
		case "coredns":
			if b.coredns == "" {
				continue
			}
		}
		if s.config != "" {
			if err := os.WriteFile(filepath.Join(b.dir, s.name+".conf"), []byte(fill.Replace(s.config)), 0o644); err != nil {
				return err
			}
		}
		for i := range args {
			args[i] = fill.Replace(args[i])
		}
		if err := b.start(ctx, s, args); err != nil {
			return err
		}
	}
	return nil
}

// needs reports whether a server is asked by a workload that is to be run, or compared by its memory.
func (o options) needs(server string) bool {
	return o.only == "" || slices.ContainsFunc(workloads, func(wl workload) bool {
		return o.wants(wl.name) && (slices.Contains(wl.servers, server) || wl.name == "cached" && server == "far")
	})
}

// start starts one server on its core and waits until it answers.
func (b *bench) start(ctx context.Context, s server, args []string) error {
	log, err := os.Create(filepath.Join(b.dir, s.name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	addr := gatewayAddr
	if s.addr.IsValid() {
		addr = s.addr
	}
	p := &process{
		addr: netip.AddrPortFrom(addr, s.port), exited: make(chan struct{}),
		cmd: b.space.Command(context.WithoutCancel(ctx), "taskset", append([]string{"-c", serverCore}, args...)...),
	}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in its log
		close(p.exited)
	}()
	b.running[s.name] = p
	if s.name == "gatehouse" {
		return nil
	}
	if err := b.ready(ctx, s, p); err != nil {
		text, _ := os.ReadFile(log.Name()) // only to say more
		return fmt.Errorf("%s: %w\n%s", s.name, err, text[max(0, len(text)-1000):])
	}
	return nil
}

// ready waits until a server answers its probe.
func (b *bench) ready(ctx context.Context, s server, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	return netlab.Eventually(ctx, func() error {
		select {
		case <-p.exited:
			cancel()
			return errors.New("it ended")
		default:
		}
		out, err := b.space.Dig(ctx, "@"+p.addr.Addr().String(), "-p", strconv.Itoa(int(p.addr.Port())), s.probe, "A")
		if err == nil && len(out) != 1 {
			err = fmt.Errorf("no answer to %s yet: %q", s.probe, out)
		}
		return err
	})
}

// startGatehouse runs the daemon and applies the manifest.
func (b *bench) startGatehouse(ctx context.Context) error {
	binary, err := filepath.Abs(b.gatehouse)
	if err != nil {
		return err
	}
	socket := filepath.Join(b.dir, "api.sock")
	config := filepath.Join(b.dir, "gatehouse.yaml")
	text := fmt.Sprintf("stateDir: %s\napi: {socket: %s}\ndns: {upstreams: [\"127.0.0.1:5310\"]}\nfirewall: {verifyInterval: 24h}\nlog: {level: warn}\n",
		filepath.Join(b.dir, "state"), socket)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	all := servers()
	s := all[slices.IndexFunc(all, func(s server) bool { return s.name == "gatehouse" })]
	if err := b.start(ctx, s, []string{binary, "serve", "--config", config}); err != nil {
		return err
	}
	waitCtx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	if err := netlab.Eventually(waitCtx, func() error {
		_, err := b.space.Run(waitCtx, binary, "--socket", socket, "version")
		if err == nil {
			_, err = os.Stat(socket)
		}
		return err
	}); err != nil {
		return fmt.Errorf("gatehouse: %w", err)
	}
	began := time.Now()
	if _, err := b.space.Run(ctx, binary, "--socket", socket, "apply", "-f", filepath.Join(b.dir, "manifest.yaml"), "--timeout", "10m"); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "%d instances in force after %.1f s\n", instances, time.Since(began).Seconds())
	return b.ready(ctx, s, b.running[s.name])
}

// stopAll ends the servers and waits for them.
func (b *bench) stopAll() {
	for _, p := range b.running {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	for _, p := range b.running {
		select {
		case <-p.exited:
		case <-time.After(5 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.exited
		}
	}
}

// coreDNSMain links the plugins that are compared and no other.
const coreDNSMain = `package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/hosts"
)

func main() { coremain.Run() }
`

const coreDNSMod = "module bench\n\ngo 1.26\n\nrequire github.com/coredns/coredns v1.15.0\n"

// buildCoreDNS builds it in a directory of its own: it is no dependency of ours.
func buildCoreDNS(ctx context.Context, dir string) (string, error) {
	src := filepath.Join(dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		return "", err
	}
	for name, text := range map[string]string{"main.go": coreDNSMain, "go.mod": coreDNSMod} {
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	binary := filepath.Join(dir, "coredns")
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=mod", "-o", binary, ".")
	cmd.Dir = src
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w: %s", err, out)
	}
	return binary, nil
}

// The DNS server without the rest of the daemon: what its memory is compared by, since the peers have no instances,
// leases and rules to keep.
const (
	aloneVerb   = "serve-alone"
	aloneServer = "gatehouse dns alone"
	alonePort   = 5311
)

// serveAlone runs the DNS server on a snapshot of the same instances.
func serveAlone(ctx context.Context) error {
	s, err := dns.New(dns.Config{CacheSize: 100_000, Port: alonePort})
	if err != nil {
		return err
	}
	want := spec()
	want.VPCs[0].ID, want.VPCs[0].VSwitches[0].ID = "vpc-0000000000000001", "vsw-0000000000000001"
	for i, inst := range want.VPCs[0].Instances {
		inst.ID = fmt.Sprintf("i-%016x", i)
		inst.Interfaces[0].ID = fmt.Sprintf("eni-%016x", i)
	}
	s.SetSnapshot(vpc.NewSnapshot(want, vpc.Host{Region: "lab"}, 1))
	return s.Run(ctx)
}
