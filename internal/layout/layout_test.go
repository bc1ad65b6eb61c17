// Package layout holds no code, only the test that keeps the house in order: who may import whom.
package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "gatehouse"

// mayImport lists, for each package of ours, the packages of ours that it may import (a trailing /... covers the tree).
// Tests of a package follow the same rule, but for what testsMayImport adds.
var mayImport = map[string][]string{
	"vpc":                      {},
	"configs":                  {"vpc"},
	"store":                    {"vpc"},
	"firewall":                 {"vpc"},
	"firewall/iptables":        {"vpc", "firewall", "firewall/ipset"}, // its probe makes a set
	"firewall/ipset":           {"vpc", "firewall"},
	"firewall/conntrack":       {"vpc", "firewall"},
	"firewall/nflog":           {"vpc", "firewall"},
	"firewall/reconcile":       {"vpc", "firewall", "firewall/..."},
	"server/lease":             {"vpc"},
	"server/port":              {"vpc"},
	"server/dhcp":              {"vpc", "server/lease", "server/port"},
	"server/dhcp4":             {"vpc", "server/lease", "server/dhcp", "server/port"},
	"server/dhcp6":             {"vpc", "server/lease", "server/dhcp", "server/port"},
	"server/ra":                {"vpc", "server/port"},
	"server/dns":               {"vpc"},
	"server/link":              {"vpc", "server/port"},
	"server/api":               {"vpc"},
	"server":                   {"..."},
	"cmd/gatehouse":            {"..."},
	"systemd":                  {},
	"firewall/internal/ownnet": {},
	"internal/scale":           {"vpc"},
	"internal/bench/firewall":  {"..."},
	"server/survey":            {"vpc"},
	"internal/layout":          {},
	"internal/netlab":          {},
	"internal/polgen":          {"vpc"},
	"internal/acceptance":      {"..."},
	"internal/bench/dhcp":      {"..."},
	"internal/bench/dns":       {"..."},
}

// testsMayImport is what any test may use besides.
var testsMayImport = []string{"internal/netlab", "internal/polgen", "internal/scale", "firewall/internal/ownnet", "configs", "vpc"}

// onlyIn lists libraries that only some packages may import directly.
var onlyIn = map[string][]string{
	"os/exec":                             {"firewall/iptables", "firewall/ipset", "internal/netlab", "internal/bench/dhcp", "internal/bench/dns", "internal/bench/firewall"},
	"github.com/miekg/dns":                {"server/dns"},
	"github.com/insomniacslk/dhcp":        {"server/dhcp4", "server/dhcp6"},
	"github.com/coreos/go-iptables":       {"firewall/iptables"},
	"go.etcd.io/bbolt":                    {"store"},
	"github.com/vishvananda/netlink":      {"server/link", "firewall/conntrack", "internal/netlab"},
	"github.com/vishvananda/netns":        {"internal/netlab", "server/link"},
	"github.com/spf13/cobra":              {"cmd/gatehouse"},
	"github.com/coreos/go-systemd":        {"server"},
	"github.com/prometheus/client_golang": {"server"},
}

type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func allowed(list []string, name string) bool {
	return slices.ContainsFunc(list, func(a string) bool {
		tree, isTree := strings.CutSuffix(a, "...")
		return a == name || isTree && strings.HasPrefix(name, tree)
	})
}

func TestPackagesImportOnlyWhatTheLayoutAllows(t *testing.T) {
	for _, p := range packages(t) {
		self := strings.TrimPrefix(p.ImportPath, module+"/")
		may, known := mayImport[self]
		if !known {
			t.Errorf("%s is not in the layout: give it a place there", self)
			continue
		}
		for _, i := range p.Imports {
			if name, ours := strings.CutPrefix(i, module+"/"); ours && !allowed(may, name) {
				t.Errorf("%s imports %s, which the layout does not allow", self, name)
			}
			for lib, where := range onlyIn {
				if (i == lib || strings.HasPrefix(i, lib+"/")) && !slices.Contains(where, self) {
					t.Errorf("%s imports %s, which belongs in %s", self, i, strings.Join(where, ", "))
				}
			}
			if self == "vpc" && strings.Contains(i, ".") {
				t.Errorf("vpc imports the library %s: the model uses the standard library alone", i)
			}
		}
		for _, i := range append(p.TestImports, p.XTestImports...) {
			name, ours := strings.CutPrefix(i, module+"/")
			if ours && name != self && !allowed(may, name) && !allowed(testsMayImport, name) {
				t.Errorf("a test of %s imports %s, which the layout does not allow", self, name)
			}
		}
	}
}
