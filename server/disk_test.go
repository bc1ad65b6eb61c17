package server

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestAStateDirectoryThatCannotBeWrittenIsAProblem(t *testing.T) {
	if p := diskProblems(t.TempDir()); len(p) > 0 {
		t.Errorf("a directory with room: %v", p)
	}
	gone := filepath.Join(t.TempDir(), "gone")
	if p := diskProblems(gone); len(p) != 1 || !strings.Contains(p[0].Message, gone) {
		t.Errorf("a directory that is gone: %v", p)
	}
	// /proc has no room, and is no place for a state.
	if p := diskProblems("/proc"); len(p) != 1 || !strings.Contains(p[0].Message, "/proc has 0 kB left") || p[0].Remedy == "" {
		t.Errorf("a file system without room: %v", p)
	}
}
