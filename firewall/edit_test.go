package firewall

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gatehouse/vpc"
)

func TestEditsKeepTheRulesThatBothChainsHave(t *testing.T) {
	for _, tc := range []struct {
		name        string
		before, now string // a letter is a rule
		want        string // edits; "whole": none
	}{
		{"nothing differs", "abcdefgh", "abcdefgh", ""},
		{"one more in the middle", "abcdefgh", "abcXdefgh", "-I 4 X"},
		{"two more in the middle", "abcdefgh", "abcXYdefgh", "-I 4 X, -I 5 Y"},
		{"one more at the head", "abcdefgh", "Xabcdefgh", "-I 1 X"},
		{"one more at the end", "abcdefgh", "abcdefghX", "-A X"},
		{"two more at the end", "abcdefgh", "abcdefghXY", "-A X, -A Y"},
		{"one less in the middle", "abcdefgh", "abcefgh", "-D 4"},
		{"one less at the end", "abcdefgh", "abcdefg", "-D 8"},
		{"two less", "abcdefgh", "bcdegh", "-D 6, -D 1"},
		{"one for another", "abcdefgh", "abcXefgh", "-I 5 X, -D 4"},
		{"one for another at the end", "abcdefgh", "abcdefgX", "-A X, -D 8"},
		{"one moves", "abcdefgh", "bcdefgah", "-I 8 a, -D 1"},
		{"one that is there twice", "abcabc", "abcaabc", "-I 5 a"},
		{"too many are new", "abcd", "aVWXYZbcd", "whole"},
		{"all are new", "abcd", "WXYZ", "whole"},
		{"it was empty", "", "abcd", "whole"},
		{"it becomes empty", "abcd", "", "whole"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, f := range vpc.Families() {
				b, ok := lettered(tc.now).AppendEdits([]byte("head\n"), lettered(tc.before), f)
				got, headed := strings.CutPrefix(string(b), "head\n")
				if !headed || !ok && got != "" {
					t.Fatalf("%s: what was there before is now %q", f, b)
				}
				if got = letters(got); !ok {
					got = "whole"
				}
				if got != tc.want {
					t.Errorf("%s: got %q, want %q", f, got, tc.want)
				}
			}
		})
	}
}

func TestEditsLeadFromAnyChainToAnyOther(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	edited := 0
	for range 20_000 {
		before := make([]byte, rnd.IntN(40))
		for i := range before {
			before[i] = byte('a' + rnd.IntN(26)) // some stand there twice
		}
		now := slices.Clone(before)
		for range rnd.IntN(6) {
			switch i := rnd.IntN(len(now) + 1); {
			case i < len(now) && rnd.IntN(2) == 0:
				now = slices.Delete(now, i, i+1)
			default:
				now = slices.Insert(now, i, byte('a'+rnd.IntN(26)))
			}
		}
		b, ok := lettered(string(now)).AppendEdits(nil, lettered(string(before)), vpc.IPv4)
		if !ok {
			continue
		}
		edited++
		got, err := edit(string(before), letters(string(b)))
		if err != nil || got != string(now) {
			t.Fatalf("%s -> %s by %q: got %s, %v", before, now, letters(string(b)), got, err)
		}
	}
	if edited < 10_000 {
		t.Errorf("only %d chains were edited", edited)
	}
}

func TestALongChainIsEditedWhereItDiffersOnly(t *testing.T) {
	// Every other rule of 2,000 would be a table of millions of pairs.
	long := func(odd uint16) Chain {
		c := Chain{Name: "GH-A"}
		for i := range uint16(2000) {
			port := 2*i + 1
			if i%2 == 1 {
				port += odd
			}
			c.Rules = append(c.Rules, Rule{Match: Match{Protocol: vpc.ProtocolTCP, DstPorts: vpc.Ports{{From: port, To: port}}}})
		}
		return c
	}
	if b, ok := long(1).AppendEdits(nil, long(0), vpc.IPv4); ok {
		t.Errorf("%d bytes of edits where half of all rules are others", len(b))
	}
	c := long(0)
	c.Rules = slices.Insert(slices.Clone(c.Rules), 1000, Rule{Target: Target{Kind: Drop}})
	if b, ok := c.AppendEdits(nil, long(0), vpc.IPv4); !ok || !strings.HasPrefix(string(b), "-I GH-A 1001 ") || strings.Count(string(b), "\n") != 1 {
		t.Errorf("one more rule: %v, %.80q", ok, b)
	}
}

// lettered is a chain with a rule for each letter, whose ID it is.
func lettered(text string) Chain {
	c := Chain{Name: "GH-A"}
	for _, r := range text {
		c.Rules = append(c.Rules, Rule{ID: string(r), Target: Target{Kind: Drop}})
	}
	return c
}

// letters makes edits of lettered chains short.
func letters(text string) string {
	var out []string
	for l := range strings.Lines(text) {
		command, rest, _ := strings.Cut(strings.TrimSuffix(l, "\n"), " GH-A ")
		place, _, _ := strings.Cut(rest, " ")
		if _, comment, ok := strings.Cut(rest, `"`); ok {
			comment, _, _ = strings.Cut(comment, `"`)
			_, id, _ := strings.Cut(comment, " ")
			if place += " " + id; command == "-A" {
				place = id
			}
		}
		out = append(out, command+" "+place)
	}
	return strings.Join(out, ", ")
}

// edit carries out edits as iptables-nft does: what a place names must have been there before.
func edit(chain, edits string) (string, error) {
	type rule struct {
		letter byte
		fresh  bool
	}
	var rules []rule
	for i := range len(chain) {
		rules = append(rules, rule{letter: chain[i]})
	}
	for _, e := range strings.Split(edits, ", ") {
		words := strings.Fields(e)
		if len(words) == 0 {
			continue
		}
		if words[0] == "-A" {
			rules = append(rules, rule{words[1][0], true})
			continue
		}
		n, err := strconv.Atoi(words[1])
		if err != nil || n < 1 || n > len(rules) || rules[n-1].fresh {
			return "", fmt.Errorf("%s: there was no such rule", e)
		}
		if words[0] == "-I" {
			rules = slices.Insert(rules, n-1, rule{words[2][0], true})
		} else {
			rules = slices.Delete(rules, n-1, n)
		}
	}
	var out []byte
	for _, r := range rules {
		out = append(out, r.letter)
	}
	return string(out), nil
}
