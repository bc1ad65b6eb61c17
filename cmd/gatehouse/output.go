package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"
	"text/tabwriter"

	"go.yaml.in/yaml/v4"
)

// printJSON prints a value for programs.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printYAML prints a value, as JSON shapes it, in YAML.
func (a *app) printYAML(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var plain any
	if err := json.Unmarshal(text, &plain); err != nil {
		return err
	}
	out, err := yaml.Marshal(plain)
	if err != nil {
		return err
	}
	_, err = a.stdout.Write(out)
	return err
}

// printTable prints rows in columns, each line behind indent; an empty cell shows as "-".
func printTable(w io.Writer, indent string, header []string, rows [][]string) error {
	var buf bytes.Buffer
	tw := tabwriter.NewWriter(&buf, 0, 0, 2, ' ', 0)
	if len(header) > 0 {
		fmt.Fprintln(tw, strings.Join(header, "\t"))
	}
	for _, r := range rows {
		cells := make([]string, len(r))
		for i, c := range r {
			if c == "" {
				c = "-"
			}
			cells[i] = c
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(buf.String()) {
		if _, err := fmt.Fprintln(w, indent+strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// column is one column of a kind's table: a title and the path of the field in the JSON form.
type column struct {
	title string
	path  string
	wide  bool
}

// cell prints the field at a dotted path; lists are joined by commas, and a path goes through every element of a list.
func cell(v any, path string) string {
	if path == "" {
		switch t := v.(type) {
		case nil:
			return ""
		case []any:
			parts := make([]string, 0, len(t))
			for _, e := range t {
				if s := cell(e, ""); s != "" {
					parts = append(parts, s)
				}
			}
			return strings.Join(parts, ",")
		case map[string]any:
			keys := make([]string, 0, len(t))
			for k := range t {
				keys = append(keys, k)
			}
			sort.Strings(keys)
			parts := make([]string, 0, len(keys))
			for _, k := range keys {
				parts = append(parts, k+"="+cell(t[k], ""))
			}
			return strings.Join(parts, ",")
		case float64:
			return fmt.Sprintf("%.0f", t)
		default:
			return fmt.Sprint(t)
		}
	}
	key, rest, _ := strings.Cut(path, ".")
	switch t := v.(type) {
	case map[string]any:
		if key == "#" {
			return cell(float64(len(t)), rest)
		}
		return cell(t[key], rest)
	case []any:
		if key == "#" {
			return fmt.Sprint(len(t))
		}
		parts := make([]string, 0, len(t))
		for _, e := range t {
			if s := cell(e, path); s != "" {
				parts = append(parts, s)
			}
		}
		return strings.Join(parts, ",")
	}
	if key == "#" {
		return "0"
	}
	return ""
}
