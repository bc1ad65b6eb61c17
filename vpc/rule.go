package vpc

import (
	"fmt"
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

// ParseRule reads a rule as String writes it. The direction and the policy come first, then the protocol and, of tcp and udp, the
// ports; after that "from PEER", "to PEER", "source-ports PORTS", "priority N" and "description TEXT" (in quotes, if it
// has spaces) in any order. What is left out has its default.
func ParseRule(s string) (*RuleSpec, error) {
	words, err := splitWords(s)
	if err != nil {
		return nil, err
	}
	r := new(RuleSpec)
	r.SetDefaults()
	take := func() string {
		if len(words) == 0 {
			return ""
		}
		w := words[0]
		words = words[1:]
		return w
	}
	if r.Direction = Direction(take()); r.Direction != Ingress && r.Direction != Egress {
		return nil, fmt.Errorf("rule %q: it begins with ingress or egress", s)
	}
	if len(words) > 0 && (words[0] == string(Accept) || words[0] == string(Drop)) {
		r.Policy = Policy(take())
	}
	if r.Protocol, err = ParseProtocol(take()); err != nil {
		return nil, fmt.Errorf("rule %q: %w", s, err)
	}
	if len(words) > 0 && words[0] != "" && '0' <= words[0][0] && words[0][0] <= '9' {
		if r.Ports, err = ParsePorts(take()); err != nil {
			return nil, fmt.Errorf("rule %q: %w", s, err)
		}
	}
	seen := map[string]bool{}
	for len(words) > 0 {
		clause := take()
		if len(words) == 0 {
			return nil, fmt.Errorf("rule %q: %q wants something after it", s, clause)
		}
		if seen[clause] {
			return nil, fmt.Errorf("rule %q: %q is written twice", s, clause)
		}
		seen[clause] = true
		value := take()
		switch clause {
		case "from":
			r.Source, err = ParsePeer(value)
		case "to":
			r.Destination, err = ParsePeer(value)
		case "source-ports":
			r.SourcePorts, err = ParsePorts(value)
		case "priority":
			if r.Priority, err = strconv.Atoi(value); err != nil {
				err = fmt.Errorf("%q is not a priority (1 to 100)", value)
			}
		case "description":
			r.Description = value
		default:
			err = fmt.Errorf("%q is not one of from, to, source-ports, priority and description", clause)
		}
		if err != nil {
			return nil, fmt.Errorf("rule %q: %w", s, err)
		}
	}
	return r, nil
}

// splitWords splits at spaces; a word that begins with a quotation mark is a quoted string as Go writes it.
func splitWords(s string) ([]string, error) {
	var words []string
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" {
			return words, nil
		}
		if s[0] == '"' {
			quoted, err := strconv.QuotedPrefix(s)
			if err != nil {
				return nil, fmt.Errorf("%s: a quotation mark is not closed", s)
			}
			word, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, fmt.Errorf("%s is not a quoted text", quoted)
			}
			words = append(words, word)
			s = s[len(quoted):]
			continue
		}
		end := strings.IndexAny(s, " \t")
		if end < 0 {
			end = len(s)
		}
		words = append(words, s[:end])
		s = s[end:]
	}
}
