package server

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gatehouse/firewall/iptables"
	"gatehouse/server/api"
)

func TestStatusLineIsOneLine(t *testing.T) {
	port := api.Problem{Code: "dhcp", Message: "udp port 67 on gh-a is taken", Remedy: "free it"}
	for _, tt := range []struct {
		name     string
		problems []api.Problem
		want     string
	}{
		{"nothing is wrong", nil, "revision 7 is in force"},
		{"one problem comes with its remedy", []api.Problem{port}, "revision 7 is in force; problem: udp port 67 on gh-a is taken: free it"},
		{"several are counted", []api.Problem{port, port, port}, "revision 7 is in force; problem: udp port 67 on gh-a is taken: free it (and 2 more: gatehouse doctor)"},
		{"lines become one", []api.Problem{{Message: "a\nb"}}, "revision 7 is in force; problem: a b"},
		{"a long one is cut", []api.Problem{{Message: strings.Repeat("x", 1000)}}, "revision 7 is in force; problem: " + strings.Repeat("x", maxStatusLine-33) + "… (gatehouse doctor)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := statusLine(7, tt.problems); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestWhyADaemonDoesNotStartComesWithTheRemedy(t *testing.T) {
	path := func(err error) error {
		return fmt.Errorf("state directory: %w", &fs.PathError{Op: "mkdir", Path: "/srv/x", Err: err})
	}
	for _, tt := range []struct {
		name string
		err  error
		want string // what it says besides the error; "": nothing
	}{
		{"a read-only root", path(unix.EROFS), "ReadWritePaths="},
		{"a directory of somebody else", path(unix.EACCES), "chown -R gatehouse:"},
		{"a full disk", path(unix.ENOSPC), "free some room"},
		{"a disk that fails", path(unix.EIO), "fsck"},
		{"a lock that cannot be taken", fmt.Errorf("firewall: %w", &iptables.LockError{}), (&iptables.LockError{}).Remedy()},
		{"one of several errors", errors.Join(errors.New("first"), &iptables.LockError{}), (&iptables.LockError{}).Remedy()},
		{"what speaks for itself", errors.New("metrics.listen: address already in use"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := StartError(tt.err)
			if !errors.Is(got, tt.err) && got != tt.err {
				t.Errorf("%v does not wrap %v", got, tt.err)
			}
			said := strings.TrimPrefix(got.Error(), tt.err.Error())
			if tt.want == "" && said != "" || !strings.Contains(said, tt.want) || strings.Contains(said, "\n") {
				t.Errorf("it says %q besides, want %q", said, tt.want)
			}
		})
	}
	if StartError(nil) != nil {
		t.Error("no error became one")
	}
}
