package firewall

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"gatehouse/vpc"
)

// What a refused packet is logged with. The limit is per pair of addresses: a scan costs a few records, not a flood.
const (
	// LogGroup is the NFLOG group that refused packets are sent to.
	LogGroup = 77

	logLimit = "-m hashlimit --hashlimit-upto 10/sec --hashlimit-burst 20 --hashlimit-mode srcip,dstip --hashlimit-name gh "
)

// CommentPrefix begins the comment of every rule of ours that has one: "gh:" and the rule's hash, then a blank and its ID if it has one.
const CommentPrefix = "gh:"

// chainText are the hashes of one chain's rules; a chain belongs to one family's tables, and so do they.
type chainText struct {
	once   sync.Once
	family vpc.Family
	sums   []byte // hashSize bytes a rule
}

// hashSize is the length of a rule's hash in bytes.
const hashSize = 10

// Spec returns the rule's arguments in the syntax of iptables-restore, without "-A CHAIN" and without the comment,
// which depends on the rule's chain (see Chain.Lines).
func (r Rule) Spec(f vpc.Family) string {
	b := appendMatch(nil, &r.Match, f)
	return string(appendTarget(b, r.Target))
}

// Lines returns the chain's rules as lines for iptables-restore: "-A CHAIN …" with the comment that identifies each rule.
func (c Chain) Lines(f vpc.Family) []string {
	if len(c.Rules) == 0 {
		return []string{}
	}
	text := string(c.AppendLines(nil, f))
	return strings.Split(text[:len(text)-1], "\n") // no line holds a line's end: appendQuoted
}

// AppendLines appends what Lines returns, each with its line's end.
func (c Chain) AppendLines(b []byte, f vpc.Family) []byte {
	sums := c.sums(f)
	for i := range c.Rules {
		b = append(append(append(b, "-A "...), c.Name...), ' ')
		b = c.appendRule(b, i, f, sums)
	}
	return b
}

// appendRule appends a rule's match, comment and target, and the line's end.
func (c Chain) appendRule(b []byte, i int, f vpc.Family, sums []byte) []byte {
	r := &c.Rules[i]
	b = appendMatch(b, &r.Match, f)
	if !r.Bare {
		var buf [maxComment]byte
		comment := hashEncoding.AppendEncode(append(buf[:0], CommentPrefix...), sums[i*hashSize:(i+1)*hashSize])
		if r.ID != "" {
			comment = append(append(comment, ' '), r.ID...)
		}
		b = append(appendQuoted(append(b, "-m comment --comment "...), string(comment), maxComment), ' ')
	}
	return append(appendTarget(b, r.Target), '\n')
}

// Hashes returns what each rule is known by, in order: its hash, a function of the chain's name and the rule with its ID; or
// the text of a bare rule after "-A ". Two chains have the same text exactly when they have the same hashes.
func (c Chain) Hashes(f vpc.Family) []string {
	sums := c.sums(f)
	hashes := make([]string, len(c.Rules))
	for i := range hashes {
		if c.Rules[i].Bare {
			hashes[i] = known(c.Name, c.Rules[i].Spec(f))
			continue
		}
		hashes[i] = hashEncoding.EncodeToString(sums[i*hashSize : (i+1)*hashSize])
	}
	return hashes
}

// HasHashes reports whether the chain's rules have exactly these hashes.
func (c Chain) HasHashes(f vpc.Family, hashes []string) bool {
	if len(hashes) != len(c.Rules) {
		return false
	}
	sums := c.sums(f)
	var line []byte
	for i, h := range hashes {
		if r := &c.Rules[i]; r.Bare {
			line = append(append(line[:0], c.Name...), ' ')
			line = appendTarget(appendMatch(line, &r.Match, f), r.Target)
			if string(line) != h {
				return false
			}
			continue
		}
		var buf [2 * hashSize]byte
		if string(hashEncoding.AppendEncode(buf[:0], sums[i*hashSize:(i+1)*hashSize])) != h {
			return false
		}
	}
	return true
}

// Equal reports whether two chains have the same name and, in the family, the same text.
func (c *Chain) Equal(o *Chain, f vpc.Family) bool {
	return c.Same(o) || c.Name == o.Name && bytes.Equal(c.sums(f), o.sums(f))
}

// sums returns the hashes of the rules, one after the other.
func (c Chain) sums(f vpc.Family) []byte {
	if c.text == nil {
		return hashRules(c, f)
	}
	c.text.once.Do(func() { c.text.family, c.text.sums = f, hashRules(c, f) })
	if c.text.family != f {
		return hashRules(c, f)
	}
	return c.text.sums
}

func hashRules(c Chain, f vpc.Family) []byte {
	out := make([]byte, 0, hashSize*len(c.Rules))
	var buf []byte
	for i := range c.Rules {
		r := &c.Rules[i]
		buf = append(append(buf[:0], c.Name...), '\n')
		buf = appendMatch(buf, &r.Match, f)
		buf = appendTarget(buf, r.Target)
		buf = append(append(buf, '\n'), r.ID...)
		if r.Bare {
			buf = append(buf, '\n')
		}
		sum := sha256.Sum256(buf)
		out = append(out, sum[:hashSize]...)
	}
	return out
}

const (
	maxComment   = 255 // bytes that xt_comment keeps, its final NUL apart
	maxLogPrefix = 63  // the same of NFLOG
)

var hashEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// appendMatch renders a match with a blank after every part. Cheap questions come first: the kernel asks in this order.
func appendMatch(b []byte, m *Match, f vpc.Family) []byte {
	b = appendLink(b, "-i ", m.In, m.NotIn)
	b = appendLink(b, "-o ", m.Out, m.NotOut)
	b = appendPrefix(b, "-s ", m.Src, m.NotSrc)
	b = appendPrefix(b, "-d ", m.Dst, m.NotDst)
	proto := protocolName(m.Protocol)
	if m.Protocol != vpc.ProtocolAll {
		b = append(append(append(b, "-p "...), proto...), ' ')
	}
	if m.Mark != nil {
		b = append(b, "-m mark "...)
		if m.NotMark {
			b = append(b, "! "...)
		}
		b = append(appendMark(append(b, "--mark "...), *m.Mark), ' ')
	}
	b = appendTransport(b, proto, m)
	if m.ICMPType > 0 {
		if f == vpc.IPv6 {
			b = append(b, "-m icmp6 --icmpv6-type "...)
		} else {
			b = append(b, "-m icmp --icmp-type "...)
		}
		b = strconv.AppendInt(b, int64(m.ICMPType-1), 10)
		if m.ICMPCode > 0 {
			b = strconv.AppendInt(append(b, '/'), int64(m.ICMPCode-1), 10)
		}
		b = append(b, ' ')
	}
	if !m.SrcMAC.IsZero() {
		b = append(append(append(b, "-m mac --mac-source "...), m.SrcMAC.String()...), ' ')
	}
	if len(m.States) > 0 {
		b = append(b, "-m conntrack --ctstate "...)
		for i, s := range m.States {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, stateName(s)...)
		}
		b = append(b, ' ')
	}
	if m.PhysdevIsBridged {
		b = append(b, "-m physdev --physdev-is-bridged "...)
	}
	if m.GroupFrame {
		b = append(b, "-m pkttype ! --pkt-type unicast "...)
	}
	for _, s := range m.Sets {
		b = append(b, "-m set "...)
		if s.Not {
			b = append(b, "! "...)
		}
		b = append(append(append(append(append(b, "--match-set "...), s.Set...), ' '), s.Dir...), ' ')
	}
	return b
}

func appendTarget(b []byte, t Target) []byte {
	switch t.Kind {
	case Return:
		return append(b, "-j RETURN"...)
	case Accept:
		return append(b, "-j ACCEPT"...)
	case Drop:
		return append(b, "-j DROP"...)
	case Jump:
		return append(append(b, "-j "...), t.Chain...)
	case Goto:
		return append(append(b, "-g "...), t.Chain...)
	case SetMark:
		return appendMark(append(b, "-j MARK --set-xmark "...), t.Mark)
	case MapMark:
		b = append(append(append(b, "-j SET --map-set "...), t.Set...), ' ')
		return append(append(b, t.Dir...), " --map-mark"...)
	case NFLog:
		b = append(b, logLimit+"-j NFLOG --nflog-group "...)
		b = append(strconv.AppendInt(b, LogGroup, 10), " --nflog-prefix "...)
		return appendQuoted(b, t.Log, maxLogPrefix)
	case Masquerade:
		return append(b, "-j MASQUERADE"...)
	case ClampMSS:
		return append(b, "-j TCPMSS --clamp-mss-to-pmtu"...)
	case Netmap:
		return t.To.AppendTo(append(b, "-j NETMAP --to "...))
	}
	return append(b, "-j DROP"...) // a target that does not exist lets nothing through
}

func appendLink(b []byte, option, name string, not bool) []byte {
	if name == "" {
		return b
	}
	if not {
		b = append(b, "! "...)
	}
	return append(appendQuoted(append(b, option...), name, len(name)), ' ')
}

func appendPrefix(b []byte, option string, p netip.Prefix, not bool) []byte {
	if !p.IsValid() || p.Bits() == 0 && !not {
		return b
	}
	if not {
		b = append(b, "! "...)
	}
	return append(p.AppendTo(append(b, option...)), ' ')
}

// appendTransport renders what is asked of a TCP or UDP header: one range of ports by the protocol's own match, several
// by multiport.
func appendTransport(b []byte, proto string, m *Match) []byte {
	if m.SYN != 0 || len(m.SrcPorts) == 1 || len(m.DstPorts) == 1 {
		b = append(append(append(b, "-m "...), proto...), ' ')
		switch {
		case m.SYN == EitherSYN:
			b = append(b, "--tcp-flags SYN,RST SYN "...)
		case m.SYN > 0:
			b = append(b, "--syn "...)
		case m.SYN < 0:
			b = append(b, "! --syn "...)
		}
		if len(m.SrcPorts) == 1 {
			b = appendPorts(append(b, "--sport "...), m.SrcPorts)
		}
		if len(m.DstPorts) == 1 {
			b = appendPorts(append(b, "--dport "...), m.DstPorts)
		}
	}
	if len(m.SrcPorts) > 1 {
		b = appendPorts(append(b, "-m multiport --sports "...), m.SrcPorts)
	}
	if len(m.DstPorts) > 1 {
		b = appendPorts(append(b, "-m multiport --dports "...), m.DstPorts)
	}
	return b
}

func appendPorts(b []byte, ports vpc.Ports) []byte {
	for i, r := range ports {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(r.From), 10)
		if r.To != r.From {
			b = strconv.AppendUint(append(b, ':'), uint64(r.To), 10)
		}
	}
	return append(b, ' ')
}

func appendMark(b []byte, m Mark) []byte {
	b = strconv.AppendUint(append(b, "0x"...), uint64(m.Value), 16)
	return strconv.AppendUint(append(b, "/0x"...), uint64(m.Mask), 16)
}

// appendQuoted appends at most limit bytes of s as one argument: in quotes, with what would end or escape them escaped,
// and without the control characters that would end the line.
func appendQuoted(b []byte, s string, limit int) []byte {
	s = s[:min(len(s), limit)]
	if s != "" && strings.IndexFunc(s, needsQuotes) < 0 {
		return append(b, s...)
	}
	b = append(b, '"')
	for _, c := range []byte(s) {
		switch {
		case c < ' ' || c == 0x7f:
			c = '_'
		case c == '"' || c == '\\':
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return append(b, '"')
}

func needsQuotes(c rune) bool {
	return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune(".:-_+@", c))
}

func protocolName(p vpc.Protocol) string {
	if p == vpc.ProtocolICMPv6 {
		return "ipv6-icmp"
	}
	if p == vpc.ProtocolGRE {
		return "47" // by number: not every host's list of protocols has it
	}
	return p.String()
}

func stateName(s vpc.ConnState) string {
	switch s {
	case vpc.StateEstablished:
		return "ESTABLISHED"
	case vpc.StateRelated:
		return "RELATED"
	case vpc.StateInvalid:
		return "INVALID"
	}
	return "NEW"
}
