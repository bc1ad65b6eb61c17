package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"gatehouse/configs"
)

const defaultConfig = "/etc/gatehouse/gatehouse.yaml"

// configFlag adds --config.
func (a *app) configFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.configPath, "config", defaultConfig, "configuration file")
}

// loadConfig reads the configuration. Only the default file may be missing: then the defaults hold.
func (a *app) loadConfig(cmd *cobra.Command) (*configs.Config, error) {
	c, err := configs.Load(a.configPath)
	if errors.Is(err, os.ErrNotExist) && !cmd.Flags().Changed("config") {
		return configs.Default(), nil
	}
	return c, err
}

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "look at the daemon's configuration",
		Args:  args(cobra.NoArgs),
		RunE:  needsMore,
	}
	check := &cobra.Command{
		Use:     "check",
		Short:   "report everything that is wrong with the configuration, without starting; exit 1 on a finding",
		Example: "  gatehouse config check --config /etc/gatehouse/gatehouse.yaml",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := a.loadConfig(cmd); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s: ok\n", a.configPath)
			return nil
		},
	}
	a.configFlag(check)
	cmd.AddCommand(check)
	return cmd
}
