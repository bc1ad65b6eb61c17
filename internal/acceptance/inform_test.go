package acceptance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// metric reads one of the daemon's metrics by its name with its labels; 0 when it is not there.
func (g *gateway) metric(series string) float64 {
	g.Helper()
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", g.path("api.sock"))
	}}}
	defer c.CloseIdleConnections()
	r, err := c.Get("http://gatehouse/metrics")
	if err != nil {
		g.Fatal(err)
	}
	defer r.Body.Close()
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), series+" "); ok {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				g.Fatal(err)
			}
			return v
		}
	}
	if err := lines.Err(); err != nil {
		g.Fatal(err)
	}
	return 0
}

func TestARealClientInformsAndCommitsRapidly(t *testing.T) {
	t.Parallel()
	g, lan, _ := clientGateway(t)
	sent := func(kind string) float64 {
		return g.metric(fmt.Sprintf(`gatehouse_dhcp_sent_total{family="ipv4",type=%q}`, kind))
	}
	received := func(kind string) float64 {
		return g.metric(fmt.Sprintf(`gatehouse_dhcp_received_total{family="ipv4",type=%q}`, kind))
	}
	for n, on := range attachments(g, lan) {
		name := "dhcpcd-" + on.vswitch
		address := g.address(name)
		s, err := g.lab.Guest(g.ctx, name, on.at, portOf(name), on.bridge, on.mac+"03")
		if err != nil {
			t.Fatal(err)
		}
		// A guest that has its address by hand asks for everything else.
		g.script(s, dhcpcd(fmt.Sprintf("-4 -s %s/%d", address, on.bits)))
		g.has(s, address, on.bits, on.router)
		if l := g.lease(address); l != nil {
			t.Errorf("on %s an INFORM makes a lease: %v", on.vswitch, l)
		}
		if got := received("INFORM"); got < float64(n+1) {
			t.Errorf("on %s: %v INFORMs", on.vswitch, got)
		}
		g.script(s, "dhcpcd -4 -x eth0 >>/run/dhcpcd.log 2>&1\nip addr flush dev eth0\n")
		g.eventually("dhcpcd has ended", func() error {
			if _, err := s.Script(g.ctx, "test -e /run/dhcpcd/eth0-4.pid"); err == nil {
				return errors.New("it runs")
			}
			return nil
		})

		// With rapid commit an address takes one message and its answer.
		g.script(s, dhcpcd("-4 -A -o rapid_commit"))
		g.has(s, address, on.bits, on.router)
		if l := g.lease(address); l["state"] != "bound" {
			t.Errorf("on %s: lease %v", on.vswitch, l)
		}
		if offers, requests := sent("OFFER"), received("REQUEST"); offers != 0 || requests != 0 {
			t.Errorf("on %s: %v OFFERs and %v REQUESTs", on.vswitch, offers, requests)
		}
	}
}
