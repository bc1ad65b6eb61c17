package dns

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"
)

var update = flag.Bool("update", false, "write the golden files")

func TestRecordsOfAView(t *testing.T) {
	s := snapshotOf(lab())
	for _, v := range s.VPCs {
		t.Run(v.Name, func(t *testing.T) {
			var b strings.Builder
			for _, r := range Records(BuildView(s, v)) {
				fmt.Fprintf(&b, "%s %s %s %d %s %s  ; %s\n", r.VPC, r.Zone, r.Name, r.TTL, r.Type, r.Value, r.Source)
			}
			golden(t, v.Name+".records", b.String())
		})
	}
}

func TestARecordInJSON(t *testing.T) {
	s := snapshotOf(lab())
	for _, r := range Records(viewOf(t, s, "research")) {
		if r.Name != "git.corp.example." {
			continue
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		const want = `{"vpc":"research","zone":"corp.example.","name":"git.corp.example.","type":"CNAME","ttl":60,"value":"web-1.research.internal.","source":"zone corp.example"}`
		if string(b) != want {
			t.Errorf("%s\nwant\n%s", b, want)
		}
		return
	}
	t.Error("the record is not listed")
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s", path, got)
	}
}

// Every listed record is what the view answers, and the order in which things were declared makes no difference.
func TestRecordsAreWhatIsAnswered(t *testing.T) {
	s := snapshotOf(lab())
	for _, vp := range s.VPCs {
		v := BuildView(s, vp)
		for _, r := range Records(v) {
			q := parseQuery(t, question(r.Name, r.Type))
			wire, _ := v.Answer(nil, q, q.limit(true))
			want := strings.Join(strings.Fields(fmt.Sprintf("%s %d IN %s %s", r.Name, r.TTL, r.Type, r.Value)), " ")
			if got := section(unpack(t, wire).Answer); !slices.Contains(got, want) {
				t.Errorf("%q is listed, %q is answered", want, got)
			}
		}
	}
	turned := lab()
	slices.Reverse(turned.VPCs)
	for _, v := range turned.VPCs {
		slices.Reverse(v.Instances)
		slices.Reverse(v.PrivateZones)
		slices.Reverse(v.VSwitches)
	}
	other := snapshotOf(turned)
	for _, name := range []string{"research", "other", "silent"} {
		a, b := Records(viewOf(t, s, name)), Records(viewOf(t, other, name))
		if !slices.Equal(a, b) {
			t.Errorf("%s depends on the order of declaration", name)
		}
	}
}

func TestReverseZonesCoverExactlyTheirPrefix(t *testing.T) {
	tests := []struct {
		prefix string
		count  int
		first  string
		last   string
	}{
		{"10.0.0.0/8", 1, "10.in-addr.arpa.", "10.in-addr.arpa."},
		{"172.16.0.0/12", 16, "16.172.in-addr.arpa.", "31.172.in-addr.arpa."},
		{"10.20.0.0/16", 1, "20.10.in-addr.arpa.", "20.10.in-addr.arpa."},
		{"10.30.16.0/20", 16, "16.30.10.in-addr.arpa.", "31.30.10.in-addr.arpa."},
		{"10.0.0.16/28", 16, "16.0.0.10.in-addr.arpa.", "31.0.0.10.in-addr.arpa."},
		{"fd00:20::/56", 1, "0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa.", "0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa."},
		{"fd00:20::/58", 4, "0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa.", "3.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa."},
	}
	for _, tt := range tests {
		p := netip.MustParsePrefix(tt.prefix)
		zones := reverseZones(p)
		if len(zones) != tt.count || zones[0].String() != tt.first || zones[len(zones)-1].String() != tt.last {
			t.Errorf("%s: %d zones, %s to %s", p, len(zones), zones[0], zones[len(zones)-1])
		}
		covered := func(a netip.Addr) bool {
			return slices.ContainsFunc(zones, func(z name) bool { return reverseName(a).within(z) })
		}
		last := p.Addr().AsSlice()
		for i := p.Bits(); i < len(last)*8; i++ {
			last[i/8] |= 0x80 >> (i % 8)
		}
		end, _ := netip.AddrFromSlice(last)
		if !covered(p.Addr()) || !covered(end) || covered(p.Addr().Prev()) || covered(end.Next()) {
			t.Errorf("%s: the zones do not cover exactly it", p)
		}
	}
}

func TestReverseNamesAreTheLibrarys(t *testing.T) {
	for _, s := range []string{"10.20.1.253", "0.0.0.0", "255.255.255.255", "fd00:20:0:1::10", "::", "2001:db8:ff::a0"} {
		want, err := miekg.ReverseAddr(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := reverseName(netip.MustParseAddr(s)).String(); got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
	}
}

func TestEveryReservedZoneIsThere(t *testing.T) {
	names := reservedNames()
	apexes := 0
	for n, x := range names {
		if x.apex {
			apexes++
			if x.zone.name != n {
				t.Errorf("%s belongs to %s", n, x.zone.name)
			}
		}
	}
	if want := 24 + 16 + 64 + 2; apexes != want {
		t.Errorf("%d zones, want %d", apexes, want)
	}
}
