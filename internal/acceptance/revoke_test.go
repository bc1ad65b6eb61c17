package acceptance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/internal/netlab"
)

// A connection that a change no longer allows ends with the change: in both directions, and for good. Those of others go
// on.

// revokeLab has three clients of one server, each admitted by a rule of its own. The server may open TCP connections to
// them, so that what it sends in the middle of one must be told from the beginning of one.
const revokeLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  ipv6CidrBlock: fd00:20::/56
  vswitches:
  - {name: clients, cidrBlock: 10.20.1.0/24, ipv6CidrBlock: "fd00:20:0:1::/64", attach: {bridge: gh-clients}}
  - {name: servers, cidrBlock: 10.20.2.0/24, ipv6CidrBlock: "fd00:20:0:2::/64", attach: {bridge: gh-servers}}
  securityGroups:
  - {name: client, innerAccess: drop, rules: [{direction: ingress, protocol: tcp, source: "sg:server"}]}
  - {name: by-set}
  - {name: by-apply}
  - {name: neighbour}
  - name: server
    rules:
    - {direction: ingress, protocol: all, source: "sg:by-set"}
    - {direction: ingress, protocol: all, source: "sg:by-apply"}
    - {direction: ingress, protocol: all, source: "sg:neighbour"}
  instances:
  - {name: by-set, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: clients, privateIp: 10.20.1.10, ipv6Addresses: ["fd00:20:0:1::10"], securityGroups: [client, by-set]}]}
  - {name: by-apply, interfaces: [{mac: 00:16:3e:00:01:02, vswitch: clients, privateIp: 10.20.1.11, ipv6Addresses: ["fd00:20:0:1::11"], securityGroups: [client, by-apply]}]}
  - {name: neighbour, interfaces: [{mac: 00:16:3e:00:01:03, vswitch: clients, privateIp: 10.20.1.12, ipv6Addresses: ["fd00:20:0:1::12"], securityGroups: [client, neighbour]}]}
  - {name: server, interfaces: [{mac: 00:16:3e:00:02:01, vswitch: servers, privateIp: 10.20.2.10, ipv6Addresses: ["fd00:20:0:2::10"], securityGroups: [server]}]}
`

// The ways in which data flows; the port says which.
const (
	portUp   = 7001 // TCP, the client sends
	portDown = 7002 // TCP, the server sends
	portPush = 7003 // UDP, the server sends after one request
)

// beat is the time between two pieces of data of a flow.
const beat = 10 * time.Millisecond

// dataFlow is one connection with data on its way, counted where it arrives.
type dataFlow struct {
	name string
	got  atomic.Int64
}

// dataServer answers the clients' flows. What a client sends first is the number of its flow.
type dataServer struct {
	mu    sync.Mutex
	flows []*dataFlow
	done  chan struct{}
}

// newFlow registers a flow and gives its number.
func (d *dataServer) newFlow(name string) (*dataFlow, []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := &dataFlow{name: name}
	d.flows = append(d.flows, f)
	return f, binary.BigEndian.AppendUint32(nil, uint32(len(d.flows)-1))
}

func (d *dataServer) flow(id []byte) *dataFlow {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flows[binary.BigEndian.Uint32(id)]
}

// serve listens on a host until the end of the test.
func (d *dataServer) serve(t *testing.T, host *netlab.Space) {
	t.Helper()
	d.done = make(chan struct{})
	t.Cleanup(func() { close(d.done) })
	err := host.Do(func() error {
		for _, port := range []int{portUp, portDown} {
			l, err := net.ListenTCP("tcp", &net.TCPAddr{Port: port})
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.AcceptTCP()
					if err != nil {
						return // closed
					}
					go d.stream(c, port)
				}
			}()
		}
		u, err := net.ListenUDP("udp", &net.UDPAddr{Port: portPush})
		if err != nil {
			return err
		}
		t.Cleanup(func() { u.Close() })
		go func() {
			buf := make([]byte, 4)
			for {
				_, from, err := u.ReadFromUDPAddrPort(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					// A push that is refused is no reason to end: it may be let through again.
					go d.every(func() bool { u.WriteToUDPAddrPort(buf, from); return true })
				}
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (d *dataServer) stream(c net.Conn, port int) {
	defer c.Close()
	id := make([]byte, 4)
	if _, err := io.ReadFull(c, id); err != nil {
		return
	}
	if port == portUp {
		d.flow(id).count(c)
		return
	}
	d.every(func() bool { _, err := c.Write(id); return err == nil })
}

// every calls f at each beat until it returns false or the test ends.
func (d *dataServer) every(f func() bool) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for f() {
		select {
		case <-ticker.C:
		case <-d.done:
			return
		}
	}
}

// count counts what arrives until the connection ends.
func (f *dataFlow) count(c net.Conn) {
	buf := make([]byte, 4)
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return
		}
		f.got.Add(1)
	}
}

// open starts the three flows of a client to an address of the server.
func (d *dataServer) open(t *testing.T, client *netlab.Space, server netip.Addr) []*dataFlow {
	t.Helper()
	var out []*dataFlow
	for _, way := range []struct {
		name, network string
		port          uint16
	}{{"TCP up", "tcp", portUp}, {"TCP down", "tcp", portDown}, {"UDP push", "udp", portPush}} {
		f, id := d.newFlow(fmt.Sprintf("%s: %s from %s", client.Label, way.name, server))
		var c net.Conn
		err := client.Do(func() (err error) {
			c, err = net.DialTimeout(way.network, netip.AddrPortFrom(server, way.port).String(), patience)
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := c.Write(id); err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		if way.port == portUp {
			go d.every(func() bool { _, err := c.Write(id); return err == nil })
		} else {
			go f.count(c)
		}
		out = append(out, f)
	}
	return out
}

// counts are what has arrived so far.
func counts(flows []*dataFlow) []int64 {
	out := make([]int64, len(flows))
	for i, f := range flows {
		out[i] = f.got.Load()
	}
	return out
}

// goOn waits until each of the flows has received so many more pieces.
func (g *gateway) goOn(flows []*dataFlow, more int64) {
	g.Helper()
	before := counts(flows)
	g.eventually(fmt.Sprintf("%d more pieces of data", more), func() error {
		for i, f := range flows {
			if got := f.got.Load() - before[i]; got < more {
				return fmt.Errorf("%s: %d", f.name, got)
			}
		}
		return nil
	})
}

// areOver checks that nothing of the flows arrives from a second after now on, by the beat of the others, which go on.
func (g *gateway) areOver(flows, others []*dataFlow) {
	g.Helper()
	g.goOn(others, int64(time.Second/beat))
	before := counts(flows)
	// Long enough for several retransmissions of TCP, which begin at 200 ms and double.
	g.goOn(others, int64(2*time.Second/beat))
	for i, now := range counts(flows) {
		if now != before[i] {
			g.Errorf("%s: %d pieces of data arrived later than a second after it was refused", flows[i].name, now-before[i])
		}
	}
}

func TestARevokedRuleEndsItsConnectionsAndNoOthers(t *testing.T) {
	for _, backend := range []string{"nft", "legacy"} {
		t.Run(backend, func(t *testing.T) {
			g := newGateway(t, "firewall: {backend: "+backend+"}")
			g.start()
			g.apply(revokeLab)
			// A gateway whose rules are young admits what may have begun before them. These are not: the daemon finds them.
			g.stop()
			g.start()

			server := g.static("server", "gh-servers", "00:16:3e:00:02:01", "10.20.2.10", "10.20.2.253", "fd00:20:0:2::10")
			var d dataServer
			d.serve(t, server)
			flows := map[string][]*dataFlow{}
			for n, name := range []string{"by-set", "by-apply", "neighbour"} {
				client := g.static(name, "gh-clients", fmt.Sprintf("00:16:3e:00:01:%02x", n+1),
					fmt.Sprintf("10.20.1.%d", 10+n), "10.20.1.253", fmt.Sprintf("fd00:20:0:1::%x", 0x10+n))
				for _, addr := range []string{"10.20.2.10", "fd00:20:0:2::10"} {
					flows[name] = append(flows[name], d.open(t, client, netip.MustParseAddr(addr))...)
				}
			}
			for _, f := range flows {
				g.goOn(f, 20)
			}

			var group struct {
				Rules []struct{ ID, Source string }
			}
			g.decode(g.ok("get", "sg", "server", "-o", "json"), &group)
			id := ""
			for _, r := range group.Rules {
				if r.Source == "sg:by-set" {
					id = r.ID
				}
			}
			g.ok("set", "sg", "server", "--remove-rule", id)
			g.areOver(flows["by-set"], append(flows["neighbour"], flows["by-apply"]...))

			without := strings.Replace(revokeLab, `    - {direction: ingress, protocol: all, source: "sg:by-apply"}`+"\n", "", 1)
			without = strings.Replace(without, `    - {direction: ingress, protocol: all, source: "sg:by-set"}`+"\n", "", 1)
			g.apply(without)
			g.areOver(flows["by-apply"], flows["neighbour"])
			g.areOver(flows["by-set"], flows["neighbour"])
		})
	}
}
