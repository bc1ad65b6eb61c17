package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/server/dns"
)

// nameCollector turns what the name server counts into metrics.
type nameCollector struct{ server *dns.Server }

var (
	descQueries   = prometheus.NewDesc("gatehouse_dns_queries_total", "DNS replies by response code.", []string{"rcode"}, nil)
	descCache     = prometheus.NewDesc("gatehouse_dns_cache_total", "Questions about other people's names by what the cache had.", []string{"result"}, nil)
	descCached    = prometheus.NewDesc("gatehouse_dns_cache_entries", "Answers in the cache.", nil, nil)
	descCachedIn  = prometheus.NewDesc("gatehouse_dns_cache_bytes", "Memory of the answers in the cache.", nil, nil)
	descUnusual   = prometheus.NewDesc("gatehouse_dns_unusual_total", "Questions that were not simply answered.", []string{"what"}, nil)
	descWaiting   = prometheus.NewDesc("gatehouse_dns_waiting", "Questions that wait for an answer from elsewhere.", nil, nil)
	descConns     = prometheus.NewDesc("gatehouse_dns_connections", "TCP connections of clients.", nil, nil)
	descDown      = prometheus.NewDesc("gatehouse_dns_listeners_down", "Addresses that should be served and are not.", nil, nil)
	descWaited    = prometheus.NewDesc("gatehouse_dns_wait_seconds", "How long replies took that had to wait for an answer from elsewhere.", nil, nil)
	descUpstream  = prometheus.NewDesc("gatehouse_dns_upstream_healthy", "1 when an upstream answers.", []string{"upstream"}, nil)
	descRoundTrip = prometheus.NewDesc("gatehouse_dns_upstream_seconds", "Smoothed round trip time to an upstream.", []string{"upstream"}, nil)
	descAsked     = prometheus.NewDesc("gatehouse_dns_upstream_queries_total", "Questions to an upstream.", []string{"upstream", "result"}, nil)
)

// Describe is part of prometheus.Collector; Collect says the same.
func (c nameCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect is part of prometheus.Collector.
func (c nameCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s := c.server.Stats()
	for rcode, n := range s.Queries {
		counter(descQueries, n, rcode)
	}
	counter(descCache, s.CacheHits, "hit")
	counter(descCache, s.CacheMisses, "miss")
	counter(descCache, s.CacheStale, "stale")
	gauge(descCached, float64(s.CacheEntries))
	gauge(descCachedIn, float64(s.CacheBytes))
	counter(descUnusual, s.Truncated, "truncated")
	counter(descUnusual, s.Ignored, "ignored")
	counter(descUnusual, s.Limited, "limited")
	counter(descUnusual, s.Overload, "overload")
	counter(descUnusual, s.Rebinding, "rebinding")
	counter(descUnusual, s.Evicted, "evicted")
	gauge(descWaiting, float64(s.Waiting))
	gauge(descConns, float64(s.Connections))
	gauge(descDown, float64(s.ListenersDown))
	buckets, waited := map[float64]uint64{}, uint64(0)
	for i, n := range s.Waited {
		waited += n
		if i < len(dns.WaitBounds) {
			buckets[dns.WaitBounds[i]] = waited
		}
	}
	ch <- prometheus.MustNewConstHistogram(descWaited, waited, s.WaitedSum, buckets)
	for _, u := range s.Upstreams {
		healthy := 0.0
		if u.Healthy {
			healthy = 1
		}
		gauge(descUpstream, healthy, u.Address)
		gauge(descRoundTrip, u.Latency.Seconds(), u.Address)
		counter(descAsked, u.Queries-u.Failed, u.Address, "answered")
		counter(descAsked, u.Failed, u.Address, "failed")
	}
}
