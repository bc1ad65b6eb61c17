package server

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"gatehouse/configs"
)

func TestWhoLooksAtAStateThatIsNotThereLeavesNothing(t *testing.T) {
	for name, made := range map[string]bool{"an empty directory": true, "no directory": false} {
		t.Run(name, func(t *testing.T) {
			above := t.TempDir()
			c := &configs.Config{StateDir: filepath.Join(above, "one", "two")}
			if made {
				if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			st, close, err := openToLook(c, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if _, revision := st.State(); revision != 0 {
				t.Errorf("revision %d", revision)
			}
			close()
			if _, err := os.Stat(c.StateDir); made != (err == nil) {
				t.Errorf("the state directory: %v", err)
			}
			for _, dir := range []string{above, c.StateDir} {
				entries, err := os.ReadDir(dir)
				if err == nil && len(entries) > 0 && entries[0].Name() != "one" {
					t.Errorf("%s has %v", dir, entries)
				}
			}
		})
	}
	t.Run("a state that is there is the one that is looked at", func(t *testing.T) {
		c := &configs.Config{StateDir: t.TempDir()}
		first, err := openStore(c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := openToLook(c, slog.New(slog.DiscardHandler)); err == nil {
			t.Error("it is opened beside the daemon that has it open")
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		_, close, err := openToLook(c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		close()
		if _, err := os.Stat(c.StateFile()); err != nil {
			t.Error(err)
		}
	})
}
