package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	miekg "github.com/miekg/dns"
)

// TSIGKey is a shared secret that signs messages (RFC 8945).
type TSIGKey struct {
	Name      string
	Algorithm string // hmac-sha256 and so on
	Secret    string // base64
}

// tsigFudge is by how many seconds the clocks of a client and ours may differ.
const tsigFudge = 300

// SetTSIGKeys changes which keys there are; zones name those that may update them.
func (s *Server) SetTSIGKeys(keys []TSIGKey) {
	byName := make(map[string]TSIGKey, len(keys))
	for _, k := range keys {
		byName[miekg.CanonicalName(k.Name)] = k
	}
	s.tsigKeys.Store(&byName)
}

// keyOf finds the key that a message says it is signed with.
func (s *Server) keyOf(tsig *miekg.TSIG) (TSIGKey, bool) {
	keys := s.tsigKeys.Load()
	if keys == nil {
		return TSIGKey{}, false
	}
	key, ok := (*keys)[miekg.CanonicalName(tsig.Hdr.Name)]
	return key, ok && miekg.CanonicalName(key.Algorithm) == miekg.CanonicalName(tsig.Algorithm)
}

// inTime reports whether a message was signed about now. The clocks may differ by no more than we allow, however generous
// the message itself is.
func inTime(tsig *miekg.TSIG, now time.Time) bool {
	apart := now.Unix() - int64(tsig.TimeSigned)
	return -tsigFudge <= apart && apart <= tsigFudge
}

// verify checks that a message was signed with a key about now.
func verify(wire []byte, tsig *miekg.TSIG, key TSIGKey, now time.Time) error {
	if err := miekg.TsigVerify(bytes.Clone(wire), key.Secret, "", false); err != nil {
		return err
	}
	if !inTime(tsig, now) {
		return miekg.ErrTime
	}
	return nil
}

// refuseTSIG makes a reply say why a message is not authentic, and returns the secret that signs the reply: none, but where
// only the time was wrong (RFC 8945 section 5.2).
func (s *Server) refuseTSIG(reply *miekg.Msg, asked *miekg.TSIG, key TSIGKey, err error) (secret string) {
	code := uint16(miekg.RcodeBadSig)
	switch {
	case errors.Is(err, rcodeError(miekg.RcodeBadKey)):
		code = miekg.RcodeBadKey
	case errors.Is(err, miekg.ErrTime):
		code, secret = miekg.RcodeBadTime, key.Secret
	}
	reply.Rcode = miekg.RcodeNotAuth
	s.addTSIG(reply, asked, code)
	return secret
}

// addTSIG appends the TSIG record of a reply, with an error code or success.
func (s *Server) addTSIG(reply *miekg.Msg, asked *miekg.TSIG, code uint16) {
	now := s.now().Unix()
	reply.SetTsig(asked.Hdr.Name, asked.Algorithm, tsigFudge, now)
	t := reply.IsTsig()
	t.OrigId, t.Error = asked.OrigId, code
	if code == miekg.RcodeBadTime { // RFC 8945 section 5.2.3: the client's time, and ours beside it
		t.TimeSigned, t.OtherLen, t.OtherData = asked.TimeSigned, 6, fmt.Sprintf("%012x", now)
	}
}

// signature signs the replies to a question that was signed. A nil signature leaves them as they are.
type signature struct {
	server *Server
	asked  *miekg.TSIG
	key    TSIGKey
	mac    string // of what was signed last: the question, or the message before in a transfer
	later  bool   // a message of the reply has been signed
	limit  int    // octets that a reply may have
}

// sign returns a reply with its signature. It is called with the messages of a transfer in their order (RFC 8945 section
// 5.3.1).
func (g *signature) sign(reply []byte) ([]byte, error) {
	if g == nil {
		return reply, nil
	}
	var m miekg.Msg
	if err := m.Unpack(reply); err != nil {
		return nil, fmt.Errorf("sign a reply: %w", err)
	}
	signed, mac, err := g.of(&m)
	if err == nil && len(signed) > g.limit {
		short := miekg.Msg{MsgHdr: m.MsgHdr, Question: m.Question}
		short.Truncated = true
		signed, mac, err = g.of(&short)
	}
	if err != nil {
		return nil, fmt.Errorf("sign a reply: %w", err)
	}
	g.mac, g.later = mac, true
	return signed, nil
}

func (g *signature) of(m *miekg.Msg) (signed []byte, mac string, err error) {
	m.Compress = true
	g.server.addTSIG(m, g.asked, miekg.RcodeSuccess)
	return miekg.TsigGenerate(m, g.key.Secret, g.mac, g.later)
}

// handleSigned is handle for a question that is signed, as secondaries do that have a key: the reply is signed as well.
// What a client may know does not depend on its signature, but for a wrong one it is told nothing.
func (s *Server) handleSigned(ctx context.Context, dst, msg []byte, q *Query, v *View, src netip.Addr, tcp bool) ([]byte, *deferred) {
	g, plain, err := s.signatureOf(msg)
	if err != nil {
		out := Outcome{Rcode: miekg.RcodeNotAuth}
		s.answered(v, q, src, out)
		return append(dst, plain...), nil
	}
	g.limit = q.limit(tcp)
	reply, later := s.handle(ctx, nil, plain, q, v, src, tcp)
	if later != nil {
		later.signature = g
		return dst, later
	}
	signed, err := g.sign(reply)
	if err != nil {
		s.log.Warn("DNS reply lost", "client", src, "error", err)
		return appendError(dst, q, miekg.RcodeServerFailure), nil
	}
	return append(dst, signed...), nil
}

// signatureOf checks a message's signature. It returns the message without it, or with the error the reply that says what
// is wrong.
func (s *Server) signatureOf(msg []byte) (g *signature, plain []byte, err error) {
	var m miekg.Msg
	if err := m.Unpack(msg); err != nil {
		return nil, unreadable(msg), err
	}
	tsig := m.IsTsig()
	if tsig == nil {
		return nil, unreadable(msg), miekg.ErrNoSig
	}
	key, ok := s.keyOf(tsig)
	if !ok {
		err = rcodeError(miekg.RcodeBadKey)
	} else {
		err = verify(msg, tsig, key, s.now())
	}
	if err == nil {
		return &signature{server: s, asked: tsig, key: key, mac: tsig.MAC}, unsigned(msg), nil
	}
	reply := new(miekg.Msg).SetReply(&m)
	var failed error
	if secret := s.refuseTSIG(reply, tsig, key, err); secret != "" {
		plain, _, failed = miekg.TsigGenerate(reply, secret, tsig.MAC, false)
	} else {
		plain, failed = reply.Pack()
	}
	if failed != nil {
		plain = unreadable(msg)
	}
	return nil, plain, err
}

// unreadable is the reply to a message that ends with a TSIG record and is no message for the library.
func unreadable(msg []byte) []byte {
	q := new(Query)
	q.parse(msg)
	return appendError(nil, q, miekg.RcodeFormatError)
}

// unsigned returns a message without its last record.
func unsigned(msg []byte) []byte {
	at := headerSize
	for range binary.BigEndian.Uint16(msg[4:]) {
		if end, ok := skipName(msg, at); ok {
			at = end + 4
		}
	}
	records := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:])) + int(binary.BigEndian.Uint16(msg[10:]))
	for range records - 1 {
		if _, next, ok := parseRR(msg, at); ok {
			at = next
		}
	}
	plain := bytes.Clone(msg[:at])
	binary.BigEndian.PutUint16(plain[10:], binary.BigEndian.Uint16(msg[10:])-1)
	return plain
}
