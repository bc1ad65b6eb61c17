package vpc

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestSortByIDIsTheOrderOfStrings(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func(n int, id func() string) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = id()
		}
		return out
	}
	for name, ids := range map[string][]string{
		"none":                   nil,
		"one":                    {"i-1"},
		"as they are made":       random(3000, func() string { return fmt.Sprintf("eni-%016x", r.Uint64()) }),
		"equal but for the end":  random(300, func() string { return fmt.Sprintf("i-0000000000000000%02x", r.IntN(256)) }),
		"equal in eight bytes":   random(300, func() string { return fmt.Sprintf("%x-00000000%04x", r.IntN(3), r.IntN(1<<16)) }),
		"of any length":          random(500, func() string { return strings.Repeat("a", r.IntN(20)) }),
		"of any bytes":           random(500, func() string { return string([]byte{byte(r.Uint32()), byte(r.IntN(2)), 0}[:r.IntN(4)]) }),
		"all the same":           random(10, func() string { return "i-1" }),
		"one that begins others": {"i-12", "i-1", "i-", "i-1\x00", "i-123"},
	} {
		t.Run(name, func(t *testing.T) {
			list := make([]*string, len(ids))
			for i := range ids {
				list[i] = &ids[i]
			}
			sortByID(list, func(s *string) string { return *s })
			got := make([]string, len(list))
			for i, s := range list {
				got[i] = *s
			}
			if want := slices.Sorted(slices.Values(ids)); !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}
