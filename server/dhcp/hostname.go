package dhcp

// Hostname returns b if it is a host name of RFC 1123 (labels of letters, digits and hyphens), else "".
func Hostname(b []byte) string {
	if len(b) == 0 || len(b) > 253 {
		return ""
	}
	label := 0
	for i, c := range b {
		switch {
		case c == '.':
			if label == 0 || b[i-1] == '-' {
				return ""
			}
			label = 0
			continue
		case c == '-':
			if label == 0 {
				return ""
			}
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		default:
			return ""
		}
		if label++; label > 63 {
			return ""
		}
	}
	if last := b[len(b)-1]; last == '.' || last == '-' {
		return ""
	}
	return string(b)
}
