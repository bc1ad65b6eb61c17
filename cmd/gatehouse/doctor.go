package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"gatehouse/server"
	"gatehouse/server/api"
)

func (a *app) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "say what on this host keeps gatehouse from working, and the remedy; exit 1 on a problem",
		Long: `doctor asks the running daemon; without one it looks at the host by itself, as root, and says whether a daemon could
start with the configuration.`,
		Example: "  gatehouse doctor",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput("json"); err != nil {
				return err
			}
			findings, err := a.diagnose(cmd)
			if err != nil {
				return err
			}
			problems := 0
			for _, f := range findings {
				if f.Level == api.LevelProblem {
					problems++
				}
			}
			if a.output == "json" {
				err = a.printJSON(findings)
			} else {
				for _, f := range findings {
					fmt.Fprintf(a.stdout, "%-8s %s: %s\n", f.Level, f.Code, f.Message)
					if f.Remedy != "" {
						fmt.Fprintf(a.stdout, "         %s\n", f.Remedy)
					}
				}
			}
			if err == nil && problems > 0 {
				return exitError(exitRefused)
			}
			return err
		},
	}
	a.configFlag(cmd)
	a.outputFlag(cmd, "json")
	return cmd
}

// diagnose asks the daemon, or looks by itself when there is none.
func (a *app) diagnose(cmd *cobra.Command) ([]api.Finding, error) {
	if _, err := os.Stat(a.socket); !errors.Is(err, fs.ErrNotExist) {
		return a.client().Doctor(cmd.Context())
	}
	c, err := a.loadConfig(cmd)
	if err != nil {
		return nil, err
	}
	return server.DoctorOffline(cmd.Context(), c), nil
}

func (a *app) restoreCommand() *cobra.Command {
	var stateDir string
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "put a backup in place of the state; the daemon must be stopped",
		Long: `restore reads the backup from end to end before it replaces anything, and keeps the old state beside the new one, with
.old appended.`,
		Example: `  systemctl stop gatehouse
  gatehouse restore /var/backups/gatehouse.db
  systemctl start gatehouse`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, err := a.loadConfig(cmd)
			if err != nil {
				return err
			}
			if stateDir != "" {
				c.StateDir = stateDir
			}
			return server.Restore(c, argv[0])
		},
	}
	a.configFlag(cmd)
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "state directory in place of the configured one")
	return cmd
}
