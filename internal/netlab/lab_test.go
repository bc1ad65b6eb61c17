package netlab

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestLabRaisesHostsThatReachEachOtherAndLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	lab, err := New("labtest")
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			lab.Close()
		}
	}()
	gw, err := lab.Space("gw")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gw.Script(ctx, "ip link add br0 type bridge\nip link set br0 up\nip addr add 10.9.0.1/24 dev br0\n"); err != nil {
		t.Fatal(err)
	}
	guest, err := lab.Guest(ctx, "a", gw, "port-a", "br0", "02:00:00:00:00:0a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := guest.Run(ctx, "ip", "addr", "add", "10.9.0.2/24", "dev", "eth0"); err != nil {
		t.Fatal(err)
	}
	if err := Eventually(ctx, func() error { _, err := guest.Run(ctx, "ping", "-c1", "-W1", "10.9.0.1"); return err }); err != nil {
		t.Fatal(err)
	}

	before, _ := os.ReadFile("/etc/resolv.conf")
	if _, err := guest.Script(ctx, "echo nameserver 10.9.0.1 > /etc/resolv.conf\nhostname\n"); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile("/etc/resolv.conf"); string(after) != string(before) {
		t.Error("a guest's resolv.conf is the machine's")
	}
	var names []string
	err = guest.Do(func() error {
		ifs, err := net.Interfaces()
		for _, i := range ifs {
			names = append(names, i.Name)
		}
		return err
	})
	if err != nil || !strings.Contains(strings.Join(names, " "), "eth0") {
		t.Errorf("inside the guest: links %v, error %v", names, err)
	}

	if err := lab.Close(); err != nil {
		t.Fatal(err)
	}
	closed = true
	if _, err := os.Stat(namespaceDir + "/" + gw.Name()); !os.IsNotExist(err) {
		t.Errorf("namespace left behind: %v", err)
	}
	if _, err := os.Stat(lab.Dir); !os.IsNotExist(err) {
		t.Errorf("files left behind: %v", err)
	}
}
