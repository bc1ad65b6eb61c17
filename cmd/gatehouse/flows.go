package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/server/api"
)

func (a *app) flowsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "print refused flows with the rule that decided",
		Long: `flows prints what the kernel has logged: the first packets of refused flows, at most 10 a second (and a burst of 20) for
each pair of addresses. 'gatehouse firewall counters' counts all of them.`,
		Example: "  gatehouse flows --follow",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput("json"); err != nil {
				return err
			}
			if follow {
				return a.client().FollowFlows(cmd.Context(), func(f api.Flow) error {
					if a.output == "json" {
						return json.NewEncoder(a.stdout).Encode(f) // one a line
					}
					return printFlow(a.stdout, f)
				})
			}
			flows, err := a.client().Flows(cmd.Context())
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(flows)
			}
			for _, f := range flows {
				if err := printFlow(a.stdout, f); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&follow, "follow", false, "go on as flows are refused")
	a.outputFlag(cmd, "json")
	return cmd
}

func printFlow(w io.Writer, f api.Flow) error {
	decided := string(f.Reason)
	if f.Rule != "" {
		decided += " " + f.Rule
	}
	_, err := fmt.Fprintf(w, "%s  %s  %s -> %s %s  %s\n", f.Time.Local().Format(time.DateTime), f.Verdict,
		end(f.From, f.FromAddr.String()), end(f.To, f.ToAddr.String()), service(f.Protocol, f.Port), decided)
	return err
}

// end prints one end of a flow: the name and the address, or the address alone.
func end(name, addr string) string {
	if name == addr {
		return addr
	}
	return name + " " + addr
}
