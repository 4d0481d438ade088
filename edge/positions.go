package edge

import (
	"errors"
	"strconv"
	"strings"

	"github.com/headrace/headrace/router"
)

// positions says where a client without a session of its own stands: in the id of
// each event, and in the answer to each poll. It goes with the next request to
// whatever node.
type positions []position

// position is that in one channel.
type position struct {
	channel string
	router.Position
}

// String is name@offset:epoch, joined by commas: "" for none. Whatever has a meaning
// here, in a URL or in a line of text is escaped as ~ and two hexadecimal digits.
func (ps positions) String() string { return string(ps.append(nil)) }

func (ps positions) append(b []byte) []byte {
	for i, p := range ps {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(escape(b, p.channel), '@')
		b = append(strconv.AppendUint(b, p.Offset, 10), ':')
		b = escape(b, p.Epoch)
	}
	return b
}

// escape appends text with all but letters, digits and _ . : / - escaped.
func escape(b []byte, text string) []byte {
	for _, c := range []byte(text) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("_.:/-", c) >= 0:
			b = append(b, c)
		default:
			const hex = "0123456789ABCDEF"
			b = append(b, '~', hex[c>>4], hex[c&15])
		}
	}
	return b
}

// unescape is the inverse of escape. It takes what escape would not have written.
func unescape(text string) (string, error) {
	if strings.IndexByte(text, '~') < 0 {
		return text, nil
	}
	var out []byte
	for i := 0; i < len(text); i++ {
		if text[i] != '~' {
			out = append(out, text[i])
			continue
		}
		if i+2 >= len(text) {
			return "", errPosition
		}
		c, err := strconv.ParseUint(text[i+1:i+3], 16, 8)
		if err != nil {
			return "", err
		}
		out = append(out, byte(c))
		i += 2
	}
	return string(out), nil
}

// of returns the position in channel, nil when there is none.
func (ps positions) of(channel string) *position {
	for i := range ps {
		if ps[i].channel == channel {
			return &ps[i]
		}
	}
	return nil
}

var errPosition = errors.New("edge: malformed position")

// parsePositions is the inverse of String.
func parsePositions(text string) (map[string]router.Position, error) {
	out := make(map[string]router.Position)
	for part := range strings.SplitSeq(text, ",") {
		name, at, ok1 := strings.Cut(part, "@")
		offset, epoch, ok2 := strings.Cut(at, ":")
		channel, err1 := unescape(name)
		n, err2 := strconv.ParseUint(offset, 10, 64)
		epoch, err3 := unescape(epoch)
		if !ok1 || !ok2 || channel == "" || epoch == "" || errors.Join(err1, err2, err3) != nil {
			return nil, errPosition // an empty epoch would fit every life of a channel
		}
		out[channel] = router.Position{Offset: n, Epoch: epoch}
	}
	return out, nil
}
