package edge

import (
	"slices"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/internal/fossil"
	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/router"
)

// Deltas (SubscribeRequest.delta of the protocol): a client that asks gets of a
// publication what changed since the one before, its base. The base of a client is
// what it was last sent in this very subscription, and is never guessed: where it is
// not known, the publication goes whole. A delta is made once for all who have the
// same base, as a part of the batch.

// offersDelta reports whether a subscription gets deltas. One with a tags filter does
// not: SDKs refuse to ask for both.
func offersDelta(ns *router.Namespace, req *protocol.SubscribeRequest) bool {
	return slices.Contains(ns.DeltaTypes, req.Delta) && req.Tf == nil
}

// diff returns p as a delta to base, or p when that is not possible, or not shorter.
// A base without data is none. With text, JSON clients are among the receivers: they
// have the data of base as they got it, which is base only if it was JSON.
func (m *metrics) diff(p *router.Publication, base []byte, text bool) *router.Publication {
	if len(base) == 0 || p.Removed {
		return p
	}
	m.reduced.deltaIn.Add(float64(len(p.Data)))
	d := fossil.Delta(base, p.Data, text)
	if d == nil || text && !(jsonOnOneLine(p.Data) && jsonOnOneLine(base)) {
		m.reduced.deltaOut.Add(float64(len(p.Data)))
		return p
	}
	m.reduced.deltaOut.Add(float64(len(d)))
	q := *p
	q.Data, q.Delta = d, true
	return &q
}

// deltaPublication is p for a client that gets deltas. In the JSON protocol data is
// then a string, of the JSON or of the delta.
func (k kind) deltaPublication(p *router.Publication) *protocol.Publication {
	w := k.wirePublication(p)
	w.Delta = p.Delta
	if !k.protobuf() {
		if len(w.Data) == 0 {
			w.Data = []byte("null") // of a removal: SDKs parse it
		}
		w.Data = quoteJSON(w.Data)
	}
	return w
}

// quoteJSON returns text, valid UTF-8, as a JSON string. Unlike encoding/json it
// leaves <, > and & as they are.
func quoteJSON(text []byte) []byte {
	const hex = "0123456789abcdef"
	out := make([]byte, 0, len(text)+len(text)/8+16)
	out = append(out, '"')
	start := 0
	for i, c := range text {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		out = append(out, text[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\n':
			out = append(out, '\\', 'n')
		default:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(out, text[start:]...), '"')
}

// streamDelta is the subscriber of a subscription with deltas to a channel that is no
// map.
type streamDelta struct {
	s    *session
	text bool
	// base is the publication that the client got last; nil before the first. Owned
	// by the channel's shard.
	base *router.Publication
}

// begin returns the publications of the answer, each as a delta to the one before,
// and makes the last one the base.
func (v *streamDelta) begin(pubs []*router.Publication) []*protocol.Publication {
	var out []*protocol.Publication
	for _, p := range pubs {
		out = append(out, v.s.kind.deltaPublication(v.s.srv.metrics.diff(p, dataOf(v.base), v.text)))
		v.base = p
	}
	return out
}

func dataOf(p *router.Publication) []byte {
	if p == nil {
		return nil
	}
	return p.Data
}

// streamKey is the part of a batch for those whose base is the same.
type streamKey struct{ base *router.Publication }

// Deliver implements router.Subscriber.
func (v *streamDelta) Deliver(_ *router.Subscription, b *router.Batch) {
	base := v.base
	part := b.Part(streamKey{base}, func(b *router.Batch) *router.Batch { return v.s.srv.metrics.streamPart(b, base, v.text) })
	for i := range b.Pushes {
		if p := b.Pushes[i].Pub; p != nil && (v.base == nil || !planted.Bug(planted.StaleBase)) {
			v.base = p
		}
	}
	if frame := v.s.batchFrame(part, &v.s.srv.encodeDelta); len(frame) > 0 {
		v.s.t.Send(frame)
	}
}

func (m *metrics) streamPart(b *router.Batch, base *router.Publication, text bool) *router.Batch {
	part := &router.Batch{Channel: b.Channel, Pushes: make([]router.Push, len(b.Pushes))}
	for i, p := range b.Pushes {
		if p.Pub != nil {
			p.Pub, base = m.diff(p.Pub, dataOf(base), text), p.Pub
		}
		part.Pushes[i] = p
	}
	return part
}

// Dropped implements router.Subscriber.
func (v *streamDelta) Dropped(sub *router.Subscription, reason router.UnsubscribeReason) {
	v.s.Dropped(sub, reason)
}
