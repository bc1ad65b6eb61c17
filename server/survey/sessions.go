package survey

import (
	"fmt"
	"net/netip"
	"path/filepath"
)

// Session is a TCP connection of this host.
type Session struct{ Local, Peer netip.AddrPort }

const tcpEstablished = "01"

// Sessions lists the established TCP connections of this host.
func Sessions(root string) ([]Session, error) {
	const local, peer, state = 1, 2, 3
	var out []Session
	for _, version := range []string{"", "6"} {
		err := eachLine(filepath.Join(root, "proc/net/tcp"+version), func(f []string) {
			if len(f) <= state || f[state] != tcpEstablished {
				return
			}
			l, ok := parseSocketAddr(f[local])
			p, ok2 := parseSocketAddr(f[peer])
			if ok && ok2 {
				out = append(out, Session{netip.AddrPortFrom(l.Addr().Unmap(), l.Port()), netip.AddrPortFrom(p.Addr().Unmap(), p.Port())})
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list connections: %w", err)
		}
	}
	return out, nil
}
