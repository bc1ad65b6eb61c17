package survey

import (
	"encoding/binary"
	"net"
	"strconv"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Offsets in struct inet_diag_req_v2 and struct inet_diag_msg of linux/inet_diag.h.
const (
	diagRequest  = 56 // bytes
	diagStates   = 4  // in a request: which states are asked for
	diagLink     = 40 // in a reply: the link's index
	diagInode    = 68
	diagReply    = 72 // bytes at least
	allDiagState = 0xffffffff
)

// boundTo gives the links that sockets are bound to, by the sockets' inodes: the lists below /proc/net do not have them. A
// kernel that does not tell has none.
func boundTo() map[string]string {
	out := map[string]string{}
	conn, err := netlink.Dial(unix.NETLINK_INET_DIAG, nil)
	if err != nil {
		return out
	}
	defer conn.Close()
	for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			request := make([]byte, diagRequest)
			request[0], request[1] = family, protocol
			binary.NativeEndian.PutUint32(request[diagStates:], allDiagState)
			replies, err := conn.Execute(netlink.Message{
				Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump},
				Data:   request,
			})
			if err != nil {
				continue
			}
			for _, r := range replies {
				if inode, index, ok := parseDiag(r.Data); ok && index != 0 {
					if link, err := net.InterfaceByIndex(index); err == nil {
						out[inode] = link.Name
					}
				}
			}
		}
	}
	return out
}

// parseDiag reads the inode of a socket and the index of the link that it is bound to; 0: to none.
func parseDiag(b []byte) (inode string, link int, ok bool) {
	if len(b) < diagReply {
		return "", 0, false
	}
	return strconv.FormatUint(uint64(binary.NativeEndian.Uint32(b[diagInode:])), 10), int(binary.NativeEndian.Uint32(b[diagLink:])), true
}
