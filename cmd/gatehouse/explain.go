package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/server/api"
	"gatehouse/vpc"
)

func (a *app) explainCommand() *cobra.Command {
	var req api.ExplainRequest
	cmd := &cobra.Command{
		Use:   "explain FROM TO PROTO[/PORT]",
		Short: "say whether a connection would pass, and what decides",
		Long: `explain walks the first packet of a connection through the compiled rules and prints every stage. FROM and TO are an
instance, an interface ID, an address, or "internet": an address outside every VPC.`,
		Example: `  gatehouse explain web-1 db-1 tcp/5432
  gatehouse explain internet web-1 tcp/443
  gatehouse explain web-1 10.20.2.10 icmp`,
		Args: args(cobra.ExactArgs(3)),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if err := a.checkOutput("json"); err != nil {
				return err
			}
			req.From, req.To = argv[0], argv[1]
			var err error
			if req.Protocol, req.Port, err = parseService(argv[2]); err != nil {
				return usageError{err}
			}
			e, err := a.client().Explain(cmd.Context(), req)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(e)
			}
			return printExplanation(a.stdout, e)
		},
	}
	cmd.Flags().BoolVarP(&req.IPv6, "ipv6", "6", false, "use IPv6 addresses where an end has both")
	cmd.Flags().Uint16Var(&req.SrcPort, "source-port", 0, "the connection's source port (default: one that only wide rules match)")
	a.outputFlag(cmd, "json")
	return cmd
}

// parseService reads PROTO[/PORT].
func parseService(s string) (vpc.Protocol, uint16, error) {
	name, port, hasPort := strings.Cut(s, "/")
	p, err := vpc.ParseProtocol(name)
	if err != nil {
		return 0, 0, err
	}
	if p == vpc.ProtocolAll {
		return 0, 0, fmt.Errorf("%q: a packet has one protocol: write tcp/PORT, udp/PORT, icmp …", s)
	}
	if p.HasPorts() != hasPort {
		if p.HasPorts() {
			return 0, 0, fmt.Errorf("%q: a port is needed, as in %s/443", s, p)
		}
		return 0, 0, fmt.Errorf("%q: %s has no ports", s, p)
	}
	if !hasPort {
		return p, 0, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return 0, 0, fmt.Errorf("%q is not a port (1 to 65535)", port)
	}
	return p, uint16(n), nil
}

// service prints a protocol and port as they were asked for.
func service(p vpc.Protocol, port uint16) string {
	if p.HasPorts() {
		return p.String() + "/" + strconv.Itoa(int(port))
	}
	return p.String()
}

// printExplanation prints an answer as people read it.
func printExplanation(w io.Writer, e *api.Explanation) error {
	verdict := "DROPPED"
	if e.Allowed {
		verdict = "ALLOWED"
	}
	fmt.Fprintf(w, "%s -> %s %s: %s\n\n", end(e.From, e.FromAddr.String()), end(e.To, e.ToAddr.String()), service(e.Protocol, e.Port), verdict)
	printStages(w, e.Stages)
	if len(e.Reply) > 0 {
		fmt.Fprintf(w, "\nthe reply's way back\n")
		printStages(w, e.Reply)
	}
	if e.Kernel != "in force" {
		fmt.Fprintf(w, "\nWARNING: %s\n", e.Kernel)
	}
	for _, n := range e.Notes {
		fmt.Fprintf(w, "\nnote: %s\n", n)
	}
	return nil
}

func printStages(w io.Writer, stages []api.ExplainStage) {
	rows := make([][]string, 0, len(stages))
	for _, s := range stages {
		rows = append(rows, []string{string(s.Stage), string(s.Verdict), s.Detail})
		if s.Nearest != "" {
			rows = append(rows, []string{" ", " ", "nearest: " + s.Nearest})
		}
	}
	printTable(w, "  ", nil, rows)
}
