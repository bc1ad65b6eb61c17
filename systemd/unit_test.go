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

func TestTheUnitKeepsItsPromises(t *testing.T) {
	unit := read(t, "gatehouse.service")
	for _, promise := range []struct{ name, key, value string }{
		{"systemd is told when the rules are in force", "Service.Type", "notify"},
		{"a hung daemon is restarted", "Service.WatchdogSec", "30s"},
		{"a killed daemon comes back", "Service.Restart", "on-failure"},
		{"a reload reads the configuration again", "Service.ExecReload", "/bin/kill -HUP $MAINPID"},
		{"the program is where make install puts it", "Service.ExecStart", "@SBIN@/gatehouse serve"},
		{"state survives", "Service.StateDirectory", "gatehouse"},
		{"nobody else reads the state", "Service.StateDirectoryMode", "0700"},
		{"it starts at boot", "Install.WantedBy", "multi-user.target"},
		{"the system's files are read-only", "Service.ProtectSystem", "strict"},
	} {
		t.Run(promise.name, func(t *testing.T) {
			if got := unit[promise.key]; !slices.Equal(got, []string{promise.value}) {
				t.Errorf("%s = %q, want %q", promise.key, got, promise.value)
			}
		})
	}
	if stop := unit["Service.ExecStop"]; stop != nil {
		t.Errorf("ExecStop=%q: stopping must leave the rules in force", stop)
	}
	needed := []string{"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"}
	caps := strings.Fields(strings.Join(unit["Service.CapabilityBoundingSet"], " "))
	for _, c := range needed {
		if !slices.Contains(caps, c) {
			t.Errorf("CapabilityBoundingSet lacks %s", c)
		}
	}
	if slices.Contains(caps, "CAP_SYS_ADMIN") {
		t.Error("CapabilityBoundingSet has CAP_SYS_ADMIN, which nothing needs")
	}
}
