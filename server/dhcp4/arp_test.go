package dhcp4

import (
	"encoding/hex"
	"testing"

	"gatehouse/vpc"
)

func TestARPProbe(t *testing.T) {
	const want = "ffffffffffff" + "00163e000002" + "0806" + "0001" + "0800" + "06" + "04" + "0001" +
		"00163e000002" + "00000000" + "000000000000" + "0a14010a"
	if got := hex.EncodeToString(arpProbe(webMAC2, addr("10.20.1.10"))); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// arpReplyFrom is what a machine says that has 10.20.1.10.
func arpReplyFrom(mac vpc.MAC) []byte {
	b := arpProbe(mac, addr("10.20.1.253"))
	b[21] = arpReply
	copy(b[28:], []byte{10, 20, 1, 10})
	return b
}

func TestARPClaim(t *testing.T) {
	patched := func(offset int, v byte) []byte {
		b := arpReplyFrom(stranger)
		b[offset] = v
		return b
	}
	for _, tt := range []struct {
		name  string
		frame []byte
		ok    bool
	}{
		{"a reply", arpReplyFrom(stranger), true},
		{"a reply with padding", append(arpReplyFrom(stranger), make([]byte, 18)...), true},
		{"a question", arpProbe(stranger, addr("10.20.1.10")), false},
		{"half a reply", arpReplyFrom(stranger)[:41], false},
		{"another protocol", patched(13, 0), false},
		{"addresses of another length", patched(19, 16), false},
		{"another operation", patched(21, 9), false},
	} {
		a, by, ok := arpClaim(tt.frame)
		if ok != tt.ok || ok && (a != addr("10.20.1.10") || by != stranger) {
			t.Errorf("%s: %s by %s, %t", tt.name, a, by, ok)
		}
	}
}

func FuzzARPClaim(f *testing.F) {
	f.Add(arpReplyFrom(stranger))
	f.Add(arpProbe(webMAC, addr("10.20.1.10")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, _, ok := arpClaim(b); ok && !a.Is4() {
			t.Errorf("claims %s", a)
		}
	})
}
