package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"gatehouse/vpc"
)

// Mode is one of the two implementations of iptables.
type Mode string

// The two modes, named as the configuration names them.
const (
	NFT    Mode = "nft"
	Legacy Mode = "legacy"
)

func (m Mode) other() Mode {
	if m == NFT {
		return Legacy
	}
	return NFT
}

// Finding is something about this host that an operator should know.
type Finding struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

// Backend is the set of programs that is in use. All of them are of one mode.
type Backend struct {
	Mode     Mode
	Version  string // as in "1.8.9"
	Findings []Finding

	families map[vpc.Family]programs
}

// programs are the paths of what one family is written with.
type programs struct{ tables, save, restore string }

func (p programs) all() []string { return []string{p.tables, p.save, p.restore} }

// programNames returns the names for a family; suffix is "", "-nft" or "-legacy".
func programNames(f vpc.Family, suffix string) programs {
	base := "iptables"
	if f == vpc.IPv6 {
		base = "ip6tables"
	}
	return programs{base + suffix, base + suffix + "-save", base + suffix + "-restore"}
}

// discover finds programs of one mode for both families. want is "auto", "nft" or "legacy"; "" is "auto".
func discover(ctx context.Context, want string) (Backend, error) {
	plain, err := look(ctx, "")
	if err != nil {
		return Backend{}, err
	}
	var mode Mode
	switch want {
	case "auto", "":
		switch first := plain[0]; {
		case first.path != "":
			mode = first.mode
		default:
			mode = NFT
		}
	case string(NFT), string(Legacy):
		mode = Mode(want)
	default:
		return Backend{}, fmt.Errorf("iptables backend %q: not one of auto, nft, legacy", want)
	}
	if odd := notOf(mode, plain); len(odd) == 0 {
		return backendOf(mode, plain), nil
	}
	named, err := look(ctx, "-"+string(mode))
	if err != nil {
		return Backend{}, err
	}
	odd := notOf(mode, plain)
	if missing := notOf(mode, named); len(missing) > 0 {
		return Backend{}, &MixedError{Mode: mode, Programs: append(odd, missing...)}
	}
	b := backendOf(mode, named)
	if want == "auto" || want == "" {
		b.Findings = append(b.Findings, Finding{
			Code:    "iptables-mixed",
			Message: fmt.Sprintf("the host's iptables is %s, but not all of its programs are: %s", mode, strings.Join(odd, ", ")),
			Remedy:  fmt.Sprintf("choose one for all: update-alternatives --set iptables /usr/sbin/iptables-%s, and the same for ip6tables", mode),
		})
	}
	return b, nil
}

// program is one program as it was found.
type program struct {
	name, path string // path is "" when it is missing
	mode       Mode
	version    string
}

func (p program) String() string {
	if p.path == "" {
		return p.name + " is missing"
	}
	return fmt.Sprintf("%s is %s", p.name, p.mode)
}

// look finds the six programs with a suffix and asks each what it is. IPv4 comes first, iptables before its save and restore.
func look(ctx context.Context, suffix string) ([]program, error) {
	var found []program
	for _, f := range vpc.Families() {
		for _, name := range programNames(f, suffix).all() {
			p := program{name: name}
			path, err := exec.LookPath(name)
			switch {
			case errors.Is(err, exec.ErrNotFound):
			case err != nil:
				return nil, fmt.Errorf("find %s: %w", name, err)
			default:
				p.path = path
				out, err := exec.CommandContext(ctx, path, "-V").Output()
				if err != nil {
					return nil, fmt.Errorf("ask %s for its version: %w", name, err)
				}
				p.version, p.mode = parseVersion(string(out))
			}
			found = append(found, p)
		}
	}
	return found, nil
}

// parseVersion reads "iptables v1.8.9 (nf_tables)". Versions before 1.8 name no mode: they are the legacy one.
func parseVersion(out string) (version string, mode Mode) {
	mode = Legacy
	for _, w := range strings.Fields(out) {
		if v, ok := strings.CutPrefix(w, "v"); ok && version == "" && v != "" && v[0] >= '0' && v[0] <= '9' {
			version = v
		}
		if w == "(nf_tables)" {
			mode = NFT
		}
	}
	return version, mode
}

// notOf describes the programs that are missing or of another mode or version than the first.
func notOf(m Mode, ps []program) []string {
	var odd []string
	for _, p := range ps {
		if p.path == "" || p.mode != m {
			odd = append(odd, p.String())
		} else if p.version != ps[0].version {
			odd = append(odd, fmt.Sprintf("%s has version %s, not %s", p.name, p.version, ps[0].version))
		}
	}
	return odd
}

func backendOf(m Mode, ps []program) Backend {
	return Backend{Mode: m, Version: ps[0].version, families: map[vpc.Family]programs{
		vpc.IPv4: {ps[0].path, ps[1].path, ps[2].path},
		vpc.IPv6: {ps[3].path, ps[4].path, ps[5].path},
	}}
}

// MixedError means that no complete set of programs of one mode is installed.
type MixedError struct {
	Mode     Mode
	Programs []string // what is wrong with which
}

func (e *MixedError) Error() string {
	return fmt.Sprintf("no complete iptables of the %s kind: %s", e.Mode, strings.Join(e.Programs, ", "))
}

// Remedy says what an operator can do.
func (e *MixedError) Remedy() string {
	return "install iptables (Debian: apt install iptables), or choose the other kind with firewall.backend"
}

// lockFile is the lock that all users of the legacy backend share.
func lockFile() string {
	if f := os.Getenv("XTABLES_LOCKFILE"); f != "" {
		return f
	}
	return "/run/xtables.lock"
}

// codes returns the codes of the findings, for tests and logs.
func (b Backend) codes() []string {
	var codes []string
	for _, f := range b.Findings {
		codes = append(codes, f.Code)
	}
	slices.Sort(codes)
	return codes
}
