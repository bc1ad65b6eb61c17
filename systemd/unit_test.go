// Package systemd holds the unit files, and the test that reads them as systemd would.
package systemd

import (
	"bufio"
	"os"
	"slices"
	"strings"
	"testing"
)

// read gives the settings of a unit by section and key, in order.
func read(t *testing.T, name string) map[string][]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	settings := map[string][]string{}
	section := ""
	for n, sc := 1, bufio.NewScanner(f); sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[' && strings.HasSuffix(line, "]"):
			section = strings.Trim(line, "[]")
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" || key != strings.TrimSpace(key) {
				t.Fatalf("%s:%d: %q is not a setting", name, n, line)
			}
			settings[section+"."+key] = append(settings[section+"."+key], value)
		}
	}
	return settings
}

// promise is a setting and all the values that it must have.
type promise struct {
	name, key string
	values    []string
}

func one(name, key, value string) promise { return promise{name, key, []string{value}} }

func keep(t *testing.T, unit map[string][]string, promises []promise) {
	t.Helper()
	for _, p := range promises {
		t.Run(p.name, func(t *testing.T) {
			if got := unit[p.key]; !slices.Equal(got, p.values) {
				t.Errorf("%s = %q, want %q", p.key, got, p.values)
			}
		})
	}
}

func TestTheSocketUnitMakesTheSocketThatTheDaemonWouldMake(t *testing.T) {
	keep(t, read(t, "gatehouse.socket"), []promise{
		one("it is where commands look for it", "Socket.ListenStream", "/run/gatehouse/api.sock"),
		one("who may talk to the daemon may connect", "Socket.SocketMode", "0660"),
		one("which is its group", "Socket.SocketGroup", "gatehouse"),
		one("the directory is as the daemon's unit makes it", "Socket.DirectoryMode", read(t, "gatehouse.service")["Service.RuntimeDirectoryMode"][0]),
		one("it is there at boot", "Install.WantedBy", "sockets.target"),
		{"it is nobody's but who asks for it", "Install.Also", nil},
	})
}

func TestTheUnitKeepsItsPromises(t *testing.T) {
	unit := read(t, "gatehouse.service")
	keep(t, unit, []promise{
		one("systemd is told when the rules are in force", "Service.Type", "notify"),
		one("a hung daemon is restarted", "Service.WatchdogSec", "30s"),
		one("a killed daemon comes back", "Service.Restart", "on-failure"),
		one("and is never given up", "Unit.StartLimitIntervalSec", "0"),
		{"a reload reads the configuration again, once it is seen to be good", "Service.ExecReload",
			[]string{"@SBIN@/gatehouse config check", "/bin/kill -HUP $MAINPID"}},
		one("the program is where it was installed", "Service.ExecStart", "@SBIN@/gatehouse serve"),
		one("guests come after it, the links it adopts before", "Unit.After", "gatehouse-base.service network.target ufw.service firewalld.service"),
		one("the directory of the socket is also the socket unit's", "Service.RuntimeDirectoryPreserve", "yes"),
		one("it may open a socket for every port", "Service.LimitNOFILE", "524288"),
		one("it starts at boot", "Install.WantedBy", "multi-user.target"),
		one("and what closes the links before it too", "Install.Also", "gatehouse-base.service"),
		one("it needs three capabilities", "Service.CapabilityBoundingSet", "CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE"),
		one("and has them without being root", "Service.AmbientCapabilities", "CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE"),
		one("packets of every kind it reads", "Service.RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET"),
	})
	for _, key := range []string{"Service.ExecStop", "Service.ExecStopPost"} {
		if stop := unit[key]; stop != nil {
			t.Errorf("%s=%q: stopping must leave the rules in force", key, stop)
		}
	}
}

func TestLinksAreClosedBeforeTheNetworkIsSetUp(t *testing.T) {
	keep(t, read(t, "gatehouse-base.service"), []promise{
		one("before the first link comes up", "Unit.Before", "network-pre.target shutdown.target"),
		one("which then exists", "Unit.Wants", "network-pre.target"),
		one("early", "Unit.DefaultDependencies", "no"),
		one("with the state at hand", "Unit.RequiresMountsFor", "/var/lib/gatehouse"),
		one("when there is any", "Unit.ConditionPathExists", "/var/lib/gatehouse/state.db"),
		one("once a boot", "Service.Type", "oneshot"),
		one("and no more", "Service.RemainAfterExit", "yes"),
		one("by the program", "Service.ExecStart", "@SBIN@/gatehouse firewall base"),
		one("at every boot", "Install.WantedBy", "sysinit.target"),
	})
}

// Both units run the same program on the same files: what shuts it in is the same.
func TestBothUnitsAreShutInAlike(t *testing.T) {
	daemon, base := read(t, "gatehouse.service"), read(t, "gatehouse-base.service")
	for _, u := range []map[string][]string{daemon, base} {
		keep(t, u, []promise{
			one("it is not root", "Service.User", "gatehouse"),
			one("those of its group may talk to it", "Service.Group", "gatehouse"),
			one("the system's files are read-only", "Service.ProtectSystem", "strict"),
			one("but for the lock of all users of iptables", "Service.ReadWritePaths", "-/run/xtables.lock"),
			one("state survives", "Service.StateDirectory", "gatehouse"),
			one("nobody else reads the state", "Service.StateDirectoryMode", "0700"),
			{"no system call that it does not need", "Service.SystemCallFilter", []string{"@system-service", "~@privileged @resources"}},
		})
	}
	same := []string{
		"NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "DevicePolicy", "ProtectProc",
		"ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectClock", "ProtectHostname", "RestrictNamespaces",
		"RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "MemoryDenyWriteExecute", "KeyringMode", "RemoveIPC",
		"SystemCallArchitectures", "SystemCallErrorNumber", "UMask",
	}
	for _, key := range same {
		d, b := daemon["Service."+key], base["Service."+key]
		if len(d) != 1 || !slices.Equal(d, b) {
			t.Errorf("%s is %q and %q", key, d, b)
		}
	}
	if caps := base["Service.CapabilityBoundingSet"]; !slices.Equal(caps, []string{"CAP_NET_ADMIN CAP_NET_RAW"}) {
		t.Errorf("closing links needs no more than CAP_NET_ADMIN, and CAP_NET_RAW for iptables-legacy; it has %q", caps)
	}
}

// lines gives what a configuration file says, without comments.
func lines(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			out = append(out, line)
		}
	}
	return out
}

func TestWhatTheUnitsNeedIsThere(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		want       []string
	}{
		{"the user", "gatehouse.sysusers", []string{`u gatehouse - "gatehouse daemon" /var/lib/gatehouse`}},
		{"the common lock of iptables-legacy, which the group may take", "gatehouse.tmpfiles", []string{"f /run/xtables.lock 0660 root gatehouse -"}},
		{"modules that the kernel does not load by itself, and not br_netfilter, which filters the bridges of others", "gatehouse.modules",
			[]string{"ip_set", "xt_set", "ip_tables", "ip6_tables"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := lines(t, tt.file); !slices.Equal(got, tt.want) {
				t.Errorf("%s says %q, want %q", tt.file, got, tt.want)
			}
		})
	}
}
