package iptables

import (
	"context"
	"fmt"
	"strings"

	"gatehouse/firewall"
	"gatehouse/vpc"
)

// hookSpec is a hook as we insert it: every packet of the host meets it, so it has no comment, which would be one more thing to
// match.
func hookSpec(target string) []string { return []string{"-j", target} }

// Hook makes each kernel chain of a table jump to our chain, exactly once and first. have is what Read found there. A hook that
// somebody pushed down or doubled is moved in one transaction, so that no packet goes round it.
func (d *Driver) Hook(ctx context.Context, f vpc.Family, table string, want []firewall.Hook, have []Hook) error {
	for _, w := range want {
		if err := ctx.Err(); err != nil {
			return err
		}
		there := (&Table{Hooks: have})
		if there.Hooked(w.Chain, w.Target) {
			continue
		}
		var old []Hook
		for _, h := range have {
			if h.Chain == w.Chain && h.Target == w.Target {
				old = append(old, h)
			}
		}
		if len(old) == 0 {
			d.countLock()
			if err := d.ipt[f].Insert(table, w.Chain, 1, hookSpec(w.Target)...); err != nil {
				return fmt.Errorf("hook %s %s %s: %w", f, table, w.Chain, d.wrap(err))
			}
			continue
		}
		text := deletions(old) + "-I " + w.Chain + " 1 " + strings.Join(hookSpec(w.Target), " ") + "\n"
		if err := d.Restore(ctx, f, "*"+table+"\n"+text+"COMMIT\n"); err != nil {
			return fmt.Errorf("move hook %s %s %s to the front: %w", f, table, w.Chain, err)
		}
	}
	return nil
}

// Unhook removes hooks that Read found. One that is gone already is an error: then the table has changed since.
func (d *Driver) Unhook(ctx context.Context, f vpc.Family, table string, hooks []Hook) error {
	if len(hooks) == 0 {
		return nil
	}
	if err := d.Restore(ctx, f, "*"+table+"\n"+deletions(hooks)+"COMMIT\n"); err != nil {
		return fmt.Errorf("unhook %s %s: %w", f, table, err)
	}
	return nil
}

// deletions are the lines of iptables-restore that delete rules by their saved text.
func deletions(hooks []Hook) string {
	var b strings.Builder
	for _, h := range hooks {
		b.WriteString("-D " + h.rule + "\n")
	}
	return b.String()
}
