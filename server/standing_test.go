package server

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"gatehouse/configs"
	"gatehouse/firewall/iptables"
	"gatehouse/internal/netlab"
	"gatehouse/store"
	"gatehouse/vpc"
)

// stander is a gateway of a directory, as far as it takes to know what stands.
func stander(t *testing.T, dir string, change func(*configs.Config), version string) *Gateway {
	t.Helper()
	c := configs.Default()
	c.StateDir = dir
	if change != nil {
		change(c)
	}
	st, err := store.Open(c.StateFile(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	g := &Gateway{log: slog.New(slog.DiscardHandler), store: st, version: version}
	g.config.Store(c)
	return g
}

func (g *Gateway) commit(t *testing.T, spec *vpc.Spec) *vpc.Snapshot {
	t.Helper()
	_, base := g.store.State()
	n, err := g.store.Commit(t.Context(), base, spec, store.Audit{Who: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return vpc.NewSnapshot(spec, g.host(), n)
}

// newest is the snapshot of what is stored.
func (g *Gateway) newest() *vpc.Snapshot {
	spec, n := g.store.State()
	return vpc.NewSnapshot(spec, g.host(), n)
}

// TestWhatWasInForceStandsOnlyWhileNothingIsOtherwise asks a second daemon what it finds of the first one's.
func TestWhatWasInForceStandsOnlyWhileNothingIsOtherwise(t *testing.T) {
	ns, err := netlab.New("standing")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	elsewhere, err := ns.Space("other")
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		name    string
		between func(t *testing.T, first *Gateway, space *netlab.Space) // after what was put in force
		config  func(*configs.Config)
		version string
		want    bool
	}{
		{name: "nothing", version: "1", want: true},
		{name: "somebody has changed a rule", version: "1", between: func(t *testing.T, _ *Gateway, space *netlab.Space) {
			if _, err := space.Script(t.Context(), "iptables-nft -N OTHER\n"); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "another revision was stored, and not put in force", version: "1", between: func(t *testing.T, g *Gateway, _ *netlab.Space) {
			g.commit(t, lab(machine("b", 2, false)))
		}},
		{name: "another state has the same revision", version: "1", between: func(t *testing.T, g *Gateway, _ *netlab.Space) {
			dir := t.TempDir()
			other := stander(t, dir, nil, "1")
			other.commit(t, lab(machine("b", 2, false)))
			if err := other.store.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(dir, "state.db"), g.config.Load().StateFile()); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "the uplinks are others", version: "1", config: func(c *configs.Config) { c.Uplinks = []string{"eth0"} }},
		{name: "the marks are others", version: "1", config: func(c *configs.Config) { c.Firewall.MarkMask = 0xff000000 }},
		{name: "the program is another", version: "2"},
		{name: "the note was cut short", version: "1", between: func(t *testing.T, g *Gateway, _ *netlab.Space) {
			if err := os.Truncate(g.standingPath(), 20); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "the note is gone", version: "1", between: func(t *testing.T, g *Gateway, _ *netlab.Space) {
			if err := os.Remove(g.standingPath()); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			space, err := ns.Space(fmt.Sprint("host", i))
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			first := stander(t, dir, nil, "1")
			s := first.commit(t, lab(machine("a", 1, false)))
			in := func(space *netlab.Space, do func(context.Context)) {
				t.Helper()
				if err := space.Do(func() error { do(t.Context()); return nil }); err != nil {
					t.Fatal(err)
				}
			}
			in(space, func(ctx context.Context) {
				if first.stands(ctx, s) {
					t.Error("it stands before it was put in force")
				}
				generation, err := iptables.Generation(ctx)
				if err != nil {
					t.Fatal(err)
				}
				first.remember(s, generation)
			})
			if c.between != nil {
				c.between(t, first, space)
			}
			if err := first.store.Close(); err != nil {
				t.Fatal(err)
			}
			second := stander(t, dir, c.config, c.version)
			in(space, func(ctx context.Context) {
				if got := second.stands(ctx, second.newest()); got != c.want {
					t.Errorf("it stands: %v, want %v", got, c.want)
				}
			})
			in(elsewhere, func(ctx context.Context) {
				if second.stands(ctx, second.newest()) {
					t.Error("it stands in another network namespace")
				}
			})
		})
	}
}
