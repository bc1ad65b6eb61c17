package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"gatehouse/internal/netlab"
	"gatehouse/server/api"
	"gatehouse/vpc"
)

//go:embed demo.yaml
var demoManifest []byte

// The outside of the demo's lab (RFC 5737 and RFC 3849 documentation ranges).
const (
	demoUplink4  = "192.0.2.1"
	demoOutside4 = "192.0.2.2"
	demoUplink6  = "2001:db8:2::1"
	demoOutside6 = "2001:db8:2::2"
	demoName     = "www.example.com"
	demoNameAddr = "192.0.2.80"
)

func (a *app) demoCommand() *cobra.Command {
	var dump bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "raise a lab in network namespaces and show who reaches whom",
		Long: `demo raises a gateway, an outside and five instances in network namespaces of this machine, gets the instances their
addresses with dhclient, resolves their names with dig, and measures with real packets who reaches whom. It prints what
was measured beside what the policy says, and exits with 0 only when they agree. Nothing on the machine itself is touched.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Minute)
			defer cancel()
			lab, err := netlab.New("demo")
			if err != nil {
				return err
			}
			d := &demo{lab: lab, out: a.stdout, guests: map[string]*netlab.Space{}}
			err = d.run(ctx)
			if err == nil && dump {
				err = d.dump(ctx)
			}
			if err != nil {
				d.explainFailure(ctx)
			}
			return errors.Join(err, lab.Close())
		},
	}
	cmd.Flags().BoolVar(&dump, "iptables", false, "print the gateway's iptables-save at the end")
	return cmd
}

// demo is one run of the demo.
type demo struct {
	lab     *netlab.Lab
	out     io.Writer
	gateway *netlab.Space
	outside *netlab.Space
	guests  map[string]*netlab.Space
	client  *api.Client
	places  []place
}

// place is a host of the demo that sends and receives probes.
type place struct {
	name   string // as explain knows it
	space  *netlab.Space
	v4, v6 netip.Addr
}

func (p place) addr(f vpc.Family) netip.Addr {
	if f == vpc.IPv6 {
		return p.v6
	}
	return p.v4
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

func (d *demo) run(ctx context.Context) error {
	d.say("raising a gateway and an outside in network namespaces")
	if err := d.raise(ctx); err != nil {
		return err
	}
	stop, err := d.serve(ctx)
	if err != nil {
		return err
	}
	defer stop()
	d.say("applying the manifest (two vSwitches, basic and advanced groups, a network ACL)")
	result, err := d.client.Apply(ctx, api.ApplyRequest{Files: []api.File{{Name: "demo.yaml", Content: demoManifest}}, User: "demo", Timeout: time.Minute})
	if err != nil {
		return err
	}
	d.say("  %d objects, revision %d is in force\n", len(result.Changes), result.Applied)
	if err := d.plugIn(ctx); err != nil {
		return err
	}
	if err := d.resolveNames(ctx); err != nil {
		return err
	}
	return d.measure(ctx)
}

// raise makes the namespaces of the gateway and the outside, with a cable and a stand-in resolver between them.
func (d *demo) raise(ctx context.Context) error {
	var err error
	if d.gateway, err = d.lab.Space("gateway"); err != nil {
		return err
	}
	if d.outside, err = d.lab.Space("outside"); err != nil {
		return err
	}
	if err := d.lab.Veth(ctx, d.gateway, "up0", d.outside, "eth0"); err != nil {
		return err
	}
	if _, err := d.gateway.Script(ctx, fmt.Sprintf("ip addr add %s/24 dev up0\nip addr add %s/64 dev up0 nodad\n", demoUplink4, demoUplink6)); err != nil {
		return err
	}
	if _, err := d.outside.Script(ctx, fmt.Sprintf(`ip addr add %s/24 dev eth0
ip addr add %s/64 dev eth0 nodad
ip route add 10.20.0.0/16 via %s
ip -6 route add fd00:20::/56 via %s
`, demoOutside4, demoOutside6, demoUplink4, demoUplink6)); err != nil {
		return err
	}
	_, err = d.outside.Resolver(netip.MustParseAddr(demoOutside4), map[string]netip.Addr{demoName: netip.MustParseAddr(demoNameAddr)})
	return err
}

// serve starts the daemon in the gateway's namespace and waits until it is ready; the function that it returns stops it.
func (d *demo) serve(ctx context.Context) (func(), error) {
	config := fmt.Sprintf("stateDir: %s\nregion: demo\nuplinks: [up0]\napi: {socket: %s}\ndns: {upstreams: [%s]}\n",
		filepath.Join(d.lab.Dir, "state"), filepath.Join(d.lab.Dir, "api.sock"), demoOutside4)
	configFile := filepath.Join(d.lab.Dir, "gatehouse.yaml")
	if err := os.WriteFile(configFile, []byte(config), 0o644); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(d.lab.Dir, "daemon.log"))
	if err != nil {
		return nil, err
	}
	daemon := d.gateway.Command(ctx, self, "serve", "--config", configFile)
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- daemon.Wait() }()
	stop := func() {
		daemon.Process.Signal(os.Interrupt)
		<-exited
		log.Close()
	}
	d.client = api.NewClient(filepath.Join(d.lab.Dir, "api.sock"))
	waitCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err = netlab.Eventually(waitCtx, func() error {
		select {
		case err := <-exited:
			exited <- err
			cancel()
			return fmt.Errorf("the daemon ended: %v", err)
		default:
		}
		return d.client.Do(waitCtx, "GET", "/readyz", nil, nil, nil)
	})
	if err != nil {
		text, _ := os.ReadFile(log.Name()) // only to say more
		stop()
		return nil, fmt.Errorf("the daemon did not become ready: %w\n%s", err, bytes.TrimSpace(text))
	}
	return stop, nil
}

// plugIn connects the guests and gets them their addresses.
func (d *demo) plugIn(ctx context.Context) error {
	instances, err := d.client.Objects(ctx, vpc.KindInstance, "", nil)
	if err != nil {
		return err
	}
	d.say("plugging in %d guests; each asks for its addresses with dhclient, by DHCPv4 and by DHCPv6", len(instances))
	rows, places := make([][]string, len(instances)), make([]place, len(instances))
	tasks, ctx := errgroup.WithContext(ctx)
	for n, i := range instances {
		name, vswitch := i["name"].(string), cell(i, "interfaces.vswitch")
		guest, err := d.lab.Guest(ctx, name, d.gateway, fmt.Sprintf("port%d", n), "gh-"+vswitch, cell(i, "interfaces.mac"))
		if err != nil {
			return errors.Join(err, tasks.Wait())
		}
		d.guests[name] = guest
		places[n] = place{name, guest, netip.MustParseAddr(cell(i, "interfaces.privateIp")), netip.MustParseAddr(cell(i, "interfaces.ipv6Addresses"))}
		tasks.Go(func() error {
			took, err := getAddresses(ctx, places[n])
			rows[n] = append([]string{name, vswitch, cell(i, "interfaces.securityGroups"), places[n].v4.String(), places[n].v6.String()}, took...)
			return err
		})
	}
	if err := tasks.Wait(); err != nil {
		return err
	}
	d.places = append(d.places, places...)
	d.places = append(d.places, place{"internet", d.outside, netip.MustParseAddr(demoOutside4), netip.MustParseAddr(demoOutside6)})
	printTable(d.out, "  ", []string{"INSTANCE", "VSWITCH", "GROUPS", "DHCPV4", "DHCPV6", "TOOK", "TOOK"}, rows)
	d.say("")
	return nil
}

// getAddresses has a guest ask for both its addresses and says how long each took, until it could be used.
func getAddresses(ctx context.Context, p place) (took []string, err error) {
	for _, ask := range []func(context.Context) error{p.space.DHClient, p.space.DHClient6} {
		start := time.Now()
		if err := ask(ctx); err != nil {
			return nil, err
		}
		took = append(took, fmt.Sprintf("%.2fs", time.Since(start).Seconds()))
	}
	got, err := p.space.Run(ctx, "ip", "-o", "addr", "show", "dev", "eth0", "scope", "global")
	if err != nil {
		return nil, err
	}
	if !strings.Contains(got, " "+p.v4.String()+"/") || !strings.Contains(got, " "+p.v6.String()+"/128 ") {
		return nil, fmt.Errorf("%s: dhclient got %q, expected %s and %s", p.name, strings.TrimSpace(got), p.v4, p.v6)
	}
	return took, nil
}

// resolveNames asks for names with dig, through the resolv.conf that dhclient wrote.
func (d *demo) resolveNames(ctx context.Context) error {
	from, db := d.guests["web-1"], d.places[slices.IndexFunc(d.places, func(p place) bool { return p.name == "db-1" })]
	label := "ip-" + strings.ReplaceAll(db.v4.String(), ".", "-") + ".demo.internal."
	questions := []struct {
		args []string
		want string
	}{
		{[]string{"db-1.demo.internal", "A"}, db.v4.String()},
		{[]string{"db-1.demo.internal", "AAAA"}, db.v6.String()},
		{[]string{"+search", "db-1", "A"}, db.v4.String()},
		{[]string{"-x", db.v4.String()}, label},
		{[]string{"-x", db.v6.String()}, "db-1.demo.internal."},
		{[]string{"+tcp", "db-1.demo.internal", "A"}, db.v4.String()},
		{[]string{demoName, "A"}, demoNameAddr},
	}
	d.say("web-1 resolves names with dig")
	var rows [][]string
	for _, q := range questions {
		got, err := from.Dig(ctx, q.args...)
		if err != nil {
			return err
		}
		if len(got) != 1 || got[0] != q.want {
			return fmt.Errorf("dig %s: got %v, expected %s", strings.Join(q.args, " "), got, q.want)
		}
		rows = append(rows, []string{"dig " + strings.Join(q.args, " "), got[0]})
	}
	printTable(d.out, "  ", nil, rows)
	d.say("")
	return nil
}

// probe is one connection that is tried.
type probe struct {
	from, to place
	service  demoService
	family   vpc.Family
	policy   bool
	measured bool
	err      error
}

type demoService struct {
	name     string
	protocol vpc.Protocol // ICMP stands for both families
	port     uint16
}

// measure tries every service between every two places, in both families at once, and compares with the policy.
func (d *demo) measure(ctx context.Context) error {
	services := []demoService{{"tcp/443", vpc.ProtocolTCP, 443}, {"tcp/5432", vpc.ProtocolTCP, 5432}, {"tcp/23", vpc.ProtocolTCP, 23}, {"udp/4000", vpc.ProtocolUDP, 4000}, {"ping", vpc.ProtocolICMP, 0}}
	for _, p := range d.places {
		for _, s := range services {
			if s.port != 0 {
				if _, err := p.space.Echo(s.port); err != nil {
					return err
				}
			}
		}
	}
	var probes []*probe
	for _, s := range services {
		for _, f := range vpc.Families() {
			for _, from := range d.places {
				for _, to := range d.places {
					if from.name != to.name {
						probes = append(probes, &probe{from: from, to: to, service: s, family: f})
					}
				}
			}
		}
	}
	work := make(chan *probe)
	var wg sync.WaitGroup
	for range 24 {
		wg.Go(func() {
			for p := range work {
				p.policy, p.measured, p.err = d.try(ctx, p)
			}
		})
	}
	for _, p := range probes {
		work <- p
	}
	close(work)
	wg.Wait()

	disagree := 0
	d.say("who reaches whom, from the row to the column, measured with real packets over IPv4/IPv6 (+ reached, . not)")
	header := []string{""}
	for _, p := range d.places {
		header = append(header, p.name)
	}
	for _, s := range services {
		rows := [][]string{}
		for _, from := range d.places {
			row := []string{from.name}
			for _, to := range d.places {
				text := ""
				for _, p := range probes {
					if p.service == s && p.from.name == from.name && p.to.name == to.name {
						if p.err != nil {
							return fmt.Errorf("probe %s -> %s %s: %w", from.name, to.name, s.name, p.err)
						}
						if text != "" {
							text += "/"
						}
						text += mark(p.measured)
						if p.measured != p.policy {
							disagree++
							text += "(policy " + mark(p.policy) + ")"
						}
					}
				}
				row = append(row, text)
			}
			rows = append(rows, row)
		}
		header[0] = s.name
		d.say("")
		printTable(d.out, "  ", header, rows)
	}
	d.say("\n%d probes, the policy agrees with %d", len(probes), len(probes)-disagree)
	if disagree > 0 {
		return fmt.Errorf("%d probes were not as the policy says", disagree)
	}
	return nil
}

func mark(reached bool) string {
	if reached {
		return "+"
	}
	return "."
}

// try asks the policy, then sends the packets.
func (d *demo) try(ctx context.Context, p *probe) (policy, measured bool, err error) {
	protocol := p.service.protocol
	if protocol == vpc.ProtocolICMP && p.family == vpc.IPv6 {
		protocol = vpc.ProtocolICMPv6
	}
	from, to := p.from.addr(p.family), p.to.addr(p.family)
	e, err := d.client.Explain(ctx, api.ExplainRequest{From: from.String(), To: to.String(), Protocol: protocol, Port: p.service.port})
	if err != nil {
		return false, false, err
	}
	if protocol.HasPorts() {
		measured, err = p.from.space.Reach(ctx, protocol.String(), netip.AddrPortFrom(to, p.service.port), time.Second)
	} else {
		measured = p.from.space.Ping(ctx, to.String())
	}
	return e.Allowed, measured, err
}

// explainFailure prints what the daemon has to say; nothing that it cannot get is worth another error.
func (d *demo) explainFailure(ctx context.Context) {
	if d.client != nil {
		if s, err := d.client.Status(ctx); err == nil && !s.Healthy {
			d.say("")
			printStatus(d.out, s)
		}
	}
	if text, err := os.ReadFile(filepath.Join(d.lab.Dir, "daemon.log")); err == nil {
		d.say("\nthe daemon's log:\n%s", bytes.TrimSpace(text))
	}
}

// dump prints the gateway's rules.
func (d *demo) dump(ctx context.Context) error {
	for _, tool := range []string{"iptables-save", "ip6tables-save"} {
		text, err := d.gateway.Run(ctx, tool)
		if err != nil {
			return err
		}
		d.say("\n# %s on the gateway\n%s", tool, text)
	}
	return nil
}
