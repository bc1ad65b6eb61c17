// Package server is the daemon: it wires store, firewall, links, DHCP and DNS together, puts every stored revision in
// force, and answers the API.
//
//   - gateway.go   the parts and what they share
//   - change.go    apply, create, set, delete, rollback: the only writers of desired state
//   - force.go     stored revision -> rules -> links -> names and leases; who waits for it
//   - standing.go  what is still in force from the daemon before
//   - enrol.go     an unknown MAC becomes an instance
//   - expire.go    enrolled instances that are not seen any more go
//   - objects.go   what get and describe show
//   - explain.go   a walk through the compiled ruleset, for people
//   - rivals.go    other DHCP servers on links that are not the gateway's alone
//   - status.go    health
//   - disk.go      whether the state can be written
//   - serve.go     tasks, readiness, watchdog, reload
package server
