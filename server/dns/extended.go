package dns

import (
	"encoding/binary"

	miekg "github.com/miekg/dns"
)

// extendedError says more about an answer than its response code (RFC 8914). The zero value says nothing.
type extendedError struct {
	set  bool
	code uint16
	text string
}

// What we have to say ourselves.
var (
	errOther         = extendedError{true, miekg.ExtendedErrorCodeOther, "too many open questions"}
	errStale         = extendedError{true, miekg.ExtendedErrorCodeStaleAnswer, ""}
	errStaleNXDOMAIN = extendedError{true, miekg.ExtendedErrorCodeStaleNXDOMAINAnswer, ""}
	errLoop          = extendedError{true, miekg.ExtendedErrorCodeOther, "a loop"}
	errBlocked       = extendedError{true, miekg.ExtendedErrorCodeBlocked, "the answer from outside points inside"}
	errProhibited    = extendedError{true, miekg.ExtendedErrorCodeProhibited, ""}
	errNotHere       = extendedError{true, miekg.ExtendedErrorCodeNotAuthoritative, ""}
	errNotSupported  = extendedError{true, miekg.ExtendedErrorCodeNotSupported, ""}
	errUnreachable   = extendedError{true, miekg.ExtendedErrorCodeNoReachableAuthority, ""}
)

// maxExtendedText is how much of an upstream's text is passed on, in octets.
const maxExtendedText = 128

// extendedOf returns the first one of an upstream's reply.
func extendedOf(m *miekg.Msg) extendedError {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*miekg.EDNS0_EDE); ok {
				return extendedError{true, e.InfoCode, e.ExtraText[:min(len(e.ExtraText), maxExtendedText)]}
			}
		}
	}
	return extendedError{}
}

// appendTo appends the EDNS option, unless it is longer than the room.
func (e extendedError) appendTo(dst []byte, room int) []byte {
	if n := 2 + len(e.text); e.set && 4+n <= room {
		dst = append(dst, 0, miekg.EDNS0EDE, byte(n>>8), byte(n))
		dst = append(binary.BigEndian.AppendUint16(dst, e.code), e.text...)
	}
	return dst
}
