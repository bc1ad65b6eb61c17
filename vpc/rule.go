package vpc

import (
	"strconv"
	"strings"
)

// String writes the rule as commands take it and plans show it: ingress accept tcp 443 from 0.0.0.0/0 priority 1.
// It says everything but the ID; ParseRule is its inverse.
func (r *RuleSpec) String() string {
	var b strings.Builder
	b.WriteString(string(r.Direction))
	b.WriteByte(' ')
	writeMatch(&b, r.Policy, r.Protocol, r.Ports, r.Source, r.Destination)
	if r.SourcePorts != nil {
		b.WriteString(" source-ports " + r.SourcePorts.String())
	}
	b.WriteString(" priority " + strconv.Itoa(r.Priority))
	writeDescription(&b, r.Description)
	return b.String()
}

// String writes the entry as plans show it: accept tcp 443 from 0.0.0.0/0. It says everything but the ID.
func (e *EntrySpec) String() string {
	var b strings.Builder
	writeMatch(&b, e.Policy, e.Protocol, e.Ports, e.Source, e.Destination)
	writeDescription(&b, e.Description)
	return b.String()
}

func writeMatch(b *strings.Builder, policy Policy, proto Protocol, ports Ports, source, destination Peer) {
	b.WriteString(string(policy))
	b.WriteByte(' ')
	b.WriteString(proto.String())
	if ports != nil {
		b.WriteString(" " + ports.String())
	}
	if !source.IsZero() {
		b.WriteString(" from " + source.String())
	}
	if !destination.IsZero() {
		b.WriteString(" to " + destination.String())
	}
}

func writeDescription(b *strings.Builder, s string) {
	if s != "" {
		b.WriteString(" description " + strconv.Quote(s))
	}
}

// String writes the record as a zone file has it: name, TTL, type, value, and the weight if it has one.
func (r *RecordSpec) String() string {
	s := r.Name + " " + strconv.Itoa(r.TTL) + " " + r.Type + " " + r.Value
	if r.Weight != 0 {
		s += " weight " + strconv.Itoa(r.Weight)
	}
	return s
}

// String writes the test: web-1 to db-1 tcp/5432: accept.
func (t *TestSpec) String() string {
	s := t.From + " to " + t.To + " " + t.Protocol.String()
	if t.Port != 0 {
		s += "/" + strconv.Itoa(t.Port)
	}
	return s + ": " + string(t.Expect)
}
