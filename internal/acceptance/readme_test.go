package acceptance

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/netlab"
)

// readmeStubs stand in for what a namespace does not have: sudo, since it is root already, and systemd, which starts what
// the installed unit says and waits until it is ready. The booted system has the real ones.
var readmeStubs = map[string]string{
	"sudo": `exec "$@"`,
	"systemctl": `unit=/usr/local/lib/systemd/system/gatehouse.service
test -f $unit
case "$*" in
daemon-reload) ;;
"enable --now gatehouse")
	mkdir -p /run/gatehouse /var/lib/gatehouse
	setsid $(sed -n 's/^ExecStart=//p' $unit) >/run/gatehouse.log 2>&1 </dev/null &
	for i in $(seq 100); do gatehouse status >/dev/null 2>&1 && exit 0; sleep 0.1; done
	cat /run/gatehouse.log >&2; exit 1 ;;
*) echo "systemctl $*: not in the README" >&2; exit 1 ;;
esac`,
}

// shellBlocks gives the README's commands, block by block.
func shellBlocks(t *testing.T, readme string) []string {
	t.Helper()
	var out []string
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(readme, -1) {
		out = append(out, m[1])
	}
	if len(out) < 5 {
		t.Fatalf("only %d blocks of commands in the README", len(out))
	}
	return out
}

func TestTheREADMEsCommandsWork(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := shellBlocks(t, string(readme))

	// The first block are the two commands. They are what the checks run, so they are not run inside themselves.
	checks, err := os.ReadFile(filepath.Join(root, ".ci/run"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(blocks[0]) {
		command, _, _ := strings.Cut(strings.TrimPrefix(line, "sudo "), "#")
		if command = strings.TrimSpace(command); command != "" && !strings.Contains(string(checks), "\n"+command+"\n") {
			t.Errorf("the checks do not run %q", command)
		}
	}

	lab, err := netlab.New("readme")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	}()
	host, err := lab.Space("host")
	if err != nil {
		t.Fatal(err)
	}
	outside, err := lab.Space("outside")
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Veth(ctx, host, "eth0", outside, "eth0"); err != nil {
		t.Fatal(err)
	}
	stubs := filepath.Join(lab.Dir, "stubs")
	if err := os.Mkdir(stubs, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, script := range readmeStubs {
		if err := os.WriteFile(filepath.Join(stubs, name), []byte("#!/bin/bash\nset -e\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// What is installed goes to a private copy of the directories that make install writes to.
	if _, err := host.Script(ctx, "rm -rf /etc/gatehouse /var/lib/gatehouse\nmkdir /run/upper /run/work\nmount -t overlay -o lowerdir=/usr/local,upperdir=/run/upper,workdir=/run/work local /usr/local\nip addr add 192.0.2.10/24 dev eth0\nip route add default via 192.0.2.1\n"); err != nil {
		t.Fatal(err)
	}
	for _, block := range blocks[1:] {
		prelude := "set -e\nexport PATH=" + stubs + ":" + os.Getenv("PATH") + ":/usr/local/sbin\ncd " + root + "\n"
		if !strings.Contains(block, "make ") {
			prelude += "cd " + lab.Dir + "\n"
		}
		cmd := host.Command(ctx, "bash", "-c", prelude+block)
		out, err := cmd.CombinedOutput()
		if err != nil {
			log, _ := host.Run(ctx, "cat", "/run/gatehouse.log") // only to say more
			t.Fatalf("%s\nfails: %v\n%s\n%s", block, err, out, log)
		}
		t.Logf("%s\n%s", block, out)
	}

	// Every verb that the table of every day names exists as it is written there.
	rows := regexp.MustCompile(`(?m)^\|.*\|$`).FindAllString(string(readme), -1)
	named := 0
	for _, row := range rows {
		for _, m := range regexp.MustCompile("`(gatehouse [^`]+)`").FindAllStringSubmatch(row, -1) {
			named++
			verb := strings.Fields(m[1])[1]
			if out, err := host.Run(ctx, "/usr/local/sbin/gatehouse", verb, "--help"); err != nil || !strings.Contains(out, "gatehouse "+verb) {
				t.Errorf("%s: there is no such verb: %v", m[1], err)
			}
		}
	}
	if named < 10 {
		t.Errorf("only %d commands in the README's table", named)
	}
}
