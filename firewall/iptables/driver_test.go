package iptables

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatehouse/firewall"
	"gatehouse/firewall/internal/ownnet"
	"gatehouse/vpc"
)

const mask = 0xffff0000

// onBoth runs a test in a fresh namespace for each backend.
func onBoth(t *testing.T, test func(t *testing.T, d *Driver)) {
	for _, m := range []Mode{NFT, Legacy} {
		t.Run(string(m), func(t *testing.T) {
			if !ownnet.Enter(t) {
				return
			}
			b, err := discover(context.Background(), string(m))
			if err != nil {
				t.Fatal(err)
			}
			d, err := New(b)
			if err != nil {
				t.Fatal(err)
			}
			test(t, d)
		})
	}
}

func sh(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// foreign is what somebody else has in all tables of a family.
const foreign = `*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -i eth9 -j ACCEPT
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -m comment --comment "somebody's \"own\"" -j DOCKER-USER
-A FORWARD -i docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o eth9 -j MASQUERADE
COMMIT
`

var counts = regexp.MustCompile(`\[[0-9]+:[0-9]+\]`)

// saveAll returns what a family's iptables-save prints, without times and packet counts.
func saveAll(t *testing.T, d *Driver, f vpc.Family) string {
	t.Helper()
	var kept []string
	for _, l := range strings.Split(sh(t, d.backend.families[f].save), "\n") {
		if !strings.HasPrefix(l, "#") {
			kept = append(kept, counts.ReplaceAllString(l, "[]"))
		}
	}
	return strings.Join(kept, "\n")
}

func putForeign(t *testing.T, d *Driver) map[vpc.Family]string {
	t.Helper()
	before := map[vpc.Family]string{}
	for _, f := range vpc.Families() {
		cmd := exec.Command(d.backend.families[f].restore, "-w")
		cmd.Stdin = strings.NewReader(foreign)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		before[f] = saveAll(t, d, f)
	}
	return before
}

// base is a ruleset of ours that blocks links, one chain and hook in raw and mangle.
func base(links ...string) *firewall.Ruleset {
	return firewall.Base(firewall.Features{MarkMask: mask}, links...)
}

// restoreText is all of a family's tables as text.
func restoreText(ts firewall.Tables) string {
	var b strings.Builder
	for _, t := range ts.Tables {
		b.WriteString("*" + t.Name + "\n")
		for _, c := range t.Chains {
			b.WriteString(":" + c.Name + " - [0:0]\n")
		}
		for _, c := range t.Chains {
			for _, l := range c.Lines(ts.Family) {
				b.WriteString(l + "\n")
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// apply writes all chains and hooks of a ruleset.
func apply(t *testing.T, d *Driver, rs *firewall.Ruleset) {
	t.Helper()
	ctx := context.Background()
	for _, ts := range rs.Families {
		if err := d.Restore(ctx, ts.Family, restoreText(ts)); err != nil {
			t.Fatal(err)
		}
		st := read(t, d, ts.Family)
		for _, table := range ts.Tables {
			if err := d.Hook(ctx, ts.Family, table.Name, table.Hooks, st[table.Name].Hooks); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func read(t *testing.T, d *Driver, f vpc.Family) State {
	t.Helper()
	st, err := d.Read(context.Background(), f)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func checkCarries(t *testing.T, d *Driver, rs *firewall.Ruleset) {
	t.Helper()
	for _, ts := range rs.Families {
		st := read(t, d, ts.Family)
		for _, table := range ts.Tables {
			for _, c := range table.Chains {
				if d := cmp.Diff(c.Hashes(ts.Family), st[table.Name].Chains[c.Name]); d != "" {
					t.Errorf("%s %s %s (-want +got):\n%s", ts.Family, table.Name, c.Name, d)
				}
			}
			for _, h := range table.Hooks {
				if !st[table.Name].Hooked(h.Chain, h.Target) {
					t.Errorf("%s %s %s is not hooked once and first: %+v", ts.Family, table.Name, h.Chain, st[table.Name].Hooks)
				}
			}
		}
	}
}

func TestOtherPeoplesRulesStayByteForByte(t *testing.T) {
	onBoth(t, func(t *testing.T, d *Driver) {
		before := putForeign(t, d)
		for i, links := range [][]string{{"vs1"}, {"vs1", "vs2"}, {"vs3"}} {
			apply(t, d, base(links...))
			checkCarries(t, d, base(links...))
			if i == 1 {
				continue // change on top, without teardown
			}
			if err := d.Teardown(context.Background()); err != nil {
				t.Fatal(err)
			}
			for _, f := range vpc.Families() {
				if diff := cmp.Diff(before[f], saveAll(t, d, f)); diff != "" {
					t.Errorf("%s after apply and teardown %d (-before +after):\n%s", f, i, diff)
				}
			}
		}
	})
}

func TestTeardownRemovesWhatTheOtherBackendHas(t *testing.T) {
	onBoth(t, func(t *testing.T, d *Driver) {
		other, err := discover(context.Background(), string(d.backend.Mode.other()))
		if err != nil {
			t.Fatal(err)
		}
		o, err := New(other)
		if err != nil {
			t.Fatal(err)
		}
		before := putForeign(t, o)
		apply(t, o, base("vs1"))
		apply(t, d, base("vs1"))
		if err := d.Teardown(context.Background()); err != nil {
			t.Fatal(err)
		}
		for _, f := range vpc.Families() {
			if diff := cmp.Diff(before[f], saveAll(t, o, f)); diff != "" {
				t.Errorf("%s of the other backend (-before +after):\n%s", f, diff)
			}
			if left := saveAll(t, d, f); strings.Contains(left, "GH-") {
				t.Errorf("%s left:\n%s", f, left)
			}
		}
	})
}

func TestTeardownRemovesJumpsThatSomebodyElseMadeToUs(t *testing.T) {
	onBoth(t, func(t *testing.T, d *Driver) {
		before := putForeign(t, d)
		apply(t, d, base("vs1"))
		for _, f := range vpc.Families() {
			sh(t, d.backend.families[f].tables+` -w -t mangle -A INPUT -i eth7 -m comment --comment 'by "hand" \o/' -j GH-FWD`)
		}
		if err := d.Teardown(context.Background()); err != nil {
			t.Fatal(err)
		}
		for _, f := range vpc.Families() {
			if diff := cmp.Diff(before[f], saveAll(t, d, f)); diff != "" {
				t.Errorf("%s (-before +after):\n%s", f, diff)
			}
		}
	})
}

func TestAHookIsPutBackToTheFrontOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, d *Driver) {
		rs := base("vs1")
		for name, spoil := range map[string]string{
			"removed":          "-D FORWARD -j GH-FWD",
			"flushed":          "-F FORWARD",
			"pushed down":      "-I FORWARD 1 -j ACCEPT",
			"doubled":          "-A FORWARD -j GH-FWD",
			"replaced by hand": "-R FORWARD 1 -i eth0 -j GH-FWD",
		} {
			apply(t, d, rs)
			for _, f := range vpc.Families() {
				sh(t, d.backend.families[f].tables+" -w -t mangle "+spoil)
			}
			apply(t, d, rs)
			checkCarries(t, d, rs)
			if t.Failed() {
				t.Fatalf("after it was %s", name)
			}
		}
	})
}

func TestRefusedTextChangesNothingAndNamesTheLine(t *testing.T) {
	onBoth(t, func(t *testing.T, d *Driver) {
		for _, f := range vpc.Families() {
			apply(t, d, base("vs1"))
			before := saveAll(t, d, f)
			for name, tt := range map[string]struct{ rule, line string }{
				"a set that is missing":       {"-m set --match-set gh4-nope src -j RETURN", "-A GH-FWD"},
				"an option that nobody knows": {"--frob -j RETURN", "-A GH-FWD"},
				// iptables-nft names the rule; the legacy kernel judges the table as a whole.
				"a target of another table": {"-j MASQUERADE", map[Mode]string{NFT: "-A GH-FWD", Legacy: "COMMIT"}[d.backend.Mode]},
			} {
				err := d.Restore(context.Background(), f, "*mangle\n:GH-FWD - [0:0]\n-A GH-FWD -i vs7 -j DROP\n-A GH-FWD "+tt.rule+"\nCOMMIT\n")
				var refused *RestoreError
				if !errors.As(err, &refused) || !strings.HasPrefix(refused.Text, tt.line) {
					t.Errorf("%s %s: %v", f, name, err)
				}
				if diff := cmp.Diff(before, saveAll(t, d, f)); diff != "" {
					t.Errorf("%s %s changed:\n%s", f, name, diff)
				}
			}
		}
	})
}

func TestReadChainsAgreesWithRead(t *testing.T) {
	onBoth(t, func(t *testing.T, d *Driver) {
		rs := base("vs1", "vs2")
		apply(t, d, rs)
		for _, f := range vpc.Families() {
			if err := d.Restore(context.Background(), f, "*mangle\n:GH-EMPTY - [0:0]\n:GH-MORE - [0:0]\n-A GH-MORE -m comment --comment gh:abcdefghijklmnop -j RETURN\nCOMMIT\n"); err != nil {
				t.Fatal(err)
			}
			all := read(t, d, f)["mangle"].Chains
			some := slices.Sorted(maps.Keys(all))
			if len(some) < 2 || len(all["GH-FWD"]) == 0 {
				t.Fatalf("%s: %v", f, all)
			}
			for what, names := range map[string][]string{
				"one": {"GH-FWD"}, "none": {"GH-NONE"}, "all, listed at once": some, "all, and one that is not there": append([]string{"GH-NONE"}, some...),
			} {
				want := maps.Clone(all)
				maps.DeleteFunc(want, func(name string, _ []string) bool { return !slices.Contains(names, name) })
				got, err := d.ReadChains(context.Background(), f, "mangle", names)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s: %s (-want +got):\n%s", f, what, diff)
				}
			}
			listed, ok := d.listChains(context.Background(), f, "mangle", some)
			if !ok || !cmp.Equal(all, listed) {
				t.Errorf("%s: listed at once: %v, %v", f, ok, listed)
			}
		}
	})
}

func TestCountersSurviveAChangeOfAnotherChain(t *testing.T) {
	onBoth(t, func(t *testing.T, d *Driver) {
		ctx := context.Background()
		sh(t, "ip link set lo up")
		for _, f := range vpc.Families() {
			lo := map[vpc.Family]string{vpc.IPv4: "127.0.0.1", vpc.IPv6: "::1"}[f]
			text := "*raw\n:GH-RAW - [0:0]\n:GH-B - [0:0]\n-A GH-RAW -m comment --comment \"gh:aaaa sgr-1\"\nCOMMIT\n"
			if err := d.Restore(ctx, f, text); err != nil {
				t.Fatal(err)
			}
			if err := d.Hook(ctx, f, "raw", []firewall.Hook{{Chain: "PREROUTING", Target: "GH-RAW"}}, nil); err != nil {
				t.Fatal(err)
			}
			sh(t, "ping -c 2 -i 0.01 "+lo)
			if err := d.Restore(ctx, f, "*raw\n:GH-B - [0:0]\n-A GH-B -j RETURN\nCOMMIT\n"); err != nil {
				t.Fatal(err)
			}
			counters, err := d.Counters(ctx, f)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(counters, func(c Counter) bool { return c.ID == "sgr-1" && c.Hash == "aaaa" })
			if i < 0 || counters[i].Packets < 4 || counters[i].Bytes < 4*84 {
				t.Errorf("%s: %+v", f, counters)
			}
		}
	})
}

func TestProbeLeavesNothingBehind(t *testing.T) {
	onBoth(t, func(t *testing.T, d *Driver) {
		before := putForeign(t, d)
		b, features, err := Probe(context.Background(), Config{Backend: string(d.backend.Mode), MarkMask: mask})
		if err != nil {
			t.Fatal(err)
		}
		if b.Mode != d.backend.Mode || len(b.Findings) != 0 {
			t.Errorf("backend %s with findings %v", b.Mode, b.Findings)
		}
		if !features.MapMark || !features.IPMAC4 || !features.NFLog || !features.Physdev || !features.Netmap || !features.Bare || features.MarkMask != mask || features.RefuseMidStream {
			t.Errorf("features %+v: this kernel is known to have more", features)
		}
		for _, f := range vpc.Families() {
			if diff := cmp.Diff(before[f], saveAll(t, d, f)); diff != "" {
				t.Errorf("%s (-before +after):\n%s", f, diff)
			}
		}
		if left := sh(t, "ipset list -n"); left != "" {
			t.Errorf("sets left: %s", left)
		}
	})
}

// A firewall that starts at the same time flushes all tables, and removes chains that are nobody's to it.
func TestProbeOutlivesAFlush(t *testing.T) {
	onBoth(t, func(t *testing.T, d *Driver) {
		ctx, cancel := context.WithCancel(t.Context())
		flushed := make(chan int)
		go func() {
			n := 0
			for ; ctx.Err() == nil; n++ {
				for _, f := range vpc.Families() {
					// It may fail as the probe may: another writes at the same time.
					_ = exec.CommandContext(ctx, "sh", "-c", strings.ReplaceAll("T -w -t mangle -F; T -w -t mangle -X; sleep 0.02", "T", d.backend.families[f].tables)).Run()
				}
			}
			flushed <- n
		}()
		for range 5 {
			if _, features, err := Probe(ctx, Config{Backend: string(d.backend.Mode), MarkMask: mask}); err != nil {
				t.Error(err)
			} else if !features.MapMark || !features.NFLog || !features.ClampMSS {
				t.Errorf("features %+v: this kernel is known to have more", features)
			}
		}
		cancel()
		if n := <-flushed; n < 5 {
			t.Errorf("it was flushed %d times only", n)
		}
	})
}

func TestProbeFindsTheOtherBackendAndClashingMarks(t *testing.T) {
	onBoth(t, func(t *testing.T, d *Driver) {
		other, err := discover(context.Background(), string(d.backend.Mode.other()))
		if err != nil {
			t.Fatal(err)
		}
		sh(t, other.families[vpc.IPv6].tables+" -w -t mangle -A FORWARD -j ACCEPT")
		sh(t, d.backend.families[vpc.IPv4].tables+" -w -t mangle -A PREROUTING -j MARK --set-mark 0x10001")
		b, _, err := Probe(context.Background(), Config{Backend: string(d.backend.Mode), MarkMask: mask})
		if err != nil {
			t.Fatal(err)
		}
		if got := b.codes(); !slices.Equal(got, []string{"iptables-both", "mark-clash"}) {
			t.Errorf("findings %v", got)
		}
		for _, f := range b.Findings {
			if f.Message == "" || f.Remedy == "" {
				t.Errorf("%+v does not say what and what to do", f)
			}
		}
	})
}

func TestATableThatIptablesCannotListIsNamed(t *testing.T) {
	if !ownnet.Enter(t) {
		return
	}
	b, err := discover(context.Background(), "nft")
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(b)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, d, base("vs1"))
	ctx := context.Background()
	// There are two ways to be unreadable: iptables-nft-save fails, or it leaves the table out and reports success.
	for _, rule := range []string{"meta length 5 counter", "ct mark set meta mark"} {
		sh(t, "nft add table ip security; nft add chain ip security c; nft add rule ip security c "+rule)
		if _, err := d.Read(ctx, vpc.IPv4); err != nil {
			t.Errorf("%s in a table that is none of our business: %v", rule, err)
		}
		sh(t, "nft add chain ip mangle c; nft add rule ip mangle c "+rule)
		var bad *IncompatibleError
		if _, err := d.Read(ctx, vpc.IPv4); !errors.As(err, &bad) || bad.Table != "mangle" || !strings.Contains(bad.Remedy(), "nft list table ip mangle") {
			t.Errorf("%s: error %v", rule, err)
		}
		if _, err := d.Read(ctx, vpc.IPv6); err != nil {
			t.Errorf("%s: the other family: %v", rule, err)
		}
		sh(t, "nft delete table ip security; nft flush chain ip mangle c")
	}
}

func TestAHeldLockIsWaitedForAndCounted(t *testing.T) {
	if !ownnet.Enter(t) {
		return
	}
	lock := filepath.Join(t.TempDir(), "xtables.lock")
	t.Setenv("XTABLES_LOCKFILE", lock)
	b, err := discover(context.Background(), "legacy")
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(b)
	if err != nil {
		t.Fatal(err)
	}
	hold := func() *os.File {
		t.Helper()
		file, err := os.OpenFile(lock, os.O_RDONLY|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const text = "*raw\n:GH-RAW - [0:0]\nCOMMIT\n"

	const held = 5 * time.Second
	file := hold()
	start := time.Now()
	time.AfterFunc(held, func() { file.Close() })
	if err := d.Restore(context.Background(), vpc.IPv4, text); err != nil {
		t.Errorf("held for %v: %v", held, err)
	}
	if waited := time.Since(start); waited < held-time.Second {
		t.Errorf("waited only %v", waited)
	}
	if d.LockWaits() != 1 {
		t.Errorf("%d waits counted", d.LockWaits())
	}

	defer hold().Close()
	err = d.Restore(context.Background(), vpc.IPv4, text)
	var locked *LockError
	if !errors.As(err, &locked) || !strings.Contains(locked.Remedy(), lock) {
		t.Errorf("held for ever: %v", err)
	}
}

// TestWithoutRoot writes as a service does that is not root but may administer the network.
func TestWithoutRoot(t *testing.T) {
	const uid = "GATEHOUSE_TEST_UNPRIVILEGED"
	onBoth(t, func(t *testing.T, d *Driver) {
		if os.Getenv(uid) == "" {
			cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all,+net_admin,+net_raw",
				"--ambient-caps=-all,+net_admin,+net_raw", "--bounding-set=-all,+net_admin,+net_raw", "--",
				testCopy(t), "-test.run="+regexp.QuoteMeta(t.Name()), "-test.count=1")
			cmd.Env = append(os.Environ(), uid+"=1", "TMPDIR=/tmp")
			cmd.Dir = "/"
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
				t.Fatalf("%v\n%s", err, out)
			}
			if !strings.Contains(saveAll(t, d, vpc.IPv6), "GH-FWD") {
				t.Error("nothing was written")
			}
			return
		}
		lock := filepath.Join(t.TempDir(), "lock")
		b, _, err := Probe(context.Background(), Config{Backend: string(d.backend.Mode), MarkMask: mask, LockFile: lock})
		if err != nil {
			t.Fatal(err)
		}
		if want := d.backend.Mode == Legacy; slices.Contains(b.codes(), "xtables-lock") != want {
			t.Errorf("findings %v", b.Findings)
		}
		if d, err = New(b); err != nil {
			t.Fatal(err)
		}
		apply(t, d, base("vs1"))
		checkCarries(t, d, base("vs1"))
	})
}

// testCopy returns a copy of the test program that everybody may execute.
func testCopy(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "gh-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "iptables.test")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheGenerationFollowsEveryChange(t *testing.T) {
	onBoth(t, func(t *testing.T, d *Driver) {
		before, exact, err := d.Generation(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if exact != (d.backend.Mode == NFT) {
			t.Errorf("exact %v on %s", exact, d.backend.Mode)
		}
		if again, _, err := d.Generation(t.Context()); err != nil || again != before {
			t.Errorf("without a change: %d, then %d, %v", before, again, err)
		}
		for _, f := range vpc.Families() {
			for _, change := range []string{"*mangle\n:GH-GEN - [0:0]\n-A GH-GEN -j RETURN\nCOMMIT\n", "*mangle\n-I GH-GEN -j DROP\nCOMMIT\n",
				"*raw\n-I PREROUTING -j RETURN\nCOMMIT\n", "*mangle\n-F GH-GEN\nCOMMIT\n"} {
				if err := d.Restore(t.Context(), f, change); err != nil {
					t.Fatal(err)
				}
				after, _, err := d.Generation(t.Context())
				if err != nil || after == before {
					t.Errorf("%s: %d after %q, %d before it; %v", f, after, change, before, err)
				}
				before = after
			}
		}
	})
}

func TestWatchTellsOfEveryChange(t *testing.T) {
	onBoth(t, func(t *testing.T, d *Driver) {
		ctx, cancel := context.WithCancel(t.Context())
		told := make(chan struct{}, 100)
		done := make(chan error, 1)
		go func() { done <- d.Watch(ctx, func() { told <- struct{}{} }) }()
		change := func(f vpc.Family) {
			t.Helper()
			if err := d.Restore(ctx, f, "*mangle\n:GH-WATCH - [0:0]\n-A GH-WATCH -j RETURN\nCOMMIT\n"); err != nil {
				t.Fatal(err)
			}
		}
		if d.backend.Mode != NFT {
			change(vpc.IPv4)
			cancel()
			if err := <-done; err != nil || len(told) > 0 {
				t.Errorf("told %d times, %v", len(told), err)
			}
			return
		}
		// It may not listen yet: the first changes are made until it does.
		deadline := time.After(20 * time.Second)
		for listening := false; !listening; {
			change(vpc.IPv4)
			select {
			case <-told:
				listening = true
			case err := <-done:
				t.Fatalf("it has ended: %v", err)
			case <-time.After(10 * time.Millisecond):
			case <-deadline:
				t.Fatal("it tells nothing")
			}
		}
		for len(told) > 0 {
			<-told
		}
		for _, f := range vpc.Families() {
			change(f)
			select {
			case <-told:
			case <-deadline:
				t.Fatalf("%s: not told", f)
			}
		}
		// Nobody listens while much is written, and whatever came meanwhile counts as a change.
		var much strings.Builder
		much.WriteString("*mangle\n:GH-MUCH - [0:0]\n")
		for much.Len() <= longText {
			much.WriteString("-A GH-MUCH -j RETURN\n")
		}
		much.WriteString("COMMIT\n")
		for _, f := range vpc.Families() {
			for len(told) > 0 {
				<-told
			}
			if err := d.Restore(ctx, f, much.String()); err != nil {
				t.Fatal(err)
			}
			if n := len(told); n != 1 {
				t.Errorf("%s: told %d times of much at once", f, n)
			}
			for len(told) > 0 {
				<-told
			}
			change(f)
			select {
			case <-told:
			case <-deadline:
				t.Fatalf("%s: not told after much was written", f)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
