package configs

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"gatehouse/vpc"
)

// Manifest is a manifest as it was read: the wanted Spec, and where each part of it stands.
type Manifest struct {
	Spec *vpc.Spec

	docs     []document
	findings []Finding
}

// document is one YAML document of a manifest.
type document struct {
	file string
	root *yaml.Node
}

// ParseManifest reads a manifest; name is what messages call the file. Several documents in a file are read as Join reads
// several files. The error is an *Error with everything that is wrong in the file; the manifest is then what could be
// read, so that its meaning can be checked too and reported with it (Report), or nil if the file is not YAML at all.
func ParseManifest(name string, data []byte) (*Manifest, error) {
	roots, err := parse(name, data, maxManifest)
	if err != nil {
		return nil, err
	}
	parts := make([]*Manifest, len(roots))
	for i, root := range roots {
		d := &decoder{file: name, readOnly: "id"}
		m := &Manifest{Spec: &vpc.Spec{}, docs: []document{{name, root}}}
		decodeRoot(d, root, m.Spec)
		m.findings = d.findings
		parts[i] = m
	}
	return Join(parts...)
}

// Join puts manifests together: the lists of all of them, in order. An object must be written in one place: a VPC or a
// shared zone that two manifests name is an error, as are two lists of tests. The error also holds what was wrong with
// each of the parts.
func Join(parts ...*Manifest) (*Manifest, error) {
	all := &Manifest{Spec: &vpc.Spec{}}
	vpcs, zones := map[string]Position{}, map[string]Position{}
	for _, m := range parts {
		for _, v := range m.Spec.VPCs {
			all.claim(vpcs, m, "vpcs", v.Name)
		}
		for _, z := range m.Spec.PrivateZones {
			all.claim(zones, m, "privateZones", z.Name)
		}
		all.Spec.VPCs = append(all.Spec.VPCs, m.Spec.VPCs...)
		all.Spec.PrivateZones = append(all.Spec.PrivateZones, m.Spec.PrivateZones...)
		if m.Spec.Tests != nil && all.Spec.Tests != nil {
			at := m.Locate("tests")
			all.findings = append(all.findings, Finding{at.File, at.Line, at.Column, "tests", "tests are already written in " + all.Locate("tests").String() + ": keep them in one place"})
		} else if m.Spec.Tests != nil {
			all.Spec.Tests = m.Spec.Tests
		}
		all.docs = append(all.docs, m.docs...)
		all.findings = append(all.findings, m.findings...)
	}
	return all, errorOf(all.findings)
}

// claim notes who names an object, and objects when somebody else has.
func (m *Manifest) claim(seen map[string]Position, part *Manifest, list, name string) {
	path := fmt.Sprintf("%s[%s]", list, name)
	at := part.Locate(path)
	if first, dup := seen[name]; dup && name != "" {
		m.findings = append(m.findings, Finding{at.File, at.Line, at.Column, path, "is already written in " + first.String() + ": write it in one place"})
		return
	}
	seen[name] = at
}

// Locate returns where the thing at a path stands, or the nearest thing around it that is in the file.
func (m *Manifest) Locate(path string) Position {
	best, depth := Position{}, -1
	for _, doc := range m.docs {
		if at, n := locateIn(doc.file, doc.root, path); n > depth {
			best, depth = at, n
		}
	}
	return best
}

// Report returns everything that is wrong with the manifest as an *Error: what its reader found, and the given problems
// of its meaning with their lines. A problem at or below a place that could not even be read is left out: it would only
// say again that something is missing there. It returns nil when nothing is wrong.
func (m *Manifest) Report(ps vpc.Problems) error {
	findings := append([]Finding{}, m.findings...)
	for _, p := range ps {
		if covered(p.Path, m.findings) {
			continue
		}
		at := m.Locate(p.Path)
		findings = append(findings, Finding{at.File, at.Line, at.Column, p.Path, p.Message})
	}
	return errorOf(findings)
}

// decodeRoot decodes a document's root into what p points to.
func decodeRoot(d *decoder, root *yaml.Node, p any) {
	d.value(root, "", reflect.ValueOf(p).Elem(), 0)
}

// locate turns problems into findings, leaving out those that findings cover.
func locate(file string, root *yaml.Node, ps vpc.Problems, found []Finding) []Finding {
	var out []Finding
	for _, p := range ps {
		if !covered(p.Path, found) {
			at, _ := locateIn(file, root, p.Path)
			out = append(out, Finding{at.File, at.Line, at.Column, p.Path, p.Message})
		}
	}
	return out
}

// covered reports whether a finding stands at the path or above it.
func covered(path string, findings []Finding) bool {
	for _, f := range findings {
		rest, ok := strings.CutPrefix(path, f.Path)
		if ok && f.Path != "" && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// locateIn walks down a path as far as the document goes, and returns where it got to and how many steps that were.
func locateIn(file string, root *yaml.Node, path string) (Position, int) {
	at, steps := Position{file, root.Line, root.Column}, 0
	n := resolve(root)
	for _, s := range segments(path) {
		next, mark := child(n, s)
		if next == nil {
			break
		}
		// A scalar is found where it is written, anything larger by the key or the dash that begins it.
		n = resolve(next)
		at = Position{file, mark.Line, mark.Column}
		steps++
	}
	return at, steps
}

// segment is one step of a path: a key of a map, or an element of a list.
type segment struct {
	name    string
	element bool
}

// segments splits vpcs[research].vswitches[web].cidrBlock. A name in brackets may hold dots.
func segments(path string) []segment {
	var out []segment
	for path != "" {
		if path[0] == '[' {
			end := strings.IndexByte(path, ']')
			if end < 0 {
				end = len(path)
				path += "]"
			}
			out = append(out, segment{path[1:end], true})
			path = strings.TrimPrefix(path[end+1:], ".")
			continue
		}
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			end = len(path)
		}
		out = append(out, segment{path[:end], false})
		path = strings.TrimPrefix(path[end:], ".")
	}
	return out
}

// child returns the node that a segment leads to, and the node whose position stands for it.
func child(n *yaml.Node, s segment) (next, mark *yaml.Node) {
	switch {
	case n == nil:
	case !s.element && n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == s.name {
				if n.Content[i+1].Kind == yaml.ScalarNode {
					return n.Content[i+1], n.Content[i+1]
				}
				return n.Content[i+1], n.Content[i]
			}
		}
	case s.element && n.Kind == yaml.SequenceNode:
		for _, e := range n.Content {
			for _, identity := range []string{"name", "mac", "zone"} {
				if _, name := elementName(e, identity); name != "" && name == s.name {
					return e, e
				}
			}
		}
		if i, err := strconv.Atoi(s.name); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
	}
	return nil, nil
}
