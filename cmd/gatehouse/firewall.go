package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"gatehouse/server"
)

func (a *app) firewallCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "firewall",
		Short: "look at the rules in the kernel, check and repair them",
		Args:  args(cobra.NoArgs),
		RunE:  needsMore,
	}
	render := &cobra.Command{
		Use:   "render",
		Short: "print the compiled rules and sets",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := a.client().FirewallRender(cmd.Context())
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(text)
			return err
		},
	}
	verify := &cobra.Command{
		Use:   "verify",
		Short: "compare the kernel with the compiled rules; exit 1 when they differ",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput("json"); err != nil {
				return err
			}
			findings, err := a.client().FirewallVerify(cmd.Context())
			if err != nil {
				return err
			}
			if a.output == "json" {
				if findings == nil {
					findings = []string{}
				}
				err = a.printJSON(findings)
			} else {
				for _, f := range findings {
					fmt.Fprintln(a.stdout, f)
				}
				if len(findings) == 0 {
					fmt.Fprintln(a.stdout, "the kernel carries the compiled rules")
				}
			}
			if err == nil && len(findings) > 0 {
				return exitError(exitRefused)
			}
			return err
		},
	}
	a.outputFlag(verify, "json")
	resync := &cobra.Command{
		Use:   "resync",
		Short: "read the kernel back now and repair what differs",
		Args:  args(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.client().FirewallResync(cmd.Context()) },
	}
	counters := &cobra.Command{
		Use:   "counters",
		Short: "print how often each rule and entry has decided",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput("json"); err != nil {
				return err
			}
			list, err := a.client().FirewallCounters(cmd.Context())
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(list)
			}
			rows := make([][]string, len(list))
			for i, c := range list {
				rows[i] = []string{c.Rule, c.Reason, strconv.FormatUint(c.Packets, 10), strconv.FormatUint(c.Bytes, 10)}
			}
			return printTable(a.stdout, "", []string{"RULE", "REASON", "PACKETS", "BYTES"}, rows)
		},
	}
	a.outputFlag(counters, "json")
	var stateDir string
	base := &cobra.Command{
		Use:   "base",
		Short: "close the links of the stored vSwitches until a daemon is ready; run at boot",
		Long: `base lets nothing pass by the links of the stored vSwitches. gatehouse-base.service runs it at boot before the network is
set up; the daemon puts the stored rules in its place. Where rules of ours are in force already it does nothing.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.loadConfig(cmd)
			if err != nil {
				return err
			}
			if stateDir != "" {
				c.StateDir = stateDir
			}
			return server.CloseLinks(cmd.Context(), c, a.stderr)
		},
	}
	a.configFlag(base)
	base.Flags().StringVar(&stateDir, "state-dir", "", "state directory in place of the configured one")
	cmd.AddCommand(render, verify, resync, counters, base)
	return cmd
}
