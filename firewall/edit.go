package firewall

import (
	"bytes"
	"slices"
	"strconv"

	"gatehouse/vpc"
)

// maxEdit bounds the work of finding out which rules of a chain can stay: rules before times rules after, without those at the
// head and at the end that do.
const maxEdit = 1 << 18

// AppendEdits appends the lines for iptables-restore that make c of before, a chain of the same name that the kernel has
// exactly like that: rules that both have stay, with what they have counted. It returns false, and b as it was, when so many
// are new or gone that the chain had better be written as a whole.
//
// Rules are inserted first, each before one that stays, and then the others deleted: every position names a rule that was in
// the kernel when the transaction began.
func (c Chain) AppendEdits(b []byte, before Chain, f vpc.Family) ([]byte, bool) {
	old, now := before.sums(f), c.sums(f)
	stays, ok := common(old, now)
	if !ok || 2*(len(before.Rules)+len(c.Rules)-2*len(stays)) > len(c.Rules) {
		return b, false
	}
	// The chain between insertions and deletions: before every rule that stays come those that will be deleted, then the new ones.
	var doomed []int // where the former are in it
	place, was, is := 0, 0, 0
	for _, p := range append(stays, pair{len(before.Rules), len(c.Rules)}) {
		for ; was < p.old; was++ {
			doomed = append(doomed, place)
			place++
		}
		for ; is < p.now; is++ {
			if p.old == len(before.Rules) {
				b = append(append(append(b, "-A "...), c.Name...), ' ')
			} else {
				b = appendAt(b, "-I ", c.Name, place, ' ')
			}
			b = c.appendRule(b, is, f, now)
			place++
		}
		was, is, place = was+1, is+1, place+1
	}
	for _, place := range slices.Backward(doomed) {
		b = appendAt(b, "-D ", c.Name, place, '\n')
	}
	return b, true
}

// appendAt appends a command that is about a place in a chain, counted from 0.
func appendAt(b []byte, command, chain string, place int, end byte) []byte {
	b = append(append(append(b, command...), chain...), ' ')
	return append(strconv.AppendInt(b, int64(place+1), 10), end)
}

// pair is a rule of two chains: where it stands in each.
type pair struct{ old, now int }

// common pairs up as many rules of two chains as keep their order, given the hashes of their rules; false: it would be too much
// work.
func common(old, now []byte) (stays []pair, ok bool) {
	n, m := len(old)/hashSize, len(now)/hashSize
	same := func(i, j int) bool {
		return bytes.Equal(old[i*hashSize:(i+1)*hashSize], now[j*hashSize:(j+1)*hashSize])
	}
	head := 0
	for head < min(n, m) && same(head, head) {
		stays = append(stays, pair{head, head})
		head++
	}
	tail := 0
	for tail < min(n, m)-head && same(n-1-tail, m-1-tail) {
		tail++
	}
	rows, columns := n-head-tail, m-head-tail
	if rows*columns > maxEdit {
		return nil, false
	}
	// longest[i][j] is how many of the rules from head+i and from head+j on can stay.
	longest := make([][]int32, rows+1)
	for i := range longest {
		longest[i] = make([]int32, columns+1)
	}
	for i := rows - 1; i >= 0; i-- {
		for j := columns - 1; j >= 0; j-- {
			if same(head+i, head+j) {
				longest[i][j] = longest[i+1][j+1] + 1
			} else {
				longest[i][j] = max(longest[i+1][j], longest[i][j+1])
			}
		}
	}
	for i, j := 0, 0; i < rows && j < columns; {
		switch {
		case same(head+i, head+j):
			stays = append(stays, pair{head + i, head + j})
			i, j = i+1, j+1
		case longest[i+1][j] >= longest[i][j+1]:
			i++
		default:
			j++
		}
	}
	for k := tail; k > 0; k-- {
		stays = append(stays, pair{n - k, m - k})
	}
	return stays, true
}
