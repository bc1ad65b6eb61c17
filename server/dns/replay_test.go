package dns

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"gatehouse/vpc"
)

func TestASignedChangeIsMadeOnce(t *testing.T) {
	spec := lab()
	spec.VPCs[0].PrivateZones[0].UpdateKeys = []string{"lab-key"}
	s := asking(t, nil, spec)
	z := &zoneStore{server: s, spec: spec}
	s.config.Updater = z
	s.SetTSIGKeys([]TSIGKey{{"lab-key", "hmac-sha256", updateSecret}})
	signed := func(edit func(*miekg.Msg)) []byte {
		m := new(miekg.Msg).SetUpdate("corp.example.")
		edit(m)
		m.SetTsig("lab-key.", miekg.HmacSHA256, 300, time.Now().Unix())
		wire, _, err := miekg.TsigGenerate(m, updateSecret, "", false)
		if err != nil {
			t.Fatal(err)
		}
		return wire
	}
	there := func() bool {
		_, out := s.View("vpc-a").Answer(nil, parseQuery(t, question("new.corp.example.", "A")), plainSize)
		return out.Rcode == miekg.RcodeSuccess
	}
	add := signed(func(m *miekg.Msg) { m.Insert([]miekg.RR{newRR(t, "new.corp.example. 60 IN A 10.20.9.77")}) })
	first, out := s.update(t.Context(), s.View("vpc-a"), add, client4)
	if out.Rcode != miekg.RcodeSuccess || !there() {
		t.Fatalf("the change: %+v", out)
	}
	remove := signed(func(m *miekg.Msg) { m.RemoveName([]miekg.RR{newRR(t, "new.corp.example. A 10.20.9.77")}) })
	if _, out := s.update(t.Context(), s.View("vpc-a"), remove, client4); out.Rcode != miekg.RcodeSuccess || there() {
		t.Fatalf("the change back: %+v", out)
	}
	// Somebody has recorded it and sends it again, from wherever and with another ID.
	again := bytes.Clone(add)
	again[0]++
	for _, view := range []string{"vpc-a", "vpc-b"} {
		reply, out := s.update(t.Context(), s.View(view), again, client6)
		if view == "vpc-a" && (!bytes.Equal(reply, first) || out.Rcode != miekg.RcodeSuccess) {
			t.Errorf("in %s: %+v, not the reply of the first time", view, out)
		}
		if there() || len(z.who) != 2 {
			t.Fatalf("in %s: the change was made again", view)
		}
	}
}

// slowStore is a store that takes its time.
type slowStore struct {
	begun, release chan struct{}
	mu             sync.Mutex
	n              int
}

func (z *slowStore) UpdateZone(_ context.Context, _, _, _ string, _ func([]*vpc.RecordSpec) ([]*vpc.RecordSpec, error)) error {
	z.mu.Lock()
	z.n++
	z.mu.Unlock()
	z.begun <- struct{}{}
	<-z.release
	return nil
}

func TestAChangeThatComesAgainWaitsForTheFirst(t *testing.T) {
	spec := lab()
	spec.VPCs[0].PrivateZones[0].UpdateKeys = []string{"lab-key"}
	s := asking(t, nil, spec)
	z := &slowStore{begun: make(chan struct{}, 9), release: make(chan struct{})}
	s.config.Updater = z
	s.SetTSIGKeys([]TSIGKey{{"lab-key", "hmac-sha256", updateSecret}})
	m := new(miekg.Msg).SetUpdate("corp.example.")
	m.SetTsig("lab-key.", miekg.HmacSHA256, 300, time.Now().Unix())
	wire, _, err := miekg.TsigGenerate(m, updateSecret, "", false)
	if err != nil {
		t.Fatal(err)
	}
	replies := make(chan int, 3)
	ask := func(ctx context.Context) {
		_, out := s.update(ctx, s.View("vpc-a"), wire, client4)
		replies <- out.Rcode
	}
	go ask(t.Context())
	<-z.begun
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	ask(impatient)
	if rcode := <-replies; rcode != miekg.RcodeServerFailure {
		t.Errorf("who does not wait: rcode %d", rcode)
	}
	go ask(t.Context())
	close(z.release)
	for range 2 {
		if rcode := <-replies; rcode != miekg.RcodeSuccess {
			t.Errorf("rcode %d", rcode)
		}
	}
	if z.n != 1 {
		t.Errorf("changed %d times", z.n)
	}
}

func TestOldSignaturesAreForgottenSafely(t *testing.T) {
	var r replays
	start := time.Unix(1e9, 0)
	tsig := func(n int, signed time.Time) *miekg.TSIG {
		return &miekg.TSIG{Hdr: miekg.RR_Header{Name: "lab-key."}, MAC: fmt.Sprintf("%064x", n), TimeSigned: uint64(signed.Unix())}
	}
	for n := range maxReplays {
		if m, known := r.begin(tsig(n, start), start); m == nil || known {
			t.Fatalf("message %d: %v, %v", n, m, known)
		}
	}
	if _, known := r.begin(tsig(0, start), start.Add(2*tsigFudge*time.Second)); !known {
		t.Error("a message is forgotten while there is room for it")
	}
	later := start.Add(time.Minute)
	if m, known := r.begin(tsig(maxReplays, later), later); m == nil || known {
		t.Error("a new message is refused when there is no room")
	}
	if m, known := r.begin(tsig(0, start), later); m != nil || known {
		t.Error("what was signed before what is remembered is taken for new")
	}
	if len(r.seen) != maxReplays || len(r.order) != maxReplays {
		t.Errorf("%d and %d are remembered", len(r.seen), len(r.order))
	}
	if _, known := r.begin(tsig(maxReplays+1, start.Add(time.Hour)), start.Add(time.Hour)); known || len(r.seen) != 1 {
		t.Errorf("an hour later %d are remembered", len(r.seen))
	}
	for _, tt := range []struct {
		apart time.Duration
		want  bool
	}{{0, true}, {tsigFudge * time.Second, true}, {-tsigFudge * time.Second, true}, {(tsigFudge + 1) * time.Second, false}, {-(tsigFudge + 1) * time.Second, false}} {
		if got := inTime(tsig(0, start), start.Add(tt.apart)); got != tt.want {
			t.Errorf("signed %s ago: in time: %v", tt.apart, got)
		}
	}
}
