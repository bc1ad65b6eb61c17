package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/server/api"
)

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "print the daemon's health; exit 1 when something is wrong",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput("json"); err != nil {
				return err
			}
			s, err := a.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			if a.output == "json" {
				err = a.printJSON(s)
			} else {
				printStatus(a.stdout, s)
			}
			if err == nil && !s.Healthy {
				return exitError(exitRefused)
			}
			return err
		},
	}
	a.outputFlag(cmd, "json")
	return cmd
}

func printStatus(w io.Writer, s *api.Status) {
	health := "healthy"
	if !s.Healthy {
		health = "UNHEALTHY"
	}
	fmt.Fprintf(w, "gatehouse %s: %s\n", s.Version, health)
	fmt.Fprintf(w, "revision %d stored, %d in force\n", s.Revision, s.Applied)
	fmt.Fprintf(w, "up since %s\n", s.Started.Local().Format(time.DateTime))
	fmt.Fprintf(w, "%d VPCs, %d vSwitches, %d instances, %d leases bound\n", s.VPCs, s.VSwitches, s.Instances, s.Leases)
	if p := s.Pending; p != nil {
		fmt.Fprintf(w, "a change by %s is undone at %s (revision %d) unless 'gatehouse confirm'\n", p.User, p.Deadline.Local().Format(time.TimeOnly), p.Base)
	}
	f := s.Firewall
	fmt.Fprintf(w, "firewall: iptables-%s, %d chains, %d rules, %d sets, %d repairs\n", f.Backend, f.Chains, f.Rules, f.Sets, f.Repairs)
	for _, p := range s.Problems {
		fmt.Fprintf(w, "\n%s: %s\n", p.Code, p.Message)
		if p.Remedy != "" {
			fmt.Fprintf(w, "  %s\n", p.Remedy)
		}
	}
}

func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	var from uint64
	cmd := &cobra.Command{
		Use:     "events",
		Short:   "print the audit log: who changed what, when, revision by revision",
		Example: "  gatehouse events --follow",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput("json"); err != nil {
				return err
			}
			for {
				events, err := a.client().Events(cmd.Context(), from)
				if err != nil {
					return err
				}
				if err := a.printEvents(events, follow); err != nil {
					return err
				}
				if len(events) > 0 {
					from = events[len(events)-1].Revision + 1
				}
				if !follow {
					return nil
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(300 * time.Millisecond):
				}
			}
		},
	}
	cmd.Flags().BoolVar(&follow, "follow", false, "go on as changes are made")
	cmd.Flags().Uint64Var(&from, "from", 0, "begin at this revision")
	a.outputFlag(cmd, "json")
	return cmd
}

// printEvents prints events; in JSON a list, or one object a line when they are followed.
func (a *app) printEvents(events []api.Event, follow bool) error {
	if a.output == "json" && !follow {
		if events == nil {
			events = []api.Event{}
		}
		return a.printJSON(events)
	}
	for _, e := range events {
		if a.output == "json" {
			if err := a.printJSON(e); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(a.stdout, "%s  %s  %s  %s: %s\n", strconv.FormatUint(e.Revision, 10),
			e.Time.Local().Format(time.DateTime), e.User, e.Verb, e.Summary)
		for _, c := range e.Changes {
			fmt.Fprintf(a.stdout, "    %s %s %s\n", c.Action, c.Kind, c.Path)
		}
	}
	return nil
}
