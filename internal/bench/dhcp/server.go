package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gatehouse/server/api"
)

// The servers.
const (
	gatehouse = "gatehouse"
	kea       = "kea"
	isc       = "isc-dhcpd"
	dnsmasq   = "dnsmasq"
)

// patience is how long a server may take to answer its first request.
const patience = 2 * time.Minute

// process is a running server.
type process struct {
	cmd   *exec.Cmd
	ended chan error
	log   string
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the server and waits for it.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, <-p.ended), p.logged())
	}
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		if err := p.cmd.Process.Kill(); err != nil {
			return err
		}
		<-p.ended
	}
	return nil
}

// logged is the end of what the server has printed.
func (p *process) logged() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-2000):]))
}

// world is where a server runs.
func (b *bench) world(server string) *world {
	if server == gatehouse {
		return b.ours
	}
	return b.theirs
}

// start runs a server on its core; dir holds its configuration and its leases.
func (b *bench) start(ctx context.Context, server, dir string, v6 bool) (*process, error) {
	args := b.command(server, dir, v6)
	cmd := b.world(server).server.Command(ctx, "env", append([]string{"-C", dir, "KEA_LOCKFILE_DIR=" + dir, "KEA_PIDFILE_DIR=" + dir, "taskset", "-c", serverCore}, args...)...)
	p := &process{cmd: cmd, ended: make(chan error, 1), log: filepath.Join(dir, "log")}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.ended <- cmd.Wait() }()
	return p, nil
}

// ready waits until a server that has been started answers.
func (b *bench) ready(ctx context.Context, server, dir string, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if server == gatehouse { // also rules and sets are in force, so that none of that falls into the measurement
		client := api.NewClient(filepath.Join(dir, "api.sock"))
		for client.Do(ctx, "GET", "/readyz", nil, nil, nil) != nil {
			select {
			case err := <-p.ended:
				return fmt.Errorf("it ended: %w: %s", err, p.logged())
			case <-ctx.Done():
				return fmt.Errorf("it does not get ready: %s", p.logged())
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	if _, err := b.world(server).firstOffer(ctx, clientMAC(0), netip.Addr{}); err != nil {
		return fmt.Errorf("%w: %s", err, p.logged())
	}
	return nil
}

// command is a server's command line.
func (b *bench) command(server, dir string, v6 bool) []string {
	v := "4"
	if v6 {
		v = "6"
	}
	switch server {
	case kea:
		return []string{"kea-dhcp" + v, "-c", filepath.Join(dir, "kea"+v+".json")}
	case isc:
		return []string{"dhcpd", "-" + v, "-f", "-q", "-cf", filepath.Join(dir, "dhcpd.conf"), "-lf", filepath.Join(dir, "dhcpd.leases"), "-pf", filepath.Join(dir, "dhcpd.pid"), serverLink}
	case dnsmasq:
		return []string{"dnsmasq", "-k", "-C", filepath.Join(dir, "dnsmasq.conf"), "-u", "root", "--pid-file="}
	}
	return []string{b.gatehouse, "serve", "--config", filepath.Join(dir, "gatehouse.yaml")}
}

// settings writes what a server needs into an empty directory, for so many clients.
func settings(server, dir string, clients int) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string]string{}
	switch server {
	case gatehouse:
		files["gatehouse.yaml"] = fmt.Sprintf("stateDir: %s/state\napi: {socket: %s/api.sock}\ndns: {upstreams: []}\nlog: {level: warn}\n", dir, dir)
	case kea:
		files["kea4.json"] = fmt.Sprintf(`{ "Dhcp4": {
  "interfaces-config": { "interfaces": [ %q ], "dhcp-socket-type": "raw" },
  "lease-database": { "type": "memfile", "persist": true, "name": "%s/kea4.csv", "lfc-interval": 0 },
  "multi-threading": { "enable-multi-threading": false },
  "valid-lifetime": 3600, "renew-timer": 1800, "rebind-timer": 3000,
  "subnet4": [ { "id": 1, "subnet": %q, "pools": [ { "pool": "%s - %s" } ],
     "option-data": [ { "name": "routers", "data": %q }, { "name": "domain-name-servers", "data": %[6]q } ] } ],
  "loggers": [ { "name": "kea-dhcp4", "severity": "ERROR", "output_options": [ { "output": "stderr" } ] } ]
} }
`, serverLink, dir, subnet, poolFirst, poolLast, linkAddr)
		files["kea6.json"] = fmt.Sprintf(`{ "Dhcp6": {
  "interfaces-config": { "interfaces": [ "%s/%s" ] },
  "lease-database": { "type": "memfile", "persist": true, "name": "%s/kea6.csv", "lfc-interval": 0 },
  "multi-threading": { "enable-multi-threading": false },
  "server-id": { "type": "LLT", "persist": false },
  "valid-lifetime": 3600, "preferred-lifetime": 3000, "renew-timer": 1800, "rebind-timer": 2700,
  "subnet6": [ { "id": 1, "subnet": %q, "pools": [ { "pool": "fd00:99::1:0 - fd00:99::ff:ffff" } ],
     "option-data": [ { "name": "dns-servers", "data": %q } ] } ],
  "loggers": [ { "name": "kea-dhcp6", "severity": "ERROR", "output_options": [ { "output": "stderr" } ] } ]
} }
`, serverLink, server6, dir, subnet6, link6)
	case isc:
		last := poolLast
		if clients <= fewClients { // it is much faster with a small pool: let it
			last = netip.MustParseAddr("10.99.16.255")
		}
		files["dhcpd.leases"] = ""
		files["dhcpd.conf"] = fmt.Sprintf(`authoritative; ddns-update-style none; ping-check false;
default-lease-time 3600; max-lease-time 3600;
log-facility local7;
subnet 192.0.2.0 netmask 255.255.255.0 { }
subnet %s netmask 255.255.0.0 { range %s %s; option routers %s; option domain-name-servers %[4]s; }
`, subnet.Addr(), poolFirst, last, linkAddr)
	case dnsmasq:
		files["dnsmasq.conf"] = fmt.Sprintf(`port=0
interface=%s
bind-interfaces
no-ping
dhcp-authoritative
dhcp-range=%s,%s,255.255.0.0,3600
dhcp-option=option:router,%s
dhcp-option=option:dns-server,%[4]s
dhcp-lease-max=70000
dhcp-leasefile=%s/dnsmasq.leases
quiet-dhcp
`, serverLink, poolFirst, poolLast, linkAddr, dir)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
