package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"gatehouse/configs"
	"gatehouse/firewall/conntrack"
	"gatehouse/firewall/ipset"
	"gatehouse/firewall/iptables"
	"gatehouse/firewall/reconcile"
	"gatehouse/server/api"
	"gatehouse/server/dhcp"
	"gatehouse/server/dhcp4"
	"gatehouse/server/dhcp6"
	"gatehouse/server/dns"
	"gatehouse/server/lease"
	"gatehouse/server/link"
	"gatehouse/server/port"
	"gatehouse/server/ra"
	"gatehouse/store"
	"gatehouse/vpc"
)

// Options are what Serve works with.
type Options struct {
	LoadConfig func() (*configs.Config, error) // called at start and at every reload
	Version    string
	Stderr     io.Writer
}

// socketGroup may talk to the daemon where it exists.
const socketGroup = "gatehouse"

// shutdownTime is how long requests that are under way may take when the daemon ends.
const shutdownTime = 5 * time.Second

// startMemory is how much the daemon may take until it is ready before garbage is looked for: most of what it makes while it
// starts stays, and looking through all that would take as long as all the rest.
const startMemory = 1 << 30

// runGCPercent is the same for a daemon that is ready, unless GOGC says otherwise. Most of its heap stays as it is for ever:
// less room for garbage costs little time, and of the memory of a large network it is the larger part.
const runGCPercent = 40

// Serve runs the daemon until ctx ends. The rules stay in force when it returns.
func Serve(ctx context.Context, opt Options) error {
	c, err := opt.LoadConfig()
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	log := newLogger(opt.Stderr, c.Log, level)
	if c.API.Listen != "" {
		return errors.New("api.listen: this version serves its socket only: leave it empty")
	}
	settled := delayGC()
	defer settled()
	st, err := openStore(c, log)
	if err != nil {
		return err
	}
	defer func() {
		if err := st.Close(); err != nil {
			log.Error("close the state", "error", err)
		}
	}()
	lock, err := lockNamespace(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	g, err := newGateway(ctx, c, st, log, opt.Version)
	if err != nil {
		return err
	}
	g.settled = settled
	defer g.links.Close()
	defer func() {
		if err := g.ports.Close(); err != nil {
			log.Error("close the ports", "error", err)
		}
	}()
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.Go(func() error {
		if err := g.begin(ctx, tasks, opt.LoadConfig, level); ctx.Err() == nil {
			return err
		}
		return nil // everything ends before all of it has begun
	})
	return tasks.Wait()
}

// delayGC lets garbage lie until the function that it returns is called.
func delayGC() (settled func()) {
	limit := debug.SetMemoryLimit(-1)
	debug.SetMemoryLimit(min(limit, startMemory))
	usual := debug.SetGCPercent(-1)
	if os.Getenv("GOGC") == "" {
		usual = runGCPercent
	}
	return sync.OnceFunc(func() {
		debug.SetGCPercent(usual)
		debug.SetMemoryLimit(limit)
		debug.FreeOSMemory()
	})
}

// begin starts everything. Whoever asks the API meanwhile waits.
func (g *Gateway) begin(ctx context.Context, tasks *errgroup.Group, load func() (*configs.Config, error), level *slog.LevelVar) error {
	c := g.config.Load()
	l, err := listen(c.API.Socket)
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return g.serve(ctx, tasks) },
		func() error { return g.firstManifest(ctx, c) },
		func() error { return g.confirm.restore(g) },
	} {
		if err := step(); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	return g.run(ctx, tasks, l, load, level)
}

// serve starts the parts that serve guests, and raises the firewall. Where the stored revision is still in force from
// before, guests are served meanwhile: see standing.
func (g *Gateway) serve(ctx context.Context, tasks *errgroup.Group) error {
	start(ctx, tasks, map[string]task{
		"links":  g.links.Run,
		"leases": g.leases.Run,
		"dhcp4":  g.dhcp4.Run,
		"dhcp6":  g.dhcp6.Run,
		"ra":     g.ra.Run,
		"dns":    g.dns.Run,
	})
	s := g.stored.Load()
	stands := g.stands(ctx, s)
	if stands && g.links.Apply(ctx, s) == nil { // else the attempt to put it in force says what is wrong with the links
		g.giveAddresses(s)
		g.log.Debug("addresses are given while the rules are read back", "revision", s.Revision)
	}
	if err := g.raiseFirewall(ctx); err != nil {
		return err
	}
	if stands {
		g.resuming.Go(func() { g.dns.SetSnapshot(s) })
	}
	return nil
}

func newLogger(w io.Writer, c configs.Log, level *slog.LevelVar) *slog.Logger {
	setLevel(level, c.Level)
	options := &slog.HandlerOptions{Level: level}
	if os.Getenv("JOURNAL_STREAM") != "" {
		// The journal has the time already.
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	if c.Format == configs.FormatJSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

func setLevel(level *slog.LevelVar, l configs.LogLevel) {
	level.Set(map[configs.LogLevel]slog.Level{
		configs.LevelDebug: slog.LevelDebug, configs.LevelInfo: slog.LevelInfo,
		configs.LevelWarn: slog.LevelWarn, configs.LevelError: slog.LevelError,
	}[l])
}

func openStore(c *configs.Config, log *slog.Logger) (*store.Store, error) {
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	return store.Open(c.StateFile(), store.Options{Log: log})
}

// newGateway makes the parts that serve guests and wires them; nothing is served yet.
func newGateway(ctx context.Context, c *configs.Config, st *store.Store, log *slog.Logger, version string) (*Gateway, error) {
	g := &Gateway{log: log, now: time.Now, version: version, started: time.Now(), store: st, enrolments: make(chan *enrolment)}
	g.config.Store(c)

	// Links are looked at before the firewall is probed or written: what was there, br_netfilter too, is put back by teardown.
	var err error
	g.links, err = link.New(ctx, link.Options{Logger: log, Journal: journal{st}, OnPort: g.onPort})
	if err != nil {
		return nil, fmt.Errorf("links: %w", err)
	}
	leases, err := st.Leases()
	if err != nil {
		return nil, err
	}
	g.leases = lease.New(lease.Config{Store: st, Enroller: g, Logger: log}, leases)
	g.dhcp4 = dhcp4.New(dhcp.Config{Leases: g.leases, Holder: g.links, Logger: log})
	duid, err := serverDUID(ctx, st)
	if err != nil {
		return nil, err
	}
	g.dhcp6 = dhcp6.New(dhcp6.Config{DUID: duid, Config: dhcp.Config{Leases: g.leases, Holder: g.links, Logger: log}})
	g.ra = ra.New(ra.Config{Logger: log})
	g.rivals = newRivals(g.now)
	g.ports = port.NewSet(log, g.links, g.dhcp4, g.dhcp6, g.ra, &dhcp4.RivalWatch{Heard: g.hearRival})
	g.dns, err = dns.New(dns.Config{
		Upstreams: upstreamsOf(c), Parallel: c.DNS.Parallel, CacheSize: c.DNS.CacheSize, RateLimit: c.DNS.RateLimit, QueryLog: c.DNS.QueryLog,
		TSIGKeys: tsigKeysOf(c), Updater: g, Version: "gatehouse " + version, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	g.force = newForce(log, g.stored.Load, g.serveSnapshot, g.steps()...)
	g.reload()
	return g, nil
}

// raiseFirewall finds out what the kernel can do, and makes what writes rules; none is written yet.
func (g *Gateway) raiseFirewall(ctx context.Context) error {
	c := g.config.Load()
	backend, features, err := iptables.Probe(ctx, iptables.Config{Backend: string(c.Firewall.Backend), MarkMask: uint32(c.Firewall.MarkMask)})
	if err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	g.backend, g.features = backend, features
	for _, f := range backend.Findings {
		g.log.Warn("firewall: "+f.Message, "code", f.Code, "remedy", f.Remedy)
	}
	tables, err := iptables.New(backend)
	if err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	sets, err := ipset.New()
	if err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	changes := make(chan struct{}, 1)
	g.watchRules = func(ctx context.Context) error {
		return tables.Watch(ctx, func() {
			select {
			case changes <- struct{}{}:
			default: // told already
			}
		})
	}
	g.firewall = reconcile.New(reconcile.Options{
		Changes: changes, IPTables: tables, IPSet: sets, Conntrack: conntrack.New(), Features: features,
		VerifyInterval: time.Duration(c.Firewall.VerifyInterval), Logger: g.log, OnStanding: g.remember,
	})
	return nil
}

func upstreamsOf(c *configs.Config) []string {
	var out []string
	for _, u := range c.DNS.Upstreams {
		out = append(out, u.String())
	}
	return out
}

// journal keeps in the store what teardown has to put back.
type journal struct{ store *store.Store }

const metaLinks = "links"

func (j journal) Load(context.Context) ([]byte, error) { return j.store.Meta(metaLinks) }

func (j journal) Save(ctx context.Context, data []byte) error {
	return j.store.PutMeta(ctx, metaLinks, data)
}

const metaDUID = "dhcp6.duid"

// serverDUID is how DHCPv6 clients know this gateway: made once and then kept, since they renew only with the server that
// they had.
func serverDUID(ctx context.Context, st *store.Store) (dhcp6.DUID, error) {
	b, err := st.Meta(metaDUID)
	if err != nil {
		return nil, err
	}
	if b != nil {
		return dhcp6.ParseDUID(b)
	}
	duid := dhcp6.NewDUID()
	return duid, st.PutMeta(ctx, metaDUID, duid)
}

// onPort tells those who speak to guests directly where they are.
func (g *Gateway) onPort(p link.Port, up bool) error {
	if !up {
		return g.ports.Remove(p.Index)
	}
	return g.ports.Add(port.Port{Index: p.Index, Name: p.Name, VSwitch: p.VSwitch, LinkMAC: p.LinkMAC, Bridged: p.Name != p.Link})
}

// firstManifest applies the configured manifest when nothing was ever stored.
func (g *Gateway) firstManifest(ctx context.Context, c *configs.Config) error {
	if _, revision := g.store.State(); c.Manifest == "" || revision > 0 {
		return nil
	}
	text, err := os.ReadFile(c.Manifest)
	if err != nil {
		return fmt.Errorf("first manifest: %w", err)
	}
	_, err = g.Apply(ctx, api.ApplyRequest{Files: []api.File{{Name: c.Manifest, Content: text}}, User: "gatehouse", NoWait: true})
	return err
}

// listen opens the API's socket. A file that a killed daemon left is taken over; a living one's is not, since its store is
// locked and we would not be here.
func listen(path string) (net.Listener, error) {
	if fds := os.Getenv("LISTEN_FDS"); fds == "1" && os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		return net.FileListener(os.NewFile(3, path)) // systemd opened it
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("API socket: %w", err)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("API socket: %w", err)
		}
	}
	old := syscall.Umask(0o117) // nobody else may connect, not even for a moment
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("API socket: %w", err)
	}
	if grp, err := user.LookupGroup(socketGroup); err == nil {
		gid, err := strconv.Atoi(grp.Gid)
		if err == nil && gid != os.Getegid() { // else it is the group's already
			err = os.Chown(path, -1, gid)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("API socket: %w", err), l.Close())
		}
	}
	return l, nil
}

// task runs until ctx ends, or fails.
type task func(ctx context.Context) error

// start starts tasks. When one of them fails, all end.
func start(ctx context.Context, group *errgroup.Group, tasks map[string]task) {
	for name, task := range tasks {
		group.Go(func() error {
			err := task(ctx)
			if ctx.Err() != nil || err == nil {
				return nil // it ends because everything does
			}
			return fmt.Errorf("%s: %w", name, err)
		})
	}
}

// run starts the tasks that need the firewall, and serves the API.
func (g *Gateway) run(ctx context.Context, tasks *errgroup.Group, l net.Listener, load func() (*configs.Config, error), level *slog.LevelVar) error {
	start(ctx, tasks, map[string]task{
		"firewall": g.firewall.Run,
		"rules":    g.watchRules,
		"force":    g.force.Run,
		"expiry":   g.runExpiry,
		"enrol":    g.runEnrolments,
		"flows":    g.runFlows,
		"rivals":   g.runRivals,
		"systemd":  g.runSystemd,
		"announce": g.announce,
	})
	tasks.Go(func() error { return g.serveHTTP(ctx, l, api.NewHandler(g, g.metrics())) })
	if addr := string(g.config.Load().Metrics.Listen); addr != "" {
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("metrics.listen: %w", err)
		}
		tasks.Go(func() error { return g.serveHTTP(ctx, tcp, metricsOnly(api.NewHandler(g, g.metrics()))) })
	}
	tasks.Go(func() error {
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, syscall.SIGHUP)
		defer signal.Stop(hup)
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-hup:
				g.notify(reloading())
				g.reloadConfig(load, level)
				g.notify(daemon.SdNotifyReady)
			}
		}
	})
	return nil
}

// metricsOnly serves what a monitor may see without being allowed to change anything.
func metricsOnly(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"GET /metrics", "GET /healthz", "GET /readyz"} {
		mux.Handle(path, h)
	}
	return mux
}

// withPeer remembers who is at the other end of the API's socket (SO_PEERCRED).
func withPeer(ctx context.Context, c net.Conn) context.Context {
	cred, err := peerOf(c)
	if err != nil {
		return ctx // over TCP there is nobody to name
	}
	uid := strconv.Itoa(int(cred.Uid))
	if u, err := user.LookupId(uid); err == nil {
		return api.WithUser(ctx, u.Username)
	}
	return api.WithUser(ctx, uid)
}

// serveHTTP serves until ctx ends, and lets requests that are under way finish.
func (g *Gateway) serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{ConnContext: withPeer, Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelWarn)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			s.Close() // somebody follows events; they are cut
		}
	}()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("api: %w", err)
	}
	<-done
	return nil
}

// reloadConfig reads the configuration again. What can change while running does; a bad file changes nothing.
func (g *Gateway) reloadConfig(load func() (*configs.Config, error), level *slog.LevelVar) {
	c, err := load()
	if err != nil {
		g.log.Error("reload: the configuration is refused, the old one stays", "error", err)
		return
	}
	old := g.config.Load()
	for _, fixed := range []struct {
		key     string
		changed bool
	}{
		{"stateDir", c.StateDir != old.StateDir}, {"api.socket", c.API.Socket != old.API.Socket}, {"api.listen", c.API.Listen != old.API.Listen},
		{"metrics.listen", c.Metrics.Listen != old.Metrics.Listen}, {"firewall", c.Firewall != old.Firewall}, {"log.format", c.Log.Format != old.Log.Format},
	} {
		if fixed.changed {
			g.log.Warn("reload: takes effect at the next start only", "key", fixed.key)
		}
	}
	setLevel(level, c.Log.Level)
	if err := g.dns.SetUpstreams(upstreamsOf(c)); err != nil {
		g.log.Error("reload", "error", err)
		return
	}
	g.dns.SetParallel(c.DNS.Parallel)
	g.dns.SetCacheSize(c.DNS.CacheSize)
	g.dns.SetRateLimit(c.DNS.RateLimit)
	g.dns.SetQueryLog(c.DNS.QueryLog)
	g.dns.SetTSIGKeys(tsigKeysOf(c))
	g.change.Lock()
	g.config.Store(c)
	g.reload()
	g.change.Unlock()
	g.log.Info("configuration reloaded")
}

// runSystemd says when the daemon is ready and feeds the watchdog as long as the parts answer.
func (g *Gateway) runSystemd(ctx context.Context) error {
	if err := g.waitReady(ctx); err != nil {
		return nil // the daemon ends before it was ready
	}
	g.ready.Store(true)
	s := g.inUse.Load()
	g.log.Info("ready", "revision", s.Revision, "vswitches", len(s.VSwitches), "instances", len(s.Instances), "backend", g.backend.Mode)
	g.notify(daemon.SdNotifyReady + "\nSTATUS=revision " + strconv.FormatUint(s.Revision, 10) + " is in force")
	g.settled()
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		interval = time.Hour // nobody watches
	}
	tick := time.NewTicker(interval / 3)
	defer tick.Stop()
	parts := g.pulses()
	for {
		select {
		case <-ctx.Done():
			g.notify(daemon.SdNotifyStopping)
			return nil
		case <-tick.C:
			if err := parts.beat(ctx, g.now()); err != nil {
				g.log.Error("the watchdog is not fed", "error", err)
			} else {
				g.notify(daemon.SdNotifyWatchdog)
			}
		}
	}
}

// waitReady waits until the stored revision was put in force for the first time, and every socket was opened or could not be.
func (g *Gateway) waitReady(ctx context.Context) error {
	for {
		pause := 10 * time.Millisecond
		err := g.force.Wait(ctx, g.stored.Load().Revision)
		if s := g.inUse.Load(); err == nil && s != nil && g.listening(s) {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			g.settled() // it may take long
			g.notify("STATUS=" + err.Error())
			pause = 100 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// listening reports whether the name server has tried to open its sockets on every vSwitch.
func (g *Gateway) listening(s *vpc.Snapshot) bool {
	tried := map[string]bool{}
	for _, l := range g.dns.Listeners() {
		tried[l.VSwitch] = true
	}
	return !slices.ContainsFunc(s.VSwitches, func(w *vpc.VSwitch) bool { return w.HasLink() && !tried[w.ID] })
}

// reloading is what systemd wants to hear before READY=1 when the configuration is read again; the time tells it to which
// request that READY=1 is the answer.
func reloading() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return daemon.SdNotifyReloading
	}
	return daemon.SdNotifyReloading + "\nMONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/1000, 10)
}

func (g *Gateway) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		g.log.Warn("notify systemd", "error", err)
	}
}

// errTornDown is why nothing is in force after a teardown.
var errTornDown = errors.New("everything was removed from the kernel by 'gatehouse teardown': restart the daemon to put it in force again")

// Teardown removes every trace from the kernel; nothing is put in force again before the daemon is restarted.
func (g *Gateway) Teardown(ctx context.Context) error {
	g.force.Halt(errTornDown)
	g.resuming.Wait()
	g.inUse.Store(nil)
	empty := vpc.NewSnapshot(&vpc.Spec{}, vpc.Host{}, g.stored.Load().Revision)
	g.dns.SetSnapshot(empty)
	g.leases.SetSnapshot(empty)
	g.dhcp4.SetSnapshot(empty)
	g.dhcp6.SetSnapshot(empty)
	g.ra.SetSnapshot(empty) // the last advertisement leaves while the links are there
	// Links first: without rules nothing may forward for them, not even for a moment.
	if err := g.links.Teardown(ctx); err != nil {
		return fmt.Errorf("teardown: links: %w", err)
	}
	if err := g.firewall.Teardown(ctx); err != nil {
		return fmt.Errorf("teardown: firewall: %w", err)
	}
	g.log.Warn("torn down: nothing is enforced until the daemon is restarted")
	return nil
}

// TeardownOffline is Teardown without a daemon. It refuses while one runs.
func TeardownOffline(ctx context.Context, c *configs.Config, stderr io.Writer) error {
	log := newLogger(stderr, configs.Log{Level: configs.LevelWarn, Format: configs.FormatText}, new(slog.LevelVar))
	st, err := openStore(c, log)
	if err != nil {
		return err
	}
	defer st.Close()
	lock, err := lockNamespace(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	links, err := link.New(ctx, link.Options{Logger: log, Journal: journal{st}})
	if err != nil {
		return fmt.Errorf("links: %w", err)
	}
	defer links.Close()
	tables, sets, err := drivers(ctx, c)
	if err != nil {
		return err
	}
	if err := links.Teardown(ctx); err != nil {
		return fmt.Errorf("links: %w", err)
	}
	if err := reconcile.Remove(ctx, tables, sets); err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	return nil
}

// drivers write the kernel's rules and sets for whoever needs no more than to remove or to close.
func drivers(ctx context.Context, c *configs.Config) (*iptables.Driver, *ipset.Driver, error) {
	backend, err := iptables.Find(ctx, string(c.Firewall.Backend))
	if err != nil {
		return nil, nil, fmt.Errorf("firewall: %w", err)
	}
	tables, err := iptables.New(backend)
	if err != nil {
		return nil, nil, fmt.Errorf("firewall: %w", err)
	}
	sets, err := ipset.New()
	if err != nil {
		return nil, nil, fmt.Errorf("firewall: %w", err)
	}
	return tables, sets, nil
}

// CloseLinks lets nothing pass by the links of the stored vSwitches until a daemon puts its rules in force. It is what
// runs at boot before the network: a link that others set up, and forward for, must not be open while the daemon is not
// there yet. Where the kernel carries our rules already, or nothing was ever stored, it does nothing.
func CloseLinks(ctx context.Context, c *configs.Config, stderr io.Writer) error {
	if _, err := os.Stat(c.StateFile()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	log := newLogger(stderr, configs.Log{Level: configs.LevelInfo, Format: configs.FormatText}, new(slog.LevelVar))
	st, err := openStore(c, log)
	if errors.Is(err, store.ErrInUse) {
		return nil // a daemon is there
	}
	if err != nil {
		return err
	}
	defer st.Close()
	spec, revision := st.State()
	var links []string
	for _, w := range vpc.NewSnapshot(spec, c.Host(), revision).VSwitches {
		if w.HasLink() {
			links = append(links, w.LinkName())
		}
	}
	tables, sets, err := drivers(ctx, c)
	if err != nil {
		return err
	}
	closed, err := reconcile.Close(ctx, tables, sets, links...)
	if err != nil {
		return fmt.Errorf("close the links: %w", err)
	}
	if closed {
		log.Info("links are closed until the daemon is ready", "links", links)
	}
	return nil
}
