package vpc

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with a Spec, named by where it stands: vpcs[research].vswitches[web].cidrBlock.
type Problem struct {
	Path    string `json:"path"`
	Message string `json:"message"`
}

func (p Problem) String() string {
	if p.Path == "" {
		return p.Message
	}
	return p.Path + ": " + p.Message
}

// Problems collects everything that is wrong, in the order of the Spec. As an error it has one line per problem.
type Problems []Problem

// Add appends a problem.
func (ps *Problems) Add(path, format string, args ...any) {
	*ps = append(*ps, Problem{path, fmt.Sprintf(format, args...)})
}

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Err returns nil when there is no problem.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}
