package configs

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"gatehouse/vpc"
)

// HostAccess admits instances to one service of the gateway: "22/tcp", "8000-8100/tcp", "icmp", "all"; those of one VPC or
// vSwitch: "22/tcp@lab", "22/tcp@lab/admin".
type HostAccess vpc.HostAccess

// UnmarshalText reads PORTS/PROTOCOL, or the name of a protocol for all of it, and behind an @ whom it is for. A number alone
// is a port whose protocol was forgotten, and is refused.
func (h *HostAccess) UnmarshalText(b []byte) error {
	text, whom, scoped := strings.Cut(string(b), "@")
	name, vswitch, one := strings.Cut(whom, "/")
	if scoped && (name == "" || one && vswitch == "" || strings.ContainsAny(vswitch, "/@") || strings.Contains(name, "@")) {
		return fmt.Errorf("%q: behind the @ comes a VPC, or VPC/VSWITCH, as in 22/tcp@lab/admin", b)
	}
	ports, proto, split := strings.Cut(text, "/")
	if !split {
		if _, err := vpc.ParsePorts(text); err == nil {
			return fmt.Errorf("%q needs a protocol: write %s/tcp or %s/udp", text, text, text)
		}
		p, err := vpc.ParseProtocol(text)
		if err != nil {
			return fmt.Errorf("%q is not a service (as in 22/tcp, 53/udp or icmp)", text)
		}
		*h = HostAccess{Protocol: p, VPC: name, VSwitch: vswitch}
		return nil
	}
	p, err := vpc.ParseProtocol(proto)
	if before, perr := vpc.ParseProtocol(ports); perr == nil && before.HasPorts() && !p.HasPorts() {
		return fmt.Errorf("%q: the port comes first: write %s/%s", text, proto, ports)
	}
	if err != nil {
		return err
	}
	if !p.HasPorts() {
		return fmt.Errorf("%q: %s has no ports: write %s alone", text, p, p)
	}
	parsed, err := vpc.ParsePorts(ports)
	if err != nil {
		return err
	}
	for _, r := range parsed {
		if r.From == 0 {
			return fmt.Errorf("%q: port 0 does not exist", text)
		}
	}
	*h = HostAccess{Protocol: p, Ports: parsed, VPC: name, VSwitch: vswitch}
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (h HostAccess) MarshalText() ([]byte, error) {
	text := h.Protocol.String()
	if h.Ports != nil {
		text = h.Ports.String() + "/" + text
	}
	if h.VPC != "" {
		text += "@" + h.VPC
	}
	if h.VSwitch != "" {
		text += "/" + h.VSwitch
	}
	return []byte(text), nil
}

// Upstream is a resolver that questions about other people's names are sent to.
type Upstream struct {
	System  bool           // those of the host's resolv.conf
	Addr    netip.AddrPort // otherwise
	TLSName string         // the name in its certificate, for DNS over TLS; empty: plain DNS
}

// UnmarshalText reads "system", an address, an address and a port, or either behind tls://NAME@.
func (u *Upstream) UnmarshalText(b []byte) error {
	text := string(b)
	if text == "system" {
		*u = Upstream{System: true}
		return nil
	}
	const tls = "tls://"
	port, addr := uint16(53), text
	var name string
	if rest, ok := strings.CutPrefix(text, tls); ok {
		port = 853
		if name, addr, ok = strings.Cut(rest, "@"); !ok || !isHostName(strings.TrimSuffix(name, ".")) {
			return fmt.Errorf("%q: DNS over TLS needs the name in the resolver's certificate and its address, as in tls://dns.example@192.0.2.53", text)
		}
		name = strings.TrimSuffix(name, ".")
	}
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		if ap.Port() == 0 {
			return fmt.Errorf("%q: port 0 does not exist", text)
		}
		*u = Upstream{Addr: ap, TLSName: name}
		return nil
	}
	a, err := netip.ParseAddr(strings.Trim(addr, "[]"))
	if err != nil {
		return fmt.Errorf("%q is not a resolver (system, an IP address, one with a port as in 192.0.2.53:53 or [2001:db8::53]:53, or tls://NAME@ADDRESS)", text)
	}
	*u = Upstream{Addr: netip.AddrPortFrom(a, port), TLSName: name}
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (u Upstream) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

func (u Upstream) String() string {
	if u.System {
		return "system"
	}
	if u.TLSName != "" {
		return "tls://" + u.TLSName + "@" + u.Addr.String()
	}
	return u.Addr.String()
}

// Mask is the part of the packet mark that is gatehouse's own.
type Mask uint32

// UnmarshalText reads hexadecimal (0xffff0000) or decimal.
func (m *Mask) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 0, 32)
	if err != nil {
		return fmt.Errorf("%q is not a mask of 32 bits (as in 0xffff0000)", b)
	}
	*m = Mask(n)
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (m Mask) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%#08x", uint32(m)), nil }

// Listen is a host:port to listen on; empty: not at all. An empty host is every address.
type Listen string

// UnmarshalText checks the form; whether the host can be listened on shows when the daemon tries.
func (l *Listen) UnmarshalText(b []byte) error {
	text := string(b)
	if text == "" {
		*l = ""
		return nil
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return fmt.Errorf("%q is not host:port (as in 127.0.0.1:9153, [::1]:9153 or :9153)", text)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q: %q is not a port (1 to 65535)", text, port)
	}
	if _, err := netip.ParseAddr(host); host != "" && err != nil && !isHostName(host) {
		return fmt.Errorf("%q: %q is neither an address nor a host name", text, host)
	}
	*l = Listen(text)
	return nil
}

// isLabel reports whether s is one label of a host name: letters, digits and inner hyphens, at most 63 (RFC 1123 section 2.1).
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-') {
			return false
		}
	}
	return true
}

func isHostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}
