package router

import (
	"strings"
	"unicode/utf8"
)

// Channel is a parsed channel string: a namespace and the name within it.
type Channel struct {
	Namespace string
	Name      string
}

// ParseChannel splits "namespace:name" at the first colon. A string without a
// colon belongs to DefaultNamespace. It refuses empty names, explicit use of the
// default namespace and namespaces that no configuration could declare.
func ParseChannel(s string) (Channel, error) {
	if s == "" {
		return Channel{}, Errorf(CodeInvalid, "channel is empty")
	}
	ns, name, found := strings.Cut(s, ":")
	if !found {
		return Channel{Namespace: DefaultNamespace, Name: s}, nil
	}
	if ns == DefaultNamespace || !namespaceName.MatchString(ns) {
		return Channel{}, Errorf(CodeUnknownChannel, "unknown namespace %q", ns)
	}
	if name == "" {
		return Channel{}, Errorf(CodeInvalid, "channel name after %q is empty", ns+":")
	}
	return Channel{Namespace: ns, Name: name}, nil
}

// String is the inverse of ParseChannel.
func (c Channel) String() string {
	if c.Namespace == DefaultNamespace {
		return c.Name
	}
	return c.Namespace + ":" + c.Name
}

// Key returns the channel's name as subject tokens, see EncodeKey.
func (c Channel) Key() string { return EncodeKey(c.Name) }

const upperHex = "0123456789ABCDEF"

// EncodeKey maps any string to valid NATS subject tokens, and different strings
// to different tokens (DecodeKey is its inverse; both are fuzzed). Dots stay
// token boundaries, so that NATS wildcards are useful on the result. Bytes that
// NATS reads as syntax or that do not survive a text protocol become %XX: space,
// '*', '>', '%', control bytes and bytes that are not UTF-8. An empty token
// becomes a lone "%".
func EncodeKey(name string) string {
	if plainKey(name) {
		return name
	}
	var b strings.Builder
	b.Grow(len(name) + 16)
	start := 0 // of the current token in b
	closeToken := func() {
		if b.Len() == start {
			b.WriteByte('%')
		}
	}
	for i := 0; i < len(name); {
		c := name[i]
		switch {
		case c == '.':
			closeToken()
			b.WriteByte('.')
			start = b.Len()
			i++
			continue
		case c >= utf8.RuneSelf:
			if r, size := utf8.DecodeRuneInString(name[i:]); r != utf8.RuneError || size > 1 {
				b.WriteString(name[i : i+size])
				i += size
				continue
			}
			fallthrough
		case c <= ' ' || c == '*' || c == '>' || c == '%' || c == 0x7f:
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		}
		if c > ' ' && c < utf8.RuneSelf && c != '*' && c != '>' && c != '%' && c != 0x7f {
			b.WriteByte(c)
		}
		i++
	}
	closeToken()
	return b.String()
}

// plainKey reports whether EncodeKey(name) == name, the common case.
func plainKey(name string) bool {
	empty := true
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '.':
			if empty {
				return false
			}
			empty = true
		case c <= ' ' || c == '*' || c == '>' || c == '%' || c >= 0x7f:
			return false
		default:
			empty = false
		}
	}
	return !empty
}

// DecodeKey is the inverse of EncodeKey. It refuses every string that EncodeKey
// does not produce, so that two spellings never mean one channel.
func DecodeKey(key string) (string, error) {
	bad := func() (string, error) {
		return "", Errorf(CodeInvalid, "%q is not an encoded channel name", key)
	}
	var b strings.Builder
	for i, token := range strings.Split(key, ".") {
		if i > 0 {
			b.WriteByte('.')
		}
		if token == "%" {
			continue
		}
		for j := 0; j < len(token); j++ {
			if token[j] != '%' {
				b.WriteByte(token[j])
				continue
			}
			if j+2 >= len(token) {
				return bad()
			}
			hi, lo := strings.IndexByte(upperHex, token[j+1]), strings.IndexByte(upperHex, token[j+2])
			if hi < 0 || lo < 0 {
				return bad()
			}
			b.WriteByte(byte(hi<<4 | lo))
			j += 2
		}
	}
	if EncodeKey(b.String()) != key {
		return bad()
	}
	return b.String(), nil
}
