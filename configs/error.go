package configs

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Position is a place in a file.
type Position struct {
	File   string
	Line   int // from 1; 0: unknown
	Column int // in characters, from 1; 0: unknown
}

func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// Finding is one thing that is wrong with a file.
type Finding struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Path    string `json:"path,omitempty"` // vpcs[research].vswitches[web].cidrBlock; empty: the file as a whole
	Message string `json:"message"`
}

func (f Finding) String() string {
	s := Position{f.File, f.Line, f.Column}.String() + ": "
	if f.Path != "" {
		s += f.Path + ": "
	}
	return s + f.Message
}

// Error is everything that is wrong with one or more files, in the order of the files. Its text has one line per finding.
type Error struct {
	Findings []Finding
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Findings))
	for i, f := range e.Findings {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// errorOf returns the findings as an error, in the order of their lines within each file; nil if there are none.
func errorOf(findings []Finding) error {
	if len(findings) == 0 {
		return nil
	}
	order := map[string]int{}
	for _, f := range findings {
		if _, ok := order[f.File]; !ok {
			order[f.File] = len(order)
		}
	}
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(order[a.File], order[b.File]), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return &Error{Findings: findings}
}
