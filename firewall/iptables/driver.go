package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"

	"gatehouse/vpc"
)

// lockWait is how long we wait for the xtables lock, and how long a call may therefore hang.
const lockWait = 10 * time.Second

// Tables are the tables that we write, in the order in which a packet meets them.
func Tables() []string { return []string{"raw", "mangle", "filter", "nat"} }

// Driver reads and writes in the network namespace of the calling thread. Its methods may be used from several goroutines;
// the two families may be written at the same time.
type Driver struct {
	backend   Backend
	ipt       map[vpc.Family]*goiptables.IPTables
	lockWaits atomic.Uint64
}

// New returns a driver for a backend that Probe found.
func New(b Backend) (*Driver, error) {
	d := &Driver{backend: b, ipt: map[vpc.Family]*goiptables.IPTables{}}
	for _, f := range vpc.Families() {
		proto := goiptables.ProtocolIPv4
		if f == vpc.IPv6 {
			proto = goiptables.ProtocolIPv6
		}
		ipt, err := goiptables.New(goiptables.IPFamily(proto), goiptables.Path(b.families[f].tables), goiptables.Timeout(int(lockWait.Seconds())))
		if err != nil {
			return nil, fmt.Errorf("use %s: %w", b.families[f].tables, err)
		}
		d.ipt[f] = ipt
	}
	return d, nil
}

// LockWaits returns how often somebody else held the xtables lock when we wanted to write.
func (d *Driver) LockWaits() uint64 { return d.lockWaits.Load() }

// Read returns everything of ours in a family.
func (d *Driver) Read(ctx context.Context, f vpc.Family) (State, error) {
	out, err := d.save(ctx, f)
	if err != nil {
		return nil, err
	}
	st, err := readState(bytes.NewReader(out))
	if err != nil {
		return nil, fmt.Errorf("read %s rules: %w", f, err)
	}
	return st, nil
}

// listAtMost is the number of chains up to which listing them one by one is cheaper than saving everything.
const listAtMost = 16

// ReadChains returns the hashes of the rules of some chains of ours; a chain that does not exist is left out.
func (d *Driver) ReadChains(ctx context.Context, f vpc.Family, table string, chains []string) (map[string][]string, error) {
	found := make(map[string][]string, len(chains))
	if len(chains) > listAtMost {
		st, err := d.Read(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, c := range chains {
			if t := st[table]; t != nil && t.Chains[c] != nil {
				found[c] = t.Chains[c]
			}
		}
		return found, nil
	}
	for _, c := range chains {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		lines, err := d.ipt[f].List(table, c)
		if notExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s chain %s: %w", f, c, d.wrap(err))
		}
		found[c] = []string{}
		for _, l := range lines {
			s, ok, err := parseLine(l)
			if err != nil {
				return nil, fmt.Errorf("list %s chain %s: %w", f, c, err)
			}
			if ok && s.words != nil {
				hash, _ := s.identity()
				found[c] = append(found[c], hash)
			}
		}
	}
	return found, nil
}

// Counters returns what our rules of a family have counted.
func (d *Driver) Counters(ctx context.Context, f vpc.Family) ([]Counter, error) {
	out, err := d.save(ctx, f, "-c")
	if err != nil {
		return nil, err
	}
	counters, err := readCounters(bytes.NewReader(out))
	if err != nil {
		return nil, fmt.Errorf("read %s counters: %w", f, err)
	}
	return counters, nil
}

// Restore applies text, in the format of iptables-restore, without flushing what it does not name. Every table in it is a
// transaction of its own: when a later one is refused, the earlier ones stand. The text must end each table with COMMIT.
func (d *Driver) Restore(ctx context.Context, f vpc.Family, text string) error {
	d.countLock()
	_, stderr, err := run(ctx, text, d.backend.families[f].restore, "-w", strconv.Itoa(int(lockWait.Seconds())), "--noflush")
	if err == nil || ctx.Err() != nil {
		return err
	}
	if known := classify(stderr, lockWait); known != nil {
		return fmt.Errorf("restore %s: %w", f, known)
	}
	if stderr == "" {
		return fmt.Errorf("restore %s: %w", f, err)
	}
	return newRestoreError(f, text, stderr)
}

// save runs iptables-save for all tables at once. When that fails, a table may be to blame that we have nothing in, or a file
// that only root may read: then each of ours is asked for alone.
func (d *Driver) save(ctx context.Context, f vpc.Family, args ...string) ([]byte, error) {
	program := d.backend.families[f].save
	out, _, err := run(ctx, "", program, args...)
	if ctx.Err() != nil {
		return nil, err
	}
	if err != nil {
		out = nil
		for _, table := range Tables() {
			one, stderr, err := run(ctx, "", program, append([]string{"-t", table}, args...)...)
			if ctx.Err() != nil {
				return nil, err
			}
			if err != nil {
				if known := classify(stderr, lockWait); known != nil {
					return nil, fmt.Errorf("save %s: %w", f, known)
				}
				return nil, &IncompatibleError{Family: f, Table: table, Reason: newRestoreError(f, "", stderr).Reason}
			}
			out = append(out, one...)
		}
	}
	if table := incompatible(out); table != "" {
		return nil, &IncompatibleError{Family: f, Table: table, Reason: "it holds rules that iptables did not write"}
	}
	return out, nil
}

// incompatible finds the table of ours that iptables-nft-save has left out; it reports success all the same.
func incompatible(saved []byte) string {
	for _, table := range Tables() {
		if bytes.Contains(saved, []byte("# Table `"+table+"' is incompatible")) {
			return table
		}
	}
	return ""
}

// countLock counts when the legacy backend is about to wait for somebody else. The lock is let go at once.
func (d *Driver) countLock() {
	if d.backend.Mode != Legacy {
		return // iptables-nft takes no lock
	}
	file, err := os.Open(lockFile())
	if err != nil {
		return // not there yet, so nobody holds it
	}
	defer file.Close()
	if errors.Is(syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK) {
		d.lockWaits.Add(1)
	}
}

// wrap turns an error of go-iptables into one of ours where its cause is known.
func (d *Driver) wrap(err error) error {
	var e *goiptables.Error
	if errors.As(err, &e) {
		if known := classify(e.Error(), lockWait); known != nil {
			return known
		}
	}
	return err
}

// notExist reports whether go-iptables was refused because the chain is not there. Its own test knows only one of the ways to say
// that: iptables-nft calls a chain that does not exist incompatible.
func notExist(err error) bool {
	var e *goiptables.Error
	return errors.As(err, &e) && e.ExitStatus() == 1 &&
		(strings.Contains(e.Error(), "No chain/target/match") || strings.Contains(e.Error(), "is incompatible, use 'nft'"))
}

// run executes a program with input and returns both of its outputs.
func run(ctx context.Context, input, path string, args ...string) (stdout []byte, stderr string, err error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	err = cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.Bytes(), errs.String(), err
}
