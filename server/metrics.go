package server

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gatehouse/server/dhcp"
	"gatehouse/vpc"
)

// metrics serves the daemon's metrics in the Prometheus text format. Every value is read when it is asked for: the parts
// keep plain numbers, and nothing but this file knows of Prometheus.
func (g *Gateway) metrics() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collector{g}, nameCollector{g.dns})
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// collector turns what the parts count into metrics.
type collector struct{ g *Gateway }

var (
	descRevision  = prometheus.NewDesc("gatehouse_revision", "Newest revision of the desired state, stored and in force.", []string{"state"}, nil)
	descHealthy   = prometheus.NewDesc("gatehouse_healthy", "1 when status lists no problem.", nil, nil)
	descObjects   = prometheus.NewDesc("gatehouse_objects", "Objects of the desired state.", []string{"kind"}, nil)
	descLeases    = prometheus.NewDesc("gatehouse_leases", "Leases by state.", []string{"family", "state"}, nil)
	descPool      = prometheus.NewDesc("gatehouse_pool_addresses", "Addresses of a vSwitch's pool.", []string{"vpc", "vswitch", "family", "state"}, nil)
	descCommits   = prometheus.NewDesc("gatehouse_lease_commits_total", "Transactions that made leases durable.", nil, nil)
	descWritten   = prometheus.NewDesc("gatehouse_leases_written_total", "Leases made durable.", nil, nil)
	descRefused   = prometheus.NewDesc("gatehouse_lease_commit_errors_total", "Lease transactions that the store refused.", nil, nil)
	descConflicts = prometheus.NewDesc("gatehouse_address_conflicts_total", "Addresses that somebody else on the client's link was found to use before they were offered.", nil, nil)
	descRepairs   = prometheus.NewDesc("gatehouse_firewall_repairs_total", "Times that rules or sets were restored which somebody else had changed.", nil, nil)
	descReceived  = prometheus.NewDesc("gatehouse_dhcp_received_total", "DHCP messages received.", []string{"family", "type"}, nil)
	descSent      = prometheus.NewDesc("gatehouse_dhcp_sent_total", "DHCP messages sent.", []string{"family", "type"}, nil)
	descDropped   = prometheus.NewDesc("gatehouse_dhcp_dropped_total", "DHCP messages that got no answer.", []string{"family", "reason"}, nil)
	descAnswerIn  = prometheus.NewDesc("gatehouse_dhcp_answer_seconds", "Time from a DHCP message to its answer.", []string{"family"}, nil)
	descAdverts   = prometheus.NewDesc("gatehouse_router_advertisements_total", "Router advertisements sent.", nil, nil)
	descNeighbors = prometheus.NewDesc("gatehouse_neighbor_advertisements_total", "Neighbour solicitations answered in a guest's name.", nil, nil)
	descFloods    = prometheus.NewDesc("gatehouse_port_floods_total", "Times that what floods a port was shut out for a moment.", nil, nil)
	descBuildInfo = prometheus.NewDesc("gatehouse_build_info", "Always 1; the labels say what runs.", []string{"version", "backend"}, nil)
)

// Describe is part of prometheus.Collector; Collect says the same.
func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect is part of prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	g := c.g
	s := g.stored.Load()
	applied, err := g.force.State()
	gauge(descRevision, float64(s.Revision), "stored")
	gauge(descRevision, float64(applied), "in-force")
	healthy := 0.0
	if err == nil && len(g.partProblems()) == 0 {
		healthy = 1
	}
	gauge(descHealthy, healthy)
	gauge(descObjects, float64(len(s.VPCs)), "vpc")
	gauge(descObjects, float64(len(s.VSwitches)), "vswitch")
	gauge(descObjects, float64(len(s.Groups)), "securitygroup")
	gauge(descObjects, float64(len(s.Instances)), "instance")
	gauge(descObjects, float64(len(s.Interfaces)), "interface")
	type key struct {
		family vpc.Family
		state  vpc.LeaseState
	}
	count := map[key]int{}
	for _, l := range g.leases.Leases() {
		count[key{vpc.FamilyOf(l.Address), l.State}]++
	}
	for k, n := range count {
		gauge(descLeases, float64(n), k.family.String(), string(k.state))
	}
	for _, p := range g.leases.Pools() {
		if w := s.VSwitchByID(p.VSwitch); w != nil {
			gauge(descPool, p.Size, w.VPC.Name, w.Name, p.Family.String(), "total")
			gauge(descPool, float64(p.Used), w.VPC.Name, w.Name, p.Family.String(), "used")
			gauge(descPool, float64(p.Declined), w.VPC.Name, w.Name, p.Family.String(), "quarantined")
		}
	}
	st := g.leases.Stats()
	counter(descCommits, st.Commits)
	counter(descWritten, st.Written)
	counter(descRefused, st.Failures)
	counter(descConflicts, st.Conflicts)
	counter(descRepairs, g.firewall.Status().Repairs)
	for f, srv := range map[vpc.Family]*dhcp.Server{vpc.IPv4: g.dhcp4, vpc.IPv6: g.dhcp6} {
		st := srv.Stats()
		for desc, counts := range map[*prometheus.Desc]map[string]uint64{descReceived: st.Received, descSent: st.Sent, descDropped: st.Dropped} {
			for label, n := range counts {
				counter(desc, n, f.String(), label)
			}
		}
		buckets, sum := map[float64]uint64{}, uint64(0)
		for i, n := range st.Latency {
			sum += n
			if i < len(dhcp.LatencyBounds) {
				buckets[dhcp.LatencyBounds[i]] = sum
			}
		}
		ch <- prometheus.MustNewConstHistogram(descAnswerIn, sum, st.LatencySum, buckets, f.String())
	}
	adverts := g.ra.Stats()
	counter(descAdverts, adverts.Advertised)
	counter(descNeighbors, adverts.Answered)
	counter(descFloods, g.ports.Stats().Floods)
	gauge(descBuildInfo, 1, g.version, string(g.backend.Mode))
}
