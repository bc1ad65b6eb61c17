#!/bin/bash
# What is linked into the program besides Go's own library: every module with its version and its licence.
set -euo pipefail
cat <<'TEXT'
gatehouse is one program that is linked statically. Besides its own code and Go's standard library it holds these modules,
each under the terms printed with it.
TEXT
"${GO:-go}" list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/gatehouse |
	LC_ALL=C sort -u | while read -r path version dir; do
	printf '\n%s\n%s %s\n%s\n' "$(printf '=%.0s' {1..100})" "$path" "$version" "$(printf '=%.0s' {1..100})"
	find "$dir" -maxdepth 1 -iname 'licen[sc]e*' -exec cat {} +
done
