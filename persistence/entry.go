package persistence

import (
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// The headers of an entry. Payload and these are all that is stored.
const (
	headerNumber  = "Headrace-Number"
	headerLife    = "Headrace-Life"
	headerMeta    = "Headrace-Meta"
	headerCleared = "Headrace-Cleared" // "1" on a marker left by Clear
	headerID      = nats.MsgIdHdr
)

// encodeHeader returns the headers of an entry. Nothing that came from outside
// becomes a header name, and values come from us or are one line of ASCII
// (router.Meta.Encode), so no Nats-* header of a client can pass (rule W4).
func encodeHeader(e *router.Entry) nats.Header {
	h := make(nats.Header, 8)
	h[headerNumber] = []string{strconv.FormatUint(e.Number, 10)}
	h[headerLife] = []string{e.Life}
	h[headerID] = []string{e.ID}
	if len(e.Meta) > 0 {
		h[headerMeta] = []string{string(e.Meta)}
	}
	if e.Mark != nil {
		h[headerMark] = []string{encodeMark(e.Mark)}
	}
	if e.Cleared {
		h[headerCleared] = []string{"1"}
	}
	return h
}

// decodeEntry makes an entry of stored headers and payload. Seq and Time are the
// caller's.
func decodeEntry(h nats.Header, data []byte) (router.Entry, error) {
	e := router.Entry{Life: jet.Last(h, headerLife), ID: jet.Last(h, headerID), Data: data}
	n, err := strconv.ParseUint(jet.Last(h, headerNumber), 10, 64)
	if err != nil || n == 0 || e.Life == "" {
		return router.Entry{}, fmt.Errorf("decode entry: number %q, life %q", jet.Last(h, headerNumber), e.Life)
	}
	e.Number = n
	if m := jet.Last(h, headerMeta); m != "" {
		e.Meta = []byte(m)
	}
	if m := jet.Last(h, headerMark); m != "" {
		if e.Mark, err = decodeMark(m); err != nil {
			return router.Entry{}, err
		}
	}
	if id := jet.Last(h, headerImageID); id != "" {
		e.ID = id
	}
	e.Cleared = jet.Last(h, headerCleared) == "1"
	return e, nil
}

// decodeCopy decodes an entry as it comes from a direct get or a republish, with
// sequence and time in headers set by the server.
func decodeCopy(m *nats.Msg) (router.Entry, error) {
	e, err := decodeEntry(m.Header, m.Data)
	if err != nil {
		return e, err
	}
	if e.Seq, err = strconv.ParseUint(jet.Last(m.Header, nats.JSSequence), 10, 64); err != nil || e.Seq == 0 {
		return router.Entry{}, fmt.Errorf("decode entry: sequence %q", jet.Last(m.Header, nats.JSSequence))
	}
	if e.Time, err = time.Parse(time.RFC3339Nano, jet.Last(m.Header, nats.JSTimeStamp)); err != nil {
		return router.Entry{}, fmt.Errorf("decode entry: time %q", jet.Last(m.Header, nats.JSTimeStamp))
	}
	return e, nil
}
