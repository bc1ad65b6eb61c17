package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/internal/netlab"
)

// restartLab has a client and a server that may talk on port 443 and may not on port 444, and a clerk who renews its lease.
const restartLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  domain: lab.internal
  vswitches:
  - {name: front, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: gh-front}}
  - {name: back, cidrBlock: 10.20.2.0/24, ipv6CidrBlock: "fd00:20:0:2::/64", networkAcl: guard}
  networkAcls:
  - name: guard
    ingress:
    - {policy: accept, protocol: all, source: 0.0.0.0/0}
    - {policy: accept, protocol: all, source: "::/0"}
    egress:
    - {policy: accept, protocol: all, destination: 0.0.0.0/0}
    - {policy: accept, protocol: all, destination: "::/0"}
  securityGroups:
  - {name: client}
  - name: server
    rules:
    - {direction: ingress, protocol: tcp, ports: 443, source: "sg:client"}
    - {direction: ingress, protocol: udp, ports: 443, source: "sg:client"}
  instances:
  - {name: client, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: front, securityGroups: [client]}]}
  - {name: server, interfaces: [{mac: 00:16:3e:00:02:01, vswitch: back, securityGroups: [server]}]}
  - {name: clerk, interfaces: [{mac: 00:16:3e:00:01:02, vswitch: front}]}
`

// restartExtra is what is applied and pruned again while the daemon is killed.
const restartExtra = `
  - {name: extra, interfaces: [{mac: 00:16:3e:00:02:09, vswitch: back, securityGroups: [server]}]}
`

const (
	allowedPort = 443
	refusedPort = 444
)

// remembered is everything that must be the same after a restart.
func (g *gateway) remembered() map[string]string {
	g.Helper()
	what := map[string]string{}
	for _, kind := range []string{"vpc", "vswitch", "instance", "interface", "securitygroup", "networkacl", "prefixlist"} {
		what[kind] = g.ok("get", kind, "-o", "json")
	}
	var leases []string
	for _, l := range g.get("leases") {
		delete(l, "start") // a renewal moves these
		delete(l, "expires")
		text, err := json.Marshal(l)
		if err != nil {
			g.Fatal(err)
		}
		leases = append(leases, string(text))
	}
	what["leases"] = strings.Join(leases, "\n")
	for _, tool := range []string{"iptables-save", "ip6tables-save"} {
		what[tool] = rulesOf(g.script(g.space, tool))
	}
	what["ipset"] = setsOf(g.script(g.space, "ipset save"))
	return what
}

// same compares two memories.
func (g *gateway) same(when string, got, want map[string]string) {
	g.Helper()
	for k := range want {
		if got[k] != want[k] {
			g.Errorf("%s: %s is another (+ now, - before):\n%s", when, k, difference(want[k], got[k]))
		}
	}
}

// difference shows the lines that only one of two texts has, or says that their order differs.
func difference(before, after string) string {
	var out strings.Builder
	has := map[string]int{}
	for line := range strings.Lines(before) {
		has[strings.TrimSpace(line)]++
	}
	for line := range strings.Lines(after) {
		if line = strings.TrimSpace(line); has[line] > 0 {
			has[line]--
		} else {
			fmt.Fprintf(&out, "+ %s\n", line)
		}
	}
	for line := range strings.Lines(before) {
		if line = strings.TrimSpace(line); has[line] > 0 {
			has[line]--
			fmt.Fprintf(&out, "- %s\n", line)
		}
	}
	if out.Len() == 0 {
		return "the same lines in another order:\n" + after
	}
	return out.String()
}

// rulesOf strips an iptables-save of its comments and counters, and sorts what has no order: tables and the declarations
// of chains. Rules of a chain stay in order.
func rulesOf(save string) string {
	tables := map[string][]string{}
	table := ""
	for line := range strings.Lines(save) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line == "COMMIT":
		case line[0] == '*':
			table = line
		case line[0] == ':':
			line, _, _ = strings.Cut(line, " [")
			tables[table+" chains"] = append(tables[table+" chains"], line)
		default:
			chain := strings.Fields(line)[1]
			tables[table+" "+chain] = append(tables[table+" "+chain], line)
		}
	}
	var out []string
	for name, lines := range tables {
		if strings.HasSuffix(name, " chains") {
			slices.Sort(lines)
		}
		out = append(out, name+"\n"+strings.Join(lines, "\n"))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// setsOf sorts an `ipset save` and strips it of what the kernel chooses.
func setsOf(save string) string {
	var out []string
	for line := range strings.Lines(save) {
		f := strings.Fields(line)
		for _, chosen := range []string{"hashsize", "initval", "bucketsize"} {
			if i := slices.Index(f, chosen); i >= 0 {
				f = slices.Delete(f, i, i+2)
			}
		}
		out = append(out, strings.Join(f, " "))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// traffic is what runs between two hosts through the whole of a test.
type traffic struct {
	g        *gateway
	from, to *netlab.Space
	addrs    []string
	cancel   context.CancelFunc
	running  sync.WaitGroup

	flows, lost  atomic.Int64 // new flows of the allowed kind
	tried        atomic.Int64 // probes of the refused kind
	passed       atomic.Int64 // what of them has arrived
	established  atomic.Int64 // rounds on the standing connections
	brokenStream atomic.Pointer[error]
}

// newTraffic starts the listeners: an echo on the allowed port, and a counter on the refused one.
func newTraffic(g *gateway, from, to *netlab.Space, addrs ...string) *traffic {
	g.Helper()
	f := &traffic{g: g, from: from, to: to, addrs: addrs}
	svc, err := to.Echo(allowedPort)
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() { svc.Close() })
	err = to.Do(func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", refusedPort))
		if err != nil {
			return err
		}
		u, err := net.ListenUDP("udp", &net.UDPAddr{Port: refusedPort})
		if err != nil {
			return errors.Join(err, l.Close())
		}
		g.Cleanup(func() { l.Close(); u.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return // closed
				}
				f.passed.Add(1)
				c.Close()
			}
		}()
		go func() {
			buf := make([]byte, 64)
			for {
				if _, _, err := u.ReadFrom(buf); err != nil {
					return // closed
				}
				f.passed.Add(1)
			}
		}()
		return nil
	})
	if err != nil {
		g.Fatal(err)
	}
	return f
}

const (
	every      = 20 * time.Millisecond // between two new flows, and two refused probes, of each kind
	flowAnswer = 5 * time.Second       // that a packet is late on a busy machine is no loss
)

// start begins to send.
func (f *traffic) start() {
	ctx, cancel := context.WithCancel(f.g.ctx)
	f.cancel = cancel
	for _, addr := range f.addrs {
		allowed, refused := netip.AddrPortFrom(netip.MustParseAddr(addr), allowedPort), netip.AddrPortFrom(netip.MustParseAddr(addr), refusedPort)
		f.running.Go(func() { f.stream(ctx, allowed) })
		for _, network := range []string{"tcp", "udp"} {
			f.running.Go(func() {
				f.tick(ctx, func() {
					f.flows.Add(1)
					begun := time.Now()
					if err := f.flow(network, allowed); err != nil {
						f.lost.Add(1)
						f.g.Logf("%s: a flow to %s/%s is lost: %v", begun.Format("15:04:05.000"), allowed, network, err)
					}
				})
			})
			f.running.Go(func() {
				f.tick(ctx, func() {
					f.tried.Add(1)
					f.probe(network, refused)
				})
			})
		}
	}
}

// stop ends it and waits for the answers that are due.
func (f *traffic) stop() {
	f.cancel()
	f.running.Wait()
}

// tick does something at intervals, without waiting for it.
func (f *traffic) tick(ctx context.Context, do func()) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			f.running.Go(do)
		}
	}
}

// flow makes one new flow and waits for its answer. Nothing is sent twice over UDP.
func (f *traffic) flow(network string, to netip.AddrPort) error {
	var c net.Conn
	err := f.from.Do(func() (err error) {
		c, err = net.DialTimeout(network, to.String(), flowAnswer)
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(flowAnswer))
	if _, err := c.Write([]byte("new")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 3))
	return err
}

// probe sends the first packet of a flow that is refused.
func (f *traffic) probe(network string, to netip.AddrPort) {
	f.from.Do(func() error {
		c, err := net.DialTimeout(network, to.String(), 10*time.Millisecond)
		if err != nil {
			return err // as it should be with TCP; what arrives is counted at the other end
		}
		defer c.Close()
		_, err = c.Write([]byte("refused"))
		return err
	})
}

// stream keeps one connection and sends something to and fro on it all the time.
func (f *traffic) stream(ctx context.Context, to netip.AddrPort) {
	var c net.Conn
	err := f.from.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", to.String(), flowAnswer)
		return err
	})
	if err == nil {
		defer c.Close()
		buf := make([]byte, 6)
		for n := 0; ctx.Err() == nil && err == nil; n++ {
			c.SetDeadline(time.Now().Add(2 * flowAnswer))
			want := fmt.Sprintf("%06d", n%1e6)
			if _, err = c.Write([]byte(want)); err == nil {
				_, err = io.ReadFull(c, buf)
			}
			if err == nil && string(buf) != want {
				err = fmt.Errorf("sent %s, got %s", want, buf)
			}
			f.established.Add(1)
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
	}
	if err != nil {
		f.brokenStream.Store(&err)
	}
}

// reset forgets what has been counted.
func (f *traffic) reset() {
	for _, n := range []*atomic.Int64{&f.flows, &f.lost, &f.tried, &f.established} {
		n.Store(0)
	}
}

func (f *traffic) String() string {
	return fmt.Sprintf("%d rounds on standing connections, %d new flows (%d lost), %d refused (%d passed)",
		f.established.Load(), f.flows.Load(), f.lost.Load(), f.tried.Load(), f.passed.Load())
}

func TestKillingTheDaemonIsSeenByNobody(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.start()
	g.apply(restartLab)
	// The rule against TCP that does not begin with a SYN waits two minutes on a kernel that had no rules of ours: somebody's
	// connections may be older. A restart finds them there, and what is compared below has that rule.
	g.stop()
	g.start()
	var link string
	for _, w := range g.get("vswitches") {
		if w["name"] == "back" {
			link = w["status"].(map[string]any)["link"].(string)
		}
	}
	from := g.guest("client", "gh-front", "00:16:3e:00:01:01")
	to := g.guest("server", link, "00:16:3e:00:02:01")
	v6 := map[string]string{}
	for _, i := range g.get("interfaces") {
		v6[i["instance"].(string)] = i["ipv6Addresses"].([]any)[0].(string)
	}
	for _, s := range []*netlab.Space{from, to} {
		g.script(s, busybox)
		if err := s.StaticIPv6(g.ctx, v6[s.Label]); err != nil {
			t.Fatal(err)
		}
	}
	clerk := g.guest("clerk", "gh-front", "00:16:3e:00:01:02")
	g.script(clerk, busybox)
	server, address := g.address("server"), g.address("clerk")
	f := newTraffic(g, from, to, server, v6["server"])
	// The first packet of a static address may be lost while its port learns whom it holds.
	g.eventually("both families are up", func() error {
		for _, addr := range []string{server, v6["server"]} {
			if ok, err := from.Reach(g.ctx, "tcp", netip.AddrPortFrom(netip.MustParseAddr(addr), allowedPort), time.Second); err != nil {
				return err
			} else if !ok {
				return errors.New(addr + " does not answer")
			}
		}
		return nil
	})
	want := g.remembered()

	f.start()
	g.eventually("enough of a control run", func() error {
		if n := f.flows.Load(); n < 300 {
			return fmt.Errorf("%d flows", n)
		}
		return nil
	})
	f.stop()
	t.Logf("undisturbed: %s", f)
	control := f.lost.Load()
	f.reset()

	f.start()
	var slowest time.Duration
	for round := range 8 {
		if midApply := round%2 == 1; midApply {
			g.write("extra.yaml", restartLab+restartExtra)
			done := make(chan struct{})
			go func() {
				defer close(done)
				g.run("apply", "-f", "extra.yaml") // cut off in the middle, or not
			}()
			// A different moment each time, between the parsing and the end.
			wait := time.NewTimer(time.Duration(round*round) * 4 * time.Millisecond)
			select {
			case <-wait.C:
			case <-done:
			}
			g.kill()
			<-done
		} else {
			g.kill()
		}
		began := time.Now()
		g.launch()
		g.eventually("a name is answered again", func() error {
			if a := g.dig(from, "@10.20.1.253", "server.lab.internal", "A"); a.answer != server {
				return fmt.Errorf("%+v", a)
			}
			return nil
		})
		// A client that is asked for a renewal twice before it had an answer begins from scratch: this one has nothing else to do.
		until := g.expiry(address)
		g.eventually("a lease is renewed again", func() error {
			g.script(clerk, "kill -USR1 $(cat /run/udhcpc.pid)")
			if is := g.expiry(address); !is.After(until) {
				return fmt.Errorf("it ends at %s still", is)
			}
			return nil
		})
		slowest = max(slowest, time.Since(began))
		g.ready()
		// Whether the change got in or not, this is where it goes away.
		g.apply(restartLab, "--prune")
		g.same(fmt.Sprintf("after kill %d", round+1), g.remembered(), want)
	}
	f.stop()
	t.Logf("with the daemon killed 8 times: %s; names and leases were back after %s at most", f, slowest.Round(time.Millisecond))
	if err := f.brokenStream.Load(); err != nil {
		t.Errorf("a standing connection broke: %v", *err)
	}
	if n := f.lost.Load(); n > control {
		t.Errorf("%d of %d allowed flows were lost, and %d without a kill", n, f.flows.Load(), control)
	}
	if n := f.passed.Load(); n > 0 {
		t.Errorf("%d of %d refused probes passed", n, f.tried.Load())
	}
	if f.established.Load() == 0 || f.flows.Load() == 0 || f.tried.Load() == 0 {
		t.Errorf("not everything was tried: %s", f)
	}
	if slowest > 10*time.Second {
		t.Errorf("names and leases were gone for %s", slowest)
	}
	g.has(clerk, address, 24, "10.20.1.253")
	if s := g.run("status"); s.code != 0 {
		t.Errorf("status: %s", s.stdout)
	}
}

func TestASecondDaemonOnTheSameStateIsRefused(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.start()
	state := g.path("state")
	g.write("second.yaml", "stateDir: "+state+"\napi: {socket: "+g.path("second.sock")+"}\n")
	why := fmt.Sprintf("open %s/state.db: in use by another gatehouse (process %d)\n", state, g.daemon.Process.Pid)
	g.fails(1, "gatehouse: serve: "+why, "serve", "--config", g.path("second.yaml"))
	g.fails(1, "gatehouse: teardown: "+why, "teardown", "--offline", "--config", g.path("second.yaml"))
	if out := g.ok("status"); !strings.Contains(out, "healthy") {
		t.Errorf("the first daemon says:\n%s", out)
	}
}
