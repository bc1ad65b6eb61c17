package link

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"

	"gatehouse/vpc"
)

var update = flag.Bool("update", false, "write the golden files")

// model is a kernel in memory: enough of one to see where a sequence of steps leads.
type model struct {
	st      *state
	sysctls map[string]string
	next    int // index of the next link
}

func newModel() *model {
	m := &model{st: &state{links: map[string]*link{}}, next: 1, sysctls: map[string]string{
		ipForward: "0", ip6Forward: "0",
		"net/ipv4/conf/all/send_redirects": "1", "net/ipv4/conf/all/accept_redirects": "1",
		"net/ipv4/conf/default/forwarding": "0", "net/ipv6/conf/default/forwarding": "0",
		"net/ipv4/neigh/default/gc_thresh1": "128", "net/ipv4/neigh/default/gc_thresh2": "512", "net/ipv4/neigh/default/gc_thresh3": "1024",
		"net/ipv6/neigh/default/gc_thresh1": "128", "net/ipv6/neigh/default/gc_thresh2": "9999999", "net/ipv6/neigh/default/gc_thresh3": "9999999",
		bridgeNetfilter + "iptables": "0",
	}}
	m.st.sysctl = func(path string) (string, bool) { v, ok := m.sysctls[path]; return v, ok }
	return m
}

// add makes a link as somebody would.
func (m *model) add(name, kind string, up bool) *link {
	l := &link{index: m.next, name: name, kind: kind, mac: vpc.MAC{2, 9, 0, 0, 0, byte(m.next)}, up: up, carrier: up}
	m.next++
	if kind == "bridge" {
		l.bridge = map[uint16]uint32{}
		for _, a := range bridgeAttrs() {
			l.bridge[a.attr] = 0
		}
		l.bridge[nl.IFLA_BR_FORWARD_DELAY], l.bridge[nl.IFLA_BR_MCAST_SNOOPING] = 1500, 1
	}
	m.st.links[name] = l
	for k, v := range map[string]string{
		"ipv4/conf/%/forwarding": m.sysctls[ipForward], "ipv4/conf/%/send_redirects": "1", "ipv4/conf/%/accept_redirects": "1", "ipv4/conf/%/rp_filter": "0",
		"ipv4/conf/%/proxy_arp_pvlan": "0", "ipv4/neigh/%/proxy_delay": "79",
		"ipv6/conf/%/disable_ipv6": "0", "ipv6/conf/%/accept_ra": "1", "ipv6/conf/%/autoconf": "1", "ipv6/conf/%/accept_redirects": "1",
		"ipv6/conf/%/accept_dad": "1", "ipv6/conf/%/forwarding": m.sysctls[ip6Forward], "ipv6/conf/%/addr_gen_mode": "0",
	} {
		m.sysctls["net/"+strings.Replace(k, "%", name, 1)] = v
	}
	return l
}

// plug makes a port of a bridge.
func (m *model) plug(name string, bridge *link) *link {
	p := m.add(name, "veth", true)
	p.master, p.port = bridge.index, map[uint16]uint8{}
	for _, f := range portFlags() {
		p.port[f.attr] = f.initial
	}
	bridge.ports = append(bridge.ports, p)
	return p
}

func (m *model) at(index int) (*link, error) {
	for _, l := range m.st.links {
		if l.index == index {
			return l, nil
		}
	}
	return nil, errors.New("no such device")
}

// with calls f with the link of that index.
func (m *model) with(index int, f func(*link)) error {
	l, err := m.at(index)
	if err == nil {
		f(l)
	}
	return err
}

func (m *model) createBridge(name string, mac vpc.MAC) error {
	if m.st.links[name] != nil {
		return errors.New("exists")
	}
	l := m.add(name, "bridge", false)
	l.mac = mac
	for _, a := range bridgeAttrs() {
		l.bridge[a.attr] = a.want
	}
	return nil
}

func (m *model) setAlias(index int, alias string) error {
	return m.with(index, func(l *link) { l.alias = alias })
}

func (m *model) setMAC(index int, mac vpc.MAC) error {
	return m.with(index, func(l *link) { l.mac = mac })
}

func (m *model) setBridge(index int, attrs map[uint16]uint32) error {
	return m.with(index, func(l *link) { maps.Copy(l.bridge, attrs) })
}

func (m *model) setPort(index int, flags map[uint16]uint8) error {
	return m.with(index, func(l *link) { maps.Copy(l.port, flags) })
}

func (m *model) flushPort(index int) error {
	return m.with(index, func(l *link) {
		l.fdb = slices.DeleteFunc(l.fdb, func(e fdbEntry) bool { return e.kind == fdbLearned })
	})
}

func (m *model) deleteLink(index int) error {
	return m.with(index, func(l *link) {
		for _, p := range l.ports {
			p.master, p.port, p.fdb = 0, nil, nil
		}
		delete(m.st.links, l.name)
		m.st.routes = slices.DeleteFunc(m.st.routes, func(r route) bool { return slices.Contains(r.devs, index) })
		maps.DeleteFunc(m.sysctls, func(path, _ string) bool { return strings.Contains(path, "/"+l.name+"/") })
	})
}

func (m *model) setUp(index int, up bool) error {
	return m.with(index, func(l *link) {
		l.up, l.carrier = up, up
		m.st.routes = slices.DeleteFunc(m.st.routes, func(r route) bool { return slices.Contains(r.devs, index) })
		if up {
			for _, a := range l.addrs {
				m.connect(l, a)
			}
		} else {
			l.neighs = nil
		}
	})
}

// connect adds the route that the kernel makes for an address.
func (m *model) connect(l *link, a netip.Prefix) {
	if !a.IsSingleIP() && !a.Addr().IsLinkLocalUnicast() {
		m.st.routes = append(m.st.routes, route{dst: a.Masked(), devs: []int{l.index}, unicast: true, kernel: true, family: vpc.FamilyOf(a.Addr())})
	}
}

func (m *model) addAddr(index int, a netip.Prefix) error {
	return m.with(index, func(l *link) {
		l.addrs = append(l.addrs, a)
		if l.up {
			m.connect(l, a)
		}
	})
}

func (m *model) deleteAddr(index int, a netip.Prefix) error {
	return m.with(index, func(l *link) {
		l.addrs = slices.DeleteFunc(l.addrs, func(b netip.Prefix) bool { return a == b })
		m.st.routes = slices.DeleteFunc(m.st.routes, func(r route) bool {
			return r.kernel && slices.Contains(r.devs, index) && r.dst == a.Masked()
		})
	})
}

func (m *model) replaceRoute(dst netip.Prefix, dev int, via, _ netip.Addr) error {
	r := route{dst: dst, via: via, ours: true, family: vpc.FamilyOf(dst.Addr())}
	if dev != 0 {
		r.devs, r.unicast = []int{dev}, true
	}
	m.st.routes = append(m.st.routes, r)
	return nil
}

func (m *model) deleteRoute(dst netip.Prefix, dev int) error {
	m.st.routes = slices.DeleteFunc(m.st.routes, func(r route) bool {
		return r.ours && r.dst == dst && (dev == 0) == (len(r.devs) == 0)
	})
	return nil
}

func (m *model) replaceNeigh(index int, a netip.Addr, mac vpc.MAC) error {
	return m.with(index, func(l *link) {
		if l.neighs == nil {
			l.neighs = map[netip.Addr]neigh{}
		}
		l.neighs[a] = neigh{mac, true}
	})
}

func (m *model) deleteNeigh(index int, a netip.Addr) error {
	return m.with(index, func(l *link) { delete(l.neighs, a) })
}

func (m *model) replaceFDB(port int, mac vpc.MAC) error {
	for _, l := range m.st.links {
		l.fdb = slices.DeleteFunc(l.fdb, func(e fdbEntry) bool { return e.mac == mac })
	}
	return m.with(port, func(l *link) { l.fdb = append(l.fdb, fdbEntry{mac: mac, kind: fdbStatic, sticky: true}) })
}

func (m *model) deleteFDB(port int, mac vpc.MAC, _ uint16) error {
	return m.with(port, func(l *link) {
		l.fdb = slices.DeleteFunc(l.fdb, func(e fdbEntry) bool { return e.mac == mac })
	})
}

func (m *model) setSysctl(path, value string) error {
	m.sysctls[path] = value
	family, ok := map[string]string{ipForward: "ipv4", ip6Forward: "ipv6"}[path]
	if !ok {
		return nil
	}
	for k := range m.sysctls { // the switch for the host switches every link
		if strings.HasPrefix(k, "net/"+family+"/conf/") && strings.HasSuffix(k, "/forwarding") {
			m.sysctls[k] = value
		}
	}
	if path == ipForward {
		m.sysctls["net/ipv4/conf/all/accept_redirects"] = map[string]string{"0": "1", "1": "0"}[value]
	}
	return nil
}

// String shows everything, in order.
func (m *model) String() string {
	var lines []string
	for _, name := range sortedKeys(m.st.links) {
		l := m.st.links[name]
		addrs := slices.Clone(l.addrs)
		slices.SortFunc(addrs, netip.Prefix.Compare)
		held := slices.DeleteFunc(slices.Clone(l.fdb), func(e fdbEntry) bool { return e.kind == fdbLearned }) // those come and go
		lines = append(lines, fmt.Sprint(name, l.kind, l.alias, l.mac, l.up, l.bridge, l.port, addrs, len(l.neighs), held))
		for _, a := range sortedAddrs(l.neighs) {
			lines = append(lines, fmt.Sprint(name, a, l.neighs[a]))
		}
	}
	var routes []string
	for _, r := range m.st.routes {
		devs := ""
		for _, i := range r.devs {
			if l, err := m.at(i); err == nil {
				devs += " " + l.name
			}
		}
		routes = append(routes, fmt.Sprint(r.dst, r.via, devs, r.ours, r.unicast, r.kernel))
	}
	slices.Sort(routes)
	lines = append(lines, routes...)
	for _, k := range sortedKeys(m.sysctls) {
		lines = append(lines, k+" = "+m.sysctls[k])
	}
	return strings.Join(lines, "\n")
}

// host is a model of a host with an uplink, a bridge to adopt with two guests on it, and an interface to serve.
func host() *model {
	m := newModel()
	up := m.add("up0", "", true)
	m.st.routes = []route{{dst: netip.MustParsePrefix("0.0.0.0/0"), devs: []int{up.index}, unicast: true}}
	up.addrs = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}
	m.connect(up, up.addrs[0])
	br := m.add("br0", "bridge", false)
	one := m.plug("tap1", br)
	one.fdb = []fdbEntry{{mac: nic(1).MAC}} // learned
	m.plug("tap2", br).port[nl.IFLA_BRPORT_LEARNING] = 0
	m.add("eth1", "", false)
	m.sysctls["net/ipv4/conf/eth1/forwarding"] = "1"
	return m
}

// mixed is a snapshot with every kind of link.
func mixed() *vpc.Snapshot {
	return network(2, func(v *vpc.VPCSpec) {
		v.VSwitches[0].Attach = vpc.AttachSpec{Bridge: "br0"}
		v.Instances[1].Interfaces[0].Port = "tap2"
		v.Instances[1].Interfaces[0].IPv6Prefixes = []netip.Prefix{netip.MustParsePrefix("fd00:20:0:1:5::/80")}
		v.VSwitches = append(v.VSwitches,
			&vpc.VSwitchSpec{ID: "vsw-1f2e3d4c5b6a7988", Name: "own", CIDRBlock: netip.MustParsePrefix("10.20.2.0/24"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20:0:2::/64")},
			&vpc.VSwitchSpec{ID: "vsw-2f2e3d4c5b6a7988", Name: "v4", CIDRBlock: netip.MustParsePrefix("10.20.4.0/24")},
			&vpc.VSwitchSpec{ID: "vsw-3f2e3d4c5b6a7988", Name: "plain", CIDRBlock: netip.MustParsePrefix("10.20.3.0/24"), IPv6CIDRBlock: netip.MustParsePrefix("fd00:20:0:3::/64"),
				Attach: vpc.AttachSpec{Interface: "eth1"}},
		)
	})
}

// converge takes steps until there are none, at most limit of them; it returns those taken and whether the end was reached.
func (m *model) converge(t *testing.T, p *plan, u **undo, limit int) (taken []string, done bool) {
	t.Helper()
	for range maxPasses {
		saved, err := (*u).encode() // what a restart would read
		if err != nil {
			t.Fatal(err)
		}
		if *u, err = parseUndo(saved, "boot"); err != nil {
			t.Fatal(err)
		}
		out := diff(p, m.st, *u, nil, time.Unix(0, 0))
		if err := errors.Join(out.refused...); err != nil {
			t.Fatalf("refused: %v", err)
		}
		*u = out.undo
		if len(out.steps) == 0 {
			return taken, true
		}
		for _, s := range out.steps {
			if len(taken) == limit {
				return taken, false
			}
			taken = append(taken, s.what)
			if err := s.do(m); err != nil {
				t.Fatalf("%s: %v", s.what, err)
			}
		}
	}
	t.Fatalf("still something to do after %d passes: %s", maxPasses, taken[len(taken)-1])
	return nil, false
}

const noLimit = 1 << 30

func emptyUndo() *undo {
	return &undo{Boot: "boot", Host: map[string]saved{}, Links: map[string]*linkUndo{}}
}

func TestTheStepsOfAColdApplyAndOfATeardown(t *testing.T) {
	m, u := host(), emptyUndo()
	up, _ := m.converge(t, newPlan(mixed()), &u, noLimit)
	down, _ := m.converge(t, newPlan(nil), &u, noLimit)
	got := strings.Join(up, "\n") + "\n\n" + strings.Join(down, "\n") + "\n"
	golden := filepath.Join("testdata", "steps.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		same(t, string(want), got)
		t.Error("the steps are others, or in another order")
	}
}

func TestAProcessThatDiesBetweenAnyTwoStepsLosesNothing(t *testing.T) {
	m, u := host(), emptyUndo()
	before := m.String()
	steps, _ := m.converge(t, newPlan(mixed()), &u, noLimit)
	want := m.String()
	down, _ := m.converge(t, newPlan(nil), &u, noLimit)
	if m.String() != before {
		same(t, before, m.String())
		t.Fatal("teardown does not lead back")
	}
	if len(u.Links)+len(u.Host) != 0 {
		t.Errorf("after a teardown there is still something to put back: %+v", u)
	}
	for k := range steps {
		m, u := host(), emptyUndo()
		m.converge(t, newPlan(mixed()), &u, k)
		m.converge(t, newPlan(mixed()), &u, noLimit)
		if m.String() != want {
			same(t, want, m.String())
			t.Fatalf("killed after %q and started again: another end", steps[max(k-1, 0)])
		}
		m, u = host(), emptyUndo()
		m.converge(t, newPlan(mixed()), &u, k)
		m.converge(t, newPlan(nil), &u, noLimit)
		if m.String() != before {
			same(t, before, m.String())
			t.Fatalf("killed after %q and torn down: not as before", steps[max(k-1, 0)])
		}
	}
	for k := range down {
		m, u := host(), emptyUndo()
		m.converge(t, newPlan(mixed()), &u, noLimit)
		m.converge(t, newPlan(nil), &u, k)
		m.converge(t, newPlan(nil), &u, noLimit)
		if m.String() != before {
			same(t, before, m.String())
			t.Fatalf("teardown killed after %q and called again: not as before", down[max(k-1, 0)])
		}
	}
}

func TestBridgesOfALostJournalAreKnownAgain(t *testing.T) {
	m, u := newModel(), emptyUndo()
	m.converge(t, newPlan(network(1, nil)), &u, noLimit)
	u = emptyUndo()
	if steps, _ := m.converge(t, newPlan(network(1, nil)), &u, noLimit); len(steps) != 0 {
		t.Errorf("the same snapshot asks for %q", steps)
	}
	u = emptyUndo()
	m.converge(t, newPlan(nil), &u, noLimit)
	if m.st.links["gh-web"] != nil || len(m.st.routes) != 0 {
		t.Errorf("left behind: %v %v", m.st.links, m.st.routes)
	}
}

func TestARouteFollowsThePrefix(t *testing.T) {
	const prefix = "fd00:20:0:1:5::/80"
	with := func(guest int, edit func(*vpc.InterfaceSpec)) *plan {
		return newPlan(network(2, func(v *vpc.VPCSpec) {
			if guest > 0 {
				n := v.Instances[guest-1].Interfaces[0]
				n.IPv6Prefixes = []netip.Prefix{netip.MustParsePrefix(prefix)}
				edit(n)
			}
		}))
	}
	same := func(*vpc.InterfaceSpec) {}
	m, u := newModel(), emptyUndo()
	for _, tt := range []struct {
		name string
		plan *plan
		via  string // "": no route
	}{
		{"nobody has the prefix", with(0, nil), ""},
		{"a guest gets it", with(1, same), "fd00:20:0:1::1"},
		{"another guest gets it", with(2, same), "fd00:20:0:1::2"},
		{"the guest gets another address", with(2, func(n *vpc.InterfaceSpec) { n.IPv6Addresses[0] = netip.MustParseAddr("fd00:20:0:1::9") }), "fd00:20:0:1::9"},
		{"it is taken away", with(0, nil), ""},
	} {
		m.converge(t, tt.plan, &u, noLimit)
		var via []string
		for _, r := range m.st.routes {
			if r.dst.String() == prefix {
				via = append(via, r.via.String())
			}
		}
		if got := strings.Join(via, " "); got != tt.via {
			t.Errorf("%s: it leads over %q, want %q", tt.name, got, tt.via)
		}
	}
}

func TestAnotherBootForgetsWhatWasBefore(t *testing.T) {
	u := emptyUndo()
	u.Host[ipForward] = saved{Was: "0", Set: "1"}
	u.Links["br0"] = &linkUndo{VSwitch: "vsw-1"}
	data, err := u.encode()
	if err != nil {
		t.Fatal(err)
	}
	same, err := parseUndo(data, "boot")
	if err != nil || len(same.Host) != 1 || len(same.Links) != 1 {
		t.Errorf("same boot: %+v, %v", same, err)
	}
	other, err := parseUndo(data, "another")
	if err != nil || len(other.Host) != 0 || len(other.Links) != 0 || other.Boot != "another" {
		t.Errorf("another boot: %+v, %v", other, err)
	}
	if _, err := parseUndo([]byte("{"), "boot"); err == nil {
		t.Error("a torn document is taken for an empty one")
	}
}

func TestBrNetfilterThatARuleLoadsIsSwitchedOffForTheHost(t *testing.T) {
	m, u := newModel(), emptyUndo()
	u.NetfilterAbsent = true // as New found it
	m.sysctls[bridgeNetfilter+"iptables"], m.sysctls[bridgeNetfilter+"ip6tables"] = "1", "1"
	m.converge(t, newPlan(network(0, nil)), &u, noLimit)
	if m.sysctls[bridgeNetfilter+"iptables"] != "0" || m.sysctls[bridgeNetfilter+"ip6tables"] != "0" {
		t.Error("bridges of others are filtered")
	}
	m.sysctls[bridgeNetfilter+"iptables"] = "1" // the administrator's choice
	m.converge(t, newPlan(network(0, nil)), &u, noLimit)
	if m.sysctls[bridgeNetfilter+"iptables"] != "1" {
		t.Error("what was switched on later is switched off")
	}
}

func TestAKernelThatCannotLockOrIsolatePortsIsAFinding(t *testing.T) {
	m, u := newModel(), emptyUndo()
	m.converge(t, newPlan(network(0, nil)), &u, noLimit)
	p := m.plug("tap1", m.st.links["gh-web"])
	delete(p.port, nl.IFLA_BRPORT_LOCKED)
	delete(p.port, nl.IFLA_BRPORT_ISOLATED)
	m.converge(t, newPlan(network(0, nil)), &u, noLimit)
	out := diff(newPlan(network(0, nil)), m.st, u, nil, time.Unix(0, 0))
	if !found(out.findings, FindingUnlocked, "gh-web") || !found(out.findings, FindingNotIsolated, "gh-web") {
		t.Errorf("findings: %v", out.findings)
	}
	if p.port[nl.IFLA_BRPORT_LEARNING] != 0 {
		t.Error("the port learns, though that could be switched off")
	}
}
