package iptables

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakePrograms makes a PATH that holds nothing but programs that tell a version.
func fakePrograms(t *testing.T, modes map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, mode := range modes {
		version := name + " v1.8.9 (" + mode + ")"
		if mode == "old" {
			version = name + " v1.6.1"
		}
		script := "#!/bin/sh\necho '" + version + "'\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

// suite is a complete set of programs.
func suite(suffix, mode string) map[string]string {
	m := map[string]string{}
	for _, base := range []string{"iptables", "ip6tables"} {
		for _, verb := range []string{"", "-save", "-restore"} {
			m[base+suffix+verb] = mode
		}
	}
	return m
}

func merged(ms ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range ms {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
}

func TestDiscoverChoosesProgramsOfOneKind(t *testing.T) {
	debian := merged(suite("-nft", "nf_tables"), suite("-legacy", "legacy"))
	for _, tt := range []struct {
		name     string
		programs map[string]string
		want     string
		mode     Mode
		program  string // that restores IPv6
		findings []string
	}{
		{"auto takes what iptables is", merged(debian, suite("", "nf_tables")), "auto", NFT, "ip6tables-restore", nil},
		{"auto takes legacy as well", merged(debian, suite("", "legacy")), "", Legacy, "ip6tables-restore", nil},
		{"a version without a kind is legacy", suite("", "old"), "auto", Legacy, "ip6tables-restore", nil},
		{"the other kind by its own names", merged(debian, suite("", "nf_tables")), "legacy", Legacy, "ip6tables-legacy-restore", nil},
		{"a mix is reported and avoided", merged(debian, suite("", "nf_tables"), map[string]string{"ip6tables": "legacy"}), "auto", NFT, "ip6tables-nft-restore", []string{"iptables-mixed"}},
		{"a mix does not matter to who has chosen", merged(debian, suite("", "nf_tables"), map[string]string{"ip6tables": "legacy"}), "nft", NFT, "ip6tables-nft-restore", nil},
		{"only names with the kind", suite("-nft", "nf_tables"), "auto", NFT, "ip6tables-nft-restore", []string{"iptables-mixed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fakePrograms(t, tt.programs)
			b, err := discover(context.Background(), tt.want)
			if err != nil {
				t.Fatal(err)
			}
			if b.Mode != tt.mode || filepath.Base(b.families[6].restore) != tt.program || !slices.Equal(b.codes(), tt.findings) {
				t.Errorf("got %s, %s, findings %v", b.Mode, b.families[6].restore, b.codes())
			}
		})
	}
}

func TestDiscoverRefusesAnIncompleteSet(t *testing.T) {
	for name, tt := range map[string]struct {
		programs map[string]string
		want     string
		named    string // what the error has to name
	}{
		"nothing installed":        {nil, "auto", "iptables is missing"},
		"the other kind":           {suite("", "nf_tables"), "legacy", "iptables-legacy is missing"},
		"no IPv6":                  {map[string]string{"iptables": "legacy", "iptables-save": "legacy", "iptables-restore": "legacy"}, "auto", "ip6tables is missing"},
		"a mix without a way out":  {merged(suite("", "nf_tables"), map[string]string{"iptables-restore": "legacy"}), "auto", "iptables-restore is legacy"},
		"two releases of one kind": {merged(suite("", "legacy"), map[string]string{"iptables-save": "old"}), "auto", "iptables-save has version 1.6.1, not 1.8.9"},
	} {
		t.Run(name, func(t *testing.T) {
			fakePrograms(t, tt.programs)
			_, err := discover(context.Background(), tt.want)
			var mixed *MixedError
			if !errors.As(err, &mixed) || !strings.Contains(err.Error(), tt.named) {
				t.Errorf("error %v; want one that says %q", err, tt.named)
			}
		})
	}
}

func TestDiscoverRefusesAnUnknownBackend(t *testing.T) {
	if _, err := discover(context.Background(), "ebtables"); err == nil || !strings.Contains(err.Error(), "auto, nft, legacy") {
		t.Errorf("error %v", err)
	}
}
