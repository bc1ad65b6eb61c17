package ownnet

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
)

// Sh runs a command by the shell, in the namespace that the test is in, and returns what it prints. The test fails when the
// command does.
func Sh(t *testing.T, command string) string {
	t.Helper()
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", command}, &os.ProcAttr{Env: os.Environ(), Files: []*os.File{nil, w, w}})
	w.Close()
	if err != nil {
		out.Close()
		t.Fatal(err)
	}
	var text bytes.Buffer
	_, copied := io.Copy(&text, out)
	out.Close()
	state, waited := p.Wait()
	if err := errors.Join(copied, waited); err != nil {
		t.Fatal(err)
	}
	if !state.Success() {
		t.Fatalf("%s: %v\n%s", command, state, text.String())
	}
	return text.String()
}
