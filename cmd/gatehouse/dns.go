package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/configs"
	"gatehouse/server/api"
	"gatehouse/server/dns"
	"gatehouse/vpc"
)

func (a *app) dnsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "ask as an instance would, forget cached answers, move zones in and out as files",
		Args:  args(cobra.NoArgs),
		RunE:  needsMore,
	}
	cmd.AddCommand(a.dnsQueryCommand(), a.dnsFlushCommand(), a.dnsExportCommand(), a.dnsImportCommand())
	return cmd
}

func (a *app) dnsQueryCommand() *cobra.Command {
	var vpcName string
	cmd := &cobra.Command{
		Use:   "query NAME [TYPE]",
		Short: "what an instance of a VPC is answered, and where the answer comes from",
		Example: `  gatehouse dns query web-1.research.internal --vpc research
  gatehouse dns query www.example.org AAAA --vpc research -o json`,
		Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if err := a.checkOutput("json"); err != nil {
				return err
			}
			typ := "A"
			if len(argv) == 2 {
				typ = argv[1]
			}
			answer, err := a.client().DNSQuery(cmd.Context(), vpcName, argv[0], typ)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(answer)
			}
			printDNSAnswer(a.stdout, answer)
			return nil
		},
	}
	cmd.Flags().StringVar(&vpcName, "vpc", "", "the VPC whose instance asks; may be left out when there is only one")
	a.outputFlag(cmd, "json")
	return cmd
}

// printDNSAnswer prints the records, and the response code and the source as a comment of a zone file.
func printDNSAnswer(w io.Writer, e *api.DNSAnswer) {
	for _, r := range e.Answer {
		fmt.Fprintln(w, r)
	}
	source := ""
	if e.Source != "" {
		source = ", from " + e.Source
	}
	fmt.Fprintf(w, "; %s %s in %s: %s%s\n", e.Name, e.Type, e.VPC, e.Rcode, source)
}

func (a *app) dnsFlushCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "flush [NAME]",
		Short: "forget what upstreams said about a name and everything below it, or about all names",
		Args:  args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, argv []string) error {
			n, err := a.client().DNSFlush(cmd.Context(), strings.Join(argv, ""))
			if err == nil {
				fmt.Fprintf(a.stdout, "%d answers forgotten\n", n)
			}
			return err
		},
	}
}

func (a *app) dnsExportCommand() *cobra.Command {
	var vpcName string
	cmd := &cobra.Command{
		Use:     "export ZONE",
		Short:   "print a zone as a zone file, instances' names included",
		Example: "  gatehouse dns export research.internal --vpc research",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, argv []string) error {
			objects, err := a.client().Objects(cmd.Context(), vpc.KindRecord, vpcName, nil)
			if err != nil {
				return err
			}
			zone := strings.ToLower(strings.TrimSuffix(argv[0], ".")) + "."
			var records []dns.Record
			vpcs := map[string]bool{}
			for _, o := range objects {
				r := dns.Record{VPC: cell(o, "vpc"), Zone: cell(o, "zone"), Name: cell(o, "name"), Type: cell(o, "type"), Value: cell(o, "value")}
				if _, err := fmt.Sscan(cell(o, "ttl"), &r.TTL); err != nil || r.Zone != zone {
					continue
				}
				vpcs[r.VPC] = true
				records = append(records, r)
			}
			switch len(vpcs) {
			case 0:
				return fmt.Errorf("there is no zone %s", argv[0])
			case 1:
				return dns.WriteZoneFile(a.stdout, zone, records)
			}
			return fmt.Errorf("%d VPCs have a zone %s: say which one, with --vpc", len(vpcs), argv[0])
		},
	}
	cmd.Flags().StringVar(&vpcName, "vpc", "", "the VPC that sees the zone")
	return cmd
}

func (a *app) dnsImportCommand() *cobra.Command {
	var vpcName string
	cmd := &cobra.Command{
		Use:   "import ZONE FILE",
		Short: "turn a zone file into a manifest, to be looked at and applied",
		Long: `import reads a zone file and prints a manifest with a private zone of its records: of the named VPC, which must be in the
manifest that it is applied with or exist already. Nothing is changed. FILE may be - for standard input.`,
		Example: "  gatehouse dns import corp.example corp.zone --vpc research > corp.yaml",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if vpcName == "" {
				return usageError{errors.New("--vpc is missing: the VPC that the zone is for")}
			}
			in := cmd.InOrStdin()
			if argv[1] != "-" {
				f, err := os.Open(argv[1])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			records, err := dns.ReadZoneFile(in, argv[0])
			if err != nil {
				return fmt.Errorf("%s: %w", argv[1], err)
			}
			z := &vpc.PrivateZoneSpec{Name: strings.TrimSuffix(argv[0], "."), VPCs: []string{vpcName}, Records: records}
			z.SetDefaults()
			text, err := configs.EncodeManifest(&vpc.Spec{PrivateZones: []*vpc.PrivateZoneSpec{z}})
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(text)
			return err
		},
	}
	cmd.Flags().StringVar(&vpcName, "vpc", "", "the VPC that the zone is for")
	return cmd
}
