package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/server/api"
	"gatehouse/vpc"
)

// columns are the tables of get, by canonical kind.
func columns(kind vpc.Kind) []column {
	switch kind {
	case vpc.KindVPC:
		return []column{{"NAME", "name", false}, {"ID", "id", true}, {"CIDR", "cidrBlock", false}, {"IPV6", "ipv6CidrBlock", false},
			{"VSWITCHES", "status.vswitches", false}, {"INSTANCES", "status.instances", false}, {"NAT", "natGateway", false}, {"EXTERNAL", "ipv6PrefixTranslations.externalPrefix", true}, {"DOMAIN", "status.domain", true}}
	case vpc.KindVSwitch:
		return []column{{"VPC", "vpc", false}, {"NAME", "name", false}, {"ID", "id", true}, {"CIDR", "cidrBlock", false}, {"IPV6", "ipv6CidrBlock", false},
			{"GATEWAY", "status.gateway", false}, {"LINK", "status.link", false}, {"ACL", "networkAcl", false}, {"FREE", "status.freeAddresses", false}, {"POOL", "status.pool", false}, {"ENROLLMENT", "enrollment", true}}
	case vpc.KindInstance:
		return []column{{"VPC", "vpc", false}, {"NAME", "name", false}, {"ID", "id", true}, {"ADDRESS", "interfaces.privateIp", false}, {"IPV6", "interfaces.ipv6Addresses", false},
			{"PREFIXES", "interfaces.ipv6Prefixes", true}, {"MAC", "interfaces.mac", true}, {"VSWITCH", "interfaces.vswitch", false}, {"GROUPS", "interfaces.securityGroups", false}, {"LEASE", "status.lease", false}, {"ENROLLED", "enrolled", true}}
	case vpc.KindInterface:
		return []column{{"VPC", "vpc", false}, {"INSTANCE", "instance", false}, {"ID", "id", false}, {"MAC", "mac", false}, {"VSWITCH", "vswitch", false},
			{"ADDRESS", "privateIp", false}, {"SECONDARY", "secondaryPrivateIps", true}, {"IPV6", "ipv6Addresses", false}, {"PREFIXES", "ipv6Prefixes", true}, {"GROUPS", "securityGroups", false}, {"PORT", "port", true}}
	case vpc.KindSecurityGroup:
		return []column{{"VPC", "vpc", false}, {"NAME", "name", false}, {"ID", "id", true}, {"TYPE", "type", false}, {"INNER", "innerAccess", false},
			{"RULES", "rules.#", false}, {"MEMBERS", "status.members", false}}
	case vpc.KindNetworkACL:
		return []column{{"VPC", "vpc", false}, {"NAME", "name", false}, {"ID", "id", true}, {"INGRESS", "ingress.#", false}, {"EGRESS", "egress.#", false}, {"VSWITCHES", "status.vswitches", false}}
	case vpc.KindPrefixList:
		return []column{{"VPC", "vpc", false}, {"NAME", "name", false}, {"ID", "id", true}, {"FAMILY", "family", false}, {"ENTRIES", "entries.#", false}, {"MAX", "maxEntries", false}}
	case vpc.KindLease:
		return []column{{"ADDRESS", "address", false}, {"MAC", "mac", false}, {"INSTANCE", "instance", false}, {"VPC", "vpc", true}, {"VSWITCH", "vswitch", false},
			{"STATE", "state", false}, {"EXPIRES", "expires", false}, {"PREFIXES", "ipv6Prefixes", true}, {"HOSTNAME", "hostname", true}, {"CLIENT-ID", "clientId", true}}
	case vpc.KindRecord:
		return []column{{"VPC", "vpc", false}, {"ZONE", "zone", true}, {"NAME", "name", false}, {"TTL", "ttl", false}, {"TYPE", "type", false}, {"VALUE", "value", false}, {"SOURCE", "source", true}}
	case vpc.KindZone:
		return []column{{"VPC", "vpc", false}, {"NAME", "name", false}, {"ID", "id", true}, {"RECORDS", "records.#", false}, {"MISSING", "missing", false}}
	case vpc.KindForwarder:
		return []column{{"VPC", "vpc", false}, {"ZONE", "zone", false}, {"SERVERS", "servers", false}}
	}
	return []column{{"NAME", "name", false}, {"ID", "id", false}}
}

func (a *app) getCommand() *cobra.Command {
	var vpcName string
	var watch bool
	cmd := &cobra.Command{
		Use:   "get KIND [NAME…]",
		Short: "list objects",
		Long:  "KIND is one of " + kindsHelp() + ". A name that several VPCs have is written VPC/NAME.",
		Example: `  gatehouse get instances
  gatehouse get leases -o wide
  gatehouse get instance web-1 -o json
  gatehouse get records --vpc research`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if err := a.checkOutput("table", "wide", "json", "yaml"); err != nil {
				return err
			}
			kind, err := vpc.ParseKind(argv[0])
			if err != nil {
				return usageError{err}
			}
			if watch {
				return a.watch(cmd.Context(), kind, vpcName, argv[1:])
			}
			objects, err := a.client().Objects(cmd.Context(), kind, vpcName, argv[1:])
			if err != nil {
				return err
			}
			return a.printObjects(kind, objects, len(argv) == 2)
		},
		ValidArgsFunction: a.completeObjects,
	}
	cmd.Flags().StringVar(&vpcName, "vpc", "", "only in this VPC")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "print again after every change")
	a.outputFlag(cmd, "table, wide, json, yaml")
	return cmd
}

// watch prints the objects whenever they differ from what was printed last.
func (a *app) watch(ctx context.Context, kind vpc.Kind, vpcName string, names []string) error {
	last := ""
	for {
		objects, err := a.client().Objects(ctx, kind, vpcName, names)
		if err != nil {
			return err
		}
		if now := fmt.Sprint(objects); now != last {
			if err := a.printObjects(kind, objects, false); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// printObjects prints a list; single is a list of one that was asked for by name.
func (a *app) printObjects(kind vpc.Kind, objects []map[string]any, single bool) error {
	if objects == nil {
		objects = []map[string]any{}
	}
	var v any = objects
	if single && len(objects) == 1 {
		v = objects[0]
	}
	switch a.output {
	case "json":
		return a.printJSON(v)
	case "yaml":
		return a.printYAML(v)
	}
	var header []string
	var shown []column
	for _, c := range columns(kind) {
		if !c.wide || a.output == "wide" {
			header, shown = append(header, c.title), append(shown, c)
		}
	}
	rows := make([][]string, 0, len(objects))
	for _, o := range objects {
		var row []string
		for _, c := range shown {
			row = append(row, cell(o, c.path))
		}
		rows = append(rows, row)
	}
	return printTable(a.stdout, "", header, rows)
}

func (a *app) describeCommand() *cobra.Command {
	var vpcName string
	cmd := &cobra.Command{
		Use:   "describe KIND NAME",
		Short: "show everything about one object, effective rules included",
		Example: `  gatehouse describe instance web-1
  gatehouse describe nacl dmz`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if err := a.checkOutput("json", "yaml"); err != nil {
				return err
			}
			kind, err := vpc.ParseKind(argv[0])
			if err != nil {
				return usageError{err}
			}
			d, err := a.client().Describe(cmd.Context(), kind, vpcName, argv[1])
			if err != nil {
				return err
			}
			switch a.output {
			case "json":
				return a.printJSON(d)
			case "yaml":
				return a.printYAML(d)
			}
			if err := a.printYAML(d.Object); err != nil {
				return err
			}
			for _, s := range d.Sections {
				fmt.Fprintf(a.stdout, "\n%s\n", s.Title)
				if len(s.Rows) == 0 {
					fmt.Fprintln(a.stdout, "  (none)")
					continue
				}
				if err := printTable(a.stdout, "  ", s.Header, s.Rows); err != nil {
					return err
				}
			}
			return nil
		},
		ValidArgsFunction: a.completeObjects,
	}
	cmd.Flags().StringVar(&vpcName, "vpc", "", "the object's VPC")
	a.outputFlag(cmd, "json, yaml")
	return cmd
}

// completeObjects completes kinds, then the names of live objects.
func (a *app) completeObjects(cmd *cobra.Command, argv []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(argv) == 0 {
		return kindNames(), cobra.ShellCompDirectiveNoFileComp
	}
	kind, err := vpc.ParseKind(argv[0])
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	objects, err := a.client().Objects(cmd.Context(), kind, "", nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, o := range objects {
		if n, ok := o["name"].(string); ok {
			names = append(names, n)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) deleteCommand() *cobra.Command {
	var req api.DeleteRequest
	cmd := &cobra.Command{
		Use:   "delete KIND NAME",
		Short: "delete one object",
		Example: `  gatehouse delete instance web-1
  gatehouse delete vswitch research/web`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, argv []string) error {
			if err := a.checkOutput("json"); err != nil {
				return err
			}
			kind, err := vpc.ParseKind(argv[0])
			if err != nil {
				return usageError{err}
			}
			req.Kind, req.Name, req.User = kind, argv[1], userName()
			result, err := a.client().Delete(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.printResult(result, false, req.NoWait)
		},
		ValidArgsFunction: a.completeObjects,
	}
	cmd.Flags().StringVar(&req.VPC, "vpc", "", "the object's VPC")
	changeFlags(cmd, &req.NoWait, &req.Timeout)
	a.outputFlag(cmd, "json")
	return cmd
}

// kindNames are the kinds in their canonical form.
func kindNames() []string {
	var names []string
	for _, k := range vpc.Kinds() {
		names = append(names, string(k))
	}
	return names
}

// kindsHelp lists the kinds with their short forms.
func kindsHelp() string {
	var names []string
	for _, k := range vpc.Kinds() {
		name := string(k)
		if k.Short() != name {
			name += " (" + k.Short() + ")"
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}
