package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatehouse/firewall"
	"gatehouse/firewall/conntrack"
	"gatehouse/firewall/internal/ownnet"
	"gatehouse/firewall/ipset"
	"gatehouse/firewall/iptables"
	"gatehouse/vpc"
)

// onKernel runs a test with the real drivers in a fresh namespace, once for each backend.
func onKernel(t *testing.T, test func(t *testing.T, h *host)) {
	for _, backend := range []string{"nft", "legacy"} {
		t.Run(backend, func(t *testing.T) {
			if !ownnet.Enter(t) {
				return
			}
			ctx := t.Context()
			b, features, err := iptables.Probe(ctx, iptables.Config{Backend: backend, MarkMask: 0xffff0000})
			if err != nil {
				t.Fatal(err)
			}
			rules, err := iptables.New(b)
			if err != nil {
				t.Fatal(err)
			}
			sets, err := ipset.New()
			if err != nil {
				t.Fatal(err)
			}
			h := &host{backend: backend, features: features, rules: rules}
			h.loop = New(Options{IPTables: rules, IPSet: sets, Conntrack: conntrack.New(), Features: features,
				VerifyInterval: 200 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
			h.loop.share = 1
			ctx, cancel := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() { done <- h.loop.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			test(t, h)
		})
	}
}

type host struct {
	backend  string
	features firewall.Features
	rules    *iptables.Driver
	loop     *Loop
}

// tool names a program of the backend: "iptables", "ip6tables-save".
func (h *host) tool(f vpc.Family, verb string) string {
	base := "iptables"
	if f == vpc.IPv6 {
		base = "ip6tables"
	}
	return base + "-" + h.backend + verb
}

var packetCounts = regexp.MustCompile(`(?m)\[[0-9]+:[0-9]+\]$|^#.*\n`)

// foreignRules puts rules of somebody else into all tables and returns what is saved then.
func (h *host) foreignRules(t *testing.T) map[vpc.Family]string {
	t.Helper()
	saved := map[vpc.Family]string{}
	for _, f := range vpc.Families() {
		i := h.tool(f, "") + " -w -t "
		ownnet.Sh(t, i+"raw -A PREROUTING -i eth9 -j ACCEPT; "+i+"mangle -A FORWARD -i eth9 -j ACCEPT; "+
			i+"filter -P FORWARD DROP; "+i+"filter -N DOCKER-USER; "+i+"filter -A FORWARD -j DOCKER-USER; "+i+"nat -A POSTROUTING -o eth9 -j MASQUERADE")
		saved[f] = h.saved(t, f)
	}
	return saved
}

// saved is what iptables-save prints, without times and counts.
func (h *host) saved(t *testing.T, f vpc.Family) string {
	t.Helper()
	return packetCounts.ReplaceAllString(ownnet.Sh(t, h.tool(f, "-save")), "")
}

// withoutOurs removes our chains, rules and hooks from saved text.
func withoutOurs(saved string) string {
	var kept []string
	for _, l := range strings.Split(saved, "\n") {
		if !strings.Contains(l, "GH-") {
			kept = append(kept, l)
		}
	}
	return strings.Join(kept, "\n")
}

func (h *host) checkInForce(t *testing.T) {
	t.Helper()
	if err := h.loop.InForce(t.Context()); err != nil {
		t.Error(err)
	}
}

// eventually waits for a condition, with a deadline.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within 20 s", what)
		case <-tick.C:
		}
	}
}

func TestKernelOtherPeoplesRulesStay(t *testing.T) {
	onKernel(t, func(t *testing.T, h *host) {
		foreign := h.foreignRules(t)
		check := func(when string, ours bool) {
			t.Helper()
			for _, f := range vpc.Families() {
				now := h.saved(t, f)
				if ours {
					if !strings.Contains(now, "GH-FWD") {
						t.Errorf("%s: %s has nothing of ours", when, f)
					}
					now = withoutOurs(now)
				}
				if diff := cmp.Diff(foreign[f], now); diff != "" {
					t.Errorf("%s: %s (-before +now):\n%s", when, f, diff)
				}
			}
		}
		before, after := beforeAndAfter()
		apply(t, h.loop, before)
		h.checkInForce(t)
		check("after apply", true)
		apply(t, h.loop, after)
		h.checkInForce(t)
		check("after a change", true)
		if err := h.loop.Teardown(t.Context()); err != nil {
			t.Fatal(err)
		}
		check("after teardown", false)
		if sets := ownnet.Sh(t, "ipset list -n"); sets != "" {
			t.Errorf("sets left: %s", sets)
		}
		apply(t, h.loop, before)
		h.checkInForce(t)
		check("after apply again", true)
	})
}

func TestKernelASmallChangeKeepsTheCountersOfOtherChains(t *testing.T) {
	onKernel(t, func(t *testing.T, h *host) {
		w := newWorld()
		apply(t, h.loop, w)
		ownnet.Sh(t, "ip link set lo up; ping -c 3 -i 0.01 127.0.0.1; ping -c 3 -i 0.01 ::1")
		counted := func(f vpc.Family) (packets uint64) {
			t.Helper()
			cs, err := h.rules.Counters(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range cs {
				if c.Table == "raw" || c.Table == "mangle" {
					packets += c.Packets
				}
			}
			return packets
		}
		before := map[vpc.Family]uint64{}
		for _, f := range vpc.Families() {
			if before[f] = counted(f); before[f] == 0 {
				t.Fatalf("%s: nothing was counted", f)
			}
		}
		w.revision, w.ports = 2, []string{"443"}
		apply(t, h.loop, w)
		for _, f := range vpc.Families() {
			if now := counted(f); now < before[f] {
				t.Errorf("%s: %d packets counted, before the change %d", f, now, before[f])
			}
		}
	})
}

func TestKernelARuleKeepsItsCounterWhenItsChainChanges(t *testing.T) {
	onKernel(t, func(t *testing.T, h *host) {
		if h.backend != "nft" {
			return // nobody is certain there of what a chain holds, so it is written as a whole
		}
		w := newWorld()
		w.ports = []string{"80", "443", "1000", "1001", "1002", "1003"}
		apply(t, h.loop, w)
		// Seven packets have met every rule of the group. ip6tables-restore sets no counters, so this looks at IPv4 only.
		ownnet.Sh(t, `(echo "*mangle"; iptables-nft-save -t mangle | grep "^:GH-I-"; iptables-nft-save -c -t mangle | `+
			`sed -n "s/^\[[0-9:]*\] -A GH-I-/[7:700] -A GH-I-/p"; echo COMMIT) | iptables-nft-restore --noflush --counters`)
		counted := regexp.MustCompile(`(?m)^\[(\d+):\d+\] -A GH-I-.*--dport (\d+) `)
		had := w.ports
		for i, ports := range [][]string{
			{"80", "443", "8443", "1000", "1001", "1002", "1003"},
			{"80", "443", "8443", "1000", "1001", "1003"},
			{"22", "80", "443", "1000", "1001", "1003", "9000"},
		} {
			w.revision, w.ports = uint64(2+i), ports
			apply(t, h.loop, w)
			h.checkInForce(t)
			found := map[string]string{}
			for _, m := range counted.FindAllStringSubmatch(ownnet.Sh(t, "iptables-nft-save -c -t mangle"), -1) {
				found[m[2]] = m[1]
			}
			for _, p := range ports {
				want := "0"
				if slices.Contains(had, p) {
					want = "7"
				}
				if found[p] != want {
					t.Errorf("revision %d: the rule of port %s has counted %q packets, want %s", w.revision, p, found[p], want)
				}
			}
		}
	})
}

func TestKernelWhatOthersRemoveComesBack(t *testing.T) {
	onKernel(t, func(t *testing.T, h *host) {
		apply(t, h.loop, newWorld())
		for _, f := range vpc.Families() {
			i := h.tool(f, "") + " -w -t "
			set := "gh" + f.String()[3:] + "-"
			for _, spoil := range []string{
				i + "mangle -F; " + i + "filter -F; " + i + "raw -F",
				i + "mangle -F; " + i + "mangle -X",
				i + "mangle -D FORWARD 1",
				i + "mangle -I FORWARD 1 -j ACCEPT; " + i + "mangle -A GH-FWD -j RETURN",
				"ipset flush " + set + "vpcs",
				i + "raw -F; " + i + "mangle -F; " + i + "filter -F; for s in $(ipset list -n | grep ^" + set + "); do ipset destroy $s || :; done", // but what has come back meanwhile
			} {
				if err := h.loop.Resync(t.Context()); err != nil { // also forgets how often it has repaired
					t.Fatal(err)
				}
				repairs := h.loop.Status().Repairs
				ownnet.Sh(t, spoil)
				eventually(t, spoil, func() bool { return h.loop.Status().Repairs > repairs })
				h.checkInForce(t)
			}
		}
	})
}

func TestKernelFlowsAreCut(t *testing.T) {
	onKernel(t, func(t *testing.T, h *host) {
		before, after := beforeAndAfter()
		apply(t, h.loop, before)
		for _, f := range vpc.Families() {
			for _, to := range []string{"2 80", "2 443"} {
				host, port, _ := strings.Cut(to, " ")
				dst := addrOf(f, int(host[0]-'0'))
				ownnet.Sh(t, "conntrack -I -p tcp -s "+addrOf(f, 1).String()+" -d "+dst.String()+" --sport 4000 --dport "+port+" --state ESTABLISHED -t 600 -u SEEN_REPLY")
			}
		}
		apply(t, h.loop, after)
		for _, f := range vpc.Families() {
			left := ownnet.Sh(t, "conntrack -L -f "+f.String()+" 2>/dev/null")
			if strings.Contains(left, "dport=80 ") || !strings.Contains(left, "dport=443 ") {
				t.Errorf("%s flows left:\n%s", f, left)
			}
		}
	})
}

func TestKernelARefusedRevisionLeavesTheOldOneInForce(t *testing.T) {
	onKernel(t, func(t *testing.T, h *host) {
		before, after := beforeAndAfter()
		apply(t, h.loop, before)
		saved := map[vpc.Family]string{}
		for _, f := range vpc.Families() {
			saved[f] = h.saved(t, f)
		}
		bad := after
		bad.uplinks = []string{"a-link-with-a-name-that-is-too-long-for-the-kernel"}
		err := h.loop.Apply(t.Context(), bad.snapshot())
		if err == nil {
			t.Fatal("the kernel took a link name of 50 characters")
		}
		if s := h.loop.Status(); s.Healthy() || s.InForce != 1 {
			t.Errorf("status %+v", s)
		}
		for _, f := range vpc.Families() {
			if diff := cmp.Diff(saved[f], h.saved(t, f)); diff != "" {
				t.Errorf("%s (-before +now):\n%s", f, diff)
			}
		}
		good := after
		good.revision = 3
		apply(t, h.loop, good)
		h.checkInForce(t)
	})
}

func TestAfterABootTheLinksAreClosedUntilASnapshotIsInForce(t *testing.T) {
	onKernel(t, func(t *testing.T, h *host) {
		ctx := t.Context()
		before := h.foreignRules(t)
		closed, err := Close(ctx, h.loop.opt.IPTables, h.loop.opt.IPSet, "br-web", "eth5")
		if err != nil || !closed {
			t.Fatalf("closed %v: %v", closed, err)
		}
		for _, f := range vpc.Families() {
			now := h.saved(t, f)
			for _, rule := range []string{"-A GH-RAW -i br-web", "-A GH-RAW -i eth5", "-A GH-FWD -o br-web", "-A GH-FWD -o eth5"} {
				if !regexp.MustCompile("(?m)^" + rule + " .*-j DROP$").MatchString(now) {
					t.Errorf("%s: no %s … -j DROP in\n%s", f, rule, now)
				}
			}
			if d := cmp.Diff(before[f], withoutOurs(now)); d != "" {
				t.Errorf("%s: other people's rules changed (-before +after):\n%s", f, d)
			}
		}
		if closed, err := Close(ctx, h.loop.opt.IPTables, h.loop.opt.IPSet, "other"); err != nil || closed {
			t.Errorf("a second time: closed %v: %v", closed, err)
		}

		w := newWorld()
		if err := h.loop.Apply(ctx, w.snapshot()); err != nil {
			t.Fatal(err)
		}
		h.checkInForce(t)
		if h.loop.Current().refused {
			t.Error("TCP that is older than the boot has no time to become known")
		}
		for _, f := range vpc.Families() {
			if now := h.saved(t, f); strings.Contains(now, "eth5") {
				t.Errorf("%s: the closed links are left:\n%s", f, now)
			}
		}
		if closed, err := Close(ctx, h.loop.opt.IPTables, h.loop.opt.IPSet, "br-web"); err != nil || closed {
			t.Errorf("with rules in force: closed %v: %v", closed, err)
		}
		h.checkInForce(t)
	})
}

// Trees grow and lose levels where the number of links passes what one chain asks one by one.
func TestKernelTreesGrowAndShrink(t *testing.T) {
	onKernel(t, func(t *testing.T, h *host) {
		w := newWorld()
		for revision, n := range []int{7, 8, 15, 16, 17, 16, 2} {
			w.revision, w.switches = uint64(revision+1), nil
			for i := range n {
				w.switches = append(w.switches, fmt.Sprintf("s%d", i))
			}
			apply(t, h.loop, w)
			h.checkInForce(t)
		}
	})
}
