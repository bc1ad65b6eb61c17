package configs

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gatehouse/internal/polgen"
	"gatehouse/vpc"
)

const lab = `vpcs:
- name: research
  cidrBlock: 10.20.0.0/16
  vswitches:
  - name: web
    cidrBlock: 10.20.1.0/24
    attach: {bridge: gh-web}
  instances:
  - name: web-1
    interfaces:
    - mac: 00:16:3E:00:00:01
      vswitch: web
  privateZones:
  - name: corp.example
    records:
    - {name: git, type: A, value: 10.20.1.5}
    - {name: git, type: AAAA, value: fd00::5}
  forwarders:
  - {zone: partner.example, servers: [192.0.2.53]}
`

func TestEveryPathIsFoundInTheFile(t *testing.T) {
	m := mustManifest(t, lab)
	for _, c := range []struct {
		path         string
		line, column int
	}{
		{"", 1, 1},
		{"vpcs", 1, 1},
		{"vpcs[research]", 2, 3},
		{"vpcs[0]", 2, 3},
		{"vpcs[research].cidrBlock", 3, 14},
		{"vpcs[research].vswitches[web].attach", 7, 5},
		{"vpcs[research].vswitches[web].attach.bridge", 7, 22},
		{"vpcs[research].vswitches[web].gateway", 5, 5}, // not written: what it would stand in
		{"vpcs[research].vswitches[db].cidrBlock", 4, 3},
		{"vpcs[research].instances[web-1].interfaces[00:16:3e:00:00:01].vswitch", 12, 16},
		{"vpcs[research].privateZones[corp.example].records[1].value", 17, 38},
		{"vpcs[research].forwarders[partner.example].servers[0]", 19, 39},
		{"vpcs[other].cidrBlock", 1, 1},
		{"nonsense..[", 1, 1},
	} {
		if got := m.Locate(c.path); got != (Position{"lab.yaml", c.line, c.column}) {
			t.Errorf("%q: got %s:%d, want line %d, column %d", c.path, got, got.Column, c.line, c.column)
		}
	}
}

func TestProblemsAreReportedWithTheirLinesAndNotTwice(t *testing.T) {
	m, err := ParseManifest("lab.yaml", []byte(strings.Replace(lab, "10.20.1.0/24", "10.20.1.1/24", 1)))
	if err == nil {
		t.Fatal("host bits accepted")
	}
	err = m.Report(vpc.Problems{
		{Path: "vpcs[research].vswitches[web].cidrBlock", Message: "is missing"},
		{Path: "vpcs[research].vswitches[web].cidrBlockade", Message: "has a name that only begins the same"},
		{Path: "vpcs[research].cidrBlock", Message: "overlaps a route of the host"},
		{Path: "", Message: "something as a whole"},
	})
	want := `lab.yaml:1: something as a whole
lab.yaml:3: vpcs[research].cidrBlock: overlaps a route of the host
lab.yaml:5: vpcs[research].vswitches[web].cidrBlockade: has a name that only begins the same
lab.yaml:6: vpcs[research].vswitches[web].cidrBlock: 10.20.1.1/24 has host bits set: write 10.20.1.0/24`
	if errorText(err) != want {
		t.Errorf("got:\n%s\nwant:\n%s", errorText(err), want)
	}
	if err := mustManifest(t, lab).Report(nil); err != nil {
		t.Errorf("nothing wrong, but %v", err)
	}
}

func TestSeveralFilesAreOneManifest(t *testing.T) {
	other, err := ParseManifest("other.yaml", []byte("vpcs:\n- {name: b, cidrBlock: 10.1.0.0/16}\ntests: []\n"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := Join(mustManifest(t, lab), other)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Spec.VPCs) != 2 || m.Spec.Tests == nil {
		t.Errorf("got %d VPCs, tests %v", len(m.Spec.VPCs), m.Spec.Tests)
	}
	if got := m.Locate("vpcs[b].cidrBlock").String(); got != "other.yaml:2" {
		t.Errorf("vpcs[b] is at %s", got)
	}
	_, err = Join(m, other)
	want := `other.yaml:2: vpcs[b]: is already written in other.yaml:2: write it in one place
other.yaml:3: tests: tests are already written in other.yaml:3: keep them in one place`
	if errorText(err) != want {
		t.Errorf("got:\n%s\nwant:\n%s", errorText(err), want)
	}
}

func TestTheExamplesAreValid(t *testing.T) {
	entries, err := Embedded.ReadDir("examples")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Run(e.Name(), func(t *testing.T) {
			data, err := Embedded.ReadFile("examples/" + e.Name())
			if err != nil {
				t.Fatal(err)
			}
			m, err := ParseManifest(filepath.Join("examples", e.Name()), data)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Report(vpc.Validate(m.Spec, Default().Host())); err != nil {
				t.Error(err)
			}
		})
	}
	if len(entries) < 2 {
		t.Errorf("only %d examples", len(entries))
	}
}

func TestTheREADMEsManifestsAreGood(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(blocks) == 0 {
		t.Error("there are none")
	}
	for _, b := range blocks {
		m, err := ParseManifest("README.md", b[1])
		if err != nil {
			t.Errorf("%v\n%s", err, b[1])
			continue
		}
		if err := m.Report(vpc.Validate(m.Spec, vpc.Host{Uplinks: []string{"wan0"}})); err != nil {
			t.Errorf("%v\n%s", err, b[1])
		}
	}
}

func TestWhatIsWrittenIsReadBackTheSame(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		spec := polgen.Translate(r, polgen.Spec(r, polgen.Small()))
		spec.Tests = []*vpc.TestSpec{{From: "a", To: "internet", Protocol: vpc.ProtocolTCP, Port: int(seed), Expect: vpc.Drop}}
		out, err := EncodeManifest(spec)
		if err != nil {
			t.Fatal(err)
		}
		m, err := ParseManifest("export.yaml", out)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, out)
		}
		if d := diffSpecs(withoutIDs(spec), m.Spec); d != "" {
			t.Fatalf("seed %d (-written +read):\n%s\n%s", seed, d, out)
		}
		again, err := EncodeManifest(m.Spec)
		if err != nil || string(again) != string(out) {
			t.Fatalf("seed %d: written twice, not the same (%v):\n%s\n%s", seed, err, out, again)
		}
	}
}

// withoutIDs returns the spec as a manifest has it.
func withoutIDs(s *vpc.Spec) *vpc.Spec {
	out := &vpc.Spec{Tests: s.Tests}
	for _, v := range s.VPCs {
		c := *v
		c.ID = ""
		c.VSwitches = each(v.VSwitches, func(w *vpc.VSwitchSpec) { w.ID = "" })
		c.SecurityGroups = each(v.SecurityGroups, func(g *vpc.GroupSpec) {
			g.ID = ""
			g.Rules = each(g.Rules, func(r *vpc.RuleSpec) { r.ID = "" })
		})
		c.PrefixLists = each(v.PrefixLists, func(l *vpc.PrefixListSpec) { l.ID = "" })
		c.NetworkACLs = each(v.NetworkACLs, func(a *vpc.ACLSpec) {
			a.ID = ""
			a.Ingress = each(a.Ingress, func(e *vpc.EntrySpec) { e.ID = "" })
			a.Egress = each(a.Egress, func(e *vpc.EntrySpec) { e.ID = "" })
		})
		c.Instances = each(v.Instances, func(i *vpc.InstanceSpec) {
			i.ID = ""
			i.Interfaces = each(i.Interfaces, func(n *vpc.InterfaceSpec) { n.ID = "" })
		})
		out.VPCs = append(out.VPCs, &c)
	}
	return out
}

func each[T any](list []*T, change func(*T)) []*T {
	out := slices.Clone(list)
	for i, p := range list {
		c := *p
		change(&c)
		out[i] = &c
	}
	return out
}

func TestTextThatYAMLWouldMisreadSurvives(t *testing.T) {
	for _, text := range []string{
		"null", "~", "yes", "007", "0x10", "1e3", "2001-01-01", "- a", "a: b", "a #b", " leading", "trailing ", "#!/bin/sh\necho hi\n",
		"tab\there", "two\n\nparagraphs\n\n", "quote ' and \"", "é ü 世界", "{a}", "[b]", "*a", "&a", "!a", "%a", "@a", "`a`", "\r\n", "\n", "  indented\nless",
		strings.Repeat("long ", 100), "=", "<<", "\u2028", "\x7f", "\u0085",
	} {
		spec := &vpc.Spec{VPCs: []*vpc.VPCSpec{{Name: "a", Description: text, Instances: []*vpc.InstanceSpec{{Name: "i", Metadata: vpc.MetadataSpec{UserData: text, SSHKeys: []string{text}}}}}}}
		spec.VPCs[0].SetDefaults()
		spec.VPCs[0].Instances[0].SetDefaults()
		out, err := EncodeManifest(spec)
		if err != nil {
			t.Fatal(err)
		}
		m, err := ParseManifest("x.yaml", out)
		if err != nil {
			t.Errorf("%q: %v\n%s", text, err, out)
			continue
		}
		if d := diffSpecs(spec, m.Spec); d != "" {
			t.Errorf("%q:\n%s\n%s", text, d, out)
		}
	}
}
