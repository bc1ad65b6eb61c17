package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// getGeneration asks nf_tables for the number of its ruleset: NFNL_SUBSYS_NFTABLES and NFT_MSG_GETGEN of
// linux/netfilter/nf_tables.h.
const (
	getGeneration     = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN
	attrGenerationID  = 1 // NFTA_GEN_ID
	nfgenmsgSize      = 4
	nfgenmsgUnspec    = unix.AF_UNSPEC
	nfnetlinkVersion0 = 0
)

// Generation returns a number that is another one after a change of the kernel's rules, whoever makes it. With the legacy
// backend it is not exact: only a change that leaves as many rules, of the same size, in every table goes unnoticed.
func (d *Driver) Generation(ctx context.Context) (n uint32, exact bool, err error) {
	if d.backend.Mode == NFT {
		n, err = Generation(ctx)
		return n, true, err
	}
	n, err = dimensions()
	return n, false, err
}

// Generation returns the number that the rules of nf_tables have now; legacy tables are not in it.
func Generation(context.Context) (n uint32, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read the generation of the rules: %w", err)
		}
	}()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: getGeneration, Flags: netlink.Request},
		Data:   []byte{nfgenmsgUnspec, nfnetlinkVersion0, 0, 0},
	})
	if err != nil {
		return 0, err
	}
	for _, m := range replies {
		if len(m.Data) < nfgenmsgSize {
			continue
		}
		attrs, err := netlink.NewAttributeDecoder(m.Data[nfgenmsgSize:])
		if err != nil {
			return 0, err
		}
		attrs.ByteOrder = binary.BigEndian
		for attrs.Next() {
			if attrs.Type() == attrGenerationID {
				return attrs.Uint32(), attrs.Err()
			}
		}
		if err := attrs.Err(); err != nil {
			return 0, err
		}
	}
	return 0, errors.New("no answer")
}

// getInfo asks legacy tables for their dimensions: IPT_SO_GET_INFO and IP6T_SO_GET_INFO of linux/netfilter_ipv4/ip_tables.h
// and linux/netfilter_ipv6/ip6_tables.h.
const getInfo = 64

// tableInfo is struct ipt_getinfo, and struct ip6t_getinfo.
type tableInfo struct {
	name       [32]byte
	validHooks uint32
	hookEntry  [5]uint32
	underflow  [5]uint32
	entries    uint32
	size       uint32 // in bytes
}

// dimensions returns a hash of how many rules every legacy table has, how large they are and where the kernel's chains begin.
func dimensions() (uint32, error) {
	sum := fnv.New32a()
	for _, proto := range []struct{ family, level int }{{unix.AF_INET, unix.IPPROTO_IP}, {unix.AF_INET6, unix.IPPROTO_IPV6}} {
		fd, err := unix.Socket(proto.family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return 0, fmt.Errorf("open a socket to the legacy tables: %w", err)
		}
		for _, table := range Tables() {
			var info tableInfo
			copy(info.name[:], table)
			size := uint32(unsafe.Sizeof(info))
			_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(proto.level), getInfo,
				uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
			if errno != 0 && errno != unix.ENOENT { // a table that nobody has used yet
				return 0, errors.Join(fmt.Errorf("read the dimensions of legacy table %s: %w", table, errno), unix.Close(fd))
			}
			fmt.Fprintln(sum, info)
		}
		if err := unix.Close(fd); err != nil {
			return 0, err
		}
	}
	return sum.Sum32(), nil
}
