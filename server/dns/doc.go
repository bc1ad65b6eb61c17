// Package dns answers the DNS questions of the instances: one view per VPC, computed from a snapshot, and everything else
// forwarded and cached.
//
//   - name.go      domain names in wire form
//   - view.go      snapshot + VPC -> View: every name that the VPC's instances may see (pure)
//   - reserved.go  names that are never asked outside (RFC 6761, RFC 6303)
//   - records.go   a View as a list of records
//   - zonefile.go  a zone as a file
//   - query.go     a packet -> Query
//   - cookie.go    DNS cookies: whose address is not forged
//   - extended.go  why an answer is what it is
//   - limiter.go   so many answers a second
//   - quota.go     so many at a time
//   - answer.go    View + Query -> message (pure, without allocation)
//   - transfer.go  whole zones for their secondaries
//   - notify.go    their secondaries are told of changes
//   - update.go    changes of zones by their clients
//   - replay.go    signed changes that come again
//   - cache.go     what upstreams said, for as long as they said
//   - upstream.go  the upstreams; which of them to ask
//   - exchange.go  one question to one upstream
//   - forward.go   forwarded questions: merge, cache, guard
//   - listener.go  the sockets of one gateway address; udp.go and tcp.go serve them
//   - querylog.go  who asked what
//   - holder.go    who else has a port
//   - server.go    Server: snapshots in, listeners and views out
//
// The view is decided by the address that a question was sent to, which belongs to one vSwitch and so to one VPC; a
// question from an address outside that VPC is refused. A packet is answered from one View, which is never changed
// after it was built, so that no answer mixes two revisions.
package dns
