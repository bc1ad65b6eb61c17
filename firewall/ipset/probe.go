package ipset

import (
	"context"
	"errors"
	"fmt"

	"gatehouse/firewall"
	"gatehouse/vpc"
)

// Scratch creates the set, calls use and destroys the set again. supported is false when the kernel does not have the set
// type or one of its options; use is then not called. It is how features are probed.
func (d *Driver) Scratch(ctx context.Context, s firewall.Set, use func() error) (supported bool, err error) {
	if !ours(s.Name) {
		return false, fmt.Errorf("probe with set %s: it is not ours", s.Name)
	}
	if err := d.restore(ctx, []string{createLine(s.Name, Canonical(s))}); err != nil {
		var refused *Error
		if errors.As(err, &refused) && !errors.Is(err, ErrPermission) {
			return false, nil
		}
		return false, fmt.Errorf("probe set type %s: %w", s.Type, err)
	}
	defer func() {
		_, gone := d.Delete(context.WithoutCancel(ctx), []string{s.Name})
		err = errors.Join(err, gone)
	}()
	if use == nil {
		return true, nil
	}
	return true, use()
}

// ScratchSet returns a set for Scratch whose name no other process uses.
func ScratchSet(f vpc.Family, pid int, typ string, options ...string) firewall.Set {
	return firewall.Set{Name: fmt.Sprintf("gh%d-probe-%d", f, pid), Type: typ, Family: f, Options: options}
}
