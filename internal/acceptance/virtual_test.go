//go:build packages

package acceptance

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"gatehouse/internal/netlab"
)

// virtualLab has a machine that is declared, and admits others as instances of their own.
const virtualLab = `
vpcs:
- name: lab
  cidrBlock: 10.20.0.0/16
  vswitches:
  - {name: front, cidrBlock: 10.20.1.0/24, attach: {bridge: gh-front}}
  securityGroups:
  - {name: client}
  - name: server
    rules:
    - {direction: ingress, protocol: tcp, ports: 443, source: "sg:client"}
  instances:
  - {name: client, interfaces: [{mac: 00:16:3e:00:01:01, vswitch: front, securityGroups: [client]}]}
  - {name: vm, interfaces: [{mac: 00:16:3e:00:09:01, vswitch: front, securityGroups: [server]}]}
`

// guestTree makes the files of a small guest in $1: it asks for an address on the link $2, and answers on two ports.
const guestTree = `
mkdir -p $1/bin $1/etc $1/usr/lib $1/dev $1/proc $1/root
cp /bin/busybox $1/bin/
for l in $(ldd /bin/busybox | grep -o '/[^ )]*'); do install -D $l $1$l; done
for a in sh ip udhcpc nc echo sleep mount insmod; do ln -sf busybox $1/bin/$a; done
echo ID=guest >$1/usr/lib/os-release
cat >$1/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip route add default via ${router%% *}
END
cat >$1/guest <<END
#!/bin/sh
ip link set $2 up
udhcpc -i $2 -s /lease -n -q -t 20
(while :; do echo here | nc -l -p 443; done) &
while :; do echo here | nc -l -p 444; done
END
chmod +x $1/lease $1/guest
`

// vmTree makes a kernel and its first files of that guest in /root/vm. Modules are tried twice: one needs another.
const vmTree = `
dpkg-deb -x $(ls %s/linux-image-[0-9]*-cloud-amd64_*.deb | tail -1) /root/kernel
mkdir -p /root/vm/files/m
` + `
for m in failover net_failover virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_net; do
	cp $(find /root/kernel -name $m.ko) /root/vm/files/m/
done
cat >/root/vm/files/init <<'END'
#!/bin/sh
mount -t proc proc /proc
for try in 1 2 3 4; do for m in /m/*.ko; do insmod $m 2>/dev/null; done; done
exec /guest
END
chmod +x /root/vm/files/init
cd /root/vm/files
find . | busybox cpio -o -H newc | gzip -1 >../initrd
mkdir -p /dev/net
mknod /dev/net/tun c 10 200
`

func TestGuestsOfRealVirtualisation(t *testing.T) {
	pkg, err := os.ReadFile(debianPackage(t))
	if err != nil {
		t.Fatal(err)
	}
	fetch(t, "linux-image-cloud-amd64")
	packages := []string{"qemu-system-x86", "systemd-container", "busybox"}
	cache := fetch(t, packages...)
	c := &coexistence{system: newSystem(t, "virtual"), companion: companion{packages: packages}}
	c.boot()
	c.install(cache)
	c.put("/etc/gatehouse/gatehouse.yaml", []byte("dns: {upstreams: []}\n"))
	c.put("/root/gatehouse.deb", pkg)
	c.do("dpkg", "-i", "--force-confold", "/root/gatehouse.deb")
	c.apply(virtualLab)
	if c.client, err = c.lab.Guest(c.ctx, "client", c.space, portOf("client"), "gh-front", "00:16:3e:00:01:01"); err != nil {
		t.Fatal(err)
	}
	if err := c.client.DHClient(c.ctx); err != nil {
		t.Fatal(err)
	}

	c.part("a virtual machine of QEMU on a tap", func(*system) {
		c.script("set -- /root/vm/files eth0\n" + guestTree + fmt.Sprintf(vmTree, cache))
		c.script("ip tuntap add tap0 mode tap\nip link set tap0 master gh-front up\n") // as the README says
		c.do("sh", "-c", "systemd-run -q --unit=vm qemu-system-x86_64 -M pc,accel=tcg -m 192 -display none -no-reboot -nodefaults -serial file:/root/vm/console "+
			"-kernel $(ls /root/kernel/boot/vmlinuz-*) -initrd /root/vm/initrd -append 'console=ttyS0 quiet panic=-1' "+
			"-netdev tap,id=n0,ifname=tap0,script=no,downscript=no -device virtio-net-pci,netdev=n0,mac=00:16:3e:00:09:01,romfile=")
		at := c.leaseOf("00:16:3e:00:09:01")
		c.isGuest("tap0", at, true)
	})
	c.part("containers of systemd-nspawn, in the bridge and on a cable", func(*system) {
		c.script("set -- /root/c1 host0\n" + guestTree + "cp -a /root/c1 /root/c2\n")
		c.do("systemd-run", "-q", "--unit=c1", "systemd-nspawn", "-q", "--register=no", "-D", "/root/c1", "-M", "c1", "--network-bridge=gh-front", "/bin/sh", "/guest")
		c.do("systemd-run", "-q", "--unit=c2", "systemd-nspawn", "-q", "--register=no", "-D", "/root/c2", "-M", "c2", "--network-veth", "/bin/sh", "/guest")
		c.eventually("the cable is there", func() error {
			out, err := c.in("ip", "link", "set", "ve-c2", "master", "gh-front", "up")
			if err != nil {
				return errors.New(out)
			}
			return nil
		})
		for unit, port := range map[string]string{"c1": "vb-c1", "c2": "ve-c2"} {
			mac := ""
			c.eventually(unit+" is an instance", func() error {
				mac = regexp.MustCompile(`(?m)^([0-9a-f:]{17}) .*static sticky|([0-9a-f:]{17}).*sticky.*static`).FindString(c.do("bridge", "fdb", "show", "br", "gh-front", "dev", port))
				if len(mac) < 17 {
					return errors.New("no MAC is held at " + port)
				}
				mac = mac[:17]
				return nil
			})
			at := c.leaseOf(mac)
			c.isGuest(port, at, false) // it enrolled itself: nobody but its like reaches it
			for _, i := range c.list("interfaces") {
				if i["mac"] == mac {
					c.do("gatehouse", "set", "instance", i["instance"].(string), "--security-groups", "server")
				}
			}
			c.isGuest(port, at, true)
		}
	})
}

// leaseOf waits until a MAC has an address, and gives it.
func (c *coexistence) leaseOf(mac string) string {
	c.Helper()
	at := ""
	c.eventually("it has an address", func() error {
		for _, l := range c.list("leases") {
			if l["mac"] == mac && l["state"] == "bound" {
				at = l["address"].(string)
				return nil
			}
		}
		console, _ := c.in("cat", "/root/vm/console") // only to say more
		return fmt.Errorf("%s has none\n%s", mac, console)
	})
	return at
}

// isGuest checks that a port is isolated, and that the client reaches the guest behind it on the one port that is allowed, if any.
func (c *coexistence) isGuest(port, at string, allowed bool) {
	c.Helper()
	c.eventually("its port is isolated and locked", func() error {
		if out := c.do("bridge", "-d", "link", "show", "dev", port); !strings.Contains(out, "isolated on") || !strings.Contains(out, "locked on") {
			return errors.New(out)
		}
		return nil
	})
	to := netip.MustParseAddr(at)
	if allowed {
		c.eventually("it is reached", func() error {
			if !says(c, c.client, to, allowedPort) {
				return fmt.Errorf("%s does not answer", to)
			}
			return nil
		})
	} else if says(c, c.client, to, allowedPort) {
		c.Errorf("%s is reached on port %d", to, allowedPort)
	}
	if says(c, c.client, to, refusedPort) {
		c.Errorf("%s is reached on port %d", to, refusedPort)
	}
}

// says reports whether a guest says that it is there.
func says(c *coexistence, from *netlab.Space, to netip.Addr, port int) bool {
	out, err := from.Run(c.ctx, "busybox", "nc", "-w", "2", to.String(), fmt.Sprint(port))
	return err == nil && strings.Contains(out, "here")
}
