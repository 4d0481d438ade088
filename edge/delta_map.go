package edge

import (
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/router"
)

// mapDelta is the subscriber of a subscription with deltas to a map, where each key
// has a base of its own. What a client has is told by two facts instead of a list of
// keys: it got every change above an offset, and perhaps the whole state before.
type mapDelta struct {
	s    *session
	text bool

	// Owned by the channel's shard, set before the first delivery.
	since uint64    // the client got every change above this offset
	whole time.Time // when it got all keys in one page; zero: it did not
}

// begin sets what the client has once it got the last answer of w.
func (v *mapDelta) begin(w *mapWalk, res *router.SubscribeResult) {
	switch v.since = res.Position.Offset; {
	case w.whole != nil:
		v.whole = time.Now()
	case res.Recovered:
		v.since = w.frozen.Offset
	}
}

// deltas returns pubs, those of the last answer, each as a delta to what the answer
// has of its key before.
func (w *mapWalk) deltas(pubs []*router.Publication) []*router.Publication {
	if !w.in.delta || len(pubs) == 0 {
		return pubs
	}
	text := w.in.ns.Payload != router.PayloadBinary
	base := make(map[string][]byte, len(w.whole)+len(pubs))
	for i := range w.whole {
		base[w.whole[i].Key] = w.whole[i].Data
	}
	out := make([]*router.Publication, len(pubs))
	for i, p := range pubs {
		out[i] = w.s.srv.metrics.diff(p, base[p.Key], text)
		base[p.Key] = p.Data
		if p.Removed {
			delete(base, p.Key)
		}
	}
	return out
}

// wires is w.wire for many.
func (w *mapWalk) wires(ps []*router.Publication) []*protocol.Publication {
	if len(ps) == 0 {
		return nil
	}
	out := make([]*protocol.Publication, len(ps))
	for i, p := range ps {
		out[i] = w.wire(w.s.kind, p)
	}
	return out
}

// has reports whether the client's value of the key is e. Keys that had expired when
// it got the state were not part of that.
func (v *mapDelta) has(e *router.StateEntry) bool {
	return planted.Bug(planted.GuessBase) || e.Offset > v.since || !v.whole.IsZero() && (e.Expires.IsZero() || e.Expires.After(v.whole))
}

// mapKey is the part of a batch for those who lack the same values before: bit i is
// that of push i. A batch has at most 128 pushes.
type mapKey struct{ lacks [2]uint64 }

// hasAll is the mapKey of most, boxed once.
var hasAll any = mapKey{}

// Deliver implements router.Subscriber.
func (v *mapDelta) Deliver(_ *router.Subscription, b *router.Batch) {
	var key mapKey
	for i := range b.Pushes {
		if e := b.Pushes[i].Before; e != nil && (i >= 128 || !v.has(e)) {
			key.lacks[i/64%2] |= 1 << (i % 64)
		}
	}
	boxed := hasAll
	if key != (mapKey{}) {
		boxed = key
	}
	part := b.Part(boxed, func(b *router.Batch) *router.Batch { return v.s.srv.metrics.mapPart(b, key, v.text) })
	if frame := v.s.batchFrame(part, &v.s.srv.encodeDelta); len(frame) > 0 {
		v.s.t.Send(frame)
	}
}

func (m *metrics) mapPart(b *router.Batch, key mapKey, text bool) *router.Batch {
	part := &router.Batch{Channel: b.Channel, Pushes: make([]router.Push, len(b.Pushes))}
	for i, p := range b.Pushes {
		if e := p.Before; p.Pub != nil && e != nil && i < 128 && key.lacks[i/64]>>(i%64)&1 == 0 {
			p.Pub = m.diff(p.Pub, e.Data, text)
		}
		part.Pushes[i] = p
	}
	return part
}

// Dropped implements router.Subscriber.
func (v *mapDelta) Dropped(sub *router.Subscription, reason router.UnsubscribeReason) {
	v.s.Dropped(sub, reason)
}
