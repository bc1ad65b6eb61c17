package link

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/netlab"
	"gatehouse/server/port"
	"gatehouse/vpc"
)

// memory is a Journal that a restart survives.
type memory struct {
	mu   sync.Mutex
	data []byte
}

func (j *memory) Load(context.Context) ([]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return bytes.Clone(j.data), nil
}

func (j *memory) Save(_ context.Context, data []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.data = bytes.Clone(data)
	return nil
}

// gateway is a gateway in a namespace of its own, with a Manager that may be started and stopped.
type gateway struct {
	*netlab.Space
	t       *testing.T
	lab     *netlab.Lab
	ctx     context.Context
	journal *memory
	log     *safeBuffer

	*Manager
	set  *port.Set
	stop func()

	mu    sync.Mutex
	ports map[string]bool // as OnPort told
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	lab, err := netlab.New("link")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	space, err := lab.Space("gw")
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{Space: space, t: t, lab: lab, ctx: ctx, journal: &memory{}, log: &safeBuffer{}, ports: map[string]bool{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(g.log.String())
		}
	})
	g.sh("ip link set lo up")
	return g
}

// open makes the Manager, without running it.
func (g *gateway) open() {
	g.t.Helper()
	ns, err := g.Handle()
	if err != nil {
		g.t.Fatal(err)
	}
	m, err := New(g.ctx, Options{
		Logger:    slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Journal:   g.journal,
		Namespace: &ns,
		OnPort: func(p Port, up bool) error {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.ports[p.Name] = up
			if up {
				return g.set.Add(port.Port{Index: p.Index, Name: p.Name, VSwitch: p.VSwitch, LinkMAC: p.LinkMAC, Bridged: p.Name != p.Link})
			}
			return g.set.Remove(p.Index)
		},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.Manager = m
	g.set = port.NewSet(slog.New(slog.NewTextHandler(g.log, nil)), m)
	g.stop = sync.OnceFunc(func() {
		if err := g.set.Close(); err != nil {
			g.t.Error(err)
		}
		m.Close()
		ns.Close()
	})
	g.t.Cleanup(g.stop)
}

// start makes the Manager and runs it; stop ends both, as the death of the process would.
func (g *gateway) start() {
	g.t.Helper()
	g.open()
	ctx, cancel := context.WithCancel(g.ctx)
	done := make(chan error, 1)
	m, closeManager := g.Manager, g.stop
	go func() { done <- m.Run(ctx) }()
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			g.t.Error(err)
		}
		closeManager()
	})
	g.t.Cleanup(g.stop)
}

func (g *gateway) apply(s *vpc.Snapshot) {
	g.t.Helper()
	if err := g.Apply(g.ctx, s); err != nil {
		g.t.Fatal(err)
	}
}

// sh runs a script on the gateway and returns its output.
func (g *gateway) sh(script string, args ...any) string {
	g.t.Helper()
	return run(g.t, g.ctx, g.Space, script, args...)
}

func run(t *testing.T, ctx context.Context, s *netlab.Space, script string, args ...any) string {
	t.Helper()
	out, err := s.Script(ctx, fmt.Sprintf(script, args...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// guest plugs a guest with static addresses into a bridge.
func (g *gateway) guest(name, port, bridge string, i *vpc.InterfaceSpec) *netlab.Space {
	g.t.Helper()
	s, err := g.lab.Guest(g.ctx, name, g.Space, port, bridge, i.MAC.String())
	if err != nil {
		g.t.Fatal(err)
	}
	g.configure(s, i)
	return s
}

// configure gives a guest the interface's addresses, on-link for IPv4 as an old-fashioned host would, off-link for IPv6.
func (g *gateway) configure(s *netlab.Space, i *vpc.InterfaceSpec) {
	g.t.Helper()
	run(g.t, g.ctx, s, "ip addr replace %s/24 dev eth0\nip route replace default via 10.20.1.253", i.PrivateIP)
	for _, a := range i.IPv6Addresses {
		if err := s.StaticIPv6(g.ctx, a.String()); err != nil {
			g.t.Fatal(err)
		}
	}
}

// eventually waits for a condition of the kernel.
func (g *gateway) eventually(f func() error) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.ctx, 15*time.Second)
	defer cancel()
	if err := netlab.Eventually(ctx, f); err != nil {
		g.t.Fatal(err)
	}
}

// pings waits until a guest gets an answer.
func (g *gateway) pings(s *netlab.Space, addr netip.Addr) {
	g.t.Helper()
	g.eventually(func() error {
		if !s.Ping(g.ctx, addr.String()) {
			return fmt.Errorf("%s gets no answer from %s", s.Label, addr)
		}
		return nil
	})
}

// portFlag reads one flag of a bridge port.
func (g *gateway) portFlag(port, flag string) string {
	g.t.Helper()
	var out []map[string]any
	g.json(&out, "bridge -j -d link show dev "+port)
	return fmt.Sprint(out[0][flag])
}

func (g *gateway) json(v any, command string) {
	g.t.Helper()
	out := g.sh("%s", command)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		g.t.Fatalf("%s: %v: %s", command, err, out)
	}
}

// holder returns the port that holds a MAC by a static entry, "" if none does.
func (g *gateway) holder(mac vpc.MAC) string {
	g.t.Helper()
	var out []struct {
		MAC    string
		IfName string
		State  string
		Flags  []string
	}
	g.json(&out, "bridge -j fdb show")
	for _, e := range out {
		if e.MAC == mac.String() && e.State == "static" && slices.Contains(e.Flags, "sticky") {
			return e.IfName
		}
	}
	return ""
}

// settled waits until the kernel has done what follows from links coming up.
func (g *gateway) settled() {
	g.t.Helper()
	g.eventually(func() error {
		if out := g.sh("ip -6 addr show up tentative"); out != "" {
			return fmt.Errorf("tentative: %s", out)
		}
		if out := g.sh("ip link show | grep 'NO-CARRIER.*LOWER_UP' || true"); out != "" {
			return fmt.Errorf("not yet up: %s", out)
		}
		return nil
	})
}

// picture is what `ip` and /proc/sys show of the host, with what changes by itself left out.
func (g *gateway) picture() string {
	g.t.Helper()
	b := g.objects()
	for _, line := range strings.Split(g.sh("sysctl -a -r '^net[.](ipv4|ipv6|bridge)' 2>/dev/null"), "\n") {
		if !strings.Contains(line, "stable_secret") && !strings.Contains(line, "nf_conntrack") && !strings.Contains(line, "tcp_fastopen_key") && !strings.Contains(line, "base_reachable_time_ms") {
			b += line + "\n"
		}
	}
	return b
}

// objects is what `ip` shows of the host, the same way.
func (g *gateway) objects() string {
	g.t.Helper()
	var b strings.Builder
	for _, c := range []string{"ip -j -d addr", "ip -j route show table all", "ip -j -6 route show table all", "ip -j neigh", "bridge -j -d link", "bridge -j fdb"} {
		var out []map[string]any
		g.json(&out, c)
		fmt.Fprintln(&b, c)
		for _, o := range out {
			forget(o)
			if c == "bridge -j fdb" && (strings.HasPrefix(fmt.Sprint(o["mac"]), "33:33:") || o["state"] == "") { // the kernel's own groups, and what it learned
				continue
			}
			if o["dev"] != nil && strings.HasPrefix(fmt.Sprint(o["dst"]), "ff") || o["state"] != nil && c == "ip -j neigh" && !strings.Contains(fmt.Sprint(o["state"]), "PERMANENT") {
				continue
			}
			line, err := json.Marshal(o)
			if err != nil {
				g.t.Fatal(err)
			}
			fmt.Fprintln(&b, string(line))
		}
	}
	return b.String()
}

// forget removes values that move by themselves.
func forget(o map[string]any) {
	for _, k := range []string{"gc_timer", "forward_delay_timer", "qdisc", "hello_timer", "tcn_timer", "topology_change_timer", "valid_life_time", "preferred_life_time", "expires", "used"} {
		delete(o, k)
	}
	for _, v := range o {
		switch v := v.(type) {
		case map[string]any:
			forget(v)
		case []any:
			for _, e := range v {
				if m, ok := e.(map[string]any); ok {
					forget(m)
				}
			}
		}
	}
}

// same fails when two pictures differ, showing the lines that do.
func same(t *testing.T, before, after string) {
	t.Helper()
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, l := range a {
		if !slices.Contains(b, l) {
			t.Errorf("gone:  %s", l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			t.Errorf("new:   %s", l)
		}
	}
}

// network is the VPC research with the vSwitch web on bridge gh-web and the guests web-1, web-2 …; edit changes it.
func network(guests int, edit func(*vpc.VPCSpec)) *vpc.Snapshot {
	v := &vpc.VPCSpec{
		ID: "vpc-00000000000000a1", Name: "research",
		CIDRBlock:     netip.MustParsePrefix("10.20.0.0/16"),
		IPv6CIDRBlock: netip.MustParsePrefix("fd00:20::/56"),
		VSwitches: []*vpc.VSwitchSpec{{
			ID: "vsw-00000000000000b1", Name: "web",
			CIDRBlock:     netip.MustParsePrefix("10.20.1.0/24"),
			IPv6CIDRBlock: netip.MustParsePrefix("fd00:20:0:1::/64"),
			Attach:        vpc.AttachSpec{Bridge: "gh-web"},
		}},
	}
	for n := 1; n <= guests; n++ {
		v.Instances = append(v.Instances, &vpc.InstanceSpec{ID: "i-" + strconv.Itoa(n), Name: "web-" + strconv.Itoa(n), Interfaces: []*vpc.InterfaceSpec{nic(n)}})
	}
	if edit != nil {
		edit(v)
	}
	return vpc.NewSnapshot(&vpc.Spec{VPCs: []*vpc.VPCSpec{v}}, vpc.Host{Region: "lab", Uplinks: []string{"up0"}}, 1)
}

// nic is the interface of guest n: 10.20.1.n and fd00:20:0:1::n.
func nic(n int) *vpc.InterfaceSpec {
	v6 := netip.MustParsePrefix("fd00:20:0:1::/64").Addr().As16()
	v6[14], v6[15] = byte(n>>8), byte(n)
	return &vpc.InterfaceSpec{
		ID: "eni-" + strconv.Itoa(n), VSwitch: "web",
		MAC:           vpc.MAC{0, 0x16, 0x3e, 0, byte(n >> 8), byte(n)},
		PrivateIP:     netip.AddrFrom4([4]byte{10, 20, 1, byte(n)}),
		IPv6Addresses: []netip.Addr{netip.AddrFrom16(v6)},
	}
}

func (i *gateway) told(port string, up bool) func() error {
	return func() error {
		i.mu.Lock()
		defer i.mu.Unlock()
		if was, ok := i.ports[port]; !ok || was != up {
			return fmt.Errorf("OnPort has not said %s up=%v: %v", port, up, maps.Clone(i.ports))
		}
		return nil
	}
}
