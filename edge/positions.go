package edge

import (
	"errors"
	"net/url"
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

// String is name=offset:epoch, joined by &, with names and epochs escaped as in a
// query: "" for none. It has no line breaks.
func (ps positions) String() string { return string(ps.append(nil)) }

func (ps positions) append(b []byte) []byte {
	for i, p := range ps {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(append(b, url.QueryEscape(p.channel)...), '=')
		b = append(strconv.AppendUint(b, p.Offset, 10), ':')
		b = append(b, url.QueryEscape(p.Epoch)...)
	}
	return b
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
	for part := range strings.SplitSeq(text, "&") {
		name, at, ok1 := strings.Cut(part, "=")
		offset, epoch, ok2 := strings.Cut(at, ":")
		channel, err1 := url.QueryUnescape(name)
		n, err2 := strconv.ParseUint(offset, 10, 64)
		epoch, err3 := url.QueryUnescape(epoch)
		if !ok1 || !ok2 || channel == "" || epoch == "" || errors.Join(err1, err2, err3) != nil {
			return nil, errPosition // an empty epoch would fit every life of a channel
		}
		out[channel] = router.Position{Offset: n, Epoch: epoch}
	}
	return out, nil
}
