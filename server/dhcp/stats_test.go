package dhcp

import "testing"

func TestDropsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for d := DropNone + 1; d < drops; d++ {
		if s := d.String(); s == "" || s == "unknown" || seen[s] {
			t.Errorf("drop %d is called %q", d, s)
		}
		seen[d.String()] = true
	}
}
