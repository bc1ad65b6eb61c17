package server

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/configs"
	"gatehouse/firewall"
	"gatehouse/firewall/iptables"
	"gatehouse/firewall/reconcile"
	"gatehouse/server/dhcp"
	"gatehouse/server/dns"
	"gatehouse/server/lease"
	"gatehouse/server/link"
	"gatehouse/server/port"
	"gatehouse/server/ra"
	"gatehouse/store"
	"gatehouse/vpc"
)

// Gateway is the daemon's parts and what they share. Its exported methods are the api.Backend; they may be called at any
// time after New, from any goroutine.
type Gateway struct {
	log     *slog.Logger
	now     func() time.Time
	version string
	started time.Time

	config atomic.Pointer[configs.Config]
	store  *store.Store

	firewall *reconcile.Loop
	backend  iptables.Backend
	features firewall.Features
	links    *link.Manager
	ports    *port.Set
	leases   *lease.Engine
	dhcp4    *dhcp.Server
	dhcp6    *dhcp.Server
	rivals   *rivals
	ra       *ra.Server
	dns      *dns.Server
	force    *force
	flows    flowLog

	stored atomic.Pointer[vpc.Snapshot] // the newest revision
	inUse  atomic.Pointer[vpc.Snapshot] // the newest revision in force; nil before the first
	ready  atomic.Bool

	resuming sync.WaitGroup // names are made of what has been in force since before the start
	settled  func()         // ends the start: garbage is collected as usual

	watchRules func(context.Context) error // tells firewall that somebody has changed the kernel's rules

	// change serialises writers from reading the desired state to storing the new one.
	change sync.Mutex
	draft  *vpc.Snapshot // of the last state that was checked; held by change
	valid  validity      // the last state that was found valid; held by change

	confirm    confirmation
	enrolments chan *enrolment
}

// host gives the part of the configuration that the policy depends on.
func (g *Gateway) host() vpc.Host { return g.config.Load().Host() }

// Snapshot returns the newest stored revision.
func (g *Gateway) Snapshot() *vpc.Snapshot { return g.stored.Load() }

// reload makes the snapshot of what is stored and asks for it to be put in force.
func (g *Gateway) reload() *vpc.Snapshot {
	spec, revision := g.store.State()
	from := cmp.Or(g.draft, g.stored.Load(), new(vpc.Snapshot))
	g.draft = nil
	s := from.Next(spec, g.host(), revision)
	g.stored.Store(s)
	g.force.Wake()
	return s
}

// giveAddresses gives a snapshot that is in force to the parts that give guests their addresses.
func (g *Gateway) giveAddresses(s *vpc.Snapshot) {
	g.leases.SetSnapshot(s) // before DHCP, which asks it
	g.dhcp4.SetSnapshot(s)
	g.dhcp6.SetSnapshot(s)
	g.ra.SetSnapshot(s)
}

// serveSnapshot gives a snapshot that has just been put in force to all parts that answer packets.
func (g *Gateway) serveSnapshot(s *vpc.Snapshot) {
	g.resuming.Wait()
	g.giveAddresses(s)
	g.dns.SetSnapshot(s) // last: making the names of tens of thousands of instances takes longer than all else
	g.inUse.Store(s)
}

// steps are what makes the world match a snapshot, in order: rules before links, so that a link never forwards without them.
func (g *Gateway) steps() []step {
	return []step{
		{"firewall", func(ctx context.Context, s *vpc.Snapshot) error { return g.firewall.Apply(ctx, s) }}, // it is raised later
		{"advertisements", g.ra.Withdraw}, // while the links that go are still there
		{"links", g.links.Apply},
	}
}

// waitInForce waits for a revision as long as a request wants.
func (g *Gateway) waitInForce(ctx context.Context, revision uint64, timeout time.Duration) error {
	if timeout <= 0 {
		timeout = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return g.force.Wait(ctx, revision)
}
