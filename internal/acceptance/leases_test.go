package acceptance

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"gatehouse/internal/netlab"
	"gatehouse/vpc"
)

// How often the daemon is killed under load.
const (
	crashes     = 3
	manyCrashes = 50 // with GATEHOUSE_SOAK
)

const (
	relayClients = 300
	relayLease   = time.Hour
)

// DHCP message types.
const (
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpACK      = 5
)

// TestEveryAcknowledgedLeaseOutlivesAKill kills the daemon again and again while clients behind a relay ask for addresses
// and renew them. Whatever a client was told must be stored, for as long as it was told.
func TestEveryAcknowledgedLeaseOutlivesAKill(t *testing.T) {
	rounds := crashes
	if os.Getenv(soakEnv) != "" {
		rounds = manyCrashes
	}
	g := newGateway(t, "log: {level: warn}")
	relay := g.relaySpace()
	g.start()
	g.apply(relayManifest())

	clients, clients6 := relayLoad(t, relay), relayLoad6(t, relay)
	for round := range rounds {
		// At another moment of the load each time.
		goal, goal6 := clients.count()+200+37*(round%11), clients6.count()+50+13*(round%7)
		g.eventually("clients get leases", func() error {
			if n, n6 := clients.count(), clients6.count(); n < goal || n6 < goal6 {
				return fmt.Errorf("%d of %d acknowledgements by DHCPv4, %d of %d by DHCPv6", n, goal, n6, goal6)
			}
			return nil
		})
		g.kill()
		told, told6 := clients.told(), clients6.told()
		g.start()
		g.stores(fmt.Sprintf("round %d", round), told)
		g.stores(fmt.Sprintf("round %d", round), told6)
		if t.Failed() {
			return
		}
	}
	t.Logf("killed %d times under load: every lease of %d acknowledgements by DHCPv4 and %d by DHCPv6 was there afterwards", rounds, clients.count(), clients6.count())
}

// relaySpace is a host with a relay's address on the gateway's link up0.
func (g *gateway) relaySpace() *netlab.Space {
	g.Helper()
	relay, err := g.lab.Space("relay")
	if err == nil {
		err = g.lab.Veth(g.ctx, g.space, "up0", relay, "eth0")
	}
	if err != nil {
		g.Fatal(err)
	}
	g.script(g.space, "ip addr add 192.0.2.1/24 dev up0\nip addr add 2001:db8::1/64 dev up0 nodad\n")
	g.script(relay, "ip addr add 192.0.2.2/24 dev eth0\nip addr add 2001:db8::2/64 dev eth0 nodad\n")
	return relay
}

// relayManifest declares the clients behind the relay.
func relayManifest() string {
	var manifest strings.Builder
	fmt.Fprintf(&manifest, "vpcs:\n- name: far\n  cidrBlock: 10.99.0.0/16\n  ipv6CidrBlock: fd00:99::/56\n  dhcpOptions: {leaseTime: %[1]s, ipv6LeaseTime: %[1]s}\n  vswitches:\n", relayLease)
	manifest.WriteString("  - {name: main, cidrBlock: 10.99.0.0/16, ipv6CidrBlock: 'fd00:99::/64', attach: {relay: [192.0.2.2, '2001:db8::2']}, enrollment: closed}\n  instances:\n")
	for n := range relayClients {
		fmt.Fprintf(&manifest, "  - {name: c%d, interfaces: [{mac: '%s', vswitch: main}]}\n", n, relayMAC(n))
	}
	return manifest.String()
}

// stores checks that whatever clients were told is stored, for as long as they were told.
func (g *gateway) stores(when string, told map[vpc.MAC]acknowledged) {
	g.Helper()
	stored := map[netip.Addr]map[string]any{}
	for _, l := range g.get("leases") {
		stored[netip.MustParseAddr(l["address"].(string))] = l
	}
	for mac, a := range told {
		l := stored[a.addr]
		if l == nil {
			g.Errorf("%s: %s was given %s, which is not leased to anybody", when, mac, a.addr)
			continue
		}
		until, err := time.Parse(time.RFC3339, l["expires"].(string))
		if err != nil || l["mac"] != mac.String() || l["state"] != "bound" || until.Before(a.asked.Add(relayLease)) {
			g.Errorf("%s: %s asked at %s and was given %s for %s: %v, %v", when, mac, a.asked, a.addr, relayLease, l, err)
		}
	}
}

// TestAFullDiskMeansSilenceUntilThereIsRoom fills the disk that the state is on, under load: no lease is given that is not
// durable, the status says why, and when there is room again everything goes on.
func TestAFullDiskMeansSilenceUntilThereIsRoom(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "log: {level: warn}")
	state := g.path("state")
	g.script(g.space, "mkdir -p "+state+"\nmount -t tmpfs -o size=32m state "+state+"\n")
	relay := g.relaySpace()
	g.start()
	g.apply(relayManifest())
	g.script(g.space, "dd if=/dev/zero of="+state+"/filler bs=4k 2>/dev/null || true\n")
	clients := relayLoad(t, relay)
	g.eventually("the store refuses", func() error {
		if g.metric("gatehouse_lease_commit_errors_total") == 0 {
			return fmt.Errorf("after %d acknowledgements it does not", clients.count())
		}
		return nil
	})
	r := g.run("status")
	if r.code != 1 || !strings.Contains(r.stdout+r.stderr, "no space left") {
		t.Errorf("status is %d:\n%s%s", r.code, r.stdout, r.stderr)
	}

	g.script(g.space, "rm "+state+"/filler\n")
	before := clients.count()
	g.eventually("leases when there is room", func() error {
		if n := clients.count(); n < before+relayClients {
			return fmt.Errorf("%d acknowledgements more", n-before)
		}
		return nil
	})
	g.eventually("the status is good again", func() error {
		if r := g.run("status"); r.code != 0 {
			return fmt.Errorf("%s%s", r.stdout, r.stderr)
		}
		return nil
	})
	g.kill()
	told := clients.told()
	g.start()
	g.stores("after the disk was full", told)
}

func relayMAC(n int) vpc.MAC { return vpc.MAC{2, 0, 0, 9, byte(n >> 8), byte(n)} }

// acknowledged is what a client was told.
type acknowledged struct {
	addr  netip.Addr
	asked time.Time // when the request was sent that was acknowledged
}

// relayed is many clients behind one relay, each of which asks for an address, and when it has it for the next time.
type relayed struct {
	conn *net.UDPConn

	mu   sync.Mutex
	last map[vpc.MAC]acknowledged
	n    int
	sent map[vpc.MAC]time.Time // requests without an answer
}

// relayLoad runs clients in a space until the test ends.
func relayLoad(t *testing.T, space *netlab.Space) *relayed {
	t.Helper()
	r := &relayed{last: map[vpc.MAC]acknowledged{}, sent: map[vpc.MAC]time.Time{}}
	if err := space.Do(func() (err error) {
		r.conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 67})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(r.read)
	running.Go(func() { r.ask(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := r.conn.Close(); err != nil {
			t.Error(err)
		}
		running.Wait()
	})
	return r
}

// ask sends every client's DISCOVER, over and over.
func (r *relayed) ask(ctx context.Context) {
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for n := 0; ; n = (n + 1) % relayClients {
		r.send(relayMessage(relayMAC(n), dhcpDiscover))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// send sends a message; while the daemon is down, that may fail.
func (r *relayed) send(m []byte) {
	_, err := r.conn.WriteToUDP(m, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 67})
	if err != nil && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, net.ErrClosed) {
		panic(err)
	}
}

// read takes offers and notes acknowledgements until the socket is closed.
func (r *relayed) read() {
	b := make([]byte, 2048)
	for {
		n, err := r.conn.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 243 || b[0] != 2 {
			continue
		}
		mac, addr := vpc.MAC(b[28:34]), netip.AddrFrom4([4]byte(b[16:20]))
		switch b[242] {
		case dhcpOffer:
			r.mu.Lock()
			if now := time.Now(); now.Sub(r.sent[mac]) > 2*time.Second { // else the answer may be to the earlier request
				r.sent[mac] = now
			}
			r.mu.Unlock()
			server := b[245:249] // option 54 is the first one after the message type
			m := relayMessage(mac, dhcpRequest, append([]byte{50, 4}, addr.AsSlice()...), append([]byte{54, 4}, server...))
			r.send(m)
		case dhcpACK:
			r.mu.Lock()
			r.n++
			if asked, ok := r.sent[mac]; ok {
				delete(r.sent, mac)
				r.last[mac] = acknowledged{addr, asked}
			}
			r.mu.Unlock()
		}
	}
}

func (r *relayed) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

func (r *relayed) told() map[vpc.MAC]acknowledged {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.last)
}

// relayMessage is a client's message as the relay 192.0.2.2 forwards it, for the link of 10.99.0.1.
func relayMessage(mac vpc.MAC, kind byte, options ...[]byte) []byte {
	m := clientMessage(mac, kind, append(options, []byte{82, 6, 5, 4, 10, 99, 0, 1})...)
	copy(m[24:28], []byte{192, 0, 2, 2})
	return m
}

// clientMessage is a DHCPv4 message of a client.
func clientMessage(mac vpc.MAC, kind byte, options ...[]byte) []byte {
	m := make([]byte, 236, 320)
	m[0], m[1], m[2] = 1, 1, 6
	copy(m[4:8], mac[2:])
	copy(m[28:34], mac[:])
	m = append(m, 99, 130, 83, 99, 53, 1, kind)
	for _, o := range options {
		m = append(m, o...)
	}
	return append(m, 255)
}

// TestAFloodOfUnknownMACsStarvesNobody lets one guest ask in the name of thousands of MACs that nobody knows. A guest at
// another port, and an honest one that enrols, get their addresses meanwhile; the flood gets one.
func TestAFloodOfUnknownMACsStarvesNobody(t *testing.T) {
	g := newGateway(t, "log: {level: warn}")
	g.start()
	g.apply(`vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  vswitches:
  - {name: lan, cidrBlock: 10.20.1.0/24, attach: {bridge: lan}}
  instances:
  - {name: known, interfaces: [{mac: 02:00:00:00:00:01, vswitch: lan, privateIp: 10.20.1.10}]}
`)
	attacker := g.guest("attacker", "lan", "02:00:00:00:00:66")
	sent := flood(t, attacker)
	g.eventually("the flood is under way", func() error {
		if n := sent(); n < 5000 {
			return fmt.Errorf("%d frames", n)
		}
		return nil
	})

	known := g.guest("known", "lan", "02:00:00:00:00:01")
	if err := known.DHClient(g.ctx); err != nil {
		t.Fatal(err)
	}
	if out := g.script(known, "ip -4 -o addr show dev eth0\n"); !strings.Contains(out, " 10.20.1.10/24 ") {
		t.Errorf("the known guest has %s", out)
	}
	honest := g.guest("honest", "lan", "02:00:00:00:00:02")
	if err := honest.DHClient(g.ctx); err != nil {
		t.Fatal(err)
	}

	before := sent()
	g.eventually("the flood goes on", func() error {
		if n := sent(); n < before+5000 {
			return fmt.Errorf("%d frames more", n-before)
		}
		return nil
	})
	var enrolled []string
	for _, i := range g.get("instances") {
		if i["enrolled"] == true {
			enrolled = append(enrolled, i["name"].(string))
		}
	}
	if len(enrolled) > 2 {
		t.Errorf("enrolled by %d frames of a flood and one honest guest: %v", sent(), enrolled)
	}
}

// flood sends DISCOVERs from eth0 of a space in the name of ever other MACs until the test ends, and returns what counts
// them.
func flood(t *testing.T, space *netlab.Space) (sent func() int) {
	t.Helper()
	var conn *packet.Conn
	if err := space.Do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err == nil {
			conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_IP, nil)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var running sync.WaitGroup
	n := 0
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() {
		for i := uint32(0); ctx.Err() == nil; i++ {
			mac := vpc.MAC{2, 6, 6, byte(i >> 16), byte(i >> 8), byte(i)}
			f := discoverFrame(mac)
			if _, err := conn.WriteTo(f, &packet.Addr{HardwareAddr: net.HardwareAddr(f[:6])}); err == nil {
				mu.Lock()
				n++
				mu.Unlock()
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// discoverFrame is a client's first DISCOVER as it leaves its link. UDP over IPv4 needs no checksum.
func discoverFrame(mac vpc.MAC) []byte {
	m := clientMessage(mac, dhcpDiscover)
	b := make([]byte, 42, 42+len(m))
	copy(b, "\xff\xff\xff\xff\xff\xff")
	copy(b[6:], mac[:])
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(m)))
	copy(ip[16:20], "\xff\xff\xff\xff")
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum>>16+sum))
	udp := ip[20:]
	binary.BigEndian.PutUint16(udp[0:], 68)
	binary.BigEndian.PutUint16(udp[2:], 67)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(m)))
	return append(b, m...)
}
