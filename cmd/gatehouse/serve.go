package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"gatehouse/configs"
	"gatehouse/server"
)

func (a *app) serveCommand() *cobra.Command {
	var stateDir string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "run the daemon",
		Long: `serve is the daemon. Under systemd it says when it is ready (Type=notify) and feeds the watchdog. SIGHUP reads the
configuration again; SIGTERM ends it and leaves the rules in force.`,
		Example: "  gatehouse serve --config /etc/gatehouse/gatehouse.yaml",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			load := func() (*configs.Config, error) {
				c, err := a.loadConfig(cmd)
				if err != nil {
					return nil, err
				}
				if stateDir != "" {
					c.StateDir = stateDir
				}
				if cmd.Flags().Changed("socket") {
					c.API.Socket = a.socket
				}
				return c, nil
			}
			return server.StartError(server.Serve(cmd.Context(), server.Options{LoadConfig: load, Version: version, Stderr: a.stderr}))
		},
	}
	a.configFlag(cmd)
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "state directory in place of the configured one")
	return cmd
}

func (a *app) teardownCommand() *cobra.Command {
	var offline bool
	var stateDir string
	cmd := &cobra.Command{
		Use:   "teardown",
		Short: "remove every trace from the kernel; the state is kept",
		Long: `teardown removes our rules, sets, links and settings from the kernel and puts back what was there before. A running
daemon does it and then enforces nothing until it is restarted; with --offline it is done without one.`,
		Example: `  gatehouse teardown
  gatehouse teardown --offline   # the daemon is stopped`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !offline {
				if err := a.client().Teardown(cmd.Context()); err != nil {
					return err
				}
				_, err := fmt.Fprintln(a.stdout, "torn down: nothing is enforced, and nobody is served, until the daemon is restarted")
				return err
			}
			c, err := a.loadConfig(cmd)
			if err != nil {
				return err
			}
			if stateDir != "" {
				c.StateDir = stateDir
			}
			return server.TeardownOffline(context.WithoutCancel(cmd.Context()), c, a.stderr)
		},
	}
	a.configFlag(cmd)
	cmd.Flags().BoolVar(&offline, "offline", false, "without a daemon")
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "state directory in place of the configured one (--offline)")
	return cmd
}
