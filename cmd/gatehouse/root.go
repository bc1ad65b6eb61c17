package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

const defaultSocket = "/run/gatehouse/api.sock"

// version and commit are set by the linker; `make build` asks git for them.
var (
	version = "devel"
	commit  string
)

// root builds the command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "gatehouse",
		Short: "private addresses, names and isolation for the machines behind one gateway",
		Long: `gatehouse gives the machines behind a Linux gateway what a cloud's VPC gives: addresses by DHCP, names by
private DNS, and isolation by security groups and network ACLs.

'gatehouse serve' is the daemon; every other verb talks to it.`,
		Example: `  gatehouse plan -f lab.yaml
  gatehouse apply -f lab.yaml
  gatehouse explain web-1 db-1 tcp/5432`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	socket := os.Getenv("GATEHOUSE_SOCKET")
	if socket == "" {
		socket = defaultSocket
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", socket, "the daemon's API socket (also $GATEHOUSE_SOCKET)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.Version = buildVersion()
	root.SetVersionTemplate("gatehouse {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = false
	root.AddCommand(
		a.initCommand(), a.serveCommand(), a.applyCommand(), a.planCommand(), a.confirmCommand(), a.rollbackCommand(), a.exportCommand(),
		a.getCommand(), a.describeCommand(), a.createCommand(), a.setCommand(), a.deleteCommand(),
		a.explainCommand(), a.testCommand(), a.firewallCommand(), a.dnsCommand(), a.eventsCommand(), a.flowsCommand(), a.backupCommand(),
		a.restoreCommand(), a.statusCommand(), a.doctorCommand(), a.teardownCommand(), a.configCommand(), a.demoCommand(), a.versionCommand(), a.docsCommand(),
	)
	return root
}

// outputFlag adds -o with the forms that a verb can print.
func (a *app) outputFlag(cmd *cobra.Command, forms string) {
	cmd.Flags().StringVarP(&a.output, "output", "o", "", "output form: "+forms)
}

// checkOutput refuses an output form that the verb does not have.
func (a *app) checkOutput(forms ...string) error {
	if a.output == "" {
		return nil
	}
	for _, f := range forms {
		if a.output == f {
			return nil
		}
	}
	return usageError{fmt.Errorf("--output: %q is not one of %v", a.output, forms)}
}

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput("json"); err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(build())
			}
			fmt.Fprintf(a.stdout, "gatehouse %s\n", buildVersion())
			return nil
		},
	}
	a.outputFlag(cmd, "json")
	return cmd
}

// build says what this program was built from.
func build() map[string]string {
	v := map[string]string{"version": version}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v["go"] = info.GoVersion
	if commit != "" {
		v["commit"] = commit
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v["commit"] = s.Value
		}
	}
	return v
}

// buildVersion is build in one line.
func buildVersion() string {
	v := build()
	parts := []string{v["go"]}
	if c := v["commit"]; c != "" {
		parts = append(parts, "commit "+c)
	}
	return v["version"] + " (" + strings.Join(parts, ", ") + ")"
}
