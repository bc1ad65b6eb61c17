package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/server/api"
	"gatehouse/vpc"
)

// readFiles reads the manifests that -f names; "-" is standard input.
func (a *app) readFiles(names []string) ([]api.File, error) {
	if len(names) == 0 {
		return nil, usageError{fmt.Errorf("-f FILE is needed: the manifest (- reads standard input)")}
	}
	var files []api.File
	for _, name := range names {
		var content []byte
		var err error
		if name == "-" {
			content, err = io.ReadAll(a.stdin)
		} else {
			content, err = os.ReadFile(name)
		}
		if err != nil {
			if pe, ok := err.(*os.PathError); ok {
				err = pe.Err
			}
			return nil, fileError{name, err}
		}
		files = append(files, api.File{Name: name, Content: content})
	}
	return files, nil
}

// changeFlags adds the flags of every verb that waits for a change to be in force.
func changeFlags(cmd *cobra.Command, noWait *bool, timeout *time.Duration) {
	cmd.Flags().BoolVar(noWait, "no-wait", false, "return when the change is stored, before it is in force")
	cmd.Flags().DurationVar(timeout, "timeout", 60*time.Second, "how long to wait until the change is in force")
}

func (a *app) applyCommand() *cobra.Command {
	var req api.ApplyRequest
	var names []string
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "make the network as a manifest says",
		Long: `apply creates and changes what the manifest declares, in one transaction: all of it or nothing. It returns when links,
rules and names are in force and connections that are no longer allowed have been cut.`,
		Example: `  gatehouse apply -f lab.yaml
  gatehouse apply -f lab.yaml --prune          # and delete what the file no longer names
  gatehouse apply -f lab.yaml --confirm 60s    # undone after a minute unless 'gatehouse confirm'
  gatehouse apply -f - < lab.yaml`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput("json"); err != nil {
				return err
			}
			files, err := a.readFiles(names)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("confirm") && req.Confirm <= 0 {
				return usageError{fmt.Errorf("--confirm: a time in which to confirm is needed (as in 60s)")}
			}
			req.Files, req.User = files, userName()
			stop := a.progress(cmd.Context(), "applying")
			result, err := a.client().Apply(cmd.Context(), req)
			stop()
			if err != nil {
				return err
			}
			return a.printResult(result, req.DryRun, req.NoWait)
		},
	}
	cmd.Flags().StringArrayVarP(&names, "file", "f", nil, "manifest; may be repeated, - is standard input")
	cmd.Flags().BoolVar(&req.Prune, "prune", false, "delete what the manifest no longer names, inside the VPCs that it names")
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "check and show, change nothing")
	cmd.Flags().DurationVar(&req.Confirm, "confirm", 0, "undo the change after this long unless it is confirmed")
	changeFlags(cmd, &req.NoWait, &req.Timeout)
	a.outputFlag(cmd, "json")
	return cmd
}

func (a *app) planCommand() *cobra.Command {
	var req api.ApplyRequest
	var names []string
	cmd := &cobra.Command{
		Use:   "plan -f FILE",
		Short: "show what apply would change",
		Long:  "plan exits with 0 when there is nothing to do, 2 when there are changes, and 1 when the manifest is refused.",
		Example: `  gatehouse plan -f lab.yaml
  gatehouse plan -f lab.yaml --prune -o json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput("json"); err != nil {
				return err
			}
			files, err := a.readFiles(names)
			if err != nil {
				return err
			}
			req.Files, req.DryRun, req.User = files, true, userName()
			result, err := a.client().Apply(cmd.Context(), req)
			if err != nil {
				return err
			}
			if a.output == "json" {
				err = a.printJSON(result)
			} else {
				a.printChanges(result.Changes)
				a.printSummary(result.Changes, true)
			}
			if err == nil && len(result.Changes) > 0 {
				return exitError(exitChanges)
			}
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&names, "file", "f", nil, "manifest; may be repeated, - is standard input")
	cmd.Flags().BoolVar(&req.Prune, "prune", false, "show also what --prune would delete")
	a.outputFlag(cmd, "json")
	return cmd
}

// printResult prints what a change did.
func (a *app) printResult(result *api.ApplyResult, dryRun, noWait bool) error {
	if a.output == "json" {
		return a.printJSON(result)
	}
	a.printChanges(result.Changes)
	a.printSummary(result.Changes, dryRun)
	if len(result.Changes) > 0 && !dryRun {
		if noWait {
			fmt.Fprintf(a.stdout, "revision %d is stored\n", result.Revision)
		} else {
			fmt.Fprintf(a.stdout, "revision %d is in force\n", result.Applied)
		}
	}
	return nil
}

// printChanges prints one line for each change, and one for each field of an update.
func (a *app) printChanges(changes []vpc.Change) {
	signs := map[vpc.Action]string{vpc.Create: "+", vpc.Update: "~", vpc.Remove: "-"}
	for _, c := range changes {
		fmt.Fprintf(a.stdout, "%s %s %s\n", signs[c.Action], c.Kind, c.Path)
		if c.Action != vpc.Update {
			continue
		}
		for _, f := range c.Fields {
			switch {
			case f.Old == "":
				fmt.Fprintf(a.stdout, "    %s: %s\n", f.Field, f.New)
			case f.New == "":
				fmt.Fprintf(a.stdout, "    %s: %s -> (none)\n", f.Field, f.Old)
			default:
				fmt.Fprintf(a.stdout, "    %s: %s -> %s\n", f.Field, f.Old, f.New)
			}
		}
	}
}

func (a *app) printSummary(changes []vpc.Change, dryRun bool) {
	if len(changes) == 0 {
		fmt.Fprintln(a.stdout, "nothing to change")
		return
	}
	count := map[vpc.Action]int{}
	for _, c := range changes {
		count[c.Action]++
	}
	words := [3]string{"created", "changed", "deleted"}
	if dryRun {
		words = [3]string{"to create", "to change", "to delete"}
	}
	fmt.Fprintf(a.stdout, "%d %s, %d %s, %d %s\n", count[vpc.Create], words[0],
		count[vpc.Update], words[1], count[vpc.Remove], words[2])
}

// progress shows that a long command is at work, on a terminal and after half a second; the function it returns ends it.
func (a *app) progress(ctx context.Context, what string) func() {
	f, ok := a.stderr.(*os.File)
	if !ok {
		return func() {}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		start := time.Now()
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		shown := false
		for {
			select {
			case <-ctx.Done():
				if shown {
					fmt.Fprint(f, "\r\033[K")
				}
				return
			case <-tick.C:
				shown = true
				fmt.Fprintf(f, "\r%s … %ds", what, int(time.Since(start).Seconds()))
			}
		}
	}()
	return func() { cancel(); <-done }
}

func (a *app) confirmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "confirm",
		Short: "keep the change of an 'apply --confirm'",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.client().Confirm(cmd.Context()); err != nil {
				return err
			}
			_, err := fmt.Fprintln(a.stdout, "the change is kept")
			return err
		},
	}
}

func (a *app) rollbackCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback [REVISION]",
		Short: "go back to an earlier revision, or undo an 'apply --confirm' now",
		Args:  args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if err := a.checkOutput("json"); err != nil {
				return err
			}
			var revision uint64
			if len(argv) == 1 {
				n, err := strconv.ParseUint(argv[0], 10, 64)
				if err != nil || n == 0 {
					return usageError{fmt.Errorf("%q is not a revision: 'gatehouse events' lists them", argv[0])}
				}
				revision = n
			}
			result, err := a.client().Rollback(cmd.Context(), revision, userName())
			if err != nil {
				return err
			}
			return a.printResult(result, false, false)
		},
	}
	a.outputFlag(cmd, "json")
	return cmd
}

func (a *app) exportCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "export",
		Short:   "print all desired state as a manifest",
		Example: "  gatehouse export > lab.yaml && gatehouse plan -f lab.yaml   # nothing to change",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := a.client().Export(cmd.Context())
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(text)
			return err
		},
	}
}

func (a *app) testCommand() *cobra.Command {
	var names []string
	cmd := &cobra.Command{
		Use:     "test -f FILE",
		Short:   "check the reachability assertions of a manifest against what is in force",
		Example: "  gatehouse test -f lab.yaml",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput("json"); err != nil {
				return err
			}
			files, err := a.readFiles(names)
			if err != nil {
				return err
			}
			results, err := a.client().Test(cmd.Context(), files)
			if err != nil {
				return err
			}
			bad := 0
			for _, r := range results {
				if !r.OK {
					bad++
				}
			}
			if a.output == "json" {
				err = a.printJSON(results)
			} else {
				for _, r := range results {
					word := "ok"
					if !r.OK {
						word = "FAILED"
					}
					port := ""
					if r.Port != 0 {
						port = "/" + strconv.Itoa(r.Port)
					}
					line := fmt.Sprintf("%-6s  %s -> %s %s%s: expected %s, got %s", word, r.From, r.To, r.Protocol, port, r.Expect, r.Got)
					if !r.OK {
						line += " (" + r.Decided + ")"
					}
					fmt.Fprintln(a.stdout, line)
				}
				fmt.Fprintf(a.stdout, "%d passed, %d failed\n", len(results)-bad, bad)
			}
			if err == nil && bad > 0 {
				return exitError(exitRefused)
			}
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&names, "file", "f", nil, "manifest with tests; may be repeated, - is standard input")
	a.outputFlag(cmd, "json")
	return cmd
}

func (a *app) backupCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "backup FILE",
		Short:   "write a consistent copy of the state while the daemon runs",
		Example: "  gatehouse backup /var/backups/gatehouse.db",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, argv []string) error {
			// The copy appears under its name only when it is whole.
			tmp := argv[0] + ".partial"
			f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			err = a.client().Backup(cmd.Context(), f)
			if err == nil {
				err = f.Sync()
			}
			if cerr := f.Close(); err == nil {
				err = cerr
			}
			if err == nil {
				err = os.Rename(tmp, argv[0])
			}
			if err != nil {
				os.Remove(tmp)
				return err
			}
			return nil
		},
	}
}

// splitList splits a comma-separated flag; the empty text is no element.
func splitList(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
