package port

import (
	"net"
	"testing"
)

func TestLinksAreFoundByName(t *testing.T) {
	all, err := net.Interfaces()
	if err != nil || len(all) == 0 {
		t.Fatalf("%d links: %v", len(all), err)
	}
	for _, ifi := range all {
		if name := Name(ifi.Index); name != ifi.Name {
			t.Errorf("link %d is named %q, want %q", ifi.Index, name, ifi.Name)
		}
		if i, err := Index(ifi.Name); err != nil || i != ifi.Index {
			t.Errorf("%s has index %d, not %d (%v)", ifi.Name, ifi.Index, i, err)
		}
	}
	for _, name := range []string{"", "no-such-link", "a-name-that-no-link-can-have"} {
		if i, err := Index(name); err == nil {
			t.Errorf("%q has index %d", name, i)
		}
	}
}
