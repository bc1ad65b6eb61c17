package ra

import (
	"encoding/hex"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gatehouse/vpc"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestAdvertisementsAreAsRecorded(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*vpc.VPCSpec)
		final  bool
	}{
		{"plain", nil, false},
		{"everything", func(v *vpc.VPCSpec) {
			v.DHCPOptions.MTU = 1400
			v.DHCPOptions.DomainName = "lab.example"
			v.DHCPOptions.SearchDomains = []string{"corp.example.", "lab.example", "bad..name"}
		}, false},
		{"portal", func(v *vpc.VPCSpec) { v.DHCPOptions.CaptivePortal = "https://portal.example/api" }, false},
		{"own-resolvers", func(v *vpc.VPCSpec) { v.DHCPOptions.DomainNameServers = []netip.Addr{addr("10.20.9.53")} }, false},
		{"final", nil, true},
	} {
		a, ok := AdvertisementOf(spec(tt.change).VSwitchByID(webID))
		if !ok {
			t.Fatalf("%s: nothing to say", tt.name)
		}
		if tt.final {
			a = a.final()
		}
		b := a.Encode(linkMAC)
		if len(b)%8 != 0 || len(b) > maxPayload {
			t.Errorf("%s: %d bytes", tt.name, len(b))
		}
		var text strings.Builder
		for line := range slices.Chunk(b, 8) { // options are made of these
			text.WriteString(hex.EncodeToString(line) + "\n")
		}
		file := filepath.Join("testdata", tt.name+".golden")
		if *update {
			if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if text.String() != string(want) {
			t.Errorf("%s differs:\n%swant\n%s", tt.name, text.String(), want)
		}
	}
}

func TestNothingIsAdvertisedWithoutIPv6OrWithoutALink(t *testing.T) {
	snap := spec(nil)
	for _, id := range []string{oldID, farID} {
		if a, ok := AdvertisementOf(snap.VSwitchByID(id)); ok {
			t.Errorf("%s: %+v", id, a)
		}
	}
}

func TestSearchDomainsThatDoNotFitAreLeftOut(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", 60)+".", 4) + "example"
	var search []string
	for i := range 9 {
		search = append(search, string(rune('a'+i))+long)
	}
	a, _ := AdvertisementOf(spec(func(v *vpc.VPCSpec) { v.DHCPOptions.SearchDomains = search }).VSwitchByID(webID))
	b := a.Encode(linkMAC)
	if len(b) > maxPayload || !strings.Contains(string(b), "\x08research\x08internal\x00") || !strings.Contains(string(b), "axxx") || strings.Contains(string(b), "ixxx") {
		t.Errorf("%d bytes: %q", len(b), b)
	}
}
