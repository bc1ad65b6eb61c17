package store

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"gatehouse/vpc"
)

var update = flag.Bool("update", false, "write the fixtures of testdata again")

// A test that needs another process runs this binary again with childVariable set to what the child does.
const (
	childVariable = "GATEHOUSE_STORE_TEST_CHILD"
	pathVariable  = "GATEHOUSE_STORE_TEST_PATH"
)

func TestMain(m *testing.M) {
	switch os.Getenv(childVariable) {
	case "":
		os.Exit(m.Run())
	case "write for ever":
		writeForEver(os.Getenv(pathVariable))
	case "hold":
		s, err := Open(os.Getenv(pathVariable), Options{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("open")
		io.Copy(io.Discard, os.Stdin)
		s.Close()
	}
}

func child(t *testing.T, what, path string) (*exec.Cmd, io.WriteCloser, io.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childVariable+"="+what, pathVariable+"="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, in, out
}

// writeForEver commits and leases without end, and says on standard output what is acknowledged: "L n" for the lease
// number n, "R n" for revision n.
func writeForEver(path string) {
	s, err := Open(path, testOptions())
	if err != nil {
		fmt.Println("E", err)
		os.Exit(1)
	}
	ctx := context.Background()
	leases, err := s.Leases()
	if err != nil {
		fmt.Println("E", err)
		os.Exit(1)
	}
	for w := range 4 {
		go func() {
			for i := len(leases) + w; ; i += 4 {
				if err := s.PutLeases(ctx, lease(i)); err != nil {
					fmt.Println("E", err)
					os.Exit(1)
				}
				fmt.Printf("L %d\n", i)
			}
		}()
	}
	for {
		cur, base := s.State()
		n := 0
		if len(cur.VPCs) > 0 {
			n = len(cur.VPCs[0].Instances)
		} else {
			cur = bigSpec(0)
		}
		rev, err := s.Commit(ctx, base, withInstance(cur, n), Audit{Who: "child", Verb: "enrol"})
		if err != nil {
			fmt.Println("E", err)
			os.Exit(1)
		}
		fmt.Printf("R %d\n", rev)
	}
}

func TestWhatWasAcknowledgedSurvivesKill9(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	r := rand.New(rand.NewPCG(1, 2))
	acked := map[int]bool{}
	revision := 0
	for range 12 {
		cmd, _, out := child(t, "write for ever", path)
		// The child dies after a random number of acknowledgements, in the middle of whatever it does then.
		kill := 1 + r.IntN(200)
		var said bytes.Buffer
		buf := make([]byte, 1)
		for lines := 0; lines < kill; {
			if _, err := out.Read(buf); err != nil {
				t.Fatalf("the child ended: %s", said.String())
			}
			said.Write(buf)
			if buf[0] == '\n' {
				lines++
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(out) // what it still said, it has promised too
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child was not killed")
		}
		said.Write(rest)
		for line := range strings.Lines(said.String()) {
			kind, number, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			n, err := strconv.Atoi(number)
			switch {
			case !strings.HasSuffix(line, "\n"): // cut off by the kill
			case kind == "L" && err == nil:
				acked[n] = true
			case kind == "R" && err == nil:
				revision = max(revision, n)
			default:
				t.Fatalf("the child said %q", line)
			}
		}
		checkPromises(t, path, acked, revision)
	}
	if len(acked) == 0 || revision == 0 {
		t.Errorf("%d leases, revision %d: nothing was tested", len(acked), revision)
	}
}

func checkPromises(t *testing.T, path string, acked map[int]bool, revision int) {
	t.Helper()
	s, err := Open(path, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	leases, err := s.Leases()
	if err != nil {
		t.Fatal(err)
	}
	have := map[netip.Addr]vpc.Lease{}
	for _, l := range leases {
		have[l.Address] = l
	}
	for i := range acked {
		if have[lease(i).Address] != lease(i) {
			t.Errorf("lease %d was acknowledged and is lost", i)
		}
	}
	cur, n := s.State()
	if n < uint64(revision) || n > uint64(revision)+1 {
		t.Errorf("at revision %d, acknowledged was %d", n, revision)
	}
	if n > 0 && len(cur.VPCs[0].Instances) != int(n) {
		t.Errorf("revision %d has %d instances", n, len(cur.VPCs[0].Instances))
	}
	if err := checkFreelist(s); err != nil {
		t.Error(err)
	}
}

// checkFreelist lets bbolt check that every page is either in use or free, once.
func checkFreelist(s *Store) error {
	return s.db.View(func(tx *bolt.Tx) error {
		var found []error
		for err := range tx.Check() {
			found = append(found, err)
		}
		return errors.Join(found...)
	})
}

// powerCuts calls check with what a power cut in the middle of a transaction may leave of a file: what was there before it,
// with some of the pages of what is there after it, whole or in part. Only when all others are there may the meta page be;
// done says that everything is.
func powerCuts(t *testing.T, r *rand.Rand, before, after []byte, check func(torn []byte, done bool)) {
	t.Helper()
	page := os.Getpagesize()
	var data, meta []int
	for at := 0; at < len(after); at += page {
		if at < len(before) && bytes.Equal(before[at:min(at+page, len(before))], after[at:at+page]) {
			continue
		}
		if at < 2*page {
			meta = append(meta, at)
		} else {
			data = append(data, at)
		}
	}
	if len(meta) != 1 || len(data) == 0 {
		t.Fatalf("a transaction wrote %d meta pages and %d others", len(meta), len(data))
	}
	half := slices.Clone(after)
	copy(half[meta[0]:meta[0]+page], before[meta[0]:meta[0]+page])
	copy(half[meta[0]:meta[0]+40], after[meta[0]:meta[0]+40])
	check(slices.Clone(after), true)
	check(half, false)
	for range 4 {
		torn := make([]byte, len(after))
		copy(torn, before)
		for _, at := range data {
			switch r.IntN(3) {
			case 0:
				copy(torn[at:at+page], after[at:at+page])
			case 1:
				copy(torn[at:at+page/2], after[at:at+page/2])
			}
		}
		check(torn, false)
	}
}

// checkTorn checks what a power cut has left.
func checkTorn(t *testing.T, torn []byte) *Contents {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cut.db")
	if err := os.WriteFile(path, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Check(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAPowerCutAtAnyWriteLeavesAStoreThatOpens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openTest(t, path, testOptions())
	cur := bigSpec(50)
	mustCommit(t, s, cur, "apply")
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 12 {
		// One transaction lies between two copies of the file.
		if err := s.PutLeases(context.Background(), lease(round)); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		cur = withInstance(cur, len(cur.VPCs[0].Instances))
		rev := mustCommit(t, s, cur, "enrol")
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		powerCuts(t, r, before, after, func(torn []byte, done bool) {
			want := rev - 1
			if done {
				want = rev
			}
			if c := checkTorn(t, torn); c.Revision != want || len(c.Leases) != round+1 {
				t.Errorf("round %d, done %v: revision %d, want %d; %d leases", round, done, c.Revision, want, len(c.Leases))
			}
		})
	}
}

func TestAPowerCutWhileAnOlderFileIsMigratedLosesNothing(t *testing.T) {
	spec, leases := fixture()
	before, err := os.ReadFile(fixtures[0])
	if err != nil {
		t.Fatal(err)
	}
	path := copyFixture(t, fixtures[0])
	openTest(t, path, testOptions())
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 6))
	for range 10 {
		powerCuts(t, r, before, after, func(torn []byte, done bool) {
			c := checkTorn(t, torn)
			if d := specDiff(spec, c.Spec); d != "" || c.Revision != 2 || !slices.Equal(c.Leases, leases) {
				t.Errorf("done %v: revision %d, %d leases\n%s", done, c.Revision, len(c.Leases), d)
			}
		})
	}
}

func TestASecondDaemonIsToldWhoHasTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	cmd, in, out := child(t, "hold", path)
	line := make([]byte, 5)
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "open\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_, err := Open(path, testOptions())
	want := fmt.Sprintf("open %s: in use by another gatehouse (process %d)", path, cmd.Process.Pid)
	if !errors.Is(err, ErrInUse) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := Check(path); !errors.Is(err, ErrInUse) {
		t.Errorf("check: got %v", err)
	}
	if err := Replace(path, path); !errors.Is(err, ErrInUse) {
		t.Errorf("replace: got %v", err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	openTest(t, path, testOptions())
}

// fixture is what the files in testdata hold: each was written by the program when that was its schema, and stays as it is.
func fixture() (*vpc.Spec, []vpc.Lease) {
	return bigSpec(20), []vpc.Lease{lease(0), lease(1), lease(3)}
}

// fixtures are the files by their schema, from 1 to today's.
var fixtures = [schemaVersion]string{"testdata/schema1.db", "testdata/schema2.db"}

func copyFixture(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// writeFixture makes the file of today's schema.
func writeFixture(t *testing.T) {
	t.Helper()
	want, leases := fixture()
	s := newStore(t)
	mustCommit(t, s, bigSpec(19), "apply")
	mustCommit(t, s, want, "enrol")
	if err := errors.Join(s.PutLeases(context.Background(), leases...), s.PutMeta(context.Background(), "duid", []byte("0001"))); err != nil {
		t.Fatal(err)
	}
	name := fixtures[schemaVersion-1]
	if err := errors.Join(os.RemoveAll(name), rewrite(s.db, name), os.Chmod(name, 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestAFileOfAnySchemaIsStillRead(t *testing.T) {
	if *update {
		writeFixture(t)
	}
	want, leases := fixture()
	for _, name := range fixtures {
		t.Run(filepath.Base(name), func(t *testing.T) {
			path := copyFixture(t, name)
			for range 2 { // the first time it is migrated
				s, err := Open(path, testOptions())
				if err != nil {
					t.Fatal(err)
				}
				got, n := s.State()
				if d := specDiff(want, got); d != "" || n != 2 {
					t.Errorf("revision %d\n%s", n, d)
				}
				if l, err := s.Leases(); err != nil || !slices.Equal(l, leases) {
					t.Errorf("leases %v, %v", l, err)
				}
				if v, err := s.Meta("duid"); err != nil || string(v) != "0001" {
					t.Errorf("duid %q, %v", v, err)
				}
				old, err := s.Revision(1)
				if err != nil {
					t.Fatalf("revision 1: %v", err)
				}
				if d := specDiff(bigSpec(19), old); d != "" {
					t.Errorf("revision 1:\n%s", d)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
		})
	}
}

func TestAMigratedFileSaysTheSameAsOneOfToday(t *testing.T) {
	contents := func(path string) map[string]string {
		s := openTest(t, path, testOptions())
		all := map[string]string{}
		err := s.view(func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(kindInst)).ForEach(func(k, v []byte) error {
				all[string(k)] = string(v)
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	old, today := contents(copyFixture(t, fixtures[0])), contents(copyFixture(t, fixtures[schemaVersion-1]))
	if d := cmp.Diff(today, old); d != "" {
		t.Error(d)
	}
}

func TestAnOlderFileIsMigratedAndACopyKept(t *testing.T) {
	path := copyFixture(t, fixtures[0])
	opt := testOptions()
	opt.schema = 3
	var ran []string
	opt.migrations = []func(*bolt.Tx) error{
		func(tx *bolt.Tx) error {
			ran = append(ran, "1 to 2")
			return tx.Bucket(bucketValues).Put([]byte("duid"), []byte("0002"))
		},
		func(tx *bolt.Tx) error {
			ran = append(ran, "2 to 3")
			return tx.Bucket(bucketValues).Put([]byte("new"), []byte("x"))
		},
	}
	for range 2 { // the second time there is nothing to do
		s, err := Open(path, opt)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := s.Meta("duid"); err != nil || string(v) != "0002" {
			t.Errorf("duid %q, %v", v, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(ran, []string{"1 to 2", "2 to 3"}) {
		t.Errorf("ran %v", ran)
	}
	_, err := Open(path, testOptions())
	if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "its schema is 3, this one knows 2") {
		t.Errorf("the older program on the newer file: %v", err)
	}
	s := openTest(t, path+".schema1", testOptions())
	if v, err := s.Meta("duid"); err != nil || string(v) != "0001" {
		t.Errorf("the copy: duid %q, %v", v, err)
	}
}

func TestAMigrationThatFailsChangesNothing(t *testing.T) {
	path := copyFixture(t, fixtures[0])
	opt := testOptions()
	opt.schema = 3
	opt.migrations = []func(*bolt.Tx) error{
		func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketLeases) },
		func(*bolt.Tx) error { return errors.New("no way") },
	}
	if _, err := Open(path, opt); err == nil || !strings.Contains(err.Error(), "migrate from schema 2 to 3: no way") {
		t.Fatalf("got %v", err)
	}
	if l, err := openTest(t, path, testOptions()).Leases(); err != nil || len(l) != 3 {
		t.Errorf("%d leases, %v", len(l), err)
	}
}

func TestADamagedFileIsRefusedAndLeftAlone(t *testing.T) {
	whole, err := os.ReadFile("testdata/schema1.db")
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	fill := func(from, to int, with byte) []byte {
		b := slices.Clone(whole)
		for i := from; i < to && i < len(b); i++ {
			b[i] = with
		}
		return b
	}
	other := filepath.Join(t.TempDir(), "other.db")
	db, err := bolt.Open(other, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"text":                         []byte(strings.Repeat("not a store\n", 1000)),
		"a few bytes":                  []byte("x"),
		"zeros":                        make([]byte, 8*page),
		"cut off after the meta":       whole[:2*page],
		"cut off in the middle":        whole[:len(whole)/2/page*page],
		"both meta pages overwritten":  fill(0, 2*page, 0xaa),
		"all pages but the meta":       fill(2*page, len(whole), 0xff),
		"all pages but the meta, zero": fill(2*page, len(whole), 0),
		"somebody else's bbolt file":   foreign,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if s, err := Open(path, testOptions()); !errors.Is(err, ErrCorrupt) {
				t.Errorf("open: got %v", err)
				if err == nil {
					s.Close()
				}
			} else if !strings.Contains(err.Error(), path) {
				t.Errorf("the error does not name the file: %v", err)
			}
			if _, err := Check(path); !errors.Is(err, ErrCorrupt) {
				t.Errorf("check: got %v", err)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, data) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}

// TestRandomDamageIsAnErrorOrAStoreThatWorks overwrites single pages and single bytes: nothing of it may end the process.
func TestRandomDamageIsAnErrorOrAStoreThatWorks(t *testing.T) {
	for _, name := range fixtures {
		t.Run(filepath.Base(name), func(t *testing.T) { testRandomDamage(t, name) })
	}
}

func testRandomDamage(t *testing.T, name string) {
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	r := rand.New(rand.NewPCG(5, 6))
	refused := 0
	dir := t.TempDir()
	for i := range 300 {
		data := slices.Clone(whole)
		at := r.IntN(len(data) / page)
		switch i % 4 {
		case 0:
			for j := range page {
				data[at*page+j] = byte(r.Uint32())
			}
		case 1: // the header of a page: what it is, and how much is in it
			data[at*page+8+r.IntN(8)] = byte(r.Uint32())
		case 2: // the places of its elements
			data[at*page+16+r.IntN(64)] = byte(r.Uint32())
		case 3:
			data[r.IntN(len(data))] ^= 1 << r.IntN(8)
		}
		path := filepath.Join(dir, fmt.Sprintf("%d.db", i))
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Check(path); err != nil {
			refused++
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if refused < 50 {
		t.Errorf("only %d of 300 damaged files were refused", refused)
	}
}

func TestAFileThatIsMostlyEmptyIsRewritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	opt := testOptions()
	opt.History = 1
	s, err := Open(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	big := bigSpec(3)
	for _, i := range big.VPCs[0].Instances {
		i.Metadata.UserData = strings.Repeat("x", 12<<20)
	}
	mustCommit(t, s, big, "apply")
	mustCommit(t, s, bigSpec(3), "apply")
	small := withInstance(bigSpec(3), 3)
	mustCommit(t, s, small, "apply") // the history of the big one is forgotten
	if err := s.PutLeases(context.Background(), lease(1)); err != nil {
		t.Fatal(err)
	}
	before, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if before.FreeBytes < compactAbove {
		t.Fatalf("only %d bytes are free", before.FreeBytes)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".compact", []byte("left by a crash"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, path, opt)
	after, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if after.FileBytes > before.FileBytes/4 {
		t.Errorf("%d bytes became %d", before.FileBytes, after.FileBytes)
	}
	got, n := s.State()
	if d := specDiff(small, got); d != "" || n != 3 {
		t.Errorf("revision %d\n%s", n, d)
	}
	if l, err := s.Leases(); err != nil || len(l) != 1 {
		t.Errorf("%d leases, %v", len(l), err)
	}
	if _, err := os.Stat(path + ".compact"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	mustCommit(t, s, bigSpec(5), "apply")
	if err := s.Backup(io.Discard); err != nil {
		t.Error(err)
	}
}

// TestAFullDiskIsAnErrorAndNothingMore fills a small file system of its own, in a mount namespace of its own.
func TestAFullDiskIsAnErrorAndNothingMore(t *testing.T) {
	dir := t.TempDir()
	done := make(chan error)
	go func() {
		// The thread is not unlocked: it ends with this goroutine, and the mount with it.
		runtime.LockOSThread()
		done <- onFullDisk(dir)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func onFullDisk(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare (this test needs root): %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("gatehouse", dir, "tmpfs", 0, "size=4m"); err != nil {
		return err
	}
	path := filepath.Join(dir, "state.db")
	s, err := Open(path, testOptions())
	if err != nil {
		return err
	}
	defer s.Close()
	ctx := context.Background()
	cur := bigSpec(1)
	rev, err := s.Commit(ctx, 0, cur, Audit{})
	if err != nil {
		return err
	}
	// The ballast leaves some room, so that the disk becomes full inside of transactions of every size.
	ballast := filepath.Join(dir, "ballast")
	stored := 0
	for round := range 5 {
		if err := fillDisk(ballast); err != nil {
			return err
		}
		// Leases go into what is free inside of the file, until that is used up.
		const enough = 50_000
		for i := 0; ; i++ {
			err := s.PutLeases(ctx, lease(stored))
			if errors.Is(err, unix.ENOSPC) {
				break
			}
			if err != nil || i == enough {
				return fmt.Errorf("round %d: %d leases on a full disk: %w", round, i, err)
			}
			stored++
		}
		next := withInstance(cur, len(cur.VPCs[0].Instances))
		next.VPCs[0].Instances[len(next.VPCs[0].Instances)-1].Metadata.UserData = strings.Repeat("x", 16<<10)
		if _, err := s.Commit(ctx, rev, next, Audit{}); !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("round %d: commit on a full disk: %w", round, err)
		}
		if got, n := s.State(); got != cur || n != rev {
			return fmt.Errorf("round %d: a failed commit left revision %d", round, n)
		}
		if err := os.Remove(ballast); err != nil {
			return err
		}
		if err := s.PutLeases(ctx, lease(stored)); err != nil {
			return fmt.Errorf("round %d: with room again: %w", round, err)
		}
		stored++
		if rev, err = s.Commit(ctx, rev, next, Audit{}); err != nil {
			return fmt.Errorf("round %d: with room again: %w", round, err)
		}
		cur = next
	}
	l, err := s.Leases()
	if err != nil || len(l) != stored {
		return fmt.Errorf("%d leases of %d: %w", len(l), stored, err)
	}
	if err := checkFreelist(s); err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	again, err := Open(path, testOptions())
	if err != nil {
		return err
	}
	got, n := again.State()
	if d := specDiff(cur, got); d != "" || n != rev {
		return fmt.Errorf("reopened at revision %d of %d:\n%s", n, rev, d)
	}
	return again.Close()
}

// fillDisk writes a file until there is no more room.
func fillDisk(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for block := make([]byte, 4096); ; {
		if _, err := f.Write(block); errors.Is(err, unix.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestAnEmptyFileIsWhatIsLeftOfAStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("open: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 0 {
		t.Errorf("the file was touched: %v, %v", info, err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
