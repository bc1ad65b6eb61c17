package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"gatehouse/server/api"
	"gatehouse/vpc"
	"github.com/coreos/go-systemd/v22/daemon"
)

// announceEvery is how often the daemon's health is looked at for those who read the journal or `systemctl status`.
const announceEvery = 10 * time.Second

// maxStatusLine is how long a line is that one still reads.
const maxStatusLine = 400

// surveyEvery is how often it is looked at what else is on the host.
const surveyEvery = 5 * time.Minute

// announce keeps systemd's status line true, and logs every problem once when it comes, with its remedy, until ctx ends. What else
// on the host is in the way is looked at when the daemon is ready, after every change of what is in force, and now and then.
func (g *Gateway) announce(ctx context.Context) error {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	for !g.ready.Load() {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
	var host []api.Problem // as it was last looked at
	var looked struct {
		at       time.Time
		revision uint64
	}
	said := map[string]bool{}
	line := ""
	for {
		if g.leases.Health() != nil {
			g.tryState(ctx) // until it works again, which no guest may ask for so soon
		}
		st, err := g.Status(ctx)
		if err != nil {
			return fmt.Errorf("status: %w", err)
		}
		if now := g.now(); looked.revision != st.Applied || now.Sub(looked.at) >= surveyEvery {
			looked.at, looked.revision = now, st.Applied
			host = hostProblems(g.Snapshot())
		}
		problems := append(st.Problems, host...)
		now := map[string]bool{}
		for _, p := range problems {
			now[p.Message] = true
			if !said[p.Message] {
				g.log.Warn(p.Message, "code", p.Code, "remedy", p.Remedy)
			}
		}
		said = now
		if next := statusLine(st.Applied, problems); next != line {
			line = next
			g.notify("STATUS=" + line)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-g.rivals.news:
		}
	}
}

// hostProblems names what else on the host is in the way of a running daemon.
func hostProblems(s *vpc.Snapshot) []api.Problem {
	var out []api.Problem
	for _, f := range surveyFindings(os.Getpid(), s) {
		if f.Level == api.LevelProblem {
			out = append(out, api.Problem{Code: f.Code, Message: f.Message, Remedy: f.Remedy})
		}
	}
	return out
}

// statusLine says how the daemon is, in one line.
func statusLine(applied uint64, problems []api.Problem) string {
	line := fmt.Sprintf("revision %d is in force", applied)
	if len(problems) == 0 {
		return line
	}
	p := problems[0]
	line += "; problem: " + p.Message
	if p.Remedy != "" {
		line += ": " + p.Remedy
	}
	line = strings.ReplaceAll(line, "\n", " ")
	if more := len(problems) - 1; more > 0 {
		line += fmt.Sprintf(" (and %d more: gatehouse doctor)", more)
	}
	if len(line) > maxStatusLine {
		line = line[:maxStatusLine] + "… (gatehouse doctor)"
	}
	return line
}

// uplinkProblems names uplinks that are not there.
func uplinkProblems(uplinks []string) []api.Problem {
	var out []api.Problem
	for _, u := range uplinks {
		if _, err := net.InterfaceByName(u); err != nil {
			out = append(out, api.Problem{Code: "uplink", Message: "there is no link " + u + ", which is an uplink",
				Remedy: "correct uplinks in the configuration and reload, or plug it in: it is used as soon as it is there"})
		}
	}
	return out
}

// startError is why a daemon does not start, with what to do about it.
type startError struct {
	err    error
	remedy string
}

func (e *startError) Error() string  { return e.err.Error() + ": " + e.remedy }
func (e *startError) Unwrap() error  { return e.err }
func (e *startError) Remedy() string { return e.remedy }

// StartError adds the remedy to why a daemon does not start, where there is one, and tells systemd.
func StartError(err error) error {
	if err == nil {
		return nil
	}
	var known *startError
	if remedy := startRemedy(err); remedy != "" && !errors.As(err, &known) {
		err = &startError{err, remedy}
	}
	// Without systemd nobody listens; with it the line is in the journal too.
	_, _ = daemon.SdNotify(false, "STATUS="+strings.ReplaceAll(err.Error(), "\n", "; "))
	return err
}

// startRemedy says what helps against an error of files, or what the error itself knows.
func startRemedy(err error) string {
	if r := diskRemedy(err); r != "" {
		return r
	}
	if errors.Is(err, fs.ErrPermission) {
		return "make it readable and writable for the user that the daemon runs as (chown -R gatehouse: under systemd)"
	}
	var known interface {
		error
		Remedy() string
	}
	if errors.As(err, &known) {
		return known.Remedy()
	}
	return ""
}
