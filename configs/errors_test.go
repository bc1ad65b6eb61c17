package configs

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the expected texts of testdata instead of comparing")

// golden runs every case of a file: "=== name", the YAML, "---errors---", the exact text of the error.
func golden(t *testing.T, path string, text func(yaml string) string) {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cases := 0
	for c := range strings.SplitSeq(strings.TrimPrefix(string(data), "=== "), "\n=== ") {
		name, rest, _ := strings.Cut(c, "\n")
		yaml, want, _ := strings.Cut(rest, "---errors---\n")
		cases++
		t.Run(name, func(t *testing.T) {
			got := text(yaml)
			out.WriteString("=== " + name + "\n" + yaml + "---errors---\n" + got + "\n")
			if got != strings.TrimSuffix(want, "\n") && !*update {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			if got == "" {
				t.Error("no error")
			}
		})
	}
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const least = 30
	if cases < least {
		t.Errorf("%s has only %d cases", path, cases)
	}
}

func errorText(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Error()
	}
	if err != nil {
		return "not an *Error: " + err.Error()
	}
	return ""
}

func TestBadManifestsAreRefusedWithTheseWords(t *testing.T) {
	golden(t, "testdata/bad-manifests.txt", func(yaml string) string {
		_, err := ParseManifest("lab.yaml", []byte(yaml))
		return errorText(err)
	})
}

func TestBadConfigurationsAreRefusedWithTheseWords(t *testing.T) {
	golden(t, "testdata/bad-configs.txt", func(yaml string) string {
		_, err := ParseConfig("gatehouse.yaml", []byte(yaml))
		return errorText(err)
	})
}
