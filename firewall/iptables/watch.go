package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// newGeneration is what nf_tables tells at the end of every change: NFNL_SUBSYS_NFTABLES and NFT_MSG_NEWGEN of
// linux/netfilter/nf_tables.h.
const newGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN

// Watch calls changed after every change of the kernel's rules, whoever makes it, until ctx ends, and at least once when it
// has missed some. The legacy backend tells of none: Watch waits for the end of ctx.
func (d *Driver) Watch(ctx context.Context, changed func()) error {
	if d.backend.Mode != NFT {
		<-ctx.Done()
		return nil
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("watch the rules: %w", err)
	}
	defer conn.Close()
	// What has changed comes message by message, a large ruleset in tens of thousands; only that it has is let through.
	var kind [2]byte
	binary.NativeEndian.PutUint16(kind[:], newGeneration)
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 4, Size: 2}, // nlmsg_type, which is in the host's order
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(kind[:])), SkipFalse: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	})
	if err == nil {
		err = conn.SetBPF(filter)
	}
	if err == nil {
		err = conn.JoinGroup(unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		return fmt.Errorf("watch the rules: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for {
		_, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil, errors.Is(err, unix.ENOBUFS):
			changed()
		case errors.Is(err, os.ErrClosed):
			return nil
		default:
			return fmt.Errorf("watch the rules: %w", err)
		}
	}
}
