package acceptance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/netlab"
)

// inBothFamilies are the clients as they are run where both families are wanted, and how their plug is pulled
// (dhcpcd's is in TestRealClientsLiveThroughTheirLeases only).
func inBothFamilies() map[string]struct{ start, crash string } {
	return map[string]struct{ start, crash string }{
		"dhclient": {isc + "\n" + clients6()[0].start, "kill -9 $(cat /run/dhclient.pid) $(cat /run/dhclient6.pid)"},
		"udhcpc":   {busybox, "kill -9 $(cat /run/udhcpc.pid)"}, // it has no IPv6
		"dhcpcd":   {dhcpcd(""), dhcpcdCrash},
		"networkd": {strings.NewReplacer("DHCP=ipv4", "DHCP=yes", "IPv6AcceptRA=no", "IPv6AcceptRA=yes").Replace(networkd), "kill -9 $(cat /run/networkd.pid)"},
	}
}

// seen is what a guest has.
func (l *living) seen(g *gateway) (string, error) {
	return l.Script(g.ctx, "ip -o addr show dev eth0 scope global\nip -4 route show default\nip -6 route show default\n")
}

// hasOnly says why a guest does not have exactly these addresses, in the families that its client speaks.
func (l *living) hasOnly(g *gateway, v4, v6 string) error {
	seen, err := l.seen(g)
	if err != nil {
		return err
	}
	addrs := 2
	if l.name == "udhcpc" {
		addrs, v6 = 1, ""
	}
	switch {
	case !strings.Contains(seen, fmt.Sprintf(" %s/%d ", v4, l.bits)), v6 != "" && !strings.Contains(seen, " "+v6+"/128 "),
		strings.Count(seen, " inet") != addrs, strings.Contains(seen, "tentative"),
		!strings.Contains(seen, "default via "+l.router), !strings.Contains(seen, "default via fe80::1"):
		return fmt.Errorf("it has not %s and %s alone, with default routes:\n%s", v4, v6, seen)
	}
	return nil
}

// TestRealClientsFollowTheirInstanceToAnotherVSwitch has guests in both families moved: in the manifest to another vSwitch,
// and with their cables from the gateway's bridge to somebody else's switch. Nobody tells their clients.
func TestRealClientsFollowTheirInstanceToAnotherVSwitch(t *testing.T) {
	t.Parallel()
	g, lan, _ := clientGateway(t)
	on := attachments(g, lan)
	from, to := on[0], on[1]
	all := plugClients(g, from)
	addresses := func(l *living) (v4, v6 string) {
		var o struct {
			Interfaces []struct {
				PrivateIP     string   `json:"privateIp"`
				IPv6Addresses []string `json:"ipv6Addresses"`
			} `json:"interfaces"`
		}
		g.decode(g.ok("get", "instance", l.Label, "-o", "json"), &o)
		return o.Interfaces[0].PrivateIP, o.Interfaces[0].IPv6Addresses[0]
	}
	type pair struct{ v4, v6 string }
	old, now := map[*living]pair{}, map[*living]pair{}
	for _, l := range all {
		v4, v6 := addresses(l)
		old[l] = pair{v4, v6}
	}
	together(g, "leases on the bridge", all, func(l *living) error {
		if err := l.run(g, inBothFamilies()[l.name].start); err != nil {
			return err
		}
		return within(g.ctx, func() error { return l.hasOnly(g, old[l].v4, old[l].v6) })
	})

	moved := clientLab
	for _, l := range all {
		mac := "mac: " + l.mac
		moved = strings.ReplaceAll(moved, mac+fmt.Sprintf("%02x, vswitch: bridged", indexOf(l.name)), mac+fmt.Sprintf("%02x, vswitch: plain", indexOf(l.name)))
	}
	g.apply(moved)
	for _, l := range all {
		v4, v6 := addresses(l)
		now[l] = pair{v4, v6}
		if !strings.HasPrefix(v4, "10.20.2.") || !strings.HasPrefix(v6, "fd00:20:0:2:") {
			t.Fatalf("%s has %s and %s on the other vSwitch", l.Label, v4, v6)
		}
		l.attachment = to
		g.script(g.space, fmt.Sprintf("ip link set %s netns %d\n", portOf(l.Label), lan.PID()))
		g.script(lan, fmt.Sprintf("ip link set %s master br0\nip link set %[1]s up\n", portOf(l.Label)))
	}
	// A client that does not look at its cable knows when its lease has nearly run out, after 26 s.
	ctx, cancel := context.WithTimeout(g.ctx, 2*time.Minute)
	defer cancel()
	together(g, "leases on the other switch", all, func(l *living) error {
		return netlab.Eventually(ctx, func() error {
			if err := l.hasOnly(g, now[l].v4, now[l].v6); err != nil {
				return err
			}
			if !l.Ping(g.ctx, "10.20.1.10") {
				return errors.New("the peer on the bridge does not answer")
			}
			return nil
		})
	})
	together(g, "a reboot there", all, func(l *living) error {
		c := inBothFamilies()[l.name]
		if err := l.run(g, c.crash+"\nip link set eth0 down\nip addr flush dev eth0\nip link set eth0 up\n"+c.start); err != nil {
			return err
		}
		return within(g.ctx, func() error { return l.hasOnly(g, now[l].v4, now[l].v6) })
	})
	for _, l := range all {
		seen, err := l.seen(g)
		t.Logf("%s: %v\n%s", l.Label, err, seen)
	}
}

// indexOf is the last octet of the MAC of a client's guest.
func indexOf(name string) int {
	for n, c := range clients() {
		if c.name == name {
			return n + 1
		}
	}
	return 0
}
