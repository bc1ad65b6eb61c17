package dns

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"time"
)

// Sizes of cookies in octets, and for how long one is believed (RFC 9018 section 4.3).
const (
	clientCookieSize = 8
	serverCookieSize = 16
	maxServerCookie  = 32 // of any server (RFC 7873 section 4)
	cookieLife       = time.Hour
	cookieRenew      = 30 * time.Minute
	cookieAhead      = 5 * time.Minute // how far a clock may have been set back since
)

// cookies makes and checks server cookies (RFC 7873, in the form of RFC 9018). A client that shows one has received a
// reply at its address before, so that its address is not forged. The zero value has a secret that everybody knows.
type cookies struct{ k0, k1 uint64 }

func newCookies() cookies {
	var secret [16]byte
	rand.Read(secret[:])
	return cookies{binary.LittleEndian.Uint64(secret[:]), binary.LittleEndian.Uint64(secret[8:])}
}

// stamp checks the server cookie that came with q, and gives q the one for the reply.
func (c cookies) stamp(q *Query, client netip.Addr, now time.Time) {
	given := q.givenCookie[:q.givenLength]
	if len(given) == serverCookieSize && given[0] == 1 {
		made := binary.BigEndian.Uint32(given[4:])
		age := time.Duration(int32(uint32(now.Unix())-made)) * time.Second // serial number arithmetic
		if -cookieAhead <= age && age <= cookieLife && [serverCookieSize]byte(given) == c.seal(q.clientCookie, [8]byte(given), client) {
			q.proven = true
			if age <= cookieRenew {
				q.serverCookie = [serverCookieSize]byte(given)
				return
			}
		}
	}
	head := [8]byte{1}
	binary.BigEndian.PutUint32(head[4:], uint32(now.Unix()))
	q.serverCookie = c.seal(q.clientCookie, head, client)
}

// seal returns the server cookie that begins with head: version, three octets that are reserved, and the time in seconds
// (RFC 9018 section 4).
func (c cookies) seal(client [clientCookieSize]byte, head [8]byte, addr netip.Addr) (cookie [serverCookieSize]byte) {
	copy(cookie[:], head[:])
	var input [clientCookieSize + len(head) + 16]byte
	copy(input[:], client[:])
	copy(input[clientCookieSize:], head[:])
	n := clientCookieSize + len(head)
	if addr.Is4() {
		b := addr.As4()
		n += copy(input[n:], b[:])
	} else {
		b := addr.As16()
		n += copy(input[n:], b[:])
	}
	binary.LittleEndian.PutUint64(cookie[8:], sipHash(c.k0, c.k1, input[:n]))
	return cookie
}

// sipHash is SipHash-2-4 (Aumasson and Bernstein, 2012).
func sipHash(k0, k1 uint64, b []byte) uint64 {
	v0, v1, v2, v3 := k0^0x736f6d6570736575, k1^0x646f72616e646f6d, k0^0x6c7967656e657261, k1^0x7465646279746573
	round := func() {
		v0 += v1
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v0 = bits.RotateLeft64(v0, 32)
		v2 += v3
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v0 += v3
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 += v1
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v2 = bits.RotateLeft64(v2, 32)
	}
	last := uint64(len(b)) << 56
	for ; len(b) >= 8; b = b[8:] {
		m := binary.LittleEndian.Uint64(b)
		v3 ^= m
		round()
		round()
		v0 ^= m
	}
	for i, x := range b {
		last |= uint64(x) << (8 * i)
	}
	v3 ^= last
	round()
	round()
	v0 ^= last
	v2 ^= 0xff
	for range 4 {
		round()
	}
	return v0 ^ v1 ^ v2 ^ v3
}
