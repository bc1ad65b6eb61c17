package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

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
		err = d.watched.begin(conn, changed)
	}
	if err != nil {
		return fmt.Errorf("watch the rules: %w", err)
	}
	defer d.watched.end()
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

// longText is the length of a transaction, in bytes, from which on nobody listens while it is written: as long as anybody
// does, the kernel describes every single rule to him.
const longText = 64 << 10

// watched is who listens to the kernel, if somebody does.
type watched struct {
	mu      sync.Mutex
	conn    *netlink.Conn
	changed func()
	pauses  int
}

// begin joins the group of those who are told of changes.
func (w *watched) begin(conn *netlink.Conn, changed func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pauses == 0 {
		if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
			return err
		}
	}
	w.conn, w.changed = conn, changed
	return nil
}

func (w *watched) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn, w.changed = nil, nil
}

// pause stops listening until the function that it returns is called, which says that something has changed: nobody knows
// what was missed. Without membership the kernel tells nothing; where it cannot be given up, listening goes on.
func (w *watched) pause() (resume func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pauses++
	if w.pauses == 1 && w.conn != nil {
		_ = w.conn.LeaveGroup(unix.NFNLGRP_NFTABLES)
	}
	return w.resume
}

func (w *watched) resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pauses--
	if w.pauses > 0 || w.conn == nil {
		return
	}
	if err := w.conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		w.conn.Close() // Watch ends, and says so
		return
	}
	w.changed()
}
