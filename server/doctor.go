package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gatehouse/configs"
	"gatehouse/firewall"
	"gatehouse/firewall/iptables"
	"gatehouse/server/api"
	"gatehouse/server/link"
	"gatehouse/server/survey"
	"gatehouse/store"
	"gatehouse/vpc"
)

// Doctor says what on this host keeps the running daemon from working, with the remedy, and what an operator should know
// though it works.
func (g *Gateway) Doctor(ctx context.Context) ([]api.Finding, error) {
	unasked := lookForRivals(ctx, g.rivals, g.Snapshot())
	st, err := g.Status(ctx) // it names those that were found
	if err != nil {
		return nil, err
	}
	out := hostFindings(g.backend, g.features)
	for _, p := range st.Problems {
		out = append(out, api.Finding{Level: api.LevelProblem, Code: p.Code, Message: p.Message, Remedy: p.Remedy})
	}
	for _, f := range g.links.Findings() {
		if informs(f.Code) {
			out = append(out, api.Finding{Level: api.LevelNote, Code: f.Code, Message: f.Message, Remedy: f.Remedy})
		}
	}
	out = append(out, hostAccessFindings(g.Snapshot())...)
	out = append(out, surveyFindings(os.Getpid(), g.Snapshot())...)
	out = append(out, unasked...)
	differ, err := g.firewall.Verify(ctx)
	switch {
	case err != nil:
		out = append(out, api.Finding{Level: api.LevelProblem, Code: "firewall.verify", Message: err.Error(), Remedy: remedyOf(err)})
	case len(differ) > 0:
		out = append(out, api.Finding{Level: api.LevelProblem, Code: "firewall.verify", Message: "the kernel differs: " + strings.Join(differ, "; "), Remedy: "run 'gatehouse firewall resync'"})
	default:
		out = append(out, api.Finding{Level: api.LevelOK, Code: "firewall.verify", Message: "the kernel carries the compiled rules"})
	}
	return out, nil
}

// DoctorOffline says whether a daemon could start on this host with a configuration.
func DoctorOffline(ctx context.Context, c *configs.Config) []api.Finding {
	problem := func(code string, err error) []api.Finding {
		remedy := startRemedy(err)
		if remedy == "" {
			remedy = remedyOf(err)
		}
		return []api.Finding{{Level: api.LevelProblem, Code: code, Message: err.Error(), Remedy: remedy}}
	}
	var out []api.Finding
	backend, features, err := iptables.Probe(ctx, iptables.Config{Backend: string(c.Firewall.Backend), MarkMask: uint32(c.Firewall.MarkMask)})
	if err != nil {
		out = append(out, problem("firewall", err)...)
	} else {
		out = append(out, hostFindings(backend, features)...)
	}
	if unit := "/var/lib/gatehouse"; c.StateDir != unit && os.Geteuid() == 0 {
		// We may write where the daemon, in its unit, may not.
		out = append(out, api.Finding{Level: api.LevelNote, Code: "state.unit", Message: "stateDir is " + c.StateDir + ": for the daemon that systemd runs all but " + unit + " is read-only",
			Remedy: "make it the daemon's (chown gatehouse: " + c.StateDir + "), and add ReadWritePaths=" + c.StateDir + " to its unit (systemctl edit gatehouse)"})
	}
	log := slog.New(slog.DiscardHandler)
	st, close, err := openToLook(c, log)
	switch {
	case errors.Is(err, store.ErrInUse):
		return append(out, api.Finding{Level: api.LevelProblem, Code: "daemon", Message: err.Error(), Remedy: "ask that daemon: name its socket with --socket"})
	case err != nil:
		return append(out, problem("state", err)...)
	}
	defer close()
	spec, revision := st.State()
	says := fmt.Sprintf("%s holds revision %d", c.StateFile(), revision)
	if _, err := os.Stat(c.StateFile()); errors.Is(err, fs.ErrNotExist) {
		says = c.StateFile() + " is made when the daemon starts for the first time"
	}
	out = append(out, api.Finding{Level: api.LevelOK, Code: "state", Message: says})
	links, err := link.New(ctx, link.Options{Logger: log, Journal: readOnly{journal{st}}})
	if err != nil {
		return append(out, problem("links", err)...)
	}
	defer links.Close()
	s := vpc.NewSnapshot(spec, c.Host(), revision)
	found, err := links.Check(ctx, s)
	if err != nil {
		out = append(out, problem("links", err)...)
	}
	for _, f := range found {
		if f.Code == link.FindingMissing { // the others are of what a daemon has set up
			out = append(out, api.Finding{Level: api.LevelProblem, Code: f.Code, Message: f.Message, Remedy: f.Remedy})
		}
	}
	out = append(out, surveyFindings(0, s)...)
	rivals := newRivals(time.Now)
	out = append(out, lookForRivals(ctx, rivals, s)...)
	out = append(out, asFindings(rivals.findings())...)
	for _, p := range uplinkProblems(c.Uplinks) {
		out = append(out, api.Finding{Level: api.LevelProblem, Code: p.Code, Message: p.Message, Remedy: p.Remedy})
	}
	return out
}

// openToLook opens the state of a daemon that does not run. Where there is none yet it tries with another in its place, of
// which close leaves nothing: one that root had made would not be the daemon's.
func openToLook(c *configs.Config, log *slog.Logger) (st *store.Store, close func(), err error) {
	trial, clean := *c, func() {}
	if _, err := os.Stat(c.StateFile()); errors.Is(err, fs.ErrNotExist) {
		parent := c.StateDir
		for errors.Is(err, fs.ErrNotExist) && parent != filepath.Dir(parent) {
			if _, err = os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
				parent = filepath.Dir(parent)
			}
		}
		if trial.StateDir, err = os.MkdirTemp(parent, ".doctor-"); err != nil {
			return nil, nil, fmt.Errorf("state directory: %w", err)
		}
		clean = func() { _ = os.RemoveAll(trial.StateDir) } // nothing depends on it
	}
	if st, err = openStore(&trial, log); err != nil {
		clean()
		return nil, nil, err
	}
	return st, func() { _ = st.Close(); clean() }, nil // it was only read
}

// hostAccessFindings names services that are offered to nobody.
func hostAccessFindings(s *vpc.Snapshot) []api.Finding {
	var out []api.Finding
	for _, a := range s.Host.HostAccess {
		if !slices.ContainsFunc(s.VSwitches, a.Offered) && (a.VPC != "" || a.VSwitch != "") {
			out = append(out, api.Finding{
				Level: api.LevelNote, Code: "host-access",
				Message: "hostAccess offers a service to " + strings.TrimSuffix(a.VPC+"/"+a.VSwitch, "/") + ", which is no VPC or vSwitch here",
				Remedy:  "correct the name behind the @ in the configuration, or leave it until that is declared",
			})
		}
	}
	return out
}

// surveyFindings says what else on this host concerns the gateway, whose process is self (0: none).
func surveyFindings(self int, s *vpc.Snapshot) []api.Finding {
	gw := survey.GatewayOf(s)
	gw.Self = self
	return asFindings(survey.Look("/", gw))
}

// lookForRivals asks for other DHCP servers, and returns what could not be asked.
func lookForRivals(ctx context.Context, r *rivals, s *vpc.Snapshot) []api.Finding {
	var out []survey.Finding
	for _, err := range r.look(ctx, sharedLinks(s)) {
		out = append(out, survey.Finding{Code: survey.FindingLooking, Message: err.Error()})
	}
	return asFindings(out)
}

func asFindings(found []survey.Finding) []api.Finding {
	out := make([]api.Finding, len(found))
	for i, f := range found {
		out[i] = api.Finding{Level: api.LevelNote, Code: f.Code, Message: f.Message, Remedy: f.Remedy}
		if f.Problem {
			out[i].Level = api.LevelProblem
		}
	}
	return out
}

// readOnly is a journal that forgets: looking must not change what a daemon has to put back.
type readOnly struct{ journal }

func (readOnly) Save(context.Context, []byte) error { return nil }

// hostFindings says what the firewall is written with, and which of its faster ways this kernel lacks.
func hostFindings(b iptables.Backend, f firewall.Features) []api.Finding {
	out := []api.Finding{{Level: api.LevelOK, Code: "firewall.backend", Message: fmt.Sprintf("iptables %s, backend %s", b.Version, b.Mode)}}
	for _, x := range []struct {
		has            bool
		code, yes, not string
	}{
		{f.MapMark, "firewall.mapmark", "addresses are mapped to policy profiles by a set", "no SET --map-mark or skbinfo: a tree of addresses does it"},
		{f.IPMAC4, "firewall.ipmac4", "IPv4 addresses and MACs are tied by bitmap:ip,mac", "no bitmap:ip,mac: a tree of addresses with MAC matches ties IPv4 addresses and MACs"},
		{f.IPMAC6, "firewall.ipmac6", "IPv6 addresses and MACs are tied by hash:ip,mac", "no hash:ip,mac: a tree of addresses with MAC matches ties IPv6 addresses and MACs"},
		{f.NFLog, "firewall.nflog", "refused packets are logged by NFLOG under hashlimit", "no NFLOG or hashlimit: refused packets are counted, not logged"},
		{f.ClampMSS, "firewall.clampmss", "TCP connections to the outside begin with segments that fit the uplink", "no TCPMSS: where an uplink's MTU is smaller than the guests', they need dhcpOptions.mtu"},
		{f.Netmap, "firewall.netmap", "ipv6PrefixTranslations are carried out by NETMAP", "no NETMAP in the IPv6 table nat: ipv6PrefixTranslations are refused"},
		{f.Physdev, "firewall.physdev", "what a port that nobody isolated bridges is dropped", "no physdev match: a port that is plugged in while the daemon is down is not stopped from bridging"},
	} {
		if x.has {
			out = append(out, api.Finding{Level: api.LevelOK, Code: x.code, Message: x.yes})
		} else {
			out = append(out, api.Finding{Level: api.LevelNote, Code: x.code, Message: x.not})
		}
	}
	for _, n := range b.Findings {
		out = append(out, api.Finding{Level: api.LevelNote, Code: n.Code, Message: n.Message, Remedy: n.Remedy})
	}
	return out
}

// Restore puts a backup in place of the state while no daemon runs. The backup is read from end to end first, and its
// network must be one that this version would accept; the old state is kept beside the new one.
func Restore(c *configs.Config, backup string) error {
	contents, err := store.Check(backup)
	if err != nil {
		return err
	}
	if problems := vpc.Validate(contents.Spec, c.Host()); len(problems) > 0 {
		return fmt.Errorf("the backup holds a network that is refused: %w", problems)
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return store.Replace(c.StateFile(), backup)
}
