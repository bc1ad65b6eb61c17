package configs

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"gatehouse/vpc"
)

// Bounds on what a file may ask of the decoder. The deepest field of a manifest is at depth 9; a gateway's ten thousand
// instances are about a million nodes.
const (
	maxDepth    = 32
	maxNodes    = 8 << 20 // nodes visited, aliases followed
	maxAliased  = 1 << 18 // nodes visited by way of aliases
	maxManifest = 64 << 20
	maxConfig   = 1 << 20
)

// depthLimit is go-yaml's check on nesting while it parses; aliases are bounded by the decoder, which follows them.
type depthLimit struct{}

func (depthLimit) CheckDepth(depth int, _ *yaml.DepthContext) error {
	if depth > maxDepth {
		return fmt.Errorf("nested more than %d deep", maxDepth)
	}
	return nil
}

func (depthLimit) CheckAlias(int, int) error { return nil }

// parse returns the root node of every document in the file that has one.
func parse(file string, data []byte, limit int) ([]*yaml.Node, error) {
	if len(data) > limit {
		return nil, &Error{[]Finding{{File: file, Message: fmt.Sprintf("the file has %d bytes; at most %d are read", len(data), limit)}}}
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithPlugin(depthLimit{}))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var roots []*yaml.Node
	for {
		var doc yaml.Node
		err := loader.Load(&doc)
		if errors.Is(err, io.EOF) {
			return roots, nil
		}
		if err != nil {
			return nil, &Error{[]Finding{syntaxFinding(file, err)}}
		}
		for _, n := range doc.Content {
			if !isNull(n) {
				roots = append(roots, n)
			}
		}
	}
}

// syntaxFinding words what go-yaml says about a file that is not YAML. After such an error nothing else can be read.
func syntaxFinding(file string, err error) Finding {
	f := Finding{File: file, Message: "not YAML: " + err.Error()}
	var le *yaml.LoadError
	if !errors.As(err, &le) {
		return f
	}
	f.Line, f.Column = le.Mark.Line, le.Mark.Column
	f.Message = "not YAML: " + le.Message
	if le.ContextMsg != "" {
		f.Message += " " + le.ContextMsg
		if le.ContextMark.Line != 0 && le.ContextMark.Line != le.Mark.Line {
			f.Message += fmt.Sprintf(", which begins in line %d", le.ContextMark.Line)
		}
	}
	if strings.Contains(le.Message, "cannot start any token") && le.ContextMsg != "" {
		f.Message += " (a tab? indent with spaces; a value that begins with @ ` or % needs quotes)"
	}
	return f
}

// decoder fills typed values from a tree of nodes and collects everything that is wrong on the way.
type decoder struct {
	file     string
	findings []Finding
	readOnly string // a key that is shown but never written; "": none
	nodes    int
	aliased  int
	aliases  int // how many aliases the current node was reached through
	stopped  bool
}

func (d *decoder) add(n *yaml.Node, path, format string, args ...any) {
	d.findings = append(d.findings, Finding{d.file, n.Line, n.Column, path, fmt.Sprintf(format, args...)})
}

// enter counts a node, and stops everything when a file unfolds to more than any network needs.
func (d *decoder) enter(n *yaml.Node, depth int) bool {
	d.nodes++
	if d.aliases > 0 {
		d.aliased++
	}
	if d.stopped {
		return false
	}
	if d.nodes > maxNodes || d.aliased > maxAliased || depth > maxDepth {
		d.stopped = true
		d.add(n, "", "the file unfolds to too much here (aliases within aliases?): write it out plainly")
		return false
	}
	return true
}

// defaulter is a type that knows what its omitted fields mean.
type defaulter interface{ SetDefaults() }

// value decodes a node into v, which is addressable.
func (d *decoder) value(n *yaml.Node, path string, v reflect.Value, depth int) {
	if !d.enter(n, depth) {
		return
	}
	if n.Kind == yaml.AliasNode {
		d.aliases++
		d.value(n.Alias, path, v, depth+1)
		d.aliases--
		return
	}
	if v.Kind() == reflect.Pointer {
		p := reflect.New(v.Type().Elem())
		d.value(n, path, p.Elem(), depth)
		v.Set(p)
		return
	}
	if isNull(n) {
		d.add(n, path, "needs %s: nothing is written here", wanted(v.Type()))
		return
	}
	if isCustomTag(n) {
		d.add(n, path, "has the tag %s, which means nothing here: leave it out", n.Tag)
		return
	}
	switch p := v.Addr().Interface().(type) {
	case *vpc.Ports:
		d.ports(n, path, p, depth)
		return
	case *netip.Prefix:
		d.text(n, path, v, func(s string) (err error) { *p, err = vpc.ParsePrefix(s); return err })
		return
	case *netip.Addr:
		d.text(n, path, v, func(s string) (err error) { *p, err = parseAddr(s); return err })
		return
	case encoding.TextUnmarshaler:
		d.text(n, path, v, func(s string) error { return p.UnmarshalText([]byte(s)) })
		return
	}
	switch v.Kind() {
	case reflect.String:
		d.text(n, path, v, func(s string) error { v.SetString(s); return nil })
	case reflect.Bool:
		d.bool(n, path, v)
	case reflect.Int:
		d.int(n, path, v)
	case reflect.Slice:
		d.slice(n, path, v, depth)
	case reflect.Struct:
		d.structure(n, path, v, depth)
	default:
		d.add(n, path, "cannot be written in a file")
	}
}

func (d *decoder) text(n *yaml.Node, path string, v reflect.Value, set func(string) error) {
	if n.Kind != yaml.ScalarNode {
		d.add(n, path, "needs %s, not %s", wanted(v.Type()), describe(n))
		return
	}
	if err := set(n.Value); err != nil {
		d.add(n, path, "%v", err)
	}
}

func (d *decoder) bool(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind == yaml.ScalarNode && isPlain(n) {
		switch strings.ToLower(n.Value) {
		case "true", "yes", "on":
			v.SetBool(true)
			return
		case "false", "no", "off":
			v.SetBool(false)
			return
		}
	}
	d.add(n, path, "needs true or false, not %s", describe(n))
}

// int reads decimal and, for masks, hexadecimal. A leading zero is refused: it is octal to some and decimal to others.
func (d *decoder) int(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode || !isPlain(n) {
		d.add(n, path, "needs a whole number, not %s", describe(n))
		return
	}
	digits, base := strings.TrimPrefix(n.Value, "-"), 10
	if hex, ok := strings.CutPrefix(digits, "0x"); ok {
		digits, base = hex, 16
	} else if len(digits) > 1 && digits[0] == '0' {
		d.add(n, path, "%s has a leading zero: write it without", n.Value)
		return
	}
	u, err := strconv.ParseUint(digits, base, 63)
	switch {
	case errors.Is(err, strconv.ErrRange):
		d.add(n, path, "%s is out of range", n.Value)
	case err != nil:
		d.add(n, path, "needs a whole number, not %s", describe(n))
	case n.Value[0] == '-':
		v.SetInt(-int64(u))
	default:
		v.SetInt(int64(u))
	}
}

// ports reads "443", "22-23", "80,443" or a list of such.
func (d *decoder) ports(n *yaml.Node, path string, p *vpc.Ports, depth int) {
	if n.Kind != yaml.SequenceNode {
		d.text(n, path, reflect.ValueOf(p).Elem(), func(s string) error { return p.UnmarshalText([]byte(s)) })
		return
	}
	var ranges []vpc.PortRange
	d.slice(n, path, reflect.ValueOf(&ranges).Elem(), depth)
	if len(n.Content) == 0 {
		d.add(n, path, "an empty list of ports matches nothing: leave the key out for all ports")
	}
	*p = ranges
}

// slice keeps "written, but empty" (not nil) apart from "not written" (nil).
func (d *decoder) slice(n *yaml.Node, path string, v reflect.Value, depth int) {
	if n.Kind != yaml.SequenceNode {
		hint := ""
		if n.Kind == yaml.ScalarNode {
			hint = fmt.Sprintf(": write [%s]", n.Value)
		}
		d.add(n, path, "needs a list, not %s%s", describe(n), hint)
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, len(n.Content))
	seen := map[string]*yaml.Node{}
	identity := identityKey(v.Type().Elem())
	for i, e := range n.Content {
		key, name := elementName(e, identity)
		elem := fmt.Sprintf("%s[%d]", path, i)
		if name != "" {
			elem = fmt.Sprintf("%s[%s]", path, name)
			if first := seen[name]; first != nil {
				d.add(key, elem, "%s %s is already in line %d: each may be there once", identity, name, first.Line)
				continue
			}
			seen[name] = key
		}
		one := reflect.New(v.Type().Elem()).Elem()
		d.value(e, elem, one, depth+1)
		out = reflect.Append(out, one)
		if d.stopped {
			return
		}
	}
	v.Set(out)
}

func (d *decoder) structure(n *yaml.Node, path string, v reflect.Value, depth int) {
	if def, ok := v.Addr().Interface().(defaulter); ok {
		def.SetDefaults()
	}
	if n.Kind != yaml.MappingNode {
		d.add(n, path, "needs a map, not %s (with the keys %s)", describe(n), strings.Join(fieldNames(v.Type()), ", "))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			d.add(k, path, "a key must be a word, not %s", describe(k))
			continue
		}
		at := join(path, k.Value)
		if line, dup := seen[k.Value]; dup {
			d.add(k, at, "is already written in line %d: remove one of them", line)
			continue
		}
		seen[k.Value] = k.Line
		if k.Tag == "!!merge" {
			d.add(k, path, "merge keys (<<) are not supported: write the fields out")
			continue
		}
		if k.Value == d.readOnly && d.readOnly != "" {
			d.add(k, at, "is chosen by gatehouse and only shown: leave it out")
			continue
		}
		f := fieldByName(v, k.Value)
		if !f.IsValid() {
			d.add(k, at, "unknown key%s", suggest(k.Value, fieldNames(v.Type())))
			continue
		}
		d.value(val, at, f, depth+1)
	}
}

// join appends a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// jsonName returns the key of a struct field, "" if it has none.
func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "-" {
		return ""
	}
	return name
}

func fieldByName(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if name != "" && jsonName(v.Type().Field(i)) == name {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		if name := jsonName(t.Field(i)); name != "" && name != "id" {
			names = append(names, name)
		}
	}
	return names
}

// identityKey returns the key by which the elements of a list are told apart: name, mac or zone; "" for lists whose
// elements have no identity (rules, entries, records: several records share a name).
func identityKey(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[vpc.RecordSpec]() {
		return ""
	}
	for _, key := range []string{"name", "mac", "zone"} {
		if slices.Contains(fieldNames(t), key) {
			return key
		}
	}
	return ""
}

// elementName returns what an element of a list is called in paths, and the node that says so.
func elementName(n *yaml.Node, identity string) (*yaml.Node, string) {
	n = resolve(n)
	if identity == "" || n == nil || n.Kind != yaml.MappingNode {
		return n, ""
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		v := resolve(n.Content[i+1])
		if n.Content[i].Value != identity || v == nil || v.Kind != yaml.ScalarNode || isNull(v) {
			continue
		}
		if m, err := vpc.ParseMAC(v.Value); identity == "mac" && err == nil {
			return v, m.String()
		}
		return v, v.Value
	}
	return n, ""
}

// resolve follows aliases; nil if they lead nowhere.
func resolve(n *yaml.Node) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.AliasNode; i++ {
		if i > maxDepth {
			return nil
		}
		n = n.Alias
	}
	return n
}

func isPlain(n *yaml.Node) bool {
	return n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// isCustomTag reports a tag that is not one of YAML's own.
func isCustomTag(n *yaml.Node) bool {
	return n.Style&yaml.TaggedStyle != 0 && !strings.HasPrefix(n.Tag, "!!")
}

// describe says what a node is, for "needs a list, not …".
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a map"
	case yaml.AliasNode:
		return "an alias"
	}
	text := n.Value
	if r := []rune(text); len(r) > 60 {
		text = string(r[:60]) + "…"
	}
	if isPlain(n) {
		return strconv.Quote(text)
	}
	return "the text " + strconv.Quote(text)
}

// wanted says what a type is written as.
func wanted(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[netip.Prefix]():
		return "a CIDR (as in 10.20.0.0/16 or fd00:20::/56)"
	case reflect.TypeFor[netip.Addr]():
		return "an IP address"
	case reflect.TypeFor[vpc.Ports]():
		return "ports (443, 22-23 or [80, 443])"
	case reflect.TypeFor[vpc.MAC]():
		return "a MAC address (as in 00:16:3e:00:00:01)"
	case reflect.TypeFor[vpc.Duration]():
		return "a duration (as in 90s, 24h or 30d)"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Slice:
		if !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
			return "a list ([] is the empty one)"
		}
	case reflect.Struct:
		if !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
			return "a map"
		}
	}
	return "a value"
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil && strings.Contains(s, "/"):
		return netip.Addr{}, fmt.Errorf("%q is a range: write one address, without the slash", s)
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	case a.Zone() != "" && !a.IsLinkLocalUnicast():
		return netip.Addr{}, fmt.Errorf("%q names a link after the %%: write the address alone", s)
	case a.Is4In6():
		return netip.Addr{}, fmt.Errorf("%s is an IPv4 address in IPv6 form: write %s", s, a.Unmap())
	}
	return a, nil
}

// suggest returns "; did you mean …?" for a key that is nearly right, else the keys that there are.
func suggest(key string, known []string) string {
	if s := suggestion(key, known); s != "" {
		return s
	}
	return fmt.Sprintf(" (known here: %s)", strings.Join(known, ", "))
}

// suggestion returns "; did you mean …?" for a word that is nearly one of those known, else nothing.
func suggestion(word string, known []string) string {
	best, distance := "", len(word)/3+1
	for _, k := range known {
		if n := editDistance(strings.ToLower(word), strings.ToLower(k)); n <= distance {
			best, distance = k, n-1
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// editDistance is the number of letters to insert, delete, replace or swap with their neighbour to get from a to b.
func editDistance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(prev[j+1]+1, row[j]+1, prev[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}
