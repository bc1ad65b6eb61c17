package iptables

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gatehouse/vpc"
)

// ErrPermission means that the kernel wants more rights than the process has.
var ErrPermission = errors.New("not permitted: iptables needs CAP_NET_ADMIN, and the legacy backend CAP_NET_RAW too")

// LockError means that another program held the xtables lock for longer than we wait.
type LockError struct{ Waited time.Duration }

func (e *LockError) Error() string {
	return fmt.Sprintf("another program has held the xtables lock for %v", e.Waited)
}

// Remedy says what an operator can do.
func (e *LockError) Remedy() string {
	return "find the program with `fuser -v " + lockFile() + "`; gatehouse tries again by itself"
}

// MissingError means that the kernel, or iptables, lacks something without which no ruleset can be written.
type MissingError struct {
	Family vpc.Family
	What   string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("this kernel or its iptables lacks, for %s, %s", e.Family, e.What)
}

// Remedy says what an operator can do.
func (e *MissingError) Remedy() string {
	return "load that module (`modprobe`; `dmesg` says why it does not load), or run a distribution's kernel, which has it, and iptables of the same release"
}

// IncompatibleError means that a table holds something that iptables-nft cannot list, so that nothing in the table can be
// verified.
type IncompatibleError struct {
	Family vpc.Family
	Table  string
	Reason string
}

func (e *IncompatibleError) Error() string {
	return fmt.Sprintf("%s table %s cannot be listed: %s", e.Family, e.Table, e.Reason)
}

// Remedy says what an operator can do.
func (e *IncompatibleError) Remedy() string {
	tool := "ip"
	if e.Family == vpc.IPv6 {
		tool = "ip6"
	}
	return fmt.Sprintf("something other than iptables wrote into it: see `nft list table %s %s`, and move those rules into a table of their own", tool, e.Table)
}

// RestoreError is a refusal of rules, by iptables-restore or by the kernel. Nothing of the table that the line stands in was
// applied.
type RestoreError struct {
	Family vpc.Family
	Line   int    // of the input, from 1; 0 when none was named. The legacy backend names COMMIT for what the kernel refused.
	Text   string // that line
	Reason string // in iptables' words
}

func (e *RestoreError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("restore %s: %s", e.Family, e.Reason)
	}
	return fmt.Sprintf("restore %s: line %d, %q: %s", e.Family, e.Line, e.Text, e.Reason)
}

var (
	restorePrefix = regexp.MustCompile(`^ip6?tables(-nft|-legacy)?(-restore|-save)?( v[0-9.]+ \([a-z_]+\))?: *`)
	restoreLine   = regexp.MustCompile(`\bline:? ([0-9]+)(?:: | failed: | failed$|$)`)
)

// newRestoreError finds the offending line of input in what iptables-restore printed.
func newRestoreError(f vpc.Family, input, stderr string) *RestoreError {
	e := &RestoreError{Family: f}
	var reasons []string
	for _, l := range strings.Split(stderr, "\n") {
		l = strings.TrimSpace(restorePrefix.ReplaceAllString(l, ""))
		m := restoreLine.FindStringSubmatchIndex(l)
		if m != nil && e.Line == 0 {
			e.Line, _ = strconv.Atoi(l[m[2]:m[3]]) // digits; one too large is no line of the input
		}
		if m != nil {
			l = strings.TrimSpace(l[m[1]:])
		}
		if l != "" && !strings.HasPrefix(l, "Try `") && !strings.HasPrefix(l, "Perhaps ") && !strings.HasPrefix(l, "Can't lock ") {
			reasons = append(reasons, l)
		}
	}
	e.Reason = strings.Join(reasons, "; ")
	if e.Reason == "" {
		e.Reason = "refused by the kernel"
	}
	if lines := strings.Split(input, "\n"); e.Line > 0 && e.Line <= len(lines) {
		e.Text = lines[e.Line-1]
	}
	return e
}

// classify recognises the failures that have nothing to do with the input; nil when it is none of them.
func classify(stderr string, wait time.Duration) error {
	switch {
	case strings.Contains(stderr, "holding the xtables lock"):
		return &LockError{wait}
	case strings.Contains(stderr, "can't open lock file"), strings.Contains(stderr, "ermission denied"), strings.Contains(stderr, "peration not permitted"):
		return fmt.Errorf("%w (%s)", ErrPermission, strings.TrimSpace(stderr))
	}
	return nil
}
