package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/configs"
	"gatehouse/server/dhcp4"
	"gatehouse/server/survey"
	"gatehouse/vpc"
)

// listenFor is how long another DHCP server on the link may take to answer.
const listenFor = 2 * time.Second

// setup is what init is told and what it finds out.
type setup struct {
	app       *app
	links     []survey.Link
	uplinks   []string
	bridge    string
	iface     string // in place of a bridge
	range4    string
	range6    string
	manifest  string
	yes       bool
	overwrite bool
}

func (a *app) initCommand() *cobra.Command {
	s := &setup{app: a}
	cmd := &cobra.Command{
		Use:   "init",
		Short: "write a configuration and a first network for this host",
		Long: `init looks at the host, asks which links lead outside and which link the guests are on, and writes two files: the
configuration, and the manifest of a first network, which the daemon applies when it starts with nothing stored. What is
given by a flag is not asked for. It says what on the host is in the way, as doctor does, and whether another DHCP server
answers on the guests' link.`,
		Example: `  gatehouse init
  gatehouse init --yes --uplink eth0 --bridge gh-main --range 10.20.0.0/16`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&s.uplinks, "uplink", nil, "a link that leads outside (may be repeated; default: where the default routes lead)")
	f.StringVar(&s.bridge, "bridge", "gh-main", "the bridge that guests are plugged into; made when it is missing")
	f.StringVar(&s.iface, "interface", "", "a link that guests are behind, in place of a bridge")
	f.StringVar(&s.range4, "range", "", "the guests' IPv4 range (default: a free /16)")
	f.StringVar(&s.range6, "ipv6-range", "", `the guests' IPv6 range, a /56 (default: a private one by chance; "none": no IPv6)`)
	f.StringVar(&s.manifest, "manifest", "/etc/gatehouse/lab.yaml", "where the network is written to")
	f.BoolVarP(&s.yes, "yes", "y", false, "ask nothing, take the defaults")
	f.BoolVar(&s.overwrite, "force", false, "overwrite files that are there")
	a.configFlag(cmd)
	return cmd
}

func (s *setup) run(cmd *cobra.Command) error {
	if cmd.Flags().Changed("bridge") && s.iface != "" {
		return usageError{errors.New("--bridge and --interface: guests are behind one of them")}
	}
	var err error
	if s.links, err = survey.Links(); err != nil {
		return err
	}
	s.print("links of this host\n")
	for _, l := range s.links {
		s.print("  %s\n", describeLink(l))
	}
	if err := s.ask(cmd); err != nil {
		return err
	}
	config, manifest, err := s.files()
	if err != nil {
		return err
	}
	gateway, err := s.validate(config, manifest)
	if err != nil {
		return err
	}
	if err := errors.Join(s.mayWrite(s.app.configPath, config), s.mayWrite(s.manifest, manifest)); err != nil {
		return err
	}
	s.survey(cmd.Context(), gateway)
	if err := write(s.app.configPath, config, 0o640); err != nil {
		return err
	}
	if err := write(s.manifest, manifest, 0o644); err != nil {
		return err
	}
	s.print(`
wrote %s   what belongs to this host
wrote %s   the first network: change it, then: gatehouse apply -f %s

next
  systemctl enable gatehouse && systemctl restart gatehouse
  gatehouse status
  gatehouse doctor
`, s.app.configPath, s.manifest, s.manifest)
	if s.iface == "" {
		s.print("  plug guests into the bridge %s: ip link set tap0 master %s\n", s.bridge, s.bridge)
	}
	return nil
}

func (s *setup) print(format string, a ...any) { fmt.Fprintf(s.app.stdout, format, a...) }

func describeLink(l survey.Link) string {
	words := []string{l.Name, string(l.Kind)}
	for _, a := range l.Addrs {
		words = append(words, a.String())
	}
	if l.Default {
		words = append(words, "(default route)")
	}
	return strings.Join(words, " ")
}

// ask fills in what no flag has said.
func (s *setup) ask(cmd *cobra.Command) error {
	in := bufio.NewScanner(s.app.stdin)
	question := func(flag, text, def string) string {
		if s.yes || cmd.Flags().Changed(flag) {
			return def
		}
		s.print("%s [%s] ", text, def)
		if !in.Scan() {
			s.print("\n")
			return def
		}
		if answer := strings.TrimSpace(in.Text()); answer != "" {
			return answer
		}
		return def
	}
	if !cmd.Flags().Changed("uplink") {
		for _, l := range s.links {
			if l.Default {
				s.uplinks = append(s.uplinks, l.Name)
			}
		}
	}
	if s.range4 == "" {
		s.range4 = survey.FreeRange(s.links).String()
	}
	if s.range6 == "" {
		s.range6 = privateRange()
	}
	outside := question("uplink", "links that lead outside, or none?", strings.Join(s.uplinks, ","))
	s.uplinks = strings.FieldsFunc(outside, func(r rune) bool { return r == ',' || r == ' ' })
	if slices.Equal(s.uplinks, []string{"none"}) {
		s.uplinks = nil
	}
	if s.iface == "" {
		s.bridge = question("bridge", "bridge that guests are plugged into, or the link that they are behind?", s.bridge)
		if i := slices.IndexFunc(s.links, func(l survey.Link) bool { return l.Name == s.bridge }); i >= 0 && s.links[i].Kind != survey.Bridge {
			s.iface = s.bridge
		}
	}
	s.range4 = question("range", "IPv4 range of the guests?", s.range4)
	s.range6 = question("ipv6-range", "IPv6 range of the guests, or none?", s.range6)
	if s.range6 == "none" {
		s.range6 = ""
	}
	return in.Err()
}

// privateRange is a /56 in a network of RFC 4193, whose 40 bits are chosen by chance.
func privateRange() string {
	b := [16]byte{0xfd}
	rand.Read(b[1:6]) // never fails
	return netip.PrefixFrom(netip.AddrFrom16(b), 56).String()
}

var manifestText = template.Must(template.New("manifest").Parse(`# The network behind this gateway: what you change, then: gatehouse apply -f {{.File}}
# Every field: see the README and configs/examples.
vpcs:
- name: lab
  cidrBlock: {{.Range4}}
{{- if .Range6}}
  ipv6CidrBlock: "{{.Range6}}"
{{- end}}
  natGateway: {{.NAT}}   # guests reach the outside with the gateway's address
  vswitches:
  - name: main
    cidrBlock: {{.Switch4}}
{{- if .Switch6}}
    ipv6CidrBlock: "{{.Switch6}}"
{{- end}}
    attach: {{"{"}}{{.Attach}}{{"}"}}
    enrollment: auto   # a MAC that nobody declared becomes an instance of its own
  securityGroups:
  - name: default   # who enrolls: they reach each other and the outside, and nobody else reaches them
    rules: []
  instances: []
`))

// files writes both texts.
func (s *setup) files() (config, manifest string, err error) {
	range4, err := netip.ParsePrefix(s.range4)
	if err != nil {
		return "", "", fmt.Errorf("--range: %q is not a range as in 10.20.0.0/16", s.range4)
	}
	data := struct {
		File, Range4, Range6, Switch4, Switch6, Attach string
		NAT                                            bool
	}{File: s.manifest, Range4: range4.Masked().String(), NAT: len(s.uplinks) > 0, Attach: "bridge: " + s.bridge}
	data.Switch4 = secondOf(range4.Masked(), 24).String()
	if s.range6 != "" {
		range6, err := netip.ParsePrefix(s.range6)
		if err != nil || !range6.Addr().Is6() {
			return "", "", fmt.Errorf("--ipv6-range: %q is not a range as in fd00:20::/56", s.range6)
		}
		data.Range6, data.Switch6 = range6.Masked().String(), secondOf(range6.Masked(), 64).String()
	}
	if s.iface != "" {
		data.Attach = "interface: " + s.iface
	}
	var b bytes.Buffer
	if err := manifestText.Execute(&b, data); err != nil {
		return "", "", err
	}
	config = configs.Shipped()
	for key, value := range map[string]string{"uplinks": "[" + strings.Join(s.uplinks, ", ") + "]", "manifest": s.manifest} {
		config = regexp.MustCompile("(?m)^"+key+": .*$").ReplaceAllLiteralString(config, key+": "+value)
	}
	return config, b.String(), nil
}

// secondOf gives the second range of that length inside a range, or the range itself where it has no two.
func secondOf(p netip.Prefix, bits int) netip.Prefix {
	if p.Bits() >= bits {
		return p
	}
	b := p.Addr().AsSlice()
	b[(bits-1)/8] |= 1 << ((8 - bits%8) % 8)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, bits)
}

// validate reads both texts as the daemon will, and says what it will have.
func (s *setup) validate(config, manifest string) (survey.Gateway, error) {
	c, err := configs.ParseConfig(s.app.configPath, []byte(config))
	if err != nil {
		return survey.Gateway{}, err
	}
	m, err := configs.ParseManifest(s.manifest, []byte(manifest))
	if err != nil {
		return survey.Gateway{}, err
	}
	spec, problems := vpc.Apply(&vpc.Spec{}, m.Spec, c.Host(), vpc.ApplyOptions{NewID: vpc.RandomID, InUse: func(netip.Addr) bool { return false }})
	if err := m.Report(problems); err != nil {
		return survey.Gateway{}, err
	}
	return survey.GatewayOf(vpc.NewSnapshot(spec, c.Host(), 0)), nil
}

// mayWrite refuses a file that somebody has written, unless it says the same.
func (s *setup) mayWrite(path, text string) error {
	have, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), s.overwrite:
		return nil
	case err != nil:
		return err
	case string(have) == text, string(have) == configs.Shipped():
		return nil
	}
	return fmt.Errorf("%s is there and has been changed: nothing is overwritten without --force", path)
}

// survey says what on the host is in the way.
func (s *setup) survey(ctx context.Context, g survey.Gateway) {
	findings := survey.Look("/", g)
	for _, l := range g.Links {
		if !slices.ContainsFunc(s.links, func(have survey.Link) bool { return have.Name == l }) {
			continue // it will be made
		}
		rivals, err := dhcp4.Rivals(ctx, l, listenFor)
		if err != nil {
			findings = append(findings, survey.Finding{Problem: true, Code: survey.FindingLooking, Message: err.Error()})
		}
		for _, r := range rivals {
			findings = append(findings, survey.Rival(l, r))
		}
	}
	if len(findings) == 0 {
		s.print("\nnothing on this host is in the way\n")
		return
	}
	s.print("\non this host\n")
	for _, f := range findings {
		level := "note"
		if f.Problem {
			level = "problem"
		}
		s.print("  %-8s %s: %s\n", level, f.Code, f.Message)
		if f.Remedy != "" {
			s.print("           %s\n", f.Remedy)
		}
	}
}

// write puts a file in place in one step, readable for the daemon's group.
func write(path, text string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".init-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already when all went well
	gid := os.Getegid()
	if group, err := user.LookupGroup("gatehouse"); err == nil {
		if gid, err = strconv.Atoi(group.Gid); err != nil {
			return fmt.Errorf("group gatehouse: %w", err)
		}
	}
	_, err = tmp.WriteString(text)
	if err := errors.Join(err, tmp.Chown(os.Geteuid(), gid), tmp.Chmod(mode), tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}
