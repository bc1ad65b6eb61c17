package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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
	watched   watched
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

// Read returns everything of ours in some tables of a family, in all of them if none is named.
func (d *Driver) Read(ctx context.Context, f vpc.Family, tables ...string) (State, error) {
	var st State
	err := d.save(ctx, f, tables, nil, func(r io.Reader) (err error) {
		st, err = readState(r)
		return err
	})
	return st, err
}

// ReadChains returns the hashes of the rules of some chains of ours; a chain that does not exist is left out.
func (d *Driver) ReadChains(ctx context.Context, f vpc.Family, table string, chains []string) (map[string][]string, error) {
	found := make(map[string][]string, len(chains))
	if len(chains) > 1 {
		if found, ok := d.listChains(ctx, f, table, chains); ok {
			return found, nil
		}
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
		if err := readList(found, lines); err != nil {
			return nil, fmt.Errorf("list %s chain %s: %w", f, c, err)
		}
	}
	return found, nil
}

// listChains lists several chains with one program: iptables-restore lists too, and changes nothing when it is told nothing
// else. It may refuse to, and does when one of the chains is not there: then ok is false.
func (d *Driver) listChains(ctx context.Context, f vpc.Family, table string, chains []string) (found map[string][]string, ok bool) {
	text := "*" + table + "\n-S " + strings.Join(chains, "\n-S ") + "\nCOMMIT\n"
	out, _, err := run(ctx, text, d.backend.families[f].restore, "-w", strconv.Itoa(int(lockWait.Seconds())), "--noflush")
	if err != nil {
		return nil, false
	}
	found = make(map[string][]string, len(chains))
	err = readList(found, strings.Split(string(out), "\n"))
	return found, err == nil && len(found) == len(chains)
}

// readList reads what iptables -S has listed.
func readList(found map[string][]string, lines []string) error {
	for _, l := range lines {
		s, ok, err := parseLine(l)
		switch {
		case err != nil:
			return err
		case !ok:
		case s.words == nil:
			found[s.chain] = []string{}
		default:
			if found[s.chain] == nil {
				return fmt.Errorf("a rule of %s comes before the chain", s.chain)
			}
			hash, _ := s.identity()
			found[s.chain] = append(found[s.chain], hash)
		}
	}
	return nil
}

// Counters returns what our rules of a family have counted.
func (d *Driver) Counters(ctx context.Context, f vpc.Family) ([]Counter, error) {
	var counters []Counter
	err := d.save(ctx, f, nil, []string{"-c"}, func(r io.Reader) (err error) {
		counters, err = readCounters(r)
		return err
	})
	return counters, err
}

// Restore applies text, in the format of iptables-restore, without flushing what it does not name. Every table in it is a
// transaction of its own: when a later one is refused, the earlier ones stand. The text must end each table with COMMIT.
func (d *Driver) Restore(ctx context.Context, f vpc.Family, text string) error {
	d.countLock()
	if len(text) > longText {
		defer d.watched.pause()()
	}
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

// save runs iptables-save for all tables at once, or for some, and has its output read as it comes. When all at once fails, a
// table may be to blame that we have nothing in, or a file that only root may read: then each of ours is asked for alone.
func (d *Driver) save(ctx context.Context, f vpc.Family, tables, args []string, read func(io.Reader) error) error {
	program := d.backend.families[f].save
	if len(tables) == 0 {
		_, err := stream(ctx, read, program, args...)
		if err == nil || ctx.Err() != nil || !isExit(err) {
			return d.unread(ctx, f, err)
		}
		tables = Tables()
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := read(r)
		r.CloseWithError(err)
		done <- err
	}()
	var refused error
	for _, table := range tables {
		stderr, err := stream(ctx, func(out io.Reader) error {
			_, err := io.Copy(w, out)
			return err
		}, program, append([]string{"-t", table}, args...)...)
		if err == nil {
			continue
		}
		refused = err
		if isExit(err) && ctx.Err() == nil {
			refused = &IncompatibleError{Family: f, Table: table, Reason: newRestoreError(f, "", stderr).Reason}
			if known := classify(stderr, lockWait); known != nil {
				refused = fmt.Errorf("save %s: %w", f, known)
			}
		}
		break
	}
	w.CloseWithError(refused)
	if err := <-done; refused == nil {
		return d.unread(ctx, f, err)
	}
	return refused
}

// unread says why what a family has was not read.
func (d *Driver) unread(ctx context.Context, f vpc.Family, err error) error {
	var left leftOutError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &left):
		return &IncompatibleError{Family: f, Table: string(left), Reason: "it holds rules that iptables did not write"}
	}
	return fmt.Errorf("read %s rules: %w", f, err)
}

// isExit reports whether a program has run, and said that it failed.
func isExit(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit)
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

// stream executes a program and has its output read as it comes. That the program fails counts for more than what the reader
// says, which has not got everything then.
func stream(ctx context.Context, read func(io.Reader) error, path string, args ...string) (stderr string, err error) {
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	unread := read(out)
	if unread != nil {
		_, _ = io.Copy(io.Discard, out) // so that the program ends by itself
	}
	if err = cmd.Wait(); err == nil {
		err = unread
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return errs.String(), err
}
