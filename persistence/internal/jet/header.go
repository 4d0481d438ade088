package jet

import (
	"strings"

	"github.com/nats-io/nats.go"
)

// Last returns the last value of a header. The server appends its own Nats-*
// headers behind what the publisher sent, so the first one may be forged.
func Last(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// OneLine makes s fit for a header line.
func OneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
