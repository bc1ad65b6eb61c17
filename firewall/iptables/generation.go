package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

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

// Generation returns a number that grows with every change of the kernel's rules, whoever makes it. ok is false for the
// legacy backend, which has none.
func (d *Driver) Generation(ctx context.Context) (n uint32, ok bool, err error) {
	if d.backend.Mode != NFT {
		return 0, false, nil
	}
	n, err = Generation(ctx)
	return n, err == nil, err
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
