package dns

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"gatehouse/vpc"
)

func TestReadZoneFile(t *testing.T) {
	for _, tt := range []struct {
		what, text string
		want       []vpc.RecordSpec
		err        []string // parts of the error, in order
	}{
		{"records of every shape", `$ORIGIN corp.example.
$TTL 300
@ IN SOA ns.corp.example. host.corp.example. 1 2 3 4 5
  IN NS ns
  IN MX 10 mail
mail 60 A 10.20.9.9
     AAAA fd00:20::9:9
*.wild A 10.20.9.1
txt TXT "a; b" "c"
_sip._tcp SRV 10 20 5060 mail.corp.example.
sub NS ns.elsewhere.example.
far.corp.example. CNAME www.example.org.
`, []vpc.RecordSpec{
			{Name: "@", Type: "MX", Value: "10 mail.corp.example.", TTL: 300},
			{Name: "mail", Type: "A", Value: "10.20.9.9", TTL: 60},
			{Name: "mail", Type: "AAAA", Value: "fd00:20::9:9", TTL: 300},
			{Name: "*.wild", Type: "A", Value: "10.20.9.1", TTL: 300},
			{Name: "txt", Type: "TXT", Value: `"a; b" "c"`, TTL: 300},
			{Name: "_sip._tcp", Type: "SRV", Value: "10 20 5060 mail.corp.example.", TTL: 300},
			{Name: "sub", Type: "NS", Value: "ns.elsewhere.example.", TTL: 300},
			{Name: "far", Type: "CNAME", Value: "www.example.org.", TTL: 300},
		}, nil},
		{"without a TTL", "a A 10.20.9.1\n", []vpc.RecordSpec{{Name: "a", Type: "A", Value: "10.20.9.1", TTL: 60}}, nil},
		{"names of other zones", "a A 10.20.9.1\nwww.example.org. A 192.0.2.1\nxcorp.example. A 192.0.2.1\n",
			[]vpc.RecordSpec{{Name: "a", Type: "A", Value: "10.20.9.1", TTL: 60}}, []string{"www.example.org.", "xcorp.example."}},
		{"what a zone cannot hold", "a CH TXT version\nb DNAME example.org.\nc A 10.20.9.1\n",
			[]vpc.RecordSpec{{Name: "c", Type: "A", Value: "10.20.9.1", TTL: 60}}, []string{"class", "DNAME"}},
		{"a mistake of form", "a A 10.20.9.1\nb A 10.20.9\nc A 10.20.9.3\n", []vpc.RecordSpec{{Name: "a", Type: "A", Value: "10.20.9.1", TTL: 60}}, []string{"line: 2"}},
		{"another file", "$INCLUDE /etc/passwd\n", nil, []string{"INCLUDE"}},
		{"nothing", "; a comment\n", nil, nil},
	} {
		t.Run(tt.what, func(t *testing.T) {
			got, err := ReadZoneFile(strings.NewReader(tt.text), "corp.example")
			if !slices.EqualFunc(got, tt.want, func(a *vpc.RecordSpec, b vpc.RecordSpec) bool { return *a == b }) {
				t.Errorf("records:")
				for _, r := range got {
					t.Errorf("%+v", *r)
				}
			}
			if (err != nil) != (tt.err != nil) {
				t.Fatalf("error %v", err)
			}
			rest := ""
			if err != nil {
				rest = err.Error()
			}
			for _, part := range tt.err {
				_, after, ok := strings.Cut(rest, part)
				if !ok {
					t.Errorf("error %q does not say %q", rest, part)
				}
				rest = after
			}
		})
	}
}

// What is written is read back as what was there.
func TestAZoneFileIsTheZone(t *testing.T) {
	s := snapshotOf(lab())
	for _, zone := range []string{"corp.example", "deep.corp.example", "mixed.example", "research.internal", "1.20.10.in-addr.arpa"} {
		t.Run(zone, func(t *testing.T) {
			all := Records(viewOf(t, s, "research"))
			var file bytes.Buffer
			if err := WriteZoneFile(&file, zone, all); err != nil {
				t.Fatal(err)
			}
			read, err := ReadZoneFile(&file, zone)
			if err != nil {
				t.Fatal(err)
			}
			spec := lab()
			spec.VPCs[0].PrivateZones = []*vpc.PrivateZoneSpec{{Name: "copy.example", Records: read}}
			for _, r := range read {
				r.Value = strings.ReplaceAll(r.Value, zone+".", "copy.example.")
			}
			var got, want []string
			for _, r := range Records(viewOf(t, snapshotOf(spec), "research")) {
				if r.Zone == "copy.example." && r.Type != "SOA" && !(r.Type == "NS" && r.Name == r.Zone) {
					got = append(got, r.Name+" "+r.Type+" "+r.Value)
				}
			}
			for _, r := range all {
				if r.Zone == zone+"." && r.Type != "SOA" && !(r.Type == "NS" && r.Name == r.Zone) {
					want = append(want, strings.ReplaceAll(r.Name+" "+r.Type+" "+r.Value, zone+".", "copy.example."))
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("got %q\nwant %q", got, want)
			}
		})
	}
}

func FuzzZoneFile(f *testing.F) {
	f.Add("$TTL 300\na A 10.20.9.1\n@ MX 10 mail\n")
	f.Add("a TXT \"x\ny\"\n$GENERATE 1-5 h$ A 10.0.0.$\n")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 {
			return
		}
		got, _ := ReadZoneFile(strings.NewReader(text), "corp.example")
		for _, r := range got {
			if _, err := parseRecord("\x04corp\x07example\x00", r); err != nil {
				t.Errorf("%+v was read, but is no record: %v", *r, err)
			}
		}
	})
}
