package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/configs"
	"gatehouse/server/api"
	"gatehouse/vpc"
)

// What is changed under load: half of the names are aliases of the other half. An alias has the TTL baseTTL+n and its
// target the address 192.168.n.x in generation n, so that every answer says of which revision each of its records is.
const (
	changeWorkload = "change"

	changed     = 10_000
	changedZone = "change.example"
	baseTTL     = 1000

	changeSpan   = 10 * time.Second // of one measurement; a revision is applied within it
	changeAfter  = 2 * time.Second
	sockets      = 8
	outstanding  = 12 // questions of each at a time
	askPatience  = time.Second
	questionKind = 2 // every other question is about an instance, which never changes
)

// generation is the manifest of the zone that changes.
func generation(n int) ([]byte, error) {
	z := &vpc.PrivateZoneSpec{Name: changedZone, VPCs: []string{"lab"}}
	z.SetDefaults()
	for i := range changed / 2 {
		z.Records = append(z.Records,
			&vpc.RecordSpec{Name: fmt.Sprintf("alias-%d", i), Type: "CNAME", Value: fmt.Sprintf("target-%d", i), TTL: baseTTL + n},
			&vpc.RecordSpec{Name: fmt.Sprintf("target-%d", i), Type: "A", Value: target(i, n).String(), TTL: baseTTL})
	}
	return configs.EncodeManifest(&vpc.Spec{PrivateZones: []*vpc.PrivateZoneSpec{z}})
}

// target is the address behind an alias in a generation. Several aliases have the same one.
func target(i, n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, byte(n), byte(i)}) }

// change is one measurement while a revision changes names, beside one at rest.
type change struct {
	Answers int
	Lost    int
	Wrong   int // not what any generation says
	Mixed   int // records of two generations
	Old     int // of a generation before one that had been seen when the question was sent
	Newest  int // generation
	P50     float64
	P99     float64 // microseconds, as P50

	cpu   float64       // microseconds of the daemon per answer
	force time.Duration // until the revision was in force
}

// measureChanges asks in turns at rest and while a revision changes the names.
func (b *bench) measureChanges(ctx context.Context) error {
	client := api.NewClient(filepath.Join(b.dir, "api.sock"))
	n := 0
	apply := func() (time.Duration, error) {
		n++
		text, err := generation(n)
		if err != nil {
			return 0, err
		}
		began := time.Now()
		r, err := client.Apply(ctx, api.ApplyRequest{Files: []api.File{{Name: "change.yaml", Content: text}}, Timeout: time.Minute})
		if err == nil && r.Applied < r.Revision {
			err = fmt.Errorf("revision %d is in force instead of %d", r.Applied, r.Revision)
		}
		return time.Since(began), err
	}
	if _, err := apply(); err != nil {
		return err
	}
	for round := range b.rounds {
		if err := b.locked(func() error {
			rest, err := b.ask(ctx, func() error { return nil })
			if err != nil {
				return err
			}
			var took time.Duration
			busy, err := b.ask(ctx, func() (err error) {
				took, err = apply()
				return err
			})
			if err != nil {
				return err
			}
			busy.force = took
			for _, c := range []change{rest, busy} {
				if c.Wrong+c.Mixed+c.Old > 0 {
					return fmt.Errorf("%d wrong, %d mixed and %d old answers", c.Wrong, c.Mixed, c.Old)
				}
			}
			if rest.Newest != n-1 || busy.Newest != n {
				return fmt.Errorf("generations %d and %d were seen, want %d and %d", rest.Newest, busy.Newest, n-1, n)
			}
			b.rest, b.busy = append(b.rest, rest), append(b.busy, busy)
			return nil
		}); err != nil {
			return fmt.Errorf("change: %w", err)
		}
		fmt.Fprintf(b.out, "change: round %d of %d\n", round+1, b.rounds)
	}
	return nil
}

// ask runs the asker beside an event that comes after a while.
func (b *bench) ask(ctx context.Context, event func() error) (change, error) {
	self, err := os.Executable()
	if err != nil {
		return change{}, err
	}
	pid := b.running["gatehouse"].cmd.Process.Pid
	before, err := cpuTime(pid)
	if err != nil {
		return change{}, err
	}
	happened := make(chan error, 1)
	time.AfterFunc(changeAfter, func() { happened <- event() })
	out, err := b.space.Run(ctx, "taskset", "-c", loadCore, self, askVerb, gatewayAddr.String(), changeSpan.String())
	if err := errors.Join(err, <-happened); err != nil {
		return change{}, err
	}
	after, err := cpuTime(pid)
	if err != nil {
		return change{}, err
	}
	var c change
	if err := json.Unmarshal([]byte(out), &c); err != nil {
		return change{}, fmt.Errorf("what the asker says: %w", err)
	}
	if c.Answers == 0 {
		return change{}, errors.New("nothing was answered")
	}
	c.cpu = float64((after - before).Microseconds()) / float64(c.Answers)
	return c, nil
}

// askVerb turns this program into one that asks and checks every answer: ask SERVER SPAN.
const askVerb = "ask"

func askAndCheck(args []string, w io.Writer) error {
	if len(args) != 2 {
		return errors.New("want a server and a span")
	}
	server, err := netip.ParseAddr(args[0])
	if err != nil {
		return err
	}
	span, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	a := asker{hosts: hosts(), random: rand.New(rand.NewPCG(7, 5)), reply: make([]byte, 2048)}
	for k := range a.sockets {
		if a.sockets[k].fd, err = openSocket(server); err != nil {
			return err
		}
	}
	if err := a.run(time.Now().Add(span)); err != nil {
		return err
	}
	if len(a.took) > 0 {
		slices.Sort(a.took)
		a.P50, a.P99 = float64(a.took[len(a.took)/2].Microseconds()), float64(a.took[len(a.took)*99/100].Microseconds())
	}
	return json.NewEncoder(w).Encode(a.change)
}

// openSocket opens a UDP socket that is connected to a server and never blocks.
func openSocket(server netip.Addr) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 53, Addr: server.As4()}); err != nil {
		return 0, fmt.Errorf("connect to %s: %w", server, err)
	}
	return fd, nil
}

// asker asks on a few sockets in turns, a few questions at a time on each. It is one thread: several on one core would wait
// for each other longer than for the server.
type asker struct {
	change
	sockets [sockets]socket
	hosts   []host
	random  *rand.Rand
	newest  int64 // generation that has been seen
	took    []time.Duration
	buf     []byte
	reply   []byte
}

type socket struct {
	fd   int
	open [outstanding]asked
}

// asked is a question that waits for its answer. Its ID is its place, and above that a count of what was asked there.
type asked struct {
	id    uint16
	at    time.Time
	after int64 // the newest generation that had been seen
	index int   // of the alias, or of the host
	alias bool
}

// run asks until the end.
func (a *asker) run(end time.Time) error {
	var fds [sockets]unix.PollFd
	for k := range a.sockets {
		s := &a.sockets[k]
		defer unix.Close(s.fd)
		fds[k] = unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN}
		for place := range s.open {
			if err := a.send(s, place); err != nil {
				return err
			}
		}
	}
	for look := time.Now().Add(askPatience); time.Now().Before(end); {
		got := 0
		for k := range a.sockets {
			ok, err := a.receive(&a.sockets[k])
			if err != nil {
				return err
			}
			if ok {
				got++
			}
		}
		if got == 0 {
			if _, err := unix.Poll(fds[:], int(askPatience.Milliseconds())); err != nil && err != unix.EINTR {
				return fmt.Errorf("poll: %w", err)
			}
		}
		if now := time.Now(); now.After(look) {
			look = now.Add(askPatience)
			if err := a.giveUp(now); err != nil {
				return err
			}
		}
	}
	a.Newest = int(a.newest)
	return nil
}

// receive takes one answer from a socket, if there is one, and asks something else in its place.
func (a *asker) receive(s *socket) (bool, error) {
	n, err := unix.Read(s.fd, a.reply)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("receive: %w", err)
	case n < 12:
		a.Wrong++
		return true, nil
	}
	id := binary.BigEndian.Uint16(a.reply)
	q := &s.open[int(id)%outstanding]
	if q.id != id {
		return true, nil // it was taken for lost
	}
	a.Answers++
	a.took = append(a.took, time.Since(q.at))
	a.check(q, a.reply[:n])
	return true, a.send(s, int(id)%outstanding)
}

// giveUp takes what was asked long ago for lost and asks something else instead.
func (a *asker) giveUp(now time.Time) error {
	for k := range a.sockets {
		s := &a.sockets[k]
		for place := range s.open {
			if now.Sub(s.open[place].at) > askPatience {
				a.Lost++
				if err := a.send(s, place); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// send asks something at a place.
func (a *asker) send(s *socket, place int) error {
	q := &s.open[place]
	count := (int(q.id)/outstanding + 1) % (1 << 16 / outstanding)
	*q = asked{id: uint16(count*outstanding + place), after: a.newest, alias: a.random.IntN(questionKind) == 0}
	labels := ""
	if q.alias {
		q.index = a.random.IntN(changed / 2)
		labels = "alias-" + strconv.Itoa(q.index) + "." + changedZone
	} else {
		q.index = a.random.IntN(len(a.hosts))
		labels = a.hosts[q.index].name + "." + zone
	}
	a.buf = binary.BigEndian.AppendUint16(a.buf[:0], q.id)
	a.buf = append(a.buf, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0) // recursion desired, one question
	for label := range strings.SplitSeq(labels, ".") {
		a.buf = append(append(a.buf, byte(len(label))), label...)
	}
	a.buf = append(a.buf, 0, 0, 1, 0, 1) // A, IN
	q.at = time.Now()
	for {
		switch _, err := unix.Write(s.fd, a.buf); err {
		case nil, unix.EAGAIN: // without room it is lost
			return nil
		case unix.EINTR:
		default:
			return fmt.Errorf("ask: %w", err)
		}
	}
}

// check compares an answer with what the generation that it says it is from must say.
func (a *asker) check(q *asked, m []byte) {
	records := int(binary.BigEndian.Uint16(m[6:]))
	last := len(m) - 4 // the address of the last record
	if m[3]&15 != 0 || records < 1 || last < 12+16 {
		a.Wrong++
		return
	}
	addr := netip.AddrFrom4([4]byte(m[last:]))
	if !q.alias {
		if records != 1 || addr != a.hosts[q.index].v4 {
			a.Wrong++
		}
		return
	}
	// The question, then the alias: its owner is a pointer of two octets, then type, class, TTL.
	at := 12
	for at < last && m[at] != 0 {
		at += 1 + int(m[at])
	}
	at += 1 + 4 + 2 + 4
	if records != 2 || at+4 > last {
		a.Wrong++
		return
	}
	ttl := int(binary.BigEndian.Uint32(m[at:]))
	n := int(addr.As4()[2])
	switch {
	case addr != target(q.index, n):
		a.Wrong++
	case ttl != baseTTL+n:
		a.Mixed++
	case int64(n) < q.after:
		a.Old++
	}
	a.newest = max(a.newest, int64(n))
}
