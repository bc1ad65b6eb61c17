package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gatehouse/store"
	"gatehouse/vpc"
)

// restart measures from starting a server whose every client has a lease to its first OFFER of the address that a client
// had.
func (b *bench) restart(ctx context.Context, server string) error {
	mac, want, err := b.leased(ctx, server)
	if err != nil {
		return err
	}
	w := b.world(server)
	if server == gatehouse {
		// The rules are in the kernel when a daemon is restarted.
		p, err := b.start(ctx, server, b.dir(server), false)
		if err != nil {
			return err
		}
		if err := b.ready(ctx, server, b.dir(server), p); err != nil {
			return err
		}
		if err := p.stop(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	offered := make(chan error, 1)
	began := make(chan struct{})
	var took time.Duration
	go func() {
		<-began
		start := time.Now()
		_, err := w.firstOffer(ctx, mac, want)
		took = time.Since(start)
		offered <- err
	}()
	close(began)
	p, err := b.start(ctx, server, b.dir(server), false)
	if err != nil {
		return err
	}
	if err := <-offered; err != nil {
		return fmt.Errorf("%w: %s", err, p.logged())
	}
	b.results.add("restart", server, secondsKey, took.Seconds())
	return p.stop()
}

// leased gives a server leases for all clients, and returns one of them.
func (b *bench) leased(ctx context.Context, server string) (vpc.MAC, netip.Addr, error) {
	dir, mac := b.dir(server), clientMAC(allClients/2)
	if err := settings(server, dir, allClients); err != nil {
		return mac, netip.Addr{}, err
	}
	if server == gatehouse {
		path := b.statePath(allClients)
		if _, err := os.Stat(path); err != nil {
			if err := writeState(ctx, path, relayed(allClients), true); err != nil {
				return mac, netip.Addr{}, err
			}
		}
		if err := copyFile(path, filepath.Join(dir, "state", "state.db")); err != nil {
			return mac, netip.Addr{}, err
		}
		addr, err := storedAddr(path, mac)
		return mac, addr, err
	}
	var leases strings.Builder
	var want netip.Addr
	expires := time.Now().Add(time.Hour).Unix()
	leases.WriteString("address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context\n")
	addr := poolFirst
	for n := range allClients {
		fmt.Fprintf(&leases, "%s,%s,01:%[2]s,3600,%d,1,0,0,,0,\n", addr, clientMAC(n), expires)
		if clientMAC(n) == mac {
			want = addr
		}
		addr = addr.Next()
	}
	return mac, want, os.WriteFile(filepath.Join(dir, "kea4.csv"), []byte(leases.String()), 0o644)
}

// storedAddr finds the address of a MAC in a store's leases.
func storedAddr(path string, mac vpc.MAC) (netip.Addr, error) {
	st, err := store.Open(path, store.Options{})
	if err != nil {
		return netip.Addr{}, err
	}
	defer st.Close()
	leases, err := st.Leases()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, l := range leases {
		if l.MAC == mac {
			return l.Address, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no lease", mac)
}
