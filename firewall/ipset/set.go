package ipset

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatehouse/firewall"
	"gatehouse/vpc"
)

// spareSuffix ends the name of a set that is only filled to be swapped in.
const spareSuffix = "~"

// kernelMaxelem is the size of a hash set that names none.
const kernelMaxelem = "65536"

// ours reports whether a set of that name belongs to gatehouse.
func ours(name string) bool {
	return strings.HasPrefix(name, "gh4-") || strings.HasPrefix(name, "gh6-")
}

// parseSave reads what `ipset save` prints and returns our sets in canonical form, by name.
func parseSave(r io.Reader) (map[string]firewall.Set, error) {
	sets := map[string]firewall.Set{}
	scan := bufio.NewScanner(r)
	for n := 1; scan.Scan(); n++ {
		verb, rest, _ := strings.Cut(scan.Text(), " ")
		name, rest, _ := strings.Cut(rest, " ")
		if !ours(name) {
			continue
		}
		switch verb {
		case "create":
			typ, options, _ := strings.Cut(rest, " ")
			if typ == "" {
				return nil, fmt.Errorf("line %d: set %s has no type", n, name)
			}
			sets[name] = Canonical(firewall.Set{Name: name, Type: typ, Family: familyOfName(name), Options: strings.Fields(options)})
		case "add":
			s, ok := sets[name]
			if !ok {
				return nil, fmt.Errorf("line %d: a member of %s comes before the set", n, name)
			}
			s.Members = append(s.Members, canonicalMember(rest))
			sets[name] = s
		}
	}
	if err := scan.Err(); err != nil {
		return nil, err
	}
	for name, s := range sets {
		slices.Sort(s.Members)
		sets[name] = s
	}
	return sets, nil
}

// lacksMAC reports whether a set of addresses and MACs has a member without its MAC.
func lacksMAC(s firewall.Set) bool {
	return strings.HasSuffix(s.Type, ",mac") && slices.ContainsFunc(s.Members, func(m string) bool { return !strings.Contains(m, ",") })
}

// parseMembers reads the members of one set from what `ipset list NAME` prints, in canonical form.
func parseMembers(listed string) []string {
	_, body, _ := strings.Cut(listed, "\nMembers:\n")
	var members []string
	for m := range strings.Lines(body) {
		if m = canonicalMember(m); m != "" {
			members = append(members, m)
		}
	}
	slices.Sort(members)
	return members
}

func familyOfName(name string) vpc.Family {
	if strings.HasPrefix(name, "gh6-") {
		return vpc.IPv6
	}
	return vpc.IPv4
}

// Canonical returns a set with its options and members in the one form in which two equal sets are equal. Options that
// only tune the kernel's memory (hashsize, bucketsize, initval) are left out, and defaults are spelled out.
func Canonical(s firewall.Set) firewall.Set {
	out := canonicalHeader(s)
	out.Members = nil
	for _, m := range s.Members {
		out.Members = append(out.Members, canonicalMember(m))
	}
	slices.Sort(out.Members)
	out.Members = slices.Compact(out.Members)
	return out
}

// canonicalHeader is Canonical for everything but the members, which stay as they are.
func canonicalHeader(s firewall.Set) firewall.Set {
	out := firewall.Set{Name: s.Name, Type: s.Type, Family: s.Family, Members: s.Members}
	maxelem := kernelMaxelem
	for i := 0; i < len(s.Options); i++ {
		option, value := s.Options[i], ""
		switch option {
		case "counters", "comment", "skbinfo", "forceadd", "nomatch", "wildcard":
			out.Options = append(out.Options, option)
			continue
		}
		if i+1 < len(s.Options) {
			i++
			value = s.Options[i]
		}
		switch option {
		case "family":
			out.Family = vpc.IPv4
			if value == "inet6" {
				out.Family = vpc.IPv6
			}
		case "hashsize", "bucketsize", "initval":
		case "maxelem":
			maxelem = value
		case "range":
			out.Options = append(out.Options, "range", canonicalRange(value))
		default:
			out.Options = append(out.Options, option, value)
		}
	}
	if strings.HasPrefix(s.Type, "hash:") {
		out.Options = append(out.Options, "maxelem", maxelem)
	}
	return out
}

// canonicalRange turns a prefix into the kernel's form, first and last address.
func canonicalRange(r string) string {
	p, err := netip.ParsePrefix(r)
	if err != nil {
		return r
	}
	return p.Masked().Addr().String() + "-" + vpc.LastAddr(p.Masked()).String()
}

// canonicalMember writes MACs in lower case and a single address without its prefix length.
func canonicalMember(m string) string {
	m = strings.ToLower(strings.TrimSpace(m))
	element, rest, more := strings.Cut(m, " ")
	if p, err := netip.ParsePrefix(element); err == nil {
		element = p.Masked().String()
		if p.IsSingleIP() {
			element = p.Addr().String()
		}
	} else if a, err := netip.ParseAddr(element); err == nil {
		element = a.String()
	}
	if more {
		return element + " " + strings.Join(strings.Fields(rest), " ")
	}
	return element
}

// sameHeader reports whether two canonical sets differ in nothing but their members.
func sameHeader(a, b firewall.Set) bool {
	return a.Type == b.Type && a.Family == b.Family && slices.Equal(a.Options, b.Options)
}

// createLine is the line of `ipset restore` that creates the canonical set under a name.
func createLine(name string, s firewall.Set) string {
	words := []string{"create", name, s.Type}
	if strings.HasPrefix(s.Type, "hash:") {
		family := "inet"
		if s.Family == vpc.IPv6 {
			family = "inet6"
		}
		words = append(words, "family", family, "hashsize", strconv.Itoa(hashsize(len(s.Members))))
	}
	return strings.Join(append(words, s.Options...), " ")
}

// hashsize is a table that n members fill without the kernel growing it on the way.
func hashsize(n int) int {
	size := 64
	for size < n {
		size *= 2
	}
	return size
}

// memberChanges returns what to remove and what to add so that old becomes new. All are sorted. A member whose
// extension changes (its skbmark) is only added: the kernel replaces it in one step.
func memberChanges(old, new []string) (del, add []string) {
	for len(old)+len(new) > 0 {
		switch {
		case len(new) == 0 || len(old) > 0 && old[0] < new[0]:
			del = append(del, old[0])
			old = old[1:]
		case len(old) == 0 || old[0] > new[0]:
			add = append(add, new[0])
			new = new[1:]
		default:
			old, new = old[1:], new[1:]
		}
	}
	element := func(m string) string { e, _, _ := strings.Cut(m, " "); return e }
	replaced := make(map[string]bool, len(add))
	for _, m := range add {
		replaced[element(m)] = true
	}
	for i, m := range del {
		del[i] = element(m)
	}
	return slices.DeleteFunc(del, func(e string) bool { return replaced[e] }), add
}
