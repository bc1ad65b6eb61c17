package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"gatehouse/firewall"
	"gatehouse/firewall/ipset"
	"gatehouse/vpc"
)

// Config says how to choose and use a backend.
type Config struct {
	Backend  string // auto, nft or legacy; "" is auto
	MarkMask uint32 // bits of the packet mark that are ours
	LockFile string // an xtables lock to use where the usual one cannot be opened; "": none
}

// Probe chooses the programs and finds out what this kernel can do by doing it, in chains and sets of its own that are gone
// when it returns. Two processes may probe at the same time.
func Probe(ctx context.Context, cfg Config) (Backend, firewall.Features, error) {
	b, err := discover(ctx, cfg.Backend)
	if err != nil {
		return Backend{}, firewall.Features{}, err
	}
	if f := useLock(b.Mode, cfg.LockFile); f != nil {
		b.Findings = append(b.Findings, *f)
	}
	d, err := New(b)
	if err != nil {
		return Backend{}, firewall.Features{}, err
	}
	sets, err := ipset.New()
	if err != nil {
		return Backend{}, firewall.Features{}, err
	}
	features, err := d.features(ctx, sets, cfg.MarkMask)
	if err != nil {
		return Backend{}, firewall.Features{}, fmt.Errorf("probe %s iptables: %w", b.Mode, err)
	}
	more, err := d.findings(ctx, cfg.MarkMask)
	if err != nil {
		return Backend{}, firewall.Features{}, fmt.Errorf("probe %s iptables: %w", b.Mode, err)
	}
	b.Findings = append(b.Findings, more...)
	return b, features, nil
}

// Find chooses the programs as Probe does, and tries nothing: no rule is written, and no kernel module is loaded for one.
func Find(ctx context.Context, backend string) (Backend, error) { return discover(ctx, backend) }

// features tries everything that the compiler may use. What only one family can do counts as missing, so that both families
// are compiled alike.
func (d *Driver) features(ctx context.Context, sets *ipset.Driver, mask uint32) (firewall.Features, error) {
	pid := os.Getpid()
	fs := firewall.Features{MarkMask: mask, MapMark: true, NFLog: true, Physdev: true, ClampMSS: true, Bare: true}
	var err error
	if fs.IPMAC4, err = sets.Scratch(ctx, ipset.ScratchSet(vpc.IPv4, pid, "bitmap:ip,mac", "range", "192.0.2.0/24"), nil); err != nil {
		return fs, err
	}
	if fs.IPMAC6, err = sets.Scratch(ctx, ipset.ScratchSet(vpc.IPv6, pid, "hash:ip,mac"), nil); err != nil {
		return fs, err
	}
	for _, f := range vpc.Families() {
		// Where not even this is accepted, the other probes tell nothing.
		switch ok, err := d.try(ctx, f, "-j RETURN"); {
		case err != nil:
			return fs, err
		case !ok:
			return fs, fmt.Errorf("the %s table mangle refuses every rule", f)
		}
		if err := d.need(ctx, f, sets, pid); err != nil {
			return fs, err
		}
		marks := ipset.ScratchSet(f, pid, "hash:net", "skbinfo")
		mapped, bare := false, false
		_, err := sets.Scratch(ctx, marks, func() (err error) {
			if mapped, err = d.try(ctx, f, "-j SET --map-set "+marks.Name+" src --map-mark"); err != nil {
				return err
			}
			bare, err = d.readsBack(ctx, f, marks.Name)
			return err
		})
		if err != nil {
			return fs, err
		}
		bridged, err := d.try(ctx, f, "-m physdev --physdev-is-bridged -j RETURN")
		if err != nil {
			return fs, err
		}
		clamped, err := d.try(ctx, f, "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu")
		if err != nil {
			return fs, err
		}
		logged, err := d.try(ctx, f, "-m hashlimit --hashlimit-upto 10/sec --hashlimit-burst 20 --hashlimit-mode srcip,dstip"+
			" --hashlimit-name gh-probe -j NFLOG --nflog-group 77 --nflog-prefix probe")
		if err != nil {
			return fs, err
		}
		fs.MapMark, fs.Physdev, fs.NFLog = fs.MapMark && mapped, fs.Physdev && bridged, fs.NFLog && logged
		fs.ClampMSS, fs.Bare = fs.ClampMSS && clamped, fs.Bare && bare
	}
	// NETMAP belongs to the table nat, and is asked of IPv6 only.
	fs.Netmap, err = d.scratch(ctx, vpc.IPv6, "nat", "-A "+scratchChain()+" -j NETMAP --to 2001:db8::/56\n", func() error { return nil })
	return fs, err
}

// need finds out whether the kernel has what every ruleset needs.
func (d *Driver) need(ctx context.Context, f vpc.Family, sets *ipset.Driver, pid int) error {
	networks := ipset.ScratchSet(f, pid, "hash:net")
	ok, err := sets.Scratch(ctx, networks, func() error {
		for _, need := range []struct{ what, rule string }{
			{"the match set (xt_set)", "-m set --match-set " + networks.Name + " src -j RETURN"},
			{"the match conntrack (xt_conntrack)", "-m conntrack --ctstate ESTABLISHED -j RETURN"},
			{"the match comment (xt_comment)", "-m comment --comment probe -j RETURN"},
		} {
			switch ok, err := d.try(ctx, f, need.rule); {
			case err != nil:
				return err
			case !ok:
				return &MissingError{Family: f, What: need.what}
			}
		}
		return nil
	})
	if err == nil && !ok {
		return &MissingError{Family: f, What: "sets of the type hash:net (ip_set_hash_net)"}
	}
	return err
}

// scratchChain is a chain's name that no other process uses.
func scratchChain() string { return ChainPrefix + "PROBE-" + strconv.Itoa(os.Getpid()) }

// try puts a rule into a scratch chain of mangle and removes both. It reports whether the rule was accepted; a failure that
// has nothing to do with the rule is an error.
func (d *Driver) try(ctx context.Context, f vpc.Family, rule string) (bool, error) {
	return d.scratch(ctx, f, "mangle", "-A "+scratchChain()+" "+rule+"\n", func() error { return nil })
}

// tries is how often a rule must be refused, or be read back as another, until the kernel is taken to lack it: whoever flushes
// tables at the same moment makes iptables fail too.
const tries = 3

// scratch calls use while rules are in the scratch chain of a table. It reports whether they were accepted.
func (d *Driver) scratch(ctx context.Context, f vpc.Family, table, rules string, use func() error) (bool, error) {
	chain := scratchChain()
	// Declaring the chain empties it, and makes it again if somebody has removed it meanwhile.
	declare := "*" + table + "\n:" + chain + " - [0:0]\n"
	accepted, err := d.restoreScratch(ctx, f, declare+rules+"COMMIT\n")
	if !accepted || err != nil {
		return false, err // the transaction is void: the chain does not exist
	}
	err = use()
	removed, failed := d.restoreScratch(context.WithoutCancel(ctx), f, declare+"-X "+chain+"\nCOMMIT\n")
	if failed == nil && !removed {
		failed = fmt.Errorf("the %s chain %s cannot be removed from %s", f, chain, table)
	}
	return true, errors.Join(err, failed)
}

// restoreScratch reports whether a text is accepted; a failure that has nothing to do with it is an error.
func (d *Driver) restoreScratch(ctx context.Context, f vpc.Family, text string) (bool, error) {
	for range tries {
		err := d.Restore(ctx, f, text)
		var refused *RestoreError
		if !errors.As(err, &refused) {
			return err == nil, err
		}
	}
	return false, nil
}

// readsBack reports whether bare rules are printed as they are written; set has skbinfo.
func (d *Driver) readsBack(ctx context.Context, f vpc.Family, set string) (same bool, err error) {
	c := firewall.BareForms(f, scratchChain(), set)
	for range tries {
		accepted, err := d.scratch(ctx, f, "mangle", string(c.AppendLines(nil, f)), func() error {
			found, err := d.ReadChains(ctx, f, "mangle", []string{c.Name})
			same = err == nil && c.HasHashes(f, found[c.Name])
			return err
		})
		if !accepted || same || err != nil {
			return accepted && same, err
		}
	}
	return false, nil
}

// findings looks for other people's rules that go together badly with ours.
func (d *Driver) findings(ctx context.Context, mask uint32) ([]Finding, error) {
	var found []Finding
	for _, f := range vpc.Families() {
		st, err := d.Read(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, table := range slices.Sorted(maps.Keys(st)) {
			for _, m := range st[table].marks {
				if markBits(m)&mask != 0 {
					found = append(found, Finding{
						Code:    "mark-clash",
						Message: fmt.Sprintf("a rule in the %s table %s sets the mark %s, which has bits of firewall.markMask %#x", f, table, m, mask),
						Remedy:  "give gatehouse other bits with firewall.markMask, or the rule a narrower mask",
					})
				}
			}
		}
	}
	if other, ok := d.otherBackend(ctx); ok {
		for _, f := range vpc.Families() {
			st, err := other.Read(ctx, f)
			if err != nil {
				continue // what is not ours to write need not be readable
			}
			if tables := inUse(st); len(tables) > 0 {
				found = append(found, Finding{
					Code: "iptables-both",
					Message: fmt.Sprintf("%s iptables is in use, and there are rules of %s iptables too (%s: %s): every packet meets both",
						d.backend.Mode, other.backend.Mode, f, strings.Join(tables, ", ")),
					Remedy: fmt.Sprintf("move them: iptables-%s-save shows them; `gatehouse teardown` removes what is gatehouse's own in either", other.backend.Mode),
				})
			}
		}
	}
	return found, nil
}

// inUse names the tables that have any rule.
func inUse(st State) []string {
	var tables []string
	for _, name := range slices.Sorted(maps.Keys(st)) {
		if t := st[name]; t.others > 0 || len(t.Hooks) > 0 || len(t.Chains) > 0 {
			tables = append(tables, name)
		}
	}
	return tables
}

// markBits returns the bits that a saved mark ("0x1/0xff", "0x1") may set.
func markBits(m string) uint32 {
	value, _, _ := strings.Cut(m, "/")
	v, err := strconv.ParseUint(value, 0, 32)
	if err != nil {
		return 0
	}
	return uint32(v)
}

// useLock makes the legacy programs use another lock where the common one cannot be opened, as in a service that is not
// root. It returns a finding, because then nothing keeps other users of iptables from writing at the same time.
func useLock(m Mode, file string) *Finding {
	if m != Legacy || file == "" || os.Getenv("XTABLES_LOCKFILE") != "" {
		return nil
	}
	l, err := os.OpenFile(lockFile(), os.O_RDONLY|os.O_CREATE, 0o600)
	if err == nil {
		l.Close()
		return nil
	}
	common := lockFile()
	// The programs take the path from the environment only, and go-iptables hands them ours.
	if err := os.Setenv("XTABLES_LOCKFILE", file); err != nil {
		return nil
	}
	return &Finding{
		Code:    "xtables-lock",
		Message: fmt.Sprintf("%s cannot be opened (%v); gatehouse uses %s, which other programs do not know", common, err, file),
		Remedy:  fmt.Sprintf("let the service open %s, or use the nft backend", common),
	}
}
