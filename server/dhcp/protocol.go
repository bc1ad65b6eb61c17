package dhcp

import (
	"net/netip"
	"time"

	"gatehouse/server/lease"
	"gatehouse/server/port"
	"gatehouse/vpc"
)

// Protocol is what one version of DHCP does otherwise than the other. Its functions are called from several goroutines.
type Protocol struct {
	Name    string // for logs
	Family  vpc.Family
	Network string   // "udp4" or "udp6"
	Port    int      // of servers and relays
	Kinds   []string // names of message types, by number; fewer than 16

	// Messages are the frames that ReadFrame reads, and Claims those that Claim does.
	Messages, Claims port.Kinds
	// ReadFrame reads a message from a frame of a guest of a vSwitch. Nil without a reason means that it is another
	// server's business. The packet's payload may be part of the frame.
	ReadFrame func(frame []byte, w *vpc.VSwitch) (*Packet, Drop)
	// ReadRelayed reads what a relay sent. The packet's payload may be part of it.
	ReadRelayed func(payload []byte, from netip.Addr) (*Packet, Drop)
	// Probe is the frame that asks a link who has an address, and Claim reads an answer to such a frame.
	Probe func(from vpc.MAC, addr netip.Addr) []byte
	Claim func(frame []byte) (addr netip.Addr, by vpc.MAC, ok bool)
	// Parse reads a packet's message. The error is one that DropOf knows.
	Parse func(*Packet) (Message, error)
}

// Packet is a message that waits to be served.
type Packet struct {
	Payload []byte
	Key     Key
	Port    *port.Socket // nil: by a relay
	Relay   netip.Addr   // who sent it, if by a relay
	Src     netip.Addr   // the source of the frame's IP header, if by a port
	Dst     netip.Addr   // its destination

	at       time.Time
	counted  bool // as received
	enrolled bool // an enrolment has been tried for it
}

// Key tells a message from its retransmissions, which are equal in it. The MAC is the client's as far as that can be told
// without reading the message.
type Key struct {
	MAC  vpc.MAC
	XID  uint32
	Kind byte
}

// Message is a client's message that has passed every check that needs no knowledge of the network.
type Message interface {
	// Kind is the message type, an index into Protocol.Kinds.
	Kind() byte
	// Relayed reports whether the message says that a relay sent it.
	Relayed() bool
	// VSwitch returns which of the vSwitches that name the relay the message is for; nil when it is none.
	VSwitch(candidates []*vpc.VSwitch) *vpc.VSwitch
	// Sender is who sent it, as the lease engine knows clients.
	Sender(vswitchID string) lease.Client
	// Decide says what becomes of it. It reads and changes only what the lease engine holds in memory.
	Decide(leases *lease.Engine, w *vpc.VSwitch) Decision
}

// Decision is what becomes of a message. At most one of Drop, Enrol, Probe and Reply is set; none: nothing more to do.
type Decision struct {
	Drop    Drop
	Enrol   bool       // make it an instance, then decide again
	Probe   netip.Addr // see that nobody on the client's link has this address, then decide again
	Reply   Reply      // send this …
	Lease   *vpc.Lease // … but only once this is durable
	Refused string     // why the reply refuses the client something; logged
}

// Reply is an answer that is ready to be sent.
type Reply interface {
	Kind() byte
	// Frame is the answer as it goes out by the port of a vSwitch where the request came in.
	Frame(from port.Port, w *vpc.VSwitch) []byte
	// Datagram is the answer as it goes to a relay.
	Datagram() (to netip.Addr, payload []byte)
}

// Holder makes a bridge port the holder of a MAC, so that frames to that MAC go there and no other port may send from it.
type Holder interface {
	// Hold is cheap when the port holds the MAC already. It is an error when another port that is up does, or when the
	// MAC is not that port's to hold.
	Hold(port string, mac vpc.MAC) error
}
