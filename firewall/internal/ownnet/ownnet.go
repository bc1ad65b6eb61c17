// Package ownnet runs a test in a network namespace of its own, which vanishes with the test's process.
//
// A namespace belongs to threads, and a program that starts processes from many goroutines can only be sure to be in one
// if all of its threads are. The test is therefore run again as a child process that is born there.
package ownnet

import (
	"bytes"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// marker names, in the child's environment, the test that it is to run.
const marker = "GATEHOUSE_TEST_NETNS"

// Enter returns true in the child. In the parent it runs the child, reports what it found, and returns false: the test
// has nothing more to do then. It needs root.
func Enter(t *testing.T) bool {
	t.Helper()
	if os.Getenv(marker) == t.Name() {
		return true
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{exe, "-test.run=" + pattern(t.Name()), "-test.count=1"}
	if deadline, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+time.Until(deadline).String())
	}
	p, err := os.StartProcess(exe, args, &os.ProcAttr{
		Env:   append(os.Environ(), marker+"="+t.Name()),
		Files: []*os.File{nil, w, w},
		Sys:   &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL},
	})
	w.Close()
	if err != nil {
		out.Close()
		t.Fatalf("start the test in a network namespace of its own (this needs root): %v", err)
	}
	var text bytes.Buffer
	_, copied := io.Copy(&text, out)
	out.Close()
	state, waited := p.Wait()
	if err := errors.Join(copied, waited); err != nil {
		t.Fatal(err)
	}
	if !state.Success() || strings.Contains(text.String(), "no tests to run") {
		t.Fatalf("in its namespace: %v\n%s", state, text.String())
	}
	return false
}

// pattern selects exactly one test or subtest.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}
