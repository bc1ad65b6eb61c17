package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"gatehouse/vpc"
)

// Teardown removes every chain of ours and every rule that leads to one, in both families and with both kinds of iptables, as
// far as they are installed. Each table is one transaction. Chains that the kernel brings along stay, empty or not.
func (d *Driver) Teardown(ctx context.Context) error {
	errs := []error{d.teardown(ctx)}
	if other, ok := d.otherBackend(ctx); ok {
		errs = append(errs, other.teardown(ctx))
	}
	return errors.Join(errs...)
}

func (d *Driver) teardown(ctx context.Context) error {
	var errs []error
	for _, f := range vpc.Families() {
		st, err := d.Read(ctx, f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, table := range slices.Sorted(maps.Keys(st)) {
			text := removal(st[table])
			if text == "" {
				continue
			}
			if err := d.Restore(ctx, f, "*"+table+"\n"+text+"COMMIT\n"); err != nil {
				errs = append(errs, fmt.Errorf("teardown %s: %w", table, err))
			}
		}
	}
	return errors.Join(errs...)
}

// removal are the lines that remove all of ours from a table: first what leads in, then the contents, then the chains.
func removal(t *Table) string {
	var b strings.Builder
	b.WriteString(deletions(t.Hooks))
	chains := slices.Sorted(maps.Keys(t.Chains))
	for _, c := range chains {
		b.WriteString("-F " + c + "\n")
	}
	for _, c := range chains {
		b.WriteString("-X " + c + "\n")
	}
	return b.String()
}

// otherBackend returns a driver for the kind of iptables that is not in use, if its programs are installed and it has tables
// in the kernel. Merely listing a legacy table would create it, so the kernel's own list is asked first.
func (d *Driver) otherBackend(ctx context.Context) (*Driver, bool) {
	mode := d.backend.Mode.other()
	if mode == Legacy && !legacyTables() {
		return nil, false
	}
	found, err := look(ctx, "-"+string(mode))
	if err != nil || len(notOf(mode, found)) > 0 {
		return nil, false
	}
	other, err := New(backendOf(mode, found))
	return other, err == nil
}

// legacyTables reports whether the kernel has any legacy table in this namespace.
func legacyTables() bool {
	for _, f := range []string{"/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"} {
		if names, err := os.ReadFile(f); err == nil && len(bytes.TrimSpace(names)) > 0 {
			return true
		}
	}
	return false
}

// DeleteChains empties and deletes chains of ours in one transaction. It is refused when a rule still leads to one of them from
// elsewhere.
func (d *Driver) DeleteChains(ctx context.Context, f vpc.Family, table string, chains []string) error {
	t := &Table{Chains: map[string][]string{}}
	for _, c := range chains {
		if !strings.HasPrefix(c, ChainPrefix) {
			return fmt.Errorf("delete %s chain %s: it is not ours", f, c)
		}
		t.Chains[c] = nil
	}
	if len(chains) == 0 {
		return nil
	}
	if err := d.Restore(ctx, f, "*"+table+"\n"+removal(t)+"COMMIT\n"); err != nil {
		return fmt.Errorf("delete %s chains: %w", table, err)
	}
	return nil
}
