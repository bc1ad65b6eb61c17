package configs

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"gatehouse/vpc"
)

// EncodeManifest writes a Spec as a manifest. What its reader would fill in anyway is left out, and so are IDs, which
// belong to one store; everything else comes in the order of the Spec and of its fields, so that equal Specs give equal
// bytes. ParseManifest reads back the same Spec, without the IDs.
func EncodeManifest(spec *vpc.Spec) ([]byte, error) {
	root := &yaml.Node{Kind: yaml.MappingNode}
	if err := encodeStruct(root, reflect.ValueOf(spec).Elem()); err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	if len(root.Content) == 0 {
		return []byte("vpcs: []\n"), nil
	}
	return yaml.Dump(root, yaml.WithV4Defaults(), yaml.WithLineWidth(-1))
}

// shown are the keys that are written even where they have their default: what a reader of a rule looks for.
var shown = []string{"direction", "policy", "protocol", "type", "name", "expect", "value"}

// oneLine are the types that read best on a line of their own.
var oneLine = []reflect.Type{
	reflect.TypeFor[vpc.RuleSpec](), reflect.TypeFor[vpc.EntrySpec](), reflect.TypeFor[vpc.RecordSpec](),
	reflect.TypeFor[vpc.TestSpec](), reflect.TypeFor[vpc.ForwarderSpec](), reflect.TypeFor[vpc.AttachSpec](),
	reflect.TypeFor[vpc.RouteSpec](), reflect.TypeFor[vpc.BootSpec](), reflect.TypeFor[vpc.PrivateDNSSpec](),
}

func encodeStruct(n *yaml.Node, v reflect.Value) error {
	if slices.Contains(oneLine, v.Type()) {
		n.Style = yaml.FlowStyle
	}
	defaults := reflect.New(v.Type())
	if d, ok := defaults.Interface().(defaulter); ok {
		d.SetDefaults()
	}
	for i := range v.NumField() {
		name := jsonName(v.Type().Field(i))
		if name == "" || name == "id" {
			continue
		}
		if !slices.Contains(shown, name) && reflect.DeepEqual(v.Field(i).Interface(), defaults.Elem().Field(i).Interface()) {
			continue
		}
		val, err := encodeValue(v.Field(i))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}, val)
	}
	return nil
}

func encodeValue(v reflect.Value) (*yaml.Node, error) {
	if v.Kind() == reflect.Pointer {
		return encodeValue(v.Elem())
	}
	if ports, ok := v.Interface().(vpc.Ports); ok && len(ports) != 1 {
		return encodeValue(reflect.ValueOf([]vpc.PortRange(ports)))
	}
	if t, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := t.MarshalText()
		if err != nil {
			return nil, err
		}
		n := scalar(string(text))
		if _, err := strconv.ParseUint(n.Value, 10, 16); err == nil {
			n.Tag = "!!int" // a port or a protocol's number: no quotes
		}
		return n, nil
	}
	switch v.Kind() {
	case reflect.String:
		return scalar(v.String()), nil
	case reflect.Bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v.Bool())}, nil
	case reflect.Int:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatInt(v.Int(), 10)}, nil
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			e, err := encodeValue(v.Index(i))
			if err != nil {
				return nil, fmt.Errorf("[%d]: %w", i, err)
			}
			n.Content = append(n.Content, e)
		}
		// Lists of scalars stand on one line unless they are long or hold several lines.
		const few = 8
		if len(n.Content) <= few && !slices.ContainsFunc(n.Content, func(e *yaml.Node) bool {
			return e.Kind != yaml.ScalarNode || len(e.Value) > 60 || strings.Contains(e.Value, "\n")
		}) {
			n.Style = yaml.FlowStyle
		}
		return n, nil
	case reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		return n, encodeStruct(n, v)
	}
	return nil, fmt.Errorf("a %s cannot be written in a manifest", v.Type())
}

func scalar(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if strings.Contains(s, "\n") {
		n.Style = yaml.LiteralStyle
	}
	return n
}
