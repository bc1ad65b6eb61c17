package netlab

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// DHClient asks for an IPv4 address on eth0 with ISC dhclient, once, and stays in the background to renew it, as on a real
// Debian guest: its script sets address, routes and resolv.conf.
func (s *Space) DHClient(ctx context.Context) error {
	_, err := s.Run(ctx, "dhclient", "-4", "-1", "-pf", "/run/dhclient.pid", "-lf", "/var/lib/dhcp/dhclient.leases", "eth0")
	return err
}

// DHClient6 asks for an IPv6 address on eth0 with ISC dhclient, as DHClient does for IPv4. It waits for what dhclient does
// not wait for: a link-local address to ask from before, and after it that the address is found to be nobody else's and that
// a router has been heard.
func (s *Space) DHClient6(ctx context.Context) error {
	if err := s.settled(ctx, "link"); err != nil {
		return err
	}
	if _, err := s.Run(ctx, "dhclient", "-6", "-1", "-pf", "/run/dhclient6.pid", "-lf", "/var/lib/dhcp/dhclient6.leases", "eth0"); err != nil {
		return err
	}
	if err := s.settled(ctx, "global"); err != nil {
		return err
	}
	return Eventually(ctx, func() error {
		if out, err := s.Run(ctx, "ip", "-6", "route", "show", "default"); err != nil || out == "" {
			return errors.Join(fmt.Errorf("%s: no IPv6 default route", s.Label), err)
		}
		return nil
	})
}

// settled waits until eth0 has an IPv6 address of a scope that it may use.
func (s *Space) settled(ctx context.Context, scope string) error {
	return Eventually(ctx, func() error {
		out, err := s.Run(ctx, "ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", scope)
		if err != nil || out == "" || strings.Contains(out, "tentative") {
			return errors.Join(fmt.Errorf("%s: no usable address of scope %s: %q", s.Label, scope, out), err)
		}
		return nil
	})
}

// DHClientRelease gives the address back and ends dhclient.
func (s *Space) DHClientRelease(ctx context.Context) error {
	_, err := s.Run(ctx, "dhclient", "-4", "-r", "-pf", "/run/dhclient.pid", "-lf", "/var/lib/dhcp/dhclient.leases", "eth0")
	return err
}

// StaticIPv6 gives eth0 a /128 and the default route by fe80::1.
func (s *Space) StaticIPv6(ctx context.Context, addr string) error {
	_, err := s.Script(ctx, fmt.Sprintf("ip -6 addr replace %s/128 dev eth0 nodad\nip -6 route replace default via fe80::1 dev eth0\n", addr))
	return err
}

// Dig asks a question with dig and returns the short answer's lines; args as dig takes them.
func (s *Space) Dig(ctx context.Context, args ...string) ([]string, error) {
	out, err := s.Run(ctx, "dig", append([]string{"+short", "+tries=2", "+time=2"}, args...)...)
	return strings.Fields(out), err
}

// Ping sends one echo request and reports whether the reply came within a second.
func (s *Space) Ping(ctx context.Context, addr string) bool {
	_, err := s.Run(ctx, "ping", "-n", "-c1", "-W1", "-q", addr)
	return err == nil
}
