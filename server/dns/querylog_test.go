package dns

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestQueriesOfAVPCAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s, err := New(Config{Logger: slog.New(slog.NewTextHandler(&out, nil)), QueryLog: []string{"research", "silent"}})
		if err != nil {
			t.Fatal(err)
		}
		s.SetSnapshot(snapshotOf(lab()))
		out.Reset()
		ask := func(vpcID, name string) {
			t.Helper()
			wire, err := question(name, "A").Pack()
			if err != nil {
				t.Fatal(err)
			}
			q := new(Query)
			v := s.View(vpcID)
			if _, later := s.handle(t.Context(), nil, wire, q, v, client4, false); later != nil {
				s.finish(t.Context(), later, client4, func([]byte) {})
				synctest.Wait()
			}
		}
		lines := func() []string {
			text := out.String()
			out.Reset()
			return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		}
		for _, tt := range []struct{ vpc, name, want string }{
			{"vpc-a", "Web-1.research.internal.", `client=10.20.1.10 name=web-1.research.internal. type=A rcode=NOERROR source="instance web-1"`},
			{"vpc-a", "nobody.research.internal.", `name=nobody.research.internal. type=A rcode=NXDOMAIN source=gateway`},
			{"vpc-a", "www.example.org.", `name=www.example.org. type=A rcode=SERVFAIL`},
			{"vpc-b", "web-1.research.internal.", ""},
		} {
			ask(tt.vpc, tt.name)
			if got := lines(); len(got) != 1 || !strings.Contains(got[0], tt.want) || tt.want == "" && got[0] != "" {
				t.Errorf("%s: logged %q, want %q", tt.name, got, tt.want)
			}
		}

		time.Sleep(time.Second)
		for i := range 3 * queryLogRate {
			ask("vpc-a", fmt.Sprintf("n%d.research.internal.", i))
		}
		if got := lines(); len(got) != queryLogRate {
			t.Errorf("%d lines in a second, want %d", len(got), queryLogRate)
		}
		ask("vpc-c", "web-1.lab-1.ecs.internal.")
		if got := lines(); len(got) != 1 || !strings.Contains(got[0], "vpc=silent") {
			t.Errorf("another VPC's question beside them: %q", got)
		}
		time.Sleep(time.Second)
		ask("vpc-a", "web-1.research.internal.")
		if got := lines(); len(got) != 2 || !strings.Contains(got[0], "vpc=research count=200") {
			t.Errorf("afterwards %q", got)
		}
		s.SetQueryLog(nil)
		ask("vpc-a", "web-1.research.internal.")
		if got := lines(); got[0] != "" {
			t.Errorf("logged %q when it was off", got)
		}
	})
}
