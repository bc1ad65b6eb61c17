package acceptance

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"gatehouse/internal/netlab"
)

// TestContainersByMacvlan is what the README says of Docker: many MACs behind one port of the bridge, each pinned to it, on macvlan
// links in private mode. The gateway decides between them too.
func TestContainersByMacvlan(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.start()
	g.apply(`
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  vswitches:
  - {name: main, cidrBlock: 10.20.1.0/24, attach: {bridge: gh-main}}
  securityGroups:
  - {name: client}
  - name: server
    rules:
    - {direction: ingress, protocol: tcp, ports: 443, source: "sg:client"}
  instances:
  - {name: one, interfaces: [{mac: 02:42:ac:00:00:01, vswitch: main, port: dk-port, securityGroups: [client]}]}
  - {name: two, interfaces: [{mac: 02:42:ac:00:00:02, vswitch: main, port: dk-port, securityGroups: [server]}]}
`)
	host, err := g.lab.Space("docker")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.lab.Veth(g.ctx, g.space, "dk-port", host, "dk"); err != nil {
		t.Fatal(err)
	}
	g.script(g.space, "ip link set dk-port master gh-main")
	spaces := map[string]*netlab.Space{}
	for n, name := range []string{"one", "two"} {
		s, err := g.lab.Space(name)
		if err != nil {
			t.Fatal(err)
		}
		g.script(host, fmt.Sprintf("ip link add m%d link dk address 02:42:ac:00:00:0%d type macvlan mode private\nip link set m%d netns %d name eth0\n", n, n+1, n, s.PID()))
		g.script(s, "ip link set eth0 up")
		if err := s.DHClient(g.ctx); err != nil {
			t.Fatal(err)
		}
		spaces[name] = s
	}
	for _, port := range []uint16{allowedPort, refusedPort} {
		echo, err := spaces["two"].Echo(port)
		if err != nil {
			t.Fatal(err)
		}
		defer echo.Close()
	}
	two := netip.MustParseAddr(g.address("two"))
	g.eventually("what is allowed passes", func() error {
		ok, err := spaces["one"].Reach(g.ctx, "tcp", netip.AddrPortFrom(two, allowedPort), time.Second)
		if err == nil && !ok {
			err = fmt.Errorf("%s does not answer", two)
		}
		return err
	})
	if ok, err := spaces["one"].Reach(g.ctx, "tcp", netip.AddrPortFrom(two, refusedPort), time.Second); ok || err != nil {
		t.Errorf("what is refused: passed %v, %v", ok, err)
	}
	if ok, err := spaces["two"].Reach(g.ctx, "tcp", netip.AddrPortFrom(netip.MustParseAddr(g.address("one")), allowedPort), time.Second); ok || err != nil {
		t.Errorf("the other way: passed %v, %v", ok, err)
	}
}
