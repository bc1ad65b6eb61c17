package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse/firewall"
	"gatehouse/firewall/conntrack"
	"gatehouse/firewall/ipset"
	"gatehouse/firewall/iptables"
	"gatehouse/firewall/reconcile"
	"gatehouse/internal/netlab"
	"gatehouse/internal/polgen"
	"gatehouse/server/link"
	"gatehouse/server/port"
	"gatehouse/vpc"
)

// The heart of the suite: random policies, random packets, and three answers that must be one. The plain policy and the
// walk through the compiled rules are compared in package firewall by the thousand; here real frames go into the ports of
// a gateway, and what comes out of the others is compared with both.
//
// Guests are cables with nothing behind them but a packet socket: frames are made by hand, forged ones too, and all
// probes of a policy are sent at once. A round of ARP to the gateway, from every cable, is the control that ends it.

const (
	driverEnv   = "GATEHOUSE_TEST_DRIVER" // the test binary is then the gateway's driver, with this backend
	soakEnv     = "GATEHOUSE_SOAK"
	cables      = 12
	uplinkCable = cables // its number
	probes      = 60     // of each policy, answers not counted

	gatewayUp4, nextHop4 = "192.0.2.1", "192.0.2.2"
	gatewayUp6, nextHop6 = "2001:db8:ffff::1", "2001:db8:ffff::2"
)

var nextHopMAC = vpc.MAC{0x02, 0, 0, 0, 0xff, 0x02}

func TestMain(m *testing.M) {
	if backend := os.Getenv(driverEnv); backend != "" {
		if err := drive(context.Background(), backend, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	removeBuilt()
	os.Exit(code)
}

// order is what the driver is told, a line each; it answers "ok" or what went wrong.
type order struct {
	Spec *vpc.Spec
	Host vpc.Host
}

// memory is a journal for a gateway that never restarts.
type memory struct{ data []byte }

func (m *memory) Load(context.Context) ([]byte, error)      { return m.data, nil }
func (m *memory) Save(_ context.Context, data []byte) error { m.data = data; return nil }

// drive puts the Specs that it reads in force, with the daemon's own drivers, in the namespace that it was started in.
func drive(ctx context.Context, backend string, in io.Reader, out io.Writer) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	b, features, err := iptables.Probe(ctx, iptables.Config{Backend: backend, MarkMask: 0xffff0000})
	if err != nil {
		return err
	}
	tables, err := iptables.New(b)
	if err != nil {
		return err
	}
	sets, err := ipset.New()
	if err != nil {
		return err
	}
	var ports *port.Set
	links, err := link.New(ctx, link.Options{Logger: log, Journal: &memory{}, OnPort: func(p link.Port, up bool) error {
		if up {
			return ports.Add(port.Port{Index: p.Index, Name: p.Name, VSwitch: p.VSwitch, LinkMAC: p.LinkMAC, Bridged: p.Name != p.Link})
		}
		return ports.Remove(p.Index)
	}})
	if err != nil {
		return err
	}
	ports = port.NewSet(log, links)
	loop := reconcile.New(reconcile.Options{IPTables: tables, IPSet: sets, Conntrack: conntrack.New(), Features: features, Logger: log, VerifyInterval: time.Hour})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go loop.Run(ctx)
	go links.Run(ctx)
	dec := json.NewDecoder(in)
	for revision := uint64(1); ; revision++ {
		var o order
		if err := dec.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		s := vpc.NewSnapshot(o.Spec, o.Host, revision)
		err := loop.Apply(ctx, s)
		if err == nil {
			err = links.Apply(ctx, s)
		}
		answer := "ok"
		if err != nil {
			answer = err.Error()
		}
		fmt.Fprintf(out, "%q\n", answer)
	}
}

// rig is a gateway with cables plugged in, and the sockets at their other ends.
type rig struct {
	t       *testing.T
	ctx     context.Context
	gateway *netlab.Space
	orders  *json.Encoder
	answers *json.Decoder
	socket  int                 // AF_PACKET, hears every cable
	index   [cables + 1]int     // of each cable's far end
	cableOf map[int]int         // the inverse
	lans    map[string]bool     // switches that are somebody else's
	mac     [cables + 1]vpc.MAC // of the gateway on each cable, as frames to it are addressed
}

func newRig(t *testing.T, ctx context.Context, backend string) *rig {
	t.Helper()
	lab, err := netlab.New("kernel")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &rig{t: t, ctx: ctx, cableOf: map[int]int{}, lans: map[string]bool{}}
	r.gateway, err = lab.Space("gw")
	if err != nil {
		t.Fatal(err)
	}
	wires, err := lab.Space("wires")
	if err != nil {
		t.Fatal(err)
	}
	// Nothing at the far ends speaks by itself.
	r.must(wires.Script(ctx, "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6\n"))
	for i := range cables {
		if err := lab.Veth(ctx, r.gateway, fmt.Sprintf("p%d", i), wires, fmt.Sprintf("w%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := lab.Veth(ctx, r.gateway, "up0", wires, fmt.Sprintf("w%d", uplinkCable)); err != nil {
		t.Fatal(err)
	}
	r.must(wires.Script(ctx, fmt.Sprintf("for i in $(seq 0 %d); do ip link set w$i arp off; done\n", uplinkCable)))
	r.must(r.gateway.Script(ctx, fmt.Sprintf(`
sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.up0.rp_filter=0
sysctl -qw net.ipv4.icmp_msgs_per_sec=100000 net.ipv4.icmp_msgs_burst=100000 2>/dev/null || true
ip addr add %s/30 dev up0
ip -6 addr add %s/64 dev up0 nodad
ip neigh add %s lladdr %s dev up0 nud permanent
ip -6 neigh add %s lladdr %s dev up0 nud permanent
ip route add default via %s
ip -6 route add default via %s
`, gatewayUp4, gatewayUp6, nextHop4, nextHopMAC, nextHop6, nextHopMAC, nextHop4, nextHop6)))
	err = wires.Do(func() error {
		var err error
		r.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		for i := range r.index {
			ifi, err := net.InterfaceByName("w" + strconv.Itoa(i))
			if err != nil {
				return err
			}
			r.index[i], r.cableOf[ifi.Index] = ifi.Index, i
		}
		return unix.SetsockoptInt(r.socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(r.socket) })
	r.startDriver(backend)
	return r
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }

func (r *rig) must(out string, err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("%v %s", err, out)
	}
}

func (r *rig) startDriver(backend string) {
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := r.gateway.Command(r.ctx, "env", driverEnv+"="+backend, self)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		in.Close()
		var exit *exec.ExitError
		if err := cmd.Wait(); errors.As(err, &exit) && r.ctx.Err() == nil {
			r.t.Errorf("the driver: %v", err)
		}
	})
	r.orders, r.answers = json.NewEncoder(in), json.NewDecoder(out)
}

// apply puts a policy in force, forgets all flows, and plugs every interface into its vSwitch.
func (r *rig) apply(s *vpc.Snapshot) {
	r.t.Helper()
	wanted := plainLinks(s)
	r.must("", r.gateway.Do(func() error { return r.plug(wanted) }))
	if err := r.orders.Encode(order{s.Spec, s.Host}); err != nil {
		r.t.Fatal(err)
	}
	var answer string
	if err := r.answers.Decode(&answer); err != nil {
		r.t.Fatal(err)
	}
	if answer != "ok" {
		r.t.Fatalf("put in force: %s", answer)
	}
	r.must("", r.gateway.Do(func() error { return r.unplug(wanted) }))
	err := r.gateway.Do(func() error {
		for _, f := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
				return fmt.Errorf("flush flows of family %d: %w", f, err)
			}
		}
		for i := range cables {
			port, err := netlink.LinkByName("p" + strconv.Itoa(i))
			if err != nil {
				return fmt.Errorf("p%d: %w", i, err)
			}
			if err := netlink.LinkSetNoMaster(port); err != nil {
				return err
			}
			if i >= len(s.Interfaces) {
				continue
			}
			name := s.Interfaces[i].VSwitch.LinkName()
			bridge, err := netlink.LinkByName(name)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := netlink.LinkSetMaster(port, bridge); err != nil {
				return err
			}
			if err := netlink.LinkSetUp(port); err != nil {
				return err
			}
			copy(r.mac[i][:], bridge.Attrs().HardwareAddr)
		}
		up, err := netlink.LinkByName("up0")
		if err == nil {
			copy(r.mac[uplinkCable][:], up.Attrs().HardwareAddr)
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.settle(s, 10*time.Second)
}

// scene is what the gateway's kernel has to say of where packets went.
func (r *rig) scene() string {
	out, err := r.gateway.Script(r.ctx, `set +e
for f in -4 -6; do ip $f addr; ip $f route show table all; ip $f neigh; done
bridge fdb | grep -v 33:33
ip -s link
nstat -asz | grep -vE ' 0 +0.0$'
conntrack -L 2>/dev/null; conntrack -L -f ipv6 2>/dev/null
for t in iptables-save ip6tables-save; do $t -c 2>/dev/null | grep -v '^\[0:0\]' | grep -v '^:'; done
`)
	if err != nil {
		return out + err.Error()
	}
	return out
}

// plainLinks names the links that plain vSwitches are attached to.
func plainLinks(s *vpc.Snapshot) map[string]bool {
	names := map[string]bool{}
	for _, w := range s.VSwitches {
		if w.Attach.Interface != "" {
			names[w.Attach.Interface] = true
		}
	}
	return names
}

// plug makes them: somebody else's switches, on which nothing is isolated.
func (r *rig) plug(wanted map[string]bool) error {
	for name := range wanted {
		if r.lans[name] {
			continue
		}
		l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: net.HardwareAddr{0x02, 0, 0, 0, 0xee, byte(len(r.lans))}}}
		if err := netlink.LinkAdd(l); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		r.lans[name] = true
	}
	return nil
}

// unplug removes those that no vSwitch is attached to any more.
func (r *rig) unplug(wanted map[string]bool) error {
	for name := range r.lans {
		if wanted[name] {
			continue
		}
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkDel(l)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		delete(r.lans, name)
	}
	return nil
}

func (r *rig) send(cable int, frame []byte) {
	r.t.Helper()
	for {
		err := unix.Sendto(r.socket, frame, 0, &unix.SockaddrLinklayer{Ifindex: r.index[cable], Protocol: htons(unix.ETH_P_ALL)})
		if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			r.t.Fatalf("send on cable %d: %v", cable, err)
		}
		return
	}
}

// arrival is a frame that came out of a cable.
type arrival struct {
	cable int
	segment
	arp bool
}

// is reports whether the frame carries the packet itself and not an error about it.
func (a arrival) is(p vpc.Packet) bool {
	icmp := p.Protocol == vpc.ProtocolICMP || p.Protocol == vpc.ProtocolICMPv6
	return a.protocol == p.Protocol && (!icmp || a.icmpType == p.ICMPType)
}

// receive gives what has arrived, waiting for it up to the given time.
func (r *rig) receive(wait time.Duration) []arrival {
	var out []arrival
	buf := make([]byte, 4096)
	for {
		fds := []unix.PollFd{{Fd: int32(r.socket), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, int(wait.Milliseconds())); n == 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return out
		}
		for {
			n, from, err := unix.Recvfrom(r.socket, buf, 0)
			if err != nil {
				break
			}
			ll, ok := from.(*unix.SockaddrLinklayer)
			if !ok || ll.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			a := arrival{cable: r.cableOf[ll.Ifindex]}
			a.arp = n >= 42 && buf[12] == 0x08 && buf[13] == 0x06 && buf[21] == 2
			if a.segment, ok = parseFrame(buf[:n]); ok || a.arp {
				out = append(out, a)
			}
		}
		wait = 0
	}
}

// settle sends a round of ARP from every cable and waits for the answers: then everything sent before has been dealt with,
// and every port holds its guest's MAC. It returns what else arrived.
func (r *rig) settle(s *vpc.Snapshot, patience time.Duration) []arrival {
	r.t.Helper()
	var other []arrival
	waiting := map[int]bool{}
	for i := range s.Interfaces {
		waiting[i] = true
	}
	for deadline := time.Now().Add(patience); len(waiting) > 0; {
		if time.Now().After(deadline) {
			r.t.Fatalf("no answer to ARP on cables %v", waiting)
		}
		for i := range waiting {
			n := s.Interfaces[i]
			r.send(i, arpRequest(n.MAC, n.PrivateIP, n.VSwitch.GatewayAddr(vpc.IPv4)))
		}
		for range 5 {
			for _, a := range r.receive(10 * time.Millisecond) {
				if a.arp {
					delete(waiting, a.cable)
				} else {
					other = append(other, a)
				}
			}
			if len(waiting) == 0 {
				break
			}
		}
	}
	return append(other, r.receive(15*time.Millisecond)...)
}

// probe is one packet with what must become of it.
type probe struct {
	packet vpc.Packet
	out    vpc.Place
	want   vpc.Verdict
	from   int // cable
	got    []arrival
	reply  bool
}

// cableFor finds the cable of the interface that an address belongs to.
func cableFor(s *vpc.Snapshot, a netip.Addr) int {
	owner := s.InterfaceByAddr(a)
	return slices.IndexFunc(s.Interfaces, func(n *vpc.Interface) bool { return n == owner })
}

// flowKey identifies a flow without its direction; two probes of one flow would meet the first one's connection.
func flowKey(p vpc.Packet) string {
	a, b := netip.AddrPortFrom(p.Src, p.SrcPort).String(), netip.AddrPortFrom(p.Dst, p.DstPort).String()
	return fmt.Sprintf("%s %s %s", p.Protocol, min(a, b), max(a, b))
}

// choose picks the packets of a policy that can be told apart on the wire.
func (r *rig) choose(rnd *rand.Rand, s *vpc.Snapshot, n int) []*probe {
	var list []*probe
	seen := map[string]bool{}
	for _, p := range polgen.FirstPackets(rnd, s, n) {
		pr := &probe{packet: p, out: s.Route(p.Dst), from: uplinkCable}
		keys := []string{flowKey(p)}
		if v := s.VPCOf(p.Dst); v != nil && p.In.Kind == vpc.PlaceUplink && vpc.FamilyOf(p.Dst) == vpc.IPv6 && rnd.IntN(2) == 0 {
			for _, t := range s.Translations(v) { // the same by the prefix that the VPC is known by
				p.Dst = vpc.Rebase(p.Dst, t.External)
			}
			pr.packet = p
		}
		if p.Protocol == vpc.ProtocolICMP || p.Protocol == vpc.ProtocolICMPv6 {
			keys[0] = fmt.Sprint(keys[0], len(list)) // each has an identifier of its own
		}
		if pr.out.Kind == vpc.PlaceUplink && !p.Protocol.HasPorts() {
			keys = append(keys, fmt.Sprintf("%s %s", p.Protocol, p.Dst)) // masquerading cannot tell two of them apart
		}
		if pr.out.Kind == vpc.PlaceGateway && !p.Protocol.HasPorts() && p.Protocol != vpc.ProtocolICMP && p.Protocol != vpc.ProtocolICMPv6 {
			continue // the host answers nothing to those, whether it hears them or not
		}
		if p.In.Kind == vpc.PlaceVSwitch {
			nic := s.InterfaceByMAC(p.SrcMAC)
			pr.from = slices.Index(s.Interfaces, nic)
		}
		if pr.from < 0 || slices.ContainsFunc(keys, func(k string) bool { return seen[k] }) {
			continue
		}
		for _, k := range keys {
			seen[k] = true
		}
		pr.want = vpc.Evaluate(s, p)
		list = append(list, pr)
	}
	return list
}

// frame writes the probe's frame.
func (r *rig) frame(pr *probe, id uint32) []byte {
	p := pr.packet
	seg := segment{
		srcMAC: p.SrcMAC, dstMAC: r.mac[pr.from], src: p.Src, dst: p.Dst, protocol: p.Protocol,
		srcPort: p.SrcPort, dstPort: p.DstPort, flags: flagSYN, icmpType: p.ICMPType, id: id,
	}
	if pr.from == uplinkCable {
		seg.srcMAC = nextHopMAC
	}
	if p.Group {
		seg.dstMAC = vpc.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	if p.NoSYN {
		seg.flags = flagSYN | flagACK
	}
	if p.Protocol == vpc.ProtocolICMP || p.Protocol == vpc.ProtocolICMPv6 {
		if !pr.reply {
			seg.srcPort = uint16(id)
		}
	}
	return seg.bytes()
}

// round sends all probes and collects what came of them.
func (r *rig) round(s *vpc.Snapshot, list []*probe) {
	for i, pr := range list {
		pr.got = nil
		r.send(pr.from, r.frame(pr, uint32(i+1)))
	}
	for _, a := range r.settle(s, 10*time.Second) {
		if a.id > 0 && int(a.id) <= len(list) {
			pr := list[a.id-1]
			pr.got = append(pr.got, a)
			continue
		}
		if a.protocol == vpc.ProtocolTCP && a.flags&flagRST != 0 { // carries nothing of the probe
			for _, pr := range list {
				p := pr.packet
				if pr.out.Kind == vpc.PlaceGateway && a.src == p.Dst && a.dst == p.Src && a.srcPort == p.DstPort && a.dstPort == p.SrcPort {
					pr.got = append(pr.got, a)
				}
			}
		}
	}
}

// passed says whether the probe came out where it belongs, and complains about everywhere else.
func (pr *probe) passed(s *vpc.Snapshot) (bool, error) {
	passed := false
	for _, a := range pr.got {
		if pr.out.Kind == vpc.PlaceGateway {
			passed = true // whatever the host answers: it has heard the packet
			continue
		}
		if !a.is(pr.packet) {
			continue // an error that quotes the packet
		}
		want := uplinkCable
		if pr.out.Kind == vpc.PlaceVSwitch {
			want = cableFor(s, s.Translated(pr.packet).Dst)
		}
		if a.cable != want {
			return false, fmt.Errorf("came out of cable %d instead of %d", a.cable, want)
		}
		if pr.out.Kind == vpc.PlaceVSwitch && a.dstMAC != s.Interfaces[want].MAC {
			return false, fmt.Errorf("came out addressed to %s instead of %s", a.dstMAC, s.Interfaces[want].MAC)
		}
		if src, dst := pr.addresses(s); !pr.reply && vpc.FamilyOf(dst) == vpc.IPv6 && (a.src != src || a.dst != dst) {
			return false, fmt.Errorf("came out from %s to %s instead of from %s to %s", a.src, a.dst, src, dst)
		}
		passed = true
	}
	return passed, nil
}

// addresses are those that the probe has when it comes out, if it is one of IPv6.
func (pr *probe) addresses(s *vpc.Snapshot) (src, dst netip.Addr) {
	src, dst = pr.packet.Src, s.Translated(pr.packet).Dst
	if v := s.VPCOf(src); v != nil && pr.out.Kind == vpc.PlaceUplink {
		for _, t := range s.Translations(v) {
			if t.Internal.Contains(src) {
				src = vpc.Rebase(src, t.External)
			}
		}
	}
	return src, dst
}

// replies makes the answer to every probe that was delivered, from what was delivered: masquerading may have changed it.
func replies(s *vpc.Snapshot, list []*probe) []*probe {
	var out []*probe
	for _, pr := range list {
		if pr.out.Kind == vpc.PlaceGateway {
			continue
		}
		for _, a := range pr.got {
			p := s.Translated(pr.packet)
			if !a.is(p) {
				continue
			}
			back := vpc.Packet{
				In: pr.out, Src: p.Dst, Dst: p.Src, Protocol: p.Protocol, SrcPort: p.DstPort, DstPort: p.SrcPort,
				State: vpc.StateEstablished, NoSYN: true,
			}
			switch p.Protocol {
			case vpc.ProtocolICMP:
				back.ICMPType = 0
			case vpc.ProtocolICMPv6:
				back.ICMPType = 129
			}
			answer := &probe{out: p.In, want: vpc.Evaluate(s, back), from: a.cable, reply: true}
			// What goes on the wire is addressed to where the packet seemed to come from.
			back.Src, back.Dst, back.SrcPort, back.DstPort = a.dst, a.src, a.dstPort, a.srcPort
			if p.Protocol == vpc.ProtocolICMP || p.Protocol == vpc.ProtocolICMPv6 {
				back.SrcPort = a.srcPort // the identifier
			}
			back.SrcMAC = a.dstMAC
			answer.packet = back
			out = append(out, answer)
			break
		}
	}
	return out
}

// backfire makes, for every refused probe over UDP, the packet that would be the answer to it: a refused packet must not
// make its answer part of a known flow.
func backfire(s *vpc.Snapshot, list []*probe) []*probe {
	var out []*probe
	for _, pr := range list {
		p := s.Translated(pr.packet)
		if p.Protocol != vpc.ProtocolUDP || pr.want.Allowed || pr.out.Kind == vpc.PlaceGateway || pr.out.Kind == vpc.PlaceNowhere {
			continue
		}
		back := vpc.Packet{In: pr.out, Src: p.Dst, Dst: p.Src, Protocol: p.Protocol, SrcPort: p.DstPort, DstPort: p.SrcPort}
		from := uplinkCable
		if pr.out.Kind == vpc.PlaceVSwitch {
			nic := s.InterfaceByAddr(p.Dst)
			if nic == nil {
				continue
			}
			back.SrcMAC, from = nic.MAC, slices.Index(s.Interfaces, nic)
		}
		out = append(out, &probe{packet: back, out: s.Route(back.Dst), want: vpc.Evaluate(s, back), from: from})
	}
	return out
}

// check compares what came of the probes with the policy, once more for those that seem lost: a leak is never forgiven.
func (r *rig) check(t *testing.T, seed uint64, s *vpc.Snapshot, list []*probe, original func(*probe) netip.Addr) {
	t.Helper()
	r.round(s, list)
	for attempt := 0; ; attempt++ {
		var lost []*probe
		for _, pr := range list {
			sent := pr.packet.Dst
			if original != nil {
				pr.packet.Dst = original(pr)
			}
			passed, err := pr.passed(s)
			pr.packet.Dst = sent
			switch {
			case err != nil:
				t.Fatalf("seed %d: %s: %v\n%s", seed, polgen.DescribePacket(pr.packet), err, polgen.Describe(s.Spec, pr.packet))
			case passed && !pr.want.Allowed:
				d, _ := pr.want.Deciding()
				t.Fatalf("seed %d: LEAKED, but the policy drops it at %s (%s): reply %v\n%s", seed, d.Stage, d.Reason, pr.reply, polgen.Describe(s.Spec, pr.packet))
			case !passed && pr.want.Allowed:
				lost = append(lost, pr)
			}
		}
		if len(lost) == 0 {
			return
		}
		if attempt == 2 {
			pr := lost[0]
			before := pr.got
			scene := r.scene()
			r.settle(s, 10*time.Second)
			r.round(s, lost)
			t.Fatalf("seed %d: LOST, but the policy admits it: reply %v, arrived %+v, and later %+v\n%s\n%+v\n%s", seed, pr.reply, before, pr.got,
				polgen.Describe(s.Spec, pr.packet), pr.want, scene)
		}
		list = lost
		r.round(s, list)
	}
}

func TestTheKernelDoesWhatThePolicySays(t *testing.T) {
	policies, rigs := 110, 1 // of each backend
	if os.Getenv(soakEnv) != "" {
		policies, rigs = 2500, 4
	}
	var total, packets atomic.Int64
	one := func(backend string, first int) func(*testing.T) {
		return func(t *testing.T) {
			t.Parallel() // most of the time is waiting for packets that must not come
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Minute)
			defer cancel()
			r := newRig(t, ctx, backend)
			sent, allowed, answered, translated := 0, 0, 0, 0
			for n := first; n < policies; n += rigs {
				seed := uint64(n)
				total.Add(1)
				rnd := rand.New(rand.NewPCG(seed, 77))
				spec, host := polgen.Spec(rnd, polgen.Small()), polgen.Host()
				for _, v := range spec.VPCs {
					v.NATGateway = rnd.IntN(2) == 0
				}
				if n%2 == 1 {
					spec = polgen.Translate(rnd, spec)
				}
				s := vpc.NewSnapshot(spec, host, seed)
				if len(s.Interfaces) > cables {
					t.Fatalf("seed %d: %d interfaces for %d cables", seed, len(s.Interfaces), cables)
				}
				rs, err := firewall.Compile(s, firewall.Features{MarkMask: 0xffff0000, MapMark: true, IPMAC4: true, NFLog: true, Physdev: true, ClampMSS: true, Netmap: true, Bare: true})
				if err != nil {
					t.Fatal(err)
				}
				tracer := firewall.NewTracer(rs)
				list := r.choose(rnd, s, probes)
				for _, pr := range list {
					if got := tracer.Trace(pr.packet, firewall.PathOf(s, pr.packet)); got.Allowed != pr.want.Allowed {
						t.Fatalf("seed %d: the compiled rules disagree with the policy\n%s", seed, polgen.Describe(spec, pr.packet))
					}
				}
				r.apply(s)
				r.check(t, seed, s, list, nil)
				back := replies(s, list)
				origin := map[*probe]netip.Addr{}
				for _, pr := range back {
					origin[pr] = pr.packet.Dst
				}
				i := 0
				for _, pr := range list {
					if pr.out.Kind == vpc.PlaceGateway {
						continue
					}
					if slices.ContainsFunc(pr.got, func(a arrival) bool { return a.is(pr.packet) }) {
						origin[back[i]] = pr.packet.Src
						i++
					}
				}
				r.check(t, seed, s, back, func(pr *probe) netip.Addr { return origin[pr] })
				backfires := backfire(s, list)
				r.check(t, seed, s, backfires, nil)
				sent += len(list) + len(back) + len(backfires)
				answered += len(back)
				for _, pr := range list {
					if pr.want.Allowed {
						allowed++
					}
					if src, dst := pr.addresses(s); pr.want.Allowed && (src != pr.packet.Src || dst != pr.packet.Dst) {
						translated++
					}
				}
			}
			t.Logf("%d packets (%d of them answers), %d first packets admitted, %d of them translated: no disagreement", sent, answered, allowed, translated)
			if translated == 0 {
				t.Error("no packet was translated")
			}
			packets.Add(int64(sent))
		}
	}
	t.Run("rigs", func(t *testing.T) {
		for _, backend := range []string{"nft", "legacy"} {
			for first := range rigs {
				t.Run(fmt.Sprintf("%s %d", backend, first+1), one(backend, first))
			}
		}
	})
	if !t.Failed() {
		t.Logf("%d random policies and %d packets: the kernel did what the policy says", total.Load(), packets.Load())
	}
}
