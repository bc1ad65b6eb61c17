// Package vpc is the model of private networks: what people declare (Spec), what everything else reads
// (Snapshot), and what the policy says about a packet (Evaluate).
//
// The package is pure: it imports nothing of gatehouse and no library, reads no clock and does no I/O. Only RandomID draws
// random numbers, and who calls Apply may pass another source of IDs.
//
//   - spec.go      the declared tree, field for field the manifest
//   - object.go    kinds of objects, and how people name one
//   - validate.go  every rule a Spec must keep; all problems at once (validate_change.go: the verdict from what differs)
//   - merge.go     current Spec + wanted Spec -> candidate Spec, with IDs and addresses chosen
//   - edit.go      one object set or deleted by hand
//   - enrol.go     current Spec + unknown MAC -> Spec with an instance for it
//   - diff.go      what differs between two Specs, as a plan shows it
//   - snapshot.go  an immutable, resolved view of one revision (resolution.go: how it follows from the one before)
//   - compare.go   what differs between two snapshots
//   - resolve.go   what somebody means who names one end of a connection
//   - evaluate.go  the policy in plain code: Snapshot + Packet -> Verdict
//   - verdict.go   packets, stages, verdicts and the published reason codes
package vpc
