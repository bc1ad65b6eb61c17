package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/internal/netlab"
	"gatehouse/server/api"
)

// site is one gateway with guests behind it: the sources, each on a cable of its own in the space clients, and the target
// in the space server. Every site of a run is built alike; they differ in what filters the packets.
type site struct {
	name    string
	pop     population
	sources []int
	lab     *netlab.Lab
	gateway *netlab.Space
	clients *netlab.Space
	server  *netlab.Space
	indexes []int // of the sources' links in clients

	// A site that gatehouse runs.
	client *api.Client
	daemon *exec.Cmd
	ended  chan error
}

// newSite raises the hosts; nothing is plugged in yet.
func newSite(lab *netlab.Lab, name string, pop population) (*site, error) {
	s := &site{name: name, pop: pop, sources: pop.sources(100), lab: lab}
	for _, sp := range []struct {
		label string
		space **netlab.Space
	}{{"gw", &s.gateway}, {"clients", &s.clients}, {"server", &s.server}} {
		var err error
		if *sp.space, err = lab.Space(name + "-" + sp.label); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// start runs the daemon, with an empty store, and waits until it answers.
func (s *site) start(ctx context.Context, bin, backend string) error {
	dir := filepath.Join(s.lab.Dir, s.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	config := fmt.Sprintf("stateDir: %s\napi: {socket: %s}\ndns: {upstreams: []}\nfirewall: {backend: %s, verifyInterval: 24h}\nlog: {level: warn}\n",
		filepath.Join(dir, "state"), filepath.Join(dir, "api.sock"), backend)
	file := filepath.Join(dir, "gatehouse.yaml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "daemon.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.gateway.Command(ctx, bin, "serve", "--config", file)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	s.daemon, s.ended = cmd, make(chan error, 1)
	go func() { s.ended <- cmd.Wait() }()
	s.client = api.NewClient(filepath.Join(dir, "api.sock"))
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return netlab.Eventually(ctx, func() error {
		select {
		case err := <-s.ended:
			s.ended <- err
			cancel()
			text, _ := os.ReadFile(log.Name()) // only to say more
			return fmt.Errorf("the daemon ended: %v\n%s", err, text)
		default:
		}
		return s.client.Do(ctx, "GET", "/readyz", nil, nil, nil)
	})
}

// stop ends the daemon.
func (s *site) stop() error {
	if err := s.daemon.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	return <-s.ended
}

// apply puts a manifest in force.
func (s *site) apply(ctx context.Context, manifest []byte) error {
	_, err := s.client.Apply(ctx, api.ApplyRequest{Files: []api.File{{Name: "bench.yaml", Content: manifest}}, User: "bench", Timeout: 5 * time.Minute})
	return err
}

// links makes by hand what gatehouse makes of the vSwitches that the guests are in, so that a site without it differs in
// nothing but the rules: bridges with isolated ports that learn nothing, the gateway's addresses, routing.
func (s *site) links(ctx context.Context) error {
	var script, links strings.Builder
	script.WriteString("echo 1 > /proc/sys/net/ipv4/ip_forward\necho 1 > /proc/sys/net/ipv6/conf/all/forwarding\n" +
		"echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter\necho 0 > /proc/sys/net/ipv4/conf/all/send_redirects\n")
	done := map[int]bool{}
	for _, i := range s.guests() {
		w := s.pop.switchOf(i)
		if done[w] {
			continue
		}
		done[w] = true
		gw := gateways(w)
		fmt.Fprintf(&links, "link add %[1]s type bridge stp_state 0 forward_delay 0\nlink set %[1]s up\naddr add %[2]s/24 dev %[1]s\naddr add %[3]s/64 dev %[1]s nodad\naddr add fe80::1/64 dev %[1]s nodad\n",
			bridge(w), gw[0], gw[1])
	}
	if _, err := s.gateway.Script(ctx, script.String()); err != nil {
		return err
	}
	_, err := s.gateway.RunInput(ctx, strings.NewReader(links.String()), "ip", "-batch", "-")
	return err
}

// guests are the instances that exist as hosts: the sources, then the target.
func (s *site) guests() []int { return append(append([]int(nil), s.sources...), s.pop.target()) }

func port(i int) string { return fmt.Sprintf("p%d", i) }

// plug connects the guests and gives them their addresses, with the gateway as their only neighbour.
func (s *site) plug(ctx context.Context) error {
	var cables strings.Builder
	hosts := map[*netlab.Space]*strings.Builder{s.clients: {}, s.server: {}}
	for n, i := range s.guests() {
		space := s.clients
		if i == s.pop.target() {
			space = s.server
		}
		w := s.pop.switchOf(i)
		a, gw := s.pop.addrs(i), gateways(w)
		fmt.Fprintf(&cables, "link add %[1]s type veth peer name %[1]s address %[2]s netns %[3]d\nlink set %[1]s master %[4]s up\n", port(i), s.pop.mac(i), space.PID(), bridge(w))
		fmt.Fprintf(hosts[space], "link set %[1]s up\naddr add %[2]s/32 dev %[1]s\naddr add %[3]s/128 dev %[1]s nodad\nroute add default via %[4]s dev %[1]s onlink metric %[5]d\nroute add default via fe80::1 dev %[1]s metric %[5]d\n",
			port(i), a[0], a[1], gw[0], n+1)
	}
	if _, err := s.gateway.RunInput(ctx, strings.NewReader(cables.String()), "ip", "-batch", "-"); err != nil {
		return err
	}
	for space, text := range hosts {
		if _, err := space.RunInput(ctx, strings.NewReader(text.String()), "ip", "-batch", "-"); err != nil {
			return err
		}
	}
	return s.clients.Do(func() error {
		for _, i := range s.sources {
			l, err := net.InterfaceByName(port(i))
			if err != nil {
				return err
			}
			s.indexes = append(s.indexes, l.Index)
		}
		return nil
	})
}

// bind does for a site without gatehouse what it does for a port: where a MAC is, and whose it is, is not learned.
func (s *site) bind(ctx context.Context) error {
	var links, ports, neighbours strings.Builder
	for _, i := range s.guests() {
		a, mac, br := s.pop.addrs(i), s.pop.mac(i), bridge(s.pop.switchOf(i))
		fmt.Fprintf(&links, "link set %s type bridge_slave isolated on learning off\n", port(i))
		fmt.Fprintf(&ports, "fdb replace %s dev %s master static sticky\n", mac, port(i))
		for _, addr := range a {
			fmt.Fprintf(&neighbours, "neigh replace %s lladdr %s dev %s nud permanent\n", addr, mac, br)
		}
	}
	for _, b := range []struct{ tool, text string }{{"ip", links.String() + neighbours.String()}, {"bridge", ports.String()}} {
		if _, err := s.gateway.RunInput(ctx, strings.NewReader(b.text), b.tool, "-batch", "-"); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until every source reaches the target in both families, and the target reaches back: every port is in
// service, every guest knows its gateway.
func (s *site) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for f := range 2 {
		listener, err := s.listen(f)
		if err != nil {
			return err
		}
		for n := range s.sources {
			err := netlab.Eventually(ctx, func() error {
				return s.clients.Do(func() error { return connectOnce(s.indexes[n], s.targetAddr(f, connectPort), 200*time.Millisecond) })
			})
			if err != nil {
				return errors.Join(fmt.Errorf("%s: %s does not reach the target: %w", s.name, s.pop.addrs(s.sources[n])[f], err), listener.close())
			}
		}
		if err := listener.close(); err != nil {
			return err
		}
	}
	return nil
}

// targetAddr is the target's address in a family (0: IPv4, 1: IPv6) as the system calls take it.
func (s *site) targetAddr(family, port int) unix.Sockaddr {
	return sockaddr(netip.AddrPortFrom(s.pop.addrs(s.pop.target())[family], uint16(port)))
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
