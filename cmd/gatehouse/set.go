package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/server/api"
	"gatehouse/vpc"
)

// fieldKind says how a flag's text becomes a manifest field.
type fieldKind int

const (
	fieldText fieldKind = iota
	fieldBool
	fieldNumber
	fieldList // a,b,c
	fieldPair // bridge=gh-web
)

// field is one manifest field that create and set take as a flag; the flag is the field in kebab-case.
type field struct {
	flag, path string // path: dotted, in the object's JSON
	kind       fieldKind
	help       string
}

// fields lists the flags of a kind.
func fields(kind vpc.Kind) []field {
	switch kind {
	case vpc.KindVPC:
		return []field{
			{"description", "description", fieldText, "what it is for"},
			{"cidr-block", "cidrBlock", fieldText, "IPv4 range"},
			{"secondary-cidr-blocks", "secondaryCidrBlocks", fieldList, "further IPv4 ranges"},
			{"ipv6-cidr-block", "ipv6CidrBlock", fieldText, "IPv6 range, /56"},
			{"dns-hostnames", "dnsHostnames", fieldBool, "answer instance names"},
			{"domain", "domain", fieldText, "domain of instance names"},
			{"nat-gateway", "natGateway", fieldBool, "reach the uplinks with the gateway's address"},
		}
	case vpc.KindVSwitch:
		return []field{
			{"description", "description", fieldText, "what it is for"},
			{"cidr-block", "cidrBlock", fieldText, "IPv4 range"},
			{"ipv6-cidr-block", "ipv6CidrBlock", fieldText, "IPv6 range, /64"},
			{"gateway", "gateway", fieldText, "the gateway's IPv4 address"},
			{"attach", "attach", fieldPair, "bridge=NAME, interface=NAME or relay=ADDRESS"},
			{"network-acl", "networkAcl", fieldText, "network ACL"},
			{"enrollment", "enrollment", fieldText, "auto or closed"},
			{"enrollment-security-groups", "enrollmentSecurityGroups", fieldList, "groups of enrolled instances"},
			{"pool", "pool", fieldText, "range of automatic addresses"},
		}
	case vpc.KindInstance:
		return []field{
			{"description", "description", fieldText, "what it is for"},
			{"mac", "interfaces.0.mac", fieldText, "MAC of the primary interface"},
			{"vswitch", "interfaces.0.vswitch", fieldText, "vSwitch of the primary interface"},
			{"private-ip", "interfaces.0.privateIp", fieldText, "IPv4 address of the primary interface"},
			{"secondary-private-ips", "interfaces.0.secondaryPrivateIps", fieldList, "secondary IPv4 addresses"},
			{"ipv6-addresses", "interfaces.0.ipv6Addresses", fieldList, "IPv6 addresses"},
			{"ipv6-prefixes", "interfaces.0.ipv6Prefixes", fieldList, "IPv6 prefixes, each /80, delegated to the guest by DHCPv6"},
			{"security-groups", "interfaces.0.securityGroups", fieldList, "security groups of the primary interface"},
			{"port", "interfaces.0.port", fieldText, "bridge port that the MAC is pinned to"},
		}
	case vpc.KindSecurityGroup:
		return []field{
			{"description", "description", fieldText, "what it is for"},
			{"type", "type", fieldText, "basic or advanced"},
			{"inner-access", "innerAccess", fieldText, "accept or drop between members"},
		}
	case vpc.KindPrefixList:
		return []field{
			{"description", "description", fieldText, "what it is for"},
			{"family", "family", fieldText, "ipv4 or ipv6"},
			{"entries", "entries", fieldList, "prefixes"},
			{"max-entries", "maxEntries", fieldNumber, "how many entries it may have"},
		}
	case vpc.KindNetworkACL:
		return []field{{"description", "description", fieldText, "what it is for"}}
	case vpc.KindZone:
		return []field{{"missing", "missing", fieldText, "nxdomain or forward"}}
	case vpc.KindForwarder:
		return []field{{"servers", "servers", fieldList, "resolvers, IP[:port]"}}
	}
	return nil
}

// article is the indefinite one of a noun.
func article(noun string) string {
	if strings.ContainsRune("aeiou", rune(noun[0])) {
		return "an"
	}
	return "a"
}

// changeable are the kinds that create and set know.
func changeable() []vpc.Kind {
	return []vpc.Kind{vpc.KindVPC, vpc.KindVSwitch, vpc.KindInstance, vpc.KindSecurityGroup, vpc.KindNetworkACL,
		vpc.KindPrefixList, vpc.KindZone, vpc.KindForwarder}
}

// nest puts a value at a dotted path; a number in the path is an index of a list.
func nest(object map[string]any, path string, value any) {
	key, rest, more := strings.Cut(path, ".")
	if !more {
		object[key] = value
		return
	}
	if index, tail, ok := strings.Cut(rest, "."); ok && index == "0" {
		list, _ := object[key].([]any)
		if len(list) == 0 {
			list = []any{map[string]any{}}
		}
		nest(list[0].(map[string]any), tail, value)
		object[key] = list
		return
	}
	child, _ := object[key].(map[string]any)
	if child == nil {
		child = map[string]any{}
	}
	nest(child, rest, value)
	object[key] = child
}

// value reads a flag's text as its field's kind.
func (f field) value(text string) (any, error) {
	switch f.kind {
	case fieldBool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("--%s: %q is neither true nor false", f.flag, text)
		}
		return b, nil
	case fieldNumber:
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("--%s: %q is not a number", f.flag, text)
		}
		return n, nil
	case fieldList:
		list := splitList(text)
		if list == nil {
			list = []string{}
		}
		return list, nil
	case fieldPair:
		key, v, ok := strings.Cut(text, "=")
		if !ok || v == "" {
			return nil, fmt.Errorf("--%s: %q: write %s", f.flag, text, f.help)
		}
		if key == "relay" {
			return map[string]any{key: splitList(v)}, nil
		}
		return map[string]any{key: v}, nil
	}
	return text, nil
}

// change runs create or set for one kind.
func (a *app) change(cmd *cobra.Command, kind vpc.Kind, req api.PutRequest, rules *ruleEdits) error {
	if err := a.checkOutput("json"); err != nil {
		return err
	}
	object := map[string]any{}
	for _, f := range fields(kind) {
		flag := cmd.Flags().Lookup(f.flag)
		if flag == nil || !flag.Changed {
			continue
		}
		v, err := f.value(flag.Value.String())
		if err != nil {
			return usageError{err}
		}
		nest(object, f.path, v)
	}
	if rules != nil {
		if err := rules.into(object); err != nil {
			return usageError{err}
		}
	}
	if req.Patch && len(object) == 0 {
		return usageError{errors.New("nothing to set: name at least one field")}
	}
	if req.Create {
		if kind == vpc.KindForwarder {
			object["zone"] = req.Name
		} else {
			object["name"] = req.Name
		}
	}
	body, err := json.Marshal(object)
	if err != nil {
		return err
	}
	req.Kind, req.Body, req.User = kind, body, userName()
	result, err := a.client().Put(cmd.Context(), req)
	if err != nil {
		return err
	}
	return a.printResult(result, false, req.NoWait)
}

func (a *app) createCommand() *cobra.Command {
	parent := &cobra.Command{
		Use:   "create KIND NAME",
		Short: "create one object",
		Example: `  gatehouse create vpc research --cidr-block 10.20.0.0/16
  gatehouse create vswitch web --vpc research --cidr-block 10.20.1.0/24 --attach bridge=gh-web
  gatehouse create instance web-1 --vswitch web --mac 00:16:3e:00:00:01`,
		Args: args(cobra.NoArgs),
		RunE: needsMore,
	}
	for _, kind := range changeable() {
		parent.AddCommand(a.changeCommand(kind, true))
	}
	return parent
}

func (a *app) setCommand() *cobra.Command {
	parent := &cobra.Command{
		Use:   "set KIND NAME",
		Short: "change fields of one object; what is not named stays",
		Example: `  gatehouse set instance web-1 --security-groups web,ops
  gatehouse set sg web --add-rule "ingress accept tcp 443 from 0.0.0.0/0 priority 1"
  gatehouse set sg web --remove-rule sgr-0123456789abcdef`,
		Args: args(cobra.NoArgs),
		RunE: needsMore,
	}
	for _, kind := range changeable() {
		parent.AddCommand(a.changeCommand(kind, false))
	}
	return parent
}

// changeCommand is `create KIND` or `set KIND`.
func (a *app) changeCommand(kind vpc.Kind, create bool) *cobra.Command {
	req := api.PutRequest{Create: create, Patch: !create}
	verb := "change"
	if create {
		verb = "create"
	}
	var rules *ruleEdits
	cmd := &cobra.Command{
		Use:     string(kind) + " NAME",
		Aliases: []string{kind.Plural(), kind.Short()},
		Short:   verb + " " + article(string(kind)) + " " + string(kind),
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, argv []string) error {
			req.Name = argv[0]
			return a.change(cmd, kind, req, rules)
		},
	}
	if kind != vpc.KindVPC {
		cmd.Flags().StringVar(&req.VPC, "vpc", "", "the VPC (needed when there are several)")
	}
	for _, f := range fields(kind) {
		if f.kind == fieldBool {
			cmd.Flags().Bool(f.flag, false, f.help)
		} else {
			cmd.Flags().String(f.flag, "", f.help)
		}
	}
	if kind == vpc.KindSecurityGroup && !create {
		rules = &ruleEdits{}
		cmd.Flags().StringArrayVar(&rules.add, "add-rule", nil, `rule to add, as in "ingress accept tcp 443 from 0.0.0.0/0 priority 1"`)
		cmd.Flags().StringArrayVar(&rules.remove, "remove-rule", nil, "ID of a rule to remove")
	}
	changeFlags(cmd, &req.NoWait, &req.Timeout)
	a.outputFlag(cmd, "json")
	return cmd
}

// ruleEdits are the rules that `set sg` adds and removes.
type ruleEdits struct{ add, remove []string }

// into writes the edits into a patch; the daemon makes them, so that nobody else's edit is lost.
func (e *ruleEdits) into(object map[string]any) error {
	if len(e.remove) > 0 {
		object["removeRules"] = e.remove
	}
	var add []any
	for _, text := range e.add {
		rule, err := parseRule(text)
		if err != nil {
			return fmt.Errorf("--add-rule %q: %w", text, err)
		}
		add = append(add, rule)
	}
	if len(add) > 0 {
		object["addRules"] = add
	}
	return nil
}

// parseRule reads a rule in one line:
//
//	ingress|egress accept|drop PROTOCOL [PORTS] [from PEER] [to PEER] [source-ports PORTS] [priority N] [description TEXT…]
func parseRule(text string) (map[string]any, error) {
	words := strings.Fields(text)
	if len(words) < 3 {
		return nil, errors.New(`write direction, policy and protocol first, as in "ingress accept tcp 443 from 10.0.0.0/8"`)
	}
	rule := map[string]any{"direction": words[0], "policy": words[1], "protocol": words[2]}
	words = words[3:]
	keys := map[string]string{"from": "source", "to": "destination", "priority": "priority", "source-ports": "sourcePorts", "ports": "ports"}
	if len(words) > 0 && keys[words[0]] == "" && words[0] != "description" {
		rule["ports"] = words[0]
		words = words[1:]
	}
	for len(words) > 0 {
		if words[0] == "description" {
			rule["description"] = strings.Join(words[1:], " ")
			break
		}
		key := keys[words[0]]
		if key == "" {
			return nil, fmt.Errorf("%q is not expected here (from, to, source-ports, priority, description)", words[0])
		}
		if len(words) < 2 {
			return nil, fmt.Errorf("%s what?", words[0])
		}
		if key == "priority" {
			n, err := strconv.Atoi(words[1])
			if err != nil {
				return nil, fmt.Errorf("priority: %q is not a number", words[1])
			}
			rule[key] = n
		} else {
			rule[key] = words[1]
		}
		words = words[2:]
	}
	return rule, nil
}
