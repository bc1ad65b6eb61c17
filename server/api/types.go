package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"gatehouse/vpc"
)

// File is one manifest as the user named it, so that answers can name it too.
type File struct {
	Name    string `json:"name"` // as given to -f; "-" is standard input
	Content []byte `json:"content"`
}

// ApplyRequest asks for a change of the desired state, or what it would change (Plan, or DryRun).
type ApplyRequest struct {
	Files   []File        `json:"files"`
	Prune   bool          `json:"prune,omitempty"`
	DryRun  bool          `json:"dryRun,omitempty"`
	Confirm time.Duration `json:"confirm,omitempty"` // nanoseconds; undone after that long unless confirmed
	NoWait  bool          `json:"noWait,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"` // nanoseconds; how long to wait until it is in force
	User    string        `json:"user,omitempty"`    // who asks, for the audit log
}

// ApplyResult says what changed, or would.
type ApplyResult struct {
	Revision uint64       `json:"revision"` // what is stored now
	Applied  uint64       `json:"applied"`  // what is in force now
	Changes  []vpc.Change `json:"changes"`
}

// DeleteRequest removes one object.
type DeleteRequest struct {
	IfMatch uint64        `json:"-"` // refuse unless this is the newest revision; 0: whatever is
	Kind    vpc.Kind      `json:"kind"`
	VPC     string        `json:"vpc,omitempty"`
	Name    string        `json:"name"`
	NoWait  bool          `json:"noWait,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"`
	User    string        `json:"user,omitempty"`
}

// ExplainRequest asks whether the first packet of a connection would pass, and what decides.
type ExplainRequest struct {
	From     string       `json:"from"` // instance, interface ID, address, or "internet"
	To       string       `json:"to"`
	Protocol vpc.Protocol `json:"protocol"`
	Port     uint16       `json:"port,omitempty"`
	SrcPort  uint16       `json:"sourcePort,omitempty"`
	IPv6     bool         `json:"ipv6,omitempty"` // prefer IPv6 where an end has both
}

// Explanation is the answer: a walk through the compiled ruleset.
type Explanation struct {
	From     string         `json:"from"`
	FromAddr netip.Addr     `json:"fromAddress"`
	To       string         `json:"to"`
	ToAddr   netip.Addr     `json:"toAddress"`
	Protocol vpc.Protocol   `json:"protocol"`
	Port     uint16         `json:"port,omitempty"`
	Allowed  bool           `json:"allowed"`
	Stages   []ExplainStage `json:"stages"`
	Reply    []ExplainStage `json:"reply,omitempty"` // the way back, where the ACLs look at it
	Revision uint64         `json:"revision"`
	Kernel   string         `json:"kernel"` // "in force", or what differs
	Notes    []string       `json:"notes,omitempty"`
}

// ExplainStage is one stage's verdict, with the nearest rule that would change it.
type ExplainStage struct {
	vpc.StageResult
	Nearest string `json:"nearest,omitempty"`
}

// DNSAnswer is what an instance of a VPC is answered to a question, and why.
type DNSAnswer struct {
	VPC      string   `json:"vpc"`
	Name     string   `json:"name"`
	Type     string   `json:"type"`
	Rcode    string   `json:"rcode"`
	Answer   []string `json:"answer"` // records in presentation form
	Source   string   `json:"source"` // whose records these are: "instance NAME", "zone NAME", "upstream ADDRESS" …
	Revision uint64   `json:"revision"`
}

// Flushed says how many answers of upstreams were forgotten.
type Flushed struct {
	Flushed int `json:"flushed"`
}

// Problem is one thing that keeps the gateway from working, and the remedy.
type Problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

// Status is the daemon's health.
type Status struct {
	Version   string         `json:"version"`
	Revision  uint64         `json:"revision"` // stored
	Applied   uint64         `json:"applied"`  // in force
	Healthy   bool           `json:"healthy"`
	Problems  []Problem      `json:"problems"`
	Pending   *Pending       `json:"pending,omitempty"` // a change that waits for its confirmation
	Started   time.Time      `json:"started"`
	Firewall  FirewallStatus `json:"firewall"`
	VPCs      int            `json:"vpcs"`
	VSwitches int            `json:"vswitches"`
	Instances int            `json:"instances"`
	Leases    int            `json:"leases"` // bound
}

// FirewallStatus says how the rules are carried.
type FirewallStatus struct {
	Backend  string `json:"backend"`
	Chains   int    `json:"chains"`
	Rules    int    `json:"rules"`
	Sets     int    `json:"sets"`
	Repairs  uint64 `json:"repairs"`
	Verified string `json:"verified,omitempty"` // RFC 3339; when the kernel was last read back whole
}

// Lease is a lease as it is shown: the contract's fields.
type Lease struct {
	Address   netip.Addr     `json:"address"`
	Family    string         `json:"family"`
	MAC       vpc.MAC        `json:"mac"`
	ClientID  string         `json:"clientId,omitempty"`
	DUID      string         `json:"duid,omitempty"`
	Hostname  string         `json:"hostname"`
	Instance  string         `json:"instance"`
	Interface string         `json:"interface"`
	VPC       string         `json:"vpc"`
	VSwitch   string         `json:"vswitch"`
	Prefixes  []netip.Prefix `json:"ipv6Prefixes,omitempty"` // of an IPv6 lease: delegated to the same client
	State     vpc.LeaseState `json:"state"`
	Start     time.Time      `json:"start"`
	Expires   time.Time      `json:"expires"`
}

// Record is one DNS record that a view answers.
type Record struct {
	VPC    string `json:"vpc"`
	Zone   string `json:"zone"`
	Name   string `json:"name"`
	Type   string `json:"type"`
	TTL    uint32 `json:"ttl"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

// Event is one entry of the audit log.
type Event struct {
	Revision uint64       `json:"revision"`
	Time     time.Time    `json:"time"`
	User     string       `json:"user"`
	Verb     string       `json:"verb"`
	Summary  string       `json:"summary"`
	Changes  []vpc.Change `json:"changes,omitempty"`
}

// RuleCounter is how often a rule or an entry has decided.
type RuleCounter struct {
	Rule    string `json:"rule"`
	Reason  string `json:"reason,omitempty"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Detail is one of the reasons of an Error, with where it stands.
type Detail struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Path    string `json:"path"`
	Message string `json:"message"`
}

// Code classifies an Error for programs.
type Code string

// The codes.
const (
	CodeInvalid     Code = "invalid"      // the request, or what it asks for, breaks a rule; details say which
	CodeNotFound    Code = "not-found"    //
	CodeConflict    Code = "conflict"     // somebody changed it meanwhile, or it is still used
	CodeNotInForce  Code = "not-in-force" // stored, but the kernel does not carry it yet
	CodeTestFailed  Code = "test-failed"  // a test kept with the policy would break
	CodeUnavailable Code = "unavailable"  // the daemon cannot do it now
	CodeInternal    Code = "internal"     //
)

// Error is an answer of the daemon that refuses.
type Error struct {
	Code    Code     `json:"code"`
	Message string   `json:"message"`
	Details []Detail `json:"details,omitzero"`
}

func (e *Error) Error() string {
	if len(e.Details) == 0 {
		return e.Message
	}
	lines := make([]string, len(e.Details))
	for i, d := range e.Details {
		lines[i] = d.String()
	}
	return strings.Join(lines, "\n")
}

// String gives one detail as people read it: file, path, message.
func (d Detail) String() string {
	s := d.Message
	if d.Path != "" {
		s = d.Path + ": " + s
	}
	if d.File != "" {
		s = d.File + ": " + s
	}
	return s
}

// Errorf makes an Error without details.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// errorBody is the wire form of an Error.
type errorBody struct {
	Error *Error `json:"error"`
}

// Object is one object as get shows it: the manifest's fields and the read-only ones.
type Object struct {
	Kind   vpc.Kind
	VPC    string
	Name   string
	ID     string
	Fields map[string]any // manifest fields, id, vpc, status …
}

// MarshalJSON writes the fields alone.
func (o Object) MarshalJSON() ([]byte, error) { return json.Marshal(o.Fields) }

// PutRequest creates, replaces or patches one object.
type PutRequest struct {
	IfMatch uint64 // refuse unless this is the newest revision; 0: whatever is
	Kind    vpc.Kind
	VPC     string
	Name    string
	Body    []byte // JSON or YAML: the object in the manifest's form, or with Patch the fields that change
	Patch   bool   // RFC 7396 merge: what the body does not name stays
	Create  bool   // refuse when it exists
	NoWait  bool
	Timeout time.Duration
	User    string
}

// Description is everything about one object, for people: sections of lines.
type Description struct {
	Object   Object    `json:"object"`
	Sections []Section `json:"sections,omitempty"`
}

// Section is one titled table of a Description.
type Section struct {
	Title  string     `json:"title"`
	Header []string   `json:"header,omitempty"`
	Rows   [][]string `json:"rows"`
}

// TestResult is the outcome of one reachability assertion.
type TestResult struct {
	From     string       `json:"from"`
	To       string       `json:"to"`
	Protocol vpc.Protocol `json:"protocol"`
	Port     int          `json:"port,omitempty"`
	Expect   vpc.Policy   `json:"expect"`
	Got      vpc.Policy   `json:"got"`
	Decided  string       `json:"decided"` // stage and rule
	OK       bool         `json:"ok"`
}

// Level says how much a Finding matters.
type Level string

// The levels.
const (
	LevelOK      Level = "ok"
	LevelNote    Level = "note"    // good to know; it works
	LevelProblem Level = "problem" // something does not work
)

// Finding is one thing that doctor has looked at.
type Finding struct {
	Level   Level  `json:"level"`
	Code    string `json:"code"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
}

// Flow is one flow that a rule has decided about, as it was logged.
type Flow struct {
	Time     time.Time    `json:"time"`
	Verdict  vpc.Policy   `json:"verdict"`
	Reason   vpc.Reason   `json:"reason"`
	Rule     string       `json:"rule,omitempty"`
	From     string       `json:"from"` // an instance, or the address
	FromAddr netip.Addr   `json:"fromAddress"`
	FromPort uint16       `json:"fromPort,omitempty"`
	To       string       `json:"to"`
	ToAddr   netip.Addr   `json:"toAddress"`
	Protocol vpc.Protocol `json:"protocol"`
	Port     uint16       `json:"port,omitempty"`
	In       string       `json:"in,omitempty"`  // link
	Out      string       `json:"out,omitempty"` // link
}

// Pending is a change that is undone at the deadline unless it is confirmed.
type Pending struct {
	Base     uint64    `json:"base"` // the revision to go back to
	Deadline time.Time `json:"deadline"`
	User     string    `json:"user"`
}
