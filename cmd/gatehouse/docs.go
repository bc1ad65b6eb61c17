package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manSection is where the pages of system administration are.
const manSection = "8"

// docsCommand writes what a package brings along; nobody types it but the Makefile.
func (a *app) docsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "docs",
		Short:  "write the documentation that is made from the commands",
		Hidden: true,
		Args:   args(cobra.NoArgs),
		RunE:   func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	man := &cobra.Command{
		Use:   "man DIR",
		Short: "write a manual page for every verb into a directory",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if err := os.MkdirAll(argv[0], 0o755); err != nil {
				return fmt.Errorf("manual pages: %w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // the same pages on every day
			header := &doc.GenManHeader{Title: "GATEHOUSE", Section: manSection, Source: "gatehouse " + version, Manual: "gatehouse"}
			if err := doc.GenManTree(root, header, argv[0]); err != nil {
				return fmt.Errorf("manual pages: %w", err)
			}
			return nil
		},
	}
	cmd.AddCommand(man)
	return cmd
}
