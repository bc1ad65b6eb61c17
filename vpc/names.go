package vpc

import (
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The functions below return what is wrong with a name, or "" when it is good.

// checkName judges the name of an object: it stands in paths, in comma-separated lists and after sg: and pl:.
func checkName(s string) string {
	if s == "" {
		return "a name is required"
	}
	if n := utf8.RuneCountInString(s); n > 128 {
		return "a name has at most 128 characters"
	}
	for i, r := range s {
		letter := r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r))
		if i == 0 && !letter {
			return "a name begins with a letter or a digit"
		}
		if !letter && r != '-' && r != '_' && r != '.' {
			return "a name has only letters, digits, hyphens, underscores and dots"
		}
	}
	return ""
}

// checkHostname judges the name of an instance, which is its host name: 2 to 64 characters, as ECS has it for Linux,
// and labels as RFC 1123 section 2.1 has them.
func checkHostname(s string) string {
	if s == "" {
		return "a name is required"
	}
	if len(s) < 2 || len(s) > 64 {
		return "a host name has 2 to 64 characters"
	}
	prev := byte('.')
	label := 0
	for i := range len(s) {
		c := s[i]
		separator := c == '.' || c == '-'
		if !separator && !isAlphanumeric(c) {
			return "a host name has only letters, digits, hyphens and dots"
		}
		if separator && (prev == '.' || prev == '-' || i == len(s)-1) {
			return "in a host name dots and hyphens stand alone between letters or digits"
		}
		if label++; c == '.' {
			label = 0
		}
		if label > 63 {
			return "a label of a host name has at most 63 characters"
		}
		prev = c
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return "a host name is not an address"
	}
	if s = strings.ToLower(s); s == "localhost" || strings.HasPrefix(s, "localhost.") {
		return "localhost is what every host calls itself"
	}
	return ""
}

// generatedAddr returns the address that a generated name like ip-10-20-1-10 stands for.
func generatedAddr(name string) (netip.Addr, bool) {
	if len(name) < len("ip-0-0-0-0") || !strings.EqualFold(name[:3], "ip-") {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(name[3:], "-", "."))
	return a, err == nil && a.Is4()
}

// checkDomain judges a domain name, with or without the final dot; underscores are for service labels.
func checkDomain(s string, underscores bool) string {
	s = strings.TrimSuffix(s, ".")
	if s == "" {
		return "a domain name is required"
	}
	if len(s) > 253 {
		return "a domain name has at most 253 characters"
	}
	for l := range strings.SplitSeq(s, ".") {
		if why := checkLabel(l, underscores); why != "" {
			return why
		}
	}
	return ""
}

func checkLabel(l string, underscores bool) string {
	if l == "" {
		return "a domain name has no empty labels"
	}
	if len(l) > 63 {
		return "a label of a domain name has at most 63 characters"
	}
	for i := range len(l) {
		if c := l[i]; !isAlphanumeric(c) && c != '-' && !(underscores && c == '_') {
			return "a domain name has only letters, digits, hyphens and dots"
		}
	}
	if l[0] == '-' || l[len(l)-1] == '-' {
		return "a label of a domain name neither begins nor ends with a hyphen"
	}
	return ""
}

// domainKey is the form in which domain names are compared.
func domainKey(s string) string {
	if s == "." {
		return s
	}
	return strings.ToLower(strings.TrimSuffix(s, "."))
}

// checkLink judges the name of a network link: what the kernel accepts and what can stand in rules and sysctl paths.
func checkLink(s string) string {
	if len(s) > 15 {
		return "the name of a link has at most 15 characters"
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || strings.IndexByte(`/:+!*?"'\%[],`, c) >= 0 {
			return "the name of a link has only letters, digits, hyphens, underscores and dots"
		}
	}
	if slices.Contains([]string{".", "..", "lo", "all", "default"}, s) || s[0] == '-' {
		return "this name cannot be that of a link with guests"
	}
	return ""
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
