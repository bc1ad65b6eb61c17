package iptables

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"gatehouse/firewall"
)

// ChainPrefix begins the name of every chain that is ours.
const ChainPrefix = "GH-"

// State is what the kernel carries of ours in one family, by table.
type State map[string]*Table

// Table is what one table carries of ours.
type Table struct {
	Chains map[string][]string // name -> what every rule is known by, in order (firewall.Chain.Hashes)
	Hooks  []Hook              // every rule outside our chains that leads into one of them
	marks  []string            // values that other people's rules set in packet marks
	others int                 // rules that are not ours
}

// Hook is a rule outside our chains that leads into one of them.
type Hook struct {
	Chain    string // where the rule stands
	Target   string // the chain of ours
	Position int    // among the rules of Chain, from 1
	Plain    bool   // matches every packet, as those that we insert do
	rule     string // the rule as saved, after "-A "
}

// Counter is what one rule of ours has counted.
type Counter struct {
	Table, Chain   string
	Hash, ID       string // of the rule
	Packets, Bytes uint64
}

// Hooked reports whether the chain has the hook exactly once, as its first rule.
func (t *Table) Hooked(chain, target string) bool {
	n, first := 0, false
	for _, h := range t.Hooks {
		if h.Chain == chain && h.Target == target {
			n++
			first = first || h.Position == 1 && h.Plain
		}
	}
	return n == 1 && first
}

// saved is one line of iptables-save or iptables -S that this package understands.
type saved struct {
	chain          string
	words          []string // of a rule, after the chain; nil for a line that declares a chain
	text           string   // of a rule, after "-A "
	packets, bytes uint64
}

// parseSave calls table and line for what it reads from iptables-save, with or without counters.
func parseSave(r io.Reader, line func(table string, s saved) error) error {
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20)
	table := ""
	for n := 1; scan.Scan(); n++ {
		l := scan.Text()
		if name, ok := strings.CutPrefix(l, "*"); ok {
			table = name
			continue
		}
		if name := leftOut(l); name != "" {
			return leftOutError(name)
		}
		s, ok, err := parseLine(l)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if !ok {
			continue // comments, warnings, COMMIT
		}
		if table == "" {
			return fmt.Errorf("line %d: %q stands outside of any table", n, l)
		}
		if err := line(table, s); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return scan.Err()
}

// parseLine reads a chain's declaration (":GH-FWD - [0:0]", "-N GH-FWD") or a rule ("[0:0] -A GH-FWD …"); ok is false for
// anything else.
func parseLine(l string) (s saved, ok bool, err error) {
	if name, is := strings.CutPrefix(l, ":"); is {
		s.chain, _, _ = strings.Cut(name, " ")
		return s, true, nil
	}
	if name, is := strings.CutPrefix(l, "-N "); is {
		s.chain = name
		return s, true, nil
	}
	if strings.HasPrefix(l, "[") {
		counts, rest, found := strings.Cut(l[1:], "] ")
		packets, bytes, colon := strings.Cut(counts, ":")
		if !found || !colon {
			return s, false, fmt.Errorf("%q has no counters", l)
		}
		if s.packets, err = strconv.ParseUint(packets, 10, 64); err != nil {
			return s, false, fmt.Errorf("packets of %q: %w", l, err)
		}
		if s.bytes, err = strconv.ParseUint(bytes, 10, 64); err != nil {
			return s, false, fmt.Errorf("bytes of %q: %w", l, err)
		}
		l = rest
	}
	text, is := strings.CutPrefix(l, "-A ")
	if !is {
		return s, false, nil
	}
	words, err := split(text)
	if err != nil {
		return s, false, err
	}
	if len(words) == 0 {
		return s, false, fmt.Errorf("%q names no chain", l)
	}
	s.chain, s.words, s.text = words[0], words[1:], text
	return s, true, nil
}

// leftOutError names a table of ours that iptables-nft-save has left out; it reports success all the same.
type leftOutError string

func (e leftOutError) Error() string { return "table " + string(e) + " was left out" }

// leftOut returns the table of ours of which a line says that it was left out.
func leftOut(l string) string {
	name, is := strings.CutPrefix(l, "# Table `")
	if !is {
		return ""
	}
	name, what, _ := strings.Cut(name, "'")
	if !is || !strings.HasPrefix(what, " is incompatible") || !slices.Contains(Tables(), name) {
		return ""
	}
	return name
}

// split breaks a saved rule into words as iptables-restore does: blanks separate, double quotes keep together, a
// backslash inside quotes takes the next character as it is. Most words are part of the text as they are.
func split(text string) ([]string, error) {
	words := make([]string, 0, 24)
	for i := 0; i < len(text); {
		if text[i] == ' ' || text[i] == '\t' {
			i++
			continue
		}
		n := strings.IndexAny(text[i:], " \t\"")
		if n < 0 {
			n = len(text) - i
		}
		if i+n == len(text) || text[i+n] != '"' {
			words = append(words, text[i:i+n])
			i += n
			continue
		}
		word, n, err := quotedWord(text[i:])
		if err != nil {
			return nil, err
		}
		words = append(words, word)
		i += n
	}
	return words, nil
}

// quotedWord returns the word that text begins with, without its quotes, and the length that it has there.
func quotedWord(text string) (string, int, error) {
	var word strings.Builder
	quoted := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quoted && c == '\\' && i+1 < len(text):
			i++
			word.WriteByte(text[i])
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t'):
			return word.String(), i, nil
		default:
			word.WriteByte(c)
		}
	}
	if quoted {
		return "", 0, fmt.Errorf("a quotation in %q does not end", text)
	}
	return word.String(), len(text), nil
}

// option returns the value of an option among the words of a rule.
func option(words []string, names ...string) string {
	for i := 0; i+1 < len(words); i++ {
		for _, n := range names {
			if words[i] == n {
				return words[i+1]
			}
		}
	}
	return ""
}

// comment returns the rule's comment. Only the word after "--comment" counts that follows its own "-m comment": a prefix of
// NFLOG may hold anything.
func (s saved) comment() string {
	for i := 0; i+3 < len(s.words); i++ {
		if s.words[i] == "-m" && s.words[i+1] == "comment" && s.words[i+2] == "--comment" {
			return s.words[i+3]
		}
	}
	return ""
}

// identity returns the hash and the ID that the comment of a rule of ours holds. A rule without such a comment, which need
// not be ours, is known by its text.
func (s saved) identity() (hash, id string) {
	c, ok := strings.CutPrefix(s.comment(), firewall.CommentPrefix)
	if !ok {
		return s.chain + " " + strings.Join(s.words, " "), ""
	}
	hash, id, _ = strings.Cut(c, " ")
	return hash, id
}

// target returns the chain or target that the rule leads to.
func (s saved) target() string { return option(s.words, "-j", "-g", "--jump", "--goto") }

// plain reports whether the rule is a hook as we insert it: nothing but the jump.
func (s saved) plain() bool { return len(s.words) == 2 && s.words[0] == "-j" }

// readState collects what is ours from iptables-save.
func readState(r io.Reader) (State, error) {
	st := State{}
	position := map[[2]string]int{}
	err := parseSave(r, func(table string, s saved) error {
		t := st[table]
		if t == nil {
			t = &Table{Chains: map[string][]string{}}
			st[table] = t
		}
		own := strings.HasPrefix(s.chain, ChainPrefix)
		switch {
		case s.words == nil && own:
			t.Chains[s.chain] = []string{}
		case s.words == nil:
		case own:
			if _, declared := t.Chains[s.chain]; !declared {
				return fmt.Errorf("a rule of %s comes before the chain", s.chain)
			}
			hash, _ := s.identity()
			t.Chains[s.chain] = append(t.Chains[s.chain], strings.Clone(hash)) // or it would keep the whole line
		default:
			at := [2]string{table, s.chain}
			position[at]++
			if !strings.HasPrefix(s.target(), ChainPrefix) {
				t.others++
				if m := option(s.words, "--set-xmark", "--set-mark", "--or-mark"); m != "" {
					t.marks = append(t.marks, m)
				}
				return nil
			}
			t.Hooks = append(t.Hooks, Hook{Chain: s.chain, Target: s.target(), Position: position[at], Plain: s.plain(), rule: s.text})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return st, nil
}

// readCounters collects what our rules have counted from iptables-save -c.
func readCounters(r io.Reader) ([]Counter, error) {
	var counters []Counter
	err := parseSave(r, func(table string, s saved) error {
		if s.words != nil && strings.HasPrefix(s.chain, ChainPrefix) {
			hash, id := s.identity()
			counters = append(counters, Counter{table, s.chain, hash, id, s.packets, s.bytes})
		}
		return nil
	})
	return counters, err
}
