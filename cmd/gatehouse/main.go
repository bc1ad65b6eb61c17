// Command gatehouse is the daemon (`gatehouse serve`) and its client (every other verb).
//
// The verbs hold wiring and printing only: what they do is decided by the daemon, which they reach through server/api.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"gatehouse/server/api"
)

// Exit codes. plan has its own: 2 means that there are changes.
const (
	exitDone    = 0
	exitRefused = 1
	exitUsage   = 2
	exitChanges = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run carries out one command line and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	app := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := app.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	return app.report(cmd, err)
}

// app is what the verbs share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	socket         string
	configPath     string
	output         string
}

// client returns the connection to the daemon.
func (a *app) client() *api.Client { return api.NewClient(a.socket) }

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// exitError ends the program with a code after everything has been said.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// fileError names the file that an error is about: `apply lab.yaml: …`.
type fileError struct {
	file string
	err  error
}

func (e fileError) Error() string { return e.file + ": " + e.err.Error() }
func (e fileError) Unwrap() error { return e.err }

// report prints an error as `gatehouse: <what>: <why>`, a line for each thing that is wrong, and returns the exit code.
func (a *app) report(cmd *cobra.Command, err error) int {
	var code exitError
	if errors.As(err, &code) {
		return int(code)
	}
	var usage usageError
	isUsage := errors.As(err, &usage)
	what := strings.TrimPrefix(cmd.CommandPath(), "gatehouse")
	what = strings.TrimSpace(what)
	if a.output == "json" && !isUsage {
		a.reportJSON(err)
	} else {
		prefix := "gatehouse: "
		if what != "" {
			prefix += what
			var refusal *api.Error
			var file fileError
			if errors.As(err, &refusal) && len(refusal.Details) > 0 && refusal.Details[0].File != "" || errors.As(err, &file) {
				prefix += " " // the file's name is part of what was being done
			} else {
				prefix += ": "
			}
		}
		for line := range strings.SplitSeq(strings.TrimRight(err.Error(), "\n"), "\n") {
			fmt.Fprintln(a.stderr, prefix+line)
		}
	}
	if isUsage {
		fmt.Fprintf(a.stderr, "See '%s --help'.\n", cmd.CommandPath())
		if cmd.Name() == "plan" {
			return exitRefused
		}
		return exitUsage
	}
	return exitRefused
}

// reportJSON prints an error for programs.
func (a *app) reportJSON(err error) {
	var refusal *api.Error
	if !errors.As(err, &refusal) {
		refusal = &api.Error{Code: api.CodeUnavailable, Message: err.Error()}
	}
	if refusal.Details == nil {
		refusal.Details = []api.Detail{}
	}
	enc := json.NewEncoder(a.stderr)
	enc.SetIndent("", "  ")
	enc.Encode(map[string]any{"error": refusal})
}

// userName says who runs the command, for the audit log.
func userName() string {
	if s := os.Getenv("SUDO_USER"); s != "" {
		return s
	}
	u, err := user.Current()
	if err != nil {
		return fmt.Sprint(os.Getuid())
	}
	return u.Username
}

// args wraps cobra's argument checks so that they count as wrong usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if err := check(cmd, a); err != nil {
			return usageError{err}
		}
		return nil
	}
}

// needsMore is what a verb does that is only the head of others.
func needsMore(cmd *cobra.Command, _ []string) error {
	var verbs []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			verbs = append(verbs, c.Name())
		}
	}
	return usageError{fmt.Errorf("say which: %s", strings.Join(verbs, ", "))}
}
